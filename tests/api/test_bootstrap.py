"""`manage.py bootstrap`: what it makes, what it prints where, and that it can run again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

from deployments.access import keys
from deployments.deploys import projects
from deployments.models import AccessKey, AuditEntry, Environment, KeyKind, Project

pytestmark = pytest.mark.django_db

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def bootstrap(*arguments: str, email: str = "ada@example.com", project: str = "Billing") -> tuple[str, str]:
        call_command("bootstrap", "--email", email, "--project", project, *arguments)
        captured = capsys.readouterr()
        return captured.out, captured.err

    return bootstrap


def test_json_is_exactly_the_documented_object(run: Run) -> None:
    out, err = run("--json")

    made = json.loads(out)
    project = Project.objects.get()
    assert out.count("\n") == 1
    assert list(made) == ["project_ref", "token", "keys"]
    assert made["project_ref"] == project.ref
    assert list(made["keys"]) == ["prod", "staging", "preview"]
    token = keys.authenticate(made["token"])
    assert token is not None
    assert token.user == User.objects.get()
    for slug, text in made["keys"].items():
        key = keys.authenticate(text)
        assert key is not None
        assert (key.kind, key.environment) == (KeyKind.ENVIRONMENT, Environment.objects.get(slug=slug))
    [line] = err.splitlines()
    operator = User.objects.get()
    assert operator.check_password(line.rpartition(" ")[2])
    assert (operator.username, operator.email) == ("ada@example.com", "ada@example.com")
    assert operator.is_staff
    assert operator.is_superuser


def test_a_second_run_makes_nothing_and_shows_no_secret(run: Run) -> None:
    first = json.loads(run("--json")[0])

    out, err = run("--json")

    assert json.loads(out) == {
        "project_ref": first["project_ref"],
        "token": None,
        "keys": {"prod": None, "staging": None, "preview": None},
    }
    assert err == ""
    assert (User.objects.count(), Project.objects.count(), AccessKey.objects.count()) == (1, 1, 4)


def test_rotation_replaces_its_own_keys_and_no_others(run: Run) -> None:
    first = json.loads(run("--json")[0])
    _, other = keys.make_environment_key(Environment.objects.get(slug="prod"), "by hand")

    out, err = run("--json", "--rotate")
    second = json.loads(out)

    revoked = list(AccessKey.objects.exclude(revoked_at=None).order_by("pk"))
    assert [line.partition(" no longer works")[0] for line in err.splitlines()] == [
        f"{key.prefix}… (id {key.pk}, {key.get_kind_display()})" for key in revoked
    ]
    lines = AuditEntry.objects.filter(action="revoke.key").order_by("pk")
    assert [(line.object_id, line.object_label) for line in lines] == [(str(key.pk), str(key)) for key in revoked]
    assert len(revoked) == 4
    told = err + json.dumps(list(AuditEntry.objects.values("object_label", "before", "after")))
    assert [text for text in [first["token"], *first["keys"].values()] if text in told] == []
    for old, new in [
        (first["token"], second["token"]),
        *((first["keys"][s], second["keys"][s]) for s in first["keys"]),
    ]:
        assert keys.authenticate(old) is None
        assert keys.authenticate(new) is not None
    assert keys.authenticate(other) is not None


def test_what_is_missing_is_made_again(run: Run) -> None:
    run("--json")
    AccessKey.objects.filter(environment__slug="staging").delete()
    Environment.objects.filter(slug="preview").delete()

    made = json.loads(run("--json")[0])["keys"]

    assert made["prod"] is None
    assert made["staging"].startswith("tr_stg_")
    assert made["preview"].startswith("tr_preview_")


def test_a_project_is_found_by_its_ref_or_by_its_name(run: Run) -> None:
    ref = json.loads(run("--json", "--ref", "proj_mine")[0])["project_ref"]

    assert ref == "proj_mine"
    assert json.loads(run("--json")[0])["project_ref"] == ref
    assert json.loads(run("--json", "--ref", ref, project="Another name")[0])["project_ref"] == ref
    assert Project.objects.count() == 1


def test_a_second_operator_gets_a_token_of_their_own(run: Run) -> None:
    run("--json")

    out, err = run("--json", email="bob@example.com")

    token = keys.authenticate(json.loads(out)["token"])
    assert token is not None
    assert token.user == User.objects.get(username="bob@example.com")
    assert "Password of bob@example.com" in err


def test_an_existing_user_keeps_their_rights(run: Run) -> None:
    User.objects.create_user("ada@example.com")

    run("--json")

    assert not User.objects.get().is_superuser


def test_the_output_for_people_shows_the_next_step(run: Run) -> None:
    out, err = run()
    again, _ = run()

    token = next(word for word in out.split() if word.startswith("tr_pat_"))
    assert f"TRIGGER_ACCESS_TOKEN={token} npx trigger.dev@latest deploy" in out
    assert "TRIGGER_API_URL=http://localhost:8000" in out
    assert Project.objects.get().ref in out
    assert "Password" in err
    assert token not in again
    assert "--rotate" in again


def _named_twice() -> None:
    projects.create_project(name="Billing")
    projects.create_project(name="Billing")


def _taken_name() -> None:
    projects.create_project(name="Billing")


def _inactive() -> None:
    User.objects.create_user("ada@example.com", is_active=False)


@pytest.mark.parametrize(
    ("before", "arguments", "options", "word"),
    [
        (None, (), {"email": "ada"}, "--email"),
        (None, (), {"email": "a" * 60 + "@" + "b." * 60 + "example.com"}, "--email"),
        (None, ("--ref", "Proj_X"), {}, "--ref"),
        (None, ("--ref", "proj_" + "x" * 60), {}, "--ref"),
        (None, (), {"project": " "}, "--project"),
        (None, (), {"project": "a\nb"}, "--project"),
        (_named_twice, (), {}, "--ref"),
        (_taken_name, ("--ref", "proj_other"), {}, "--ref"),
        (_inactive, (), {}, "not active"),
    ],
)
def test_a_mistake_is_a_sentence_and_leaves_nothing_behind(
    run: Run, before: Callable[[], Any] | None, arguments: tuple[str, ...], options: dict[str, str], word: str
) -> None:
    if before:
        before()
    users, count = User.objects.count(), Project.objects.count()

    with pytest.raises(CommandError, match=word) as raised:
        run("--json", *arguments, **options)

    assert raised.value.returncode == 2
    assert (User.objects.count(), Project.objects.count(), AccessKey.objects.count()) == (users, count, 0)
