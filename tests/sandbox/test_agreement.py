"""What `deployments.ecr_rules` refuses, the sandbox refuses too, and the other way round. The two share no code.

Each rule has at least one text that breaks only this rule. The sandbox is asked over HTTP with boto3.
"""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from botocore.exceptions import ClientError

from deployments.ecr_rules import LIFECYCLE_CHARACTERS, RULES, lifecycle_breaches, tag_breaches
from sandbox.control import Sandbox

EXPIRE = {"type": "expire"}
UNTAGGED = {"tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 14}
TAGGED = {"tagStatus": "tagged", "tagPrefixList": ["v"], "countType": "imageCountMoreThan", "countNumber": 3}
ANY = {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 100}


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
    json.dumps({"rules": [rule(ANY)]}, indent=8).ljust(30_720),
]
REFUSED = [
    ("json", "not JSON"),
    ("json", "[]".ljust(100)),
    ("json", '{"rules": NaN}'.ljust(100)),
    ("json", lifecycle(rule())[:-1].replace('"rules"', '"rules": [], "rules"')),
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
    ("storage-class", chosen(countType="sinceImageTransitioned")),
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


def test_every_rule_of_lifecycle_policies_and_tags_is_tried() -> None:
    tried = {f"lifecycle.{name}" for name, _ in REFUSED} | {f"tags.{name}" for name, _ in TAGS_REFUSED}

    assert tried == {rule.name for rule in RULES.values() if rule.about != "policy"}
    assert all(rule.source and rule.instead for rule in RULES.values())
