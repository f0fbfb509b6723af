"""Django's backend for PostgreSQL, with fewer statements for each request.

A connection that a thread keeps may be dead: PostgreSQL was restarted, or a firewall dropped the connection. Django
therefore runs `SELECT 1` at the start of each request. Here that query is left out if the connection was checked within
CHECKED_SECONDS and nothing arrived on it since: a server that ends a connection says so, and closes it
(D-database-round-trips).

`prepared_cursor` is for a statement that is sent over and over: PostgreSQL parses and plans it once a connection.
"""

from __future__ import annotations

import select
import time
from typing import Any

from django.db.backends.postgresql import base, operations

CHECKED_SECONDS = 5.0


class DatabaseOperations(operations.DatabaseOperations):
    def last_executed_query(self, cursor: Any, sql: str, params: Any) -> str:
        """The statement with its parameters, for the list of queries. psycopg does not keep a prepared one."""
        return str(super().last_executed_query(cursor, sql, params) or self.compose_sql(sql, params))


class DatabaseWrapper(base.DatabaseWrapper):
    ops_class = DatabaseOperations
    _checked_at = float("-inf")  # monotonic: when the connection was made, or last answered

    def get_new_connection(self, conn_params: Any) -> Any:
        """A new connection: it has just answered."""
        connection = super().get_new_connection(conn_params)
        self._checked_at = time.monotonic()
        return connection

    def is_usable(self) -> bool:
        """Whether the connection answers. Django asks at the start of a request, and after an error."""
        if time.monotonic() - self._checked_at < CHECKED_SECONDS and not self.errors_occurred and self._is_silent():
            return True
        usable = bool(super().is_usable())
        if usable:
            self._checked_at = time.monotonic()
        return usable

    def _is_silent(self) -> bool:
        """Whether nothing arrived on the idle connection. A server that ends it sends an error and closes it."""
        if self.connection is None or self.connection.closed:
            return False
        poll = select.poll()
        poll.register(self.connection.fileno(), select.POLLIN)
        return not poll.poll(0)

    def prepared_cursor(self) -> Any:
        """A cursor for statements that are sent over and over, with parameters that the server puts in.

        After a few times, psycopg prepares the statement on its connection (`prepare_threshold`), unless there is a
        pooler in between (`disable_server_side_cursors`), which may give the next statement to another connection.
        """
        self.close_if_health_check_failed()  # as `cursor()` does
        self.ensure_connection()
        with self.wrap_database_errors:
            cursor = base.ServerBindingCursor(self.connection)  # type: ignore[call-arg]
        return self._prepare_cursor(cursor)  # type: ignore[attr-defined]  # what `cursor()` calls
