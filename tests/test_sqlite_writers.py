"""SQLite's writers wait in turn: for a lock of this process first, then for the other processes."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError

from registry_admin.sqlite import base
from registry_admin.sqlite.base import DatabaseWrapper

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "db.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE counter (number INTEGER)")
        connection.execute("INSERT INTO counter VALUES (0)")
    connection.close()
    return path


def wrapper(path: Path, *, timeout: float = 20) -> DatabaseWrapper:
    """A connection of this program to the file."""
    settings: dict[str, Any] = {
        "ENGINE": "registry_admin.sqlite",
        "NAME": str(path),
        "OPTIONS": {"timeout": timeout, "transaction_mode": "IMMEDIATE"},
        "TIME_ZONE": None,
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": False,
        "AUTOCOMMIT": True,
        "ATOMIC_REQUESTS": False,
        "TEST": {},
    }
    return DatabaseWrapper(settings, alias="writers")


@pytest.fixture
def connection(path: Path) -> Iterator[DatabaseWrapper]:
    made = wrapper(path)
    yield made
    made.close()


def begin(connection: DatabaseWrapper) -> None:
    connection.set_autocommit(False, force_begin_transaction_with_broken_autocommit=True)


def end(connection: DatabaseWrapper) -> None:
    connection.rollback()
    connection.set_autocommit(True)


def add(path: Path, times: int) -> None:
    made = wrapper(path)
    for _ in range(times):
        begin(made)
        with made.cursor() as cursor:
            number = cursor.execute("SELECT number FROM counter").fetchone()[0]
            cursor.execute("UPDATE counter SET number = %s", [number + 1])
        made.commit()
        made.set_autocommit(True)
    made.close()


def number(connection: DatabaseWrapper) -> int:
    with connection.cursor() as cursor:
        return int(cursor.execute("SELECT number FROM counter").fetchone()[0])


@pytest.mark.costly
def test_no_write_of_threads_and_processes_is_lost(path: Path, connection: DatabaseWrapper) -> None:
    context = multiprocessing.get_context("fork")
    process = context.Process(target=add, args=(path, 50))
    process.start()
    threads = [threading.Thread(target=add, args=(path, 50)) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    process.join(60)

    assert number(connection) == 250


@pytest.mark.parametrize("statement", ["UPDATE counter SET number = 7", "BEGIN IMMEDIATE"])
def test_a_writer_waits_until_the_transaction_of_another_thread_ends(
    path: Path, connection: DatabaseWrapper, statement: str
) -> None:
    begin(connection)
    order: list[str] = []

    def write() -> None:
        other = wrapper(path)
        with other.cursor() as cursor:
            cursor.execute(statement)
        order.append("the other writes")
        other.close()

    thread = threading.Thread(target=write)
    thread.start()
    time.sleep(0.1)
    order.append("the transaction ends")
    end(connection)
    thread.join(20)

    assert order == ["the transaction ends", "the other writes"]


def test_a_reader_does_not_wait_for_a_writer(path: Path, connection: DatabaseWrapper) -> None:
    begin(connection)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE counter SET number = 7")
    other = wrapper(path, timeout=0)

    assert number(other) == 0
    other.close()
    end(connection)


def test_who_waits_longer_than_the_timeout_gets_sqlites_own_error(path: Path, connection: DatabaseWrapper) -> None:
    other = wrapper(path, timeout=0.05)
    begin(connection)
    with pytest.raises(OperationalError, match="database is locked"), other.cursor() as cursor:
        cursor.execute("UPDATE counter SET number = 7")
    end(connection)

    with sqlite3.connect(path, isolation_level=None) as foreign:  # another program, which knows nothing of our lock
        foreign.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="database is locked"), other.cursor() as cursor:
            cursor.execute("UPDATE counter SET number = 7")
        foreign.execute("ROLLBACK")
    foreign.close()
    with other.cursor() as cursor:
        cursor.execute("UPDATE counter SET number = 7")

    assert number(other) == 7
    other.close()


def test_a_connection_that_is_closed_in_its_transaction_lets_the_next_one_write(
    path: Path, connection: DatabaseWrapper
) -> None:
    begin(connection)
    connection.close()
    other = wrapper(path, timeout=0.05)
    with other.cursor() as cursor:
        cursor.execute("UPDATE counter SET number = 7")

    assert number(other) == 7
    other.close()


def test_a_transaction_that_a_statement_ends_lets_the_next_one_write(path: Path, connection: DatabaseWrapper) -> None:
    with connection.cursor() as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        cursor.execute("COMMIT")
    other = wrapper(path, timeout=0.05)
    with other.cursor() as cursor:
        cursor.execute("UPDATE counter SET number = 7")

    assert number(other) == 7
    other.close()


def test_a_commit_without_wal_waits_for_readers(path: Path, connection: DatabaseWrapper) -> None:
    with sqlite3.connect(path, isolation_level=None, check_same_thread=False) as reader:
        reader.execute("PRAGMA journal_mode=DELETE")
        begin(connection)
        with connection.cursor() as cursor:
            cursor.execute("UPDATE counter SET number = 7")
        rows = reader.execute("SELECT number FROM counter UNION ALL SELECT 1 UNION ALL SELECT 2")
        rows.fetchone()  # the reader has a lock until its statement ends
        ends = threading.Timer(0.2, rows.close)
        ends.start()
        connection.commit()
        ends.join()
    reader.close()
    connection.set_autocommit(True)

    assert number(connection) == 7


def test_a_child_process_does_not_wait_for_a_thread_that_only_its_parent_has(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    child = context.Process(target=add, args=(path, 1))
    with base._writer:  # as while a thread writes; SQLite itself forbids to take an open connection through a fork
        child.start()
    child.join(10)
    connection = wrapper(path)

    assert (child.exitcode, number(connection)) == (0, 1)
    connection.close()


def test_an_error_in_a_statement_without_a_transaction_keeps_no_lock(path: Path, connection: DatabaseWrapper) -> None:
    with pytest.raises(OperationalError, match="no such table"), connection.cursor() as cursor:
        cursor.execute("UPDATE nowhere SET number = 7")
    other = wrapper(path, timeout=0.05)
    with other.cursor() as cursor:
        cursor.execute("UPDATE counter SET number = 7")

    assert number(other) == 7
    other.close()
