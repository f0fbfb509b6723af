"""The page “Why can't this node pull?”: who may, what it shows and masks, its limits, and that nothing is stored."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from deployments import config
from deployments.models import Deployment, DeploymentStatus, Repository
from deployments.pull_failures import MASK, MAX_BYTES
from deployments.reconcile import bulkhead
from sandbox.control import Sandbox
from tests.admin.installation import HOST, Installation
from tests.support.constants import CLUSTER, OWNER

WHY = "/admin/why/"
SECRET = "eyJwYXlsb2FkIjoieXRSVW5JMzkwRlVneitXNnpPNnJGOGRqYU9yZ0tRbEFIdkF0aGprMjlNTU1J"


def message_about(row: Repository) -> str:
    resource = f"arn:aws:ecr:{row.region}:{row.account}:repository/{row.name}"
    return (
        "denied: User: arn:aws:sts::999999999999:assumed-role/node/i-1 is not authorized to perform: "
        f"ecr:BatchGetImage on resource: {resource} because no resource-based policy allows the "
        "ecr:BatchGetImage action"
    )


def one(installation: Installation) -> Repository:
    return Repository.objects.filter(host=HOST).exclude(policy_text="").order_by("pk")[0]


@pytest.mark.costly
def test_a_viewer_gets_the_layer_the_repository_and_the_next_command(
    installation: Installation, person: Callable[..., Client]
) -> None:
    row = one(installation)
    viewer = person("view_repository")

    assert "What the node printed" in viewer.get(WHY).content.decode()
    text = viewer.post(WHY, {"text": message_about(row)}).content.decode()

    assert '<h2 id="answer-title">The repository policy</h2>' in text
    assert f"/admin/deployments/repository/{row.pk}/change/" in text
    assert "aws ecr get-repository-policy" in text


@pytest.mark.costly
def test_without_the_right_to_see_repositories_there_is_no_page_and_no_entry(
    installation: Installation, person: Callable[..., Client]
) -> None:
    browser = person("view_deployment")

    assert browser.get(WHY).status_code == 403
    assert browser.post(WHY, {"text": message_about(one(installation))}).status_code == 403
    assert WHY not in browser.get("/admin/").content.decode()
    assert WHY in person("view_repository").get("/admin/").content.decode()


def test_an_anonymous_visitor_is_sent_to_the_log_in(db: None) -> None:
    assert Client().post(WHY, {"text": "x"})["Location"].startswith("/admin/login/")
    assert Client().put(WHY).status_code == 302


@pytest.mark.costly
def test_a_pasted_text_is_shown_escaped_and_its_tokens_masked(installation: Installation, operator: Client) -> None:
    pasted = f"<script>alert(1)</script> Authorization: Bearer {SECRET} 403 Forbidden"

    text = operator.post(WHY, {"text": pasted}).content.decode()

    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert SECRET not in text
    assert text.count(MASK) == 1


@pytest.mark.parametrize("pasted", ["x" * (MAX_BYTES + 1), "é" * (MAX_BYTES // 2 + 1), "", "  \n"])
def test_a_text_that_is_too_long_or_empty_is_an_error_of_the_form(
    pasted: str, installation: Installation, operator: Client
) -> None:
    response = operator.post(WHY, {"text": pasted})

    assert response.status_code == 400
    assert 'class="errorlist"' in response.content.decode()
    assert "xxxx" not in response.content.decode()


def test_the_longest_text_is_answered(installation: Installation, operator: Client) -> None:
    response = operator.post(WHY, {"text": "x" * (MAX_BYTES - 14) + " 403 Forbidden"})

    assert response.status_code == 200
    assert "answer-title" in response.content.decode()


def test_a_text_is_neither_stored_nor_logged(
    installation: Installation, operator: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    with CaptureQueriesContext(connection) as captured:
        operator.post(WHY, {"text": f"{message_about(one(installation))} canary-of-a-paste {SECRET}"})

    assert all(query["sql"].lstrip("(").startswith("SELECT") for query in captured), captured.captured_queries
    assert "canary-of-a-paste" not in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.costly
def test_a_failed_deployments_page_leads_to_the_answer_about_its_error(
    installation: Installation, operator: Client, person: Callable[..., Client]
) -> None:
    row = Deployment.objects.filter(status=DeploymentStatus.FAILED)[0]
    page = f"/admin/deployments/deployment/{row.pk}/change/"
    repository = one(installation)
    row.error = {"name": "BuildError", "message": "npm ERR! missing script", "stderr": "#1 DONE"}
    row.save()
    assert WHY + "?" not in operator.get(page).content.decode()

    row.error["stderr"] = f"#1 DONE\n{message_about(repository)}\n#2 CANCELED"
    row.save()
    address = f"{WHY}?deployment={row.pk}"

    assert address in operator.get(page).content.decode()
    assert '<h2 id="answer-title">The repository policy</h2>' in operator.get(address).content.decode()
    assert address not in person("view_deployment").get(page).content.decode()
    assert person("view_repository").get(address).status_code == 403
    assert operator.get(f"{WHY}?deployment=none").status_code == 404


def test_settings_with_errors_give_no_answer_but_a_page(
    operator: Client, settings: object, installation: Installation
) -> None:
    settings.CONFIGURATION = config.load({"DEPLOY_REGISTRY_HOST": "not a host"})  # type: ignore[attr-defined]

    response = operator.post(WHY, {"text": "403 Forbidden"})

    assert response.status_code == 200
    assert "answer-title" not in response.content.decode()


# --------------------------------------------------------------------------------------------------- the look at AWS


@pytest.fixture
def ours(ecr_configuration: config.Configuration, transactional_db: None, sandbox: Sandbox) -> Repository:
    name = "trigger/proj_abcdefghijklmnopqrst"
    sandbox.client("ecr").create_repository(repositoryName=name)
    sandbox.reset_calls()
    return Repository.objects.create(account=OWNER, region="us-east-1", name=name, host=HOST, management="full")


@pytest.mark.costly
def test_only_the_second_button_asks_aws(ours: Repository, operator: Client, sandbox: Sandbox) -> None:
    text = message_about(ours).replace("999999999999", CLUSTER)

    operator.post(WHY, {"text": text})
    operator.get(WHY, {"text": text, "look": "1"})
    assert sandbox.calls() == {}

    answer = operator.post(WHY, {"text": text, "look": "1"}).content.decode()
    assert sandbox.calls() == {"ecr:GetRegistryPolicy": 1, "ecr:GetRepositoryPolicy": 1}
    assert "GetRepositoryPolicy 1" in answer


def test_a_look_at_nothing_of_ours_says_that_aws_was_not_asked(
    ours: Repository, operator: Client, sandbox: Sandbox
) -> None:
    answer = operator.post(WHY, {"text": "toomanyrequests: Rate exceeded", "look": "1"}).content.decode()

    assert "AWS was not called" in answer
    assert sandbox.calls() == {}


def test_a_server_that_already_waits_for_aws_refuses_the_look(
    ours: Repository, operator: Client, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulkhead, "_threads", 2)
    monkeypatch.setattr(bulkhead, "_held", 1)

    answer = operator.post(WHY, {"text": message_about(ours), "look": "1"}).content.decode()

    assert "answer-title" not in answer
    assert sandbox.calls() == {}
