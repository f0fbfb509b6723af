"""Does a condition's test hold for a request? True, False, or None: it cannot be known.

Source: IAM's references of condition operators and of single- and multivalued context keys. Where they say nothing (a
plain operator on several values, an empty list of values), the answer is None. A context maps condition keys to values:
a key that is not in it may have any value or none, a key with the value None is missing from the request. A text that
is no value of the operator (`values` says which are) gives None too.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from deployments.policy.automaton import Automaton
from deployments.policy.budget import Budget
from deployments.policy.cells import arn_runs, text_runs
from deployments.policy.conditions import Operator, Test, has_variable, operator_of
from deployments.policy.values import Token, Variable, moment, network, number, tokens
from deployments.policy.wildcard import ascii_lower, has_wildcard, matches

Context = Mapping[str, str | bool | int | Iterable[str] | None]  # as a caller gives it
Known = Mapping[str, tuple[str, ...] | None]  # lower-cased key → its values; None: known to be missing


def known_of(context: Context) -> dict[str, tuple[str, ...] | None]:
    """A caller's context with lower-cased keys and every value as a tuple of texts."""
    known: dict[str, tuple[str, ...] | None] = {}
    for key, value in context.items():
        if value is None:
            known[ascii_lower(key)] = None
        elif isinstance(value, bool):
            known[ascii_lower(key)] = ("true" if value else "false",)
        elif isinstance(value, str | int):
            known[ascii_lower(key)] = (str(value),)
        else:
            known[ascii_lower(key)] = tuple(str(one) for one in value)
    return known


def all_of(answers: Iterable[bool | None]) -> bool | None:
    """And: False if one answer is False, else None if one is None, else True."""
    seen = set(answers)
    return False if False in seen else (None if None in seen else True)


def any_of(answers: Iterable[bool | None]) -> bool | None:
    """Or: True if one answer is True, else None if one is None, else False."""
    seen = set(answers)
    return True if True in seen else (None if None in seen else False)


def holds(test: Test, known: Known, budget: Budget | None = None) -> bool | None:
    """Whether a test of a Condition holds; None if that cannot be known or the operator is unknown.

    `budget`: what values with policy variables take their steps from. Raises TooComplexError if it is used up.
    """
    budget = budget or Budget()
    operator = operator_of(test.operator)
    if not operator.known or not test.values:
        return None
    if test.key not in known:
        if test.key == "aws:sourceip":
            return _of_any_address(test, operator)
        if operator.plain and test.key == "aws:principalarn" and _names_another_account(test, known):
            return operator.negated
        return None
    if any(_resolved(tokens(value, wildcards=False), known, False) is None for value in test.values if "${" in value):
        return None  # AWS may call a statement invalid in which it cannot resolve a variable
    values = known[test.key]
    if operator.base == "Null":
        if values == ("",):
            return None  # AWS speaks of a key that “exists and its value is not null”, and calls an empty text null
        missing = values is None or values == ()
        wanted = {"true": True, "false": False}
        answers = [wanted.get(value) for value in test.values]
        return None if None in answers or operator.quantifier or operator.if_exists else missing in answers
    if operator.quantifier == "ForAllValues":
        # True if the request lacks the key, or if its value is “a null dataset, such as an empty string” (IAM User
        # Guide, “Set operators for multivalued context keys”): `lint` warns about this (W111).
        given = () if values is None or values == ("",) else values
        return all_of(_passes(value, test, operator.base, operator.negated, known, budget) for value in given)
    if values is None:
        # A missing key fails ForAnyValue, also with IfExists: there is no value that could pass. It fails a plain
        # positive test, and passes a negated test and a plain test with IfExists.
        return not operator.quantifier and (operator.if_exists or operator.negated)
    if operator.quantifier == "ForAnyValue":
        return any_of(_passes(value, test, operator.base, operator.negated, known, budget) for value in values)
    if len(values) != 1:
        return None  # AWS does not document a plain operator on several values
    return _passes(values[0], test, operator.base, operator.negated, known, budget)


def _names_another_account(test: Test, known: Known) -> bool:
    """Whether the values are ARNs of other accounts than the caller's."""
    account = known.get("aws:principalaccount")
    parts = [value.split(":", 5) for value in test.values]
    return account is not None and all(
        len(part) == 6 and re.fullmatch("[0-9]{12}", part[4]) and part[4] not in account and not _open(part[:4])
        for part in parts
    )


def _open(parts: list[str]) -> bool:
    return any(has_wildcard(part) or has_variable(part) for part in parts)


def _passes(value: str, test: Test, base: str, negated: bool, known: Known, budget: Budget) -> bool | None:
    found = any_of(_equal(wanted, value, base, known, budget) for wanted in test.values)
    if found is None:
        return None
    return found != negated


def _equal(wanted: str, value: str, base: str, known: Known, budget: Budget) -> bool | None:
    if not has_variable(wanted):
        return _COMPARERS[base](wanted, value)
    if base.startswith(("Numeric", "Date")) or base in ("IpAddress", "Bool"):
        return None  # IAM documents variables for texts and ARNs only
    arn = base.startswith("Arn")
    resolved = _resolved(tokens(wanted, wildcards=arn or base == "StringLike"), known, arn or base == "StringLike")
    if resolved is None or (arn and (resolved.count(":") < 5 or value.count(":") < 5)):
        return None
    if base == "StringEqualsIgnoreCase":
        return ascii_lower("".join(map(str, resolved))) == ascii_lower(value)
    pattern = arn_runs(resolved) if arn else text_runs(resolved)
    return Automaton([pattern], budget).of_text(value) == 1


def _resolved(text: Sequence[Token], known: Known, wildcards: bool) -> list[Token] | None:
    """A value with its variables filled in; None if a variable's value is unknown or contains a wildcard."""
    filled: list[Token] = []
    for token in text:
        if not isinstance(token, Variable):
            filled.append(token)
            continue
        values = known.get(token.name, ())
        value = token.default if values is None else values[0] if len(values) == 1 else None
        if value is None or (wildcards and has_wildcard(value)):
            return None
        filled += value
    return filled


def _ordered(read: Callable[[str], Any], compare: Callable[[Any, Any], bool]) -> Callable[[str, str], bool | None]:
    def comparer(wanted: str, value: str) -> bool | None:
        given, limit = read(value), read(wanted)
        return None if given is None or limit is None else compare(given, limit)

    return comparer


def _inside(wanted: str, value: str) -> bool | None:
    try:
        addresses, address = network(wanted), ipaddress.ip_address(value)
    except ValueError:
        return None
    return None if addresses is None else address.version == addresses.version and address in addresses


def _of_any_address(test: Test, operator: Operator) -> bool | None:
    """Whether a test of an unknown aws:SourceIp holds for every request, or for none.

    A request through a VPC endpoint has no aws:SourceIp (IAM User Guide, “AWS global condition context keys”), and no
    other request comes from a private address.
    """
    ranges = [network(value) for value in test.values]
    if operator.base != "IpAddress" or operator.quantifier or None in ranges:
        return None
    if all(is_private(value) for value in test.values):
        # No address is in the ranges. The missing key decides alike, except for IfExists.
        return operator.negated or (None if operator.if_exists else False)
    if addresses(test.values) == (2**32, 2**128) and operator.if_exists and not operator.negated:
        return True
    return None


def _arn_like(wanted: str, value: str) -> bool | None:
    """Each of the six parts is matched separately: a `*` in the first five parts does not match a colon."""
    parts, others = wanted.split(":", 5), value.split(":", 5)
    if len(parts) != 6 or len(others) != 6:
        return None
    return all(matches(part, other) for part, other in zip(parts, others, strict=True))


def _truth(wanted: str, value: str) -> bool | None:
    return wanted == value if {wanted, value} <= {"true", "false"} else None


_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "Equals": lambda value, wanted: value == wanted,
    "LessThan": lambda value, wanted: value < wanted,
    "LessThanEquals": lambda value, wanted: value <= wanted,
    "GreaterThan": lambda value, wanted: value > wanted,
    "GreaterThanEquals": lambda value, wanted: value >= wanted,
}
_COMPARERS: Mapping[str, Callable[[str, str], bool | None]] = {
    "StringEquals": lambda wanted, value: wanted == value,
    "StringEqualsIgnoreCase": lambda wanted, value: ascii_lower(wanted) == ascii_lower(value),
    "StringLike": matches,
    "BinaryEquals": lambda wanted, value: wanted == value,
    "Bool": _truth,
    **{f"Numeric{name}": _ordered(number, order) for name, order in _ORDERS.items()},
    **{f"Date{name}": _ordered(moment, order) for name, order in _ORDERS.items()},
    "IpAddress": _inside,
    "ArnEquals": _arn_like,
    "ArnLike": _arn_like,
}


def addresses(values: Iterable[str]) -> tuple[int, int] | None:
    """How many IPv4 and IPv6 addresses the ranges cover, each counted once; None if a value is not a range."""
    networks4, networks6 = [], []
    for value in values:
        try:
            network = ipaddress.ip_network(value, strict=False)
        except ValueError:
            return None
        if isinstance(network, ipaddress.IPv4Network):
            networks4.append(network)
        else:
            networks6.append(network)
    return (
        sum(network.num_addresses for network in ipaddress.collapse_addresses(networks4)),
        sum(network.num_addresses for network in ipaddress.collapse_addresses(networks6)),
    )


def restricts_no_address(test: Test) -> bool:
    """Whether every public address passes: “anywhere”, or “everywhere except private networks” such as 10.0.0.0/8."""
    if test.key != "aws:sourceip":
        return False
    if test.operator == "IpAddress":
        counted = addresses(test.values)
        return counted is not None and (counted[0] == 2**32 or counted[1] == 2**128)
    return test.operator == "NotIpAddress" and all(is_private(value) for value in test.values)


# A list of our own: the standard library's `is_private` is True for 0.0.0.0/0, whose first and last address are
# private.
_PRIVATE = [
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "fc00::/7", "fe80::/10", "::1/128",
    )
]  # fmt: skip


def is_private(text: str) -> bool:
    """Whether the text is an address or a range in which no address is public."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    if isinstance(network, ipaddress.IPv4Network):
        return any(network.subnet_of(one) for one in _PRIVATE if isinstance(one, ipaddress.IPv4Network))
    return any(network.subnet_of(one) for one in _PRIVATE if isinstance(one, ipaddress.IPv6Network))
