"""The values of one condition key, divided into cells: all values of one cell pass and fail the same tests.

So a test is a set of cells (bits of an integer), and two tests are compared as sets, however they are written: two
halves of an address range are the range, `StringLike` without a wildcard is `StringEquals`, one moment has two
spellings. Cell 0 is the missing key. Each other cell has a value as its example where one can be written.

Texts that cannot be read as a value of the operator, and texts with policy variables, are `unread`: nothing is known
of the values that they match, so every cell is divided into a part that matches and a part that does not. A text that
cannot be read is divided for each operator by itself: `DateLessThan` and `DateGreaterThan`, or a test and its negation,
may both fail.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any

from deployments.policy.automaton import Automaton, Run
from deployments.policy.budget import Budget
from deployments.policy.condition_keys import KeyType, known_key
from deployments.policy.conditions import BOOLEAN_KEYS, Operator, Test, operator_of
from deployments.policy.values import Token, Variable, Wild, moment, network, number, tokens
from deployments.policy.wildcard import ascii_lower

MISSING = 1  # the bit of the missing key
_EXAMPLES = 4  # texts that are tried before a text that is named in a policy joins the automaton
_MAX_CELLS = 20_000


@dataclass(frozen=True, slots=True)
class _Value:
    """One value of a test, as far as it decides which cells match."""

    family: str  # text, number, moment, address; empty: unread
    operator: str
    reading: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """The cells of one key. `all`: every cell as bits; `examples`: cell → a value, or None if none can be written."""

    all: int
    examples: tuple[str | None, ...]
    of_value: Mapping[tuple[str, bool, str], int]  # positive operator, whether negated, value → the cells that match
    of_pattern: Mapping[tuple[Run, ...], int]  # a pattern that was asked for → the cells that match
    of_text: Mapping[str, int]  # a text that was asked for → the cells that have it

    def of(self, operator: Operator, values: Iterable[str]) -> int:
        """The cells that match one of the values under the positive form of an operator."""
        found = 0
        for value in values:
            found |= self.of_value[operator.base, operator.negated, value]
        return found

    def of_patterns(self, patterns: Iterable[tuple[Run, ...]]) -> int:
        """The cells that match one of the patterns that were asked for."""
        found = 0
        for pattern in patterns:
            found |= self.of_pattern[pattern]
        return found


def cells_of(
    key: str,
    tests: Iterable[Test],
    budget: Budget,
    patterns: Sequence[tuple[Run, ...]] = (),
    texts: Iterable[str] = (),
) -> Cells:
    """The cells of one key under these tests. `patterns`, `texts`: what else is needed as sets of cells."""
    readings: dict[tuple[str, bool, str], _Value] = {}
    where: dict[_Value, set[int]] = {}  # reading → the tests that have it
    for place, test in enumerate(sorted(tests, key=lambda one: (one.operator, sorted(one.values)))):
        operator = operator_of(test.operator)
        budget.take(len(test.values))
        for value in sorted(test.values) if operator.base != "Null" else ():
            written = operator.base, operator.negated, value
            reading = readings.get(written) or readings.setdefault(written, _read(*written))
            where.setdefault(reading, set()).add(place)
    wanted = {text: _Value("text", "is", text) for text in texts}
    known = set(wanted.values())
    families: dict[str, list[_Value]] = {"text": list(wanted.values())} if wanted or patterns else {}
    unread: dict[frozenset[int], list[_Value]] = {}  # those that always stand together are one
    for reading, places in where.items():
        if reading in known:
            continue
        if reading.family:
            families.setdefault(reading.family, []).append(reading)
        else:
            unread.setdefault(frozenset(places), []).append(reading)
    parts = [_FAMILIES[family](key, some, patterns, budget) for family, some in sorted(families.items())]
    if not parts:
        parts = [(["true", "false"], {}, {})] if key in BOOLEAN_KEYS else [(["a value"], {}, {})]
    examples, of_reading, of_pattern = _product(parts, budget)
    for together in unread.values():
        size = len(examples)
        if size > _MAX_CELLS:
            budget.take(budget.left + 1)
        budget.take(size * (1 + len(of_reading)) // 16 + size)
        of_reading = {each: bits | bits << size for each, bits in of_reading.items()}
        of_pattern = {each: bits | bits << size for each, bits in of_pattern.items()}
        of_reading |= dict.fromkeys(together, ((1 << size) - 1) << size)
        examples = [*examples, *([None] * size)]
    return Cells(
        all=(1 << (len(examples) + 1)) - 1,
        examples=(None, *examples),
        of_value={one: of_reading[reading] << 1 for one, reading in readings.items()},
        of_pattern={each: bits << 1 for each, bits in of_pattern.items()},
        of_text={text: of_reading[reading] << 1 for text, reading in wanted.items()},
    )


_Part = tuple[Sequence[str | None], dict[_Value, int], dict[tuple[Run, ...], int]]


def _product(parts: Sequence[_Part], budget: Budget) -> tuple[list[str | None], dict[_Value, int], dict[Any, int]]:
    """The cells of a key that is tested as several sorts of value: each cell of one with each of the other.

    Some of these cells have no value in truth. Then a difference may be reported that no request shows; none is missed.
    """
    examples, of_reading, of_pattern = list(parts[0][0]), dict(parts[0][1]), dict(parts[0][2])
    for more, readings, patterns in parts[1:]:
        size, times = len(examples), len(more)
        if size * times > _MAX_CELLS:
            budget.take(budget.left + 1)
        budget.take(size * times)
        spread = sum(1 << (size * n) for n in range(times))
        block = (1 << size) - 1
        of_reading = {one: bits * spread for one, bits in of_reading.items()}
        of_pattern = {one: bits * spread for one, bits in of_pattern.items()}
        for target, source in ((of_reading, readings), (of_pattern, patterns)):
            for each, bits in source.items():
                budget.take(times)
                target[each] = sum(block << (size * n) for n in range(times) if bits >> n & 1)  # type: ignore[index]
        examples = [None] * (size * times)
    return examples, of_reading, of_pattern


def _read(base: str, negated: bool, value: str) -> _Value:
    """What a value of a positive operator means. `negated`: whether its test has the negated operator."""
    unread = _Value("", f"not {base}" if negated else base, value)
    if base.startswith("Numeric"):
        found = number(value)
        return _Value("number", base, found) if found is not None else unread
    if base.startswith("Date"):
        at = moment(value)
        return _Value("moment", base, at) if at is not None else unread
    if base == "IpAddress":
        addresses = network(value)
        return _Value("address", base, addresses) if addresses is not None else unread
    if base == "Bool":
        return _Value("text", "is", value) if value in ("true", "false") else unread
    arn = base in ("ArnEquals", "ArnLike")
    read = tokens(value, wildcards=arn or base == "StringLike")
    if base == "StringEqualsIgnoreCase":
        read = tuple(ascii_lower(each) if isinstance(each, str) else each for each in read)
    if any(isinstance(each, Variable) for each in read):
        return _Value("", "Arn" if arn else base, read)
    if arn and sum(each == ":" for each in read) < 5:
        return _Value("", "not Arn" if negated else "Arn", read)  # not the six parts of an ARN
    if base == "StringEqualsIgnoreCase":
        return _Value("text", "any case", "".join(map(str, read)))
    if any(isinstance(each, Wild) for each in read):
        return _Value("text", "like", arn_runs(read) if arn else text_runs(read))
    return _Value("text", "is", "".join(map(str, read)))


def text_runs(read: Iterable[Token]) -> tuple[Run, ...]:
    """A text with wildcards as a pattern."""
    return tuple(
        Run("", but=True, many=each is Wild.ANY) if isinstance(each, Wild) else Run(str(each)) for each in read
    )


def arn_runs(read: Iterable[Token]) -> tuple[Run, ...]:
    """An ARN with wildcards as a pattern: each of the six parts is matched by itself, the last may hold colons."""
    runs = []
    colons = 0
    for each in read:
        colons += each == ":"
        if isinstance(each, Wild):
            runs.append(Run(":" if colons < 5 else "", but=True, many=each is Wild.ANY))
        else:
            runs.append(Run(str(each)))
    return tuple(runs)


def _texts(key: str, readings: Sequence[_Value], asked: Sequence[tuple[Run, ...]], budget: Budget) -> _Part:
    named = {one.reading for one in readings if one.operator == "is"}
    if key in BOOLEAN_KEYS:
        named |= {"true", "false"}
    cased = {one.reading for one in readings if one.operator == "any case"}
    likes = list(dict.fromkeys([*(one.reading for one in readings if one.operator == "like"), *asked]))
    if not likes and not (cased and named):
        return _words(key, readings, named, cased)
    patterns = [*likes, *(tuple(_either(character) for character in text) for text in sorted(cased))]
    inside: list[str] = []  # texts that joined the automaton, because they are the only example of a combination
    while True:
        places = [*patterns, *(tuple(map(Run, text)) for text in inside)]
        automaton = Automaton(places, budget)
        combinations = automaton.combinations(_EXAMPLES)
        outside = named.difference(inside)
        examples: list[str] = []
        bits: list[int] = []
        met: set[str] = set()
        for combination, texts in sorted(combinations.items()):
            free = next((text for text in texts if text not in outside), None)
            if free is None:
                met.update(texts)
            else:
                examples.append(free)
                bits.append(combination)
        if not met:
            break
        inside += sorted(met)
    for text in sorted(outside):
        examples.append(text)
        bits.append(automaton.of_text(text))
    if key in BOOLEAN_KEYS:
        kept = [at for at, text in enumerate(examples) if text in ("true", "false")]
        examples, bits = [examples[at] for at in kept], [bits[at] for at in kept]
    budget.take(len(examples) * (1 + len(places) // 8))

    def cells_with(place: int) -> int:
        return sum(1 << at for at, combination in enumerate(bits) if combination >> place & 1)

    of_pattern = {pattern: cells_with(place) for place, pattern in enumerate(likes)}
    of_cased = {text: cells_with(len(likes) + place) for place, text in enumerate(sorted(cased))}
    of_named = {text: 1 << at for at, text in enumerate(examples) if text in named}
    of_reading = {
        one: of_pattern[one.reading]
        if one.operator == "like"
        else of_cased[one.reading]
        if one.operator == "any case"
        else of_named.get(one.reading, 0)
        for one in readings
    }
    return examples, of_reading, of_pattern


def _words(key: str, readings: Sequence[_Value], named: set[str], cased: set[str]) -> _Part:
    """Texts without patterns: each text is a cell, and all other texts are one."""
    examples = sorted(named | cased)
    place = {text: at for at, text in enumerate(examples)}
    if key not in BOOLEAN_KEYS:
        examples.append(next(f"other{n or ''}" for n in range(len(examples) + 1) if f"other{n or ''}" not in place))
    return examples, {one: 1 << place[one.reading] for one in readings}, {}


def _either(character: str) -> Run:
    """A letter in either case; another character as it is."""
    upper = character.upper() if "a" <= character <= "z" else ""
    return Run(character + upper)


def _ordered(
    readings: Sequence[_Value], between: Callable[[Any, Any], Any], step: Any, written: Callable[[Any], str]
) -> _Part:
    """Values on a line: each value that is named is a cell, and each gap between two of them."""
    points = sorted({one.reading for one in readings})
    line = [points[0] - step]
    for lower, upper in itertools.pairwise(points):
        line += [lower, between(lower, upper)]
    line += [points[-1], points[-1] + step]
    place = {point: at for at, point in enumerate(line)}
    whole = (1 << len(line)) - 1
    found = {}
    for one in readings:
        at = place[one.reading]
        below, equal = (1 << at) - 1, 1 << at
        found[one] = {
            "Equals": equal,
            "LessThan": below,
            "LessThanEquals": below | equal,
            "GreaterThan": whole ^ below ^ equal,
            "GreaterThanEquals": whole ^ below,
        }[one.operator.removeprefix("Numeric").removeprefix("Date")]
    return [written(point) for point in line], found, {}


def _with_others(key: str, sort: KeyType, part: _Part) -> _Part:
    """The part with one cell more, which no value of this sort matches, unless each value of the key is of this sort.

    A tag, for example, can have the value “gold” although a policy compares it as a number.
    """
    known = known_key(key)
    if known is not None and (known.type is sort or (known.type is KeyType.DATE and sort is KeyType.NUMBER)):
        return part  # aws:EpochTime is a date in seconds, which numbers compare too
    examples, of_reading, of_pattern = part
    return [*examples, _NO_VALUE], of_reading, of_pattern


_NO_VALUE = "none of these"


def _numbers(key: str, readings: Sequence[_Value], asked: Any, budget: Budget) -> _Part:
    def written(value: Decimal) -> str:
        return format(value.normalize() if value else Decimal(0), "f")

    with localcontext(prec=300):  # a number has at most 40 digits and a two-digit exponent
        part = _ordered(readings, lambda lower, upper: (lower + upper) / 2, Decimal(1), written)
    return _with_others(key, KeyType.NUMBER, part)


def _moments(key: str, readings: Sequence[_Value], asked: Any, budget: Budget) -> _Part:
    def written(value: datetime) -> str:
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    part = _ordered(readings, lambda lower, upper: lower + (upper - lower) / 2, timedelta(days=1), written)
    return _with_others(key, KeyType.DATE, part)


def _addresses(key: str, readings: Sequence[_Value], asked: Any, budget: Budget) -> _Part:
    """Addresses: the ends of the ranges divide the two lines, IPv4 and IPv6."""
    examples: list[str | None] = []
    found = dict.fromkeys(readings, 0)
    for version, bits in ((4, 32), (6, 128)):
        ranges = {one: one.reading for one in readings if one.reading.version == version}
        cuts = {0}
        for each in ranges.values():
            cuts |= {int(each.network_address), int(each.broadcast_address) + 1}
        starts = sorted(cut for cut in cuts if cut < 1 << bits)
        place = {start: len(examples) + at for at, start in enumerate(starts)}
        end = len(examples) + len(starts)
        for one, each in ranges.items():
            first = place[int(each.network_address)]
            last = place.get(int(each.broadcast_address) + 1, end)
            found[one] = (1 << last) - (1 << first)
        kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
        examples += [str(kind(start)) for start in starts]
    return _with_others(key, KeyType.ADDRESS, (examples, found, {}))


_FAMILIES: Mapping[str, Callable[[str, Sequence[_Value], Any, Budget], _Part]] = {
    "text": _texts,
    "number": _numbers,
    "moment": _moments,
    "address": _addresses,
}
