"""Projects whose repositories were changed behind the program's back: rows here, and repositories in the sandbox."""

from __future__ import annotations

import os

from deployments import clock
from deployments.deploys.projects import create_project
from deployments.models import EventKind, Repository, RepositoryEvent, RepositoryStatus
from deployments.policy import RegistryPolicy, Trust
from deployments.reconcile import desired
from sandbox.control import Sandbox
from tests.admin.installation import CLUSTER, DESIRED, HOST, OWNER, STAGING, policy

#: Project → the policy that somebody wrote into its repository.
WRITTEN = {
    "Night shift": policy(CLUSTER, actions=["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:PutImage"]),
    "Day shift": policy(CLUSTER, actions=["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:DeleteRepository"]),
    "Late shift": policy(CLUSTER, actions=["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]),
}
THIRD = "444444444444"  # an account that the default policy does not name
#: The policy that the repositories had before, which is not the default policy.
EARLIER = policy(CLUSTER, STAGING, THIRD)


def make() -> dict[str, str]:
    """Make the projects. Returns project → the name of its repository."""
    ecr = Sandbox(os.environ["AWS_ENDPOINT_URL"]).client("ecr")
    return {name: _make(ecr, name, text) for name, text in WRITTEN.items()}


def _make(ecr: object, project_name: str, text: str) -> str:
    project, now = create_project(name=project_name), clock.now()
    name = f"trigger/{project.ref}"
    ecr.create_repository(repositoryName=name)  # type: ignore[attr-defined]
    ecr.set_repository_policy(repositoryName=name, policyText=text)  # type: ignore[attr-defined]
    row = Repository.objects.create(
        account=OWNER, region="us-east-1", host=HOST, name=name, project=project, management="full",
        status=RepositoryStatus.DRIFTED, origin="created", created_at=now, last_checked_at=now,
        details_checked_at=now, drifted_since=now, policy_text=text,
        differences=desired.policy_differences(DESIRED, text, partition="aws", trust=Trust(owner=OWNER)),
        consumers=desired.pullers(
            text, RegistryPolicy(text=""), (CLUSTER, STAGING),
            arn=f"arn:aws:ecr:us-east-1:{OWNER}:repository/{name}", partition="aws",
        ),
    )  # fmt: skip
    RepositoryEvent.objects.create(
        repository=row, kind=EventKind.DRIFT_FOUND, at=now, cause="sweep", message="Somebody wrote another policy.",
        policy_before=EARLIER,
    )  # fmt: skip
    return name
