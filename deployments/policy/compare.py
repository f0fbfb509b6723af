"""Are two policies the same access, and if not, what does each side grant that the other does not?

Four answers. `identical`: byte for byte. `cosmetic`: another text, provably the same access, so never written.
`access`: drift. `incomparable`: something in one of them that we do not understand, so say so and write nothing.
What cannot be proved equal is called different, never the other way round.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from deployments.policy import words
from deployments.policy.atoms import EVERYONE, Action, Atoms, ConditionPart, Subject, atoms_of, is_of_aws
from deployments.policy.conditions import Condition, remainder
from deployments.policy.document import Kind, Policy, PolicyError, parse

Level = Literal["identical", "cosmetic", "access", "incomparable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One principal, under one condition, with all the actions that this side has and the other has not."""

    principal: str
    actions: tuple[str, ...]
    condition: Mapping[str, Any] | None  # a Condition element; None: always
    effect: str  # Deny: the difference is a Deny that went (gained) or came (lost)
    words: str

    def as_rows(self) -> list[dict[str, Any]]:
        """One object for each action, as `policy compare --json` prints them."""
        return [
            {"principal": self.principal, "action": action, "condition": self.condition, "words": self.words}
            for action in self.actions
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`gained` is what B grants beyond A, `lost` the reverse. `why` says what was not understood."""

    level: Level
    gained: tuple[Grant, ...] = ()
    lost: tuple[Grant, ...] = ()
    why: str = ""

    def as_document(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "gained": [row for grant in self.gained for row in grant.as_rows()],
            "lost": [row for grant in self.lost for row in grant.as_rows()],
        }


def compare(a: str | None, b: str | None, *, partition: str) -> Comparison:
    """Compare two policy texts; None is no policy at all. Never raises: a text that is no policy is incomparable."""
    if a == b:
        return Comparison(level="identical")
    sides = []
    for name, text in (("first", a), ("second", b)):
        try:
            policy, atoms = _read(text, partition) if text is not None else (None, Atoms())
        except PolicyError as error:
            return Comparison(level="incomparable", why=f"The {name} policy is not JSON: {error.reason}.")
        puzzles = [one for one in policy.all_puzzles if one.kind is not Kind.EFFECT] if policy else []
        if puzzles:
            return Comparison(level="incomparable", why=_not_understood(name, puzzles[0].words))
        sides.append((name, policy, atoms))
    atoms_a, atoms_b = (atoms for _, _, atoms in sides)
    gained = _beyond(atoms_b, atoms_a, more="Allow", gained=True, partition=partition)
    lost = _beyond(atoms_a, atoms_b, more="Allow", gained=False, partition=partition)
    # A Deny that only one side has counts for the other side.
    gained += _beyond(atoms_a, atoms_b, more="Deny", gained=True, partition=partition)
    lost += _beyond(atoms_b, atoms_a, more="Deny", gained=False, partition=partition)
    if gained or lost:
        return Comparison(level="access", gained=_sorted(gained), lost=_sorted(lost))
    # A misspelt Effect grants nothing, but we cannot vouch for what AWS would make of it: not equal, not different.
    for name, policy, _ in sides:
        if policy and policy.all_puzzles:
            return Comparison(level="incomparable", why=_not_understood(name, policy.all_puzzles[0].words))
    return Comparison(level="cosmetic")


def _not_understood(name: str, what: str) -> str:
    return f"The {name} policy holds something that is not understood: {what}."


@functools.lru_cache(maxsize=128)
def _read(text: str, partition: str) -> tuple[Policy, Atoms]:
    """Kept, because a sweep compares a thousand live policies with one desired text, and most are alike."""
    policy = parse(text)
    return policy, atoms_of(policy, partition=partition)


def _beyond(side: Atoms, other: Atoms, *, more: str, gained: bool, partition: str) -> list[Grant]:
    """What the one side says under this effect that the other does not."""
    found: dict[tuple[Subject, Condition], list[Action]] = {}
    known: dict[tuple[tuple[ConditionPart, ...], ...], list[tuple[Condition, Action]]] = {}
    for (effect, subject), parts in side.table.items():
        if effect != more:
            continue
        covering = other.parts(effect, subject)
        if is_of_aws(subject) and subject != EVERYONE:
            # `*` takes in every other AWS principal, wherever it stands (rule 3), on either side.
            covering += other.parts(effect, EVERYONE) + side.parts(effect, EVERYONE)
        if (parts, covering) not in known:
            known[parts, covering] = _difference(parts, covering)
        for condition, action in known[parts, covering]:
            found.setdefault((subject, condition), []).append(action)
    grants = []
    for (subject, condition), actions in found.items():
        actions.sort(key=words.name_of_action)
        grants.append(
            Grant(
                principal=words.name_of_subject(subject),
                actions=tuple(words.name_of_action(action) for action in actions),
                condition=condition.as_document(),
                effect=more,
                words=words.of_grant(
                    effect=more,
                    gained=gained,
                    who=words.of_subject(subject, partition=partition),
                    actions=actions,
                    condition=condition,
                ),
            )
        )
    return grants


def _difference(
    parts: tuple[ConditionPart, ...], covering: tuple[ConditionPart, ...]
) -> list[tuple[Condition, Action]]:
    """The atoms of `parts` that `covering` does not have, for one principal."""
    left = []
    known: dict[tuple[frozenset[Condition], frozenset[Condition]], tuple[Condition, ...]] = {}
    for action in frozenset[Action]().union(*(part.actions for part in parts)):
        wide = frozenset(part.condition for part in parts if action in part.actions)
        covered = frozenset(part.condition for part in covering if part.says(action)) | frozenset(
            part.condition for part in parts if part.implies(action)
        )
        if (wide, covered) not in known:
            known[wide, covered] = remainder(wide, covered)
        left += [(condition, action) for condition in known[wide, covered]]
    return left


def _sorted(grants: list[Grant]) -> tuple[Grant, ...]:
    return tuple(sorted(grants, key=lambda grant: (grant.effect, grant.principal, grant.words, grant.actions)))
