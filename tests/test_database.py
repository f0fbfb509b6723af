"""A database that does not answer is reported in the same sentence everywhere: API, event stream, pages, commands."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError, ProgrammingError, connection
from django.db.backends.utils import CursorWrapper
from django.test import Client

from deployments import database, outage
from deployments.access import keys
from deployments.deploys import promotions
from deployments.models import Environment
from tests.support.cli import Cli, events

ROOT = Path(__file__).resolve().parent.parent
SENTENCE = "The server's database does not answer. Try again."
NOT_MIGRATED = "The server's database lacks tables or columns of this version. Run the migrate command."


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OperationalError("database is locked"), SENTENCE),
        (OperationalError("connection to server at 127.0.0.1 failed: Connection refused"), SENTENCE),
        (InterfaceError("connection already closed"), SENTENCE),
        (OperationalError("no such table: deployments_accesskey"), NOT_MIGRATED),
        (OperationalError("no such column: lease_process"), NOT_MIGRATED),
        (ProgrammingError("syntax error"), None),
        (IntegrityError("duplicate key"), None),
        (RuntimeError("something else"), None),
    ],
    ids=str,
)
def test_only_an_outage_is_called_one(error: Exception, sentence: str | None) -> None:
    found = database.outage(error)

    assert (found and found.sentence) == sentence


@pytest.mark.django_db
def test_a_table_that_is_not_there_is_distinguished_from_a_database_that_does_not_answer() -> None:
    with pytest.raises(DatabaseError) as raised, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM nothing_of_ours")

    found = database.outage(raised.value)

    assert found is not None
    assert found.sentence == NOT_MIGRATED


@pytest.mark.django_db(transaction=True)
def test_a_postgresql_that_takes_no_writes_for_a_moment_is_an_outage_and_no_failure_of_the_server(
    environment: Environment, configure: Any
) -> None:
    """As after a failover, while the old primary still answers."""
    configure()
    cli = Cli(client=Client(raise_request_exception=False), key=keys.make_environment_key(environment)[1])
    if connection.vendor != "postgresql":
        return  # SQLite says it with an OperationalError
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
        try:
            answer = cli.deploy()
            with pytest.raises(DatabaseError) as raised:
                cursor.execute("DELETE FROM deployments_deployment")
        finally:
            cursor.execute("SET default_transaction_read_only = off")

    assert (answer.status, answer.error) == (503, "The server's database is read-only at the moment. Try again.")
    assert answer.headers["Retry-After"]
    assert outage.is_outage(raised.value)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every statement of every thread fails, as with a locked SQLite or a PostgreSQL that is gone."""

    def fail(*_: Any, **__: Any) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr(CursorWrapper, "execute", fail)


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "deployments.database"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v2/whoami"),
        ("POST", "/api/v1/deployments"),
        ("POST", "/api/v3/deployments/deployment_x/finalize"),
        ("POST", "/api/v2/deployments/deployment_x/finalize"),
        ("POST", "/api/v1/deployments/20261126.1/promote"),
    ],
)
@pytest.mark.django_db(transaction=True)
def test_every_answer_of_the_api_says_it_with_a_status_that_the_cli_repeats(
    method: str, path: str, configure: Any, away: None, caplog: pytest.LogCaptureFixture
) -> None:
    configure()
    answer = Cli(client=Client(raise_request_exception=False), key="tr_prod_" + "a" * 24).send(
        method, path, "{}", headers={}
    )

    assert (answer.status, answer.error) == (503, SENTENCE)
    assert answer.headers["Retry-After"] == "5"
    assert "x-should-retry" not in answer.headers
    [line] = lines(caplog)
    assert line.exc_info is None


@pytest.mark.costly
@pytest.mark.django_db(transaction=True)
def test_a_finalize_whose_stream_has_begun_says_it_in_an_event(
    environment: Environment,
    configure: Any,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    configure()
    cli = Cli(client, keys.make_environment_key(environment)[1])
    deployment_id = cli.deploying()

    def locked(**_: Any) -> Any:
        raise OperationalError("database is locked")

    monkeypatch.setattr(promotions, "finalize", locked)
    answer = cli.post(f"/api/v3/deployments/{deployment_id}/finalize", {})

    assert answer.status == 200
    assert events(answer.body)[-1] == ("error", {"error": SENTENCE})
    assert len(lines(caplog)) == 1


@pytest.mark.parametrize("path", ["/admin/", "/admin/deployments/repository/", "/admin/setup/", "/admin/login/"])
@pytest.mark.django_db(transaction=True)
def test_every_page_says_it(
    path: str, configure: Any, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    configure()
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.create_superuser("ada"))
    request.getfixturevalue("away")

    page = client.get(path)

    if path == "/admin/login/" and page.status_code == 200:
        return  # it needed no database
    assert page.status_code == 503
    assert "The server&#x27;s database does not answer. Try again." in page.content.decode()
    assert page["Retry-After"] == "5"
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ('FATAL:  password authentication failed for user "a"', "refuses the connection. Correct DATABASE_URL"),
        ('FATAL:  database "a" does not exist', "refuses the connection. Correct DATABASE_URL"),
        ("FATAL:  the database system is starting up", "does not answer. Try again."),
        ("Connection refused", "does not answer. Try again."),
    ],
)
def test_a_command_that_postgresql_refuses_for_good_says_what_to_correct(said: str, sentence: str) -> None:
    told = database.explained(OperationalError(f'connection to server at "h", port 5432 failed: {said}'))

    assert told is not None
    assert sentence in told
    assert " ".join(said.split()) in told
