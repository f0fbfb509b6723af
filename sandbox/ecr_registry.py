"""The operations of ECR's control plane on a registry itself: its policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sandbox import documents
from sandbox.aws import AWSError, Call, model, partition_of
from sandbox.iam import IAM
from sandbox.store import Registry


class RegistryItself:
    """``registry`` finds the registry of a call; ``authorize`` checks the caller's permission."""

    def __init__(
        self, iam: IAM, registry: Callable[[Call], Registry], authorize: Callable[[Call, Registry, str, str], None]
    ) -> None:
        self._iam, self._registry, self._authorize = iam, registry, authorize

    def do_describe_registry(self, call: Call) -> dict[str, Any]:
        registry = self._registry(call)
        self._authorize(call, registry, "", "ecr:DescribeRegistry")
        return {"registryId": registry.account, "replicationConfiguration": {"rules": []}}

    def _registry_policy(self, call: Call, registry: Registry) -> dict[str, Any]:
        self._authorize(call, registry, "", f"ecr:{call.operation}")
        if registry.policy is None:
            raise AWSError(
                "RegistryPolicyNotFoundException",
                f"Registry policy does not exist in the registry with id '{registry.account}'",
            )
        return {"registryId": registry.account, "policyText": registry.policy.text(self._iam)}

    def do_get_registry_policy(self, call: Call) -> dict[str, Any]:
        return self._registry_policy(call, self._registry(call))

    def do_put_registry_policy(self, call: Call) -> dict[str, Any]:
        registry = self._registry(call)
        self._authorize(call, registry, "", "ecr:PutRegistryPolicy")
        partition = partition_of(registry.region).name
        registry.policy = documents.registry_policy(
            str(call.params["policyText"]), model=model("ecr"), iam=self._iam, partition=partition
        )
        return {"registryId": registry.account, "policyText": registry.policy.text(self._iam)}

    def do_delete_registry_policy(self, call: Call) -> dict[str, Any]:
        registry = self._registry(call)
        answer = self._registry_policy(call, registry)
        registry.policy = None
        return answer
