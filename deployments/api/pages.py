"""Lists of the management API in pages by id, and ids in addresses."""

from __future__ import annotations

from typing import Any, TypeVar

from django.db.models import Model, QuerySet

_Row = TypeVar("_Row", bound=Model)


def page_of(rows: QuerySet[_Row], size: int) -> tuple[list[_Row], bool]:
    """(the first `size` rows, whether there are more)."""
    found = list(rows[: size + 1])
    return found[:size], len(found) > size


def answer_of(data: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """The answer with one page; `next` is the id of its last row."""
    return {"data": data, "pagination": {"next": data[-1]["id"]} if has_more else {}}


def number_of(text: str) -> int:
    """The number that the id of a row is; 0, which no row has, for another text."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0
