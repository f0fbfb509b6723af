"""IAM's decision as a pure function: who is let in by which policies, and the conservative "no" for the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox.policy import Ask, Policy, Principal, decide, parse

OWNER, CLUSTER = "111111111111", "222222222222"
ARN = f"arn:aws:ecr:us-east-1:{OWNER}:repository/trigger/shop"
EVERYTHING = parse('{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}')


def ask(account: str = CLUSTER, name: str = "AIDANODE", **context: str) -> Ask:
    return Ask(
        principal=Principal(
            account=account,
            arn=f"arn:aws:iam::{account}:user/node",
            names=frozenset({name, f"arn:aws:iam::{account}:user/node"}),
        ),
        action="ecr:BatchGetImage",
        resource=ARN,
        owner=OWNER,
        context={key.replace("_", ":", 1).lower(): (value,) for key, value in context.items()},
    )


def root(account: str) -> str:
    return f"arn:aws:iam::{account}:root"


def resource(
    principal: Any = f"arn:aws:iam::{CLUSTER}:root", effect: str = "Allow", element: str = "Principal", **more: Any
) -> Policy:
    who = principal if principal == "*" else {"AWS": principal}
    return parse(json.dumps({"Statement": [{"Effect": effect, element: who, "Action": "ecr:BatchGetImage", **more}]}))


def allowed(question: Ask, *resources: Policy, identity: Policy = EVERYTHING, session: Any = None) -> bool:
    return decide(question, identity=[identity], resource=resources, session=session).allowed


def test_across_accounts_both_sides_must_agree() -> None:
    assert allowed(ask(), resource())
    assert not allowed(ask())
    assert not allowed(ask(), resource(), identity=())
    assert not allowed(ask(), resource("AIDANODE"), identity=())
    assert not allowed(ask("333333333333"), resource())


def test_inside_an_account_one_side_is_enough_but_the_root_only_delegates() -> None:
    mine = ask(OWNER)

    assert allowed(mine)
    assert allowed(mine, resource("AIDANODE"), identity=())
    assert allowed(mine, resource("*"), identity=())
    assert not allowed(mine, resource(root(OWNER)), identity=())


def test_a_deny_anywhere_wins() -> None:
    deny = parse('{"Statement": {"Effect": "Deny", "Action": "ecr:Batch*", "Resource": "*"}}')

    assert not allowed(ask(), resource(), resource(effect="Deny"))
    assert not allowed(ask(), resource("*"), resource("*", "Deny"))
    assert not allowed(ask(), resource(), identity=(*EVERYTHING, *deny))
    assert not allowed(ask(), resource(), session=[EVERYTHING, deny])


def test_a_session_is_the_smaller_of_two() -> None:
    pull = parse(f'{{"Statement": {{"Effect": "Allow", "Action": "ecr:BatchGetImage", "Resource": "{ARN}"}}}}')
    other = parse('{"Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}')

    assert allowed(ask(), resource(), session=[pull])
    assert allowed(ask(), resource(), session=[other, pull])
    assert not allowed(ask(), resource(), session=[other])
    assert not allowed(ask(), resource(), session=())
    assert not allowed(ask(), resource(), identity=(), session=[pull])


@pytest.mark.parametrize(
    ("effect", "listed", "open_"),
    [
        ("Deny", [root(CLUSTER)], False),
        ("Deny", ["AIDANODE"], False),
        ("Deny", ["AIDANODE", root(CLUSTER)], True),
        ("Deny", [root("333333333333")], False),
        ("Allow", [root(CLUSTER)], False),
        ("Allow", ["AIDANODE"], False),
        ("Allow", [root("333333333333")], True),
    ],
)
def test_everyone_but_errs_to_no(effect: str, listed: list[str], open_: bool) -> None:
    policies = [resource(listed, effect, "NotPrincipal"), *([resource("*")] if effect == "Deny" else [])]

    assert allowed(ask(), *policies) is open_


@pytest.mark.parametrize(
    ("element", "value", "open_"),
    [
        ("Action", "ecr:*", True),
        ("Action", "ECR:batchgetimage", True),
        ("Action", "ecr:Batch?etImage", True),
        ("Action", "ecr:Get*", False),
        ("Action", "ecr:[B]atchGetImage", False),
        ("NotAction", "ecr:Get*", True),
        ("NotAction", ["ecr:Get*", "ecr:Batch*"], False),
    ],
)
def test_actions_are_globs_without_case(element: str, value: Any, open_: bool) -> None:
    text = json.dumps({"Statement": {"Effect": "Allow", element: value, "Resource": "*"}})

    assert allowed(ask(OWNER), identity=parse(text)) is open_


@pytest.mark.parametrize(
    ("condition", "context", "open_"),
    [
        ({}, {}, True),
        ({"StringEquals": {"aws:PrincipalAccount": CLUSTER}}, {"aws_PrincipalAccount": CLUSTER}, True),
        ({"StringEquals": {"AWS:principalaccount": [CLUSTER, OWNER]}}, {"aws_PrincipalAccount": CLUSTER}, True),
        ({"StringEquals": {"aws:PrincipalAccount": CLUSTER}}, {}, False),
        ({"StringNotEquals": {"aws:PrincipalAccount": CLUSTER}}, {}, True),
        ({"StringEqualsIfExists": {"aws:PrincipalAccount": CLUSTER}}, {}, True),
        ({"StringEqualsIfExists": {"aws:PrincipalAccount": CLUSTER}}, {"aws_PrincipalAccount": OWNER}, False),
        ({"ForAllValues:StringEquals": {"aws:PrincipalOrgID": "o-1"}}, {}, True),
        ({"ForAnyValue:StringEquals": {"aws:PrincipalOrgID": "o-1"}}, {}, False),
        ({"ForAnyValue:StringNotEquals": {"aws:PrincipalOrgID": "o-1"}}, {}, False),
        ({"Null": {"aws:PrincipalOrgID": "true"}}, {}, True),
        ({"Null": {"aws:PrincipalOrgID": "false"}}, {}, False),
        ({"IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "192.0.2.0/24"]}}, {"aws_SourceIp": "192.0.2.7"}, True),
        ({"NotIpAddress": {"aws:SourceIp": "192.0.2.0/24"}}, {"aws_SourceIp": "192.0.2.7"}, False),
        ({"IpAddress": {"aws:SourceIp": "not a network"}}, {"aws_SourceIp": "192.0.2.7"}, False),
        ({"Bool": {"aws:SecureTransport": False}}, {"aws_SecureTransport": "false"}, True),
        (
            {"DateLessThan": {"aws:CurrentTime": "2030-01-01T00:00:00Z"}},
            {"aws_CurrentTime": "2026-01-01T00:00:00Z"},
            True,
        ),
        ({"NumericLessThan": {"aws:MultiFactorAuthAge": "300"}}, {"aws_MultiFactorAuthAge": "301"}, False),
        (
            {"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:user/*"}},
            {"aws_PrincipalArn": "arn:aws:iam::2:user/n"},
            True,
        ),
        ({"StringEquals": {"aws:username": "${aws:PrincipalTag/name}"}}, {"aws_username": "x"}, False),
        ({"StringSounds": {"aws:username": "x"}}, {"aws_username": "x"}, False),
        ({"BinaryEquals": {"aws:username": "x"}}, {"aws_username": "x"}, False),
    ],
)
def test_conditions_hold_as_iam_says(condition: Any, context: dict[str, str], open_: bool) -> None:
    assert allowed(ask(**context), resource(Condition=condition)) is open_


def test_a_deny_under_a_condition_that_nobody_understands_applies() -> None:
    strange = {"StringSounds": {"aws:username": "x"}}

    assert not allowed(ask(), resource(), resource(effect="Deny", Condition=strange))


def test_a_refusal_says_which_kind_of_policy_was_missing() -> None:
    verdict = decide(ask(), identity=[EVERYTHING])

    assert verdict.sentence(ask()) == (
        f"User: arn:aws:iam::{CLUSTER}:user/node is not authorized to perform: ecr:BatchGetImage on resource: {ARN} "
        "because no resource-based policy allows the ecr:BatchGetImage action"
    )
