"""Who gets where: every address of the API against every kind of wrong key, made from the API's own description.

A new address joins by itself; one that takes another kind of key, or none, has to be named here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from deployments.access import keys
from deployments.api import api
from deployments.deploys import projects
from deployments.models import AccessKey, Environment, Project
from tests.support.cli import Cli

pytestmark = pytest.mark.django_db

#: What is asked before there is a key.
OPEN = {
    "GET /api/v1/remote-build-provider-status",
    "POST /api/v1/authorization-code",
    "POST /api/v1/token",
    "POST /api/v1/auth/oidc",
}


def _operations() -> dict[str, str]:
    """“METHOD path” → the kind of key that it takes."""
    return {
        f"{method.upper()} {path}": next(iter(operation["security"][0]))
        for path, methods in api.get_openapi_schema()["paths"].items()
        for method, operation in methods.items()
        if operation.get("security")
    }


CLOSED = _operations()


def send(client: Client, operation: str, text: str, project: Project) -> tuple[int, str]:
    method, path = operation.split()
    path = path.format(
        deployment_id="deployment_x",
        version="20260101.1",
        ref=project.ref,
        env="prod",
        environment="prod",
        key_id="key_x",
        policy_id="policy_x",
        version_id="version_x",
    )
    answer = Cli(client, text).send(method, path, "{}", headers={"x_trigger_branch": "main"})
    return answer.status, answer.error if answer.status >= 400 else ""


def test_what_is_open_to_everybody_is_only_what_is_asked_before_there_is_a_key() -> None:
    everything = {
        f"{method.upper()} {path}" for path, methods in api.get_openapi_schema()["paths"].items() for method in methods
    }

    assert everything - set(CLOSED) == OPEN
    assert set(CLOSED.values()) == {"UserToken", "AnyKey", "EnvironmentKey", "ManagementToken"}


ENDS: dict[str, Callable[[AccessKey], object]] = {
    "revoked": keys.revoke,
    "expired": lambda key: AccessKey.objects.filter(pk=key.pk).update(expires_at=timezone.now() - timedelta(seconds=1)),
    "of somebody who was switched off": lambda key: User.objects.update(is_active=False),
}


@pytest.mark.parametrize("operation", CLOSED)
def test_without_a_key_that_works_every_address_says_the_same_401(
    operation: str, client: Client, operator: User, production: Environment
) -> None:
    answers = {send(client, operation, "tr_prod_unknown0", production.project)}
    for end in ENDS.values():
        for key, text in (keys.make_user_token(operator), keys.make_deploy_key(production, None)):
            AccessKey.objects.filter(pk=key.pk).update(user=operator)
            key.refresh_from_db()
            end(key)
            answers.add(send(client, operation, text, production.project))
        User.objects.update(is_active=True)

    assert {status for status, _ in answers} == {401}
    assert len(answers) == 1
    assert send(client, operation, "", production.project)[0] == 401


@pytest.mark.parametrize("operation", [name for name, kind in CLOSED.items() if kind != "AnyKey"])
def test_a_key_of_the_other_kind_is_a_403(
    operation: str, client: Client, operator: User, production: Environment
) -> None:
    of_an_environment, personal = keys.make_environment_key(production), keys.make_user_token(operator)
    management = keys.make_user_token(operator, for_management=True)
    wrong = {
        "UserToken": [of_an_environment],
        "EnvironmentKey": [personal, management],
        "ManagementToken": [of_an_environment, personal],
    }

    for _, text in wrong[CLOSED[operation]]:
        assert send(client, operation, text, production.project)[0] == 403


@pytest.mark.parametrize(
    "operation", [name for name, kind in CLOSED.items() if kind in {"AnyKey", "EnvironmentKey"} and "{ref}" in name]
)
def test_the_key_of_another_project_opens_nothing_and_learns_nothing(
    operation: str, client: Client, production: Environment
) -> None:
    theirs = projects.create_project(name="Other")
    for slug in ("prod", "preview"):
        environment = theirs.environments.get(slug=slug)
        if slug == "preview":
            Environment.objects.create(
                project=theirs, parent=environment, branch="main", slug=slug, type=environment.type
            )
        text = keys.make_environment_key(environment)[1]
        real = send(client, operation, text, production.project)
        invented = send(client, operation, text, Project(ref="proj_invented"))

        assert real == invented
        if not operation.endswith("/deploy-settings"):  # the same for everybody, and about nothing
            assert real[0] in {400, 403, 422}
