"""What `deployments.policy.effective` says of a pair of policies, a pull of the cluster's account finds true.

The sandbox decides with code of its own. Each pair is a repository policy and a registry policy, put into a registry in
which an image is; then the cluster's account pulls it, by the manifest and every layer.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from deployments.policy import RegistryPolicy, effective
from sandbox import images
from sandbox.control import Sandbox
from tests.sandbox.asking import CLUSTER, HOST, OWNER, policy, statement

NAME = "trigger/shop"
ARN = f"arn:aws:ecr:us-east-1:{OWNER}:repository/{NAME}"
OTHER = f"arn:aws:ecr:us-east-1:{OWNER}:repository/another/*"
ROOT, ALL = f"arn:aws:iam::{CLUSTER}:root", "*"


def allow(action: Any = "ecr:*", resource: Any = ALL, principal: Any = CLUSTER, **more: Any) -> dict[str, Any]:
    return statement(principal, action, Resource=resource, **more)


def deny(action: Any = "ecr:*", resource: Any = ALL, principal: Any = CLUSTER, **more: Any) -> dict[str, Any]:
    return statement(principal, action, "Deny", Resource=resource, **more)


PULLS = policy()
HALF = policy(statement(action="ecr:BatchGetImage"))
LAYERS, MANIFESTS = "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage"
PRIVATE = {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    repository: str = PULLS
    registry: str = ""
    scope: str = "V2"
    expected: str
    layer: str = ""


PAIRS = {
    "both have none": Pair(repository="", expected="no"),
    "the repository alone allows": Pair(expected="yes", layer="repository policy"),
    "the repository denies": Pair(repository=policy(statement(), statement(effect="Deny")), expected="no"),
    "the registry denies the account": Pair(registry=policy(deny()), expected="no", layer="registry policy"),
    "the registry denies manifests": Pair(registry=policy(deny(MANIFESTS)), expected="no", layer="registry policy"),
    "the registry denies layers": Pair(registry=policy(deny(LAYERS)), expected="no", layer="registry policy"),
    "the registry denies everyone": Pair(
        registry=policy(deny(MANIFESTS, principal="*")), expected="no", layer="registry policy"
    ),
    "the registry denies this repository": Pair(
        registry=policy(deny(resource=ARN)), expected="no", layer="registry policy"
    ),
    "the registry denies a folder with this repository": Pair(
        registry=policy(deny(resource=[OTHER, f"arn:aws:ecr:*:{OWNER}:repository/trigger/*"])),
        expected="no",
        layer="registry policy",
    ),
    "the registry denies another folder": Pair(registry=policy(deny(resource=OTHER)), expected="yes"),
    "the registry denies all but this repository": Pair(
        registry=policy({**statement(effect="Deny", action="ecr:*"), "NotResource": ARN}), expected="yes"
    ),
    "the registry denies all but another folder": Pair(
        registry=policy({**statement(effect="Deny", action="ecr:*"), "NotResource": OTHER}),
        expected="no",
        layer="registry policy",
    ),
    "the registry denies another account": Pair(registry=policy(deny(principal="333333333333")), expected="yes"),
    "the registry denies only pushes": Pair(registry=policy(deny("ecr:PutImage")), expected="yes"),
    "the registry denies all but pulls": Pair(
        registry=policy(
            {"Effect": "Deny", "Principal": {"AWS": CLUSTER}, "NotAction": [MANIFESTS, LAYERS], "Resource": "*"}
        ),
        expected="yes",
    ),
    "the registry denies from private addresses": Pair(registry=policy(deny(Condition=PRIVATE)), expected="yes"),
    "the registry alone allows": Pair(repository="", registry=policy(allow()), expected="yes", layer="registry policy"),
    "the registry allows what the repository lacks": Pair(
        repository=HALF, registry=policy(allow(LAYERS)), expected="yes"
    ),
    "the registry allows another folder": Pair(repository="", registry=policy(allow(resource=OTHER)), expected="no"),
    "the registry allows what the repository denies": Pair(
        repository=policy(statement(effect="Deny")),
        registry=policy(allow()),
        expected="no",
        layer="repository policy",
    ),
    "a deny under scope V1 is about no pull": Pair(registry=policy(deny()), scope="V1", expected="yes"),
    "an allow under scope V1 is about no pull": Pair(
        repository="", registry=policy(allow()), scope="V1", expected="no"
    ),
}


def pulls(sandbox: Sandbox, repository: str) -> bool:
    """Whether the cluster's account pulls the whole image; any error but a 403 is an error of the test."""
    try:
        images.pull(sandbox.url, *sandbox.login("cluster"), repository, "v1", registry=HOST)
    except images.RegistryError as refused:
        if refused.status != 403:
            raise
        return False
    return True


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_our_answer_of_two_policies_is_what_a_pull_finds(
    sandbox: Sandbox, ecr: Any, repository: str, pair: Pair
) -> None:
    images.push(images.build(), sandbox.url, *sandbox.login(), repository, "v1")
    if pair.scope != "V2":
        ecr.put_account_setting(name="REGISTRY_POLICY_SCOPE", value=pair.scope)
    if pair.repository:
        ecr.set_repository_policy(repositoryName=repository, policyText=pair.repository)
    if pair.registry:
        ecr.put_registry_policy(policyText=pair.registry)
    registry = RegistryPolicy(
        text=ecr.get_registry_policy()["policyText"] if pair.registry else "",
        scope=ecr.get_account_setting(name="REGISTRY_POLICY_SCOPE")["value"],
    )
    stored = ecr.get_repository_policy(repositoryName=repository)["policyText"] if pair.repository else ""

    answer = effective(stored, registry, CLUSTER, arn=ARN, partition="aws")

    pulled = "yes" if pulls(sandbox, repository) else "no"
    assert (answer.verdict, pulled) == (pair.expected, pair.expected), answer.words
    assert pair.layer in ("", answer.layer)
