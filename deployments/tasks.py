"""The door to the queue: the only importer of django_q. What may run, how to ask for it, and the schedules.

The queue is a doorbell. A task carries no data: it looks up in our own tables what is to be done, so it may be lost,
late or run twice without harm. Schedules are declared here and brought into the table when a worker starts.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.db import connections, transaction
from django.utils import timezone
from django_q.cluster import Cluster
from django_q.models import Failure, OrmQ, Schedule
from django_q.signals import post_execute_in_worker, pre_execute
from django_q.tasks import async_task

from deployments import lifecycle, notify, sweeps
from deployments.models import ProcessRole, SweepTrigger
from deployments.reconcile import generation

log = logging.getLogger(__name__)

TASK_SECONDS = 45  # of the queue's 60: a task ends by itself before it is ended
DRAINS = 8  # doorbells at most in one ring; a task that finds nothing to do is over at once
TELL_SECONDS = 30  # the last message may take long: a mail server has a timeout for each of its steps
FAILURES_KEPT = timedelta(days=14)


# ---------------------------------------------------------------------------------------------------------- the tasks


def tick() -> None:
    """Every minute: what time alone brings about, and whatever a lost doorbell or a dead worker left undone."""
    timed_out = lifecycle.time_out_overdue()
    if timed_out:
        log.info("deployments.timed_out count=%d", timed_out)
    generation.settle()
    sweeps.close_finished()
    sweeps.forget_old()
    Failure.objects.filter(stopped__lt=timezone.now() - FAILURES_KEPT).delete()
    ring()
    # Last, so that nothing above waits for it; and the sending is a task of its own, because it waits for others.
    if notify.collect(configuration=settings.CONFIGURATION) and not waiting_tasks("tell"):
        async_task("deployments.tasks.tell")


def tell() -> None:
    """Send the notifications that are due."""
    notify.deliver(means=notify.Means.of(settings), seconds=TELL_SECONDS)


def sweep() -> None:
    """Every RECONCILE_INTERVAL_MINUTES: a sweep over all repositories, unless one is still going on."""
    sweeps.start(trigger=SweepTrigger.SCHEDULE)
    ring()


def drain() -> None:
    """Take pieces of running sweeps until the time is over; ring again when something is left."""
    if sweeps.work(configuration=settings.CONFIGURATION, seconds=TASK_SECONDS):
        ring()


def ring() -> None:
    """Ask the workers to drain: one task for each piece that nobody holds, unless as many are waiting already."""
    wanted = min(sweeps.open_work(), DRAINS) - waiting_tasks("drain")
    for _ in range(wanted):
        async_task("deployments.tasks.drain")


def tick_soon() -> None:
    """Have the first tick at once: a cluster looks at its schedules only half a minute after it has started."""
    async_task("deployments.tasks.tick")


def waiting_tasks(name: str) -> int:
    """How many tasks of this name wait and can be taken. One that a dead worker has taken does not count."""
    # The name is inside a signed pickle, which is read only as far as the queue's own code reads it anyway.
    claimable = OrmQ.objects.filter(lock__lt=timezone.now())[:100]
    return sum(1 for message in claimable if message.func() == f"deployments.tasks.{name}")


def oldest_waiting() -> float | None:
    """For how many seconds the oldest message that any worker could take has been waiting; None when none is."""
    first = OrmQ.objects.filter(lock__lt=timezone.now()).order_by("lock").values_list("lock", flat=True).first()
    return None if first is None else (timezone.now() - first).total_seconds()


# ---------------------------------------------------------------------------------------------------------- schedules


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """A schedule as it should be: its name, its task, and every how many minutes."""

    name: str
    task: str
    minutes: int


def schedules() -> tuple[Scheduled, ...]:
    interval = int(settings.CONFIGURATION.reconcile_interval.total_seconds() // 60)
    wanted = [Scheduled(name="registry-admin: tick", task="tick", minutes=1)]
    if interval:
        wanted.append(Scheduled(name="registry-admin: sweep", task="sweep", minutes=interval))
    return tuple(wanted)


def ensure_schedules() -> None:
    """Bring the schedule table to what is declared: one row each, however many workers start at once.

    Under a lock on a row that every installation has (two `get_or_create` from several hosts make duplicates), and
    on SQLite under the write lock that BEGIN IMMEDIATE takes. A schedule of ours that is not declared is deleted;
    one of somebody else's is not touched.
    """
    anchor = ContentType.objects.get_for_model(Schedule)
    with transaction.atomic():
        ContentType.objects.select_for_update().get(pk=anchor.pk)
        keep = []
        for wanted in schedules():
            function = f"deployments.tasks.{wanted.task}"
            values = {
                "func": function,
                "schedule_type": Schedule.MINUTES,
                "minutes": wanted.minutes,
                "repeats": -1,
                "args": None,
                "kwargs": None,
                "hook": None,
                "cluster": None,
            }
            row = Schedule.objects.filter(name=wanted.name).order_by("pk").first()
            if row is None:
                row = Schedule.objects.create(name=wanted.name, next_run=timezone.now(), **values)
            elif any(getattr(row, name) != value for name, value in values.items()):
                soonest = timezone.now() + timedelta(minutes=wanted.minutes)
                Schedule.objects.filter(pk=row.pk).update(**values, next_run=min(row.next_run, soonest))
            keep.append(row.pk)
        Schedule.objects.filter(name__startswith="registry-admin: ").exclude(pk__in=keep).delete()


# ------------------------------------------------------------------------------------------------------------ cluster


def run_cluster() -> None:
    """Be a cluster, until SIGTERM or until the supervisor at the other end of standard input is gone."""
    # Known settings register nothing. New ones (a setting's file has changed) do, as at every start.
    generation.register(settings.CONFIGURATION, role=ProcessRole.WORKER)
    connections.close_all()  # what follows forks
    cluster = Cluster()

    def follow() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    cluster.start()  # forks; a thread may only begin after it
    threading.Thread(target=follow, name="supervisor", daemon=True).start()
    if cluster.sentinel is not None:
        cluster.sentinel.join()


# -------------------------------------------------------------------------------------------------------------- pulse


def _pulse(sender: Any, **kwargs: Any) -> None:
    """Tell the supervisor of this cluster (deployments.worker) that a task began or ended."""
    if settings.WORKER_PULSE_FILE:
        Path(settings.WORKER_PULSE_FILE).touch()


pre_execute.connect(_pulse, dispatch_uid="registry-admin-pulse")
post_execute_in_worker.connect(_pulse, dispatch_uid="registry-admin-pulse")
