"""The system checks about what ECR refuses: each finding has its variable, its place and what to write instead."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.checks import run_checks

from deployments import config
from deployments.checks import configuration_is_readable, policies_are_sound

HOST = "111111111111.dkr.ecr.us-east-1.amazonaws.com"
PULL = {"Effect": "Allow", "Principal": {"AWS": "222222222222"}, "Action": "ecr:*Image*"}
FREEZE = {"Sid": "freeze", "Effect": "Deny", "Principal": {"AWS": "111111111111"}, "Action": "ecr:SetRepositoryPolicy"}
ROLE = "arn:aws:iam::111111111111:role/registry-admin"
RULE = {
    "rulePriority": 1,
    "selection": {"tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": "14"},
    "action": {"type": "expire"},
}


def errors(settings: Any, **environment: str) -> list[str]:
    """The errors of the start: id, message and hint."""
    settings.CONFIGURATION = config.load({"DEPLOY_REGISTRY_HOST": HOST} | environment)
    found = [*configuration_is_readable(app_configs=None), *policies_are_sound(app_configs=None)]
    return [f"{one.id}: {one.msg} {one.hint}" for one in found if one.is_serious()]


@pytest.mark.parametrize("prefix", ["", "V4_"])
@pytest.mark.parametrize(
    ("name", "value", "id", "place", "instead"),
    [
        ("DEFAULT_REPOSITORY_POLICY", {"Statement": []}, "E113", "The policy has no statement", "Add one"),
        ("DEFAULT_REPOSITORY_POLICY", {"Statement": [PULL, FREEZE]}, "E115", "Statement “freeze” denies", "Exempt it"),
        ("LIFECYCLE_POLICY", {"rules": [RULE]}, "E001", "rules[0].selection.countNumber", '"countNumber": 14'),
        ("TAGS", "cost center (eu)=a&b;c", "E001", "The tag “cost center (eu)”", "Replace the other characters"),
    ],
)
def test_a_value_that_ecr_refuses_stops_the_start(
    prefix: str, name: str, value: Any, id: str, place: str, instead: str, settings: Any
) -> None:
    variable = f"{prefix}DEPLOY_REGISTRY_ECR_{name}"
    other = {"V4_DEPLOY_REGISTRY_NAMESPACE": "v4"} if prefix else {}
    [error] = errors(settings, **{variable: value if isinstance(value, str) else json.dumps(value)}, **other)

    assert error.startswith(f"deployments.{id}: {variable}: {place}")
    assert instead in error


def test_the_role_that_writes_the_policy_is_the_one_of_the_settings(settings: Any) -> None:
    exempt = {"Condition": {"ArnNotEquals": {"aws:PrincipalArn": ROLE}}, "Principal": "*"}
    policy = {"DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": json.dumps({"Statement": [PULL, FREEZE | exempt]})}

    assert errors(settings, **policy, DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN=ROLE) == []
    [error] = errors(settings, **policy, DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN=f"{ROLE}-2")
    assert "deployments.E115" in error


def test_a_policy_is_judged_for_each_registry_that_gets_it_and_shown_once(settings: Any) -> None:
    own = {"Sid": "freeze", "Effect": "Deny", "Principal": {"AWS": "333333333333"}, "Action": "ecr:SetRepositoryPolicy"}
    policy = {"DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": json.dumps({"Statement": [PULL, own]})}
    other = {"V4_DEPLOY_REGISTRY_HOST": HOST.replace("111111111111", "333333333333")}

    assert errors(settings, **policy) == []
    for more in ({}, {"DEPLOY_REGISTRY_HOST": "localhost:5000"}):
        [error] = errors(settings, **policy, **other | more)
        assert error.startswith("deployments.E115: DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY: ")
    assert len(errors(settings, DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY="{}")) == 1


def found(settings: Any, **environment: str) -> list[str]:
    """All findings about settings and policies: id, message and hint."""
    settings.CONFIGURATION = config.load({"DEPLOY_REGISTRY_HOST": HOST, **environment})
    messages = run_checks(tags=["configuration", "policy"])
    return [f"{str(one.id).removeprefix('deployments.')} {one.msg} {one.hint}" for one in messages]


ACTIONS = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchCheckLayerAvailability"]
PULLS = {"Effect": "Allow", "Principal": {"AWS": "222222222222"}, "Action": ACTIONS}
BEIJING = "111111111111.dkr.ecr.cn-north-1.amazonaws.com.cn"
NAMES_AN_ARN = json.dumps({"Statement": [PULLS | {"Principal": {"AWS": "arn:aws:iam::222222222222:root"}}]})
FREEZES_333 = json.dumps({"Statement": [PULLS, FREEZE | {"Principal": {"AWS": "333333333333"}}]})


@pytest.mark.parametrize(
    ("v4_host", "text", "error"),
    [(BEIJING, NAMES_AN_ARN, "E109"), (HOST.replace("111111111111", "333333333333"), FREEZES_333, "E115")],
)
def test_a_policy_that_only_the_v4_registry_would_refuse_stops_the_start(
    v4_host: str, text: str, error: str, settings: Any
) -> None:
    policy = {"DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": text}
    assert [each for each in found(settings, **policy) if each.startswith("E")] == []

    [said] = [each for each in found(settings, **policy, V4_DEPLOY_REGISTRY_HOST=v4_host) if each.startswith("E")]

    assert said.startswith(f"{error} DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY: Statement")
    assert f"This is about the registry {v4_host}." in said


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ASSUME_ROLE_ARN", "arn:aws-cn:iam::111111111111:role/x", "is in partition aws-cn"),
        ("PUSH_ROLE_ARN", "arn:aws-us-gov:iam::111111111111:role/x", "Write an ARN that begins with arn:aws:iam::."),
        ("KMS_KEY", "arn:aws:kms:eu-west-1:111111111111:alias/x", "begins with arn:aws:kms:us-east-1:."),
        ("KMS_KEY", "arn:aws-cn:kms:us-east-1:111111111111:alias/x", "is in us-east-1 of partition aws-cn"),
    ],
)
def test_a_role_or_key_that_the_registry_cannot_use_stops_the_start(
    name: str, value: str, words: str, settings: Any
) -> None:
    policy = {"DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": json.dumps({"Statement": [PULLS]})}
    variable = f"DEPLOY_REGISTRY_ECR_{name}"

    [said] = found(settings, **policy, **{variable: value})
    assert said.startswith(f"E005 {variable}: {value} ")
    assert words in said
    [said] = found(settings, **policy, **{f"V4_{variable}": value}, V4_DEPLOY_REGISTRY_NAMESPACE="v4")
    assert said.startswith(f"E005 V4_{variable}: ")


def test_ecr_settings_are_said_to_have_no_effect_only_where_they_have_none(settings: Any) -> None:
    policy = {"DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": json.dumps({"Statement": [PULLS]})}
    local = "localhost:5000"

    assert found(settings, DEPLOY_REGISTRY_HOST=local, V4_DEPLOY_REGISTRY_HOST=HOST, **policy) == []
    assert found(settings, V4_DEPLOY_REGISTRY_HOST=local, **policy) == []
    for variable, more in {
        "DEPLOY": {"DEPLOY_REGISTRY_HOST": local},
        "V4_DEPLOY": {"V4_DEPLOY_REGISTRY_HOST": local, "V4_DEPLOY_REGISTRY_ECR_TAGS": "a=b"},
    }.items():
        [said] = found(settings, **policy, **more)
        assert said.startswith(f"W002 {variable}_REGISTRY_ECR_…: set, but localhost:5000 is not ECR")
        assert f"Set {variable}_REGISTRY_HOST" in said
