"""The audit notices what it is there for: each invariant is violated by hand, and must be named."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.faults.audit import audit
from tests.faults.installation import Installation, Project, policy
from tests.faults.operations import new_key
from tests.faults.test_matrix import clean

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(120)]
Sabotage = Callable[[Installation, Project, str], None]


def lose_deployment(installation: Installation, project: Project, deployment: str) -> None:
    installation.database.query("DELETE FROM deployments_deployment WHERE id = ?", deployment)


def leave_gap(installation: Installation, project: Project, deployment: str) -> None:
    installation.database.query("UPDATE deployments_deployment SET version_number = 7 WHERE id = ?", deployment)


def fail_without_words(installation: Installation, project: Project, deployment: str) -> None:
    installation.database.query("UPDATE deployments_deployment SET status = 'FAILED' WHERE id = ?", deployment)


def deploy_without_promotion(installation: Installation, project: Project, deployment: str) -> None:
    installation.database.query(
        "UPDATE deployments_deployment SET status = 'DEPLOYED', deployed_at = created_at, promotion_wanted = true "
        "WHERE id = ?",
        deployment,
    )


def make_without_row(installation: Installation, project: Project, deployment: str) -> None:
    installation.database.query("DELETE FROM deployments_repositoryevent")
    installation.database.query("UPDATE deployments_deployment SET repository_id = NULL")
    installation.database.query("DELETE FROM deployments_repository")


def say_in_sync(installation: Installation, project: Project, deployment: str) -> None:
    """Somebody changes the policy, and the row claims to have looked afterwards."""
    installation.ecr.set_repository_policy(repositoryName=project.repository, policyText=policy("555555555555"))
    installation.database.query(
        f"UPDATE deployments_repository SET last_checked_at = {installation.database.now}, status = 'in_sync'"
    )
    time.sleep(1.2)
    installation.database.query(f"UPDATE deployments_repository SET last_checked_at = {installation.database.now}")


def stay_wrong(installation: Installation, project: Project, deployment: str) -> None:
    installation.ecr.delete_repository_policy(repositoryName=project.repository)
    installation.fault("error", "ecr:SetRepositoryPolicy", code="AccessDeniedException", status=400)


def write_elsewhere(installation: Installation, project: Project, deployment: str) -> None:
    installation.sandbox.client("ecr", installation.identity, installation.region).put_lifecycle_policy(
        repositoryName="other/private",
        lifecyclePolicyText=json.dumps(
            {
                "rules": [
                    {
                        "rulePriority": 1,
                        "selection": {
                            "tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days",
                            "countNumber": 3,
                        },
                        "action": {"type": "expire"},
                    }
                ]
            }
        ),
    )  # fmt: skip


def log_secret(installation: Installation, project: Project, deployment: str) -> None:
    (installation.folder / "other.log").write_text(f"the key is {project.keys['prod']}\n")


def log_traceback(installation: Installation, project: Project, deployment: str) -> None:
    (installation.folder / "other.log").write_text("Traceback (most recent call last):\n  File x\nKeyError: 1\n")


def cancel_unseen(installation: Installation, project: Project, deployment: str) -> None:
    installation.database.query("UPDATE deployments_deployment SET status = 'CANCELED' WHERE id = ?", deployment)


def leave_sweep(installation: Installation, project: Project, deployment: str) -> None:
    installation.manage("reconcile", "--all")
    installation.database.query("UPDATE deployments_sweepchunk SET in_sync = 0, healed = 0")


def write_unknown_policy(installation: Installation, project: Project, deployment: str) -> None:
    installation.sandbox.client("ecr", installation.identity, installation.region).set_repository_policy(
        repositoryName=project.repository, policyText=policy("666666666666")
    )


@pytest.mark.parametrize(
    ("invariant", "sabotage"),
    [
        ("I1", lose_deployment),
        ("I1", leave_gap),
        ("I1", fail_without_words),
        ("I1", deploy_without_promotion),
        ("I2", make_without_row),
        ("I3", say_in_sync),
        ("I4", stay_wrong),
        ("I6", write_elsewhere),
        ("I7", log_secret),
        ("I8", cancel_unseen),
        ("I9", leave_sweep),
        ("I10", write_unknown_policy),
        ("log", log_traceback),
    ],
)
def test_the_audit_names_what_is_violated(
    invariant: str, sabotage: Sabotage, installation_of: Callable[..., Installation]
) -> None:
    installation = installation_of("sqlite")
    clean(installation)
    installation.ensure(web=1)
    since = time.time()
    installation.mark_logs()
    project = installation.bootstrap()
    answer = installation.deploy(project, key=new_key())
    assert answer.status == 200, answer
    if sabotage is lose_deployment:
        assert audit(installation, since) == []  # before anything was done to it

    sabotage(installation, project, answer.body["id"])
    try:
        found = audit(installation, since)
    finally:
        installation.sandbox.clear_faults()
        (installation.folder / "other.log").unlink(missing_ok=True)

    assert any(each.startswith(f"{invariant}:") for each in found), found
