"""One run over a chunk of a sweep: observe its repositories in many threads, correct what differs, save how far it is.

A chunk is worked on under a lease. Its repositories are paced by the registry's shared budget of calls (`_Budget`).
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

CHUNK_LEASE = timedelta(seconds=45)  # of a chunk or a listing: how long a dead worker's work waits
HELD_PAUSE = timedelta(seconds=5)
THREADS_PER_CHUNK = 16

LEASE_RENEWAL_SECONDS = 10

VISIBLE_PAUSE_SECONDS = 2.0  # before ECR is asked again for a repository that it may not show yet

UNANSWERED_CODES = ("Unreachable", "Timeout")

UNANSWERED_IN_A_ROW = 3 * THREADS_PER_CHUNK  # looks in a row without an answer after which AWS counts as away

MAX_TRIES_PER_REPOSITORY = (
    8  # throttled looks at one repository in one sweep, over all workers; then it has failed (D-sweep-tries)
)

UNANSWERED_TRIES = 3  # what a look without an answer counts: it holds a thread for 13 seconds

LONGEST_REST_SECONDS = 16.0  # seconds

CALM_SECONDS = 10.0  # a refusal of another repository that is older says nothing about the account's rate

log = get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class ChunkRun:
    """Works through one chunk under its lease."""

    lease: Lease[SweepChunk]
    configuration: Configuration
    until: float  # monotonic
    running: QuerySet[Sweep] = field(default_factory=lambda: Sweep.objects.filter(status=SweepStatus.RUNNING))
    stopping: Callable[[], bool] = lambda: False
    pending: deque[Repository] = field(default_factory=deque)
    quiet: list[int] = field(default_factory=list)  # ids that were in sync and still are
    held: list[int] = field(default_factory=list)  # ids whose lease somebody else has: a deploy, or a worker that died
    counts: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    tries: Counter[int] = field(default_factory=Counter)  # looks that AWS throttled or did not answer, by repository
    unsaved: bool = False  # whether `tries` has grown since it was written down
    resting: dict[int, float] = field(default_factory=dict)  # repository → when it may be looked at again; monotonic
    refused_at: dict[int, float] = field(default_factory=dict)  # repository → when AWS throttled it last; monotonic
    refusals: int = 0  # looks that AWS throttled
    progressed: bool = False  # whether a look at any repository of this chunk came to its end
    silence: int = 0  # looks in a row that AWS did not answer
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
            self._save([], release=True)  # the registry was configured away, or the rows were deleted
            return
        self.tries = self._stored_tries()
        self.refusals = self.tries.total()  # of the workers before: at the lowest rate one alone sees too few of them
        self.progressed = self.chunk.size > len(self.chunk.remaining)
        order = {pk: place for place, pk in enumerate(self.chunk.remaining)}
        self.pending.extend(sorted(rows, key=lambda row: order[row.pk]))
        looked_at: datetime = rows[0].db_now
        if not sweep.dry_run:
            # Before the work: a repository that kills its worker goes to the back of the next sweep's line.
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
        # Under a repository's lease nobody waits for a turn. Writes are few and matter, so botocore may try again.
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
                        time.sleep(0.1)  # every repository that is left rests
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
                            next_renewal = now  # the sweep's page shows what is left, and why
                        if not Sweep.objects.filter(pk=sweep.pk, status=SweepStatus.RUNNING).exists():
                            self.until = 0
                        if (generation.newest() or 0) != self.configuration.activation:
                            self.until = 0  # another configuration counts by now: begin again with that one
                    if self.stopping() and not given_back:
                        # Now, because this process may be killed before AWS has answered the calls that are under way.
                        given_back = True
                        self._settle_quiet(looked_at)
                        self._save([*self.pending, *going.values()], release=True)
                    if now >= next_renewal and not given_back:
                        next_renewal = now + LEASE_RENEWAL_SECONDS
                        self._settle_quiet(looked_at)
                        if not self._save([*self.pending, *going.values()], release=False):
                            self.until = 0  # somebody thought us dead; what we find from now on is dropped
            finally:
                _close_connections(pool)
        budget.share()
        self._settle_quiet(looked_at)
        self._save(list(self.pending), release=True)
        if self.fatal is not None:
            _end(sweep.pk, SweepStatus.FAILED, str(self.fatal))

    def _settle_quiet(self, looked_at: datetime) -> None:
        """Stamp those that were and are in sync, in one statement."""
        with self._lock:
            ids, self.quiet = self.quiet, []
        if ids and not self.chunk.sweep.dry_run:
            # Only rows that nobody has looked at since we did: a newer result is never overwritten.
            Repository.objects.filter(pk__in=ids, last_checked_at__lt=looked_at).update(
                last_checked_at=looked_at, last_in_sync_at=looked_at
            )

    def _over(self) -> bool:
        return self.fatal is not None or time.monotonic() >= self.until or self.stopping()

    def _save(self, rows: list[Repository], *, release: bool) -> bool:
        """Write how far this chunk is, under our own epoch only; False when it is somebody else's by now.

        A chunk of which only held and throttled repositories are left rests, then a worker takes it up again.
        """
        with self._lock:
            counts, self.counts = self.counts, Counter()
            calls, self.calls = self.calls, Counter()
            held = list(self.held)
            tries, self.unsaved = dict(self.tries), False
        remaining = [*(row.pk for row in rows), *held]
        values: dict[str, Any] = {
            "remaining": remaining,
            "attempts": 0,  # counts deaths in a row, and this worker lives
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
        """How long this chunk rests; None when a repository of it can be looked at now."""
        now = time.monotonic()
        rests = [self.resting.get(row.pk, now) - now for row in rows] + [HELD_PAUSE.total_seconds()] * bool(held)
        return timedelta(seconds=min(rests)) if rests and min(rests) > 0 else None

    def _next(self) -> Repository | None:
        """Take the first repository in line that does not rest."""
        now = time.monotonic()
        for row in self.pending:
            if self.resting.get(row.pk, now) <= now:
                self.pending.remove(row)
                return row
        return None

    def _gives_way(self, *, resting: bool) -> bool:
        """Whether another piece goes before this chunk: a smaller sweep's, or any one while all of ours rests."""
        piece = _next_piece(self.running)
        if piece is None or resting:
            return piece is not None
        if isinstance(piece, Sweep) and not piece.names:
            return False
        size = len(piece.names) if isinstance(piece, Sweep) else _size(piece.sweep)
        return size < _size(self.chunk.sweep)

    def _concerns_the_account(self, pk: int) -> bool:
        """Whether a throttled call is due to the account's rate. One of a repository that AWS always throttles is not.

        So it counts only when AWS throttled another repository too, and only the first time.
        """
        now = time.monotonic()
        with self._lock:
            self.refused_at[pk] = now
            others = any(each != pk and at > now - CALM_SECONDS for each, at in self.refused_at.items())
            return others and not self.tries[pk]

    def _one(self, ecr: Ecr, writing: Ecr, target: Target, row: Repository, desired_digest: str) -> bool:
        """Look at one repository and mend it. False when it goes back in line: throttled, not visible yet, no time."""
        try:
            return self._observe_one(ecr, writing, target, row, desired_digest)
        except _OutOfTime:
            return False
        except Exception as error:
            # One repository that trips us up must not keep the others of its chunk from being looked at.
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
        """Put a repository that ECR may not show yet back in line. It counts as no try: this ends with its newness."""
        with self._lock:
            self.resting[row.pk] = time.monotonic() + VISIBLE_PAUSE_SECONDS
        return False

    def _throttled(self, row: Repository, error: RegistryError) -> bool:
        """Put a throttled repository back in line (False), or after its last try record that it failed (True).

        When AWS throttles all that this chunk has tried, that is no repository's fault, and the sweep ends.
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
        """Count tries of a repository, and have it rest; whether it may be tried again. Needs the lock."""
        count = self.tries[row.pk] = self.tries[row.pk] + tries
        self.resting[row.pk] = time.monotonic() + rest_seconds(count)
        self.unsaved = True
        return count < MAX_TRIES_PER_REPOSITORY

    def _fail(self, row: Repository, error: RegistryError) -> None:
        """Record that the repository was not looked at: as a finding and, unless this is a dry run, on its row."""
        sweep = self.chunk.sweep
        if not sweep.dry_run:
            repositories.record_failure(row=row, error=error, cause=sweep.requested_by or sweep.trigger)
        self._tell(row, "failed", str(error))

    def _unanswered(self, row: Repository, error: RegistryError) -> bool:
        """Whether a look that AWS did not answer is worth another try; an AWS that answers nobody ends the work.

        Otherwise a minute without network would mark every repository as failed. So such tries are not kept.
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
                    self.fatal = error  # a person at a terminal is told
                else:
                    Sweep.objects.filter(pk=self.chunk.sweep_id, status=SweepStatus.RUNNING).update(error=str(error))
            return self.silence >= UNANSWERED_IN_A_ROW or again

    def _is_quiet(self, target: Target, row: Repository, observation: Observation, desired_digest: str) -> bool:
        """In sync before and still so, with nothing new to write down."""
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
        """Whether the list showed a mutability that is ours to mend."""
        differences = repositories.detail_differences(row, target.config, repositories.remembered(row))
        return any(difference.fixable for difference in differences)

    def _report(self, target: Target, row: Repository, observation: Observation) -> None:
        """What a sweep that may write would do; nothing is changed, not even our own row."""
        words, kind = [], "in_sync"
        if not observation.exists:
            words, kind = ["The repository is gone from the registry."], "drifted"
        elif isinstance(observation.policy, RegistryError):
            words, kind = [str(observation.policy)], "failed"
        else:
            details = repositories.remembered(row) if observation.details is None else observation.details
            differences = desired.policy_differences(
                target.config.default_repository_policy, observation.policy, partition=target.registry.partition
            )
            if isinstance(details, RegistryError):
                words, kind = [str(details)], "failed"
            else:
                differences += repositories.detail_differences(row, target.config, details)
            words += [each.words for each in differences if each.fixable or each.part is desired.Part.POLICY]
            if words and kind != "failed":
                kind = "drifted"
        self._tell(row, kind, " ".join(words))

    def _settle(self, ecr: Ecr, target: Target, row: Repository, observation: Observation, desired_digest: str) -> bool:
        """Converge one repository under its own lease; False when AWS throttled that, or does not show it yet.

        One that somebody else holds is looked at again later.
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
            self._tell(row, "drifted", "The repository is gone from the registry.", Outcome.MISSING)
        elif settled.status == RepositoryStatus.DRIFTED:
            self._tell(row, "drifted", " ".join(part["words"] for part in settled.differences))
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
    """How long a repository rests after so many tries: not after the first one, then longer each time."""
    return min(2.0 ** (tries - 3), LONGEST_REST_SECONDS) if tries > 1 else 0.0


class _OutOfTime(Exception):
    """The chunk's time is over, or the sweep was stopped, while a call was waiting for its turn."""


def _close_connections(pool: ThreadPoolExecutor) -> None:
    """Close the database connection of every thread of the pool; a barrier gives each thread exactly one turn."""
    threads = len(pool._threads)
    barrier = threading.Barrier(threads) if threads else None

    def close() -> None:
        with contextlib.suppress(threading.BrokenBarrierError):  # a thread that hangs keeps its own
            if barrier is not None:
                barrier.wait(10)
        connections.close_all()

    for future in [pool.submit(close) for _ in range(threads)]:
        future.result()


class _Budget:
    """The registry's calls per second, shared with the other workers through one row and remembered between sweeps."""

    def __init__(self, target: Target, ceiling: int) -> None:
        self._key: dict[str, Any] = {"account": target.registry.account, "region": target.registry.region}
        self._host = target.config.host
        self._ceiling = float(ceiling)
        self._holders = 1
        self._stored = self._load()
        self.pace = Pace(self._stored, ceiling=self._ceiling)
        self.share()

    def share(self) -> None:
        """Take this worker's part of the registry's rate: an equal one for everybody who holds a chunk of it now.

        What another worker has learned since counts; else what this one has, and it is written when it is news.
        """
        mine, stored = min(self.pace.rate * self._holders, self._ceiling), self._load()
        if stored != self._stored:
            self._stored = mine = stored
        elif abs(mine - stored) > 0.05 * stored:
            CallBudget.objects.update_or_create(**self._key, defaults={"rate": mine, "changed_at": Now()})
            self._stored = self._load()
        chunks = SweepChunk.objects.filter(host=self._host, lease_until__gt=Now(), finished_at__isnull=True)
        self._holders = max(1, chunks.exclude(lease_owner="").count())  # one without an owner rests
        self.pace.share(mine / self._holders, self._ceiling / self._holders)

    def _load(self) -> float:
        """The rate that was learned last. It is forgotten by and by: doubled for each quarter of an hour of its age."""
        row: Any = CallBudget.objects.filter(**self._key).annotate(db_now=Now()).first()
        if row is None:
            return self._ceiling
        quarters = int((row.db_now - row.changed_at).total_seconds() // 900)
        return min(float(row.rate * 2 ** min(quarters, 20)), self._ceiling)
