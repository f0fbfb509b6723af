"""A compiled INSERT writes the row that the ORM would write. Other compiled statements are tested by their users."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import IntegrityError, models, transaction

from deployments.deploys.projects import create_project
from deployments.models import AccessKey, Deployment, Environment, PolicyText, Project
from registry_admin import compiled_queries
from registry_admin.compiled_queries import CompiledInsert

pytestmark = pytest.mark.django_db
AT = datetime(2026, 11, 27, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture
def environment() -> Environment:
    return Environment.objects.select_related("project").get(project=create_project(name="A"), slug="prod")


def deployment(environment: Environment, number: int) -> Deployment:
    values = {
        "type": "MANAGED", "content_hash": "é%s", "git": {"commitMessage": "100% ’’", "dirty": False},
        "error": None, "promotion_wanted": True, "begun_by": 2**40, "created_at": AT, "deadline": AT,
    }  # fmt: skip
    return Deployment(
        project=environment.project, environment=environment, version_day="20261127", version_number=number,
        status="BUILDING", **values,
    )  # fmt: skip


def stored(row: Deployment) -> dict[str, Any]:
    """Its columns as the database has them, but for those in which two rows differ."""
    values = Deployment.objects.values().get(pk=row.pk)
    return {name: value for name, value in values.items() if name not in ("id", "short_code", "version_number")}


def test_the_row_is_that_of_the_orm(environment: Environment) -> None:
    insert = CompiledInsert(Deployment)
    ours, again, theirs = (deployment(environment, number) for number in (1, 2, 3))

    insert.run(ours)
    insert.run(again)
    theirs.save(force_insert=True)

    assert stored(ours) == stored(again) == stored(theirs)
    assert Deployment.objects.get(pk=ours.pk).version_number == 1
    assert Deployment.objects.get(pk=again.pk).version_number == 2


def test_the_instance_is_one_that_is_stored(environment: Environment) -> None:
    row = deployment(environment, 1)
    assert row._state.adding

    CompiledInsert(Deployment).run(row)
    row.status = "FAILED"
    row.save()

    assert (row._state.adding, row._state.db) == (False, "default")
    assert Deployment.objects.get().status == "FAILED"


def test_the_sql_is_made_once(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    insert = CompiledInsert(Deployment)
    insert.run(deployment(environment, 1))
    monkeypatch.setattr(compiled_queries, "InsertQuery", None)

    insert.run(deployment(environment, 2))

    assert Deployment.objects.count() == 2


def test_a_constraint_refuses_the_row(environment: Environment) -> None:
    insert = CompiledInsert(Deployment)
    insert.run(deployment(environment, 1))

    with pytest.raises(IntegrityError), transaction.atomic():
        insert.run(deployment(environment, 1))

    assert Deployment.objects.count() == 1


@pytest.mark.parametrize(("model", "column"), [(Project, "id"), (AccessKey, "branch"), (PolicyText, "first_seen_at")])
def test_a_model_of_which_the_database_makes_a_column_is_refused(model: type[models.Model], column: str) -> None:
    with pytest.raises(TypeError, match=rf"makes columns of {model.__name__}: .*\b{column}\b"):
        CompiledInsert(model)
