"""Finalize and promote: the stream's events, what each refusal looks like, and that nothing stays silent."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from deployments.api import stream
from deployments.deploys import promotions
from deployments.models import Deployment, Promotion
from tests.support.cli import DIGEST, Cli

pytestmark = pytest.mark.django_db(transaction=True)


def test_the_stream_ends_with_complete_and_the_deployment_is_current(cli: Cli) -> None:
    deployment_id = cli.deploying()

    found = cli.finalize(deployment_id, skipPushToRegistry=True)

    assert found[-1] == ("complete", {"id": deployment_id})
    assert {name for name, _ in found[:-1]} == {"log"}
    assert all(set(data) == {"message"} for name, data in found if name == "log")
    deployment = Deployment.objects.get()
    assert (deployment.status, deployment.image_digest) == ("DEPLOYED", DIGEST)
    assert Promotion.objects.get().deployment_id == deployment_id
    assert cli.get(f"/api/v1/deployments/{deployment_id}").body["imageReference"].endswith(f"@{DIGEST}")


def test_finalizing_again_completes_again(cli: Cli) -> None:
    deployment_id = cli.deploying()
    cli.finalize(deployment_id)

    assert cli.finalize(deployment_id)[-1] == ("complete", {"id": deployment_id})


@pytest.mark.parametrize("digest", [None, "", "sha256:short", "SHA256:" + "AB" * 32, 7, {"a": 1}, DIGEST + "\n"])
def test_a_malformed_digest_is_ignored(cli: Cli, digest: object) -> None:
    deployment_id = cli.deploying()

    assert cli.finalize(deployment_id, imageDigest=digest)[-1][0] == "complete"
    assert Deployment.objects.get().image_digest == ""


def test_skipping_the_promotion_leaves_nothing_current(cli: Cli) -> None:
    deployment_id = cli.deploying()

    assert cli.finalize(deployment_id, skipPromotion=True)[-1][0] == "complete"
    assert not Promotion.objects.exists()


def test_a_deployment_that_was_not_indexed_is_refused_in_an_event(cli: Cli) -> None:
    deployment_id = cli.deploy().body["id"]

    [(name, data)] = cli.finalize(deployment_id)

    assert name == "error"
    assert set(data) == {"error"}
    assert "not indexed" in data["error"]


def test_an_unknown_or_foreign_deployment_is_refused_in_an_event(cli: Cli, stranger: Cli) -> None:
    deployment_id = cli.deploying()

    assert stranger.finalize(deployment_id) == stranger.finalize("deployment_x")
    assert stranger.finalize(deployment_id)[-1][0] == "error"
    assert Deployment.objects.get().status == "DEPLOYING"


def test_an_unexpected_error_is_an_event_with_an_id_and_without_a_traceback(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*, report: Callable[[str], object], **_: object) -> None:
        report("so far")
        raise KeyError("secret-name")

    monkeypatch.setattr(promotions, "finalize", broken)
    deployment_id = cli.deploying()

    answer = cli.post(f"/api/v3/deployments/{deployment_id}/finalize", {}, x_request_id="trace-1")

    assert "secret-name" not in answer.body
    assert "trace-1" in answer.body
    assert answer.headers["X-Request-ID"] == "trace-1"


def test_the_stream_starts_at_once_pings_and_is_not_buffered(
    cli: Cli, live_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*, report: Callable[[str], object], **_: object) -> None:
        time.sleep(0.6)
        report("done")

    monkeypatch.setattr(promotions, "finalize", slow)
    monkeypatch.setattr(stream, "PING_SECONDS", 0.1)
    deployment_id = cli.deploying()
    address = urlsplit(live_server.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port or 80, timeout=10)
    started = time.monotonic()

    headers = {"Authorization": f"Bearer {cli.key}", "Content-Type": "application/json"}
    connection.request("POST", f"/api/v3/deployments/{deployment_id}/finalize", "{}", headers)
    response = connection.getresponse()
    first = response.read1(100)
    first_after = time.monotonic() - started
    rest = response.read()
    connection.close()

    assert first.startswith(b"event: ping\ndata: {}\n\n")
    assert first_after < 0.4
    assert rest.count(b"event: ping") >= 3
    assert rest.endswith(b'event: complete\ndata: {"id": "%s"}\n\n' % deployment_id.encode())
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.headers["Cache-Control"] == "no-cache"


def test_a_client_that_goes_away_does_not_stop_what_was_begun(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    def slow(report: Callable[[str], object]) -> None:
        time.sleep(0.05)
        report("one")
        ended.append(True)

    answer = stream.response(slow, complete={}, request_id="")
    chunks = iter(answer.streaming_content)  # type: ignore[arg-type]
    next(chunks)
    answer.close()

    deadline = time.monotonic() + 5
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended


def test_the_older_finalizes_answer_json(cli: Cli) -> None:
    building, deploying = cli.deploy().body["id"], cli.deploying()

    refused = cli.post(f"/api/v2/deployments/{building}/finalize", {})
    assert refused.status == 400
    assert "not indexed" in refused.error
    for version in ("v2", "v1"):
        answer = cli.post(f"/api/{version}/deployments/{deploying}/finalize", {})
        assert (answer.status, answer.body) == (200, {"id": deploying})


@pytest.mark.costly
def test_promote_points_the_environment_at_a_newer_version_only(cli: Cli) -> None:
    first, second = cli.deploying(), cli.deploying()
    cli.finalize(first)
    cli.finalize(second, skipPromotion=True)
    versions = {each.id: str(each.version) for each in Deployment.objects.all()}

    answer = cli.post(f"/api/v1/deployments/{versions[second]}/promote")

    assert answer.status == 200
    assert set(answer.body) == {"id", "version", "shortCode"}
    assert Promotion.objects.get().deployment_id == second
    current = cli.post(f"/api/v1/deployments/{versions[second]}/promote")
    assert (current.status, current.headers["x-should-retry"]) == (400, "false")
    older = cli.post(f"/api/v1/deployments/{versions[first]}/promote")
    assert older.status == 400
    assert "allowRollbacks" in older.error
    assert cli.post(f"/api/v1/deployments/{versions[first]}/promote?allowRollbacks=true").status == 200
    assert Promotion.objects.get().deployment_id == first


@pytest.mark.parametrize("version", ["20200101.1", "latest", "20200101.0", "%00", "x" * 300])
def test_a_version_that_is_not_there_is_a_404(cli: Cli, version: str) -> None:
    assert cli.post(f"/api/v1/deployments/{version}/promote").status in {404, 400 if version == "%00" else 404}


def test_a_version_that_is_not_deployed_is_a_400(cli: Cli) -> None:
    version = cli.deploy().body["version"]

    answer = cli.post(f"/api/v1/deployments/{version}/promote")

    assert answer.status == 400
    assert "BUILDING" in answer.error
