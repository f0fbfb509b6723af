"""A change behind our back is seen through the event queue, and healed within seconds."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.db.models.functions import Now
from django.utils import timezone

from deployments import ecr, events, provisioning
from deployments.config import Configuration
from deployments.ecr import Access, EventQueue, Message
from deployments.models import Project, Repository, RepositoryStatus
from sandbox.control import Sandbox
from tests.conftest import CLUSTER, HOST, OWNER

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def queue(sandbox: Sandbox) -> EventQueue:
    """A queue that the sandbox sends its ECR calls to, as EventBridge would."""
    return EventQueue(url=sandbox.events_to("registry-admin"), region="us-east-1", access=Access(), seconds=1)


@pytest.fixture
def repository(project: Project, ecr_configuration: Configuration, queue: EventQueue) -> Repository:
    """A repository that a deploy has made; the events of that are on the queue already."""
    registry = ecr.registry_of(HOST)
    assert registry is not None
    return provisioning.ensure_repository(
        registry=ecr_configuration.v4,
        ecr_registry=registry,
        name=f"trigger/{project.ref}",
        project=project,
        digest=ecr_configuration.desired_digest,
        freshness=ecr_configuration.freshness,
    )


@pytest.fixture
def consumer(ecr_configuration: Configuration, queue: EventQueue, repository: Repository) -> Iterator[None]:
    """The consumer, running in a thread as `manage.py events` does."""
    stop = threading.Event()

    def run() -> None:
        try:
            events.consume(configuration=ecr_configuration, queue=queue, stopping=stop.is_set)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    yield
    stop.set()
    thread.join(30)
    assert not thread.is_alive()


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> float:
    """Seconds until the condition held; fails after the limit."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "it did not come about"
        time.sleep(0.02)
    return time.monotonic() - started


def policy(sandbox: Sandbox, name: str) -> str:
    client = sandbox.client("ecr")
    try:
        return str(client.get_repository_policy(repositoryName=name)["policyText"])
    except client.exceptions.RepositoryPolicyNotFoundException:
        return ""


def event(operation: str, name: str, **detail: Any) -> str:
    return json.dumps(
        {
            "source": "aws.ecr",
            "detail-type": "AWS API Call via CloudTrail",
            "account": OWNER,
            "detail": {
                "eventName": operation,
                "eventTime": "2099-01-01T00:00:00Z",
                "awsRegion": "us-east-1",
                "userAgent": "aws-cli",
                "requestParameters": {"repositoryName": name, "registryId": OWNER},
                **detail,
            },
        }
    )


def message(body: str, receives: int = 1) -> Message:
    return Message(id="m", body=body, receipt="r", receives=receives)


def test_a_policy_deleted_behind_our_back_is_healed_within_seconds(
    repository: Repository, consumer: None, sandbox: Sandbox
) -> None:
    sandbox.client("ecr").delete_repository_policy(repositoryName=repository.name)

    seconds = wait_for(lambda: CLUSTER in policy(sandbox, repository.name))

    assert seconds < 5
    wait_for(lambda: Repository.objects.get(pk=repository.pk).status == RepositoryStatus.IN_SYNC)


def test_our_own_writes_come_back_as_events_and_cause_no_look(
    repository: Repository, queue: EventQueue, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    received = queue.receive()
    while len(received) < 3:  # CreateRepository, PutLifecyclePolicy, SetRepositoryPolicy
        received += queue.receive()
    sandbox.reset_calls()

    done = events.handle(configuration=ecr_configuration, messages=received)

    assert done == received
    assert not [name for name in sandbox.calls() if name.startswith("ecr:")]


def test_a_lifecycle_policy_deleted_behind_our_back_is_looked_at_though_it_is_not_due(
    repository: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    client = sandbox.client("ecr")
    client.delete_lifecycle_policy(repositoryName=repository.name)

    events.handle(configuration=ecr_configuration, messages=[message(event("DeleteLifecyclePolicy", repository.name))])

    assert client.get_lifecycle_policy(repositoryName=repository.name)


def test_the_same_repository_named_ten_times_is_looked_at_once(
    repository: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.reset_calls()

    messages = [message(event("SetRepositoryPolicy", repository.name)) for _ in range(10)]
    assert events.handle(configuration=ecr_configuration, messages=messages) == messages

    assert sandbox.calls()["ecr:GetRepositoryPolicy"] == 1


def test_a_deleted_repository_is_missing(
    repository: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.client("ecr").delete_repository(repositoryName=repository.name, force=True)

    events.handle(configuration=ecr_configuration, messages=[message(event("DeleteRepository", repository.name))])

    assert Repository.objects.get(pk=repository.pk).status == RepositoryStatus.MISSING


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", "null", '{"source": "aws.ecr"}', '{"source": "aws.ecr", "detail": 3}', "[" * 100_000],
)
def test_a_message_that_cannot_be_read_is_taken_off_the_queue_and_the_others_are_done(
    body: str, repository: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.client("ecr").delete_repository_policy(repositoryName=repository.name)
    messages = [message(body), message(event("DeleteRepositoryPolicy", repository.name))]

    assert len(events.handle(configuration=ecr_configuration, messages=messages)) == 2
    assert CLUSTER in policy(sandbox, repository.name)


@pytest.mark.parametrize(
    "body",
    [
        event("DescribeRepositories", "trigger/x"),
        event("SetRepositoryPolicy", "trigger/x", errorCode="AccessDenied"),
        event("SetRepositoryPolicy", "somebody/elses"),
        event("SetRepositoryPolicy", "trigger/never-heard-of"),
        event("SetRepositoryPolicy", "trigger/x", awsRegion="eu-west-1"),
        event("TagResource", "", requestParameters={"resourceArn": "arn:aws:ecr:us-east-1:1:repository/a"}),
    ],
)
def test_an_event_that_is_none_of_our_business_asks_aws_nothing(
    body: str, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    assert len(events.handle(configuration=ecr_configuration, messages=[message(body)])) == 1
    assert sandbox.calls() == {}


@pytest.mark.slow
def test_a_message_stays_on_the_queue_while_aws_fails_and_is_given_up_after_some_tries(
    repository: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.fault("error", "ecr:GetRepositoryPolicy", code="ThrottlingException")
    body = event("SetRepositoryPolicy", repository.name)

    assert events.handle(configuration=ecr_configuration, messages=[message(body)]) == []
    assert len(events.handle(configuration=ecr_configuration, messages=[message(body, receives=5)])) == 1


def test_the_consumer_outlives_a_queue_that_cannot_be_reached(
    repository: Repository, consumer: None, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PAUSE_SECONDS", 0.1)
    sandbox.fault("error", "sqs:ReceiveMessage", code="AccessDenied", status=403, times=6)

    sandbox.client("ecr").delete_repository_policy(repositoryName=repository.name)

    wait_for(lambda: CLUSTER in policy(sandbox, repository.name), seconds=30)


def test_an_event_about_details_that_comes_late_is_not_taken_for_known_by_a_look_at_the_policy(
    repository: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    client = sandbox.client("ecr")
    client.delete_lifecycle_policy(repositoryName=repository.name)
    late = (timezone.now() - timedelta(seconds=30)).isoformat()
    Repository.objects.update(details_checked_at=Now() - timedelta(minutes=5), written_at=None)

    body = event("DeleteLifecyclePolicy", repository.name, eventTime=late)
    events.handle(configuration=ecr_configuration, messages=[message(body)])

    assert client.get_lifecycle_policy(repositoryName=repository.name)
