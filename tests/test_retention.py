"""What is old goes by the settings, in small transactions; what something may still need stays."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from deployments import doctor, retention
from deployments.access.audit import history
from deployments.config import Configuration
from deployments.models import (
    AuditEntry,
    BackgroundWorker,
    Deployment,
    Environment,
    EnvironmentType,
    NotificationChannel,
    NotificationDelivery,
    Project,
    Promotion,
    PromotionEvent,
    Repository,
    RepositoryEvent,
    RetentionRule,
    Sweep,
    SweepChunk,
    SweepFinding,
    SweepStatus,
)
from deployments.reconcile import sweep_record
from tests.support.constants import HOST, OWNER, TRAIL

pytestmark = pytest.mark.django_db
_NUMBERS = count(1)
BY_SETTING = {kind.setting: kind for kind in retention.KINDS}
ERRORS, TASKS, HISTORY, SWEEPS, MESSAGES, DEPLOYMENTS, PROMOTIONS, AUDIT = BY_SETTING


def ago(days: float) -> datetime:
    return timezone.now() - timedelta(days=days)


@pytest.fixture
def settled(configure: Callable[..., Configuration]) -> Callable[..., Configuration]:
    """Settings that workers have had for two days."""

    def make(**variables: str) -> Configuration:
        found = configure(**variables)
        retention.prune_due(configuration=found)
        RetentionRule.objects.update(since=Now() - timedelta(days=2), rests_until=None)
        return found

    return make


@pytest.fixture
def prod() -> Environment:
    project = Project.objects.create(name="Billing")
    return Environment.objects.create(project=project, slug="prod", type=EnvironmentType.PRODUCTION)


def deployed(environment: Environment, days: float, status: str = "DEPLOYED", **values: Any) -> Deployment:
    number = next(_NUMBERS)
    row = Deployment.objects.create(
        project=environment.project, environment=environment, version_day="20260101", version_number=number,
        status=status, content_hash="x", image_ref="r", image_digest=f"sha256:{number:064}", image_platform="p",
        created_at=ago(days), deployed_at=ago(days), **values,
    )  # fmt: skip
    BackgroundWorker.objects.create(
        deployment=row, content_hash="x", tasks=[{"id": "a"}], metadata={"queues": []}, created_at=ago(days)
    )
    return row


def make_current(row: Deployment) -> None:
    Promotion.objects.update_or_create(environment=row.environment, defaults={"deployment": row})
    PromotionEvent.objects.create(environment=row.environment, deployment=row, at=row.created_at)


def with_tasks() -> set[str]:
    return set(BackgroundWorker.objects.exclude(tasks=[]).values_list("deployment", flat=True))


def repository(name: str = "trigger/proj_a") -> Repository:
    return Repository.objects.create(account=OWNER, region="us-east-1", name=name, host=HOST)


def event(row: Repository, days: float, text: str = "", kind: str = "healed", **values: Any) -> RepositoryEvent:
    return RepositoryEvent.objects.create(
        repository=row, kind=kind, at=ago(days), message="m", policy_before=text, **values
    )


def prune(name: str, configuration: Configuration, **options: Any) -> retention.Result:
    return retention.prune(BY_SETTING[name], configuration=configuration, trail=TRAIL, **options)


# ------------------------------------------------------------------------------------------------ what goes, what stays


def test_task_lists_go_after_90_days_except_those_of_the_current_version_and_its_roll_back_targets(
    prod: Environment, configure: Callable[..., Configuration]
) -> None:
    rows = [deployed(prod, days) for days in (200, 199, 198, 197, 196)]
    make_current(rows[3])
    young, failed = deployed(prod, 89), deployed(prod, 300, "FAILED")

    done = prune(TASKS, configure(ROLLBACK_TARGETS="2"))

    assert with_tasks() == {rows[3].pk, rows[2].pk, rows[1].pk, young.pk}
    assert done.removed == 3
    emptied = BackgroundWorker.objects.get(deployment=failed)
    assert (emptied.tasks, emptied.metadata) == ([], {})
    assert emptied.tasks_deleted_at is not None
    assert prune(TASKS, configure(ROLLBACK_TARGETS="2")).removed == 0


def test_a_version_without_its_task_list_can_still_be_promoted(
    prod: Environment, configure: Callable[..., Configuration]
) -> None:
    row = deployed(prod, 200)
    prune(TASKS, configure())

    assert Deployment.objects.filter(status="DEPLOYED", worker__isnull=False).get() == row


@pytest.mark.parametrize("status", ["FAILED", "TIMED_OUT", "CANCELED"])
def test_a_long_error_text_keeps_its_start_and_its_end(
    status: str, prod: Environment, configure: Callable[..., Configuration]
) -> None:
    stack = "first line\n" + "ü\\\n" * 40_000 + "last line"
    old = deployed(prod, 91, status, error={"name": "BuildFailed", "message": "It failed.", "stack": stack})
    young = deployed(prod, 89, status, error={"name": "BuildFailed", "message": "It failed.", "stack": stack})
    short = deployed(prod, 91, status, error={"name": "BuildFailed", "message": "m" * 9_000})

    assert prune(ERRORS, configure()).removed == 1

    now: dict[str, Any] = dict(Deployment.objects.values_list("pk", "error"))
    assert len(json.dumps(now[old.pk])) <= 10_000
    assert (now[old.pk]["name"], now[old.pk]["message"]) == ("BuildFailed", "It failed.")
    assert now[old.pk]["stack"].startswith("first line")
    assert now[old.pk]["stack"].endswith("last line")
    assert "characters were deleted because of their age" in now[old.pk]["stack"]
    assert now[young.pk]["stack"] == stack
    assert now[short.pk]["message"] == "m" * 9_000
    assert prune(ERRORS, configure()).removed == 0


def test_the_history_keeps_each_policy_text_once_the_beginning_and_the_present_state(
    configure: Callable[..., Configuration],
) -> None:
    row, other = repository(), repository("trigger/proj_b")
    since = ago(150)
    Repository.objects.filter(pk=row.pk).update(drifted_since=since)
    made = event(row, 400, kind="created")
    first_copy = event(row, 300, "A")
    only_copy = event(row, 250, "B")
    plain = event(row, 200)
    lasting = event(row, 150, kind="drift_found", state_since=since)
    ended = event(row, 150, kind="drift_found", state_since=ago(151))
    newest_copy = event(row, 100, "A")
    elsewhere = event(other, 95, "B")
    young = event(row, 89)

    assert prune(HISTORY, configure()).removed == 3

    left = set(RepositoryEvent.objects.all())
    assert left == {made, only_copy, lasting, newest_copy, elsewhere, young}
    assert not left & {first_copy, plain, ended}


def test_a_sweep_goes_with_its_findings_in_transactions_of_few_rows(
    configure: Callable[..., Configuration], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_record, "PARTS_PER_TRANSACTION", 2)
    row = repository()
    sweeps = [
        Sweep.objects.create(trigger="person", status=status, finished_at=finished)
        for status, finished in (
            (SweepStatus.DONE, ago(91)),
            (SweepStatus.DONE, ago(89)),
            (SweepStatus.RUNNING, None),
        )
    ]
    for sweep in sweeps:
        SweepFinding.objects.create(sweep=sweep, repository=row, outcome="drifted", words="w")
        for position in range(5):
            SweepChunk.objects.create(sweep=sweep, position=position, host=HOST, namespace="trigger", size=1)

    with CaptureQueriesContext(connection) as captured:
        assert prune(SWEEPS, configure()).removed == 1

    assert list(Sweep.objects.order_by("pk")) == sweeps[1:]
    assert SweepFinding.objects.count() == 2
    deleted = [each["sql"] for each in captured if each["sql"].startswith('DELETE FROM "deployments_sweepchunk"')]
    assert len([sql for sql in deleted if "IN (" in sql]) >= 3


def test_messages_go_and_those_that_wait_stay(configure: Callable[..., Configuration]) -> None:
    channel = NotificationChannel.objects.create(name="c", kind="webhook", address="https://hooks.example.com")
    for number, (status, days) in enumerate((("sent", 91), ("failed", 91), ("waiting", 91), ("sent", 89))):
        NotificationDelivery.objects.create(
            channel=channel, event="x", key=f"{number}", status=status, created_at=ago(days)
        )

    assert prune(MESSAGES, configure()).removed == 2

    assert sorted(NotificationDelivery.objects.values_list("key", flat=True)) == ["2", "3"]


# -------------------------------------------------------------------------------------------------------------- records


def test_deployments_promotions_and_audit_entries_are_kept_for_ever_by_default(
    prod: Environment, settled: Callable[..., Configuration]
) -> None:
    make_current(deployed(prod, 3_000))
    make_current(deployed(prod, 2_900))
    AuditEntry.objects.create(actor_kind="system", action="note.test", at=ago(3_000))

    configuration = settled()
    retention.prune_due(configuration=configuration)

    assert [prune(name, configuration).removed for name in (PROMOTIONS, DEPLOYMENTS, AUDIT)] == [0, 0, 0]
    assert (Deployment.objects.count(), PromotionEvent.objects.count(), AuditEntry.objects.count()) == (2, 2, 1)


def test_with_a_setting_deployments_go_but_neither_current_ones_nor_targets_nor_running_ones(
    prod: Environment, configure: Callable[..., Configuration]
) -> None:
    rows = [deployed(prod, days) for days in (104, 103, 102, 101)]
    make_current(rows[2])
    running, young = deployed(prod, 100, "BUILDING"), deployed(prod, 50)

    done = prune(DEPLOYMENTS, configure(RETENTION_DEPLOYMENTS_DAYS="60", ROLLBACK_TARGETS="1"))

    assert set(Deployment.objects.all()) == {rows[1], rows[2], running, young}
    assert done.removed == 2
    [line] = AuditEntry.objects.filter(action="prune.rows")
    assert ((line.after or {})["rows"], (line.after or {})["what"]) == (2, "deployments")


def test_a_deployment_that_was_promoted_meanwhile_stays_with_its_promotion(
    prod: Environment, configure: Callable[..., Configuration]
) -> None:
    row = deployed(prod, 100)
    keys = [row.pk]
    make_current(row)

    with transaction.atomic():
        removed = BY_SETTING[DEPLOYMENTS].remove(keys)

    assert removed == 0
    assert Promotion.objects.get().deployment == row


def test_with_a_setting_promotions_go_and_that_of_the_current_deployment_stays(
    prod: Environment, configure: Callable[..., Configuration]
) -> None:
    for days in (100, 99, 98):
        make_current(deployed(prod, days))

    assert prune(PROMOTIONS, configure(RETENTION_PROMOTIONS_DAYS="60")).removed == 2

    assert PromotionEvent.objects.get().deployment == Promotion.objects.get().deployment


def test_with_a_setting_audit_entries_go_and_an_entry_says_so(configure: Callable[..., Configuration]) -> None:
    for days in (100, 99, 10):
        AuditEntry.objects.create(actor_kind="system", action="note.test", at=ago(days))

    assert prune(AUDIT, configure(RETENTION_AUDIT_DAYS="60")).removed == 2

    newest, note = AuditEntry.objects.all()
    assert (newest.action, (newest.after or {})["rows"], (newest.after or {})["what"]) == (
        "prune.rows",
        2,
        "audit entries",
    )
    assert note.action == "note.test"


def test_no_record_goes_without_its_audit_entry(
    configure: Callable[..., Configuration], monkeypatch: pytest.MonkeyPatch
) -> None:
    AuditEntry.objects.create(actor_kind="system", action="note.test", at=ago(100))
    configuration = configure(RETENTION_AUDIT_DAYS="60")

    def die(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no disk")

    with monkeypatch.context() as patch:
        patch.setattr("deployments.access.audit.record", die)
        with pytest.raises(RuntimeError, match="no disk"):
            prune(AUDIT, configuration)

    assert AuditEntry.objects.get().action == "note.test"


# ----------------------------------------------------------------------------------------------------------------- when


def test_nothing_goes_in_the_first_24_hours_after_a_new_default(
    prod: Environment, configure: Callable[..., Configuration]
) -> None:
    row, configuration = deployed(prod, 100), configure()
    retention.prune_due(configuration=configuration)
    RetentionRule.objects.update(since=Now() - timedelta(hours=23, minutes=55))
    retention.prune_due(configuration=configuration)
    assert with_tasks() == {row.pk}

    RetentionRule.objects.update(since=Now() - timedelta(hours=24, minutes=5))
    retention.prune_due(configuration=configuration)

    assert with_tasks() == set()


def test_another_number_of_days_begins_the_24_hours_anew(
    prod: Environment, settled: Callable[..., Configuration], configure: Callable[..., Configuration]
) -> None:
    row = deployed(prod, 100)
    first, second = settled(RETENTION_TASK_LISTS_DAYS="200"), configure(RETENTION_TASK_LISTS_DAYS="50")

    for configuration in (second, first, second):  # two workers that do not agree
        retention.prune_due(configuration=configuration)
        assert RetentionRule.objects.get(setting=TASKS).since > ago(1)

    assert with_tasks() == {row.pk}


def test_after_everything_was_looked_at_the_kind_rests_for_six_hours(
    prod: Environment, settled: Callable[..., Configuration]
) -> None:
    configuration = settled()
    retention.prune_due(configuration=configuration)
    row = deployed(prod, 100)
    retention.prune_due(configuration=configuration)
    assert with_tasks() == {row.pk}

    RetentionRule.objects.update(rests_until=Now() - timedelta(seconds=1))
    retention.prune_due(configuration=configuration)

    assert with_tasks() == set()


def test_a_tick_ends_between_two_portions_and_the_next_one_goes_on(
    prod: Environment, settled: Callable[..., Configuration], monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = settled()
    original = retention._walk
    monkeypatch.setattr(retention, "_walk", lambda rows, moment, size=1: original(rows, moment, size=1))
    for days in (103, 102, 101):
        deployed(prod, days)

    left = []
    for _ in range(3):
        prune(TASKS, configuration, seconds=0)
        left.append(len(with_tasks()))

    assert left == [2, 1, 0]
    assert not prune(TASKS, configuration, stopping=lambda: True).removed


def test_every_row_is_found_though_many_have_one_time(
    configure: Callable[..., Configuration], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = ago(100)
    AuditEntry.objects.bulk_create([AuditEntry(actor_kind="system", action="note.test", at=at) for _ in range(11)])
    monkeypatch.setattr(retention, "ROWS_PER_PORTION", 3)

    found = list(retention._walk(AuditEntry.objects.all(), "at", size=3))

    assert [len(keys) for keys in found] == [3, 3, 3, 2]
    assert len({key for keys in found for key in keys}) == 11


# ----------------------------------------------------------------------------------------------- the command, the pages


def ran(*arguments: str) -> str:
    out = io.StringIO()
    call_command("prune", *arguments, stdout=out)
    return out.getvalue()


def test_a_dry_run_says_how_much_would_go_and_deletes_nothing(
    prod: Environment, configure: Callable[..., Configuration]
) -> None:
    deployed(prod, 100)
    configure(RETENTION_TASK_LISTS_DAYS="90")

    said = ran("--dry-run")

    assert "1 task lists of deployments from before" in said
    assert "would be emptied (RETENTION_TASK_LISTS_DAYS=90). Those of current deployments" in said
    assert "Deployments are kept forever (RETENTION_DEPLOYMENTS_DAYS=0)." in said
    assert said.endswith("Nothing was deleted.\n")
    assert len(with_tasks()) == 1
    assert not AuditEntry.objects.exists()


def test_the_command_deletes_at_once_and_has_two_lines_in_the_audit_log(
    prod: Environment, configure: Callable[..., Configuration]
) -> None:
    deployed(prod, 100)
    configure()

    said = ran()

    assert "1 task lists of deployments emptied (RETENTION_TASK_LISTS_DAYS)." in said
    assert with_tasks() == set()
    done, begun = AuditEntry.objects.filter(action="prune.rows")
    assert (begun.outcome, done.outcome) == ("begun", "done")
    assert (done.after or {})["task lists of deployments"] == 1


def line_of_the_doctor(configuration: Configuration) -> Iterator[doctor.ReportLine]:
    report = doctor.examine(configuration=configuration, offline=True)
    return (line for line in report.lines if line.what.startswith("Old rows"))


@pytest.mark.costly
def test_the_doctor_says_in_the_first_24_hours_how_much_would_go(
    prod: Environment, configure: Callable[..., Configuration]
) -> None:
    deployed(prod, 100)
    configuration = configure()

    [before] = line_of_the_doctor(configuration)
    retention.prune_due(configuration=configuration)
    [during] = line_of_the_doctor(configuration)
    RetentionRule.objects.update(since=Now() - timedelta(days=2))
    [later] = line_of_the_doctor(configuration)

    for line in (before, during):
        assert (line.level, "1 task lists of deployments would be emptied" in line.says) == (doctor.Level.WARN, True)
        assert "RETENTION_TASK_LISTS_DAYS=0" in line.then
    assert "24 hours after a worker" in before.says
    assert " UTC on: they are older than 90 days" in during.says
    assert later.level == doctor.Level.OK
    assert "deployments, promotions, audit entries are kept forever" in later.says


@pytest.mark.costly
def test_the_page_of_an_old_deployment_says_that_its_task_list_was_deleted(
    prod: Environment, configure: Callable[..., Configuration], admin_client: Client
) -> None:
    row = deployed(prod, 100)
    prune(TASKS, configure())

    page = admin_client.get(f"/admin/deployments/deployment/{row.pk}/change/").content.decode()

    assert "RETENTION_TASK_LISTS_DAYS" in page
    assert "0 found in the image" not in page
    assert not history(row).exists()
