"""A filter by time: the last hour, day, week or month, or a range of days."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

SPANS: dict[str, tuple[str, timedelta]] = {
    "1h": ("Last hour", timedelta(hours=1)),
    "24h": ("Last 24 hours", timedelta(hours=24)),
    "7d": ("Last 7 days", timedelta(days=7)),
    "30d": ("Last 30 days", timedelta(days=30)),
}


class Between(admin.ListFilter):
    """The filter. Days are in UTC; the range includes both days. A malformed value is ignored."""

    template = "admin/between.html"
    field: ClassVar[str]

    def __init__(self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        for name in self.expected_parameters():
            if name and name in params:
                self.used_parameters[name] = params.pop(name)[-1]

    def expected_parameters(self) -> list[str | None]:
        return [self.field, f"{self.field}_from", f"{self.field}_to"]

    def has_output(self) -> bool:
        return True

    @property
    def span(self) -> str:
        """The chosen key of SPANS, or an empty text."""
        value = str(self.used_parameters.get(self.field, ""))
        return value if value in SPANS else ""

    def day(self, end: str) -> date | None:
        """The chosen day; `end`: `from` or `to`."""
        try:
            return date.fromisoformat(str(self.used_parameters.get(f"{self.field}_{end}", "")))
        except ValueError:
            return None

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.span:
            queryset = queryset.filter(**{f"{self.field}__gte": timezone.now() - SPANS[self.span][1]})
        if (first := self.day("from")) is not None:
            queryset = queryset.filter(**{f"{self.field}__gte": _midnight(first)})
        if (last := self.day("to")) is not None and last < date.max:
            queryset = queryset.filter(**{f"{self.field}__lt": _midnight(last + timedelta(days=1))})
        return queryset

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        names = [self.field, f"{self.field}_from", f"{self.field}_to"]
        first, last = self.day("from"), self.day("to")
        chosen = bool(self.span or first or last)
        yield {
            "selected": not chosen,
            "query_string": changelist.get_query_string(remove=names),
            "display": "Any time",
            # For the form with the two days, below the choices:
            "field": self.field,
            "from": first.isoformat() if first else "",
            "to": last.isoformat() if last else "",
            "others": [
                (name, value)
                for name, values in changelist.filter_params.items()
                for value in values
                if name not in (*names, "p")
            ],
        }
        for value, (word, _) in SPANS.items():
            yield {
                "selected": self.span == value,
                "query_string": changelist.get_query_string({self.field: value}, names[1:]),
                "display": word,
            }
        if first or last:
            yield {
                "selected": True,
                "query_string": changelist.get_query_string(),
                "display": f"{first or '…'} – {last or '…'}",
            }


def between(title: str, field: str) -> type[Between]:
    """A `Between` for a field."""
    return type(f"{title}Between", (Between,), {"title": title, "field": field})


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
