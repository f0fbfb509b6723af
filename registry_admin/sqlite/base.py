"""Django's backend for SQLite, with writers that wait in turn, and a file that only its owner can read.

SQLite has one writer at a time. Its own waiting sleeps up to 100 ms between two tries, so with 16 writers the unlucky
ones waited for more than a second. Here the writers of a process wait for a lock of ours, and only the one that has it
tries to write, every WAIT_SECONDS until the `timeout` of the settings: the processes are few (D-sqlite-writers).

A new database file gets the mode 0600, and SQLite gives its mode to the files -wal, -shm and -journal beside it. The
file has sessions and encrypted secrets, and under the usual umask every user of the host could read it. The umask
of the process stays as it is. An existing file keeps its mode: the check deployments.W013 warns of it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from django.db.backends.sqlite3 import base

WAIT_SECONDS = 0.001
_READS = ("SELECT", "PRAGMA", "EXPLAIN")

_writer = threading.Lock()  # of the one database file of this process


def _forked() -> None:
    """In a child: the thread that held the lock is not there."""
    global _writer
    _writer = threading.Lock()


os.register_at_fork(after_in_child=_forked)


class _Connection(sqlite3.Connection):
    """A connection to a file, on which a transaction and a statement without one wait for their turn to write."""

    timeout = 0.0  # seconds
    _held: threading.Lock | None = None  # the lock, while a transaction of this connection is open

    def take_turn(self, statement: str, run: Callable[[], Any]) -> Any:
        """`run` the statement when no other connection writes. Raises OperationalError after `timeout` seconds."""
        until = time.monotonic() + self.timeout
        if self.in_transaction:
            try:
                return self._tried(run, until)
            finally:
                self.end_turn()  # if the statement ended the transaction
        if statement.lstrip()[:7].upper().startswith(_READS):
            return self._tried(run, until)
        lock = _writer
        if not lock.acquire(timeout=self.timeout):
            raise sqlite3.OperationalError("database is locked")
        try:
            return self._tried(run, until)
        finally:
            if self.in_transaction:
                self._held = lock
            else:
                lock.release()

    def _tried(self, run: Callable[[], Any], until: float) -> Any:
        while True:
            try:
                return run()
            except sqlite3.OperationalError as error:
                # BUSY_SNAPSHOT has the same last byte, and ends only with the transaction.
                code = getattr(error, "sqlite_errorcode", 0)
                busy = code & 0xFF == sqlite3.SQLITE_BUSY and code != sqlite3.SQLITE_BUSY_SNAPSHOT
                if not busy or time.monotonic() > until:
                    raise
            time.sleep(WAIT_SECONDS)

    def end_turn(self) -> None:
        """After a transaction: let the next one write."""
        if self._held is not None and not self.in_transaction:
            held, self._held = self._held, None
            held.release()

    def commit(self) -> None:
        try:
            # Without WAL (on a file system that has none), readers can keep a commit waiting.
            self._tried(super().commit, time.monotonic() + self.timeout)
        finally:
            self.end_turn()

    def rollback(self) -> None:
        try:
            super().rollback()
        finally:
            self.end_turn()

    def close(self) -> None:
        try:
            super().close()
        finally:
            if self._held is not None:
                held, self._held = self._held, None
                held.release()


@lru_cache(maxsize=256)
def _converted(query: str) -> str:
    """The statement with “?” for each “%s”. The same few statements come again and again."""
    convert: Any = base.SQLiteCursorWrapper.convert_query  # it uses nothing of its cursor
    converted: str = convert(None, query)
    return converted


class _Cursor(base.SQLiteCursorWrapper):
    def convert_query(self, query: Any, *, param_names: Any = None) -> Any:
        if param_names is None:
            return _converted(query)
        return super().convert_query(query, param_names=param_names)

    def execute(self, query: Any, params: Any = None) -> Any:
        connection: Any = self.connection
        return connection.take_turn(query, lambda: super(_Cursor, self).execute(query, params))

    def executemany(self, query: Any, param_list: Any) -> Any:
        connection: Any = self.connection
        given = list(param_list)
        return connection.take_turn(query, lambda: super(_Cursor, self).executemany(query, given))


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: Any) -> Any:
        """The connection, to a file that is made before SQLite would make it."""
        name = str(self.settings_dict["NAME"])
        if name == ":memory:" or name.startswith("file:"):
            return super().get_new_connection(conn_params)
        with contextlib.suppress(OSError):  # it exists, or cannot be made: then SQLite's own error says so
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        connection = super().get_new_connection({**conn_params, "factory": _Connection})
        connection.timeout = float(conn_params.get("timeout", 5))
        connection.execute("PRAGMA busy_timeout = 0")  # not before: the initial statements wait as SQLite does
        return connection

    def create_cursor(self, name: Any = None) -> Any:
        """A cursor that waits for its turn."""
        factory = _Cursor if isinstance(self.connection, _Connection) else base.SQLiteCursorWrapper
        return self.connection.cursor(factory=factory)
