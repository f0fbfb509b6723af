"""Real processes are killed and a real database crashes in the middle of a sweep: nothing is lost, nothing is stuck."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.db import DatabaseError, connection, connections
from django.db.models.functions import Now

from deployments import tasks, worker
from deployments.config import Configuration
from deployments.models import Repository, RepositoryStatus, Sweep, SweepChunk, SweepStatus, SweepTrigger
from deployments.reconcile import chunks, sweep_record, sweeps
from sandbox.control import Sandbox
from tests import databases
from tests.support.constants import HOST, POLICY
from tests.support.registry import calls, drift, fill, policies

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).resolve().parent.parent
VARIABLES = {
    "DEPLOY_REGISTRY_HOST": HOST,
    "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY,
    "RECONCILE_CALLS_PER_SECOND": "100",
    "RECONCILE_INTERVAL_MINUTES": "0",
}


@pytest.fixture
def installation(configure: Callable[..., Configuration], sandbox: Sandbox) -> Configuration:
    return configure(**VARIABLES)


@pytest.fixture
def start_worker(sandbox: Sandbox, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """`manage.py worker` as a process of its own, on the test's database and sandbox; as often as one likes."""
    started: list[subprocess.Popen[bytes]] = []
    log = tmp_path / "worker.log"
    database = databases.url_of(str(connection.settings_dict["NAME"]))

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "manage.py", "worker"],
                cwd=ROOT,
                env={**os.environ, **VARIABLES, "DATABASE_URL": database},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in started:
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    print(log.read_text()[-5000:])


def cluster_members(process: subprocess.Popen[bytes]) -> set[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return set().union(*(worker.session_members(int(child)) or set() for child in children))


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_killed_in_the_middle_of_a_sweep_lose_no_repository_and_leave_nothing_stuck(
    installation: Configuration, sandbox: Sandbox, start_worker: Callable[[], subprocess.Popen[bytes]]
) -> None:
    names = fill(sandbox, installation, 600)
    drifted = names[::12]
    drift(sandbox, drifted)
    first, second = start_worker(), start_worker()
    wait_for(lambda: len(cluster_members(first)) >= 6 and len(cluster_members(second)) >= 6, 40)
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON, requested_by="tester")
    assert sweep is not None
    tasks.wake_workers()
    wait_for(lambda: SweepChunk.objects.filter(attempts=1).exists(), 40)
    time.sleep(0.5)

    # One whole host dies; of the other one, every process but the supervisor, which starts them again.
    members = cluster_members(first) | cluster_members(second)
    first.kill()
    for member in members:
        os.kill(member, signal.SIGKILL)
    held = SweepChunk.objects.filter(lease_until__gt=Now(), finished_at__isnull=True)
    assert held.exists(), "the kill came too late to meet the sweep"

    wait_for(lambda: Sweep.objects.get(pk=sweep.pk).status != SweepStatus.RUNNING, 200)
    sweep.refresh_from_db()
    result = sweep_record.progress(sweep)
    assert (sweep.status, result.done, result.failed) == (SweepStatus.DONE, 600, 0)
    assert policies(sandbox, names) == 600
    assert calls(sandbox)["SetRepositoryPolicy"] <= len(drifted) + 2 * chunks.THREADS_PER_CHUNK
    assert not SweepChunk.objects.filter(lease_until__gt=Now()).exists()
    assert not Repository.objects.filter(lease_until__gt=Now()).exists()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_answers_lost_and_connections_cut_in_a_sweep_leave_every_repository_right(
    installation: Configuration, sandbox: Sandbox
) -> None:
    names = fill(sandbox, installation, 80)
    drift(sandbox, names[::4])
    sandbox.fault("lost", "ecr:SetRepositoryPolicy", times=5)
    sandbox.fault("reset", "ecr:GetRepositoryPolicy", times=5)

    for _ in range(2):  # what failed in one sweep is right in the next
        sweep = sweep_record.start(trigger=SweepTrigger.PERSON)
        assert sweep is not None
        while sweeps.work(configuration=installation, seconds=30, sweep_id=sweep.pk):
            pass

    assert policies(sandbox, names) == 80
    assert set(Repository.objects.values_list("status", flat=True)) == {RepositoryStatus.IN_SYNC}
    assert not Repository.objects.filter(last_error__gt="").exists()


@pytest.mark.timeout(120)
def test_a_database_that_crashes_in_the_middle_of_a_sweep_loses_nothing(
    crash_database: Callable[[], None],
    installation: Configuration,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweeps, "REPOSITORIES_PER_CHUNK", 40)
    names = fill(sandbox, installation, 200)
    drift(sandbox, names[::10])
    sandbox.fault("latency", "ecr:*", seconds=0.05)
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON)
    assert sweep is not None
    failures: list[BaseException] = []

    def work() -> None:
        try:
            sweeps.work(configuration=installation, seconds=60, sweep_id=sweep.pk)
        except DatabaseError as error:
            failures.append(error)
        finally:
            connections.close_all()

    worker_thread = threading.Thread(target=work)
    worker_thread.start()
    wait_for(lambda: SweepChunk.objects.filter(finished_at__isnull=False).exists(), 20)

    crash_database()
    worker_thread.join(60)
    connections.close_all()
    assert failures, "the crash came too late to meet the sweep"
    Sweep.objects.update(lease_until=None)
    SweepChunk.objects.update(lease_until=None)  # as after 45 seconds
    Repository.objects.update(lease_until=None)

    while sweeps.work(configuration=installation, seconds=30, sweep_id=sweep.pk):
        pass

    sweep.refresh_from_db()
    assert (sweep.status, sweep_record.progress(sweep).done) == (SweepStatus.DONE, 200)
    assert policies(sandbox, names) == 200
