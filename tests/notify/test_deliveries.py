"""Notifications: each change of state is sent once to each channel that wants it, signed, to no private address."""

from __future__ import annotations

import json
import re
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings as django_settings
from django.core import mail
from django.core.mail import EmailMessage
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from deployments import errors, outbound_http, tasks
from deployments.access import keys
from deployments.access.vault import Vault
from deployments.config import Configuration
from deployments.models import (
    AccessKey,
    AuditEntry,
    Deployment,
    Environment,
    EventKind,
    NotificationChannel,
    NotificationDelivery,
    PolicyStep,
    PolicyVersion,
    Process,
    ProcessRole,
    Project,
    Promotion,
    PromotionEvent,
    Repository,
    RepositoryEvent,
    Sweep,
    VersionState,
)
from deployments.notify import channels, deliveries, news, senders
from deployments.notify.senders import DeliverySettings
from deployments.outbound_http import Undeliverable
from deployments.reconcile import policy_versions, processes
from deployments.row_values import Difference
from sandbox.control import Sandbox
from tests.support.certificates import certificate
from tests.support.constants import HOST, POLICY
from tests.support.registry import fill
from tests.support.sweeps import sweep_all

VAULT = Vault(["only-for-the-tests-0123456789"])
MEANS = DeliverySettings(vault=VAULT, allow_private=True, mail=True)
SECRET = "whsec_of-the-tests"

# ---------------------------------------------------------------------------------------------------------- the way out

HOSTILE = [
    "http://example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "//example.com/",
    "https:///path",
    "https://",
    "javascript:alert(1)",
    "https://user@example.com/",
    "https://user:password@example.com/",
    "https://example.com:80/",
    "https://example.com:22/",
    "https://example.com:6379/",
    "https://example.com:0/",
    "https://example.com:99999/",
    "https://example.com:x/",
    "https://127.0.0.1/",
    "https://10.0.0.1/",
    "https://172.16.5.4/",
    "https://192.168.1.1:8443/",
    "https://100.64.0.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://0.0.0.0/",
    "https://255.255.255.255/",
    "https://224.0.0.1/",
    "https://240.0.0.1/",
    "https://198.18.0.1/",
    "https://192.0.2.1/",
    "https://100.100.100.200/",
    "https://168.63.129.16/",
    "https://[::1]/",
    "https://[::]/",
    "https://[fe80::1]/",
    "https://[fe80::1%25eth0]/",
    "https://[fc00::1]/",
    "https://[fd00:ec2::254]/",
    "https://[ff02::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:a9fe:a9fe]/",
    "https://[::7f00:1]/",
    "https://[64:ff9b::a9fe:a9fe]/",
    "https://[64:ff9b:1::1]/",
    "https://[2002:a9fe:a9fe::]/",
    "https://[2002:7f00:1::]/",
    "https://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
    "https://[2606::5efe:a00:1]/",
    "https://[2001:db8::1]/",
    "https://[fec0::1]/",
    "https://exa mple.com/",
    "https://example.com/\r\nX-Evil: 1",
    "https://example.com/\n",
    "https://example.com\\@evil.example/",
    "https://ex%61mple.com/",
    "https://bücher.example/",
    "https://example.com/" + "a" * 500,
]
#: Names that a resolver may turn into loopback, without a dot or a colon that gives them away.
RESOLVED = ["localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "LOCALHOST"]


@pytest.mark.parametrize("url", HOSTILE)
def test_a_hostile_address_is_refused_before_anything_is_looked_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail("looked up"))

    with pytest.raises(Undeliverable) as refused:
        outbound_http.post(url, b"{}", {})

    assert refused.value.permanent
    assert "password" not in str(refused.value).replace("a user name or a password", "")


@pytest.mark.parametrize("host", RESOLVED)
def test_a_name_that_resolves_to_this_host_is_refused_before_it_is_connected_to(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: pytest.fail("connected"))

    with pytest.raises(Undeliverable, match=r"private|link-local") as refused:
        outbound_http.post(f"https://{host}/", b"{}", {})

    assert refused.value.permanent


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "fd00:ec2::254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "64:ff9b:1::1",
        "fe80::5efe:a9fe:a9fe",
        "fd00::5efe:a9fe:a9fe",
        "224.0.0.1",
        "::",
    ],
)
def test_metadata_link_local_and_multicast_stay_closed_where_private_addresses_are_allowed(address: str) -> None:
    host = f"[{address}]" if ":" in address else address

    with pytest.raises(Undeliverable, match="link-local"):
        outbound_http.post(f"http://{host}/", b"{}", {}, allow_private=True)


@pytest.mark.parametrize(
    "url", ["https://8.8.8.8/", "https://[2606:4700::1111]:8443/x?y=z", "https://hooks.example.com/a"]
)
def test_public_addresses_are_read(url: str) -> None:
    assert outbound_http.parse(url).https


def test_one_private_address_among_several_closes_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*args: Any, **kwargs: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 443)) for each in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: pytest.fail("connected"))

    with pytest.raises(Undeliverable, match="private"):
        outbound_http.post("https://rebind.example.com/", b"{}", {})


def test_the_name_is_resolved_once_and_the_checked_address_is_the_one_connected_to(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: a second answer would be another one."""
    names: list[str] = []
    connected: list[str] = []
    resolve, connect = socket.getaddrinfo, socket.create_connection

    def resolving(host: str, *args: Any, **kwargs: Any) -> Any:
        names.append(host)
        return resolve("127.0.0.1" if host == "hook.example.com" else host, *args, **kwargs)

    def connecting(address: tuple[str, int], **kwargs: Any) -> socket.socket:
        connected.append(address[0])
        return connect(address, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolving)
    monkeypatch.setattr(socket, "create_connection", connecting)

    assert outbound_http.post(f"http://hook.example.com:{receiver.port}/x", b"{}", {}, allow_private=True) == 204
    assert names.count("hook.example.com") == 1
    assert connected == ["127.0.0.1"]
    assert receiver.received[0].headers["Host"] == f"hook.example.com:{receiver.port}"


# --------------------------------------------------------------------------------------------------------- a receiver


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """A web server on loopback that remembers what it was sent, and answers as its fields say."""

    port: int = 0
    status: int = 204
    location: str = ""
    text: bytes = b"an answer that nobody may see"
    refuses: Callable[[Received], bool] = lambda got: False  # with 500
    received: list[Received] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?tenant=1"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    told = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got = Received(self.path, dict(self.headers), body)
            told.received.append(got)
            self.send_response(500 if told.refuses(got) else told.status)
            if told.location:
                self.send_header("Location", told.location)
            self.end_headers()
            if told.status != 204:
                self.wfile.write(told.text)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    told.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield told
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_post_arrives_as_it_was_meant(receiver: Receiver) -> None:
    status = outbound_http.post(receiver.url, b'{"a":1}', {"Content-Type": "application/json"}, allow_private=True)

    assert status == 204
    (got,) = receiver.received
    assert (got.path, got.json, got.headers["Host"]) == ("/hook?tenant=1", {"a": 1}, f"127.0.0.1:{receiver.port}")


def test_a_redirect_is_an_answer_and_is_not_followed(receiver: Receiver) -> None:
    receiver.status, receiver.location = 307, receiver.url

    assert outbound_http.post(receiver.url, b"{}", {}, allow_private=True) == 307
    assert len(receiver.received) == 1


def test_a_header_with_a_line_break_is_never_sent(receiver: Receiver) -> None:
    with pytest.raises(Undeliverable):
        outbound_http.post(receiver.url, b"{}", {"X-Name": "a\r\nX-Evil: 1"}, allow_private=True)

    assert receiver.received == []


def raw_server(behave: Callable[[socket.socket], None]) -> tuple[socket.socket, str]:
    """A listener whose first connection is given to `behave`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            try:
                behave(connection)
            except OSError:
                pass

    threading.Thread(target=serve, daemon=True).start()
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}/"


def drip(connection: socket.socket) -> None:
    for _ in range(100):
        connection.sendall(b"H")
        time.sleep(0.05)


def flood(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"X-Endless: header\r\n" * 100)


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (drip, "No answer in time"),
        (lambda connection: time.sleep(2), "No answer in time"),
        (flood, "The connection broke"),
        (lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9\r\n\r\n"), "The connection broke"),
        (lambda connection: None, "The connection broke"),
    ],
    ids=["dripping", "silent", "endless", "another protocol", "hangs up"],
)
def test_a_peer_that_does_not_answer_properly_costs_little_time_and_memory(
    behave: Callable[[socket.socket], None], reason: str
) -> None:
    listener, url = raw_server(behave)
    began = time.monotonic()
    with listener, pytest.raises(Undeliverable, match=reason) as failed:
        outbound_http.post(url, b"{}", {}, allow_private=True, seconds=0.6)

    assert time.monotonic() - began < 1.5
    assert not failed.value.permanent


def test_an_answer_that_is_announced_first_is_waited_for() -> None:
    answer = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 202 Accepted\r\n\r\n"
    listener, url = raw_server(lambda connection: connection.sendall(answer))
    with listener:
        assert outbound_http.post(url, b"{}", {}, allow_private=True) == 202


def test_nobody_there_and_unknown_names_are_said_in_a_few_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    with pytest.raises(Undeliverable, match="No connection"):
        outbound_http.post(f"http://127.0.0.1:{free}/", b"{}", {}, allow_private=True)


@pytest.mark.parametrize("trusted", [True, False])
def test_tls_names_the_host_to_the_checked_address_and_believes_only_its_certificate(
    trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = certificate(tmp_path, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    named: list[str | None] = []
    context.sni_callback = lambda sock, name, ctx: named.append(name)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))

    def behave(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(4096)
            secured.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    listener, url = raw_server(behave)
    address = url.replace("http://127.0.0.1", "https://localhost")
    with listener:
        if trusted:
            assert outbound_http.post(address, b"{}", {}, allow_private=True) == 200
        else:
            with pytest.raises(Undeliverable, match="certificate"):
                outbound_http.post(address, b"{}", {}, allow_private=True)
    assert named == ["localhost"]


# ------------------------------------------------------------------------------------------------------ rows to tell of


@pytest.fixture
def configuration(configure: Callable[..., Configuration]) -> Configuration:
    return configure(APP_ORIGIN="https://deploy.example.com")


@pytest.fixture
def observing(configure: Callable[..., Configuration]) -> Configuration:
    """An installation that reports drift and writes nothing."""
    return configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_POLICY_MODE="observe",
        RECONCILE_CALLS_PER_SECOND="5000",
    )


@pytest.fixture
def channel(transactional_db: None, receiver: Receiver) -> NotificationChannel:
    """A webhook that wants everything."""
    return webhook("ops", receiver.url)


def webhook(name: str, url: str, **values: Any) -> NotificationChannel:
    values = {"created_at": timezone.now() - timedelta(days=2)} | values
    row = NotificationChannel.objects.create(name=name, kind="webhook", address=url, **values)
    channels.set_secret(row, SECRET, vault=VAULT)
    row.save()
    return row


def ended(environment: Environment, status: str = "FAILED", **values: Any) -> Deployment:
    now = timezone.now()
    number = Deployment.objects.count() + 1
    # A second ago: the database's clock, which decides what is in the future, is measured, and so a little off.
    values = {"failed_at": now - timedelta(seconds=1), "error": {"message": "npm ci failed"}} | values
    if status == "DEPLOYED":
        values |= {"deployed_at": now, "failed_at": None, "error": None}
    return Deployment.objects.create(
        project=environment.project, environment=environment, version_day="20261124", version_number=number,
        status=status, content_hash="x", image_ref="localhost:5000/trigger/x:1", image_platform="linux/amd64", **values,
    )  # fmt: skip


def repository(project: Project | None = None, number: int = 0, **values: Any) -> Repository:
    return Repository.objects.create(
        account="1" * 12, region="us-east-1", host="h", name=f"trigger/proj_{number}", project=project, **values
    )


def collected(configuration: Configuration, **values: Any) -> list[str]:
    """Look once, and name the events that were written down by it."""
    known = set(NotificationDelivery.objects.values_list("pk", flat=True))
    deliveries.collect(configuration=configuration, **values)
    return list(NotificationDelivery.objects.exclude(pk__in=known).order_by("pk").values_list("event", flat=True))


# ---------------------------------------------------------------------------------------------------------- collecting


@pytest.mark.parametrize(("status", "event"), [("FAILED", "deployment.failed"), ("TIMED_OUT", "deployment.timed_out")])
def test_a_deployment_that_ended_badly_is_notified_once(
    status: str, event: str, channel: NotificationChannel, environment: Environment, configuration: Configuration
) -> None:
    row = ended(environment, status, triggered_by="mira@example.com")

    assert collected(configuration) == [event]
    assert collected(configuration) == []
    told = NotificationDelivery.objects.get()
    assert told.body["link"] == f"https://deploy.example.com/admin/deployments/deployment/{row.pk}/change/"
    assert told.body["data"]["version"] == "20261124.1"
    assert "npm ci failed" in told.body["text"]
    assert "mira@example.com" in told.body["text"]


def test_what_went_well_was_canceled_or_is_old_is_not_notified(
    channel: NotificationChannel, environment: Environment, configuration: Configuration
) -> None:
    ended(environment, "CANCELED", canceled_at=timezone.now(), failed_at=None)
    ended(environment, "DEPLOYED")
    ended(environment, failed_at=timezone.now() - timedelta(days=2))

    assert collected(configuration) == []


@pytest.mark.costly
def test_a_promotion_and_a_rollback_are_distinguished(
    channel: NotificationChannel, environment: Environment, configuration: Configuration
) -> None:
    old, new = ended(environment, "DEPLOYED"), ended(environment, "DEPLOYED")
    just_now = timezone.now() - timedelta(seconds=10)
    row = Promotion.objects.create(environment=environment, deployment=new, promoted_at=just_now, promoted_by="mira")

    assert collected(configuration) == ["deployment.promoted"]

    row.deployment, row.rolled_back_from, row.promoted_at = old, new, just_now + timedelta(seconds=3)
    row.save()
    assert collected(configuration) == ["deployment.rolled_back"]
    assert "rolled back to 20261124.1" in NotificationDelivery.objects.order_by("-pk")[0].subject

    row.deployment, row.promoted_at = new, just_now + timedelta(seconds=4)  # the mark is still there, and outdated
    row.save()
    assert collected(configuration) == ["deployment.promoted"]
    assert collected(configuration) == []


def test_each_promotion_is_notified_also_when_the_next_one_came_before_the_look(
    channel: NotificationChannel, environment: Environment, configuration: Configuration
) -> None:
    old, new = ended(environment, "DEPLOYED"), ended(environment, "DEPLOYED")
    for row, back in ((old, None), (new, None), (old, new), (new, None)):
        PromotionEvent.objects.create(environment=environment, deployment=row, by="mira", rolled_back_from=back)
    Promotion.objects.create(environment=environment, deployment=new)

    assert sorted(collected(configuration)) == [*["deployment.promoted"] * 3, "deployment.rolled_back"]
    assert collected(configuration) == []
    told = NotificationDelivery.objects.get(event="deployment.rolled_back")
    assert (told.body["data"]["version"], told.body["data"]["replaces"]) == ("20261124.1", "20261124.2")
    assert told.body["text"] == "It replaces 20261124.2. By mira."


def test_a_promotion_that_version_0_1_0_made_during_an_upgrade_is_notified_beside_those_of_this_version(
    channel: NotificationChannel, environment: Environment, configuration: Configuration
) -> None:
    first, second = ended(environment, "DEPLOYED"), ended(environment, "DEPLOYED")
    PromotionEvent.objects.create(environment=environment, deployment=first)
    Promotion.objects.create(environment=environment, deployment=second)

    assert collected(configuration) == ["deployment.promoted", "deployment.promoted"]
    assert collected(configuration) == []


def test_a_deployment_that_had_a_week_is_notified_when_it_timed_out(
    channel: NotificationChannel, environment: Environment, configuration: Configuration
) -> None:
    ended(environment, "TIMED_OUT", created_at=timezone.now() - timedelta(days=9))

    assert collected(configuration) == ["deployment.timed_out"]


def test_a_repository_is_notified_once_for_each_time_that_it_drifts(
    channel: NotificationChannel, project: Project, configuration: Configuration
) -> None:
    row = repository(project, status="drifted", drifted_since=timezone.now(), differences=[{"words": "No policy."}])

    assert collected(configuration) == ["repository.drifted"]
    row.differences = [Difference.from_row({"words": "Another difference."})]
    row.save()
    assert collected(configuration) == []
    row.drifted_since = timezone.now() + timedelta(seconds=1)
    row.save()
    assert collected(configuration) == ["repository.drifted"]


def test_a_repository_failed_only_when_a_second_check_failed_too(
    channel: NotificationChannel, project: Project, configuration: Configuration
) -> None:
    since = timezone.now() - timedelta(minutes=20)
    row = repository(
        project, status="failed", error_since=since, last_error="No.", last_error_at=since + timedelta(seconds=20)
    )
    assert collected(configuration) == []

    row.last_error_at = since + timedelta(minutes=10)
    row.save()
    assert collected(configuration) == ["repository.failed"]
    row.last_error_at = since + timedelta(minutes=20)
    row.save()
    assert collected(configuration) == []


@pytest.mark.costly
def test_a_fault_of_the_whole_installation_is_not_notified_for_every_repository(
    channel: NotificationChannel, project: Project, configuration: Configuration
) -> None:
    since = timezone.now() - timedelta(minutes=20)
    repository(
        project, status="failed", error_since=since, last_error_at=timezone.now(), last_error_is_installation=True
    )
    for minute in (30, 20, 10):
        at = timezone.now() - timedelta(minutes=minute)
        Sweep.objects.create(
            trigger="schedule", status="failed", started_at=at, finished_at=at, error="No credentials."
        )

    assert collected(configuration) == ["sweep.failed"]
    assert collected(configuration) == []

    Sweep.objects.create(trigger="schedule", status="done", finished_at=timezone.now())
    Sweep.objects.create(trigger="schedule", status="failed", finished_at=timezone.now(), error="Again.")
    assert collected(configuration) == ["sweep.failed"]


@pytest.mark.costly
def test_a_drift_that_was_over_before_the_look_is_notified_and_so_is_the_next_one(
    observing: Configuration, channel: NotificationChannel, sandbox: Sandbox
) -> None:
    [name] = fill(sandbox, observing, 1)
    client = sandbox.client("ecr")
    for _ in range(2):
        client.delete_repository_policy(repositoryName=name)
        sweep_all(observing)
        client.set_repository_policy(repositoryName=name, policyText=POLICY)
        sweep_all(observing)
        assert Repository.objects.get().status == "in_sync"

    assert collected(observing) == ["repository.drifted", "repository.drifted"]
    assert collected(observing) == []
    told = NotificationDelivery.objects.all()[0]
    assert told.body["data"]["status"] == "drifted"
    assert "policy" in told.body["text"]


@pytest.mark.costly
def test_a_drift_that_lasts_is_notified_once_whichever_row_reports_it(
    observing: Configuration, channel: NotificationChannel, sandbox: Sandbox
) -> None:
    [name] = fill(sandbox, observing, 1)
    client = sandbox.client("ecr")
    client.delete_repository_policy(repositoryName=name)
    sweep_all(observing)
    assert collected(observing) == ["repository.drifted"]
    told = NotificationDelivery.objects.get()
    assert told.subject == f"{name}: The repository has no policy"
    assert f"Repository {name} of account" in told.body["text"]

    client.set_repository_policy(repositoryName=name, policyText=POLICY.replace("222222222222", "999999999999"))
    sweep_all(observing)  # it differs in another way, and is drifted since the same time
    assert collected(observing) == []


@pytest.mark.costly
def test_a_repository_that_failed_twice_and_was_right_before_the_look_is_notified(
    observing: Configuration, channel: NotificationChannel, sandbox: Sandbox
) -> None:
    fill(sandbox, observing, 1)
    sandbox.fault("error", "ecr:GetRepositoryPolicy", code="AccessDeniedException")
    sweep_all(observing)
    sweep_all(observing)  # at once: that is still the same failure
    assert collected(observing) == []
    Repository.objects.update(error_since=timezone.now() - timedelta(minutes=10))

    sweep_all(observing)
    sweep_all(observing)
    sandbox.clear_faults()
    sweep_all(observing)

    assert Repository.objects.get().status == "in_sync"
    assert collected(observing) == ["repository.failed"]
    assert collected(observing) == []
    assert "AccessDenied" in NotificationDelivery.objects.get().body["text"]
    assert RepositoryEvent.objects.filter(kind=EventKind.ERROR).count() == 2  # the first failure, and that it stays


def test_sweeps_that_overlap_and_both_fail_are_notified_once(
    channel: NotificationChannel, configuration: Configuration
) -> None:
    now = timezone.now()
    long = Sweep.objects.create(trigger="person", started_at=now - timedelta(minutes=9))
    short = {"started_at": now - timedelta(minutes=5), "finished_at": now - timedelta(minutes=4)}
    Sweep.objects.create(trigger="person", status="failed", error="No credentials.", **short)
    assert collected(configuration) == ["sweep.failed"]

    Sweep.objects.filter(pk=long.pk).update(status="failed", error="No credentials.", finished_at=now)
    assert collected(configuration) == []


def test_a_correction_and_a_disappearance_are_notified_each_time(
    channel: NotificationChannel, project: Project, configuration: Configuration
) -> None:
    row = repository(project, status="in_sync")
    for kind in (EventKind.CREATED, EventKind.HEALED, EventKind.MISSING, EventKind.HEALED, EventKind.CHANGED):
        RepositoryEvent.objects.create(repository=row, kind=kind, message="Account 2 lost pull.")
    RepositoryEvent.objects.create(
        repository=row, kind=EventKind.HEALED, message="Old.", at=timezone.now() - timedelta(days=3)
    )

    assert sorted(collected(configuration)) == ["repository.healed", "repository.healed", "repository.missing"]
    assert collected(configuration) == []


def test_a_worker_that_left_its_heartbeat_behind_is_notified(
    channel: NotificationChannel, configuration: Configuration
) -> None:
    Process.objects.create(role=ProcessRole.WORKER, host="alive", pid=1)
    Process.objects.create(role=ProcessRole.WORKER, host="gone", pid=2, beat_at=timezone.now() - timedelta(minutes=5))

    assert collected(configuration) == ["worker.silent"]
    assert collected(configuration) == []
    assert "gone" in NotificationDelivery.objects.get().subject


@pytest.mark.costly
@pytest.mark.parametrize("ends", [False, True], ids=["it runs on", "it ends on SIGTERM"])
def test_a_silence_that_was_over_before_the_look_is_notified(
    ends: bool, channel: NotificationChannel, configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_mine", None)
    row = processes.start(ProcessRole.WORKER)
    processes.beat()
    assert collected(configuration) == []
    Process.objects.update(beat_at=timezone.now() - timedelta(minutes=3))  # a host that was suspended

    if ends:
        processes.end()
    else:
        assert processes.beat()
        assert processes.beat()  # what was silent stays on the row

    assert collected(configuration) == ["worker.silent"]
    assert collected(configuration) == []
    assert row.host in NotificationDelivery.objects.get().subject


def test_a_silence_is_not_notified_again_when_the_worker_comes_back(
    channel: NotificationChannel, configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_mine", None)
    processes.start(ProcessRole.WORKER)
    Process.objects.update(beat_at=timezone.now() - timedelta(minutes=3))
    assert collected(configuration) == ["worker.silent"]

    assert processes.beat()
    assert processes.beat()

    assert collected(configuration) == []


def test_a_key_that_expired_while_no_worker_ran_is_notified(
    channel: NotificationChannel, environment: Environment, configuration: Configuration
) -> None:
    key, _ = keys.make_environment_key(environment, "CI")
    AccessKey.objects.update(expires_at=timezone.now() - timedelta(seconds=20))

    assert collected(configuration) == ["key.expiring"]
    assert NotificationDelivery.objects.get().subject.startswith(
        f"{environment.project} / prod: the key {key.prefix}… expired"
    )


def test_a_key_that_expires_soon_is_notified_unless_it_has_a_successor(
    channel: NotificationChannel, environment: Environment, configuration: Configuration
) -> None:
    NotificationChannel.objects.update(created_at=timezone.now())
    soon = timezone.now() + timedelta(days=3)
    key, text = keys.make_environment_key(environment, "CI")
    rotated, _ = keys.make_environment_key(environment)
    later, _ = keys.make_environment_key(environment)
    keys.make_deploy_key(environment)
    AccessKey.objects.filter(pk__in=[key.pk, rotated.pk]).update(expires_at=soon)
    AccessKey.objects.filter(pk=later.pk).update(expires_at=soon + timedelta(days=30), replaces=rotated)

    assert collected(configuration) == ["key.expiring"]
    told = NotificationDelivery.objects.get()
    assert key.prefix in told.subject
    assert text not in json.dumps(told.body)


def test_a_channel_hears_only_what_it_wants_of_the_projects_that_it_is_about(
    transactional_db: None, environment: Environment, configuration: Configuration, receiver: Receiver
) -> None:
    other = Project.objects.create(name="Other")
    picky = webhook("picky", receiver.url, events=["deployment.failed"])
    picky.projects.add(other)
    healed = webhook("healed", receiver.url, events=["repository.healed"])
    webhook("off", receiver.url, enabled=False)
    webhook("new", receiver.url, created_at=timezone.now() + timedelta(minutes=1))
    elsewhere = Environment.objects.create(project=other, slug="prod", type="PRODUCTION")
    ended(environment)
    ended(elsewhere)
    Process.objects.create(role=ProcessRole.WORKER, host="gone", pid=2, beat_at=timezone.now() - timedelta(minutes=5))

    collected(configuration)

    told = [(row.channel.name, row.body["data"]["project"]) for row in NotificationDelivery.objects.all()]
    assert told == [("picky", other.ref)]
    assert not healed.deliveries.exists()


@pytest.mark.parametrize(
    ("state", "event", "words"),
    [
        ("waiting", "policy.waiting", "manage.py policy start 2"),
        ("stopped", "policy.stopped", "manage.py policy rollback 2"),
        ("active", "policy.rolled_out", "Account 333333333333 loses pull."),
        ("undone", "policy.undone", "lists what was left"),
    ],
)
def test_a_version_that_waits_stops_ends_or_is_undone_is_notified_once_with_the_next_step(
    state: str, event: str, words: str, channel: NotificationChannel, configuration: Configuration
) -> None:
    first = version(1, VersionState.SUPERSEDED if state == "active" else VersionState.ACTIVE)
    row = version(2, VersionState(state), follows=first)
    PolicyStep.objects.create(version=row, repository=repository(), stage=0)

    assert collected(configuration) == [event]
    assert collected(configuration) == []

    [delivery] = NotificationDelivery.objects.all()
    assert delivery.subject.startswith("Version 2 of the default policy of 111111111111, us-east-1 (trigger) ")
    assert words in delivery.body["text"]
    assert f"/admin/deployments/policyversion/{row.pk}/change/" in delivery.body["link"]


def test_a_version_that_moves_is_at_once_or_is_active_again_after_an_undo_is_no_news(
    channel: NotificationChannel, configuration: Configuration
) -> None:
    first = version(1, VersionState.ACTIVE)
    assert collected(configuration) == []  # active without stages
    PolicyStep.objects.create(version=first, repository=repository(), stage=0)
    PolicyVersion.objects.filter(pk=first.pk).update(changed_at=timezone.now())
    second = version(2, VersionState.UNDOING, follows=first)

    assert collected(configuration) == []  # version 1 is active again

    PolicyVersion.objects.filter(pk=second.pk).update(state=VersionState.BATCHES)
    PolicyVersion.objects.filter(pk=first.pk).update(state=VersionState.SUPERSEDED)
    assert collected(configuration) == []


def version(number: int, state: VersionState, follows: PolicyVersion | None = None) -> PolicyVersion:
    return PolicyVersion.objects.create(
        account="1" * 12, region="us-east-1", namespace="trigger", number=number, state=state, follows=follows,
        text=policy_versions.text_row(POLICY), why="Account 333333333333 loses pull.",
    )  # fmt: skip


def test_without_a_channel_nothing_is_looked_at(transactional_db: None, configuration: Configuration) -> None:
    now = timezone.now().replace(minute=30)
    with CaptureQueriesContext(connection) as captured:
        deliveries.collect(configuration=configuration, now=now)

    assert len(captured) <= 2


@pytest.mark.costly
def test_many_at_once_become_one_message_and_the_next_ones_wait_their_turn(
    channel: NotificationChannel, project: Project, configuration: Configuration, receiver: Receiver
) -> None:
    now = timezone.now().replace(minute=30)
    Repository.objects.bulk_create(
        Repository(
            account="1" * 12, region="us-east-1", host="h", name=f"trigger/p{number}", project=project,
            status="drifted", drifted_since=timezone.now() - timedelta(seconds=number),
        )
        for number in range(120)
    )  # fmt: skip

    with CaptureQueriesContext(connection) as captured:
        collected(configuration)
    assert len(captured) < 40
    waiting = NotificationDelivery.objects.filter(status="waiting")
    assert [row.subject for row in waiting] == ["Billing: The repository differs from the settings (120 repositories)"]
    assert waiting[0].body["text"].endswith("… and 100 more.")
    assert deliveries.deliver(delivery_settings=MEANS) == 1
    assert len(receiver.received) == 1

    repository(project, 500, status="drifted", drifted_since=timezone.now())
    assert collected(configuration) == []  # within ten minutes of the last message for many
    assert collected(configuration, now=now + timedelta(hours=1)) == ["repository.drifted"]


def test_looking_at_the_same_time_writes_nothing_twice(
    channel: NotificationChannel,
    environment: Environment,
    configuration: Configuration,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended(environment)
    # The other worker looked just before us: what we believe to be new is there already.
    real = deliveries._unheard

    def late(channel: NotificationChannel, items: list[news.News]) -> list[news.News]:
        found = real(channel, items)
        monkeypatch.setattr(deliveries, "_unheard", real)
        deliveries.collect(configuration=configuration)
        return found

    monkeypatch.setattr(deliveries, "_unheard", late)
    deliveries.collect(configuration=configuration)

    assert NotificationDelivery.objects.count() == 1


# ---------------------------------------------------------------------------------------------------------- delivering


@pytest.fixture
def waiting(
    channel: NotificationChannel, environment: Environment, configuration: Configuration
) -> NotificationDelivery:
    ended(environment)
    deliveries.collect(configuration=configuration)
    return NotificationDelivery.objects.get()


def test_a_webhook_is_signed_so_that_its_receiver_can_check_it(
    waiting: NotificationDelivery, receiver: Receiver
) -> None:
    assert deliveries.deliver(delivery_settings=MEANS) == 1

    (got,) = receiver.received
    stamp = got.headers["X-Registry-Admin-Timestamp"]
    assert got.headers["X-Registry-Admin-Signature"] == senders.sign(SECRET, stamp, got.body)
    assert abs(int(stamp) - time.time()) < 5
    assert got.headers["X-Registry-Admin-Event"] == "deployment.failed" == got.json["event"]
    assert got.json["id"] == f"delivery_{waiting.pk}" == got.headers["X-Registry-Admin-Delivery"]
    waiting.refresh_from_db()
    assert (waiting.status, waiting.answer, waiting.attempts) == ("sent", "204", 1)
    assert waiting.channel.last_sent_at is not None


def test_the_receivers_check_in_the_docs_accepts_ours_and_refuses_others(
    waiting: NotificationDelivery, receiver: Receiver
) -> None:
    text = (Path(__file__).resolve().parent.parent.parent / "docs" / "notifications.md").read_text()
    snippet = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert snippet is not None
    names: dict[str, Any] = {}
    exec(snippet[1], names)  # noqa: S102  (it is our own documentation)
    deliveries.deliver(delivery_settings=MEANS)
    (got,) = receiver.received

    genuine = names["is_genuine"]
    assert genuine(SECRET, got.headers, got.body)
    assert not genuine("another", got.headers, got.body)
    assert not genuine(SECRET, got.headers, got.body + b" ")
    old = {**got.headers, "X-Registry-Admin-Timestamp": str(int(time.time()) - 3600)}
    assert not genuine(SECRET, old, got.body)


def test_a_worker_that_is_to_stop_begins_no_message(waiting: NotificationDelivery, receiver: Receiver) -> None:
    assert deliveries.deliver(delivery_settings=MEANS, stopping=lambda: True) == 0
    assert receiver.received == []

    assert deliveries.deliver(delivery_settings=MEANS) == 1


def test_a_host_whose_clock_is_wrong_tells_nothing_early_and_tries_nothing_early(
    waiting: NotificationDelivery, receiver: Receiver, configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.status = 503
    Process.objects.create(role=ProcessRole.WORKER, host="one", pid=1)
    ahead = timezone.now() + timedelta(minutes=4)
    monkeypatch.setattr("django.utils.timezone.now", lambda: ahead)
    deliveries.deliver(delivery_settings=MEANS)
    deliveries.deliver(delivery_settings=MEANS)
    deliveries.collect(configuration=configuration)

    waiting.refresh_from_db()
    assert waiting.attempts == 1
    assert waiting.next_try_at < ahead
    assert not NotificationDelivery.objects.filter(event="worker.silent").exists()


def test_what_fails_is_tried_again_after_1_5_and_30_minutes_and_then_given_up(
    waiting: NotificationDelivery, receiver: Receiver
) -> None:
    receiver.status = 503
    now = timezone.now()

    waits = []
    for _ in range(4):
        assert deliveries.deliver(delivery_settings=MEANS, now=now) == 0
        assert deliveries.deliver(delivery_settings=MEANS, now=now + timedelta(seconds=50)) == 0  # not yet
        waiting.refresh_from_db()
        if waiting.status == "waiting":
            waits.append(round((waiting.next_try_at - now).total_seconds() / 60))
            now = waiting.next_try_at

    assert waits == [1, 5, 30]
    assert (waiting.status, waiting.attempts, waiting.answer) == ("failed", 4, "Answered 503.")
    assert len(receiver.received) == 4
    assert len({got.json["id"] for got in receiver.received}) == 1
    waiting.channel.refresh_from_db()
    assert waiting.channel.last_error == "Answered 503."


def test_the_text_of_an_answer_is_nowhere(
    waiting: NotificationDelivery, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.status = 500

    deliveries.deliver(delivery_settings=MEANS)

    waiting.refresh_from_db()
    waiting.channel.refresh_from_db()
    assert receiver.text.decode() not in f"{waiting.answer} {waiting.channel.last_error} {caplog.text}"


@pytest.mark.parametrize(("status", "location"), [(302, "http://169.254.169.254/"), (410, "")])
def test_a_redirect_and_gone_are_final(
    status: int, location: str, waiting: NotificationDelivery, receiver: Receiver
) -> None:
    receiver.status, receiver.location = status, location

    deliveries.deliver(delivery_settings=MEANS)

    waiting.refresh_from_db()
    assert (waiting.status, len(receiver.received)) == ("failed", 1)


def test_a_private_address_is_not_sent_to_unless_that_is_allowed(
    waiting: NotificationDelivery, receiver: Receiver
) -> None:
    deliveries.deliver(delivery_settings=DeliverySettings(vault=VAULT))

    waiting.refresh_from_db()
    assert (waiting.status, receiver.received) == ("failed", [])
    assert "https://" in waiting.answer


def test_a_worker_that_dies_while_it_sends_costs_a_delay_and_no_message(
    waiting: NotificationDelivery, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*args: Any) -> str:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(deliveries, "send", die)
        with pytest.raises(Killed):
            deliveries.deliver(delivery_settings=MEANS)

    assert deliveries.deliver(delivery_settings=MEANS) == 0
    assert deliveries.deliver(delivery_settings=MEANS, now=timezone.now() + timedelta(minutes=2)) == 1


def test_a_last_attempt_that_nobody_came_back_from_is_given_up(
    waiting: NotificationDelivery, receiver: Receiver
) -> None:
    NotificationDelivery.objects.update(attempts=4)

    deliveries.deliver(delivery_settings=MEANS)

    waiting.refresh_from_db()
    assert (waiting.status, receiver.received) == ("failed", [])
    assert "last attempt" in waiting.answer


def test_two_workers_never_send_one_delivery_twice(
    channel: NotificationChannel, environment: Environment, configuration: Configuration, receiver: Receiver
) -> None:
    for number in range(5):
        ended(environment, external_id=str(number))
    deliveries.collect(configuration=configuration)

    def work() -> None:
        try:
            deliveries.deliver(delivery_settings=MEANS)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(got.json["id"] for got in receiver.received) == sorted(
        f"delivery_{row.pk}" for row in NotificationDelivery.objects.all()
    )
    assert set(NotificationDelivery.objects.values_list("status", "attempts")) == {("sent", 1)}


def test_a_claim_is_lost_to_a_faster_process(waiting: NotificationDelivery) -> None:
    other = NotificationDelivery.objects.get()

    assert deliveries._claim(other, timezone.now())
    assert not deliveries._claim(waiting, timezone.now())


@pytest.mark.costly
def test_one_channel_that_fails_does_not_hold_up_the_others(
    waiting: NotificationDelivery, receiver: Receiver, environment: Environment, configuration: Configuration
) -> None:
    NotificationChannel.objects.update(address="http://127.0.0.1:1/")
    webhook("works", receiver.url)
    for number in range(3):
        ended(environment, external_id=str(number))
    deliveries.collect(configuration=configuration)

    assert deliveries.deliver(delivery_settings=MEANS) == 4
    broken = NotificationDelivery.objects.filter(channel__name="ops")
    assert sorted(broken.values_list("attempts", flat=True)) == [0, 0, 0, 1]


def many(channel: NotificationChannel, count: int, **values: Any) -> None:
    """Deliveries that are due, in this order."""
    values = {"next_try_at": timezone.now() - timedelta(seconds=1), **values}  # SQLite's clock counts milliseconds
    NotificationDelivery.objects.bulk_create(
        NotificationDelivery(channel=channel, event="x", subject=str(n), body={}, key=f"{n} {uuid4()}", **values)
        for n in range(count)
    )


@pytest.mark.costly
def test_a_receiver_that_refuses_some_messages_gets_the_others_in_the_same_turn(
    channel: NotificationChannel, receiver: Receiver
) -> None:
    many(channel, 3 * deliveries.MAX_REFUSALS_IN_A_ROW + 3)
    refused = {row.pk for row in NotificationDelivery.objects.order_by("pk")[::3]}
    receiver.refuses = lambda got: int(got.json["id"].removeprefix("delivery_")) in refused

    assert deliveries.deliver(delivery_settings=MEANS) == 2 * deliveries.MAX_REFUSALS_IN_A_ROW + 2

    waiting = NotificationDelivery.objects.filter(status="waiting")
    assert {row.pk for row in waiting} == refused
    assert set(waiting.values_list("attempts", flat=True)) == {1}


@pytest.mark.costly
def test_a_receiver_that_refuses_everything_is_left_alone_until_the_next_turn_and_first_attempts_come_first(
    channel: NotificationChannel, receiver: Receiver
) -> None:
    many(channel, deliveries.MAX_REFUSALS_IN_A_ROW + 2)
    receiver.refuses = lambda got: True
    assert deliveries.deliver(delivery_settings=MEANS) == 0
    assert len(receiver.received) == deliveries.MAX_REFUSALS_IN_A_ROW

    # The next turn: the repeated attempts are due by now, and messages that came later do not wait for them.
    later = timezone.now() + timedelta(minutes=5)
    many(channel, 3, next_try_at=later)
    untried = {f"delivery_{row.pk}" for row in NotificationDelivery.objects.filter(attempts=0)}
    receiver.received.clear()
    deliveries.deliver(delivery_settings=MEANS, now=later)
    assert {got.json["id"] for got in receiver.received[:5]} == untried
    assert len(receiver.received) == deliveries.MAX_REFUSALS_IN_A_ROW


def test_a_receiver_that_takes_its_time_to_refuse_ends_its_channels_turn(
    channel: NotificationChannel, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "REFUSAL_SECONDS", 0.2)
    many(channel, 10)

    def refuse_slowly(got: Received) -> bool:
        time.sleep(0.15)
        return True

    receiver.refuses = refuse_slowly

    assert deliveries.deliver(delivery_settings=MEANS) == 0

    assert len(receiver.received) == 2


def test_a_mail_server_that_refuses_one_message_gets_the_next_one(
    channel: NotificationChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    NotificationChannel.objects.update(kind="mail", address="mira@example.com")
    many(channel, 3)
    sending = EmailMessage.send

    def send(message: EmailMessage, *args: Any) -> int:
        if message.subject.endswith("0"):
            raise smtplib.SMTPDataError(554, b"looks like spam")
        return sending(message, *args)

    monkeypatch.setattr(EmailMessage, "send", send)

    assert deliveries.deliver(delivery_settings=MEANS) == 2


def test_nothing_is_sent_inside_a_transaction(waiting: NotificationDelivery, receiver: Receiver) -> None:
    with pytest.raises(RuntimeError, match="transaction"), transaction.atomic():
        deliveries.deliver(delivery_settings=MEANS)

    assert receiver.received == []


def test_a_channel_that_was_switched_off_is_sent_nothing(waiting: NotificationDelivery, receiver: Receiver) -> None:
    NotificationChannel.objects.update(enabled=False)

    assert deliveries.deliver(delivery_settings=MEANS) == 0
    assert receiver.received == []


# ------------------------------------------------------------------------------------------------------- Slack and mail


def test_slack_gets_a_text_without_markup_of_others_and_its_address_is_nowhere_in_plain(
    waiting: NotificationDelivery, receiver: Receiver
) -> None:
    row = NotificationChannel.objects.create(name="chat", kind="slack", created_at=timezone.now() - timedelta(days=1))
    address = f"http://127.0.0.1:{receiver.port}/services/T000/B000/XXXXsecret"
    channels.set_address(row, address, vault=VAULT)
    row.save()
    NotificationDelivery.objects.filter(pk=waiting.pk).update(channel=row, subject="<!channel> & <b>")

    assert deliveries.deliver(delivery_settings=MEANS) == 1

    (got,) = receiver.received
    assert got.path == "/services/T000/B000/XXXXsecret"
    assert got.json["text"].startswith("*&lt;!channel&gt; &amp; &lt;b&gt;*")
    assert "https://deploy.example.com/admin/deployments/deployment/" in got.json["text"]
    row.refresh_from_db()
    assert "XXXXsecret" not in f"{row.address} {row.secret}"
    assert row.address == f"http://127.0.0.1:{receiver.port}/services/…"


@pytest.mark.parametrize("kind", ["teams", "discord", "mattermost", "pagerduty"])
def test_a_chat_and_pagerduty_get_their_own_body_without_a_signature(
    kind: str, waiting: NotificationDelivery, receiver: Receiver
) -> None:
    row = NotificationChannel.objects.create(name="chat", kind=kind, created_at=timezone.now() - timedelta(days=1))
    channels.set_address(row, f"http://127.0.0.1:{receiver.port}/api/webhooks/secret?sig=hunter2", vault=VAULT)
    channels.set_secret(row, "the-integration-key", vault=VAULT)
    row.save()
    NotificationDelivery.objects.filter(pk=waiting.pk).update(channel=row)

    assert deliveries.deliver(delivery_settings=MEANS) == 1

    (got,) = receiver.received
    assert got.path == "/api/webhooks/secret?sig=hunter2"
    assert "npm ci failed" in json.dumps(got.json)
    assert ("the-integration-key" in json.dumps(got.json)) == (kind == "pagerduty")
    assert senders.SIGNATURE_HEADER.lower() not in {name.lower() for name in got.headers}
    row.refresh_from_db()
    assert not any(
        each in f"{row.address} {row.encrypted_address} {row.secret}" for each in ("hunter2", "the-integration")
    )


def test_mail_goes_to_each_address_with_one_line_as_its_subject(waiting: NotificationDelivery) -> None:
    NotificationChannel.objects.update(kind="mail", address="mira@example.com, jonas@example.com")
    NotificationDelivery.objects.update(subject="Billing\r\nBcc: all@example.com\n failed")

    assert deliveries.deliver(delivery_settings=MEANS) == 1

    (message,) = mail.outbox
    assert message.to == ["mira@example.com", "jonas@example.com"]
    assert message.subject == "[Registry Admin] Billing Bcc: all@example.com failed"
    assert "npm ci failed" in message.body
    assert message.from_email == django_settings.DEFAULT_FROM_EMAIL
    sent = message.message()
    assert sent["Auto-Submitted"] == "auto-generated"
    assert sent["List-Id"] == f"<channel-{waiting.channel_id}.registry-admin.localhost>"


def test_without_a_mail_server_the_delivery_says_which_setting_is_missing(waiting: NotificationDelivery) -> None:
    NotificationChannel.objects.update(kind="mail", address="mira@example.com")

    deliveries.deliver(delivery_settings=DeliverySettings(vault=VAULT))

    waiting.refresh_from_db()
    assert (waiting.status, "EMAIL_URL" in waiting.answer) == ("failed", True)


def test_a_mail_server_that_is_away_is_asked_again_later(waiting: NotificationDelivery, settings: Any) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT, settings.EMAIL_HOST_PASSWORD = "127.0.0.1", 1, "hunter2"
    NotificationChannel.objects.update(kind="mail", address="mira@example.com")

    deliveries.deliver(delivery_settings=MEANS)

    waiting.refresh_from_db()
    assert (waiting.status, waiting.answer) == (
        "waiting",
        "The mail server did not accept the message (ConnectionRefusedError).",
    )


@pytest.mark.parametrize(
    ("kind", "address", "words"),
    [
        ("mail", "mira@example.com", ""),
        ("mail", "mira@example.com, x", "mail addresses"),
        ("mail", "", "mail addresses"),
        ("webhook", "https://hooks.example.com/x", ""),
        ("webhook", "https://10.0.0.1/x", "private"),
        ("webhook", "http://hooks.example.com/x", "https://"),
        ("slack", "https://hooks.slack.com/services/T/B/x", ""),
        ("slack", "https://hooks.example.com/services/T/B/x", "Slack"),
    ],
)
def test_an_address_that_cannot_work_is_refused_when_it_is_typed(kind: str, address: str, words: str) -> None:
    problem = channels.problem_of(kind, address, allow_private=False)

    assert words in problem
    assert bool(problem) == bool(words)


# --------------------------------------------------------------------------------------------------------- the secrets


def test_secrets_are_encrypted_for_their_channel_and_encrypted_again_with_another_key(
    channel: NotificationChannel,
) -> None:
    other = webhook("other", "https://hooks.example.com/")
    newer = Vault(["another-key-of-the-tests-0123456789", "only-for-the-tests-0123456789"])
    before = channel.secret

    assert SECRET not in before
    assert channels.reencrypt(vault=newer) == (2, [])
    assert channels.reencrypt(vault=newer) == (0, [])
    channel.refresh_from_db()
    assert channel.secret != before
    assert newer.decrypt(channel.secret, context=channels.encryption_context(channel)) == SECRET
    assert channels.reencrypt(vault=Vault(["a key that opens nothing"])) == (0, [channel, other])


def test_a_message_goes_to_an_encrypted_address(waiting: NotificationDelivery, receiver: Receiver) -> None:
    channels.encrypt_addresses(vault=VAULT)
    assert receiver.url not in str(list(NotificationChannel.objects.values_list()))

    assert deliveries.deliver(delivery_settings=MEANS) == 1

    assert len(receiver.received) == 1


def test_an_address_that_no_key_decrypts_is_said_so(waiting: NotificationDelivery, receiver: Receiver) -> None:
    channels.encrypt_addresses(vault=Vault(["a key that was lost, 0123456789-0123456789"]))

    deliveries.deliver(delivery_settings=MEANS)

    waiting.refresh_from_db()
    assert (waiting.status, receiver.received) == ("failed", [])
    assert "address cannot be decrypted" in waiting.answer


def test_a_secret_of_another_channel_is_no_use(waiting: NotificationDelivery, receiver: Receiver) -> None:
    other = webhook("other", receiver.url, events=["key.expiring"])
    NotificationChannel.objects.filter(name="ops").update(secret=other.secret)

    deliveries.deliver(delivery_settings=MEANS)

    waiting.refresh_from_db()
    assert (waiting.status, receiver.received) == ("failed", [])
    assert "ENCRYPTION_KEY" in waiting.answer


# --------------------------------------------------------------------------------------------------------- the command


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("notify", *arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def through_the_settings(settings: Any, channel: NotificationChannel) -> NotificationChannel:
    settings.NOTIFY_ALLOW_PRIVATE = True
    channels.set_secret(channel, SECRET, vault=Vault(settings.ENCRYPTION_KEYS))
    channel.save()
    return channel


def test_a_test_message_is_sent_once_and_stands_in_the_audit_log(
    through_the_settings: NotificationChannel, receiver: Receiver, configuration: Configuration
) -> None:
    assert run("test", "ops") == "Sent: 204.\n"

    (got,) = receiver.received
    assert got.json["event"] == "test"
    entry, begun = AuditEntry.objects.all()
    assert (entry.action, entry.object_label, entry.outcome, begun.outcome) == ("test.channel", "ops", "done", "begun")

    receiver.status = 500
    with pytest.raises(CommandError, match="Answered 500"):
        run("test", "ops")
    assert [(each.attempts, each.status) for each in NotificationDelivery.objects.all()] == [(1, "failed"), (1, "sent")]
    assert deliveries.deliver(delivery_settings=MEANS, now=timezone.now() + timedelta(days=2)) == 0
    assert len(receiver.received) == 2


def test_a_test_message_that_was_interrupted_is_not_sent_by_the_worker(
    through_the_settings: NotificationChannel, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "send", lambda *a: (_ for _ in ()).throw(SystemExit))  # the process ends
    with pytest.raises(SystemExit):
        deliveries.send_test(channel=through_the_settings, delivery_settings=MEANS, origin="http://x", by="mira")
    monkeypatch.undo()

    row = NotificationDelivery.objects.get()
    assert (row.status, row.attempts, row.answer) == ("failed", 1, "The process ended during the attempt.")
    assert deliveries.deliver(delivery_settings=MEANS, now=timezone.now() + timedelta(days=2)) == 0
    assert receiver.received == []


def test_the_test_of_an_unknown_channel_names_the_known_ones(channel: NotificationChannel) -> None:
    with pytest.raises(CommandError, match="Channels: ops") as refused:
        run("test", "nobody")

    assert refused.value.returncode == 2


def test_send_does_without_a_worker_what_one_does(
    through_the_settings: NotificationChannel,
    receiver: Receiver,
    environment: Environment,
    configuration: Configuration,
) -> None:
    ended(environment)

    assert run("send") == "Sent: 1.\n"
    assert run("send") == "Sent: 0.\n"
    assert "ops" in run("list")
    assert SECRET not in run("list")


@pytest.mark.costly
def test_the_tick_looks_and_asks_for_the_sending_once(
    through_the_settings: NotificationChannel,
    receiver: Receiver,
    environment: Environment,
    configuration: Configuration,
) -> None:
    tasks.tick()
    assert tasks.waiting_tasks("tell") == 0

    ended(environment)
    tasks.tick()
    tasks.tick()
    assert tasks.waiting_tasks("tell") == 1
    assert receiver.received == []

    tasks.tell()
    assert len(receiver.received) == 1


def test_a_webhook_costs_the_worker_five_seconds_at_most() -> None:
    assert outbound_http.TIMEOUT_SECONDS == 5


# -------------------------------------------------------------------------------------------------------------- guards


def drifted_at_once(project: Project, count: int, *, first: int = 0, alike: bool = True) -> None:
    """Repositories that drifted now; `alike`: each in the same way."""
    Repository.objects.bulk_create(
        Repository(
            account="1" * 12, region="us-east-1", host="h", name=f"trigger/p{number}", project=project,
            status="drifted", drifted_since=timezone.now(),
            differences=[Difference.from_row({"words": "It differs." if alike else f"It differs as {number}."})],
        )
        for number in range(first, first + count)
    )  # fmt: skip


@pytest.mark.parametrize(("minutes", "told"), [(9, []), (11, ["repository.drifted"])])
def test_there_is_one_message_for_many_in_ten_minutes_and_the_rest_waits_for_the_next_one(
    channel: NotificationChannel, project: Project, configuration: Configuration, minutes: int, told: list[str]
) -> None:
    now = timezone.now().replace(minute=20)
    drifted_at_once(project, 6)
    collected(configuration, now=now)

    drifted_at_once(project, 1, first=6)
    NotificationDelivery.objects.update(created_at=now)

    assert collected(configuration, now=now + timedelta(minutes=minutes)) == told


@pytest.mark.parametrize(("count", "messages"), [(5, 5), (6, 1)])
def test_up_to_five_causes_at_once_are_notified_one_by_one(
    channel: NotificationChannel, project: Project, configuration: Configuration, count: int, messages: int
) -> None:
    drifted_at_once(project, count, alike=False)

    collected(configuration)

    assert NotificationDelivery.objects.filter(status="waiting").count() == messages


def test_repositories_with_one_cause_are_one_message_that_names_their_projects_and_the_next_step(
    channel: NotificationChannel, configuration: Configuration
) -> None:
    """C26: four repairs with one cause were four messages, each named by its ref."""
    since = timezone.now() - timedelta(minutes=20)
    failed = {"status": "failed", "error_since": since, "last_error_at": since + timedelta(minutes=10)}
    for number, name in enumerate(("Billing", "Exports", "Search", "Mails", "Relay")):
        project, ref = Project.objects.create(name=name), f"trigger/proj_{number}"
        throttled = name == "Relay"
        error = errors.aws_error(
            "GetRepositoryPolicy" if throttled else "SetRepositoryPolicy",
            ref,
            "ThrottlingException" if throttled else "AccessDeniedException",
            f"Not authorized on {ref}.",
            permission="ecr:SetRepositoryPolicy",
        )
        row = repository(project, number, **failed, last_error=str(error), last_error_code=error.code)
        if not throttled:
            RepositoryEvent.objects.create(repository=row, kind=EventKind.HEALED, message="Account 2 can pull again.")

    collected(configuration)

    told = {row.subject: row for row in NotificationDelivery.objects.filter(status="waiting")}
    assert sorted(told) == [
        "Billing, Exports, Search and 1 more: A change of the repository policy was repaired. Account 2 can pull again "
        "(4 repositories)",
        "Billing, Exports, Search and 1 more: ecr:SetRepositoryPolicy is denied (4 repositories)",
        "Relay: GetRepositoryPolicy is throttled",
    ]
    denied = told["Billing, Exports, Search and 1 more: ecr:SetRepositoryPolicy is denied (4 repositories)"]
    assert denied.body["text"].splitlines() == [
        "Allow ecr:SetRepositoryPolicy to Registry Admin.",
        "AccessDeniedException: Not authorized on the repository",
        "- Billing (trigger/proj_0)",
        "- Exports (trigger/proj_1)",
        "- Search (trigger/proj_2)",
        "- Mails (trigger/proj_3)",
    ]
    assert "?cause=" in denied.body["link"]
    assert collected(configuration) == []


def test_after_a_message_for_one_cause_another_cause_is_told_at_once(
    channel: NotificationChannel, project: Project, configuration: Configuration
) -> None:
    now = timezone.now().replace(minute=20)
    drifted_at_once(project, 2)
    collected(configuration, now=now)

    drifted_at_once(project, 1, first=2)
    drifted_at_once(project, 1, first=3, alike=False)
    NotificationDelivery.objects.update(created_at=now)
    collected(configuration, now=now + timedelta(minutes=1))

    told = NotificationDelivery.objects.filter(status="waiting").order_by("pk").values_list("subject", flat=True)
    assert list(told) == ["Billing: It differs (2 repositories)", "Billing: It differs as 3"]


def test_a_message_names_project_and_environment_first(
    channel: NotificationChannel, environment: Environment, configuration: Configuration
) -> None:
    row = ended(environment)

    collected(configuration)

    assert NotificationDelivery.objects.get().subject == f"{environment.project} / prod: {row.version} failed"


def test_a_message_for_many_is_written_with_the_marks_of_its_items_or_not_at_all(
    channel: NotificationChannel, project: Project, configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    drifted_at_once(project, 6)

    def away(rows: list[NotificationDelivery], **options: Any) -> None:
        rows[0].save()
        raise OperationalError("the database went away before the second batch")

    with monkeypatch.context() as patch:
        patch.setattr(NotificationDelivery.objects, "bulk_create", away)
        with pytest.raises(OperationalError):
            deliveries.collect(configuration=configuration)

    assert not NotificationDelivery.objects.exists()
    collected(configuration)
    assert NotificationDelivery.objects.filter(status="waiting").count() == 1


@pytest.mark.parametrize(("dry_run", "told"), [(False, ["sweep.failed"]), (True, [])])
def test_a_dry_run_that_fails_is_not_notified(
    channel: NotificationChannel, configuration: Configuration, dry_run: bool, told: list[str]
) -> None:
    Sweep.objects.create(trigger="person", status="failed", error="x", dry_run=dry_run, finished_at=timezone.now())

    assert collected(configuration) == told


@pytest.mark.parametrize(("days", "told"), [(6, ["key.expiring"]), (8, [])])
def test_a_key_is_notified_a_week_before_it_expires(
    channel: NotificationChannel, environment: Environment, configuration: Configuration, days: int, told: list[str]
) -> None:
    keys.make_environment_key(environment, expires_at=timezone.now() + timedelta(days=days))

    assert collected(configuration) == told


@pytest.mark.parametrize(("hours", "told"), [(23, ["deployment.failed"]), (25, [])])
def test_what_happened_a_day_ago_is_no_news(
    channel: NotificationChannel, environment: Environment, configuration: Configuration, hours: int, told: list[str]
) -> None:
    NotificationChannel.objects.update(created_at=timezone.now() - timedelta(days=9))
    deployment = ended(environment)
    then = timezone.now() - timedelta(hours=hours)
    Deployment.objects.filter(pk=deployment.pk).update(created_at=then, started_at=then, failed_at=then)

    assert collected(configuration) == told


def test_an_attempt_that_came_back_late_does_not_change_what_the_next_one_came_to(
    waiting: NotificationDelivery, receiver: Receiver
) -> None:
    late = NotificationDelivery.objects.select_related("channel").get()
    assert deliveries._claim(late, timezone.now())
    NotificationDelivery.objects.update(attempts=2, status="waiting")  # it was thought dead, and the next one has begun
    receiver.status = 410

    deliveries._try(late, MEANS)

    waiting.refresh_from_db()
    assert (waiting.status, waiting.attempts) == ("waiting", 2)


def test_a_secret_that_was_set_while_it_was_encrypted_anew_is_the_one_that_stays(
    channel: NotificationChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = Vault(["a-newer-key-0123456789-0123456789", "only-for-the-tests-0123456789"])
    encrypt = Vault.encrypt

    def meanwhile(self: Vault, text: str, *, context: str) -> str:
        monkeypatch.undo()
        other = NotificationChannel.objects.get()
        channels.set_secret(other, "another", vault=both)
        other.save()
        return encrypt(self, text, context=context)

    monkeypatch.setattr(Vault, "encrypt", meanwhile)

    assert channels.reencrypt(vault=both) == (0, [])
    stored = NotificationChannel.objects.get()
    assert both.decrypt(stored.secret, context=channels.encryption_context(stored)) == "another"


def test_a_channel_hears_only_of_what_happened_after_it_was_made(
    channel: NotificationChannel, environment: Environment, configuration: Configuration
) -> None:
    ended(environment, failed_at=timezone.now() - timedelta(minutes=2))
    NotificationChannel.objects.update(created_at=timezone.now() - timedelta(minutes=1))

    assert collected(configuration) == []
    ended(environment)
    assert collected(configuration) == ["deployment.failed"]
