"""The door to the queue: the only importer of django_q. What may run, how to ask for it, and the schedules.

The queue is a doorbell. A task carries no data: it looks up in our own tables what is to be done, so it may be lost,
late or run twice without harm. Schedules are declared here and brought into the table when a worker starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.db import Error, connections, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone
from django_q.brokers.orm import ORM
from django_q.cluster import Cluster
from django_q.conf import Conf
from django_q.models import Failure, OrmQ, Schedule
from django_q.signals import post_execute_in_worker, pre_execute
from django_q.tasks import async_task

from deployments import outage
from deployments.deploys import lifecycle
from deployments.models import ProcessRole, SweepTrigger
from deployments.notify import deliveries, senders
from deployments.reconcile import generation, processes, sweep_record, sweeps

log = logging.getLogger(__name__)

TASK_SECONDS = 45  # of the queue's 60: a task ends by itself before it is ended
DRAIN_TASKS = 8  # doorbells at most in one ring; a task that finds nothing to do is over at once
TELL_SECONDS = 30  # the last message may take long: a mail server has a timeout for each of its steps
FAILURES_KEPT = timedelta(days=14)
TICK_TOLD_SECONDS = 150.0  # a failed step is reported until two more ticks have run
PREFIX = "registry-admin: "  # of the schedules' names
CLOCKS_APART_SECONDS = 60.0  # seconds that two workers' clocks may differ without one correcting the other's next run
ORPHAN_SECONDS = 8.0  # from the supervisor's end to that of its cluster
PR_SET_PDEATHSIG = 1  # prctl(2); D-parent-death


# ---------------------------------------------------------------------------------------------------------- the tasks


def _task(function: Callable[[], None]) -> Callable[[], None]:
    """A task does nothing on a host whose clock is wrong, and does not fail in an outage of the database.

    Nothing is lost by either: the next tick asks for whatever was left undone.
    """

    @functools.wraps(function)
    def run() -> None:
        try:
            if abs(offset := processes.clock_offset()) >= processes.CLOCK_STOP_SECONDS:
                log.error("tasks.clock_wrong task=%s seconds=%.1f: not run", function.__name__, offset)
                return
            function()
        except Error as error:
            if not outage.is_outage(error):
                raise
            log.warning("tasks.database_unreachable task=%s", function.__name__, exc_info=error)

    return run


@_task
def tick() -> None:
    """Every minute: what is due by time alone, and what a lost task or a killed worker left undone.

    Each step runs, also after another one failed; what failed is one log line each and on this process's heartbeat.
    """
    failed = [name for name, step in STEPS.items() if not _ran(name, step)]
    processes.say(f"Steps of the minute's tick failed: {', '.join(failed)}. The log has the reasons." * bool(failed),
                  seconds=TICK_TOLD_SECONDS)  # fmt: skip


def _ran(name: str, step: Callable[[], Any]) -> bool:
    try:
        step()
    except Exception as error:
        if outage.is_outage(error):
            raise  # every other step would meet the same
        log.exception("tick.failed step=%s", name)
        return False
    return True


def _time_out() -> None:
    timed_out = lifecycle.time_out_overdue()
    if timed_out:
        log.info("deployments.timed_out count=%d", timed_out)


def _forget_failures() -> None:
    Failure.objects.filter(stopped__lt=timezone.now() - FAILURES_KEPT).delete()


def _forget_sessions() -> None:
    import_module(settings.SESSION_ENGINE).SessionStore.clear_expired()


def _collect() -> None:
    """The sending is a task of its own, because it waits for mail servers and webhooks."""
    if deliveries.collect(configuration=settings.CONFIGURATION) and not waiting_tasks("tell"):
        async_task("deployments.tasks.tell")


@_task
def tell() -> None:
    """Send the notifications that are due."""
    deliveries.deliver(means=senders.DeliverySettings.of(settings), seconds=TELL_SECONDS, stopping=stopping)


@_task
def sweep() -> None:
    """Every RECONCILE_INTERVAL_MINUTES: a sweep over all repositories, unless one is still going on."""
    sweep_record.start(trigger=SweepTrigger.SCHEDULE)
    ring()


@_task
def drain() -> None:
    """Take pieces of running sweeps until the time is over; ring again when something is left."""
    if sweeps.work(configuration=settings.CONFIGURATION, seconds=TASK_SECONDS, stopping=stopping):
        ring()


def ring() -> None:
    """Ask the workers to drain: one task for each piece that nobody holds, unless as many are waiting already."""
    wanted = min(sweep_record.open_work(), DRAIN_TASKS) - waiting_tasks("drain")
    for _ in range(wanted):
        async_task("deployments.tasks.drain")


#: What a tick does, in this order. The last one makes no network call.
STEPS: dict[str, Callable[[], Any]] = {
    "time-outs": _time_out,
    "settling the configuration": lambda: generation.settle(),
    "ending sweeps": lambda: sweeps.close_finished(),
    "forgetting sweeps": lambda: sweep_record.forget_old(),
    "forgetting failed tasks": _forget_failures,
    "forgetting sessions": _forget_sessions,
    "asking for sweeps' work": ring,
    "notifications": _collect,
}


def tick_soon() -> None:
    """Have the first tick at once: a cluster looks at its schedules only half a minute after it has started."""
    async_task("deployments.tasks.tick")


def waiting_tasks(name: str) -> int:
    """How many tasks of this name wait and can be taken. One that a dead worker has taken does not count."""
    # The name is inside a signed pickle, which is read only as far as the queue's own code reads it anyway.
    claimable = OrmQ.objects.filter(lock__lt=Now())[:100]
    return sum(1 for message in claimable if message.func() == f"deployments.tasks.{name}")


def oldest_waiting() -> float | None:
    """For how many seconds the oldest message that any worker could take has been waiting; None when none is.

    By the database's clock, like everything that pages and alarms say.
    """
    rows = OrmQ.objects.filter(lock__lt=Now()).annotate(db_now=Now()).order_by("lock")
    first = rows.values_list("lock", "db_now").first()
    return None if first is None else (first[1] - first[0]).total_seconds()


# ---------------------------------------------------------------------------------------------------------- schedules


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """A schedule as it should be: its name, its task, and every how many minutes."""

    name: str
    task: str
    minutes: int


def schedules() -> tuple[Scheduled, ...]:
    interval = int(settings.CONFIGURATION.reconcile_interval.total_seconds() // 60)
    wanted = [Scheduled(name=f"{PREFIX}tick", task="tick", minutes=1)]
    if interval:
        wanted.append(Scheduled(name=f"{PREFIX}sweep", task="sweep", minutes=interval))
    return tuple(wanted)


def latest_schedule() -> tuple[str, float] | None:
    """The name of the declared schedule that is due for longest, and for how many seconds (negative: not yet).

    None where no worker has written them. By the database's clock.
    """
    rows: Any = Schedule.objects.filter(name__startswith=PREFIX, next_run__isnull=False).annotate(db_now=Now())
    first = rows.order_by("next_run").first()
    return None if first is None else (first.name, (first.db_now - first.next_run).total_seconds())


def ensure_schedules() -> None:
    """Bring the schedule table to what is declared: one row each, however many workers start at once.

    Under a lock on a row that every installation has (two `get_or_create` from several hosts make duplicates), and
    on SQLite under the write lock that BEGIN IMMEDIATE takes. A schedule of ours that is not declared is deleted. One
    of another program is set aside (`repeats` 0: the queue skips it) with a log line: the queue reads all rows
    in one go, so that a single one that it cannot read stops every other.
    """
    anchor = ContentType.objects.get_for_model(Schedule)
    with transaction.atomic():
        ContentType.objects.select_for_update().get(pk=anchor.pk)
        keep = []
        for wanted in schedules():
            values = {
                "func": f"deployments.tasks.{wanted.task}",
                "schedule_type": Schedule.MINUTES,
                "minutes": wanted.minutes,
                "repeats": -1,
                "args": None,
                "kwargs": None,
                "hook": None,
                "cluster": None,
                "cron": None,
                "intended_date_kwarg": None,
            }
            now = timezone.now()
            soonest = now + timedelta(minutes=wanted.minutes)
            row = Schedule.objects.filter(name=wanted.name).order_by("pk").first()
            if row is None:
                row = Schedule.objects.create(name=wanted.name, next_run=now, **values)
            elif row.next_run is None or row.next_run > soonest + timedelta(seconds=CLOCKS_APART_SECONDS):
                # Has no next run, or one that a wrong clock wrote.
                Schedule.objects.filter(pk=row.pk).update(**values, next_run=soonest)
            elif any(getattr(row, name) != value for name, value in values.items()):
                Schedule.objects.filter(pk=row.pk).update(**values, next_run=min(row.next_run, soonest))
            keep.append(row.pk)
        Schedule.objects.filter(name__startswith=PREFIX).exclude(pk__in=keep).delete()
        # Disabled, not deleted: D-foreign-schedules.
        foreign = list(Schedule.objects.exclude(pk__in=keep).exclude(repeats=0).filter(_ours_to_run())[:100])
        Schedule.objects.filter(pk__in=[row.pk for row in foreign]).update(repeats=0)
    for row in foreign:
        # Not its arguments, which may hold anything; they stay on the row.
        log.warning("schedules.set_aside id=%d name=%.100r function=%.100r", row.pk, row.name, row.func)


def _ours_to_run() -> Q:
    """The schedules that this cluster's queue reads: those of no cluster, and its own."""
    return Q(cluster=None) | Q(cluster=Conf.CLUSTER_NAME)


# ------------------------------------------------------------------------------------------------------------ cluster


class Queue(ORM):  # type: ignore[misc]  # it is not typed
    """The queue's access to the database, for all processes of a cluster: it waits during an outage.

    django-q2's own ends its process at the first error, which ends the cluster.
    """

    def dequeue(self) -> Any:
        try:
            return super().dequeue()
        except Error as error:
            if not outage.is_outage(error):
                raise
            log.warning("queue.database_unreachable", exc_info=error)
            time.sleep(Conf.POLL)
            return None

    def acknowledge(self, task_id: Any) -> Any:
        """A message that is not deleted is delivered again, which does no harm."""
        try:
            return super().acknowledge(task_id)
        except Error as error:
            if not outage.is_outage(error):
                raise
            log.warning("queue.database_unreachable", exc_info=error)
            return None


_stop = mmap.mmap(-1, 1)  # shared with the processes that are forked; without a lock, which a killed process would keep


def stopping() -> bool:
    """Whether this cluster has to end: a long task stops at its next safe point."""
    return _stop[0] != 0


class _Cluster(Cluster):  # type: ignore[misc]  # it is not typed
    def stop(self) -> Any:
        """Called by django-q2 on SIGTERM, which the supervisor sends again and again."""
        asked, _stop[0] = _stop[0], 1
        if self.sentinel is None:
            sys.exit(0)  # nothing was started yet
        return True if asked else super().stop()


def run_cluster() -> None:
    """Be a cluster, until SIGTERM or until the supervisor at the other end of standard input is gone."""
    # Known settings register nothing. New ones (a setting's file has changed) do, as at every start.
    generation.register(settings.CONFIGURATION, role=ProcessRole.WORKER)
    connections.close_all()  # what follows forks
    _bind_to_parent()
    cluster = _Cluster()

    def follow() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_SECONDS)
        os.killpg(0, signal.SIGKILL)  # the supervisor made us a session of our own

    cluster.start()  # forks; a thread may only begin after it
    threading.Thread(target=follow, name="supervisor", daemon=True).start()
    if cluster.sentinel is not None:
        cluster.sentinel.join()


def _bind_to_parent() -> None:
    """Have the kernel kill every process that is forked from here on when the one that forked it ends, so that none
    outlives the cluster's main process, however that ends. On Linux; elsewhere only the main process is followed.
    """
    if sys.platform != "linux":
        return
    prctl = ctypes.CDLL(None).prctl
    pid = os.getpid()

    def bind() -> None:
        nonlocal pid
        parent, pid = pid, os.getpid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the line above
            os._exit(1)

    os.register_at_fork(after_in_child=bind)


# -------------------------------------------------------------------------------------------------------------- pulse


def _pulse(sender: Any, **kwargs: Any) -> None:
    """Tell the supervisor of this cluster (deployments.worker) that a task began or ended."""
    if settings.WORKER_PULSE_PIPE:
        with contextlib.suppress(OSError):  # it is full, or the supervisor is gone
            os.write(int(settings.WORKER_PULSE_PIPE), b".")


def _register(sender: Any, **kwargs: Any) -> None:
    """Give a process of a cluster its row when it begins its first task: its leases end soon after it was killed."""
    if settings.WORKER_PULSE_PIPE and processes.current_id() is None:
        try:
            processes.start(ProcessRole.TASK, configuration=generation.held)
        except Error as error:
            log.warning("tasks.not_registered", exc_info=error)  # again at the next task
        else:
            processes.keep_alive(ProcessRole.TASK, configuration=generation.held)


pre_execute.connect(_pulse, dispatch_uid="registry-admin-pulse")
post_execute_in_worker.connect(_pulse, dispatch_uid="registry-admin-pulse")
pre_execute.connect(_register, dispatch_uid="registry-admin-register")
