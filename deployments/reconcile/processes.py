"""The rows of running processes: role, configuration, last heartbeat.

A process adds its row with `start`, sends a heartbeat every five seconds (`beat`; `keep_alive` does both), and records
its end with `end`. A process that is killed sends no more heartbeats, and its leases end after 15 seconds (`silent`).
All times are by the database's clock, so the clocks of hosts need not agree.

A process that never called `start` (most commands, the tests) has no row, so its leases end only by their own time.

`report_trouble` sets what is wrong with this process, in words; each heartbeat writes it to the row, after the trouble
with the host's clock. `seen` has the running and the silent processes, for pages; `unready` is for the probe of a host.
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
from django.db.models import Case, Exists, F, OuterRef, Q, QuerySet, When
from django.db.models.functions import Now

from deployments.log import get_logger
from deployments.models import ConfigurationGeneration, Process, ProcessRole
from registry_admin import VERSION

log = get_logger(__name__)

BEAT_SECONDS = 5.0
SILENT_SECONDS = 15.0  # after this time without a heartbeat, the leases of a process end
WRITE_SECONDS = 10.0  # after this time without a confirmed heartbeat, no request to AWS is sent (D-lease-process)
LONG_SILENCE = timedelta(minutes=2)  # a silence of this length is notified, also if the heartbeats return
ENDED_PROCESSES_KEPT_FOR = timedelta(days=1)  # how long the row of a process stays after its end
PROBE_SECONDS = 30.0  # after this time without a heartbeat, a probe reports the process as not ready
CLOCK_WARN_SECONDS = 5.0  # a clock that is off by more is reported on the process's row and on pages
CLOCK_STOP_SECONDS = 60.0  # a worker whose clock is off by this much or more takes no work (D-worker-clock)
STOP_SECONDS = 8.0  # `worker` and `events` end within this time after SIGTERM

_mine: tuple[int, int] | None = None  # (pid, primary key); the pid tells a forked child from its parent
_confirmed_at = 0.0  # by `clock`: when the last heartbeat was sent that the database confirmed
_ended = False
_trouble: tuple[str, float | None] = ("", None)  # what is wrong with this process, and until when (monotonic)

# This clock also runs while the machine is suspended, so no heartbeat or lease seems younger than it is. Linux only.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def clock() -> float:
    """Seconds of a clock that never goes back, for durations within this process."""
    return time.clock_gettime(_CLOCK)


#: Functions that every process calls after each heartbeat.
after_beat: list[Callable[[], object]] = []


def start(role: ProcessRole, *, configuration: int | None = None) -> Process:
    """Add this process's row. `configuration`: key of the ConfigurationGeneration that it was started with.

    If the database was restored from a backup and lacks this configuration, the row names none.
    """
    global _mine, _confirmed_at, _trouble
    if _mine is not None and _mine[0] != os.getpid():
        _trouble = ("", None)  # a forked child has a copy of its parent's
    sent_at = clock()
    row = Process.objects.create(
        role=role,
        host=socket.gethostname(),
        pid=os.getpid(),
        version=VERSION,
        configuration=ConfigurationGeneration.objects.filter(pk=configuration or 0).first(),
        clock_offset=clock_offset(),
    )
    _mine, _confirmed_at = (os.getpid(), row.pk), sent_at
    return row


def current_id() -> int | None:
    """The key of this process's row; None if it has no row (a forked child has none of its own at first)."""
    return _mine[1] if _mine is not None and _mine[0] == os.getpid() else None


def report_trouble(trouble: str, *, seconds: float | None = None) -> None:
    """Set what is wrong with this process; empty: nothing.

    Heartbeats write it, for `seconds` or until the next call.
    """
    global _trouble
    _trouble = (trouble, None if seconds is None else time.monotonic() + seconds)


def beat(**values: Any) -> bool:
    """Send a heartbeat that also sets the columns `values`. False if this process has no row or has ended."""
    global _confirmed_at
    pk = current_id()
    if pk is None:
        return False
    sent_at = clock()
    offset = clock_offset()
    reported, until = _trouble
    trouble = [clock_words(offset), reported if until is None or time.monotonic() < until else ""]
    values = {"clock_offset": offset, "trouble": " ".join(filter(None, trouble)), **values}
    confirmed = bool(Process.objects.filter(pk=pk, ended_at__isnull=True).update(**_beat(), **values))
    if confirmed:
        _confirmed_at = max(_confirmed_at, sent_at)
    return confirmed


def may_write() -> bool:
    """Whether the leases of this process are still valid: its last heartbeat is recent, or it has no row.

    Makes no query. Called before each request to AWS under a lease.
    """
    return current_id() is None or (not _ended and clock() - _confirmed_at <= WRITE_SECONDS)


def beat_if_late() -> None:
    """Send a heartbeat now if the last one is old, as after a suspension or an outage. Called before taking a lease."""
    if not may_write():
        beat()


def end() -> None:
    """Record that this process ends: after SIGTERM, or because its work is done.

    This ends its leases, so it sends no more requests to AWS under a lease. If the database does not answer, nothing is
    recorded and the row becomes silent.
    """
    global _ended
    _ended = True
    pk = current_id()
    if pk is not None:
        with contextlib.suppress(Error):
            Process.objects.filter(pk=pk).update(**_beat(), ended_at=Now())


def _beat() -> dict[str, Any]:
    """The columns of a heartbeat. A long silence before it is recorded on the row, to be notified later."""
    silence = When(beat_at__lt=Now() - LONG_SILENCE, then=F("beat_at"))
    return {"beat_at": Now(), "silent_from": Case(silence, default=F("silent_from"))}


def keep_alive(
    role: ProcessRole,
    *,
    configuration: int | None = None,
    each: Callable[[], object] | None = None,
    lives: Callable[[], bool] = lambda: True,
) -> None:
    """Start a thread that adds this process's row and sends its heartbeats; `each` is called after every heartbeat.

    No heartbeat is sent while `lives` returns false, so that a process whose main thread hangs becomes silent.

    Returns at once and needs no database: the thread adds the row as soon as the database answers, and again if the row
    is gone (after a restore from a backup).
    """

    def run() -> None:
        trouble = ""
        while not _ended:
            try:
                if not lives():
                    pass
                elif not beat():
                    start(role, configuration=configuration)
                    if _ended:  # `end` was called in the meantime and did not see the new row
                        end()
                for call in (*after_beat, *([each] if each is not None else [])):
                    call()
                if trouble:
                    log.info("process.beats_again")
                trouble = ""
            except Error as error:
                if not trouble:  # one line for each outage
                    trouble = type(error).__name__
                    log.warning("process.cannot_beat", error=trouble, exc_info=error)
                connections.close_all()
            except Exception as error:
                # The thread continues: a process without heartbeats would never write to AWS again.
                if not trouble:
                    trouble = type(error).__name__
                    log.exception("process.heartbeat_failed")
            time.sleep(BEAT_SECONDS)

    threading.Thread(target=run, name="heartbeat", daemon=True).start()


def end_others(pids: Iterable[int], role: ProcessRole) -> None:
    """Record the end of processes on this host that the caller has seen end. Their leases end.

    If the database does not answer, nothing is recorded and the rows become silent.
    """
    rows = Process.objects.filter(role=role, host=socket.gethostname(), pid__in=list(pids), ended_at=None)
    with contextlib.suppress(Error):
        rows.update(ended_at=Now())


def exit_after(seconds: float, last: Callable[[], None]) -> None:
    """Call `last` and end this process with status 0 after so many seconds, even if its threads still wait.

    For SIGTERM: an answer of AWS or of the database may take longer than the service manager waits. `last` gets half a
    second.
    """

    def leave() -> None:
        time.sleep(seconds)
        log.warning(
            "process.ended_while_waiting",
            reason="a call was not answered in time; the next process repeats the call",
        )
        final = threading.Thread(target=last, daemon=True)
        final.start()
        final.join(0.5)
        os._exit(0)

    threading.Thread(target=leave, name="exit", daemon=True).start()


def silent() -> Q:
    """Condition for rows with a `lease_process` that has ended or sent no heartbeat for SILENT_SECONDS."""
    gone = Process.objects.filter(pk=OuterRef("lease_process")).filter(
        Q(beat_at__lt=Now() - timedelta(seconds=SILENT_SECONDS)) | Q(ended_at__isnull=False)
    )
    return Q(Q(lease_process__isnull=False) & Exists(gone))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The processes of some roles that did not record their end; the newest heartbeat first."""

    alive: list[Process]
    silent: list[Process]  # no heartbeat for LONG_SILENCE: killed, or without connection to the database


def seen(*roles: ProcessRole, limit: int = 100) -> Seen:
    """The running and the silent processes of these roles. One query; ages are by the database's clock."""
    rows: list[Any] = list(
        Process.objects.filter(role__in=roles, ended_at=None).annotate(db_now=Now()).order_by("-beat_at")[:limit]
    )
    return Seen(
        alive=[row for row in rows if row.beat_at > row.db_now - LONG_SILENCE],
        silent=[row for row in rows if row.beat_at <= row.db_now - LONG_SILENCE],
    )


def alive(role: ProcessRole) -> QuerySet[Process]:
    """The running processes of the role, as a query."""
    return Process.objects.filter(role=role, ended_at=None, beat_at__gt=Now() - LONG_SILENCE)


def silent_processes(role: ProcessRole) -> QuerySet[Process]:
    """The processes of the role that stopped without recording their end, as a query."""
    return Process.objects.filter(role=role, ended_at=None, beat_at__lte=Now() - LONG_SILENCE)


def with_wrong_clock() -> QuerySet[Process]:
    """The running processes whose clock is so far off that a worker takes no work, as a query."""
    wrong = Q(clock_offset__gte=CLOCK_STOP_SECONDS) | Q(clock_offset__lte=-CLOCK_STOP_SECONDS)
    return Process.objects.filter(wrong, ~Q(trouble=""), ended_at=None, beat_at__gt=Now() - LONG_SILENCE)


def absence(role: ProcessRole) -> str:
    """A sentence that no process of the role runs, and since when; empty if one runs. One query, or two."""
    if seen(role).alive:
        return ""
    row: Any = Process.objects.filter(role=role).annotate(db_now=Now()).order_by("-beat_at").first()
    if row is None:
        return f"No {role.label.lower()} has run in the last day."
    minutes = int((row.db_now - row.beat_at).total_seconds() // 60)
    since = f"{minutes:,} minute{'' if minutes == 1 else 's'}" if minutes else "less than a minute"
    return f"No {role.label.lower()} has been seen for {since}."


def unready(role: ProcessRole) -> str:
    """Why no process of the role is ready on this host, for a probe; empty if one is."""
    rows = Process.objects.filter(role=role, host=socket.gethostname(), ended_at=None)
    row = rows.filter(beat_at__gt=Now() - timedelta(seconds=PROBE_SECONDS)).order_by("-beat_at").first()
    if row is None:
        return f"No {role.label.lower()} process on this host sent a heartbeat in the last {PROBE_SECONDS:.0f} seconds."
    return clock_words(row.clock_offset) if abs(row.clock_offset) >= CLOCK_STOP_SECONDS else ""


def clock_words(offset: float) -> str:
    """A sentence about a clock that is `offset` seconds ahead of the database's; empty if the clock is right."""
    if abs(offset) <= CLOCK_WARN_SECONDS:
        return ""
    return f"This host's clock is {offset:+.1f} seconds from the database's: set it (NTP)."


def clock_offset() -> float:
    """The seconds that this host's clock is ahead of the database's. 0 on SQLite, which uses this host's clock."""
    if connection.vendor != "postgresql":
        return 0.0
    before = time.time()
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())")
        row = cursor.fetchone()
    return (before + time.time()) / 2 - float(row[0]) if row else 0.0
