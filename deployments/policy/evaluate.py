"""Who may do what under a repository policy: yes, no, or it depends.

Three-valued throughout: what cannot be known from the policy and the given context is “depends”, and never a yes.
A context key that is not in the context may have any value or none; one that is given as None is known to be missing.

An account (12 digits, or its root ARN) means “a principal of that account whose own identity policy allows it too”.
This looks at the repository policy alone: identity policies, service control policies and the registry policy can
still say no, and the principals of the registry's own account need no repository policy at all.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Literal

from deployments.policy import words
from deployments.policy.actions import PULL, expand, expand_all, spelling
from deployments.policy.atoms import EVERYONE, AllExcept, Principal, Subject, Who, principal_of, subjects
from deployments.policy.conditions import Test, condition_of, has_variable, operator_of
from deployments.policy.document import Policy, Statement
from deployments.policy.wildcard import ascii_lower, covers, has_wildcard, matches

Verdict = Literal["yes", "no", "depends"]
Context = Mapping[str, str | bool | int | Iterable[str] | None]
_Known = Mapping[str, tuple[str, ...] | None]  # lower-cased key → its values; None: known to be missing

_SERVICE = re.compile(r"[a-z0-9.-]+\.amazonaws\.com(\.cn)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`statement` is the label of the one that decides; None where no statement speaks of it at all."""

    verdict: Verdict
    statement: str | None
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """One principal that a policy names in an Allow, and what it may."""

    principal: str
    name: str  # in words
    answer: Answer


def may(policy: Policy, principal: str, action: str, context: Context | None = None, *, partition: str) -> Answer:
    """Whether the policy lets this principal do this.

    `principal`: an account id, an ARN, a unique id, `*` (anybody at all) or a service's name. `action`: as in a policy;
    a pattern asks for all of its actions.
    """
    return _all_of(policy, caller_of(principal, partition=partition), expand(spelling(action)), context, partition)


def can_pull(policy: Policy, account: str, *, partition: str) -> Answer:
    """Whether a principal (an account id, as a rule) may pull, which takes both pull actions."""
    return _all_of(policy, caller_of(account, partition=partition), PULL, None, partition)


def holders(policy: Policy, actions: Iterable[str] = PULL, *, partition: str) -> tuple[Holder, ...]:
    """Whoever an Allow names for any of these actions, and whether they may do all of them; who may comes first."""
    asked = expand_all(actions)
    named: set[Subject] = set()
    for clause in _clauses(policy, partition):
        if not clause.denies and any(clause.speaks_of(action) for action in asked):
            named |= clause.subjects
    found = [
        Holder(
            principal=words.name_of_subject(subject),
            name=words.of_subject(subject, partition=partition),
            answer=_all_of(policy, subject, asked, None, partition),
        )
        for subject in named
    ]
    return tuple(sorted(found, key=lambda one: (("yes", "depends", "no").index(one.answer.verdict), one.name)))


def caller_of(text: str, *, partition: str) -> Principal:
    """The principal that a person means by a text."""
    service = text.removeprefix("Service:")
    if service != text or _SERVICE.fullmatch(text):
        return Principal(kind=Who.SERVICE, name=service)
    return principal_of("AWS", text, partition=partition)


def _all_of(policy: Policy, caller: Subject, actions: Iterable[str], context: Context | None, partition: str) -> Answer:
    """One answer for several actions: yes if all are, no if one is. The first that is not a yes decides."""
    known = _facts(caller) | _given(context or {})
    asked = sorted(actions)
    goal = words.of_actions(asked)
    who = words.of_subject(caller, partition=partition)
    what = goal if goal in ("pull", "push") else f"use {goal}"
    answers = [_one(policy, caller, action, known, partition, who, what) for action in asked]
    return min(answers, key=lambda answer: ("no", "depends", "yes").index(answer.verdict))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clause:
    """A statement, understood in a partition."""

    statement: Statement
    patterns: tuple[str, ...]
    subjects: frozenset[Subject]
    tests: tuple[Test, ...]
    whom: str
    condition: str

    @property
    def label(self) -> str:
        return words.shown(self.statement.label)

    @property
    def denies(self) -> bool:
        return self.statement.effect == "Deny"

    def speaks_of(self, action: str) -> bool:
        named = any(covers(pattern, action) for pattern in self.patterns)
        if self.statement.actions is None and self.statement.not_actions is None:
            return False
        return named if self.statement.actions is not None else not named


@functools.lru_cache(maxsize=64)
def _clauses(policy: Policy, partition: str) -> tuple[_Clause, ...]:
    """Kept, because a page asks for many principals of one policy."""
    clauses = []
    for statement in policy.statements:
        if statement.effect is None:
            continue
        condition = condition_of(statement.conditions, policy.version)
        meant = subjects(statement, policy, partition=partition)
        written = statement.not_actions or () if statement.actions is None else statement.actions
        clauses.append(
            _Clause(
                statement=statement,
                patterns=tuple(map(spelling, written)),
                subjects=meant,
                tests=condition.tests,
                whom=words.listed(sorted(words.of_subject(one, partition=partition) for one in meant)),
                condition=words.of_condition(condition).strip(),
            )
        )
    return tuple(clauses)


def _one(policy: Policy, caller: Subject, action: str, known: _Known, partition: str, who: str, what: str) -> Answer:
    if policy.all_puzzles:
        # Whatever it is, it could be an Allow or a Deny of this; AWS would not even take such a policy.
        text = f"It cannot be said whether {who} may {what}: {policy.all_puzzles[0].words}."
        return Answer(verdict="depends", statement=None, words=text)
    allowed: _Clause | None = None
    perhaps_allowed: list[tuple[_Clause, str]] = []
    perhaps_denied: list[tuple[_Clause, str]] = []
    for clause in _clauses(policy, partition):
        applies, reason = _applies(clause, caller, action, known)
        if applies and clause.denies:
            text = f"{who} may not {what}: {clause.label} denies it."
            return Answer(verdict="no", statement=clause.statement.label, words=text)
        if applies:
            allowed = allowed or clause
        elif applies is None:
            (perhaps_denied if clause.denies else perhaps_allowed).append((clause, reason))
    if not allowed and not perhaps_allowed:
        text = f"{who} may not {what}: no statement allows {words.name_of_action(action)}."
        return Answer(verdict="no", statement=None, words=text)
    if perhaps_denied or not allowed:
        clause, reason = (perhaps_denied or perhaps_allowed)[0]
        verb = "denies" if clause.denies else "allows"
        text = f"It depends whether {who} may {what}: {clause.label} {verb} it {reason}."
        return Answer(verdict="depends", statement=clause.statement.label, words=text)
    text = f"{who} may {what}: {allowed.label} allows it."
    return Answer(verdict="yes", statement=allowed.statement.label, words=text)


def _applies(clause: _Clause, caller: Subject, action: str, known: _Known) -> tuple[bool | None, str]:
    """Whether a statement is about this request; None with the reason where that cannot be known."""
    if not clause.speaks_of(action):
        return False, ""
    meant = caller in clause.subjects or _anyone(_names(one, caller, deny=clause.denies) for one in clause.subjects)
    held = _all(holds(test, known, lenient=not clause.denies) for test in clause.tests)
    if meant is False or held is False:
        return False, ""
    if held is None:
        return None, clause.condition
    return meant, "" if meant else f"but speaks of {clause.whom} alone"


# ------------------------------------------------------------------------------------------------------- principals


def _names(subject: Subject, caller: Subject, *, deny: bool) -> bool | None:
    """Whether a statement's principal means the caller."""
    if isinstance(caller, AllExcept):
        return _names_set(subject, caller)
    if isinstance(subject, AllExcept):
        return _not_named(subject, caller, deny=deny)
    if subject == caller:
        return True
    if caller == EVERYONE:
        return None if deny else False  # somebody, but not everybody
    if subject == EVERYONE:
        return True
    if subject.kind is Who.AWS and has_wildcard(subject.name):
        # AWS refuses these, so what they would match is nobody's promise.
        parts = subject.name.split(":", 5)
        near = caller.kind is Who.ACCOUNT and (len(parts) < 6 or matches(parts[4], caller.account or ""))
        return None if near or matches(subject.name, caller.name) else False
    if subject.account is None or subject.account != caller.account or subject.partition != caller.partition:
        return False
    if subject.kind is Who.ACCOUNT:
        return True
    if caller.kind is Who.ACCOUNT:
        return None  # one principal of the account that was asked for
    if caller.sort == "assumed-role" and subject.sort == "role":
        return caller.path.split("/")[0] == subject.path.rsplit("/", 1)[-1]
    if caller.sort == "role" and subject.sort == "assumed-role":
        return None if subject.path.split("/")[0] == caller.path.rsplit("/", 1)[-1] else False
    return False


def _names_set(subject: Subject, caller: AllExcept) -> bool | None:
    if subject in (caller, EVERYONE):
        return True
    return None


def _not_named(subject: AllExcept, caller: Principal, *, deny: bool) -> bool | None:
    """NotPrincipal. With Deny, AWS wants the account *and* the principal named, or it may still deny (IAM guide)."""
    if caller in subject.principals:
        if deny and caller.kind is Who.AWS and caller.account:
            root = Principal(kind=Who.ACCOUNT, name=f"arn:{caller.partition}:iam::{caller.account}:root")
            return False if root in subject.principals else None
        return False
    exempt = _anyone(_names(one, caller, deny=deny) for one in subject.principals)
    if exempt is False:
        return True
    return None if deny or exempt is None else False


# -------------------------------------------------------------------------------------------------------- conditions


def holds(test: Test, known: _Known, *, lenient: bool = False) -> bool | None:
    """Whether a test of a Condition holds; None where that cannot be known, or where we do not know the operator.

    `lenient`: an unknown address passes a test that every address passes (“anywhere”, “everywhere but 10.0.0.0/8”).
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
        # True where there is nothing to test: the trap that lint warns of.
        return _all(_passes(value, test, operator.base, operator.negated, known) for value in values or ())
    if values is None:
        # A missing key fails a positive test, passes a negated one, and passes whatever ends in IfExists.
        return operator.if_exists or (operator.negated and not operator.quantifier)
    if operator.quantifier == "ForAnyValue":
        return _anyone(_passes(value, test, operator.base, operator.negated, known) for value in values)
    if len(values) != 1:
        return None  # AWS does not say what a plain operator makes of several values
    return _passes(values[0], test, operator.base, operator.negated, known)


def _names_another_account(test: Test, known: _Known) -> bool:
    """Whether no principal of the account that asks can have any of these ARNs."""
    account = known.get("aws:principalaccount")
    parts = [value.split(":", 5) for value in test.values]
    return account is not None and all(
        len(part) == 6 and re.fullmatch("[0-9]{12}", part[4]) and part[4] not in account and not _open(part[:4])
        for part in parts
    )


def _open(parts: list[str]) -> bool:
    return any(has_wildcard(part) or has_variable(part) for part in parts)


def _passes(value: str, test: Test, base: str, negated: bool, known: _Known) -> bool | None:
    found = _anyone(_equal(wanted, value, base, known) for wanted in test.values)
    if found is None:
        return None
    return found != negated


def _equal(wanted: str, value: str, base: str, known: _Known) -> bool | None:
    if has_variable(wanted):
        resolved = _resolved(wanted, known)
        if resolved is None:
            return None
        wanted = resolved
    return _COMPARERS[base](wanted, value)


_PLACEHOLDER = re.compile(r"\$\{(.*?)\}", re.DOTALL)


def _resolved(text: str, known: _Known) -> str | None:
    """A value with its variables filled in; None where one is not known, or could be taken for a wildcard."""
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
    """ISO 8601, or seconds since 1970 (IAM takes both)."""
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
    """Each of the six parts on its own: a `*` does not reach over a colon of the first five."""
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

# More of the address space than any one network owner has: a /6 of IPv4, a /16 of IPv6.
_MOST_ADDRESSES = {4: 2**26, 6: 2**112}


def addresses(values: Iterable[str]) -> tuple[int, int] | None:
    """How many IPv4 and IPv6 addresses a list of ranges takes in, counted once; None where one is no range."""
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


def is_nearly_everywhere(values: Iterable[str]) -> bool:
    """Whether address ranges take in so much that they restrict nobody; also true of what is no address range."""
    counted = addresses(values)
    return counted is None or counted[0] > _MOST_ADDRESSES[4] or counted[1] > _MOST_ADDRESSES[6]


def restricts_no_address(test: Test) -> bool:
    """“Anywhere”, and “everywhere but private networks”: no caller from the internet ever comes from 10.0.0.0/8."""
    if test.key != "aws:sourceip":
        return False
    if test.operator == "IpAddress":
        counted = addresses(test.values)
        return counted is not None and (counted[0] == 2**32 or counted[1] == 2**128)
    return test.operator == "NotIpAddress" and all(_is_private(value) for value in test.values)


# Spelt out: `is_private` of the standard library calls 0.0.0.0/0 private, because both of its ends are.
_PRIVATE = [
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "fc00::/7", "fe80::/10", "::1/128",
    )
]  # fmt: skip


def _is_private(text: str) -> bool:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    if isinstance(network, ipaddress.IPv4Network):
        return any(network.subnet_of(one) for one in _PRIVATE if isinstance(one, ipaddress.IPv4Network))
    return any(network.subnet_of(one) for one in _PRIVATE if isinstance(one, ipaddress.IPv6Network))


# ---------------------------------------------------------------------------------------------------- what is known


def _given(context: Context) -> dict[str, tuple[str, ...] | None]:
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


def _facts(caller: Subject) -> dict[str, tuple[str, ...] | None]:
    """What a request of this caller carries whatever else it carries."""
    if not isinstance(caller, Principal):
        return {}
    if caller.kind is Who.SERVICE:
        return {"aws:principalisawsservice": ("true",), "aws:principalservicename": (caller.name,)}
    if caller.account is None:
        return {}
    facts: dict[str, tuple[str, ...] | None] = {
        "aws:principalaccount": (caller.account,),
        "aws:principalisawsservice": ("false",),
    }
    if caller.sort in ("role", "user"):
        facts["aws:principalarn"] = (caller.name,)
    return facts


def _all(answers: Iterable[bool | None]) -> bool | None:
    seen = set(answers)
    return False if False in seen else (None if None in seen else True)


def _anyone(answers: Iterable[bool | None]) -> bool | None:
    seen = set(answers)
    return True if True in seen else (None if None in seen else False)
