"""A policy as its statements in canonical form: whom each is about, which actions, under which condition (rule 6).

Rules 1 to 9 and 11 are applied here: which spellings name the same principal, what a wildcard stands for, what an empty
element means. `compare` decides whether the statements of two policies cover each other. The partition is a plain
argument, because an account id means the root ARN in the partition of the registry (rule 1).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from deployments.policy.actions import GRANTABLE, KNOWN, expand_all, spelling
from deployments.policy.conditions import Condition, condition_of, literal
from deployments.policy.document import Policy, Statement, WrittenPrincipal
from deployments.policy.wildcard import covers, has_wildcard

_ACCOUNT_ID = re.compile(r"[0-9]{12}")
_ROOT_ARN = re.compile(r"arn:[a-z0-9-]+:iam::([0-9]{12}):root")
_ARN_FORM = re.compile(r"arn:([a-z0-9-]+):(?:iam|sts)::([0-9]{12}):([a-z-]+)/(.+)", re.DOTALL)
# Cached: the parts of one name are asked for many times in one comparison.
_ARN = functools.lru_cache(maxsize=8192)(_ARN_FORM.fullmatch)
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
        found = _ARN(self.name) if self.kind is Who.AWS else None
        return found[2] if found else None

    @property
    def partition(self) -> str | None:
        """The partition in the principal's ARN; None where `account` is None."""
        return self.name.split(":")[1] if self.account else None

    @property
    def sort(self) -> str:
        """`role`, `user`, `assumed-role` …; empty if the name is not an IAM or STS ARN."""
        found = _ARN(self.name) if self.kind is Who.AWS else None
        return found[3] if found else ""

    @property
    def path(self) -> str:
        """The part of the ARN after the sort: `team/r` of `role/team/r`."""
        found = _ARN(self.name) if self.kind is Who.AWS else None
        return found[4] if found else ""


EVERYONE = Principal(kind=Who.EVERYONE, name="*")


@dataclass(frozen=True, slots=True, kw_only=True)
class AllExcept:
    """NotPrincipal: everyone who is not named (rule 12)."""

    principals: frozenset[Principal]


Subject = Principal | AllExcept


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
    """The principals that a list names. `*` covers the other AWS principals beside it (rule 3).

    A service beside `*` stays, because `lint` asks for whom it acts; `compare` and `may` let `*` cover it.
    """
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
class Rule:
    """One statement with an effect: whom it is about, which actions, under which condition."""

    effect: str
    subjects: frozenset[Subject]
    known: frozenset[str]  # the actions of our table that a repository policy can grant
    named: frozenset[str]  # other actions and patterns that it names
    patterns: frozenset[str]
    excluded: frozenset[str] | None  # the actions and patterns of NotAction; None: the statement has Action
    condition: Condition

    def says(self, action: str) -> bool:
        """Whether the statement is about an action that is not in our table, by its name."""
        if self.excluded is not None:
            return not any(covers(pattern, action) for pattern in self.excluded)
        return action in self.named

    def implies(self, action: str) -> bool:
        """Whether a wildcard of Action covers an action that is not in our table (rule 5)."""
        return any(pattern != action and covers(pattern, action) for pattern in self.patterns)


def rules_of(policy: Policy, *, partition: str) -> tuple[Rule, ...]:
    """The statements that can apply to a request. Sid, Id and order are left out (rules 2 and 7)."""
    rules = []
    for statement in policy.statements:
        meant = subjects(statement, policy, partition=partition)
        if statement.effect is None or not meant or (statement.actions is None and statement.not_actions is None):
            continue
        written = statement.not_actions or () if statement.actions is None else statement.actions
        spelled = frozenset(map(spelling, written))
        expanded = expand_all(spelled)
        negated = statement.actions is None
        rules.append(
            Rule(
                effect=statement.effect,
                subjects=meant,
                known=GRANTABLE - expanded if negated else GRANTABLE & expanded,
                named=frozenset() if negated else expanded - KNOWN,
                patterns=frozenset() if negated else frozenset(filter(has_wildcard, spelled)),
                excluded=spelled if negated else None,
                condition=condition_of(statement.conditions, policy.version),
            )
        )
    return tuple(rules)
