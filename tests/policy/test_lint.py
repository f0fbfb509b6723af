"""What lint finds, and what it must not find."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deployments.policy import IDS, lint, openness
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
        (policy(stmt(ONE, [*PULL, "ecr:BatchGetImages"])), ["E108"]),
        (policy(stmt(ONE, [*PULL, "ecr:Foo*"])), ["E108"]),
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
        (policy(), ["W103"]),
        ("{}", ["W103"]),
        (policy(stmt(ONE, "ecr:DescribeImages")), ["W103"]),
        (policy(stmt(ONE, effect="Deny")), ["W103"]),
        (policy(stmt(ONE, PULL[0])), ["W104"]),
        (policy(stmt([ONE, TWO], PULL[1]), stmt(ONE, PULL[0])), ["W104"]),
        (policy(stmt("*", PULL[1], Condition=ORG), stmt(ONE, PULL[0])), ["W104"]),
        (policy(stmt(ONE, [*PULL, "ecr:GetAuthorizationToken"])), ["W105"]),
        (policy(stmt(ONE, [*PULL, "ecr:DescribeRegistry"])), ["W105"]),
        (policy(stmt(ROLE)), ["W106"]),
        (policy(stmt(f"arn:aws:iam::{ONE}:user/bob")), ["W106"]),
        (policy(stmt({"AWS": int(ONE)})), ["W107"]),
        (policy(stmt({"AWS": 12345678901})), ["E109", "W107"]),
        (policy(stmt("AROAEXAMPLE1234567890")), ["W108"]),
        (policy(stmt(ONE, **cond("IpAddress", "aws:SourceIp", "0.0.0.0/0"))), ["W111"]),
        (policy(stmt(ONE, **cond("ForAllValues:StringEquals", KEY, "o-1"))), ["W111"]),
        (policy(stmt(LAMBDA)), ["W112"]),
        (policy(stmt(LAMBDA, **cond("StringEquals", "aws:SourceAccount", "*"))), ["W112"]),
        (policy(stmt({"Federated": "accounts.google.com"})), ["W112"]),
        (policy(stmt(ONE), Id=json.loads("[" * 40 + "]" * 40)), ["E103"]),
        (policy(stmt(ONE, **cond("StringEquals", "k", "${a}")), version=None), ["W113"]),
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


# ---------------------------------------------------------------------------------------------------- openness


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (policy(stmt(ONE)), "closed"),
        (policy(stmt("*")), "open"),
        (policy(stmt("*", **cond("StringEquals", KEY, "o-1"))), "closed"),
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
