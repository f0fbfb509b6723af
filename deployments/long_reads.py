"""Reads of many rows for a file that somebody downloads: no cursor stays open while the client reads.

An open cursor is a read transaction. On SQLite no checkpoint gets past it, so the file -wal grows with every write
until the download ends (sqlite.org/wal.html, “Avoiding Excessively Large WAL Files”); on PostgreSQL it holds back
vacuum.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice
from typing import Any

from django.db.models import QuerySet
from django.db.models.sql.where import WhereNode

ROWS_PER_PAGE = 500


def in_pages(rows: QuerySet[Any], *, size: int = ROWS_PER_PAGE) -> Iterator[Any]:
    """The rows, in the order of the query. Each page of `size` rows is a query of its own, which is read to its end.

    The keys are read first, with one query, and kept as bytes (about 35 for each deployment), because a list may be in
    any order. A row that is deleted before its page is read is left out; a row that is added is not in the file.
    """
    key = rows.model._meta.pk
    keys = io.BytesIO()
    for pk in rows.values_list("pk", flat=True).iterator(chunk_size=5000):
        keys.write(f"{pk}\n".encode())
    keys.seek(0)
    # Without the conditions of the list: SQLite would search, for example, the index of the status instead of the keys.
    by_key = rows.order_by()
    by_key.query.where = WhereNode()
    while lines := list(islice(keys, size)):
        page = [key.to_python(line[:-1].decode()) for line in lines]
        found = {row.pk: row for row in by_key.filter(pk__in=page)}
        yield from (found[pk] for pk in page if pk in found)
