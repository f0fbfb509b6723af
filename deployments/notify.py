"""Telling people: what happened is found in the rows, written down once for each channel, and sent until it arrives.

Nothing that deploys or sweeps knows of this. `collect` looks, each minute, at what the last day left in the tables
and writes a delivery for each change of state that a channel wants and has not heard of; the delivery's unique key
makes looking again harmless, so there is no cursor that could be lost. `deliver` sends what is due, outside any
transaction. A delivery is claimed by a compare-and-set that also says when to try again: a worker that dies while it
sends costs a delay, and two workers never send one twice.

Many at once become one message: who wakes up to a thousand mails reads none of them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import smtplib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage
from django.core.validators import validate_email
from django.db import connection, transaction
from django.db.models import Exists, F, Max, OuterRef, Q, QuerySet
from django.urls import reverse

from deployments import clock, outbound, provisioning
from deployments.config import Configuration
from deployments.models import (
    AccessKey,
    ChannelKind,
    ConfigurationActivation,
    DeliveryStatus,
    Deployment,
    DeploymentStatus,
    EventKind,
    KeyKind,
    NotificationChannel,
    NotificationDelivery,
    Process,
    ProcessRole,
    Promotion,
    PromotionEvent,
    Repository,
    RepositoryEvent,
    RepositoryStatus,
    Sweep,
    SweepStatus,
    WritesPause,
)
from deployments.outbound import Undeliverable
from deployments.reconcile import generation
from deployments.reconcile.processes import LONG_SILENCE
from deployments.vault import Unreadable, Vault

log = logging.getLogger(__name__)

#: Event → what happened, as the boxes of a channel's form say it.
EVENTS = {
    "deployment.failed": "A deployment failed",
    "deployment.timed_out": "A deployment was not heard of in time",
    "deployment.promoted": "A deployment became current",
    "deployment.rolled_back": "An environment was rolled back",
    "repository.drifted": "A repository differs and is not put right",
    "repository.healed": "A repository's policy was changed and put right",
    "repository.failed": "A repository failed twice in a row",
    "repository.missing": "A repository is gone from the registry",
    "sweep.failed": "Sweeps began to fail",
    "worker.silent": "A worker is not heard of any more",
    "configuration.changed": "Another configuration counts",
    "configuration.disputed": "Processes disagree about the configuration, and a person has to decide",
    "writes.paused": "Writes to AWS were paused",
    "key.expiring": "An access key expires within a week",
}
TEST = "test"

LOOK_BACK = timedelta(hours=24)  # what is older when it is first seen is no news any more (D-no-cursor)
REFUSALS = 20  # in a row: then the receiver refuses everything, and its channel's turn ends
REFUSAL_SECONDS = 5.0  # spent on refused messages of one channel in one turn
RETRIES = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=30))
ATTEMPTS = len(RETRIES) + 1
MANY = 5  # messages of one event, in one look, that are sent one by one
DIGEST_EVERY = timedelta(minutes=10)
MOST = 5000  # rows of a kind that one look takes in
LONGEST_DEPLOY = timedelta(days=30)  # from its creation to its end: a time-out may be 7 days, and come late
KEY_WARNING = timedelta(days=7)
KEPT = timedelta(days=30)
IN_DIGEST = "in the message for many"

SIGNATURE_HEADER, TIMESTAMP_HEADER = "X-Registry-Admin-Signature", "X-Registry-Admin-Timestamp"
SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What sending needs of the installation."""

    vault: Vault = field(repr=False)
    allow_private: bool = False
    mail: bool = False  # a mail server is configured

    @classmethod
    def of(cls, settings: Any) -> Means:
        """Those of Django's settings."""
        return cls(
            vault=Vault(settings.ENCRYPTION_KEYS),
            allow_private=settings.NOTIFY_ALLOW_PRIVATE,
            mail=settings.MAIL_IS_CONFIGURED,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """A change of state. `key` names it for ever; `project` is the pk of the one that it is about."""

    event: str
    key: str
    at: datetime
    subject: str
    text: str
    path: str
    project: int | None = None
    data: dict[str, Any] = field(default_factory=dict)


# ----------------------------------------------------------------------------------------------------------- channels


def place(channel: NotificationChannel) -> str:
    """What a channel's secret is sealed to."""
    return f"notification channel {channel.pk}"


def new_secret() -> str:
    """A secret for the signature of a webhook."""
    return f"whsec_{secrets.token_urlsafe(32)}"


def shown(address: str) -> str:
    """A secret address, short enough that nobody can use it."""
    target = urlsplit(address)
    return f"{target.scheme}://{target.hostname}/…{target.path[-4:]}"


def set_address(channel: NotificationChannel, address: str, *, vault: Vault) -> None:
    """Set where a saved channel sends to. Slack's is a secret: it is sealed, and shown short."""
    if channel.kind == ChannelKind.SLACK:
        channel.secret = vault.seal(address, context=place(channel))
        address = shown(address)
    channel.address = address


def set_secret(channel: NotificationChannel, secret: str, *, vault: Vault) -> None:
    """Set the secret that a saved webhook's messages are signed with."""
    channel.secret = vault.seal(secret, context=place(channel))


def problem_of(kind: str, address: str, *, allow_private: bool) -> str:
    """What is wrong with a new address, in a sentence; empty when nothing is. The host is not looked up."""
    if kind == ChannelKind.MAIL:
        addresses = _mail_addresses(address)
        try:
            for each in addresses:
                validate_email(each)
        except ValidationError:
            return "Write one or more mail addresses with commas between."
        return "" if addresses else "Write one or more mail addresses with commas between."
    try:
        target = outbound.parse(address, allow_private=allow_private)
    except Undeliverable as error:
        return str(error)
    if kind == ChannelKind.SLACK and target.host not in SLACK_HOSTS and not allow_private:
        return "Slack's incoming webhooks begin with https://hooks.slack.com/services/."
    return ""


def _mail_addresses(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def reencrypt(*, vault: Vault) -> tuple[int, list[NotificationChannel]]:
    """Seal every channel's secret with the vault's first key. Returns how many, and those that no key opens."""
    done, unreadable = 0, []
    for channel in NotificationChannel.objects.exclude(secret=""):
        if vault.is_current(channel.secret):
            continue
        try:
            secret = vault.open(channel.secret, context=place(channel))
        except Unreadable:
            unreadable.append(channel)
            continue
        done += NotificationChannel.objects.filter(pk=channel.pk, secret=channel.secret).update(
            secret=vault.seal(secret, context=place(channel))
        )
    return done, unreadable


# ------------------------------------------------------------------------------------------------------------ collect


def collect(*, configuration: Configuration, now: datetime | None = None) -> int:
    """Write down what channels have not heard of yet. Returns how many deliveries are due, whoever wrote them.

    Only rows are read and written. A channel hears of what happened after it was made.
    """
    now = now or clock.now()
    channels = list(NotificationChannel.objects.filter(enabled=True).prefetch_related("projects"))
    if channels:
        news = _news(now)
        for channel in channels:
            _collect_for(channel, news, origin=configuration.app_origin, now=now)
    if now.minute == 0:
        old = Q(created_at__lt=now - KEPT) & ~Q(status=DeliveryStatus.WAITING)
        NotificationDelivery.objects.filter(old).delete()
    return _due(now).count()


def _collect_for(channel: NotificationChannel, news: list[News], *, origin: str, now: datetime) -> None:
    projects = {project.pk for project in channel.projects.all()}
    wanted: dict[str, list[News]] = defaultdict(list)
    for each in news:
        heard = not channel.events or each.event in channel.events
        concerned = not projects or each.project in projects
        if heard and concerned and (each.at >= channel.created_at or each.at > now):
            wanted[each.event].append(each)
    for event, items in wanted.items():
        fresh = _unheard(channel, items)
        if not fresh:
            continue
        digest = NotificationDelivery.objects.filter(
            channel=channel, event=event, key__startswith="digest:", created_at__gt=now - DIGEST_EVERY
        )
        if len(fresh) <= MANY and not digest.exists():
            rows = [_delivery(channel, each, origin=origin, now=now) for each in fresh]
        elif digest.exists():
            continue  # they are in the next one
        else:
            rows = [_digest(channel, event, fresh, origin=origin, now=now)]
            rows += [
                NotificationDelivery(
                    channel=channel, event=event, subject=each.subject[:300], key=each.key, answer=IN_DIGEST,
                    status=DeliveryStatus.SENT, created_at=now, sent_at=now,
                )
                for each in fresh
            ]  # fmt: skip
        # Both or neither: a digest whose items were not marked would be written again.
        with transaction.atomic():
            NotificationDelivery.objects.bulk_create(rows, ignore_conflicts=True, batch_size=500)


def _unheard(channel: NotificationChannel, items: list[News]) -> list[News]:
    known: set[str] = set()
    keys = [each.key for each in items]
    for start in range(0, len(keys), 500):
        rows = NotificationDelivery.objects.filter(channel=channel, key__in=keys[start : start + 500])
        known |= set(rows.values_list("key", flat=True))
    return sorted((each for each in items if each.key not in known), key=lambda each: (each.at, each.key))


def _delivery(channel: NotificationChannel, news: News, *, origin: str, now: datetime) -> NotificationDelivery:
    body = {
        "event": news.event,
        "at": news.at.isoformat(timespec="seconds"),
        "subject": news.subject,
        "text": news.text,
        "link": origin + news.path,
        "data": news.data,
    }
    return NotificationDelivery(
        channel=channel, event=news.event, subject=_line(news.subject), body=body, key=news.key, created_at=now,
        next_try_at=now,
    )  # fmt: skip


def _digest(
    channel: NotificationChannel, event: str, items: list[News], *, origin: str, now: datetime
) -> NotificationDelivery:
    number = f"{len(items):,}" + (" or more" if len(items) >= MOST else "")
    first = "\n".join(f"- {each.subject}" for each in items[:20])
    rest = f"\n… and {len(items) - 20:,} more." if len(items) > 20 else ""
    kind = event.partition(".")[0]
    news = News(
        event=event,
        # The same for two workers that look at once, so that only one of them gets to write it.
        key=f"digest:{items[0].key}"[:200],
        at=items[-1].at,
        subject=f"{EVENTS[event]}: {number} times",
        text=first + rest,
        path=reverse(f"admin:deployments_{_LISTS.get(kind, 'deployment')}_changelist"),
        data={"count": len(items), "subjects": [each.subject for each in items[:100]]},
    )
    return _delivery(channel, news, origin=origin, now=now)


_LISTS = {"deployment": "deployment", "repository": "repository", "key": "accesskey"}


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


# ---------------------------------------------------------------------------------------------------------- the news


def _news(now: datetime) -> list[News]:
    """What happened in the last day, each change once.

    Rows that only say what is true now miss what was overtaken between two looks, so each kind is found in rows that
    stay: the end of a deployment, `PromotionEvent`, `RepositoryEvent`, an ended sweep, a worker's latest silence.
    """
    since = now - LOOK_BACK
    found = (
        _deployments(since),
        _promotions(since),
        _repositories(since),
        _repository_events(since),
        _sweeps(since),
        _workers(since, now),
        _configurations(since, now),
        _pauses(since),
        _keys(since, now),
    )
    # By its key, because what still lasts is found twice: in the present state and in the history.
    return list({each.key: each for kind in found for each in kind}.values())


def _deployments(since: datetime) -> Iterator[News]:
    ended = (
        # By the index on status and creation.
        Deployment.objects.filter(
            status__in=(DeploymentStatus.FAILED, DeploymentStatus.TIMED_OUT),
            created_at__gte=since - LONGEST_DEPLOY,
            failed_at__gte=since,
        )
        .select_related("project", "environment")
        .order_by("-created_at")[:MOST]
    )
    for row in ended:
        failed = row.status == DeploymentStatus.FAILED
        event = "deployment.failed" if failed else "deployment.timed_out"
        error = row.error or {}
        yield News(
            event=event,
            key=f"{event}:{row.pk}",
            at=row.failed_at or row.created_at,
            subject=f"{row.project} {row.version} {'failed' if failed else 'timed out'} in {row.environment}",
            text=str(error.get("message") or "No reason was given.")[:1000] + _by(row.triggered_by),
            path=reverse("admin:deployments_deployment_change", args=[row.pk]),
            project=row.project_id,
            data=_of_deployment(row),
        )


def _promotions(since: datetime) -> Iterator[News]:
    related = ("deployment__project", "environment", "rolled_back_from")
    events = PromotionEvent.objects.filter(at__gte=since).select_related(*related).order_by("-at")
    for event in events[:MOST]:
        yield _promotion(event, event.at, event.by, event.rolled_back_from, key=f"promotion:{event.pk}")
    # Version 0.1.0 writes no events, and may still promote while an upgrade runs.
    written = PromotionEvent.objects.filter(
        environment=OuterRef("environment"), deployment=OuterRef("deployment"), at__gte=since - LOOK_BACK
    )
    promotions = Promotion.objects.filter(~Exists(written), label="current", promoted_at__gte=since)
    for promotion in promotions.select_related(*related).order_by("-promoted_at")[:MOST]:
        row, back, at = promotion.deployment, promotion.rolled_back_from, promotion.promoted_at
        if back is not None and back.version <= row.version:
            back = None  # what was rolled back has been overtaken since
        name = "deployment.promoted" if back is None else "deployment.rolled_back"
        key = f"{name}:{row.pk}:{at.timestamp():.3f}"
        yield _promotion(promotion, at, promotion.promoted_by, back, key=key)


def _promotion(
    promotion: Promotion | PromotionEvent, at: datetime, by: str, back: Deployment | None, *, key: str
) -> News:
    row = promotion.deployment
    subject = f"{row.project} {row.version} is current in {promotion.environment}"
    if back is not None:
        subject = f"{row.project} was rolled back to {row.version} in {promotion.environment}"
    return News(
        event="deployment.promoted" if back is None else "deployment.rolled_back",
        key=key,
        at=at,
        subject=subject,
        text=(f"It takes the place of {back.version}." if back is not None else "It was promoted.") + _by(by),
        path=reverse("admin:deployments_deployment_change", args=[row.pk]),
        project=row.project_id,
        data=_of_deployment(row) | {"replaces": str(back.version) if back is not None else None},
    )


def _of_deployment(row: Deployment) -> dict[str, Any]:
    return {
        "project": row.project.ref,
        "environment": str(row.environment),
        "deployment": row.pk,
        "version": str(row.version),
        "status": row.status,
        "image": row.image_reference,
        "triggered_by": row.triggered_by,
    }


def _by(name: str) -> str:
    return f" By {name}." if name else ""


def _repositories(since: datetime) -> Iterator[News]:
    """The repositories that are drifted or failed now: version 0.1.0 writes no `state_since` into the history."""
    fields = ("name", "account", "region", "project_id", "status", "drifted_since", "differences", "last_error",
              "error_since", "last_error_at")  # fmt: skip
    rows = Repository.objects.only(*fields)
    for row in rows.filter(status=RepositoryStatus.DRIFTED, drifted_since__gte=since).order_by("-drifted_since")[:MOST]:
        words = " ".join(str(each.get("words", "")) for each in row.differences)
        yield _state(row, RepositoryStatus.DRIFTED, row.drifted_since or since, row.drifted_since or since, words)
    failing = rows.filter(
        status=RepositoryStatus.FAILED,
        last_error_is_installation=False,  # that is one fault, and the sweep's message says it once
        error_since__gte=since,
        last_error_at__gt=F("error_since") + provisioning.AGAIN,
    )
    for row in failing.order_by("-error_since")[:MOST]:
        yield _state(row, RepositoryStatus.FAILED, row.error_since or since, row.error_since or since, row.last_error)


def _repository_events(since: datetime) -> Iterator[News]:
    # The newest rows by their ids: there is no index on the time alone, and the table is a history that only grows.
    newest = RepositoryEvent.objects.aggregate(id=Max("id"))["id"] or 0
    happened = RepositoryEvent.objects.filter(
        Q(kind__in=(EventKind.HEALED, EventKind.MISSING)) | Q(state_since__isnull=False),
        id__gt=newest - 4 * MOST,
        at__gte=since,
    )
    for event in happened.select_related("repository").order_by("-id")[:MOST]:
        row, key = event.repository, str(event.pk)
        match event.kind:
            case EventKind.HEALED:
                words = "was changed, and was repaired"
                yield _of_repository("repository.healed", row, row.status, event.at, key, words, event.message)
            case EventKind.MISSING:
                words, status = "is gone from the registry", RepositoryStatus.MISSING
                yield _of_repository("repository.missing", row, status, event.at, key, words, event.message)
            case EventKind.ERROR:
                yield _state(row, RepositoryStatus.FAILED, event.state_since or event.at, event.at, event.message)
            case _:
                yield _state(row, RepositoryStatus.DRIFTED, event.state_since or event.at, event.at, event.message)


def _state(row: Repository, status: RepositoryStatus, since: datetime, at: datetime, text: str) -> News:
    """That a repository is drifted or failed since then; the same key, whichever row reports it."""
    words = "failed twice in a row" if status == RepositoryStatus.FAILED else "differs from the settings"
    text = text or "It differs from the settings."
    return _of_repository(f"repository.{status}", row, status, at, f"{since.timestamp():.3f}", words, text)


def _of_repository(event: str, row: Repository, status: str, at: datetime, key: str, words: str, text: str) -> News:
    return News(
        event=event,
        key=f"{event}:{row.pk}:{key}",
        at=at,
        subject=f"{row.name} {words}",
        text=text[:1000],
        path=reverse("admin:deployments_repository_change", args=[row.pk]),
        project=row.project_id,
        data={"repository": row.name, "account": row.account, "region": row.region, "status": status},
    )


def _sweeps(since: datetime) -> Iterator[News]:
    """The first failed sweep of several failed ones, in the order of their ends: the later ones are not notified."""
    ended = Sweep.objects.filter(dry_run=False, finished_at__isnull=False).order_by("-finished_at", "-pk")
    earlier = ended.filter(finished_at__lt=since).first()
    before = earlier.status if earlier is not None else ""
    for row in reversed(ended.filter(finished_at__gte=since)[:MOST]):
        if row.status == SweepStatus.FAILED and before != SweepStatus.FAILED:
            yield News(
                event="sweep.failed",
                key=f"sweep.failed:{row.pk}",
                at=row.finished_at or row.started_at,
                subject="Sweeps fail: repositories are not looked at",
                text=row.error[:1000] or "No reason was given.",
                path=reverse("admin:index"),
                data={"sweep": row.pk, "trigger": row.trigger},
            )
        before = row.status


def _workers(since: datetime, now: datetime) -> Iterator[News]:
    """A process that ends on SIGTERM records that; one without heartbeats was killed, or cannot reach the database."""
    silent_now = Q(ended_at=None, beat_at__gte=since, beat_at__lt=now - LONG_SILENCE)
    for row in Process.objects.filter(Q(silent_from__gte=since) | silent_now, role__in=WATCHED):
        if row.silent_from is not None and row.silent_from >= since:
            yield _silence(row, row.silent_from, " It sends heartbeats again.")
        if row.ended_at is None and row.beat_at < now - LONG_SILENCE:
            yield _silence(row, row.beat_at, f" Before that: {row.trouble}" if row.trouble else "")


#: The roles whose missing heartbeat is notified, and what they are called.
WATCHED = {ProcessRole.WORKER: "The worker", ProcessRole.EVENTS: "The consumer of change events"}


def _silence(row: Process, last: datetime, more: str) -> News:
    return News(
        event="worker.silent",
        key=f"worker.silent:{row.pk}:{last.timestamp():.0f}",
        at=last + LONG_SILENCE,
        subject=f"{WATCHED[ProcessRole(row.role)]} on {row.host} sends no heartbeat",
        text=f"Its last heartbeat was at {last:%Y-%m-%d %H:%M:%S} UTC (process {row.pid}).{more}",
        path=reverse("admin:index"),
        data={"role": row.role, "host": row.host, "pid": row.pid, "last_beat": last.isoformat(timespec="seconds")},
    )


def _configurations(since: datetime, now: datetime) -> Iterator[News]:
    rows = ConfigurationActivation.objects.select_related("configuration").filter(at__gte=since, follows__gt=0)
    for row in rows[:MOST]:
        yield News(
            event="configuration.changed",
            key=f"configuration.changed:{row.pk}",
            at=row.at,
            subject=f"Another configuration counts: {row.configuration}",
            text=f"{row.get_cause_display()}: {row.by}." + (f" {row.reason}" if row.reason else ""),
            path=reverse("admin:setup"),
            data={"digest": row.configuration.digest, "generation": row.configuration.generation, "cause": row.cause},
        )
    for alarm in generation.alarms():
        if alarm.code != "other":  # such a process does no harm, because it acts on what counts; the pages name it
            yield News(
                event="configuration.disputed",
                key=f"configuration.disputed:{alarm.code}:{alarm.key}",
                at=now,
                subject="Processes were started with different settings, and a person has to decide",
                text=f"{alarm.words} {alarm.then}",
                path=reverse("admin:setup"),
                data={"code": alarm.code},
            )


def _pauses(since: datetime) -> Iterator[News]:
    for row in WritesPause.objects.filter(paused_at__gte=since)[:MOST]:
        yield News(
            event="writes.paused",
            key=f"writes.paused:{row.pk}",
            at=row.paused_at,
            subject=f"Writes to AWS were paused by {row.paused_by}",
            text=f"{row.reason} manage.py writes resume allows them again.",
            path=reverse("admin:setup"),
            data={"by": row.paused_by},
        )


def _keys(since: datetime, now: datetime) -> Iterator[News]:
    rows = (
        # Also those that expired since: a short-lived key, or one that expired while no worker ran.
        AccessKey.objects.filter(revoked_at=None, expires_at__gt=since, expires_at__lte=now + KEY_WARNING)
        .exclude(kind=KeyKind.DEPLOY)
        .filter(~Exists(AccessKey.objects.filter(replaces=OuterRef("pk"), revoked_at=None)))
        .select_related("environment__project", "user")
        .defer("digest")
    )
    for row in rows[:MOST]:
        owner = f"{row.environment.project} / {row.environment}" if row.environment else str(row.user)
        ahead = row.expires_at is not None and row.expires_at > now
        yield News(
            event="key.expiring",
            key=f"key.expiring:{row.pk}:{row.expires_at:%Y%m%d}",
            at=row.expires_at or now,  # ahead of us: it is news however old the channel is
            subject=f"The key {row} of {owner} expire{'s' if ahead else 'd'} on {row.expires_at:%Y-%m-%d}",
            text=f"Last used: {row.last_used_by or 'never'}." + (" Rotate it before then." if ahead else ""),
            path=reverse("admin:deployments_accesskey_change", args=[row.pk]),
            project=row.environment.project_id if row.environment else None,
            data={"key": str(row), "expires_at": row.expires_at.isoformat() if row.expires_at else None},
        )


# ------------------------------------------------------------------------------------------------------------ deliver


def _due(now: datetime) -> QuerySet[NotificationDelivery]:
    return NotificationDelivery.objects.filter(
        status=DeliveryStatus.WAITING, next_try_at__lte=now, channel__enabled=True
    )


def deliver(
    *,
    means: Means,
    seconds: float = 30.0,
    now: datetime | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Send what is due until the time is over, or `stopping`; returns how many arrived. Not within a transaction.

    First attempts come before repeated ones. A message that its receiver refuses waits for its next attempt, and the
    channel's others go on. A channel is left alone for the rest of this call when nobody answers there, so that one
    that hangs does not hold up the others, and after REFUSALS refusals in a row or REFUSAL_SECONDS of them.
    """
    until = time.monotonic() + seconds
    failing: set[int] = set()
    refused: Counter[int] = Counter()  # in a row, by channel
    spent: defaultdict[int, float] = defaultdict(float)  # seconds on refused messages, by channel
    sent = 0
    while (began := time.monotonic()) < until and not stopping():
        row = _due(now or clock.now()).exclude(channel__in=failing).select_related("channel").order_by(
            "attempts", "next_try_at", "pk"
        ).first()  # fmt: skip
        if row is None:
            break
        if not _claim(row, now or clock.now()):
            continue
        channel = row.channel_id
        failure = _try(row, means)
        if failure is None:
            sent += 1
            refused[channel] = 0
            continue
        refused[channel] += 1
        spent[channel] += time.monotonic() - began
        if not failure.answered or refused[channel] >= REFUSALS or spent[channel] >= REFUSAL_SECONDS:
            failing.add(channel)
    return sent


def _claim(row: NotificationDelivery, now: datetime) -> bool:
    """Take a delivery, and say in the same write when to try again should we not come back from this one."""
    mine = NotificationDelivery.objects.filter(
        pk=row.pk, status=DeliveryStatus.WAITING, attempts=row.attempts, next_try_at=row.next_try_at
    )
    if row.attempts >= ATTEMPTS:  # whoever made the last attempt died in it
        mine.update(status=DeliveryStatus.FAILED, answer="Nobody came back from the last attempt.")
        return False
    delay = RETRIES[min(row.attempts, len(RETRIES) - 1)]
    taken = mine.update(attempts=row.attempts + 1, next_try_at=now + delay)
    row.attempts += 1
    return bool(taken)


def _try(row: NotificationDelivery, means: Means, *, retry: bool = True) -> Undeliverable | None:
    """One attempt at a claimed delivery, and its outcome on the row and on its channel. None when it arrived."""
    channel = row.channel
    failure: Undeliverable | None = None
    answer = ""
    try:
        answer = _send(row, means)
    except Undeliverable as error:
        failure = error
    now = clock.now()
    mine = NotificationDelivery.objects.filter(pk=row.pk, attempts=row.attempts, status=DeliveryStatus.WAITING)
    if failure is None:
        row.status, row.answer, row.sent_at = DeliveryStatus.SENT, answer, now
        mine.update(status=row.status, answer=answer, sent_at=now)
        NotificationChannel.objects.filter(pk=channel.pk).update(last_sent_at=now, last_error="")
        return None
    over = failure.permanent or not retry or row.attempts >= ATTEMPTS
    row.status, row.answer = DeliveryStatus.FAILED if over else DeliveryStatus.WAITING, str(failure)[:300]
    mine.update(status=row.status, answer=row.answer)
    NotificationChannel.objects.filter(pk=channel.pk).update(last_error=str(failure))
    log.warning("notify.failed channel=%d delivery=%d attempt=%d reason=%s", channel.pk, row.pk, row.attempts, failure)
    return failure


def send_test(*, channel: NotificationChannel, means: Means, origin: str, by: str) -> NotificationDelivery:
    """Send one message now, to an enabled channel or not, once. What came of it is on the delivery."""
    now = clock.now()
    news = News(
        event=TEST,
        key=f"{TEST}:{secrets.token_hex(8)}",
        at=now,
        subject="A test message of Registry Admin",
        text=f"It was asked for by {by}. Nothing happened.",
        path=reverse("admin:index"),
    )
    row = _delivery(channel, news, origin=origin, now=now)
    row.attempts = ATTEMPTS  # nobody else tries it
    row.next_try_at = now + timedelta(days=1)
    row.save()
    _try(row, means, retry=False)
    return row


# --------------------------------------------------------------------------------------------------------- the senders


def _send(row: NotificationDelivery, means: Means) -> str:
    """Send to the channel and return the answer in a word. Raises Undeliverable."""
    if connection.in_atomic_block:
        raise RuntimeError("Nothing is sent while a database transaction is open")
    match row.channel.kind:
        case ChannelKind.MAIL:
            return _send_mail(row, means)
        case ChannelKind.SLACK:
            return _send_slack(row, means)
        case _:
            return _send_webhook(row, means)


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """What the receiver of a webhook computes too: HMAC-SHA256 over the timestamp, a dot and the body."""
    mac = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"v1={mac.hexdigest()}"


def _send_webhook(row: NotificationDelivery, means: Means) -> str:
    body = json.dumps({"id": f"delivery_{row.pk}", **row.body}, ensure_ascii=False, separators=(",", ":")).encode()
    timestamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "registry-admin",
        "X-Registry-Admin-Event": row.event,
        "X-Registry-Admin-Delivery": f"delivery_{row.pk}",
        TIMESTAMP_HEADER: timestamp,
        SIGNATURE_HEADER: sign(_open(row.channel, means), timestamp, body),
    }
    return _answered(outbound.post(row.channel.address, body, headers, allow_private=means.allow_private))


def _send_slack(row: NotificationDelivery, means: Means) -> str:
    said = row.body
    text = f"*{_slack(row.subject)}*\n{_slack(said.get('text', ''))}\n<{said.get('link', '')}|Open in Registry Admin>"
    body = json.dumps({"text": text[:3000], "unfurl_links": False}).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "registry-admin"}
    address = _open(row.channel, means)
    return _answered(outbound.post(address, body, headers, allow_private=means.allow_private))


def _slack(text: object) -> str:
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _answered(status: int) -> str:
    if 200 <= status < 300:
        return str(status)
    if 300 <= status < 400:
        raise Undeliverable(
            reason=f"Answered {status}, a redirect, which is not followed.", permanent=True, answered=True
        )
    raise Undeliverable(reason=f"Answered {status}.", permanent=status == 410, answered=True)


#: The mail server refused one message; it was reachable and accepted the log-in.
_REFUSED = (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused, smtplib.SMTPDataError)


def _send_mail(row: NotificationDelivery, means: Means) -> str:
    if not means.mail:
        raise Undeliverable(reason="No mail server is configured (EMAIL_URL).", permanent=True)
    text = f"{row.body.get('text', '')}\n\n{row.body.get('link', '')}\n"
    message = EmailMessage(f"[Registry Admin] {row.subject}", text, to=_mail_addresses(row.channel.address))
    try:
        message.send()
    except (smtplib.SMTPException, OSError) as error:
        # Their words may hold what we logged in with.
        raise Undeliverable(
            reason=f"The mail server did not take it ({type(error).__name__}).", answered=isinstance(error, _REFUSED)
        ) from None
    return "taken by the mail server"


def _open(channel: NotificationChannel, means: Means) -> str:
    try:
        return means.vault.open(channel.secret, context=place(channel))
    except Unreadable:
        raise Undeliverable(
            reason="The channel's secret cannot be decrypted: set it again, or bring back its ENCRYPTION_KEY.",
            permanent=True,
        ) from None
