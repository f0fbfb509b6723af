"""The backend for PostgreSQL: a dead connection is noticed without a query for each request, and hot statements are
prepared.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, connections
from django.db.backends.postgresql import base as django_base
from django.test.utils import CaptureQueriesContext

from deployments import service_urls
from deployments.models import Environment
from registry_admin import settings as program
from registry_admin.compiled_queries import Compiled
from registry_admin.postgresql.base import CHECKED_SECONDS, DatabaseWrapper

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has neither"),
]

environments = Compiled[Environment](lambda pk: Environment.objects.filter(pk=pk), int)


def wrapper(**more: object) -> DatabaseWrapper:
    """Another connection of this program to the database of the test."""
    made: Any = connection.copy()
    made.settings_dict["OPTIONS"] = made.settings_dict["OPTIONS"] | more
    made.settings_dict["CONN_HEALTH_CHECKS"], made.settings_dict["CONN_MAX_AGE"] = True, None
    assert isinstance(made, DatabaseWrapper)
    return made


@pytest.fixture
def kept() -> Iterator[DatabaseWrapper]:
    made = wrapper()
    made.ensure_connection()
    yield made
    made.close()


def request(kept: DatabaseWrapper, *, prepared: bool = False) -> list[str]:
    """The statements of a request with one query, which begins as Django begins each one."""
    kept.close_if_unusable_or_obsolete()
    kept.force_debug_cursor, before = True, len(kept.queries_log)
    with kept.prepared_cursor() if prepared else kept.cursor() as cursor:
        cursor.execute("SELECT 2")
    kept.force_debug_cursor = False
    return [each["sql"] for each in kept.queries_log][before:]


def checks(kept: DatabaseWrapper, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the connection was asked whether it answers."""
    asked: list[float] = []
    ask = django_base.DatabaseWrapper.is_usable

    def count(self: DatabaseWrapper) -> Any:
        asked.append(time.monotonic())
        return ask(self)

    monkeypatch.setattr(django_base.DatabaseWrapper, "is_usable", count)
    return asked


def test_a_connection_that_has_just_answered_is_not_asked_at_each_request(
    kept: DatabaseWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = checks(kept, monkeypatch)

    for _ in range(3):
        assert request(kept) == ["SELECT 2"]
    assert asked == []

    kept._checked_at -= CHECKED_SECONDS
    for _ in range(3):
        request(kept)
    assert len(asked) == 1


@pytest.mark.parametrize("prepared", [False, True])
def test_a_connection_that_the_server_ended_is_replaced_though_it_has_just_answered(
    prepared: bool, kept: DatabaseWrapper
) -> None:
    first = kept.connection.info.backend_pid
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [first])
        assert cursor.fetchone() == (True,)

    assert request(kept, prepared=prepared) == ["SELECT 2"]
    assert kept.connection.info.backend_pid != first


def test_a_connection_that_failed_is_asked_although_it_has_just_answered(
    kept: DatabaseWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = checks(kept, monkeypatch)
    kept.errors_occurred = True

    assert kept.is_usable()
    assert len(asked) == 1


def prepared(used: DatabaseWrapper) -> int:
    with used.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_prepared_statements")
        return int(cursor.fetchone()[0])


def options(*, server_side_cursors: bool) -> dict[str, Any]:
    """OPTIONS of the settings for a database like this."""
    given = service_urls.Database(engine="postgresql", name="x", server_side_cursors=server_side_cursors)
    found: Any = program._database(given)
    return dict(found["OPTIONS"])


def test_a_statement_that_is_sent_over_and_over_is_prepared_once(environment: Environment) -> None:
    before = prepared(connection)  # type: ignore[arg-type]  # the wrapper of this vendor
    with CaptureQueriesContext(connection) as queries:
        for _ in range(20):
            assert environments.first(environment.pk) == environment

    assert len(queries) == 20
    last = queries.captured_queries[-1]["sql"]
    assert last.startswith("SELECT")
    assert str(environment.pk) in last
    assert prepared(connection) == before + 1  # type: ignore[arg-type]
    assert environments.first(-1) is None


def test_nothing_is_prepared_behind_a_pooler(environment: Environment) -> None:
    assert options(server_side_cursors=True)["prepare_threshold"] == 5
    assert options(server_side_cursors=False)["prepare_threshold"] is None
    usual, pooled = connections["default"], wrapper(prepare_threshold=None)
    connections["default"] = pooled
    try:
        for _ in range(20):
            assert environments.first(environment.pk) == environment
        assert prepared(pooled) == 0
    finally:
        connections["default"] = usual
        pooled.close()
