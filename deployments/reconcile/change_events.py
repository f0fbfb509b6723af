"""Drift seen within seconds: CloudTrail's ECR calls, from an SQS queue that EventBridge feeds.

An event only names a repository; what it says happened is never believed, because events come at least once, out of
order and late. The named repository is looked at, by the same function as everywhere. Our own writes come back as
events too and are recognised, so that a heal does not cause another look. The sweep stays as the safety net.

A message is deleted when its look was done or when it is malformed, and for no other reason: while the database or AWS
is away it stays, and SQS hands it out again after a minute, until the queue's own retention or redrive policy ends it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import Error, InterfaceError, InternalError, OperationalError, connection, connections
from django.db.models.functions import Now

from deployments.aws.clients import USER_AGENT
from deployments.aws.sqs import EventQueue
from deployments.aws.values import Message
from deployments.config import Configuration
from deployments.errors import RegistryError, registry_error
from deployments.log import bound, get_logger
from deployments.models import ProcessRole, Repository
from deployments.reconcile import generation, processes, repositories, targets

log = get_logger(__name__)

#: CloudTrail event name → whether it concerns what a look at the policy alone does not show.
CHANGE_OPERATIONS = {
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
OWN_WRITE_TOLERANCE = timedelta(seconds=5)  # CloudTrail's clock against ours, around a write of our own
HELD_SECONDS = 20  # a deploy may hold the repository; the change may be newer than what it has read
PAUSE_SECONDS = 5.0  # after SQS or the database could not be asked
STUCK_SECONDS = 300.0  # without a step for so long, this process sends no heartbeat; one step takes a minute
TOLD_SECONDS = 90.0  # a look that failed is reported on the heartbeat for so long: SQS delivers its message each minute
RETRIES_PER_LINE = 10  # a message that fails again and again is one log line in so many tries
NOT_DONE = "Some changed repositories could not be compared: their rows and the log have the reasons."

_stepped = time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeEvent:
    """What an event says: somebody called this operation on this repository."""

    operation: str
    account: str
    region: str
    name: str
    at: datetime
    made_by_us: bool  # by our own user agent

    @property
    def details(self) -> bool:
        return CHANGE_OPERATIONS[self.operation]


def parse(body: str) -> ChangeEvent | None:
    """The change in a message's body; None for an event that is none of our business.

    Raises ValueError for a body that is no such event at all: it will never be readable.
    """
    try:
        event = json.loads(body)
        detail = event["detail"]
        operation = detail["eventName"]
        if event.get("source") != "aws.ecr" or operation not in CHANGE_OPERATIONS or detail.get("errorCode"):
            return None
        parameters = detail.get("requestParameters") or {}
        arn = str(parameters.get("resourceArn") or "")
        # TagResource names an ARN: arn:partition:ecr:region:account:repository/name
        name = parameters.get("repositoryName") or arn.partition(":repository/")[2]
        account = parameters.get("registryId") or (arn.split(":")[4] if arn else "") or event["account"]
        at = datetime.fromisoformat(detail["eventTime"].replace("Z", "+00:00"))
        if not isinstance(name, str) or not name:
            return None
        return ChangeEvent(
            operation=operation,
            account=str(account),
            region=str(detail["awsRegion"]),
            name=name,
            at=at if at.tzinfo else at.replace(tzinfo=UTC),
            made_by_us=USER_AGENT in str(detail.get("userAgent", "")),
        )
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"not an event of CloudTrail: {type(error).__name__}") from None


def consume(*, configuration: Configuration, queue: EventQueue, stopping: Callable[[], bool]) -> None:
    """Receive and act until stopped. A fault of SQS, AWS or the database never ends it.

    What is wrong with SQS or the database is one log line when it begins and one when it is over, and stands on this
    process's heartbeat meanwhile.
    """
    trouble = ""
    while not stopping():
        _step()
        words = ""
        try:
            _renew_connection()  # nothing is received while the database cannot be asked about it
            messages = queue.receive()
            if messages:
                _renew_connection()
                done = handle(configuration=configuration, messages=messages, stopping=stopping)
                _delete(queue, done)
                if len(done) < len(messages):
                    processes.report_trouble(NOT_DONE, seconds=TOLD_SECONDS)
        except RegistryError as error:
            words = f"The events queue cannot be read: {error}"
            if words != trouble:
                log.error("events.queue_unreachable", error=str(error))
        except Error as error:
            connections.close_all()
            words = "The database did not answer."
            if words != trouble:
                log.error("events.database_unreachable", error=" ".join(str(error).split()))
        if words != trouble:
            processes.report_trouble(words)
            if not words:
                log.info("events.recovered")
            trouble = words
        if words:
            _pause(PAUSE_SECONDS, stopping)


def _step() -> None:
    global _stepped
    _stepped = time.monotonic()


def is_moving() -> bool:
    """Whether `consume` made a step lately: a process that hangs must not send a heartbeat."""
    return time.monotonic() - _stepped < STUCK_SECONDS


def unready() -> str:
    """Why this host has no consumer that works, for a probe; empty when it has one."""
    return processes.unready(ProcessRole.EVENTS)


def _renew_connection() -> None:
    """Close a connection that the server has ended, and open another. Raises OperationalError when that fails.

    A web process does this at each request; here there are no requests.
    """
    if connection.connection is not None and not connection.is_usable():
        connection.close()
    connection.ensure_connection()


def _delete(queue: EventQueue, done: list[Message]) -> None:
    try:
        queue.delete(done)
    except RegistryError as error:
        log.warning("events.not_deleted", count=len(done), error=str(error))  # delivered again, without harm


def _pause(seconds: float, stopping: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stopping():
        time.sleep(0.2)


def handle(
    *, configuration: Configuration, messages: list[Message], stopping: Callable[[], bool] = lambda: False
) -> list[Message]:
    """Look at the repositories that these messages name, each once. Returns the messages that are done with.

    Raises OperationalError, InterfaceError or InternalError while the database does not answer or takes no writes; then
    none of them is.
    """
    done: list[Message] = []
    wanted: dict[tuple[str, str, str], list[tuple[Message, ChangeEvent]]] = {}
    for message in messages:
        try:
            change = parse(message.body)
        except ValueError as error:
            log.warning("events.unreadable", message=message.id, error=str(error))
            done.append(message)
            continue
        if change is None:
            done.append(message)
        else:
            wanted.setdefault((change.account, change.region, change.name), []).append((message, change))
    for (account, region, name), pairs in wanted.items():
        if stopping():
            break
        _step()
        problem: str | None
        try:
            with bound(repository=name):
                problem = _observe(configuration, account, region, name, [change for _, change in pairs], stopping)
        except (OperationalError, InterfaceError, InternalError):
            raise
        except RegistryError as error:
            problem = str(error)  # this process may not act, whichever repository it is
        except Exception as error:
            # An error of one repository must not stop the others.
            log.exception("events.failed", repository=name)
            unexpected = registry_error("Unexpected", operation="", name=name, reason=type(error).__name__)
            for row in Repository.objects.filter(account=account, region=region, name=name):
                repositories.record_failure(row=row, error=unexpected, cause="event")
            problem = str(unexpected)
        if problem is None:
            done += [message for message, _ in pairs]
        elif any(message.receives % RETRIES_PER_LINE == 1 for message, _ in pairs):
            log.warning("events.not_done", repository=name, receives=pairs[0][0].receives, error=problem)
    return done


def _observe(
    configuration: Configuration,
    account: str,
    region: str,
    name: str,
    changes: list[ChangeEvent],
    stopping: Callable[[], bool] = lambda: False,
) -> str | None:
    """Look at one repository because of these changes. None when that was done, else why it has to be tried again.

    Raises RegistryError where this process cannot use the configuration that counts.
    """
    configuration = generation.in_force(configuration)
    target = targets.find(configuration, account=account, region=region, name=name)
    if target is None:
        return None
    until = time.monotonic() + HELD_SECONDS
    details = any(change.details for change in changes)
    while True:
        row: Any = Repository.objects.filter(account=account, region=region, name=name).annotate(db_now=Now()).first()
        if row is None or not row.is_managed:
            return None  # not known yet: sweeps discover, deploys create
        if all(_is_known(change, row) for change in changes):
            return None
        ecr = target.ecr()
        result = repositories.reconcile(
            row=row,
            ecr=ecr,
            config=target.config,
            desired_digest=configuration.desired_digest,
            cause="event",
            enforce=configuration.enforce,
            activation=configuration.activation,
            details=details,
        )
        if result is not None:
            if result.written:
                log.info("events.healed", repository=name)
            # A refusal of this repository alone is on its row and was looked at; what concerns AWS or the whole
            # installation says nothing about this repository.
            error = result.error
            return str(error) if error is not None and (error.retryable or error.installation) else None
        if time.monotonic() > until or stopping():
            return "another process holds the repository's lease"
        time.sleep(0.1)


def _is_known(change: ChangeEvent, row: Repository) -> bool:
    """Whether the row knows of this change: it is our own write, or we have looked well after it."""
    if change.made_by_us and row.written_at is not None and change.at <= row.written_at + OWN_WRITE_TOLERANCE:
        return True
    looked_at = row.details_checked_at if change.details else row.last_checked_at
    return looked_at is not None and change.at < looked_at - OWN_WRITE_TOLERANCE
