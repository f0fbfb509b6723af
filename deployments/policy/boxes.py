"""Is a condition inside a union of other conditions? If not: for which values of which keys is it outside?

A box has, for each key, the cells that its value may be in. A test of a condition is a `Limit` of one key. A request
has no value for a key, one value, or several. Several values are looked at only for keys that a set operator tests:
`ForAnyValue:` asks for one value in the cells of the test, `ForAllValues:` for none outside. AWS does not document
which of several values a plain operator looks at, so it may be any, but the same ones for all tests (rule 12).

The search divides a box by the tests of one condition after the other and drops the conditions that do not meet it.
What is already covered is dropped at once, and every step is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deployments.policy.budget import Budget


@dataclass(frozen=True, slots=True)
class Several:
    """Several values of one key: each is in `within`, and each set of `some` has one of them.

    `plain_within`, `plain_some`: the same of those values that plain operators look at.
    """

    within: int
    some: frozenset[int] = frozenset()
    plain_within: int = -1
    plain_some: frozenset[int] = frozenset()

    @property
    def possible(self) -> bool:
        """Whether there can be such values."""
        looked_at = self.within & self.plain_within
        return (
            looked_at != 0
            and all(each & self.within for each in self.some)
            and all(each & looked_at for each in self.plain_some)
        )


@dataclass(frozen=True, slots=True)
class State:
    """What one key may have: a cell of `one` (the missing key is a cell too), or several values."""

    one: int
    several: Several | None = None

    @property
    def possible(self) -> bool:
        """Whether the key can have anything at all."""
        return self.one != 0 or self.several is not None


@dataclass(frozen=True, slots=True)
class Limit:
    """A test of one key. `kind`: what it asks of several values (`any`, `all`, `plain`, `plain none`, `yes`, `no`)."""

    key: str
    one: int
    kind: str
    cells: int

    def opposite(self, everything: int) -> Limit:
        """The test that holds where this one does not. `everything`: all cells of the key."""
        kind, cells = {
            "any": ("all", everything & ~self.cells & ~1),
            "all": ("any", everything & ~self.cells & ~1),
            "plain": ("plain none", self.cells),
            "plain none": ("plain", self.cells),
            "yes": ("no", 0),
            "no": ("yes", 0),
        }[self.kind]
        return Limit(self.key, everything & ~self.one, kind, cells)


Box = Mapping[str, State]
OPAQUE = State(0b110)  # the key of a test of which nothing is known: it holds in cell 1 and not in cell 2


def opaque(key: str) -> Limit:
    """A test of which nothing is known, as a limit of a key of its own."""
    return Limit(key, 0b010, "yes", 0)


def meet(state: State, limit: Limit) -> State:
    """What is left of a key's values under a test."""
    several = state.several
    if several is not None:
        match limit.kind:
            case "any":
                several = Several(
                    several.within, several.some | {limit.cells}, several.plain_within, several.plain_some
                )
            case "all":
                several = Several(several.within & limit.cells, several.some, several.plain_within, several.plain_some)
            case "plain":
                several = Several(
                    several.within, several.some, several.plain_within, several.plain_some | {limit.cells}
                )
            case "plain none":
                several = Several(several.within, several.some, several.plain_within & ~limit.cells, several.plain_some)
            case "no":
                several = None
        if several is not None and not several.possible:
            several = None
    return State(state.one & limit.one, several)


class Space:
    """The keys with all that they may have, and the search in them."""

    def __init__(self, whole: Mapping[str, State], budget: Budget) -> None:
        self.whole = dict(whole)
        self._all = {key: state.one for key, state in whole.items()}
        self._opposites: dict[Limit, Limit] = {}
        self._budget = budget

    def add(self, key: str) -> None:
        """Add a key of which nothing is known but whether a test of it holds."""
        self.whole[key] = OPAQUE
        self._all[key] = OPAQUE.one

    def box(self, limits: Sequence[Limit], start: Box) -> Box | None:
        """The part of `start` where all tests hold; None if there is none."""
        box = dict(start)
        for limit in limits:
            self._budget.take()
            box[limit.key] = meet(box.get(limit.key) or self.whole[limit.key], limit)
            if not box[limit.key].possible:
                return None
        return box

    def outside(self, box: Box, others: Sequence[Sequence[Limit]]) -> Box | None:
        """A part of `box` in which none of the other conditions holds; None if they cover the box together."""
        waiting = [(dict(box), others)]
        while waiting:
            here, near = waiting.pop()
            left = self._near(here, near)
            if left is None:
                continue
            if not left:
                return here
            first = min(left, key=len)
            pieces = []
            for limit in first:
                self._budget.take()
                state = here.get(limit.key) or self.whole[limit.key]
                out = meet(state, self._opposite(limit))
                if out.possible:
                    pieces.append(({**here, limit.key: out}, left))
                here[limit.key] = meet(state, limit)
                if not here[limit.key].possible:
                    break
            waiting += reversed(pieces)
        return None

    def _opposite(self, limit: Limit) -> Limit:
        if limit not in self._opposites:
            self._opposites[limit] = limit.opposite(self._all[limit.key])
        return self._opposites[limit]

    def _near(self, box: Box, others: Sequence[Sequence[Limit]]) -> list[list[Limit]] | None:
        """The conditions that hold in a part of the box, with the tests that do not hold in all of it.

        None if one condition holds in the whole box.
        """
        left = []
        for other in others:
            open_limits = []
            for limit in other:
                state = box.get(limit.key) or self.whole[limit.key]
                if state.several is None:
                    self._budget.take()
                    if not state.one & limit.one:
                        break
                    if state.one & ~limit.one:
                        open_limits.append(limit)
                    continue
                self._budget.take(4)  # several values take more work than one
                if not meet(state, limit).possible:
                    break
                if meet(state, self._opposite(limit)).possible:
                    open_limits.append(limit)
            else:
                if not open_limits:
                    return None
                left.append(open_limits)
        return left
