"""What the values of a condition mean: numbers, moments, address ranges, texts with wildcards and variables.

One parser for each sort of value, used to compare policies, to evaluate a request and to lint. A parser answers None
for a text that IAM does not document as a value of that sort, so such a text is never taken for a value (Python's own
parsers also accept `1_0`, digits of other scripts and week dates).

Sources: *IAM JSON policy elements: Condition operators*; *IAM policy elements: Variables and tags*, sections “Where you
can use policy variables”, “Special characters” and “Specifying default values”.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum

from deployments.policy.wildcard import ascii_lower

_NUMBER = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?")
_EPOCH = re.compile(r"[0-9]{1,3}|[0-9]{5,7}|[0-9]{9,11}")  # 4 and 8 digits could also be a year or a day
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})(?:-([0-9]{2})"
    r"(?:T([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,6}))?)?(Z|[+-](?:0[0-9]|1[0-4]):[0-5][0-9]))?)?"
)
_RANGE = re.compile(r"([0-9.]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)(/(0|[1-9][0-9]{0,2}))?")
_PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")
_WITH_DEFAULT = re.compile(
    r"([^,']+), '(.*)'", re.DOTALL
)  # a comma and one space; AWS has no variable with other spaces

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Wild(Enum):
    """The wildcards of a text."""

    ANY = "*"
    ONE = "?"


@dataclass(frozen=True, slots=True)
class Variable:
    """`${name}` or `${name, 'default'}`. Names ignore case, as condition keys do (rule 4)."""

    name: str
    default: str | None


Token = str | Wild | Variable  # a text has one token for each character, wildcard or variable


def number(text: str) -> Decimal | None:
    """A number; None for another text."""
    return Decimal(text) if _NUMBER.fullmatch(text) else None


def moment(text: str) -> datetime | None:
    """A time in ISO 8601 as the W3C writes it, or in seconds since 1970.

    A month, a day, or a day with a time and its zone. A year alone could also be seconds, so it is no moment here.
    """
    try:
        if _EPOCH.fullmatch(text):
            return datetime.fromtimestamp(int(text), tz=UTC)
        found = _ISO.fullmatch(text)
        if found is None or not "1000" <= found[1] <= "9998":
            return None
        year, month, day = int(found[1]), int(found[2]), int(found[3] or 1)
        hour, minute, second = (int(part or 0) for part in found.groups()[3:6])
        micro = int((found[7] or "").ljust(6, "0"))
        at = datetime(year, month, day, hour, minute, second, micro, tzinfo=UTC)
        zone = found[8] or "Z"
        if zone == "Z":
            return at
        shift = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
        return at - shift if zone[0] == "+" else at + shift
    except (ValueError, OverflowError, OSError):
        return None


def network(text: str) -> Network | None:
    """An address or a range with a prefix length and without host bits; None for another text, such as a netmask."""
    try:
        return ipaddress.ip_network(text) if _RANGE.fullmatch(text) else None
    except ValueError:
        return None


def tokens(text: str, *, wildcards: bool) -> tuple[Token, ...]:
    """A text of version 2012-10-17 in its tokens. `wildcards`: whether the operator reads `*` and `?` as wildcards.

    `${*}`, `${?}` and `${$}` are the characters themselves. Two policies that mean the same text have the same tokens.
    """
    found: list[Token] = []

    def plain(part: str) -> None:
        for character in part:
            if not wildcards or character not in "*?":
                found.append(character)
            elif character == "?":
                # `*?` and `?*` are the same: the `?` goes first.
                found.insert(len(found) - 1 if found and found[-1] is Wild.ANY else len(found), Wild.ONE)
            elif not found or found[-1] is not Wild.ANY:
                found.append(Wild.ANY)

    at = 0
    for hole in _PLACEHOLDER.finditer(text):
        plain(text[at : hole.start()])
        at = hole.end()
        inner = hole[1]
        if inner in ("*", "?", "$"):
            found.append(inner)
        elif given := _WITH_DEFAULT.fullmatch(inner):
            found.append(Variable(ascii_lower(given[1]), given[2]))
        else:
            found.append(Variable(ascii_lower(inner), None))
    plain(text[at:])
    return tuple(found)
