"""Drift seen within seconds: CloudTrail's ECR calls, from an SQS queue that EventBridge feeds.

An event only names a repository; what it says happened is never believed, because events come at least once, out of
order and late. The named repository is looked at, by the same function as everywhere. Our own writes come back as
events too and are recognised, so that a heal does not cause another look. The sweep stays as the safety net.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models.functions import Now

from deployments import provisioning, sweeps
from deployments.config import Configuration
from deployments.ecr import USER_AGENT, Ecr, EventQueue, Message, RegistryError
from deployments.models import Repository, RepositoryStatus
from deployments.reconcile import generation

log = logging.getLogger(__name__)

#: CloudTrail event name → whether it concerns what a look at the policy alone does not show.
CHANGES = {
    "CreateRepository": True,
    "DeleteRepository": False,
    "SetRepositoryPolicy": False,
    "DeleteRepositoryPolicy": False,
    "PutLifecyclePolicy": True,
    "DeleteLifecyclePolicy": True,
    "PutImageTagMutability": True,
    "TagResource": True,
    "UntagResource": True,
}
OWN_WRITE = timedelta(seconds=5)  # CloudTrail's clock against ours, around a write of our own
HELD_SECONDS = 20  # a deploy may hold the repository; the change may be newer than what it has read
TRIES = 5  # receives of one message after which it is given up
PAUSE_SECONDS = 5.0  # after SQS could not be asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an event says: somebody called this operation on this repository."""

    operation: str
    account: str
    region: str
    name: str
    at: datetime
    ours: bool  # by our own user agent

    @property
    def details(self) -> bool:
        return CHANGES[self.operation]


def parse(body: str) -> Change | None:
    """The change in a message's body; None for an event that is none of our business.

    Raises ValueError for a body that is no such event at all: it will never be readable.
    """
    try:
        event = json.loads(body)
        detail = event["detail"]
        operation = detail["eventName"]
        if event.get("source") != "aws.ecr" or operation not in CHANGES or detail.get("errorCode"):
            return None
        parameters = detail.get("requestParameters") or {}
        arn = str(parameters.get("resourceArn") or "")
        # TagResource names an ARN: arn:partition:ecr:region:account:repository/name
        name = parameters.get("repositoryName") or arn.partition(":repository/")[2]
        account = parameters.get("registryId") or (arn.split(":")[4] if arn else "") or event["account"]
        at = datetime.fromisoformat(detail["eventTime"].replace("Z", "+00:00"))
        if not isinstance(name, str) or not name:
            return None
        return Change(
            operation=operation,
            account=str(account),
            region=str(detail["awsRegion"]),
            name=name,
            at=at if at.tzinfo else at.replace(tzinfo=UTC),
            ours=USER_AGENT in str(detail.get("userAgent", "")),
        )
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"not an event of CloudTrail: {type(error).__name__}") from None


def consume(*, configuration: Configuration, queue: EventQueue, stopping: Callable[[], bool]) -> None:
    """Receive and act until told to stop. A fault of SQS or AWS never ends it; what was not done comes again."""
    trouble = ""
    while not stopping():
        try:
            messages = queue.receive()
            if trouble:
                log.info("events.recovered")
                trouble = ""
        except RegistryError as error:
            if str(error) != trouble:  # once, not every five seconds
                trouble = str(error)
                log.error("events.queue_unreachable error=%s", error)
            _pause(PAUSE_SECONDS, stopping)
            continue
        done = handle(configuration=configuration, messages=messages)
        try:
            queue.delete(done)
        except RegistryError as error:
            log.warning("events.not_deleted count=%d error=%s", len(done), error)  # they come again, and do no harm


def _pause(seconds: float, stopping: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stopping():
        time.sleep(0.2)


def handle(*, configuration: Configuration, messages: list[Message]) -> list[Message]:
    """Look at the repositories that these messages name, each once. Returns the messages that are done with."""
    done: list[Message] = []
    wanted: dict[tuple[str, str, str], list[tuple[Message, Change]]] = {}
    for message in messages:
        try:
            change = parse(message.body)
        except ValueError as error:
            log.warning("events.unreadable message=%s error=%s", message.id, error)
            done.append(message)
            continue
        if change is None:
            done.append(message)
        else:
            wanted.setdefault((change.account, change.region, change.name), []).append((message, change))
    for (account, region, name), pairs in wanted.items():
        settled = False
        try:
            settled = _look(configuration, account, region, name, [change for _, change in pairs])
        except Exception:
            # One poisonous repository must not keep the others from being looked at; it is seen in the log, and
            # the sweep will come to it.
            log.exception("events.failed repository=%s", name)
        for message, _ in pairs:
            if settled or message.receives >= TRIES:
                done.append(message)
    return done


def _look(configuration: Configuration, account: str, region: str, name: str, changes: list[Change]) -> bool:
    """Look at one repository because of these changes; False when it has to be tried again.

    Raises RegistryError where this process cannot use the configuration that counts.
    """
    configuration = generation.in_force(configuration)
    target = next(
        (
            each
            for each in sweeps.targets(configuration)
            if (each.registry.account, each.registry.region) == (account, region) and each.holds(name)
        ),
        None,
    )
    if target is None:
        return True
    until = time.monotonic() + HELD_SECONDS
    details = any(change.details for change in changes)
    while True:
        row: Any = Repository.objects.filter(account=account, region=region, name=name).annotate(db_now=Now()).first()
        if row is None or row.status == RepositoryStatus.UNMANAGED or not row.origin:
            return True  # not ours yet: discovering is the sweep's, creating the deploy's
        if all(_is_known(change, row) for change in changes):
            return True
        ecr: Ecr = sweeps.reach(target)
        result = provisioning.reconcile(
            row=row,
            ecr=ecr,
            registry=target.config,
            digest=configuration.desired_digest,
            cause="event",
            enforce=configuration.enforce,
            activation=configuration.activation,
            details=details,
        )
        if result is not None:
            if result.written:
                log.info("events.healed repository=%s", name)
            return result.error is None or not result.error.heals
        if time.monotonic() > until:
            return False
        time.sleep(0.1)


def _is_known(change: Change, row: Repository) -> bool:
    """Whether the row knows of this change: it is our own write, or we have looked well after it."""
    if change.ours and row.written_at is not None and change.at <= row.written_at + OWN_WRITE:
        return True
    looked_at = row.details_checked_at if change.details else row.last_checked_at
    return looked_at is not None and change.at < looked_at - OWN_WRITE
