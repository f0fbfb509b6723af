"""`manage.py keys`: a key's text appears once, on standard output, and every change is in the audit log."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.utils import timezone

from deployments.access import keys
from deployments.models import AccessKey, AuditEntry, Environment, Project


@pytest.fixture
def prod(db: None) -> Environment:
    project = Project.objects.create(name="Billing", ref="proj_billing")
    return Environment.objects.create(project=project, slug="prod", type="PRODUCTION")


def run(*arguments: str) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command("keys", *arguments, stdout=out, stderr=err)
    return out.getvalue().strip(), err.getvalue()


def test_a_new_key_is_alone_on_standard_output_and_works(prod: Environment) -> None:
    text, said = run("create", "--project", "proj_billing", "--env", "production", "--name", "CI", "--scope", "read")

    key = keys.authenticate(text)
    assert key is not None
    assert (key.environment, key.name, key.scopes) == (prod, "CI", ["read"])
    assert text not in said
    entry = AuditEntry.objects.get()
    assert (entry.actor_kind, entry.action, entry.object_label) == ("command", "make.key", str(key))
    assert text not in json.dumps(entry.after)


def test_a_personal_token_is_found_its_user_by_name_or_address_and_may_end(prod: Environment) -> None:
    user = User.objects.create(username="mira", email="mira@example.com")

    key = keys.authenticate(run("create", "--user", "MIRA@example.com", "--expires", "90d")[0])

    assert key is not None
    assert key.user == user
    assert key.expires_at is not None
    assert timedelta(days=89) < key.expires_at - timezone.now() <= timedelta(days=90)


def test_a_management_token_is_made_for_a_user(prod: Environment) -> None:
    user = User.objects.create(username="terraform")

    key = keys.authenticate(run("create", "--user", "terraform", "--scope", "admin")[0])

    assert key is not None
    assert (key.user, key.scopes, keys.allows(key, keys.DEPLOY)) == (user, ["admin"], False)


def test_rotating_leaves_the_old_key_a_day_or_as_long_as_one_says(prod: Environment) -> None:
    old, first = keys.make_environment_key(prod, "CI")

    second, said = run("rotate", old.prefix)
    assert keys.authenticate(first) is not None
    assert keys.authenticate(second) is not None
    assert "1 day" in said

    replaced = keys.authenticate(second)
    assert replaced is not None
    third, _ = run("rotate", f"{replaced.prefix}…", "--grace", "0")
    assert keys.authenticate(second) is None
    assert keys.authenticate(third) is not None
    assert set(AuditEntry.objects.values_list("action", flat=True)) == {"rotate.key"}


def test_a_key_is_rotated_once(prod: Environment) -> None:
    old, _ = keys.make_environment_key(prod)
    run("rotate", old.prefix)

    with pytest.raises(CommandError, match="rotated already"):
        run("rotate", old.prefix)
    assert ["rotated already" in entry.outcome for entry in AuditEntry.objects.all()] == [True, False]


def test_revoking_is_at_once_and_once(prod: Environment) -> None:
    key, text = keys.make_environment_key(prod)

    assert run("revoke", key.prefix)[0] == ""
    assert keys.authenticate(text) is None
    with pytest.raises(CommandError, match="already been revoked"):
        run("revoke", key.prefix)
    assert [entry.outcome for entry in AuditEntry.objects.all()] == [
        f"{key} has already been revoked.",
        "done",
    ]


def test_the_list_shows_who_uses_what_and_no_key(prod: Environment) -> None:
    live, text = keys.make_environment_key(prod, "CI")
    dead, _ = keys.make_environment_key(prod, "old")
    keys.revoke(dead)
    keys.record_use(live, "trigger.dev 4.8.3", "10.0.0.9")

    out, _ = run("list", "--project", "proj_billing")
    assert live.prefix in out
    assert "trigger.dev 4.8.3 at 10.0.0.9" in out
    assert dead.prefix not in out
    assert text not in out
    rows = json.loads(run("list", "--all", "--json")[0])
    assert {row["key"]: row["live"] for row in rows} == {live.prefix: True, dead.prefix: False}
    assert AccessKey.objects.get(pk=live.pk).digest not in json.dumps(rows)


def test_an_empty_list_names_the_next_command(db: None) -> None:
    assert "keys create" in run("list")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create",), "Give --user"),
        (("create", "--user", "mira", "--project", "proj_billing"), "Give --user"),
        (("create", "--project", "proj_billing"), "both"),
        (("create", "--project", "proj_billing", "--env", "mars"), "no environment mars"),
        (("create", "--user", "nobody"), "Not exactly one active user"),
        (("create", "--user", "nobody", "--scope", "read"), "its only scope is admin"),
        (("create", "--user", "nobody", "--scope", "admin", "--scope", "read"), "its only scope is admin"),
        (("create", "--project", "proj_billing", "--env", "prod", "--scope", "admin"), "for a token of a user"),
        (("rotate", "tr_prod_nothere"), "No key begins"),
        (("revoke", "tr_prod_nothere"), "No key begins"),
        (("rotate", "tr_prod_x", "--grace", "soon"), "as in 24h"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(arguments: tuple[str, ...], words: str, prod: Environment) -> None:
    with pytest.raises(CommandError, match=words):
        run(*arguments)
    assert not AccessKey.objects.exists()
