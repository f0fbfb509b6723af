"""A new database file gets the mode 0600, and SQLite gives its mode to the files -wal, -shm and -journal beside it.

The file has sessions and encrypted secrets, and under the usual umask every user of the host could read it. The umask
of the process stays as it is. An existing file keeps its mode: the check deployments.W013 warns of it.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from django.db.backends.sqlite3 import base


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: Any) -> Any:
        """The connection, to a file that is made before SQLite would make it."""
        name = str(self.settings_dict["NAME"])
        if name != ":memory:" and not name.startswith("file:"):
            with contextlib.suppress(OSError):  # it exists, or cannot be made: then SQLite's own error says so
                os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        return super().get_new_connection(conn_params)
