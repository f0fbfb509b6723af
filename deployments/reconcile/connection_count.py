"""How many connections to PostgreSQL the processes open at most, and how many its server accepts.

A thread that reads or writes rows has a connection of its own and keeps it (CONN_MAX_AGE), so the number follows from
the processes and their threads; docs/sizing.md has the table. A test counts them with real processes.

PostgreSQL, “Connections and Authentication”: of `max_connections`, `superuser_reserved_connections` and (from 16 on)
`reserved_connections` are not for an ordinary role; `pg_database.datconnlimit` and `pg_roles.rolconnlimit` limit one
database and one role (-1: no limit).
"""

from __future__ import annotations

import socket
from collections import Counter

from django.conf import settings
from django.db import Error, connection, connections

from deployments.log import get_logger
from deployments.models import ProcessRole
from deployments.reconcile import processes
from deployments.reconcile.chunks import THREADS_PER_CHUNK

log = get_logger(__name__)

HEARTBEAT = 1  # a thread of each process of ours that has a row
#: The supervisor; the main process, the sentinel, the monitor and the pusher of django-q2; each process that runs
#: tasks, with the threads of a sweep.
WORKER = 1 + 4 + settings.Q_CLUSTER["workers"] * (1 + HEARTBEAT + THREADS_PER_CHUNK)
EVENTS = 1 + HEARTBEAT
COMMAND = 1  # a doctor, a migration, a shell

_QUERY = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true), '0')::int,
       (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user)
"""


def needed(counted: Counter[str], *, threads: int) -> int:
    """The connections of the counted processes, all busy. `threads`: of each web process."""
    web = counted["web"] * (threads + HEARTBEAT)
    return int(web + counted["worker"] * WORKER + counted["events"] * EVENTS + COMMAND)


def are_shared() -> bool:
    """Whether a pooler stands before the server, as DATABASE_URL says."""
    return bool(connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"))


def accepted() -> int | None:
    """How many connections the server accepts from this role. None: SQLite, or a pooler.

    Raises django.db.Error.
    """
    if connection.vendor != "postgresql" or are_shared():
        return None
    with connection.cursor() as cursor:
        cursor.execute(_QUERY)
        limits = cursor.fetchone() or ()
    return min((int(limit) for limit in limits if limit >= 0), default=None)


def running(**starting: int) -> Counter[str]:
    """The processes that run, by role. `starting`: by role, those that this host starts in place of its own."""
    host = socket.gethostname()
    rows = processes.seen(ProcessRole.WEB, ProcessRole.WORKER, ProcessRole.EVENTS).alive
    counted = Counter(row.role for row in rows if row.host != host or row.role not in starting)
    counted.update(starting)
    return counted


def shortage(counted: Counter[str], *, threads: int) -> str:
    """A sentence if the server accepts fewer connections than the processes need; empty if they are enough.

    Raises django.db.Error.
    """
    limit = accepted()
    wanted = needed(counted, threads=threads)
    if limit is None or wanted <= limit:
        return ""
    return (
        f"The processes need up to {wanted} connections to the database ({words(counted, threads=threads)}), and the "
        f"server accepts {limit} from this role. With more, requests are answered with 503."
    )


NEXT_STEP = (
    "Raise max_connections of the server, lower WEB_CONCURRENCY or WEB_THREADS, or use a pooler (docs/sizing.md)."
)


def words(counted: Counter[str], *, threads: int) -> str:
    """What the number is made of, for example “2 web processes with 8 threads, 1 worker, 0 events processes”."""
    web = f"{counted['web']} web process{'es' * (counted['web'] != 1)} with {threads} threads"
    worker = f"{counted['worker']} worker{'s' * (counted['worker'] != 1)}"
    return f"{web}, {worker}, {counted['events']} events process{'es' * (counted['events'] != 1)}"


def warn(*, threads: int, **starting: int) -> None:
    """At the start of a process: log a shortage. Closes the connection that it opened, because gunicorn forks next."""
    try:
        if says := shortage(running(**starting), threads=threads):
            log.warning("database.too_few_connections", says=says, then=NEXT_STEP)
    except Error:
        pass  # the start itself reports a database that does not answer
    finally:
        connections.close_all()
