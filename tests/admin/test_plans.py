"""How the databases answer the queries of the lists and of the API: no table that grows without end is read whole.

EXPLAIN of every query, on SQLite and on PostgreSQL; no times. The tables of things that somebody makes and keeps
(projects, environments, repositories, keys, people), that are deleted after a time (deliveries), or of which one comes
in ten minutes (sweeps), may be read whole: docs/performance.md says what that takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.urls import reverse

from deployments.admin import audit, search
from deployments.models import (
    AuditEntry,
    BackgroundWorker,
    Deployment,
    ImageStateChange,
    PromotionEvent,
    RepositoryEvent,
    SweepChunk,
    SweepFinding,
)
from tests.admin.installation import ENVIRONMENT
from tests.support.size import Size, grow
from tests.support.walk import api_addresses, variations

GROWING = {
    model._meta.db_table
    for model in (
        AuditEntry, BackgroundWorker, Deployment, ImageStateChange, PromotionEvent, RepositoryEvent, SweepChunk,
        SweepFinding,
    )
}  # fmt: skip
LISTS = ("deployment", "repository", "sweep", "project", "environment", "auditentry")
SMALL = Size(
    deployments=4_000, repositories=400, projects=20, branches=200, deploy_keys=400, users=5, sweeps=200,
    findings=4_000, audit_entries=8_000, deliveries=2_000,
)  # fmt: skip


class Asked(list[tuple[str, Any]]):
    """The queries that were asked, with their parameters: each form once."""

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        form = re.sub(r"\(%s(, %s)+\)", "(%s, …)", sql)
        if sql.lstrip("(").startswith("SELECT") and form not in {each for each, *_ in self}:
            self.append((form, (sql, params)))
        return execute(sql, params, many, context)


def plan_of(sql: str, params: Any) -> list[str]:
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}", params)
            return [str(row[3]) for row in cursor.fetchall()]
        cursor.execute(f"EXPLAIN {sql}", params)
        return [str(row[0]) for row in cursor.fetchall()]


#: Their entries have the time and all that the menus count, so SQLite reads only the rows since the time of a search.
WITH_TIME = ("audit_entry_of_type", "audit_entry_of_action")


def read_whole(sql: str, plan: list[str]) -> Iterator[str]:
    """The growing tables that a plan reads whole, row by row. An index that has all the columns is not the table, and
    an order that ends at a LIMIT does not read it whole.
    """
    names = {alias: table for table, alias in re.findall(r'"(deployments_\w+)" (\w\d+)\b', sql)}
    for line in plan:
        found = re.search(r"\bSCAN (\w+)(?! USING COVERING)", line) or re.search(r"Seq Scan on (\w+)(?: (\w+))?", line)
        if found is None or ("USING INDEX" in line and (" LIMIT " in sql or line.endswith(WITH_TIME))):
            continue
        table = names.get(found[1], found[1])
        if table in GROWING:
            yield f"{table}: {line.strip()}"


@pytest.fixture
def large(db: None, configure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows enough for PostgreSQL to prefer an index. Without the statistics of VACUUM, which no transaction can make,
    it would count rows by reading the table, so it may do so only where no index serves.
    """
    configure(**ENVIRONMENT)
    for module in (search, audit):
        monkeypatch.setattr(module, "MAX_ROWS_SEARCHED", 100)
    grow(SMALL)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")


@pytest.mark.slow
def test_no_list_filter_search_or_order_reads_a_growing_table_whole(large: None, operator: Client) -> None:
    person = User.objects.get(username="operator")
    wrong: dict[str, str] = {}
    asked = Asked()
    lists = [reverse(f"admin:deployments_{name}_changelist") for name in LISTS]
    for address in ("/admin/", *(each for one in lists for each in (one, *variations(one, person, most=2)))):
        known = len(asked)
        with connection.execute_wrapper(asked):
            assert operator.get(address).status_code == 200
        for _, (sql, params) in asked[known:]:
            for words in read_whole(sql, plan_of(sql, params)):
                wrong.setdefault(f"{words} ← {sql[:600]}", address)

    assert not wrong, "\n".join(f"{address}: {words}" for words, address in wrong.items())


@pytest.mark.slow
def test_no_read_of_the_api_reads_a_growing_table_whole(large: None, operator: Client) -> None:
    wrong: dict[str, str] = {}
    asked = Asked()
    for address, headers in api_addresses():
        known = len(asked)
        with connection.execute_wrapper(asked):
            operator.get(address, headers=headers)
        for _, (sql, params) in asked[known:]:
            for words in read_whole(sql, plan_of(sql, params)):
                wrong.setdefault(f"{words} ← {sql[:600]}", address)

    assert not wrong, "\n".join(f"{address}: {words}" for words, address in wrong.items())
