"""The system checks about what ECR refuses: each finding has its variable, its place and what to write instead."""

from __future__ import annotations

import json
from typing import Any

import pytest

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
