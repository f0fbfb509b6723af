"""The log: which lines there are, what they hold and what they never hold. Through real HTTP and a real sandbox."""

from __future__ import annotations

import json
import logging
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from threading import Thread
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, transaction
from django.db.models.functions import Now
from django.test import Client
from pytest_django.live_server_helper import LiveServer

from deployments import log
from deployments.access import cli_login, keys
from deployments.api import limits
from deployments.config import Configuration
from deployments.deploys import lifecycle
from deployments.models import Deployment, Environment, Repository, SweepTrigger
from deployments.outage import OneLineHandler
from deployments.reconcile import sweep_record, sweeps
from sandbox.control import Sandbox
from tests.support.cli import HASH, WORKER
from tests.support.constants import HOST, POLICY
from tests.support.sweeps import sweep_all

SECRET = "hunter2-of-the-tests"


class Log:
    """The lines that went through the program's own handler, as JSON and as text."""

    def __init__(self) -> None:
        self._json, self._text = StringIO(), StringIO()
        self.handlers = [self._handler(self._json, as_json=True), self._handler(self._text, as_json=False)]

    @staticmethod
    def _handler(stream: StringIO, *, as_json: bool) -> OneLineHandler:
        made = OneLineHandler()
        made.setStream(stream)
        made.setFormatter(log.Formatter(as_json=as_json))
        return made

    @property
    def text(self) -> str:
        return self._text.getvalue()

    @property
    def raw(self) -> str:
        return self._json.getvalue() + self.text

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._json.getvalue().splitlines()]

    def events(self, **fields: object) -> list[str]:
        """The event names of the lines that have these fields."""
        return [line["event"] for line in self.lines if fields.items() <= line.items()]

    def one(self, event: str, **fields: object) -> dict[str, Any]:
        [line] = [line for line in self.lines if {"event": event, **fields}.items() <= line.items()]
        return line


@contextmanager
def listening() -> Iterator[Log]:
    found, root = Log(), logging.getLogger()
    for handler in found.handlers:
        root.addHandler(handler)
    try:
        yield found
    finally:
        for handler in found.handlers:
            root.removeHandler(handler)
            handler.close()


@pytest.fixture
def lines() -> Iterator[Log]:
    for limiter in (limits.unknown_keys, limits.logged_refused_keys, limits.logged_too_many_keys):
        limiter.clear()
    log.clear()
    with listening() as found:
        yield found


class Http:
    """A CLI that sends its requests over a socket."""

    def __init__(self, server: LiveServer, key: str) -> None:
        self._url, self.key = server.url, key

    def __call__(
        self, method: str, path: str, body: object = None, *, request_id: str = "", query: str = ""
    ) -> tuple[int, Any]:
        request = urllib.request.Request(
            f"{self._url}{path}{query}", method=method, data=None if body is None else json.dumps(body).encode()
        )
        request.add_header("Authorization", f"Bearer {self.key}")
        request.add_header("Content-Type", "application/json")
        if request_id:
            request.add_header("X-Request-ID", request_id)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        is_json = content[:1] in (b"{", b"[")
        return status, json.loads(content) if is_json else content.decode()

    def create(self, request_id: str) -> tuple[int, Any]:
        body = {"contentHash": HASH, "type": "MANAGED", "gitMeta": {"commitMessage": SECRET}}
        return self("POST", "/api/v1/deployments", body, request_id=request_id, query=f"?note={SECRET}")

    def index(self, deployment: Any, request_id: str) -> None:
        path = f"/api/v1/deployments/{deployment['id']}/background-workers"
        assert self("POST", path, WORKER, request_id=request_id)[0] == 200


@pytest.fixture
def http(live_server: LiveServer, environment: Environment, ecr_configuration: Configuration) -> Http:
    return Http(live_server, keys.make_environment_key(environment)[1])


@pytest.mark.costly
def test_a_complete_deploy_leaves_one_line_for_each_request_change_and_write_to_aws(
    http: Http, configure: Callable[..., Configuration], environment: Environment, lines: Log
) -> None:
    configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_IMAGE_VERIFICATION_ENABLED="0",
    )
    _, made = http.create("create-1")
    http.index(made, "index-1")
    path = f"/api/v1/deployments/{made['id']}/generate-registry-credentials"
    _, login = http("POST", path, request_id="login-1")
    http("POST", f"/api/v3/deployments/{made['id']}/finalize", {}, request_id="finalize-1")

    created = lines.events(request_id="create-1")
    assert (created[0], created[-3:]) == ("aws.write", ["repository.in_sync", "deployment.created", "request"])
    writes = [line for line in lines.lines if line["event"] == "aws.write"]
    assert sorted(line["operation"] for line in writes) == [
        "CreateRepository",
        "PutLifecyclePolicy",
        "SetRepositoryPolicy",
    ]
    assert all(line["request_id"] == "create-1" and line["outcome"] == "ok" for line in writes)
    assert all(line["aws_request_id"] and line["repository"].startswith("trigger/") for line in writes)
    assert lines.events(request_id="index-1") == ["deployment.indexed", "request"]
    assert lines.one("request", request_id="index-1")["route"].endswith("/background-workers")
    assert lines.events(request_id="login-1") == ["request"]
    assert lines.events(request_id="finalize-1") == ["deployment.deployed", "deployment.promoted", "request"]
    key = keys.authenticate(http.key)
    ours = {"project": environment.project.ref, "environment": "prod", "actor": str(key)}
    for line in lines.lines:
        assert line["event"] == "aws.write" or ours.items() <= line.items(), line
        assert line["level"] == "info"
    assert set(lines.events(deployment=made["shortCode"])) == {
        "deployment.created", "deployment.indexed", "deployment.deployed", "deployment.promoted", "request",
    }  # fmt: skip
    request = lines.one("request", request_id="finalize-1")
    assert (request["method"], request["status"]) == ("POST", 200)
    assert request["route"] == "api/v3/deployments/<deployment_id>/finalize"
    assert isinstance(request["duration_ms"], int)
    for secret in (http.key, http.key[-20:], login["password"], SECRET, "?note"):
        assert secret not in lines.raw


def test_a_failed_deploy_is_found_by_its_short_code_its_project_and_its_request_with_the_reason(
    http: Http, environment: Environment, lines: Log
) -> None:
    _, made = http.create("create-2")
    error = {"name": "BuildError", "message": f"npm exited with 1\nDATABASE=postgres://me:{SECRET}@db", "stack": SECRET}
    http("POST", f"/api/v1/deployments/{made['id']}/fail", {"error": error}, request_id="fail-2")

    line = lines.one("deployment.failed", deployment=made["shortCode"])
    assert line["reason"] == "BuildError: npm exited with 1\n(not kept)"
    assert (line["level"], line["request_id"]) == ("warning", "fail-2")
    assert (line["project"], line["version"]) == (environment.project.ref, made["version"])
    assert lines.events(request_id="fail-2") == ["deployment.failed", "request"]
    assert SECRET not in lines.raw


@pytest.mark.costly
def test_a_refused_deploy_is_one_warning_with_the_code_and_the_sentence_beside_the_refused_write(
    http: Http, sandbox: Sandbox, environment: Environment, lines: Log
) -> None:
    sandbox.fault("error", "ecr:CreateRepository", code="AccessDeniedException", status=400, times=9)

    status, answer = http.create("trace-me-1234")

    assert status == 422
    assert lines.events() == ["aws.write", "repository.failed", "request"]  # and none of Django's own
    assert lines.events(request_id="trace-me-1234") == lines.events()
    line = lines.one("request", request_id="trace-me-1234")
    assert (line["level"], line["status"], line["code"]) == ("warning", 422, "AccessDeniedException")
    assert (line["error"], line["project"]) == (answer["error"], environment.project.ref)
    write = lines.one("aws.write")
    assert (write["level"], write["operation"]) == ("warning", "CreateRepository")
    assert (write["outcome"], bool(write["aws_request_id"])) == ("AccessDeniedException", True)
    assert Deployment.objects.count() == 0  # the log is the only place that knows of it


def test_a_finalize_that_is_refused_in_its_stream_has_a_line_with_the_reason(http: Http, lines: Log) -> None:
    _, made = http.create("create-3")
    http.index(made, "index-3")

    http("POST", f"/api/v3/deployments/{made['id']}/finalize", {}, request_id="finalize-3")  # nothing was pushed

    refused = lines.one("deployment.finalize_refused", request_id="finalize-3", deployment=made["shortCode"])
    assert (refused["level"], refused["code"]) == ("warning", "image_not_found")
    assert refused["error"]
    assert lines.events(request_id="finalize-3", deployment_id=made["id"])[-1] == "request"  # at the stream's end


@pytest.mark.costly
def test_polls_probes_and_dead_keys_do_not_fill_the_log(http: Http, live_server: LiveServer, lines: Log) -> None:
    dead = Http(live_server, "tr_prod_" + "x" * 24)
    for _ in range(100):
        assert http("GET", "/api/v1/deployments/current")[0] == 404
        assert http("GET", "/healthz")[0] == 200
        assert http("GET", "/readyz")[0] == 200
        assert dead("GET", "/api/v1/deployments/latest")[0] in (401, 429)
        assert dead("POST", "/api/v1/deployments/x/background-workers", {})[0] in (401, 429)

    assert lines.events() == ["api.key_refused", "api.too_many_unknown_keys"]
    assert dead.key not in lines.raw


@pytest.mark.costly
def test_at_the_level_debug_each_poll_has_its_line(http: Http, lines: Log) -> None:
    logger = logging.getLogger("deployments")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        http("GET", "/api/v1/deployments/current")
    finally:
        logger.setLevel(level)

    assert lines.one("request")["level"] == "debug"


def test_a_poll_that_the_server_fails_is_a_warning(http: Http, lines: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise KeyError("internal-name")

    monkeypatch.setattr("deployments.deploys.promotions.current_promotion", broken)
    assert http("GET", "/api/v1/deployments/current", request_id="broken-1")[0] == 500

    assert lines.events(request_id="broken-1") == ["api.failed", "request"]
    assert "KeyError: 'internal-name'" in lines.one("api.failed")["exception"]
    assert lines.one("request")["level"] == "warning"


def test_a_request_during_an_outage_of_the_database_has_the_reason_and_its_code(
    http: Http, lines: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(**_: object) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr("deployments.deploys.lifecycle.create_deployment", away)
    status, answer = http.create("outage-1")

    line = lines.one("request", request_id="outage-1")
    assert (status, line["status"], line["code"]) == (503, 503, "database_unreachable")
    assert line["error"] == answer["error"]


def test_a_promotion_that_is_refused_in_the_console_has_the_reason_its_code_and_the_short_code(
    environment: Environment, ecr_configuration: Configuration, http: Http, lines: Log
) -> None:
    _, made = http.create("create-7")
    client = Client()
    client.force_login(User.objects.create_superuser("ada", "ada@example.com"))

    answer = client.post(f"/admin/deployments/deployment/{made['id']}/promote/", {"instead_of": ""})

    line = lines.one("request", request_id=answer["X-Request-ID"])
    assert (line["code"], line["deployment"], line["actor"]) == ("not_deployed", made["shortCode"], "ada@example.com")
    assert made["version"] in line["error"]


def test_a_page_that_fails_is_one_traceback_and_one_request_line_with_the_persons_name(
    db: None, lines: Log, monkeypatch: pytest.MonkeyPatch, configure: Callable[..., Configuration]
) -> None:
    configure()

    def broken(*_: object) -> None:
        raise KeyError("internal-name")

    monkeypatch.setattr("deployments.admin.dashboard.dashboard", broken)
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.create_superuser("ada", "ada@example.com"))

    answer = client.get(f"/admin/?q={SECRET}")

    assert answer.status_code == 500
    assert lines.events(request_id=answer["X-Request-ID"]) == ["page.failed", "request"]
    assert {line["actor"] for line in lines.lines} == {"ada@example.com"}
    assert lines.raw.count("Traceback") == 2  # one in each form
    assert SECRET not in lines.raw


def test_a_login_link_is_logged_by_its_route_also_when_it_is_refused(
    db: None, lines: Log, configure: Callable[..., Configuration]
) -> None:
    configure()
    begun = cli_login.begin(challenge="", callback_port=None, client="trigger.dev 4.8.3", address="127.0.0.1")
    person = Client(enforce_csrf_checks=True)
    person.force_login(User.objects.create_superuser("ada"))

    assert person.get(f"/account/login/{begun.handle}").status_code == 200
    assert person.post(f"/account/login/{begun.handle}").status_code == 403
    assert Client().get(f"/account/login/{begun.handle}").status_code == 302

    assert begun.handle not in lines.raw
    assert {line["route"] for line in lines.lines if line["event"] == "request"} == {"account/login/<str:handle>"}
    assert "CSRF" in lines.one("request", status=403)["reason"]


def test_a_deployment_that_times_out_has_its_line(
    environment: Environment, ecr_configuration: Configuration, http: Http, lines: Log
) -> None:
    _, made = http.create("create-4")
    Deployment.objects.update(deadline=Now() - timedelta(seconds=1))

    assert lifecycle.time_out_overdue() == 1

    line = lines.one("deployment.timed_out", deployment=made["shortCode"], project=environment.project.ref)
    assert "it was BUILDING" in line["reason"]


def test_what_was_rolled_back_left_no_line(
    environment: Environment, ecr_configuration: Configuration, http: Http, lines: Log
) -> None:
    _, made = http.create("create-5")
    with transaction.atomic():
        lifecycle.fail(environment=environment, deployment_id=made["id"], error={"name": "X", "message": "y"})
        transaction.set_rollback(True)

    assert "deployment.failed" not in lines.events()


@pytest.mark.costly
def test_a_sweep_has_a_line_at_its_start_for_each_correction_and_at_its_end(
    http: Http, sandbox: Sandbox, ecr_configuration: Configuration, lines: Log
) -> None:
    http.create("create-6")
    sweep_all(ecr_configuration)  # the first one reads the registry policy for the first time
    name = Repository.objects.get().name
    other = POLICY.replace("222222222222", "333333333333")
    sandbox.client("ecr").set_repository_policy(repositoryName=name, policyText=other)
    before = len(lines.lines)

    sweep = sweep_record.start(trigger=SweepTrigger.PERSON, requested_by="ada@example.com")
    assert sweep is not None
    while sweeps.work(configuration=ecr_configuration, seconds=30):
        pass
    while sweeps.work(configuration=ecr_configuration, seconds=30):
        pass

    found = lines.lines[before:]
    assert [line["event"] for line in found] == [
        "sweep.started", "sweep.listed", "aws.write", "repository.in_sync", "sweep.ended",
    ]  # fmt: skip
    assert {line["sweep"] for line in found} == {sweep.pk}
    assert (found[2]["operation"], found[2]["actor"]) == ("SetRepositoryPolicy", "ada@example.com")
    assert "222222222222" in found[3]["corrected"]
    assert (found[4]["status"], found[4]["healed"], found[4]["total"]) == ("done", 1, 1)


@pytest.mark.costly
def test_an_idle_sweep_has_three_lines_however_many_repositories_there_are(
    http: Http, ecr_configuration: Configuration, lines: Log
) -> None:
    http.create("create-7")
    sweep_all(ecr_configuration)  # the first one reads the registry policy for the first time
    before = len(lines.lines)

    sweep_record.start(trigger=SweepTrigger.SCHEDULE)
    while sweeps.work(configuration=ecr_configuration, seconds=30):
        pass

    assert [line["event"] for line in lines.lines[before:]] == ["sweep.started", "sweep.listed", "sweep.ended"]


# ------------------------------------------------------------------------------------------------------------ the form


def test_every_line_is_one_json_object_and_one_text_line_whatever_is_in_its_fields(lines: Log) -> None:
    logger = log.get_logger("deployments.test")
    logger.info(
        "a.b", text="two\nlines\r\n\x1b[31mred\u2028", equals='a="b"', number=1.5, yes=True, none=None, many=[1]
    )
    logging.getLogger("django-q").warning("first %s\nsecond", "word")

    assert len(lines.text.splitlines()) == 2
    assert "\x1b" not in lines.raw
    ours, theirs = lines.lines
    assert (ours["event"], ours["number"], ours["yes"], ours["none"], ours["many"]) == ("a.b", 1.5, True, None, "[1]")
    assert ours["text"].startswith("two\nlines")
    assert (theirs["event"], theirs["logger"], theirs["level"]) == ("first word\nsecond", "django-q", "warning")


def test_a_traceback_stands_below_its_text_line_indented_and_inside_its_json_line(lines: Log) -> None:
    try:
        raise ValueError(f"cannot open postgres://me:{SECRET}@db/x")
    except ValueError:
        log.get_logger("deployments.test").exception("a.broke")

    first, *rest = lines.text.splitlines()
    assert "a.broke" in first
    assert rest
    assert all(line.startswith("    ") for line in rest)
    assert "Traceback" in lines.one("a.broke")["exception"]
    assert SECRET not in lines.raw


def test_the_time_is_utc_with_milliseconds(lines: Log) -> None:
    logging.getLogger("gunicorn.error").info("Booting")
    log.get_logger("deployments.test").info("a.b")

    for line in (*(each["timestamp"] for each in lines.lines), *(each.split()[0] for each in lines.text.splitlines())):
        date, _, time = line.partition("T")
        assert (len(date), len(time), time[-1], time[8]) == (10, 13, "Z", ".")


@pytest.mark.parametrize(
    "secret",
    [
        "tr_prod_" + "a" * 24,
        "https://hooks.slack.com/services/T0/B0/x",
        "postgres://user:password@host",
        "AKIA" + "A" * 16,
        "ASIA" + "A" * 16,
        "-----BEGIN RSA PRIVATE KEY-----",
        "Authorization: Bearer abcdefghijkl",
        "AUTHORIZATION: BEARER abcdefghijkl",
        "ghp_" + "a" * 36,
        "ghu-" + "a" * 36,
        "xoxb-" + "1" * 12,
        "glpat-" + "a" * 20,
    ],
)
def test_a_value_that_looks_like_a_secret_is_not_kept_whichever_code_logs_it(secret: str, lines: Log) -> None:
    log.get_logger("deployments.test").info("a.b", value=f"before\n{secret}")
    logging.getLogger("gunicorn.error").warning("Invalid header: %s", secret)

    assert secret not in lines.raw
    assert [line["event"] for line in lines.lines] == ["a.b", "(not kept)"]
    assert lines.lines[0]["value"] == "before\n(not kept)"


def test_what_is_bound_stands_on_the_lines_of_other_libraries_too_and_of_carried_functions(lines: Log) -> None:
    with log.bound(request_id="r-1"):
        logging.getLogger("botocore").warning("slow")
        logger = log.get_logger("deployments.test")
        for each in (
            Thread(target=log.carried(logger.info), args=("in.thread",)),
            Thread(target=logger.info, args=("x",)),
        ):
            each.start()
            each.join()
    log.get_logger("deployments.test").info("afterwards")

    assert lines.events(request_id="r-1") == ["slow", "in.thread"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "reason"),
    [
        ("get", "/admin/deployments/deployment/", {}, 403, ""),
        ("post", "/admin/login/", {}, 403, "CSRF"),
        ("get", "/admin/nothing/", {}, 404, ""),
        ("get", "/api/nothing", {}, 404, ""),
        ("get", "/admin/", {"headers": {"host": "evil.example"}}, 400, "evil.example"),
        ("get", "/api/v1/projects", {"headers": {"host": "evil.example"}}, 400, "evil.example"),
        ("get", "/admin/logout/", {}, 405, ""),
        ("get", "/admin/auth/user/?password__startswith=p", {"superuser": True}, 400, "password__startswith"),
    ],
)
def test_a_refused_page_is_one_line_without_a_traceback_and_with_the_reason(
    method: str, path: str, sent: dict[str, Any], status: int, reason: str, lines: Log
) -> None:
    superuser = sent.pop("superuser", False)
    client = Client(raise_request_exception=False, enforce_csrf_checks=True)
    client.force_login(User.objects.create(username="mira", is_staff=True, is_superuser=superuser))

    answer = getattr(client, method)(path, **sent)

    assert answer.status_code == status
    assert len(lines.text.splitlines()) == 1, lines.text
    assert lines.one("request")["status"] == status
    assert reason in lines.one("request").get("reason", "")
