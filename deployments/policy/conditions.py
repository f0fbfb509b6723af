"""A statement's Condition as a value: what must hold of a request for the statement to apply.

All tests of a condition must hold; the values of one test are alternatives, and under a negated operator each value
forbids by itself. `cells` says which values of a key a test lets through, and `boxes` compares conditions by that.

Operators are case-sensitive (AWS answers `Invalid Condition type : stringEquals`), keys are not (rule 4).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from deployments.policy.condition_keys import KEYS, KeyType
from deployments.policy.document import WrittenCondition
from deployments.policy.values import network, number
from deployments.policy.wildcard import ascii_lower

# Source: IAM's reference of condition operators, read in 2026-11. Each negated operator maps to the positive operator
# that it is the opposite of.
_POSITIVE = """
    StringEquals StringEqualsIgnoreCase StringLike NumericEquals NumericLessThan NumericLessThanEquals
    NumericGreaterThan NumericGreaterThanEquals DateEquals DateLessThan DateLessThanEquals DateGreaterThan
    DateGreaterThanEquals Bool BinaryEquals IpAddress ArnEquals ArnLike Null
"""
POSITIVE = frozenset(_POSITIVE.split())
NEGATED = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "NumericNotEquals": "NumericEquals",
    "DateNotEquals": "DateEquals",
    "NotIpAddress": "IpAddress",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
}
_VARIABLE = re.compile(r"\$\{[^}]*\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A condition operator in its parts.

    `base`: the positive operator; `quantifier`: ForAllValues, ForAnyValue or empty.
    """

    base: str
    negated: bool
    quantifier: str
    if_exists: bool
    known: bool

    @property
    def plain(self) -> bool:
        """Whether the operator is known and has neither a quantifier nor IfExists."""
        return self.known and not self.quantifier and not self.if_exists


@functools.lru_cache(maxsize=1024)
def operator_of(name: str) -> Operator:
    """The parts of an operator's name, such as `ForAnyValue:StringNotLikeIfExists`; case counts (rule 4)."""
    quantifier, colon, rest = name.partition(":")
    if not colon:
        quantifier, rest = "", name
    if_exists = rest.endswith("IfExists") and rest != "NullIfExists"
    word = rest.removesuffix("IfExists") if if_exists else rest
    negated = word in NEGATED
    known = (negated or word in POSITIVE) and quantifier in ("", "ForAllValues", "ForAnyValue")
    return Operator(
        base=NEGATED.get(word, word), negated=negated, quantifier=quantifier, if_exists=if_exists, known=known
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """One operator on one lower-cased key.

    The values are alternatives; under a negated operator each value is forbidden.
    """

    operator: str
    key: str
    values: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Tests that must all hold; no test: always."""

    found: frozenset[Test] = field(default=frozenset())

    @property
    def tests(self) -> tuple[Test, ...]:
        """All tests, sorted by key and operator."""
        return _in_order(self.found)

    def as_document(self) -> dict[str, dict[str, list[str]]] | None:
        """The Condition element in its canonical spelling; None if there is no test."""
        document: dict[str, dict[str, list[str]]] = {}
        for test in self.tests:
            block = document.setdefault(test.operator, {})
            # Two tests of one operator on one key can only be written with the key in two spellings.
            spellings = (spelt(test.key), test.key, test.key.upper())
            key = next((spelling for spelling in spellings if spelling not in block), test.key.swapcase())
            block[key] = sorted(test.values)
        return document or None


@functools.lru_cache(maxsize=1024)
def _in_order(tests: frozenset[Test]) -> tuple[Test, ...]:
    """Cached: the order of hundreds of tests is asked for again for each of them, and for each principal."""
    return tuple(sorted(tests, key=lambda test: (test.key, test.operator, sorted(test.values))))


# Keys whose value is a Boolean in every request that has them.
BOOLEAN_KEYS = frozenset(name for name, key in KEYS.items() if key.type is KeyType.BOOL)


def spelt(key: str) -> str:
    """A lower-cased key as AWS writes it; an unknown key unchanged."""
    name, slash, tag = key.partition("/")
    return (KEYS[name].name if name in KEYS else name) + slash + tag


def has_variable(text: str) -> bool:
    """Whether the text contains a policy variable, `${…}`."""
    return _VARIABLE.search(text) is not None


def literal(text: str, version: str) -> str:
    """The text as version 2012-10-17 would write it: `${…}` of version 2008-10-17 is escaped (rule 7)."""
    if version == "2012-10-17" or not has_variable(text):
        return text
    return text.replace("${", "${$}{")


def condition_of(written: Sequence[WrittenCondition], version: str) -> Condition:
    """The condition of one statement. `version`: the policy's, which decides whether `${…}` is a variable (rule 7)."""
    lists: dict[tuple[str, str], set[frozenset[str]]] = {}
    for item in written:
        operator = operator_of(item.operator)
        values = frozenset(_canonical(literal(value, version), operator.base) for value in item.values)
        lists.setdefault((item.operator, ascii_lower(item.key)), set()).add(values)
    tests: set[Test] = set()
    for (name, key), several in lists.items():
        # A key in two spellings gives two tests that must both hold. What two negated lists forbid is forbidden by one.
        if operator_of(name).plain and operator_of(name).negated and frozenset() not in several:
            several = {frozenset[str]().union(*several)}
        tests.update(Test(operator=name, key=key, values=values) for values in several)
    return Condition(found=frozenset(tests))


def _canonical(value: str, base: str) -> str:
    """The same text for all values that the operator treats as equal (rule 8). Other values stay as they are."""
    if base == "StringEqualsIgnoreCase":
        return ascii_lower(value)
    if base.startswith("Numeric") and (found := number(value)) is not None:
        plain = format(found, "f")  # exact; `normalize` would round to 28 digits
        plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
        return plain if found else "0"
    if base == "IpAddress" and (addresses := network(value)) is not None:
        return str(addresses)
    return value
