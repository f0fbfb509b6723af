"""Who I am, the projects, and the key of an environment."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from deployments.access import keys
from deployments.deploys import projects
from deployments.models import AccessKey, Deployment, Environment, KeyKind, Project, Promotion
from tests.support.cli import Cli

pytestmark = pytest.mark.django_db


def test_whoami_has_what_the_cli_needs_and_no_project_by_default(user_cli: Cli, operator: User) -> None:
    answer = user_cli.get("/api/v2/whoami")

    assert answer.body == {
        "userId": str(operator.pk),
        "email": "ada@example.com",
        "dashboardUrl": "http://localhost:8000",
    }


def test_whoami_names_a_project_that_is_there(user_cli: Cli, project: Project) -> None:
    body = user_cli.get(f"/api/v2/whoami?projectRef={project.ref}").body

    assert body["project"] == {
        "name": "Billing",
        "url": f"http://localhost:8000/projects/v3/{project.ref}",
        "orgTitle": "Registry Admin",
    }
    assert "project" not in user_cli.get("/api/v2/whoami?projectRef=proj_nothing").body


@pytest.mark.parametrize("email", ["", "admin@localhost", "a..b@example.com", ".a@example.com", "a@example.c0"])
def test_an_address_that_the_cli_would_reject_is_substituted(user_cli: Cli, operator: User, email: str) -> None:
    User.objects.update(email=email)

    assert user_cli.get("/api/v2/whoami").body["email"] == f"user-{operator.pk}@registry-admin.invalid"


def test_a_user_token_gets_a_short_lived_key_of_the_environment(
    user_cli: Cli, operator: User, production: Environment, configure: Callable[..., Any]
) -> None:
    configure(APP_ORIGIN="https://deploy.example.com", API_ORIGIN="http://localhost:8000")

    answer = user_cli.get(f"/api/v1/projects/{production.project.ref}/prod")

    assert answer.status == 200
    assert answer.body == {
        "apiKey": answer.body["apiKey"],
        "name": "Billing",
        "apiUrl": "http://localhost:8000",
        "projectId": str(production.project_id),
    }
    key = keys.authenticate(answer.body["apiKey"])
    assert key is not None
    assert (key.kind, key.environment, key.user) == (KeyKind.DEPLOY, production, operator)
    assert key.expires_at is not None
    assert timedelta(hours=3.9) < key.expires_at - timezone.now() <= timedelta(hours=4)
    assert Cli(user_cli.client, answer.body["apiKey"]).deploy().status == 200


def test_a_deploy_key_dies_with_its_user(user_cli: Cli, operator: User, production: Environment) -> None:
    text = user_cli.get(f"/api/v1/projects/{production.project.ref}/prod").body["apiKey"]
    operator.is_active = False
    operator.save()

    assert Cli(user_cli.client, text).deploy().status == 401


@pytest.mark.parametrize(
    ("env", "prefix"),
    [
        ("prod", "tr_prod_"),
        ("production", "tr_prod_"),
        ("staging", "tr_stg_"),
        ("stg", "tr_stg_"),
        ("preview", "tr_preview_"),
    ],
)
def test_each_environment_is_known_by_its_names(user_cli: Cli, project: Project, env: str, prefix: str) -> None:
    assert user_cli.get(f"/api/v1/projects/{project.ref}/{env}").body["apiKey"].startswith(prefix)


def test_a_presented_environment_key_comes_back_as_it_is(cli: Cli, project: Project) -> None:
    for env in ("prod", "production"):
        assert cli.get(f"/api/v1/projects/{project.ref}/{env}").body["apiKey"] == cli.key
    assert AccessKey.objects.count() == 1


def test_an_environment_key_reaches_no_other_project_or_environment(cli: Cli, project: Project, stranger: Cli) -> None:
    answers = [
        cli.get(f"/api/v1/projects/{project.ref}/staging"),
        cli.get("/api/v1/projects/proj_nothing/prod"),
        stranger.get(f"/api/v1/projects/{project.ref}/prod"),
        stranger.get(f"/api/v1/projects/{project.ref}/envvars"),
        stranger.post(f"/api/v1/projects/{project.ref}/envvars/prod/import", {"variables": {}}),
        stranger.post(f"/api/v1/projects/{project.ref}/branches", {"branch": "x"}),
    ]

    assert {answer.status for answer in answers} == {400}
    assert len({answer.error for answer in answers}) == 1


def test_an_unknown_project_is_a_404_in_the_words_that_the_cli_explains(user_cli: Cli, project: Project) -> None:
    answer = user_cli.get("/api/v1/projects/proj_nothing/prod")

    assert (answer.status, answer.body) == (404, {"error": "Project not found"})
    assert user_cli.get(f"/api/v1/projects/{project.ref}/dev").body == {"error": "Environment not found"}


def test_expired_deploy_keys_are_cleared_away_when_one_is_made(user_cli: Cli, production: Environment) -> None:
    path = f"/api/v1/projects/{production.project.ref}/prod"
    user_cli.get(path)
    AccessKey.objects.filter(kind=KeyKind.DEPLOY).update(expires_at=timezone.now() - timedelta(seconds=1))
    user_cli.get(path)

    assert AccessKey.objects.filter(kind=KeyKind.DEPLOY).count() == 1


def test_deploy_settings_send_the_build_to_the_cli_itself(cli: Cli, project: Project) -> None:
    assert cli.get(f"/api/v1/projects/{project.ref}/prod/deploy-settings").body == {"build_path": "depot"}


def test_projects_and_the_organization(user_cli: Cli, project: Project) -> None:
    [listed] = user_cli.get("/api/v1/projects").body
    [organization] = user_cli.get("/api/v1/orgs").body

    assert set(listed) == {"id", "externalRef", "name", "slug", "createdAt", "organization"}
    assert listed["externalRef"] == project.ref
    assert listed["organization"] == organization
    assert set(organization) == {"id", "title", "slug", "createdAt"}
    assert user_cli.get(f"/api/v1/projects/{project.ref}").body == listed
    assert user_cli.get("/api/v1/projects/proj_nothing").status == 404


def test_runtimes_say_null_where_nothing_is_deployed(user_cli: Cli, production: Environment, operator: User) -> None:
    deployment = Deployment.objects.create(
        project=production.project,
        environment=production,
        version_day="20260801",
        version_number=1,
        status="DEPLOYED",
        deployed_at=timezone.now(),
        runtime="node-22",
    )
    Promotion.objects.create(environment=production, deployment=deployment)

    empty = projects.create_project(name="Empty")

    billing, nothing = user_cli.get("/api/v1/projects/runtimes").body

    assert billing == {
        "organization": {"title": "Registry Admin", "slug": "registry-admin"},
        "project": {"name": "Billing", "slug": "billing", "externalRef": production.project.ref},
        "environment": {"slug": "prod"},
        "deployment": {
            "runtime": "node-22",
            "runtimeVersion": None,
            "nodeMajor": 22,
            "deployedAt": billing["deployment"]["deployedAt"],
            "shortCode": deployment.short_code,
        },
    }
    assert (nothing["project"]["externalRef"], nothing["deployment"]) == (empty.ref, None)


def test_the_cli_s_housekeeping_is_answered(user_cli: Cli) -> None:
    assert user_cli.get("/api/v1/platform-notifications").body == {"notification": None}
    anyone = user_cli.client.get("/api/v1/remote-build-provider-status").json()
    assert set(anyone) == {"status", "message"}


def test_a_branch_is_made_once_listed_and_archived(user_cli: Cli, project: Project) -> None:
    path = f"/api/v1/projects/{project.ref}/branches"
    git = {"commitSha": "abc", "remoteUrl": "https://x:y@example.com/a.git"}

    first = user_cli.post(path, {"env": "preview", "branch": "refs/heads/feature/one", "git": git})
    again = user_cli.post(path, {"env": "preview", "branch": "feature/one", "git": git})

    assert first.status == again.status == 200
    assert first.body == again.body
    [listed] = user_cli.get(path).body["branches"]
    assert listed["name"] == "feature/one"
    assert listed["git"] == {"commitSha": "abc", "remoteUrl": "https://example.com/a.git"}
    assert listed["isPaused"] is False
    assert user_cli.post(f"{path}/archive", {"branch": "feature/one"}).body == {"branch": first.body}
    assert user_cli.get(path).body == {"branches": []}
    assert user_cli.post(f"{path}/archive", {"branch": "feature/one"}).status == 400
    assert user_cli.post(f"{path}/archive", {"branch": "other"}).status == 404
    assert user_cli.post(path, {"env": "preview", "branch": "feature/one"}).body == first.body  # back again
    assert len(user_cli.get(path).body["branches"]) == 1


@pytest.mark.parametrize("name", ["", "a b", "a~b", "/a", "a/", "a//b", "a..b", "a@{b", "a.lock", "a\tb", "x" * 256])
def test_a_name_that_no_branch_can_have_is_a_400(user_cli: Cli, project: Project, name: str) -> None:
    answer = user_cli.post(f"/api/v1/projects/{project.ref}/branches", {"env": "preview", "branch": name})

    assert answer.status == 400
    assert not Environment.objects.exclude(branch="").exists()


def test_branches_of_other_environments_are_refused(user_cli: Cli, project: Project) -> None:
    path = f"/api/v1/projects/{project.ref}/branches"

    assert user_cli.post(path, {"env": "development", "branch": "x"}).status == 400
    project.environments.filter(slug="preview").delete()
    assert user_cli.post(path, {"env": "preview", "branch": "x"}).status == 400
    assert user_cli.post("/api/v1/projects/proj_no/branches", {"env": "preview", "branch": "x"}).status == 404
