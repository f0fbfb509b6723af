"""The rows of sweeps: start, stop, progress, findings, the next piece of work, and the deletion of old rows."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Case, OuterRef, Q, QuerySet, Subquery, Sum, When
from django.db.models.functions import Now

from deployments import clock
from deployments.log import get_logger
from deployments.models import (
    ImageState,
    Repository,
    Sweep,
    SweepChunk,
    SweepFinding,
    SweepStatus,
    SweepTrigger,
)
from deployments.reconcile import lease
from deployments.reconcile.image_states import BROKEN

UNEVENTFUL_SWEEPS_KEPT_FOR = timedelta(days=2)  # scheduled sweeps without findings
SWEEPS_FORGOTTEN_AT_ONCE = 50  # in one tick; the next tick goes on
PARTS_PER_TRANSACTION = 500  # findings or chunks of a sweep that are deleted in one transaction
CHECKS_SHOWN_FOR = timedelta(minutes=10)  # how long a repository's page shows the result of a check
MAX_CHECKS_SEARCHED = 50
MAX_DEATHS_PER_CHUNK = 5  # a chunk is halved after so many workers in a row died while they worked on it

Outcome = SweepFinding.Outcome
log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of a sweep. The counts are numbers of repositories."""

    total: int
    done: int
    in_sync: int
    healed: int
    drifted: int
    failed: int
    unmanaged: int
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
    """Start a sweep by adding its row; workers do the work. None if the last scheduled sweep still runs.

    `dry_run`: a refresh, which records what it sees on the rows and writes nothing to AWS (D-refresh).
    """
    try:
        with transaction.atomic():
            sweep = Sweep.objects.create(
                trigger=trigger,
                requested_by=requested_by,
                names=list(names),
                dry_run=dry_run,
                adopt=adopt,
                started_at=clock.now(),  # a repository that was seen before this time must be in the registry's list
            )
    except IntegrityError:
        return None
    line = {"sweep": sweep.pk, "trigger": str(trigger), "by": requested_by, "dry_run": dry_run, "adopt": adopt}
    transaction.on_commit(functools.partial(log.info, "sweep.started", **line, repositories=len(sweep.names) or "all"))
    return sweep


def stop(*, sweep: Sweep) -> bool:
    """Stop a sweep.

    Workers notice it within a second and finish the calls that they have sent. False if it has ended.
    """
    return end(sweep.pk, SweepStatus.STOPPED)


def end(sweep_id: int, status: SweepStatus, error: str = "") -> bool:
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
    names = ("total", "in_sync", "healed", "drifted", "failed", "unmanaged", "missing")
    counts = {name: getattr(done, name) for name in names}
    write = log.warning if status == SweepStatus.FAILED else log.info
    write("sweep.ended", sweep=sweep_id, status=str(status), **counts, calls=sum(done.calls.values()), error=error)


def progress(sweep: Sweep) -> Progress:
    """The progress of a sweep, summed over its chunks.

    A chunk counts a repository that it does not find as drifted (there is no column for it). Of a sweep over named
    repositories, whose listing looks for none, each finding says which of them are missing.
    """
    names = ("size", "in_sync", "healed", "drifted", "failed", "unmanaged")
    sums = sweep.chunks.aggregate(**{name: Sum(name, default=0) for name in names})
    calls = Counter(sweep.calls)
    for counted in sweep.chunks.values_list("calls", flat=True):
        calls.update(counted)
    done = sum(sums[name] for name in names[1:])
    gone = sweep.findings.filter(outcome=Outcome.MISSING).count() if sweep.names else 0
    gone = min(gone, sums["drifted"])  # a finding is written before its chunk's numbers
    sums["drifted"] -= gone
    return Progress(
        total=sums.pop("size"),
        done=done,
        missing=sweep.missing + gone,
        discovered=sweep.discovered,
        calls=dict(sorted(calls.items())),
        **sums,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A repository that a running sweep has not checked yet, and why."""

    pk: int
    tries: int  # tries that AWS throttled or did not answer
    taken: bool  # whether a process works on its chunk
    rests_until: datetime | None  # before this time no process takes its chunk; by the database's clock


def left(sweep: Sweep) -> list[Left]:
    """The repositories that a running sweep has not checked yet, those first whose calls AWS throttles. One query."""
    open_chunks = sweep.chunks.filter(finished_at__isnull=True).annotate(is_free=lease.is_free())
    found = [
        Left(
            pk=pk,
            tries=(chunk.throttled or {}).get(pk, 0),
            taken=bool(chunk.lease_owner) and not chunk.is_free,
            rests_until=None if chunk.lease_owner or chunk.is_free else chunk.lease_until,
        )
        for chunk in open_chunks
        for pk in chunk.remaining
    ]
    return sorted(found, key=lambda each: -each.tries)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A check of one repository that somebody asked for: a sweep that names the repository."""

    sweep: Sweep
    waits: bool  # whether the repository is not checked yet
    left: Left | None = None  # why not; None: also while its sweep has not been listed
    finding: SweepFinding | None = None


def check_of(row: Repository) -> Check | None:
    """The newest sweep that names this repository and runs, or ended in the last ten minutes. At most two queries."""
    recent = Q(status=SweepStatus.RUNNING) | Q(finished_at__gt=Now() - CHECKS_SHOWN_FOR)
    named = Sweep.objects.filter(recent).exclude(names=[]).order_by("-pk")[:MAX_CHECKS_SEARCHED]
    sweep = next((sweep for sweep in named if row.name in sweep.names), None)
    if sweep is None:
        return None
    if sweep.status == SweepStatus.RUNNING and sweep.listed_at is None:
        return Check(sweep=sweep, waits=True)
    running = sweep.status == SweepStatus.RUNNING
    waiting = next((each for each in left(sweep) if each.pk == row.pk), None) if running else None
    return Check(
        sweep=sweep,
        waits=waiting is not None,
        left=waiting,
        finding=None if waiting else sweep.findings.filter(repository=row).first(),
    )


def open_work(sweep_id: int | None = None) -> int:
    """The number of listings and chunks that no process works on: how many wake-up tasks are useful."""
    running = Sweep.objects.filter(status=SweepStatus.RUNNING, **({"pk": sweep_id} if sweep_id else {}))
    listings = running.filter(lease.free(), listed_at__isnull=True).count()
    return listings + SweepChunk.objects.filter(lease.free(), sweep__in=running, finished_at__isnull=True).count()


def next_piece(running: QuerySet[Sweep]) -> Sweep | SweepChunk | None:
    """The next work: a sweep that must be listed, or a chunk. The smallest sweep comes first.

    So a sweep of a single repository does not wait for a sweep of all repositories. The listing of a sweep with named
    repositories makes no call to AWS; the listing of a whole registry may take long, so chunks of named repositories
    come before it.
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


def record_findings(sweep: Sweep, rows: Iterable[Repository], outcome: Outcome, words: str) -> None:
    """Record what a sweep did or found. A scheduled sweep records no drift and no error that an earlier finding has.

    The rows of the repositories say what is so now; a finding says what is new. A sweep that a person asked for records
    everything.
    """
    found = list(rows)
    if sweep.trigger == SweepTrigger.SCHEDULE and outcome in _LASTING:
        known = _known({row.pk: words for row in found}, outcome, _LASTING[outcome])
        found = [row for row in found if row.pk not in known]
    _write([SweepFinding(sweep=sweep, repository=row, outcome=outcome, words=words) for row in found])


#: The outcomes that may last from sweep to sweep, and the column of the repository that has since when.
_LASTING = {Outcome.DRIFTED: "drifted_since", Outcome.FAILED: "error_since"}


def _known(words: Mapping[int, str], outcome: Outcome, since: str) -> set[int]:
    """The repositories whose newest finding has this outcome and begins with these words, and is of the present drift
    or error. One query. What no column has the beginning of is never known.
    """
    newest = SweepFinding.objects.filter(repository=OuterRef("pk")).order_by("-pk")
    columns = {f"finding_{name}": Subquery(newest.values(name)[:1]) for name in ("outcome", "words", "at")}
    rows: Any = Repository.objects.filter(pk__in=words).annotate(**columns)
    return {
        pk
        for pk, began, last, said, at in rows.values_list("pk", since, *columns)
        if began is not None
        and last == outcome
        and at >= began
        and (said == words[pk] or said.startswith(f"{words[pk]} "))  # followed by words about images
    }


def record_images(sweep: Sweep, words: Mapping[int, str]) -> None:
    """Record, by repository id, which images that must stay cannot be pulled; words are added to a present finding.

    A scheduled sweep records no words that the newest finding has, if it is of the present state of the images.
    """
    if not words:
        return
    found = {row.repository_id: row for row in sweep.findings.filter(repository__in=words)}
    known = _known_images(words) if sweep.trigger == SweepTrigger.SCHEDULE else frozenset()
    _write(
        [
            SweepFinding(
                sweep=sweep,
                repository_id=pk,
                outcome=found[pk].outcome if pk in found else Outcome.DRIFTED,  # nobody corrected it
                words=f"{found[pk].words} {text}".strip() if pk in found else text,
            )
            for pk, text in words.items()
            if (pk not in known if pk not in found else text not in found[pk].words)
        ]
    )


def _known_images(words: Mapping[int, str]) -> set[int]:
    """The repositories whose newest finding has these words and is of the present states of their images. One query."""
    newest = SweepFinding.objects.filter(repository=OuterRef("pk")).order_by("-pk")
    broken = ImageState.objects.filter(repository=OuterRef("pk"), state__in=BROKEN).order_by("-since")
    rows: Any = Repository.objects.filter(pk__in=words).values_list(
        "pk",
        Subquery(newest.values("words")[:1]),
        Subquery(newest.values("at")[:1]),
        Subquery(broken.values("since")[:1]),
    )
    return {pk for pk, said, at, since in rows if said and words[pk] in said and since is not None and at >= since}


def _write(rows: list[SweepFinding]) -> None:
    SweepFinding.objects.bulk_create(
        rows, update_conflicts=True, unique_fields=["sweep", "repository"], update_fields=["outcome", "words", "at"]
    )


def size_of(sweep: Sweep) -> int:
    """The number of repositories of a sweep, including those that are checked already."""
    return int(sweep.chunks.aggregate(of=Sum("size", default=0))["of"])


def last_share() -> tuple[int, int] | None:
    """Of the newest scheduled sweep: how many repositories it reads, and how many there are. None: there is none."""
    sweep = Sweep.objects.filter(trigger=SweepTrigger.SCHEDULE, listed_at__isnull=False).order_by("-pk").first()
    return None if sweep is None else (size := size_of(sweep), size + sweep.spared)


def forget_old() -> None:
    """Delete scheduled sweeps without findings after two days. Others go by their age (`deployments.retention`)."""
    uneventful = Sweep.objects.filter(trigger=SweepTrigger.SCHEDULE, error="", findings__isnull=True)
    old = uneventful.filter(finished_at__lt=Now() - UNEVENTFUL_SWEEPS_KEPT_FOR)
    forget(old.values_list("pk", flat=True)[:SWEEPS_FORGOTTEN_AT_ONCE])


def forget(sweeps: Iterable[int]) -> int:
    """Delete sweeps that have ended, with their findings and chunks. Returns the number of sweeps.

    In small transactions: a sweep may have 10,000 findings, and on SQLite a deploy waits for each transaction. After a
    crash in between, the rest of the sweep goes at the next call.
    """
    done = 0
    for sweep in list(sweeps):
        for parts in (SweepFinding.objects.filter(sweep=sweep), SweepChunk.objects.filter(sweep=sweep)):
            while keys := list(parts.values_list("pk", flat=True)[:PARTS_PER_TRANSACTION]):
                parts.filter(pk__in=keys).delete()
        done += bool(Sweep.objects.filter(pk=sweep).delete()[0])
    return done
