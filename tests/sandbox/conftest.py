"""A sandbox of these tests' own: they judge the judge, and need nothing else of the product."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.control import Sandbox
from tests.sandbox.asking import OWNER


@pytest.fixture(scope="session")
def sandbox_process() -> Iterator[Sandbox]:
    with Sandbox.start() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(sandbox_process: Sandbox) -> Sandbox:
    """As new: no repositories, two accounts, no faults."""
    sandbox_process.reset()
    return sandbox_process


@pytest.fixture
def ecr(sandbox: Sandbox) -> Any:
    """The owner account's ECR."""
    return sandbox.client("ecr")


@pytest.fixture
def repository(ecr: Any) -> str:
    """An empty repository of the owner's, without a policy."""
    ecr.create_repository(repositoryName="trigger/shop")
    return "trigger/shop"


@pytest.fixture
def role(sandbox: Sandbox) -> str:
    """A role of the owner account that the account itself may assume, and that may do everything with ECR."""
    iam = sandbox.client("iam")
    trust = {"Effect": "Allow", "Principal": {"AWS": OWNER}, "Action": "sts:AssumeRole"}
    arn = iam.create_role(
        RoleName="deployer", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )["Role"]["Arn"]
    iam.attach_role_policy(
        RoleName="deployer", PolicyArn="arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryFullAccess"
    )
    return str(arn)
