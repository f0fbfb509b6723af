"""Schedules and the minute's tick: a bad row stops nothing, a late one is reported, each step runs by itself."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone
from django_q.models import OrmQ, Schedule
from django_q.scheduler import scheduler

from deployments import doctor, tasks, worker
from deployments.config import Configuration
from deployments.deploys import lifecycle
from deployments.doctor import Level
from deployments.log import Fields
from deployments.models import Process, ProcessRole
from deployments.notify import deliveries
from deployments.reconcile import processes, sweep_record, sweeps

pytestmark = pytest.mark.django_db(transaction=True)
Configure = Callable[..., Configuration]
TICK = "registry-admin: tick"


@pytest.fixture
def declared(configure: Configure) -> None:
    configure()
    tasks.ensure_schedules()


@pytest.mark.parametrize(
    "broken",
    [
        {"args": "not ( python"},
        {"schedule_type": "C", "cron": "every now and then"},
        {"func": "nobody.knows.this"},
        {"kwargs": "{'q_options': 7}"},
        {"schedule_type": "I", "minutes": None},
        {"intended_date_kwarg": "not a name", "kwargs": "[1]"},
        {"func": "math.sqrt", "args": "4"},
    ],
)
def test_a_schedule_that_is_not_ours_is_set_aside_with_a_log_line_and_does_not_block_ours(
    broken: dict[str, Any], declared: None, caplog: pytest.LogCaptureFixture
) -> None:
    past = timezone.now() - timedelta(minutes=3)
    values = {"func": "deployments.tasks.tick", "schedule_type": "I", "minutes": 1, **broken}
    foreign = Schedule.objects.create(name="a copy", func=values["func"], schedule_type="I", minutes=1)
    Schedule.objects.filter(pk=foreign.pk).update(next_run=past, **values)
    Schedule.objects.filter(name=TICK).update(next_run=past + timedelta(seconds=1))

    tasks.ensure_schedules()
    scheduler()

    assert (
        OrmQ.objects.count() == Schedule.objects.filter(next_run__gt=Now(), name__startswith="registry-admin").count()
    )
    assert OrmQ.objects.exists()
    assert Schedule.objects.get(pk=foreign.pk).repeats == 0  # its content stays for who looks for it
    assert [record.msg for record in caplog.records if "set_aside" in record.getMessage()] == [
        {"event": "schedules.set_aside", "id": foreign.pk, "name": "a copy", "function": values["func"]}
    ]
    caplog.clear()
    tasks.ensure_schedules()
    assert not [record for record in caplog.records if "set_aside" in record.getMessage()]


@pytest.mark.parametrize(
    "broken",
    [
        {"args": "not ( python"},
        {"kwargs": "(", "hook": "x"},
        {"schedule_type": "C", "cron": "nonsense"},
        {"repeats": 0},
        {"intended_date_kwarg": "day"},
        {"next_run": None},
        {"cluster": "another"},
        {"next_run": timezone.now() + timedelta(days=400)},
    ],
)
def test_a_schedule_of_ours_that_was_changed_is_repaired(broken: dict[str, Any], declared: None) -> None:
    Schedule.objects.filter(name=TICK).update(**broken)

    tasks.ensure_schedules()
    Schedule.objects.filter(name=TICK).update(next_run=timezone.now() - timedelta(seconds=1))
    scheduler()

    row = Schedule.objects.get(name=TICK)
    assert timedelta(seconds=-5) < row.next_run - timezone.now() < timedelta(seconds=61)
    started = [message.task for message in OrmQ.objects.all() if message.func() == "deployments.tasks.tick"]
    assert [(task["args"], task["kwargs"]) for task in started] == [((), {})]


def test_a_schedule_that_was_declared_by_a_wrong_clock_comes_at_its_time(declared: None) -> None:
    Schedule.objects.filter(name=TICK).update(next_run=timezone.now() + timedelta(minutes=30))

    tasks.ensure_schedules()

    assert Schedule.objects.get(name=TICK).next_run < timezone.now() + timedelta(seconds=61)


def test_the_supervisor_writes_the_schedules_anew_each_minute(declared: None) -> None:
    supervisor = worker.Supervisor()
    supervisor._keep_schedules()
    Schedule.objects.all().delete()

    supervisor._keep_schedules()
    assert not Schedule.objects.exists()  # not at every beat

    supervisor.scheduled = time.monotonic() - 61
    supervisor._keep_schedules()
    assert Schedule.objects.filter(name=TICK).exists()


# ------------------------------------------------------------------------------------------------------------- overdue


@pytest.fixture
def overdue(declared: None) -> Process:
    """A worker runs, and still the tick is not started."""
    Schedule.objects.filter(name=TICK).update(next_run=timezone.now() - timedelta(seconds=100))
    started = timezone.now() - timedelta(seconds=100)
    return Process.objects.create(role=ProcessRole.WORKER, host="worker-1", pid=1, started_at=started)


def test_a_schedule_is_overdue_after_90_seconds_and_not_before(declared: None) -> None:
    Schedule.objects.filter(name=TICK).update(next_run=timezone.now() - timedelta(seconds=85))
    assert worker.overdue_schedule() == ""

    Schedule.objects.filter(name=TICK).update(next_run=timezone.now() - timedelta(seconds=95))
    assert TICK in worker.overdue_schedule()


def test_an_overdue_schedule_is_trouble_on_the_heartbeat(overdue: Process) -> None:
    supervisor = worker.Supervisor()
    row = processes.start(ProcessRole.WORKER)

    supervisor._beat(supervisor._overdue(), right=True)

    row.refresh_from_db()
    assert f"“{TICK}” is overdue by 10" in row.trouble

    Schedule.objects.update(next_run=timezone.now())
    supervisor._beat(supervisor._overdue(), right=True)
    row.refresh_from_db()
    assert row.trouble == ""


@pytest.mark.costly
def test_an_overdue_schedule_is_reported_by_the_probe_the_doctor_the_metrics_and_the_dashboard(
    overdue: Process, settings: Any, admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "worker-1")
    settings.METRICS_KEY = "a-key"
    scrape = Client(headers={"Authorization": "Bearer a-key"})

    with pytest.raises(CommandError, match="is overdue by 10"):
        call_command("worker", "--check")
    report = doctor.examine(configuration=settings.CONFIGURATION, offline=True)
    line = next(line for line in report.lines if line.what == "Schedules")
    assert (line.level, TICK in line.says) == (Level.FAIL, True)
    told = scrape.get("/status.json").json()
    assert (told["ok"], 95 < told["schedule_overdue_seconds"] < 130) == (False, True)
    assert "A schedule is overdue" in admin_client.get("/admin/").content.decode()

    Schedule.objects.update(next_run=timezone.now())
    call_command("worker", "--check")
    assert scrape.get("/status.json").json()["ok"] is True
    assert "A schedule is overdue" not in admin_client.get("/admin/").content.decode()


def test_after_a_stop_the_doctor_gives_a_new_worker_time_to_read_the_schedules(overdue: Process, settings: Any) -> None:
    Process.objects.update(started_at=timezone.now() - timedelta(seconds=10))

    report = doctor.examine(configuration=settings.CONFIGURATION, offline=True)

    line = next(line for line in report.lines if line.what == "Schedules")
    assert line.level is Level.WARN
    assert "is overdue by 10" in line.says
    assert "The worker started 1" in line.says
    assert "again in a minute" in line.then


def test_a_schedule_that_stays_overdue_has_the_cluster_started_again(
    overdue: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = worker.Supervisor()
    monkeypatch.setattr(worker, "session_members", lambda session: None)
    monkeypatch.setattr(worker.Supervisor, "_idle", lambda self: 0.0)
    supervisor.cluster = _Running()  # type: ignore[assignment]

    supervisor._overdue()
    assert supervisor._trouble() == ""

    assert supervisor.overdue_since is not None
    supervisor.overdue_since -= worker.OVERDUE_RESTART_SECONDS + 1
    supervisor._overdue()
    assert "no schedule was started for 5 minutes" in supervisor._trouble()


class _Running:
    pid = 0

    def poll(self) -> None:
        return None


def test_a_host_without_a_worker_is_not_ready_and_one_whose_worker_is_silent_neither(
    declared: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "worker-1")
    Process.objects.create(role=ProcessRole.WORKER, host="worker-2", pid=1)
    row = Process.objects.create(role=ProcessRole.WORKER, host="worker-1", pid=1)
    call_command("worker", "--check")

    Process.objects.filter(pk=row.pk).update(beat_at=Now() - timedelta(seconds=31))
    with pytest.raises(CommandError, match="No worker process on this host"):
        call_command("worker", "--check")

    Process.objects.filter(pk=row.pk).update(beat_at=Now(), ended_at=Now())
    with pytest.raises(CommandError, match="No worker process on this host"):
        call_command("worker", "--check")

    Process.objects.filter(pk=row.pk).update(ended_at=None, clock_offset=61)
    with pytest.raises(CommandError, match=r"clock is \+61"):
        call_command("worker", "--check")


# ---------------------------------------------------------------------------------------------------------- the tick


@pytest.mark.parametrize("broken", list(tasks.STEPS))
def test_a_step_of_the_tick_that_fails_stops_no_other_and_is_one_log_line_and_trouble(
    broken: str, declared: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    row = processes.start(ProcessRole.TASK)
    ran: list[str] = []

    def step(name: str) -> Callable[[], None]:
        def run() -> None:
            ran.append(name)
            if name == broken:
                raise ValueError("this step is broken")

        return run

    monkeypatch.setattr(tasks, "STEPS", {name: step(name) for name in tasks.STEPS})
    with caplog.at_level(logging.WARNING):
        tasks.tick()
    processes.beat()

    assert ran == list(tasks.STEPS)
    [line] = [record.msg for record in caplog.records]
    assert isinstance(line, Fields)
    assert (line["event"], line["step"], line["task"]) == ("tick.failed", broken, "tick")
    row.refresh_from_db()
    assert broken in row.trouble

    monkeypatch.setattr(tasks, "STEPS", {})
    tasks.tick()
    processes.beat()
    row.refresh_from_db()
    assert row.trouble == ""


def test_the_tick_times_out_closes_forgets_wakes_and_sends(declared: None, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def note(name: str, **kwargs: Any) -> int:
        done.append(name)
        return 0

    for module, name in [
        (lifecycle, "time_out_overdue"),
        (sweeps, "close_finished"),
        (sweep_record, "forget_old"),
        (sweep_record, "open_work"),
        (deliveries, "collect"),
    ]:
        monkeypatch.setattr(module, name, functools.partial(note, name))
    Session.objects.create(session_key="old", session_data="x", expire_date=timezone.now() - timedelta(seconds=1))
    Session.objects.create(session_key="new", session_data="x", expire_date=timezone.now() + timedelta(hours=1))

    tasks.tick()

    assert sorted(done) == ["close_finished", "collect", "forget_old", "open_work", "time_out_overdue"]
    assert list(Session.objects.values_list("session_key", flat=True)) == ["new"]


@pytest.mark.parametrize("offset", [60.0, -600.0])
@pytest.mark.parametrize("task", ["tick", "sweep", "drain", "tell"])
def test_a_task_on_a_host_whose_clock_is_wrong_does_nothing(
    task: str, offset: float, declared: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("it worked")

    monkeypatch.setattr(tasks, "STEPS", {"all": never})
    monkeypatch.setattr(sweep_record, "start", never)
    monkeypatch.setattr(sweeps, "work", never)
    monkeypatch.setattr(deliveries, "deliver", never)
    monkeypatch.setattr(processes, "clock_offset", lambda: offset)

    getattr(tasks, task)()
