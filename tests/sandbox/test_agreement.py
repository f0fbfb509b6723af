"""What `deployments.ecr_rules` refuses, the sandbox refuses too, and the other way round. The two share no code.

Each rule has at least one text that breaks only this rule. The sandbox is asked over HTTP with boto3.
"""

from __future__ import annotations

import copy
import json
import random
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError

from deployments.ecr_rules import LIFECYCLE_CHARACTERS, RULES, lifecycle_breaches, tag_breaches
from deployments.policy import lint
from sandbox.control import Sandbox

EXPIRE = {"type": "expire"}
UNTAGGED = {"tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 14}
TAGGED = {"tagStatus": "tagged", "tagPrefixList": ["v"], "countType": "imageCountMoreThan", "countNumber": 3}
ANY = {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 100}

OLD = {"tagStatus": "any", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 30}
ARCHIVED = OLD | {"storageClass": "archive", "countType": "sinceImageTransitioned", "countNumber": 365}


def rule(selection: Any = UNTAGGED, priority: Any = 1, action: Any = EXPIRE, **more: Any) -> dict[str, Any]:
    return {"rulePriority": priority, "selection": selection, "action": action, **more}


def lifecycle(*rules: Any, **more: Any) -> str:
    return json.dumps({"rules": list(rules), **more}).ljust(100)


def chosen(base: dict[str, Any] = UNTAGGED, /, **changes: Any) -> str:
    """A lifecycle policy of one rule whose selection has these changes; None takes an element away."""
    selection = {name: value for name, value in (base | changes).items() if value is not None}
    return lifecycle(rule(selection))


ARCHIVE = {"type": "transition", "targetStorageClass": "archive"}
ACCEPTED = [
    lifecycle(rule()),
    lifecycle(rule(description="old ones")),
    lifecycle(rule(TAGGED, 7), rule(priority=3), rule(ANY, 9)),
    lifecycle(*(rule(priority=number) for number in range(1, 51))),
    chosen(TAGGED, tagPrefixList=None, tagPatternList=["*test*1*2*3", "prod*"]),
    chosen(storageClass="standard"),
    chosen(countType="sinceImageTransitioned", storageClass="archive", countNumber=90),
    lifecycle(rule(UNTAGGED | {"countType": "sinceImagePulled"}, action=ARCHIVE)),
    # The guide's "Combining archive and expire rules": one rule for any image in each storage class.
    lifecycle(rule(OLD, action=ARCHIVE), rule(ARCHIVED, 2)),
    lifecycle(rule(ARCHIVED, 1), rule(TAGGED, 2), rule(OLD, 3, ARCHIVE)),
    json.dumps({"rules": [rule(ANY)]}, indent=8).ljust(30_720),
]
REFUSED = [
    ("json", "not JSON"),
    ("json", "[]".ljust(100)),
    ("json", '{"rules": NaN}'.ljust(100)),
    ("json", lifecycle(rule()).replace('"rules"', '"rules": [], "rules"')),
    ("json", "[" * 5_000),
    ("size", lifecycle(rule()).ljust(30_721)),
    ("element", lifecycle(rule(), padding="x" * 100)),
    ("element", json.dumps({"Rules": [rule()]}).ljust(100)),
    ("element", lifecycle(rule(surprise=1))),
    ("element", chosen(countnumber=1)),
    ("rules", lifecycle()),
    ("rules", "{}".ljust(100)),
    ("rules", json.dumps({"rules": rule()}).ljust(100)),
    ("many-rules", lifecycle(*(rule(priority=number) for number in range(1, 52)))),
    ("rule", lifecycle(rule(), "expire")),
    ("priority", lifecycle(rule(priority="1"))),
    ("priority", lifecycle(rule(priority=0))),
    ("priority", lifecycle(rule(priority=True))),
    ("priority", lifecycle(rule(priority=1.5))),
    ("priority", lifecycle({"selection": UNTAGGED, "action": EXPIRE})),
    ("unique-priority", lifecycle(rule(), rule(ANY))),
    ("description", lifecycle(rule(description=1))),
    ("description", lifecycle(rule(description=None))),
    ("selection", lifecycle(rule([UNTAGGED]))),
    ("tag-status", chosen(tagStatus="Tagged")),
    ("tag-status", chosen(tagStatus=["untagged"])),
    ("tagged", chosen(TAGGED, tagPrefixList=None)),
    ("tagged", chosen(TAGGED, tagPatternList=["v*"])),
    ("not-tagged", chosen(tagPrefixList=["v"])),
    ("not-tagged", chosen(ANY, tagPatternList=["v*"])),
    ("tag-list", chosen(TAGGED, tagPrefixList=[])),
    ("tag-list", chosen(TAGGED, tagPrefixList="v")),
    ("tag-list", chosen(TAGGED, tagPrefixList=["v", ""])),
    ("wildcards", chosen(TAGGED, tagPrefixList=None, tagPatternList=["test*1*2*3*4*5*6"])),
    ("any-last", lifecycle(rule(ANY, 1), rule(UNTAGGED, 2))),
    ("any-last", lifecycle(rule(ANY, 1), rule(ANY, 2))),
    ("any-last", lifecycle(rule(ARCHIVED, 1), rule(ARCHIVED, 2))),
    ("any-last", lifecycle(rule(OLD, 1), rule(ARCHIVED, 2), rule(UNTAGGED, 3))),
    ("count-action", lifecycle(rule(UNTAGGED | {"countType": "sinceImagePulled"}))),
    ("count-action", lifecycle(rule(ARCHIVED, action=ARCHIVE))),
    ("archive-days", lifecycle(rule(ARCHIVED | {"countNumber": 89}))),
    ("count-type", chosen(countType="sinceImageCreated")),
    ("count-type", chosen(countType=["sinceImagePushed"])),
    ("count-unit", chosen(countUnit=None)),
    ("count-unit", chosen(countUnit="weeks")),
    ("count-unit", chosen(ANY, countUnit="days")),
    ("count-number", chosen(countNumber="14")),
    ("count-number", chosen(countNumber=0)),
    ("count-number", chosen(countNumber=2.5)),
    ("count-number", chosen(countNumber=None)),
    ("storage-class", chosen(storageClass="archive")),
    ("storage-class", chosen(countType="sinceImageTransitioned", countNumber=90)),
    ("action", lifecycle(rule(action={"type": "delete"}))),
    ("action", lifecycle(rule(action={"type": "transition"}))),
    ("action", lifecycle(rule(action={"type": "expire", "targetStorageClass": None}))),
    ("action", lifecycle(rule(action="expire"))),
]


def takes_lifecycle(client: Any, name: str, text: str) -> bool:
    """Whether the sandbox stores the text."""
    try:
        client.put_lifecycle_policy(repositoryName=name, lifecyclePolicyText=text)
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidParameterException":
            raise
        return False
    return True


@pytest.fixture
def unchecked(sandbox: Sandbox) -> Any:
    """A client that sends every value, also one that botocore's own checks would stop."""
    return sandbox.client("ecr", parameter_validation=False)


@pytest.mark.wide
@pytest.mark.parametrize(("name", "text"), REFUSED, ids=[f"{name}-{i}" for i, (name, _) in enumerate(REFUSED)])
def test_what_the_rules_of_lifecycle_policies_refuse_the_sandbox_refuses(
    unchecked: Any, repository: str, name: str, text: str
) -> None:
    assert {breach.rule for breach in lifecycle_breaches(text)} == {f"lifecycle.{name}"}
    assert not takes_lifecycle(unchecked, repository, text)


@pytest.mark.parametrize("text", ACCEPTED, ids=range(len(ACCEPTED)))
def test_what_the_rules_of_lifecycle_policies_accept_the_sandbox_accepts(
    unchecked: Any, repository: str, text: str
) -> None:
    assert lifecycle_breaches(text) == ()
    assert takes_lifecycle(unchecked, repository, text)


@pytest.mark.wide
def test_a_thousand_random_lifecycle_policies_are_judged_alike() -> None:
    from sandbox.aws import AWSError
    from sandbox.documents import lifecycle_policy

    def sandbox_takes(text: str) -> bool:
        try:
            lifecycle_policy(text)
        except AWSError:
            return False
        return True

    dice = random.Random(10)  # noqa: S311
    values: list[Any] = [None, True, 0, 1, 2, "1", "", "days", "any", "tagged", "untagged", [], ["v*"], {}, "archive"]
    taken = 0
    for _ in range(1_000):
        rules = [
            rule(copy.deepcopy(dice.choice([UNTAGGED, TAGGED, ANY])), number, dict(EXPIRE))
            for number in range(1, dice.randint(1, 3) + 1)
        ]
        for _ in range(dice.randint(0, 2)):
            changed: Any = dice.choice(rules)
            changed = dice.choice([changed, changed["selection"], changed["selection"], changed["action"]])
            if isinstance(changed, dict) and changed:
                name = dice.choice([*changed, "storageClass", "countUnit", "tagPatternList"])
                if dice.random() < 0.3:
                    changed.pop(name, None)
                else:
                    changed[name] = dice.choice(values)
                rules = [one for one in rules if isinstance(one.get("selection"), dict) and one.get("action")]
            if not rules:
                break
        text = lifecycle(*rules)
        assert LIFECYCLE_CHARACTERS[0] <= len(text) <= LIFECYCLE_CHARACTERS[1]
        assert (lifecycle_breaches(text) == ()) is sandbox_takes(text), (text, lifecycle_breaches(text))
        taken += sandbox_takes(text)
    assert 200 < taken < 800


# ------------------------------------------------------------------------------------------------ repository policies

PULL = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
OTHER, OWN = "222222222222", "111111111111"
ALLOW: dict[str, Any] = {"Effect": "Allow", "Principal": {"AWS": OTHER}, "Action": PULL}
SET = "ecr:SetRepositoryPolicy"


def policy_of(*statements: Any, **more: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements), **more})


def one(**changes: Any) -> str:
    """A policy of one statement with these changes; None takes an element away."""
    return policy_of({name: value for name, value in (ALLOW | changes).items() if value is not None})


def deny(**changes: Any) -> str:
    """A policy that lets another account pull, and a Deny."""
    statement = {"Sid": "no", "Effect": "Deny", "Principal": "*", "Action": SET} | changes
    return policy_of(ALLOW, {name: value for name, value in statement.items() if value is not None})


def when(operator: str, key: str, value: Any) -> dict[str, Any]:
    return {operator: {key: value}}


LAMBDA = {"Service": "lambda.amazonaws.com"}
POLICIES_ACCEPTED = [
    one(),
    one(Sid="with spaces"),
    policy_of(ALLOW, Id="mine"),
    json.dumps({"Statement": ALLOW}),
    one(Principal="*", Condition=when("StringEquals", "aws:PrincipalOrgID", "o-1234567890")),
    one(Principal={"AWS": [OTHER, f"arn:aws:iam::{OWN}:root"]} | LAMBDA),
    one(Principal={"AWS": f"arn:aws:sts::{OTHER}:assumed-role/node/i-0abc"}),
    one(Principal={"AWS": f"arn:aws:sts::{OTHER}:federated-user/ann"}),
    one(Principal={"Federated": "accounts.google.com"}),
    one(Action=None, NotAction="ecr:*Delete*"),
    one(Action="ECR:batch*"),
    one(Action="*:*"),
    one(Action=[*PULL, "ecr:GetAuthorizationToken"]),
    one(Condition={}),
    one(Condition={"StringEquals": {}}),
    one(Condition=when("StringEquals", "aws:PrincipalOrgID", [])),
    one(Condition=when("Bool", "aws:SecureTransport", True)),
    one(Condition=when("NumericLessThan", "aws:MultiFactorAuthAge", 3600)),
    one(Condition=when("IpAddress", "aws:SourceIp", "everywhere")),
    one(Condition=when("ForAnyValue:StringLikeIfExists", "aws:PrinciplOrgPaths", "o-1/*")),
    policy_of(ALLOW).ljust(10_240),
    deny(Action="ecr:PutImage"),
    deny(Principal={"AWS": OTHER}),
    deny(Action="ecr:*", Condition=when("Bool", "aws:SecureTransport", False)),
    deny(Condition=when("StringNotEquals", "aws:PrincipalAccount", [OWN, OTHER])),
    deny(Action=None, NotAction=[SET, "ecr:Get*"]),
]
POLICIES_REFUSED = [
    ("E101", "not JSON"),
    ("E101", '{"Version": NaN}'),
    ("E101", "[" * 5_000),
    ("E102", policy_of(ALLOW).ljust(10_241)),
    ("E103", "[]"),
    ("E103", policy_of(ALLOW, Comment="x")),
    ("E103", policy_of(ALLOW)[:-1] + ', "Version": "2012-10-17"}'),
    ("E103", policy_of(ALLOW, Version="2020-01-01")),
    ("E103", policy_of(ALLOW, Version=None)),
    ("E103", policy_of(ALLOW, Id=1)),
    ("E103", policy_of(ALLOW, Id=["a"])),
    ("E103", policy_of(ALLOW, {})),
    ("E103", policy_of(ALLOW, "Allow")),
    ("E103", one(Effect="allow")),
    ("E103", one(Effect=None)),
    ("E103", one(Sid=1)),
    ("E103", one(Sid=["a"])),
    ("E103", one(Sid={})),
    ("E103", one(Sid=False)),
    ("E103", one(Surprise=1)),
    ("E103", one(NotAction=PULL)),
    ("E103", one(NotPrincipal="*")),
    ("E103", one(Action=[*PULL, 1])),
    ("E103", one(Principal={"aws": OTHER})),
    ("E103", one(Principal={"AWS": 222222222222})),
    ("E103", one(Principal={"AWS": OTHER, "Service": []})),
    ("E103", one(Principal=["*"], Condition=when("StringEquals", "aws:PrincipalOrgID", "o-1234567890"))),
    ("E103", one(Condition="x")),
    ("E103", one(Condition={"StringEquals": None})),
    ("E103", one(Condition={"StringEquals": []})),
    ("E103", one(Condition=when("StringEquals", "", "x"))),
    ("E103", one(Condition=when("StringEquals", "aws:PrincipalOrgID", {}))),
    ("E103", one(Condition=when("StringEquals", "aws:PrincipalOrgID", [None]))),
    ("E103", json.dumps({"repositoryName": "a", "registryId": OWN, "policyText": policy_of(ALLOW)})),
    ("E104", one(Resource="*")),
    ("E104", one(NotResource="arn:aws:s3:::x")),
    ("E105", one(Principal=None)),
    ("E105", one(Principal={})),
    ("E105", one(Principal={"AWS": []})),
    ("E106", one(Action=None)),
    ("E106", one(Action=[])),
    ("E107", one(Action=[*PULL, "s3:GetObject"])),
    ("E107", one(Action=[*PULL, "BatchGetImage"])),
    ("E107", one(Action=[*PULL, "e*"])),
    ("E108", one(Action=[*PULL, "ecr:Batch-Get"])),
    ("E108", one(Action=[*PULL, "ecr:"])),
    ("E109", one(Principal=OTHER)),
    ("E109", one(Principal={"AWS": "22222222222"})),
    ("E109", one(Principal={"AWS": f"arn:aws:iam::{OTHER}:*"})),
    ("E109", one(Principal={"AWS": f"arn:aws:iam::{OTHER}:role/*"})),
    ("E109", one(Principal={"AWS": f"arn:aws:iam::{OTHER}:group/x"})),
    ("E109", one(Principal={"AWS": f"arn:aws:iam::{OTHER}:assumed-role/stg-01/i-0abc"})),
    ("E109", one(Principal={"AWS": f"arn:aws:sts::{OTHER}:role/deploy"})),
    ("E109", one(Principal={"AWS": f"arn:aws:sts::{OTHER}:assumed-role/deploy"})),
    ("E109", one(Principal={"AWS": f"arn:aws-cn:iam::{OTHER}:root"})),
    ("E109", one(Principal={"AWS": "lambda.amazonaws.com"})),
    ("E109", one(Principal={"AWS": "AKIAEXAMPLE123456789"})),
    ("E109", one(Principal={"CanonicalUser": "79a59d"})),
    ("E109", one(Principal={"Federated": ""})),
    ("E112", one(Condition=when("stringequals", "aws:PrincipalOrgID", "o-1234567890"))),
    ("E112", one(Condition=when("NullIfExists", "aws:PrincipalOrgID", "true"))),
    ("E113", "{}"),
    ("E113", '{"Version":"2012-10-17"}'),
    ("E113", policy_of()),
    ("E113", policy_of({})),
    ("E114", one(Principal={"Service": "lambda"})),
    ("E114", one(Principal={"Service": f"arn:aws:iam::{OTHER}:root"})),
    ("E114", one(Principal={"Service": "Lambda.amazonaws.com"})),
    ("E115", deny()),
    ("E115", deny(Principal={"AWS": OWN})),
    ("E115", deny(Principal={"AWS": f"arn:aws:iam::{OWN}:root"}, Action="ecr:Set*")),
    ("E115", deny(Action=None, NotAction=PULL)),
    ("E115", deny(Principal=None, NotPrincipal={"AWS": OTHER}, Action="ecr:*")),
    ("E115", deny(Condition=when("StringNotEquals", "aws:PrincipalAccount", OTHER))),
    ("E115", deny(Condition=when("Bool", "aws:SecureTransport", "true"))),
]


def takes_policy(client: Any, name: str, text: str) -> bool:
    try:
        client.set_repository_policy(repositoryName=name, policyText=text)
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidParameterException":
            raise
        return False
    return True


def errors_of(text: str) -> set[str]:
    """The findings by which ECR refuses the text. An open policy and a consumer that cannot pull are our own errors."""
    found = lint(text, partition="aws", allow_public=True, writer=OWN)
    return {finding.id.removeprefix("deployments.") for finding in found if finding.level == "error"}


@pytest.mark.wide
@pytest.mark.parametrize(
    ("code", "text"), POLICIES_REFUSED, ids=[f"{code}-{i}" for i, (code, _) in enumerate(POLICIES_REFUSED)]
)
def test_what_the_rules_of_repository_policies_refuse_the_sandbox_refuses(
    unchecked: Any, repository: str, code: str, text: str
) -> None:
    assert errors_of(text) == {code}
    assert not takes_policy(unchecked, repository, text)


@pytest.mark.parametrize("text", POLICIES_ACCEPTED, ids=range(len(POLICIES_ACCEPTED)))
def test_what_the_rules_of_repository_policies_accept_the_sandbox_accepts(
    unchecked: Any, repository: str, text: str
) -> None:
    assert errors_of(text) == set()
    assert takes_policy(unchecked, repository, text)


PRINCIPALS: list[Any] = [
    "*",
    {"AWS": OTHER},
    {"AWS": [OWN, OTHER]},
    {"AWS": "*"},
    {"AWS": f"arn:aws:sts::{OTHER}:assumed-role/a/b"},
    {"AWS": f"arn:aws:iam::{OTHER}:user/x y"},
    {"CanonicalUser": "a"},
    {"Federated": "a"},
    {"Service": "x"},
    LAMBDA,
]
ACTIONS: list[Any] = ["ecr:*", "*", "ecr:PutImage", PULL, "ecr:Batch*", "s3:x", "ecr:", "ECR:putimage", "*:*", "ecr:**"]
CONDITIONS: list[Any] = [
    {},
    {"Bool": {"a": True}},
    {"ForAnyValue:StringLike": {"a": ["b", "c"]}},
    {"x": {"a": "b"}},
    {"StringEquals": {}},
    {"StringEquals": {"a": []}},
    {"StringEquals": {"a": [1, 2.5, True, "x"]}},
]
JUNK: list[Any] = [
    *(None, True, False, 0, 1, 1.5, "", "x", [], {}, ["x"], [None], [[]], [{}], {"x": 1}, {"AWS": None}, {"AWS": {}}),
    *({"AWS": []}, {"AWS": ""}, {"AWS": [OTHER, ""]}, {"AWS": [OTHER, 1]}, {"x": OTHER}),
]
ELEMENTS = ["Sid", "Id", "Version", "NotAction", "NotPrincipal", "Resource", "x", "Condition"]


def spoil(node: Any, dice: random.Random) -> None:
    """Take away, replace or add one part of a document, at a random depth."""
    while keys := list(node) if isinstance(node, dict) else list(range(len(node))):
        key = dice.choice(keys)
        if isinstance(node[key], dict | list) and node[key] and dice.random() < 0.7:
            node = node[key]
            continue
        chance = dice.random()
        if chance < 0.2:
            del node[key]
        elif chance < 0.9:
            node[key] = copy.deepcopy(dice.choice(JUNK))
        elif isinstance(node, dict):
            node[dice.choice(ELEMENTS)] = copy.deepcopy(dice.choice(JUNK))
        return


@pytest.mark.wide
def test_two_thousand_random_repository_policies_are_judged_alike() -> None:
    from sandbox.aws import AWSError, model
    from sandbox.documents import repository_policy
    from sandbox.iam import IAM

    service = model("ecr")

    def sandbox_takes(text: str) -> bool:
        try:
            repository_policy(text, model=service, iam=cast("IAM", None), partition="aws")
        except AWSError:
            return False
        return True

    dice = random.Random(10)  # noqa: S311
    taken = 0
    for _ in range(2_000):
        statements: list[Any] = []
        for _ in range(dice.randint(1, 2)):
            statement = {"Effect": dice.choice(["Allow", "Deny"]), "Principal": copy.deepcopy(dice.choice(PRINCIPALS))}
            statement["Action" if dice.random() < 0.9 else "NotAction"] = copy.deepcopy(dice.choice(ACTIONS))
            if dice.random() < 0.4:
                statement["Condition"] = copy.deepcopy(dice.choice(CONDITIONS))
            statements.append(statement)
        document = {"Version": "2012-10-17", "Statement": statements if dice.random() < 0.9 else statements[0]}
        for _ in range(dice.randint(0, 2)):
            spoil(document, dice)
        text = json.dumps(document)
        # The sandbox's documents do not know who writes, so they judge no lock-out.
        assert (errors_of(text) - {"E115"} == set()) is sandbox_takes(text), (text, errors_of(text))
        taken += sandbox_takes(text)
    assert 200 < taken < 1_500


@pytest.mark.parametrize("action", ["ecr:NewThing2027", "ecr:BatchGetImages", "ecr:Foo*"])
def test_an_action_that_ecr_does_not_have_yet_is_a_warning_that_says_that_ecr_refuses_it(
    ecr: Any, repository: str, action: str
) -> None:
    """The only rule in which the two differ: AWS adds actions, and an older release must start with them."""
    [finding] = lint(one(Action=[*PULL, action]), partition="aws")

    assert (finding.id, finding.level) == ("deployments.W116", "warning")
    assert "ECR refuses" in finding.hint
    assert not takes_policy(ecr, repository, one(Action=[*PULL, action]))


def test_a_deny_that_depends_on_the_request_is_a_warning_that_names_the_condition(ecr: Any, repository: str) -> None:
    text = deny(Condition=when("StringNotEquals", "aws:SourceVpce", "vpce-12345678"))

    [finding] = [one for one in lint(text, partition="aws", writer=OWN) if one.id == "deployments.W118"]

    assert finding.level == "warning"
    assert "aws:SourceVpce" in finding.message
    assert "ECR refuses the policy then" in finding.message
    assert not takes_policy(ecr, repository, text)  # this test does not come through that endpoint


# --------------------------------------------------------------------------------------------------------------- tags

TAGS_REFUSED = [
    ("key", [("", "x")]),
    ("key", [("k" * 129, "x")]),
    ("value", [("team", "x" * 257)]),
    ("reserved", [("aws:team", "x")]),
    ("reserved", [("AWS:team", "x")]),
    ("characters", [('"team', "platform")]),
    ("characters", [("cost center (eu)", "x")]),
    ("characters", [("team", "a&b")]),
    ("characters", [("team", "a;b")]),
    ("characters", [("team", "tab\there")]),
    ("many", [(f"k{number}", "") for number in range(51)]),
]
TAGS_ACCEPTED = [
    [],
    [("team", "platform"), ("managed-by", "registry-admin")],
    [("k" * 128, "v" * 256)],
    [("a_.:/=+-@ 1", "_.:/=+-@ ")],
    [("équipe", "プラットフォーム"), ("no-break\u00a0space", "²")],
    [(f"k{number}", "") for number in range(50)],
]


def takes_tags(client: Any, name: str, tags: list[tuple[str, str]]) -> bool:
    try:
        client.create_repository(repositoryName=name, tags=[{"Key": key, "Value": value} for key, value in tags])
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("InvalidTagParameterException", "TooManyTagsException"):
            raise
        return False
    return True


@pytest.mark.parametrize(
    ("name", "tags"), TAGS_REFUSED, ids=[f"{name}-{i}" for i, (name, _) in enumerate(TAGS_REFUSED)]
)
def test_what_the_rules_of_tags_refuse_the_sandbox_refuses(
    unchecked: Any, name: str, tags: list[tuple[str, str]]
) -> None:
    assert {breach.rule for breach in tag_breaches(tags)} == {f"tags.{name}"}
    assert not takes_tags(unchecked, "trigger/tagged", tags)


@pytest.mark.parametrize("tags", TAGS_ACCEPTED, ids=range(len(TAGS_ACCEPTED)))
def test_what_the_rules_of_tags_accept_the_sandbox_accepts(unchecked: Any, tags: list[tuple[str, str]]) -> None:
    assert tag_breaches(tags) == ()
    assert takes_tags(unchecked, "trigger/tagged", tags)


def test_every_rule_is_tried() -> None:
    tried = {f"lifecycle.{name}" for name, _ in REFUSED} | {f"tags.{name}" for name, _ in TAGS_REFUSED}
    tried |= {f"deployments.{code}" for code, _ in POLICIES_REFUSED}

    assert tried == set(RULES)
    assert all(rule.source and rule.instead for rule in RULES.values())
