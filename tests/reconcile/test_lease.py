"""A lease ends with the process that holds it: 15 seconds after the process's last heartbeat, or when it ends."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection, connections
from django.db.backends.utils import CursorWrapper
from django.db.models import F
from django.db.models.functions import Now

from deployments.config import Configuration
from deployments.errors import RegistryError
from deployments.models import (
    Process,
    ProcessRole,
    Project,
    Repository,
    RepositoryStatus,
    Sweep,
    SweepChunk,
    SweepStatus,
    SweepTrigger,
)
from deployments.reconcile import lease, processes, repositories, sweep_record, sweeps
from sandbox.control import Sandbox
from tests import databases
from tests.support.constants import A_MOMENT, HOST, POLICY
from tests.support.deploys import ensure
from tests.support.registry import new_calls
from tests.support.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).resolve().parent.parent.parent
SILENT = timedelta(seconds=processes.SILENT_SECONDS + 1)


def other_process(**values: Any) -> int:
    """The row of a process on another host, with a heartbeat just now unless `values` say otherwise."""
    row = Process.objects.create(role=ProcessRole.WEB, host="elsewhere", pid=1)
    Process.objects.filter(pk=row.pk).update(**values)
    return row.pk


def held_by(process: int | None) -> dict[str, Any]:
    return {"lease_owner": "other", "lease_until": Now() + timedelta(seconds=80), "lease_process": process}


def rows() -> list[Any]:
    """A row of each model that has a lease, selected alone."""
    Repository.objects.create(account="1", region="r", name="n", host="h")
    sweep = Sweep.objects.create(trigger=SweepTrigger.PERSON)
    SweepChunk.objects.create(sweep=sweep, position=0, host="h", namespace="n", size=1)
    return [Repository.objects.all(), Sweep.objects.all(), SweepChunk.objects.all()]


def ways() -> list[tuple[Any, Callable[[], lease.Lease[Any] | None]]]:
    """The rows, each with what takes its lease; of a repository also with statements that were compiled before."""
    found: list[tuple[Any, Callable[[], lease.Lease[Any] | None]]] = [
        (each, functools.partial(lease.Lease.claim, each, timedelta(seconds=60))) for each in rows()
    ]
    repository = Repository.objects.get()
    return [*found, (Repository.objects.all(), functools.partial(repositories.claim, repository))]


def test_a_lease_names_its_process_and_a_lease_that_was_returned_names_nothing() -> None:
    mine = processes.start(ProcessRole.WEB)

    for each, claim in ways():
        before = each.get().lease_epoch
        taken = claim()
        assert taken is not None
        assert taken.epoch == before + 1
        assert each.get().lease_process == mine.pk
        each.update(**lease.RETURNED)
        row = each.get()
        assert (row.lease_owner, row.lease_until, row.lease_process) == ("", None, None)


def test_a_lease_of_a_process_that_sends_heartbeats_is_not_taken() -> None:
    alive = other_process(beat_at=Now() - timedelta(seconds=processes.SILENT_SECONDS - 5))
    for each in rows():
        for process in (alive, None, 10**9):  # None: a command; a row that is not there (any more) says nothing
            each.update(**held_by(process))
            assert lease.Lease.claim(each, timedelta(seconds=60)) is None


@pytest.mark.parametrize("change", [{"beat_at": Now() - SILENT}, {"ended_at": Now()}], ids=["silent", "ended"])
def test_a_lease_of_a_process_that_is_silent_or_has_ended_is_taken_at_once(change: dict[str, Any]) -> None:
    dead = other_process(**change)
    for each in rows():
        each.update(**held_by(dead))
        assert lease.Lease.claim(each, timedelta(seconds=60)) is not None


@pytest.mark.parametrize(("seconds", "free"), [(13, False), (17, True)])
def test_a_lease_outlives_the_last_heartbeat_of_its_process_by_fifteen_seconds(seconds: int, free: bool) -> None:
    holder = other_process(beat_at=Now() - timedelta(seconds=seconds))
    for each in rows():
        each.update(**held_by(holder))
        assert (lease.Lease.claim(each, timedelta(seconds=60)) is not None) is free


@pytest.mark.parametrize(("seconds", "may"), [(9, True), (11, False)])
def test_a_process_sends_nothing_to_aws_ten_seconds_after_its_last_confirmed_heartbeat(
    seconds: int, may: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes.start(ProcessRole.WEB)
    monkeypatch.setattr(processes, "_confirmed_at", processes.clock() - seconds)

    assert processes.may_write() is may


@pytest.mark.costly
def test_the_next_deploy_goes_on_where_a_dead_process_was(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    ensure(project, ecr_configuration)
    Repository.objects.update(lease_epoch=41, **held_by(other_process(beat_at=Now() - SILENT)))

    repository = ensure(project, ecr_configuration, freshness=timedelta(0))

    assert (repository.lease_epoch, repository.status) == (42, RepositoryStatus.IN_SYNC)
    assert Repository.objects.get().lease_process is None


@pytest.mark.costly
@pytest.mark.parametrize("listed", [False, True], ids=["the listing", "a chunk"])
def test_a_sweep_goes_on_where_a_dead_process_was(
    listed: bool, project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    ensure(project, ecr_configuration)
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON)
    assert sweep is not None
    dead = held_by(other_process(beat_at=Now() - SILENT))
    if listed:
        held = lease.Lease.claim(Sweep.objects.filter(pk=sweep.pk), timedelta(seconds=45))
        assert held is not None
        sweeps._list(held, ecr_configuration)
        SweepChunk.objects.update(**dead)
    else:
        Sweep.objects.update(**dead)
    assert sweep_record.open_work() == 1

    sweeps.work(configuration=ecr_configuration, seconds=5)

    sweep.refresh_from_db()
    assert (sweep.status, sweep_record.progress(sweep).in_sync) == (SweepStatus.DONE, 1)


def test_a_holder_that_knows_of_no_beat_for_ten_seconds_starts_no_call(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = ensure(project, ecr_configuration)
    processes.start(ProcessRole.WEB)
    held = repositories.claim(repository)
    assert held is not None
    held.require_time()

    monkeypatch.setattr(processes, "_confirmed_at", processes.clock() - processes.WRITE_SECONDS - 0.1)
    with pytest.raises(RegistryError) as refused:
        held.require_time()

    assert (refused.value.code, refused.value.retryable) == ("OutOfTime", True)
    assert processes.BEAT_SECONDS < processes.WRITE_SECONDS < processes.SILENT_SECONDS


def test_a_holder_whose_lease_may_have_ended_does_not_even_repeat_a_request_that_failed(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure(project, ecr_configuration)
    processes.start(ProcessRole.WEB)
    sandbox.client("ecr").delete_repository_policy(repositoryName=f"trigger/{project.ref}")
    sandbox.fault("error", "ecr:SetRepositoryPolicy", code="ThrottlingException", times=1)
    sandbox.reset_calls()
    asked: list[int] = []

    def may_write() -> bool:
        asked.append(1)
        return len(asked) <= 2  # the look and the first request of the write

    monkeypatch.setattr(processes, "may_write", may_write)
    monkeypatch.setattr(processes, "beat_if_late", lambda: None)

    repository = ensure(project, ecr_configuration, freshness=A_MOMENT)

    assert new_calls(sandbox) == {"GetRepositoryPolicy": 1, "SetRepositoryPolicy": 1}
    assert repository.last_error_code == "OutOfTime"


def test_a_process_that_was_suspended_beats_before_it_takes_a_lease(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = processes.start(ProcessRole.WEB)
    Process.objects.filter(pk=mine.pk).update(beat_at=Now() - SILENT)
    monkeypatch.setattr(processes, "_confirmed_at", processes.clock() - 60)

    repository = ensure(project, ecr_configuration)

    assert (repository.status, repository.last_error) == (RepositoryStatus.IN_SYNC, "")
    assert not Repository.objects.filter(pk=repository.pk, lease_process=mine.pk).exists()


def test_a_beat_that_the_database_did_not_confirm_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = processes.start(ProcessRole.WEB)
    monkeypatch.setattr(processes, "_confirmed_at", processes.clock() - 60)
    Process.objects.filter(pk=mine.pk).update(ended_at=Now())

    assert not processes.beat()
    assert not processes.may_write()


def test_a_process_that_has_ended_starts_no_call_under_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_ended", False)
    processes.start(ProcessRole.WEB)
    processes.end()

    assert not processes.may_write()
    assert not processes.beat()
    assert Process.objects.get().ended_at is not None


def test_a_heartbeat_counts_from_before_it_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(processes, "clock", lambda: now[0])
    processes.start(ProcessRole.WEB)

    def slow() -> float:
        now[0] += processes.WRITE_SECONDS + 1
        return 0.0

    monkeypatch.setattr(processes, "clock_offset", slow)

    assert processes.beat()
    assert not processes.may_write()


def test_a_late_confirmation_does_not_make_a_newer_heartbeat_older(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(processes, "clock", lambda: now[0])
    processes.start(ProcessRole.WEB)
    newer = iter([True])

    def offset() -> float:
        for _ in newer:  # another thread's heartbeat, sent later, is confirmed first
            now[0] += processes.WRITE_SECONDS + 1
            processes.beat()
        return 0.0

    monkeypatch.setattr(processes, "clock_offset", offset)

    assert processes.beat()
    assert processes.may_write()


def test_a_process_whose_heartbeats_are_recent_takes_a_lease_without_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processes.start(ProcessRole.WEB)
    monkeypatch.setattr(processes, "beat", lambda: pytest.fail("a needless heartbeat"))

    assert lease.Lease.claim(rows()[0], timedelta(seconds=60)) is not None


def test_a_lease_that_is_taken_over_before_its_row_was_read_is_not_ours() -> None:
    for each, claim in ways():
        each.update(**lease.RETURNED)
        another = iter([True])

        def take_over(
            execute: Callable[..., Any], sql: str, *arguments: Any, each: Any = each, another: Any = another
        ) -> Any:
            if sql.startswith("SELECT"):
                for _ in another:
                    each.update(lease_owner="other", lease_epoch=F("lease_epoch") + 1)
            return execute(sql, *arguments)

        with connection.execute_wrapper(take_over):
            assert claim() is None


def test_a_fork_is_not_its_parents_process_and_has_none_of_its_troubles(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = processes.start(ProcessRole.WORKER)
    processes.report_trouble("The parent's steps failed.")
    monkeypatch.setattr(processes, "_mine", (os.getpid() + 1, parent.pk))  # as after a fork

    assert processes.current_id() is None
    row = processes.start(ProcessRole.TASK)
    processes.beat()

    row.refresh_from_db()
    assert (processes.current_id(), row.trouble) == (row.pk, "")


def test_what_is_wrong_is_on_the_heartbeats_for_as_long_as_it_was_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    row = processes.start(ProcessRole.WORKER)
    for seconds, trouble in ((60, "It is late."), (0, ""), (None, "It is late.")):
        processes.report_trouble("It is late.", seconds=seconds)
        processes.beat()
        row.refresh_from_db()
        assert row.trouble == trouble
    processes.report_trouble("")


@pytest.mark.parametrize(("seconds", "alive"), [(110, True), (130, False)])
def test_a_process_counts_as_silent_after_two_minutes(seconds: int, alive: bool) -> None:
    other_process(beat_at=Now() - timedelta(seconds=seconds))

    seen = processes.seen(ProcessRole.WEB)

    assert (len(seen.alive), len(seen.silent)) == (alive, not alive)


@pytest.mark.parametrize(
    ("values", "ready"),
    [
        ({"seconds": 25}, True),
        ({"seconds": 35}, False),
        ({"host": "elsewhere"}, False),
        ({"role": ProcessRole.WEB}, False),
        ({"ended_at": Now()}, False),
        ({"clock_offset": 59.0}, True),
        ({"clock_offset": -60.0}, False),
    ],
)
def test_a_probe_passes_while_a_process_of_its_role_on_its_host_sends_heartbeats(
    values: dict[str, Any], ready: bool
) -> None:
    beat_at = Now() - timedelta(seconds=values.pop("seconds", 0))
    pk = Process.objects.create(role=ProcessRole.EVENTS, host=socket.gethostname(), pid=1).pk
    Process.objects.filter(pk=pk).update(beat_at=beat_at, **values)

    assert (processes.unready(ProcessRole.EVENTS) == "") is ready


def test_the_end_of_processes_is_recorded_for_those_of_this_host_and_role_only() -> None:
    host = socket.gethostname()
    ended, others = (
        [Process.objects.create(role=role, host=where, pid=pid).pk for role, where, pid in each]
        for each in (
            [(ProcessRole.TASK, host, 7)],
            [(ProcessRole.WEB, host, 7), (ProcessRole.TASK, "elsewhere", 7), (ProcessRole.TASK, host, 8)],
        )
    )
    before = Process.objects.create(role=ProcessRole.TASK, host=host, pid=7).pk
    Process.objects.filter(pk=before).update(ended_at=Now() - timedelta(hours=1))

    processes.end_others([7], ProcessRole.TASK)

    assert set(Process.objects.filter(ended_at__gt=Now() - timedelta(minutes=1)).values_list("pk", flat=True)) == {
        *ended
    }
    assert not Process.objects.filter(pk__in=others, ended_at__isnull=False).exists()


def test_no_heartbeat_is_sent_while_the_main_thread_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def lives() -> bool:
        asked.append(1)
        return False

    beating(monkeypatch, lives=lives, each=connections.close_all, until=lambda: len(asked) >= 3)

    assert not Process.objects.exists()


def beating(monkeypatch: pytest.MonkeyPatch, *, until: Callable[[], bool], **options: Any) -> None:
    """`keep_alive`, a hundred times as fast, until something is true, and then the end of its thread."""
    monkeypatch.setattr(processes, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(processes, "_ended", False)
    monkeypatch.setattr(processes, "_mine", None)
    before = set(threading.enumerate())
    processes.keep_alive(ProcessRole.WEB, **options)
    [thread] = set(threading.enumerate()) - before
    try:
        wait_for(until, 10)
    finally:
        processes._ended = True
        thread.join(10)


def test_a_heartbeat_goes_on_when_what_is_done_at_each_beat_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[int] = []

    def fail() -> None:
        failures.append(1)
        connections.close_all()  # the thread's own
        raise ValueError

    beating(monkeypatch, each=fail, until=lambda: len(failures) >= 3)

    assert Process.objects.count() == 1


def test_a_process_beats_again_in_a_restored_database_that_does_not_know_its_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beating(monkeypatch, configuration=4711, each=connections.close_all, until=Process.objects.exists)

    assert Process.objects.get().configuration is None


def test_a_process_that_ends_while_its_heartbeat_makes_a_new_row_ends_that_row_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = processes.start

    def start(*arguments: Any, **options: Any) -> Process:
        processes.end()  # as the main thread does after SIGTERM
        return begun(*arguments, **options)

    monkeypatch.setattr(processes, "start", start)

    beating(monkeypatch, each=connections.close_all, until=Process.objects.exists)

    assert Process.objects.get().ended_at is not None


HOLDER = """
import django
django.setup()
from datetime import timedelta
from django.conf import settings
from deployments.aws import partitions
from deployments.models import ProcessRole, Project
from deployments.reconcile import processes, repositories
processes.start(ProcessRole.WEB)
processes.keep_alive(ProcessRole.WEB)
configuration, project = settings.CONFIGURATION.require(), Project.objects.get()
registry = configuration.registry("MANAGED")
repositories.ensure_repository(
    config=registry, registry=partitions.registry_of(registry.host), name=f"trigger/{project.ref}", project=project,
    desired_digest=configuration.desired_digest, freshness=timedelta(0),
)
"""


@pytest.mark.slow
def test_a_first_deploy_after_its_holder_was_killed_waits_fifteen_seconds_not_ninety(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.fault("hang", "ecr:CreateRepository")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "registry_admin.settings",
            "DEPLOY_REGISTRY_HOST": HOST,
            "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY,
            "DATABASE_URL": databases.url_of(str(connection.settings_dict["NAME"])),
        },
    )
    try:
        wait_for(lambda: Repository.objects.filter(creating_since__isnull=False, lease_process__isnull=False).exists())
        holder.send_signal(signal.SIGKILL)
    finally:
        holder.kill()
        holder.wait(10)
    sandbox.clear_faults()
    killed_at = time.monotonic()

    def deploy() -> Repository | None:  # a request of the CLI, which repeats it when it is refused
        try:
            return ensure(project, ecr_configuration)
        except RegistryError as refused:
            if refused.code != "HolderWaits":
                raise
            return None

    repository = wait_for(deploy)

    assert repository.status == RepositoryStatus.IN_SYNC
    assert 5 < time.monotonic() - killed_at < processes.SILENT_SECONDS + 5
    assert new_calls(sandbox)["SetRepositoryPolicy"] == 1


# ------------------------------------------------------------------------------ the database went away meanwhile


def test_a_holder_whose_connection_was_cut_returns_its_lease_over_a_new_one(transactional_db: None) -> None:
    if connection.vendor != "postgresql":
        return  # SQLite cuts no connection
    row = rows()[0].get()
    held = repositories.claim(row)
    assert held is not None
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (backend,) = cursor.fetchone()

    def cut() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [backend])
        connections.close_all()

    thread = threading.Thread(target=cut)
    thread.start()
    thread.join(20)

    held.give_up()

    assert repositories.claim(row) is not None


def test_a_lease_that_could_not_be_returned_is_returned_with_the_next_heartbeat(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Repository.objects.create(account="1", region="r", name=name, host="h") for name in "ab")
    held, taken_over = repositories.claim(first), repositories.claim(second)
    assert held is not None
    assert taken_over is not None

    def fail(*_: Any, **__: Any) -> None:
        raise OperationalError("the database system is shutting down")

    with monkeypatch.context() as patch:
        patch.setattr(CursorWrapper, "execute", fail)
        taken_over.give_up()
        held.give_up()
        with pytest.raises(OperationalError):
            lease.give_back_owed()  # a heartbeat while it is still away
    Repository.objects.filter(pk=second.pk).update(lease_until=Now() - timedelta(seconds=1))
    assert repositories.claim(first) is None
    later = repositories.claim(second)
    assert later is not None

    for call in processes.after_beat:
        call()

    assert repositories.claim(first) is not None
    second.refresh_from_db()
    assert (second.lease_epoch, second.lease_owner != "") == (later.epoch, True), "a later holder's lease was ended"
