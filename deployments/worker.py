"""The worker's supervisor: it runs django-q2's cluster as one unit, watches it, and restarts it when it is broken.

Why not `qcluster` alone: its processes share queues that are guarded by locks. A process that is killed while it waits
keeps such a lock without end, and the cluster goes on logging “Working” without doing anything; a killed main process
leaves orphans. So the cluster runs in a session of its own. When one of its processes dies, or messages wait and no
task starts, the supervisor ends the whole session and starts a new cluster. No work is lost, because our own tables say
what is to be done.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import Error, connection, connections
from django.db.models.functions import Now

from deployments import tasks
from deployments.log import get_logger
from deployments.models import ProcessRole
from deployments.reconcile import generation, processes
from deployments.reconcile.processes import CLOCK_STOP_SECONDS

log = get_logger(__name__)

BEAT_SECONDS = 5.0
#: The cluster is restarted if a message has been free to take for this long and no task has begun or ended for this
#: long.
STALL_SECONDS = 30.0
GRACE_SECONDS = 5.0  # tasks may take so long to reach a safe point; then they are killed (D-worker-stop)
SCHEDULES_SECONDS = 60.0  # how often the schedule table is checked
OVERDUE_SECONDS = 90.0  # a schedule that is overdue for longer is reported; a cluster reads schedules twice a minute
OVERDUE_RESTART_SECONDS = 300.0  # a schedule that is overdue for longer restarts the cluster
TROUBLE_SECONDS = 3600.0  # how long the heartbeat reports a restart of the cluster


class WorkerRefused(Exception):
    """The worker must not start: a worker on another host uses this SQLite database."""


@dataclass(slots=True, kw_only=True)
class Supervisor:
    """Keeps one cluster running until it is stopped, and no cluster while this host's clock is wrong.

    The queue compares its rows with the host's time. So a host with a wrong clock would take messages that another host
    has already taken, and start schedules early. The supervisor waits until the clock is right.
    """

    stall_seconds: float = STALL_SECONDS
    beat_seconds: float = BEAT_SECONDS
    cluster: subprocess.Popen[bytes] | None = None
    members: set[int] = field(default_factory=set)  # pids of the cluster, from the moment when all its processes ran
    stopping: bool = False
    started: float = 0.0
    restarts: int = 0
    restarted: str = ""  # the reason for the last restart
    pulse: int = -1  # read end of a pipe; the cluster writes a byte when a task begins or ends
    touched: float | None = None  # when the last byte came (monotonic)
    scheduled: float | None = None  # when the schedule table was last checked (monotonic)
    overdue_since: float | None = None  # when a schedule was first seen to be overdue (monotonic)
    host: str = field(default_factory=socket.gethostname)

    def run(self) -> None:
        """Start, watch and restart the cluster until SIGTERM or SIGINT; returns when all its processes have ended.

        Raises WorkerRefused if this host must not run a worker.
        """
        self._require_one_host()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._stop)
        try:
            while not self.stopping:
                try:
                    self._watch()
                except Error as error:
                    # The database does not answer. The cluster handles an outage by itself; try again in a moment.
                    log.warning("worker.database_unreachable", error=type(error).__name__, exc_info=error)
                    connections.close_all()
                self._pause(self.beat_seconds if self.members else 0.5)
        finally:
            self._end(grace=GRACE_SECONDS)
            processes.end()

    def _pause(self, seconds: float) -> None:
        """Sleep, and return early on a stop: `time.sleep` continues after a signal was handled."""
        until = time.monotonic() + seconds
        while not self.stopping and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))

    def _stop(self, number: int, frame: object) -> None:
        if not self.stopping:  # exit within STOP_SECONDS, even if the database does not answer
            processes.exit_after(processes.STOP_SECONDS - 1.5, self._leave)
        self.stopping = True

    def _leave(self) -> None:
        members = self.members
        if self.cluster is not None:
            members = members | (session_members(self.cluster.pid) or set())
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.cluster.pid, signal.SIGKILL)
        processes.end()
        processes.end_others(members, ProcessRole.TASK)

    def _require_one_host(self) -> None:
        others = processes.seen(ProcessRole.WORKER).alive
        other = next((row for row in others if row.host != self.host), None)
        if connection.vendor == "sqlite" and other is not None:
            raise WorkerRefused(
                f"A worker on the host {other.host} uses this SQLite database already, and SQLite is for one host. "
                "Stop that one, or move to PostgreSQL (DATABASE_URL)."
            )

    def _start(self) -> None:
        self.members = set()
        self.started = time.monotonic()
        self.touched = self.overdue_since = None
        self.pulse, written = os.pipe()
        for end in (self.pulse, written):
            os.set_blocking(end, False)  # so that neither a task nor this process ever waits for the pipe
        self.cluster = subprocess.Popen(
            [*settings.PROGRAM, "worker", "--cluster"],
            env={**settings.CHILD_ENVIRONMENT, "WORKER_PULSE_PIPE": str(written)},
            pass_fds=[written],
            stdin=subprocess.PIPE,  # the cluster ends when this pipe closes, so it ends with this process in any case
            start_new_session=True,
        )
        os.close(written)
        log.info("worker.cluster_started", pid=self.cluster.pid)

    def _watch(self) -> None:
        offset = processes.clock_offset()  # first: it raises in an outage, and then nothing may be started or ended
        right = abs(offset) < CLOCK_STOP_SECONDS
        if right:
            self._keep_schedules()
        overdue = self._overdue()
        if not right:
            if self.cluster is not None:
                log.error(
                    "worker.clock_wrong", seconds=round(offset, 1), then="it takes no work until the clock is right"
                )
                self._end(grace=GRACE_SECONDS)
        elif self.cluster is None:
            if not self.restarts:
                tasks.tick_soon()
            self._start()
        elif (trouble := self._trouble()) and not self.stopping:
            log.error("worker.cluster_restarted", reason=trouble)
            self.restarts += 1
            self.restarted = trouble
            self._end(grace=5.0)
            self._start()
        self._beat(overdue, right=right)

    def _keep_schedules(self) -> None:
        now = time.monotonic()
        if self.scheduled is None or now - self.scheduled >= SCHEDULES_SECONDS:
            tasks.ensure_schedules()
            self.scheduled = now

    def _overdue(self) -> str:
        """A sentence that names the overdue schedule; empty if none is overdue."""
        words = overdue_schedule()
        if not words:
            self.overdue_since = None
        elif self.overdue_since is None:
            self.overdue_since = time.monotonic()
        return words

    def _trouble(self) -> str:
        """Why the cluster must be restarted, as part of a sentence; empty if it works."""
        if self.cluster is None or self.cluster.poll() is not None:
            return "the cluster's main process is gone"
        alive = session_members(self.cluster.pid)
        if alive is not None:
            # All processes of a cluster: main, sentinel, workers, monitor, pusher. Recycling is off, so none of them
            # ends in normal operation. A process that is gone has died, perhaps while it held a lock.
            if not self.members and len(alive) >= 4 + settings.Q_CLUSTER["workers"]:
                self.members = alive
            if self.members - alive:
                return f"{len(self.members - alive)} of the cluster's processes died"
            if not self.members and time.monotonic() - self.started > 60:
                return "the cluster did not come up within a minute"
        idle = self._idle()
        waiting = tasks.oldest_waiting()
        if waiting is not None and min(waiting, idle) > max(self.stall_seconds, settings.Q_CLUSTER["timeout"] + 10):
            return f"tasks have been waiting for {waiting:.0f} seconds and none was started"
        if self.overdue_since is not None and time.monotonic() - self.overdue_since > OVERDUE_RESTART_SECONDS:
            return f"no schedule was started for {OVERDUE_RESTART_SECONDS / 60:.0f} minutes"
        return ""

    def _idle(self) -> float:
        """Seconds since a task of this cluster last began or ended, or since the start of the cluster."""
        with contextlib.suppress(BlockingIOError):
            if os.read(self.pulse, 65536):
                self.touched = time.monotonic()
        return time.monotonic() - (self.touched or self.started)

    def _end(self, *, grace: float) -> None:
        """End all processes of the cluster's session: SIGTERM first, SIGKILL after `grace` seconds."""
        if self.cluster is None:
            return
        session = self.cluster.pid
        members = self.members | (session_members(session) or set())
        until = time.monotonic() + grace
        while self.cluster.poll() is None:
            if time.monotonic() > until:
                log.warning("worker.cluster_killed", after_seconds=grace, then="other processes continue its work")
                break
            self.cluster.terminate()  # repeated, because a signal during the start of the cluster may be lost
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.cluster.wait(0.5)
        # The children of the main process may still run after it has died.
        for _ in range(20):
            try:
                os.killpg(session, signal.SIGKILL)
            except ProcessLookupError:
                break
            if self.cluster.poll() is not None and not session_members(session):
                break
            time.sleep(0.1)
        self.cluster.wait()
        if self.cluster.stdin is not None:
            self.cluster.stdin.close()
        os.close(self.pulse)
        self.cluster, self.members = None, set()
        processes.end_others(
            members, ProcessRole.TASK
        )  # so that their leases end now, not 15 s after the last heartbeat

    def _beat(self, overdue: str, *, right: bool) -> None:
        said = []
        if not right:
            said.append("This worker takes no work until the clock is right.")
        if overdue:
            said.append(overdue)
        if self.restarted and time.monotonic() - self.started < TROUBLE_SECONDS:
            said.append(f"The cluster was restarted, because {self.restarted}.")
        processes.report_trouble(" ".join(said))
        values: dict[str, Any] = {"restarts": self.restarts}
        if self.touched is not None:
            values["last_task_at"] = Now() - timedelta(seconds=time.monotonic() - self.touched)
        if not processes.beat(**values):  # the first heartbeat, or the database was restored from a backup
            processes.start(ProcessRole.WORKER, configuration=generation.held)
            processes.beat(**values)
        generation.forget_old(kept=processes.ENDED_PROCESSES_KEPT_FOR)


def overdue_schedule() -> str:
    """A sentence that names a schedule that is overdue by more than OVERDUE_SECONDS; empty if there is none."""
    late = tasks.latest_schedule()
    if late is None or late[1] <= OVERDUE_SECONDS:
        return ""
    name, seconds = late
    return f"The schedule “{name}” is overdue by {seconds:.0f} seconds: its task does not run."


def unready() -> str:
    """Why this host has no working worker, for a probe; empty if it has one."""
    return processes.unready(ProcessRole.WORKER) or overdue_schedule()


def session_members(session: int) -> set[int] | None:
    """The pids of a session's processes, without zombies. None where there is no /proc (not Linux)."""
    proc = Path("/proc")
    if not (proc / "self" / "stat").exists():
        return None
    members = set()
    for entry in proc.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            # pid (name) state ppid pgrp session …; the name may contain brackets, so split after the last one.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # the process has just ended
        if int(fields[3]) == session and fields[0] not in "ZX":
            members.add(int(entry.name))
    return members
