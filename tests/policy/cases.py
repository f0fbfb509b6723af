"""Pairs of policies and whether they give the same access. The starting cases are in `starting_cases.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PULL = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
PULL3 = [*PULL, "ecr:BatchCheckLayerAvailability"]
PUSH = ["ecr:InitiateLayerUpload", "ecr:UploadLayerPart", "ecr:CompleteLayerUpload", "ecr:PutImage"]
ONE, TWO = "111111111111", "222222222222"
R1, R2 = f"arn:aws:iam::{ONE}:root", f"arn:aws:iam::{TWO}:root"
ROLE = f"arn:aws:iam::{ONE}:role/r"
SESSION = f"arn:aws:sts::{ONE}:assumed-role/r/somebody"
ORG = {"StringEquals": {"aws:PrincipalOrgID": "o-1"}}
Statement = dict[str, Any]


def stmt(principal: Any = R1, action: Any = PULL3, effect: str = "Allow", **more: Any) -> Statement:
    """A statement.

    A plain string other than * is an AWS principal. Other elements (Condition=…, Sid=…) are used unchanged.
    """
    if isinstance(principal, list) or (isinstance(principal, str) and principal != "*"):
        principal = {"AWS": principal}
    return {"Effect": effect, "Principal": principal, "Action": action, **more}


def policy(*statements: Any, version: str | None = "2012-10-17", **more: Any) -> str:
    document: dict[str, Any] = {"Statement": list(statements), **more}
    if version is not None:
        document["Version"] = version
    return json.dumps(document)


def without(name: str, statement: Statement | None = None, **more: Any) -> Statement:
    return {key: value for key, value in (statement or stmt()).items() if key != name} | more


def cond(operator: str, key: str, values: Any) -> dict[str, Any]:
    return {"Condition": {operator: {key: values}}}


def starting() -> list[tuple[str, str, str, str, str]]:
    cases = json.loads((Path(__file__).parent / "starting_cases.json").read_text())
    return [(case["name"], case["region"], case["a"], case["b"], case["level"]) for case in cases]


def when(operator: str, values: Any, key: str = "aws:PrincipalOrgID", **more: Any) -> str:
    """A policy of one statement under one condition."""
    return policy(stmt(**cond(operator, key, values)), **more)


def case(name: str, a: str, b: str, level: str, partition: str = "aws") -> tuple[str, str, str, str, str]:
    return name, partition, a, b, level


def ip(*ranges: str) -> str:
    return when("IpAddress", list(ranges), "aws:SourceIp")


def age(operator: str, values: Any) -> str:
    return when(operator, values, "aws:MultiFactorAuthAge")


def likes(operator: str) -> str:
    return policy(stmt("*", **cond(operator, "aws:PrincipalArn", f"arn:aws:iam::{TWO}:role/x*")))


def unlike(operator: str) -> str:
    return policy(
        stmt("*"), stmt("*", effect="Deny", **cond(operator, "aws:PrincipalArn", f"arn:aws:iam::{TWO}:role/x"))
    )


SAME, DIFFERENT, UNKNOWN = "cosmetic", "access", "incomparable"
KEY, TAG, DATE = "aws:PrincipalOrgID", "aws:PrincipalTag/level", "aws:CurrentTime"
BOTH = [PULL[0]], [PULL[1]]
PLAIN, WORLD = policy(stmt()), policy(stmt("*"))

# (what is tried, partition, A, B, level)
CASES: list[tuple[str, str, str, str, str]] = [
    # --- rule 1: account ids and partitions
    case(
        "bare id in China is the Chinese root",
        policy(stmt(ONE)),
        policy(stmt(f"arn:aws-cn:iam::{ONE}:root")),
        SAME,
        partition="aws-cn",
    ),
    case(
        "bare id in China is not the commercial root",
        policy(stmt(ONE)),
        policy(stmt(R1)),
        DIFFERENT,
        partition="aws-cn",
    ),
    case(
        "bare id in GovCloud",
        policy(stmt(ONE)),
        policy(stmt(f"arn:aws-us-gov:iam::{ONE}:root")),
        SAME,
        partition="aws-us-gov",
    ),
    case(
        "bare id in an ISO partition",
        policy(stmt(ONE)),
        policy(stmt(f"arn:aws-iso-b:iam::{ONE}:root")),
        SAME,
        partition="aws-iso-b",
    ),
    case("bare id in a list", policy(stmt([ONE, TWO])), policy(stmt([R2, R1])), SAME),
    case("id with leading zeros", policy(stmt("012345678901")), policy(stmt("arn:aws:iam::012345678901:root")), SAME),
    case("number that lost its zero", policy(stmt({"AWS": 12345678901})), policy(stmt("012345678901")), DIFFERENT),
    case("number in a list", policy(stmt({"AWS": [int(ONE), TWO]})), policy(stmt([ONE, TWO])), SAME),
    case("number as a float", policy(stmt({"AWS": 111111111111.5})), policy(stmt(ONE)), DIFFERENT),
    case("id with a space", policy(stmt(f" {ONE}")), policy(stmt(ONE)), DIFFERENT),
    case("id in other digits", policy(stmt("١" * 12)), policy(stmt(ONE)), DIFFERENT),
    case("one account twice, two ways", policy(stmt([ONE, R1])), policy(stmt(R1)), SAME),
    case("an id under Service is no account", policy(stmt({"Service": ONE})), policy(stmt(ONE)), DIFFERENT),
    # --- principals
    case("role against its account", policy(stmt(ROLE)), policy(stmt(R1)), DIFFERENT),
    case("role beside its account is its own grant", policy(stmt([ROLE, R1])), policy(stmt(R1)), DIFFERENT),
    case(
        "role against a session of it",
        policy(stmt(ROLE)),
        policy(stmt(f"arn:aws:sts::{ONE}:assumed-role/r/s")),
        DIFFERENT,
    ),
    case("role name in another case", policy(stmt(ROLE)), policy(stmt(f"arn:aws:iam::{ONE}:role/R")), DIFFERENT),
    case("role with a path", policy(stmt(ROLE)), policy(stmt(f"arn:aws:iam::{ONE}:role/team/r")), DIFFERENT),
    case("user against role", policy(stmt(ROLE)), policy(stmt(f"arn:aws:iam::{ONE}:user/r")), DIFFERENT),
    case("federated against role", policy(stmt({"Federated": ROLE})), policy(stmt(ROLE)), DIFFERENT),
    case("canonical user against AWS", policy(stmt({"CanonicalUser": ONE})), policy(stmt(ONE)), DIFFERENT),
    case(
        "two deleted principals",
        policy(stmt("AROAEXAMPLE1234567890")),
        policy(stmt("AROAEXAMPLE1234567891")),
        DIFFERENT,
    ),
    case(
        "service in another case",
        policy(stmt({"Service": "Lambda.amazonaws.com"})),
        policy(stmt({"Service": "lambda.amazonaws.com"})),
        DIFFERENT,
    ),
    case(
        "kinds side by side, in another order",
        policy(stmt({"AWS": ONE, "Service": ["a.amazonaws.com", "b.amazonaws.com"]})),
        policy(stmt({"Service": ["b.amazonaws.com", "a.amazonaws.com"], "AWS": [R1]})),
        SAME,
    ),
    case(
        "kinds side by side, split",
        policy(stmt({"AWS": ONE, "Service": "a.amazonaws.com"})),
        policy(stmt({"Service": "a.amazonaws.com"}), stmt(ONE)),
        SAME,
    ),
    case(
        "two strings where only * may stand",
        policy(stmt() | {"Principal": R1}),
        policy(stmt() | {"Principal": R2}),
        DIFFERENT,
    ),
    case("a string where only * may stand is no AWS principal", policy(stmt() | {"Principal": R1}), PLAIN, DIFFERENT),
    # --- rule 3: everyone
    case("* in a list", policy(stmt(["*"])), WORLD, SAME),
    case("* in a bare list", policy(stmt() | {"Principal": ["*"]}), WORLD, SAME),
    case("* takes in an account beside it", policy(stmt(["*", ONE])), WORLD, SAME),
    case("* takes in a role in another statement", policy(stmt("*"), stmt(ROLE)), WORLD, SAME),
    case("* takes in a deleted principal", policy(stmt(["*", "AROAEXAMPLE1234567890"])), WORLD, SAME),
    case("* takes in a service", policy(stmt({"AWS": "*", "Service": "a.amazonaws.com"})), WORLD, SAME),
    case("* takes in a federated principal", policy(stmt({"AWS": "*", "Federated": "x"})), WORLD, SAME),
    case(
        "* of another action takes in nothing",
        policy(stmt("*", PULL[:1]), stmt(ONE, PULL)),
        policy(stmt("*", PULL[:1])),
        DIFFERENT,
    ),
    case(
        "* takes in an account for its own actions only",
        policy(stmt("*", PULL[:1]), stmt(ONE, PULL)),
        policy(stmt("*", PULL[:1]), stmt(ONE, PULL[1:])),
        SAME,
    ),
    case(
        "conditional * leaves an unconditional account alone",
        policy(stmt("*", Condition=ORG), stmt(ONE)),
        policy(stmt("*", Condition=ORG)),
        DIFFERENT,
    ),
    case(
        "conditional * takes in the same condition",
        policy(stmt("*", Condition=ORG), stmt(ONE, Condition=ORG)),
        policy(stmt("*", Condition=ORG)),
        SAME,
    ),
    case("unconditional * takes in a conditional account", policy(stmt("*"), stmt(ONE, Condition=ORG)), WORLD, SAME),
    case(
        "an Allow of what is denied to everyone gives nobody anything",
        policy(stmt("*", effect="Deny"), stmt(ONE)),
        policy(stmt("*", effect="Deny")),
        SAME,
    ),
    case(
        "* of a Deny takes in another Deny",
        policy(stmt("*", effect="Deny"), stmt(ONE, effect="Deny")),
        policy(stmt("*", effect="Deny")),
        SAME,
    ),
    case("Service * is not everyone", policy(stmt({"Service": "*"})), WORLD, DIFFERENT),
    case("wildcard ARN is not everyone", policy(stmt("arn:aws:iam::*:root")), WORLD, DIFFERENT),
    case("unconditional Allow absorbs its twin", policy(stmt(), stmt(Condition=ORG)), PLAIN, SAME),
    case(
        "conditional Allow does not absorb the unconditional one",
        policy(stmt(), stmt(Condition=ORG)),
        policy(stmt(Condition=ORG)),
        DIFFERENT,
    ),
    case("twin of another action stays", policy(stmt(), stmt(action="ecr:PutImage", Condition=ORG)), PLAIN, DIFFERENT),
    # --- rule 4: case
    case(
        "action prefix in capitals",
        policy(stmt(action="ECR:BATCHGETIMAGE")),
        policy(stmt(action="ecr:BatchGetImage")),
        SAME,
    ),
    case("Kelvin sign is no k", policy(stmt(action="ecr:\u212aey")), policy(stmt(action="ecr:key")), DIFFERENT),
    case("Effect in lower case grants nothing", policy(stmt(effect="allow")), PLAIN, DIFFERENT),
    case("element name in lower case", policy(without("Effect", effect="Allow")), PLAIN, UNKNOWN),
    case("condition value in another case", when("StringEquals", "o-1"), when("StringEquals", "O-1"), DIFFERENT),
    case(
        "operator in another case is another operator",
        when("stringEquals", "o-1"),
        when("StringEquals", "o-1"),
        UNKNOWN,
    ),
    case(
        "Bool value in capitals",
        when("Bool", "TRUE", "aws:SecureTransport"),
        when("Bool", "true", "aws:SecureTransport"),
        DIFFERENT,
    ),
    case(
        "tag key in another case",
        when("StringEquals", "x", "aws:PrincipalTag/Team"),
        when("StringEquals", "x", "AWS:principaltag/team"),
        SAME,
    ),
    case(
        "IgnoreCase values in another case",
        when("StringEqualsIgnoreCase", "Bob", "aws:username"),
        when("StringEqualsIgnoreCase", "bob", "aws:username"),
        SAME,
    ),
    # --- rule 5: wildcards
    case("ecr:* against the whole list", policy(stmt(action="ecr:*")), policy(stmt(action="@all")), SAME),
    case("* against ecr:*", policy(stmt(action="*")), policy(stmt(action="ecr:*")), SAME),
    case(
        "wildcard against what it stands for",
        policy(stmt(action="ecr:*LayerUpload")),
        policy(stmt(action=["ecr:InitiateLayerUpload", "ecr:CompleteLayerUpload"])),
        SAME,
    ),
    case(
        "wildcard one short",
        policy(stmt(action="ecr:Batch*")),
        policy(
            stmt(
                action=[
                    "ecr:BatchGetImage",
                    "ecr:BatchDeleteImage",
                    "ecr:BatchCheckLayerAvailability",
                    "ecr:BatchImportUpstreamImage",
                ]
            )
        ),
        DIFFERENT,
    ),
    case("question mark", policy(stmt(action="ecr:PutImag?")), policy(stmt(action="ecr:PutImage")), SAME),
    case(
        "question mark needs a character",
        policy(stmt(action="ecr:PutImage?")),
        policy(stmt(action="ecr:PutImage")),
        DIFFERENT,
    ),
    case(
        "implied action adds nothing",
        policy(stmt(action=["ecr:*", "ecr:PutImage"])),
        policy(stmt(action="ecr:*")),
        SAME,
    ),
    case(
        "implied action in another statement adds nothing",
        policy(stmt(action="ecr:Put*"), stmt(action="ecr:PutImage")),
        policy(stmt(action="ecr:Put*")),
        SAME,
    ),
    case(
        "implied action nobody knows yet adds nothing",
        policy(stmt(action=["ecr:*", "ecr:BrandNew"])),
        policy(stmt(action="ecr:*")),
        SAME,
    ),
    case(
        "action nobody knows yet is not nothing",
        policy(stmt(action=[*PULL, "ecr:BrandNew"])),
        policy(stmt(action=PULL)),
        DIFFERENT,
    ),
    case(
        "action of another service is not nothing",
        policy(stmt(action=[*PULL, "s3:GetObject"])),
        policy(stmt(action=PULL)),
        DIFFERENT,
    ),
    case("pattern that fits nothing is not nothing", policy(stmt(action="ecr:Foo*")), policy(), DIFFERENT),
    case(
        "two spellings of a pattern that fits nothing",
        policy(stmt(action=["ecr:Foo*", "ecr:Foo**"])),
        policy(stmt(action="ecr:Foo*")),
        SAME,
    ),
    case(
        "brackets are no wildcard",
        policy(stmt(action="ecr:PutImag[e]")),
        policy(stmt(action="ecr:PutImage")),
        DIFFERENT,
    ),
    case(
        "ecr-public is another service",
        policy(stmt(action="ecr-public:BatchGetImage")),
        policy(stmt(action="ecr:BatchGetImage")),
        DIFFERENT,
    ),
    case(
        "everything but one, denied and allowed, is not everything",
        policy(stmt(action="ecr:*"), stmt(action="ecr:PutImage", effect="Deny")),
        policy(stmt(action="ecr:*")),
        DIFFERENT,
    ),
    # --- rule 2 and 6: order, duplicates, splits
    case("duplicate action", policy(stmt(action=PULL + PULL)), policy(stmt(action=PULL)), SAME),
    case("duplicate statement", policy(stmt(), stmt()), PLAIN, SAME),
    case("split by action", policy(stmt(action=PULL)), policy(stmt(action=BOTH[0]), stmt(action=BOTH[1])), SAME),
    case("split by principal", policy(stmt([ONE, TWO])), policy(stmt(TWO), stmt(ONE)), SAME),
    case(
        "split both ways at once",
        policy(stmt([ONE, TWO], PULL)),
        policy(stmt(ONE, PULL[0]), stmt(TWO, PULL[0]), stmt([TWO, ONE], PULL[1])),
        SAME,
    ),
    case(
        "split that forgets a corner",
        policy(stmt([ONE, TWO], PULL)),
        policy(stmt(ONE, PULL), stmt(TWO, PULL[0])),
        DIFFERENT,
    ),
    case(
        "split by condition value",
        when("StringEquals", ["o-1", "o-2"]),
        policy(stmt(**cond("StringEquals", KEY, "o-1")), stmt(**cond("StringEquals", KEY, "o-2"))),
        SAME,
    ),
    case(
        "overlapping condition values",
        policy(stmt(**cond("StringEquals", KEY, ["o-1", "o-2"])), stmt(**cond("StringEquals", KEY, ["o-2", "o-3"]))),
        when("StringEquals", ["o-3", "o-1", "o-2"]),
        SAME,
    ),
    case("one condition value fewer", when("StringEquals", ["o-1", "o-2"]), when("StringEquals", "o-1"), DIFFERENT),
    case(
        "two keys at once are not two statements",
        policy(stmt(Condition={"StringEquals": {KEY: "o-1", "aws:SourceVpc": "v"}})),
        policy(stmt(**cond("StringEquals", KEY, "o-1")), stmt(**cond("StringEquals", "aws:SourceVpc", "v"))),
        DIFFERENT,
    ),
    case(
        "a square of values, split",
        policy(stmt(Condition={"StringEquals": {KEY: ["o-1", "o-2"], "aws:SourceVpc": ["v", "w"]}})),
        policy(
            stmt(Condition={"StringEquals": {KEY: ["o-1"], "aws:SourceVpc": ["v", "w"]}}),
            stmt(Condition={"StringEquals": {KEY: ["o-2"], "aws:SourceVpc": "w"}}),
            stmt(Condition={"StringEquals": {KEY: ["o-1", "o-2"], "aws:SourceVpc": "v"}}),
        ),
        SAME,
    ),
    case(
        "a square of values, one corner missing",
        policy(stmt(Condition={"StringEquals": {KEY: ["o-1", "o-2"], "aws:SourceVpc": ["v", "w"]}})),
        policy(
            stmt(Condition={"StringEquals": {KEY: ["o-1"], "aws:SourceVpc": ["v", "w"]}}),
            stmt(Condition={"StringEquals": {KEY: ["o-2"], "aws:SourceVpc": "w"}}),
        ),
        DIFFERENT,
    ),
    case(
        "operators in another order",
        policy(stmt(Condition={"StringEquals": {KEY: "o-1"}, "Bool": {"aws:SecureTransport": True}})),
        policy(stmt(Condition={"Bool": {"aws:SecureTransport": "true"}, "StringEquals": {KEY: ["o-1"]}})),
        SAME,
    ),
    case(
        "the narrower twin adds nothing",
        policy(stmt(Condition=ORG), stmt(Condition=ORG | {"Bool": {"aws:SecureTransport": "true"}})),
        policy(stmt(Condition=ORG)),
        SAME,
    ),
    case(
        "one key in two cases must hold twice",
        policy(stmt(Condition={"StringEquals": {KEY: "o-1", KEY.lower(): "o-2"}})),
        when("StringEquals", ["o-1", "o-2"]),
        DIFFERENT,
    ),
    case(
        "one key in two cases with one value",
        policy(stmt(Condition={"StringEquals": {KEY: "o-1", KEY.lower(): "o-1"}})),
        when("StringEquals", "o-1"),
        SAME,
    ),
    # --- negated, set operators, IfExists (rule 12)
    case(
        "negated values do not split",
        when("StringNotEquals", ["o-1", "o-2"]),
        policy(stmt(**cond("StringNotEquals", KEY, "o-1")), stmt(**cond("StringNotEquals", KEY, "o-2"))),
        DIFFERENT,
    ),
    case(
        "negated values in another order",
        when("StringNotEquals", ["o-1", "o-2"]),
        when("StringNotEquals", ["o-2", "o-1"]),
        SAME,
    ),
    case("negated value fewer", when("StringNotEquals", ["o-1", "o-2"]), when("StringNotEquals", "o-1"), DIFFERENT),
    case(
        "negated twin with more values adds nothing",
        policy(stmt(**cond("StringNotEquals", KEY, "o-1")), stmt(**cond("StringNotEquals", KEY, ["o-1", "o-2"]))),
        when("StringNotEquals", "o-1"),
        SAME,
    ),
    case(
        "ForAllValues does not split",
        when("ForAllValues:StringEquals", ["a", "b"], "aws:TagKeys"),
        policy(
            stmt(**cond("ForAllValues:StringEquals", "aws:TagKeys", "a")),
            stmt(**cond("ForAllValues:StringEquals", "aws:TagKeys", "b")),
        ),
        DIFFERENT,
    ),
    case(
        "ForAllValues against ForAnyValue",
        when("ForAllValues:StringEquals", "a"),
        when("ForAnyValue:StringEquals", "a"),
        DIFFERENT,
    ),
    case(
        "ForAnyValue against plain, of a key with several values",
        when("ForAnyValue:StringEquals", "a", "aws:PrincipalOrgPaths"),
        when("StringEquals", "a", "aws:PrincipalOrgPaths"),
        DIFFERENT,
    ),
    case(
        "ForAnyValue against plain, of a key with one value",
        when("ForAnyValue:StringEquals", "a"),
        when("StringEquals", "a"),
        SAME,
    ),
    case(
        "ForAllValues against IfExists, which tell an empty tag apart",
        when("ForAllValues:StringEquals", "a", TAG),
        when("StringEqualsIfExists", "a", TAG),
        DIFFERENT,
    ),
    case(
        "ForAnyValue in another order",
        when("ForAnyValue:StringLike", ["a", "b"]),
        when("ForAnyValue:StringLike", ["b", "a", "b"], KEY.upper()),
        SAME,
    ),
    case("IfExists against plain", when("StringEqualsIfExists", "o-1"), when("StringEquals", "o-1"), DIFFERENT),
    case("StringLike against StringEquals", when("StringLike", "o-*"), when("StringEquals", "o-*"), DIFFERENT),
    case("unknown operator against none", when("StringFoo", "o-1"), PLAIN, UNKNOWN),
    case("the same unknown operator", when("StringFoo", ["b", "a"]), when("StringFoo", ["a", "b"]), UNKNOWN),
    case("anywhere is not no condition", when("IpAddress", "0.0.0.0/0", "aws:SourceIp"), PLAIN, DIFFERENT),
    case(
        "one address, two spellings",
        when("IpAddress", "203.0.113.9", "aws:SourceIp"),
        when("IpAddress", "203.0.113.9/32", "aws:SourceIp"),
        SAME,
    ),
    case(
        "IPv6, two spellings",
        when("IpAddress", "2001:DB8:0::/32", "aws:SourceIp"),
        when("IpAddress", "2001:db8::/32", "aws:SourceIp"),
        SAME,
    ),
    case("NotPrincipal against Principal", policy(without("Principal", NotPrincipal={"AWS": R1})), PLAIN, DIFFERENT),
    case(
        "NotPrincipal with an id and a root ARN",
        policy(without("Principal", NotPrincipal={"AWS": [ONE, TWO]})),
        policy(without("Principal", NotPrincipal={"AWS": [R2, R1]})),
        SAME,
    ),
    case(
        "NotPrincipal does not split",
        policy(without("Principal", NotPrincipal={"AWS": [ONE, TWO]})),
        policy(without("Principal", NotPrincipal={"AWS": ONE}), without("Principal", NotPrincipal={"AWS": TWO})),
        DIFFERENT,
    ),
    case(
        "NotPrincipal * in both spellings",
        policy(without("Principal", NotPrincipal="*")),
        policy(without("Principal", NotPrincipal={"AWS": ["*", ONE]})),
        SAME,
    ),
    case(
        "NotPrincipal with one more",
        policy(without("Principal", NotPrincipal={"AWS": [ONE]})),
        policy(without("Principal", NotPrincipal={"AWS": [ONE, TWO]})),
        DIFFERENT,
    ),
    case(
        "empty NotPrincipal is not nobody", policy(without("Principal", NotPrincipal={"AWS": []})), policy(), DIFFERENT
    ),
    case(
        "NotAction in another order and case",
        policy(without("Action", NotAction=["ecr:PutImage", "ecr:DeleteRepository"])),
        policy(without("Action", NotAction=["ecr:deleterepository", "ECR:PutImage"])),
        SAME,
    ),
    case(
        "NotAction with a wildcard",
        policy(without("Action", NotAction=["ecr:*LayerUpload"])),
        policy(without("Action", NotAction=["ecr:InitiateLayerUpload", "ecr:CompleteLayerUpload"])),
        SAME,
    ),
    case(
        "NotAction does not split",
        policy(without("Action", NotAction=PULL)),
        policy(without("Action", NotAction=PULL[0]), without("Action", NotAction=PULL[1])),
        DIFFERENT,
    ),
    # --- Deny
    case("Deny removed", policy(stmt(), stmt(TWO, effect="Deny")), PLAIN, DIFFERENT),
    case("Deny added", PLAIN, policy(stmt(), stmt(TWO, effect="Deny")), DIFFERENT),
    case(
        "Deny before and after its Allow",
        policy(stmt(effect="Deny"), stmt()),
        policy(stmt(), stmt(effect="Deny")),
        SAME,
    ),
    case(
        "Deny split",
        policy(stmt([ONE, TWO], effect="Deny")),
        policy(stmt(ONE, effect="Deny"), stmt(TWO, effect="Deny")),
        SAME,
    ),
    case(
        "unconditional Deny absorbs its twin",
        policy(stmt(effect="Deny"), stmt(effect="Deny", Condition=ORG)),
        policy(stmt(effect="Deny")),
        SAME,
    ),
    case(
        "Deny narrowed by a condition",
        policy(stmt(effect="Deny")),
        policy(stmt(effect="Deny", Condition=ORG)),
        DIFFERENT,
    ),
    case("Allow and Deny of one thing is not nothing", policy(stmt(), stmt(effect="Deny")), policy(), DIFFERENT),
    # --- rule 7: Sid, Id, Version
    case("Sid of another name", policy(stmt(Sid="a")), policy(stmt(Sid="b")), SAME),
    case("Sid with a variable", policy(stmt(Sid="${aws:username}")), policy(stmt(), version="2008-10-17"), SAME),
    case("Id", policy(stmt(), Id="x"), PLAIN, SAME),
    case(
        "two versions without a variable",
        policy(stmt(Condition=ORG)),
        policy(stmt(Condition=ORG), version="2008-10-17"),
        SAME,
    ),
    case(
        "absent version with a variable is the old one",
        when("StringEquals", "${a}", version=None),
        when("StringEquals", "${a}", version="2008-10-17"),
        SAME,
    ),
    case(
        "dollar without a variable",
        when("StringEquals", "$5 {a}"),
        when("StringEquals", "$5 {a}", version="2008-10-17"),
        SAME,
    ),
    case(
        "variable in a principal",
        policy(stmt("arn:aws:iam::111111111111:user/${aws:username}")),
        policy(stmt("arn:aws:iam::111111111111:user/${aws:username}"), version=None),
        DIFFERENT,
    ),
    case("unknown version", policy(stmt(), version="2026-01-01"), PLAIN, UNKNOWN),
    # --- rule 8: values
    case(
        "number as a value",
        when("NumericLessThan", 300, "aws:MultiFactorAuthAge"),
        when("NumericLessThan", "300", "aws:MultiFactorAuthAge"),
        SAME,
    ),
    case(
        "number with a needless fraction, compared as a number",
        when("NumericEquals", 1.0, "k"),
        when("NumericEquals", "1", "k"),
        SAME,
    ),
    case(
        "number with a needless fraction, compared as a string",
        when("StringEquals", 1.0, "k"),
        when("StringEquals", "1", "k"),
        DIFFERENT,
    ),
    case(
        "false against true",
        when("Bool", False, "aws:SecureTransport"),
        when("Bool", True, "aws:SecureTransport"),
        DIFFERENT,
    ),
    case("value with spaces", when("StringEquals", "o-1 "), when("StringEquals", "o-1"), DIFFERENT),
    case(
        "two forms of one letter are two texts",
        when("StringEquals", "é", "k"),
        when("StringEquals", "e\u0301", "k"),
        DIFFERENT,
    ),
    # --- rule 9: empty
    case("no statements at all", policy(), json.dumps({}), SAME),
    case("null statements", json.dumps({"Statement": None}), json.dumps({"Statement": {}}), SAME),
    case("an empty statement in a list", json.dumps({"Statement": [{}]}), json.dumps({"Statement": []}), SAME),
    case("null condition", policy(stmt(Condition=None)), policy(stmt(Condition=[])), SAME),
    case("empty operator", policy(stmt(Condition={"StringEquals": {}})), PLAIN, SAME),
    case("empty value list is not no condition", when("StringEquals", []), PLAIN, DIFFERENT),
    case("absent principal against one", policy(without("Principal")), PLAIN, DIFFERENT),
    case("null principal against everyone", policy(stmt() | {"Principal": None}), WORLD, DIFFERENT),
    case("empty map of principals against everyone", policy(stmt({})), WORLD, DIFFERENT),
    case("empty principal grants nothing, like no statement", policy(stmt(), stmt({"AWS": []}, "ecr:*")), PLAIN, SAME),
    case("empty action against everything", policy(stmt(action=[])), policy(stmt(action="ecr:*")), DIFFERENT),
    case("absent action against one", policy(without("Action")), PLAIN, DIFFERENT),
    # --- rule 10: not understood
    case("unknown top element", policy(stmt(), Foo=1), PLAIN, UNKNOWN),
    case("Resource", policy(stmt(Resource="*")), PLAIN, UNKNOWN),
    case("unknown kind of principal", policy(stmt({"Google": "x"})), PLAIN, UNKNOWN),
    case("unknown element in both", policy(stmt(Foo=1)), policy(stmt(Foo=1), Id="x"), UNKNOWN),
    case("Principal and NotPrincipal", policy(stmt(NotPrincipal={"AWS": TWO})), PLAIN, UNKNOWN),
    case("Action and NotAction", policy(stmt(NotAction="ecr:PutImage")), PLAIN, UNKNOWN),
    case("action that is a number", policy(stmt(action=5)), PLAIN, UNKNOWN),
    case("principal that is a boolean", policy(stmt({"AWS": True})), PLAIN, UNKNOWN),
    case("condition that is a text", policy(stmt(Condition="x")), PLAIN, UNKNOWN),
    case("condition value that is an object", when("StringEquals", {"a": 1}), PLAIN, UNKNOWN),
    case("list in a list", policy(stmt(action=[PULL])), policy(stmt(action=PULL)), UNKNOWN),
    case("statement that is a text", json.dumps({"Statement": ["x"]}), PLAIN, UNKNOWN),
    case("a list for a policy", "[]", PLAIN, UNKNOWN),
    case("an Effect nobody knows beside the same access", policy(stmt(), stmt(TWO, effect="Permit")), PLAIN, UNKNOWN),
    case("one name twice", '{"Statement": [], "Statement": [' + json.dumps(stmt()) + "]}", PLAIN, UNKNOWN),
    case("half a surrogate pair", when("StringEquals", "\ud800", "k"), PLAIN, UNKNOWN),
    case("NUL", when("StringEquals", "\0", "k"), PLAIN, UNKNOWN),
    case("not JSON", "{", PLAIN, UNKNOWN),
    # --- found by breaking the code
    case(
        "implied new action beside a wildcard against the whole list",
        policy(stmt(action=["ecr:*", "ecr:BrandNew"])),
        policy(stmt(action="@all")),
        SAME,
    ),
    case(
        "a new action that one policy denies by a wildcard, and the other does not deny",
        policy(stmt(action="ecr:BrandNew"), stmt(action="ecr:*", effect="Deny")),
        policy(stmt(action="ecr:BrandNew"), stmt(action="@all", effect="Deny")),
        DIFFERENT,
    ),
    case("empty negated list is not no condition", when("StringNotEquals", []), PLAIN, DIFFERENT),
    case(
        "empty negated list against a full one", when("StringNotEquals", []), when("StringNotEquals", "o-1"), DIFFERENT
    ),
    case(
        "a netmask is no prefix length",
        when("IpAddress", "10.0.0.0/255.0.0.0", "aws:SourceIp"),
        when("IpAddress", "10.0.0.0/8", "aws:SourceIp"),
        DIFFERENT,
    ),
    case(
        "host bits are not ours to drop",
        when("IpAddress", "10.1.2.3/8", "aws:SourceIp"),
        when("IpAddress", "10.0.0.0/8", "aws:SourceIp"),
        DIFFERENT,
    ),
    case(
        "one key in two cases is narrower than its first list",
        policy(stmt(Condition={"StringEquals": {KEY: ["o-1", "o-2"], KEY.lower(): ["o-2", "o-3"]}})),
        when("StringEquals", ["o-1", "o-2"]),
        DIFFERENT,
    ),
    case(
        "one key in two cases is narrower than its second list",
        policy(stmt(Condition={"StringEquals": {KEY: ["o-1", "o-2"], KEY.lower(): ["o-2", "o-3"]}})),
        when("StringEquals", ["o-2", "o-3"]),
        DIFFERENT,
    ),
    case(
        "one key in two cases, the other way round",
        policy(stmt(Condition={"StringEquals": {KEY: ["o-1", "o-2"], KEY.lower(): "o-3"}})),
        policy(stmt(Condition={"StringEquals": {KEY: "o-3", KEY.lower(): ["o-2", "o-1"]}})),
        SAME,
    ),
    case("nested too deeply to be a policy", policy(stmt(), Id=json.loads("[" * 40 + "]" * 40)), PLAIN, UNKNOWN),
    case("no Deny is no matter to an empty policy", policy(stmt("*", effect="Deny")), policy(), DIFFERENT),
    case("an empty statement list beside a Version", json.dumps({"Version": "2012-10-17"}), policy(), SAME),
    case(
        "null Version is none",
        policy(stmt(**cond("StringEquals", KEY, "${a}")), Version=None, version=None),
        when("StringEquals", "${a}", version=None),
        SAME,
    ),
    case("the same Resource in both", policy(stmt(Resource="*")), policy(stmt(Resource="*"), Id="x"), UNKNOWN),
    case(
        "a percent sign is only a character",
        policy(stmt("arn:aws:iam::111111111111:role/%s")),
        policy(stmt("arn:aws:iam::111111111111:role/%d")),
        DIFFERENT,
    ),
    # --- one meaning, two spellings of the operator or the value
    case("ArnEquals and ArnLike", likes("ArnLike"), likes("ArnEquals"), SAME),
    case("ArnNotEquals and ArnNotLike in a Deny", unlike("ArnNotLike"), unlike("ArnNotEquals"), SAME),
    case("StringLike of a plain text", when("StringLike", "o-1"), when("StringEquals", "o-1"), SAME),
    case("StringNotLike of a plain text", when("StringNotLike", "o-1"), when("StringNotEquals", "o-1"), SAME),
    case("StringLike of an ARN", likes("StringLike"), likes("ArnLike"), SAME),
    case("StringLike of everything is a key that is there", when("StringLike", "*"), when("Null", "false"), SAME),
    case("StringLike of one more character", when("StringLike", "o-?*"), when("StringLike", "o-*"), DIFFERENT),
    case("a range in two halves", ip("203.0.112.0/24", "203.0.113.0/24"), ip("203.0.112.0/23"), SAME),
    case("a range in three quarters", ip("203.0.112.0/24", "203.0.113.0/25"), ip("203.0.112.0/23"), DIFFERENT),
    case("an address in a range beside it", ip("203.0.113.0/24", "203.0.113.7"), ip("203.0.113.0/24"), SAME),
    case("a pattern in a pattern", when("StringLike", ["o-*", "o-1*"]), when("StringLike", "o-*"), SAME),
    case("a text in a pattern", when("StringLike", ["o-*", "o-1"]), when("StringLike", "o-*"), SAME),
    case(
        "a forbidden pattern in a pattern", when("StringNotLike", ["o-*", "o-1*"]), when("StringNotLike", "o-*"), SAME
    ),
    case("two limits of a number", age("NumericLessThan", ["300", "900"]), age("NumericLessThan", "900"), SAME),
    case("up to and below a number", age("NumericLessThanEquals", "900"), age("NumericLessThan", "900"), DIFFERENT),
    case(
        "below or equal in two statements",
        policy(
            stmt(**cond("NumericLessThan", "aws:MultiFactorAuthAge", "9")),
            stmt(**cond("NumericEquals", "aws:MultiFactorAuthAge", "9.0")),
        ),
        age("NumericLessThanEquals", "9"),
        SAME,
    ),
    case("a moment in seconds", when("DateLessThan", "2030-01-01T00:00:00Z"), when("DateLessThan", "1893456000"), SAME),
    case("a day is its first moment", when("DateLessThan", "2030-01-01"), when("DateLessThan", "1893456000"), SAME),
    case(
        "a moment in two zones", when("DateEquals", "2030-01-01T01:00:00+01:00"), when("DateEquals", "1893456000"), SAME
    ),
    case("Bool and the text", when("Bool", "true"), when("StringEquals", "true"), SAME),
    # --- statements that make up one another
    case(
        "ForAnyValue in two statements",
        when("ForAnyValue:StringEquals", ["a", "b"]),
        policy(stmt(**cond("ForAnyValue:StringEquals", KEY, "a")), stmt(**cond("ForAnyValue:StringEquals", KEY, "b"))),
        SAME,
    ),
    case(
        "ForAllValues and its opposite are everything",
        policy(
            stmt(**cond("ForAllValues:StringEquals", KEY, "a")), stmt(**cond("ForAnyValue:StringNotEquals", KEY, "a"))
        ),
        PLAIN,
        SAME,
    ),
    case(
        "ForAnyValue IfExists needs the key",
        when("ForAnyValue:StringEqualsIfExists", "a"),
        when("ForAnyValue:StringEquals", "a"),
        SAME,
    ),
    case(
        "ForAllValues needs no IfExists",
        when("ForAllValues:StringEqualsIfExists", "a"),
        when("ForAllValues:StringEquals", "a"),
        SAME,
    ),
    case(
        "IfExists in two statements",
        when("StringEqualsIfExists", ["a", "b"]),
        policy(stmt(**cond("StringEqualsIfExists", KEY, "a")), stmt(**cond("StringEqualsIfExists", KEY, "b"))),
        SAME,
    ),
    case(
        "IfExists is the test or no key",
        when("StringEqualsIfExists", "a"),
        policy(stmt(**cond("StringEquals", KEY, "a")), stmt(**cond("Null", KEY, "true"))),
        SAME,
    ),
    case(
        "a key that is missing beside a key that is there",
        policy(stmt(**cond("Null", "aws:SourceVpce", "true")), stmt(**cond("Null", "aws:SourceVpce", "false"))),
        PLAIN,
        SAME,
    ),
    case(
        "a test beside its opposite",
        policy(stmt(**cond("StringEquals", KEY, ["a", "b"])), stmt(**cond("StringNotEquals", KEY, ["a", "b"]))),
        PLAIN,
        SAME,
    ),
    case(
        "a test beside half its opposite",
        policy(stmt(**cond("StringEquals", KEY, "a")), stmt(**cond("StringNotEquals", KEY, ["a", "b"]))),
        PLAIN,
        DIFFERENT,
    ),
    case(
        "two tests that cannot hold together",
        policy(stmt(Condition={"StringEquals": {KEY: "a"}, "StringNotEquals": {KEY: "a"}})),
        policy(),
        SAME,
    ),
    # --- what the principal answers by itself
    case("its own account", policy(stmt(**cond("StringEquals", "aws:PrincipalAccount", ONE))), PLAIN, SAME),
    case("another account", policy(stmt(**cond("StringEquals", "aws:PrincipalAccount", TWO))), policy(), SAME),
    case(
        "an ARN of its own account",
        policy(stmt(**cond("ArnLike", "aws:PrincipalArn", f"arn:aws:*::{ONE}:*"))),
        PLAIN,
        SAME,
    ),
    case(
        "a role of another account",
        policy(stmt(**cond("ArnLike", "aws:PrincipalArn", f"arn:aws:iam::{TWO}:*"))),
        policy(),
        SAME,
    ),
    case(
        "a role that is itself",
        policy(stmt(ROLE, **cond("ArnEquals", "aws:PrincipalArn", ROLE))),
        policy(stmt(ROLE)),
        SAME,
    ),
    case("an account is no service", policy(stmt(**cond("Bool", "aws:PrincipalIsAWSService", "false"))), PLAIN, SAME),
    case(
        "everyone of an account needs no policy of the account",
        policy(stmt("*", **cond("StringEquals", "aws:PrincipalAccount", ONE))),
        PLAIN,
        DIFFERENT,
    ),
    case(
        "Deny of everyone of an account is Deny of the account",
        policy(stmt("*"), stmt("*", effect="Deny", **cond("StringEquals", "aws:PrincipalAccount", ONE))),
        policy(stmt("*"), stmt(effect="Deny")),
        SAME,
    ),
    case(
        "an account and everyone else is less than everyone",
        policy(stmt(), without("Principal", NotPrincipal={"AWS": ONE})),
        WORLD,
        DIFFERENT,
    ),
    case(
        "an account has no service's name",
        when("Null", "true", "aws:PrincipalServiceName"),
        PLAIN,
        SAME,
    ),
    # --- NotAction, NotPrincipal, Deny
    case(
        "NotAction beside everything",
        policy(stmt(action="*"), without("Action", NotAction="ecr:PutImage")),
        policy(stmt(action="*")),
        SAME,
    ),
    case("NotAction of everything", policy(stmt(), without("Action", NotAction="*")), PLAIN, SAME),
    case(
        "NotAction and the others by name",
        policy(without("Action", NotAction=["ecr:B*", "ecr:[CDGILPRSTUV]*"])),
        policy(without("Action", NotAction="ecr:B*")),
        DIFFERENT,
    ),
    case(
        "NotPrincipal beside everyone", policy(stmt("*"), without("Principal", NotPrincipal={"AWS": ONE})), WORLD, SAME
    ),
    case(
        "two NotPrincipals are everyone",
        policy(without("Principal", NotPrincipal={"AWS": ONE}), without("Principal", NotPrincipal={"AWS": TWO})),
        WORLD,
        SAME,
    ),
    case(
        "Deny of a role beside its account",
        policy(stmt("*"), stmt([R1, ROLE], effect="Deny")),
        policy(stmt("*"), stmt(effect="Deny")),
        SAME,
    ),
    case(
        "Deny of a session beside its role",
        policy(stmt("*"), stmt([ROLE, SESSION], effect="Deny")),
        policy(stmt("*"), stmt(ROLE, effect="Deny")),
        SAME,
    ),
    case(
        "Deny of a role is not Deny of its account",
        policy(stmt("*"), stmt(ROLE, effect="Deny")),
        policy(stmt("*"), stmt(effect="Deny")),
        DIFFERENT,
    ),
    case(
        "Deny of all but an account, and of all but the account and its role",
        policy(stmt("*"), without("Principal", stmt(effect="Deny"), NotPrincipal={"AWS": ONE})),
        policy(stmt("*"), without("Principal", stmt(effect="Deny"), NotPrincipal={"AWS": [ONE, ROLE]})),
        DIFFERENT,
    ),
    case(
        "an Allow behind a Deny under a wider condition",
        policy(stmt("*", effect="Deny", **cond("StringLike", KEY, "o-*")), stmt(ONE, Condition=ORG)),
        policy(stmt("*", effect="Deny", **cond("StringLike", KEY, "o-*"))),
        SAME,
    ),
    case(
        "an Allow behind a Deny under a narrower condition",
        policy(stmt("*", effect="Deny", Condition=ORG), stmt(ONE, **cond("StringLike", KEY, "o-*"))),
        policy(stmt("*", effect="Deny", Condition=ORG)),
        DIFFERENT,
    ),
    # --- actions that no repository policy can grant
    case(
        "an action on the whole account",
        policy(stmt(action=[*PULL, "ecr:GetAuthorizationToken"])),
        policy(stmt(action=PULL)),
        SAME,
    ),
    case("nothing but an action on the whole account", policy(stmt(action="ecr:GetAuth*")), policy(), SAME),
    case(
        "Deny of an action on the whole account",
        policy(stmt(), stmt(effect="Deny", action="ecr:PutRegistryPolicy")),
        PLAIN,
        SAME,
    ),
    # --- policy variables
    case("a star that is only a star", when("StringLike", "a${*}"), when("StringEquals", "a*"), SAME),
    case("a question mark that is only one", when("StringEquals", "a${?}"), when("StringEquals", "a?"), SAME),
    case(
        "a dollar that is only one", when("StringEquals", "${$}{a}"), when("StringEquals", "${a}", version=None), SAME
    ),
    case(
        "a variable in another case",
        when("StringEquals", "${aws:username}"),
        when("StringEquals", "${AWS:UserName}"),
        SAME,
    ),
    case(
        "a default, with and without a space",
        when("StringEquals", "${aws:username, 'x'}"),
        when("StringEquals", "${aws:UserName,'x'}"),
        DIFFERENT,
    ),
    case(
        "a variable with a space in it",
        when("StringEquals", "${aws:username}"),
        when("StringEquals", "${ aws:username}"),
        DIFFERENT,
    ),
    case(
        "a variable that AWS may not resolve, beside its opposite",
        policy(
            stmt(**cond("StringEquals", KEY, "${aws:userid}")), stmt(**cond("StringNotEquals", KEY, "${aws:userid}"))
        ),
        PLAIN,
        DIFFERENT,
    ),
    case(
        "a variable that AWS may not resolve, where its test holds anyway",
        policy(stmt(Condition={"StringNotEquals": {KEY: "${aws:userid}"}, "Null": {KEY: "true"}})),
        when("Null", "true"),
        DIFFERENT,
    ),
    case(
        "a default is always resolved",
        policy(
            stmt(**cond("StringEquals", KEY, "${aws:userid, 'x'}")),
            stmt(**cond("StringNotEquals", KEY, "${aws:userid, 'x'}")),
        ),
        PLAIN,
        SAME,
    ),
    case(
        "two defaults",
        when("StringEquals", "${aws:username, 'x'}"),
        when("StringEquals", "${aws:username, 'y'}"),
        DIFFERENT,
    ),
    case(
        "a variable is not its name",
        when("StringEquals", "${aws:username}"),
        when("StringEquals", "aws:username"),
        DIFFERENT,
    ),
    # --- operators that are not known
    case("an operator of next year", policy(stmt(), stmt(TWO, **cond("StringWithin", KEY, "a"))), PLAIN, UNKNOWN),
    case("an operator in lower case", when("stringequals", "o-1"), when("StringEquals", "o-1"), UNKNOWN),
    case("a quantifier of next year", when("ForSomeValues:StringEquals", "o-1"), PLAIN, UNKNOWN),
    # --- values that are none
    case("a number in other digits", age("NumericEquals", "１０"), age("NumericEquals", "10"), DIFFERENT),
    case("a number with a line", age("NumericEquals", "1_0"), age("NumericEquals", "10"), DIFFERENT),
    *(
        case(
            f"{text} before and after", when("DateLessThan", text, DATE), when("DateGreaterThan", text, DATE), DIFFERENT
        )
        for text in ("2026", "2026-06-01T00:00:00", "soon")
    ),
    case("no number, less and more", age("NumericLessThan", "1_0"), age("NumericGreaterThan", "1_0"), DIFFERENT),
    *(
        case(
            f"{operator} of what is no value, beside its opposite",
            policy(stmt(**cond(operator, key, text)), stmt(**cond(opposite, key, text))),
            PLAIN,
            DIFFERENT,
        )
        for operator, opposite, key, text in [
            ("NumericEquals", "NumericNotEquals", "aws:MultiFactorAuthAge", "1_0"),
            ("DateEquals", "DateNotEquals", DATE, "2026"),
            ("IpAddress", "NotIpAddress", "aws:SourceIp", "10.0.0.0/255.0.0.0"),
            ("ArnLike", "ArnNotLike", "aws:PrincipalTag/arn", "arn:aws:iam"),
        ]
    ),
    *(
        case(
            f"{first} and {second} of a tag that may be no such value",
            policy(stmt(**cond(first, TAG, one)), stmt(**cond(second, TAG, other))),
            when("Null", "false", TAG),
            DIFFERENT,
        )
        for first, one, second, other in [
            ("NumericLessThan", "5", "NumericGreaterThanEquals", "5"),
            ("DateLessThan", "2026-01-01", "DateGreaterThanEquals", "2026-01-01"),
            ("IpAddress", "0.0.0.0/0", "IpAddress", "::/0"),
        ]
    ),
    *(
        case(
            f"{first} and {second} of {key}, which is always such a value",
            policy(stmt(**cond(first, key, one)), stmt(**cond(second, key, other))),
            when("Null", "false", key),
            SAME,
        )
        for key, first, one, second, other in [
            ("aws:MultiFactorAuthAge", "NumericLessThan", "5", "NumericGreaterThanEquals", "5"),
            ("aws:EpochTime", "NumericLessThan", "5", "NumericGreaterThanEquals", "5"),
            (DATE, "DateLessThan", "2026-01-01", "DateGreaterThanEquals", "2026-01-01"),
            ("aws:SourceIp", "IpAddress", "0.0.0.0/0", "IpAddress", "::/0"),
        ]
    ),
    case(
        "numbers of 31 digits",
        age("NumericEquals", f"1{'0' * 29}1"),
        age("NumericEquals", f"1{'0' * 29}2"),
        DIFFERENT,
    ),
    case("a number with zeros behind it", age("NumericEquals", "-0.50"), age("NumericEquals", "-5e-1"), SAME),
    case("a week date", when("DateEquals", "2027-W01-1"), when("DateEquals", "2027-01-04"), DIFFERENT),
]
