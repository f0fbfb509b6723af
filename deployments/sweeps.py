"""One pass over all repositories: list the registry, split the work into chunks, look, heal, count.

The queue is only a doorbell: everything that a sweep still has to do stands in the `Sweep` and `SweepChunk` rows, and
whoever calls `work` (a queued task, the reconcile command) takes the next piece of it under a lease. A worker that is
killed in the middle leaves a lease that runs out; the next one goes on where the row says. Two sweeps at once do no
harm, because a repository is written to only under its own lease.

Reading takes no lease of a repository: at rest a chunk of 250 costs four UPDATEs, whatever is in it. Calls are paced
by a rate that all workers share; in a sweep botocore tries once, and a throttled repository goes back in line. It
has TRIES of them in one sweep, with pauses that grow; then it has failed, and the sweep ends without it.

Small sweeps go first: a worker leaves a chunk of a larger one within a second, and also one of which all repositories
rest, when another piece waits.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, connections, transaction
from django.db.models import Case, Exists, F, Max, Min, OuterRef, Q, QuerySet, Subquery, Sum, When
from django.db.models.functions import Now

from deployments import clock, desired, provisioning
from deployments.catalogue import registry_error
from deployments.config import Configuration, RegistryConfig
from deployments.desired import Listed
from deployments.ecr import Access, Ecr, Look, RegistryError, is_throttling, registry_of
from deployments.images import EcrRegistry
from deployments.models import (
    CallBudget,
    EventKind,
    Project,
    Repository,
    RepositoryEvent,
    RepositoryStatus,
    Sweep,
    SweepChunk,
    SweepFinding,
    SweepStatus,
    SweepTrigger,
)
from deployments.pace import Pace
from deployments.reconcile import generation, lease

CHUNK = 250  # repositories: half a minute at 20 calls a second on two workers, and four UPDATEs at rest
THREADS = 16
LEASE = timedelta(seconds=45)  # of a chunk or a listing: how long a dead worker's work waits
RENEW_SECONDS = 10
HELD_PAUSE = timedelta(seconds=5)
VISIBLE_PAUSE_SECONDS = 2.0  # before ECR is asked again for a repository that it may not show yet
UNANSWERED = ("Unreachable", "Timeout")
SILENCE = 3 * THREADS  # looks in a row without an answer after which AWS counts as away
TRIES = 8  # throttled looks at one repository in one sweep, over all workers; then it has failed (D-sweep-tries)
UNANSWERED_TRIES = 3  # what a look without an answer counts: it holds a thread for 13 seconds
LONGEST_REST = 16.0  # seconds
CALM_SECONDS = 10.0  # a refusal of another repository that is older says nothing about the account's rate
KEPT, KEPT_UNEVENTFUL = timedelta(days=30), timedelta(days=2)  # an ended sweep, and a scheduled one that found nothing
DEATHS = 5  # workers that may die over one chunk before it is halved
Outcome = SweepFinding.Outcome
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a sweep is, in repositories."""

    total: int
    done: int
    in_sync: int
    healed: int
    drifted: int
    failed: int
    missing: int
    discovered: int
    calls: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A configured registry that is ECR."""

    config: RegistryConfig
    registry: EcrRegistry

    def holds(self, name: str) -> bool:
        return name.startswith(f"{self.config.namespace}/")


def targets(configuration: Configuration) -> list[Target]:
    """The ECR registries of the configuration, each host and namespace once."""
    found: dict[tuple[str, str], Target] = {}
    for config in configuration.require().registries:
        registry = registry_of(config.host)
        if registry is not None:
            found.setdefault((config.host, config.namespace), Target(config=config, registry=registry))
    return list(found.values())


# ---------------------------------------------------------------------------------------------- start, stop, progress


def start(
    *,
    trigger: SweepTrigger,
    requested_by: str = "",
    names: Iterable[str] = (),
    dry_run: bool = False,
    adopt: bool = False,
) -> Sweep | None:
    """Write down that a sweep is wanted. None when the schedule's last one is still going on."""
    try:
        with transaction.atomic():
            return Sweep.objects.create(
                trigger=trigger,
                requested_by=requested_by,
                names=list(names),
                dry_run=dry_run,
                adopt=adopt,
                started_at=clock.now(),  # decides which repositories the registry's list should have
            )
    except IntegrityError:
        return None


def stop(*, sweep: Sweep) -> bool:
    """Ask a sweep to end. Workers notice within a second and finish what is on the wire; False when it has ended."""
    return _end(sweep.pk, SweepStatus.STOPPED)


def _end(sweep_id: int, status: SweepStatus, error: str = "") -> bool:
    ended = Sweep.objects.filter(pk=sweep_id, status=SweepStatus.RUNNING).update(
        status=status, error=error, finished_at=Now()
    )
    return bool(ended)


def progress(sweep: Sweep) -> Progress:
    """The sums over the sweep's chunks; any number of readers may ask at any time."""
    names = ("size", "in_sync", "healed", "drifted", "failed")
    sums = sweep.chunks.aggregate(**{name: Sum(name, default=0) for name in names})
    calls = Counter(sweep.calls)
    for counted in sweep.chunks.values_list("calls", flat=True):
        calls.update(counted)
    done = sums["in_sync"] + sums["healed"] + sums["drifted"] + sums["failed"]
    return Progress(
        total=sums.pop("size"),
        done=done,
        missing=sweep.missing,
        discovered=sweep.discovered,
        calls=dict(sorted(calls.items())),
        **sums,
    )


def throttled_repositories(sweep: Sweep) -> list[tuple[str, int]]:
    """Repositories that are left because AWS throttles them or does not answer: their names and numbers of tries."""
    tries: dict[int, int] = {}
    for chunk in sweep.chunks.filter(finished_at__isnull=True, throttled__isnull=False):
        counted = chunk.throttled or {}
        tries |= {pk: counted[str(pk)] for pk in chunk.remaining if str(pk) in counted}
    names = Repository.objects.filter(pk__in=tries).values_list("pk", "name").order_by("name")
    return [(name, tries[pk]) for pk, name in names]


def open_work(sweep_id: int | None = None) -> int:
    """How many pieces of work (listings and chunks) nobody holds: what a doorbell may be rung for."""
    running = Sweep.objects.filter(status=SweepStatus.RUNNING, **({"pk": sweep_id} if sweep_id else {}))
    listings = running.filter(lease.free(), listed_at__isnull=True).count()
    return listings + SweepChunk.objects.filter(lease.free(), sweep__in=running, finished_at__isnull=True).count()


# --------------------------------------------------------------------------------------------------------------- work


def work(
    *,
    configuration: Configuration,
    seconds: float,
    sweep_id: int | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> bool:
    """Take pieces of running sweeps until the time is over or nothing is left. True when something may be left.

    Ends soon once `stopping`: what AWS was asked is waited for, and the rest is given back.

    `configuration` is the process's own; what is acted on is the one that counts. A process that cannot use that one
    takes no work, and the running sweeps say why.
    """
    until, own = time.monotonic() + seconds, configuration
    while time.monotonic() < until and not stopping():
        try:
            configuration = generation.in_force(own)
        except RegistryError as refused:
            # Only sweeps that no other process works on: one that does has a use for the configuration.
            working = SweepChunk.objects.filter(sweep=OuterRef("pk"), lease_until__gt=Now())
            resting = Sweep.objects.filter(~Exists(working), status=SweepStatus.RUNNING).exclude(error=str(refused))
            resting.update(error=str(refused))
            return False
        running = Sweep.objects.filter(status=SweepStatus.RUNNING, **({"pk": sweep_id} if sweep_id else {}))
        _close_finished(running)  # before the next piece: it may be another sweep's, and take long
        chunk = _next_piece(running)
        if isinstance(chunk, Sweep):
            claimed = _claim(Sweep.objects.filter(pk=chunk.pk))
            if claimed is not None:
                _list(chunk, claimed, configuration, stopping)
            continue
        if chunk is None:
            return False
        epoch = _claim(SweepChunk.objects.filter(pk=chunk.pk, finished_at__isnull=True), attempts=F("attempts") + 1)
        if epoch is not None:
            chunk.refresh_from_db()
            if chunk.attempts >= DEATHS:
                _isolate(chunk, epoch)
                continue
            _Worker(
                chunk=chunk, epoch=epoch, configuration=configuration, until=until, running=running, stopping=stopping
            ).run()
    return True


def _next_piece(running: QuerySet[Sweep]) -> Sweep | SweepChunk | None:
    """The piece to take next: a sweep that has to be listed, or a chunk. The smallest sweep's first.

    So a repository that somebody asked for waits for no sweep over all of them. A listing of named repositories asks
    AWS nothing; one of the whole registry may take long, so chunks of named repositories go before it.
    """
    everything = Case(When(names=[], then=1), default=0)
    listing = running.filter(lease.free(), listed_at__isnull=True).order_by(everything, "pk").first()
    if listing is not None and listing.names:
        return listing
    total = SweepChunk.objects.filter(sweep=OuterRef("sweep")).order_by().values("sweep").annotate(of=Sum("size"))
    chunk = (
        SweepChunk.objects.filter(lease.free(), sweep__in=running, finished_at__isnull=True)
        .annotate(total=Subquery(total.values("of")))
        .select_related("sweep")
        .order_by("total", "sweep_id", "position")
        .first()
    )
    return listing if listing is not None and (chunk is None or not chunk.sweep.names) else chunk


def _claim(rows: QuerySet[Any], **values: Any) -> int | None:
    """Take the lease of one row by a conditional UPDATE; its epoch, or None when somebody was faster."""
    mine = lease.claim(rows, LEASE, **values)
    epoch = None if mine is None else mine.values_list("lease_epoch", flat=True).first()
    return None if epoch is None else int(epoch)


def _isolate(chunk: SweepChunk, epoch: int) -> None:
    """Halve a chunk whose workers keep dying, until the repository that does it stands alone and is named."""
    half = len(chunk.remaining) // 2
    with transaction.atomic():
        mine = SweepChunk.objects.filter(pk=chunk.pk, lease_epoch=epoch)
        if half:
            released = mine.update(
                remaining=chunk.remaining[:half],
                size=F("size") - (len(chunk.remaining) - half),
                attempts=0,
                **lease.RETURNED,
            )
            if released:
                last = SweepChunk.objects.filter(sweep=chunk.sweep).aggregate(at=Max("position"))["at"]
                rest = chunk.remaining[half:]
                SweepChunk.objects.create(
                    sweep=chunk.sweep,
                    position=last + 1,
                    host=chunk.host,
                    namespace=chunk.namespace,
                    size=len(rest),
                    remaining=rest,
                    throttled=chunk.throttled,
                )
            return
        failed = F("failed") + len(chunk.remaining)
        if not mine.update(remaining=[], finished_at=Now(), failed=failed, **lease.RETURNED):
            return
        words = f"{DEATHS} workers in a row died while they looked at this repository. See the workers' logs."
        _found(chunk.sweep, Repository.objects.filter(pk__in=chunk.remaining), Outcome.FAILED, words)


def _close_finished(running: QuerySet[Sweep]) -> None:
    """End every sweep that has no open chunk, with one conditional UPDATE, so that each is closed once."""
    for sweep in running.filter(listed_at__isnull=False):
        if not sweep.chunks.filter(finished_at__isnull=True).exists():
            _end(sweep.pk, SweepStatus.DONE)


def close_finished() -> None:
    """End the sweeps whose last chunk was finished by a worker that did not live to say so."""
    _close_finished(Sweep.objects.filter(status=SweepStatus.RUNNING))


# ------------------------------------------------------------------------------------------------------------ listing


def _list(sweep: Sweep, epoch: int, configuration: Configuration, stopping: Callable[[], bool] = lambda: False) -> None:
    """Compare the registry's list with our rows, and cut the work into chunks, stalest first."""
    listed: dict[str, Any] = {"calls": Counter(), "missing": 0, "discovered": 0}
    found_targets = targets(configuration)

    def still_ours() -> bool:
        """Renew the lease: a registry of many pages takes longer than one."""
        running = Sweep.objects.filter(pk=sweep.pk, lease_epoch=epoch, status=SweepStatus.RUNNING)
        if stopping():
            running.update(lease_owner="", lease_until=None)
            return False
        return bool(running.update(lease_until=Now() + LEASE))

    try:
        if not sweep.names:
            for target in found_targets:
                if not _compare_list(sweep, target, listed, still_ours):
                    return
    except RegistryError as error:
        # A person at a terminal is told; the schedule tries again.
        if error.heals and not error.installation and sweep.trigger != SweepTrigger.COMMAND:
            # Back in line: the lease runs out soon, and the next worker lists again. Nothing is left half done.
            rests = {**lease.RETURNED, "lease_until": Now() + timedelta(seconds=5)}
            Sweep.objects.filter(pk=sweep.pk, lease_epoch=epoch).update(error=str(error), **rests)
        else:
            _end(sweep.pk, SweepStatus.FAILED, str(error))
        return
    with transaction.atomic():
        current = Sweep.objects.filter(pk=sweep.pk, lease_epoch=epoch, listed_at__isnull=True)
        if not current.update(
            listed_at=Now(),
            error="",
            calls=dict(listed["calls"]),
            missing=listed["missing"],
            discovered=listed["discovered"],
            **lease.RETURNED,
        ):
            return  # somebody else listed it meanwhile
        position = 0
        for target in found_targets:
            rows = _rows(sweep, target).order_by(F("attempted_at").asc(nulls_first=True), "pk")
            ids: list[int] = []
            for pk in rows.values_list("pk", flat=True).iterator(chunk_size=5000):
                ids.append(pk)
                if len(ids) == CHUNK:
                    position = _cut(sweep, target, position, ids)
                    ids = []
            if ids:
                position = _cut(sweep, target, position, ids)


def _rows(sweep: Sweep, target: Target) -> QuerySet[Repository]:
    rows = Repository.objects.filter(
        account=target.registry.account,
        region=target.registry.region,
        name__startswith=f"{target.config.namespace}/",
    ).exclude(status=RepositoryStatus.UNMANAGED)
    if sweep.names:
        return rows.filter(Q(status=RepositoryStatus.MISSING) | ~Q(origin=""), name__in=sweep.names)
    # A row whose repository was never seen is a deploy's that has not come to its end; only a deploy creates.
    return rows.exclude(status=RepositoryStatus.MISSING).exclude(origin="")


def _cut(sweep: Sweep, target: Target, position: int, ids: list[int]) -> int:
    SweepChunk.objects.create(
        sweep=sweep,
        position=position,
        host=target.config.host,
        namespace=target.config.namespace,
        size=len(ids),
        remaining=list(ids),
    )
    return position + 1


def _compare_list(sweep: Sweep, target: Target, listed: dict[str, Any], still_ours: Callable[[], bool]) -> bool:
    """Page through the registry: note what changed, what is new under our namespace, and what is gone.

    False when somebody else has taken the listing over, or the sweep was stopped.
    """
    ecr = reach(target, answered=lambda operation, code: listed["calls"].update([operation]))
    seen: set[int] = set()
    rows = Repository.objects.filter(account=target.registry.account, region=target.registry.region)
    for page in ecr.pages():
        if not still_ours():
            return False
        ours = {entry.name: entry for entry in page if target.holds(entry.name)}
        known = _by_name(rows, ours)
        seen.update(row.pk for row in known.values())
        fresh = [entry for name, entry in ours.items() if name not in known]
        listed["discovered"] += len(fresh)
        if sweep.dry_run:
            continue
        _note_changes(known, ours)
        created = _discover(sweep, target, fresh)
        seen.update(row.pk for row in created)
        if sweep.adopt:
            unmanaged = [row for row in known.values() if row.status == RepositoryStatus.UNMANAGED]
            _adopt(sweep, [*created, *unmanaged])
    # Gone: what we had seen before and the registry does not list. Never what a deploy is making right now.
    expected = (
        rows.filter(name__startswith=f"{target.config.namespace}/")
        .filter(Q(last_checked_at__lt=sweep.started_at) | Q(status=RepositoryStatus.UNMANAGED))
        .exclude(status=RepositoryStatus.MISSING)
        .exclude(provisioning.may_be_invisible(sweep.started_at))
        .filter(lease.free())
    )
    gone = [pk for pk in expected.values_list("pk", flat=True).iterator(chunk_size=5000) if pk not in seen]
    listed["missing"] += len(gone)
    if not sweep.dry_run:
        _note_missing(sweep, gone)
    return True


def _by_name(rows: QuerySet[Repository], names: Iterable[str]) -> dict[str, Repository]:
    return {row.name: row for row in rows.filter(name__in=list(names))}


def _note_changes(known: dict[str, Repository], listed: dict[str, Listed]) -> None:
    """Mutability, encryption and existence as the list shows them; written only where a row says otherwise.

    Each by a compare-and-set on the epoch that was read: a deploy's result of the meantime is newer than the list.
    """
    for name, row in known.items():
        entry = listed[name]
        seen: dict[str, Any] = {
            "mutability": {"mode": entry.mutability, "exclusions": list(entry.exclusions)},
            "encryption": {"type": entry.encryption, "kms_key": entry.kms_key},
        }
        if row.status == RepositoryStatus.MISSING:  # it is back, and not by us: only a deploy creates
            seen |= {"status": RepositoryStatus.PENDING, "origin": "adopted", "details_checked_at": None}
        elif not row.origin or (row.mutability, row.encryption) == (seen["mutability"], seen["encryption"]):
            continue
        Repository.objects.filter(lease.free(), pk=row.pk, lease_epoch=row.lease_epoch).update(**seen)


def _discover(sweep: Sweep, target: Target, entries: list[Listed]) -> list[Repository]:
    """Rows for repositories under our namespace that we did not know; they wait for an operator to adopt them."""
    if not entries:
        return []
    prefix = len(target.config.namespace) + 1
    projects = {
        project.ref: project for project in Project.objects.filter(ref__in=[entry.name[prefix:] for entry in entries])
    }
    Repository.objects.bulk_create(
        [
            Repository(
                account=target.registry.account,
                region=target.registry.region,
                name=entry.name,
                host=target.config.host,
                project=projects.get(entry.name[prefix:]),
                status=RepositoryStatus.UNMANAGED,
                mutability={"mode": entry.mutability, "exclusions": list(entry.exclusions)},
                encryption={"type": entry.encryption, "kms_key": entry.kms_key},
            )
            for entry in entries
        ],
        ignore_conflicts=True,  # a deploy may be making the same row right now
    )
    rows = Repository.objects.filter(
        account=target.registry.account,
        region=target.registry.region,
        name__in=[entry.name for entry in entries],
        status=RepositoryStatus.UNMANAGED,
    )
    created = list(rows)
    _found(sweep, created, Outcome.DISCOVERED, "Under the namespace, and made by somebody else.")
    return created


def _adopt(sweep: Sweep, rows: list[Repository]) -> None:
    adopt(repositories=rows, cause=sweep.requested_by or sweep.trigger)
    _found(sweep, rows, Outcome.ADOPTED, "Adopted: from now on it is kept as configured.")


def adopt(*, repositories: Iterable[Repository], cause: str) -> int:
    """Take discovered repositories under management. Their next look brings them what they lack. Returns how many."""
    count = 0
    for row in repositories:
        with transaction.atomic():
            adopted = Repository.objects.filter(pk=row.pk, status=RepositoryStatus.UNMANAGED).update(
                status=RepositoryStatus.PENDING, origin="adopted", details_checked_at=None
            )
            if adopted:
                RepositoryEvent.objects.create(
                    repository_id=row.pk, kind=EventKind.ADOPTED, message="Adopted by an operator.", cause=cause
                )
        count += adopted
    return count


def _note_missing(sweep: Sweep, gone: list[int]) -> None:
    message = "The repository is gone from the registry. The next deploy makes it again."
    for start_at in range(0, len(gone), 500):
        ids = gone[start_at : start_at + 500]
        rows = []
        with transaction.atomic():
            Repository.objects.filter(pk__in=ids, status=RepositoryStatus.UNMANAGED).delete()
            for row in Repository.objects.filter(pk__in=ids):
                # Only while it is as it was before the list: a deploy may have made it again meanwhile.
                unchanged = Repository.objects.filter(
                    lease.free(), pk=row.pk, lease_epoch=row.lease_epoch, last_checked_at__lt=sweep.started_at
                )
                if unchanged.update(status=RepositoryStatus.MISSING, last_checked_at=Now(), **provisioning.GONE):
                    rows.append(row)
            RepositoryEvent.objects.bulk_create(
                provisioning.gone_event(
                    row, "The next deploy makes it again.", cause=sweep.requested_by or sweep.trigger
                )
                for row in rows
            )
        _found(sweep, rows, Outcome.MISSING, message)


def _found(sweep: Sweep, rows: Iterable[Repository], outcome: Outcome, words: str) -> None:
    SweepFinding.objects.bulk_create(
        [SweepFinding(sweep=sweep, repository=row, outcome=outcome, words=words) for row in rows],
        update_conflicts=True,
        unique_fields=["sweep", "repository"],
        update_fields=["outcome", "words", "at"],
    )


def reach(target: Target, **hooks: Any) -> Ecr:
    """The door to a target's registry."""
    access = Access(role_arn=target.config.assume_role_arn, external_id=target.config.assume_role_external_id)
    return Ecr(registry=target.registry, access=access, **hooks)


# ------------------------------------------------------------------------------------------------------------ a chunk


@dataclass(slots=True, kw_only=True)
class _Worker:
    """Works through one chunk under its lease."""

    chunk: SweepChunk
    epoch: int
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

    def run(self) -> None:
        sweep, digest = self.chunk.sweep, self.configuration.desired_digest
        wanted = (self.chunk.host, self.chunk.namespace)
        found = {(each.config.host, each.config.namespace): each for each in targets(self.configuration)}
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

        ecr = reach(target, before_call=turn, attempts=1)
        # Under a repository's lease nobody waits for a turn. Writes are few and matter, so botocore may try again.
        writing = replace(ecr, before_call=budget.pace.spend, attempts=3)
        with ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="sweep") as pool:
            try:
                going: dict[Future[bool], Repository] = {}
                next_check = time.monotonic() + 1
                next_renewal = time.monotonic() + RENEW_SECONDS
                given_back = False
                while self.pending or going:
                    while len(going) < THREADS and not self._over() and (row := self._next()) is not None:
                        hear = functools.partial(answered, row.pk)
                        doors = replace(ecr, answered=hear), replace(writing, answered=hear)
                        going[pool.submit(self._one, *doors, target, row, digest)] = row
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
                        next_renewal = now + RENEW_SECONDS
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

    def _chunk(self) -> QuerySet[SweepChunk]:
        return SweepChunk.objects.filter(pk=self.chunk.pk, lease_epoch=self.epoch)

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
        if release:
            values |= lease.RETURNED | {"finished_at": None if remaining else Now()}
            if (rest := self._rest(rows, held)) is not None:
                values["lease_until"] = Now() + rest
        else:
            values["lease_until"] = Now() + LEASE
        return bool(self._chunk().update(**values))

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

    def _one(self, ecr: Ecr, writing: Ecr, target: Target, row: Repository, digest: str) -> bool:
        """Look at one repository and mend it. False when it goes back in line: throttled, not visible yet, no time."""
        try:
            return self._look_at(ecr, writing, target, row, digest)
        except _OutOfTime:
            return False
        except Exception as error:
            # One repository that trips us up must not keep the others of its chunk from being looked at.
            log.exception("sweeps.failed repository=%s", row.name)
            self._fail(row, registry_error("Unexpected", operation="", name=row.name, reason=type(error).__name__))
            return True

    def _look_at(self, ecr: Ecr, writing: Ecr, target: Target, row: Repository, digest: str) -> bool:
        due = provisioning.details_due(row, digest=digest, now=row.db_now)  # type: ignore[attr-defined]
        try:
            look = ecr.look(row.name, details=due)
        except RegistryError as error:
            if error.throttled:
                return self._throttled(row, error)
            self.fatal = error
            return True
        for part in (look.policy, look.details):
            if isinstance(part, RegistryError) and part.throttled:
                return self._throttled(row, part)
            if isinstance(part, RegistryError) and part.code in UNANSWERED and self._unanswered(row, part):
                return False
        self.silence, self.progressed = 0, True
        if self._is_quiet(target, row, look, digest):
            with self._lock:
                self.quiet.append(row.pk)
                self.counts["in_sync"] += 1
            return True
        if not look.exists and Repository.objects.filter(provisioning.may_be_invisible(), pk=row.pk).exists():
            return self._wait_until_visible(row)
        if self.chunk.sweep.dry_run:
            self._report(target, row, look)
            return True
        return self._settle(writing, target, row, look, digest)

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
            if self.refusals >= SILENCE and not self.progressed:
                self.fatal = registry_error("SweepThrottled", operation=error.operation, tries=SILENCE)
        if again or self.fatal is not None:
            return False
        self._fail(row, registry_error("Throttled", operation=error.operation, name=row.name, tries=TRIES))
        return True

    def _count(self, row: Repository, tries: int) -> bool:
        """Count tries of a repository, and have it rest; whether it may be tried again. Needs the lock."""
        count = self.tries[row.pk] = self.tries[row.pk] + tries
        self.resting[row.pk] = time.monotonic() + rest_seconds(count)
        self.unsaved = True
        return count < TRIES

    def _fail(self, row: Repository, error: RegistryError) -> None:
        """Record that the repository was not looked at: as a finding and, unless this is a dry run, on its row."""
        sweep = self.chunk.sweep
        if not sweep.dry_run:
            provisioning.record_failure(row=row, error=error, cause=sweep.requested_by or sweep.trigger)
        self._tell(row, "failed", str(error))

    def _unanswered(self, row: Repository, error: RegistryError) -> bool:
        """Whether a look that AWS did not answer is worth another try; an AWS that answers nobody ends the work.

        Otherwise a minute without network would mark every repository as failed. So such tries are not kept.
        """
        with self._lock:
            self.silence += 1
            again = self._count(row, UNANSWERED_TRIES)
            if self.silence >= SILENCE:
                self.until = 0
                self.tries = self._stored_tries()
                if self.chunk.sweep.trigger == SweepTrigger.COMMAND:
                    self.fatal = error  # a person at a terminal is told
                else:
                    Sweep.objects.filter(pk=self.chunk.sweep_id, status=SweepStatus.RUNNING).update(error=str(error))
            return self.silence >= SILENCE or again

    def _is_quiet(self, target: Target, row: Repository, look: Look, digest: str) -> bool:
        """In sync before and still so, with nothing new to write down."""
        return (
            look.exists
            and look.details is None
            and row.status == RepositoryStatus.IN_SYNC
            and row.checked_digest == digest
            and (look.policy or "") == row.policy_text
            and set(row.consumers) == set(target.config.consumer_accounts)
            and not self._writable(target, row)
        )

    def _writable(self, target: Target, row: Repository) -> bool:
        """Whether the list showed a mutability that is ours to mend."""
        differences = provisioning.detail_differences(row, target.config, provisioning.remembered(row))
        return any(difference.ours for difference in differences)

    def _report(self, target: Target, row: Repository, look: Look) -> None:
        """What a sweep that may write would do; nothing is changed, not even our own row."""
        words, kind = [], "in_sync"
        if not look.exists:
            words, kind = ["The repository is gone from the registry."], "drifted"
        elif isinstance(look.policy, RegistryError):
            words, kind = [str(look.policy)], "failed"
        else:
            details = provisioning.remembered(row) if look.details is None else look.details
            differences = desired.policy_differences(
                target.config.default_repository_policy, look.policy, partition=target.registry.partition
            )
            if isinstance(details, RegistryError):
                words, kind = [str(details)], "failed"
            else:
                differences += provisioning.detail_differences(row, target.config, details)
            words += [each.words for each in differences if each.ours or each.part is desired.Part.POLICY]
            if words and kind != "failed":
                kind = "drifted"
        self._tell(row, kind, " ".join(words))

    def _settle(self, ecr: Ecr, target: Target, row: Repository, look: Look, digest: str) -> bool:
        """Converge one repository under its own lease; False when AWS throttled that, or does not show it yet.

        One that somebody else holds is looked at again later.
        """
        result = provisioning.reconcile(
            row=row,
            ecr=ecr,
            registry=target.config,
            digest=digest,
            cause=self.chunk.sweep.requested_by or self.chunk.sweep.trigger,
            enforce=self.configuration.enforce,
            activation=self.configuration.activation,
            look=look,
        )
        if result is None:
            with self._lock:
                self.held.append(row.pk)
            return True
        settled = result.repository
        if result.error is not None:
            if result.error.throttled:
                return self._throttled(row, result.error)
            if result.error.code == provisioning.NOT_VISIBLE:
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
    return min(2.0 ** (tries - 3), LONGEST_REST) if tries > 1 else 0.0


def _size(sweep: Sweep) -> int:
    """How many repositories a sweep is about, those that are done included."""
    return int(sweep.chunks.aggregate(of=Sum("size", default=0))["of"])


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


# ------------------------------------------------------------------------------------------------------------- budget


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


def forget_old() -> None:
    """Delete what ended long ago: scheduled sweeps that found nothing after two days, the others after a month."""
    Sweep.objects.filter(finished_at__lt=Now() - KEPT).delete()
    uneventful = Sweep.objects.filter(trigger=SweepTrigger.SCHEDULE, error="", findings__isnull=True)
    uneventful.filter(finished_at__lt=Now() - KEPT_UNEVENTFUL).delete()


def oldest_check() -> datetime | None:
    """When the stalest managed repository was last checked."""
    rows = Repository.objects.exclude(status__in=[RepositoryStatus.UNMANAGED, RepositoryStatus.MISSING])
    stalest: datetime | None = rows.aggregate(at=Min("last_checked_at"))["at"]
    return stalest
