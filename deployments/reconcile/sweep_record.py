"""The rows of sweeps: start, stop, progress, findings, the next piece of work, and the deletion of old rows."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Case, Min, OuterRef, QuerySet, Subquery, Sum, When
from django.db.models.functions import Now

from deployments import clock
from deployments.log import get_logger
from deployments.models import (
    Repository,
    RepositoryStatus,
    Sweep,
    SweepChunk,
    SweepFinding,
    SweepStatus,
    SweepTrigger,
)
from deployments.reconcile import lease

SWEEPS_KEPT_FOR = timedelta(days=30)  # after their end
UNEVENTFUL_SWEEPS_KEPT_FOR = timedelta(days=2)  # scheduled ones that found nothing
MAX_DEATHS_PER_CHUNK = 5  # workers that may die over one chunk before it is halved

Outcome = SweepFinding.Outcome
log = get_logger(__name__)


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
            sweep = Sweep.objects.create(
                trigger=trigger,
                requested_by=requested_by,
                names=list(names),
                dry_run=dry_run,
                adopt=adopt,
                started_at=clock.now(),  # decides which repositories the registry's list should have
            )
    except IntegrityError:
        return None
    line = {"sweep": sweep.pk, "trigger": str(trigger), "by": requested_by, "dry_run": dry_run, "adopt": adopt}
    transaction.on_commit(functools.partial(log.info, "sweep.started", **line, repositories=len(sweep.names) or "all"))
    return sweep


def stop(*, sweep: Sweep) -> bool:
    """Ask a sweep to end. Workers notice within a second and finish what is on the wire; False when it has ended."""
    return _end(sweep.pk, SweepStatus.STOPPED)


def _end(sweep_id: int, status: SweepStatus, error: str = "") -> bool:
    ended = Sweep.objects.filter(pk=sweep_id, status=SweepStatus.RUNNING).update(
        status=status, error=error, finished_at=Now()
    )
    if ended:
        transaction.on_commit(functools.partial(_log_end, sweep_id, status, error))
    return bool(ended)


def _log_end(sweep_id: int, status: SweepStatus, error: str) -> None:
    sweep = Sweep.objects.filter(pk=sweep_id).first()
    if sweep is None:
        return
    done = progress(sweep)
    counts = {name: getattr(done, name) for name in ("total", "in_sync", "healed", "drifted", "failed", "missing")}
    write = log.warning if status == SweepStatus.FAILED else log.info
    write("sweep.ended", sweep=sweep_id, status=str(status), **counts, calls=sum(done.calls.values()), error=error)


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


def _found(sweep: Sweep, rows: Iterable[Repository], outcome: Outcome, words: str) -> None:
    SweepFinding.objects.bulk_create(
        [SweepFinding(sweep=sweep, repository=row, outcome=outcome, words=words) for row in rows],
        update_conflicts=True,
        unique_fields=["sweep", "repository"],
        update_fields=["outcome", "words", "at"],
    )


def _size(sweep: Sweep) -> int:
    """How many repositories a sweep is about, those that are done included."""
    return int(sweep.chunks.aggregate(of=Sum("size", default=0))["of"])


def forget_old() -> None:
    """Delete what ended long ago: scheduled sweeps that found nothing after two days, the others after a month."""
    Sweep.objects.filter(finished_at__lt=Now() - SWEEPS_KEPT_FOR).delete()
    uneventful = Sweep.objects.filter(trigger=SweepTrigger.SCHEDULE, error="", findings__isnull=True)
    uneventful.filter(finished_at__lt=Now() - UNEVENTFUL_SWEEPS_KEPT_FOR).delete()


def oldest_check() -> datetime | None:
    """When the stalest managed repository was last checked."""
    rows = Repository.objects.exclude(status__in=[RepositoryStatus.UNMANAGED, RepositoryStatus.MISSING])
    stalest: datetime | None = rows.aggregate(at=Min("last_checked_at"))["at"]
    return stalest
