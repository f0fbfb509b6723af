"""Numbers for machines: closed without a key, true with one, in a form that Prometheus reads."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from deployments.metrics import Sample, as_text, samples
from deployments.models import Process, ProcessRole, Repository
from tests.admin.installation import Installation

KEY = "a-key-of-the-tests"
SENT = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def watched(db: None, settings: Any) -> Client:
    settings.METRICS_KEY = KEY
    return Client(headers=SENT)


@pytest.mark.parametrize("path", ["/metrics", "/status.json"])
def test_without_a_key_in_the_settings_there_is_nothing_there(path: str, db: None) -> None:
    assert Client(headers=SENT).get(path).status_code == 404
    assert Client().get(path).status_code == 404


@pytest.mark.parametrize("path", ["/metrics", "/status.json"])
@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", "Bearer ü"])
def test_who_does_not_send_the_key_is_told_nothing(path: str, given: str, watched: Client) -> None:
    response = Client(headers={"Authorization": given}).get(path)

    assert (response.status_code, response.content) == (401, b"")


def test_the_numbers_are_those_of_the_rows_and_readable(watched: Client) -> None:
    Installation(projects=2, repositories=12, deployments=40)
    Process.objects.all().delete()
    Process.objects.create(role=ProcessRole.WORKER, host="one", pid=1)
    Process.objects.create(role=ProcessRole.WORKER, host="gone", pid=2, beat_at=timezone.now() - timedelta(hours=1))
    response = watched.get("/metrics")
    text = response.content.decode()

    assert "version=0.0.4" in response["Content-Type"]
    drifted = Repository.objects.filter(status="drifted")
    assert sum(int(each) for each in re.findall(r'repositories\{.*status="drifted"\} (\d+)', text)) == drifted.count()
    assert "registry_admin_workers 1\n" in text
    assert re.search(r"registry_admin_drift_seconds [1-9]", text)
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) \w+ .+|\w+(\{(\w+=\"[^\"]*\",?)+\})? -?[0-9.]+", line), line
    typed = re.findall(r"# TYPE (\w+)", text)
    assert len(typed) == len(set(typed))


def test_an_empty_installation_has_numbers_too(watched: Client) -> None:
    text = watched.get("/metrics").content.decode()

    assert 'registry_admin_deployments{status="FAILED"} 0' in text
    assert "registry_admin_workers 0" in text
    assert watched.get("/status.json").json()["ok"] is False


def test_the_status_is_good_while_a_worker_lives_and_the_queue_moves(
    watched: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    Process.objects.create(role=ProcessRole.WORKER, host="one", pid=1)
    assert watched.get("/status.json").json()["ok"] is True

    monkeypatch.setattr("deployments.tasks.oldest_waiting", lambda: 600.0)
    told = watched.get("/status.json").json()
    assert (told["ok"], told["queue_wait_seconds"]) == (False, 600.0)


def test_a_scrape_takes_a_known_number_of_queries(watched: Client) -> None:
    Installation(projects=2, repositories=12, deployments=40)
    with CaptureQueriesContext(connection) as captured:
        list(samples())

    assert len(captured) <= 13


def test_a_label_cannot_break_out_of_its_quotes() -> None:
    text = as_text(iter([Sample(name="x", help="X.", value=1, labels={"a": 'b"} 2\n\\'})]))

    assert text.splitlines()[-1] == 'registry_admin_x{a="b\\"} 2\\n\\\\"} 1'
