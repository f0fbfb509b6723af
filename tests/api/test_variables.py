"""Environment variables: stored all or none, never readable in the database, and given to whom they are for."""

from __future__ import annotations

import contextlib
import threading
from io import StringIO
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.db import connections

from deployments import config
from deployments.access import keys
from deployments.access.vault import Vault
from deployments.deploys import environment_variables
from deployments.models import AuditEntry, Environment, EnvironmentVariable, Project
from tests.support.cli import Answer, Cli

pytestmark = pytest.mark.django_db

SECRET = "hunter2-hunter2"


def send(cli: Cli, project: Project, given: dict[str, Any], env: str = "prod", **more: Any) -> Answer:
    headers = {"x_trigger_branch": more.pop("branch")} if "branch" in more else {}
    return cli.post(f"/api/v1/projects/{project.ref}/envvars/{env}/import", {"variables": given} | more, **headers)


def read(cli: Cli, project: Project, **headers: str) -> Any:
    answer = cli.get(f"/api/v1/projects/{project.ref}/envvars", **headers)
    assert answer.status == 200, answer.body
    return answer.body["variables"]


def vault() -> Vault:
    return Vault(django_settings.ENCRYPTION_KEYS)


# ---- Storing


def test_without_variables_there_is_an_empty_object(cli: Cli, project: Project) -> None:
    assert cli.get(f"/api/v1/projects/{project.ref}/envvars").body == {
        "variables": {},
        "allowEmptyEnvironmentVariableValues": True,
    }


def test_what_was_imported_is_what_the_indexer_gets(cli: Cli, project: Project) -> None:
    given = {"DATABASE_URL": "postgres://ada:pass@db/app", "EMPTY": "", "ü-value": "👍🏽"}

    refused = send(cli, project, given)
    taken = send(cli, project, {"DATABASE_URL": "postgres://ada:pass@db/app", "EMPTY": "", "EMOJI": "👍🏽\n"})

    assert refused.status == 400
    assert (taken.status, taken.body) == (200, {"success": True})
    assert read(cli, project) == {"DATABASE_URL": "postgres://ada:pass@db/app", "EMOJI": "👍🏽\n", "EMPTY": ""}


def test_the_calls_of_one_deploy_are_a_plain_and_a_secret_one(cli: Cli, project: Project) -> None:
    assert send(cli, project, {"PLAIN": "1"}, override=True).status == 200
    assert send(cli, project, {"TOKEN": SECRET}, override=True, isSecret=True).status == 200

    assert read(cli, project) == {"PLAIN": "1", "TOKEN": SECRET}
    assert dict(EnvironmentVariable.objects.values_list("name", "is_secret")) == {"PLAIN": False, "TOKEN": True}


def test_no_value_is_readable_in_the_database_or_shown_to_anybody(
    cli: Cli, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    send(cli, project, {"TOKEN": SECRET}, isSecret=True)
    answers = [
        send(cli, project, {"TOKEN": SECRET}),
        send(cli, project, {"bad name": SECRET, "TOKEN": SECRET}),
        send(cli, project, {"TOKEN": SECRET + "\0"}),
        send(cli, project, {"TOKEN": SECRET * 10_000}, override=True),
        send(cli, project, {"TOKEN": [SECRET]}),
        cli.post(f"/api/v1/projects/{project.ref}/envvars/prod/import", {"variables": SECRET}),
    ]

    assert {answer.status for answer in answers} <= {400, 422}
    row = EnvironmentVariable.objects.get()
    told = [str(answer.body) for answer in answers] + [caplog.text, str(EnvironmentVariable.objects.values().get())]
    told += [repr(row), str(row), str(list(AuditEntry.objects.values())), repr(vault())]
    assert not [text for text in told if SECRET in text]


def test_without_override_a_known_one_is_refused_and_nothing_is_stored(cli: Cli, project: Project) -> None:
    send(cli, project, {"A": "1"})

    answer = send(cli, project, {"A": "2", "B": "2"})

    assert answer.status == 400
    assert set(answer.body) == {"error", "code", "variableErrors"}
    assert [each["key"] for each in answer.body["variableErrors"]] == ["A"]
    assert "override" in answer.body["error"]
    assert answer.headers["x-should-retry"] == "false"
    assert read(cli, project) == {"A": "1"}


def test_a_known_secret_is_only_made_plain_by_who_says_so(cli: Cli, project: Project) -> None:
    send(cli, project, {"A": "1"}, isSecret=True)

    send(cli, project, {"A": "2"}, override=True)
    assert EnvironmentVariable.objects.get().is_secret
    send(cli, project, {"A": "2"}, override=True, isSecret=False)
    assert not EnvironmentVariable.objects.get().is_secret


def test_what_the_cli_sets_itself_is_left_out(cli: Cli, project: Project) -> None:
    assert send(cli, project, {"TRIGGER_SECRET_KEY": "x", "TRIGGER_API_URL": "x", "A": "1"}).status == 200
    assert read(cli, project) == {"A": "1"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "x"), ("A B", "x"), ("A=B", "x"), ("A\nB", "x"), ("Ä", "x"), ("A" * 256, "x"), ("A", "x" * 65_537),
        ("A", "ü" * 32_769),
    ],
)  # fmt: skip
def test_what_no_environment_can_hold_is_refused_by_name(cli: Cli, project: Project, name: str, value: str) -> None:
    answer = send(cli, project, {name: value, "FINE": "1"})

    assert answer.status == 400
    assert [each["key"] for each in answer.body["variableErrors"]] == [name]
    assert not EnvironmentVariable.objects.exists()


@pytest.mark.parametrize("name", ["A", "a.b-c", "npm_config_@scope:registry", "1", "A" * 255])
def test_unusual_names_are_names(cli: Cli, project: Project, name: str) -> None:
    assert send(cli, project, {name: "x"}).status == 200
    assert read(cli, project) == {name: "x"}


@pytest.mark.costly
def test_an_environment_has_a_thousand_variables_at_most(cli: Cli, project: Project) -> None:
    assert send(cli, project, {f"A{number}": "" for number in range(1_000)}).status == 200
    assert send(cli, project, {"B": ""}).status == 400
    assert send(cli, project, {"A1": "2"}, override=True).status == 200


@pytest.mark.costly
def test_storing_is_recorded_in_the_audit_log_by_name_and_only_when_something_changed(
    cli: Cli, project: Project, production: Environment
) -> None:
    for _ in range(2):
        send(cli, project, {"A": "1", "B": "2"}, override=True)
    send(cli, project, {"A": "1", "B": "3"}, override=True)

    told = list(AuditEntry.objects.order_by("id"))
    assert [(entry.action, entry.object_id) for entry in told] == [("set.variable", str(production.pk))] * 2
    assert [(entry.after or {}) | {"secret_ones": None} for entry in told] == [
        {"added": ["A", "B"], "changed": [], "secret_ones": None},
        {"added": [], "changed": ["B"], "secret_ones": None},
    ]


# ---- Reading


def test_another_environment_has_its_own(cli: Cli, stranger: Cli, user_cli: Cli, project: Project) -> None:
    send(cli, project, {"A": "1"})
    staging = Cli(cli.client, user_cli.get(f"/api/v1/projects/{project.ref}/staging").body["apiKey"])

    assert read(staging, project) == {}
    assert stranger.get(f"/api/v1/projects/{project.ref}/envvars").status == 400


def test_a_branch_has_its_parents_and_its_own_on_top(preview_cli: Cli, project: Project) -> None:
    for branch in ("one", "two"):
        preview_cli.post(f"/api/v1/projects/{project.ref}/branches", {"env": "preview", "branch": branch})

    answer = send(preview_cli, project, {"A": "own"}, "preview", parentVariables={"A": "all", "B": "all"}, branch="one")

    assert answer.status == 200
    assert read(preview_cli, project, x_trigger_branch="one") == {"A": "own", "B": "all"}
    assert read(preview_cli, project, x_trigger_branch="two") == {"A": "all", "B": "all"}


def test_a_branch_and_its_parent_are_stored_together_or_not_at_all(preview_cli: Cli, project: Project) -> None:
    preview_cli.post(f"/api/v1/projects/{project.ref}/branches", {"env": "preview", "branch": "one"})

    answer = send(preview_cli, project, {"A": "own"}, "preview", parentVariables={"B B": "x"}, branch="one")

    assert answer.status == 400
    assert not EnvironmentVariable.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_the_use_case_itself_stores_both_or_neither(production: Environment) -> None:
    branch = Environment.objects.create(
        project=production.project, slug="preview", type="PREVIEW", parent=production, branch="one"
    )

    with pytest.raises(environment_variables.Rejected):
        environment_variables.sync(environment=branch, variables={"A": "1"}, parent_variables={"": "2"}, vault=vault())

    assert not EnvironmentVariable.objects.exists()


def test_parent_variables_of_an_environment_without_a_parent_are_nobodys(cli: Cli, project: Project) -> None:
    assert send(cli, project, {"A": "1"}, parentVariables={"B": "2"}).status == 200
    assert read(cli, project) == {"A": "1"}


def test_a_key_that_may_only_read_gets_no_secret_and_stores_nothing(
    cli: Cli, production: Environment, project: Project
) -> None:
    send(cli, project, {"PLAIN": "1"})
    send(cli, project, {"TOKEN": SECRET}, isSecret=True)
    reader = Cli(cli.client, keys.make_environment_key(production, scopes=[keys.READ])[1])

    assert read(reader, project) == {"PLAIN": "1"}
    assert send(reader, project, {"A": "1"}).status == 403


def test_a_variable_that_cannot_be_decrypted_is_a_sentence_with_its_name_and_the_way_out(
    cli: Cli, project: Project, settings: Any
) -> None:
    send(cli, project, {"TOKEN": SECRET})
    settings.ENCRYPTION_KEYS = ("another-key-0123456789-0123456789",)

    answer = cli.get(f"/api/v1/projects/{project.ref}/envvars")

    assert (answer.status, answer.body["code"]) == (422, "variable_unreadable")
    assert "TOKEN" in answer.error
    assert "ENCRYPTION_KEY" in answer.error
    assert send(cli, project, {"TOKEN": "new"}, override=True).status == 200
    assert read(cli, project) == {"TOKEN": "new"}


def test_a_value_that_was_moved_to_another_row_does_not_open_there(
    cli: Cli, project: Project, production: Environment
) -> None:
    send(cli, project, {"ADMIN_PASSWORD": SECRET}, isSecret=True)
    send(cli, project, {"GREETING": "hello"})
    stolen = EnvironmentVariable.objects.get(name="ADMIN_PASSWORD").value
    EnvironmentVariable.objects.filter(name="GREETING").update(value=stolen)

    assert cli.get(f"/api/v1/projects/{project.ref}/envvars").status == 422


def test_a_removed_one_lets_the_parents_show_through(production: Environment) -> None:
    branch = Environment.objects.create(
        project=production.project, slug="preview", type="PREVIEW", parent=production, branch="one"
    )
    environment_variables.store(environment=production, variables={"A": "all"}, vault=vault())
    environment_variables.store(environment=branch, variables={"A": "own"}, vault=vault())

    assert environment_variables.values(environment=branch, vault=vault()) == {"A": "own"}
    assert environment_variables.remove(environment=branch, name="A")
    assert not environment_variables.remove(environment=branch, name="A")
    assert environment_variables.values(environment=branch, vault=vault()) == {"A": "all"}


# ---- Keys


def test_a_key_is_replaced_without_a_moment_in_which_something_cannot_be_read(
    cli: Cli, project: Project, settings: Any
) -> None:
    old, new = django_settings.ENCRYPTION_KEYS[0], "the-new-key-0123456789-0123456789"
    send(cli, project, {"A": "1", "B": "2"})
    settings.ENCRYPTION_KEYS = (new, old)
    assert read(cli, project) == {"A": "1", "B": "2"}

    out = StringIO()
    call_command("reencrypt", stdout=out)
    settings.ENCRYPTION_KEYS = (new,)

    assert "again: 2" in out.getvalue()
    assert read(cli, project) == {"A": "1", "B": "2"}
    out = StringIO()
    call_command("reencrypt", stdout=out)
    assert "again: 0" in out.getvalue()


def test_what_no_key_opens_is_named_and_the_rest_is_done(cli: Cli, project: Project, settings: Any) -> None:
    send(cli, project, {"LOST": SECRET})
    settings.ENCRYPTION_KEYS = ("another-key-0123456789-0123456789",)
    send(cli, project, {"KEPT": "1"})
    settings.ENCRYPTION_KEYS = ("the-new-key-0123456789-0123456789", "another-key-0123456789-0123456789")
    out, err = StringIO(), StringIO()

    with pytest.raises(CommandError) as failure:
        call_command("reencrypt", stdout=out, stderr=err)

    assert failure.value.returncode == 3
    assert "again: 1" in out.getvalue()
    assert f"{project.ref} prod LOST" in err.getvalue()


def test_an_installation_without_a_key_of_its_own_gets_a_warning_when_it_is_deployed(settings: Any) -> None:
    def found() -> set[str]:
        return {message.id or "" for message in run_checks(tags=["security"], include_deployment_checks=True)}

    settings.CONFIGURATION = config.load({})
    assert "deployments.W003" in found()
    settings.CONFIGURATION = config.load({"ENCRYPTION_KEY": "k" * 32})
    assert "deployments.W003" not in found()


def test_keys_are_read_from_the_newest_to_the_oldest_and_are_never_short_or_shown() -> None:
    configuration = config.load({"ENCRYPTION_KEY": f" {'a' * 32}, {'b' * 40},"})

    assert configuration.problems == ()
    assert configuration.encryption_keys == ("a" * 32, "b" * 40)
    assert "a" * 32 not in repr(configuration)
    [problem] = config.load({"ENCRYPTION_KEY": f"{'a' * 32},short"}).problems
    assert problem.variable == "ENCRYPTION_KEY"
    assert "short," not in str(problem)


# ---- Two at once


@pytest.mark.django_db(transaction=True)
def test_two_who_store_the_same_new_names_at_once_wait_for_each_other(
    production: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, encrypt = threading.Barrier(2), Vault.encrypt
    results: list[object] = []

    def slowly(self: Vault, text: str, *, context: str) -> str:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.5)  # both come here only if neither waits for the other
        return encrypt(self, text, context=context)

    def run(value: str) -> None:
        try:
            results.append(
                environment_variables.store(
                    environment=production, variables={"A": value}, vault=vault(), override=True
                )
            )
        except Exception as error:
            results.append(error)
        finally:
            connections.close_all()

    monkeypatch.setattr(Vault, "encrypt", slowly)
    threads = [threading.Thread(target=run, args=(value,)) for value in ("1", "2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(map(repr, results)) == [
        repr(environment_variables.VariableChange(added=("A",))),
        repr(environment_variables.VariableChange(changed=("A",))),
    ]


def test_a_value_that_was_set_while_it_was_encrypted_anew_is_the_one_that_stays(
    production: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = "an-older-key-0123456789-0123456789", "a-newer-key-0123456789-0123456789"
    environment_variables.store(environment=production, variables={"A": "1"}, vault=Vault([old]))
    both, encrypt = Vault([new, old]), Vault.encrypt

    def meanwhile(self: Vault, text: str, *, context: str) -> str:
        monkeypatch.undo()
        environment_variables.store(environment=production, variables={"A": "2"}, vault=both, override=True)
        return encrypt(self, text, context=context)

    monkeypatch.setattr(Vault, "encrypt", meanwhile)

    assert environment_variables.reencrypt(vault=both) == (0, [])
    assert environment_variables.values(environment=production, vault=both) == {"A": "2"}
