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
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connections
from django.db.models import F, QuerySet
from django.db.models.functions import Now

from deployments import clock
from deployments.aws.ecr import Ecr
from deployments.aws.values import Details, Observation
from deployments.catalogue import THROTTLED, sentence
from deployments.config import Configuration
from deployments.errors import RegistryError, registry_error
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
from deployments.policy import RegistryPolicy
from deployments.reconcile import desired, generation, image_states, registry_policies, repositories, targets
from deployments.reconcile.kept_images import KeptImage
from deployments.reconcile.lease import Lease, free
from deployments.reconcile.pace import Measurement, Pace
from deployments.reconcile.sweep_record import Outcome, end, next_piece, record_findings, record_images, size_of
from deployments.reconcile.targets import Target
from deployments.row_values import ConsumerPull, Management

CHUNK_LEASE = timedelta(seconds=45)  # lease of a chunk or a listing
LEASE_RENEWAL_SECONDS = 10
FIRST_CHECK_SECONDS = 0.2  # until then, workers that began at the same time have taken their chunks
PROGRESS_SECONDS = 2  # results are saved this often, so that the counters of the sweep's page move
#: The counters of a chunk's row. Each repository is counted in one of them.
RESULTS = ("in_sync", "healed", "drifted", "failed", "unmanaged")
#: Pause of a chunk if other processes hold the leases of all repositories that are left.
BUSY_PAUSE = timedelta(seconds=5)
THREADS_PER_CHUNK = 16
VISIBLE_PAUSE_SECONDS = 2.0  # before the next try for a new repository that ECR may not find yet
UNANSWERED_CODES = ("Unreachable", "Timeout")
UNANSWERED_IN_A_ROW = 3 * THREADS_PER_CHUNK  # after so many tries in a row without an answer, the sweep fails
#: Throttled tries of one repository in one sweep, by all workers together; then the repository failed (D-sweep-tries).
MAX_TRIES_PER_REPOSITORY = 8
UNANSWERED_TRIES = 3  # a try without an answer counts as so many tries: it blocks a thread for 13 seconds
LONGEST_REST_SECONDS = 16.0
RESTED_AFTER = timedelta(seconds=5)  # without a call of any worker, AWS's bucket has filled
KEPT_SECONDS = 5.0  # from one chunk of a sweep to the next one in the same process
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
    read_at: datetime | None = None  # when the rows were read, on the database's clock
    read: float = 0.0  # the same; monotonic
    pending: deque[Repository] = field(default_factory=deque)
    under_way: dict[Future[bool], Repository] = field(default_factory=dict)
    unchanged: list[int] = field(default_factory=list)  # ids of repositories that were and are in sync
    unchanged_as_a_whole: list[int] = field(default_factory=list)  # the same, of which every part was read
    busy: list[int] = field(default_factory=list)  # ids of repositories whose lease another process holds
    counts: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    tries: Counter[int] = field(default_factory=Counter)  # repository → tries that AWS throttled or did not answer
    unsaved: bool = False  # whether `tries` has changed since the last save
    resting: dict[int, float] = field(default_factory=dict)  # repository → when it may be tried again; monotonic
    throttled_at: dict[int, float] = field(
        default_factory=dict
    )  # repository → when AWS last throttled a call; monotonic
    throttled_tries: int = 0
    progressed: bool = False  # whether AWS has answered about any repository of this chunk
    unanswered_in_a_row: int = 0  # tries that AWS did not answer
    images: dict[int, list[KeptImage]] = field(default_factory=dict)  # of each repository, the images to look at
    looks: list[image_states.Look] = field(default_factory=list)  # at these images, not recorded yet
    record: Callable[[list[image_states.Look]], None] = lambda looks: None
    registry_policy: RegistryPolicy | None = None  # as the sweep's listing read it; None: not read
    stop_reason: str = ""  # why the run starts no more repositories, in words for the log
    fatal: RegistryError | None = None  # ends the sweep
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def chunk(self) -> SweepChunk:
        """The chunk's row, as read with the lease."""
        return self.lease.row

    def run(self) -> None:
        """Work through the chunk until it is done or there is a reason to stop, and return its lease."""
        wanted = (self.chunk.host, self.chunk.namespace)
        found = {(each.config.host, each.config.namespace): each for each in targets.configured(self.configuration)}
        target = found.get(wanted)
        rows = list(Repository.objects.filter(pk__in=self.chunk.remaining).annotate(db_now=Now()))
        if target is None or not rows:
            self._save([], release=True)  # the registry is not configured any more, or the rows were deleted
            return
        self._begin(rows, target)
        self.registry_policy = registry_policies.seen(account=target.registry.account, region=target.registry.region)
        budget = _Budget(target, self.configuration.calls_per_second, self.chunk.sweep_id)
        with ThreadPoolExecutor(max_workers=THREADS_PER_CHUNK, thread_name_prefix="sweep") as pool:
            try:
                self._work(budget, self._submit_to(pool, target, budget.pace))
            finally:
                _close_connections(pool)
        budget.share()
        budget.keep()
        self._save(list(self.pending), release=True)
        if self.pending:
            log.info("sweep.chunk_left", sweep=self.chunk.sweep_id, chunk=self.chunk.pk, reason=self._over())
        if self.fatal is not None:
            end(self.chunk.sweep_id, SweepStatus.FAILED, str(self.fatal))

    def _begin(self, rows: list[Any], target: Target) -> None:
        self.tries = self._stored_tries()
        # The tries of earlier workers count too: at the lowest rate a single worker sees few.
        self.throttled_tries = self.tries.total()
        self.progressed = self.chunk.size > len(self.chunk.remaining)
        position = {pk: index for index, pk in enumerate(self.chunk.remaining)}
        self.pending.extend(sorted(rows, key=lambda row: position[row.pk]))
        self.read_at, self.read = rows[0].db_now, time.monotonic()
        self.record = functools.partial(image_states.record, config=target.config)
        self.images = image_states.wanted(list(position), config=target.config)
        # Before the work, so that a repository that kills its worker comes last in the next sweep.
        Repository.objects.filter(pk__in=list(position)).update(attempted_at=Now())

    def _submit_to(self, pool: ThreadPoolExecutor, target: Target, pace: Pace) -> Callable[[Repository], Future[bool]]:
        """A function that starts the check of a repository in a thread of the pool."""

        def wait_for_rate() -> None:
            if not pace.wait(lambda: bool(self._over())):
                raise _OutOfTime

        paced = target.ecr(before_call=wait_for_rate, attempts=1)
        # Under a repository's lease, calls do not wait for the rate. Writes are few, so botocore may retry them.
        unpaced = replace(paced, before_call=pace.spend, attempts=3)

        def submit(row: Repository) -> Future[bool]:
            answered = functools.partial(self._answered, pace, row.pk)
            both = replace(paced, answered=answered), replace(unpaced, answered=answered)
            return pool.submit(carried(self._one), *both, target, row, self.configuration.desired_digest)

        return submit

    def _answered(self, pace: Pace, pk: int, operation: str, code: str) -> None:
        """Count a call about a repository and pass its answer to the rate limiter."""
        with self._lock:
            self.calls[operation] += 1
        if code not in THROTTLED:
            pace.accepted()
        elif self._concerns_the_account(pk):
            pace.refused()

    def _work(self, budget: _Budget, submit: Callable[[Repository], Future[bool]]) -> None:
        """Keep all threads busy, check once a second for a reason to stop, and renew the lease until it is returned."""
        next_check = time.monotonic() + FIRST_CHECK_SECONDS
        next_renewal = time.monotonic() + LEASE_RENEWAL_SECONDS
        returned = False
        while self.pending or self.under_way:
            while len(self.under_way) < THREADS_PER_CHUNK and not self._over() and (row := self._next()) is not None:
                self.under_way[submit(row)] = row
            if not self.under_way and self._over():
                return
            self._collect()
            now = time.monotonic()
            if budget.pace.due or now >= next_check:
                budget.share()
            if now >= next_check:
                next_check = now + 1
                self._find_stop_reason()
                saved_at = next_renewal - LEASE_RENEWAL_SECONDS
                if self.unsaved or (self.counts and now - saved_at >= PROGRESS_SECONDS):
                    next_renewal = now  # save now: the sweep's page shows the results, and which repositories wait
            if returned:
                continue
            if self.stopping():
                # Save now, because this process may be killed before AWS has answered the calls that it sent.
                returned = True
                self._save([*self.pending, *self.under_way.values()], release=True)
            elif now >= next_renewal:
                next_renewal = now + LEASE_RENEWAL_SECONDS
                if not self._save([*self.pending, *self.under_way.values()], release=False):
                    self.stop_reason = "another process has its lease"  # results from now on are dropped

    def _collect(self) -> None:
        """Wait up to half a second for finished checks. A repository that must be tried again becomes pending."""
        if not self.under_way:
            time.sleep(0.1)  # all repositories that are left are resting
            return
        done, _ = wait(self.under_way, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in done:
            row = self.under_way.pop(future)
            if not future.result():
                self.pending.append(row)

    def _find_stop_reason(self) -> None:
        if self._gives_way(resting=not self.under_way and self._rest([*self.pending], []) is not None):
            self.stop_reason = "other work comes first"
        if not Sweep.objects.filter(pk=self.chunk.sweep_id, status=SweepStatus.RUNNING).exists():
            self.stop_reason = "the sweep has ended"
        if (generation.newest() or 0) != self.configuration.activation:
            self.stop_reason = "another configuration counts"  # the next worker continues with it

    def _over(self) -> str:
        """Why the run starts no more repositories, in words; empty while there is no reason."""
        if self.fatal is not None:
            return str(self.fatal)
        if time.monotonic() >= self.until:
            return self.stop_reason or "its time is over"
        return self.stop_reason or ("the worker stops" if self.stopping() else "")

    def _save_unchanged(self, read_at: datetime) -> None:
        """Write the time of the check to the repositories that were and are in sync, in one or two statements."""
        with self._lock:
            policies, self.unchanged = self.unchanged, []
            wholes, self.unchanged_as_a_whole = self.unchanged_as_a_whole, []
        looked_at = {"last_checked_at": read_at, "last_in_sync_at": read_at}
        for ids, values in ((policies, looked_at), (wholes, looked_at | {"details_checked_at": read_at})):
            if ids:
                # Only rows without a newer check: a newer result is never overwritten.
                Repository.objects.filter(pk__in=ids, last_checked_at__lt=read_at).update(**values)

    def _save_looks(self) -> None:
        """Write the states of the images that were looked at, and a finding for each repository that lacks one."""
        with self._lock:
            looks, self.looks = self.looks, []
        if looks:
            self.record(looks)
            record_images(self.chunk.sweep, image_states.broken([look.repository for look in looks]))

    def _save(self, rows: list[Repository], *, release: bool) -> bool:
        """Write the progress of the chunk. False if another process has taken its lease; then nothing is written.

        If only busy and throttled repositories are left, the chunk rests before a worker takes it again.
        """
        if self.read_at is not None:
            self._save_unchanged(self.read_at)
        self._save_looks()
        with self._lock:
            counts, self.counts = self.counts, Counter()
            calls, self.calls = self.calls, Counter()
            busy = list(self.busy)
            tries, self.unsaved = dict(self.tries), False
        remaining = [*(row.pk for row in rows), *busy]
        values: dict[str, Any] = {
            "remaining": remaining,
            "attempts": 0,  # counts workers that died in a row; this worker is alive
            "calls": dict(Counter(self.chunk.calls) + calls),
            "throttled": {pk: tries[pk] for pk in remaining if tries.get(pk)} or None,
            **{name: F(name) + counts[name] for name in RESULTS},
        }
        self.chunk.calls = values["calls"]
        if not release:
            return self.lease.renew(values)
        values["finished_at"] = None if remaining else Now()
        return self.lease.finish(values, rest=self._rest(rows, busy))

    def _stored_tries(self) -> Counter[int]:
        return Counter(self.chunk.throttled or {})

    def _rest(self, rows: list[Repository], busy: list[int]) -> timedelta | None:
        """How long this chunk rests; None if one of its repositories can be checked now."""
        now = time.monotonic()
        rests = [self.resting.get(row.pk, now) - now for row in rows] + [BUSY_PAUSE.total_seconds()] * bool(busy)
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
        piece = next_piece(self.running)
        if piece is None or resting:
            return piece is not None
        if isinstance(piece, Sweep) and not piece.names:
            return False
        size = len(piece.names) if isinstance(piece, Sweep) else size_of(piece.sweep)
        return size < size_of(self.chunk.sweep)

    def _concerns_the_account(self, pk: int) -> bool:
        """Whether a throttled call is because of the account's rate, and not because of this one repository.

        So it counts only if AWS has throttled another repository too, and only once for each repository.
        """
        now = time.monotonic()
        with self._lock:
            self.throttled_at[pk] = now
            others = any(each != pk and at > now - CALM_SECONDS for each, at in self.throttled_at.items())
            return others and not self.tries[pk]

    def _one(self, paced: Ecr, unpaced: Ecr, target: Target, row: Repository, desired_digest: str) -> bool:
        """Check one repository and correct drift.

        False if it must be tried again: throttled, not visible yet, no time.
        """
        try:
            return self._check_one(paced, unpaced, target, row, desired_digest)
        except _OutOfTime:
            return False
        except Exception as error:
            # An unexpected error with one repository must not stop the check of the others.
            log.exception("sweep.repository_failed", repository=row.name)
            self._fail(row, registry_error("Unexpected", operation="", name=row.name, reason=type(error).__name__))
            return True

    def _check_one(self, paced: Ecr, unpaced: Ecr, target: Target, row: Repository, desired_digest: str) -> bool:
        unmanaged = row.management == Management.UNMANAGED
        due = not unmanaged and (self._is_asked_for(row) or self._details_due(target, row, desired_digest))
        try:
            observation = paced.observe(row.name, details=due)
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
        self.progressed = True  # AWS answers, even if it throttles the looks at images
        look = None if unmanaged else self._look_at_images(paced, row, observation)
        if look is not None and look.error is not None:
            if look.error.throttled and self._tries_again(row, look.error):
                return False  # after the last try, the images are unknown, and the repository is compared all the same
            if look.error.code in UNANSWERED_CODES and self._unanswered(row, look.error):
                return False
        self.unanswered_in_a_row = 0
        if self.chunk.sweep.dry_run and observation.exists:
            self._ask_for_pulls(paced, row)
        if unmanaged:
            return self._record_unmanaged(target, row, observation)
        done = self._compare(unpaced, target, row, observation, desired_digest)
        # After the finding of the repository, to which those of its images are added.
        return self._keep_look(look) if done and look is not None else done

    def _keep_look(self, look: image_states.Look) -> bool:
        with self._lock:
            self.looks.append(look)
        return True

    def _look_at_images(self, paced: Ecr, row: Repository, observation: Observation) -> image_states.Look | None:
        """The look at the images that must stay; None if there are none."""
        images = self.images.get(row.pk)
        if images is None or self.read_at is None:
            return None
        at = self.read_at + timedelta(seconds=time.monotonic() - self.read)
        if not observation.exists:
            return image_states.without_repository(row.pk, images, at)
        return image_states.look(ecr=paced, repository=row, images=images, at=at)

    def _compare(
        self, unpaced: Ecr, target: Target, row: Repository, observation: Observation, desired_digest: str
    ) -> bool:
        """Compare a repository with the configuration and correct it. False if it must be tried again."""
        if self._is_unchanged(target, row, observation, desired_digest) and not self._preview_due(
            target, row, observation
        ):
            with self._lock:
                (self.unchanged if observation.details is None else self.unchanged_as_a_whole).append(row.pk)
                self.counts["in_sync"] += 1
            return True
        return self._converge(unpaced, target, row, observation, desired_digest)

    def _preview_due(self, target: Target, row: Repository, observation: Observation) -> bool:
        """Whether the live lifecycle policy must be previewed, although nothing has changed."""
        if self.chunk.sweep.dry_run:
            return False
        details = observation.details if isinstance(observation.details, Details) else None
        now: datetime = row.db_now  # type: ignore[attr-defined]
        return repositories.preview_due(row, details, config=target.config, asked=self._is_asked_for(row), now=now)

    def _details_due(self, target: Target, row: Any, desired_digest: str) -> bool:
        return repositories.details_due(row, config=target.config, desired_digest=desired_digest, now=row.db_now)

    def _ask_for_pulls(self, paced: Ecr, row: Repository) -> None:
        """Ask AWS when an image was last pulled. Without an answer, what was read before stays, with its time."""
        try:
            pulled_at = paced.last_pull(row.name)
        except RegistryError as error:
            log.info("sweep.pulls_not_read", repository=row.name, error=str(error))
            return
        Repository.objects.filter(pk=row.pk).update(last_pulled_at=pulled_at, pulls_read_at=Now())

    def _record_unmanaged(self, target: Target, row: Repository, observation: Observation) -> bool:
        """Record what a refresh saw of a repository that nobody has adopted. Its row goes if the repository is gone."""
        if isinstance(observation.policy, RegistryError):
            self._fail(row, observation.policy)
            return True
        if observation.exists:
            kept = repositories.record_unmanaged(
                row=row,
                policy=observation.policy,
                config=target.config,
                partition=target.registry.partition,
            )
        else:
            same = Repository.objects.filter(free(), pk=row.pk, lease_epoch=row.lease_epoch)
            kept = bool(same.filter(status=RepositoryStatus.UNMANAGED).delete()[0])
        if kept:
            with self._lock:
                self.counts["unmanaged"] += 1
        else:
            with self._lock:
                self.busy.append(row.pk)
        return True

    def _is_asked_for(self, row: Repository) -> bool:
        """Whether a person asked for this look: then every part is read, once in the sweep."""
        sweep, read_at = self.chunk.sweep, row.details_checked_at
        return sweep.reads_everything and (read_at is None or read_at < sweep.started_at)

    def _wait_until_visible(self, row: Repository) -> bool:
        """Let a new repository that ECR may not find yet be tried again.

        It does not count as a try, because it ends soon.
        """
        with self._lock:
            self.resting[row.pk] = time.monotonic() + VISIBLE_PAUSE_SECONDS
        return False

    def _throttled(self, row: Repository, error: RegistryError) -> bool:
        """Let a throttled repository be tried again (False), or record after the last try that it failed (True)."""
        if self._tries_again(row, error):
            return False
        self._fail(
            row, registry_error("Throttled", operation=error.operation, name=row.name, tries=MAX_TRIES_PER_REPOSITORY)
        )
        return True

    def _tries_again(self, row: Repository, error: RegistryError) -> bool:
        """Count a throttled try. False after the last one.

        If AWS throttles every repository that this chunk has tried, the cause is the account, and the sweep fails.
        """
        with self._lock:
            self.throttled_tries += 1
            again = self._count(row, 1)
            if self.throttled_tries >= UNANSWERED_IN_A_ROW and not self.progressed:
                self.fatal = registry_error("SweepThrottled", operation=error.operation, tries=UNANSWERED_IN_A_ROW)
        return again or self.fatal is not None

    def _count(self, row: Repository, tries: int) -> bool:
        """Count tries of a repository and let it rest.

        False if it may not be tried again. The caller holds the lock.
        """
        count = self.tries[row.pk] = self.tries[row.pk] + tries
        self.resting[row.pk] = time.monotonic() + rest_seconds(count)
        self.unsaved = True
        return count < MAX_TRIES_PER_REPOSITORY

    def _fail(self, row: Repository, error: RegistryError) -> None:
        """Record that the repository could not be checked: as a finding and on its row."""
        sweep = self.chunk.sweep
        repositories.record_failure(row=row, error=error, cause=sweep.requested_by or sweep.trigger)
        self._record_result(row, "failed", str(error))

    def _unanswered(self, row: Repository, error: RegistryError) -> bool:
        """Whether a check that AWS did not answer may be tried again. If AWS answers no call at all, the run ends.

        Otherwise a minute without network would mark every repository as failed. Such tries are not stored.
        """
        with self._lock:
            self.unanswered_in_a_row += 1
            again = self._count(row, UNANSWERED_TRIES)
            if self.unanswered_in_a_row >= UNANSWERED_IN_A_ROW:
                self.stop_reason = str(error)
                self.tries = self._stored_tries()
                if self.chunk.sweep.trigger == SweepTrigger.COMMAND:
                    self.fatal = error  # the reconcile command prints it
                else:
                    Sweep.objects.filter(pk=self.chunk.sweep_id, status=SweepStatus.RUNNING).update(error=str(error))
            return self.unanswered_in_a_row >= UNANSWERED_IN_A_ROW or again

    def _is_unchanged(self, target: Target, row: Repository, observation: Observation, desired_digest: str) -> bool:
        """Whether the repository was and is in sync, so that only the time of the check is written.

        The policies are compared although their texts are the same as before: an older version of this program may have
        compared them in another way.
        """
        return (
            observation.exists
            and not isinstance(observation.details, RegistryError)
            and (observation.details is None or repositories.is_remembered(row, observation.details))
            and not isinstance(observation.policy, RegistryError)
            and row.status == RepositoryStatus.IN_SYNC
            and row.incomparable_since is None
            and row.checked_digest == desired_digest
            and (observation.policy or "") == row.policy_text
            and row.consumers == self._pullers(target, row, observation.policy or "")
            and not self._writable(target, row)
            and not repositories.policy_differences(
                row, observation.policy, target.config, partition=target.registry.partition
            )
        )

    def _pullers(self, target: Target, row: Repository, text: str) -> dict[str, ConsumerPull]:
        """Who can pull by this policy and the registry policy, of which the second may be new."""
        return desired.pullers(
            text,
            self.registry_policy,
            target.config.consumer_accounts,
            arn=target.registry.repository_arn(row.name),
            partition=target.registry.partition,
        )

    def _writable(self, target: Target, row: Repository) -> bool:
        """Whether the row has a tag mutability, from the listing, that we may correct."""
        differences = repositories.detail_differences(row, target.config, repositories.remembered(row))
        return any(difference.fixable for difference in differences)

    def _converge(
        self, unpaced: Ecr, target: Target, row: Repository, observation: Observation, desired_digest: str
    ) -> bool:
        """Converge one repository under its own lease. False if AWS throttled it, or does not show it yet.

        A refresh writes nothing to AWS and records the rest. A repository whose lease another process holds is tried
        again later.
        """
        result = repositories.reconcile(
            row=row,
            ecr=unpaced,
            config=target.config,
            desired_digest=desired_digest,
            cause=self.chunk.sweep.requested_by or self.chunk.sweep.trigger,
            enforce=self.configuration.enforce,
            activation=self.configuration.activation,
            details=self._is_asked_for(row),
            writes=not self.chunk.sweep.dry_run,
            observation=observation,
            previews=not self.chunk.sweep.dry_run,
        )
        if result is None:
            with self._lock:
                self.busy.append(row.pk)
            return True
        converged = result.repository
        if result.error is not None:
            if result.error.throttled:
                return self._throttled(row, result.error)
            if result.error.code == repositories.NOT_VISIBLE:
                return self._wait_until_visible(row)
            if result.error.installation:
                self.fatal = result.error
            self._record_result(row, "failed", str(result.error))
        elif converged.status == RepositoryStatus.MISSING:
            self._record_result(row, "drifted", sentence("missing", name="The repository"), Outcome.MISSING)
        elif converged.status == RepositoryStatus.DRIFTED:
            self._record_result(row, "drifted", desired.verdict(converged.differences).words)
        elif not self.chunk.sweep.dry_run and (
            result.written or result.before not in (RepositoryStatus.IN_SYNC, RepositoryStatus.PENDING)
        ):
            self._record_result(row, "healed", " ".join(result.written))
        else:
            self._record_result(row, "in_sync", "")
        return True

    def _record_result(self, row: Repository, kind: str, words: str, outcome: Outcome | None = None) -> None:
        with self._lock:
            self.counts[kind] += 1
        if kind != "in_sync":
            record_findings(self.chunk.sweep, [row], outcome or Outcome(kind), words)


def rest_seconds(tries: int) -> float:
    """How long a repository rests after so many tries: 0 after the first try, then longer each time."""
    return min(2.0 ** (tries - 3), LONGEST_REST_SECONDS) if tries > 1 else 0.0


class _OutOfTime(Exception):
    """The chunk's time is over, or the sweep was stopped, while a call was waiting for the rate."""


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
    """This worker's part of the registry's calls per second.

    What the workers measure together is kept in a row, from which the next sweep and a worker that joins begin.
    """

    def __init__(self, target: Target, ceiling: int, sweep_id: int = 0) -> None:
        self._about: dict[str, Any] = {"account": target.registry.account, "region": target.registry.region}
        self._host, self._ceiling = target.config.host, float(ceiling)
        self._key = (*self._about.values(), sweep_id)
        kept = _take_kept(self._key)
        if kept is None:
            row = _row(self._about)
            epoch = clock.now().timestamp() - time.monotonic()
            stored = _measurement(row, epoch) if row is not None else None
            rate, workers = _learned(row, self._ceiling), self._workers()
            rested = row is not None and (workers == 1 or row.db_now - row.changed_at > RESTED_AFTER)
            pace = Pace(rate, ceiling=self._ceiling, workers=workers, stored=stored, rested=rested, alone=False)
            kept = pace, epoch
        self.pace, self._epoch = kept

    def share(self) -> None:
        """Exchange with the other workers what AWS has accepted and refused, and take an equal part of the rate."""
        row = _row(self._about)
        merged = self.pace.merged(_measurement(row, self._epoch) if row is not None else None)
        if merged is None or self._store(row, merged):
            self.pace.keep(merged, workers=self._workers())
        # Otherwise another worker was faster, and the next call of `share` adds to what it has stored.

    def _store(self, row: Any, merged: Measurement) -> bool:
        """Write the measurement, unless another worker has changed the row since. Whether it was written."""
        values: dict[str, Any] = {
            "rate": merged.rate,
            "measured_at": datetime.fromtimestamp(merged.at + self._epoch, UTC),
            "seconds": merged.seconds,
            "accepted": merged.accepted,
            "empty": merged.empty,
            "changed_at": Now(),
        }
        if row is None:
            return CallBudget.objects.get_or_create(**self._about, defaults=values)[1]
        seen = {"rate": row.rate, "accepted": row.accepted, "measured_at": row.measured_at}
        return bool(CallBudget.objects.filter(pk=row.pk, **seen).update(**values))

    def keep(self) -> None:
        """Keep the rate limiter for the next chunk of the sweep in this process: it knows what AWS accepts now."""
        _kept[self._key] = (self.pace, self._epoch, time.monotonic())

    def _workers(self) -> int:
        """The workers with a chunk of this registry, of which this is one."""
        chunks = SweepChunk.objects.filter(host=self._host, lease_until__gt=Now(), finished_at__isnull=True)
        return max(1, chunks.exclude(lease_owner="").count())  # a chunk without an owner is resting


def learned_rate(target: Target, ceiling: float) -> float:
    """The calls per second that AWS accepts of the registry's sweeps; the ceiling if it has never throttled them."""
    return _learned(_row({"account": target.registry.account, "region": target.registry.region}), ceiling)


def _row(about: dict[str, Any]) -> Any:
    return CallBudget.objects.filter(**about).annotate(db_now=Now()).first()


def _measurement(row: Any, epoch: float) -> Measurement:
    """The row's measurement. Its time is one of this process: `epoch` lies between it and the database's."""
    at = (row.measured_at or row.changed_at).timestamp() - epoch
    return Measurement(row.rate, at, row.seconds, row.accepted, row.empty)


def _learned(row: Any, ceiling: float) -> float:
    """The rate when calls were last made; it doubles for every 15 minutes since then."""
    if row is None:
        return ceiling
    rate = _measurement(row, 0.0).rate_at(row.changed_at.timestamp())
    quarters = int((row.db_now - row.changed_at).total_seconds() // 900)
    return min(float(rate * 2 ** min(quarters, 20)), ceiling)


#: By registry and sweep: the rate limiter of a chunk that this process has left, the difference between its clock and
#: the database's, and when it left it; monotonic.
_kept: dict[tuple[Any, ...], tuple[Pace, float, float]] = {}


def _take_kept(key: tuple[Any, ...]) -> tuple[Pace, float] | None:
    """The rate limiter that was kept a short time ago, for one thread only; None if there is none."""
    kept = _kept.pop(key, None)
    _kept.clear()  # of sweeps that have ended
    return kept[:2] if kept is not None and time.monotonic() - kept[2] < KEPT_SECONDS else None
