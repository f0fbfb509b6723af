"""Pages that renew themselves: what a poll gets, costs and leaves alone; what is left of a sweep, and why."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from deployments.models import (
    AccessKey,
    Deployment,
    Process,
    Repository,
    RepositoryStatus,
    Sweep,
    SweepChunk,
    SweepFinding,
    SweepStatus,
)
from tests.admin.installation import HOST, Installation

POLL = {"X-Live": "1"}


def in_sync() -> Repository:
    return Repository.objects.filter(host=HOST, status=RepositoryStatus.IN_SYNC)[0]


def address_of(row: Any) -> str:
    return reverse(f"admin:deployments_{row._meta.model_name}_change", args=[row.pk])


def live_pages() -> dict[str, str]:
    return {
        "dashboard": reverse("admin:index"),
        "sweep": address_of(Sweep.objects.filter(status="running")[0]),
        "repository": address_of(in_sync()),
        "deployment": address_of(Deployment.objects.order_by("pk")[0]),
        "key": address_of(AccessKey.objects.order_by("pk")[0]),
    }


def a_sweep_of(row: Repository, **chunk: Any) -> Sweep:
    """A running sweep that names the repository; with values of a chunk it has been listed."""
    sweep = Sweep.objects.create(
        trigger="person", requested_by="mira", names=[row.name], listed_at=timezone.now() if chunk else None
    )
    if chunk:
        sweep.chunks.create(position=0, host=HOST, namespace="trigger", size=1, remaining=[row.pk], **chunk)
    return sweep


def a_worker(**values: Any) -> Process:
    return Process.objects.create(role="worker", host="here", pid=7, **values)


def text_of(client: Client, address: str) -> str:
    return " ".join(re.sub("<[^>]+>", " ", client.get(address).content.decode()).split())


@pytest.mark.costly
@pytest.mark.parametrize("name", ["dashboard", "sweep", "repository", "deployment", "key"])
def test_a_poll_of_an_unchanged_page_is_answered_by_304_and_of_a_changed_page_by_the_page(
    name: str, installation: Installation, operator: Client
) -> None:
    address = live_pages()[name]
    page = operator.get(address)
    assert "admin_theme/live.js" in page.content.decode()
    assert not page.has_header("ETag")

    first = operator.get(address, headers=POLL)
    again = operator.get(address, headers={**POLL, "If-None-Match": first["ETag"]})
    weak = operator.get(address, headers={**POLL, "If-None-Match": f"W/{first['ETag']}"})  # a proxy compressed it

    assert (first.status_code, again.status_code, weak.status_code) == (200, 304, 304)
    assert again.content == b""
    assert b'id="content"' in first.content
    Deployment.objects.order_by("pk").update(status="BUILDING")  # it stands in the header of every page
    assert operator.get(address, headers={**POLL, "If-None-Match": first["ETag"]}).status_code == 200


@pytest.mark.costly
def test_the_words_of_a_time_do_not_change_the_page(
    installation: Installation, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They change each minute; the page's script renews them by itself."""
    address = live_pages()["sweep"]
    first = operator.get(address, headers=POLL)
    [kind] = re.findall(r'<dt>Running for</dt><dd><time [^>]*data-live="(\w+)">', first.content.decode())
    assert kind == "since"
    later = timezone.now() + timedelta(hours=3)
    monkeypatch.setattr("deployments.admin.display.timezone.now", lambda: later)
    assert "3h 0" in operator.get(address, headers=POLL).content.decode()

    assert operator.get(address, headers={**POLL, "If-None-Match": first["ETag"]}).status_code == 304
    Sweep.objects.filter(status="running").update(requested_by="somebody else")
    assert operator.get(address, headers={**POLL, "If-None-Match": first["ETag"]}).status_code == 200


@pytest.mark.costly
@pytest.mark.parametrize("name", ["dashboard", "sweep", "repository", "deployment", "key"])
def test_a_poll_makes_at_most_twenty_queries_and_writes_nothing(
    name: str, installation: Installation, operator: Client
) -> None:
    address = live_pages()[name]
    etag = operator.get(address, headers=POLL)["ETag"]

    with CaptureQueriesContext(connection) as asked:
        assert operator.get(address, headers={**POLL, "If-None-Match": etag}).status_code == 304

    assert len(asked) <= 20
    assert {query["sql"].lstrip("(").split()[0] for query in asked.captured_queries} == {"SELECT"}


@pytest.mark.costly
def test_a_poll_neither_extends_the_session_nor_takes_a_message_from_the_next_page(
    installation: Installation, operator: Client
) -> None:
    row = in_sync()
    ends = timezone.now() + timedelta(minutes=5)
    Session.objects.update(expire_date=ends)
    operator.post(reverse("admin:deployments_repository_look", args=[row.pk, "reconcile"]))

    polled = operator.get(address_of(row), headers=POLL)

    assert "queued for the repository" not in polled.content.decode()
    assert "queued for the repository" in operator.get(address_of(row)).content.decode()
    assert Session.objects.get().expire_date == ends
    assert not polled.cookies


@pytest.mark.costly
def test_a_poll_gets_no_token_and_the_page_of_a_person_has_one(installation: Installation, operator: Client) -> None:
    address = live_pages()["sweep"]
    token = re.compile('name="csrfmiddlewaretoken" value="([^"]*)"')

    assert set(token.findall(operator.get(address, headers=POLL).content.decode())) == {"kept"}
    assert "kept" not in token.findall(operator.get(address).content.decode())


@pytest.mark.costly
def test_the_line_of_a_poll_is_written_at_debug_only(
    installation: Installation, operator: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def lines(address: str) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO, "deployments.api.middleware"):
            operator.get(address, headers=POLL)
        return [record.levelname for record in caplog.records if record.name == "deployments.api.middleware"]

    assert lines(live_pages()["repository"]) == []
    for name in ("setup", "deployments_sweep_start"):  # pages that are not live: the header hides no request
        assert lines(reverse(f"admin:{name}")) == ["INFO"]
    assert lines(reverse("admin:deployments_repository_change", args=[0])) == ["INFO"]


def test_a_poll_after_the_log_in_has_ended_is_led_away_and_of_a_deleted_row_is_404(
    installation: Installation, operator: Client, person: Callable[..., Client]
) -> None:
    address = live_pages()["repository"]
    gone = reverse("admin:deployments_repository_change", args=[0])
    assert operator.get(gone, headers=POLL).status_code == 404
    assert operator.get(gone).status_code == 302
    assert person("view_sweep").get(address, headers=POLL).status_code == 403
    Session.objects.all().delete()

    assert operator.get(address, headers=POLL).status_code == 302


@pytest.mark.costly
def test_without_a_script_a_page_has_a_link_that_reloads_it_while_something_runs(
    installation: Installation, operator: Client
) -> None:
    sweep = Sweep.objects.filter(status="running")[0]
    address = f"{address_of(sweep)}?outcome=failed"
    link = (
        f'<noscript>\n      <p class="note">\n        Work is in progress. This page shows the state at the time '
        f'when it was loaded.\n        <a href="{address}">Reload</a>'
    )
    assert link in operator.get(address).content.decode()
    Sweep.objects.update(status=SweepStatus.DONE, finished_at=Now())

    page = operator.get(address).content.decode()
    assert "<noscript>" not in page
    assert "data-running" not in page


@pytest.mark.parametrize(
    ("chunk", "worker", "words"),
    [
        ({}, True, "Waits for a worker."),
        ({}, False, "No worker is running."),
        (dict(lease_owner="w", lease_until=timezone.now() + timedelta(hours=1)), True, "A worker is checking"),
        (dict(lease_owner="w", lease_until=timezone.now() - timedelta(hours=1)), True, "Waits for a worker."),
        (dict(lease_until=timezone.now() + timedelta(hours=1)), True, "Another process works on this part."),
        (dict(throttled={}), True, "Waits for a worker."),
    ],
)  # fmt: skip
def test_what_is_left_of_a_running_sweep_is_named_with_its_reason(
    chunk: dict[str, Any], worker: bool, words: str, installation: Installation, operator: Client
) -> None:
    row = in_sync()
    Process.objects.all().delete()
    if worker:
        a_worker()
    sweep = a_sweep_of(row, **{"attempts": 0, **chunk})

    text = text_of(operator, address_of(sweep)).partition("What is left 1 repository ")[2]

    assert text.startswith(words)
    assert row.name in text.partition(" Facts ")[0]
    assert ("checked again in" in text) == ("lease_until" in chunk and "lease_owner" not in chunk)


@pytest.mark.costly
def test_the_throttled_repositories_come_first_and_the_others_are_counted(
    installation: Installation, operator: Client
) -> None:
    """C5: for minutes 36 of 37 were checked, and no page named the last one."""
    rows = list(Repository.objects.order_by("pk")[:12])
    sweep = a_sweep_of(rows[0], throttled={rows[11].pk: 5, 0: 1})
    SweepChunk.objects.filter(sweep=sweep).update(size=12, remaining=[row.pk for row in rows])

    text = text_of(operator, address_of(sweep)).partition("What is left 12 repositories ")[2]

    words = "AWS throttled the calls or did not answer: 5 of 8 tries. After the last try it is failed."
    assert text.startswith(f"{words} {rows[11].name} ")
    assert f"{rows[0].name} , " in text
    assert f"{rows[4].name} and 6 more" in text
    Sweep.objects.filter(pk=sweep.pk).update(status=SweepStatus.DONE)
    assert "What is left" not in text_of(operator, address_of(sweep))


@pytest.mark.costly
def test_the_page_of_a_repository_follows_its_check_from_queued_to_the_result(
    installation: Installation, operator: Client
) -> None:
    """C12: after Reconcile now the page stood still for ever."""
    row = in_sync()
    a_worker()
    operator.post(reverse("admin:deployments_repository_look", args=[row.pk, "reconcile"]))
    sweep = Sweep.objects.latest("pk")
    assert "Reconcile: queued Waits for a worker." in text_of(operator, address_of(row))
    assert "data-running" in operator.get(address_of(row)).content.decode()
    other = Repository.objects.filter(host=HOST, status="in_sync").exclude(pk=row.pk)[0]
    assert "data-running" not in operator.get(address_of(other)).content.decode()

    chunk = sweep.chunks.create(position=0, host=HOST, namespace="n", size=1, remaining=[row.pk])
    Sweep.objects.filter(pk=sweep.pk).update(listed_at=Now())
    assert "Reconcile: queued Waits for a worker." in text_of(operator, address_of(row))
    SweepChunk.objects.filter(pk=chunk.pk).update(lease_owner="w", lease_until=Now() + timedelta(hours=1))
    assert "Reconcile: running A worker is checking" in text_of(operator, address_of(row))

    SweepFinding.objects.create(sweep=sweep, repository=row, outcome="healed", words="222222222222 can pull again.")
    SweepChunk.objects.filter(pk=chunk.pk).update(remaining=[], healed=1, finished_at=Now())
    Sweep.objects.filter(pk=sweep.pk).update(status=SweepStatus.DONE, finished_at=Now())
    assert "Reconcile: healed just now 222222222222 can pull again." in text_of(operator, address_of(row))
    assert "data-running" not in operator.get(address_of(row)).content.decode()
    Sweep.objects.filter(pk=sweep.pk).update(finished_at=Now() - timedelta(minutes=11))
    assert "Reconcile: healed" not in text_of(operator, address_of(row))


@pytest.mark.costly
@pytest.mark.parametrize(
    ("status", "words"), [("done", "Refresh: done"), ("stopped", "Refresh: stopped"), ("failed", "Refresh: failed")]
)
def test_a_check_that_ended_without_a_finding_says_how(
    status: str, words: str, installation: Installation, operator: Client
) -> None:
    row = in_sync()
    sweep = a_sweep_of(row)
    Sweep.objects.filter(pk=sweep.pk).update(status=status, finished_at=Now(), dry_run=True, error="No credentials.")

    text = text_of(operator, address_of(row))

    assert words in text
    assert ("In sync." in text.partition(words)[2][:40]) == (status == "done")


@pytest.mark.costly
@pytest.mark.parametrize(
    ("waits", "worker", "shown"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_every_page_says_that_no_worker_is_running_while_work_waits(
    waits: bool, worker: bool, shown: bool, installation: Installation, operator: Client, person: Callable[..., Client]
) -> None:
    """C4: the alarm stood only on the dashboard and on the Health page."""
    Process.objects.all().delete()
    if worker:
        a_worker()
    if not waits:
        Sweep.objects.update(status=SweepStatus.DONE)
        Deployment.objects.update(status="FAILED")

    for address in (reverse("admin:deployments_project_changelist"), address_of(in_sync())):
        page = operator.get(address).content.decode()
        assert (f'class="running stopped" href="{reverse("admin:setup")}"' in page) == shown
    page = person("view_sweep").get(reverse("admin:deployments_sweep_changelist")).content.decode()
    assert (f'class="running stopped" href="{reverse("admin:index")}"' in page) == shown
