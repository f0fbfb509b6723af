"""A sweep finds what differs on every repository, corrects just that, and leaves nothing stuck. Calls are counted."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.db.models import F
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from deployments.aws import clients, ecr
from deployments.config import Configuration
from deployments.errors import registry_error
from deployments.models import (
    CallBudget,
    EventKind,
    Repository,
    RepositoryEvent,
    RepositoryStatus,
    Sweep,
    SweepChunk,
    SweepFinding,
    SweepStatus,
    SweepTrigger,
)
from deployments.reconcile import chunks, generation, ownership, pace, repositories, sweep_record, sweeps, targets
from deployments.reconcile.lease import Lease
from deployments.reconcile.pace import Measurement
from deployments.row_values import Mutability
from sandbox.control import Sandbox
from tests.support.constants import CLUSTER, HOST, OWNER, POLICY
from tests.support.registry import calls, delete_repository, drift, fill, policies
from tests.support.sweeps import sweep_all, work_off
from tests.support.waiting import before_the_first

pytestmark = pytest.mark.django_db(transaction=True)
Configure = Callable[..., Configuration]


@pytest.fixture
def fast(configure: Configure, sandbox: Sandbox) -> Configuration:
    """The usual installation, with a pace that no test has to wait for."""
    return configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        RECONCILE_CALLS_PER_SECOND="5000",
    )


# --------------------------------------------------------------------------------------------------- the main promise


@pytest.mark.slow
def test_a_sweep_corrects_exactly_what_differs_and_the_next_one_writes_nothing(
    fast: Configuration, sandbox: Sandbox
) -> None:
    names = fill(sandbox, fast, 1000)
    drifted = names[::20]
    drift(sandbox, drifted)

    sweep = sweep_all(fast)

    assert calls(sandbox) == {
        "DescribeRepositories": 1,
        "GetRegistryPolicy": 1,
        "GetRepositoryPolicy": 1000,
        "SetRepositoryPolicy": 50,
    }
    result = sweep_record.progress(sweep)
    assert (sweep.status, result.total, result.healed, result.in_sync) == (SweepStatus.DONE, 1000, 50, 950)
    assert result.calls == calls(sandbox)
    found = SweepFinding.objects.filter(sweep=sweep).select_related("repository")
    assert {finding.repository.name for finding in found} == set(drifted)
    assert policies(sandbox, drifted) == 50

    sandbox.reset_calls()
    sweep = sweep_all(fast)
    # What was written comes back rewritten by ECR; that is noted in our row, and never written again.
    assert calls(sandbox) == {"DescribeRepositories": 1, "GetRegistryPolicy": 1, "GetRepositoryPolicy": 1000}
    assert sweep_record.progress(sweep).in_sync == 1000


@pytest.mark.slow
def test_a_sweep_at_rest_writes_at_most_twice_to_the_database_for_a_hundred_repositories(
    fast: Configuration, sandbox: Sandbox, django_assert_max_num_queries: Any
) -> None:
    fill(sandbox, fast, 500)

    with django_assert_max_num_queries(200) as captured:
        sweep_all(fast)

    writes = [query["sql"] for query in captured.captured_queries if query["sql"].startswith(("UPDATE", "INSERT"))]
    # A fixed number, whatever the repositories: the sweep, and the first reading of the registry policy.
    fixed = ('"deployments_sweep"', '"deployments_registrypolicyreading"')
    of_the_sweep = [sql for sql in writes if any(table in sql for table in fixed)]
    assert len(of_the_sweep) <= 7
    assert len(writes) - len(of_the_sweep) <= 10


@pytest.mark.slow
def test_more_than_a_thousand_repositories_are_listed_in_pages_of_a_thousand(
    fast: Configuration, sandbox: Sandbox
) -> None:
    client = sandbox.client("ecr")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: client.create_repository(repositoryName=f"other/{n}"), range(1500)))
    fill(sandbox, fast, 3)

    sweep_all(fast)

    assert calls(sandbox)["DescribeRepositories"] == 2


@pytest.mark.costly
def test_the_sweep_sees_a_changed_mutability_in_the_list_and_corrects_it(fast: Configuration, sandbox: Sandbox) -> None:
    [name, _] = fill(sandbox, fast, 2)
    sandbox.client("ecr").put_image_tag_mutability(repositoryName=name, imageTagMutability="MUTABLE")
    sandbox.reset_calls()

    sweep_all(fast)

    assert calls(sandbox) == {
        "DescribeRepositories": 1,
        "GetRegistryPolicy": 1,
        "GetRepositoryPolicy": 2,
        "PutImageTagMutability": 1,
    }


@pytest.mark.costly
def test_a_sweep_goes_stalest_first(fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "REPOSITORIES_PER_CHUNK", 2)
    names = fill(sandbox, fast, 5)
    Repository.objects.update(attempted_at=Now())
    Repository.objects.filter(name=names[3]).update(attempted_at=Now() - timedelta(hours=1))
    Repository.objects.filter(name=names[4]).update(attempted_at=None)

    sweep_all(fast)

    # The first one is the test's own.
    looked_at = [entry["repository"] for entry in sandbox.journal() if entry["operation"] == "GetRepositoryPolicy"]
    assert set(looked_at[1:3]) == {names[3], names[4]}


@pytest.mark.costly
def test_a_repository_is_stamped_before_it_is_worked_on(fast: Configuration, sandbox: Sandbox) -> None:
    fill(sandbox, fast, 3)
    sandbox.fault("error", "ecr:GetRepositoryPolicy", code="AccessDeniedException")

    sweep = sweep_all(fast)

    assert sweep_record.progress(sweep).failed == 3
    assert not Repository.objects.filter(attempted_at__isnull=True).exists()
    row = Repository.objects.first()
    assert row is not None
    assert (row.status, row.last_error_code) == (RepositoryStatus.FAILED, "AccessDeniedException")


# ------------------------------------------------------------------------------------------------ faults and crashes


@pytest.mark.slow
def test_a_throttled_sweep_leaves_nothing_undone(configure: Configure, fast: Configuration, sandbox: Sandbox) -> None:
    names = fill(sandbox, fast, 120)
    drift(sandbox, names[:6])
    sandbox.fault("throttle", "ecr:GetRepositoryPolicy", rate=40, burst=40)

    sweep = sweep_all(fast)

    sandbox.clear_faults()
    result = sweep_record.progress(sweep)
    assert (sweep.status, result.done, result.failed, result.healed) == (SweepStatus.DONE, 120, 0, 6)
    assert policies(sandbox, names[:6]) == 6
    learned = CallBudget.objects.get()
    assert learned.rate < 200  # and remembered for the next sweep


@pytest.mark.costly
def test_a_worker_that_died_in_the_middle_loses_nothing(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "REPOSITORIES_PER_CHUNK", 20)
    names = fill(sandbox, fast, 60)
    drift(sandbox, names[::6])
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON)
    assert sweep is not None
    # The first worker dies with the listing done and two chunks taken: their leases stand, nothing else was written.
    sweeps._list(listing(sweep), fast)
    taken = list(SweepChunk.objects.filter(sweep=sweep)[:2])
    for chunk in taken:
        assert sweeps._claim_chunk(chunk)

    assert not sweeps.work(configuration=fast, seconds=20, sweep_id=sweep.pk)  # the third chunk, then nothing is free
    assert sweep_record.progress(sweep).done == 20
    SweepChunk.objects.filter(pk__in=[chunk.pk for chunk in taken]).update(lease_until=Now() - timedelta(seconds=1))
    sweep.refresh_from_db()
    work_off(fast, sweep)

    result = sweep_record.progress(sweep)
    assert (sweep.status, result.done, result.healed) == (SweepStatus.DONE, 60, 10)
    assert not SweepChunk.objects.filter(lease_until__isnull=False).exists()


@pytest.mark.costly
def test_a_worker_whose_lease_was_taken_over_drops_what_it_counted(fast: Configuration, sandbox: Sandbox) -> None:
    fill(sandbox, fast, 10)
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON)
    assert sweep is not None
    sweeps._list(listing(sweep), fast)
    chunk = SweepChunk.objects.get()
    held = sweeps._claim_chunk(chunk)
    assert held is not None
    SweepChunk.objects.update(lease_epoch=held.epoch + 1)  # another process holds it now

    until = time.monotonic() + 5
    chunks.ChunkRun(lease=held, configuration=fast, until=until).run()

    chunk.refresh_from_db()
    assert (chunk.in_sync, len(chunk.remaining), chunk.finished_at) == (0, 10, None)


@pytest.mark.costly
def test_a_repository_that_kills_every_worker_is_isolated_and_named_and_the_others_are_done(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = fill(sandbox, fast, 8)
    poison = Repository.objects.get(name=names[5])
    observation = chunks.ChunkRun._one

    def one(worker: Any, ecr: Any, writing: Any, target: Any, row: Repository, digest: str) -> bool:
        if row.pk == poison.pk:
            raise KeyboardInterrupt  # what ends a process, not what a repository's own exception is
        return observation(worker, ecr, writing, target, row, digest)

    monkeypatch.setattr(chunks.ChunkRun, "_one", one)
    sweep = sweep_record.start(trigger=SweepTrigger.SCHEDULE)
    assert sweep is not None
    for _ in range(40):
        with contextlib.suppress(KeyboardInterrupt):
            sweeps.work(configuration=fast, seconds=10, sweep_id=sweep.pk)
        SweepChunk.objects.update(lease_until=None)  # the dead worker's lease has run out
        sweep.refresh_from_db()
        if sweep.status != SweepStatus.RUNNING:
            break

    assert sweep.status == SweepStatus.DONE
    [finding] = SweepFinding.objects.filter(sweep=sweep)
    assert finding.repository == poison
    assert "workers in a row died" in finding.words
    assert sweep_record.progress(sweep).in_sync == 7


@pytest.mark.costly
def test_two_sweeps_and_several_workers_at_once_do_no_harm(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "REPOSITORIES_PER_CHUNK", 15)
    monkeypatch.setattr(chunks, "BUSY_PAUSE", timedelta(seconds=0.1))
    names = fill(sandbox, fast, 60)
    drift(sandbox, names[::4])
    both = [sweep_record.start(trigger=SweepTrigger.PERSON), sweep_record.start(trigger=SweepTrigger.COMMAND)]

    def run() -> None:
        try:
            until = time.monotonic() + 50
            while Sweep.objects.filter(status=SweepStatus.RUNNING).exists() and time.monotonic() < until:
                if not sweeps.work(configuration=fast, seconds=10):
                    time.sleep(0.05)  # what is left is held by the others
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    sweeps.close_finished()

    for sweep in both:
        assert sweep is not None
        sweep.refresh_from_db()
        assert (sweep.status, sweep_record.progress(sweep).done) == (SweepStatus.DONE, 60)
    assert policies(sandbox, names) == 60
    assert calls(sandbox)["SetRepositoryPolicy"] == 15


@pytest.mark.slow
def test_a_repository_that_somebody_else_holds_is_looked_at_again_until_it_is_free(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "BUSY_PAUSE", timedelta(seconds=0.2))
    names = fill(sandbox, fast, 3)
    drift(sandbox, names[:1])
    # A worker that was killed while it healed: its lease stands for a while yet.
    Repository.objects.filter(name=names[0]).update(lease_owner="dead", lease_until=Now() + timedelta(seconds=2))

    sweep = sweep_all(fast)

    result = sweep_record.progress(sweep)
    assert (sweep.status, result.done, result.healed) == (SweepStatus.DONE, 3, 1)
    assert policies(sandbox, names) == 3


@pytest.mark.costly
@pytest.mark.parametrize("code", ["UnrecognizedClientException", "ExpiredTokenException"])
def test_credentials_that_are_refused_stop_the_sweep_at_once_with_one_error(
    code: str, fast: Configuration, sandbox: Sandbox
) -> None:
    fill(sandbox, fast, 40)
    sandbox.fault("error", "ecr:GetRepositoryPolicy", code=code)

    sweep = sweep_all(fast)

    assert sweep.status == SweepStatus.FAILED
    assert "credentials" in sweep.error
    assert calls(sandbox)["GetRepositoryPolicy"] <= 2 * chunks.THREADS_PER_CHUNK
    assert not RepositoryEvent.objects.filter(kind=EventKind.ERROR).exists()


@pytest.mark.slow
def test_a_sweep_that_is_stopped_ends_and_says_how_far_it_came(
    configure: Configure, fast: Configuration, sandbox: Sandbox
) -> None:
    fill(sandbox, fast, 100)
    sandbox.fault("latency", "ecr:GetRepositoryPolicy", seconds=1.0)
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON)
    assert sweep is not None

    def run() -> None:
        work_off(fast, sweep)
        connections.close_all()

    worker = threading.Thread(target=run)
    worker.start()
    until = time.monotonic() + 20
    while not calls(sandbox).get("GetRepositoryPolicy") and time.monotonic() < until:
        time.sleep(0.05)

    assert sweep_record.stop(sweep=sweep)
    worker.join(20)

    sweep.refresh_from_db()
    assert sweep.status == SweepStatus.STOPPED
    assert sweep_record.progress(sweep).done < 100
    assert not SweepChunk.objects.filter(lease_until__isnull=False).exists()


def test_only_one_scheduled_sweep_goes_on_at_a_time(fast: Configuration) -> None:
    assert sweep_record.start(trigger=SweepTrigger.SCHEDULE) is not None
    assert sweep_record.start(trigger=SweepTrigger.SCHEDULE) is None
    assert sweep_record.start(trigger=SweepTrigger.PERSON) is not None


# ---------------------------------------------------------------------------------------- throttled again and again


def throttle(sandbox: Sandbox, names: Iterable[str], operation: str = "GetRepositoryPolicy") -> None:
    """From now on AWS throttles each of these calls about these repositories."""
    for name in names:
        sandbox.fault("error", f"ecr:{operation}", repository=name, code="ThrottlingException")


def looks_at(sandbox: Sandbox, name: str) -> int:
    entries = [entry for entry in sandbox.journal() if entry["operation"] == "GetRepositoryPolicy"]
    return sum(entry["repository"] == name for entry in entries)


def in_short_shifts(configuration: Configuration, sweep: Sweep, shifts: int = 40) -> None:
    """Workers that come one after the other, each for a moment, and none waits for a chunk that rests."""
    for _ in range(shifts):
        sweeps.work(configuration=configuration, seconds=0.3, sweep_id=sweep.pk)
        SweepChunk.objects.update(lease_until=None)
        sweep.refresh_from_db()
        if sweep.status != SweepStatus.RUNNING:
            return


@contextlib.contextmanager
def worker_of(configuration: Configuration) -> Iterator[None]:
    """One worker, which takes whatever there is to do until the block ends."""
    over = threading.Event()

    def run() -> None:
        try:
            while not over.is_set():
                if not sweeps.work(configuration=configuration, seconds=10):
                    over.wait(0.05)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        Sweep.objects.filter(status=SweepStatus.RUNNING).update(status=SweepStatus.STOPPED)
        thread.join(20)


def ended_within(sweep: Sweep, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sweep.refresh_from_db()
        if sweep.status != SweepStatus.RUNNING:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.costly
def test_a_repository_that_aws_always_throttles_ends_as_failed_and_delays_no_other(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "rest_seconds", lambda tries: 0.5)
    names = fill(sandbox, fast, 37)
    stuck, other = names[5], names[6]
    throttle(sandbox, [stuck])
    large = sweep_record.start(trigger=SweepTrigger.SCHEDULE)
    assert large is not None

    with worker_of(fast):
        until = time.monotonic() + 10
        while sweep_record.progress(large).done < 36 and time.monotonic() < until:
            time.sleep(0.05)
        assert Repository.objects.get(pk=sweep_record.left(large)[0].pk).name == stuck
        small = sweep_record.start(trigger=SweepTrigger.PERSON, names=[other])
        assert small is not None
        assert ended_within(small, 2.5)
        large.refresh_from_db()
        assert large.status == SweepStatus.RUNNING  # so the small one did not wait for it
        assert ended_within(large, 15)

    result = sweep_record.progress(large)
    assert (large.status, result.in_sync, result.failed) == (SweepStatus.DONE, 36, 1)
    assert looks_at(sandbox, stuck) == chunks.MAX_TRIES_PER_REPOSITORY
    row = Repository.objects.get(name=stuck)
    finding = SweepFinding.objects.get(sweep=large)
    assert (row.status, row.last_error_code, row.last_error_heals) == (RepositoryStatus.FAILED, "Throttled", True)
    assert finding.repository == row
    assert finding.words == row.last_error == row.events.get().message
    assert f"AWS throttled GetRepositoryPolicy on {stuck}" in finding.words
    assert not CallBudget.objects.exists()  # one repository says nothing about the account's rate

    sandbox.clear_faults()
    assert sweep_record.progress(sweep_all(fast)).in_sync == 36  # and the throttled one is healed
    row.refresh_from_db()
    assert (row.status, row.last_error) == (RepositoryStatus.IN_SYNC, "")


@pytest.mark.costly
@pytest.mark.parametrize(("kind", "tries", "code"), [("error", 8, "Throttled"), ("reset", 3, "Unreachable")])
def test_the_tries_of_a_repository_are_counted_over_all_workers_of_a_sweep(
    kind: str,
    tries: int,
    code: str,
    fast: Configuration,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunks, "rest_seconds", lambda tries: 30.0)
    names = fill(sandbox, fast, 3)
    settings = {"code": "ThrottlingException"} if kind == "error" else {}
    sandbox.fault(kind, "ecr:GetRepositoryPolicy", repository=names[1], **settings)
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON)
    assert sweep is not None

    in_short_shifts(fast, sweep)

    assert (sweep.status, sweep_record.progress(sweep).failed) == (SweepStatus.DONE, 1)
    assert looks_at(sandbox, names[1]) == tries
    assert Repository.objects.get(name=names[1]).last_error_code == code


@pytest.mark.costly
def test_a_chunk_of_which_all_that_is_left_rests_is_free_again_when_its_first_rest_is_over(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "rest_seconds", lambda tries: 30.0)
    names = fill(sandbox, fast, 2)
    throttle(sandbox, names[:1])
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON)
    assert sweep is not None

    sweeps.work(configuration=fast, seconds=3, sweep_id=sweep.pk)

    chunk = SweepChunk.objects.annotate(db_now=Now()).get()
    assert chunk.lease_until is not None
    assert 20 < (chunk.lease_until - chunk.db_now).total_seconds() <= 30
    assert chunk.throttled == {chunk.remaining[0]: 1}
    [target] = targets.configured(fast)
    SweepChunk.objects.create(sweep=sweep, position=1, host=HOST, namespace="trigger", size=1, lease_owner="somebody",
                              lease_until=timezone.now() + timedelta(minutes=1))  # fmt: skip
    assert chunks._Budget(target, 100)._workers() == 1  # what rests takes no part of the rate


def test_rests_grow_and_are_bounded() -> None:
    assert [chunks.rest_seconds(tries) for tries in range(1, 10)] == [0, 0.5, 1, 2, 4, 8, 16, 16, 16]


@pytest.mark.costly
def test_several_throttled_repositories_do_not_fail_the_sweep_of_the_others(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LOWEST_RATE", 50)
    monkeypatch.setattr(chunks, "rest_seconds", lambda tries: 0.0)
    monkeypatch.setattr(chunks, "UNANSWERED_IN_A_ROW", 5)
    monkeypatch.setattr(chunks, "MAX_TRIES_PER_REPOSITORY", 4)
    names = fill(sandbox, fast, 8)
    throttle(sandbox, names[:3])

    result = sweep_record.progress(sweep := sweep_all(fast))

    assert (sweep.status, result.in_sync, result.failed) == (SweepStatus.DONE, 5, 3)
    assert calls(sandbox)["GetRepositoryPolicy"] == 5 + 3 * chunks.MAX_TRIES_PER_REPOSITORY


@pytest.mark.costly
def test_an_account_that_aws_throttles_altogether_fails_the_sweep_and_no_repository(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LOWEST_RATE", 50)
    monkeypatch.setattr(chunks, "UNANSWERED_IN_A_ROW", chunks.THREADS_PER_CHUNK + 2)
    fill(sandbox, fast, 60)
    sandbox.fault("error", "ecr:GetRepositoryPolicy", code="ThrottlingException")

    sweep = sweep_all(fast)

    assert sweep.status == SweepStatus.FAILED
    assert "AWS throttled GetRepositoryPolicy for each repository that the sweep tried" in sweep.error
    assert calls(sandbox)["GetRepositoryPolicy"] <= 3 * chunks.THREADS_PER_CHUNK
    assert not Repository.objects.exclude(status=RepositoryStatus.IN_SYNC).exists()
    assert CallBudget.objects.get().rate < 100  # that concerns the account


@pytest.mark.slow
def test_refusals_are_counted_over_all_workers_of_a_chunk_because_one_alone_sees_few_at_the_lowest_rate(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "UNANSWERED_IN_A_ROW", 2 * chunks.THREADS_PER_CHUNK)
    fill(sandbox, fast, 60)
    sandbox.fault("error", "ecr:GetRepositoryPolicy", code="ThrottlingException")
    sweep = sweep_record.start(trigger=SweepTrigger.SCHEDULE)
    assert sweep is not None
    monkeypatch.setattr(chunks.ChunkRun, "_throttled", _one_round(chunks.ChunkRun._throttled))

    for _ in range(4):
        sweeps.work(configuration=fast, seconds=10, sweep_id=sweep.pk)
        sweep.refresh_from_db()

    assert sweep.status == SweepStatus.FAILED
    assert not Repository.objects.exclude(status=RepositoryStatus.IN_SYNC).exists()


def _one_round(throttled: Any) -> Any:
    """A worker's time is over when AWS has throttled as many looks as it has threads."""

    def counting(worker: Any, row: Repository, error: Any) -> bool:
        result: bool = throttled(worker, row, error)
        if sum(worker.throttled_at.get(pk, 0) > 0 for pk in worker.tries) >= chunks.THREADS_PER_CHUNK:
            worker.until = 0
        return result

    return counting


@pytest.mark.costly
def test_an_aws_that_answers_nobody_costs_no_repository_a_try(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "UNANSWERED_IN_A_ROW", 4)
    fill(sandbox, fast, 4)
    sandbox.fault("reset", "ecr:GetRepositoryPolicy")
    sweep = sweep_record.start(trigger=SweepTrigger.SCHEDULE)
    assert sweep is not None

    for _ in range(4):
        sweeps.work(configuration=fast, seconds=5)  # ends at once
    sweep.refresh_from_db()
    assert (sweep.status, sweep_record.progress(sweep).done) == (SweepStatus.RUNNING, 0)
    assert "cannot be reached" in sweep.error
    assert not any(row.tries for row in sweep_record.left(sweep))

    sandbox.clear_faults()
    work_off(fast, sweep)
    assert sweep_record.progress(sweep).in_sync == 4


@pytest.mark.costly
def test_a_refresh_says_that_a_repository_was_throttled_and_its_row_says_it(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "rest_seconds", lambda tries: 0.0)
    names = fill(sandbox, fast, 2)
    throttle(sandbox, names[:1])
    checked_at = Repository.objects.get(name=names[0]).last_checked_at

    sweep = sweep_all(fast, dry_run=True)

    assert (sweep.status, "throttled" in SweepFinding.objects.get(sweep=sweep).words) == (SweepStatus.DONE, True)
    row = Repository.objects.get(name=names[0])
    assert (row.status, row.last_error_code, row.last_checked_at) == (RepositoryStatus.FAILED, "Throttled", checked_at)


@pytest.mark.slow
def test_a_write_that_is_always_throttled_ends_as_failed_too(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "MAX_TRIES_PER_REPOSITORY", 2)
    names = fill(sandbox, fast, 2)
    drift(sandbox, names[:1])
    throttle(sandbox, names[:1], "SetRepositoryPolicy")

    sweep = sweep_all(fast)

    assert (sweep.status, sweep_record.progress(sweep).failed) == (SweepStatus.DONE, 1)
    assert Repository.objects.get(name=names[0]).last_error_code == "Throttled"


def test_what_a_deploy_saw_meanwhile_counts_more_than_a_sweep_that_was_throttled(
    fast: Configuration, sandbox: Sandbox
) -> None:
    fill(sandbox, fast, 1)
    seen = Repository.objects.get()
    error = registry_error("Throttled", operation="GetRepositoryPolicy", name=seen.name, tries=8)
    Repository.objects.update(last_checked_at=Now(), lease_epoch=F("lease_epoch") + 1)  # a deploy, and all is well

    assert not repositories.record_failure(row=seen, error=error, cause="sweep")

    row = Repository.objects.get()
    assert (row.status, row.lease_until) == (RepositoryStatus.IN_SYNC, None)
    assert repositories.record_failure(row=row, error=error, cause="sweep")
    Repository.objects.update(lease_until=Now() + timedelta(minutes=1))
    assert not repositories.record_failure(row=row, error=error, cause="sweep")  # somebody works on it


# --------------------------------------------------------------------------------------------- small ones come first


@pytest.mark.costly
def test_a_worker_leaves_a_large_sweep_for_one_repository_that_somebody_asked_for(
    configure: Configure, fast: Configuration, sandbox: Sandbox
) -> None:
    names = fill(sandbox, fast, 60)
    slow = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        RECONCILE_CALLS_PER_SECOND="5",
    )
    large = sweep_record.start(trigger=SweepTrigger.SCHEDULE)
    assert large is not None

    with worker_of(slow):
        until = time.monotonic() + 10
        while not sweep_record.progress(large).total and time.monotonic() < until:
            time.sleep(0.05)
        small = sweep_record.start(trigger=SweepTrigger.PERSON, names=[names[-1]])
        assert small is not None
        assert ended_within(small, 4)
        large.refresh_from_db()
        assert large.status == SweepStatus.RUNNING
        assert sweep_record.progress(large).done < 40


def test_the_smallest_sweep_is_taken_first_and_a_named_one_before_the_registry_is_listed(db: None) -> None:
    running = Sweep.objects.filter(status=SweepStatus.RUNNING)

    def listed(*sizes: int, names: Iterable[str] = ()) -> list[SweepChunk]:
        sweep = Sweep.objects.create(trigger="person", names=list(names), listed_at=timezone.now())
        return [
            SweepChunk.objects.create(sweep=sweep, position=place, host=HOST, namespace="trigger", size=size)
            for place, size in enumerate(sizes)
        ]

    unlisted = Sweep.objects.create(trigger="schedule")
    large = listed(250, 250, 1)
    assert sweep_record.next_piece(running) == unlisted
    [small] = listed(40, names=["trigger/x"])
    assert sweep_record.next_piece(running) == small
    named = Sweep.objects.create(trigger="person", names=["trigger/y"])
    assert sweep_record.next_piece(running) == named

    Sweep.objects.filter(pk__in=[unlisted.pk, named.pk]).update(listed_at=timezone.now())
    [middle] = listed(300, names=["trigger/z"])
    order = []
    while isinstance(piece := sweep_record.next_piece(running), SweepChunk):
        order.append(piece)
        SweepChunk.objects.filter(pk=piece.pk).update(finished_at=timezone.now())
    assert order == [small, middle, *large]


# --------------------------------------------------------------------------------------- discovered, missing, refresh


@pytest.mark.costly
def test_what_is_found_under_the_namespace_waits_for_an_operator_and_other_names_are_none_of_ours(
    fast: Configuration, sandbox: Sandbox
) -> None:
    client = sandbox.client("ecr")
    client.create_repository(repositoryName="trigger/proj_stranger")
    client.create_repository(repositoryName="somebody/elses")
    sandbox.reset_calls()

    sweep = sweep_all(fast)

    row = Repository.objects.get()
    assert (row.name, row.status, sweep.discovered) == ("trigger/proj_stranger", RepositoryStatus.UNMANAGED, 1)
    assert calls(sandbox) == {"DescribeRepositories": 1, "GetRegistryPolicy": 1}

    adopting = sweep_all(fast, adopt=True)

    row.refresh_from_db()
    assert (row.status, row.origin) == (RepositoryStatus.IN_SYNC, "adopted")
    assert policies(sandbox, [row.name]) == 1
    assert adopting.discovered == 0


@pytest.mark.costly
def test_a_repository_that_vanished_is_missing_and_a_sweep_does_not_make_it_again(
    fast: Configuration, sandbox: Sandbox
) -> None:
    names = fill(sandbox, fast, 3)
    sandbox.client("ecr").delete_repository(repositoryName=names[1], force=True)
    sandbox.reset_calls()

    sweep = sweep_all(fast)

    row = Repository.objects.get(name=names[1])
    assert (row.status, sweep.missing) == (RepositoryStatus.MISSING, 1)
    event = RepositoryEvent.objects.get(repository=row)
    assert (event.kind, CLUSTER in event.policy_before) == (EventKind.MISSING, True)
    assert "CreateRepository" not in calls(sandbox)
    assert sweep_all(fast).missing == 0


@pytest.mark.costly
@pytest.mark.parametrize("by_name", [True, False])
def test_a_new_repository_that_ecr_does_not_show_yet_waits_in_line_and_is_corrected_when_it_is_seen(
    by_name: bool, fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "VISIBLE_PAUSE_SECONDS", 0.1)
    names = fill(sandbox, fast, 3)
    Repository.objects.filter(name=names[1]).update(written_at=Now())
    drift(sandbox, [names[1]])
    # Neither the list shows it nor the first looks do.
    sandbox.fault("not_found_after_create", repository=names[1], seconds=3600, times=2 if by_name else 3)

    sweep = sweep_all(fast, names=[names[1]] if by_name else [])

    row = Repository.objects.get(name=names[1])
    assert (row.status, row.origin, sweep.missing) == (RepositoryStatus.IN_SYNC, "created", 0)
    assert (sweep_record.progress(sweep).healed, sweep_record.progress(sweep).failed) == (1, 0)
    assert policies(sandbox, [row.name]) == 1
    assert EventKind.MISSING not in row.events.values_list("kind", flat=True)


@pytest.mark.costly
def test_a_refresh_does_not_say_of_a_new_repository_that_ecr_does_not_show_yet_that_it_is_gone(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "VISIBLE_PAUSE_SECONDS", 0.1)
    [name] = fill(sandbox, fast, 1)
    Repository.objects.update(written_at=Now())
    sandbox.fault("not_found_after_create", seconds=3600, times=3)

    sweep = sweep_all(fast, dry_run=True)

    assert (sweep.missing, sweep_record.progress(sweep).drifted, sweep_record.progress(sweep).in_sync) == (0, 0, 1)
    assert not sweep.findings.filter(repository__name=name).exists()


@pytest.mark.costly
def test_in_observe_mode_a_sweep_reports_and_writes_nothing(configure: Configure, sandbox: Sandbox) -> None:
    observing = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_POLICY_MODE="observe",
        RECONCILE_CALLS_PER_SECOND="5000",
    )
    names = fill(sandbox, observing, 4)
    drift(sandbox, names[:2])

    sweep = sweep_all(observing)

    assert sweep_record.progress(sweep).drifted == 2
    assert "SetRepositoryPolicy" not in calls(sandbox)
    row = Repository.objects.get(name=names[0])
    assert (row.status, row.drifted_since is not None) == (RepositoryStatus.DRIFTED, True)


# -------------------------------------------------------------------------------------------------------- the command


def reconcile(*arguments: str) -> tuple[str, int]:
    out = StringIO()
    try:
        call_command("reconcile", *arguments, stdout=out, stderr=StringIO())
    except CommandError as error:
        return out.getvalue(), error.returncode
    except SystemExit as left:
        return out.getvalue(), int(left.code or 0)
    return out.getvalue(), 0


@pytest.mark.costly
def test_the_command_corrects_and_prints_one_object(fast: Configuration, sandbox: Sandbox) -> None:
    names = fill(sandbox, fast, 6)
    drift(sandbox, names[:1])

    text, status = reconcile("--all", "--json")

    result = json.loads(text)
    assert (status, result["healed"], result["in_sync"]) == (0, 1, 5)
    assert result["findings"][0]["name"] == names[0]


@pytest.mark.costly
def test_the_command_with_a_name_looks_at_that_one_only(fast: Configuration, sandbox: Sandbox) -> None:
    names = fill(sandbox, fast, 3)

    assert reconcile(names[2])[1] == 0
    assert calls(sandbox)["GetRepositoryPolicy"] == 1
    [*_, last] = [entry for entry in sandbox.journal() if entry["operation"] == "GetRepositoryPolicy"]
    assert last["repository"] == names[2]


@pytest.mark.costly
@pytest.mark.parametrize("asked", ["reconcile NAME", "reconcile --all", "the button"])
def test_a_look_that_a_person_asks_for_looks_at_every_part_and_writes_two_rows_at_rest(
    asked: str, fast: Configuration, sandbox: Sandbox
) -> None:
    """E1: a deleted lifecycle policy and removed AWS tags were noticed by no look for up to 24 hours."""
    name, other, *_ = fill(sandbox, fast, 3)
    ecr = sandbox.client("ecr")
    ecr.delete_lifecycle_policy(repositoryName=name)

    def look() -> None:
        if asked == "the button":
            sweep_all(fast, trigger=SweepTrigger.PERSON, names=[name])
        else:
            assert reconcile(name if asked == "reconcile NAME" else "--all")[1] == 0

    sweep_all(fast)
    assert Repository.objects.get(name=name).status == RepositoryStatus.IN_SYNC  # a schedule reads the policies
    look()
    assert ecr.get_lifecycle_policy(repositoryName=name)["lifecyclePolicyText"]

    look()  # stores the text as ECR has it
    sandbox.reset_calls()
    with CaptureQueriesContext(connection) as queries:
        look()
    number = 1 if asked != "reconcile --all" else 3
    of_the_registry = ("DescribeRepositories", "GetRegistryPolicy")
    assert {each: count for each, count in calls(sandbox).items() if each not in of_the_registry} == {
        "GetRepositoryPolicy": number, "GetLifecyclePolicy": number, "ListTagsForResource": number,
    }  # fmt: skip
    written = [query["sql"] for query in queries if 'UPDATE "deployments_repository"' in query["sql"]]
    if asked == "the button":  # a command works in a thread with a connection of its own
        assert len(written) == 2  # that the sweep begins with it, and when it was read
    row = Repository.objects.get(name=name)
    assert row.details_checked_at == row.last_checked_at
    assert other


@pytest.mark.costly
@pytest.mark.parametrize("option", ["--refresh", "--dry-run"])
def test_a_refresh_by_the_command_ends_with_three_where_something_would_change(
    option: str, fast: Configuration, sandbox: Sandbox
) -> None:
    names = fill(sandbox, fast, 2)
    drift(sandbox, names[:1])

    assert reconcile("--all", option)[1] == 3
    assert reconcile("--all")[1] == 0
    assert reconcile("--all", option)[1] == 0
    sandbox.client("ecr").delete_repository(repositoryName=names[1], force=True)
    assert reconcile("--all", option)[1] == 3


@pytest.mark.costly
def test_the_command_says_of_which_repositories_every_part_was_read(fast: Configuration, sandbox: Sandbox) -> None:
    fill(sandbox, fast, 1)
    assert reconcile("--all")[0].splitlines()[0].endswith("Every part of each was read.")
    sandbox.client("ecr").create_repository(repositoryName="trigger/proj_stranger")

    text, _ = reconcile("--all", "--refresh")

    assert "Every part of each was read." not in text
    assert "of the unmanaged ones the policy" in text
    sandbox.fault("error", "ecr:DescribeRepositories", code="AccessDeniedException")
    text, status = reconcile("--all")
    assert (status, "None was read." in text) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--all", "trigger/x"),
        ("trigger/unknown",),
        ("trigger/x", "--adopt"),
        ("--all", "--adopt", "--refresh"),
    ],
)
def test_a_wrong_call_of_the_command_ends_with_two(arguments: tuple[str, ...], fast: Configuration) -> None:
    assert reconcile(*arguments)[1] == 2


# ------------------------------------------------------------------------------- what an independent reader once broke


@pytest.mark.costly
def test_two_namespaces_on_one_host_keep_their_own_policies(configure: Configure, sandbox: Sandbox) -> None:
    configuration = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_NAMESPACE="trigger",
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        V4_DEPLOY_REGISTRY_NAMESPACE="four",
        V4_DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY.replace(CLUSTER, "333333333333"),
        RECONCILE_CALLS_PER_SECOND="5000",
    )
    fill(sandbox, configuration, 3)

    sweep_all(configuration)

    assert "SetRepositoryPolicy" not in calls(sandbox)


def test_a_rate_that_was_learned_grows_back_and_decays(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    [target] = targets.configured(fast)
    CallBudget.objects.create(account=OWNER, region="us-east-1", rate=10)
    budget = chunks._Budget(target, 100)
    assert budget.pace.rate == pytest.approx(10)
    now = time.monotonic()
    monkeypatch.setattr(budget.pace, "_clock", lambda: now + 100)
    assert budget.pace.rate > 12
    budget.share()
    assert budget.pace.rate > 12

    CallBudget.objects.update(rate=10, changed_at=Now() - timedelta(hours=1))
    assert chunks._Budget(target, 100).pace.rate == pytest.approx(100)


def test_a_refusal_of_one_worker_is_measured_with_the_calls_of_all_of_which_each_counts_once(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    [target] = targets.configured(fast)
    CallBudget.objects.create(account=OWNER, region="us-east-1", rate=200)
    one, other, third = (chunks._Budget(target, 1000) for _ in range(3))
    began = time.monotonic()

    def at(seconds: float, budget: chunks._Budget, calls: int = 0) -> chunks._Budget:
        monkeypatch.setattr(budget.pace, "_clock", lambda: began + seconds)
        for _ in range(calls):
            budget.pace.accepted()
        return budget

    at(1, one).pace.refused()
    one.share()  # AWS's bucket is empty
    at(1.1, other).share()
    at(1.1, third).share()
    at(2, one, calls=60).share()
    at(2, other, calls=40)
    at(2, third, calls=20)
    at(3, other, calls=0).pace.refused()
    other.share()

    assert CallBudget.objects.get().rate == pytest.approx((60 + 40) / 2, rel=0.01)
    at(3.5, third, calls=7).share()  # of its calls, those before the refusal were missed
    at(3.6, one).share()
    at(3.6, other).share()
    row = CallBudget.objects.get()
    assert row.rate == pytest.approx((60 + 40 + 20) / 2, rel=0.01)
    assert (row.accepted, row.empty) == (7, True)
    assert [each.pace.rate for each in (one, other)] == [pytest.approx(60, rel=0.01)] * 2


def test_a_worker_that_another_one_outran_stores_its_calls_the_next_time(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    [target] = targets.configured(fast)
    CallBudget.objects.create(account=OWNER, region="us-east-1", rate=50)
    one, other = (chunks._Budget(target, 1000) for _ in range(2))
    time.sleep(0.01)
    for budget, number in ((one, 3), (other, 4)):
        for _ in range(number):
            budget.pace.accepted()
    merged = one.pace.merged

    def outrun(stored: Measurement | None) -> Measurement | None:
        other.share()  # while `one` computes
        return merged(stored)

    monkeypatch.setattr(one.pace, "merged", outrun)
    one.share()
    assert CallBudget.objects.get().accepted == 4
    monkeypatch.undo()

    one.share()

    assert CallBudget.objects.get().accepted == 7


@pytest.mark.slow
def test_a_worker_that_is_to_stop_gives_its_chunk_back_while_aws_has_not_answered_yet(
    fast: Configuration, sandbox: Sandbox
) -> None:
    fill(sandbox, fast, 40)
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON)
    assert sweep is not None
    sandbox.fault("latency", "ecr:GetRepositoryPolicy", seconds=5)
    stop = threading.Event()

    def run() -> None:
        try:
            sweeps.work(configuration=fast, seconds=40, stopping=stop.is_set)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        until = time.monotonic() + 10
        while not any(fault["struck"] for fault in sandbox.faults()):
            assert time.monotonic() < until
            time.sleep(0.05)
        assert sweep_record.open_work(sweep.pk) == 0
        stop.set()
        time.sleep(1.5)
        assert thread.is_alive()
        assert sweep_record.open_work(sweep.pk) == 1
    finally:
        thread.join(20)
    assert not thread.is_alive()
    sandbox.clear_faults()
    while sweeps.work(configuration=fast, seconds=20):
        pass

    sweep.refresh_from_db()
    assert (sweep.status, sweep_record.progress(sweep).done) == (SweepStatus.DONE, 40)


def test_a_worker_that_is_to_stop_takes_no_work_and_gives_a_listing_back(fast: Configuration, sandbox: Sandbox) -> None:
    fill(sandbox, fast, 3)
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON)
    assert sweep is not None
    sandbox.reset_calls()

    sweeps.work(configuration=fast, seconds=5, stopping=lambda: True)
    assert sandbox.calls() == {}

    sweeps._list(listing(sweep), fast, lambda: True)
    assert sweep_record.open_work(sweep.pk) == 1
    assert Sweep.objects.get(pk=sweep.pk).listed_at is None


@pytest.mark.costly
def test_at_a_low_rate_a_worker_stops_when_its_time_is_over_and_keeps_what_it_has_done(
    configure: Configure, fast: Configuration, sandbox: Sandbox
) -> None:
    fill(sandbox, fast, 40)
    slow = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        RECONCILE_CALLS_PER_SECOND="2",
    )
    sweep = sweep_record.start(trigger=SweepTrigger.SCHEDULE)
    assert sweep is not None
    started = time.monotonic()

    sweeps.work(configuration=slow, seconds=3, sweep_id=sweep.pk)

    assert time.monotonic() - started < 6
    done = sweep_record.progress(sweep).done
    assert 3 <= done <= 12
    assert len(SweepChunk.objects.get(sweep=sweep).remaining) == 40 - done


@pytest.mark.slow
def test_a_write_that_was_throttled_goes_back_in_line(fast: Configuration, sandbox: Sandbox) -> None:
    names = fill(sandbox, fast, 4)
    drift(sandbox, names[:1])
    sandbox.fault("error", "ecr:SetRepositoryPolicy", code="ThrottlingException", times=3)

    result = sweep_record.progress(sweep_all(fast))

    assert (result.healed, result.failed) == (1, 0)


@pytest.mark.costly
def test_a_repository_that_trips_us_up_does_not_keep_the_others_from_being_looked_at(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = fill(sandbox, fast, 5)
    observation = chunks.ChunkRun._check_one

    def stumble(worker: Any, ecr: Any, writing: Any, target: Any, row: Repository, digest: str) -> bool:
        if row.name == names[2]:
            raise ValueError("a mistake of ours")
        return observation(worker, ecr, writing, target, row, digest)

    monkeypatch.setattr(chunks.ChunkRun, "_check_one", stumble)

    result = sweep_record.progress(sweep_all(fast))

    assert (result.in_sync, result.failed) == (4, 1)
    row = Repository.objects.get(name=names[2])
    assert (row.status, row.last_error_code) == (RepositoryStatus.FAILED, "Unexpected")
    assert row.error_since is not None
    assert "(ValueError)" in row.events.get().message


@pytest.mark.costly
def test_a_named_repository_that_is_missing_is_looked_for(fast: Configuration, sandbox: Sandbox) -> None:
    names = fill(sandbox, fast, 2)
    sandbox.client("ecr").delete_repository(repositoryName=names[0], force=True)
    sweep_all(fast)
    assert Repository.objects.get(name=names[0]).status == RepositoryStatus.MISSING
    sandbox.client("ecr").create_repository(repositoryName=names[0])

    sweep_all(fast, names=[names[0]])

    row = Repository.objects.get(name=names[0])
    assert (row.status, row.origin) == (RepositoryStatus.IN_SYNC, "adopted")
    assert policies(sandbox, [names[0]]) == 1


@pytest.mark.costly
def test_a_changed_list_of_consumers_is_on_every_row_after_a_sweep(
    configure: Configure, fast: Configuration, sandbox: Sandbox
) -> None:
    names = fill(sandbox, fast, 2)
    asking = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS=CLUSTER,
        RECONCILE_CALLS_PER_SECOND="5000",
    )

    sweep_all(asking)

    assert [Repository.objects.get(name=name).consumers[CLUSTER].verdict for name in names] == ["yes", "yes"]


@pytest.mark.costly
def test_a_listing_that_takes_many_tasks_continues_where_the_last_one_left_it(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ecr, "LISTED_PER_PAGE", 2)
    names = fill(sandbox, fast, 9)
    delete_repository(sandbox, names[4])
    sandbox.client("ecr").create_repository(repositoryName="trigger/unknown")
    sandbox.reset_calls()
    sweep = sweep_record.start(trigger=SweepTrigger.SCHEDULE)
    assert sweep is not None
    tasks = 0

    while sweep.listed_at is None and tasks < 20:
        tasks += 1
        lease = Lease.claim(Sweep.objects.filter(pk=sweep.pk), chunks.CHUNK_LEASE)
        assert lease is not None
        # Time for one page: before the second one the worker must stop.
        sweeps._list(lease, fast, stopping=iter([False, *[True] * 9]).__next__)
        sweep.refresh_from_db()

    assert tasks == 5
    assert calls(sandbox)["DescribeRepositories"] == 5 + 4  # a page is asked for again by the next worker
    assert sweep.calls["DescribeRepositories"] == 5 + 4
    assert (sweep.missing, sweep.discovered, sweep.listing) == (1, 1, None)
    assert Repository.objects.get(name=names[4]).status == RepositoryStatus.MISSING
    assert sweep_record.size_of(sweep) == 8
    work_off(fast, sweep)
    assert sweep.status == SweepStatus.DONE


@pytest.mark.costly
def test_a_listing_without_time_is_left_to_the_next_worker(fast: Configuration, sandbox: Sandbox) -> None:
    fill(sandbox, fast, 2)
    sweep = sweep_record.start(trigger=SweepTrigger.SCHEDULE)
    assert sweep is not None
    lease = Lease.claim(Sweep.objects.filter(pk=sweep.pk), chunks.CHUNK_LEASE)
    assert lease is not None

    sweeps._list(lease, fast, until=time.monotonic())

    sweep.refresh_from_db()
    assert (sweep.listed_at, sweep.lease_owner, sweep.status) == (None, "", SweepStatus.RUNNING)
    work_off(fast, sweep)
    assert sweep.status == SweepStatus.DONE


@pytest.mark.costly
@pytest.mark.parametrize(("again", "ended"), [(False, False), (True, True)])
def test_a_token_that_aws_refuses_lets_the_listing_begin_again_once(
    fast: Configuration, sandbox: Sandbox, again: bool, ended: bool
) -> None:
    names = fill(sandbox, fast, 3)
    sweep = sweep_record.start(trigger=SweepTrigger.SCHEDULE)
    assert sweep is not None
    stale = sweeps.Listing(token="of-yesterday", seen=set(range(100)), missing=7, again=again)
    Sweep.objects.filter(pk=sweep.pk).update(listing=stale.as_row())

    sweeps.work(configuration=fast, seconds=2, sweep_id=sweep.pk)

    sweep.refresh_from_db()
    assert (sweep.status == SweepStatus.FAILED) is ended
    if not ended:
        assert sweeps.Listing.from_row(sweep.listing).token == ""
        Sweep.objects.filter(pk=sweep.pk).update(lease_until=None)
        work_off(fast, sweep)
        assert (sweep.status, sweep.missing) == (SweepStatus.DONE, 0)
        assert sweep_record.progress(sweep).in_sync == len(names)


def test_what_a_listing_has_seen_is_kept_as_ranges() -> None:
    listed = sweeps.Listing(
        target=1, token="next", seen={7, 1, 2, 3, 9, 10}, calls=Counter(A=2), missing=3, discovered=4
    )

    assert listed.as_row()["seen"] == [[1, 3], [7, 7], [9, 10]]
    assert sweeps.Listing.from_row(json.loads(json.dumps(listed.as_row()))) == listed
    assert sweeps.Listing.from_row(None) == sweeps.Listing()


def test_a_result_that_is_newer_than_the_list_is_not_overwritten_by_it(fast: Configuration, sandbox: Sandbox) -> None:
    [name] = fill(sandbox, fast, 1)
    [target] = targets.configured(fast)
    [(page, _)] = target.ecr().pages()
    known = sweeps._by_name(Repository.objects.all(), [name])
    Repository.objects.update(lease_epoch=F("lease_epoch") + 1)  # a deploy has worked on it meanwhile
    known[name].mutability = Mutability(mode="MUTABLE")

    sweeps._note_changes(known, {entry.name: replace(entry, mutability="MUTABLE") for entry in page})

    assert Repository.objects.get().mutability.mode == "IMMUTABLE_WITH_EXCLUSION"


def test_the_command_says_when_aws_cannot_be_reached_instead_of_waiting_without_end(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sandbox, fast, 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    clients.forget_clients()

    text, status = reconcile("--all", "--json")

    assert status == 1
    assert "cannot be reached" in json.loads(text)["error"]
    clients.forget_clients()


@pytest.mark.slow
def test_an_aws_that_answers_nobody_ends_the_work_without_marking_every_repository(
    fast: Configuration, sandbox: Sandbox
) -> None:
    fill(sandbox, fast, 100)
    sandbox.fault("reset", "ecr:GetRepositoryPolicy")
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON)
    assert sweep is not None

    sweeps.work(configuration=fast, seconds=2, sweep_id=sweep.pk)

    sweep.refresh_from_db()
    assert (sweep.status, Repository.objects.filter(status=RepositoryStatus.FAILED).count()) == (SweepStatus.RUNNING, 0)
    assert "cannot be reached" in sweep.error
    sandbox.clear_faults()
    work_off(fast, sweep)
    assert (sweep.status, sweep_record.progress(sweep).in_sync) == (SweepStatus.DONE, 100)


@pytest.mark.costly
def test_old_sweeps_without_findings_are_forgotten_and_those_that_found_something_are_kept(
    fast: Configuration, sandbox: Sandbox
) -> None:
    names = fill(sandbox, fast, 2)
    quiet = sweep_all(fast)
    drift(sandbox, names[:1])
    eventful = sweep_all(fast)
    Sweep.objects.update(trigger=SweepTrigger.SCHEDULE, finished_at=Now() - timedelta(days=3))

    sweep_record.forget_old()

    assert set(Sweep.objects.values_list("pk", flat=True)) == {eventful.pk}
    assert quiet.pk != eventful.pk


# ------------------------------------------------------------------------------- guards: who holds what, and until when


def listing(sweep: Sweep) -> Lease[Sweep]:
    """The lease of the sweep's listing, taken."""
    held = Lease.claim(Sweep.objects.filter(pk=sweep.pk), chunks.CHUNK_LEASE)
    assert held is not None
    return held


def listed(configuration: Configuration, **options: Any) -> Lease[SweepChunk]:
    """The lease of the first chunk of a sweep that was listed."""
    sweep = sweep_record.start(trigger=SweepTrigger.SCHEDULE, **options)
    assert sweep is not None
    sweeps._list(listing(sweep), configuration)
    held = sweeps._claim_chunk(SweepChunk.objects.filter(sweep=sweep)[0])
    assert held is not None
    return held


def worker(configuration: Configuration, lease: Lease[SweepChunk], *, seconds: float = 10) -> chunks.ChunkRun:
    until = time.monotonic() + seconds
    configuration = generation.in_force(configuration)
    return chunks.ChunkRun(lease=lease, configuration=configuration, until=until)


def rows_of(model: Any) -> list[dict[str, Any]]:
    return list(model.objects.order_by("pk").values())


def test_a_chunk_or_a_listing_is_held_by_one_for_forty_five_seconds(fast: Configuration, sandbox: Sandbox) -> None:
    fill(sandbox, fast, 1)
    held = listed(fast)

    assert sweeps._claim_chunk(held.row) is None
    left = SweepChunk.objects.annotate(left=F("lease_until") - Now()).values_list("left", flat=True).get()
    assert timedelta(seconds=40) < left <= timedelta(seconds=45)
    assert left.total_seconds() > chunks.LEASE_RENEWAL_SECONDS * 3  # it is renewed, also where a renewal or two fail


def test_who_lost_a_listing_cuts_no_chunks(fast: Configuration, sandbox: Sandbox) -> None:
    names = fill(sandbox, fast, 2)
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON, names=names)
    assert sweep is not None
    first = listing(sweep)
    Sweep.objects.update(lease_until=None)
    second = listing(sweep)

    sweeps._list(first, fast)
    assert not SweepChunk.objects.exists()
    sweeps._list(second, fast)
    sweeps._list(second, fast)

    assert [chunk.size for chunk in SweepChunk.objects.all()] == [2]


@pytest.mark.costly
def test_a_sweep_that_was_stopped_while_the_registry_was_listed_cuts_no_chunks(
    fast: Configuration, sandbox: Sandbox
) -> None:
    fill(sandbox, fast, 1)
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON)
    assert sweep is not None
    held = listing(sweep)
    assert sweep_record.stop(sweep=sweep)

    sweeps._list(held, fast)

    assert not SweepChunk.objects.exists()


@pytest.mark.costly
@pytest.mark.parametrize("size", [1, 4])
def test_a_chunk_is_isolated_only_by_who_holds_it(fast: Configuration, sandbox: Sandbox, size: int) -> None:
    fill(sandbox, fast, size)
    held = listed(fast)
    SweepChunk.objects.update(lease_epoch=held.epoch + 1)  # another process holds it now
    before = rows_of(SweepChunk)

    sweeps._isolate(held)

    assert rows_of(SweepChunk) == before
    assert not SweepFinding.objects.exists()


@pytest.mark.costly
@pytest.mark.parametrize(("deaths", "chunks"), [(3, 1), (4, 2)])
def test_a_chunk_is_halved_when_five_workers_in_a_row_took_it(
    fast: Configuration, sandbox: Sandbox, deaths: int, chunks: int
) -> None:
    fill(sandbox, fast, 4)
    sweep = listed(fast).row.sweep
    SweepChunk.objects.update(attempts=deaths, lease_until=None)

    work_off(fast, sweep)

    assert SweepChunk.objects.count() == chunks
    assert sweep_record.progress(sweep).in_sync == 4


def test_a_worker_that_lives_ends_the_row_of_deaths(fast: Configuration, sandbox: Sandbox) -> None:
    fill(sandbox, fast, 2)
    held = listed(fast)
    SweepChunk.objects.update(attempts=3)

    worker(fast, held, seconds=0).run()

    chunk = SweepChunk.objects.get()
    assert (chunk.attempts, len(chunk.remaining)) == (0, 2)


@pytest.mark.costly
def test_a_chunk_of_which_only_held_repositories_are_left_rests_for_five_seconds(
    fast: Configuration, sandbox: Sandbox
) -> None:
    names = fill(sandbox, fast, 2)
    drift(sandbox, names[:1])
    Repository.objects.filter(name=names[0]).update(lease_owner="x", lease_until=Now() + timedelta(minutes=1))
    held = listed(fast)

    worker(fast, held).run()

    chunk = SweepChunk.objects.get()
    assert (len(chunk.remaining), chunk.lease_owner) == (1, "")
    left = SweepChunk.objects.annotate(left=F("lease_until") - Now()).values_list("left", flat=True).get()
    assert timedelta(seconds=3) < left <= timedelta(seconds=5)


@pytest.mark.costly
def test_a_worker_stops_in_the_middle_of_its_chunk_when_another_configuration_counts(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "deployments.reconcile.chunks")
    names = fill(sandbox, fast, 12)
    drift(sandbox, names[-1:])
    held = listed(fast)
    fixable = worker(fast, held)
    sandbox.fault("latency", "ecr:GetRepositoryPolicy", seconds=0.3)
    monkeypatch.setattr(chunks, "THREADS_PER_CHUNK", 1)
    newest = generation.newest() or 0
    monkeypatch.setattr(generation, "newest", lambda: newest + 1)

    fixable.run()

    chunk = SweepChunk.objects.get()
    assert len(chunk.remaining) > 2
    assert chunk.lease_until is None
    assert 'reason="another configuration counts"' in caplog.text
    assert "SetRepositoryPolicy" not in calls(sandbox)


@pytest.fixture
def one_slow_thread(sandbox: Sandbox, fast: Configuration, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Each call takes 0.7 s, in one thread. Returns what a run saves: how many repositories are left, and `release`."""
    saved: list[tuple[int, bool]] = []
    save = chunks.ChunkRun._save

    def spy(run: chunks.ChunkRun, rows: list[Repository], *, release: bool) -> bool:
        saved.append((len(rows), release))
        return save(run, rows, release=release)

    monkeypatch.setattr(chunks.ChunkRun, "_save", spy)
    monkeypatch.setattr(chunks, "THREADS_PER_CHUNK", 1)
    fill(sandbox, fast, 4)
    sandbox.fault("latency", "ecr:GetRepositoryPolicy", seconds=0.7)
    return saved


@pytest.mark.costly
def test_a_worker_that_is_to_stop_returns_its_chunk_once_with_the_repository_that_is_under_way(
    fast: Configuration, one_slow_thread: list[tuple[int, bool]]
) -> None:
    run = worker(fast, listed(fast))
    begun: list[Repository] = []

    def stopping() -> bool:
        begun.extend(run.under_way.values())
        return bool(begun)

    run.stopping = stopping
    run.run()

    assert one_slow_thread == [(4, True), (3, True)]


@pytest.mark.costly
def test_a_worker_saves_new_results_before_it_renews_its_lease(
    fast: Configuration, one_slow_thread: list[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """C11: the counters of the sweep's page stood still for ten seconds, and jumped."""
    monkeypatch.setattr(chunks, "PROGRESS_SECONDS", 0)
    worker(fast, listed(fast)).run()

    assert any(0 < left < 4 and not release for left, release in one_slow_thread)
    assert one_slow_thread[-1] == (0, True)


@pytest.mark.costly
def test_a_worker_whose_lease_was_taken_over_begins_no_further_repository(
    fast: Configuration, one_slow_thread: list[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "LEASE_RENEWAL_SECONDS", 0)
    run = worker(fast, listed(fast))
    SweepChunk.objects.update(lease_epoch=F("lease_epoch") + 1)

    run.run()

    assert one_slow_thread[0] == (4, False)  # what is under way is not done
    assert len(run.pending) == 3


@pytest.mark.costly
def test_a_worker_begins_no_further_repository_of_a_sweep_that_has_ended(
    fast: Configuration, one_slow_thread: list[tuple[int, bool]]
) -> None:
    run = worker(fast, listed(fast))
    sweep_record.stop(sweep=run.chunk.sweep)

    run.run()

    assert run.pending  # it looks after a fifth of a second, then once a second
    assert len(run.pending) <= 3


def test_a_repository_that_ecr_may_not_show_yet_rests_for_two_seconds(fast: Configuration, sandbox: Sandbox) -> None:
    fill(sandbox, fast, 1)
    run, row = worker(fast, listed(fast)), Repository.objects.get()
    before = time.monotonic()

    assert not run._wait_until_visible(row)

    assert before + 2 <= run.resting[row.pk] <= time.monotonic() + 2


@pytest.mark.costly
def test_an_ended_sweep_stays_as_it_ended(fast: Configuration, sandbox: Sandbox) -> None:
    fill(sandbox, fast, 1)
    sweep = sweep_all(fast)
    ended = sweep.finished_at

    assert not sweep_record.stop(sweep=sweep)

    sweep.refresh_from_db()
    assert (sweep.status, sweep.finished_at) == (SweepStatus.DONE, ended)


def test_a_sweep_that_is_not_listed_yet_is_not_over(fast: Configuration) -> None:
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON)
    assert sweep is not None

    sweeps.close_finished()

    sweep.refresh_from_db()
    assert sweep.status == SweepStatus.RUNNING


@pytest.mark.costly
@pytest.mark.parametrize(
    ("trigger", "status"),
    [(SweepTrigger.SCHEDULE, SweepStatus.RUNNING), (SweepTrigger.COMMAND, SweepStatus.FAILED)],
)
def test_a_throttled_listing_puts_a_scheduled_sweep_back_in_line_and_is_reported_to_a_command_that_waits(
    trigger: SweepTrigger, status: str, fast: Configuration, sandbox: Sandbox
) -> None:
    fill(sandbox, fast, 1)
    sandbox.fault("error", "ecr:DescribeRepositories", code="ThrottlingException", times=3)
    sweep = sweep_record.start(trigger=trigger)
    assert sweep is not None

    sweeps.work(configuration=fast, seconds=0.5, sweep_id=sweep.pk)

    sweep.refresh_from_db()
    assert (sweep.status, "ThrottlingException" in sweep.error) == (status, True)
    if status == SweepStatus.RUNNING:
        left = Sweep.objects.annotate(left=F("lease_until") - Now()).values_list("left", flat=True).get()
        assert left <= timedelta(seconds=5)
        Sweep.objects.update(lease_until=None)
        work_off(fast, sweep)
        assert (sweep.status, sweep.error) == (SweepStatus.DONE, "")


# ---------------------------------------------------------------------- guards: what is newer than what we have seen


def held_elsewhere(row: Repository) -> None:
    Repository.objects.filter(pk=row.pk).update(lease_owner="x", lease_until=Now() + timedelta(minutes=1))


def worked_on(row: Repository) -> None:
    Repository.objects.filter(pk=row.pk).update(lease_epoch=F("lease_epoch") + 1)


def looked_at(row: Repository) -> None:
    Repository.objects.filter(pk=row.pk).update(last_checked_at=Now())


@pytest.mark.parametrize("meanwhile", [held_elsewhere, worked_on])
def test_the_list_changes_no_row_that_somebody_works_on_or_has_worked_on(
    meanwhile: Callable[[Repository], None], fast: Configuration, sandbox: Sandbox
) -> None:
    [name] = fill(sandbox, fast, 1)
    [(page, _)] = targets.configured(fast)[0].ecr().pages()
    known = sweeps._by_name(Repository.objects.all(), [name])
    meanwhile(known[name])

    sweeps._note_changes(known, {entry.name: replace(entry, mutability="MUTABLE") for entry in page})

    assert Repository.objects.get().mutability.mode == "IMMUTABLE_WITH_EXCLUSION"


@pytest.mark.parametrize("meanwhile", [held_elsewhere, worked_on, looked_at])
def test_a_repository_that_a_deploy_has_made_again_since_the_list_is_not_missing(
    meanwhile: Callable[[Repository], None],
    fast: Configuration,
    sandbox: Sandbox,
) -> None:
    fill(sandbox, fast, 1)
    row = Repository.objects.get()
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON)
    assert sweep is not None

    with connection.execute_wrapper(before_the_first("UPDATE", lambda: meanwhile(row))):
        sweeps._note_missing(sweep, [row.pk])

    assert Repository.objects.get().status == RepositoryStatus.IN_SYNC
    assert not RepositoryEvent.objects.exists()
    assert not SweepFinding.objects.exists()


def test_what_a_deploy_has_made_since_a_sweep_began_is_not_missing_whatever_the_clock_of_the_host_that_began_it(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    [name] = fill(sandbox, fast, 1)
    ahead = timezone.now() + timedelta(minutes=10)
    monkeypatch.setattr(Sweep._meta.get_field("started_at"), "_get_default", lambda: ahead)
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON)
    assert sweep is not None
    # The registry's list was read before this deploy had made the repository.
    sandbox.client("ecr").delete_repository(repositoryName=name, force=True)
    Repository.objects.update(last_checked_at=Now())

    sweeps._list(listing(sweep), fast)

    sweep.refresh_from_db()
    assert sweep.missing == 0


def test_what_a_deploy_is_making_right_now_is_not_expected_in_the_list(fast: Configuration, sandbox: Sandbox) -> None:
    names = fill(sandbox, fast, 1)
    sandbox.client("ecr").delete_repository(repositoryName=names[0], force=True)
    held_elsewhere(Repository.objects.get())

    sweep = listed(fast).row.sweep

    sweep.refresh_from_db()
    assert sweep.missing == 0


def test_a_quiet_result_is_not_written_over_a_newer_one(fast: Configuration, sandbox: Sandbox) -> None:
    fill(sandbox, fast, 1)
    held = listed(fast)
    fixable = worker(fast, held)
    seen = timezone.now()
    Repository.objects.update(last_checked_at=Now() + timedelta(seconds=5))  # a deploy has looked since
    newer = Repository.objects.get().last_checked_at
    fixable.unchanged = [Repository.objects.get().pk]

    fixable._save_unchanged(seen)

    assert Repository.objects.get().last_checked_at == newer


@pytest.mark.costly
def test_a_mistake_of_ours_is_not_written_on_a_row_that_somebody_works_on(
    fast: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sandbox, fast, 1)
    held_elsewhere(Repository.objects.get())
    held = listed(fast)

    def stumble(*arguments: Any) -> bool:
        raise ValueError("a mistake of ours")

    monkeypatch.setattr(chunks.ChunkRun, "_check_one", stumble)
    worker(fast, held).run()

    assert Repository.objects.get().status == RepositoryStatus.IN_SYNC


def test_a_repository_is_adopted_once(fast: Configuration, sandbox: Sandbox) -> None:
    fill(sandbox, fast, 1)
    Repository.objects.update(status=RepositoryStatus.UNMANAGED, origin="")
    row = Repository.objects.get()

    assert ownership.adopt(row=row, by="x")
    assert not ownership.adopt(row=row, by="x")
    assert RepositoryEvent.objects.filter(kind=EventKind.ADOPTED).count() == 1


# ------------------------------------------------------------------- names that go and come back, and how long is kept


@pytest.mark.costly
@pytest.mark.parametrize("was", ["taken over", "created by us"])
def test_a_repository_that_somebody_else_makes_under_the_name_of_one_that_is_gone_is_theirs(
    was: str, fast: Configuration, sandbox: Sandbox
) -> None:
    [name] = fill(sandbox, fast, 1)
    client = sandbox.client("ecr")
    if was == "taken over":
        Repository.objects.update(origin="adopted", management="adopted")
        assert ownership.take_over(row=Repository.objects.get(), by="x")
        sweep_all(fast)
    client.delete_repository(repositoryName=name, force=True)
    assert sweep_all(fast).missing == 1
    theirs = fast.v4.lifecycle_policy.replace('"countNumber": 3', '"countNumber": 30')
    client.create_repository(repositoryName=name, imageTagMutability="MUTABLE")
    client.put_lifecycle_policy(repositoryName=name, lifecyclePolicyText=theirs)

    sweep_all(fast, names=[name])

    [made] = client.describe_repositories(repositoryNames=[name])["repositories"]
    assert made["imageTagMutability"] == "MUTABLE"
    assert "30" in client.get_lifecycle_policy(repositoryName=name)["lifecyclePolicyText"]
    row = Repository.objects.get()
    assert (row.origin, row.taken_over_at, row.lifecycle_is_ours) == ("adopted", None, False)
    assert {each.part for each in row.differences} == {"mutability", "lifecycle"}


@pytest.mark.costly
@pytest.mark.parametrize(
    ("days", "eventful", "kept"),
    [(1.9, False, True), (2.1, False, False), (2.1, True, True), (1_000, True, True)],
)
def test_uneventful_scheduled_sweeps_are_kept_for_two_days_and_others_by_the_setting(
    fast: Configuration, sandbox: Sandbox, days: float, eventful: bool, kept: bool
) -> None:
    names = fill(sandbox, fast, 1)
    if eventful:
        drift(sandbox, names)
    sweep_all(fast)
    Sweep.objects.update(trigger=SweepTrigger.SCHEDULE, finished_at=Now() - timedelta(days=days))

    sweep_record.forget_old()

    assert Sweep.objects.exists() is kept


@pytest.mark.costly
def test_workers_that_hold_chunks_of_one_registry_share_its_rate(fast: Configuration, sandbox: Sandbox) -> None:
    fill(sandbox, fast, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "REPOSITORIES_PER_CHUNK", 2)
        sweep = listed(fast).row.sweep
    [target] = targets.configured(fast)
    budget = chunks._Budget(target, 100)
    assert budget.pace.rate == pytest.approx(100)

    assert sweeps._claim_chunk(SweepChunk.objects.get(sweep=sweep, position=1))
    budget.share()

    assert budget.pace.rate == pytest.approx(50)


# ------------------------------------------------------------------------------------------------ findings are for news


def findings(sweep: Sweep) -> list[tuple[str, str]]:
    return list(sweep.findings.values_list("repository__name", "outcome"))


@pytest.mark.costly
def test_a_drift_that_lasts_is_found_once_and_counted_by_every_sweep(configure: Configure, sandbox: Sandbox) -> None:
    observing = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_POLICY_MODE="observe",
        RECONCILE_CALLS_PER_SECOND="5000",
    )
    names = fill(sandbox, observing, 2)
    drift(sandbox, names[:1])

    first, second = sweep_all(observing), sweep_all(observing)

    assert (findings(first), findings(second)) == ([(names[0], "drifted")], [])
    assert [sweep_record.progress(sweep).drifted for sweep in (first, second)] == [1, 1]
    drift(sandbox, names[1:])
    assert findings(sweep_all(observing)) == [(names[1], "drifted")]
    asked_for = sweep_all(observing, trigger=SweepTrigger.PERSON)
    assert sorted(findings(asked_for)) == [(name, "drifted") for name in sorted(names)]


@pytest.mark.costly
def test_a_drift_that_ended_and_began_again_with_the_same_words_is_found_again(
    configure: Configure, sandbox: Sandbox
) -> None:
    observing = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_POLICY_MODE="observe",
        RECONCILE_CALLS_PER_SECOND="5000",
    )
    names = fill(sandbox, observing, 1)
    drift(sandbox, names)
    sweep_all(observing)
    # A deploy or an event found it in sync in between, which leaves no finding.
    Repository.objects.update(status=RepositoryStatus.IN_SYNC, drifted_since=None, differences=[])

    assert findings(sweep_all(observing)) == [(names[0], "drifted")]


@pytest.mark.costly
def test_an_error_that_lasts_is_found_once_and_another_error_again(fast: Configuration, sandbox: Sandbox) -> None:
    names = fill(sandbox, fast, 1)
    row = Repository.objects.get()
    Repository.objects.update(error_since=Now() - timedelta(hours=1))
    sweeps_made = [sweep_record.start(trigger=SweepTrigger.PERSON, names=names) for _ in range(3)]
    Sweep.objects.update(trigger=SweepTrigger.SCHEDULE, status=SweepStatus.DONE)
    first, second, third = (Sweep.objects.get(pk=sweep.pk) for sweep in sweeps_made if sweep)

    sweep_record.record_findings(first, [row], sweep_record.Outcome.FAILED, "Denied: by a guardrail.")
    sweep_record.record_findings(second, [row], sweep_record.Outcome.FAILED, "Denied: by a guardrail.")
    sweep_record.record_findings(third, [row], sweep_record.Outcome.FAILED, "Denied: by a guard")

    assert [len(findings(sweep)) for sweep in (first, second, third)] == [1, 0, 1]
    Repository.objects.update(error_since=None)  # no row says since when: it is recorded
    sweep_record.record_findings(second, [row], sweep_record.Outcome.FAILED, "Denied: by a guard")
    assert len(findings(second)) == 1
