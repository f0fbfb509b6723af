"""What is assumed of a registry itself (policy, settings, pull time exclusions), and of the words of a refusal."""

from __future__ import annotations

import json
from typing import Any

from conformance.account import PROPAGATION_SECONDS, Account, Json, document, on, shown
from conformance.assumptions import NotRun, assumed, expect


@assumed("no-registry-policy", "api:GetRegistryPolicy", "aws/ecr.py _no_registry_policy", makes="")
def no_registry_policy(aws: Account) -> None:
    """A registry without a policy is RegistryPolicyNotFoundException, and the message has the registry's id."""
    message = aws.answers("RegistryPolicyNotFoundException", aws.ecr.get_registry_policy)
    if message is not None:
        raise NotRun("a registry without a registry policy")
    words = aws.refused("RegistryPolicyNotFoundException", aws.ecr.get_registry_policy)
    expect(aws.account in words, words)


@assumed(
    "registry-settings",
    "guide:registry-permissions-account-settings; api:GetAccountSetting",
    "policy/effective.py scope; sandbox/ecr_registry.py SETTINGS",
    makes="",
)
def registry_settings(aws: Account) -> None:
    """GetAccountSetting gives REGISTRY_POLICY_SCOPE as V1 or V2 and BLOB_MOUNTING as ENABLED or DISABLED; the
    exclusions are ARNs.
    """
    scope = aws.ecr.get_account_setting(name="REGISTRY_POLICY_SCOPE")["value"]
    expect(scope in ("V1", "V2"), scope)
    mounting = aws.ecr.get_account_setting(name="BLOB_MOUNTING")["value"]
    expect(mounting in ("ENABLED", "DISABLED"), mounting)
    listed = aws.ecr.list_pull_time_update_exclusions()["pullTimeUpdateExclusions"]
    expect(all(str(each).startswith("arn:") for each in listed), listed)


def pulls(aws: Account) -> Any:
    """The answer to a pull of the caller's own; None if it is refused."""
    image = {**on(aws.name), "imageIds": [{"imageTag": "none"}]}
    return aws.answers("AccessDeniedException", lambda: aws.ecr.batch_get_image(**image))


@assumed(
    "registry-policy-denies",
    "guide:registry-permissions-create; iam:reference_policies_evaluation-logic",
    "policy/effective.py a Deny in either one wins; pull_failures.py explicit deny in a resource-based policy",
    makes="repository registry_policy",
    registry_wide=True,
)
def registry_policy_denies(aws: Account) -> None:
    """A Deny in the registry policy (scope V2) counts for a pull from one repository that its Resource names, beats the
    identity's Allow, is refused “with an explicit deny in a resource-based policy”, and comes back with the account as
    its root's ARN.
    """
    aws.repository()
    deny: Json = {
        "Effect": "Deny",
        "Principal": {"AWS": aws.account},
        "Action": ["ecr:BatchGetImage"],
        "Resource": [aws.arn],
    }
    answer = json.loads(aws.put_registry_policy(deny)["policyText"])
    found = answer["Statement"][0] if isinstance(answer["Statement"], list) else answer["Statement"]
    who = found["Principal"]["AWS"]
    expect(who in (aws.root, [aws.root]), shown(answer))
    refused = aws.until(lambda: pulls(aws) is None, seconds=PROPAGATION_SECONDS)
    expect(refused, "a manifest to a pull that the registry policy denies, for a minute")
    image = {**on(aws.name), "imageIds": [{"imageTag": "none"}]}
    message = aws.refused("AccessDeniedException", lambda: aws.ecr.batch_get_image(**image))
    expect("with an explicit deny in a resource-based policy" in message, message)


@assumed(
    "repository-policy-denies",
    "iam:troubleshoot_access-denied",
    "pull_failures.py explicit deny in a resource-based policy; sandbox/policy.py explicit deny",
)
def repository_policy_denies(aws: Account) -> None:
    """A Deny in the repository policy is AccessDeniedException “with an explicit deny in a resource-based policy”."""
    name = aws.repository()
    deny = {"Effect": "Deny", "Principal": "*", "Action": "ecr:BatchGetImage"}
    aws.ecr.set_repository_policy(**on(name), policyText=document(deny))
    aws.until(lambda: pulls(aws) is None, seconds=PROPAGATION_SECONDS)
    image = {**on(name), "imageIds": [{"imageTag": "none"}]}
    message = aws.refused("AccessDeniedException", lambda: aws.ecr.batch_get_image(**image))
    denied = f"is not authorized to perform: ecr:BatchGetImage on resource: {aws.arn} with an explicit deny"
    expect(message.startswith("User: arn:") and f"{denied} in a resource-based policy" in message, message)


@assumed(
    "identity-allows-nothing",
    "iam:troubleshoot_access-denied; seen:aws/containers-roadmap/issues/2053",
    "pull_failures.py because no identity-based policy allows",
    "aws/probes.py AWS answers “there is no such repository” only to an identity",
    makes="repository role",
)
def identity_allows_nothing(aws: Account) -> None:
    """An identity without the permission gets AccessDeniedException “because no identity-based policy allows the …
    action”, about a repository that exists and about one that does not.
    """
    session = aws.assume(aws.role())
    for name in (aws.repository(), f"{aws.name}-missing"):
        message = aws.refused(
            "AccessDeniedException",
            lambda: session("ecr").get_repository_policy(**on(name)),  # noqa: B023
        )
        expect("because no identity-based policy allows the ecr:GetRepositoryPolicy action" in message, message)
