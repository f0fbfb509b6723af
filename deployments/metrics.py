"""Metrics: `/metrics` for Prometheus, `/status.json` for other monitoring.

Off until METRICS_KEY is set; then a request must send this key. `samples` are read from the database at the request, so
all processes give the same numbers and a restart loses none. A scrape is about 15 short queries, none of which takes
longer with more deployments. The counters and durations are those of `deployments.measure`, and begin at the start of
the web process.
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Count, Max, Min
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from deployments import measure, tasks, worker
from deployments.deploys import tally
from deployments.measure import Sample
from deployments.models import (
    FINAL_STATUSES,
    DeliveryStatus,
    DeploymentStatus,
    ImageStatus,
    NotificationDelivery,
    PolicyVersion,
    ProcessRole,
    Repository,
    RepositoryStatus,
    Sweep,
    SweepStatus,
    VersionState,
)
from deployments.reconcile import change_feed, generation, image_states, processes, sweep_record, writes_pause
from registry_admin import versions


def samples(now: datetime | None = None) -> Iterator[Sample]:
    """All numbers. A number that is not known (no worker has run yet) is left out."""
    now = now or timezone.now()
    yield Sample(name="build_info", help="What runs here, in the labels; the value is 1.", value=1, labels=versions())
    by_status = tally.by_status()
    for status in DeploymentStatus:
        yield Sample(name="deployments", help="Deployments by status.", value=by_status[status],
                     labels={"status": status.value})  # fmt: skip
    going = sum(count for status, count in by_status.items() if status not in FINAL_STATUSES)
    yield Sample(name="deployments_in_progress", help="Deployments that have not ended.", value=going)
    rows: list[Any] = list(
        Repository.objects.order_by()
        .values("account", "region", "status")
        .annotate(
            of=Count("*"),
            drifted=Min("drifted_since"),
            incomparable=Count("incomparable_since"),
            checked=Min("last_checked_at"),
        )
    )
    for row in rows:
        yield Sample(name="repositories", help="Repositories by status.", value=row["of"],
                     labels={"account": row["account"], "region": row["region"], "status": row["status"]})  # fmt: skip
    drifts = [row["drifted"] for row in rows if row["status"] == RepositoryStatus.DRIFTED and row["drifted"]]
    yield Sample(name="drift_seconds", help="Age of the oldest drift that is not corrected; 0: none.",
                 value=_age(now, min(drifts)) if drifts else 0)  # fmt: skip
    yield Sample(name="policies_incomparable", help="Live repository policies that cannot be compared with the default "
                 "policy.", value=sum(row["incomparable"] for row in rows))  # fmt: skip
    images = image_states.current_images()
    for state in ImageStatus:
        yield Sample(name="environments", help="Environments by the state of their current image; unknown: AWS did not "
                     "say, or it was not checked yet.", value=images.by_state.get(state, 0),
                     labels={"image_state": state.value})  # fmt: skip
    if images.oldest_look is not None:
        yield Sample(name="oldest_image_look_seconds", help="Age of the oldest last check of a current image.",
                     value=_age(now, images.oldest_look))  # fmt: skip
    not_checked = (RepositoryStatus.UNMANAGED, RepositoryStatus.MISSING)
    checks = [row["checked"] for row in rows if row["status"] not in not_checked and row["checked"]]
    if checks:
        yield Sample(name="oldest_check_seconds", help="Age of the oldest last check of a repository.",
                     value=_age(now, min(checks)))  # fmt: skip
    done = Sweep.objects.filter(status=SweepStatus.DONE).aggregate(at=Max("finished_at"))["at"]
    if done is not None:
        yield Sample(name="last_sweep_seconds", help="Time since a sweep was completed.", value=_age(now, done))
    yield from _change_feeds(now)
    seen = processes.seen(*ProcessRole)
    workers = [row for row in seen.alive if row.role == ProcessRole.WORKER]
    beats = [row.beat_at for row in [*seen.alive, *seen.silent] if row.role == ProcessRole.WORKER]
    yield Sample(name="workers", help="Workers with a recent heartbeat.", value=len(workers))
    if beats:
        yield Sample(
            name="worker_heartbeat_seconds", help="Age of the newest heartbeat of a worker.", value=_age(now, beats[0])
        )
    roles = Counter(generation.running().values_list("role", flat=True))
    for role in generation.HOLDING:
        yield Sample(name="processes", help="Processes with a heartbeat within 15 seconds, by role.",
                     value=roles[role], labels={"role": role.value})  # fmt: skip
    alarms = Counter(alarm.code for alarm in generation.alarms())
    for code in ("conflict", "other", "unheld"):
        yield Sample(name="configuration_alarms", help="Alarms about configurations of running processes; "
                     "docs/configuration.md.", value=alarms[code],
                     labels={"code": code})  # fmt: skip
    yield from _roll_outs()
    yield Sample(name="writes_paused", help="1 while an operator has paused all writes to AWS.",
                 value=writes_pause.current() is not None)  # fmt: skip
    consumers = sum(row.role == ProcessRole.EVENTS for row in seen.alive)
    lost = any(row.role == ProcessRole.EVENTS for row in seen.silent) and not consumers
    yield Sample(name="events_processes", help="Processes that consume change events.", value=consumers)
    yield Sample(name="events_silent", help="1: the events process stopped without SIGTERM, and none runs.", value=lost)
    yield Sample(name="processes_in_trouble", help="Running processes that report trouble.",
                 value=sum(bool(row.trouble) for row in seen.alive))  # fmt: skip
    for row in seen.alive:
        labels = {"role": row.role, "host": row.host, "pid": str(row.pid)}
        yield Sample(name="clock_offset_seconds", help="How far the host's clock is ahead of the database's.",
                     value=row.clock_offset, labels=labels)  # fmt: skip
    late = tasks.latest_schedule()
    if late is not None:
        yield Sample(name="schedule_overdue_seconds", help="How late the most overdue schedule is; 0: none is overdue.",
                     value=max(0.0, late[1]))  # fmt: skip
    waiting = tasks.oldest_waiting()
    yield Sample(name="queue_wait_seconds", help="Waiting time of the oldest message of the queue.",
                 value=max(0.0, waiting or 0.0))  # fmt: skip
    # With every status named, the index of status and time is searched by both of its columns.
    recent = NotificationDelivery.objects.filter(
        status__in=DeliveryStatus.values, created_at__gte=now - NOTIFICATIONS_COUNTED
    )
    sent = dict(recent.order_by().values_list("status").annotate(of=Count("*")))
    for each in DeliveryStatus:
        yield Sample(name="notifications", help="Notifications of the last 30 days by status.",
                     value=sent.get(each, 0), labels={"status": each.value})  # fmt: skip


def _change_feeds(now: datetime) -> Iterator[Sample]:
    configuration = generation.shown(settings.CONFIGURATION)
    feeds = change_feed.states(configuration) if not configuration.problems else []
    for feed in feeds:
        labels = {"account": feed.account, "region": feed.region}
        yield Sample(name="change_feed_trusted", help="1: the change feed is proven: scheduled sweeps read a share.",
                     value=feed.trusted, labels=labels)  # fmt: skip
        if feed.delay is not None and feed.proven_at is not None:
            yield Sample(name="change_feed_delay_seconds", help="From the newest own read with an event to its event.",
                         value=feed.delay.total_seconds(), labels=labels)  # fmt: skip
            yield Sample(name="change_feed_proof_seconds", help="Age of the newest own read with an event.",
                         value=_age(now, feed.proven_at), labels=labels)  # fmt: skip
    if (share := sweep_record.last_share()) is not None:
        yield Sample(name="sweep_share", help="Part of the repositories that the newest scheduled sweep reads, 0 to 1.",
                     value=share[0] / share[1] if share[1] else 1.0)  # fmt: skip


def _age(now: datetime, moment: datetime) -> float:
    return max(0.0, (now - moment).total_seconds())


# -------------------------------------------------------------------------------------------------------------- views


def _admit(request: HttpRequest) -> HttpResponse | None:
    """None if the request sends METRICS_KEY, else a 401 answer. Raises Http404 if no key is set."""
    key: str = settings.METRICS_KEY
    if not key:
        raise Http404
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode()):
        return None
    return HttpResponse(status=401, headers={"WWW-Authenticate": "Bearer", "Cache-Control": "no-store"})


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """`/metrics`."""
    if refusal := _admit(request):
        return refusal
    accept = request.headers.get("Accept", "")
    text, content_type = measure.exposition(samples(), directory=settings.COUNTERS_DIRECTORY, accept=accept)
    return HttpResponse(text, content_type=content_type, headers=NO_STORE)


@require_safe
def status(request: HttpRequest) -> HttpResponse:
    """The numbers without labels as JSON.

    `ok`: a worker runs, the queue and the schedules are not late, and no events process was lost.
    """
    if refusal := _admit(request):
        return refusal
    found = {sample.name: round(sample.value, 1) for sample in samples() if not sample.labels}
    ok = (
        found["workers"] > 0
        and found["queue_wait_seconds"] < QUEUE_STUCK_SECONDS
        and found.get("schedule_overdue_seconds", 0) <= worker.OVERDUE_SECONDS
        and not found["events_silent"]
    )
    return JsonResponse({"ok": ok, **found}, headers=NO_STORE)


NO_STORE = {"Cache-Control": "no-store"}
NOTIFICATIONS_COUNTED = timedelta(days=30)
QUEUE_STUCK_SECONDS = 120.0


def _roll_outs() -> Iterator[Sample]:
    ended = [VersionState.SUPERSEDED, VersionState.UNDONE]
    for row in PolicyVersion.objects.exclude(state__in=ended):
        labels = {"account": row.account, "region": row.region, "namespace": row.namespace}
        yield Sample(name="policy_version", help="The number of each version of the default policy that is active, "
                     "waits, is rolled out or is stopped.", value=row.number,
                     labels={**labels, "state": row.state})  # fmt: skip
        if row.state == VersionState.ACTIVE:
            continue
        labels["version"] = str(row.number)
        yield Sample(name="rollout_stage", help="The stage of each unfinished roll-out: 0 the canaries, then the "
                     "batches.", value=row.stage, labels={**labels, "state": row.state})  # fmt: skip
        for state, count in row.steps.order_by().values_list("state").annotate(of=Count("*")):
            yield Sample(name="rollout_repositories", help="Repositories of unfinished roll-outs, by what was done.",
                         value=count, labels={**labels, "state": state})  # fmt: skip
