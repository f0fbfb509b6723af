"""A list as a file: CSV for a spreadsheet, JSON Lines for a program.

The file is streamed, so it may have any length, and a slow download keeps no cursor open (`deployments.long_reads`).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponseBase, HttpResponseRedirect, StreamingHttpResponse
from django.urls import path
from django.utils import timezone

from deployments.admin.pages import Console
from deployments.long_reads import in_pages

KINDS = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson; charset=utf-8"}


class Exports(Console):
    """A list that can be exported. Subclasses set `columns`: column name → function that gives a row's value."""

    tools = True
    columns: ClassVar[Mapping[str, Callable[[Any], Any]]]

    def get_urls(self) -> list[Any]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_export"
        return [path("export.<str:kind>", self.admin_site.admin_view(self.export_view), name=name), *super().get_urls()]

    def columns_for(self, request: HttpRequest) -> Mapping[str, Callable[[Any], Any]]:
        """The columns of the file for this request."""
        return self.columns

    def exported(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        """The queryset of the file; subclasses add what `columns` needs."""
        return rows

    def export_view(self, request: HttpRequest, kind: str) -> HttpResponseBase:
        """All rows that match the filters and the search in the URL."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if kind not in KINDS:
            raise Http404
        try:
            rows = self.exported(self.all_that_match(request))
        except IncorrectLookupParameters:
            return HttpResponseRedirect("./")  # the list
        columns = self.columns_for(request)
        records = ({name: value(row) for name, value in columns.items()} for row in in_pages(rows))
        lines = as_csv(columns, records) if kind == "csv" else as_json_lines(records)
        response = StreamingHttpResponse(lines, content_type=KINDS[kind])
        file = f"{self.opts.verbose_name_plural}-{timezone.now():%Y%m%d-%H%M%S}.{kind}"
        response["Content-Disposition"] = f'attachment; filename="{file}"'
        return response


def as_json_lines(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """One JSON object per line."""
    for record in records:
        yield json.dumps(record, ensure_ascii=False, default=_text) + "\n"


class _Echo:
    """A file for csv.writer whose `write` returns the line."""

    def write(self, line: str) -> str:
        return line


def as_csv(columns: Iterable[str], records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """CSV with a header. A cell that a spreadsheet would read as a formula gets an apostrophe in front."""
    writer, names = csv.writer(_Echo()), list(columns)
    yield writer.writerow(names)
    for record in records:
        yield writer.writerow([_cell(record[name]) for name in names])


def _cell(value: Any) -> str:
    text = _text(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _text(value: Any) -> str:
    if value is None:
        return ""
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
