"""How many deployments there are, by status and by day, in a time that does not grow with their number.

The worker counts the older ones once an hour (`count`) and stores the numbers: `DeploymentTally`. A reader adds the
newer ones, which an index counts. Older are those from before a time at which all had ended, and an ended deployment
never changes its status. A deployment that was counted and then deleted, with its project or by its age, still counts
until the next count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.db.models import CharField, Count, Min, QuerySet
from django.db.models.functions import Cast, Left

from deployments import clock
from deployments.models import FINAL_STATUSES, Deployment, DeploymentStatus, DeploymentTally

COUNTED_EVERY = timedelta(hours=1)
#: Not counted are the deployments of this time before the count: the clock of the host that wrote a row may be late.
NEWEST_LEFT = timedelta(minutes=10)
DAYS_COUNTED = 31  # at least those of the dashboard's chart
_NOT_ENDED = tuple(status for status in DeploymentStatus if status not in FINAL_STATUSES)


def count() -> None:
    """Count the older deployments, unless they were counted within the last hour. Three queries of an index."""
    now = clock.now()
    last = DeploymentTally.objects.order_by("-pk").first()
    if last is not None and now - COUNTED_EVERY < last.counted_at <= now:
        return
    oldest = Deployment.objects.filter(status__in=_NOT_ENDED).aggregate(at=Min("created_at"))["at"]
    before = min(filter(None, (oldest, now - NEWEST_LEFT)))
    older = Deployment.objects.filter(created_at__lt=before)
    days: dict[str, dict[str, int]] = {}
    first = now.astimezone(UTC).date() - timedelta(days=DAYS_COUNTED)
    for (day, status), number in _by_day(older, first).items():
        days.setdefault(day, {})[status] = number
    found = {"before": before, "statuses": _by_status(older), "days": days, "counted_at": now}
    DeploymentTally.objects.update_or_create(pk=last.pk if last is not None else 1, defaults=found)


def by_status() -> Counter[str]:
    """Status → the number of deployments. Two queries."""
    last = DeploymentTally.objects.order_by("-pk").first()
    if last is None:
        return Counter(_by_status(Deployment.objects.all()))
    return Counter(last.statuses) + Counter(_by_status(Deployment.objects.filter(created_at__gte=last.before)))


def by_day(first: date) -> Counter[tuple[str, str]]:
    """(day in UTC as YYYY-MM-DD, status) → the number of deployments, from this day on. Two queries."""
    last = DeploymentTally.objects.order_by("-pk").first()
    if last is None or first < last.counted_at.astimezone(UTC).date() - timedelta(days=DAYS_COUNTED):
        return Counter(_by_day(Deployment.objects.all(), first))
    found = _by_day(Deployment.objects.all(), first, since=last.before)
    counted = {
        (day, status): number
        for day, numbers in last.days.items()
        for status, number in numbers.items()
        if day >= first.isoformat()
    }
    return Counter(counted) + Counter(found)


def _by_status(rows: QuerySet[Deployment]) -> dict[str, int]:
    return _counted(rows.values_list("status"))


def _by_day(rows: QuerySet[Deployment], first: date, *, since: datetime | None = None) -> dict[tuple[str, str], int]:
    began = datetime(first.year, first.month, first.day, tzinfo=UTC)
    # One lower bound: of two, SQLite may search the index by the earlier one.
    since = began if since is None else max(began, since)
    # In both databases, a time as text begins with the day; this cast is much cheaper than Django's TruncDate.
    days = rows.filter(created_at__gte=since).annotate(day=Left(Cast("created_at", CharField()), 10))
    return _counted(days.values_list("day", "status"))


def _counted(values: QuerySet[Deployment, Any]) -> dict[Any, int]:
    # With every status named, the index of status and time is searched by both of its columns.
    rows: Iterable[Any] = values.filter(status__in=DeploymentStatus.values).order_by().annotate(of=Count("*"))
    return {tuple(key) if len(key) > 1 else key[0]: of for *key, of in rows}
