"""`manage.py deployments`: a deployment is found by its id, version or short code, and its rows say why it ended so."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from deployments.config import Configuration
from deployments.deploys import lifecycle
from deployments.errors import Refusal
from deployments.management.commands.deployments import _named
from deployments.models import Deployment, Environment, EnvironmentType, Project
from sandbox.control import Sandbox
from tests.support.constants import TRAIL
from tests.support.deploys import deployed, deploying, finalize

Made = Callable[..., Deployment]


def ask(*arguments: str) -> str:
    out = StringIO()
    call_command("deployments", *arguments, stdout=out)
    return out.getvalue()


def refused(*arguments: str) -> tuple[int, str]:
    with pytest.raises(CommandError) as ended:
        ask(*arguments)
    return ended.value.returncode, str(ended.value)


@pytest.fixture
def made(db: None) -> Made:
    """A row in an environment, by the ref of its project: nothing was asked of AWS for it."""

    def make(ref: str = "proj_one", slug: str = "prod", branch: str = "", **values: Any) -> Deployment:
        project, _ = Project.objects.get_or_create(ref=ref, defaults={"name": ref.upper()})
        root, _ = Environment.objects.get_or_create(
            project=project, slug=slug, parent=None, defaults={"type": EnvironmentType.PRODUCTION}
        )
        where = root
        if branch:
            where, _ = Environment.objects.get_or_create(
                project=project, slug=slug, parent=root, branch=branch, defaults={"type": EnvironmentType.PREVIEW}
            )
        values = {"version_day": "20261127", "version_number": 1, "status": "BUILDING", **values}
        return Deployment.objects.create(
            project=project, environment=where, content_hash="c", image_ref="host/trigger/one:1", **values
        )

    return make


def test_a_deployment_is_found_by_its_id_its_version_and_its_short_code(made: Made) -> None:
    row = made(triggered_by="ann@example.com", triggered_via="cli:manual")
    assert "\nby          ann@example.com (cli:manual)\n" in ask("show", row.pk)

    for which in (row.pk, "20261127.1", row.short_code, row.short_code.upper()):
        assert ask("show", which).startswith("20261127.1 BUILDING in proj_one/prod (PROJ_ONE)\n")
    assert f"\nlog         grep {row.short_code}\n" in ask("show", row.pk)


def test_a_failed_build_is_shown_with_the_reason_the_end_of_its_output_and_its_code(made: Made) -> None:
    output = "\n".join(f"line {number}" for number in range(40))
    error = {"name": "BuildError", "message": "npm exited with 1", "stderr": output}
    row = made(status="FAILED", error=error, failed_at=Now())

    shown = ask("show", row.short_code)

    assert "\nBuildError: npm exited with 1\nThe end of the build's output:\n" in shown
    assert "\n    line 39\n" in shown
    assert "line 27\n" not in shown
    document = json.loads(ask("show", row.short_code, "--json"))
    assert (document["outcome"], document["code"]) == ("BuildError: npm exited with 1", "BuildError")
    assert document["error"] == error


def test_what_a_build_printed_cannot_move_the_cursor_of_the_terminal(made: Made) -> None:
    row = made(status="FAILED", error={"name": "E", "message": "one\ntwo\x1b[2J", "stderr": "\x1b]0;title\x07red\r\n"})

    shown = ask("show", row.pk)

    assert "\nE: one\ntwo [2J\n" in shown
    assert "    " + " ]0;title red" in shown
    assert "\x1b" not in shown + ask("list") + ask("show", row.pk, "--json")


@pytest.mark.costly
def test_a_deployment_whose_image_was_refused_names_the_code_and_the_command_that_explains_it(
    environment: Environment, ecr_configuration: Configuration
) -> None:
    row = deploying(environment, ecr_configuration)
    with pytest.raises(Refusal) as refusal:
        finalize(row, ecr_configuration)
    lifecycle.fail(environment=environment, deployment_id=row.pk, error={"name": "Error", "message": "No finalize"})

    shown = ask("show", row.short_code)

    assert (
        "\nError: No finalize\nCode image_not_found: `python manage.py errors image_not_found` says what to do.\n"
        in shown
    )
    assert f"\n- The image was not verified: {refusal.value.sentence} (image_not_found)\n" in shown


def test_a_deployment_that_timed_out_was_canceled_or_waits_says_so(made: Made) -> None:
    late = made(deadline=Now() - timedelta(seconds=1))
    assert lifecycle.time_out_overdue() == 1
    assert "TimeoutError: The CLI sent nothing for this deployment in time; it was BUILDING.\n" in ask("show", late.pk)

    taken = made(version_number=3)
    gone = made(version_number=2, status="CANCELED", canceled_reason="A newer one came.", replaced_by=taken)
    assert "\nCanceled: A newer one came. Version 20261127.3 took its place.\n" in ask("show", gone.pk)

    assert "\nIt has not ended.\n" in ask("show", taken.pk)


@pytest.mark.costly
def test_a_deployed_version_says_whether_it_is_current_and_which_one_is(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    first = deployed(environment, ecr_configuration, sandbox, "one")
    assert "\nCurrent since 20" in ask("show", first.pk)

    second = deployed(environment, ecr_configuration, sandbox, "two")
    assert f"\nDeployed and not current; version {second.version} is.\n" in ask("show", first.pk)


def test_what_else_the_rows_know_stands_in_notes(environment: Environment, ecr_configuration: Configuration) -> None:
    row = lifecycle.create_deployment(
        environment=environment, configuration=ecr_configuration, trail=TRAIL, content_hash="abc", type="MANAGED"
    ).deployment
    assert row.repository is not None
    Deployment.objects.update(credentials_error="AWS refused sts:AssumeRole.")
    type(row.repository).objects.update(last_error="AWS refused it.", last_error_code="AccessDeniedException")

    assert json.loads(ask("show", row.pk, "--json"))["notes"] == [
        "No registry log-in was issued: AWS refused sts:AssumeRole.",
        f"Repository {row.repository.name}: AWS refused it. (AccessDeniedException)",
    ]


def test_a_version_of_several_environments_names_them_all_and_asks_for_one(made: Made) -> None:
    rows = [made(), made("proj_two"), made("proj_one", "preview", "fix/me")]

    status, words = refused("show", "20261127.1")

    assert status == 1
    assert words.startswith("3 deployments are called 20261127.1. Name one by its id, or add --project and --env:\n")
    for row in rows:
        assert f"{row.project.ref}/{row.environment}  {row.pk}" in words
    assert rows[2].pk in ask("show", "20261127.1", "--project", "proj_one", "--env", "preview/fix/me")
    assert rows[0].pk in ask("show", "20261127.1", "--project", "proj_one", "--env", "production")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "20261127.9"], "There is no deployment 20261127.9. A deploy that was refused has no row"),
        (["show", "x", "--project", "proj_none"], "There is no project proj_none."),
        (["list", "--project", "proj_one", "--env", "preview/none"], "no environment preview/none in proj_one."),
        (["list", "--limit", "0"], "--limit is a number from 1."),
    ],
)
def test_what_is_not_there_is_exit_status_two_with_a_sentence(arguments: list[str], words: str, made: Made) -> None:
    made()

    status, said = refused(*arguments)

    assert status == 2
    assert words in said


def test_the_list_is_newest_first_by_project_environment_and_status_with_the_reasons(made: Made) -> None:
    made()
    failed = made(
        version_number=2, status="FAILED", error={"name": "BuildError", "message": "npm\nexited " + "x" * 200}
    )
    made("proj_two", status="CANCELED", canceled_reason="Not wanted")

    lines = ask("list").splitlines()
    assert [line.split()[2] for line in lines] == ["CANCELED", "FAILED", "BUILDING"]
    assert lines[0].endswith("proj_two/prod  Not wanted")
    assert "proj_one/prod  BuildError: npm exited xxx" in lines[1]
    assert lines[1].endswith("x…")
    assert len(ask("list", "--limit", "1").splitlines()) == 1
    [only] = json.loads(ask("list", "--project", "proj_one", "--status", "failed", "--json"))
    assert (only["id"], only["environment"]) == (failed.pk, "prod")
    assert only["reason"].startswith("BuildError: npm\nexited x")


def test_a_short_code_and_a_version_are_found_by_an_index(made: Made) -> None:
    row = made()
    for which in (row.short_code, str(row.version)):
        plan = Deployment.objects.filter(_named(which)).explain()
        if connection.vendor == "sqlite":  # PostgreSQL reads a table of a few rows as a whole
            assert "SCAN deployments_deployment" not in plan
            assert "SEARCH deployments_deployment" in plan


def test_the_list_takes_one_query_however_long_it_is(made: Made) -> None:
    for number in range(1, 6):
        made(version_number=number)
    with CaptureQueriesContext(connection) as captured:
        ask("list")

    assert len(captured) == 1
