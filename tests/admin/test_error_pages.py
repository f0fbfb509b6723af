"""Error pages: inside the console for a person who may use it, plain for others, and never an error themselves."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tests.admin.installation import Installation

NOWHERE = "/admin/nothing/"
NAVIGATION = 'aria-label="Sections"'


def broken(*_: Any, **__: Any) -> None:
    raise KeyError("internal-name")


def refused(*_: Any, **__: Any) -> None:
    raise PermissionDenied


@pytest.mark.parametrize(
    ("fails", "status", "words"),
    [
        (None, 404, "This address does not exist"),
        (refused, 403, "You do not have permission"),
        (broken, 500, "Your request is not the cause"),
    ],
)
def test_an_error_page_keeps_the_navigation(
    fails: Any, status: int, words: str, installation: Installation, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fails is not None:
        monkeypatch.setattr("deployments.admin.dashboard.dashboard", fails)
    operator.raise_request_exception = False

    answer = operator.get(NOWHERE if fails is None else "/admin/")

    page = answer.content.decode()
    assert answer.status_code == status
    assert words in page
    assert NAVIGATION in page
    assert "/admin/deployments/repository/" in page
    assert answer["X-Request-ID"] in page
    assert "no-store" in answer["Cache-Control"]
    assert "internal-name" not in page


@pytest.mark.parametrize("is_user", [False, True])
def test_who_may_not_use_the_console_gets_the_plain_page(
    is_user: bool, installation: Installation, client: Client
) -> None:
    if is_user:
        client.force_login(User.objects.create_user("guest"))

    page = client.get("/projects/nothing/").content.decode()

    assert "This address does not exist" in page
    assert NAVIGATION not in page
    assert "Log out" not in page


def test_an_error_page_is_plain_if_the_navigation_cannot_be_read(
    installation: Installation, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise DatabaseError("gone")

    monkeypatch.setattr("deployments.admin.dashboard.shell", away)

    answer = operator.get("/projects/nothing/")

    assert answer.status_code == 404
    assert "This address does not exist" in answer.content.decode()
    assert NAVIGATION not in answer.content.decode()


def test_an_error_page_makes_no_query_beside_those_of_the_navigation(
    installation: Installation, operator: Client
) -> None:
    counts = []
    for address in ("/projects/nothing/", "/admin/password_change/"):
        with CaptureQueriesContext(connection) as captured:
            operator.get(address)
        counts.append(len(captured))

    error_page, page_without_rows = counts
    assert error_page <= page_without_rows


def test_an_answer_of_the_api_stays_json_and_reads_no_session(installation: Installation, operator: Client) -> None:
    with CaptureQueriesContext(connection) as captured:
        answer = operator.get("/api/v1/nothing")

    assert answer.status_code == 404
    assert answer["Content-Type"] == "application/json"
    assert len(captured) == 0
