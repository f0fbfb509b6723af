"""Repositories in the sandbox and in our table: helpers to make, change, count and read them."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from django.db.models.functions import Now
from django.utils import timezone

from deployments.config import Configuration
from deployments.models import Repository, RepositoryStatus
from deployments.row_values import Encryption, Mutability
from sandbox.control import Sandbox
from tests.support.constants import CLUSTER, HOST, OWNER, POLICY


def delete_repository(sandbox: Sandbox, name: str) -> None:
    """Delete a repository in ECR, and date our last write so far back that ECR would find the repository."""
    sandbox.client("ecr").delete_repository(repositoryName=name, force=True)
    Repository.objects.filter(name=name).update(written_at=Now() - timedelta(minutes=1))


def fill(sandbox: Sandbox, configuration: Configuration, count: int) -> list[str]:
    """Make repositories in the registry and in our table, in sync, as if deploys had created them."""
    client = sandbox.client("ecr")
    names = [f"trigger/proj_{number:06d}" for number in range(count)]

    def make(name: str) -> None:
        client.create_repository(
            repositoryName=name,
            imageTagMutability="IMMUTABLE_WITH_EXCLUSION",
            imageTagMutabilityExclusionFilters=[{"filterType": "WILDCARD", "filter": "cache"}],
        )
        client.put_lifecycle_policy(repositoryName=name, lifecyclePolicyText=configuration.v4.lifecycle_policy)
        client.set_repository_policy(repositoryName=name, policyText=POLICY)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, names))
    stored = client.get_repository_policy(repositoryName=names[0])["policyText"]
    past = timezone.now() - timedelta(minutes=5)
    Repository.objects.bulk_create(
        Repository(
            account=OWNER,
            region="us-east-1",
            host=HOST,
            name=name,
            status=RepositoryStatus.IN_SYNC,
            origin="created",
            management="full",
            policy_text=stored,
            policy_applied_at=past,
            lifecycle_text=configuration.v4.lifecycle_policy,
            lifecycle_is_ours=True,
            mutability=Mutability(mode="IMMUTABLE_WITH_EXCLUSION", exclusions=("cache",)),
            encryption=Encryption(type="AES256"),
            details_checked_at=past,
            last_checked_at=past,
            last_in_sync_at=past,
            checked_digest=configuration.desired_digest,
        )
        for name in names
    )
    sandbox.reset_calls()
    return names


def drift(sandbox: Sandbox, names: Iterable[str]) -> None:
    """Change repositories in ECR: half of them lose their policy, the others get another policy."""
    client = sandbox.client("ecr")
    for place, name in enumerate(names):
        if place % 2:
            client.delete_repository_policy(repositoryName=name)
        else:
            client.set_repository_policy(repositoryName=name, policyText=POLICY.replace(CLUSTER, "999999999999"))
    sandbox.reset_calls()


def calls(sandbox: Sandbox) -> dict[str, int]:
    return {name.removeprefix("ecr:"): count for name, count in sandbox.calls().items() if name.startswith("ecr:")}


def policies(sandbox: Sandbox, names: Iterable[str]) -> int:
    """How many of these repositories have the cluster account's policy in ECR."""
    client = sandbox.client("ecr")

    def carries(name: str) -> bool:
        try:
            return CLUSTER in client.get_repository_policy(repositoryName=name)["policyText"]
        except client.exceptions.RepositoryPolicyNotFoundException:
            return False

    return sum(carries(name) for name in names)


def new_calls(sandbox: Sandbox) -> dict[str, int]:
    counted = {name.removeprefix("ecr:"): count for name, count in sandbox.calls().items() if name.startswith("ecr:")}
    sandbox.reset_calls()
    return counted
