"""The work of a question is bounded, counted in steps: no text that ECR takes keeps a deploy or a sweep busy."""

from __future__ import annotations

import json

import pytest

from deployments.policy import compare, evaluate, holders, lint, parse
from deployments.policy.budget import MAX_STEPS, Budget, TooComplexError
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
