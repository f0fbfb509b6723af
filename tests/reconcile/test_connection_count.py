"""What the count of connections is made of. tests/e2e/test_connections.py compares it with real processes."""

from __future__ import annotations

import socket
from collections import Counter

import pytest
from django.db import connection

from deployments.models import Process, ProcessRole
from deployments.reconcile import connection_count

EIGHT_AND_ONE = Counter(web=8, worker=1)


@pytest.mark.parametrize(("accepts", "short"), [(None, False), (114, False), (113, True)])
def test_a_shortage_is_said_with_both_numbers(
    accepts: int | None, short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_count, "accepted", lambda: accepts)

    says = connection_count.shortage(EIGHT_AND_ONE, threads=8)

    assert connection_count.needed(EIGHT_AND_ONE, threads=8) == 114
    assert says == short * (
        "The processes need up to 114 connections to the database (8 web processes with 8 threads, 1 worker, 0 events "
        "processes), and the server accepts 113 from this role. With more, requests are answered with 503."
    )


@pytest.mark.django_db
def test_processes_that_a_start_replaces_are_not_counted_twice() -> None:
    for role, host in (
        (ProcessRole.WEB, socket.gethostname()),
        (ProcessRole.WEB, "other"),
        (ProcessRole.EVENTS, "other"),
    ):
        Process.objects.create(role=role, host=host, pid=1)

    assert connection_count.running(web=4) == Counter(web=5, events=1)
    assert connection_count.running() == Counter(web=2, events=1)


@pytest.mark.django_db
def test_sqlite_has_no_limit_and_postgresql_one_that_is_asked_for() -> None:
    found = connection_count.accepted()

    assert found is None if connection.vendor == "sqlite" else found is not None and found > 3
