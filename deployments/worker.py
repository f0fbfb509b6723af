"""The worker's supervisor: runs django-q2's cluster as one unit, watches it, and starts it again when it is broken.

Why not the bare `qcluster`: its processes share queues guarded by locks. A process that is killed while it waits
holds such a lock for ever, and the cluster goes on saying “Working” without doing anything; a killed main process
leaves orphans. So here the cluster is one unit in a session of its own: when any of its processes dies, or when
messages wait and nothing starts, the whole session is ended and a new one begins. Nothing is lost by that: what is
to be done stands in our tables.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, connection, connections
from django.db.models.functions import Now

from deployments import tasks
from deployments.models import Process, ProcessRole
from deployments.reconcile import generation, processes
from deployments.reconcile.processes import clock_offset

log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
STALL_SECONDS = 30.0  # a message can be taken for so long, and this cluster has not touched a task for so long
GRACE_SECONDS = 70.0  # longer than a task may take, so that a stop lets it end
SKEW_WARN, SKEW_REFUSE = 2.0, 5.0  # seconds between this host's clock and the database's
TROUBLE_SECONDS = 3600.0  # for so long the heartbeat tells why the cluster was started again
SILENT = timedelta(minutes=2)  # a heartbeat older than this is of a worker that is gone


class WorkerRefused(Exception):
    """The worker must not start: its clock is wrong, or SQLite has a worker on another host already."""


@dataclass(slots=True, kw_only=True)
class Supervisor:
    """Keeps one cluster alive until it is told to stop."""

    stall_seconds: float = STALL_SECONDS
    beat_seconds: float = BEAT_SECONDS
    cluster: subprocess.Popen[bytes] | None = None
    members: set[int] = field(default_factory=set)  # the cluster's processes once it was complete
    stopping: bool = False
    started: float = 0.0
    restarts: int = 0
    trouble: str = ""
    pulse: Path = Path()  # touched by the cluster whenever a task begins or ends
    host: str = field(default_factory=socket.gethostname)

    def run(self) -> None:
        """Start, watch and restart until SIGTERM or SIGINT; returns when every process of the cluster is gone.

        Raises WorkerRefused when this host must not work.
        """
        self._require_fitness()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._stop)
        tasks.ensure_schedules()
        tasks.tick_soon()
        with tempfile.TemporaryDirectory(prefix="registry-admin-") as directory:
            self.pulse = Path(directory) / "pulse"
            self._supervise()

    def _supervise(self) -> None:
        self._start()
        try:
            while not self.stopping:
                self._pause(self.beat_seconds if self.members else 0.5)
                if self.stopping:
                    break
                try:
                    self._watch()
                except DatabaseError as error:
                    # The database is away. The cluster copes with that by itself; we look again in a moment.
                    log.warning("worker.database_unreachable error=%s", type(error).__name__)
                    connections.close_all()
        finally:
            self._end(grace=GRACE_SECONDS)
            self._sign_off()

    def _pause(self, seconds: float) -> None:
        """Sleep, but not through a stop: a sleep goes on after a signal was handled."""
        until = time.monotonic() + seconds
        while not self.stopping and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))

    def _stop(self, number: int, frame: object) -> None:
        self.stopping = True

    def _require_fitness(self) -> None:
        offset = clock_offset()
        if abs(offset) > SKEW_REFUSE:
            raise WorkerRefused(
                f"This host's clock is {offset:+.1f} seconds from the database's. The queue would run tasks twice. "
                "Set the clock (NTP), then start the worker again."
            )
        running = Process.objects.filter(role=ProcessRole.WORKER, ended_at=None, beat_at__gt=Now() - SILENT)
        others = running.exclude(host=self.host)
        if connection.vendor == "sqlite" and (other := others.first()) is not None:
            raise WorkerRefused(
                f"A worker on the host {other.host} uses this SQLite database already, and SQLite is for one host. "
                "Stop that one, or move to PostgreSQL (DATABASE_URL)."
            )

    def _start(self) -> None:
        self.pulse.touch()
        self.members = set()
        self.started = time.monotonic()
        self.cluster = subprocess.Popen(
            [sys.executable, str(settings.BASE_DIR / "manage.py"), "worker", "--cluster"],
            env={**settings.CHILD_ENVIRONMENT, "WORKER_PULSE_FILE": str(self.pulse)},
            stdin=subprocess.PIPE,  # it ends when the pipe does, so it does not outlive us however we die
            start_new_session=True,
        )
        log.info("worker.cluster_started pid=%d", self.cluster.pid)

    def _watch(self) -> None:
        trouble = self._trouble()
        if trouble and not self.stopping:
            log.error("worker.cluster_restarted reason=%s", trouble)
            self.restarts += 1
            self.trouble = trouble
            self._end(grace=5.0)
            self._start()
        self._beat()

    def _trouble(self) -> str:
        """What is wrong with the cluster, in words; empty when nothing is."""
        if self.cluster is None or self.cluster.poll() is not None:
            return "the cluster's main process is gone"
        alive = session_members(self.cluster.pid)
        if alive is not None:
            # Complete: main, sentinel, workers, monitor, pusher. Its processes never end in its normal life,
            # because recycling is switched off, so one that is gone died, perhaps with a lock in its hand.
            if not self.members and len(alive) >= 4 + settings.Q_CLUSTER["workers"]:
                self.members = alive
            if self.members - alive:
                return f"{len(self.members - alive)} of the cluster's processes died"
            if not self.members and time.monotonic() - self.started > 60:
                return "the cluster did not come up within a minute"
        idle = time.time() - self.pulse.stat().st_mtime
        waiting = tasks.oldest_waiting()
        if waiting is not None and min(waiting, idle) > max(self.stall_seconds, settings.Q_CLUSTER["timeout"] + 10):
            return f"tasks have been waiting for {waiting:.0f} seconds and none was started"
        return ""

    def _end(self, *, grace: float) -> None:
        """End the cluster's whole session: first asked, then killed. Only ever processes that we started."""
        if self.cluster is None:
            return
        session = self.cluster.pid
        until = time.monotonic() + grace
        while self.cluster.poll() is None:
            if time.monotonic() > until:
                log.warning("worker.cluster_killed after_seconds=%.0f", grace)
                break
            self.cluster.terminate()  # again and again: one that comes while it is starting may be lost
            try:
                self.cluster.wait(1)
            except subprocess.TimeoutExpired:
                pass
        # The main process may be gone while its children are not (they ignore that it died).
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
        self.cluster = None

    def _beat(self) -> None:
        offset = clock_offset()
        if abs(offset) > SKEW_WARN:
            self.trouble = f"This host's clock is {offset:+.1f} seconds from the database's."
            log.warning("worker.clock_skew seconds=%.1f", offset)
        elif time.monotonic() - self.started > TROUBLE_SECONDS:
            self.trouble = ""
        values = {
            "last_task_at": datetime.fromtimestamp(self.pulse.stat().st_mtime, tz=UTC),
            "restarts": self.restarts,
            "trouble": self.trouble,
        }
        if not processes.beat(**values):  # the first beat, or a database that was restored meanwhile
            processes.start(ProcessRole.WORKER, configuration=generation.held)
            processes.beat(**values)
        generation.forget_old(kept=processes.KEPT)

    def _sign_off(self) -> None:
        try:
            processes.end()
        except DatabaseError:
            pass  # it will be told from a killed one by nobody, and forgotten by its age


def session_members(session: int) -> set[int] | None:
    """The processes of a session that are alive, zombies not counted. None where there is no /proc (not Linux)."""
    proc = Path("/proc")
    if not (proc / "self" / "stat").exists():
        return None
    members = set()
    for entry in proc.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            # pid (name) state ppid pgrp session …; the name may hold anything, so cut behind its last bracket.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        if int(fields[3]) == session and fields[0] not in "ZX":
            members.add(int(entry.name))
    return members
