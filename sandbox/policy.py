"""IAM's decision: identity, resource and session policies, explicit Deny first.

This evaluation of AWS's rules is independent of ``deployments.policy`` on purpose, so that a fault in either is found.
An unknown condition denies: an Allow with it grants nothing, a Deny with it applies. This module does not validate
documents (see ``documents``) and knows no accounts or roles: a principal in a stored resource policy is a root ARN, a
unique id, a session ARN or ``*``.
"""

from __future__ import annotations

import fnmatch
import functools
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

Values = tuple[str, ...]
Context = Mapping[str, Values]  # keys in lower case


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The caller. ``names`` are the texts with which a resource policy can name exactly this caller."""

    account: str
    arn: str
    names: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question: may this principal do this action on this resource of that account?"""

    principal: Principal
    action: str
    resource: str
    owner: str
    context: Context = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision. ``because`` is the end of AWS's message for a refusal."""

    allowed: bool
    because: str = ""

    def sentence(self, ask: Ask) -> str:
        """AWS's message for the refusal."""
        return (
            f"User: {ask.principal.arn} is not authorized to perform: {ask.action} on resource: {ask.resource} "
            f"{self.because}"
        )


@dataclass(frozen=True, slots=True)
class Names:
    """A list of principals, actions or resources, or everything except the list (NotAction, …)."""

    values: Values
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Statement:
    effect: Literal["Allow", "Deny"]
    principals: Names | None
    actions: Names
    resources: Names | None
    conditions: tuple[tuple[str, str, Values], ...]


Policy = tuple[Statement, ...]


# -- reading ---------------------------------------------------------------------------------------------------------


def many(value: Any) -> list[Any]:
    """The value as a list; a scalar becomes a list with one element."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


@functools.lru_cache(maxsize=4096)
def parse(text: str) -> Policy:
    """Reads a policy text. Raises ValueError if the text is not a policy."""
    document = json.loads(text)
    if not isinstance(document, dict) or "Statement" not in document:
        raise ValueError("a policy is an object with statements")
    return tuple(_statement(each) for each in many(document["Statement"]))


def _statement(raw: Any) -> Statement:
    if not isinstance(raw, dict) or raw.get("Effect") not in ("Allow", "Deny"):
        raise ValueError("a statement needs an Effect")
    actions = _names(raw, "Action", _strings)
    if actions is None:
        raise ValueError("a statement needs an Action")
    conditions = raw.get("Condition") or {}
    return Statement(
        effect=raw["Effect"],
        principals=_names(raw, "Principal", _principals),
        actions=Names(tuple(value.lower() for value in actions.values), actions.negated),
        resources=_names(raw, "Resource", _strings),
        conditions=tuple(
            (operator, key.lower(), tuple(_text(value) for value in many(values)))
            for operator, pairs in conditions.items()
            for key, values in pairs.items()
        ),
    )


def _names(raw: Mapping[str, Any], element: str, read: Callable[[Any], Values]) -> Names | None:
    if element in raw:
        return Names(read(raw[element]))
    if f"Not{element}" in raw:
        return Names(read(raw[f"Not{element}"]), negated=True)
    return None


def _strings(value: Any) -> Values:
    return tuple(str(each) for each in many(value))


def _principals(value: Any) -> Values:
    if isinstance(value, dict):  # services and federated providers make no calls here
        return _strings(value.get("AWS"))
    return _strings(value)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# -- deciding --------------------------------------------------------------------------------------------------------


def decide(
    ask: Ask,
    *,
    identity: Iterable[Policy],
    resource: Sequence[Policy] = (),
    session: Sequence[Policy] | None = None,
    trust: bool = False,
) -> Verdict:
    """AWS's evaluation. ``session=None`` means no session policy, ``()`` a session without any permissions.

    ``trust``: the resource policy is a role's trust policy, which must allow also for callers of the same account.
    """
    identity = tuple(identity)
    kinds = (("an identity-based", identity), ("a resource-based", resource), ("a session", session or ()))
    for kind, policies in kinds:
        if any(_matches(statement, ask, "Deny") for policy in policies for statement in policy):
            return Verdict(False, f"with an explicit deny in {kind} policy")
    by_identity = any(_matches(statement, ask, "Allow") for policy in identity for statement in policy)
    by_resource = [
        _grade(statement.principals, ask.principal)
        for policy in resource
        for statement in policy
        if _matches(statement, ask, "Allow")
    ]
    named = "direct" in by_resource
    foreign = ask.principal.account != ask.owner
    if (foreign or trust) and not by_resource:
        return _silent("resource-based", ask)
    # In the same account, a grant to the caller's name is enough; a grant to the account's root lets its IAM decide.
    if not by_identity and (foreign or not named):
        return _silent("identity-based", ask)
    # At AWS a grant to the session's own ARN is not limited by the session policy. Here a session policy always limits.
    if session is not None and not any(_matches(statement, ask, "Allow") for policy in session for statement in policy):
        return _silent("session", ask)
    return Verdict(True)


def _silent(kind: str, ask: Ask) -> Verdict:
    return Verdict(False, f"because no {kind} policy allows the {ask.action} action")


def _matches(statement: Statement, ask: Ask, effect: Literal["Allow", "Deny"]) -> bool:
    if statement.effect != effect:
        return False
    action = ask.action.lower()
    if any(_glob(pattern, action) for pattern in statement.actions.values) == statement.actions.negated:
        return False
    if statement.principals is not None and not _meant(statement.principals, ask.principal, effect):
        return False
    resources = statement.resources
    if resources is not None:
        patterns = (_substitute(pattern, ask.context) for pattern in resources.values)
        if any(_glob(pattern, ask.resource) for pattern in patterns if pattern is not None) == resources.negated:
            return False
    return all(
        _holds(operator, key, values, ask.context, unknown=effect == "Deny")
        for operator, key, values in statement.conditions
    )


def _grade(principals: Names | None, principal: Principal) -> Literal["direct", "account", "no"]:
    if principals is None or principals.negated:
        return "direct"  # the caller is not in the list of NotPrincipal
    if "*" in principals.values or principal.names.intersection(principals.values):
        return "direct"
    return "account" if any(_is_account(value, principal.account) for value in principals.values) else "no"


def _meant(principals: Names, principal: Principal, effect: str) -> bool:
    if not principals.negated:
        return _grade(principals, principal) != "no"
    listed = Names(principals.values)
    by_name = "*" in listed.values or bool(principal.names.intersection(listed.values))
    by_account = any(_is_account(value, principal.account) for value in listed.values)
    # A Deny with NotPrincipal must name the caller and the caller's account; AWS documents that both are needed.
    spared = (by_name and by_account) if effect == "Deny" else (by_name or by_account)
    return not spared


def _is_account(value: str, account: str) -> bool:
    return value == account or (value.startswith("arn:") and value.endswith(f":iam::{account}:root"))


@functools.lru_cache(maxsize=4096)
def _pattern(glob: str) -> re.Pattern[str]:
    # fnmatch also interprets [a-z]; IAM does not.
    return re.compile(fnmatch.translate(glob.replace("[", "[[]")))


def _glob(pattern: str, value: str) -> bool:
    if pattern == "*" or pattern == value:
        return True
    return ("*" in pattern or "?" in pattern) and _pattern(pattern).match(value) is not None


# -- conditions ------------------------------------------------------------------------------------------------------


def _address(value: str, network: str) -> bool:
    return ipaddress.ip_address(value) in ipaddress.ip_network(network, strict=False)


def _moment(value: str) -> datetime:
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        return datetime.fromtimestamp(float(value), UTC)
    moment = datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _arn(value: str, pattern: str) -> bool:
    have, want = value.split(":", 5), pattern.split(":", 5)
    return len(have) == len(want) == 6 and all(_glob(p, v) for v, p in zip(have, want, strict=True))


# The test of each operator for a value of the context and a value of the policy. Negated operators are derived.
OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda have, want: have == want,
    "StringEqualsIgnoreCase": lambda have, want: have.lower() == want.lower(),
    "StringLike": lambda have, want: _glob(want, have),
    "ArnEquals": _arn,
    "ArnLike": _arn,
    "NumericEquals": lambda have, want: float(have) == float(want),
    "NumericLessThan": lambda have, want: float(have) < float(want),
    "NumericLessThanEquals": lambda have, want: float(have) <= float(want),
    "NumericGreaterThan": lambda have, want: float(have) > float(want),
    "NumericGreaterThanEquals": lambda have, want: float(have) >= float(want),
    "DateEquals": lambda have, want: _moment(have) == _moment(want),
    "DateLessThan": lambda have, want: _moment(have) < _moment(want),
    "DateLessThanEquals": lambda have, want: _moment(have) <= _moment(want),
    "DateGreaterThan": lambda have, want: _moment(have) > _moment(want),
    "DateGreaterThanEquals": lambda have, want: _moment(have) >= _moment(want),
    "Bool": lambda have, want: have.lower() == want.lower(),
    "IpAddress": _address,
}
NEGATED = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
    "NumericNotEquals": "NumericEquals",
    "DateNotEquals": "DateEquals",
    "NotIpAddress": "IpAddress",
}


def known_operator(operator: str) -> bool:
    """Whether this is a condition operator of IAM's grammar."""
    name = operator.removeprefix("ForAllValues:").removeprefix("ForAnyValue:")
    return name == "Null" or name.removesuffix("IfExists") in OPERATORS.keys() | NEGATED.keys() | {"BinaryEquals"}


def _substitute(value: str, context: Context) -> str | None:
    """Replaces each ``${key}`` with its value. None if a key does not have one value: then nothing matches."""
    missing = False

    def put(match: re.Match[str]) -> str:
        nonlocal missing
        name = match[1]
        if name in ("*", "?", "$"):
            return name
        have = context.get(name.lower(), ())
        missing = missing or len(have) != 1
        return have[0] if len(have) == 1 else ""

    text = re.sub(r"\$\{([^}]+)\}", put, value) if "${" in value else value
    return None if missing else text


def _holds(operator: str, key: str, wanted: Values, context: Context, *, unknown: bool) -> bool:
    """Whether one condition holds. ``unknown`` is the result for an unknown operator or key."""
    quantifier, _, name = operator.rpartition(":")
    have = context.get(key, ())
    if name == "Null":
        return any((value.lower() == "true") == (not have) for value in wanted)
    optional, name = name.endswith("IfExists"), name.removesuffix("IfExists")
    negated = name in NEGATED
    test = OPERATORS.get(NEGATED.get(name, name))
    if test is None or quantifier not in ("", "ForAllValues", "ForAnyValue"):
        return unknown
    if not have:
        return optional or (negated and quantifier != "ForAnyValue") or quantifier == "ForAllValues"
    values = [value for each in wanted if (value := _substitute(each, context)) is not None]
    try:
        each = [any(test(value, want) for want in values) != negated for value in have]
    except ValueError:
        return unknown
    return any(each) if quantifier == "ForAnyValue" else all(each)
