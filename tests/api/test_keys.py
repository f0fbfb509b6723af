"""Access keys: random text that is shown once, found by its digest in one query, and withdrawn at once."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from deployments import keys
from deployments.api.schemas import without_credentials
from deployments.models import AccessKey, Environment, Project

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
    for key, text in (keys.make_user_token(operator, "laptop"), keys.make_environment_key(production, "ci")):
        new, new_text = keys.rotate(key)

        assert keys.authenticate(text) is None
        assert keys.authenticate(new_text) == new
        assert (new.user, new.environment, new.name, new.kind) == (key.user, key.environment, key.name, key.kind)


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
