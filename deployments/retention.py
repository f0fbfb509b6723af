"""How long rows are kept, by the settings RETENTION_…_DAYS, and the deletion of older ones.

The worker's tick deletes what is due (`prune_due`), `manage.py prune` deletes everything that is old (`prune`), both in
small transactions, so that no deploy waits long for SQLite's write lock. A number of days that workers did not have
before deletes nothing for GRACE: an upgrade that brings a new default leaves a day to set another one, and the doctor
says meanwhile how much would go (`outlook`).

By default, deployments, promotions and audit entries are kept forever, and only bulky parts go. What something may
still need stays, however old it is: see `Kind.stays`. Sessions, failed tasks, uneventful sweeps, and tokens of CI jobs
that have expired have fixed times, and go in steps of their own (`tasks`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet, TextField
from django.db.models.functions import Cast, Length, Now

from deployments import clock
from deployments.access import audit
from deployments.access.audit import Actor, Trail
from deployments.config import Configuration
from deployments.log import get_logger
from deployments.models import (
    FINAL_STATUSES,
    AuditEntry,
    BackgroundWorker,
    DeliveryStatus,
    Deployment,
    DeploymentStatus,
    EventKind,
    NotificationDelivery,
    Promotion,
    PromotionEvent,
    RepositoryEvent,
    RetentionRule,
    Sweep,
)
from deployments.reconcile import kept_images, sweep_record

log = get_logger(__name__)

GRACE = timedelta(hours=24)  # after workers first had a number of days
REST = timedelta(hours=6)  # from the end of a search for old rows of one kind to the next one
ROWS_PER_PORTION = 500  # of one transaction
LONG_TEXT_CHARACTERS = 10_000  # of the stored error of a deployment, as JSON
_TEXTS_KEPT = (1_000, 300, 50)  # characters of a shortened text at its start and at its end; the first that is enough

Keys = list[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Rows, or a part of rows, that one setting is about."""

    setting: str
    kept_for: Callable[[Configuration], timedelta]  # 0: forever
    noun: str
    goes: str  # what happens to them: deleted, shortened, emptied
    stays: str  # a sentence about what stays, however old it is
    old: Callable[[datetime, Configuration], Iterator[Keys]]  # the keys of what is older, in portions
    remove: Callable[[Keys], int]  # what was removed. It makes its own transactions
    is_record: bool = False  # who did what, and when: each portion has a line in the audit log


# ---------------------------------------------------------------------------------------------------------- what is old


def _walk(rows: QuerySet[Any], moment: str, *, size: int = ROWS_PER_PORTION) -> Iterator[Keys]:
    """The keys of rows in the order of a time, which an index has, and of the key. Each portion is one query."""
    rows = rows.order_by(moment, "pk")
    found = list(rows.values_list(moment, "pk")[:size])
    while found:
        yield [pk for _, pk in found]
        at, last = found[-1]
        after = Q(**{f"{moment}__gt": at}) | Q(**{moment: at}, pk__gt=last)
        found = list(rows.filter(after, **{f"{moment}__gte": at}).values_list(moment, "pk")[:size])


def _error_texts(before: datetime, _: Configuration) -> Iterator[Keys]:
    for status in (DeploymentStatus.FAILED, DeploymentStatus.TIMED_OUT, DeploymentStatus.CANCELED):
        rows = Deployment.objects.filter(status=status, created_at__lt=before, error__isnull=False)
        long = rows.annotate(characters=Length(Cast("error", TextField())))
        yield from _walk(long.filter(characters__gt=LONG_TEXT_CHARACTERS), "created_at", size=20)


def _task_lists(before: datetime, configuration: Configuration) -> Iterator[Keys]:
    rows = BackgroundWorker.objects.filter(created_at__lt=before, tasks_deleted_at__isnull=True)
    for keys in _walk(rows, "created_at"):
        found = BackgroundWorker.objects.filter(pk__in=keys).values_list("pk", "deployment", "deployment__environment")
        kept = _kept({environment for _, _, environment in found}, configuration)
        yield [pk for pk, deployment, _ in found if deployment not in kept]


def _kept(environments: set[int], configuration: Configuration) -> set[str]:
    targets = max(configuration.plain.rollback_targets, configuration.v4.rollback_targets)
    return kept_images.kept_deployments(environments, rollback_targets=targets)


def _history(before: datetime, _: Configuration) -> Iterator[Keys]:
    # The table has no index on the time alone. The keys rise with the time, so the first event that is young enough is
    # found after the few old ones that were kept.
    young = RepositoryEvent.objects.filter(at__gte=before).order_by("pk").values_list("pk", flat=True).first()
    rows = RepositoryEvent.objects.filter(at__lt=before, **({} if young is None else {"pk__lt": young}))
    newer = RepositoryEvent.objects.filter(
        repository=OuterRef("repository"), policy_before=OuterRef("policy_before"), pk__gt=OuterRef("pk")
    )
    lasting = Q(state_since__isnull=False) & (
        Q(state_since=F("repository__drifted_since"))
        | Q(state_since=F("repository__error_since"))
        | Q(state_since=F("repository__incomparable_since"))
    )
    rows = rows.exclude(kind__in=(EventKind.CREATED, EventKind.ADOPTED)).exclude(lasting)
    yield from _walk(rows.filter(Q(policy_before="") | Exists(newer)), "pk")


def _sweeps(before: datetime, _: Configuration) -> Iterator[Keys]:
    yield from _walk(Sweep.objects.filter(finished_at__lt=before), "finished_at", size=20)


def _notifications(before: datetime, _: Configuration) -> Iterator[Keys]:
    for status in (DeliveryStatus.SENT, DeliveryStatus.FAILED):
        yield from _walk(NotificationDelivery.objects.filter(status=status, created_at__lt=before), "created_at")


def _deployments(before: datetime, configuration: Configuration) -> Iterator[Keys]:
    rows = Deployment.objects.filter(created_at__lt=before)
    for keys in _walk(rows, "created_at", size=20):
        # Without a condition on the status: SQLite would search the index of the status instead of the keys.
        found = Deployment.objects.filter(pk__in=keys).order_by().values_list("pk", "environment", "status")
        kept = _kept({environment for _, environment, _ in found}, configuration)
        yield [pk for pk, _, status in found if status in FINAL_STATUSES and pk not in kept]


_CURRENT = Promotion.objects.filter(label="current", deployment=OuterRef("deployment"))


def _promotions(before: datetime, _: Configuration) -> Iterator[Keys]:
    yield from _walk(PromotionEvent.objects.filter(~Exists(_CURRENT), at__lt=before), "at")


def _audit_entries(before: datetime, _: Configuration) -> Iterator[Keys]:
    yield from _walk(AuditEntry.objects.filter(at__lt=before), "at")


# ------------------------------------------------------------------------------------------------------------- removal


def _shorten(keys: Keys) -> int:
    rows = Deployment.objects.filter(pk__in=keys, error__isnull=False).only("pk", "error")
    with transaction.atomic():
        for row in rows:
            Deployment.objects.filter(pk=row.pk).update(error=shortened(row.error))
    return len(rows)


def shortened(error: Any) -> Any:
    """An error with only the start and the end of each long text, so that its JSON has at most LONG_TEXT_CHARACTERS."""
    found = error
    for kept in _TEXTS_KEPT:
        found = {name: _ends(value, kept) for name, value in error.items()} if isinstance(error, dict) else {}
        if len(json.dumps(found)) <= LONG_TEXT_CHARACTERS:
            break
    return found


def _ends(value: Any, kept: int) -> Any:
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) <= 3 * kept:
        return value
    gone = f"{len(text) - 2 * kept:,} characters were deleted because of their age (RETENTION_ERROR_TEXTS_DAYS)"
    return f"{text[:kept]}\n[… {gone} …]\n{text[-kept:]}"


def _empty(keys: Keys) -> int:
    return BackgroundWorker.objects.filter(pk__in=keys).update(tasks=[], metadata={}, tasks_deleted_at=Now())


def _delete_history(keys: Keys) -> int:
    return RepositoryEvent.objects.filter(pk__in=keys).delete()[0]


def _delete_notifications(keys: Keys) -> int:
    return NotificationDelivery.objects.filter(pk__in=keys).delete()[0]


def _delete_deployments(keys: Keys) -> int:
    # A promotion needs a lock of the deployment's row that excludes this one (PostgreSQL: FOR KEY SHARE of the foreign
    # key against FOR UPDATE), so none begins after the second query.
    locked = list(Deployment.objects.select_for_update().filter(pk__in=keys).values_list("pk", flat=True))
    current = set(Promotion.objects.filter(deployment__in=locked).values_list("deployment", flat=True))
    gone = [pk for pk in locked if pk not in current]
    Deployment.objects.filter(pk__in=gone).delete()
    return len(gone)


def _delete_promotions(keys: Keys) -> int:
    return PromotionEvent.objects.filter(pk__in=keys).delete()[0]


KINDS: tuple[Kind, ...] = (
    Kind(
        setting="RETENTION_ERROR_TEXTS_DAYS",
        kept_for=lambda configuration: configuration.keep_error_texts,
        noun="long error texts of deployments",
        goes="shortened",
        stays="The start and the end of each text stay.",
        old=_error_texts,
        remove=_shorten,
    ),
    Kind(
        setting="RETENTION_TASK_LISTS_DAYS",
        kept_for=lambda configuration: configuration.keep_task_lists,
        noun="task lists of deployments",
        goes="emptied",
        stays="Those of current deployments and of roll-back targets stay, and every deployed version can be promoted.",
        old=_task_lists,
        remove=_empty,
    ),
    Kind(
        setting="RETENTION_HISTORY_DAYS",
        kept_for=lambda configuration: configuration.keep_history,
        noun="entries of repositories' histories",
        goes="deleted",
        stays="Each repository keeps the newest entry with each policy text, its first entry, and those of its present "
        "state.",
        old=_history,
        remove=_delete_history,
    ),
    Kind(
        setting="RETENTION_SWEEPS_DAYS",
        kept_for=lambda configuration: configuration.keep_sweeps,
        noun="sweeps with their findings",
        goes="deleted",
        stays="",
        old=_sweeps,
        remove=sweep_record.forget,
    ),
    Kind(
        setting="RETENTION_NOTIFICATIONS_DAYS",
        kept_for=lambda configuration: configuration.keep_notifications,
        noun="messages to channels",
        goes="deleted",
        stays="Messages that are not sent yet stay.",
        old=_notifications,
        remove=_delete_notifications,
    ),
    Kind(
        setting="RETENTION_DEPLOYMENTS_DAYS",
        kept_for=lambda configuration: configuration.keep_deployments,
        noun="deployments",
        goes="deleted",
        stays="Current deployments, roll-back targets, and those that have not ended stay.",
        old=_deployments,
        remove=_delete_deployments,
        is_record=True,
    ),
    Kind(
        setting="RETENTION_PROMOTIONS_DAYS",
        kept_for=lambda configuration: configuration.keep_promotions,
        noun="promotions",
        goes="deleted",
        stays="Those of current deployments stay.",
        old=_promotions,
        remove=_delete_promotions,
        is_record=True,
    ),
    Kind(
        setting="RETENTION_AUDIT_DAYS",
        kept_for=lambda configuration: configuration.keep_audit,
        noun="audit entries",
        goes="deleted",
        stays="",
        old=_audit_entries,
        remove=audit.forget,
        is_record=True,
    ),
)


# ------------------------------------------------------------------------------------------------------------- pruning


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one call removed of a kind, and whether it looked at everything."""

    removed: int
    is_complete: bool


def prune(
    kind: Kind,
    *,
    configuration: Configuration,
    trail: Trail,
    seconds: float | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Result:
    """Remove what is older than the setting of `kind` allows, now, for at most `seconds` (None: to the end).

    It ends between two portions. What is kept forever is left alone.
    """
    kept_for, removed, until = kind.kept_for(configuration), 0, time.monotonic() + (seconds or 0)
    if not kept_for:
        return Result(removed=0, is_complete=True)
    before = clock.now() - kept_for
    for keys in kind.old(before, configuration):
        removed += _remove(kind, keys, before, trail) if keys else 0
        if stopping() or (seconds is not None and time.monotonic() >= until):
            return Result(removed=removed, is_complete=False)
    return Result(removed=removed, is_complete=True)


def _remove(kind: Kind, keys: Keys, before: datetime, trail: Trail) -> int:
    if not kind.is_record:
        return kind.remove(keys)
    after: dict[str, Any] = {"what": kind.noun, "older_than": before.isoformat(timespec="seconds")}
    with trail.change("prune.rows", after=after) as line:
        after["rows"] = removed = kind.remove(keys)
        if not removed:
            line.nothing_changed()
    return removed


def prune_due(
    *, configuration: Configuration, seconds: float = 5.0, stopping: Callable[[], bool] = lambda: False
) -> None:
    """A step of the worker's tick: remove what is due, for about `seconds`. What is left waits for the next tick."""
    until, now, rules = time.monotonic() + seconds, clock.now(), _agreed_rules(configuration)
    for kind in KINDS:
        rule = rules[kind.setting]
        if not rule.days or now < rule.since + GRACE or (rule.rests_until is not None and now < rule.rests_until):
            continue
        if (left := until - time.monotonic()) <= 0 or stopping():
            return
        trail = Trail(actor=Actor.schedule("retention"))
        done = prune(kind, configuration=configuration, trail=trail, seconds=left, stopping=stopping)
        if done.removed:
            log.info("retention.pruned", setting=kind.setting, rows=done.removed, complete=done.is_complete)
        if done.is_complete:
            RetentionRule.objects.filter(pk=rule.pk).update(rests_until=Now() + REST)


def _agreed_rules(configuration: Configuration) -> dict[str, RetentionRule]:
    """The row of each setting. A row with another number of days begins anew, and so does GRACE.

    While workers disagree about a number, each of them begins it anew, so nothing goes.
    """
    found = {row.setting: row for row in RetentionRule.objects.all()}
    wanted = {kind.setting: kind.kept_for(configuration).days for kind in KINDS}
    if other := {name: days for name, days in wanted.items() if name not in found or found[name].days != days}:
        rows = [RetentionRule(setting=name, days=days, since=Now(), rests_until=None) for name, days in other.items()]
        RetentionRule.objects.bulk_create(
            rows, update_conflicts=True, unique_fields=["setting"], update_fields=["days", "since", "rests_until"]
        )
        found = {row.setting: row for row in RetentionRule.objects.all()}
    return found


# ------------------------------------------------------------------------------------------------------------- looking


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What would be removed of a kind, and from when on. `since`: None before a worker has had this number of days."""

    kind: Kind
    days: int  # 0: kept forever
    before: datetime
    rows: int
    is_at_least: bool  # there may be more than `rows`
    since: datetime | None
    in_grace: bool

    @property
    def number(self) -> str:
        """The number in words."""
        return f"{self.rows:,}" + (" or more" if self.is_at_least else "")


def outlook(kind: Kind, *, configuration: Configuration, most: int | None = None) -> Outlook:
    """What would go now, counted up to `most` rows and the rest of a portion. Only reads rows."""
    now, kept_for = clock.now(), kind.kept_for(configuration)
    before, rows, more = now - kept_for, 0, False
    for keys in kind.old(before, configuration) if kept_for else ():
        rows += len(keys)
        if more := most is not None and rows > most:
            break
    rule = RetentionRule.objects.filter(setting=kind.setting, days=kept_for.days).first()
    since = rule.since + GRACE if rule is not None else None
    return Outlook(
        kind=kind,
        days=kept_for.days,
        before=before,
        rows=rows,
        is_at_least=more,
        since=since,
        in_grace=since is None or now < since,
    )
