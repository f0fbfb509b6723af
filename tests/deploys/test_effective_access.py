"""From end to end: a registry policy that denies the cluster's account refuses the promotion, and its end lets it in.

What each answer says, a pull of the cluster's account finds true: real pushes, pulls, change events and rows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from deployments.aws.sqs import EventQueue
from deployments.config import Access, Configuration
from deployments.deploys.image_proof import ImageLocation
from deployments.errors import Refusal
from deployments.models import Deployment, Environment, Promotion, Repository
from sandbox import images
from sandbox.control import Sandbox
from tests.support.change_events import consuming
from tests.support.constants import CLUSTER, HOST, OWNER, POLICY
from tests.support.deploys import deploying, finalize, push
from tests.support.sweeps import sweep_all


@pytest.fixture
def consumers(configure: Callable[..., Configuration], sandbox: Sandbox) -> Configuration:
    return configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS=CLUSTER,
    )


def pulls(sandbox: Sandbox, deployment: Deployment) -> bool:
    place = ImageLocation.of(deployment.image_ref)
    try:
        images.pull(sandbox.url, *sandbox.login("cluster"), place.name, place.tag, registry=HOST)
    except images.RegistryError as refused:
        if refused.status != 403:
            raise
        return False
    return True


def row_of(deployment: Deployment) -> tuple[str, str, str]:
    found = Repository.objects.get(name=ImageLocation.of(deployment.image_ref).name).consumers[CLUSTER]
    return found.verdict, found.layer, found.statement


def becomes(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.02)


@pytest.mark.costly
def test_a_denying_registry_policy_refuses_the_promotion_and_its_deletion_lets_the_cluster_in(
    environment: Environment, consumers: Configuration, sandbox: Sandbox
) -> None:
    queue = EventQueue(url=sandbox.events_to("registry-admin"), region="us-east-1", access=Access(), seconds=1)
    deny = {
        "Sid": "NoCluster",
        "Effect": "Deny",
        "Principal": {"AWS": CLUSTER},
        "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
        "Resource": f"arn:aws:ecr:us-east-1:{OWNER}:repository/*",
    }
    client = sandbox.client("ecr")
    client.put_registry_policy(policyText=json.dumps({"Version": "2012-10-17", "Statement": [deny]}))
    deployment = deploying(environment, consumers)
    push(sandbox, deployment)

    with pytest.raises(Refusal) as caught:
        finalize(deployment, consumers)

    assert caught.value.code == "registry_policy_denies"
    assert not Promotion.objects.exists()
    assert not pulls(sandbox, deployment)
    assert row_of(deployment) == ("no", "registry policy", "NoCluster")
    sweep_all(consumers)
    assert row_of(deployment) == ("no", "registry policy", "NoCluster")

    with consuming(consumers, queue):
        client.delete_registry_policy()
        becomes(lambda: row_of(deployment) == ("yes", "repository policy", "Statement[0]"))

    said = finalize(deployment, consumers)
    assert f"Account {CLUSTER} can pull it." in said
    assert pulls(sandbox, deployment)
    deployment.refresh_from_db()
    assert deployment.receipt is not None
    assert deployment.receipt.pullers[CLUSTER].verdict == "yes"
    assert "The registry has no policy." in deployment.receipt.pullers[CLUSTER].basis

    with consuming(consumers, queue):
        client.put_registry_policy(policyText=json.dumps({"Version": "2012-10-17", "Statement": [deny]}))
        becomes(lambda: row_of(deployment)[0] == "no")
        assert not pulls(sandbox, deployment)
        client.put_account_setting(name="REGISTRY_POLICY_SCOPE", value="V1")
        becomes(lambda: row_of(deployment)[0] == "yes")
        assert pulls(sandbox, deployment)
