"""A statement's Condition as a value: what must hold of a request for the statement to apply.

All tests of a condition must hold; the values of one test are alternatives. Two conditions are compared only by what
can be proved from this structure, not by assumptions about requests:

- The values of a plain positive test (`StringEquals` k: a, b) may be split over several statements and merged again.
- Each value of a plain negated test (`StringNotEquals` k: a, b) forbids by itself, so each value is a test of its own.
- A test with `ForAllValues:`, `ForAnyValue:`, `…IfExists`, an empty value list or an unknown operator is equal only to
  the same test (rule 12).
- A condition with more tests, or with fewer alternatives, is narrower. A condition without tests is the widest.

Operators are case-sensitive (AWS answers `Invalid Condition type : stringEquals`), keys are not (rule 4).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from deployments.policy.document import WrittenCondition
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
_VARIABLE = re.compile(r"\$\{.*?\}", re.DOTALL)
_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?")
_MASK = re.compile(r"/.*\.|%")  # forms that Python accepts as a network and IAM does not
MAX_PARTS = 2_000  # pieces of one condition; beyond this number the proof stops and the pieces count as a difference


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


NO_TEST = Test(operator="", key="", values=frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Tests that must all hold. The tests in `choices` may be narrowed value by value, those in `fixed` may not."""

    choices: frozenset[Test] = field(default=frozenset())
    fixed: frozenset[Test] = field(default=frozenset())

    @property
    def tests(self) -> tuple[Test, ...]:
        """All tests, sorted by key and operator.

        The values of a plain negated operator are merged into one test again.
        """
        together: dict[tuple[str, str], set[str]] = {}
        apart = list(self.choices)
        for test in self.fixed:
            operator = operator_of(test.operator)
            if operator.plain and operator.negated and test.values:
                together.setdefault((test.operator, test.key), set()).update(test.values)
            else:
                apart.append(test)
        apart += [Test(operator=op, key=key, values=frozenset(vals)) for (op, key), vals in together.items()]
        return tuple(sorted(apart, key=lambda test: (test.key, test.operator, sorted(test.values))))

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


_WRITTEN_KEYS = """
    aws:CalledVia aws:CalledViaFirst aws:CalledViaLast aws:CurrentTime aws:EpochTime aws:FederatedProvider
    aws:MultiFactorAuthAge aws:MultiFactorAuthPresent aws:PrincipalAccount aws:PrincipalArn aws:PrincipalIsAWSService
    aws:PrincipalOrgID aws:PrincipalOrgPaths aws:PrincipalServiceName aws:PrincipalServiceNamesList aws:PrincipalTag
    aws:PrincipalType aws:Referer aws:RequestedRegion aws:RequestTag aws:ResourceAccount aws:ResourceOrgID
    aws:ResourceOrgPaths aws:ResourceTag aws:SecureTransport aws:SourceAccount aws:SourceArn aws:SourceIp
    aws:SourceOrgID aws:SourceOrgPaths aws:SourceVpc aws:SourceVpce aws:TagKeys aws:TokenIssueTime aws:UserAgent
    aws:ViaAWSService aws:VpceAccount aws:VpceOrgID aws:VpceOrgPaths aws:VpcSourceIp ecr:AccountSetting
    ecr:ResourceTag
"""
_KEYS = {ascii_lower(key): key for key in _WRITTEN_KEYS.split()}


def spelt(key: str) -> str:
    """A lower-cased key as AWS writes it; an unknown key unchanged."""
    name, slash, tag = key.partition("/")
    return _KEYS.get(name, name) + slash + tag


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
    by_place: dict[tuple[str, str], set[frozenset[str]]] = {}
    fixed: set[Test] = set()
    for item in written:
        operator = operator_of(item.operator)
        key = ascii_lower(item.key)
        values = frozenset(_canonical(literal(value, version), operator.base) for value in item.values)
        if not operator.plain or not values:
            fixed.add(Test(operator=item.operator, key=key, values=values))
        elif operator.negated:
            fixed.update(Test(operator=item.operator, key=key, values=frozenset({value})) for value in values)
        else:
            by_place.setdefault((item.operator, key), set()).add(values)
    choices: set[Test] = set()
    for (name, key), lists in by_place.items():
        # A key in two spellings gives two tests that must both hold, so their values are not alternatives of one list.
        target = choices if len(lists) == 1 else fixed
        target.update(Test(operator=name, key=key, values=values) for values in lists)
    return Condition(choices=frozenset(choices), fixed=frozenset(fixed))


def _canonical(value: str, base: str) -> str:
    """The same text for all values that the operator treats as equal (rule 8). Other values stay as they are."""
    if base == "StringEqualsIgnoreCase":
        return ascii_lower(value)
    if base.startswith("Numeric") and _NUMBER.fullmatch(value):
        number = Decimal(value)
        return format(number.normalize() if number else Decimal(0), "f")
    if base == "IpAddress":
        try:
            return value if _MASK.search(value) else str(ipaddress.ip_network(value))
        except ValueError:
            return value
    return value


def remainder(wide: Collection[Condition], covered: Collection[Condition]) -> tuple[Condition, ...]:
    """The part of `wide` that is not provably inside `covered`, as conditions that do not overlap."""
    same = set(covered)
    rest: list[Condition] = []
    for condition in sorted((one for one in wide if one not in same), key=_widest_first):
        parts = [condition]
        for other in (*covered, *rest):
            parts = [piece for part in parts for piece in _minus(part, other)]
            if not parts or len(parts) > MAX_PARTS:
                break
        rest += parts
    return tuple(rest)


def _widest_first(condition: Condition) -> tuple[int, list[tuple[str, str, list[str]]]]:
    tests = [(test.operator, test.key, sorted(test.values)) for test in condition.tests]
    return len(condition.choices) + len(condition.fixed), tests


def _minus(part: Condition, other: Condition) -> list[Condition]:
    """The pieces of `part` outside of `other`.

    If `other` has a test that `part` lacks, nothing is proved and the answer is `part` itself.
    """
    if not other.fixed <= part.fixed:
        return [part]
    mine = {(test.operator, test.key): test for test in part.choices}
    if any(mine.get((test.operator, test.key), NO_TEST).values.isdisjoint(test.values) for test in other.choices):
        return [part]
    pieces = []
    for test in sorted(other.choices, key=lambda one: (one.operator, one.key)):
        place = (test.operator, test.key)
        values = mine[place].values
        if outside := values - test.values:
            piece = mine | {place: Test(operator=test.operator, key=test.key, values=outside)}
            pieces.append(Condition(choices=frozenset(piece.values()), fixed=part.fixed))
        mine[place] = Test(operator=test.operator, key=test.key, values=values & test.values)
    return pieces
