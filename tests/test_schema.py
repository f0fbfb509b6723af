"""The tables themselves are compared with what the code needs, whatever the list of migrations says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db import connection, models
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
    assert schema.complaint() == "Table deployments_a is missing, and so is 1 more."
    monkeypatch.setattr(schema, "missing", lambda: ["deployments_b.c", "x", "y"])
    assert schema.complaint() == "Column deployments_b.c is missing, and so are 2 more."


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
