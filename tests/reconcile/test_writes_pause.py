"""The emergency stop: while it is on no write reaches AWS, and everything that needs no write works."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.management import call_command
from django.utils import timezone

from deployments.config import Configuration
from deployments.deploys import lifecycle
from deployments.errors import Refusal
from deployments.models import (
    AuditEntry,
    Environment,
    Project,
    Repository,
    RepositoryEvent,
    RepositoryStatus,
    SweepTrigger,
    WritesPause,
)
from deployments.reconcile import change_events, put_back, sweep_record, sweeps
from sandbox.control import Sandbox
from tests.support.constants import POLICY, TRAIL

WRITES = {
    "CreateRepository", "DeleteRepository", "SetRepositoryPolicy", "DeleteRepositoryPolicy", "PutLifecyclePolicy",
    "PutImageTagMutability", "TagResource", "UntagResource", "UpdateImageStorageClass",
}  # fmt: skip


def deploy(environment: Environment, configuration: Configuration) -> None:
    lifecycle.create_deployment(
        environment=environment, configuration=configuration, content_hash="h", type="MANAGED", trail=TRAIL
    )


def writes(sandbox: Sandbox) -> dict[str, int]:
    return {name: count for name, count in sandbox.calls().items() if name.removeprefix("ecr:") in WRITES}


def pause() -> None:
    call_command("writes", "pause", "--reason", "the policy names the wrong account")


@pytest.fixture
def paused(environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox) -> Repository:
    """A repository that was right and has drifted; then writes were paused."""
    deploy(environment, ecr_configuration)
    row = Repository.objects.get()
    sandbox.client("ecr").delete_repository_policy(repositoryName=row.name)
    Repository.objects.update(last_checked_at=timezone.now() - timedelta(hours=1))
    pause()
    sandbox.reset_calls()
    return row


def test_a_deploy_of_a_new_project_is_refused_with_the_reason_and_creates_nothing(
    ecr_configuration: Configuration, sandbox: Sandbox, environment: Environment
) -> None:
    pause()
    sandbox.reset_calls()

    with pytest.raises(Refusal, match=r"paused by writes .*: the policy names the wrong account") as refused:
        deploy(environment, ecr_configuration)

    assert (refused.value.code, refused.value.retryable) == ("WritesPaused", True)
    assert writes(sandbox) == {}
    assert "paused" in Repository.objects.get().last_error
    call_command("writes", "resume")
    deploy(environment, ecr_configuration)
    assert Repository.objects.get().status == RepositoryStatus.IN_SYNC


def test_deploys_to_a_repository_that_was_right_go_on_and_its_drift_is_shown_not_repaired(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox, paused: Repository
) -> None:
    deploy(environment, ecr_configuration)

    paused.refresh_from_db()
    assert writes(sandbox) == {}
    assert (paused.status, paused.last_error) == (RepositoryStatus.DRIFTED, "")
    assert "has no policy" in paused.differences[0].words


@pytest.mark.costly
def test_sweeps_and_change_events_look_and_do_not_write(
    ecr_configuration: Configuration, sandbox: Sandbox, paused: Repository
) -> None:
    sweep_record.start(trigger=SweepTrigger.PERSON)
    while sweeps.work(configuration=ecr_configuration, seconds=10):
        pass
    change = change_events.ChangeEvent(
        operation="DeleteRepositoryPolicy", account=paused.account, region=paused.region, name=paused.name,
        at=timezone.now() + timedelta(minutes=1), made_by_us=False,
    )  # fmt: skip
    change_events._check(ecr_configuration, paused.account, paused.region, paused.name, [change])

    paused.refresh_from_db()
    assert writes(sandbox) == {}
    assert paused.status == RepositoryStatus.DRIFTED
    call_command("writes", "resume")
    sweep_record.start(trigger=SweepTrigger.PERSON)
    while sweeps.work(configuration=ecr_configuration, seconds=10):
        pass
    paused.refresh_from_db()
    assert paused.status == RepositoryStatus.IN_SYNC


def test_an_earlier_policy_is_not_put_back(
    ecr_configuration: Configuration, sandbox: Sandbox, paused: Repository
) -> None:
    kept = RepositoryEvent.objects.create(repository=paused, kind="healed", message="x", policy_before=POLICY)

    with pytest.raises(Refusal, match="paused"):
        put_back.put_back(event=kept, configuration=ecr_configuration, by="me", trail=TRAIL)

    assert writes(sandbox) == {}
    paused.refresh_from_db()
    assert paused.lease_until is None


def test_pausing_twice_is_one_pause_and_both_ends_are_in_the_audit_log(
    transactional_db: None, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    pause()
    call_command("writes", "pause", "--reason", "again")
    with pytest.raises(SystemExit):
        call_command("writes", "status")
    call_command("writes", "resume")
    call_command("writes", "resume")
    call_command("writes", "status")

    out = capsys.readouterr().out
    assert "were paused already" in out
    assert "were not paused" in out
    assert out.endswith("Writes to AWS are allowed.\n")
    assert WritesPause.objects.get().lifted_at is not None
    actions = list(AuditEntry.objects.order_by("id").values_list("action", flat=True))
    assert actions == ["pause.writes", "resume.writes"]
