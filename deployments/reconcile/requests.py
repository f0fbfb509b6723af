"""What people do in the console, as use cases: looks at repositories, exceptions, promotions, a key's successor.

Thin wrappers that add what only a person brings: what they saw before they agreed, their reason, their name. None of
them asks AWS anything but a promotion, which proves its image: a look is a sweep that is written down here and done by
a worker. They know no HTTP.
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

#: Names that one sweep is asked for at most. More than this is a sweep of everything.
MAX_NAMES_PER_SWEEP = 5_000


# ------------------------------------------------------------------------------------------------------------- looks


def request_sweep(
    *, rows: QuerySet[Repository], configuration: Configuration, by: str, dry_run: bool = False, thorough: bool = False
) -> Sweep:
    """Start a sweep over these repositories. `thorough` has lifecycle policy, AWS tags and mutability read too, and
    looks for the missing ones. Raises Refusal when there is nothing to look at, or too much to name.
    """
    missing = Q(status=RepositoryStatus.MISSING)
    seen = Q(management__in=MANAGED) & ~missing
    managed = rows.filter(targets.rows(configuration)).filter(seen | missing if thorough else seen)
    names = sorted(set(managed.values_list("name", flat=True)[: MAX_NAMES_PER_SWEEP + 1]))
    if not names:
        raise refusal("nothing_to_look_at")
    if len(names) > MAX_NAMES_PER_SWEEP:
        raise refusal("too_many", limit=f"{MAX_NAMES_PER_SWEEP:,}")
    if thorough and not dry_run:
        # A note for the next look, whoever makes it: a crash before the sweep's row leaves nothing half done.
        managed.update(details_checked_at=None)
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON, requested_by=by, names=names, dry_run=dry_run)
    assert sweep is not None  # only the schedule's sweeps exclude each other  # noqa: S101
    return sweep


def adopt(*, rows: QuerySet[Repository], configuration: Configuration, by: str) -> tuple[int, Sweep | None]:
    """Take discovered repositories under management and have them looked at at once. Returns how many there were."""
    unmanaged = rows.filter(targets.rows(configuration)).filter(management=Management.UNMANAGED)
    return _swept([row for row in unmanaged[:MAX_NAMES_PER_SWEEP] if ownership.adopt(row=row, by=by)], by)


def take_over(*, rows: QuerySet[Repository], configuration: Configuration, by: str) -> tuple[int, Sweep | None]:
    """Bring adopted repositories in line altogether, at once: what somebody else chose there goes. Returns how many."""
    adopted = rows.filter(targets.rows(configuration)).filter(management=Management.ADOPTED)
    return _swept([row for row in adopted[:MAX_NAMES_PER_SWEEP] if ownership.take_over(row=row, by=by)], by)


def _swept(rows: list[Repository], by: str) -> tuple[int, Sweep | None]:
    if not rows:
        return 0, None
    names = sorted({row.name for row in rows})
    return len(rows), sweep_record.start(trigger=SweepTrigger.PERSON, requested_by=by, names=names)


# -------------------------------------------------------------------------------------------------------- exceptions


def set_override(*, rows: Iterable[Repository], mode: str, until: datetime, reason: str, by: str) -> int:
    """Have these repositories enforced or only observed until a time, whatever the setting says. Returns how many.
    `until` comes from the database's clock (`clock.now`), by which it ends.

    Raises Refusal for an end that is not ahead, or without a reason.
    """
    if until <= clock.now():
        raise refusal("exception_has_ended")
    if not reason.strip():
        raise refusal("exception_without_reason")
    words = f"Exception: {mode} until {until:%d %b %Y, %H:%M} UTC. {reason.strip()}"
    values = {"mode": mode, "mode_until": until, "mode_reason": reason.strip()[:300], "mode_by": by[:200]}
    return _note(rows, values, words, by)


def end_override(*, rows: Iterable[Repository], by: str) -> int:
    """Have these repositories follow the setting again. Returns how many had an exception."""
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


# -------------------------------------------------------------------------------------------------------- promotions
