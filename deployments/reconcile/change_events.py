"""Finds changes within seconds: events of CloudTrail and of ECR, from an SQS queue that EventBridge fills.

An event only names a repository to check, images to look at, or a registry whose own policy is to be read. Its content
is not trusted, because events come at least once, out of order and late. The repository is checked, and its images
that must stay are looked at, by the same functions as in a sweep.
Events of our own writes are recognised, so that a correction does not cause another check. Sweeps find what events
miss.

A message is deleted only when its check was done or when it is malformed. While the database or AWS does not answer,
the message stays, and SQS delivers it again after a minute, until the queue's retention or redrive policy ends it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import Error, InterfaceError, InternalError, OperationalError, connection, connections
from django.db.models import Q
from django.db.models.functions import Now

from deployments.aws.clients import USER_AGENT
from deployments.aws.sqs import EventQueue
from deployments.aws.values import Message
from deployments.config import Configuration
from deployments.errors import RegistryError, registry_error
from deployments.log import bound, get_logger
from deployments.models import ProcessRole, Repository
from deployments.reconcile import (
    change_feed,
    generation,
    image_states,
    processes,
    registry_policies,
    repositories,
    targets,
)

log = get_logger(__name__)

#: CloudTrail event name → whether the details (not only the policy) must be read.
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
#: Events of CloudTrail about images: calls, and the run of a lifecycle policy, which expires or archives images.
IMAGE_OPERATIONS = ("BatchDeleteImage", "UpdateImageStorageClass", "PolicyExecutionEvent")
#: The actions in ECR's own events about images. (*Amazon ECR events and EventBridge*, Amazon ECR User Guide)
IMAGE_ACTIONS = ("DELETE", "PUSH", "UPDATE_STORAGE_CLASS")
#: Events about a registry itself, which name no repository.
REGISTRY_OPERATIONS = ("PutRegistryPolicy", "DeleteRegistryPolicy", "PutAccountSetting")
OWN_WRITE_TOLERANCE = timedelta(seconds=5)  # how far CloudTrail's clock and ours may differ
HELD_SECONDS = 20  # how long to wait for a repository's lease, for example until a deploy returns it
PAUSE_SECONDS = 5.0  # after a failure of SQS or of the database
MOST_CALLERS = 1000  # characters of all callers that may have brought one statement
LONGEST_CALLER = 600  # characters; an ARN of IAM has at most 512 in its path, and a name
LONGEST_NAME = 256  # of a repository, in characters (*CreateRepository*, Amazon ECR API Reference)
STUCK_SECONDS = 300.0  # after this time without a step, this process sends no heartbeat; a step takes a minute
#: How long the heartbeat reports a check that failed. SQS delivers its message again each minute.
FAILED_CHECK_SHOWN_SECONDS = 90.0
RETRIES_PER_LINE = 10  # a message that keeps failing is logged once in so many tries
NOT_DONE = "Some changed repositories could not be compared: their rows and the log have the reasons."

_stepped = time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeEvent:
    """An event: this operation was called on this repository, its images, or the registry."""

    operation: str
    account: str
    region: str
    name: str  # empty: on the registry itself
    at: datetime
    made_by_us: bool  # the user agent is ours
    by: str = ""  # who called, for a change of the policy; shown and not trusted
    images: frozenset[str] | None = None  # digests; empty: images that are not known; None: it is not about images

    def __post_init__(self) -> None:
        """Raise ValueError for a text that AWS would not send, and that a database may refuse: NUL, a surrogate."""
        for text in (self.account, self.region, self.name):
            if len(text) > LONGEST_NAME or not (text.isascii() and text.isprintable()):
                raise ValueError("AWS has no account, region or repository of this name")

    @property
    def details(self) -> bool:
        """Whether the details (not only the policy) must be read."""
        return CHANGE_OPERATIONS[self.operation]


def parse(body: str) -> ChangeEvent | None:
    """The change in a message's body; None for an event about something else.

    Raises ValueError for a body that is not a CloudTrail event: it can never be read.
    """
    try:
        event = json.loads(body)
        detail = event["detail"]
        if event.get("detail-type") == "ECR Image Action":
            return _image_action(event)
        operation = detail["eventName"]
        if event.get("source") == "aws.ecr" and operation in IMAGE_OPERATIONS and not detail.get("errorCode"):
            return _image_operation(event)
        known = operation in CHANGE_OPERATIONS or operation in REGISTRY_OPERATIONS
        is_proof = operation == change_feed.PROOF  # also with an errorCode: a registry may have no policy
        if event.get("source") != "aws.ecr" or not (known or is_proof) or (detail.get("errorCode") and not is_proof):
            return None
        parameters = detail.get("requestParameters") or {}
        arn = str(parameters.get("resourceArn") or "")
        # TagResource names an ARN: arn:partition:ecr:region:account:repository/name
        name = parameters.get("repositoryName") or arn.partition(":repository/")[2]
        if operation in REGISTRY_OPERATIONS or is_proof:
            name = ""
        account = parameters.get("registryId") or (arn.split(":")[4] if arn else "") or event["account"]
        if not isinstance(name, str) or (not name and operation not in REGISTRY_OPERATIONS and not is_proof):
            return None
        return ChangeEvent(
            operation=operation,
            account=str(account),
            region=str(detail["awsRegion"]),
            name=name,
            at=_time(detail["eventTime"]),
            made_by_us=USER_AGENT in str(detail.get("userAgent", "")),
            by=_caller(detail.get("userIdentity") or {}) if operation == "SetRepositoryPolicy" else "",
        )
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"not a CloudTrail event: {type(error).__name__}") from None


def _caller(identity: dict[str, Any]) -> str:
    """Who called, by CloudTrail's `userIdentity`: the ARN, or the AWS service that called by itself or for somebody.

    (AWS CloudTrail User Guide, “CloudTrail userIdentity element”.) Empty if it says neither, or not in a text of AWS.
    """
    arn, service = str(identity.get("arn") or ""), str(identity.get("invokedBy") or "")
    words = f"{arn} by {service}" if arn and service else arn or service
    return words if len(words) <= LONGEST_CALLER and words.isascii() and words.isprintable() else ""


def _image_action(event: dict[str, Any]) -> ChangeEvent | None:
    """ECR's own event about an image, which is of one account and region, and names the image by its digest."""
    detail, name = event["detail"], event["detail"]["repository-name"]
    action = detail["action-type"]
    known = event.get("source") == "aws.ecr" and action in IMAGE_ACTIONS and detail.get("result") == "SUCCESS"
    if not known or not isinstance(name, str) or not name:
        return None
    return ChangeEvent(
        operation=action,
        account=str(event["account"]),
        region=str(event["region"]),
        name=name,
        at=_time(event["time"]),
        made_by_us=False,
        images=_digests([{"imageDigest": detail.get("image-digest")}]),
    )


def _image_operation(event: dict[str, Any]) -> ChangeEvent | None:
    """CloudTrail's event about a call on images, or about the run of a lifecycle policy, which may have several."""
    detail = event["detail"]
    service, parameters = detail.get("serviceEventDetails") or {}, detail.get("requestParameters") or {}
    name = service.get("repositoryName") or parameters.get("repositoryName")
    if not isinstance(name, str) or not name:
        return None
    actions = service.get("lifecycleEventImageActions") or []
    ids = [{"imageDigest": each["lifecycleEventImage"].get("digest")} for each in actions]
    if not service:
        ids = parameters.get("imageIds") or [parameters.get("imageId") or {}]
    elif not actions:
        return None  # the policy selected no image
    return ChangeEvent(
        operation=detail["eventName"],
        account=str(parameters.get("registryId") or event["account"]),
        region=str(detail["awsRegion"]),
        name=name,
        at=_time(detail["eventTime"]),
        made_by_us=False,  # a look is needed whether or not the program made the call
        images=_digests(ids),
    )


def _digests(ids: list[dict[str, Any]]) -> frozenset[str]:
    """The digests of image ids; empty if one is named by its tag only."""
    found = [each.get("imageDigest") for each in ids]
    return frozenset(str(digest) for digest in found) if all(found) else frozenset()


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def consume(*, configuration: Configuration, queue: EventQueue, stopping: Callable[[], bool]) -> None:
    """Receive messages and check the repositories until stopped. No failure of SQS, AWS or the database ends it.

    A failure of SQS or the database is logged once when it begins and once when it ends; meanwhile this process's
    heartbeat reports it.
    """
    trouble = ""
    while not stopping():
        _step()
        words = ""
        try:
            _renew_connection()  # without the database, no message could be handled
            _prove(configuration)
            messages = queue.receive()
            if messages:
                _renew_connection()
                done = handle(configuration=configuration, messages=messages, stopping=stopping)
                _delete(queue, done)
                if len(done) < len(messages):
                    processes.report_trouble(NOT_DONE, seconds=FAILED_CHECK_SHOWN_SECONDS)
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
    """Whether `consume` made a step within STUCK_SECONDS: a process that hangs must not send a heartbeat."""
    return time.monotonic() - _stepped < STUCK_SECONDS


def unready() -> str:
    """Why no events process is ready on this host, for a probe; empty if one is."""
    return processes.unready(ProcessRole.EVENTS)


def _renew_connection() -> None:
    """Replace a connection that the server has closed. Raises OperationalError if the database does not answer.

    Django does this at each request; this process has no requests.
    """
    if connection.connection is not None and not connection.is_usable():
        connection.close()
    connection.ensure_connection()


def _delete(queue: EventQueue, done: list[Message]) -> None:
    try:
        queue.delete(done)
    except RegistryError as error:
        # SQS delivers these messages again, which does no harm.
        log.warning("events.not_deleted", count=len(done), error=str(error))


def _pause(seconds: float, stopping: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stopping():
        time.sleep(0.2)


def handle(
    *, configuration: Configuration, messages: list[Message], stopping: Callable[[], bool] = lambda: False
) -> list[Message]:
    """Check each repository that the messages name once. Returns the messages that can be deleted.

    Raises OperationalError, InterfaceError or InternalError while the database does not answer or is read-only; then no
    message can be deleted.
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
        if change is not None and change.made_by_us:
            _returned(change, configuration)
        if change is None or change.operation == change_feed.PROOF:
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
                if name:
                    problem = _check_all(
                        configuration, account, region, name, [change for _, change in pairs], stopping
                    )
                else:
                    problem = _check_registry(configuration, account, region, [change for _, change in pairs])
        except (OperationalError, InterfaceError, InternalError):
            raise
        except RegistryError as error:
            problem = str(error)  # this process cannot use the configuration that counts
        except Exception as error:
            # An unexpected error with one repository must not stop the others.
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


def _returned(change: ChangeEvent, configuration: Configuration) -> None:
    """Record that the event of an own call has come: a proof of the change feed."""
    where = {"account": change.account, "region": change.region}
    if change.operation == change_feed.PROOF:
        change_feed.read_returned(**where, at=change.at, interval=configuration.reconcile_interval)
    elif change.name:
        change_feed.write_returned(**where, name=change.name, at=change.at)


def _prove(configuration: Configuration) -> None:
    """Read the registry policy of each registry whose change feed needs a proof. The event of the read is the proof."""
    interval = configuration.reconcile_interval
    for target in {target.registry: target for target in targets.configured(configuration)}.values():
        if change_feed.proof_is_due(account=target.registry.account, region=target.registry.region, interval=interval):
            registry_policies.look(target.ecr(attempts=1))


def _check_all(
    configuration: Configuration,
    account: str,
    region: str,
    name: str,
    changes: list[ChangeEvent],
    stopping: Callable[[], bool],
) -> str | None:
    """Check the repository, its images, or both, because of these changes. Results and errors are those of `_check`."""
    problem: str | None = None
    if others := [change for change in changes if change.images is None]:
        problem = _check(configuration, account, region, name, others, stopping)
    if about_images := [change for change in changes if change.images is not None]:
        problem = _check_images(configuration, account, region, name, about_images) or problem
    return problem


def _check_images(
    configuration: Configuration, account: str, region: str, name: str, changes: list[ChangeEvent]
) -> str | None:
    """Look at the images that must stay, if a change may be about one of them. Results and errors as of `_check`.

    So the run of a lifecycle policy that expires 500 other images costs no call.
    """
    configuration = generation.in_force(configuration)
    target = targets.find(configuration, account=account, region=region, name=name)
    if target is None:
        return None
    row: Any = Repository.objects.filter(account=account, region=region, name=name).annotate(db_now=Now()).first()
    images = image_states.wanted([row.pk], config=target.config).get(row.pk) if row is not None else None
    if not images or not row.is_managed:
        return None
    digests, seen_at = {each.digest for each in images}, image_states.seen_at(images)
    if all((change.images and not change.images & digests) or _is_older(change, seen_at) for change in changes):
        return None
    look = image_states.look(ecr=target.ecr(), repository=row, images=images, at=row.db_now)
    image_states.record([look], config=target.config)
    error = look.error
    return str(error) if error is not None and (error.retryable or error.installation) else None


def _check(
    configuration: Configuration,
    account: str,
    region: str,
    name: str,
    changes: list[ChangeEvent],
    stopping: Callable[[], bool] = lambda: False,
) -> str | None:
    """Check one repository because of these changes. None if it was done, else why it must be tried again.

    Raises RegistryError if this process cannot use the configuration that counts.
    """
    configuration = generation.in_force(configuration)
    target = targets.find(configuration, account=account, region=region, name=name)
    if target is None:
        return None
    until = time.monotonic() + HELD_SECONDS
    details = any(change.details for change in changes)
    callers = dict.fromkeys(change.by for change in changes if change.by and not change.made_by_us)
    while True:
        row: Any = Repository.objects.filter(account=account, region=region, name=name).annotate(db_now=Now()).first()
        if row is None or not row.is_managed:
            return None  # not managed: sweeps discover and deploys create repositories
        if all(_is_known(change, row) for change in changes):
            image_states.rejudge(Q(pk=row.pk), config=target.config)  # our own write may have changed who can pull
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
            policy_by=" or ".join(callers)[:MOST_CALLERS],
        )
        if result is not None:
            if result.written:
                log.info("events.healed", repository=name)
            image_states.follow(Q(pk=row.pk), config=target.config)
            # An error of this repository alone is recorded on its row, so the check is done. An error of AWS or of the
            # installation says nothing about this repository, so the check must be repeated.
            error = result.error
            return str(error) if error is not None and (error.retryable or error.installation) else None
        if time.monotonic() > until or stopping():
            return "another process holds the repository's lease"
        time.sleep(0.1)


def _check_registry(configuration: Configuration, account: str, region: str, changes: list[ChangeEvent]) -> str | None:
    """Read the registry policy because of these changes. None if it was done, else why it must be tried again.

    Raises RegistryError if this process cannot use the configuration that counts.
    """
    configuration = generation.in_force(configuration)
    found = [
        target
        for target in targets.configured(configuration)
        if (target.registry.account, target.registry.region) == (account, region)
    ]
    row = registry_policies.reading(account=account, region=region)
    if not found or all(_is_older(change, row.read_at if row else None) for change in changes):
        return None
    error = registry_policies.look(found[0].ecr()).error
    image_states.rejudge(Q(account=account, region=region), config=found[0].config)
    return str(error) if error is not None and (error.retryable or error.installation) else None


def _is_known(change: ChangeEvent, row: Repository) -> bool:
    """Whether the change needs no check: it was our own write, or the repository was checked after it."""
    if change.made_by_us and row.written_at is not None and change.at <= row.written_at + OWN_WRITE_TOLERANCE:
        return True
    return _is_older(change, row.details_checked_at if change.details else row.last_checked_at)


def _is_older(change: ChangeEvent, looked_at: datetime | None) -> bool:
    """Whether the check at this time came after the change, also if the two clocks differ."""
    return looked_at is not None and change.at < looked_at - OWN_WRITE_TOLERANCE
