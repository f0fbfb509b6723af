"""Deliveries: one row for each channel and change of state, sent until the receiver accepts it.

Each minute `collect` reads the news of the last day (`deployments.notify.news`) and writes a delivery for each change
of state that a channel wants and has no delivery of. The delivery's unique key makes a second `collect` harmless, so
no cursor can be lost. `deliver` sends what is due, outside any transaction. A delivery is claimed by a compare-and-set
that also says when to try again: a worker that dies while it sends delays the message, and two workers never send the
same message twice.

Many changes at once become one message, because nobody reads a thousand mails.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q, QuerySet
from django.urls import reverse

from deployments import clock
from deployments.config import Configuration
from deployments.log import get_logger
from deployments.models import (
    DeliveryStatus,
    NotificationChannel,
    NotificationDelivery,
)
from deployments.notify.news import EVENTS, MAX_ROWS_PER_KIND, News, current_news
from deployments.notify.outbound_http import Undeliverable
from deployments.notify.senders import DeliverySettings, send

log = get_logger(__name__)

TEST_EVENT = "test"

MAX_REFUSALS_IN_A_ROW = 20  # in a row: then the receiver refuses everything, and its channel's turn ends
REFUSAL_SECONDS = 5.0  # spent on refused messages of one channel in one turn
RETRY_AFTER = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=30))
MAX_ATTEMPTS = len(RETRY_AFTER) + 1
MAX_SINGLE_MESSAGES = 5  # messages of one event, in one look, that are sent one by one
DIGEST_EVERY = timedelta(minutes=10)
DELIVERIES_KEPT_FOR = timedelta(days=30)
IN_DIGEST = "in the message for many"


# ----------------------------------------------------------------------------------------------------------- channels


# ------------------------------------------------------------------------------------------------------------ collect


def collect(*, configuration: Configuration, now: datetime | None = None) -> int:
    """Write down what channels have not heard of yet. Returns how many deliveries are due, whoever wrote them.

    Only rows are read and written. A channel hears of what happened after it was made.
    """
    now = now or clock.now()
    channels = list(NotificationChannel.objects.filter(enabled=True).prefetch_related("projects"))
    if channels:
        news = current_news(now)
        for channel in channels:
            _collect_for(channel, news, origin=configuration.app_origin, now=now)
    if now.minute == 0:
        old = Q(created_at__lt=now - DELIVERIES_KEPT_FOR) & ~Q(status=DeliveryStatus.WAITING)
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
        if len(fresh) <= MAX_SINGLE_MESSAGES and not digest.exists():
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
    number = f"{len(items):,}" + (" or more" if len(items) >= MAX_ROWS_PER_KIND else "")
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


# ------------------------------------------------------------------------------------------------------------ deliver


def _due(now: datetime) -> QuerySet[NotificationDelivery]:
    return NotificationDelivery.objects.filter(
        status=DeliveryStatus.WAITING, next_try_at__lte=now, channel__enabled=True
    )


def deliver(
    *,
    means: DeliverySettings,
    seconds: float = 30.0,
    now: datetime | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Send what is due until the time is over, or `stopping`; returns how many arrived. Not within a transaction.

    First attempts come before repeated ones. A message that its receiver refuses waits for its next attempt, and the
    channel's others go on. A channel is left alone for the rest of this call when nobody answers there, so that one
    that hangs does not hold up the others, and after MAX_REFUSALS_IN_A_ROW refusals or REFUSAL_SECONDS of them.
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
        if not failure.answered or refused[channel] >= MAX_REFUSALS_IN_A_ROW or spent[channel] >= REFUSAL_SECONDS:
            failing.add(channel)
    return sent


def _claim(row: NotificationDelivery, now: datetime) -> bool:
    """Take a delivery, and say in the same write when to try again should we not come back from this one."""
    mine = NotificationDelivery.objects.filter(
        pk=row.pk, status=DeliveryStatus.WAITING, attempts=row.attempts, next_try_at=row.next_try_at
    )
    if row.attempts >= MAX_ATTEMPTS:  # whoever made the last attempt died in it
        mine.update(status=DeliveryStatus.FAILED, answer="Nobody came back from the last attempt.")
        return False
    delay = RETRY_AFTER[min(row.attempts, len(RETRY_AFTER) - 1)]
    taken = mine.update(attempts=row.attempts + 1, next_try_at=now + delay)
    row.attempts += 1
    return bool(taken)


def _try(row: NotificationDelivery, means: DeliverySettings, *, retry: bool = True) -> Undeliverable | None:
    """One attempt at a claimed delivery, and its outcome on the row and on its channel. None when it arrived."""
    channel = row.channel
    failure: Undeliverable | None = None
    answer = ""
    try:
        answer = send(row, means)
    except Undeliverable as error:
        failure = error
    now = clock.now()
    mine = NotificationDelivery.objects.filter(pk=row.pk, attempts=row.attempts, status=DeliveryStatus.WAITING)
    if failure is None:
        row.status, row.answer, row.sent_at = DeliveryStatus.SENT, answer, now
        mine.update(status=row.status, answer=answer, sent_at=now)
        NotificationChannel.objects.filter(pk=channel.pk).update(last_sent_at=now, last_error="")
        return None
    over = failure.permanent or not retry or row.attempts >= MAX_ATTEMPTS
    row.status, row.answer = DeliveryStatus.FAILED if over else DeliveryStatus.WAITING, str(failure)[:300]
    mine.update(status=row.status, answer=row.answer)
    NotificationChannel.objects.filter(pk=channel.pk).update(last_error=str(failure))
    log.warning("notify.failed", channel=channel.pk, delivery=row.pk, attempt=row.attempts, reason=str(failure))
    return failure


def send_test(*, channel: NotificationChannel, means: DeliverySettings, origin: str, by: str) -> NotificationDelivery:
    """Send one message now, to an enabled channel or not, once. What came of it is on the delivery."""
    now = clock.now()
    news = News(
        event=TEST_EVENT,
        key=f"{TEST_EVENT}:{secrets.token_hex(8)}",
        at=now,
        subject="A test message of Registry Admin",
        text=f"It was asked for by {by}. Nothing happened.",
        path=reverse("admin:index"),
    )
    row = _delivery(channel, news, origin=origin, now=now)
    row.attempts = MAX_ATTEMPTS  # nobody else tries it
    row.next_try_at = now + timedelta(days=1)
    row.save()
    _try(row, means, retry=False)
    return row


# --------------------------------------------------------------------------------------------------------- the senders
