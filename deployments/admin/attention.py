"""Repositories that need attention, grouped by cause: one alarm for all repositories that one correction is for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import Case, IntegerField, Q, QuerySet, Value, When
from django.db.models.functions import Now
from django.http import HttpRequest
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.text import Truncator

from deployments import doctor
from deployments.admin.pages import MAX_MENU_CHOICES, Several
from deployments.models import Repository, RepositoryStatus
from deployments.reconcile import causes, targets
from deployments.reconcile.causes import Cause

#: Statuses that need attention, the worst first.
NEEDS_ATTENTION = (RepositoryStatus.FAILED, RepositoryStatus.MISSING, RepositoryStatus.DRIFTED)
#: Drifted, and a person decided to leave it as it is until a time. A failure or a deletion is not what was decided.
LEFT = Q(status=RepositoryStatus.DRIFTED, mode="observe", mode_until__gt=Now())
ALARMING = Q(status__in=NEEDS_ATTENTION) & ~LEFT
LEFT_RANK = len(NEEDS_ATTENTION)
#: Repositories by status, the worst first; those that need no attention come last.
WORST_FIRST = Case(
    When(LEFT, then=Value(LEFT_RANK)),
    *(When(status=status, then=Value(rank)) for rank, status in enumerate(NEEDS_ATTENTION)),
    default=Value(LEFT_RANK + 1),
    output_field=IntegerField(),
)
MAX_GROUPED = 2_000  # repositories that one page reads to group them; pages say so if there are more
NAMED = 3  # repositories of an alarm that it names
ALARMS_SHOWN = 20  # alarms that a page shows; pages say if there are more
SAID_SHOWN = 600  # characters of the words of AWS that an alarm shows; the page of a repository has all

_COLUMNS = (
    "name", "account", "region", "status", "last_error", "last_error_code", "differences", "drifted_since",
    "error_since", "last_error_at", "last_checked_at", "mode", "mode_until", "mode_reason", "project__name",
    "policy_version",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseAlarm:
    """One cause, and the repositories that have it, the worst first."""

    cause: Cause
    rows: list[Repository]
    since: datetime | None  # the earliest time that the rows know

    @property
    def statements(self) -> list[str]:
        """The IAM statement to add, one for each registry; empty unless AWS denied an action."""
        return list(_statements(self.cause, self.rows))

    @property
    def named(self) -> list[Repository]:
        return self.rows[:NAMED]

    @property
    def said(self) -> str:
        """The words of AWS, in at most SAID_SHOWN characters."""
        return Truncator(self.cause.said).chars(SAID_SHOWN)

    @property
    def others(self) -> int:
        """How many repositories `named` leaves out."""
        return max(0, len(self.rows) - NAMED)

    @property
    def address(self) -> str:
        """The list of exactly these repositories."""
        return list_address(cause=self.cause.key)

    @property
    def act_address(self) -> str:
        """The page of the actions for exactly these repositories."""
        return f"{reverse('admin:deployments_repository_ask')}?{urlencode({'cause': self.cause.key})}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """What the repositories' rows say now."""

    alarms: list[CauseAlarm]  # the alarm with the worst status first, then the alarm of the most repositories
    left: list[Repository]  # drifted, and left as they are until a time
    is_cut: bool  # there are more than MAX_GROUPED

    @property
    def shown(self) -> list[CauseAlarm]:
        """The alarms that a page shows."""
        return self.alarms[:ALARMS_SHOWN]

    @property
    def more(self) -> int:
        """How many alarms `shown` leaves out."""
        return len(self.alarms) - len(self.shown)

    @property
    def grouped(self) -> int:
        """How many repositories were grouped, if `is_cut`."""
        return MAX_GROUPED


def list_address(**filters: str) -> str:
    """The list of repositories with these filters."""
    return f"{reverse('admin:deployments_repository_changelist')}?{urlencode(filters)}"


def attention(request: HttpRequest) -> Attention:
    """One query, once for each request."""
    if not hasattr(request, "attention"):
        request.attention = _attention()  # type: ignore[attr-defined]
    found: Attention = request.attention  # type: ignore[attr-defined]
    return found


def _attention() -> Attention:
    found = Repository.objects.filter(status__in=NEEDS_ATTENTION).select_related("project").only(*_COLUMNS)
    rows = list(found.annotate(rank=WORST_FIRST).order_by("rank", "name", "pk")[: MAX_GROUPED + 1])
    groups: dict[Cause, list[Repository]] = {}
    left: list[Repository] = []
    for row in rows[:MAX_GROUPED]:
        if row.rank == LEFT_RANK:
            left.append(row)
        else:
            groups.setdefault(cause_of(row), []).append(row)
    alarms = [CauseAlarm(cause=cause, rows=group, since=_earliest(group)) for cause, group in groups.items()]
    alarms.sort(key=lambda alarm: (NEEDS_ATTENTION.index(RepositoryStatus(alarm.rows[0].status)), -len(alarm.rows)))
    return Attention(alarms=alarms, left=left, is_cut=len(rows) > MAX_GROUPED)


def cause_of(row: Repository) -> Cause:
    """The cause of a repository that needs attention."""
    return causes.of_row(
        status=row.status,
        name=row.name,
        error=row.last_error,
        code=row.last_error_code,
        differences=row.differences,
    )


def statements_of(row: Repository) -> list[str]:
    """The IAM statement to add for the action that AWS denied on a repository; empty if its error is another one."""
    return list(_statements(cause_of(row), [row])) if row.last_error else []


def since(row: Repository) -> datetime | None:
    """Since when a repository has its trouble."""
    if row.status == RepositoryStatus.DRIFTED:
        return row.drifted_since
    return (row.error_since or row.last_error_at) if row.last_error else row.last_checked_at


def _earliest(rows: list[Repository]) -> datetime | None:
    return min(filter(None, map(since, rows)), default=None)


def _statements(cause: Cause, rows: list[Repository]) -> Iterator[str]:
    """By this process's own settings, which saves queries."""
    if not cause.permission.startswith("ecr:") or settings.CONFIGURATION.problems:
        return
    for row in {(row.account, row.region): row for row in rows}.values():
        if target := targets.of(row, settings.CONFIGURATION):
            yield doctor.statement_to_add(target, [cause.permission])


class ByCause(Several):
    """The causes that there are now. The address of a cause that no repository has any more matches nothing."""

    title = "Cause"
    parameter_name = "cause"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        alarms = attention(request).alarms
        shown = [
            alarm for place, alarm in enumerate(alarms) if place < MAX_MENU_CHOICES or alarm.cause.key in self.chosen
        ]
        return [(alarm.cause.key, alarm.cause.title) for alarm in shown]

    def has_output(self) -> bool:
        return True  # else Django would ignore the parameter, and the list would show all repositories

    def queryset(self, request: HttpRequest, queryset: QuerySet[Repository]) -> QuerySet[Repository]:
        if not self.chosen:
            return queryset
        alarms = [alarm for alarm in attention(request).alarms if alarm.cause.key in self.chosen]
        return queryset.filter(pk__in=[row.pk for alarm in alarms for row in alarm.rows])
