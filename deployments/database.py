"""The sentences for a database that does not answer or lacks our tables.

The API, its event stream, the console and every command use the same sentences.
"""

from __future__ import annotations

import re
import sqlite3

from django.db import Error, InterfaceError, OperationalError, ProgrammingError, connection

from deployments.errors import Refusal, refusal
from deployments.log import get_logger
from deployments.outage import is_read_only, words

log = get_logger(__name__)

_FILE_FAULTS = {
    sqlite3.SQLITE_READONLY: "cannot be written. Let this user write the file and its folder.",
    sqlite3.SQLITE_PERM: "cannot be made. Let this user write its folder.",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened. Its folder must exist, and this user must be able to write there.",
    sqlite3.SQLITE_NOTADB: "is not a database of SQLite. Correct DATABASE_URL or STATE_DIR, or restore a backup.",
    sqlite3.SQLITE_CORRUPT: "is damaged. Restore a backup (docs/backup.md).",
    sqlite3.SQLITE_FULL: "cannot grow, because its disk is full.",
    sqlite3.SQLITE_IOERR: "cannot be read or written: its disk reports an error.",
}
#: SQLite's messages. psycopg has exception classes for these errors.
_MISSING = ("no such table", "no such column", "has no column named")

#: What PostgreSQL says of a connection that it will refuse again (PostgreSQL documentation, *Authentication Problems*).
_REFUSED = re.compile(
    r"FATAL: +(\w+ authentication failed|(role|user|database) .+ does not exist|no pg_hba\.conf entry)"
)


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
    if undefined or any(each in str(error) for each in _MISSING):
        return refusal("database_not_migrated")
    return None if isinstance(error, ProgrammingError) else refusal("database_unreachable")


def explained(error: BaseException) -> str | None:
    """A sentence for the person who typed a command; None for an error that may be a bug of this program."""
    # A fault of SQLite's file. Its code is the lowest byte of the extended one (sqlite.org/rescode.html).
    fault = _FILE_FAULTS.get(getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF)
    if fault is not None:
        return f"The database {connection.settings_dict['NAME']} {fault}"
    found = outage(error)
    if found is None or found.code != "database_unreachable" or not isinstance(error, Error):
        return found.sentence if found else None
    said = words(error)
    if _REFUSED.search(said):
        return f"The server's database refuses the connection. Correct DATABASE_URL, or make what it names. ({said})"
    return f"{found.sentence} ({said})"


def log_outage(error: BaseException, *, where: str) -> None:
    """Log one line without a traceback, because every request during an outage logs a line."""
    first_line = str(error).partition("\n")[0]
    log.error("database.outage", where=where, error=f"{type(error).__name__}: {first_line}")
