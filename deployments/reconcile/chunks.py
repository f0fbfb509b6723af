"""One run over a chunk of a sweep: observe its repositories in many threads, correct drift, save the progress.

The run holds the chunk's lease. The rate of its calls is the registry's rate, which all workers share (`_Budget`).
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from django.db import connections
from django.db.models import F, QuerySet
from django.db.models.functions import Now

from deployments.aws.ecr import Ecr
from deployments.aws.values import Observation
from deployments.catalogue import sentence
from deployments.config import Configuration
from deployments.errors import RegistryError, is_throttling, registry_error
from deployments.log import carried, get_logger
from deployments.models import (
    CallBudget,
    Repository,
    RepositoryStatus,
    Sweep,
    SweepChunk,
    SweepStatus,
    SweepTrigger,
)
from deployments.reconcile import desired, generation, repositories, targets
from deployments.reconcile.lease import Lease
from deployments.reconcile.pace import Pace
from deployments.reconcile.sweep_record import Outcome, _end, _found, _next_piece, _size
from deployments.reconcile.targets import Target

CHUNK_LEASE = timedelta(seconds=45)  # lease of a chunk or a listing
HELD_PAUSE = timedelta(seconds=5)  # before a repository is tried again whose lease another process held
THREADS_PER_CHUNK = 16

LEASE_RENEWAL_SECONDS = 10

VISIBLE_PAUSE_SECONDS = 2.0  # before the next try for a new repository that ECR may not find yet

UNANSWERED_CODES = ("Unreachable", "Timeout")

UNANSWERED_IN_A_ROW = 3 * THREADS_PER_CHUNK  # after so many checks without an answer, the sweep fails

#: Throttled checks of one repository in one sweep, by all workers together. Then the repository failed (D-sweep-tries).
MAX_TRIES_PER_REPOSITORY = 8

UNANSWERED_TRIES = 3  # a check without an answer counts as so many tries, because it blocks a thread for 13 seconds

LONGEST_REST_SECONDS = 16.0  # longest pause of a throttled repository

CALM_SECONDS = 10.0  # throttling of another repository counts as throttling of the account for this time

log = get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class ChunkRun:
    """The run over one chunk under its lease."""

    lease: Lease[SweepChunk]
    configuration: Configuration
    until: float  # monotonic
    running: QuerySet[Sweep] = field(default_factory=lambda: Sweep.objects.filter(status=SweepStatus.RUNNING))
    stopping: Callable[[], bool] = lambda: False
    pending: deque[Repository] = field(default_factory=deque)
    quiet: list[int] = field(default_factory=list)  # ids of repositories that were and are in sync
    held: list[int] = field(default_factory=list)  # ids of repositories whose lease another process holds
    counts: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    tries: Counter[int] = field(default_factory=Counter)  # repository → checks that AWS throttled or did not answer
    unsaved: bool = False  # whether `tries` has changed since the last save
    resting: dict[int, float] = field(default_factory=dict)  # repository → when it may be checked again; monotonic
    refused_at: dict[int, float] = field(default_factory=dict)  # repository → when AWS last throttled a call; monotonic
    refusals: int = 0  # number of throttled checks
    progressed: bool = False  # whether the check of any repository of this chunk was completed
    silence: int = 0  # checks in a row that AWS did not answer
    fatal: RegistryError | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def chunk(self) -> SweepChunk:
        return self.lease.row

    def run(self) -> None:
        sweep, desired_digest = self.chunk.sweep, self.configuration.desired_digest
        wanted = (self.chunk.host, self.chunk.namespace)
        found = {(each.config.host, each.config.namespace): each for each in targets.configured(self.configuration)}
        target = found.get(wanted)
        rows = list(Repository.objects.filter(pk__in=self.chunk.remaining).annotate(db_now=Now()))
        if target is None or not rows:
            self._save([], release=True)  # the registry is not configured any more, or the rows were deleted
            return
        self.tries = self._stored_tries()
        self.refusals = self.tries.total()  # of earlier workers too: at the lowest rate, a single worker sees few
        self.progressed = self.chunk.size > len(self.chunk.remaining)
        order = {pk: place for place, pk in enumerate(self.chunk.remaining)}
        self.pending.extend(sorted(rows, key=lambda row: order[row.pk]))
        looked_at: datetime = rows[0].db_now
        if not sweep.dry_run:
            # Before the work, so that a repository that kills its worker comes last in the next sweep.
            Repository.objects.filter(pk__in=list(order)).update(attempted_at=Now())
        budget = _Budget(target, self.configuration.calls_per_second)

        def turn() -> None:
            if not budget.pace.wait(self._over):
                raise _OutOfTime

        def answered(pk: int, operation: str, code: str) -> None:
            with self._lock:
                self.calls[operation] += 1
            if not is_throttling(code):
                budget.pace.accepted()
            elif self._concerns_the_account(pk):
                budget.pace.refused()

        ecr = target.ecr(before_call=turn, attempts=1)
        # Under a repository's lease, calls do not wait for the rate. Writes are few, so botocore may retry them.
        writing = replace(ecr, before_call=budget.pace.spend, attempts=3)
        with ThreadPoolExecutor(max_workers=THREADS_PER_CHUNK, thread_name_prefix="sweep") as pool:
            try:
                going: dict[Future[bool], Repository] = {}
                next_check = time.monotonic() + 1
                next_renewal = time.monotonic() + LEASE_RENEWAL_SECONDS
                given_back = False
                while self.pending or going:
                    while len(going) < THREADS_PER_CHUNK and not self._over() and (row := self._next()) is not None:
                        hear = functools.partial(answered, row.pk)
                        doors = replace(ecr, answered=hear), replace(writing, answered=hear)
                        going[pool.submit(carried(self._one), *doors, target, row, desired_digest)] = row
                    if not going and self._over():
                        break
                    done: set[Future[bool]] = set()
                    if going:
                        done, _ = wait(going, timeout=0.5, return_when=FIRST_COMPLETED)
                    else:
                        time.sleep(0.1)  # all repositories that are left are resting
                    for future in done:
                        row = going.pop(future)
                        if not future.result():
                            self.pending.append(row)
                    now = time.monotonic()
                    if now >= next_check:
                        next_check = now + 1
                        budget.share()
                        if self._gives_way(resting=not going and self._rest([*self.pending], []) is not None):
                            self.until = 0
                        if self.unsaved:
                            next_renewal = now  # save now, because the sweep's page shows which repositories wait
                        if not Sweep.objects.filter(pk=sweep.pk, status=SweepStatus.RUNNING).exists():
                            self.until = 0
                        if (generation.newest() or 0) != self.configuration.activation:
                            self.until = 0  # another configuration counts now: end this run and begin again with it
                    if self.stopping() and not given_back:
                        # Save now, because this process may be killed before AWS has answered the calls that it sent.
                        given_back = True
                        self._settle_quiet(looked_at)
                        self._save([*self.pending, *going.values()], release=True)
                    if now >= next_renewal and not given_back:
                        next_renewal = now + LEASE_RENEWAL_SECONDS
                        self._settle_quiet(looked_at)
                        if not self._save([*self.pending, *going.values()], release=False):
                            self.until = 0  # another process has taken the lease: results from now on are dropped
            finally:
                _close_connections(pool)
        budget.share()
        self._settle_quiet(looked_at)
        self._save(list(self.pending), release=True)
        if self.fatal is not None:
            _end(sweep.pk, SweepStatus.FAILED, str(self.fatal))

    def _settle_quiet(self, looked_at: datetime) -> None:
        """Write the time of the check to the repositories that were and are in sync, in one statement."""
        with self._lock:
            ids, self.quiet = self.quiet, []
        if ids and not self.chunk.sweep.dry_run:
            # Only rows without a newer check: a newer result is never overwritten.
            Repository.objects.filter(pk__in=ids, last_checked_at__lt=looked_at).update(
                last_checked_at=looked_at, last_in_sync_at=looked_at
            )

    def _over(self) -> bool:
        return self.fatal is not None or time.monotonic() >= self.until or self.stopping()

    def _save(self, rows: list[Repository], *, release: bool) -> bool:
        """Write the progress of the chunk. False if another process has taken the chunk's lease; then nothing is
        written.

        If only repositories are left that another process holds or AWS throttles, the chunk rests before a worker takes
        it again.
        """
        with self._lock:
            counts, self.counts = self.counts, Counter()
            calls, self.calls = self.calls, Counter()
            held = list(self.held)
            tries, self.unsaved = dict(self.tries), False
        remaining = [*(row.pk for row in rows), *held]
        values: dict[str, Any] = {
            "remaining": remaining,
            "attempts": 0,  # counts workers that died in a row; this worker is alive
            "calls": dict(Counter(self.chunk.calls) + calls),
            "throttled": {str(pk): tries[pk] for pk in remaining if tries.get(pk)} or None,
            **{name: F(name) + counts[name] for name in ("in_sync", "healed", "drifted", "failed")},
        }
        self.chunk.calls = values["calls"]
        if not release:
            return self.lease.renew(values)
        values["finished_at"] = None if remaining else Now()
        return self.lease.finish(values, rest=self._rest(rows, held))

    def _stored_tries(self) -> Counter[int]:
        return Counter({int(pk): tries for pk, tries in (self.chunk.throttled or {}).items()})

    def _rest(self, rows: list[Repository], held: list[int]) -> timedelta | None:
        """How long this chunk rests; None if one of its repositories can be checked now."""
        now = time.monotonic()
        rests = [self.resting.get(row.pk, now) - now for row in rows] + [HELD_PAUSE.total_seconds()] * bool(held)
        return timedelta(seconds=min(rests)) if rests and min(rests) > 0 else None

    def _next(self) -> Repository | None:
        """Take the first pending repository that is not resting; None if all rest."""
        now = time.monotonic()
        for row in self.pending:
            if self.resting.get(row.pk, now) <= now:
                self.pending.remove(row)
                return row
        return None

    def _gives_way(self, *, resting: bool) -> bool:
        """Whether other work comes before this chunk: that of a smaller sweep, or any work while this chunk rests."""
        piece = _next_piece(self.running)
        if piece is None or resting:
            return piece is not None
        if isinstance(piece, Sweep) and not piece.names:
            return False
        size = len(piece.names) if isinstance(piece, Sweep) else _size(piece.sweep)
        return size < _size(self.chunk.sweep)

    def _concerns_the_account(self, pk: int) -> bool:
        """Whether a throttled call is because of the account's rate, and not because of this one repository.

        So it counts only if AWS has throttled another repository too, and only once for each repository.
        """
        now = time.monotonic()
        with self._lock:
            self.refused_at[pk] = now
            others = any(each != pk and at > now - CALM_SECONDS for each, at in self.refused_at.items())
            return others and not self.tries[pk]

    def _one(self, ecr: Ecr, writing: Ecr, target: Target, row: Repository, desired_digest: str) -> bool:
        """Check one repository and correct drift.

        False if it must be tried again: throttled, not visible yet, no time.
        """
        try:
            return self._observe_one(ecr, writing, target, row, desired_digest)
        except _OutOfTime:
            return False
        except Exception as error:
            # An unexpected error with one repository must not stop the check of the others.
            log.exception("sweeps.failed", repository=row.name)
            self._fail(row, registry_error("Unexpected", operation="", name=row.name, reason=type(error).__name__))
            return True

    def _observe_one(self, ecr: Ecr, writing: Ecr, target: Target, row: Repository, desired_digest: str) -> bool:
        due = repositories.details_due(row, desired_digest=desired_digest, now=row.db_now)  # type: ignore[attr-defined]
        try:
            observation = ecr.observe(row.name, details=due)
        except RegistryError as error:
            if error.throttled:
                return self._throttled(row, error)
            self.fatal = error
            return True
        for part in (observation.policy, observation.details):
            if isinstance(part, RegistryError) and part.throttled:
                return self._throttled(row, part)
            if isinstance(part, RegistryError) and part.code in UNANSWERED_CODES and self._unanswered(row, part):
                return False
        self.silence, self.progressed = 0, True
        if self._is_quiet(target, row, observation, desired_digest):
            with self._lock:
                self.quiet.append(row.pk)
                self.counts["in_sync"] += 1
            return True
        if not observation.exists and Repository.objects.filter(repositories.may_be_invisible(), pk=row.pk).exists():
            return self._wait_until_visible(row)
        if self.chunk.sweep.dry_run:
            self._report(target, row, observation)
            return True
        return self._settle(writing, target, row, observation, desired_digest)

    def _wait_until_visible(self, row: Repository) -> bool:
        """Let a new repository that ECR may not find yet be tried again.

        It does not count as a try, because it ends soon.
        """
        with self._lock:
            self.resting[row.pk] = time.monotonic() + VISIBLE_PAUSE_SECONDS
        return False

    def _throttled(self, row: Repository, error: RegistryError) -> bool:
        """Let a throttled repository be tried again (False), or record after the last try that it failed (True).

        If AWS throttles every repository that this chunk has tried, the cause is the account, and the sweep fails.
        """
        with self._lock:
            self.refusals += 1
            again = self._count(row, 1)
            if self.refusals >= UNANSWERED_IN_A_ROW and not self.progressed:
                self.fatal = registry_error("SweepThrottled", operation=error.operation, tries=UNANSWERED_IN_A_ROW)
        if again or self.fatal is not None:
            return False
        self._fail(
            row, registry_error("Throttled", operation=error.operation, name=row.name, tries=MAX_TRIES_PER_REPOSITORY)
        )
        return True

    def _count(self, row: Repository, tries: int) -> bool:
        """Count tries of a repository and let it rest.

        False if it may not be tried again. The caller holds the lock.
        """
        count = self.tries[row.pk] = self.tries[row.pk] + tries
        self.resting[row.pk] = time.monotonic() + rest_seconds(count)
        self.unsaved = True
        return count < MAX_TRIES_PER_REPOSITORY

    def _fail(self, row: Repository, error: RegistryError) -> None:
        """Record that the repository could not be checked: as a finding and, unless it is a dry run, on its row."""
        sweep = self.chunk.sweep
        if not sweep.dry_run:
            repositories.record_failure(row=row, error=error, cause=sweep.requested_by or sweep.trigger)
        self._tell(row, "failed", str(error))

    def _unanswered(self, row: Repository, error: RegistryError) -> bool:
        """Whether a check that AWS did not answer may be tried again. If AWS answers no call at all, the run ends.

        Otherwise a minute without network would mark every repository as failed. Such tries are not stored.
        """
        with self._lock:
            self.silence += 1
            again = self._count(row, UNANSWERED_TRIES)
            if self.silence >= UNANSWERED_IN_A_ROW:
                if self.until:  # the first of the threads that finds it
                    log.warning("sweep.waits", error=str(error))
                self.until = 0
                self.tries = self._stored_tries()
                if self.chunk.sweep.trigger == SweepTrigger.COMMAND:
                    self.fatal = error  # the reconcile command prints it
                else:
                    Sweep.objects.filter(pk=self.chunk.sweep_id, status=SweepStatus.RUNNING).update(error=str(error))
            return self.silence >= UNANSWERED_IN_A_ROW or again

    def _is_quiet(self, target: Target, row: Repository, observation: Observation, desired_digest: str) -> bool:
        """Whether the repository was and is in sync, so that only the time of the check is written."""
        return (
            observation.exists
            and observation.details is None
            and row.status == RepositoryStatus.IN_SYNC
            and row.checked_digest == desired_digest
            and (observation.policy or "") == row.policy_text
            and set(row.consumers) == set(target.config.consumer_accounts)
            and not self._writable(target, row)
        )

    def _writable(self, target: Target, row: Repository) -> bool:
        """Whether the row has a tag mutability, from the listing, that we may correct."""
        differences = repositories.detail_differences(row, target.config, repositories.remembered(row))
        return any(difference.fixable for difference in differences)

    def _report(self, target: Target, row: Repository, observation: Observation) -> None:
        """Record as findings what a sweep that may write would do. Nothing is changed, not even the row."""
        if not observation.exists:
            self._tell(row, "drifted", sentence("missing", name="The repository"))
            return
        differences, errors = repositories.compare(row, observation, target.config, partition=target.registry.partition)
        verdict = desired.verdict(differences)
        words = " ".join([*map(str, errors), verdict.words]).strip()
        self._tell(row, "failed" if errors else "drifted" if verdict.drifted else "in_sync", words)

    def _settle(self, ecr: Ecr, target: Target, row: Repository, observation: Observation, desired_digest: str) -> bool:
        """Converge one repository under its own lease. False if AWS throttled it, or does not show it yet.

        A repository whose lease another process holds is tried again later.
        """
        result = repositories.reconcile(
            row=row,
            ecr=ecr,
            config=target.config,
            desired_digest=desired_digest,
            cause=self.chunk.sweep.requested_by or self.chunk.sweep.trigger,
            enforce=self.configuration.enforce,
            activation=self.configuration.activation,
            observation=observation,
        )
        if result is None:
            with self._lock:
                self.held.append(row.pk)
            return True
        settled = result.repository
        if result.error is not None:
            if result.error.throttled:
                return self._throttled(row, result.error)
            if result.error.code == repositories.NOT_VISIBLE:
                return self._wait_until_visible(row)
            if result.error.installation:
                self.fatal = result.error
            self._tell(row, "failed", str(result.error))
        elif settled.status == RepositoryStatus.MISSING:
            self._tell(row, "drifted", sentence("missing", name="The repository"), Outcome.MISSING)
        elif settled.status == RepositoryStatus.DRIFTED:
            self._tell(row, "drifted", " ".join(each.words for each in settled.differences))
        elif result.written or result.before not in (RepositoryStatus.IN_SYNC, RepositoryStatus.PENDING):
            self._tell(row, "healed", " ".join(result.written))
        else:
            self._tell(row, "in_sync", "")
        return True

    def _tell(self, row: Repository, kind: str, words: str, outcome: Outcome | None = None) -> None:
        with self._lock:
            self.counts[kind] += 1
        if kind != "in_sync":
            _found(self.chunk.sweep, [row], outcome or Outcome(kind), words)


def rest_seconds(tries: int) -> float:
    """How long a repository rests after so many tries: 0 after the first try, then longer each time."""
    return min(2.0 ** (tries - 3), LONGEST_REST_SECONDS) if tries > 1 else 0.0


class _OutOfTime(Exception):
    """The time of the run is over, or the sweep was stopped, while a call waited for the rate limiter."""


def _close_connections(pool: ThreadPoolExecutor) -> None:
    """Close the database connection of every thread of the pool; a barrier lets each thread run it exactly once."""
    threads = len(pool._threads)
    barrier = threading.Barrier(threads) if threads else None

    def close() -> None:
        with contextlib.suppress(threading.BrokenBarrierError):  # a thread that hangs keeps its connection
            if barrier is not None:
                barrier.wait(10)
        connections.close_all()

    for future in [pool.submit(close) for _ in range(threads)]:
        future.result()


class _Budget:
    """The registry's calls per second: a row that all workers share and that stays between sweeps."""

    def __init__(self, target: Target, ceiling: int) -> None:
        self._key: dict[str, Any] = {"account": target.registry.account, "region": target.registry.region}
        self._host = target.config.host
        self._ceiling = float(ceiling)
        self._holders = 1
        self._stored = self._load()
        self.pace = Pace(self._stored, ceiling=self._ceiling)
        self.share()

    def share(self) -> None:
        """Set this worker's part of the registry's rate: an equal part for each worker with a chunk of this registry.

        A rate that another worker has stored since is used; else this worker's rate, which is stored if it has changed.
        """
        mine, stored = min(self.pace.rate * self._holders, self._ceiling), self._load()
        if stored != self._stored:
            self._stored = mine = stored
        elif abs(mine - stored) > 0.05 * stored:
            CallBudget.objects.update_or_create(**self._key, defaults={"rate": mine, "changed_at": Now()})
            self._stored = self._load()
        chunks = SweepChunk.objects.filter(host=self._host, lease_until__gt=Now(), finished_at__isnull=True)
        self._holders = max(1, chunks.exclude(lease_owner="").count())  # a chunk without an owner is resting
        self.pace.share(mine / self._holders, self._ceiling / self._holders)

    def _load(self) -> float:
        """The learned rate. It decays: it doubles for every 15 minutes since it was learned, up to the ceiling."""
        row: Any = CallBudget.objects.filter(**self._key).annotate(db_now=Now()).first()
        if row is None:
            return self._ceiling
        quarters = int((row.db_now - row.changed_at).total_seconds() // 900)
        return min(float(row.rate * 2 ** min(quarters, 20)), self._ceiling)
