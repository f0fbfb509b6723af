"""What lint finds, and what it must not find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.policy import IDS, lint, openness
from deployments.policy.actions import PURPOSES
from deployments.policy.lockout import NEEDED
from tests.policy.cases import ONE, ORG, PULL, PULL3, PUSH, ROLE, TWO, cond, policy, stmt, without

LAMBDA = {"Service": "lambda.amazonaws.com"}
KEY = "aws:PrincipalOrgID"


def ids(text: str, *, partition: str | None = "aws", **more: Any) -> list[str]:
    return [finding.id.removeprefix("deployments.") for finding in lint(text, partition=partition, **more)]


def all_cond(*blocks: dict[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for block in blocks:
        merged |= block["Condition"]
    return {"Condition": merged}


@pytest.mark.parametrize(
    "text",
    [
        policy(stmt(ONE)),
        policy(stmt([ONE, TWO], PULL, Sid="Pull")),
        policy(stmt(ONE), version="2008-10-17"),
        policy(stmt(ONE), version=None),
        policy(stmt(ONE, [*PULL3, "ecr:DescribeImages", "ecr:ListImages"])),
        policy(stmt("*", Condition=ORG)),
        policy(stmt("*", **cond("StringEquals", "aws:PrincipalOrgID", "${aws:ResourceOrgID}"))),
        policy(stmt(LAMBDA, PULL, **cond("StringLike", "aws:sourceArn", f"arn:aws:lambda:us-east-1:{ONE}:function:*"))),
        policy(stmt(ONE), stmt("*", "ecr:*", effect="Deny", **cond("Bool", "aws:SecureTransport", "false"))),
        policy(stmt(ONE), stmt(TWO, "ecr:*", effect="Deny")),
        json.dumps({"Version": "2012-10-17", "Statement": stmt(ONE)}, indent=4),
    ],
)
def test_a_policy_that_is_fine_has_no_findings(text: str) -> None:
    assert lint(text, partition="aws", consumer_accounts=()) == ()


@pytest.mark.parametrize(
    "statement",
    [
        stmt("*"),
        stmt(["*"]),
        stmt() | {"Principal": ["*"]},
        stmt({"AWS": ["*", ONE]}),
        stmt("*", "ecr:*"),
        stmt("*", "*"),
        stmt("*", "ecr:Batch*"),
        without("Action", stmt("*"), NotAction="ecr:PutImage"),
        stmt("arn:aws:iam::*:root"),
        stmt("arn:aws:iam::*:role/deploy"),
        stmt("arn:*"),
        stmt("????????????"),
        stmt({"Service": "*"}),
        stmt({"Service": "*.amazonaws.com"}),
        stmt({"Federated": "*"}),
        without("Principal", NotPrincipal={"AWS": ONE}),
        without("Principal", NotPrincipal={"AWS": []}),
        without("Principal", NotPrincipal=LAMBDA),
        stmt("*", **cond("StringEqualsIfExists", KEY, "o-1")),
        stmt("*", **cond("StringNotEquals", KEY, "o-1")),
        stmt("*", **cond("StringNotEqualsIfExists", KEY, "o-1")),
        stmt("*", **cond("StringLike", KEY, "*")),
        stmt("*", **cond("StringLike", KEY, "o-*")),
        stmt("*", **cond("StringLike", KEY, ["o-1", "*"])),
        stmt("*", **cond("StringEquals", KEY, [])),
        stmt("*", **cond("StringEquals", KEY, "")),
        stmt("*", **cond("StringEquals", KEY, "${aws:PrincipalOrgID}")),
        stmt("*", **cond("ForAllValues:StringEquals", KEY, "o-1")),
        stmt("*", **cond("ForAllValues:StringLike", "aws:PrincipalOrgPaths", "o-1/*")),
        stmt("*", **cond("ForAnyValue:StringLike", "aws:PrincipalOrgPaths", "*")),
        stmt("*", **cond("ForAnyValue:StringNotEquals", "aws:PrincipalOrgPaths", "o-1/r")),
        stmt("*", **cond("StringFoo", KEY, "o-1")),
        stmt("*", **cond("stringequals", KEY, "o-1")),
        stmt("*", **cond("Null", KEY, "false")),
        stmt("*", **cond("Null", KEY, "true")),
        stmt("*", **cond("IpAddress", "aws:SourceIp", "0.0.0.0/0")),
        stmt("*", **cond("IpAddress", "aws:SourceIp", "::/0")),
        stmt("*", **cond("IpAddress", "aws:SourceIp", ["203.0.113.0/24", "::/0"])),
        stmt("*", **cond("IpAddress", "aws:SourceIp", ["0.0.0.0/1", "128.0.0.0/1"])),
        stmt("*", **cond("IpAddress", "aws:SourceIp", [f"{n}.0.0.0/8" for n in range(256)])),
        stmt("*", **cond("IpAddress", "aws:SourceIp", "everywhere")),
        stmt("*", **cond("IpAddress", "aws:VpcSourceIp", "10.0.0.0/8")),
        stmt("*", **cond("NotIpAddress", "aws:SourceIp", "10.0.0.0/8")),
        stmt("*", **cond("NotIpAddress", "aws:SourceIp", "203.0.113.0/24")),
        stmt("*", **cond("Bool", "aws:SecureTransport", "true")),
        stmt("*", **cond("DateGreaterThan", "aws:CurrentTime", "2020-01-01T00:00:00Z")),
        stmt("*", **cond("StringEquals", "aws:PrincipalType", "Account")),
        stmt("*", **cond("StringEquals", "aws:PrincipalTag/team", "red")),
        stmt("*", **cond("StringEquals", "aws:username", "deploy")),
        stmt("*", **cond("StringLike", "aws:PrincipalAccount", "1*")),
        stmt("*", **cond("StringNotEquals", "aws:PrincipalAccount", ONE)),
        stmt("*", **cond("StringLike", "aws:PrincipalArn", "arn:aws:iam::*:role/deploy")),
        stmt("*", **cond("StringLike", "aws:PrincipalArn", f"arn:*:iam::{ONE}:role/deploy")),
        stmt("*", **cond("ArnLike", "aws:PrincipalArn", "arn:aws:iam::*:role/deploy")),
        stmt("*", **cond("ArnNotLike", "aws:PrincipalArn", f"arn:aws:iam::{ONE}:*")),
        stmt("*", **cond("StringLike", "aws:UserAgent", "docker*")),
        stmt("*", **cond("StringEquals", "aws:SourceVpce", ["vpce-1", "*"])),
    ],
    ids=lambda statement: json.dumps(statement)[11:110],
)
def test_a_policy_open_to_the_whole_world_is_an_error(statement: Any) -> None:
    text = policy(statement)

    assert "E110" in ids(text)
    assert "E110" in ids(policy(stmt(ONE), statement))
    assert "E110" not in ids(text, allow_public=True)
    assert "W109" in ids(text, allow_public=True)


@pytest.mark.parametrize(
    "statements",
    [
        [stmt("*", **cond("StringEquals", KEY.upper(), ["o-1", "o-2"]))],
        [stmt("*", **cond("StringLike", KEY, "o-1"))],
        [stmt("*", **cond("StringEquals", "aws:PrincipalAccount", [ONE, TWO]))],
        [stmt("*", **cond("ArnLike", "aws:PrincipalArn", f"arn:aws:iam::{ONE}:role/*"))],
        [stmt("*", **cond("StringLike", "aws:PrincipalArn", f"arn:aws:iam::{ONE}:*"))],
        [stmt("*", **cond("ForAnyValue:StringLike", "aws:PrincipalOrgPaths", "o-1/r-1/ou-1/*"))],
        [stmt("*", Condition={"ForAllValues:StringLike": {"aws:PrincipalOrgPaths": "o-1/*"},
                              "Null": {"aws:PrincipalOrgPaths": "false"}})],
        [stmt("*", **cond("IpAddress", "aws:SourceIp", ["203.0.113.0/24", "2001:db8::/32"]))],
        [stmt("*", **cond("StringEquals", "aws:SourceVpce", "vpce-1"))],
        [stmt("*", Condition=ORG | {"Bool": {"aws:SecureTransport": "true"}})],
        [stmt("*"), stmt("*", "ecr:*", effect="Deny", **cond("StringNotEquals", KEY, "o-1"))],
        [stmt("*"), stmt("*", "*", effect="Deny", **cond("StringNotEqualsIfExists", KEY, ["o-1", "o-2"]))],
        [stmt("*"), stmt("*", "*", effect="Deny", Condition={"StringNotEquals": {KEY: "o-1"},
                                                             "BoolIfExists": {"aws:PrincipalIsAWSService": "false"}})],
        # AWS's data perimeter: each test that must hold exempts named owners only
        [stmt("*"), stmt("*", "*", effect="Deny", Condition={
            "StringNotEqualsIfExists": {KEY: "o-1", "aws:PrincipalAccount": [TWO]},
            "BoolIfExists": {"aws:PrincipalIsAWSService": "false"}})],
        [stmt("*"), stmt("*", "*", effect="Deny", Condition={
            "ForAllValues:StringNotLike": {"aws:PrincipalOrgPaths": "o-1/*"}})],
        [stmt("*"), stmt("*", effect="Deny")],
        [stmt("*"), without("Principal", stmt(effect="Deny"), NotPrincipal={"AWS": ONE})],
        [stmt("*", effect="Deny")],
        [stmt({"AWS": []})],
    ],
    ids=lambda statements: json.dumps(statements)[11:110],
)  # fmt: skip
def test_a_policy_that_names_its_owners_in_some_way_is_not_open(statements: list[Any]) -> None:
    assert "E110" not in ids(policy(*statements))


@pytest.mark.parametrize(
    "deny",
    [
        stmt("*", PULL[:1], effect="Deny", **cond("StringNotEquals", KEY, "o-1")),
        stmt(ONE, effect="Deny"),
        stmt("*", effect="Deny", **cond("StringEquals", KEY, "o-1")),
        stmt("*", effect="Deny", **cond("StringNotLike", KEY, "*")),
        stmt("*", effect="Deny", **cond("ForAnyValue:StringNotEquals", KEY, "o-1")),
        stmt(
            "*",
            effect="Deny",
            **all_cond(cond("StringNotEquals", KEY, "o-1"), cond("Bool", "aws:SecureTransport", "true")),
        ),
        stmt("*", effect="Deny", **cond("NotIpAddress", "aws:SourceIp", "0.0.0.0/0")),
        stmt("*", effect="Deny", Condition={"StringNotEquals": {KEY: "o-1", "aws:PrincipalTag/team": "red"}}),
        without("Principal", stmt(effect="Deny"), NotPrincipal="*"),
        without("Principal", stmt(effect="Deny"), NotPrincipal={"AWS": []}),
    ],
    ids=lambda statement: json.dumps(statement)[11:110],
)
def test_a_deny_that_does_not_keep_the_world_out_closes_nothing(deny: Any) -> None:
    assert "E110" in ids(policy(stmt("*"), deny))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["E101"]),
        ("{", ["E101"]),
        ("{}x", ["E101"]),
        ('{"a": NaN}', ["E101"]),
        ("\ufeff{}", ["E101"]),
        ("[" * 100_000, ["E101"]),
        ("{'Version': '2012-10-17'}", ["E101"]),
        ("[]", ["E103", "W103"]),
        ("null", ["E103", "W103"]),
        (policy(stmt(ONE)) + " " * 10_240, ["E102"]),
        (policy(stmt(ONE, Foo=1)), ["E103"]),
        (policy(stmt(ONE), Comment="x"), ["E103"]),
        (policy(stmt(ONE), version="2012-10-18"), ["E103"]),
        (policy(stmt(ONE, effect="allow")), ["E103", "W103"]),
        (policy(without("Effect")), ["E103", "W103"]),
        (policy(stmt(ONE, NotAction="ecr:PutImage")), ["E103"]),
        ('{"Statement": [], "Statement": [' + json.dumps(stmt(ONE)) + "]}", ["E103"]),
        (policy(stmt(ONE, Resource="*")), ["E104"]),
        (policy(stmt(ONE, NotResource="arn:aws:s3:::x")), ["E104"]),
        (policy(without("Principal")), ["E105", "W103"]),
        (policy(stmt({"AWS": []})), ["E105", "W103"]),
        (policy(stmt(ONE) | {"Principal": None}), ["E105", "W103"]),
        (policy(without("Action")), ["E106", "W103"]),
        (policy(stmt(action=[])), ["E106", "W103"]),
        (policy(stmt(ONE, [*PULL, "s3:GetObject"])), ["E107"]),
        (policy(stmt(ONE, [*PULL, "BatchGetImage"])), ["E107"]),
        (policy(stmt(ONE, [*PULL, "ecr:Batch-Get"])), ["E108"]),
        (policy(stmt(ONE, [*PULL, "ecr:"])), ["E108"]),
        (policy(stmt("11111111111")), ["E109"]),
        (policy(stmt("arn:aws:iam::123:root")), ["E109"]),
        (policy(stmt("arn:aws:iam::111111111111:*")), ["E109"]),
        (policy(stmt("arn:aws:iam::111111111111:role/*")), ["E109"]),
        (policy(stmt("arn:aws:iam::111111111111:group/x")), ["E109"]),
        (policy(stmt("lambda.amazonaws.com")), ["E109"]),
        (policy(stmt(f"arn:aws-cn:iam::{ONE}:root")), ["E109"]),
        (policy(stmt(ONE) | {"Principal": ONE}), ["E109"]),
        (policy(stmt({"CanonicalUser": "79a59d"})), ["E109"]),
        (policy(stmt(ONE, **cond("stringEquals", KEY, "o-1"))), ["E112"]),
        (policy(stmt(ONE, "ecr:*")), ["W101", "W102"]),
        (policy(stmt(ONE, "*")), ["W101", "W102"]),
        (policy(stmt(ONE, [*PULL, *PUSH])), ["W102"]),
        (policy(stmt(ONE, [*PULL, "ecr:BatchDelete*"])), ["W102"]),
        (policy(stmt(ONE, [*PULL, "ecr:SetRepositoryPolicy"])), ["W102"]),
        (policy(), ["E113"]),
        ("{}", ["E113"]),
        (policy(stmt(ONE, "ecr:DescribeImages")), ["W103"]),
        (policy(stmt(ONE, effect="Deny")), ["W103"]),
        (policy(stmt(ONE, PULL[0])), ["W104"]),
        (policy(stmt([ONE, TWO], PULL[1]), stmt(ONE, PULL[0])), ["W104"]),
        (policy(stmt("*", PULL[1], Condition=ORG), stmt(ONE, PULL[0])), ["W104"]),
        (policy(stmt(ONE, [*PULL, "ecr:GetAuthorizationToken"])), ["W105"]),
        (policy(stmt(ONE, [*PULL, "ecr:DescribeRegistry"])), ["W105"]),
        (policy(stmt(ROLE)), ["W106"]),
        (policy(stmt(f"arn:aws:iam::{ONE}:user/bob")), ["W106"]),
        (policy(stmt({"AWS": int(ONE)})), ["E103", "W107"]),
        (policy(stmt({"AWS": 12345678901})), ["E103", "E109", "W107"]),
        (policy(stmt("AROAEXAMPLE1234567890")), ["W108"]),
        (policy(stmt(ONE, **cond("IpAddress", "aws:SourceIp", "0.0.0.0/0"))), ["W111"]),
        (policy(stmt(ONE, **cond("ForAllValues:StringEquals", KEY, "o-1"))), ["W111"]),
        (policy(stmt(LAMBDA)), ["W112"]),
        (policy(stmt(LAMBDA, **cond("StringEquals", "aws:SourceAccount", "${aws:SourceAccount}"))), ["W112"]),
        (policy(stmt({"Federated": "accounts.google.com"})), ["W112"]),
        (policy(stmt(ONE), Id=json.loads("[" * 40 + "]" * 40)), ["E103", "E103"]),
        (policy(stmt(ONE, **cond("StringEquals", "ec2:x", "${a}")), version=None), ["W113"]),
        (policy(without("Action", stmt(ONE), NotAction=[*PUSH, "ecr:*Delete*", "ecr:SetRepositoryPolicy"])), ["W114"]),
        (policy(stmt(ONE, Sid="a"), stmt(TWO, Sid="a")), ["W115"]),
    ],
    ids=lambda value: (value if isinstance(value, str) else " ".join(value))[:60],
)
def test_each_finding_is_found_alone(text: str, expected: list[str]) -> None:
    assert ids(text) == expected


def test_every_finding_has_an_id_of_the_table_a_sentence_and_a_hint() -> None:
    texts = ["{", policy(stmt("*", Foo=1)), policy(stmt(["AROAEXAMPLE1234567890", "12"], ["s3:X", "ecr:*"]))]
    for finding in (one for text in texts for one in lint(text, partition="aws", consumer_accounts=[ONE])):
        assert finding.id in IDS
        assert finding.level == ("error" if finding.id[12] == "E" else "warning")
        assert finding.message[0].isupper() or finding.message[0] in "“"
        assert finding.message.endswith(".")
        assert finding.hint


def test_errors_come_first() -> None:
    levels = [finding.level for finding in lint(policy(stmt(ROLE, "ecr:*", Foo=1)), partition="aws")]

    assert levels == sorted(levels)


def test_a_consumer_account_that_cannot_pull_is_an_error_and_one_that_may_be_a_warning() -> None:
    text = policy(stmt(ONE), stmt("arn:aws:iam::333333333333:role/r"))

    assert ids(text, consumer_accounts=[ONE]) == ["W106"]
    assert ids(text, consumer_accounts=[ONE, TWO]) == ["E111", "W106"]
    assert ids(text, consumer_accounts=["333333333333"]) == ["W106", "W110"]
    assert ids(policy(stmt(ONE, PULL[0])), consumer_accounts=[ONE]) == ["E111", "W104"]


def test_without_a_region_the_partition_is_taken_from_the_policy() -> None:
    china = policy(stmt([f"arn:aws-cn:iam::{ONE}:root", TWO]))

    assert ids(china, partition=None) == []
    assert ids(china, partition="aws") == ["E109"]
    assert ids(policy(stmt([f"arn:aws-cn:iam::{ONE}:root", f"arn:aws:iam::{TWO}:root"])), partition=None) == ["E109"]


def test_nothing_of_a_broken_text_is_quoted() -> None:
    for text in ('{"password": hunter2}', '{"Statement": "hunter2"}', '["hunter2"]'):
        for finding in lint(text, partition="aws"):
            assert "hunter2" not in finding.message + finding.hint


def test_a_table_of_ids_is_complete() -> None:
    assert len({*IDS}) == len(IDS)
    assert all(name.startswith(("deployments.E1", "deployments.W1")) for name in IDS)


def test_a_policy_of_exactly_the_characters_that_ecr_takes_is_not_too_long() -> None:
    text = policy(stmt(ONE))

    assert "E102" not in ids(text + " " * (10_240 - len(text)))
    assert "E102" in ids(text + " " * (10_241 - len(text)))


def test_a_deny_that_is_not_understood_closes_nothing() -> None:
    deny = stmt("*", effect="Deny", **cond("StringNotEquals", KEY, "o-1"))

    assert "E110" not in ids(policy(stmt("*"), deny))
    assert "E110" in ids(policy(stmt("*"), deny | {"Novelty": 1}))


@pytest.mark.parametrize(("value", "is_open"), [("o-abc/*", False), ("o-abc/r-x/ou-y/*", False), ("o-abc", True)])
def test_a_path_of_an_organisation_restricts_only_with_a_slash_behind_its_id(value: str, is_open: bool) -> None:
    text = policy(stmt("*", **cond("ForAnyValue:StringLike", "aws:PrincipalOrgPaths", value)))

    assert ("E110" in ids(text)) is is_open


# ------------------------------------------------------------------------------------------------------------ denies

FREEZE = ["ecr:SetRepositoryPolicy", "ecr:DeleteRepositoryPolicy"]
OUR_ROLE = f"arn:aws:iam::{ONE}:role/registry-admin"


def denying(action: Any = FREEZE, principal: Any = "*", **more: Any) -> str:
    return policy(stmt(TWO), stmt(principal, action, effect="Deny", Sid="freeze", **more))


def not_for(*principals: str) -> str:
    return policy(
        stmt(TWO), without("Principal", stmt(effect="Deny"), Action="ecr:*", NotPrincipal={"AWS": [*principals]})
    )


@pytest.mark.parametrize(
    ("text", "writer"),
    [
        (denying(), None),
        (denying(), ONE),
        (denying("ecr:Set*"), ONE),
        (denying("*"), ONE),
        (policy(stmt(TWO), without("Action", stmt("*", effect="Deny"), NotAction=PULL)), ONE),
        (denying(principal=ONE), ONE),
        (denying(principal=ONE), OUR_ROLE),
        (denying(principal=OUR_ROLE), OUR_ROLE),
        (not_for(TWO), ONE),
        (not_for(TWO), OUR_ROLE),
        (denying(**cond("StringNotEquals", "aws:PrincipalAccount", TWO)), ONE),
        (denying(**cond("ArnNotLike", "aws:PrincipalArn", f"arn:aws:iam::{ONE}:role/admin")), OUR_ROLE),
        (denying(**cond("Bool", "aws:SecureTransport", "true")), ONE),
        (denying(**cond("BoolIfExists", "aws:PrincipalIsAWSService", "false")), ONE),
    ],
)
def test_a_deny_that_certainly_covers_the_identity_that_writes_is_an_error(text: str, writer: str | None) -> None:
    [finding] = [one for one in lint(text, partition="aws", writer=writer) if one.level == "error"]

    assert finding.id == "deployments.E115"
    assert "ecr:SetRepositoryPolicy" in finding.message


@pytest.mark.parametrize(
    ("text", "writer", "word"),
    [
        (denying(**cond("StringNotEquals", "aws:SourceVpce", "vpce-12345678")), ONE, "aws:SourceVpce"),
        (denying(**cond("NotIpAddress", "aws:SourceIp", "203.0.113.0/24")), ONE, "aws:SourceIp"),
        (denying(**cond("StringEquals", "aws:PrincipalTag/team", "red")), ONE, "aws:PrincipalTag/team"),
        (denying(**cond("ArnNotLike", "aws:PrincipalArn", OUR_ROLE)), ONE, "aws:PrincipalArn"),
        (not_for(TWO, ONE), ONE, "to Registry Admin too"),
        (not_for(TWO, ONE, OUR_ROLE), OUR_ROLE, "to Registry Admin too"),
        (not_for(TWO), None, "to Registry Admin too"),
    ],
)
def test_a_deny_that_depends_on_the_request_is_a_warning_that_names_the_condition(
    text: str, writer: str | None, word: str
) -> None:
    found = [one for one in lint(text, partition="aws", writer=writer) if one.id[12:] in ("E115", "W118")]

    assert [one.id for one in found] == ["deployments.W118"]
    assert word in found[0].message
    assert "ECR refuses the policy then" in found[0].message


@pytest.mark.parametrize(
    ("text", "writer"),
    [
        (denying(principal=TWO), ONE),
        (denying(principal=f"arn:aws:iam::{ONE}:role/other"), OUR_ROLE),
        (denying(principal=f"arn:aws:iam::{ONE}:role/other"), ONE),
        (denying("ecr:DeleteRepository"), ONE),
        (denying(**cond("Bool", "aws:SecureTransport", "false")), ONE),
        (denying(**cond("StringNotEquals", "aws:PrincipalAccount", [ONE, TWO])), ONE),
        (denying(**cond("ArnNotLike", "aws:PrincipalArn", OUR_ROLE)), OUR_ROLE),
        (denying(**cond("Bool", "aws:PrincipalIsAWSService", "true")), ONE),
        (not_for(TWO, "*"), OUR_ROLE),
    ],
)
def test_a_deny_that_spares_the_identity_that_writes_has_no_finding(text: str, writer: str) -> None:
    assert [one for one in ids(text, writer=writer) if one in ("E115", "W118")] == []


def test_a_deny_of_another_action_that_we_need_is_a_warning() -> None:
    [finding] = [one for one in lint(denying("ecr:PutImage"), partition="aws", writer=ONE) if one.id[12:] == "W118"]

    assert "ecr:PutImage" in finding.message
    assert "ECR refuses" not in finding.message


def test_the_actions_that_we_need_are_those_of_the_operators_iam_policy() -> None:
    document = json.loads((Path(__file__).parents[2] / "docs" / "iam-policy.json").read_text())
    ours = {action.lower() for statement in document["Statement"] for action in statement["Action"]}

    # About no repository that exists, so no repository policy decides about them.
    about_the_registry = {
        "ecr:createrepository", "ecr:getauthorizationtoken", "ecr:getregistrypolicy", "ecr:getaccountsetting",
        "ecr:listpulltimeupdateexclusions",
    }  # fmt: skip
    assert ours - NEEDED >= about_the_registry
    assert ours & set(PURPOSES) - about_the_registry == NEEDED


def test_a_deny_that_takes_back_the_whole_allow_is_found() -> None:
    assert ids(policy(stmt(ONE), stmt("*", PULL, effect="Deny"))) == ["W117", "W118"]
    assert ids(policy(stmt(ONE), stmt(ONE, PULL[:1], effect="Deny"))) == ["W117"]
    assert ids(policy(stmt(ONE), stmt(TWO, PULL, effect="Deny"))) == []
    assert "W117" not in ids(policy(stmt(ONE), stmt("*", PULL, effect="Deny", Condition=ORG)))
    assert "W117" not in ids(policy(stmt(ONE, **cond("IpAddress", "aws:SourceIp", "10.0.0.0/8"))))  # no Deny does it


def test_a_deny_of_requests_without_tls_is_no_finding_and_makes_no_account_uncertain() -> None:
    for value in ("false", False):
        tls = stmt("*", "ecr:*", effect="Deny", **cond("Bool", "aws:SecureTransport", value))
        assert lint(policy(stmt(TWO), tls), partition="aws", consumer_accounts=[TWO], writer=ONE) == ()


# -------------------------------------------------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    "condition",
    [
        cond("StringEquals", "AWS:principalorgid", "o-a1b2c3d4e5"),
        cond("StringLike", "aws:PrincipalTag/team", "red-*"),
        cond("ForAnyValue:StringLike", "aws:PrincipalOrgPaths", "o-a1b2c3d4e5/*"),
        cond("ArnLike", "aws:PrincipalArn", f"arn:aws:iam::{ONE}:role/*"),
        cond("ArnEquals", "aws:PrincipalArn", f"arn:aws:iam::{ONE}:role/*"),
        cond("StringLike", "aws:PrincipalArn", f"arn:aws:iam::{ONE}:role/x-*"),
        cond("StringEquals", "aws:SourceVpce", "vpce-0123456789abcdef0"),
        cond("IpAddress", "aws:SourceIp", ["203.0.113.0/24", "203.0.113.7", "2001:db8::/32"]),
        cond("DateLessThan", "aws:CurrentTime", ["2030-01-01", "2030-01-01T00:00:00Z", "2030-01-01T00:00:00+01:00"]),
        cond("DateLessThan", "aws:CurrentTime", "2030-06"),
        cond("StringEquals", "aws:RequestedRegion", ["eusc-de-east-1", "us-gov-west-1", "eu-central-1"]),
        cond("NumericLessThan", "aws:MultiFactorAuthAge", 3600),
        cond("DateLessThan", "aws:EpochTime", "1893456000"),
        cond("NumericLessThan", "aws:PrincipalTag/level", "3"),
        cond("Null", "aws:PrincipalOrgID", "false"),
        cond("Bool", "aws:SecureTransport", True),
        cond("StringEquals", "aws:PrincipalTag/team", "${aws:PrincipalTag/group, 'none'}"),
        cond("StringLike", "aws:PrincipalTag/team", "a${*}b"),
        cond("StringEquals", "ecr:ResourceTag/team", "red"),
        cond("StringEquals", "ec2:RoleDelivery", "2.0"),
        cond("StringEquals", "aws:PrincipalAccount", "${aws:ResourceAccount}"),
        all_cond(
            cond("IpAddress", "aws:VpcSourceIp", "10.0.0.0/8"), cond("StringEquals", "aws:SourceVpc", "vpc-12345678")
        ),
    ],
    ids=lambda condition: json.dumps(condition)[15:90],
)
def test_a_condition_that_is_fine_has_no_findings(condition: dict[str, Any]) -> None:
    assert ids(policy(stmt(ONE, **condition))) == []


@pytest.mark.parametrize(
    ("condition", "word"),
    [
        (cond("StringEquals", "aws:PrincipleOrgID", "o-a1b2c3d4e5"), "aws:PrincipalOrgID"),
        (cond("StringEquals", "PrincipalOrgID", "o-a1b2c3d4e5"), "aws:PrincipalOrgID"),
        (cond("StringEquals", "ecr:ResourceTags/x", "y"), "ecr:ResourceTag/tag-key"),
        (cond("StringEquals", "aws:PrincipalTag", "y"), "aws:PrincipalTag/team"),
        (cond("StringEquals", "aws:PrincipalTag/", "y"), "aws:PrincipalTag/team"),
        (cond("StringLike", "aws:ARN", "y"), "aws:PrincipalArn"),
    ],
)
def test_a_misspelt_key_names_the_key_that_was_probably_meant(condition: dict[str, Any], word: str) -> None:
    [finding] = [one for one in lint(policy(stmt(ONE, **condition)), partition="aws") if one.id[12:] == "W119"]

    assert word in finding.hint


@pytest.mark.parametrize(
    ("condition", "word"),
    [
        (cond("ArnLike", "aws:PrincipalArn", f"arn:aws:sts::{ONE}:assumed-role/r/*"), "role/NAME"),
        (cond("IpAddress", "aws:SourceIp", "203.0.113.5/24"), "203.0.113.0/24"),
        (cond("IpAddress", "aws:SourceIp", "203.0.113.0/255.255.255.0"), "203.0.113.0/24"),
        (cond("IpAddress", "aws:SourceIp", "203.0.113.0/33"), "203.0.113.0/24"),
        (cond("NumericLessThan", "aws:MultiFactorAuthAge", "１０"), "digits"),
        (cond("DateLessThan", "aws:CurrentTime", "2027-W01-1"), "2026-12-31"),
        (cond("Bool", "aws:ViaAWSService", "yes"), "true or false"),
        (cond("Null", "aws:PrincipalOrgID", "nope"), "true or false"),
        (cond("ArnLike", "aws:PrincipalArn", "*"), "all six parts"),
        (cond("StringEquals", "aws:PrincipalAccount", "22222222222"), "12 digits"),
        (cond("StringEquals", "aws:PrincipalOrgID", "a1b2c3d4e5"), "o-…"),
    ],
)
def test_a_value_that_matches_no_request_is_found_with_the_form_that_does(condition: Any, word: str) -> None:
    [finding] = [one for one in lint(policy(stmt(ONE, **condition)), partition="aws") if one.id[12:] == "W120"]

    assert word in finding.hint


@pytest.mark.parametrize("effect", ["Allow", "Deny"])
def test_private_ranges_are_a_warning_that_says_what_to_write(effect: str) -> None:
    block = cond("IpAddress", "aws:SourceIp", ["10.0.0.0/8", "fd00::/8"])
    [finding] = [one for one in lint(policy(stmt(ONE), stmt(TWO, "ecr:ListImages", effect, **block)), partition="aws")]

    assert finding.id == "deployments.W123"
    assert "never true" in finding.message
    assert "aws:VpcSourceIp" in finding.hint


@pytest.mark.parametrize(
    "statements",
    [
        [stmt(TWO, **cond("IpAddress", "aws:SourceIp", "10.0.0.0/8"))],
        [stmt(TWO), stmt("*", PULL, effect="Deny", **cond("NotIpAddress", "aws:SourceIp", "10.0.0.0/8"))],
    ],
)
def test_a_consumer_that_only_private_ranges_keep_out_is_a_warning_and_stops_no_start(statements: list[Any]) -> None:
    found = ids(policy(*statements), consumer_accounts=[TWO])

    assert {"W110", "W123"} <= set(found)
    assert "E111" not in found
    assert "E111" in ids(policy(*statements), consumer_accounts=["333333333333"])


def test_a_deny_of_what_is_outside_of_private_ranges_is_always_true() -> None:
    block = cond("NotIpAddress", "aws:SourceIp", "10.0.0.0/8")
    found = lint(policy(stmt(ONE), stmt("*", PULL, effect="Deny", **block)), partition="aws")

    assert "always true" in next(one.message for one in found if one.id == "deployments.W123")


def test_a_variable_is_plain_text_in_the_older_version_and_gets_only_that_finding() -> None:
    text = policy(stmt(ONE, **cond("StringEquals", "aws:username", "${x y")), version=None)

    assert ids(text) == []
    assert ids(policy(stmt(ONE, **cond("StringEquals", "aws:username", "${aws:usernam}")))) == ["W124"]


# -------------------------------------------------------------------------------------------------------- principals


@pytest.mark.parametrize(
    ("principal", "word"),
    [
        (f"arn:aws:iam::{TWO}:assumed-role/stg-01/i-0abc", f"arn:aws:sts::{TWO}:assumed-role/ROLE/SESSION"),
        (f"arn:aws:iam::{TWO}:federated-user/ann", f"arn:aws:sts::{TWO}:federated-user/NAME"),
        (f"arn:aws:sts::{TWO}:role/deploy", f"arn:aws:iam::{TWO}:role/NAME"),
        (f"arn:aws:sts::{TWO}:user/ann", f"arn:aws:iam::{TWO}:user/NAME"),
        (f"arn:aws:iam::{TWO}:role/a b", "12 digits"),
        (f"arn:aws:iam::{TWO}:role/", "12 digits"),
    ],
)
def test_the_sort_of_a_principal_belongs_to_its_service(principal: str, word: str) -> None:
    [finding] = [one for one in lint(policy(stmt(principal)), partition="aws") if one.level == "error"]

    assert finding.id == "deployments.E109"
    assert word in finding.hint


def test_a_session_is_named_as_one_session() -> None:
    assert ids(policy(stmt(f"arn:aws:sts::{TWO}:assumed-role/node/i-0abc"))) == ["W125"]
    assert ids(policy(stmt(f"arn:aws:sts::{TWO}:federated-user/ann"))) == ["W125"]


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("lambda.amazonaws.com", []),
        ("build.apprunner.amazonaws.com", []),
        ("logs.eu-central-1.amazonaws.com", []),
        ("lambda.amazonaws.com.cn", []),
        ("lamda.amazonaws.com", ["W129"]),
        ("lambda", ["E114"]),
        ("arn:aws:iam::222222222222:role/x", ["E114"]),
        ("*", ["E110", "E114"]),
    ],
)
def test_a_service_is_checked_by_its_form_and_by_its_name(service: str, expected: list[str]) -> None:
    source = cond("StringEquals", "aws:SourceAccount", ONE) if service != "*" else {}

    assert ids(policy(stmt({"Service": service}, PULL, **source))) == expected


def test_an_identity_provider_is_told_apart_from_a_service() -> None:
    provider = {"Federated": f"arn:aws:iam::{TWO}:oidc-provider/token.actions.githubusercontent.com"}
    [finding] = lint(policy(stmt(provider, PULL), stmt(ONE)), partition="aws")

    assert finding.id == "deployments.W112"
    assert "aws:SourceArn" not in finding.hint


@pytest.mark.parametrize("operator", ["StringLike", "ArnLike", "ArnEquals"])
def test_the_policy_of_lambda_in_any_region_names_its_account(operator: str) -> None:
    source = cond(operator, "aws:sourceARN", f"arn:aws:lambda:*:{TWO}:function:*")

    assert ids(policy(stmt(TWO), stmt(LAMBDA, PULL, **source))) == []
    assert ids(policy(stmt(LAMBDA, PULL, **cond(operator, "aws:SourceArn", "arn:aws:lambda:*:*:function:x")))) == [
        "W112"
    ]


# ------------------------------------------------------------------------------------------------------------- hints


def test_the_hint_about_an_uncertain_account_fits_the_principal() -> None:
    def hint(*statements: Any) -> str:
        found = lint(policy(*statements), partition="aws", consumer_accounts=[TWO])
        return next(one.hint for one in found if one.id == "deployments.W110")

    organisation = cond("StringEquals", KEY, "o-a1b2c3d4e5")
    assert hint(stmt("*", **organisation)).startswith("The Principal is *")
    assert hint(stmt(TWO, **organisation)).startswith("The account is named")
    assert hint(stmt(f"arn:aws:iam::{TWO}:role/r")).startswith("Add it to the Principal")


def test_the_whole_answer_of_get_repository_policy_is_one_finding_that_says_how_to_get_the_policy() -> None:
    text = json.dumps({"registryId": ONE, "repositoryName": "a", "policyText": policy(stmt(TWO))})
    [finding] = lint(text, partition="aws")

    assert finding.id == "deployments.E103"
    assert "--query policyText" in finding.hint


# --------------------------------------------------------------------------------------------------- wide addresses


@pytest.mark.parametrize("ranges", ["52.0.0.0/6", "52.0.0.0/7", ["52.0.0.0/8", "54.0.0.0/8"], "2600::/16", "2600::/31"])
def test_ranges_that_aws_calls_public_are_a_warning(ranges: Any) -> None:
    """An error would stop a start that version 0.1.0 allowed (D-upgrades-start)."""
    allowed = policy(stmt("*", **cond("IpAddress", "aws:SourceIp", ranges)))
    denied = policy(stmt("*"), stmt("*", "ecr:*", effect="Deny", **cond("NotIpAddress", "aws:SourceIp", ranges)))

    assert ids(allowed) == ["W130"]
    assert "W130" in ids(denied)
    assert "E110" not in ids(denied)


def test_ranges_of_several_statements_count_together() -> None:
    def allowed(*ranges: str) -> str:
        parts = [cond("IpAddress", "aws:SourceIp", one) for one in ranges]
        return policy(*(stmt("*", PULL, **part) for part in parts))

    assert ids(allowed("52.0.0.0/9", "52.128.0.0/9")) == []
    assert ids(allowed("52.0.0.0/8", "54.0.0.0/8")) == ["W130"]
    assert openness(allowed("52.0.0.0/8", "54.0.0.0/8"), partition="aws") == "open"
    assert ids(allowed("52.0.0.0/8", "52.0.0.0/8")) == []
    everywhere = allowed(*(f"{4 * number}.0.0.0/6" for number in range(64)))
    assert set(ids(everywhere)) == {"E102", "W130"}  # not E110, by D-upgrades-start: the check is new
    assert openness(everywhere, partition="aws") == "open"
    for_the_organisation = stmt("*", PULL, Condition=ORG | {"IpAddress": {"aws:SourceIp": "54.0.0.0/8"}})
    closed = policy(stmt("*", PULL, **cond("IpAddress", "aws:SourceIp", "52.0.0.0/8")), for_the_organisation)
    assert "W130" not in ids(closed)
    behind = [stmt("*", **cond("IpAddress", "aws:SourceIp", f"{one}.0.0.0/8")) for one in (52, 54)]
    assert "W130" not in ids(policy(*behind, stmt("*", effect="Deny", **cond("StringNotEquals", KEY, "o-1"))))


@pytest.mark.parametrize("ranges", ["52.0.0.0/8", ["203.0.113.0/24", "2600::/32"]])
def test_ranges_that_aws_calls_somebodys_are_no_finding(ranges: Any) -> None:
    assert ids(policy(stmt("*", **cond("IpAddress", "aws:SourceIp", ranges)))) == []


# ---------------------------------------------------------------------------------------------------- openness


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (policy(stmt(ONE)), "closed"),
        (policy(stmt("*")), "open"),
        (policy(stmt("*", **cond("StringEquals", KEY, "o-1"))), "closed"),
        (policy(stmt("*", **cond("IpAddress", "aws:SourceIp", "52.0.0.0/7"))), "open"),
        (policy(stmt("*", **cond("IpAddress", "aws:SourceIp", "203.0.113.0/24"))), "closed"),
        # What is not understood is not shown closed.
        ("{", "unknown"),
        ("[]", "unknown"),
        (policy(stmt(ONE), Foo=1), "unknown"),
        (policy(stmt(ONE, Foo=1)), "unknown"),
        (policy(stmt(ONE, effect="allow")), "unknown"),
        (policy(stmt("*", Foo=1)), "unknown"),
        (policy(stmt("*", **cond("StringFuture", KEY, "o-1"))), "unknown"),
        # A Deny lets nobody in.
        (policy(stmt(ONE), stmt("*", effect="Deny", Foo=1)), "closed"),
        (policy(stmt("*"), stmt(ONE, effect="Deny", Foo=1)), "open"),
    ],
)
def test_a_policy_is_closed_only_where_it_is_shown(text: str, answer: str) -> None:
    assert openness(text, partition="aws") == answer
