"""The queue and its supervisor: schedules exist once, a broken cluster is started again, a stop is clean."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, connections
from django.db.backends.signals import connection_created
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone
from django_q.models import OrmQ, Schedule

from deployments import doctor, outage, tasks, worker
from deployments.checks import queue_settings_are_safe
from deployments.config import Configuration
from deployments.doctor import Level
from deployments.models import (
    PolicyStep,
    PolicyVersion,
    Process,
    ProcessRole,
    StepState,
    Sweep,
    SweepChunk,
    SweepStatus,
    SweepTrigger,
    VersionState,
)
from deployments.notify import news
from deployments.reconcile import generation, processes, sweep_record, sweeps
from deployments.reconcile.chunks import ChunkRun
from sandbox.control import Sandbox
from tests import databases, postgresql
from tests.support.constants import CLUSTER, HOST, POLICY
from tests.support.registry import fill
from tests.support.rollouts import allowing
from tests.support.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
Configure = Callable[..., Configuration]
ROOT = Path(__file__).resolve().parent.parent


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
    Schedule.objects.create(name="somebody's own", func="math.sqrt", cluster="another")
    configure(RECONCILE_INTERVAL_MINUTES="3")
    tasks.ensure_schedules()
    assert Schedule.objects.get(name="registry-admin: sweep").minutes == 3

    configure(RECONCILE_INTERVAL_MINUTES="0")
    tasks.ensure_schedules()

    assert set(Schedule.objects.values_list("name", flat=True)) == {"registry-admin: tick", "somebody's own"}


def test_declaring_again_leaves_the_next_run_where_it_is(configure: Configure) -> None:
    configure()
    tasks.ensure_schedules()
    moment = timezone.now() + timedelta(seconds=50)
    Schedule.objects.update(next_run=moment)

    tasks.ensure_schedules()

    assert set(Schedule.objects.values_list("next_run", flat=True)) == {moment}


def test_waking_the_workers_queues_one_task_for_each_piece_of_work_however_often(configure: Configure) -> None:
    configure()
    Sweep.objects.create(trigger=SweepTrigger.PERSON)
    Sweep.objects.create(trigger=SweepTrigger.COMMAND)

    tasks.wake_workers()
    tasks.wake_workers()

    assert OrmQ.objects.count() == 2


def test_the_worker_that_has_listed_a_registry_wakes_the_others_for_the_chunks(
    configure: Configure, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "REPOSITORIES_PER_CHUNK", 2)
    fill(sandbox, configure(DEPLOY_REGISTRY_HOST=HOST), 6)
    waiting: list[int] = []

    def end(run: ChunkRun) -> None:
        waiting.append(tasks.waiting_tasks("drain"))
        run.lease.finish({"remaining": [], "finished_at": Now()})

    monkeypatch.setattr(ChunkRun, "run", end)
    Sweep.objects.create(trigger=SweepTrigger.PERSON)
    tasks.drain()

    assert waiting == [3, 3, 3]  # before the first chunk was worked on
    assert Sweep.objects.get().status == SweepStatus.DONE


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


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL is for many hosts")
def test_a_second_worker_host_on_sqlite_does_not_start(configure: Configure) -> None:
    configure()
    Process.objects.create(role=ProcessRole.WORKER, host="another-host", pid=1)

    with pytest.raises(CommandError, match="another-host"):
        call_command("worker")


# ---------------------------------------------------------------------------------------------------------- supervisor


@pytest.fixture
def supervisor() -> Iterator[worker.Supervisor]:
    """A supervisor whose cluster is a process that does nothing, and was complete a while ago."""
    pulse, written = os.pipe()
    os.set_blocking(pulse, False)
    cluster = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    made = worker.Supervisor(cluster=cluster, members={cluster.pid}, pulse=pulse, started=time.monotonic() - 600)
    yield made
    cluster.communicate(b"\n", timeout=20)
    os.close(pulse)
    os.close(written)


@pytest.mark.parametrize(
    ("waiting", "idle", "stalled"),
    [
        (100.0, 100.0, True),
        (100.0, 1.0, False),  # it is at work on others
        (1.0, 100.0, False),  # there was nothing to do until now
        (None, 100.0, False),
        (75.0, 75.0, True),
        (65.0, 65.0, False),  # one task may take a minute
    ],
)
def test_a_cluster_in_which_messages_wait_and_nothing_starts_is_in_trouble(
    waiting: float | None, idle: float, stalled: bool, supervisor: worker.Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "oldest_waiting", lambda: waiting)
    supervisor.touched = time.monotonic() - idle

    assert ("none was started" in supervisor._trouble()) is stalled


def test_a_cluster_that_touched_a_task_is_not_idle(supervisor: worker.Supervisor) -> None:
    supervisor.touched = time.monotonic() - 100
    assert supervisor._idle() > 99

    pulse, written = os.pipe()
    os.write(written, b".")
    supervisor.pulse, before = pulse, supervisor.pulse
    assert supervisor._idle() < 5
    supervisor.pulse = before
    os.close(pulse)
    os.close(written)


@pytest.mark.parametrize(("seconds", "told"), [(3590, True), (3610, False)])
def test_the_heartbeat_says_for_an_hour_why_the_cluster_was_started_again(
    seconds: float, told: bool, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure()
    said: list[str] = []
    monkeypatch.setattr(processes, "report_trouble", said.append)
    monkeypatch.setattr(processes, "beat", lambda **values: True)
    supervisor = worker.Supervisor(restarted="a process died", started=time.monotonic() - seconds)

    supervisor._beat("", right=True)

    assert ("a process died" in said[0]) is told


@pytest.mark.parametrize(("hours", "kept"), [(23, True), (25, False)])
def test_the_row_of_a_process_that_is_gone_is_kept_for_a_day(hours: int, kept: bool, configure: Configure) -> None:
    configure()
    Process.objects.create(role=ProcessRole.WORKER, host="gone", pid=1, beat_at=Now() - timedelta(hours=hours))

    generation.forget_old(kept=processes.ENDED_PROCESSES_KEPT_FOR)

    assert Process.objects.exists() is kept


@dataclass(kw_only=True)
class Running:
    """`manage.py worker` in a process of its own, on the test's database."""

    process: subprocess.Popen[bytes]
    log: Path

    def lines(self, *words: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if any(word in line for word in words)]


@pytest.fixture
def start(tmp_path: Path, configure: Configure) -> Iterator[Callable[..., Running]]:
    """Start a worker with these variables beside; all that were started are ended with the test."""
    configure()
    started: list[Running] = []

    def run(**variables: str) -> Running:
        url = databases.url_of(str(connection.settings_dict["NAME"]))
        log = tmp_path / f"worker-{len(started)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "manage.py", "worker"],
                cwd=ROOT,
                env={**os.environ, "DATABASE_URL": url, **variables},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        started.append(Running(process=process, log=log))
        return started[-1]

    yield run
    for each in started:
        if each.process.poll() is None:
            each.process.send_signal(signal.SIGTERM)
            try:
                each.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(each.process.pid, signal.SIGKILL)
                each.process.wait()
        print(each.log.read_text()[-6000:])


@pytest.fixture
def running(start: Callable[..., Running]) -> subprocess.Popen[bytes]:
    return start().process


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
    tasks.wake_workers()

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
def test_sigterm_ends_the_worker_and_everything_it_started_within_8_seconds(running: subprocess.Popen[bytes]) -> None:
    cluster = wait_for(lambda: cluster_of(running))
    wait_for(lambda: Process.objects.filter(role=ProcessRole.TASK).exists())  # the first tick was begun

    running.send_signal(signal.SIGTERM)

    assert running.wait(8) == 0
    assert worker.session_members(cluster) == set()
    assert not Process.objects.filter(ended_at=None).exists()


@pytest.mark.slow
def test_sigterm_ends_the_worker_within_8_seconds_while_its_sweep_waits_for_aws_and_its_leases_end_with_it(
    start: Callable[..., Running], configure: Configure, sandbox: Sandbox
) -> None:
    variables = {
        "DEPLOY_REGISTRY_HOST": HOST,
        "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY,
        "RECONCILE_INTERVAL_MINUTES": "0",
    }
    fill(sandbox, configure(**variables), 40)
    sandbox.fault("hang", "ecr:GetRepositoryPolicy", seconds=60)
    running = start(**variables).process
    wait_for(lambda: cluster_of(running))
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON)
    tasks.wake_workers()
    wait_for(lambda: any(fault["struck"] for fault in sandbox.faults()))
    assert SweepChunk.objects.filter(lease_until__gt=Now()).exists()

    running.send_signal(signal.SIGTERM)

    assert running.wait(8) == 0
    assert sweep is not None
    assert sweep_record.open_work(sweep.pk) == 1
    assert not Process.objects.filter(ended_at=None).exists()


@pytest.mark.slow
def test_a_roll_out_whose_worker_is_killed_five_times_writes_each_of_200_repositories_once(
    start: Callable[..., Running], configure: Configure, sandbox: Sandbox
) -> None:
    variables = {
        "DEPLOY_REGISTRY_HOST": HOST,
        "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY,
        "DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS": CLUSTER,
        "DEPLOY_REGISTRY_ECR_ROLLOUT": "staged",
        "RECONCILE_INTERVAL_MINUTES": "0",
        "RECONCILE_CALLS_PER_SECOND": "100",
    }
    before = configure(**variables)
    names = fill(sandbox, before, 200)
    generation.register(before, role=ProcessRole.WEB)
    more = json.loads(allowing("444444444444"))["Statement"]
    policy = json.loads(POLICY)
    variables["DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY"] = json.dumps(
        policy | {"Statement": policy["Statement"] + more}
    )

    def written() -> int:
        return sandbox.calls().get("ecr:SetRepositoryPolicy", 0)

    for number in (5, 35, 75, 115, 155):
        running = start(**variables).process
        wait_for(lambda number=number: written() >= number, seconds=90)  # type: ignore[misc]
        running.kill()
        running.wait(10)
    start(**variables)
    wait_for(lambda: PolicyVersion.objects.filter(number=2, state=VersionState.ACTIVE).exists(), seconds=120)

    assert written() == 200
    client = sandbox.client("ecr")
    assert all("444444444444" in client.get_repository_policy(repositoryName=name)["policyText"] for name in names)
    steps = PolicyStep.objects.filter(version__number=2)
    assert steps.filter(state=StepState.WRITTEN).count() == steps.count() == 200


@pytest.mark.slow
@pytest.mark.parametrize("hanging", [False, True])
def test_a_supervisor_that_was_killed_takes_its_cluster_with_it_also_one_that_hangs(
    hanging: bool, running: subprocess.Popen[bytes]
) -> None:
    cluster = wait_for(lambda: cluster_of(running))
    if hanging:
        os.kill(sorted(worker.session_members(cluster) or set())[1], signal.SIGSTOP)  # the sentinel

    running.kill()

    wait_for(lambda: worker.session_members(cluster) == set(), seconds=12)


@pytest.mark.slow
@pytest.mark.parametrize("with_sentinel", [False, True])
def test_a_supervisor_killed_together_with_the_clusters_main_process_leaves_nothing_running(
    with_sentinel: bool, running: subprocess.Popen[bytes]
) -> None:
    cluster = wait_for(lambda: cluster_of(running))
    members = sorted(worker.session_members(cluster) or set())

    for pid in [running.pid, *members[: 2 if with_sentinel else 1]]:
        os.kill(pid, signal.SIGKILL)

    wait_for(lambda: worker.session_members(cluster) == set(), seconds=5)


@pytest.mark.slow
def test_a_temporary_folder_that_is_cleaned_leaves_the_worker_running(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    running = start(TMPDIR=str(folder))
    cluster = wait_for(lambda: cluster_of(running.process))
    shutil.rmtree(folder)

    time.sleep(2 * worker.BEAT_SECONDS)
    Sweep.objects.create(trigger=SweepTrigger.PERSON)
    tasks.wake_workers()

    wait_for(lambda: Sweep.objects.filter(status=SweepStatus.DONE).exists())
    wait_for(lambda: Process.objects.filter(role=ProcessRole.WORKER, last_task_at__isnull=False).exists())
    assert cluster_of(running.process) == cluster
    assert not running.lines("Traceback")


@pytest.mark.slow
def test_the_processes_that_run_tasks_have_rows_that_beat_and_end_with_their_cluster(
    running: subprocess.Popen[bytes],
) -> None:
    cluster = wait_for(lambda: cluster_of(running))
    time.sleep(worker.BEAT_SECONDS + 1)  # the supervisor has seen it whole
    row = wait_for(lambda: Process.objects.filter(role=ProcessRole.TASK).first())
    assert row.pid in (worker.session_members(cluster) or set())
    wait_for(lambda: Process.objects.filter(pk=row.pk, beat_at__gt=row.beat_at).exists())

    os.kill(row.pid, signal.SIGKILL)

    wait_for(lambda: Process.objects.filter(pk=row.pk, ended_at__isnull=False).exists(), seconds=20)


# -------------------------------------------------------------------------------------------------------------- clocks

WRONG_CLOCK = """
import time
from pathlib import Path
_real = time.time
time.time = lambda: _real() + float(Path({path!r}).read_text())
"""


@pytest.mark.slow
@pytest.mark.postgresql
@pytest.mark.timeout(120)
def test_a_worker_whose_clock_is_wrong_takes_no_work_at_its_start_and_while_it_runs_and_says_so(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite's clock is the host's")
    clock = tmp_path / "clock"
    clock.write_text("600")
    (tmp_path / "sitecustomize.py").write_text(WRONG_CLOCK.format(path=str(clock)))
    running = start(PYTHONPATH=str(tmp_path))
    beat = wait_for(lambda: Process.objects.filter(trouble__contains="takes no work").first())
    assert "clock is +600" in beat.trouble
    Sweep.objects.create(trigger=SweepTrigger.PERSON)
    tasks.wake_workers()
    time.sleep(worker.BEAT_SECONDS)
    assert cluster_of(running.process) is None
    assert OrmQ.objects.filter(lock__lt=Now()).count() == 1
    assert not Schedule.objects.exists()

    clock.write_text("-7")  # wrong, and not wrong enough to harm
    wait_for(lambda: Sweep.objects.filter(status=SweepStatus.DONE).exists())
    row = wait_for(lambda: Process.objects.filter(role=ProcessRole.WORKER, clock_offset__lt=-6).first())
    assert "clock is -7.0" in row.trouble
    assert "takes no work" not in row.trouble

    clock.write_text("-61")
    wait_for(lambda: not Process.objects.filter(role=ProcessRole.TASK, ended_at=None).exists())
    wait_for(lambda: Process.objects.filter(role=ProcessRole.WORKER, trouble__contains="takes no work").exists())
    assert running.process.poll() is None
    assert len(running.lines("worker.clock_wrong")) == 1


@pytest.mark.costly
def test_every_process_whose_clock_is_off_is_named_by_the_doctor_and_the_metrics(
    configure: Configure, settings: Any
) -> None:
    configure()
    settings.METRICS_KEY = "a-key"
    for role, offset in ((ProcessRole.WEB, 6.0), (ProcessRole.EVENTS, -75.0), (ProcessRole.WORKER, 4.9)):
        Process.objects.create(
            role=role, host=f"{role}-host", pid=1, clock_offset=offset, trouble=processes.clock_words(offset)
        )

    report = doctor.examine(configuration=settings.CONFIGURATION, offline=True)
    levels = {line.what: line.level for line in report.lines if line.part == "Processes"}
    assert levels == {
        "Web on web-host, process 1": Level.WARN,
        "Events on events-host, process 1": Level.FAIL,
        "Worker on worker-host, process 1": Level.OK,
    }
    text = Client(headers={"Authorization": "Bearer a-key"}).get("/metrics").content.decode()
    assert 'clock_offset_seconds{host="events-host",pid="1",role="events"} -75.0\n' in text
    assert "registry_admin_processes_in_trouble 2.0\n" in text


@pytest.mark.parametrize(("offset", "said"), [(5.0, ""), (5.1, "+5.1 seconds"), (-5.1, "-5.1 seconds")])
def test_a_beat_says_that_the_clock_is_off_from_5_seconds_on(
    offset: float, said: str, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure()
    row = processes.start(ProcessRole.WEB)
    monkeypatch.setattr(processes, "clock_offset", lambda: offset)

    processes.beat()

    row.refresh_from_db()
    assert (said in row.trouble, bool(row.trouble)) == (True, bool(said))
    assert row.clock_offset == offset


# -------------------------------------------------------------------------------------------------------------- events


@pytest.mark.costly
def test_a_consumer_of_events_that_went_silent_is_reported_everywhere(
    configure: Configure, settings: Any, admin_client: Client
) -> None:
    configure()
    settings.METRICS_KEY = "a-key"
    scrape = Client(headers={"Authorization": "Bearer a-key"})
    Process.objects.create(role=ProcessRole.WORKER, host="one", pid=1)
    row = Process.objects.create(role=ProcessRole.EVENTS, host="gone", pid=2)

    def reported() -> tuple[Any, ...]:
        report = doctor.examine(configuration=settings.CONFIGURATION, offline=True)
        return (
            {line.level for line in report.lines if line.what.startswith(("Consumer", "Events on "))},
            scrape.get("/status.json").json()["ok"],
            "No process consumes the change events" in admin_client.get("/admin/").content.decode(),
        )

    assert reported() == ({Level.OK}, True, False)

    Process.objects.filter(pk=row.pk).update(beat_at=Now() - timedelta(seconds=125))
    assert reported() == ({Level.WARN, Level.FAIL}, False, True)
    found = [news.subject for news in news._workers(row.started_at - timedelta(hours=1), timezone.now())]
    assert found == ["The consumer of change events on gone sends no heartbeat"]

    Process.objects.create(role=ProcessRole.EVENTS, host="another", pid=2)  # it was replaced
    assert reported() == ({Level.OK, Level.WARN}, True, False)

    Process.objects.filter(role=ProcessRole.EVENTS).update(ended_at=Now())  # and all were stopped on purpose
    assert reported() == (set(), True, False)


# -------------------------------------------------------------------------------------------------- outages, log lines


@pytest.fixture
def handler() -> Iterator[tuple[outage.OneLineHandler, StringIO]]:
    made, stream = outage.OneLineHandler(), StringIO()
    made.setStream(stream)
    made.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    yield made, stream
    made.close()


class _Driver(Exception):
    def __init__(self, words: str, sqlstate: str | None) -> None:
        super().__init__(words)
        self.sqlstate = sqlstate


def record(cause: Exception, error: type[Exception] = OperationalError) -> logging.LogRecord:
    try:
        raise error(str(cause)) from cause
    except error:
        return logging.LogRecord("django-q", logging.ERROR, "x.py", 1, "Failed to pull", (), sys.exc_info())


@pytest.mark.parametrize("state", [None, "08006", "57P01", "57P02", "57P03", "53300"])
def test_an_outage_is_one_line_and_one_when_it_is_over_that_says_how_many_were_left_out(
    state: str | None, handler: tuple[outage.OneLineHandler, StringIO], caplog: pytest.LogCaptureFixture
) -> None:
    made, stream = handler
    for _ in range(174):
        made.handle(record(_Driver("the connection\nis closed", state)))

    assert stream.getvalue().splitlines() == [
        'ERROR database.unreachable error="the connection is closed" during="Failed to pull" '
        'then="further lines are dropped until the database answers"'
    ]
    connection_created.send(sender=None, connection=connection)
    connection_created.send(sender=None, connection=connection)
    over = [each.getMessage() for each in caplog.records if each.name == "deployments.outage"]
    assert len(over) == 1
    assert "lines_left_out=173" in over[0]

    made.handle(record(_Driver("again", state)))
    assert len(stream.getvalue().splitlines()) == 2


@pytest.mark.parametrize(
    "cause", [_Driver("canceling statement due to statement timeout", "57014"), ValueError("database is locked")]
)
def test_what_is_no_outage_keeps_its_traceback(
    cause: Exception, handler: tuple[outage.OneLineHandler, StringIO]
) -> None:
    made, stream = handler

    made.handle(record(cause))
    made.handle(record(cause))

    assert stream.getvalue().count("Traceback") == 2


@pytest.mark.slow
@pytest.mark.postgresql
@pytest.mark.timeout(180)
def test_a_database_that_is_away_for_8_seconds_is_one_log_line_in_each_process_and_the_cluster_goes_on(
    own_server: postgresql.Server, start: Callable[..., Running]
) -> None:
    running = start(DATABASE_URL=own_server.url)
    cluster = wait_for(lambda: cluster_of(running.process))
    wait_for(lambda: Process.objects.filter(role=ProcessRole.TASK).exists())
    connections.close_all()
    own_server.crash(away=8)

    Sweep.objects.create(trigger=SweepTrigger.PERSON)
    tasks.wake_workers()
    wait_for(lambda: Sweep.objects.filter(status=SweepStatus.DONE).exists(), seconds=60)
    wait_for(lambda: Process.objects.filter(role=ProcessRole.WORKER, beat_at__gt=Now() - timedelta(seconds=5)).exists())

    assert cluster_of(running.process) == cluster
    assert not running.lines("Traceback")
    began = running.lines("database.unreachable")
    assert 1 <= len(began) <= 7  # the supervisor and each process of the cluster that asked meanwhile
    assert len(running.lines("OperationalError", "connection", "database")) <= 2 * len(began)
    assert running.lines("database.answers_again")
