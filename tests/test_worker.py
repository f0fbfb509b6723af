"""The queue and its supervisor: schedules exist once, a broken cluster is started again, a stop is clean."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.utils import timezone
from django_q.models import OrmQ, Schedule

from deployments import tasks, worker
from deployments.checks import queue_settings_are_safe
from deployments.config import Configuration
from deployments.models import Process, ProcessRole, Sweep, SweepStatus, SweepTrigger
from tests import databases

pytestmark = pytest.mark.django_db(transaction=True)
Configure = Callable[..., Configuration]
ROOT = Path(__file__).resolve().parent.parent


def wait_for(condition: Callable[[], Any], seconds: float = 40) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.1)
    return found


# ---------------------------------------------------------------------------------------------------------- schedules


def test_schedules_declared_by_four_workers_at_once_exist_once(configure: Configure) -> None:
    configure(RECONCILE_INTERVAL_MINUTES="7")
    barrier = threading.Barrier(4)

    def declare() -> None:
        try:
            barrier.wait(10)
            tasks.ensure_schedules()
        finally:
            connections.close_all()

    threads = [threading.Thread(target=declare) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(Schedule.objects.values_list("name", "minutes")) == [
        ("registry-admin: sweep", 7),
        ("registry-admin: tick", 1),
    ]


def test_a_changed_interval_changes_the_row_and_zero_removes_it_and_other_schedules_are_left(
    configure: Configure,
) -> None:
    configure(RECONCILE_INTERVAL_MINUTES="10")
    tasks.ensure_schedules()
    Schedule.objects.create(name="somebody's own", func="math.sqrt")
    configure(RECONCILE_INTERVAL_MINUTES="3")
    tasks.ensure_schedules()
    assert Schedule.objects.get(name="registry-admin: sweep").minutes == 3

    configure(RECONCILE_INTERVAL_MINUTES="0")
    tasks.ensure_schedules()

    assert set(Schedule.objects.values_list("name", flat=True)) == {"registry-admin: tick", "somebody's own"}


def test_declaring_again_leaves_the_next_run_where_it_is(configure: Configure) -> None:
    configure()
    tasks.ensure_schedules()
    moment = timezone.now() + timedelta(minutes=5)
    Schedule.objects.update(next_run=moment)

    tasks.ensure_schedules()

    assert set(Schedule.objects.values_list("next_run", flat=True)) == {moment}


def test_a_bell_is_rung_once_for_each_piece_of_work_however_often_it_is_rung(configure: Configure) -> None:
    configure()
    Sweep.objects.create(trigger=SweepTrigger.PERSON)
    Sweep.objects.create(trigger=SweepTrigger.COMMAND)

    tasks.ring()
    tasks.ring()

    assert OrmQ.objects.count() == 2


def test_without_an_ecr_registry_the_scheduled_sweep_is_over_at_once(configure: Configure) -> None:
    configure()

    tasks.sweep()
    tasks.drain()

    assert Sweep.objects.get().status == SweepStatus.DONE


# -------------------------------------------------------------------------------------------------------------- checks


@pytest.mark.parametrize(
    ("change", "identifier"),
    [
        ({"retry": 60}, "deployments.E011"),
        ({"queue_limit": 50}, "deployments.E011"),
        ({"guard_cycle": 0.3}, "deployments.E012"),
        ({"timeout": None}, "deployments.E010"),
        ({"ack_failures": False}, "deployments.E013"),
    ],
)
def test_queue_settings_that_run_tasks_twice_or_never_end_them_stop_the_start(
    change: dict[str, Any], identifier: str, settings: Any
) -> None:
    assert list(queue_settings_are_safe()) == []
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, **change}

    assert [message.id for message in queue_settings_are_safe()] == [identifier]


def test_a_worker_whose_clock_is_off_does_not_start(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    configure()
    monkeypatch.setattr(worker, "clock_offset", lambda: 61.0)

    with pytest.raises(CommandError, match=r"clock is \+61"):
        call_command("worker")


def test_a_second_worker_host_on_sqlite_does_not_start(configure: Configure) -> None:
    configure()
    Process.objects.create(role=ProcessRole.WORKER, host="another-host", pid=1)
    if connection.vendor != "sqlite":
        return

    with pytest.raises(CommandError, match="another-host"):
        call_command("worker")


# ---------------------------------------------------------------------------------------------------------- supervisor


@pytest.fixture
def running(tmp_path: Path, configure: Configure) -> Iterator[subprocess.Popen[bytes]]:
    """`manage.py worker` in a process of its own, on the test's database."""
    configure()
    url = databases.url_of(str(connection.settings_dict["NAME"]))
    log = tmp_path / "worker.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "worker"],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": url},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    print(log.read_text())


def cluster_of(process: subprocess.Popen[bytes]) -> int | None:
    """The main process of the cluster that a worker runs, once it is complete."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        members = worker.session_members(int(child))
        if members and len(members) >= 6:
            return int(child)
    return None


@pytest.mark.slow
def test_a_cluster_that_lost_an_idle_process_is_started_again_and_works(running: subprocess.Popen[bytes]) -> None:
    first = wait_for(lambda: cluster_of(running))
    time.sleep(worker.BEAT_SECONDS + 1)  # the supervisor has seen it whole
    idle = sorted(worker.session_members(first) or set())[2]
    os.kill(idle, signal.SIGKILL)

    second = wait_for(lambda: (found := cluster_of(running)) and found != first and found)
    Sweep.objects.create(trigger=SweepTrigger.PERSON)
    tasks.ring()

    wait_for(lambda: Sweep.objects.filter(status=SweepStatus.DONE).exists())
    assert worker.session_members(first) == set()
    beat = wait_for(lambda: Process.objects.filter(restarts=1).first())
    assert "died" in beat.trouble
    assert second != first


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_cluster_whose_main_or_sentinel_was_killed_leaves_no_orphan(
    victim: int, running: subprocess.Popen[bytes]
) -> None:
    first = wait_for(lambda: cluster_of(running))
    time.sleep(worker.BEAT_SECONDS + 1)
    os.kill(sorted(worker.session_members(first) or set())[victim], signal.SIGKILL)

    wait_for(lambda: (found := cluster_of(running)) and found != first and found)

    assert worker.session_members(first) == set()


@pytest.mark.slow
def test_sigterm_ends_the_worker_and_everything_it_started(running: subprocess.Popen[bytes]) -> None:
    cluster = wait_for(lambda: cluster_of(running))
    wait_for(lambda: Process.objects.exists())

    running.send_signal(signal.SIGTERM)

    assert running.wait(40) == 0
    assert worker.session_members(cluster) == set()
    assert not Process.objects.filter(ended_at=None).exists()


@pytest.mark.slow
def test_a_supervisor_that_was_killed_takes_its_cluster_with_it(running: subprocess.Popen[bytes]) -> None:
    cluster = wait_for(lambda: cluster_of(running))

    running.kill()

    wait_for(lambda: worker.session_members(cluster) == set(), seconds=90)
