"""The database's clock. Deadlines, expiries and days in rows are written and compared by this clock only, so a host
whose own clock is wrong cannot end a deployment early or accept an expired key.

In a query, use Django's `Now()` (and `Now() + timedelta`). This module is for Python code that needs the time itself.
"""

from __future__ import annotations

from datetime import UTC, datetime

from django.db import connection

#: SQL for the current time, and for the current day in UTC as YYYYMMDD, by database. SQLite uses the clock of its host.
#: The texts are for cursor.execute() with parameters, so a `%` is written `%%`.
NOW = {"postgresql": "clock_timestamp()", "sqlite": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')"}
DAY = {
    "postgresql": "to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYYMMDD')",
    "sqlite": "strftime('%%Y%%m%%d', 'now')",
}


def now() -> datetime:
    """The current time by the clock of the database's host. One query."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {NOW[connection.vendor]}", [])
        return read(cursor.fetchone()[0])


def read(value: datetime | str) -> datetime:
    """A database's answer to `NOW` as a datetime. SQLite has no type for times and answers with text in UTC."""
    return datetime.fromisoformat(value).replace(tzinfo=UTC) if isinstance(value, str) else value
