"""A policy as its atoms: (effect, principal, action, condition) (rule 6).

Rules 1 to 9 and 11 are applied here: which spellings name the same principal, what a wildcard stands for, what an empty
element means. `compare` decides whether the atoms of two policies cover each other. The partition is a plain argument,
because an account id means the root ARN in the partition of the registry (rule 1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from deployments.policy.actions import KNOWN, expand_all, spelling
from deployments.policy.conditions import Condition, condition_of, literal
from deployments.policy.document import Policy, Statement, WrittenPrincipal
from deployments.policy.wildcard import covers, has_wildcard

_ACCOUNT_ID = re.compile(r"[0-9]{12}")
_ROOT_ARN = re.compile(r"arn:[a-z0-9-]+:iam::([0-9]{12}):root")
_ARN = re.compile(r"arn:([a-z0-9-]+):(?:iam|sts)::([0-9]{12}):([a-z-]+)/(.+)", re.DOTALL)
# The prefixes of IAM's unique ids (IAM user guide, “Understanding unique ID prefixes”).
_UNIQUE_ID = re.compile(r"(ABIA|ACCA|AGPA|AIDA|AIPA|AKIA|ANPA|ANVA|APKA|AROA|ASCA|ASIA)[A-Z0-9]{8,}(:.+)?", re.DOTALL)


class Who(StrEnum):
    """The kinds of principal."""

    EVERYONE = "*"
    ACCOUNT = "account"
    AWS = "AWS"
    UNIQUE_ID = "unique id"
    SERVICE = "Service"
    FEDERATED = "Federated"
    CANONICAL_USER = "CanonicalUser"
    BARE = "bare"


_OF_AWS = frozenset({Who.EVERYONE, Who.ACCOUNT, Who.AWS, Who.UNIQUE_ID})


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """One principal. `name` is its canonical spelling: a root ARN for an account, `*` for everyone."""

    kind: Who
    name: str

    @property
    def account(self) -> str | None:
        """The 12 digits of the principal's account; None where the name does not say it."""
        if self.kind is Who.ACCOUNT:
            return self.name.split(":")[4]
        found = _ARN.fullmatch(self.name) if self.kind is Who.AWS else None
        return found[2] if found else None

    @property
    def partition(self) -> str | None:
        """The partition in the principal's ARN; None where `account` is None."""
        return self.name.split(":")[1] if self.account else None

    @property
    def sort(self) -> str:
        """`role`, `user`, `assumed-role` …; empty if the name is not an IAM or STS ARN."""
        found = _ARN.fullmatch(self.name) if self.kind is Who.AWS else None
        return found[3] if found else ""

    @property
    def path(self) -> str:
        """The part of the ARN after the sort: `team/r` of `role/team/r`."""
        found = _ARN.fullmatch(self.name) if self.kind is Who.AWS else None
        return found[4] if found else ""


EVERYONE = Principal(kind=Who.EVERYONE, name="*")


@dataclass(frozen=True, slots=True, kw_only=True)
class AllExcept:
    """NotPrincipal: equal only to a NotPrincipal that names the same set (rule 12)."""

    principals: frozenset[Principal]


@dataclass(frozen=True, slots=True, kw_only=True)
class AllActionsExcept:
    """NotAction: equal only to a NotAction that names the same set (rule 12)."""

    actions: frozenset[str]


Subject = Principal | AllExcept
Action = str | AllActionsExcept


def principal_of(kind: str, text: str, *, partition: str, version: str = "2012-10-17") -> Principal:
    """A written principal in its canonical spelling (rules 1, 7 and 11). `kind`: as in `WrittenPrincipal`."""
    if kind == "AWS":
        if text == "*":
            return EVERYONE
        if _ACCOUNT_ID.fullmatch(text):
            return Principal(kind=Who.ACCOUNT, name=f"arn:{partition}:iam::{text}:root")
        if _ROOT_ARN.fullmatch(text):
            return Principal(kind=Who.ACCOUNT, name=text)
        if _UNIQUE_ID.fullmatch(text):
            return Principal(kind=Who.UNIQUE_ID, name=text)
    return Principal(kind=Who(kind), name=literal(text, version))


def principals_of(written: Iterable[WrittenPrincipal], *, partition: str, version: str) -> frozenset[Principal]:
    """The principals that a list names. `*` covers the other AWS principals beside it (rule 3), but no service."""
    found = frozenset(principal_of(each.kind, each.text, partition=partition, version=version) for each in written)
    if EVERYONE in found:
        return frozenset(each for each in found if each == EVERYONE or each.kind not in _OF_AWS)
    return found


def subjects(statement: Statement, policy: Policy, *, partition: str) -> frozenset[Subject]:
    """The principals that a statement is about; none if Principal is empty or absent: it grants nothing (rule 9)."""
    if statement.principals is not None:
        return frozenset(principals_of(statement.principals, partition=partition, version=policy.version))
    if statement.not_principals is not None:
        named = principals_of(statement.not_principals, partition=partition, version=policy.version)
        return frozenset({AllExcept(principals=named)})
    return frozenset()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConditionPart:
    """What one statement says about each of its principals: these actions, under this condition."""

    actions: frozenset[Action]
    patterns: frozenset[str]
    condition: Condition

    def implies(self, action: Action) -> bool:
        """Whether a wildcard of this statement covers an action that is not in our table (rule 5)."""
        if not isinstance(action, str) or action in KNOWN:
            return False
        return any(pattern != action and covers(pattern, action) for pattern in self.patterns)

    def says(self, action: Action) -> bool:
        """Whether this part is about the action, by name or by a wildcard."""
        return action in self.actions or self.implies(action)


@dataclass(frozen=True, slots=True, kw_only=True)
class Atoms:
    """All atoms of one policy by effect and principal. The 300 accounts of a statement share one part."""

    table: dict[tuple[str, Subject], tuple[ConditionPart, ...]] = field(default_factory=dict)

    def parts(self, effect: str, subject: Subject) -> tuple[ConditionPart, ...]:
        """What the policy says about a principal under an effect; empty if nothing."""
        return self.table.get((effect, subject), ())


def atoms_of(policy: Policy, *, partition: str) -> Atoms:
    """The atoms of a policy. Sid, Id and order are left out (rules 2 and 7)."""
    found: dict[tuple[str, Subject], list[ConditionPart]] = {}
    for statement in policy.statements:
        if statement.effect is None:
            continue
        part = ConditionPart(
            actions=actions_of(statement),
            patterns=frozenset(filter(has_wildcard, map(spelling, statement.actions or ()))),
            condition=condition_of(statement.conditions, policy.version),
        )
        for subject in subjects(statement, policy, partition=partition):
            found.setdefault((statement.effect, subject), []).append(part)
    return Atoms(table={place: tuple(parts) for place, parts in found.items()})


def actions_of(statement: Statement) -> frozenset[Action]:
    """The actions of a statement with wildcards expanded (rule 5); empty if Action is absent (rule 9)."""
    if statement.actions is not None:
        return frozenset(expand_all(statement.actions))
    if statement.not_actions is not None:
        return frozenset({AllActionsExcept(actions=expand_all(statement.not_actions))})
    return frozenset()


def is_of_aws(subject: Subject) -> bool:
    """Whether `*` covers the principal (rule 3)."""
    return isinstance(subject, Principal) and subject.kind in _OF_AWS
