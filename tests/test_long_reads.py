"""A file that somebody downloads slowly holds no read transaction, and has the rows of the list in their order."""

from __future__ import annotations

import sqlite3

import psycopg
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from deployments import long_reads
from deployments.models import AuditEntry, Project


def projects(number: int) -> None:
    Project.objects.bulk_create([Project(name=f"P{place:03}") for place in range(number)])


@pytest.mark.django_db
def test_the_rows_come_once_each_in_the_order_of_the_query() -> None:
    projects(25)
    rows = Project.objects.filter(name__gt="P001").order_by("-name")

    assert list(long_reads.in_pages(rows, size=10)) == list(rows)


@pytest.mark.django_db
def test_a_row_that_is_deleted_during_the_download_is_left_out_and_all_others_come() -> None:
    projects(5)
    rows = long_reads.in_pages(Project.objects.order_by("name"), size=2)
    first = next(rows)
    Project.objects.filter(name="P003").delete()

    assert [first.name, *(row.name for row in rows)] == ["P000", "P001", "P002", "P004"]


@pytest.mark.django_db(transaction=True)
def test_no_read_transaction_is_open_while_the_client_reads_the_file() -> None:
    AuditEntry.objects.bulk_create([AuditEntry(actor_kind="system", action="note.test") for _ in range(20)])
    rows = long_reads.in_pages(AuditEntry.objects.all(), size=5)
    next(rows)
    AuditEntry.objects.create(actor_kind="system", action="note.test")

    if connection.vendor == "sqlite":
        other = sqlite3.connect(str(connection.settings_dict["NAME"]), timeout=0)
        busy, *_ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        other.close()
        assert busy == 0
    else:
        assert connection.connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_cursors")
            assert cursor.fetchone() == (0,)
    assert len(list(rows)) == 19


@pytest.mark.django_db
@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL bounds its own log")
def test_sqlite_gives_a_large_wal_file_back() -> None:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_size_limit")
        assert cursor.fetchone() == (64 * 2**20,)
        cursor.execute("PRAGMA journal_mode")
        assert cursor.fetchone() == ("wal",)


@pytest.mark.django_db
def test_a_page_is_read_by_its_keys_and_not_by_the_conditions_of_the_list() -> None:
    AuditEntry.objects.bulk_create([AuditEntry(actor_kind="system", action="note.test") for _ in range(3)])
    with CaptureQueriesContext(connection) as captured:
        assert len(list(long_reads.in_pages(AuditEntry.objects.filter(actor_kind="system")))) == 3

    _, page = captured.captured_queries
    assert "actor_kind" not in page["sql"].partition("WHERE")[2]
