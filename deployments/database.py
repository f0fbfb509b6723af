"""The sentences for a database that does not answer or lacks our tables.

The API, its event stream, the console and every command use the same sentences.
"""

from __future__ import annotations

from django.db import InterfaceError, OperationalError, ProgrammingError

from deployments.errors import Refusal, refusal
from deployments.log import get_logger
from deployments.outage import is_read_only

log = get_logger(__name__)

#: SQLite's messages. psycopg has exception classes for these errors.
_MISSING = ("no such table", "no such column", "has no column named")


def outage(error: BaseException) -> Refusal | None:
    """The Refusal for a database error that is not a bug of this program; None for any other error.

    Such errors are: a lock that was not free in time (SQLite), a server that does not answer or is read-only
    (PostgreSQL, during a failover), and tables or columns that do not exist yet.
    """
    if is_read_only(error):
        return refusal("database_read_only")
    if not isinstance(error, OperationalError | InterfaceError | ProgrammingError):
        return None
    undefined = type(error.__cause__).__name__ in ("UndefinedTable", "UndefinedColumn")
    if undefined or any(words in str(error) for words in _MISSING):
        return refusal("database_not_migrated")
    return None if isinstance(error, ProgrammingError) else refusal("database_unreachable")


def log_outage(error: BaseException, *, where: str) -> None:
    """Log one line without a traceback, because every request during an outage logs a line."""
    first_line = str(error).partition("\n")[0]
    log.error("database.outage", where=where, error=f"{type(error).__name__}: {first_line}")
