"""Do two policies give the same access, and if not, what does each side grant that the other does not?

Four answers. `identical`: the texts are equal byte for byte. `cosmetic`: the texts differ and the access is provably
the same, so nothing is written. `access`: the access differs, which is drift. `incomparable`: one of the policies has a
part that we do not understand (rule 10), so nothing is written. Policies that cannot be proved equal are reported as
different.
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
    """One principal under one condition, with all the actions that one side grants and the other does not."""

    principal: str
    actions: tuple[str, ...]
    condition: Mapping[str, Any] | None  # a Condition element; None: always
    effect: str  # Deny: the difference is a Deny that was removed (gained) or added (lost)
    words: str

    def as_rows(self) -> list[dict[str, Any]]:
        """One object for each action, as `policy compare --json` prints them."""
        return [
            {"principal": self.principal, "action": action, "condition": self.condition, "words": self.words}
            for action in self.actions
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`gained`: what B grants beyond A; `lost`: what A grants beyond B; `why`: the reason for `incomparable`."""

    level: Level
    gained: tuple[Grant, ...] = ()
    lost: tuple[Grant, ...] = ()
    why: str = ""

    def as_document(self) -> dict[str, Any]:
        """The object that `policy compare --json` prints."""
        return {
            "level": self.level,
            "gained": [row for grant in self.gained for row in grant.as_rows()],
            "lost": [row for grant in self.lost for row in grant.as_rows()],
        }


def compare(
    a: str | None, b: str | None, *, partition: str, names: tuple[str, str] = ("first", "second")
) -> Comparison:
    """Compare two policy texts; None: there is no policy. Never raises: a text that is not a policy is incomparable.

    `names`: what `why` calls the two policies.
    """
    if a == b:
        return Comparison(level="identical")
    sides = []
    for name, text in zip(names, (a, b), strict=True):
        try:
            policy, atoms = _read(text, partition) if text is not None else (None, Atoms())
        except PolicyError as error:
            return Comparison(level="incomparable", why=f"The {name} policy is not JSON: {error.reason}.")
        puzzles = [puzzle for puzzle in policy.all_puzzles if puzzle.kind is not Kind.EFFECT] if policy else []
        if puzzles:
            return Comparison(level="incomparable", why=_not_understood(name, puzzles[0].words))
        sides.append((name, policy, atoms))
    atoms_a, atoms_b = (atoms for _, _, atoms in sides)
    gained = _beyond(atoms_b, atoms_a, more="Allow", gained=True, partition=partition)
    lost = _beyond(atoms_a, atoms_b, more="Allow", gained=False, partition=partition)
    # A Deny that only one side has is access of the other side (rule 12).
    gained += _beyond(atoms_a, atoms_b, more="Deny", gained=True, partition=partition)
    lost += _beyond(atoms_b, atoms_a, more="Deny", gained=False, partition=partition)
    if gained or lost:
        return Comparison(level="access", gained=_sorted(gained), lost=_sorted(lost))
    # A misspelt Effect grants nothing by rule 4, but AWS does not say so. So the policies are neither equal nor
    # different.
    for name, policy, _ in sides:
        if policy and policy.all_puzzles:
            return Comparison(level="incomparable", why=_not_understood(name, policy.all_puzzles[0].words))
    return Comparison(level="cosmetic")


def _not_understood(name: str, what: str) -> str:
    return f"The {name} policy has a part that is not understood: {what}."


@functools.lru_cache(maxsize=128)
def _read(text: str, partition: str) -> tuple[Policy, Atoms]:
    """Cached: a sweep compares a thousand live policies with one desired text, and most of the texts are equal."""
    policy = parse(text)
    return policy, atoms_of(policy, partition=partition)


def _beyond(side: Atoms, other: Atoms, *, more: str, gained: bool, partition: str) -> list[Grant]:
    """What `side` says under the effect `more` that `other` does not say."""
    found: dict[tuple[Subject, Condition], list[Action]] = {}
    known: dict[tuple[tuple[ConditionPart, ...], ...], list[tuple[Condition, Action]]] = {}
    for (effect, subject), parts in side.table.items():
        if effect != more:
            continue
        covering = other.parts(effect, subject)
        if is_of_aws(subject) and subject != EVERYONE:
            # `*` covers every other AWS principal, in any statement of either side (rule 3).
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
    """The atoms of one principal in `parts` that `covering` does not cover."""
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
