"""Deliveries: one row for each channel and change of state, sent until the receiver accepts the message.

Each minute `collect` reads the news of the last day (`deployments.notify.news`) and writes a missing delivery for each
change of state and each channel that wants it. A delivery has a unique key, so `collect` may run twice and needs no
cursor. `deliver` sends due deliveries, outside any transaction. A compare-and-set claims a delivery and sets the time
of the next attempt: if a worker dies while it sends, the message is late, and two workers do not send the same message
at once.

Repositories with one cause become one message, and so do many changes at once (a digest).
"""

from __future__ import annotations

import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import QuerySet

from deployments import clock
from deployments.config import Configuration
from deployments.errors import refusal
from deployments.log import get_logger
from deployments.models import DeliveryStatus, NotificationChannel, NotificationDelivery
from deployments.notify import pages
from deployments.notify.news import EVENTS, MAX_ROWS_PER_KIND, News, current_news, of_one_cause
from deployments.notify.senders import DeliverySettings, send
from deployments.outbound_http import Undeliverable

log = get_logger(__name__)

TEST_EVENT = "test"
MAX_REFUSALS_IN_A_ROW = 20  # after so many refusals, `deliver` sends nothing more to the channel
REFUSAL_SECONDS = 5.0  # the longest time that one `deliver` spends on refused messages of one channel
RETRY_AFTER = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=30))
MAX_ATTEMPTS = len(RETRY_AFTER) + 1
MAX_SINGLE_MESSAGES = 5  # more new messages of one event in one `collect` become a digest
DIGEST_EVERY = timedelta(minutes=10)
EXAMPLES_READ = 500  # rows of a kind that `examples` reads
IN_DIGEST = "in the message for many"
DIGEST = "digest"  # what the key of a message for many begins with


# ------------------------------------------------------------------------------------------------------------ collect


def collect(*, configuration: Configuration, now: datetime | None = None) -> int:
    """Write the missing deliveries. Returns how many deliveries are due, also those of other workers.

    Only reads and writes rows. A channel gets no news from before the time at which the channel was made.
    """
    now = now or clock.now()
    channels = list(NotificationChannel.objects.filter(enabled=True).prefetch_related("projects"))
    if channels:
        news = current_news(now)
        for channel in channels:
            _collect_for(channel, news, origin=configuration.app_origin, now=now)
    return _due(now).count()


def _collect_for(channel: NotificationChannel, news: list[News], *, origin: str, now: datetime) -> None:
    wanted: dict[str, list[News]] = defaultdict(list)
    for each in _wanted(channel, news):
        if each.at >= channel.created_at or each.at > now:
            wanted[each.event].append(each)
    for event, items in wanted.items():
        fresh = _unheard(channel, items)
        digests = NotificationDelivery.objects.filter(
            channel=channel, event=event, key__startswith=DIGEST, created_at__gt=now - DIGEST_EVERY
        )
        recent = {key.partition(":")[0] for key in digests.values_list("key", flat=True)} if fresh else set()
        if DIGEST in recent:
            continue  # the next digest includes them
        rows = []
        for message, parts in _messages(event, [each for each in fresh if _digest_of(each) not in recent]):
            rows.append(_delivery(channel, message, origin=origin, now=now))
            rows += [
                NotificationDelivery(
                    channel=channel, event=event, subject=each.subject[:300], key=each.key, answer=IN_DIGEST,
                    status=DeliveryStatus.SENT, created_at=now, sent_at=now,
                )
                for each in parts
            ]  # fmt: skip
        # One transaction: a digest without the rows of its items would be written again.
        with transaction.atomic():
            NotificationDelivery.objects.bulk_create(rows, ignore_conflicts=True, batch_size=500)


def _messages(event: str, items: list[News]) -> list[tuple[News, list[News]]]:
    """The messages for new news of one event, each with the news that it is about if it is about several.

    Repositories with one cause are one message; more than MAX_SINGLE_MESSAGES messages are one.
    """
    by_cause: dict[object, list[News]] = defaultdict(list)
    for each in items:
        by_cause[each.cause or each.key].append(each)
    found: list[tuple[News, list[News]]] = []
    for same in by_cause.values():
        if len({each.path for each in same}) > 1:
            # Two workers at once make the same key, so only one of them writes the message.
            key = f"{_digest_of(same[0])}:{same[0].key}"[:200]
            found.append((replace(of_one_cause(same), key=key), same))
        else:
            found += [(each, []) for each in same]
    return found if len(found) <= MAX_SINGLE_MESSAGES else [(_digest(event, items), items)]


def _digest_of(news: News) -> str:
    """What the key of a message about all repositories with this cause begins with; empty for news without a cause."""
    return f"{DIGEST}-{news.cause.key}" if news.cause is not None else ""


def _wanted(channel: NotificationChannel, news: list[News]) -> list[News]:
    """The news of the events and projects that the channel is for."""
    projects = {project.pk for project in channel.projects.all()}
    of_event = [each for each in news if not channel.events or each.event in channel.events]
    return [each for each in of_event if not projects or each.project in projects]


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


def _digest(event: str, items: list[News]) -> News:
    number = f"{len(items):,}" + (" or more" if len(items) >= MAX_ROWS_PER_KIND else "")
    first = "\n".join(f"- {each.subject}" for each in items[:20])
    rest = f"\n… and {len(items) - 20:,} more." if len(items) > 20 else ""
    kind = event.partition(".")[0]
    return News(
        event=event,
        key=f"{DIGEST}:{items[0].key}"[:200],
        at=items[-1].at,
        subject=f"{EVENTS[event]}: {number} times",
        text=first + rest,
        path=pages.list_of(_LISTS.get(kind, "deployment")),
        data={"count": len(items), "subjects": [each.subject for each in items[:100]]},
    )


_LISTS = {"deployment": "deployment", "repository": "repository", "key": "accesskey"}


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


# ------------------------------------------------------------------------------------------------------------ deliver


def _due(now: datetime) -> QuerySet[NotificationDelivery]:
    return NotificationDelivery.objects.filter(
        status=DeliveryStatus.WAITING, next_try_at__lte=now, channel__enabled=True
    )


def deliver(
    *,
    delivery_settings: DeliverySettings,
    seconds: float = 30.0,
    now: datetime | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Send due deliveries for `seconds`, or until `stopping`. Returns how many receivers accepted a message.

    First attempts come before repeated attempts. A refused message waits for its next attempt while the channel's other
    messages are sent. This call sends nothing more to a channel that does not answer (so that a channel that hangs does
    not delay the other channels), or after MAX_REFUSALS_IN_A_ROW refusals, or after REFUSAL_SECONDS of refusals. Raises
    RuntimeError inside a transaction.
    """
    until = time.monotonic() + seconds
    failing: set[int] = set()
    refused: Counter[int] = Counter()  # {channel: refusals in a row}
    spent: defaultdict[int, float] = defaultdict(float)  # {channel: seconds for refused messages}
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
        failure = _try(row, delivery_settings)
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
    """Claim a delivery. The same write sets the next attempt, in case this process dies during this attempt."""
    mine = NotificationDelivery.objects.filter(
        pk=row.pk, status=DeliveryStatus.WAITING, attempts=row.attempts, next_try_at=row.next_try_at
    )
    if row.attempts >= MAX_ATTEMPTS:  # the process died during the last attempt
        mine.update(status=DeliveryStatus.FAILED, answer="The worker ended during the last attempt.")
        return False
    delay = RETRY_AFTER[min(row.attempts, len(RETRY_AFTER) - 1)]
    taken = mine.update(attempts=row.attempts + 1, next_try_at=now + delay)
    row.attempts += 1
    return bool(taken)


def _try(row: NotificationDelivery, delivery_settings: DeliverySettings, *, retry: bool = True) -> Undeliverable | None:
    """Try a claimed delivery once, and store the result on its row and channel. None if the receiver accepted it."""
    channel = row.channel
    failure: Undeliverable | None = None
    answer = ""
    try:
        answer = send(row, delivery_settings)
    except Undeliverable as error:
        failure = error
    now = clock.now()
    mine = NotificationDelivery.objects.filter(pk=row.pk, attempts=row.attempts, status=row.status)
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


def send_test(
    *, channel: NotificationChannel, delivery_settings: DeliverySettings, origin: str, by: str
) -> NotificationDelivery:
    """Send one test message now, once, even if the channel is disabled. The returned delivery has the result."""
    now = clock.now()
    row = _delivery(channel, _test_news(by, now), origin=origin, now=now)
    # Failed until it is sent: no worker tries it again, also if this process ends during the attempt.
    row.attempts, row.status, row.answer = 1, DeliveryStatus.FAILED, "The process ended during the attempt."
    row.save()
    _try(row, delivery_settings, retry=False)
    return row


def _test_news(by: str, now: datetime) -> News:
    return News(
        event=TEST_EVENT,
        key=f"{TEST_EVENT}:{secrets.token_hex(8)}",
        at=now,
        subject="Test message from Registry Admin",
        text=f"Test sent by {by}. No action needed.",
        path=pages.INDEX,
    )


def send_again(row: NotificationDelivery) -> None:
    """Let the worker send a failed delivery again, with all its attempts. Raises Refusal if it is not failed."""
    failed = NotificationDelivery.objects.filter(pk=row.pk, status=DeliveryStatus.FAILED)
    if not failed.update(status=DeliveryStatus.WAITING, attempts=0, next_try_at=clock.now(), answer=""):
        raise refusal("message_not_failed")


def examples(channel: NotificationChannel, *, origin: str, by: str, limit: int = 5) -> list[NotificationDelivery]:
    """What the channel would get: its newest message of each event of the last day, newest first, else a test message.

    Of each kind of change, the newest EXAMPLES_READ are read. The deliveries are not saved and not sent.
    """
    now = clock.now()
    newest: dict[str, News] = {}
    for each in sorted(_wanted(channel, current_news(now, most=EXAMPLES_READ)), key=lambda news: news.at, reverse=True):
        newest.setdefault(each.event, each)
    found = list(newest.values())[:limit] or [_test_news(by, now)]
    return [_delivery(channel, each, origin=origin, now=now) for each in found]
