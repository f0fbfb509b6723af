"""The only importer of django_q: the tasks, how they are queued, and the schedules.

A task in the queue is a wake-up call. It carries no data: it reads from our own tables what is to be done. So it does
no harm if a task is lost, late or run twice. Schedules are declared here; a worker writes them to the schedule table.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.db import Error, connections, transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone
from django_q.brokers.orm import ORM
from django_q.cluster import Cluster
from django_q.conf import Conf
from django_q.models import Failure, OrmQ, Schedule
from django_q.signals import post_execute_in_worker, pre_execute
from django_q.tasks import async_task

from deployments import clock, outage, retention
from deployments.access import keys
from deployments.access.vault import Vault
from deployments.deploys import image_proof, lifecycle, tally
from deployments.log import bound, get_logger
from deployments.models import ProcessRole, SweepTrigger
from deployments.notify import channels, deliveries, senders
from deployments.reconcile import (
    change_feed,
    generation,
    ownership,
    processes,
    rollouts,
    sweep_record,
    sweeps,
)

log = get_logger(__name__)

TASK_SECONDS = 45  # a task stops by itself after this time; the queue kills it after 60
MAX_DRAIN_TASKS = 8  # at most so many drain tasks wait in the queue; a task that finds nothing to do ends at once
TELL_SECONDS = 30  # of TASK_SECONDS: the last message may take long, because each step with a mail server has a timeout
FAILURES_KEPT = timedelta(days=14)
FAILED_STEP_SHOWN_SECONDS = 150.0  # a failed step is on the heartbeat until two more ticks have run
PREFIX = "registry-admin: "  # names of our schedules begin with it
CLOCKS_APART_SECONDS = 60.0  # two workers' clocks may differ by this much before one corrects the other's next run
ORPHAN_SECONDS = 8.0  # from the end of the supervisor to the end of its cluster
PR_SET_PDEATHSIG = 1  # prctl(2); D-parent-death


# ---------------------------------------------------------------------------------------------------------- the tasks


def _task(function: Callable[[], None]) -> Callable[[], None]:
    """A task does nothing on a host whose clock is wrong, and does not fail during an outage of the database.

    No work is lost: the next tick queues a task for all work that is left.
    """

    @functools.wraps(function)
    def run() -> None:
        with bound(task=function.__name__, task_id=uuid.uuid4().hex):
            _run(function)

    return run


def _run(function: Callable[[], None]) -> None:
    try:
        if abs(offset := processes.clock_offset()) >= processes.CLOCK_STOP_SECONDS:
            log.error("tasks.clock_wrong", seconds=round(offset, 1), then="not run")
            return
        function()
    except Error as error:
        if not outage.is_outage(error):
            raise
        log.warning("tasks.database_unreachable", exc_info=error)


@_task
def tick() -> None:
    """Every minute: the work that is due by time, and the work that a lost task or a killed worker has left.

    Every step runs, also after another step failed. A failed step is logged and reported on this process's heartbeat.
    """
    failed = [name for name, step in STEPS.items() if not _ran(name, step)]
    processes.report_trouble(f"Steps of the tick failed: {', '.join(failed)}. The log has the errors." * bool(failed),
                  seconds=FAILED_STEP_SHOWN_SECONDS)  # fmt: skip


def _ran(name: str, step: Callable[[], Any]) -> bool:
    try:
        step()
    except Exception as error:
        if outage.is_outage(error):
            raise  # every other step would fail in the same way
        log.exception("tick.failed", step=name)
        return False
    return True


def _time_out() -> None:
    timed_out = lifecycle.time_out_overdue()
    if timed_out:
        log.info("deployments.timed_out", count=timed_out)


def _forget_failures() -> None:
    Failure.objects.filter(stopped__lt=timezone.now() - FAILURES_KEPT).delete()


def _forget_sessions() -> None:
    import_module(settings.SESSION_ENGINE).SessionStore.clear_expired()


def _forget_clients_of_keys() -> None:
    if clock.now().minute == 0:
        keys.forget_clients()


def _encrypt_addresses() -> None:
    if done := channels.encrypt_addresses(vault=Vault(settings.ENCRYPTION_KEYS)):
        log.info("channels.encrypted", count=done)


def _collect() -> None:
    """Record new notifications. They are sent by a task of its own, which waits for mail servers and webhooks."""
    if deliveries.collect(configuration=settings.CONFIGURATION) and not waiting_tasks("tell"):
        async_task("deployments.tasks.tell")


@_task
def tell() -> None:
    """Send the notifications that are due."""
    deliveries.deliver(delivery_settings=senders.DeliverySettings.of(settings), seconds=TELL_SECONDS, stopping=stopping)


@_task
def sweep() -> None:
    """Every RECONCILE_INTERVAL_MINUTES: start a sweep over all repositories, unless the last one still runs."""
    sweep_record.start(trigger=SweepTrigger.SCHEDULE)
    wake_workers()


@_task
def drain() -> None:
    """Work on running sweeps and roll-outs for TASK_SECONDS; queue wake-up tasks if work is left."""
    until = time.monotonic() + TASK_SECONDS
    while (seconds := until - time.monotonic()) > 0 and not stopping():
        own = settings.CONFIGURATION
        if sweeps.work(configuration=own, seconds=seconds, stopping=stopping, wake=wake_workers):
            break
        if not _roll_out(seconds):
            return
    wake_workers()


def _roll_out(seconds: float) -> bool:
    return rollouts.advance(
        configuration=settings.CONFIGURATION, trial=image_proof.try_pulls, seconds=seconds, stopping=stopping
    )


def _start_owed_sweep() -> None:
    """Start a sweep if a change feed has stopped being trusted; if a scheduled sweep runs, at a later tick."""
    if change_feed.sweep_is_owed(settings.CONFIGURATION) and sweep_record.start(trigger=SweepTrigger.SCHEDULE):
        log.warning("change_feed.lost")


def wake_workers() -> None:
    """Queue a drain task for each listing, chunk and roll-out that waits, at most MAX_DRAIN_TASKS in all."""
    wanted = min(sweep_record.open_work() + rollouts.due(), MAX_DRAIN_TASKS) - waiting_tasks("drain")
    for _ in range(wanted):
        async_task("deployments.tasks.drain")


#: The steps of a tick, in this order. The step `notifications` makes no network call.
STEPS: dict[str, Callable[[], Any]] = {
    "time-outs": _time_out,
    "filling repositories' management": lambda: ownership.fill(),
    "encrypting the addresses of webhooks": _encrypt_addresses,
    "settling the configuration": lambda: generation.settle(),
    "proposing versions of the policy": lambda: generation.propose_again(),
    "ending sweeps": lambda: sweeps.close_finished(),
    "watching the change feed": _start_owed_sweep,
    "forgetting sweeps": lambda: sweep_record.forget_old(),
    "forgetting failed tasks": _forget_failures,
    "forgetting sessions": _forget_sessions,
    "forgetting clients of keys": _forget_clients_of_keys,
    "deleting old rows": lambda: retention.prune_due(configuration=settings.CONFIGURATION, stopping=stopping),
    "counting deployments": lambda: tally.count(),
    "waking workers for sweeps": wake_workers,
    "notifications": _collect,
}


def tick_soon() -> None:
    """Queue a tick now: a cluster reads its schedules only half a minute after its start."""
    async_task("deployments.tasks.tick")


def waiting_tasks(name: str) -> int:
    """How many tasks of this name wait and can be taken. A task that a dead worker has taken does not count."""
    # The name is inside a signed pickle; OrmQ.func() is the queue's own code for reading it.
    claimable = OrmQ.objects.filter(lock__lt=Now())[:100]
    return sum(1 for message in claimable if message.func() == f"deployments.tasks.{name}")


def oldest_waiting() -> float | None:
    """Seconds that the oldest message that a worker could take has been waiting; None if there is no message.

    By the database's clock, like all times on pages and in alarms.
    """
    rows = OrmQ.objects.filter(lock__lt=Now()).annotate(db_now=Now()).order_by("lock")
    first = rows.values_list("lock", "db_now").first()
    return None if first is None else (first[1] - first[0]).total_seconds()


# ---------------------------------------------------------------------------------------------------------- schedules


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """A declared schedule: its name, the name of its task, and its interval in minutes."""

    name: str
    task: str
    minutes: int


def schedules() -> tuple[Scheduled, ...]:
    """The declared schedules, by the settings of this process."""
    interval = int(settings.CONFIGURATION.reconcile_interval.total_seconds() // 60)
    wanted = [Scheduled(name=f"{PREFIX}tick", task="tick", minutes=1)]
    if interval:
        wanted.append(Scheduled(name=f"{PREFIX}sweep", task="sweep", minutes=interval))
    return tuple(wanted)


def latest_schedule() -> tuple[str, float] | None:
    """The declared schedule that is due first: its name, and the seconds since it was due (negative: not due yet).

    None if no worker has written the schedules yet. By the database's clock.
    """
    rows: Any = Schedule.objects.filter(name__startswith=PREFIX, next_run__isnull=False).annotate(db_now=Now())
    first = rows.order_by("next_run").first()
    return None if first is None else (first.name, (first.db_now - first.next_run).total_seconds())


def overdue(seconds: float) -> QuerySet[Any]:
    """The declared schedules that have been due for longer, as a query."""
    rows: QuerySet[Any] = Schedule.objects.all()
    return rows.filter(name__startswith=PREFIX, next_run__lt=Now() - timedelta(seconds=seconds))


def ensure_schedules() -> None:
    """Write the declared schedules to the schedule table: one row each, also if several workers start at once.

    It runs under a lock on a row that every installation has (`get_or_create` on two hosts can make duplicates); on
    SQLite, under the write lock of BEGIN IMMEDIATE. A schedule of ours that is not declared any more is deleted. A
    schedule of another program is disabled (`repeats` 0: the queue skips it) and logged: the queue reads all rows
    together, so one row that it cannot read would stop all schedules.
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
                # There is no next run, or a host with a wrong clock wrote it.
                Schedule.objects.filter(pk=row.pk).update(**values, next_run=soonest)
            elif any(getattr(row, name) != value for name, value in values.items()):
                Schedule.objects.filter(pk=row.pk).update(**values, next_run=min(row.next_run, soonest))
            keep.append(row.pk)
        Schedule.objects.filter(name__startswith=PREFIX).exclude(pk__in=keep).delete()
        # Disabled, not deleted: D-foreign-schedules.
        foreign = list(Schedule.objects.exclude(pk__in=keep).exclude(repeats=0).filter(_ours_to_run())[:100])
        Schedule.objects.filter(pk__in=[row.pk for row in foreign]).update(repeats=0)
    for row in foreign:
        # The arguments are not logged: they may contain secrets. They stay on the row.
        log.warning("schedules.set_aside", id=row.pk, name=row.name[:100], function=row.func[:100])


def _ours_to_run() -> Q:
    """The schedules that this cluster's queue reads: those without a cluster name, and those with this cluster's."""
    return Q(cluster=None) | Q(cluster=Conf.CLUSTER_NAME)


# ------------------------------------------------------------------------------------------------------------ cluster


class Queue(ORM):  # type: ignore[misc]  # django-q2 is not typed
    """The queue's access to the database, for all processes of a cluster. It waits during an outage.

    django-q2's own class ends its process at the first database error, which ends the cluster.
    """

    def dequeue(self) -> Any:
        """The next messages; None during an outage, after a pause."""
        try:
            return super().dequeue()
        except Error as error:
            if not outage.is_outage(error):
                raise
            log.warning("queue.database_unreachable", exc_info=error)
            time.sleep(Conf.POLL)
            return None

    def acknowledge(self, task_id: Any) -> Any:
        """Delete a message. During an outage it stays and is delivered again later, which does no harm."""
        try:
            return super().acknowledge(task_id)
        except Error as error:
            if not outage.is_outage(error):
                raise
            log.warning("queue.database_unreachable", exc_info=error)
            return None


_stop = mmap.mmap(-1, 1)  # shared with forked processes; no lock, because a killed process would keep it


def stopping() -> bool:
    """Whether this cluster has been asked to end: a long task then stops at its next safe point."""
    return _stop[0] != 0


class _Cluster(Cluster):  # type: ignore[misc]  # django-q2 is not typed
    def stop(self) -> Any:
        """Called by django-q2 on each SIGTERM; the supervisor sends several."""
        asked, _stop[0] = _stop[0], 1
        if self.sentinel is None:
            sys.exit(0)  # no other process was started yet
        return True if asked else super().stop()


def run_cluster() -> None:
    """Run a cluster until SIGTERM, or until the supervisor at the other end of standard input has ended."""
    # Settings that are known already add no row. Changed settings (of a changed file) do, as at every start.
    generation.register(settings.CONFIGURATION, role=ProcessRole.WORKER)
    connections.close_all()  # the next lines fork
    _bind_to_parent()
    cluster = _Cluster()

    def follow() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_SECONDS)
        os.killpg(0, signal.SIGKILL)  # only this cluster: the supervisor started it in a session of its own

    cluster.start()  # it forks, so no thread may start before it
    threading.Thread(target=follow, name="supervisor", daemon=True).start()
    if cluster.sentinel is not None:
        cluster.sentinel.join()


def _bind_to_parent() -> None:
    """From here on, the kernel kills a forked process when its parent ends, however the parent ends.

    So no process outlives the cluster's main process. Linux only; elsewhere nothing happens.
    """
    if sys.platform != "linux":
        return
    prctl = ctypes.CDLL(None).prctl
    pid = os.getpid()

    def bind() -> None:
        nonlocal pid
        parent, pid = pid, os.getpid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the line above
            os._exit(1)

    os.register_at_fork(after_in_child=bind)


# -------------------------------------------------------------------------------------------------------------- pulse


def _pulse(sender: Any, **kwargs: Any) -> None:
    """Report to the supervisor of this cluster (deployments.worker) that a task began or ended."""
    if settings.WORKER_PULSE_PIPE:
        with contextlib.suppress(OSError):  # the pipe is full, or the supervisor has ended
            os.write(int(settings.WORKER_PULSE_PIPE), b".")


def _register(sender: Any, **kwargs: Any) -> None:
    """Add a `Process` row before the first task of a process, so that its leases end soon if it is killed."""
    if settings.WORKER_PULSE_PIPE and processes.current_id() is None:
        try:
            processes.start(ProcessRole.TASK, configuration=generation.held)
        except Error as error:
            log.warning("tasks.not_registered", exc_info=error)  # tried again before the next task
        else:
            processes.keep_alive(ProcessRole.TASK, configuration=generation.held)


pre_execute.connect(_pulse, dispatch_uid="registry-admin-pulse")
post_execute_in_worker.connect(_pulse, dispatch_uid="registry-admin-pulse")
pre_execute.connect(_register, dispatch_uid="registry-admin-register")
