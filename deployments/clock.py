"""The database's clock. A row's deadline, expiry and day are written by, and compared with, this clock only, so
that a host whose own clock is wrong decides nothing.

In a query, use Django's `Now()` (and `Now() + timedelta`). This module is for where Python needs the time itself.
"""

from __future__ import annotations

from datetime import UTC, datetime

from django.db import connection

#: SQL for the present moment, and for its day in UTC as YYYYMMDD, for each database that we run on. SQLite's clock is
#: its host's. Written for cursor.execute() with parameters, which takes %% for one %.
NOW = {"postgresql": "clock_timestamp()", "sqlite": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')"}
DAY = {
    "postgresql": "to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYYMMDD')",
    "sqlite": "strftime('%%Y%%m%%d', 'now')",
}


def now() -> datetime:
    """The time of the database's host. One query."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {NOW[connection.vendor]}", [])
        return read(cursor.fetchone()[0])


def read(value: datetime | str) -> datetime:
    """What a database answers for `NOW`: SQLite knows no times, and answers with text in UTC."""
    return datetime.fromisoformat(value).replace(tzinfo=UTC) if isinstance(value, str) else value
