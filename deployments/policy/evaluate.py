"""Who may do what under a repository policy: yes, no, or it depends.

If the policy and the given context do not settle the answer, it is “depends”, never “yes”. A context key that is not in
the context may have any value or none; a key with the value None is known to be missing from the request.

An account (12 digits, or its root ARN) means “a principal of that account whose own identity policy allows it too”.
`may`, `can_pull` and `holders` evaluate one policy; `effective.py` evaluates the repository policy together with the
registry policy. Identity policies and service control policies can still deny, and the principals of the registry's own
account need no repository policy.

Every question has a budget of steps; where it is used up, the answer is “depends”.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from deployments.policy import words
from deployments.policy.actions import GRANTABLE, KNOWN, PREFIX, PULL, expand, expand_all, spelling, written
from deployments.policy.atoms import EVERYONE, AllExcept, Principal, Subject, Who, principal_of, subjects
from deployments.policy.budget import Budget, TooComplexError
from deployments.policy.callers import names_in_whole
from deployments.policy.conditions import Test, condition_of
from deployments.policy.context import Context, Known, any_of, holds, known_of
from deployments.policy.document import Policy, Statement
from deployments.policy.wildcard import covers, has_wildcard, matches

Verdict = Literal["yes", "no", "depends"]

_SERVICE = re.compile(r"[a-z0-9.-]+\.amazonaws\.com(\.cn)?")


#: The condition keys that every request to ECR has with the same value: ECR has no endpoint without TLS.
EVERY_REQUEST: dict[str, tuple[str, ...] | None] = {"aws:securetransport": ("true",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The verdict with its reason. `statement`: the label of the statement that decides; None if no statement does.

    `layer`: the policy of this statement, if several were evaluated. `denied`: this statement certainly denies.
    """

    verdict: Verdict
    statement: str | None
    words: str
    layer: str = ""
    denied: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """One principal that a policy names in an Allow, and whether it may use the actions that were asked about."""

    principal: str
    name: str  # in words: `account 111111111111`
    answer: Answer


def may(policy: Policy, principal: str, action: str, context: Context | None = None, *, partition: str) -> Answer:
    """Whether the policy lets the principal use the action.

    `principal`: an account id, an ARN, a unique id, `*` (everyone) or a service's name. `action`: as in a policy;
    a pattern asks for all actions that it matches.
    """
    pattern, caller = spelling(action), caller_of(principal, partition=partition)
    if not pattern.startswith(PREFIX) and not expand(pattern) <= KNOWN:
        who = words.of_subject(caller, partition=partition)
        text = f"{who} may not use {words.shown(action)}: it is not an ECR action, so no repository policy allows it."
        return Answer(verdict="no", statement=None, words=text)
    return _question(policy, expand(pattern), partition).of(caller, context, Budget())


def can_pull(policy: Policy, account: str, *, partition: str) -> Answer:
    """Whether a principal (usually an account id) may pull. A pull needs both pull actions."""
    return _question(policy, PULL, partition).of(caller_of(account, partition=partition), None, Budget())


def pull_by(layers: Iterable[tuple[str, Policy]], principal: str, *, partition: str) -> Answer:
    """Whether a principal may pull by several policies of one resource, which are evaluated as one.

    `layers`: each policy with its name, by which the answer calls it. A part that is not understood makes the answer
    “depends”.
    """
    question = _pull_by(layers, partition)
    return question.of(caller_of(principal, partition=partition), None, Budget())


def pull_holders(layers: Iterable[tuple[str, Policy]], *, partition: str) -> tuple[Holder, ...]:
    """The principals that an Allow of these policies names for a pull, with the answer of all of them; “yes” first."""
    return _holders(_pull_by(layers, partition))


def _pull_by(layers: Iterable[tuple[str, Policy]], partition: str) -> _Question:
    found = list(layers)
    clauses = tuple(clause for layer, policy in found for clause in _clauses(policy, partition, layer))
    puzzles = [f"{puzzle.words} (in the {layer})" for layer, policy in found for puzzle in policy.all_puzzles]
    return _asked(clauses, PULL, partition, puzzles[0] if puzzles else "")


def holders(policy: Policy, actions: Iterable[str] = PULL, *, partition: str) -> tuple[Holder, ...]:
    """The principals that an Allow names for any of the actions, and whether each may use all of them; “yes” first."""
    return _holders(_question(policy, expand_all(actions), partition))


def _holders(question: _Question) -> tuple[Holder, ...]:
    budget, partition = Budget(), question.partition
    named: set[Subject] = set()
    for clause in question.clauses:
        if not clause.denies and any(clause.speaks_of(action) for action in question.actions):
            named |= clause.subjects
    found = [
        Holder(
            principal=words.name_of_subject(subject),
            name=words.of_subject(subject, partition=partition),
            answer=question.of(subject, None, budget),
        )
        for subject in named
    ]
    return tuple(sorted(found, key=lambda one: (("yes", "depends", "no").index(one.answer.verdict), one.name)))


def caller_of(text: str, *, partition: str) -> Principal:
    """The principal that a person means by a text, such as `111111111111` or `lambda.amazonaws.com`."""
    service = text.removeprefix("Service:")
    if service != text or _SERVICE.fullmatch(text):
        return Principal(kind=Who.SERVICE, name=service)
    return principal_of("AWS", text, partition=partition)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """Which actions are asked about, of a policy. `asked` leaves out actions on the whole account (rule 5)."""

    clauses: tuple[_Clause, ...]
    actions: frozenset[str]
    asked: tuple[str, ...]
    different: tuple[str, ...]  # of the asked actions, one for each set of statements that are about it
    puzzle: str  # a part of the policy that is not understood; empty if there is none
    partition: str

    def of(self, caller: Subject, context: Context | None, budget: Budget) -> Answer:
        """One answer for all actions: no if one of them is no, else depends if one of them is, else yes."""
        who = words.of_subject(caller, partition=self.partition)
        if isinstance(caller, Principal) and _is_impossible(caller):
            text = f"{who} is not an AWS principal, so no request is made under this name."
            return Answer(verdict="no", statement=None, words=text)
        if not self.asked:
            names = words.listed(written(action) for action in sorted(self.actions))
            text = f"{who} may not use {names} by this policy: it acts on the whole account, so no repository policy"
            return Answer(verdict="no", statement=None, words=f"{text} allows it. The caller's identity policy must.")
        what = words.of_use(self.asked)
        if self.puzzle:
            # The part that is not understood could allow or deny this action. AWS would refuse such a policy.
            text = f"It cannot be said whether {who} may {what}: {self.puzzle}."
            return Answer(verdict="depends", statement=None, words=text)
        known = EVERY_REQUEST | _facts(caller) | known_of(context or {})
        try:
            meant = _Meant(caller, known, budget)
            answers = [_one(self.clauses, meant, action, who, what) for action in self.different]
        except TooComplexError:
            text = f"It cannot be said whether {who} may {what}: the policy is too complex."
            return Answer(verdict="depends", statement=None, words=text)
        return min(answers, key=lambda answer: ("no", "depends", "yes").index(answer.verdict))


def _question(policy: Policy, actions: frozenset[str], partition: str) -> _Question:
    puzzle = policy.all_puzzles[0].words if policy.all_puzzles else ""
    return _asked(_clauses(policy, partition), actions, partition, puzzle)


def _asked(clauses: tuple[_Clause, ...], actions: frozenset[str], partition: str, puzzle: str) -> _Question:
    asked = tuple(sorted(action for action in actions if action in GRANTABLE or action not in KNOWN))
    alike = {tuple(clause.speaks_of(action) for clause in clauses): action for action in reversed(asked)}
    return _Question(
        clauses=clauses,
        actions=actions,
        asked=asked,
        different=tuple(sorted(alike.values())),
        puzzle=puzzle,
        partition=partition,
    )


def _is_impossible(caller: Principal) -> bool:
    """Whether AWS has no principal of this name: no account in it, a wildcard, or a sort that cannot call."""
    if caller.kind is not Who.AWS:
        return False
    return caller.account is None or has_wildcard(caller.name) or caller.sort not in SORTS


SORTS = frozenset({"role", "user", "assumed-role", "federated-user"})  # the sorts of ARN that can make a request


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clause:
    """A statement with its principals, actions and condition worked out for a partition."""

    statement: Statement
    patterns: tuple[str, ...]
    subjects: frozenset[Subject]
    tests: tuple[Test, ...]
    whom: str
    condition: str
    of_account: Mapping[tuple[str | None, str | None], tuple[Subject, ...]]  # partition and account → its principals
    elsewhere: tuple[Subject, ...]  # the principals whose account is not in their name, and NotPrincipal
    layer: str  # the policy of the statement, if several are evaluated together
    known: dict[str, bool] = field(default_factory=dict, compare=False)  # action → whether the statement is about it

    @property
    def label(self) -> str:
        label = words.shown(self.statement.label)
        return f"{label} of the {self.layer}" if self.layer else label

    def decides(self, verdict: Verdict, text: str) -> Answer:
        """The answer that this statement gives."""
        denied = verdict == "no" and self.denies
        return Answer(verdict=verdict, statement=self.statement.label, words=text, layer=self.layer, denied=denied)

    @property
    def denies(self) -> bool:
        return self.statement.effect == "Deny"

    def speaks_of(self, action: str) -> bool:
        if action not in self.known:
            named = any(covers(pattern, action) for pattern in self.patterns)
            if self.statement.actions is None and self.statement.not_actions is None:
                self.known[action] = False
            else:
                self.known[action] = named if self.statement.actions is not None else not named
        return self.known[action]

    def near(self, caller: Subject) -> tuple[Subject, ...]:
        """The principals of the statement that could mean the caller."""
        if isinstance(caller, Principal) and caller.account is not None:
            return self.of_account.get((caller.partition, caller.account), ()) + self.elsewhere
        # Each principal of an account answers alike for a caller whose account is not known.
        return tuple(some[0] for some in self.of_account.values())[:1] + self.elsewhere


@functools.lru_cache(maxsize=64)
def _clauses(policy: Policy, partition: str, layer: str = "") -> tuple[_Clause, ...]:
    """Cached: a page asks about many principals of one policy."""
    clauses = []
    for statement in policy.statements:
        if statement.effect is None:
            continue
        condition = condition_of(statement.conditions, policy.version)
        meant = subjects(statement, policy, partition=partition)
        named = statement.not_actions or () if statement.actions is None else statement.actions
        of_account: dict[tuple[str | None, str | None], list[Subject]] = {}
        elsewhere: list[Subject] = []
        for one in meant:
            if isinstance(one, Principal) and one.account is not None and not has_wildcard(one.name):
                of_account.setdefault((one.partition, one.account), []).append(one)
            else:
                elsewhere.append(one)
        clauses.append(
            _Clause(
                statement=statement,
                patterns=tuple(map(spelling, named)),
                subjects=meant,
                tests=condition.tests,
                whom=words.listed(sorted(words.of_subject(one, partition=partition) for one in meant)),
                condition=words.of_condition(condition).strip(),
                of_account={place: tuple(some) for place, some in of_account.items()},
                elsewhere=tuple(elsewhere),
                layer=layer,
            )
        )
    return tuple(clauses)


class _Meant:
    """Which statements mean a caller and hold for its requests, each worked out once: no action changes that."""

    def __init__(self, caller: Subject, known: Known, budget: Budget) -> None:
        self._caller, self._known, self._budget = caller, known, budget
        self._answers: dict[int, tuple[bool | None, str]] = {}

    def by(self, clause: _Clause, action: str) -> tuple[bool | None, str]:
        """Whether a statement is about a request; None with the reason where that cannot be known.

        False has a reason where the statement means the caller, and only an address can keep it from applying.
        """
        self._budget.take()
        if not clause.speaks_of(action):
            return False, ""
        if id(clause) not in self._answers:
            self._answers[id(clause)] = self._answer(clause)
        return self._answers[id(clause)]

    def _answer(self, clause: _Clause) -> tuple[bool | None, str]:
        caller, known = self._caller, self._known
        near = clause.near(caller)
        self._budget.take(4 + 4 * sum(len(one.principals) if isinstance(one, AllExcept) else 1 for one in near))
        if EVERYONE in clause.subjects and caller != EVERYONE:
            meant: bool | None = True
        else:
            meant = any_of(_names(one, caller, deny=clause.denies) for one in near)
        if meant is False:
            return False, ""
        self._budget.take(20 * sum(len(test.values) for test in clause.tests))
        held = {test: holds(test, known, self._budget) for test in clause.tests}
        if False in held.values():
            failed = [test for test, answer in held.items() if answer is False]
            only_private = all(test.key == "aws:sourceip" and test.key not in known for test in failed)
            return False, "private" if only_private else ""
        if None in held.values():
            return None, clause.condition
        return meant, "" if meant else f"but names only {clause.whom}"


def _one(clauses: tuple[_Clause, ...], meant: _Meant, action: str, who: str, what: str) -> Answer:
    allowed: _Clause | None = None
    perhaps_allowed: list[tuple[_Clause, str]] = []
    perhaps_denied: list[tuple[_Clause, str]] = []
    private: _Clause | None = None
    for clause in clauses:
        applies, reason = meant.by(clause, action)
        if applies and clause.denies:
            text = f"{who} may not {what}: {clause.label} denies it."
            return clause.decides("no", text)
        if applies:
            allowed = allowed or clause
        elif applies is None:
            (perhaps_denied if clause.denies else perhaps_allowed).append((clause, reason))
        elif reason and not clause.denies:
            private = private or clause
    if not allowed and not perhaps_allowed:
        if private is not None:
            text = f"{who} may not {what}: {private.label} allows it {private.condition}, and no request to ECR has"
            text += " a private address."
            return private.decides("no", text)
        text = f"{who} may not {what}: no statement allows {words.shown(written(action))}."
        return Answer(verdict="no", statement=None, words=text)
    if perhaps_denied or not allowed:
        clause, reason = (perhaps_denied or perhaps_allowed)[0]
        verb = "denies" if clause.denies else "allows"
        text = f"It depends whether {who} may {what}: {clause.label} {verb} it {reason}."
        return clause.decides("depends", text)
    text = f"{who} may {what}: {allowed.label} allows it."
    return allowed.decides("yes", text)


# ------------------------------------------------------------------------------------------------------- principals


def _names(subject: Subject, caller: Subject, *, deny: bool) -> bool | None:
    """Whether a statement's principal means the caller."""
    if isinstance(caller, AllExcept):
        return _names_set(subject, caller)
    if isinstance(subject, AllExcept):
        return _not_named(subject, caller, deny=deny)
    if Who.BARE in (subject.kind, caller.kind) and EVERYONE not in (subject, caller):
        return None  # AWS does not document a text other than `*` in place of an object of principals
    if subject == caller:
        return True
    if caller == EVERYONE:
        return None if deny else False  # the statement names some callers, not all
    if subject == EVERYONE:
        return True
    if subject.kind is Who.AWS and has_wildcard(subject.name):
        # AWS refuses a wildcard in an ARN, so it documents no match: the answer is “depends” at most.
        parts = subject.name.split(":", 5)
        near = caller.kind is Who.ACCOUNT and (len(parts) < 6 or matches(parts[4], caller.account or ""))
        return None if near or matches(subject.name, caller.name) else False
    if subject.kind is Who.UNIQUE_ID and caller.kind is Who.UNIQUE_ID:
        # The id of a role, and a session of it (`AROA…:name`).
        return None if subject.name.split(":")[0] == caller.name.split(":")[0] else False
    if subject.account is not None and caller.kind in _OF_AN_UNKNOWN_ACCOUNT:
        return None
    if subject.account is None or subject.account != caller.account or subject.partition != caller.partition:
        return False
    if subject.kind is Who.ACCOUNT:
        return True
    if caller.kind is Who.ACCOUNT:
        return None  # the statement names one principal of the account, not the account
    if caller.sort == "assumed-role" and subject.sort == "role":
        return caller.path.split("/")[0] == subject.path.rsplit("/", 1)[-1]
    if caller.sort == "role" and subject.sort == "assumed-role":
        return None if subject.path.split("/")[0] == caller.path.rsplit("/", 1)[-1] else False
    if caller.sort == "federated-user" and subject.sort == "user":
        return None  # a session of a user: its name does not say of which one
    return False


_OF_AN_UNKNOWN_ACCOUNT = frozenset({Who.UNIQUE_ID, Who.FEDERATED, Who.CANONICAL_USER})


def _names_set(subject: Subject, caller: AllExcept) -> bool | None:
    if subject in (caller, EVERYONE):
        return True
    return None


def _not_named(subject: AllExcept, caller: Principal, *, deny: bool) -> bool | None:
    """Whether a NotPrincipal means the caller.

    With Deny, the account, the role and the session must all be named, or AWS may still deny (`names_in_whole`).
    """
    if caller in subject.principals:
        if deny and caller.kind is Who.ACCOUNT:
            return None  # a principal of the account that is not named itself
        if deny and caller.kind is Who.AWS and caller.account:
            root = Principal(kind=Who.ACCOUNT, name=f"arn:{caller.partition}:iam::{caller.account}:root")
            return False if names_in_whole(subject.principals, caller, root) else None
        return False
    exempt = any_of(_names(one, caller, deny=deny) for one in subject.principals)
    if exempt is False:
        return True
    return None if deny or exempt is None else False


def _facts(caller: Subject) -> dict[str, tuple[str, ...] | None]:
    """The condition keys that every request of this caller has, with their values."""
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
