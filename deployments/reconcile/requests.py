"""What a person asks for about repositories: check, adopt, take over, override.

Nothing here calls AWS or knows HTTP: a check is a sweep, which is added as a row here and run by a worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from django.db import transaction
from django.db.models import Q, QuerySet

from deployments import clock
from deployments.config import Configuration
from deployments.errors import refusal
from deployments.models import (
    EventKind,
    Repository,
    RepositoryEvent,
    RepositoryStatus,
    Sweep,
    SweepTrigger,
)
from deployments.reconcile import ownership, sweep_record, targets
from deployments.row_values import MANAGED, Management

#: The most repositories that one sweep may name; for more, start a sweep of all.
MAX_NAMES_PER_SWEEP = 5_000


# ------------------------------------------------------------------------------------------------------------- checks


def request_sweep(*, rows: QuerySet[Repository], configuration: Configuration, by: str, dry_run: bool = False) -> Sweep:
    """Start a sweep over these repositories. It reads every part of them, and looks for the missing ones.

    `dry_run`: a refresh, also of unmanaged repositories. Raises Refusal if none of the repositories can be checked, or
    if they are too many.
    """
    asked = Q(management__in=MANAGED) | Q(status=RepositoryStatus.MISSING)
    if dry_run:
        asked |= Q(management=Management.UNMANAGED)
    found = rows.filter(targets.rows(configuration)).filter(asked)
    names = sorted(set(found.values_list("name", flat=True)[: MAX_NAMES_PER_SWEEP + 1]))
    if not names:
        raise refusal("nothing_to_look_at")
    if len(names) > MAX_NAMES_PER_SWEEP:
        raise refusal("too_many", limit=f"{MAX_NAMES_PER_SWEEP:,}")
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON, requested_by=by, names=names, dry_run=dry_run)
    assert sweep is not None  # only scheduled sweeps exclude each other  # noqa: S101
    return sweep


def adopt(*, rows: QuerySet[Repository], configuration: Configuration, by: str) -> tuple[int, Sweep | None]:
    """Adopt discovered repositories and start a sweep over them. Returns their number and the sweep."""
    unmanaged = rows.filter(targets.rows(configuration)).filter(management=Management.UNMANAGED)
    return _swept([row for row in unmanaged[:MAX_NAMES_PER_SWEEP] if ownership.adopt(row=row, by=by)], by)


def take_over(*, rows: QuerySet[Repository], configuration: Configuration, by: str) -> tuple[int, Sweep | None]:
    """Take adopted repositories over and start a sweep over them. Returns their number and the sweep."""
    adopted = rows.filter(targets.rows(configuration)).filter(management=Management.ADOPTED)
    return _swept([row for row in adopted[:MAX_NAMES_PER_SWEEP] if ownership.take_over(row=row, by=by)], by)


def _swept(rows: list[Repository], by: str) -> tuple[int, Sweep | None]:
    if not rows:
        return 0, None
    names = sorted({row.name for row in rows})
    return len(rows), sweep_record.start(trigger=SweepTrigger.PERSON, requested_by=by, names=names)


# --------------------------------------------------------------------------------------------------------- overrides


def set_override(*, rows: Iterable[Repository], mode: str, until: datetime, reason: str, by: str) -> int:
    """Enforce or only observe these repositories until a time, regardless of the setting. Returns their number.

    `until` is a time of the database's clock (`clock.now`). Raises Refusal if it is not in the future, or without a
    reason.
    """
    if until <= clock.now():
        raise refusal("exception_has_ended")
    if not reason.strip():
        raise refusal("exception_without_reason")
    words = f"Exception: {mode} until {until:%d %b %Y, %H:%M} UTC. {reason.strip()}"
    values = {"mode": mode, "mode_until": until, "mode_reason": reason.strip()[:300], "mode_by": by[:200]}
    return _note(rows, values, words, by)


def end_override(*, rows: Iterable[Repository], by: str) -> int:
    """End the overrides of these repositories. Returns how many had an override."""
    values = {"mode": "", "mode_until": None, "mode_reason": "", "mode_by": ""}
    return _note((row for row in rows if row.mode), values, "The exception was ended.", by)


def _note(rows: Iterable[Repository], values: Mapping[str, object], words: str, by: str) -> int:
    ids, count = sorted(row.pk for row in rows), 0
    for start in range(0, len(ids), 500):
        some = ids[start : start + 500]
        with transaction.atomic():
            count += Repository.objects.filter(pk__in=some).update(**values)
            RepositoryEvent.objects.bulk_create(
                RepositoryEvent(repository_id=pk, kind=EventKind.CHANGED, message=words, cause=by[:100]) for pk in some
            )
    return count
