"""A 3.x CLI ends: it never does after a finalize that was refused, so it is stopped at its request before.

Its requests are those of CLI 3.3.17 (`commands/deploy.js`, `apiClient.js`): it reports the index, asks for the state of
the deployment, and finalizes. If the state is refused or has no worker, it asks for the state once more, prints the
reason, posts `fail`, and ends with exit status 1. If finalize is refused, it prints `[object Object]`, posts finalize
every three seconds, and never ends; a 204 ends the posts. tests/e2e/test_cli.py runs the CLI.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NoReturn

import pytest
from django.test import Client
from django.utils import timezone

from deployments.access import keys
from deployments.deploys import image_proof
from deployments.errors import refusal
from deployments.models import Deployment, Environment
from deployments.reconcile import bulkhead
from deployments.row_values import Receipt
from sandbox.control import Sandbox
from tests.support.cli import HASH, Cli

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ecr_configuration")]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_proof, "RETRY_PAUSES_SECONDS", ())


@pytest.fixture
def deployment_id(cli: Cli, sandbox: Sandbox) -> str:
    """The deployment of a 3.x CLI that has indexed its image and pushed nothing."""
    deployment_id = str(cli.deploy(type=None).body["id"])
    report = {"metadata": {"contentHash": HASH, "packageVersion": "3.3.17", "tasks": [{"id": "a", "filePath": "a.ts"}]}}
    assert cli.post(f"/api/v1/deployments/{deployment_id}/background-workers", report).status == 200
    return deployment_id


def state(cli: Cli, deployment_id: str) -> Any:
    return cli.get(f"/api/v1/deployments/{deployment_id}")


def finalize(cli: Cli, deployment_id: str) -> Any:
    return cli.post(f"/api/v3/deployments/{deployment_id}/finalize", {"imageReference": "x", "selfHosted": True})


@pytest.mark.costly
def test_an_image_that_was_not_pushed_stops_the_cli_before_finalize_with_the_reason(
    cli: Cli, deployment_id: str
) -> None:
    refused = state(cli, deployment_id)
    assert (refused.status, refused.body["code"]) == (422, "image_not_found")
    assert refused.headers["x-should-retry"] == "false"

    again = state(cli, deployment_id)  # the CLI prints the reason only if this is not refused
    assert (again.status, again.body["status"]) == (200, "DEPLOYING")
    cli.post(f"/api/v1/deployments/{deployment_id}/fail", {"error": {"name": "x", "message": refused.error}})
    row = Deployment.objects.get()
    assert (row.status, row.error) == ("FAILED", {"name": "x", "message": refused.error})


@pytest.mark.costly
def test_another_reader_of_the_state_before_the_push_does_not_let_the_cli_through(cli: Cli, deployment_id: str) -> None:
    assert state(cli, deployment_id).status == 422
    long_ago = (timezone.now() - timedelta(minutes=1)).isoformat()
    Deployment.objects.update(receipt=Receipt(at=long_ago, unproved="not there", code="image_not_found"))

    assert state(cli, deployment_id).status == 422
    assert Deployment.objects.get().status == "DEPLOYING"


@pytest.mark.costly
@pytest.mark.parametrize("hours", [-1, 1])
def test_a_web_host_whose_clock_is_wrong_neither_refuses_twice_nor_lets_the_cli_through_for_long(
    cli: Cli, deployment_id: str, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    real = timezone.now
    with monkeypatch.context() as wrong:
        wrong.setattr(timezone, "now", lambda: real() + timedelta(hours=hours))
        assert state(cli, deployment_id).status == 422

    assert state(cli, deployment_id).status == 200
    receipt = Deployment.objects.get().receipt
    assert receipt is not None
    assert abs(datetime.fromisoformat(receipt.at) - real()) < timedelta(minutes=5)


def test_an_aws_that_does_not_answer_stops_the_cli_at_once(cli: Cli, deployment_id: str, sandbox: Sandbox) -> None:
    sandbox.fault("error", "ecr:BatchGetImage", code="AccessDeniedException")

    refused = state(cli, deployment_id)

    assert (refused.status, refused.body["code"]) == (422, "image_undecided")
    assert state(cli, deployment_id).status == 200


@pytest.mark.costly
def test_a_server_that_is_too_busy_to_verify_the_image_stops_the_cli_with_that_reason(
    cli: Cli, deployment_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(**_: object) -> NoReturn:
        raise refusal("server_waits_for_aws")

    monkeypatch.setattr(bulkhead, "place", busy)

    refused = state(cli, deployment_id)

    assert (refused.status, refused.body["code"]) == (422, "server_waits_for_aws")
    assert state(cli, deployment_id).status == 200  # without this the CLI prints no reason, and reports no failure


@pytest.mark.costly
def test_a_key_that_only_reads_and_a_newer_cli_get_the_state_and_nobody_asks_aws(
    client: Client, cli: Cli, deployment_id: str, production: Environment, sandbox: Sandbox
) -> None:
    newer = cli.deploying()
    reader = Cli(client, keys.make_environment_key(production, scopes=[keys.READ])[1])
    sandbox.reset_calls()

    assert state(reader, deployment_id).body["status"] == "DEPLOYING"
    assert state(cli, newer).body["status"] == "DEPLOYING"
    assert sandbox.calls() == {}


@pytest.mark.costly
def test_a_finalize_that_is_refused_fails_the_deployment_and_the_next_one_ends_the_posts(
    cli: Cli, deployment_id: str
) -> None:
    first, second = finalize(cli, deployment_id), finalize(cli, deployment_id)

    assert "event: error" in first.body
    assert (second.status, second.body) == (204, "")
    row = Deployment.objects.get()
    assert row.status == "FAILED"
    assert row.error is not None
    assert row.error["name"] == "FinalizeError"
    assert row.error["message"] in first.body.replace('\\"', '"')


@pytest.mark.costly
def test_a_newer_cli_reports_a_refused_finalize_itself(cli: Cli, sandbox: Sandbox) -> None:
    newer = cli.deploying()

    assert cli.finalize(newer)[-1][0] == "error"
    assert Deployment.objects.get().status == "DEPLOYING"
    cli.post(f"/api/v1/deployments/{newer}/cancel", {})
    assert cli.finalize(newer)[-1][0] == "error"


@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_a_deployment_that_ended_meanwhile_has_no_worker_so_that_the_cli_ends(
    cli: Cli, deployment_id: str, end: str
) -> None:
    body = {"error": {"name": "x", "message": "y"}} if end == "fail" else {}
    cli.post(f"/api/v1/deployments/{deployment_id}/{end}", body)

    found = state(cli, deployment_id)

    assert (found.status, "worker" in found.body) == (200, False)
    assert finalize(cli, deployment_id).status == 204
