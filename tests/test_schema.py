"""The tables themselves are compared with what the code needs, whatever the list of migrations says."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connection, models, transaction
from django.test import Client

from deployments import doctor, schema, views
from deployments.models import Repository, WritesPause

DOC = Path(__file__).resolve().parent.parent / "docs" / "upgrading.md"
pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def without(column: str) -> Iterator[models.Field[object, object]]:
    """As after an edit of a migration that had run: the list of migrations is complete, the table is not."""
    field = Repository._meta.get_field(column)
    assert isinstance(field, models.Field)
    with connection.schema_editor() as editor:
        editor.remove_field(Repository, field)
    try:
        yield field
    finally:
        if schema.missing():
            with connection.schema_editor() as editor:
                editor.add_field(Repository, field)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_migrated", False)


def test_a_database_that_was_migrated_has_all_that_the_code_needs(client: Client) -> None:
    assert schema.missing() == []
    assert client.get("/readyz").status_code == 200


def test_a_column_that_an_edited_migration_never_made_is_named_with_the_next_step(client: Client) -> None:
    with without("creating_since"):
        answer = client.get("/readyz")
        lines = {line.what: line for line in doctor._database()}

    words = "Column deployments_repository.creating_since is missing."
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "reason": f"{words} {schema.NEXT_STEP}"}
    assert lines["Migrations"].level is doctor.Level.OK
    assert lines["Tables"].level is doctor.Level.FAIL
    assert lines["Tables"].says.startswith(words)
    assert lines["Tables"].then == schema.NEXT_STEP


def test_several_missing_things_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "missing", lambda: ["deployments_a", "deployments_b.c"])
    assert schema.complaint() == "Table deployments_a is missing; 2 tables or columns are missing in all."
    monkeypatch.setattr(schema, "missing", lambda: ["deployments_b.c", "x", "y"])
    assert schema.complaint() == "Column deployments_b.c is missing; 3 tables or columns are missing in all."


def test_a_table_that_is_missing_is_named_once_and_not_by_its_columns() -> None:
    with connection.schema_editor() as editor:
        editor.delete_model(WritesPause)
    try:
        assert schema.missing() == ["deployments_writespause"]
    finally:
        with connection.schema_editor() as editor:
            editor.create_model(WritesPause)


def test_columns_and_tables_of_a_newer_version_are_no_complaint(client: Client) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE deployments_repository ADD COLUMN of_the_future integer")
        cursor.execute("CREATE TABLE deployments_future (id integer)")
    try:
        assert client.get("/readyz").status_code == 200
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE deployments_repository DROP COLUMN of_the_future")
            cursor.execute("DROP TABLE deployments_future")


def test_the_schema_is_looked_at_until_it_is_right_and_then_no_more(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    answers = iter(["Column a.b is missing.", ""])

    def complaint() -> str:
        looks.append("look")
        return next(answers)

    monkeypatch.setattr(schema, "complaint", complaint)

    statuses = [client.get("/readyz").status_code for _ in range(4)]

    assert statuses == [503, 200, 200, 200]
    assert len(looks) == 2


def test_the_documented_way_to_add_a_missing_column_adds_it() -> None:
    code = re.search(r"manage\.py shell -c \"\n(.*?)\"\n", DOC.read_text(), re.DOTALL)
    assert code is not None
    with without("creating_since"):
        exec(re.sub(r"(?m)^    ", "", code[1]), {})  # noqa: S102  (our own documentation)

        assert schema.missing() == []


TABLES = ("deployments_environment", "deployments_deployment")


def lock() -> None:
    """As a migration of its own does, in its transaction."""
    operation: Any = schema.lock_tables(*TABLES)
    with connection.schema_editor() as editor:
        operation.code(None, editor)


def test_a_migration_never_waits_for_a_table_while_it_holds_another_one() -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    tried, ended = threading.Event(), threading.Event()
    failures: list[str] = []

    def deploy() -> None:
        """Has the first table, and wants the second one when the migration has tried to get both."""
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("LOCK TABLE deployments_environment IN ROW EXCLUSIVE MODE")
                tried.wait(10)
                cursor.execute("SET LOCAL lock_timeout = '2s'")
                cursor.execute("LOCK TABLE deployments_deployment IN ROW EXCLUSIVE MODE")
        except DatabaseError as error:
            failures.append(str(error))
        finally:
            ended.set()
            connection.close()

    other = threading.Thread(target=deploy)
    other.start()
    waits: list[float] = []
    until = time.monotonic() + 10

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        tried.set()
        ended.wait(10)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", sleep)
        while connection_count("deployments_environment") == 0:
            assert time.monotonic() < until, "the deploy has not begun"
        lock()
    other.join(10)

    assert failures == []
    assert waits


def connection_count(table: str) -> int:
    """How many transactions of others hold a lock on it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks WHERE relation = %s::regclass AND granted AND pid <> pg_backend_pid()",
            [table],
        )
        return int(cursor.fetchone()[0])


def test_a_table_that_is_in_use_for_long_ends_the_migration_with_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    monkeypatch.setattr(schema, "LOCK_SECONDS", 0.2)
    held, over = threading.Event(), threading.Event()

    def backup() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE deployments_deployment IN ACCESS SHARE MODE")
            held.set()
            over.wait(10)
        connection.close()

    other = threading.Thread(target=backup)
    other.start()
    held.wait(10)
    try:
        with pytest.raises(OperationalError, match="Run migrate again"):
            lock()
    finally:
        over.set()
        other.join(10)
