"""What holds for every address: JSON errors, no redirects, bad bodies, sizes, keys, and an id on every answer."""

from __future__ import annotations

import http.client
import io
import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from deployments.access import keys
from deployments.api.bodies import KIB, MIB, BodyError, Rule, parse
from deployments.api.limits import Limiter
from deployments.deploys import lifecycle
from deployments.models import AccessKey, Deployment, Environment
from tests.support.cli import HASH, WORKER, Answer, Cli

pytestmark = pytest.mark.django_db


# ---- Addresses


@pytest.mark.parametrize("path", ["/api/v9/nothing", "/api/", "/api", "/api/v2/whoami/", "/api/v1/deployments/"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("debug", [False, True])
def test_an_unknown_address_is_a_json_404_and_no_redirect(
    cli: Cli, method: str, path: str, debug: bool, settings: Any
) -> None:
    settings.DEBUG = debug

    answer = cli.send(method, path, headers={})

    assert answer.status == 404
    assert "nothing at this address" in answer.error


def test_a_wrong_method_is_a_json_405_that_names_the_right_one(cli: Cli) -> None:
    answer = cli.get("/api/v1/deployments/deployment_x/fail")

    assert answer.status == 405
    assert answer.headers["Allow"] == "POST"
    assert "POST" in answer.error


def test_an_unknown_host_is_a_json_400(cli: Cli) -> None:
    answer = cli.get("/api/v1/deployments/deployment_x", host="evil.example")

    assert (answer.status, bool(answer.error)) == (400, True)


@pytest.mark.parametrize(
    "path",
    ["/api/v1/deployments/%00", "/api/v1/projects/a%00b/prod", "/api/v2/whoami?projectRef=%00", "/api/v1/x?a=%00"],
)
def test_a_nul_in_an_address_is_a_400(user_cli: Cli, path: str) -> None:
    assert user_cli.get(path).status == 400


def test_no_csrf_token_is_asked_for(cli: Cli) -> None:
    strict = Cli(Client(enforce_csrf_checks=True), cli.key)

    assert strict.deploy().status == 200
    assert strict.post("/api/v1/nothing").status == 404


def test_every_answer_has_a_request_id_and_takes_a_given_one(cli: Cli) -> None:
    for path in ("/api/v1/deployments/x", "/api/nothing", "/healthz", "/nowhere"):
        assert re.fullmatch(r"[0-9a-f]{32}", cli.get(path).headers["X-Request-ID"])
    assert cli.get("/api/nothing", x_request_id="proxy-1.2_3").headers["X-Request-ID"] == "proxy-1.2_3"
    assert cli.get("/api/nothing", x_request_id="a b").headers["X-Request-ID"] != "a b"


def test_answers_are_not_stored_on_the_way(user_cli: Cli) -> None:
    assert user_cli.get("/api/v2/whoami").headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("debug", [False, True])
def test_an_unexpected_error_is_a_json_500_with_the_id_in_the_log_and_no_traceback(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, settings: Any, debug: bool
) -> None:
    def broken(**_: object) -> None:
        raise KeyError("internal-name")

    settings.DEBUG = debug
    monkeypatch.setattr(lifecycle, "create_deployment", broken)

    answer = cli.deploy()

    assert answer.status == 500
    assert answer.headers["X-Request-ID"] in answer.error
    assert "internal-name" not in answer.error
    lines = [each for each in caplog.records if answer.headers["X-Request-ID"] in each.getMessage()]
    assert [each.msg["event"] for each in lines] == ["api.failed", "request"]  # type: ignore[index]
    record = lines[0]
    assert record.exc_info is not None  # the answer sends the operator there: the traceback has to be in it
    assert record.exc_info[0] is KeyError
    assert "in broken" in caplog.text
    assert cli.key not in caplog.text


def test_a_passing_refusal_is_a_503_that_is_worth_a_retry(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def throttled(**_: object) -> None:
        raise lifecycle.Refusal("AWS asks to slow down.", code="ThrottlingException", retryable=True)

    monkeypatch.setattr(lifecycle, "create_deployment", throttled)

    answer = cli.deploy()

    assert (answer.status, answer.error) == (503, "AWS asks to slow down.")
    assert answer.body["code"] == "ThrottlingException"
    assert answer.headers["Retry-After"] == "5"
    assert "x-should-retry" not in answer.headers


# ---- Bodies

BAD: dict[str, str | bytes] = {
    "nothing": "",
    "not JSON": "{",
    "a list": "[]",
    "null": "null",
    "a text": '"x"',
    "NUL": '{"contentHash": "a\\u0000b"}',
    "NUL in a key": '{"contentHash": "a", "a\\u0000": 1}',
    "a raw NUL": b'{"contentHash": "a\0"}',
    "half a surrogate pair": '{"contentHash": "\\ud800"}',
    "not UTF-8": b'{"contentHash": "\xff"}',
    "NaN": '{"contentHash": "a", "x": NaN}',
    "Infinity": '{"contentHash": "a", "x": -Infinity}',
    "a number too large": '{"contentHash": "a", "gitMeta": {"pullRequestNumber": 1e400}}',
    "a number too long": '{"contentHash": "a", "x": %s}' % ("1" * 4301),
    "33 levels": '{"contentHash": "a", "x": %s}' % ("[" * 32 + "]" * 32),
    "1,100 levels": '{"contentHash": "a", "x": %s}' % ("[" * 1100 + "]" * 1100),
    "100,000 levels": '{"contentHash": "a", "x": %s}' % ("[" * 100_000 + "]" * 100_000),
    "a key twice": '{"contentHash": "a", "contentHash": "b"}',
    "an object for a text": '{"contentHash": {}}',
    "a number for a text": '{"contentHash": 1}',
    "null for a text": '{"contentHash": null}',
    "an empty hash": '{"contentHash": ""}',
    "a hash too long": '{"contentHash": "%s"}' % ("a" * 201),
    "a text for an object": '{"contentHash": "a", "gitMeta": "main"}',
    "a pull request above 64 bits": '{"contentHash": "a", "gitMeta": {"pullRequestNumber": 18446744073709551616}}',
    "an unknown type": '{"contentHash": "a", "type": "REMOTE"}',
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_body_is_a_sentence(cli: Cli, name: str) -> None:
    answer = cli.send("POST", "/api/v1/deployments", BAD[name], headers={})

    assert answer.status in {400, 422}
    assert answer.error.endswith(".")
    assert answer.headers["x-should-retry"] == "false"
    assert not Deployment.objects.exists()


def test_text_that_only_looks_like_nul_is_taken(cli: Cli) -> None:
    assert cli.deploy(gitMeta={"commitMessage": "say \\u0000 and \\ud800, 👍🏽"}).status == 200
    assert Deployment.objects.get().git["commitMessage"] == "say \\u0000 and \\ud800, 👍🏽"


def test_what_a_cli_says_of_itself_is_cut_and_not_refused(cli: Cli) -> None:
    assert cli.deploy(triggeredVia="x" * 10_000, runtime="y" * 10_000).status == 200


def test_complaints_name_the_field_and_never_the_value(cli: Cli) -> None:
    answer = cli.post("/api/v1/deployments", {"contentHash": ["tr_pat_secret"]})

    assert answer.error.startswith("contentHash: ")
    assert "secret" not in answer.error


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/api/v1/deployments", 256 * KIB),
        ("/api/v1/deployments/deployment_x/fail", 4 * MIB),
        ("/api/v1/projects/proj_x/envvars/prod/import", MIB),
        ("/api/v1/nothing", 256 * KIB),
    ],
)
def test_a_body_that_is_too_large_is_a_413(cli: Cli, path: str, limit: int) -> None:
    assert cli.send("POST", path, b" " * (limit + 1), headers={}).status == 413
    assert cli.send("POST", path, b" " * limit, headers={}).status != 413


def test_a_body_of_64_mib_is_refused_before_it_is_read(live_server: Any) -> None:
    address = urlsplit(live_server.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port or 80, timeout=10)
    connection.putrequest("POST", "/api/v1/deployments/deployment_x/background-workers")
    connection.putheader("Content-Length", str(64 * MIB + 1))
    connection.endheaders()

    response = connection.getresponse()  # not one byte of the body was sent

    assert response.status == 413
    assert "64 MiB" in json.loads(response.read())["error"]
    connection.close()


@pytest.mark.parametrize("path", ["/admin/login/", "/account/login/x", "/admin/deployments/repository/", "/nowhere"])
@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_a_form_of_257_kib_is_a_413_page_and_not_one_byte_of_it_is_read(
    client: Client, path: str, content_type: str
) -> None:
    body = Chunked(b"a" * 257 * KIB)

    response = client.request(
        **{"REQUEST_METHOD": "POST", "PATH_INFO": path, "CONTENT_TYPE": content_type, "wsgi.input": body},
        CONTENT_LENGTH=str(257 * KIB),
    )

    assert response.status_code == 413
    assert response["Content-Type"].startswith("text/html")
    assert "larger than 256 KiB" in response.content.decode()
    assert body.body.tell() == 0


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_a_form_in_chunks_is_read_up_to_the_limit_and_then_a_413_page(client: Client, content_type: str) -> None:
    body = Chunked(b"a" * MIB)

    response = client.request(
        **{"REQUEST_METHOD": "POST", "PATH_INFO": "/admin/login/", "CONTENT_TYPE": content_type, "wsgi.input": body},
        **{"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True},
    )

    assert (response.status_code, body.body.tell()) == (413, 256 * KIB + 1)


def test_a_form_in_chunks_reaches_its_page(client: Client, operator: User) -> None:
    operator.set_password("a-password-of-the-tests")
    operator.save()
    client.get("/admin/login/")
    token = client.cookies["csrftoken"].value
    form = f"csrfmiddlewaretoken={token}&username={operator.get_username()}&password=a-password-of-the-tests".encode()

    response = client.request(
        **{"REQUEST_METHOD": "POST", "PATH_INFO": "/admin/login/", "wsgi.input": Chunked(form)},
        **{"CONTENT_TYPE": "application/x-www-form-urlencoded", "HTTP_TRANSFER_ENCODING": "chunked"},
        **{"wsgi.input_terminated": True},
    )

    assert (response.status_code, "sessionid" in response.cookies) == (302, True)


class Chunked:
    """A body as gunicorn gives one that came in chunks: only its end is known."""

    def __init__(self, *chunks: bytes, broken: bool = False) -> None:
        self.body = io.BytesIO(b"".join(chunks))
        self.broken = broken

    def read(self, size: int = -1) -> bytes:
        found = self.body.read(size)
        if self.broken and not found:
            raise ValueError("what a server says of a chunk that is none")
        return found

    def readline(self, size: int = -1) -> bytes:
        return self.body.readline(size)


def chunked(cli: Cli, path: str, body: Chunked, *, terminated: bool = True, key: str | None = None) -> Answer:
    response = cli.client.request(
        **{
            "REQUEST_METHOD": "POST",
            "PATH_INFO": path,
            "CONTENT_TYPE": "application/json",
            "HTTP_AUTHORIZATION": f"Bearer {key or cli.key}",
            "HTTP_TRANSFER_ENCODING": "chunked",
            "wsgi.input": body,
            "wsgi.input_terminated": terminated,
        }
    )
    return Answer(response.status_code, response.json(), response.headers)


def test_a_body_in_chunks_is_read_to_its_end(cli: Cli) -> None:
    parts = json.dumps({"contentHash": HASH, "type": "MANAGED"}).encode().partition(b":")

    answer = chunked(cli, "/api/v1/deployments", Chunked(*parts))

    assert answer.status == 200
    assert Deployment.objects.get().content_hash == HASH


def test_a_path_that_is_not_ascii_keeps_its_characters_with_a_body_in_chunks(cli: Cli) -> None:
    path = "/api/v1/deployments/¼♥/background-workers".encode().decode("iso-8859-1")  # as a server gives it
    answer = chunked(cli, path, Chunked(b"{}"))

    assert answer.status == 404


def test_a_body_in_chunks_is_held_to_the_same_size(cli: Cli) -> None:
    assert chunked(cli, "/api/v1/deployments", Chunked(b" " * 256 * KIB)).status == 400  # no JSON, but not too large
    answer = chunked(cli, "/api/v1/deployments", Chunked(b" " * 256 * KIB, b" "))

    assert answer.status == 413
    assert "256 KiB" in answer.error


def test_a_body_in_chunks_is_not_read_for_a_stranger(cli: Cli) -> None:
    body = Chunked(b" " * MIB)

    assert chunked(cli, "/api/v1/deployments", body, key="tr_prod_x").status == 401
    assert body.body.tell() == 0


def test_a_malformed_chunk_is_a_400(cli: Cli) -> None:
    assert chunked(cli, "/api/v1/deployments", Chunked(b"{", broken=True)).status == 400


def test_a_server_that_does_not_know_the_end_of_a_body_asks_for_its_length(cli: Cli) -> None:
    assert chunked(cli, "/api/v1/deployments", Chunked(b"{}"), terminated=False).status == 411


@pytest.mark.parametrize(("content_type", "encoding"), [("text/plain", "identity"), ("application/json", "gzip")])
def test_a_body_that_is_not_plain_json_is_a_415(cli: Cli, content_type: str, encoding: str) -> None:
    headers = {"Authorization": f"Bearer {cli.key}", "Content-Encoding": encoding}
    response = cli.client.generic("POST", "/api/v1/deployments", b"{}", content_type=content_type, headers=headers)

    assert response.status_code == 415
    assert response.json()["error"]


def test_a_json_content_type_may_name_its_charset(cli: Cli) -> None:
    response = cli.client.post(
        "/api/v1/deployments",
        {"contentHash": HASH, "type": "MANAGED"},
        content_type="application/json; charset=utf-8",
        headers={"Authorization": f"bearer {cli.key}"},
    )

    assert response.status_code == 200


def test_the_parser_takes_exactly_the_depth_that_is_allowed() -> None:
    rule = Rule(depth=3)

    assert parse(b'{"a": {"b": {}}}', rule) == {"a": {"b": {}}}
    with pytest.raises(BodyError):
        parse(b'{"a": {"b": {"c": {}}}}', rule)


# ---- Keys


def test_without_a_key_the_answer_says_where_keys_come_from(cli: Cli) -> None:
    for header in ("", "Basic YTpi", "Bearer", "Bearer  "):
        response = cli.client.post(
            "/api/v1/deployments", {}, content_type="application/json", headers={"Authorization": header}
        )
        assert response.status_code == 401
        assert response["WWW-Authenticate"] == "Bearer"
        assert "/account/tokens" in response.json()["error"]


@pytest.mark.costly
def test_too_many_unknown_keys_from_one_address_are_asked_to_slow_down_and_others_are_not(
    cli: Cli, user_cli: Cli
) -> None:
    unknown = Cli(cli.client, "tr_pat_" + "x" * 40)
    assert {unknown.get("/api/v2/whoami").status for _ in range(30)} == {401}

    answer = unknown.get("/api/v2/whoami")

    assert (answer.status, answer.body["code"]) == (429, "too_many_requests")
    assert 0 < int(answer.headers["Retry-After"]) <= 60
    assert answer.headers["x-should-retry"] == "false"
    assert user_cli.get("/api/v2/whoami").status == 200  # who has a key that works is never held up
    response = cli.client.get("/api/v2/whoami", headers={"Authorization": "Bearer tr_pat_x"}, REMOTE_ADDR="203.0.113.7")
    assert response.status_code == 401


def test_a_limiter_forgets_after_its_window_and_remembers_a_bounded_number_of_addresses() -> None:
    now = [0.0]
    limiter = Limiter(most=2, seconds=60, addresses=3, clock=lambda: now[0])

    assert [limiter.count("192.0.2.1") for _ in range(3)] == [0, 0, 60]
    now[0] = 30
    assert limiter.count("192.0.2.1") == 30
    now[0] = 60
    assert limiter.count("192.0.2.1") == 0
    for number in range(2, 10):
        limiter.count(f"192.0.2.{number}")
    assert len(limiter) == 3


def test_who_has_one_ipv6_address_has_them_all() -> None:
    limiter = Limiter(most=1, seconds=60)

    assert limiter.count("2001:db8:1:2::1") == 0
    assert limiter.count("2001:db8:1:2:ffff::9") > 0
    assert limiter.count("2001:db8:1:3::1") == 0
    assert limiter.count("not an address") == 0


def _revoked(key: AccessKey) -> None:
    keys.revoke(key)


def _expired(key: AccessKey) -> None:
    AccessKey.objects.filter(pk=key.pk).update(expires_at=timezone.now() - timedelta(seconds=1))


def _inactive(key: AccessKey) -> None:
    assert key.user is not None
    key.user.is_active = False
    key.user.save()


@pytest.mark.parametrize("end", [_revoked, _expired, _inactive])
def test_unknown_and_ended_keys_get_the_same_401(user_cli: Cli, end: Callable[[AccessKey], None]) -> None:
    assert user_cli.get("/api/v2/whoami").status == 200
    end(AccessKey.objects.get())

    ended = user_cli.get("/api/v2/whoami")
    unknown = Cli(user_cli.client, "tr_pat_" + "x" * 40).get("/api/v2/whoami")

    assert ended.status == unknown.status == 401
    assert ended.error == unknown.error
    assert ended.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("key", ["ü" * 10, "x" * 5000, "tr_prod_", "'; --"])
def test_no_key_is_strange_enough_for_a_500(client: Client, key: str) -> None:
    response = client.get("/api/v2/whoami", HTTP_AUTHORIZATION=f"Bearer {key}")

    assert response.status_code == 401


def test_each_address_takes_its_own_kind_of_key(user_cli: Cli, cli: Cli) -> None:
    assert user_cli.deploy().status == 403
    assert cli.get("/api/v2/whoami").status == 403


def test_the_use_of_a_key_is_noted_at_most_once_a_minute(cli: Cli) -> None:
    cli.get("/api/v1/deployments/x", x_trigger_cli_version="4.8.3")
    noted = AccessKey.objects.get()
    cli.get("/api/v1/deployments/x", x_trigger_cli_version="4.6.4")

    assert noted.last_used_by == "trigger.dev 4.8.3 at 127.0.0.1"
    assert AccessKey.objects.get().last_used_at == noted.last_used_at
    AccessKey.objects.update(last_used_at=timezone.now() - timedelta(minutes=2))
    cli.get("/api/v1/deployments/x", user_agent="curl/8")
    assert AccessKey.objects.get().last_used_by == "curl/8 at 127.0.0.1"


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        ("0", "203.0.113.7", "127.0.0.1"),
        ("1", "203.0.113.7", "203.0.113.7"),
        ("1", "198.51.100.1, 203.0.113.7", "203.0.113.7"),  # the first is the client's own invention
        ("2", "198.51.100.1, 203.0.113.7, 10.0.0.1", "203.0.113.7"),
        ("2", "203.0.113.7", "127.0.0.1"),  # did not come through both
        ("1", "2001:db8::1", "2001:db8::1"),
        ("1", "<script>", "127.0.0.1"),
        ("1", "", "127.0.0.1"),
    ],
)
def test_a_client_s_address_is_what_the_trusted_proxies_saw(
    cli: Cli, configure: Callable[..., Any], proxies: str, forwarded: str, address: str
) -> None:
    configure(TRUSTED_PROXIES=proxies)

    cli.get("/api/v1/deployments/x", user_agent="curl/8", x_forwarded_for=forwarded)

    assert AccessKey.objects.get().last_used_by == f"curl/8 at {address}"


def test_a_key_of_preview_needs_a_branch(preview_cli: Cli) -> None:
    answer = preview_cli.deploy()

    assert answer.status == 401
    assert "x-trigger-branch" in answer.error


def test_a_branch_that_is_not_there_is_a_404(preview_cli: Cli) -> None:
    body = {"contentHash": HASH, "type": "MANAGED"}

    for branch in ("nowhere", "a b", "x" * 300, "..", "refs/heads/"):
        assert preview_cli.post("/api/v1/deployments", body, x_trigger_branch=branch).status == 404


def test_a_branch_has_versions_of_its_own(preview_cli: Cli, production: Environment) -> None:
    ref = production.project.ref
    for branch in ("refs/heads/feature/one", "two"):
        assert preview_cli.post(f"/api/v1/projects/{ref}/branches", {"env": "preview", "branch": branch}).status == 200
    body = {"contentHash": HASH, "type": "MANAGED"}

    one, two = (preview_cli.post("/api/v1/deployments", body, x_trigger_branch=name) for name in ("feature/one", "two"))

    assert one.body["version"] == two.body["version"]
    assert ".preview." in one.body["imageTag"]
    path = f"/api/v1/deployments/{one.body['id']}"
    assert preview_cli.get(path, x_trigger_branch="feature/one").status == 200
    assert preview_cli.get(path, x_trigger_branch="two").status == 404
    report = preview_cli.post(f"{path}/background-workers", WORKER, x_trigger_branch="feature/one")
    assert report.status == 200
