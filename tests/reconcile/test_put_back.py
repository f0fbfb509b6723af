"""Putting an earlier policy back: what is there is kept first, an exception makes it stay, a refusal writes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from deployments.aws import clients
from deployments.config import Configuration
from deployments.errors import Refusal
from deployments.models import (
    AuditEntry,
    EventKind,
    Project,
    Repository,
    RepositoryEvent,
    RepositoryStatus,
    SweepTrigger,
)
from deployments.reconcile import change_events, processes, put_back, repositories, sweep_record, sweeps, targets
from deployments.row_values import Difference, Part
from sandbox.control import Sandbox
from tests.support.change_events import event, message
from tests.support.constants import HOST, POLICY, TRAIL

PULL = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]


def allowing(principal: object, *actions: str) -> str:
    statement = {"Effect": "Allow", "Principal": principal, "Action": actions}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


OTHER = allowing({"AWS": "333333333333"}, *PULL)


@pytest.fixture
def kept(project: Project, ecr_configuration: Configuration, sandbox: Sandbox) -> RepositoryEvent:
    """A repository in sync, with an event that kept another policy."""
    registry = ecr_configuration.plain
    ecr_registry = targets.configured(ecr_configuration)[0].registry
    row = repositories.ensure_repository(
        config=registry,
        registry=ecr_registry,
        name=f"trigger/{project.ref}",
        project=project,
        desired_digest=ecr_configuration.desired_digest,
        freshness=timedelta(0),
    )
    sandbox.reset_calls()
    return RepositoryEvent.objects.create(repository=row, kind=EventKind.HEALED, message="Healed.", policy_before=OTHER)


def live(sandbox: Sandbox, name: str) -> str:
    return str(sandbox.client("ecr").get_repository_policy(repositoryName=name)["policyText"])


def test_a_restore_whose_process_dies_before_its_result_is_in_the_log_as_begun(
    kept: RepositoryEvent, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(repositories.RepositoryLease, "finish", die)

    with pytest.raises(KeyboardInterrupt):
        put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)

    assert "333333333333" in live(sandbox, kept.repository.name)
    told = AuditEntry.objects.get()
    assert (told.action, told.object_id, told.outcome) == ("restore.repository", str(kept.repository_id), "begun")


def test_a_restore_that_cannot_be_written_down_is_not_begun(
    kept: RepositoryEvent, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(AuditEntry, "save", die)

    with pytest.raises(OperationalError):
        put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)

    assert "SetRepositoryPolicy" not in sandbox.calls()
    assert RepositoryEvent.objects.get(pk=kept.pk) == RepositoryEvent.objects.latest("pk")


def test_the_log_has_what_was_there_before_and_a_refusal_has_its_reason(
    kept: RepositoryEvent, ecr_configuration: Configuration
) -> None:
    override = put_back.Override(until=timezone.now() + timedelta(hours=1), reason="a trial")
    put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL, override=override)
    repositories.claim(kept.repository)
    with pytest.raises(Refusal) as caught:
        put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)

    told = AuditEntry.objects.order_by("id").values_list("action", "outcome")
    assert list(told) == [
        ("except.repository", "done"),
        ("restore.repository", "begun"),
        ("restore.repository", "done"),
        ("restore.repository", caught.value.sentence),
    ]
    done = AuditEntry.objects.get(action="restore.repository", outcome="done")
    assert "222222222222" in str(done.before)
    assert "333333333333" in str(done.after)


def sweep(configuration: Configuration) -> None:
    started = sweep_record.start(trigger=SweepTrigger.PERSON)
    assert started is not None
    while sweeps.work(configuration=configuration, seconds=10, sweep_id=started.pk):
        pass


def test_the_policy_is_written_by_a_read_and_a_write_and_what_was_there_is_kept(
    kept: RepositoryEvent, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    before = put_back.put_back(event=kept, configuration=ecr_configuration, by="ada@example.com", trail=TRAIL)

    assert "222222222222" in before
    assert sandbox.calls() == {"ecr:GetRepositoryPolicy": 1, "ecr:SetRepositoryPolicy": 1}
    assert "333333333333" in live(sandbox, kept.repository.name)
    row = Repository.objects.get(pk=kept.repository_id)
    assert (row.status, row.policy_text) == (RepositoryStatus.DRIFTED, OTHER)
    assert "account 222222222222 loses pull" in row.differences[0].words
    assert row.lease_until is None
    event = row.events.filter(kind=EventKind.POLICY_APPLIED).latest("pk")
    assert (event.cause, event.policy_before) == ("ada@example.com", before)


@pytest.mark.costly
def test_without_an_exception_the_next_check_overwrites_it_again_and_with_one_it_stays(
    kept: RepositoryEvent, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    name = kept.repository.name
    put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)
    sweep(ecr_configuration)
    assert "222222222222" in live(sandbox, name)

    override = put_back.Override(until=timezone.now() + timedelta(hours=1), reason="OPS-9")
    put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL, override=override)
    sweep(ecr_configuration)

    assert "333333333333" in live(sandbox, name)
    row = Repository.objects.get(pk=kept.repository_id)
    assert (row.status, row.mode, row.mode_reason) == (RepositoryStatus.DRIFTED, "observe", "OPS-9")


def test_a_policy_that_means_the_same_leaves_the_repository_in_sync(
    kept: RepositoryEvent, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    kept.policy_before = POLICY
    Repository.objects.filter(pk=kept.repository_id).update(status=RepositoryStatus.DRIFTED)
    kept.repository.refresh_from_db()

    put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)

    row = Repository.objects.get(pk=kept.repository_id)
    assert (row.status, row.differences) == (RepositoryStatus.IN_SYNC, [])


@pytest.mark.parametrize("status", [RepositoryStatus.FAILED, RepositoryStatus.PENDING])
def test_a_policy_that_is_put_back_makes_no_failed_or_unchecked_repository_in_sync(
    status: RepositoryStatus, kept: RepositoryEvent, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    kept.policy_before = POLICY
    Repository.objects.filter(pk=kept.repository_id).update(status=status, last_error="AWS refused something.")

    put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)

    row = Repository.objects.get(pk=kept.repository_id)
    assert (row.status, row.last_error) == (status, "AWS refused something.")


def test_a_policy_that_is_put_back_says_nothing_of_the_other_differences(
    kept: RepositoryEvent, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    kept.policy_before = POLICY
    tags = Difference(part=Part.TAGS, words="AWS tags missing or different: team.", fixable=True)
    Repository.objects.filter(pk=kept.repository_id).update(status=RepositoryStatus.DRIFTED, differences=[tags])

    put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)

    row = Repository.objects.get(pk=kept.repository_id)
    assert (row.status, row.differences) == (RepositoryStatus.DRIFTED, [tags])


def test_nothing_is_put_back_that_was_checked_by_a_configuration_that_does_not_count_any_more(
    kept: RepositoryEvent, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    overtaken = replace(ecr_configuration, activation=7)
    monkeypatch.setattr("deployments.reconcile.generation.in_force", lambda own: overtaken)

    with pytest.raises(Refusal) as refused:
        put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)

    assert (refused.value.code, refused.value.retryable) == ("ConfigurationChanged", True)
    assert not sandbox.calls()
    assert Repository.objects.get().lease_until is None


def test_while_somebody_works_on_the_repository_nothing_is_written(
    kept: RepositoryEvent, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    assert repositories.claim(kept.repository) is not None

    with pytest.raises(Refusal, match="Another process is changing") as refused:
        put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)

    assert refused.value.retryable
    assert sandbox.calls() == {}


def test_what_aws_refuses_is_said_and_the_lease_is_given_back(
    kept: RepositoryEvent, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.fault("error", "ecr:SetRepositoryPolicy", code="AccessDeniedException")

    with pytest.raises(Refusal, match="SetRepositoryPolicy"):
        put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)

    row = Repository.objects.get(pk=kept.repository_id)
    assert row.lease_until is None
    assert row.policy_text != OTHER
    # What was there is in the history, because the write might have arrived.
    assert "222222222222" in row.events.latest("pk").policy_before


@pytest.mark.parametrize("text", ["{", allowing("*", "ecr:*")])
def test_a_policy_that_is_wrong_or_opens_the_repository_to_the_world_is_not_put_back(
    text: str, kept: RepositoryEvent, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    kept.policy_before = text

    with pytest.raises(Refusal, match="cannot be restored"):
        put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)

    assert sandbox.calls() == {}


@pytest.mark.costly
def test_a_repository_that_is_gone_is_not_made_again(
    kept: RepositoryEvent, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.client("ecr").delete_repository(repositoryName=kept.repository.name)
    sandbox.reset_calls()

    with pytest.raises(Refusal, match="was deleted from the registry"):
        put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)

    assert sandbox.calls() == {"ecr:GetRepositoryPolicy": 1}


@pytest.mark.costly
def test_the_page_compares_in_words_first_and_then_puts_it_back(
    kept: RepositoryEvent, ecr_configuration: Configuration, sandbox: Sandbox, settings: Any
) -> None:
    client = Client()
    client.force_login(User.objects.create(username="ada", is_staff=True, is_superuser=True))
    page = f"/admin/deployments/repository/{kept.repository_id}/restore/{kept.pk}/"

    question = client.get(page).content.decode()
    assert "account 222222222222 loses pull" in question
    assert "account 333333333333 gains pull" in question
    assert client.post(page, {"keep": "on", "hours": "4"}).status_code == 200  # an exception has a reason
    assert sandbox.calls() == {}

    client.post(page, {"keep": "on", "hours": "4", "reason": "OPS-1"})

    assert "333333333333" in live(sandbox, kept.repository.name)
    row = Repository.objects.get(pk=kept.repository_id)
    assert (row.mode, row.mode_by) == ("observe", "ada")
    assert row.host == HOST


@pytest.mark.costly
def test_after_a_policy_was_put_back_the_next_look_looks_at_everything(
    kept: RepositoryEvent, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    kept.policy_before = POLICY
    put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)
    sandbox.reset_calls()

    sweep(ecr_configuration)

    assert sandbox.calls()["ecr:ListTagsForResource"] == sandbox.calls()["ecr:GetLifecyclePolicy"] == 1


@pytest.mark.costly
def test_our_own_write_comes_back_as_an_event_and_causes_no_look(
    kept: RepositoryEvent, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    Repository.objects.update(written_at=None)
    put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)
    sandbox.reset_calls()
    detail = {"eventTime": timezone.now().isoformat(), "userAgent": f"Boto3 {clients.USER_AGENT}"}

    body = event("SetRepositoryPolicy", kept.repository.name, **detail)
    change_events.handle(configuration=ecr_configuration, messages=[message(body)])

    assert sandbox.calls() == {}


def test_nothing_is_written_late_in_the_lease(
    kept: RepositoryEvent, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = processes.clock()
    ticks = iter([start, start + 44])  # the claim, the read; then the machine slept
    monkeypatch.setattr(processes, "clock", lambda: next(ticks, start + 46))

    with pytest.raises(Refusal) as refused:
        put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)

    assert (refused.value.code, refused.value.retryable) == ("OutOfTime", True)
    assert sandbox.calls() == {"ecr:GetRepositoryPolicy": 1}
    assert Repository.objects.get(pk=kept.repository_id).lease_until is None


def test_whatever_happens_the_lease_is_given_back(
    kept: RepositoryEvent, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deployments.aws.ecr.Ecr.set_policy", die)

    with pytest.raises(KeyboardInterrupt):
        put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)

    row = Repository.objects.get(pk=kept.repository_id)
    assert row.lease_until is None
    # The earlier policy is in the history before the write: a process that is killed in between loses none.
    assert "222222222222" in row.events.latest("pk").policy_before


@pytest.mark.costly
def test_the_drift_that_a_restore_leaves_is_as_old_as_it_was(
    kept: RepositoryEvent, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    long_ago = timezone.now() - timedelta(days=3)
    Repository.objects.update(status=RepositoryStatus.DRIFTED, drifted_since=long_ago)
    kept.repository.refresh_from_db()

    put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)

    assert Repository.objects.get(pk=kept.repository_id).drifted_since == long_ago
