"""The operations of ECR's control plane on a registry itself: its policy, its settings, its pull time exclusions.

The scope of the registry policy is a setting. V2, the default, enforces the policy in every request of ECR; V1 enforces
it only for three actions (User Guide, "Private registry permissions in Amazon ECR"). Under V1, ECR refuses other
actions in a registry policy, except through wildcards. What happens to other actions that a policy already has when the
scope becomes V1 is not documented: here they stay in the text and do nothing.

A pull moves an image's pull time, and so does BatchGetImage (https://github.com/aws/containers-roadmap/issues/2390),
unless the caller's role or user is among the exclusions (User Guide, "Pull-time update exclusions"). ECR records a time
at least every 24 hours; here at each pull. Whether ECR looks for the role in IAM is not documented; here it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sandbox import documents
from sandbox.aws import AWSError, Call, invalid, model, partition_of
from sandbox.ecr_tokens import Tokens
from sandbox.iam import IAM
from sandbox.store import Image, Registry, Store

# The values of each account setting; the first one is that of a new registry. The values V1 and CLAIR are in older
# editions of the API Reference; that a new registry does not mount blobs is not documented.
SETTINGS = {
    "REGISTRY_POLICY_SCOPE": ("V2", "V1"),
    "BASIC_SCAN_TYPE_VERSION": ("AWS_NATIVE", "CLAIR"),
    "BLOB_MOUNTING": ("DISABLED", "ENABLED"),
}
V1_ACTIONS = frozenset({"ecr:replicateimage", "ecr:batchimportupstreamimage", "ecr:createrepository"})


MAX_EXCLUSIONS = 100


def record_pull(call: Call, registry: Registry, image: Image, now: float) -> None:
    """Moves the pull time of an image that the caller pulls now."""
    if not set(call.by.context["aws:principalarn"]) & registry.quiet.keys():
        image.pulled = now


def enforced(registry: Registry, action: str) -> bool:
    """Whether the registry policy takes part in the decision about an action."""
    return registry.settings.get("REGISTRY_POLICY_SCOPE") != "V1" or action.lower() in V1_ACTIONS


class RegistryItself:
    """``registry`` finds the registry of a call; ``authorize`` checks the caller's permission."""

    def __init__(
        self,
        store: Store,
        tokens: Tokens,
        iam: IAM,
        registry: Callable[[Call], Registry],
        authorize: Callable[[Call, Registry, str, str], None],
    ) -> None:
        self._store, self._tokens, self._iam = store, tokens, iam
        self._registry, self._authorize = registry, authorize

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
        stored = documents.registry_policy(
            str(call.params["policyText"]), model=model("ecr"), iam=self._iam, partition=partition
        )
        named = {action for statement in stored.policy for action in statement.actions.values if "*" not in action}
        if not all(enforced(registry, action) for action in named):
            raise invalid("PolicyText", "Invalid registry policy provided")
        registry.policy = stored
        return {"registryId": registry.account, "policyText": registry.policy.text(self._iam)}

    def do_delete_registry_policy(self, call: Call) -> dict[str, Any]:
        registry = self._registry(call)
        answer = self._registry_policy(call, registry)
        registry.policy = None
        return answer

    # -- account settings --

    def _setting(self, call: Call) -> tuple[Registry, str]:
        registry, name = self._registry(call), str(call.params["name"])
        self._authorize(call, registry, "", f"ecr:{call.operation}")
        if name not in SETTINGS:
            raise invalid("name", f"Member must satisfy enum value set: [{', '.join(SETTINGS)}]")
        return registry, name

    def do_get_account_setting(self, call: Call) -> dict[str, Any]:
        registry, name = self._setting(call)
        return {"name": name, "value": registry.settings.get(name, SETTINGS[name][0])}

    def do_put_account_setting(self, call: Call) -> dict[str, Any]:
        registry, name = self._setting(call)
        value = str(call.params["value"])
        if value not in SETTINGS[name]:
            raise invalid("value", f"Member must satisfy enum value set: [{', '.join(SETTINGS[name])}]")
        registry.settings[name] = value
        return {"name": name, "value": value}

    # -- pull time exclusions --

    def _quiet(self, call: Call) -> dict[str, float]:
        registry = self._registry(call)
        self._authorize(call, registry, "", f"ecr:{call.operation}")
        return registry.quiet

    def do_register_pull_time_update_exclusion(self, call: Call) -> dict[str, Any]:
        quiet, arn, now = self._quiet(call), str(call.params["principalArn"]), self._store.now()
        if arn in quiet:
            raise AWSError("ExclusionAlreadyExistsException", f"The exclusion for '{arn}' already exists")
        if len(quiet) >= MAX_EXCLUSIONS:
            raise AWSError("LimitExceededException", f"An account has at most {MAX_EXCLUSIONS} exclusions")
        quiet[arn] = now
        return {"principalArn": arn, "createdAt": now}

    def do_list_pull_time_update_exclusions(self, call: Call) -> dict[str, Any]:
        page, token = self._tokens.page(call, self._quiet(call), lambda arn: arn)
        return {"pullTimeUpdateExclusions": page, **token}

    def do_deregister_pull_time_update_exclusion(self, call: Call) -> dict[str, Any]:
        quiet, arn = self._quiet(call), str(call.params["principalArn"])
        if quiet.pop(arn, None) is None:
            raise AWSError("ExclusionNotFoundException", f"The exclusion for '{arn}' does not exist")
        return {"principalArn": arn}
