"""The audit notices what it is there for: each invariant is violated by hand, and must be named."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable

import pytest

from tests.faults.audit import audit
from tests.faults.cleaning import clean
from tests.faults.installation import Installation, Project, Sqlite, policy, send
from tests.faults.operations import FirstDeploy, new_key

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(120)]
#: Violates an invariant; returns what ends the violation, where it would outlast the test.
Sabotage = Callable[[Installation, Project, str], Callable[[], object] | None]


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


def log_traceback_as_json(installation: Installation, project: Project, deployment: str) -> None:
    line = {"timestamp": "2026-11-26T10:00:00.000Z", "event": "x", "exception": "Traceback …:\n  File x\nKeyError: 1"}
    (installation.folder / "other.log").write_text(json.dumps(line) + "\n")


def cancel_unseen(installation: Installation, project: Project, deployment: str) -> None:
    installation.database.query("UPDATE deployments_deployment SET status = 'CANCELED' WHERE id = ?", deployment)


def leave_sweep(installation: Installation, project: Project, deployment: str) -> None:
    installation.manage("reconcile", "--all")
    installation.database.query("UPDATE deployments_sweepchunk SET in_sync = 0, healed = 0")


def write_unknown_policy(installation: Installation, project: Project, deployment: str) -> None:
    installation.sandbox.client("ecr", installation.identity, installation.region).set_repository_policy(
        repositoryName=project.repository, policyText=policy("666666666666")
    )


def call_aws_inside_a_transaction(installation: Installation, project: Project, deployment: str) -> None:
    """The product's own check refuses the call; its words in the log are what the audit looks for."""
    code = f"""
from django.db import transaction
from deployments.aws.ecr import Ecr
from deployments.aws.partitions import registry_of
from deployments.config import Access
with transaction.atomic():
    Ecr(registry=registry_of("{installation.host}"), access=Access()).observe("{project.repository}", details=False)
"""
    installation.begin_command("shell", "-c", code).process.wait(60)


def stop_web(installation: Installation, project: Project, deployment: str) -> Callable[[], object]:
    """The web processes stand still: /healthz is not answered."""
    stopped = [pid for service in installation.running("web") for pid in service.all_members()]
    assert isinstance(installation.database, Sqlite)
    with contextlib.closing(installation.database.connect()) as connection:
        connection.execute("BEGIN IMMEDIATE")  # else one that stands still may hold the database's lock
        send(signal.SIGSTOP, *stopped)
        connection.execute("ROLLBACK")
    return lambda: send(signal.SIGCONT, *stopped)


def leave_task(installation: Installation, project: Project, deployment: str) -> None:
    """A task that no worker takes, because it is in another cluster's queue."""
    installation.ensure(web=1, worker=1)
    installation.database.query(
        "INSERT INTO django_q_ormq (key, payload, lock) VALUES ('nobody', '', datetime('now', '-2 minutes'))"
    )


def undo_each_write(installation: Installation, project: Project, deployment: str) -> Callable[[], object]:
    """Somebody deletes the policy each time that it is written."""
    ended = threading.Event()

    def undo() -> None:
        while not ended.wait(0.05):
            with contextlib.suppress(installation.ecr.exceptions.RepositoryPolicyNotFoundException):
                installation.ecr.delete_repository_policy(repositoryName=project.repository)

    thread = threading.Thread(target=undo, daemon=True)
    thread.start()

    def end() -> None:
        ended.set()
        thread.join(10)

    return end


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
        ("I5", call_aws_inside_a_transaction),
        ("I6", write_elsewhere),
        ("I7", log_secret),
        ("I8", cancel_unseen),
        ("I9", leave_sweep),
        ("I10", write_unknown_policy),
        ("I12", stop_web),
        ("I12", leave_task),
        ("I13", undo_each_write),
        ("log", log_traceback),
        ("log", log_traceback_as_json),
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

    end = sabotage(installation, project, answer.body["id"])
    try:
        found = audit(installation, since)
    finally:
        if end is not None:
            end()
        installation.sandbox.clear_faults()
        (installation.folder / "other.log").unlink(missing_ok=True)

    assert any(each.startswith(f"{invariant}:") for each in found), found


def test_the_audit_names_a_recovery_that_took_too_long(installation_of: Callable[..., Installation]) -> None:
    class SlowDeploy(FirstDeploy):
        def again(self) -> bool:
            time.sleep(0.3)
            return self.perform()

    installation = installation_of("sqlite")
    clean(installation)
    installation.ensure(web=1)
    since = time.time()
    installation.mark_logs()
    work = SlowDeploy(installation)
    work.finish()

    found = audit(installation, since, recovered=work.recovered, within=0.3)

    assert [each.partition(":")[0] for each in found] == ["I11"], found
