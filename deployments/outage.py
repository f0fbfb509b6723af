"""An outage of the database: which errors mean an outage, and one log line per process instead of many.

During an outage, every loop of every process fails at each attempt and would log a traceback each time. The handler
here (LOGGING in the settings) writes the first of these records as one line without a traceback, and one more line
every ten minutes (a read-only database keeps its connections, so the end of that outage is not always noticed). It
drops the other records until this process connects again; then it logs the duration and the number of dropped records.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from django.db import Error, InterfaceError, InternalError, OperationalError
from django.db.backends.signals import connection_created

from deployments.log import get_logger, replaced

log = get_logger(__name__)

#: Prefixes of PostgreSQL's SQLSTATE: connection exceptions; the server shuts down, crashed or starts; too many
#: connections.
_AWAY = ("08", "57P", "53300")
_AGAIN_SECONDS = 600.0
_READ_ONLY = "25006"  # SQLSTATE of a write on a standby server


def is_outage(error: BaseException | None) -> bool:
    """Whether the error means that PostgreSQL does not answer or is read-only.

    Not an outage: a lock or statement timeout, and every error of SQLite.
    """
    if is_read_only(error):
        return True
    if not isinstance(error, InterfaceError | OperationalError):
        return False
    cause = error.__cause__
    if cause is None or not hasattr(cause, "sqlstate"):  # only psycopg's errors have an SQLSTATE
        return False
    state = cause.sqlstate  # None: the connection could not be made, or it broke
    return state is None or str(state).startswith(_AWAY)


def is_read_only(error: BaseException | None) -> bool:
    """Whether the error means that PostgreSQL is read-only."""
    return isinstance(error, InternalError) and getattr(error.__cause__, "sqlstate", None) == _READ_ONLY


def words(error: Error) -> str:
    """The message of the database driver as one line of at most 300 characters. It has the server, never a password."""
    return " ".join(str(error).split())[:300]


class OneLineHandler(logging.StreamHandler[Any]):
    """Writes records to standard error. During a database outage it writes one line at the start and one at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._since: float | None = None  # monotonic start of the outage; None: no outage is known
        self._last_line_at = 0.0  # monotonic
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Called under the handler's lock."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, Error) or not is_outage(error):
            super().emit(record)
        elif self._since is None or time.monotonic() - self._last_line_at > _AGAIN_SECONDS:
            self._last_line_at = time.monotonic()
            if self._since is None:
                self._since, self._left_out = self._last_line_at, 0
                connection_created.connect(self._over)
            super().emit(
                replaced(
                    record,
                    "database.unreachable",
                    error=words(error),
                    during=record.getMessage().splitlines()[0],
                    then="further lines are dropped until the database answers",
                )
            )
        else:
            self._left_out += 1

    def _over(self, **kwargs: Any) -> None:
        self.acquire()
        try:
            since, self._since = self._since, None
            connection_created.disconnect(self._over)
        finally:
            self.release()
        if since is not None:
            seconds = round(time.monotonic() - since, 1)
            log.warning("database.answers_again", seconds=seconds, lines_left_out=self._left_out)
