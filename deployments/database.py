"""The sentences for a database that does not answer or lacks our tables: the same in the API, its event stream, the
console and every command.
"""

from __future__ import annotations

import logging

from django.db import InterfaceError, OperationalError, ProgrammingError

from deployments.errors import Refusal, refusal
from deployments.outage import is_read_only

logger = logging.getLogger(__name__)

_MISSING = ("no such table", "no such column", "has no column named")  # SQLite's words; PostgreSQL has classes


def outage(error: BaseException) -> Refusal | None:
    """The sentence for an error of the database that is not the program's own; None for any other error.

    A lock that was not free in time (SQLite), a server that is gone or takes no writes (PostgreSQL, while another one
    takes its place), and tables that are not there yet.
    """
    if is_read_only(error):
        return refusal("database_read_only")
    if not isinstance(error, OperationalError | InterfaceError | ProgrammingError):
        return None
    undefined = type(error.__cause__).__name__ in ("UndefinedTable", "UndefinedColumn")
    if undefined or any(words in str(error) for words in _MISSING):
        return refusal("database_not_migrated")
    return None if isinstance(error, ProgrammingError) else refusal("database_unreachable")


def log_outage(error: BaseException, *, where: str, request_id: str = "") -> None:
    """One line without a traceback: each request during an outage logs one."""
    first_line = str(error).partition("\n")[0]
    logger.error("database.outage where=%s request_id=%s %s: %s", where, request_id, type(error).__name__, first_line)
