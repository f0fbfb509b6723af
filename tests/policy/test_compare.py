"""Two policies: the same access or not, and what each side has that the other has not."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from deployments.policy import Grant, compare
from deployments.policy.actions import NAMES
from tests.policy.cases import CASES, ONE, ORG, PULL, PULL3, PUSH, ROLE, TWO, cond, policy, starting, stmt

PARTITIONS = {"us-east-1": "aws"}


def everything(text: str) -> str:
    """Cases write `@all` for the whole table of actions, spelt out."""
    return text.replace('"@all"', json.dumps(sorted(NAMES.values())))


def words(text_a: str | None, text_b: str | None, partition: str = "aws") -> tuple[list[str], list[str]]:
    found = compare(text_a, text_b, partition=partition)
    return [grant.words for grant in found.gained], [grant.words for grant in found.lost]


def plain(grants: tuple[Grant, ...]) -> set[tuple[str, tuple[str, ...], str, str]]:
    """Grants without their words, which say “gains” on one side and “loses” on the other."""
    return {(grant.principal, grant.actions, json.dumps(grant.condition), grant.effect) for grant in grants}


@pytest.mark.parametrize(("name", "region", "a", "b", "level"), starting(), ids=lambda value: str(value)[:60])
def test_the_starting_cases_are_judged_right(name: str, region: str, a: str, b: str, level: str) -> None:
    assert compare(a, b, partition=PARTITIONS[region]).level == level
    assert compare(b, a, partition=PARTITIONS[region]).level == level


@pytest.mark.parametrize(("name", "partition", "a", "b", "level"), CASES, ids=[case[0] for case in CASES])
def test_our_own_cases_are_judged_right_from_both_sides(name: str, partition: str, a: str, b: str, level: str) -> None:
    a, b = everything(a), everything(b)
    there, back = compare(a, b, partition=partition), compare(b, a, partition=partition)

    assert (there.level, back.level) == (level, level), there
    assert plain(there.gained) == plain(back.lost)
    assert plain(there.lost) == plain(back.gained)
    assert bool(there.gained or there.lost) == (level == "access")


def test_case_names_are_unique() -> None:
    assert len({case[0] for case in CASES}) == len(CASES) >= 60


def test_the_same_bytes_are_identical_whatever_they_say() -> None:
    for text in (policy(stmt()), "{", "", "[]", policy(stmt(Foo=1)), None):
        assert compare(text, text, partition="aws").level == "identical"


def test_no_policy_at_all_is_the_same_as_one_that_grants_nothing() -> None:
    assert compare(None, policy(), partition="aws").level == "cosmetic"
    assert compare(policy(stmt({"AWS": []})), None, partition="aws").level == "cosmetic"
    assert words(None, policy(stmt(TWO))) == (["account 222222222222 gains pull"], [])
    assert words(policy(stmt(TWO)), None) == ([], ["account 222222222222 loses pull"])


def test_a_deny_that_goes_is_access_gained_and_one_that_comes_is_access_lost() -> None:
    open_, closed = policy(stmt("*")), policy(stmt("*"), stmt(TWO, effect="Deny"))

    assert words(closed, open_) == (["account 222222222222 gains pull (a Deny is removed)"], [])
    assert words(open_, closed) == ([], ["account 222222222222 loses pull (a Deny is added)"])


def test_words_name_accounts_roles_services_purposes_and_conditions() -> None:
    before = policy(stmt([ONE, TWO], PULL3))
    after = policy(
        stmt([ONE, ROLE], PULL),
        stmt(TWO, ["ecr:PutImage"], Condition={"IpAddress": {"aws:sourceip": ["203.0.113.0/24", "198.51.100.7"]}}),
        stmt({"Service": "lambda.amazonaws.com"}, [*PULL, *PUSH], Condition=ORG),
    )

    gained, lost = words(before, after)

    assert gained == [
        "service lambda.amazonaws.com gains pull and push only when aws:PrincipalOrgID is o-1",
        "role r of account 111111111111 gains pull",
        "account 222222222222 gains ecr:PutImage (push) only when aws:SourceIp is in 198.51.100.7/32 or 203.0.113.0/24",
    ]
    assert lost == [
        "account 111111111111 loses ecr:BatchCheckLayerAvailability",
        "account 222222222222 loses pull",
    ]


def test_words_for_everything_and_nearly_everything() -> None:
    assert words(None, policy(stmt(action="ecr:*"))) == ([f"account {ONE} gains every ECR action"], [])
    assert words(policy(stmt(action=PULL)), policy(stmt(action="ecr:*"))) == (
        [f"account {ONE} gains every ECR action except pull"],
        [],
    )


def test_if_exists_adds_nothing_to_any_value_in_words() -> None:
    one = policy(stmt("*", **cond("ForAnyValue:StringEqualsIfExists", "aws:PrincipalOrgPaths", "o-1/")))

    assert words(None, one)[0] == ["everyone gains pull only when some value of aws:PrincipalOrgPaths is o-1/"]


def test_an_account_of_another_partition_says_so() -> None:
    assert words(None, policy(stmt(f"arn:aws-cn:iam::{ONE}:root"))) == (
        [f"account {ONE} in partition aws-cn gains pull"],
        [],
    )


def test_only_what_is_new_is_reported() -> None:
    everyone = ["everyone gains pull"]

    assert words(None, policy(stmt("*"), stmt(ONE))) == (everyone, [])
    assert words(policy(stmt(ONE)), policy(stmt("*"))) == (everyone, [])
    assert words(policy(stmt(ONE)), policy(stmt("*"), stmt(ROLE))) == (everyone, [])
    assert words(None, policy(stmt(), stmt(Condition=ORG))) == ([f"account {ONE} gains pull"], [])


def test_only_the_missing_values_of_a_condition_are_reported() -> None:
    a = policy(stmt("*", **cond("StringEquals", "aws:PrincipalOrgID", ["o-1", "o-2"])))
    b = policy(stmt("*", **cond("StringEquals", "aws:PrincipalOrgID", ["o-2", "o-3"])))

    found = compare(a, b, partition="aws")

    assert [grant.condition for grant in found.gained] == [{"StringEquals": {"aws:PrincipalOrgID": ["o-3"]}}]
    assert [grant.condition for grant in found.lost] == [{"StringEquals": {"aws:PrincipalOrgID": ["o-1"]}}]


def test_rows_have_one_action_each_and_exactly_the_promised_keys() -> None:
    document = compare(policy(stmt(TWO, PULL)), policy(stmt("*", "ecr:PutImage")), partition="aws").as_document()

    assert document == {
        "level": "access",
        "gained": [
            {
                "principal": "*",
                "action": "ecr:PutImage",
                "condition": None,
                "words": "everyone gains ecr:PutImage (push)",
            }
        ],
        "lost": [
            {
                "principal": f"arn:aws:iam::{TWO}:root",
                "action": action,
                "condition": None,
                "words": f"account {TWO} loses pull",
            }
            for action in PULL
        ],
    }


@pytest.mark.parametrize(
    ("a", "why"),
    [
        ("{", "The first policy is not JSON"),
        (policy(stmt(Foo="secret")), "unknown element “Foo”"),
        (policy(stmt(Sid="Pull", Resource="*")), "“Pull”: a repository policy cannot have Resource"),
    ],
)
def test_what_is_not_understood_is_named_without_quoting_the_policy(a: str, why: str) -> None:
    found = compare(a, policy(stmt()), partition="aws")

    assert why in found.why
    assert "secret" not in found.why


@pytest.mark.slow
def test_hostile_texts_get_an_answer_in_time() -> None:
    started = time.process_time()
    many: list[Any] = [
        stmt(ONE, **cond("StringEquals", f"aws:PrincipalTag/k{n % 7}", [f"v{n}", f"v{n + 1}"])) for n in range(600)
    ]
    cross = [
        stmt(ONE, Condition={"StringEquals": {f"k{k}": [f"{(k * n) % 5}", "x"] for k in range(9)}}) for n in range(40)
    ]
    texts = [
        "[" * 100_000,
        '{"Statement":' * 5_000,
        "[" * 900 + "]" * 900,
        policy(*many),
        policy(*many[:300]),
        policy(*cross),
        policy(
            *cross[1:], stmt(ONE, Condition={"StringEquals": {f"k{k}": [str(n) for n in range(9)] for k in range(9)}})
        ),
        policy(stmt(action=["*" * 2_000 + "a", "*a" * 500 + "b"])),
        policy(stmt([f"{n:012d}" for n in range(3_000)], "ecr:*")),
        policy(stmt(**cond("StringLike", "k", "9" * 5_000))),
        '{"Version": ' + "9" * 5_000 + "}",
        '{"Statement": {"Effect": "Allow", "Principal": {"AWS": ' + "9" * 5_000 + '}, "Action": "ecr:*"}}',
        '{"a": NaN}',
        '{"a": 1e400}',
        "\ufeff{}",
        "\ud800",
    ]
    for a in texts:
        for b in texts[-8:]:
            compare(a, b, partition="aws")
    compare(texts[3], texts[4], partition="aws")
    compare(texts[5], texts[6], partition="aws")

    assert time.process_time() - started < 15
