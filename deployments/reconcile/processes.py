"""The rows of the running processes: what each one is, which configuration it holds, its last heartbeat.

A process registers itself with `start`, sends a heartbeat every five seconds (`beat`; `keep_alive` does both), and
records with `end` that it ended on purpose. The heartbeats of a process that is killed stop, and its leases end after
15 seconds (`silent`). All times are the database's clock, so hosts need not agree on the time.

A process that never called `start` (most commands, the tests) has no row, and its leases end by their own time only.

`say` sets what is wrong with a process, in words; each heartbeat writes it to the row, after what is wrong with the
host's clock. `seen` has the running and the silent processes, for the pages; `unready` is for one host's probe.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import Error, connection, connections
from django.db.models import Case, Exists, F, OuterRef, Q, When
from django.db.models.functions import Now

from deployments.log import get_logger
from deployments.models import ConfigurationGeneration, Process, ProcessRole
from registry_admin import VERSION

log = get_logger(__name__)

BEAT_SECONDS = 5.0
SILENT_SECONDS = 15.0  # without a heartbeat for so long a process holds no lease any more
WRITE_SECONDS = 10.0  # without a confirmed heartbeat: no request to AWS, 5 s before its leases end (D-lease-process)
LONG_SILENCE = timedelta(minutes=2)  # without a heartbeat: notified, also when the heartbeats return
ENDED_PROCESSES_KEPT_FOR = timedelta(days=1)  # rows of processes that ended, or whose heartbeats stopped
PROBE_SECONDS = 30.0  # without a heartbeat for so long a process is not ready for a probe
CLOCK_WARN_SECONDS = 5.0  # from here on the process's row and the pages show the difference
CLOCK_STOP_SECONDS = 60.0  # a worker that is off by so much or more takes no work (D-worker-clock)
STOP_SECONDS = 8.0  # from SIGTERM to the end of `worker` and `events`

_mine: tuple[int, int] | None = None  # (pid, primary key): a forked child is not its parent
_heard_at = 0.0  # by `clock`: before the last beat was sent that the database confirmed
_ended = False
_said: tuple[str, float | None] = ("", None)  # what is wrong with this process, and until when (monotonic) that counts

# It goes on while a machine is suspended, so that no heartbeat or lease seems younger than it is. Linux only.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def clock() -> float:
    """Seconds, for durations within this process only."""
    return time.clock_gettime(_CLOCK)


#: What every process does after each heartbeat, besides its own.
after_beat: list[Callable[[], object]] = []


def start(role: ProcessRole, *, configuration: int | None = None) -> Process:
    """Write this process's row. `configuration` is the key of the ConfigurationGeneration that it was started with; a
    database that was restored from a backup may not have that one, and the row names none then.
    """
    global _mine, _heard_at, _said
    if _mine is not None and _mine[0] != os.getpid():
        _said = ("", None)  # a fork has a copy of its parent's
    sent_at = clock()
    row = Process.objects.create(
        role=role,
        host=socket.gethostname(),
        pid=os.getpid(),
        version=VERSION,
        configuration=ConfigurationGeneration.objects.filter(pk=configuration or 0).first(),
        clock_offset=clock_offset(),
    )
    _mine, _heard_at = (os.getpid(), row.pk), sent_at
    return row


def current_id() -> int | None:
    """The key of this process's row; None where it never registered, or is a fork of one that did."""
    return _mine[1] if _mine is not None and _mine[0] == os.getpid() else None


def say(trouble: str, *, seconds: float | None = None) -> None:
    """Set what is wrong with this process, in sentences. Heartbeats write it, for `seconds` or until the next call."""
    global _said
    _said = (trouble, None if seconds is None else time.monotonic() + seconds)


def beat(**values: Any) -> bool:
    """Send a heartbeat that also sets these columns. False when this process has no row (any more), or ended."""
    global _heard_at
    pk = current_id()
    if pk is None:
        return False
    sent_at = clock()
    offset = clock_offset()
    said, until = _said
    trouble = [clock_words(offset), said if until is None or time.monotonic() < until else ""]
    values = {"clock_offset": offset, "trouble": " ".join(filter(None, trouble)), **values}
    heard = bool(Process.objects.filter(pk=pk, ended_at__isnull=True).update(**_beat(), **values))
    if heard:
        _heard_at = max(_heard_at, sent_at)
    return heard


def may_write() -> bool:
    """Whether this process's leases still stand as far as it knows: its last heartbeat is recent, or it has no row.

    Asks nobody. Before each request to AWS under a lease.
    """
    return current_id() is None or (not _ended and clock() - _heard_at <= WRITE_SECONDS)


def beat_if_late() -> None:
    """Before a lease is taken: after a suspension or an outage the next heartbeat may be seconds away."""
    if not may_write():
        beat()


def end() -> None:
    """Record that this process ends on purpose: after SIGTERM, or because its work is done.

    Its leases end with that, so it sends nothing to AWS under one any more. While the database is away nothing is said,
    and the row goes silent.
    """
    global _ended
    _ended = True
    pk = current_id()
    if pk is not None:
        with contextlib.suppress(Error):
            Process.objects.filter(pk=pk).update(**_beat(), ended_at=Now())


def _beat() -> dict[str, Any]:
    """The columns of a heartbeat. A long silence before it stays on the row, so that it is found later."""
    silence = When(beat_at__lt=Now() - LONG_SILENCE, then=F("beat_at"))
    return {"beat_at": Now(), "silent_from": Case(silence, default=F("silent_from"))}


def keep_alive(
    role: ProcessRole,
    *,
    configuration: int | None = None,
    each: Callable[[], object] | None = None,
    lives: Callable[[], bool] = lambda: True,
) -> None:
    """Register this process and have a thread beat until it ends; `each` is called after every beat.

    No beat is made while `lives` is false, so that a process whose main thread hangs goes silent.

    Returns at once and needs no database: the thread registers the process as soon as there is one, and again where
    its row is gone (a restored backup).
    """

    def run() -> None:
        trouble = ""
        while not _ended:
            try:
                if not lives():
                    pass
                elif not beat():
                    start(role, configuration=configuration)
                    if _ended:  # meanwhile, so that `end` has seen the old row only
                        end()
                for call in (*after_beat, *([each] if each is not None else [])):
                    call()
                if trouble:
                    log.info("process.beats_again")
                trouble = ""
            except Error as error:
                if not trouble:  # once for an outage
                    trouble = type(error).__name__
                    log.warning("process.cannot_beat", error=trouble, exc_info=error)
                connections.close_all()
            except Exception as error:
                # The thread goes on: a process without a beat would never write to AWS again.
                if not trouble:
                    trouble = type(error).__name__
                    log.exception("process.heartbeat_failed")
            time.sleep(BEAT_SECONDS)

    threading.Thread(target=run, name="heartbeat", daemon=True).start()


def end_others(pids: Iterable[int], role: ProcessRole) -> None:
    """Record the end of processes of this host that the caller has seen end: their leases end with them.

    While the database is away nothing is said, and their rows go silent.
    """
    rows = Process.objects.filter(role=role, host=socket.gethostname(), pid__in=list(pids), ended_at=None)
    with contextlib.suppress(Error):
        rows.update(ended_at=Now())


def exit_after(seconds: float, last: Callable[[], None]) -> None:
    """End this process with status 0 after so many seconds, whatever its threads wait for; `last` runs before.

    For SIGTERM: an answer of AWS or of the database may take longer than the service manager waits. `last` has half a
    second.
    """

    def leave() -> None:
        time.sleep(seconds)
        log.warning(
            "process.ended_while_waiting",
            reason="a call was not answered in time; it is made again by the next process",
        )
        final = threading.Thread(target=last, daemon=True)
        final.start()
        final.join(0.5)
        os._exit(0)

    threading.Thread(target=leave, name="exit", daemon=True).start()


def silent() -> Q:
    """Rows with a `lease_process` whose process ended, or sent no heartbeat for SILENT_SECONDS."""
    gone = Process.objects.filter(pk=OuterRef("lease_process")).filter(
        Q(beat_at__lt=Now() - timedelta(seconds=SILENT_SECONDS)) | Q(ended_at__isnull=False)
    )
    return Q(Q(lease_process__isnull=False) & Exists(gone))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The processes of a role that did not end on purpose, the latest heartbeat first."""

    alive: list[Process]
    silent: list[Process]  # no heartbeat for LONG_SILENCE: killed, or cannot reach the database


def seen(*roles: ProcessRole, limit: int = 100) -> Seen:
    """The running and the silent processes of these roles. One query; ages are by the database's clock."""
    rows: list[Any] = list(
        Process.objects.filter(role__in=roles, ended_at=None).annotate(db_now=Now()).order_by("-beat_at")[:limit]
    )
    return Seen(
        alive=[row for row in rows if row.beat_at > row.db_now - LONG_SILENCE],
        silent=[row for row in rows if row.beat_at <= row.db_now - LONG_SILENCE],
    )


def unready(role: ProcessRole) -> str:
    """Why this host has no process of the role that is ready to work, in words; empty when it has one."""
    rows = Process.objects.filter(role=role, host=socket.gethostname(), ended_at=None)
    row = rows.filter(beat_at__gt=Now() - timedelta(seconds=PROBE_SECONDS)).order_by("-beat_at").first()
    if row is None:
        return f"No {role.label.lower()} process on this host sent a heartbeat in the last {PROBE_SECONDS:.0f} seconds."
    return clock_words(row.clock_offset) if abs(row.clock_offset) >= CLOCK_STOP_SECONDS else ""


def clock_words(offset: float) -> str:
    """What is wrong with a clock that is so many seconds ahead of the database's; empty when nothing is."""
    if abs(offset) <= CLOCK_WARN_SECONDS:
        return ""
    return f"This host's clock is {offset:+.1f} seconds from the database's: set it (NTP)."


def clock_offset() -> float:
    """By how many seconds this host's clock is ahead of the database's. SQLite's clock is this host's."""
    if connection.vendor != "postgresql":
        return 0.0
    before = time.time()
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())")
        row = cursor.fetchone()
    return (before + time.time()) / 2 - float(row[0]) if row else 0.0
