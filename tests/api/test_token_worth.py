"""A personal token and the deploy keys that were made with it are worth what their user may do now."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from deployments.access import keys
from deployments.models import AccessKey, AuditEntry, Environment, Project
from tests.support.cli import Cli

SEES = ["/api/v2/whoami", "/api/v1/projects", "/api/v1/projects/{ref}", "/api/v1/projects/runtimes", "/api/v1/orgs"]
SEES += ["/api/v1/projects/{ref}/branches"]
KEY = "/api/v1/projects/{ref}/prod"


def owner(*rights: str, **fields: bool) -> User:
    user = User.objects.create(username="mira@example.com", **{"is_staff": True, **fields})
    user.user_permissions.set(Permission.objects.filter(codename__in=rights))
    return user


@pytest.fixture
def asks(client: Client, project: Project) -> Callable[[User, str], int]:
    """The status of a GET with a new token of the user."""

    def ask(user: User, path: str) -> int:
        answer = Cli(client, keys.make_user_token(user)[1]).get(path.format(ref=project.ref))
        if answer.status == 403:
            assert answer.body["code"] == "owner_without_right"
            assert "mira@example.com, the owner of this access key, may not" in answer.error
        return answer.status

    return ask


@pytest.mark.parametrize(
    ("rights", "fields", "seeing", "deploying"),
    [
        ((), {}, 403, 403),
        ((), {"is_staff": False}, 403, 403),
        (("promote_deployment", "view_sweep"), {}, 403, 403),
        (("view_project",), {}, 200, 403),
        (("view_project", "add_accesskey"), {"is_staff": False}, 403, 403),
        (("view_project", "add_accesskey"), {"is_active": False}, 401, 401),
        (("add_accesskey",), {}, 200, 200),
        ((), {"is_superuser": True}, 200, 200),
        ((), {"is_superuser": True, "is_staff": False}, 403, 403),
    ],
)
def test_a_token_does_what_the_console_would_let_its_user_do(
    rights: tuple[str, ...],
    fields: dict[str, bool],
    seeing: int,
    deploying: int,
    asks: Callable[[User, str], int],
) -> None:
    user = owner(*rights, **fields)

    assert {path: asks(user, path) for path in SEES} == dict.fromkeys(SEES, seeing)
    assert asks(user, KEY) == deploying
    assert AccessKey.objects.filter(kind="deploy").exists() is (deploying == 200)


@pytest.mark.parametrize("path", ["branches", "branches/archive"])
def test_a_token_whose_user_may_only_look_makes_and_archives_no_branch(
    path: str, client: Client, project: Project
) -> None:
    cli = Cli(client, keys.make_user_token(owner("view_project"))[1])

    answer = cli.post(f"/api/v1/projects/{project.ref}/{path}", {"env": "preview", "branch": "new"})

    assert (answer.status, answer.body["code"]) == (403, "owner_without_right")
    assert not project.environments.exclude(branch="").exists()


def test_a_deploy_key_stops_when_its_user_loses_the_right(client: Client, production: Environment) -> None:
    user = owner("add_accesskey", "view_project")
    token, _ = keys.make_user_token(user)
    cli = Cli(client, keys.make_deploy_key(production, token)[1])
    path = f"/api/v1/projects/{production.project.ref}/envvars"
    assert cli.get(path).status == 200

    user.user_permissions.remove(Permission.objects.get(codename="add_accesskey"))  # to see projects is not enough

    assert (cli.get(path).status, cli.get(path).body["code"]) == (403, "owner_without_right")


def test_a_refused_token_is_not_recorded_as_used(asks: Callable[[User, str], int]) -> None:
    asks(owner(), SEES[0])

    assert AccessKey.objects.get().last_used_at is None


def test_an_environments_key_has_no_user_and_needs_no_right(cli: Cli, production: Environment) -> None:
    assert cli.get(f"/api/v1/projects/{production.project.ref}/envvars").status == 200


# ------------------------------------------------------------------------------------------------- the page of a person


@pytest.fixture
def administrator(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("operator"))
    return client


@pytest.mark.costly
def test_the_page_of_a_person_offers_to_revoke_their_keys(administrator: Client, production: Environment) -> None:
    user, other = owner("add_accesskey"), User.objects.create_user("kim")
    token, text = keys.make_user_token(user)
    keys.make_deploy_key(production, token)
    keys.make_user_token(other)
    page, ask = f"/admin/auth/user/{user.pk}/change/", f"/admin/auth/user/{user.pk}/revoke-keys/"
    assert "Revoke their keys…" in administrator.get(page).content.decode()
    assert str(token) in administrator.get(ask).content.decode()
    assert keys.authenticate(text) is not None

    administrator.post(ask)

    assert not AccessKey.objects.filter(keys.live(), user=user).exists()
    assert AccessKey.objects.filter(keys.live(), user=other).count() == 1
    assert AuditEntry.objects.filter(action="revoke.key").count() == 2
    assert "Revoke their keys…" not in administrator.get(page).content.decode()
    assert "has no key that works" in administrator.get(ask).content.decode()


@pytest.mark.costly
def test_the_page_of_a_key_says_that_its_owner_may_not_deploy(administrator: Client) -> None:
    user = owner("view_project")
    key, _ = keys.make_user_token(user)
    page = f"/admin/deployments/accesskey/{key.pk}/change/"
    assert "Nobody can deploy with this key now" in administrator.get(page).content.decode()

    user.user_permissions.set(Permission.objects.filter(codename="add_accesskey"))

    assert "Nobody can deploy" not in administrator.get(page).content.decode()


@pytest.mark.costly
def test_who_may_not_revoke_keys_revokes_none_of_a_person(production: Environment) -> None:
    user = owner("add_accesskey")
    keys.make_user_token(user)
    client = Client()
    keeper = User.objects.create_user("keeper", is_staff=True)
    keeper.user_permissions.set(Permission.objects.filter(codename__in=["view_user", "change_user", "add_accesskey"]))
    client.force_login(keeper)

    assert client.post(f"/admin/auth/user/{user.pk}/revoke-keys/").status_code == 403
    assert "Revoke their keys" not in client.get(f"/admin/auth/user/{user.pk}/change/").content.decode()
    assert AccessKey.objects.get().is_live
