"""Does a condition's test hold for a request? True, False, or None: it cannot be known.

Source: IAM's references of condition operators and of single- and multivalued context keys. Where they say nothing (a
plain operator on several values, an empty list of values), the answer is None. A context maps condition keys to values:
a key that is not in it may have any value or none, a key with the value None is missing from the request.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from deployments.policy.conditions import Test, has_variable, operator_of
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


def holds(test: Test, known: Known, *, lenient: bool = False) -> bool | None:
    """Whether a test of a Condition holds; None if that cannot be known or the operator is unknown.

    `lenient`: an unknown source address passes a test that every public address passes (0.0.0.0/0, not 10.0.0.0/8).
    """
    operator = operator_of(test.operator)
    if not operator.known or not test.values:
        return None
    if test.key not in known:
        if lenient and operator.plain and restricts_no_address(test):
            return True
        if operator.plain and test.key == "aws:principalarn" and _names_another_account(test, known):
            return operator.negated
        return None
    values = known[test.key]
    if operator.base == "Null":
        missing = values is None or values == ()
        wanted = {"true": True, "false": False}
        answers = [wanted.get(value) for value in test.values]
        return None if None in answers or operator.quantifier or operator.if_exists else missing in answers
    if operator.quantifier == "ForAllValues":
        # True if the request lacks the key: `lint` warns about this (W111).
        return all_of(_passes(value, test, operator.base, operator.negated, known) for value in values or ())
    if values is None:
        # A missing key fails a positive test, and passes a negated test and every test with IfExists.
        return operator.if_exists or (operator.negated and not operator.quantifier)
    if operator.quantifier == "ForAnyValue":
        return any_of(_passes(value, test, operator.base, operator.negated, known) for value in values)
    if len(values) != 1:
        return None  # AWS does not document a plain operator on several values
    return _passes(values[0], test, operator.base, operator.negated, known)


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


def _passes(value: str, test: Test, base: str, negated: bool, known: Known) -> bool | None:
    found = any_of(_equal(wanted, value, base, known) for wanted in test.values)
    if found is None:
        return None
    return found != negated


def _equal(wanted: str, value: str, base: str, known: Known) -> bool | None:
    if has_variable(wanted):
        resolved = _resolved(wanted, known)
        if resolved is None:
            return None
        wanted = resolved
    return _COMPARERS[base](wanted, value)


_PLACEHOLDER = re.compile(r"\$\{(.*?)\}", re.DOTALL)


def _resolved(text: str, known: Known) -> str | None:
    """A value with its variables filled in; None if a variable's value is unknown or contains a wildcard."""
    unknown = False

    def fill(found: re.Match[str]) -> str:
        nonlocal unknown
        if found[1] == "$":
            return "$"
        values = known.get(ascii_lower(found[1]))
        if values is None or len(values) != 1 or has_wildcard(values[0]):
            unknown = True
            return ""
        return values[0]

    filled = _PLACEHOLDER.sub(fill, text)
    return None if unknown else filled


def _numbers(compare: Callable[[Decimal, Decimal], bool]) -> Callable[[str, str], bool | None]:
    def comparer(wanted: str, value: str) -> bool | None:
        try:
            return compare(Decimal(value), Decimal(wanted))
        except InvalidOperation:
            return None

    return comparer


def _dates(compare: Callable[[datetime, datetime], bool]) -> Callable[[str, str], bool | None]:
    def comparer(wanted: str, value: str) -> bool | None:
        moments = _moment(value), _moment(wanted)
        return None if moments[0] is None or moments[1] is None else compare(moments[0], moments[1])

    return comparer


def _moment(text: str) -> datetime | None:
    """A time in ISO 8601 or in seconds since 1970 (IAM accepts both); None for another text."""
    try:
        if re.fullmatch(r"[0-9]{1,11}", text) and len(text) != 8:
            return datetime.fromtimestamp(int(text), tz=UTC)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _inside(wanted: str, value: str) -> bool | None:
    try:
        network, address = ipaddress.ip_network(wanted), ipaddress.ip_address(value)
    except ValueError:
        return None
    return address.version == network.version and address in network


def _arn_like(wanted: str, value: str) -> bool | None:
    """Each of the six parts is matched separately: a `*` in the first five parts does not match a colon."""
    parts, others = wanted.split(":", 5), value.split(":", 5)
    if len(parts) != 6 or len(others) != 6:
        return None
    return all(matches(part, other) for part, other in zip(parts, others, strict=True))


def _truth(wanted: str, value: str) -> bool | None:
    return wanted == value if {wanted, value} <= {"true", "false"} else None


_COMPARERS: Mapping[str, Callable[[str, str], bool | None]] = {
    "StringEquals": lambda wanted, value: wanted == value,
    "StringEqualsIgnoreCase": lambda wanted, value: ascii_lower(wanted) == ascii_lower(value),
    "StringLike": matches,
    "BinaryEquals": lambda wanted, value: wanted == value,
    "Bool": _truth,
    "NumericEquals": _numbers(lambda value, wanted: value == wanted),
    "NumericLessThan": _numbers(lambda value, wanted: value < wanted),
    "NumericLessThanEquals": _numbers(lambda value, wanted: value <= wanted),
    "NumericGreaterThan": _numbers(lambda value, wanted: value > wanted),
    "NumericGreaterThanEquals": _numbers(lambda value, wanted: value >= wanted),
    "DateEquals": _dates(lambda value, wanted: value == wanted),
    "DateLessThan": _dates(lambda value, wanted: value < wanted),
    "DateLessThanEquals": _dates(lambda value, wanted: value <= wanted),
    "DateGreaterThan": _dates(lambda value, wanted: value > wanted),
    "DateGreaterThanEquals": _dates(lambda value, wanted: value >= wanted),
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
