"""The work of a question is bounded, counted in steps: no text that ECR takes keeps a deploy or a sweep busy."""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter
from typing import Any

import pytest

from deployments.policy import compare, conditions, evaluate, holders, lint, parse, words
from deployments.policy.actions import GRANTABLE
from deployments.policy.boxes import Limit
from deployments.policy.budget import MAX_STEPS, Budget, TooComplexError
from deployments.policy.conditions import Condition
from tests.policy.worst import DEFAULT, SHAPES, shaped

WORDS = 20_000  # characters of all sentences of one difference


@pytest.mark.wide
@pytest.mark.parametrize("name", SHAPES)
def test_the_worst_policies_are_compared_within_the_budget_and_in_few_words(name: str) -> None:
    text = shaped(name, 1)
    for other in (DEFAULT, shaped(name, 2), None):
        found = compare(other, text, partition="aws")

        assert found.steps <= MAX_STEPS
        assert found.level in ("identical", "cosmetic", "access", "incomparable")
        assert sum(len(grant.words) for grant in (*found.gained, *found.lost)) <= WORDS


@pytest.mark.parametrize(
    "name", ["4 of 8 values, 5 keys", "4 of 8 values, 6 keys", "clauses of three", "many accounts"]
)
def test_many_statements_on_many_keys_are_still_compared_with_a_plain_policy(name: str) -> None:
    found = compare(DEFAULT, shaped(name, 1), partition="aws")

    assert found.level == "access"
    assert found.gained


@pytest.mark.costly
def test_a_comparison_that_takes_too_many_steps_says_so_and_claims_nothing() -> None:
    found = compare(shaped("clauses of three", 1), shaped("clauses of three", 2), partition="aws")

    assert (found.level, found.gained, found.lost) == ("incomparable", (), ())
    assert "too complex to compare, so nothing is written" in found.why


def test_differences_beyond_the_words_are_counted() -> None:
    found = compare(None, shaped("many accounts", 1), partition="aws")

    assert found.left_out > 100
    assert found.more == (f"{found.left_out} more differences",)
    assert found.as_document()["left_out"] == found.left_out


def test_the_same_texts_take_the_same_steps() -> None:
    text = shaped("address ranges and numbers", 1)

    assert compare(DEFAULT, text, partition="aws").steps == compare(DEFAULT, text, partition="aws").steps > 0


def test_a_budget_ends_with_its_last_step() -> None:
    budget = Budget(3)
    budget.take(2)
    budget.take()

    assert (budget.left, budget.taken) == (0, 3)
    with pytest.raises(TooComplexError):
        budget.take()


@pytest.mark.wide
@pytest.mark.parametrize("name", SHAPES)
def test_who_may_pull_and_the_linter_stay_within_the_budget(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[Budget] = []

    def counted() -> Budget:
        budgets.append(Budget())
        return budgets[-1]

    monkeypatch.setattr(evaluate, "Budget", counted)
    text = shaped(name, 1)
    for action in ("ecr:BatchGetImage", "ecr:*"):
        holders(parse(text), [action], partition="aws")
    lint(text, partition="aws", consumer_accounts=["111111111111"])

    assert 0 < max(budget.taken for budget in budgets) < MAX_STEPS


def test_a_question_that_takes_too_many_steps_is_not_answered_with_yes_or_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "Budget", lambda: Budget(100))
    answers = [one.answer for one in holders(parse(shaped("many accounts", 1)), partition="aws")]

    assert answers[-1].verdict == "depends"
    assert answers[-1].words.endswith("may pull: the policy is too complex.")
    assert {answer.verdict for answer in answers} == {"depends"}


def test_a_usual_difference_takes_few_steps() -> None:
    statement = {"Effect": "Allow", "Principal": {"AWS": ["111111111111", "222222222222"]}, "Action": "ecr:Batch*"}
    text = json.dumps({"Statement": [statement, {**statement, "Principal": "*", "Condition": {
        "StringEquals": {"aws:PrincipalOrgID": ["o-1", "o-2"]}}}]})  # fmt: skip

    assert compare(DEFAULT, text, partition="aws").steps < 500


def wide_statement(accounts: int, tests: int, operator: str = "StringEquals") -> str:
    """One statement of many principals under one condition of many tests."""
    names = [f"{number:012d}" for number in range(accounts)]
    condition = {operator: {f"k:{number}": "a" for number in range(tests)}}
    statement = {"Effect": "Allow", "Principal": {"AWS": names}, "Action": "*", "Condition": condition}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]}, separators=(",", ":"))


def test_a_condition_is_put_into_words_once_and_not_for_each_principal(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counter[str]()
    of_test, as_document = words.of_test, Condition.as_document

    def counted_test(*given: Any) -> str:
        counts["tests"] += 1
        return of_test(*given)

    def counted_document(condition: Condition) -> Any:
        counts["documents"] += 1
        return as_document(condition)

    monkeypatch.setattr(words, "of_test", counted_test)
    monkeypatch.setattr(Condition, "as_document", counted_document)
    found = compare(DEFAULT, wide_statement(280, 500), partition="aws")

    assert found.left_out > 100
    assert counts["tests"] <= 2 * words.MAX_ITEMS_LISTED
    assert counts["documents"] <= 2


def test_the_tests_of_a_condition_are_put_in_order_once(monkeypatch: pytest.MonkeyPatch) -> None:
    text = wide_statement(1, 700, "ForAllValues:StringEquals")
    conditions._in_order.cache_clear()
    lint(text, partition="aws", consumer_accounts=["111111111111"])

    assert conditions._in_order.cache_info().misses <= 3


@pytest.mark.costly
def test_the_findings_about_one_policy_are_few_words_and_the_others_are_counted() -> None:
    text = wide_statement(1, 700, "ForAllValues:StringEquals")
    found = lint(text, partition="aws")
    of_one_kind = [one for one in found if one.id == "deployments.W111"]

    assert sum(len(one.message) + len(one.hint) for one in found) <= WORDS
    assert re.fullmatch("[0-9]+ more findings of this kind[.]", of_one_kind[-1].message)
    assert int(of_one_kind[-1].message.split()[0]) + len(of_one_kind) - 1 == 700


def test_a_long_condition_is_cut_in_words() -> None:
    tests = {f"k:{number}": ["a" * 150 + str(value) for value in range(6)] for number in range(6)}
    statement = {"Effect": "Allow", "Principal": "*", "Action": "*", "Condition": {"StringEquals": tests}}
    (grant,) = compare(None, json.dumps({"Statement": [statement]}), partition="aws").gained

    assert len(grant.words) <= words.MAX_CONDITION_CHARACTERS + 100
    assert grant.words.endswith("…")
    assert grant.condition == {"StringEquals": {key: sorted(some) for key, some in tests.items()}}


@pytest.mark.parametrize("key", ["aws:PrincipalArn", "aws:PrincipalAccount"])
def test_a_difference_of_several_values_of_a_key_of_the_caller_has_an_example(key: str) -> None:
    condition = {
        "ForAnyValue:StringEquals": {key: "x"},
        "ForAnyValue:StringLike": {key: "y*"},
        "ForAllValues:StringLike": {key: "?*"},
    }
    statement = {"Effect": "Allow", "Principal": "*", "Action": "*", "Condition": condition}
    found = compare(None, json.dumps({"Statement": [statement]}), partition="aws")

    assert found.level == "access"
    assert found.example is not None


def test_an_example_of_a_difference_is_tried_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of values that nobody can write there is none, and looking for one among thousands takes seconds."""
    tried: list[str] = []
    module = importlib.import_module("deployments.policy.compare")
    monkeypatch.setattr(module._Comparing, "_request", lambda *_: tried.append("once"))
    statements = [
        {"Effect": "Allow", "Principal": {"AWS": f"{number:012d}"}, "Action": "*", "Condition": {"Bool": {"k": "yes"}}}
        for number in range(90)
    ]

    assert compare(None, json.dumps({"Statement": statements}), partition="aws").level == "access"
    assert len(tried) == module.MAX_TRIES


@pytest.mark.costly
def test_a_question_is_found_again_without_a_look_at_every_test_of_its_statements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed: list[Limit] = []
    usual = Limit.__hash__

    def counted(limit: Limit) -> int:
        hashed.append(limit)
        return usual(limit)

    statement = json.loads(wide_statement(1, 100))["Statement"][0]
    names = sorted(GRANTABLE)[:20]
    actions = [{**statement, "Action": [*names[:number], "ecr:*Tags*"]} for number in range(20)]
    monkeypatch.setattr(Limit, "__hash__", counted)
    compare(None, json.dumps({"Statement": actions}), partition="aws")

    assert len(hashed) < 10_000
