"""An outage of the database: what is one, and its single log line in each process.

While the database is away every loop of every process fails at each try, with a traceback each. The handler here
(LOGGING in the settings) writes the first of those records as one line without its traceback, and one more each ten
minutes (a database that takes no writes cuts no connection, so its end is not always seen). It leaves the others out
until this process makes a connection again, and then writes how long it took and how many it left out.
"""

from __future__ import annotations

import copy
import logging
import time
from typing import Any

from django.db import Error, InterfaceError, InternalError, OperationalError
from django.db.backends.signals import connection_created

#: SQLSTATE of PostgreSQL: connection exceptions, a server that shuts down, crashes or starts, too many connections.
_AWAY = ("08", "57P", "53300")
_AGAIN_SECONDS = 600.0
_READ_ONLY = "25006"  # a standby, or a primary that has become one


def is_outage(error: BaseException | None) -> bool:
    """Whether this is PostgreSQL being away, or taking no writes. Not: a lock or a statement that took too long, or
    anything of SQLite's."""
    if is_read_only(error):
        return True
    if not isinstance(error, InterfaceError | OperationalError):
        return False
    cause = error.__cause__
    if cause is None or not hasattr(cause, "sqlstate"):  # only psycopg's errors have it
        return False
    state = cause.sqlstate  # none: the connection could not be made, or broke
    return state is None or str(state).startswith(_AWAY)


def is_read_only(error: BaseException | None) -> bool:
    """Whether PostgreSQL takes no writes for now."""
    return isinstance(error, InternalError) and getattr(error.__cause__, "sqlstate", None) == _READ_ONLY


def words(error: Error) -> str:
    """One line of what the database's driver said; it names the server, never a password."""
    return " ".join(str(error).split())[:300]


class OneLineHandler(logging.StreamHandler[Any]):
    """Writes records to standard error, and of an outage of the database one line when it begins and one at its end."""

    def __init__(self) -> None:
        super().__init__()
        self._since: float | None = None  # monotonic; none: the database is not known to be away
        self._told = 0.0  # when the last line about it was written
        self._left_out = 0
        connection_created.connect(self._over, dispatch_uid=f"outage-{id(self)}")

    def emit(self, record: logging.LogRecord) -> None:
        """Called under the handler's lock."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, Error) or not is_outage(error):
            super().emit(record)
        elif self._since is None or time.monotonic() - self._told > _AGAIN_SECONDS:
            self._told = time.monotonic()
            if self._since is None:
                self._since, self._left_out = self._told, 0
            line = copy.copy(record)
            line.msg = "database.unreachable: %s Further lines about it are left out until it answers. While: %s"
            line.args = (words(error), record.getMessage().splitlines()[0])
            line.exc_info = line.exc_text = None
            super().emit(line)
        else:
            self._left_out += 1

    def _over(self, **kwargs: Any) -> None:
        self.acquire()
        try:
            since, self._since = self._since, None
        finally:
            self.release()
        if since is not None:
            logging.getLogger(__name__).warning(
                "database.answers_again seconds=%.1f lines_left_out=%d", time.monotonic() - since, self._left_out
            )
