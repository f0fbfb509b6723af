"""Access keys: random text that is shown once, found by its digest in one query, and withdrawn at once."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, connections
from django.test import Client
from django.utils import timezone

from deployments import clock
from deployments.access import keys
from deployments.api.schemas import without_credentials
from deployments.errors import Refusal
from deployments.models import AccessKey, Environment, KeyClient, KeyKind, Project
from tests.support.cli import Cli

pytestmark = pytest.mark.django_db


def test_each_kind_has_the_form_that_the_cli_knows(operator: User, project: Project) -> None:
    def text(slug: str) -> str:
        return keys.make_environment_key(project.environments.get(slug=slug))[1]

    assert re.fullmatch(r"tr_pat_[1-9a-km-z]{40}", keys.make_user_token(operator, "laptop")[1])
    assert re.fullmatch(r"tr_prod_[0-9a-z]{24}", text("prod"))
    assert re.fullmatch(r"tr_stg_[0-9a-z]{24}", text("staging"))
    assert re.fullmatch(r"tr_preview_[0-9a-z]{24}", text("preview"))


def test_nothing_of_a_key_is_kept_but_its_beginning_and_digest(operator: User) -> None:
    key, text = keys.make_user_token(operator, "laptop")

    row = AccessKey.objects.values().get()
    assert text not in str(row)
    assert row["prefix"] == text[: len("tr_pat_") + 6]
    assert text not in repr(key)
    assert str(key) == f"{row['prefix']}…"


def test_a_key_is_found_with_its_owner_in_one_query(production: Environment, django_assert_num_queries: Any) -> None:
    _, text = keys.make_environment_key(production)

    with django_assert_num_queries(1):
        key = keys.authenticate(text)
        assert key is not None
        assert key.environment is not None
        assert key.environment.project.name == "Billing"
        assert key.user is None


def test_a_rotated_key_has_the_same_owner_and_the_old_one_is_dead(operator: User, production: Environment) -> None:
    limited = keys.make_environment_key(production, "cluster", scopes=[keys.READ])
    for key, text in (keys.make_user_token(operator, "laptop"), keys.make_environment_key(production, "ci"), limited):
        new, new_text = keys.rotate(key)

        assert keys.authenticate(text) is None
        assert keys.authenticate(new_text) == new
        assert (new.user, new.environment, new.name, new.kind) == (key.user, key.environment, key.name, key.kind)
        assert (new.scopes, new.replaces, new.expires_at) == (key.scopes, key, None)


@pytest.mark.costly
def test_a_rotated_key_works_on_for_as_long_as_was_asked_for(production: Environment) -> None:
    key, text = keys.make_environment_key(production)

    new, new_text = keys.rotate(key, timedelta(days=1))

    assert keys.authenticate(text) == key
    assert keys.authenticate(new_text) == new
    AccessKey.objects.filter(pk=key.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert keys.authenticate(text) is None
    assert keys.authenticate(new_text) == new


def test_a_key_with_an_end_lives_as_long_again_and_its_end_is_never_put_off(production: Environment) -> None:
    key, _ = keys.make_environment_key(production, expires_at=timezone.now() + timedelta(hours=1))

    new, _ = keys.rotate(key, timedelta(days=1))

    assert new.expires_at is not None
    assert abs(new.expires_at - timezone.now() - timedelta(hours=1)) < timedelta(seconds=5)
    assert AccessKey.objects.get(pk=key.pk).expires_at == key.expires_at


def test_a_key_is_rotated_once_and_only_while_it_works(production: Environment) -> None:
    rotated, _ = keys.make_environment_key(production)
    keys.rotate(rotated, timedelta(days=1))
    revoked, _ = keys.make_environment_key(production)
    keys.revoke(revoked)
    deploy, _ = keys.make_deploy_key(production)

    for key in (rotated, revoked, deploy):
        before = AccessKey.objects.count()
        with pytest.raises(Refusal):
            keys.rotate(key)
        assert AccessKey.objects.count() == before


def test_an_unknown_scope_is_a_fault(production: Environment) -> None:
    with pytest.raises(ValueError, match="no scope push"):
        keys.make_environment_key(production, scopes=["deploy", "push"])


# ---- Scopes

#: What each scope opens, beside what every key may do. A route without a place here fails the test below.
ROUTES = {
    keys.READ: [
        ("GET", "/api/v1/deployments"),
        ("GET", "/api/v1/deployments/latest"),
        ("GET", "/api/v1/deployments/current"),
        ("GET", "/api/v1/deployments/{deployment_id}"),
        ("GET", "/api/v1/projects/{ref}/envvars"),
    ],
    keys.DEPLOY: [
        ("POST", "/api/v1/deployments"),
        ("POST", "/api/v1/deployments/{deployment_id}/background-workers"),
        ("POST", "/api/v1/deployments/{deployment_id}/fail"),
        ("POST", "/api/v1/deployments/{deployment_id}/cancel"),
        ("POST", "/api/v1/deployments/{deployment_id}/finalize"),
        ("POST", "/api/v2/deployments/{deployment_id}/finalize"),
        ("POST", "/api/v3/deployments/{deployment_id}/finalize"),
        ("POST", "/api/v1/deployments/{version}/promote"),
        ("POST", "/api/v1/projects/{ref}/envvars/{env}/import"),
    ],
    keys.CREDENTIALS: [("POST", "/api/v1/deployments/{deployment_id}/generate-registry-credentials")],
    keys.PULL: [("POST", "/api/v1/projects/{ref}/{env}/pull-credentials")],
}


@pytest.mark.parametrize("scope", keys.SCOPES)
def test_a_key_opens_what_its_scope_names_and_nothing_else(client: Client, production: Environment, scope: str) -> None:
    cli = Cli(client, keys.make_environment_key(production, scopes=[scope])[1])
    opens = {scope} | ({keys.READ} if scope == keys.DEPLOY else set())

    for needed, routes in ROUTES.items():
        for method, path in routes:
            named = {"deployment_id": "deployment_x", "version": "20260101.1", "env": "prod"}
            answer = cli.send(method, path.format(ref=production.project.ref, **named), "{}", headers={})
            refused = answer.status == 403 and answer.body["code"] == "scope_missing"
            assert refused == (needed not in opens), (method, path, answer.body)


def test_every_route_of_an_environment_key_has_a_scope(client: Client) -> None:
    schema = client.get("/api/openapi.json").json()
    found = {
        (method.upper(), path)
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
        if {"EnvironmentKey": []} in operation.get("security", [])
    }

    assert found == {route for routes in ROUTES.values() for route in routes}


def test_a_limited_preview_key_makes_and_archives_no_branches(client: Client, project: Project) -> None:
    reader = keys.make_environment_key(project.environments.get(slug="preview"), scopes=[keys.READ])[1]
    path = f"/api/v1/projects/{project.ref}/branches"

    assert Cli(client, reader).get(path).status == 200
    assert Cli(client, reader).post(path, {"branch": "x"}).status == 403
    assert Cli(client, reader).post(f"{path}/archive", {"branch": "x"}).status == 403


# ---- Deploy keys


def test_a_deploy_key_dies_with_the_token_that_it_was_made_with(
    client: Client, user_cli: Cli, operator: User, production: Environment
) -> None:
    deploy = Cli(client, user_cli.get(f"/api/v1/projects/{production.project.ref}/prod").body["apiKey"])
    other, _ = keys.make_user_token(User.objects.create_superuser("eve@example.com"))
    theirs = keys.make_deploy_key(production, other)[1]
    assert deploy.get("/api/v1/deployments").status == 200

    keys.revoke(AccessKey.objects.get(kind=KeyKind.USER, user=operator))

    assert deploy.get("/api/v1/deployments").status == 401
    assert Cli(client, theirs).get("/api/v1/deployments").status == 200


def test_a_deploy_key_does_not_outlive_a_token_that_expires(operator: User, production: Environment) -> None:
    soon = timezone.now() + timedelta(minutes=5)
    token, _ = keys.make_user_token(operator, expires_at=soon)

    assert keys.make_deploy_key(production, token)[0].expires_at == soon


def test_a_token_that_was_revoked_meanwhile_makes_no_deploy_key(operator: User, production: Environment) -> None:
    token, _ = keys.make_user_token(operator)
    keys.revoke(token)

    with pytest.raises(Refusal):
        keys.make_deploy_key(production, token)
    assert not AccessKey.objects.filter(kind=KeyKind.DEPLOY).exists()


def test_a_key_is_revoked_once(operator: User) -> None:
    key, text = keys.make_user_token(operator)

    assert keys.revoke(key) is True
    assert keys.revoke(key) is False
    assert keys.authenticate(text) is None


def test_only_expired_deploy_keys_of_the_same_environment_are_cleared_away(
    production: Environment, project: Project
) -> None:
    past = timezone.now() - timedelta(seconds=1)
    staging = project.environments.get(slug="staging")
    kept, _ = keys.make_environment_key(production)
    elsewhere, _ = keys.make_deploy_key(staging)
    live, _ = keys.make_deploy_key(production)
    dead, _ = keys.make_deploy_key(production)
    AccessKey.objects.filter(pk__in=[kept.pk, elsewhere.pk, dead.pk]).update(expires_at=past)

    made, _ = keys.make_deploy_key(production)

    assert set(AccessKey.objects.all()) == {kept, elsewhere, live, made}


@pytest.mark.parametrize(
    ("url", "stored"),
    [
        ("https://github.com/acme/app.git", "https://github.com/acme/app.git"),
        ("https://token@github.com/acme/app.git", "https://github.com/acme/app.git"),
        ("https://ada:pass@git.example.com:8443/a.git", "https://git.example.com:8443/a.git"),
        ("https://ada:p%40ss@[::1]:3000/a.git?t=1#x", "https://[::1]:3000/a.git"),
        ("ssh://git@example.com/a.git", "ssh://example.com/a.git"),
        ("git@github.com:acme/app.git", "git@github.com:acme/app.git"),
        ("ada:secret@github.com:acme/app.git", None),
        ("https://ada:pa/ss@example.com/a.git", None),
        ("https://[broken/a.git", None),
        ("/home/ada/app", None),
        ("file:///home/ada/app", None),
        ("", None),
    ],
)
def test_a_git_remote_is_stored_without_credentials_or_not_at_all(url: str, stored: str | None) -> None:
    assert without_credentials(url) == stored


# ---- Who uses a key


def used(text: str, client: str) -> None:
    key = keys.authenticate(text)
    assert key is not None
    keys.record_use(key, client, "10.0.0.1")


def clients(key: AccessKey) -> list[str]:
    return sorted(KeyClient.objects.filter(key=key).values_list("client", flat=True))


def test_a_use_is_recorded_at_once_after_the_key_was_replaced(production: Environment) -> None:
    key, text = keys.make_environment_key(production)
    used(text, "old CLI")

    successor, _ = keys.rotate(key, timedelta(days=1))
    used(text, "old CLI")

    key.refresh_from_db()
    assert key.last_used_at is not None
    assert key.last_used_at > successor.created_at
    assert KeyClient.objects.get(key=key).last_seen_at > successor.created_at


def test_every_client_of_a_minute_is_recorded(production: Environment) -> None:
    key, text = keys.make_environment_key(production)

    for client in ("one", "two", "one", "two"):
        used(text, client)

    assert clients(key) == ["one at 10.0.0.1", "two at 10.0.0.1"]


def test_clients_in_turn_cost_a_write_a_minute_each(production: Environment, django_assert_num_queries: Any) -> None:
    _, text = keys.make_environment_key(production)
    for client in ("one", "two"):
        used(text, client)

    with django_assert_num_queries(4):  # the four authentications
        for client in ("one", "two", "one", "two"):
            used(text, client)


@pytest.mark.django_db(transaction=True)
def test_version_0_1_0_can_delete_a_key_whose_clients_it_does_not_know(production: Environment) -> None:
    """It deletes expired deploy keys at each deploy, also during an upgrade."""
    key, text = keys.make_environment_key(production)
    used(text, "one")

    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM deployments_accesskey WHERE id = %s", [key.pk])
    assert KeyClient.objects.count() == 1
    keys.forget_clients()

    assert not KeyClient.objects.exists()


def test_a_use_of_a_key_that_is_deleted_meanwhile_is_no_error(production: Environment) -> None:
    key, text = keys.make_environment_key(production)
    found = keys.authenticate(text)
    assert found is not None
    AccessKey.objects.filter(pk=key.pk).delete()

    keys.record_use(found, "one", "10.0.0.1")
    keys.forget_clients()

    assert not KeyClient.objects.exists()


def test_old_clients_and_more_than_a_hundred_of_one_key_are_forgotten(production: Environment) -> None:
    key, _ = keys.make_environment_key(production)
    other, _ = keys.make_environment_key(production)
    now = timezone.now()
    rows = [KeyClient(key=key, client=str(age), last_seen_at=now - timedelta(minutes=age)) for age in range(120)]
    rows += [KeyClient(key=other, client=str(days), last_seen_at=now - timedelta(days=days)) for days in (89, 91)]
    KeyClient.objects.bulk_create(rows)

    keys.forget_clients()

    assert [int(each.client) for each in key.clients.all()] == list(range(100))
    assert clients(other) == ["89"]


# ---- Two at once


def test_rotating_a_token_at_once_ends_the_deploy_keys_that_it_may_have_made_and_a_grace_leaves_them(
    operator: User, production: Environment
) -> None:
    token, _ = keys.make_user_token(operator)
    _, deploy = keys.make_deploy_key(production, token)

    second, _ = keys.rotate(token, timedelta(days=1))
    assert keys.authenticate(deploy) is not None
    keys.rotate(second)

    assert keys.authenticate(deploy) is None


def test_of_two_processes_that_saw_the_same_use_one_writes_it(operator: User) -> None:
    key, _ = keys.make_user_token(operator)
    first, second = AccessKey.objects.get(pk=key.pk), AccessKey.objects.get(pk=key.pk)

    keys.record_use(first, "one", "10.0.0.1")
    keys.record_use(second, "two", "10.0.0.2")

    assert AccessKey.objects.get(pk=key.pk).last_used_by == "one at 10.0.0.1"


@pytest.mark.parametrize(("seconds", "told"), [(50, "one at 10.0.0.1"), (70, "two at 10.0.0.2")])
def test_a_use_is_written_down_once_a_minute(operator: User, seconds: int, told: str) -> None:
    key, _ = keys.make_user_token(operator)
    keys.record_use(key, "one", "10.0.0.1")
    AccessKey.objects.update(last_used_at=timezone.now() - timedelta(seconds=seconds))

    keys.record_use(AccessKey.objects.get(pk=key.pk), "two", "10.0.0.2")

    assert AccessKey.objects.get(pk=key.pk).last_used_by == told


@pytest.mark.costly
def test_a_deploy_key_works_for_four_hours(production: Environment) -> None:
    key, _ = keys.make_deploy_key(production)

    assert key.expires_at is not None
    assert abs(key.expires_at - timezone.now() - timedelta(hours=4)) < timedelta(seconds=5)


def beside(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Start it in a thread, and wait half a second: enough unless it waits for a lock."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:
            results.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(0.5)
    return thread, results


@pytest.mark.django_db(transaction=True)
def test_a_token_that_is_revoked_while_it_makes_a_deploy_key_takes_that_key_with_it(
    operator: User, production: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, _ = keys.make_user_token(operator)
    text = keys._environment_text
    going: list[Any] = []

    def meanwhile(environment: Environment) -> str:
        going.append(beside(lambda: keys.revoke(token)))
        return text(environment)

    monkeypatch.setattr(keys, "_environment_text", meanwhile)
    _, deploy = keys.make_deploy_key(production, token)
    going[0][0].join(30)

    assert going[0][1] == [True]
    assert keys.authenticate(deploy) is None


@pytest.mark.django_db(transaction=True)
def test_of_two_who_rotate_a_key_at_once_one_makes_its_successor(
    production: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _ = keys.make_environment_key(production)
    make = keys._make
    going: list[Any] = []

    def meanwhile(text: str, **fields: Any) -> Any:
        if not going:
            going.append(None)
            going[0] = beside(lambda: keys.rotate(key, timedelta(days=1)))
        return make(text, **fields)

    monkeypatch.setattr(keys, "_make", meanwhile)
    keys.rotate(key, timedelta(days=1))
    going[0][0].join(30)

    assert isinstance(going[0][1][0], Refusal)
    assert AccessKey.objects.filter(replaces=key).count() == 1


# ---------------------------------------------------------------------------------------------------------- the clock


@pytest.fixture(params=[-10, 10], ids=["behind", "ahead"])
def wrong_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's clock, not the database's, is ten minutes off."""
    now = timezone.now
    monkeypatch.setattr("django.utils.timezone.now", lambda: now() + timedelta(minutes=request.param))


def test_a_host_whose_clock_is_wrong_honours_no_expired_key_and_refuses_no_live_one(
    production: Environment, wrong_clock: None
) -> None:
    _, live = keys.make_environment_key(production, expires_at=clock.now() + timedelta(minutes=1))
    _, dead = keys.make_environment_key(production, expires_at=clock.now() - timedelta(minutes=1))
    rotating, old = keys.make_environment_key(production)
    keys.rotate(rotating, timedelta(minutes=5))

    assert keys.authenticate(live) is not None
    assert keys.authenticate(dead) is None
    assert keys.authenticate(old) is not None
    AccessKey.objects.filter(pk=rotating.pk).update(expires_at=clock.now() - timedelta(seconds=1))
    assert keys.authenticate(old) is None
    with pytest.raises(Refusal):
        keys.rotate(AccessKey.objects.get(digest=keys.digest(dead)))


def test_a_host_whose_clock_is_wrong_gives_a_deploy_key_its_hours_and_ends_no_other(
    production: Environment, operator: User, wrong_clock: None
) -> None:
    token, _ = keys.make_user_token(operator, expires_at=clock.now() + timedelta(minutes=5))
    short, _ = keys.make_deploy_key(production, token)
    long, text = keys.make_deploy_key(production)
    for _ in range(2):
        keys.make_deploy_key(production)

    assert short.expires_at == token.expires_at
    assert long.expires_at is not None
    assert abs(long.expires_at - clock.now() - keys.DEPLOY_KEY_LIFETIME) < timedelta(seconds=20)
    assert keys.authenticate(text) is not None
    assert AccessKey.objects.filter(pk=short.pk).exists()


def test_a_host_whose_clock_is_wrong_notes_the_use_of_a_key_once_a_minute_at_the_right_time(
    production: Environment, wrong_clock: None
) -> None:
    _, text = keys.make_environment_key(production)

    def use(client: str) -> AccessKey:
        key = keys.authenticate(text)
        assert key is not None
        keys.record_use(key, client, "10.0.0.1")
        return AccessKey.objects.get()

    first = use("one")
    assert use("two").last_used_by == first.last_used_by
    assert first.last_used_at is not None
    assert abs(first.last_used_at - clock.now()) < timedelta(seconds=20)
    AccessKey.objects.update(last_used_at=clock.now() - timedelta(seconds=61))
    assert use("three").last_used_by == "three at 10.0.0.1"
