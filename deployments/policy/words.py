"""Words for principals, actions and conditions in sentences and for machines. Nothing is decided here."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from deployments.policy.actions import CUSTOMARY, GRANTABLE, KNOWN, PULL, PURPOSES, PUSH, Purpose, written
from deployments.policy.atoms import AllExcept, Principal, Subject, Who
from deployments.policy.conditions import Condition, Test, operator_of, spelt

MAX_ITEMS_LISTED = 6
MAX_SENTENCE_CHARACTERS = 160
MAX_CONDITION_CHARACTERS = 1_000  # of all tests of a condition: six long ones would be 6,000

_IS = {
    "StringEquals": "is",
    "StringEqualsIgnoreCase": "is, in any case,",
    "StringLike": "is like",
    "NumericEquals": "is",
    "NumericLessThan": "is less than",
    "NumericLessThanEquals": "is at most",
    "NumericGreaterThan": "is more than",
    "NumericGreaterThanEquals": "is at least",
    "DateEquals": "is",
    "DateLessThan": "is before",
    "DateLessThanEquals": "is not after",
    "DateGreaterThan": "is after",
    "DateGreaterThanEquals": "is not before",
    "Bool": "is",
    "BinaryEquals": "is",
    "IpAddress": "is in",
    "ArnEquals": "is like",
    "ArnLike": "is like",
}


def shown(text: str) -> str:
    """A text from a policy, printable and at most MAX_SENTENCE_CHARACTERS long."""
    short = text if len(text) <= MAX_SENTENCE_CHARACTERS else text[: MAX_SENTENCE_CHARACTERS - 1] + "…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)


def listed(items: Iterable[str], last: str = "and") -> str:
    """`a, b and c`; of more than MAX_ITEMS_LISTED items the rest is counted: `a, b, c, d, e and 4 more`."""
    parts = list(items)
    if len(parts) > MAX_ITEMS_LISTED:
        parts = [*parts[: MAX_ITEMS_LISTED - 1], f"{len(parts) - MAX_ITEMS_LISTED + 1} more"]
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def of_subject(subject: Subject, *, partition: str) -> str:
    """`account 111111111111`, `role r of account 111111111111`, `everyone` …"""
    if isinstance(subject, AllExcept):
        named = sorted(of_subject(one, partition=partition) for one in subject.principals)
        return f"everyone except {listed(named)}" if named else "everyone except nobody"
    match subject.kind:
        case Who.EVERYONE:
            return "everyone"
        case Who.ACCOUNT:
            return f"account {subject.account}{_elsewhere(subject, partition)}"
        case Who.UNIQUE_ID:
            return f"deleted principal {shown(subject.name)}"
        case Who.AWS if subject.account and subject.sort in ("role", "user"):
            where = f"account {subject.account}{_elsewhere(subject, partition)}"
            return f"{subject.sort} {shown(subject.path)} of {where}"
        case Who.SERVICE:
            return f"service {shown(subject.name)}"
        case Who.FEDERATED:
            return f"federated {shown(subject.name)}"
        case Who.CANONICAL_USER:
            return f"canonical user {shown(subject.name)}"
    return f"“{shown(subject.name)}”"


def _elsewhere(principal: Principal, partition: str) -> str:
    return "" if principal.partition == partition else f" in partition {principal.partition}"


def name_of_subject(subject: Subject) -> str:
    """A principal for machines: an ARN, `*`, `Service:…`, `NotPrincipal:…,…`."""
    if isinstance(subject, AllExcept):
        return "NotPrincipal:" + ",".join(sorted(name_of_subject(one) for one in subject.principals))
    if subject.kind in (Who.EVERYONE, Who.ACCOUNT, Who.AWS, Who.UNIQUE_ID):
        return subject.name
    return subject.name if subject.kind is Who.BARE else f"{subject.kind.value}:{subject.name}"


def of_actions(actions: Sequence[str]) -> str:
    """`pull`, `push and ecr:DescribeImages`, `ecr:PutImage (push)`, `every ECR action` …"""
    plain = set(actions)
    parts = []
    if plain >= GRANTABLE:
        parts.append("every ECR action")
        plain -= KNOWN
    elif len(GRANTABLE - plain) <= MAX_ITEMS_LISTED:
        parts.append(f"every ECR action except {of_actions(sorted(GRANTABLE - plain))}")
        plain -= KNOWN
    for purpose, needed in ((Purpose.PULL, PULL), (Purpose.PUSH, PUSH)):
        if plain >= needed:
            parts.append(purpose.value)
            plain -= needed | {CUSTOMARY}  # it stands beside pull and push; a word for it would say nothing
    for action in sorted(plain, key=written):
        purpose = PURPOSES.get(action, Purpose.OTHER)
        note = f" ({purpose.value})" if purpose in (Purpose.PULL, Purpose.PUSH, Purpose.DELETE) else ""
        parts.append(shown(written(action)) + note)
    return listed(parts)


def of_use(actions: Sequence[str]) -> str:
    """The actions after the word “may”: `pull`, `use ecr:PutImage (push)`."""
    what = of_actions(actions)
    return what if what in (Purpose.PULL.value, Purpose.PUSH.value) else f"use {what}"


@functools.lru_cache(maxsize=1024)
def of_condition(condition: Condition) -> str:
    """` only when aws:PrincipalOrgID is o-1 and …`, with the space before it; empty if there is no condition."""
    tests = condition.tests
    left_out = len(tests) - MAX_ITEMS_LISTED + 1 if len(tests) > MAX_ITEMS_LISTED else 0
    parts = [of_test(test) for test in tests[: len(tests) - left_out]] + [f"{left_out} more"] * bool(left_out)
    text = f" only when {listed(parts)}" if parts else ""
    return text if len(text) <= MAX_CONDITION_CHARACTERS else text[: MAX_CONDITION_CHARACTERS - 1] + "…"


def of_test(test: Test) -> str:
    """`aws:PrincipalOrgID is o-1 or o-2`."""
    operator = operator_of(test.operator)
    key = shown(spelt(test.key))
    values = listed((_value(value) for value in sorted(test.values)), "or") or "one of an empty list"
    if not operator.known:
        return f"{shown(test.operator)} {key} {values}"
    if operator.base == "Null":
        states = {frozenset({"true"}): "missing", frozenset({"false"}): "present"}
        return f"{key} is {states.get(test.values, 'missing or present')}"
    verb = _IS[operator.base]
    if operator.negated:
        verb = verb.replace("is", "is not", 1)
    missing = " or is missing" if operator.if_exists else ""
    if operator.quantifier == "ForAllValues":
        return f"every value of {key} (there may be none) {verb} {values}"
    if operator.quantifier == "ForAnyValue":
        return f"some value of {key} {verb} {values}"  # IfExists adds nothing: without the key it is false
    return f"{key} {verb} {values}{missing}"


def _value(value: str) -> str:
    plain = value.replace("${$}{", "${")  # `literal` writes a `${` of version 2008-10-17 in this way
    return shown(value) if plain == value else f"{shown(plain)} (plain text, not a policy variable)"


def of_grant(*, effect: str, gained: bool, who: str, actions: Sequence[str], condition: Condition) -> str:
    """One line of a comparison. A removed Deny is access gained, an added Deny is access lost (rule 12)."""
    verb = "gains" if gained else "loses"
    what = of_actions(actions) + of_condition(condition)
    if effect == "Allow":
        return f"{who} {verb} {what}"
    return f"{who} {verb} {what} ({'a Deny is removed' if gained else 'a Deny is added'})"
