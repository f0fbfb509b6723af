"""Do two policies give the same access, and if not, what does each side grant that the other does not?

Four answers. `identical`: the texts are equal byte for byte. `cosmetic`: the texts differ and the access is provably
the same, so nothing is written. `access`: the access differs, which is drift. `incomparable`: one of the policies has a
part that we do not understand (rule 10), or the comparison takes more than `budget.MAX_STEPS`; nothing is written.

The comparison plays every request that the two policies can tell apart: each caller of `callers`, each ECR action, and
the cells of each condition key (`cells`). Callers and actions of which both policies say the same are played once.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from deployments.policy import words
from deployments.policy.actions import GRANTABLE, KNOWN, PULL, expand_all, spelling, written
from deployments.policy.atoms import EVERYONE, AllExcept, Principal, Rule, Subject, Who, rules_of
from deployments.policy.boxes import OPAQUE, Box, Limit, Several, Space, State, opaque
from deployments.policy.budget import Budget, TooComplexError
from deployments.policy.callers import (
    BY_NAME,
    OF_THE_CALLER,
    STRANGER,
    Meaning,
    Whom,
    callers_of,
    facts,
    is_one_of_an_account,
    patterns_of,
    texts_of,
)
from deployments.policy.cells import Cells, cells_of
from deployments.policy.condition_keys import known_key
from deployments.policy.conditions import Condition, Test, operator_of
from deployments.policy.document import Kind, Policy, PolicyError, parse, quoted
from deployments.policy.values import Variable, tokens

Level = Literal["identical", "cosmetic", "access", "incomparable"]

MAX_TRIES = 20  # differences that are tried as an example: often no value can be written for any of them
MAX_WORDS_CHARACTERS = 16_000  # of all sentences of one comparison; further differences are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One principal under one condition, with all the actions that one side grants and the other does not."""

    principal: str
    actions: tuple[str, ...]
    condition: Mapping[str, Any] | None  # a Condition element; None: always
    effect: str  # Deny: the difference is a Deny that was removed (gained) or added (lost)
    words: str

    @property
    def of_pull(self) -> bool:
        """Whether a pull needs one of the actions."""
        return any(spelling(action) in PULL for action in self.actions)

    def as_rows(self) -> list[dict[str, Any]]:
        """One object for each action, as `policy compare --json` prints them."""
        return [
            {"principal": self.principal, "action": action, "condition": self.condition, "words": self.words}
            for action in self.actions
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request for which the two policies decide differently. `context`: key → value, values, or None: missing."""

    principal: str
    action: str
    context: Mapping[str, str | list[str] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`gained`: what B grants beyond A; `lost`: what A grants beyond B; `why`: the reason for `incomparable`.

    `left_out`: how many further differences there are, beyond MAX_WORDS_CHARACTERS of sentences. `example`: one
    request that shows a difference, for one reading of what AWS does not document; None where no value can be written
    for it (a policy variable).
    """

    level: Level
    gained: tuple[Grant, ...] = ()
    lost: tuple[Grant, ...] = ()
    why: str = ""
    left_out: int = 0
    example: Request | None = None
    steps: int = 0

    @property
    def more(self) -> tuple[str, ...]:
        """A sentence about the differences that were left out; none if none was."""
        if not self.left_out:
            return ()
        return (f"{self.left_out} more difference{'s' if self.left_out > 1 else ''}",)

    def as_document(self) -> dict[str, Any]:
        """The object that `policy compare --json` prints. `left_out` is there only if differences were left out."""
        return {
            "level": self.level,
            "gained": [row for grant in self.gained for row in grant.as_rows()],
            "lost": [row for grant in self.lost for row in grant.as_rows()],
        } | ({"left_out": self.left_out} if self.left_out else {})


def compare(
    a: str | None, b: str | None, *, partition: str, names: tuple[str, str] = ("first", "second")
) -> Comparison:
    """Compare two policy texts; None: there is no policy. Never raises: a text that is not a policy is incomparable.

    `names`: what `why` calls the two policies.
    """
    if a == b:
        return Comparison(level="identical")
    sides: list[tuple[Policy | None, tuple[Rule, ...]]] = []
    for name, text in zip(names, (a, b), strict=True):
        try:
            policy, rules = _read(text, partition) if text is not None else (None, ())
        except PolicyError as error:
            return Comparison(level="incomparable", why=f"The {name} policy is not JSON: {error.reason}.")
        if policy and (odd := _not_understood(policy)):
            return Comparison(level="incomparable", why=_why(name, odd))
        sides.append((policy, rules))
    budget = Budget()
    try:
        found = _Comparing(sides[0][1], sides[1][1], partition, budget).result()
    except TooComplexError:
        why = "Together the two policies are too complex to compare, so nothing is written."
        return Comparison(level="incomparable", why=why, steps=budget.steps)
    if found.level == "cosmetic":
        # A misspelt Effect grants nothing by rule 4, but AWS does not say so. So the policies are neither equal nor
        # different.
        for name, (policy, _) in zip(names, sides, strict=True):
            if policy and policy.all_puzzles:
                return Comparison(level="incomparable", why=_why(name, policy.all_puzzles[0].words))
    return found


def _why(name: str, what: str) -> str:
    return f"The {name} policy has a part that is not understood: {what}."


def _not_understood(policy: Policy) -> str:
    """The first part of a policy that is not understood (rule 10); empty if there is none."""
    for puzzle in policy.all_puzzles:
        if puzzle.kind is not Kind.EFFECT:
            return puzzle.words
    for statement in policy.statements:
        for one in statement.conditions:
            if not operator_of(one.operator).known:
                return f"{quoted(statement.label)}: unknown condition operator {quoted(one.operator)}"
    return ""


@functools.lru_cache(maxsize=128)
def _read(text: str, partition: str) -> tuple[Policy, tuple[Rule, ...]]:
    """Cached: a sweep compares a thousand live policies with one desired text, and most of the texts are equal."""
    policy = parse(text)
    return policy, rules_of(policy, partition=partition)


# ------------------------------------------------------------------------------------------------- the two policies


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Clause:
    """A statement that means the caller, with its tests as limits. Equal by identity: `_Comparing` makes each once."""

    rule: Rule
    limits: tuple[Limit, ...]


@dataclass(kw_only=True)
class _Side:
    """What one policy says of one caller and one action, widest clause first."""

    allows: tuple[_Clause, ...] = ()
    by_name: tuple[_Clause, ...] = ()  # those of `allows` that mean the caller itself, not only its account
    denies: tuple[_Clause, ...] = ()


_Values = dict[Test, set[str]]  # the values of a statement's lists that matter for a difference


class _Comparing:
    def __init__(self, a: tuple[Rule, ...], b: tuple[Rule, ...], partition: str, budget: Budget) -> None:
        self.a, self.b, self.partition, self.budget = a, b, partition, budget
        self.rules = (*a, *b)
        budget.take(len(self.rules))
        self.callers = callers_of(self.rules, budget)
        self.cells, self.limits, whole = self._keys()
        self.space = Space(whole, budget)
        self.whom = {rule: Whom(rule) for rule in self.rules}
        self.clauses: dict[tuple[Rule, str], _Clause] = {}  # statement, and the test whether it means the caller
        self.subjects: dict[tuple[Rule, Principal], Subject] = {}
        self.order = {rule: at for at, rule in enumerate(sorted(self.rules, key=_narrowness))}
        # … → action → the values that matter, as each question found them: dictionaries that many actions share
        self.found: dict[tuple[bool, Rule, Subject], dict[str, dict[int, _Values]]] = {}
        self.example: Request | None = None
        self.tries = 0

    def result(self) -> Comparison:
        """The comparison. Raises TooComplexError."""
        groups = self._actions()
        seen: dict[Any, list[tuple[Rule, _Values]]] = {}
        for meanings, callers in self._callers():
            start = {key: State(cells) for key, cells in facts(callers[0], self.callers, self.cells).items()}
            for actions in groups:
                sides = [self._side(rules, callers[0], meanings, actions[0]) for rules in (self.a, self.b)]
                self._differences(sides, callers, start, actions, seen)
        if not self.found:
            return Comparison(level="cosmetic", steps=self.budget.taken)
        gained, left_gained = _within(self._grants(gained=True), MAX_WORDS_CHARACTERS // 2)
        lost, left_lost = _within(self._grants(gained=False), MAX_WORDS_CHARACTERS // 2)
        return Comparison(
            level="access",
            gained=gained,
            lost=lost,
            left_out=left_gained + left_lost,
            example=self.example,
            steps=self.budget.taken,
        )

    # -------------------------------------------------------------------------------------------------- the keys

    def _keys(self) -> tuple[dict[str, Cells], dict[Rule, tuple[Limit, ...]], dict[str, State]]:
        tests: dict[str, set[Test]] = {}
        unclear: dict[Test, str] = {}
        for rule in self.rules:
            for test in rule.condition.found:
                self.budget.take()
                if _is_opaque(test):
                    unclear.setdefault(test, f"?{len(unclear)}")
                else:
                    tests.setdefault(test.key, set()).add(test)
        cells = {}
        whole = dict.fromkeys(unclear.values(), OPAQUE)
        for key, some in sorted(tests.items()):
            of_the_caller = key in OF_THE_CALLER
            cells[key] = cells_of(
                key,
                some,
                self.budget,
                patterns_of(self.callers) if key == "aws:principalarn" else (),
                sorted(texts_of(key, self.callers)) if of_the_caller else (),
            )
            one = known_key(key)
            quantifiers = {operator_of(test.operator).quantifier for test in some}
            # A key that has one value at most has no several. But ForAllValues takes an empty value for none (IAM User
            # Guide, “Set operators for multivalued context keys”), so it is equal to no plain operator.
            several = "ForAllValues" in quantifiers or (
                "ForAnyValue" in quantifiers and (one is None or one.multivalued)
            )
            every = cells[key].all
            whole[key] = State(every, Several(every & ~1, frozenset(), every & ~1) if several else None)
        known: dict[Test, Limit] = {}
        limits = {}
        for rule in self.rules:
            for test in rule.condition.found:
                if test not in known:
                    self.budget.take(len(test.values))
                    known[test] = opaque(unclear[test]) if test in unclear else _limit(test, cells[test.key])
            # “If AWS cannot resolve a variable, this might make the entire statement invalid” (IAM User Guide, “IAM
            # policy elements: Variables and tags”): whether it is resolved is a test of the statement.
            variables = [f"?${name}" for name in _variables(rule.condition.found, without_default=True)]
            whole |= dict.fromkeys(variables, OPAQUE)
            limits[rule] = (*(known[test] for test in rule.condition.tests), *map(opaque, variables))
        return cells, limits, whole

    # ------------------------------------------------------------------------------------- who asks, and for what

    def _callers(self) -> list[tuple[tuple[Meaning, ...], list[Principal]]]:
        """The callers in groups that every statement means in the same way, and whose requests have the same limits."""
        whom = list(self.whom.values())
        tested = any(key in self.cells for key in OF_THE_CALLER)
        groups: dict[tuple[Any, ...], list[Principal]] = {}
        for caller in self.callers:
            self.budget.take(len(whom))
            meanings = tuple(one.means(caller) for one in whom)
            unclear = any(not isinstance(one, int | None) for one in meanings)
            mark = (meanings, is_one_of_an_account(caller), caller if tested or unclear else None)
            groups.setdefault(mark, []).append(caller)
        return [(mark[0], callers) for mark, callers in groups.items()]

    def _actions(self) -> list[list[str]]:
        """The actions in groups of which every statement says the same."""
        groups: dict[tuple[int, ...], list[str]] = {}
        for action in sorted(GRANTABLE):
            self.budget.take(len(self.rules) // 8)
            groups.setdefault(tuple(at for at, rule in enumerate(self.rules) if action in rule.known), []).append(
                action
            )
        # A name beside a wildcard that covers it adds nothing (rule 5). A name that stands by itself is an action, and
        # then each wildcard that covers it counts for its own side only.
        named = set()
        for rule in self.rules:
            self.budget.take(1 + 4 * len(rule.named) * len(rule.patterns))
            named |= {action for action in rule.named if not rule.implies(action)}
        left_out = expand_all(one for rule in self.rules for one in rule.excluded or ()) - KNOWN
        for action in sorted(named | left_out):
            said = []
            for at, rule in enumerate(self.rules):
                self.budget.take(1 + 4 * (len(rule.patterns) + len(rule.excluded or ())))
                if rule.implies(action) or rule.says(action):
                    said.append(at)
            groups.setdefault(tuple(said), []).append(action)
        self._said = {actions[0]: frozenset(said) for said, actions in groups.items()}
        return list(groups.values())

    def _side(self, rules: tuple[Rule, ...], caller: Principal, meanings: tuple[Meaning, ...], action: str) -> _Side:
        """What one policy says of a caller and an action."""
        first = 0 if rules is self.a else len(self.a)
        said = self._said[action]
        allows, by_name, denies = [], [], []
        for at in sorted(said):
            rule, meaning = self.rules[at], meanings[at]
            if meaning is None or not first <= at < first + len(rules):
                continue
            self.budget.take()
            limits, unclear = self.limits[rule], ""
            if not isinstance(meaning, int):
                unclear = f"?{words.name_of_subject(meaning)}?{caller.name}"
                self.space.add(unclear)
                limits = (*limits, opaque(unclear))
            clause = self.clauses.setdefault((rule, unclear), _Clause(rule=rule, limits=limits))
            if rule.effect == "Deny":
                denies.append(clause)
            else:
                allows.append(clause)
                if meaning == BY_NAME or not isinstance(meaning, int):
                    by_name.append(clause)

        def order(clause: _Clause) -> tuple[int, int]:
            subject = self._subject(clause.rule, caller)
            wide = 0 if subject == EVERYONE else 1 if isinstance(subject, AllExcept) else 3 if subject == caller else 2
            return wide, self.order[clause.rule]

        return _Side(
            allows=tuple(sorted(allows, key=order)),
            by_name=tuple(sorted(by_name, key=order)) if is_one_of_an_account(caller) else (),
            denies=tuple(sorted(denies, key=order)),
        )

    def _subject(self, rule: Rule, caller: Principal) -> Subject:
        """By which of its principals a statement means a caller."""
        if (rule, caller) not in self.subjects:
            self.budget.take(4)
            self.subjects[rule, caller] = self.whom[rule].subject_of(caller)
        return self.subjects[rule, caller]

    # ------------------------------------------------------------------------------------------------ differences

    def _differences(
        self,
        sides: list[_Side],
        callers: list[Principal],
        start: Box,
        actions: list[str],
        seen: dict[Any, list[tuple[Rule, _Values]]],
    ) -> None:
        for mine, other, is_b in ((sides[0], sides[1], False), (sides[1], sides[0], True)):
            # A Deny that only one side has is access of the other side; what a side denies it does not allow (rule 12).
            questions = (
                (mine.denies, other.denies, not is_b),
                (mine.allows, (*other.allows, *mine.denies), is_b),
                (mine.by_name, (*other.by_name, *mine.denies), is_b),
            )
            for clauses, covering, gained in questions:
                self.budget.take(1 + (len(clauses) + len(covering)) // 4)
                mark = (clauses, covering, tuple(start.items()))
                if clauses and mark not in seen:
                    seen[mark] = self._beyond(clauses, covering, callers[0], start, actions[0])
                for rule, values in seen.get(mark, ()):
                    for subject in {self._subject(rule, caller) for caller in callers}:
                        place = self.found.setdefault((gained, rule, subject), {})
                        for action in actions:
                            self.budget.take()
                            place.setdefault(action, {})[id(values)] = values

    def _beyond(
        self,
        clauses: tuple[_Clause, ...],
        covering: tuple[_Clause, ...],
        caller: Principal,
        start: Box,
        action: str,
    ) -> list[tuple[Rule, _Values]]:
        """The clauses that hold for a request that `covering` does not cover, with the values that matter."""
        covered = [one.limits for one in covering]
        found = []
        for clause in clauses:
            box = self.space.box(clause.limits, start)
            shown = self.space.outside(box, covered) if box is not None else None
            if shown is not None:
                if self.example is None and self.tries < MAX_TRIES:
                    self.tries += 1
                    self.example = self._request(caller, action, shown)
                found.append((clause.rule, self._values(clause, start, covered)))
                covered.append(clause.limits)
        return found

    def _values(self, clause: _Clause, start: Box, covering: list[tuple[Limit, ...]]) -> _Values:
        """The values of each plain list of a clause that matter: the others are covered. Only the words need it."""
        found = {}
        for test in clause.rule.condition.tests:
            operator = operator_of(test.operator)
            if not operator.plain or operator.negated or operator.base == "Null" or len(test.values) < 2:
                continue
            if self.budget.left < self.budget.steps * 3 // 4:
                found[test] = set(test.values)  # the answer matters more than the shortest words
                continue
            matter = set()
            answers: dict[int, bool] = {}
            for value in test.values:
                cells = self.cells[test.key].of(operator, [value])
                if cells not in answers:
                    limits = (*clause.limits, Limit(test.key, cells, "plain", cells))
                    box = self.space.box(limits, start)
                    answers[cells] = box is not None and self.space.outside(box, covering) is not None
                if answers[cells]:
                    matter.add(value)
            found[test] = matter or set(test.values)
        return found

    def _request(self, caller: Principal, action: str, box: Box) -> Request | None:
        """A request in the box; None if a value of it cannot be written."""
        context: dict[str, str | list[str] | None] = {}
        for key, state in box.items():
            if key.startswith("?$") and not state.one & 0b010:
                context[key[2:]] = None
            if key.startswith("?"):
                continue  # what AWS does not document is no part of a request
            examples = self.cells[key].examples
            if state.one & 1 and (key not in OF_THE_CALLER or caller == STRANGER):
                context[key] = None
                continue
            ones = [one for at, one in enumerate(examples) if at and state.one >> at & 1 and one is not None]
            if ones:
                context[key] = ones[0]
            elif state.several is not None:
                several = []
                for some in sorted(state.several.some) or [state.several.within]:
                    fitting = some & state.several.within
                    several += [one for at, one in enumerate(examples) if fitting >> at & 1 and one is not None][:1]
                if not several:
                    return None
                context[key] = list(dict.fromkeys(several))
            else:
                return None
        tests = (test for rule in self.rules for test in rule.condition.found)
        for name in _variables(tests):
            if name not in OF_THE_CALLER:
                context.setdefault(name, "another value")  # so that no value with a variable matches by chance
        return Request(principal=self._name(caller, context), action=written(action), context=context)

    def _name(self, caller: Principal, context: Mapping[str, Any]) -> str:
        """A name for the caller that no policy has by itself."""
        if caller.kind is Who.ACCOUNT or caller == STRANGER:
            arn, given = (_first(context.get(key)) for key in ("aws:principalarn", "aws:principalaccount"))
            taken = {one.name for one in self.callers}
            if arn and arn not in taken:
                return arn
            partition, account = caller.partition or self.partition, caller.account
            if account is None:
                accounts = {one.account for one in self.callers}
                free = (f"{number:012d}" for number in range(999_999_999_999, 0, -1))
                account = given or next(one for one in free if one not in accounts)
            names = (f"arn:{partition}:iam::{account}:role/other{number or ''}" for number in range(len(taken) + 1))
            return next(one for one in names if one not in taken)
        return words.name_of_subject(caller)

    # ------------------------------------------------------------------------------------------------------ words

    def _grants(self, *, gained: bool) -> list[Grant]:
        together: dict[tuple[str, Subject, Condition], set[str]] = {}
        narrowed: dict[tuple[Rule, tuple[int, ...]], Condition] = {}
        for (is_gained, rule, subject), places in self.found.items():
            if is_gained is not gained:
                continue
            for action, values in places.items():
                self.budget.take()
                mark = rule, tuple(values)
                if mark not in narrowed:
                    narrowed[mark] = self._narrowed(rule.condition, values.values())
                together.setdefault((rule.effect, subject, narrowed[mark]), set()).add(action)
        grants = []
        documents = {condition: condition.as_document() for condition in {mark[2] for mark in together}}
        for (effect, subject, condition), some in together.items():
            actions = sorted(some, key=written)
            grants.append(
                Grant(
                    principal=words.name_of_subject(subject),
                    actions=tuple(written(action) for action in actions),
                    condition=documents[condition],
                    effect=effect,
                    words=words.of_grant(
                        effect=effect,
                        gained=gained,
                        who=words.of_subject(subject, partition=self.partition),
                        actions=actions,
                        condition=condition,
                    ),
                )
            )
        return sorted(grants, key=lambda grant: (grant.effect, grant.principal, grant.words, grant.actions))

    def _narrowed(self, condition: Condition, values: Collection[_Values]) -> Condition:
        """The condition with those values only that matter for one of the questions."""
        tests = []
        for test in condition.found:
            self.budget.take(1 + len(test.values) // 4)
            kept = [some[test] for some in values if test in some]
            tests.append(replace(test, values=frozenset().union(*kept)) if kept else test)
        return Condition(found=frozenset(tests))


def _within(grants: list[Grant], characters: int) -> tuple[tuple[Grant, ...], int]:
    """As many grants as have so many characters of sentences, and the number of the others."""
    shown: list[Grant] = []
    for grant in grants:
        characters -= len(grant.words)
        if characters < 0 and shown:
            break
        shown.append(grant)
    return tuple(shown), len(grants) - len(shown)


def _narrowness(rule: Rule) -> tuple[Any, ...]:
    """Fewer tests first: a wide statement is reported, and a narrower one only for what it adds."""
    tests = [(test.operator, test.key, sorted(test.values)) for test in rule.condition.tests]
    return len(tests), tests


def _first(values: str | list[str] | None) -> str | None:
    return values[0] if isinstance(values, list) else values


def _variables(tests: Iterable[Test], *, without_default: bool = False) -> list[str]:
    """The names of the policy variables in the values of tests."""
    values = {value for test in tests for value in test.values if "${" in value}
    found = {
        token.name
        for value in values
        for token in tokens(value, wildcards=False)
        if isinstance(token, Variable) and not (without_default and token.default is not None)
    }
    return sorted(found)


def _is_opaque(test: Test) -> bool:
    """Whether nothing is known of the requests for which the test holds; such a test is equal only to itself."""
    operator = operator_of(test.operator)
    if not test.values or not operator.known:
        return True
    return operator.base == "Null" and not (operator.plain and test.values <= {"true", "false"})


def _limit(test: Test, cells: Cells) -> Limit:
    """The test as a limit of its key (rule 12 says what a set operator makes of a missing key)."""
    operator = operator_of(test.operator)
    every = cells.all
    present = every & ~1
    if operator.base == "Null":
        one = (1 if "true" in test.values else 0) | (present if "false" in test.values else 0)
        return Limit(test.key, one, "yes" if one & present else "no", 0)
    matched = cells.of(operator, test.values)
    passed = present & ~matched if operator.negated else matched
    if operator.quantifier == "ForAnyValue":
        return Limit(test.key, passed, "any", passed)
    if operator.quantifier == "ForAllValues":
        return Limit(test.key, passed | 1, "all", passed)
    one = passed | (1 if operator.negated or operator.if_exists else 0)
    return Limit(test.key, one, "plain none" if operator.negated else "plain", matched)
