"""A change behind our back is seen through the event queue, and healed within seconds."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, connections
from django.db.models.functions import Now
from django.utils import timezone

from deployments.aws import clients, partitions
from deployments.aws.sqs import EventQueue
from deployments.aws.values import Message
from deployments.config import Access, Configuration
from deployments.errors import RegistryError, registry_error
from deployments.models import Process, ProcessRole, Project, Repository, RepositoryStatus
from deployments.reconcile import change_events, generation, lease, processes, repositories, targets
from sandbox.control import Sandbox
from tests import databases, postgresql
from tests.support.change_events import consuming, event, message
from tests.support.constants import CLUSTER, HOST, OWNER, POLICY
from tests.support.registry import delete_repository

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def queue(sandbox: Sandbox) -> EventQueue:
    """A queue that the sandbox sends its ECR calls to, as EventBridge would."""
    return EventQueue(url=sandbox.events_to("registry-admin"), region="us-east-1", access=Access(), seconds=1)


@pytest.fixture
def repository(project: Project, ecr_configuration: Configuration, queue: EventQueue) -> Repository:
    """A repository that a deploy has made; the events of that are on the queue already."""
    registry = partitions.registry_of(HOST)
    assert registry is not None
    return repositories.ensure_repository(
        config=ecr_configuration.v4,
        registry=registry,
        name=f"trigger/{project.ref}",
        project=project,
        desired_digest=ecr_configuration.desired_digest,
        freshness=ecr_configuration.freshness,
    )


@pytest.fixture
def consumer(ecr_configuration: Configuration, queue: EventQueue, repository: Repository) -> Iterator[None]:
    """The consumer, running in a thread as `manage.py events` does."""
    with consuming(ecr_configuration, queue):
        yield


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


@pytest.mark.costly
def test_a_policy_deleted_behind_our_back_is_corrected_within_seconds(
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

    done = change_events.handle(configuration=ecr_configuration, messages=received)

    assert done == received
    assert not [name for name in sandbox.calls() if name.startswith("ecr:")]


def test_a_lifecycle_policy_deleted_behind_our_back_is_looked_at_though_it_is_not_due(
    repository: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    client = sandbox.client("ecr")
    client.delete_lifecycle_policy(repositoryName=repository.name)

    change_events.handle(
        configuration=ecr_configuration, messages=[message(event("DeleteLifecyclePolicy", repository.name))]
    )

    assert client.get_lifecycle_policy(repositoryName=repository.name)


def test_the_same_repository_named_ten_times_is_looked_at_once(
    repository: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.reset_calls()

    messages = [message(event("SetRepositoryPolicy", repository.name)) for _ in range(10)]
    assert change_events.handle(configuration=ecr_configuration, messages=messages) == messages

    assert sandbox.calls()["ecr:GetRepositoryPolicy"] == 1


def test_a_deleted_repository_is_missing(
    repository: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    delete_repository(sandbox, repository.name)

    change_events.handle(
        configuration=ecr_configuration, messages=[message(event("DeleteRepository", repository.name))]
    )

    assert Repository.objects.get(pk=repository.pk).status == RepositoryStatus.MISSING


@pytest.mark.costly
def test_a_change_of_a_new_repository_that_ecr_does_not_show_yet_stays_on_the_queue_until_it_is_seen(
    repository: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.client("ecr").delete_repository_policy(repositoryName=repository.name)
    changed = message(event("DeleteRepositoryPolicy", repository.name))
    sandbox.fault("not_found_after_create", seconds=60)

    assert change_events.handle(configuration=ecr_configuration, messages=[changed]) == []
    sandbox.clear_faults()
    assert change_events.handle(configuration=ecr_configuration, messages=[changed]) == [changed]

    row = Repository.objects.get(pk=repository.pk)
    assert (row.status, row.origin, row.policy_text) == (RepositoryStatus.IN_SYNC, "created", POLICY)


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", "null", '{"source": "aws.ecr"}', '{"source": "aws.ecr", "detail": 3}', "[" * 100_000],
)
def test_a_message_that_cannot_be_read_is_taken_off_the_queue_and_the_others_are_done(
    body: str, repository: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.client("ecr").delete_repository_policy(repositoryName=repository.name)
    messages = [message(body), message(event("DeleteRepositoryPolicy", repository.name))]

    assert len(change_events.handle(configuration=ecr_configuration, messages=messages)) == 2
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
    assert len(change_events.handle(configuration=ecr_configuration, messages=[message(body)])) == 1
    assert sandbox.calls() == {}


@pytest.mark.parametrize("receives", [1, 5, 1000])
def test_a_message_stays_on_the_queue_for_as_long_as_aws_fails(
    receives: int, repository: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.fault("error", "ecr:GetRepositoryPolicy", code="ExpiredTokenException", status=403)
    body = event("SetRepositoryPolicy", repository.name)

    assert change_events.handle(configuration=ecr_configuration, messages=[message(body, receives)]) == []

    sandbox.clear_faults()
    assert len(change_events.handle(configuration=ecr_configuration, messages=[message(body, receives)])) == 1


@pytest.mark.costly
def test_a_look_that_aws_refused_for_this_repository_is_done_and_the_reason_is_on_the_row(
    repository: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.client("ecr").delete_repository_policy(repositoryName=repository.name)
    sandbox.fault("error", "ecr:SetRepositoryPolicy", code="InvalidParameterException", status=400)

    done = change_events.handle(
        configuration=ecr_configuration, messages=[message(event("DeleteRepositoryPolicy", repository.name))]
    )

    assert len(done) == 1
    assert Repository.objects.get(pk=repository.pk).last_error


def test_a_look_that_fails_for_no_known_reason_is_on_the_row_and_its_message_stays_and_the_others_are_done(
    repository: Repository, ecr_configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(repositories, "reconcile", broken)
    other = event("SetRepositoryPolicy", "trigger/never-heard-of")
    messages = [message(event("SetRepositoryPolicy", repository.name), 1000), message(other)]

    assert change_events.handle(configuration=ecr_configuration, messages=messages) == messages[1:]
    assert "failed unexpectedly (ZeroDivisionError)" in Repository.objects.get(pk=repository.pk).last_error


def test_a_process_that_may_not_act_leaves_the_message_and_blames_no_repository(
    repository: Repository, ecr_configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(own: Configuration) -> Configuration:
        raise registry_error("OutdatedConfiguration", operation="act", name="", reason="x")

    monkeypatch.setattr(generation, "in_force", refused)
    messages = [message(event("SetRepositoryPolicy", repository.name))]

    assert change_events.handle(configuration=ecr_configuration, messages=messages) == []
    assert Repository.objects.get(pk=repository.pk).last_error == ""


# ------------------------------------------------------------------------------------------------------ SQS far away


class Far:
    """A TCP proxy that adds time each way, as a region does that is not this room."""

    def __init__(self, port: int, seconds: float) -> None:
        self._port, self._seconds = port, seconds
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.create_connection(("127.0.0.1", self._port))
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                time.sleep(self._seconds)
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._server.close()


@pytest.mark.slow
def test_a_long_poll_of_a_queue_40_ms_away_that_stays_empty_is_no_error_and_no_new_connection(
    ecr_configuration: Configuration,
    queue: EventQueue,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    far = Far(sandbox.port, 0.04)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{far.port}")
    # What the tests have no time for is as long as in real life: an answer may come just after the wait.
    monkeypatch.setattr(clients, "READ_SECONDS", 2)
    polls = 3
    away = replace(queue, seconds=2)
    sandbox.reset_calls()
    started = time.monotonic()
    try:
        change_events.consume(
            configuration=ecr_configuration,
            queue=away,
            stopping=lambda: sandbox.calls().get("sqs:ReceiveMessage", 0) >= polls,
        )
        assert time.monotonic() - started > polls * 2
        assert (sandbox.calls()["sqs:ReceiveMessage"], far.connections) == (polls, 1)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    finally:
        far.close()


@pytest.mark.costly
def test_every_read_timeout_is_longer_than_the_longest_wait_that_its_calls_ask_for(
    ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    real = EventQueue(url=sandbox.events_to("registry-admin"), region="us-east-1", access=Access())
    waits = {"sqs": real.seconds}  # WaitTimeSeconds; no other call of ours asks AWS to wait
    clients.forget_clients()
    real.delete([Message(id="m", body="", receipt="r", receives=1)])
    targets.configured(ecr_configuration)[0].ecr().observe("x", details=False)

    seen = {client.meta.service_model.service_name: client.meta.config for client in clients._clients.values()}

    assert {"sqs", "ecr"} <= set(seen)
    for service, config in seen.items():
        assert config.read_timeout >= waits.get(service, 0) + 5, service
        assert config.connect_timeout <= 5


# ---------------------------------------------------------------------------------------------- SQS or database away


@pytest.mark.costly
def test_the_consumer_outlives_a_queue_that_cannot_be_reached(
    repository: Repository, consumer: None, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_events, "PAUSE_SECONDS", 0.1)
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
    change_events.handle(configuration=ecr_configuration, messages=[message(body)])

    assert client.get_lifecycle_policy(repositoryName=repository.name)


@pytest.mark.costly
def test_a_queue_that_cannot_be_reached_is_one_log_line_and_trouble_on_the_heartbeat_until_it_can(
    repository: Repository,
    ecr_configuration: Configuration,
    queue: EventQueue,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(change_events, "PAUSE_SECONDS", 0.01)
    row = processes.start(ProcessRole.EVENTS)
    caplog.set_level(logging.INFO, logger="deployments.reconcile.change_events")
    told: list[str] = []
    sandbox.reset_calls()
    sandbox.fault("error", "sqs:ReceiveMessage", code="AccessDenied", status=403, times=4)

    def stopping() -> bool:
        processes.beat()
        row.refresh_from_db()
        told.append(row.trouble)
        return sandbox.calls().get("sqs:ReceiveMessage", 0) > 5

    change_events.consume(configuration=ecr_configuration, queue=queue, stopping=stopping)

    assert [record.levelname for record in caplog.records if record.name == "deployments.reconcile.change_events"] == [
        "ERROR",
        "INFO",
    ]
    assert any("The events queue cannot be read" in each for each in told)
    assert told[-1] == ""


def test_nothing_is_received_while_the_database_does_not_answer(
    ecr_configuration: Configuration, queue: EventQueue, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_events, "PAUSE_SECONDS", 0.01)
    tries: list[str] = []

    def away() -> None:
        tries.append("one")
        raise OperationalError("the connection is closed")

    monkeypatch.setattr(change_events, "_renew_connection", away)
    change_events.consume(configuration=ecr_configuration, queue=queue, stopping=lambda: len(tries) > 6)

    assert "sqs:ReceiveMessage" not in sandbox.calls()


@pytest.mark.costly
def test_a_database_that_fails_in_the_middle_of_a_look_leaves_every_message_on_the_queue(
    repository: Repository, ecr_configuration: Configuration, queue: EventQueue, sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(change_events, "PAUSE_SECONDS", 0.01)
    caplog.set_level(logging.INFO, logger="deployments.reconcile.change_events")
    looks: list[str] = []

    def away(*args: Any) -> str | None:
        looks.append("one")
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(change_events, "_check", away)
    sandbox.reset_calls()

    change_events.consume(configuration=ecr_configuration, queue=queue, stopping=lambda: bool(looks))

    assert "sqs:DeleteMessageBatch" not in sandbox.calls()
    assert [record.getMessage() for record in caplog.records] == [
        'events.database_unreachable error="server closed the connection unexpectedly"'
    ]


@pytest.mark.timeout(90)
@pytest.mark.parametrize("checking", [False, True])
def test_the_consumer_recovers_from_a_restart_of_the_database(
    checking: bool, own_server: postgresql.Server, repository: Repository, consumer: None, sandbox: Sandbox
) -> None:
    client = sandbox.client("ecr")
    if checking:
        # The restart comes while AWS takes a second to answer, so the consumer cannot return its lease.
        sandbox.fault("latency", match="ecr:SetRepositoryPolicy", seconds=1)
    client.delete_repository_policy(repositoryName=repository.name)
    held = Repository.objects.filter(pk=repository.pk, lease_until__isnull=False)
    if checking:
        wait_for(lambda: sandbox.faults()[0]["struck"])
        assert held.exists()
    else:
        wait_for(lambda: CLUSTER in policy(sandbox, repository.name) and not held.exists())
    own_server.crash()
    connections.close_all()
    sandbox.clear_faults()

    changed = POLICY.replace(CLUSTER, OWNER)
    client.set_repository_policy(repositoryName=repository.name, policyText=changed)

    def corrected() -> bool:
        lease.give_back_owed()  # as each heartbeat of `manage.py events` does
        return CLUSTER in policy(sandbox, repository.name) and not held.exists()

    wait_for(corrected, seconds=30)


# ----------------------------------------------------------------------------------------------------- its heartbeat


def test_a_consumer_that_hangs_stops_to_say_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    change_events._step()
    assert change_events.is_moving()

    monkeypatch.setattr(change_events, "_stepped", time.monotonic() - change_events.STUCK_SECONDS - 1)
    assert not change_events.is_moving()


def test_a_host_whose_consumer_is_silent_is_not_ready(
    ecr_configuration: Configuration, transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    Process.objects.create(role=ProcessRole.WORKER, host="here", pid=1)
    with pytest.raises(CommandError, match="No events process on this host"):
        call_command("events", "--check")

    Process.objects.create(role=ProcessRole.EVENTS, host="here", pid=2)
    call_command("events", "--check")


ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def running(
    repository: Repository, queue: EventQueue, sandbox: Sandbox, tmp_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """`manage.py events` in a process of its own, on the test's database and sandbox."""
    registry = {"DEPLOY_REGISTRY_HOST": HOST, "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY}
    url = databases.url_of(str(connection.settings_dict["NAME"]))
    log = tmp_path / "events.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "events"],
            cwd=ROOT,
            env={**os.environ, **registry, "RECONCILE_EVENTS_QUEUE_URL": queue.url, "DATABASE_URL": url},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    yield process
    if process.poll() is None:
        process.kill()
        process.wait()
    print(log.read_text())


@pytest.mark.slow
@pytest.mark.timeout(90)
@pytest.mark.parametrize("busy", [False, True])
def test_sigterm_ends_the_consumer_within_8_seconds_also_while_aws_does_not_answer(
    busy: bool, running: subprocess.Popen[bytes], repository: Repository, sandbox: Sandbox
) -> None:
    wait_for(lambda: Process.objects.filter(role=ProcessRole.EVENTS).exists(), seconds=40)
    if busy:
        sandbox.fault("hang", "ecr:*", seconds=60)
        _send(sandbox, repository.name)
        wait_for(lambda: any(fault["struck"] for fault in sandbox.faults()), seconds=30)
    else:
        time.sleep(1)

    running.send_signal(signal.SIGTERM)

    assert running.wait(8) == 0
    assert Process.objects.get(role=ProcessRole.EVENTS).ended_at is not None


def _send(sandbox: Sandbox, name: str) -> None:
    client = sandbox.client("sqs")
    url = client.get_queue_url(QueueName="registry-admin")["QueueUrl"]
    client.send_message(QueueUrl=url, MessageBody=event("SetRepositoryPolicy", name))


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_a_consumer_that_was_killed_is_silent_and_one_that_was_stopped_is_not(
    running: subprocess.Popen[bytes],
) -> None:
    row = None

    def beating() -> bool:
        nonlocal row
        row = Process.objects.filter(role=ProcessRole.EVENTS).first()
        return row is not None and row.beat_at > row.started_at

    wait_for(beating, seconds=40)
    assert row is not None
    assert row.trouble == ""
    running.kill()
    running.wait()
    Process.objects.update(beat_at=Now() - timedelta(seconds=121))

    assert [each.pk for each in processes.seen(ProcessRole.EVENTS).silent] == [row.pk]


# -------------------------------------------------------------------------------------------------------------- guards


@pytest.mark.parametrize("code", ["AccessDenied", "RepositoryPolicyNotFoundException"])
def test_a_call_that_aws_refused_changed_nothing_and_causes_no_look(
    code: str, repository: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.reset_calls()
    body = event("SetRepositoryPolicy", repository.name, errorCode=code)

    assert len(change_events.handle(configuration=ecr_configuration, messages=[message(body)])) == 1
    assert sandbox.calls() == {}


def test_one_repository_that_trips_us_up_does_not_keep_another_one_from_being_looked_at(
    repository: Repository, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconcile = repositories.reconcile
    poison = Repository.objects.create(
        account=OWNER, region="us-east-1", host=HOST, name="trigger/proj_poison", origin="created", management="full"
    )

    def stumble(*, row: Repository, **options: Any) -> Any:
        if row.pk == poison.pk:
            raise ZeroDivisionError
        return reconcile(row=row, **options)

    monkeypatch.setattr(repositories, "reconcile", stumble)
    sandbox.client("ecr").delete_repository_policy(repositoryName=repository.name)
    bodies = [event("DeleteRepositoryPolicy", name) for name in (poison.name, repository.name)]
    messages = [message(body) for body in bodies]

    assert change_events.handle(configuration=ecr_configuration, messages=messages) == messages[1:]
    assert CLUSTER in policy(sandbox, repository.name)


@pytest.mark.costly
@pytest.mark.parametrize("name", ["trigger/\ud800", "trigger/a\x00b", "trigger/" + "a" * 100_000, "trigger/'\";--"])
@pytest.mark.parametrize("operation", ["SetRepositoryPolicy", "BatchDeleteImage", "UpdateImageStorageClass"])
def test_a_name_that_no_database_takes_does_not_keep_other_repositories_from_being_checked(
    repository: Repository, ecr_configuration: Configuration, sandbox: Sandbox, name: str, operation: str
) -> None:
    sandbox.client("ecr").delete_repository_policy(repositoryName=repository.name)
    messages = [message(event(operation, name)), message(event("DeleteRepositoryPolicy", repository.name))]

    assert change_events.handle(configuration=ecr_configuration, messages=messages) == messages

    assert CLUSTER in policy(sandbox, repository.name)


@pytest.mark.parametrize("part", ["account", "region"])
def test_an_event_about_a_registry_that_no_database_takes_is_no_event(
    ecr_configuration: Configuration, sandbox: Sandbox, part: str
) -> None:
    about: dict[str, Any] = {
        "account": {"requestParameters": {"registryId": "\ud800\x00"}},
        "region": {"awsRegion": "\ud800\x00"},
    }
    messages = [message(event("PutRegistryPolicy", "", **about[part]))]

    assert change_events.handle(configuration=ecr_configuration, messages=messages) == messages
    assert sandbox.calls() == {}


@pytest.mark.costly
def test_messages_that_cannot_be_taken_off_the_queue_do_not_end_the_consumer(
    repository: Repository, consumer: None, sandbox: Sandbox
) -> None:
    sandbox.fault("error", "sqs:DeleteMessageBatch", code="AccessDenied", status=403, times=1)
    client = sandbox.client("ecr")

    for _ in range(2):
        client.delete_repository_policy(repositoryName=repository.name)
        wait_for(lambda: CLUSTER in policy(sandbox, repository.name), seconds=30)


@pytest.mark.parametrize(
    ("made_by_us", "written", "seconds", "known"),
    [
        (True, True, 4, True),  # our own write, by CloudTrail's clock
        (True, True, 6, False),  # after it: another client with the same user agent
        (False, True, 4, False),
        (True, False, -4, False),  # CloudTrail's clock may be some seconds from ours
        (True, False, -6, True),  # we have looked well after it
    ],
)
def test_a_change_is_known_to_a_row_that_wrote_it_or_was_looked_at_well_after_it(
    made_by_us: bool, written: bool, seconds: int, known: bool
) -> None:
    then = timezone.now()
    row = Repository(written_at=then if written else None, last_checked_at=None if written else then)
    change = change_events.ChangeEvent(
        operation="SetRepositoryPolicy",
        account="",
        region="",
        name="",
        at=then + timedelta(seconds=seconds),
        made_by_us=made_by_us,
    )

    assert change_events._is_known(change, row) is known


@pytest.mark.parametrize("change", [{"management": "unmanaged"}, {"management": ""}])
def test_an_event_of_a_repository_that_is_not_ours_yet_causes_no_look(
    change: dict[str, str], repository: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    Repository.objects.update(**change)
    sandbox.reset_calls()
    body = event("SetRepositoryPolicy", repository.name)

    assert len(change_events.handle(configuration=ecr_configuration, messages=[message(body)])) == 1
    assert sandbox.calls() == {}


@pytest.mark.parametrize(
    ("retryable", "installation", "done"),
    [(True, False, False), (False, True, False), (True, True, False), (False, False, True)],
)
def test_a_message_is_done_with_unless_its_look_may_go_well_another_time(
    retryable: bool,
    installation: bool,
    done: bool,
    repository: Repository,
    ecr_configuration: Configuration,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = RegistryError(operation="", code="x", sentence="x", retryable=retryable, installation=installation)
    looked = repositories.Converged(repository=repository, error=error, written=(), before="in_sync")
    monkeypatch.setattr(repositories, "reconcile", lambda **options: looked)
    messages = [message(event("SetRepositoryPolicy", repository.name))]

    assert change_events.handle(configuration=ecr_configuration, messages=messages) == (messages if done else [])
