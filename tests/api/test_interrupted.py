"""A deploy that somebody interrupted: it is shown as silent, and ends when its repetition is deployed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone

from deployments.access import keys
from deployments.deploys import lifecycle
from deployments.models import Deployment, Environment, TrustPolicy
from tests.support.cli import WORKER, Cli

pytestmark = pytest.mark.django_db(transaction=True)

BY_HAND: dict[str, Any] = {"triggeredVia": "cli:manual", "gitMeta": {"commitSha": "ab" * 20}}


@pytest.fixture
def ada(user_cli: Cli, client: Client, production: Environment) -> Cli:
    """The CLI of the operator, with the key of one run."""
    return Cli(client, user_cli.get(f"/api/v1/projects/{production.project.ref}/prod").body["apiKey"])


def interrupted(cli: Cli, minutes: int = 2, **fields: Any) -> Deployment:
    """A deploy whose CLI sent its last request some minutes ago."""
    row = Deployment.objects.get(pk=cli.deploying(**{**BY_HAND, **fields}))
    Deployment.objects.filter(pk=row.pk).update(last_request_at=Now() - timedelta(minutes=minutes))
    return row


def repeat(cli: Cli, **fields: Any) -> Deployment:
    row = Deployment.objects.get(pk=cli.deploying(**{**BY_HAND, **fields}))
    assert cli.finalize(row.pk)[-1][0] == "complete"
    return row


def status(row: Deployment) -> str:
    row.refresh_from_db()
    return row.status


def test_an_interrupted_deploy_ends_when_the_same_person_has_deployed_the_same_commit_again(ada: Cli) -> None:
    old = interrupted(ada)

    new = repeat(ada)

    assert status(old) == "CANCELED"
    assert (old.replaced_by, old.deadline) == (new, None)
    assert old.canceled_at is not None
    assert old.canceled_reason.startswith(
        f"The same person has deployed the same commit again, as version {new.version}. This deploy sent no request "
    )
    assert "canceled: The same person" in str(ada.finalize(old.pk))


@pytest.mark.costly
def test_without_git_the_same_content_counts(ada: Cli) -> None:
    old, other = interrupted(ada, gitMeta=None), interrupted(ada, gitMeta=None)
    Deployment.objects.filter(pk=other.pk).update(content_hash="other")

    repeat(ada, gitMeta=None)

    assert (status(old), status(other)) == ("CANCELED", "DEPLOYING")
    old.refresh_from_db()
    assert "deployed the same content again" in old.canceled_reason
    assert old.last_request_at
    assert f"no request after {old.last_request_at:%H:%M:%S} UTC" in old.canceled_reason


@pytest.mark.costly
@pytest.mark.parametrize(
    ("of_the_old", "of_the_new"),
    [
        ({"gitMeta": {"commitSha": "cd" * 20}}, {}),
        ({"gitMeta": None}, {}),
        ({}, {"gitMeta": None}),
        ({"triggeredVia": "cli:github_actions"}, {}),
        ({"triggeredVia": "cli:github_actions"}, {"triggeredVia": "cli:github_actions"}),
        ({}, {"triggeredVia": "cli:gitlab_ci"}),
    ],
)
def test_another_commit_and_a_run_of_a_ci_end_nothing(
    ada: Cli, of_the_old: dict[str, Any], of_the_new: dict[str, Any]
) -> None:
    old = interrupted(ada, **of_the_old)

    repeat(ada, **of_the_new)

    assert status(old) == "DEPLOYING"


@pytest.mark.costly
def test_a_deploy_that_still_sends_requests_goes_on(ada: Cli) -> None:
    lately = interrupted(ada, minutes=0)
    building = interrupted(ada)
    new = Deployment.objects.get(pk=ada.deploying(**BY_HAND))
    ada.post(f"/api/v1/deployments/{building.pk}/generate-registry-credentials", {})  # after the new one has begun

    assert ada.finalize(new.pk)[-1][0] == "complete"

    assert (status(lately), status(building)) == ("DEPLOYING", "DEPLOYING")
    assert ada.finalize(building.pk)[-1][0] == "complete"


def test_a_request_that_came_after_the_repetition_began_counts_however_old_it_is(ada: Cli) -> None:
    new = Deployment.objects.get(pk=ada.deploying(**BY_HAND))
    Deployment.objects.filter(pk=new.pk).update(created_at=Now() - timedelta(minutes=9))
    old = interrupted(ada, minutes=5)

    assert ada.finalize(new.pk)[-1][0] == "complete"

    assert status(old) == "DEPLOYING"


@pytest.mark.costly
def test_another_caller_and_another_environment_end_nothing(
    client: Client, ada: Cli, cli: Cli, user_cli: Cli, production: Environment
) -> None:
    old = interrupted(ada)
    eve = keys.make_user_token(User.objects.create_superuser("eve@example.com", "eve@example.com"))[1]
    path = f"/api/v1/projects/{production.project.ref}"
    repeat(Cli(client, Cli(client, eve).get(f"{path}/prod").body["apiKey"]))
    repeat(cli)
    repeat(Cli(client, user_cli.get(f"{path}/staging").body["apiKey"]))

    assert status(old) == "DEPLOYING"


@pytest.mark.parametrize("kind", ["a stored key", "a key that was exchanged for a token"])
def test_keys_that_belong_to_no_person_end_nothing_because_a_pod_counts_as_by_hand_for_the_cli(
    client: Client, production: Environment, kind: str
) -> None:
    """The CLI says `cli:manual` in a Kubernetes job: such a job sets none of the variables of a CI."""
    if kind == "a stored key":
        one = two = keys.make_environment_key(production, "the job")[1]
    else:
        policy = TrustPolicy.objects.create(environment=production, name="cluster", issuer="https://k8s.example.com")
        one, two = (keys.make_one_deployment_key(policy, branch="", name="the job")[1] for _ in range(2))
    old = interrupted(Cli(client, one))

    repeat(Cli(client, two))

    assert status(old) == "DEPLOYING"


def test_a_repetition_that_was_not_to_be_promoted_ends_nothing_because_the_earlier_one_may_become_current(
    ada: Cli,
) -> None:
    old = interrupted(ada)
    new = ada.deploying(**BY_HAND)
    assert ada.finalize(new, skipPromotion=True)[-1][0] == "complete"

    assert status(old) == "DEPLOYING"
    assert ada.finalize(old.pk)[-1][0] == "complete"
    assert old.promotions.filter(label="current").exists()


def test_a_repetition_that_is_refused_ends_nothing(ada: Cli) -> None:
    old = interrupted(ada)
    new = ada.deploy(**BY_HAND).body["id"]

    assert ada.finalize(new)[-1][0] == "error"  # it has no worker

    assert status(old) == "DEPLOYING"


def test_each_step_of_the_cli_is_recorded(ada: Cli) -> None:
    deployment_id = ada.deploy(**BY_HAND).body["id"]
    for path, body in (
        ("generate-registry-credentials", {}),
        ("background-workers", WORKER),
        ("finalize", {}),
    ):
        Deployment.objects.update(last_request_at=None)
        version = "v3" if path == "finalize" else "v1"
        ada.post(f"/api/{version}/deployments/{deployment_id}/{path}", body)
        assert Deployment.objects.get().last_request_at is not None, path


@pytest.mark.costly
def test_silence_is_shown_on_the_page_and_in_the_list(client: Client, operator: User, ada: Cli) -> None:
    row = interrupted(ada, minutes=7)
    row.refresh_from_db()
    assert row.last_request_at is not None
    assert row.deadline is not None
    client.force_login(operator)
    places = (f"/admin/deployments/deployment/{row.pk}/change/", "/admin/deployments/deployment/")

    page, rows = (client.get(place).content.decode() for place in places)

    assert "No request from the CLI since" in page
    for moment in (row.last_request_at, row.deadline):
        assert f">{moment:%H:%M:%S}<" in page
    assert "No request since" in rows

    Deployment.objects.update(last_request_at=Now())
    for place in places:
        assert "No request" not in client.get(place).content.decode()


@pytest.mark.costly
def test_a_web_host_whose_clock_is_ahead_does_not_show_each_deploy_as_silent(
    client: Client, operator: User, ada: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = interrupted(ada, minutes=0)
    client.force_login(operator)
    real = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: real() + timedelta(minutes=5))

    for place in (f"/admin/deployments/deployment/{row.pk}/change/", "/admin/deployments/deployment/"):
        assert "No request" not in client.get(place).content.decode()


def test_a_row_of_the_previous_version_and_a_deployment_that_has_ended_are_not_silent(ada: Cli) -> None:
    row = interrupted(ada)
    later = timezone.now() + timedelta(days=1)
    row.refresh_from_db()
    assert lifecycle.silent_since(row, later) == row.last_request_at
    row.last_request_at = None
    assert lifecycle.silent_since(row, later) is None
    repeat(ada)
    row.refresh_from_db()
    assert lifecycle.silent_since(row, later) is None
