"""gunicorn as it is shipped: its workers count together, and every line of its log has the one form."""

from __future__ import annotations

import http.client
import json
import re
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.installation import Installation, request

pytestmark = pytest.mark.slow
KEY = "a-key-of-the-tests-0123456789-0123456789"


def test_the_counts_of_two_workers_add_up_and_every_line_of_the_log_is_json(
    installation: Installation, tmp_path: Path
) -> None:
    target = installation.new_target()
    began = installation.log.stat().st_size
    with installation.serving(METRICS_KEY=KEY, TMPDIR=str(tmp_path)) as origin:
        sent = 0
        while sent < 40 or (sent < 2000 and len(list(tmp_path.glob("*/histogram_*.db"))) < 2):
            url = f"{origin}/api/v1/projects/{target.ref}/prod"
            assert request("GET", url, Authorization=f"Bearer {target.keys['prod']}")[0] == 200
            sent += 1
        files = len(list(tmp_path.glob("*/histogram_*.db")))
        scrapes = [request("GET", f"{origin}/metrics", Authorization=f"Bearer {KEY}")[1] for _ in range(8)]

    assert files == 2  # both workers answered requests
    for scrape in scrapes:
        text = scrape.decode() if isinstance(scrape, bytes) else scrape
        counted = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "registry_admin_request_duration_seconds_count"
            and sample.labels["route"] == "api/v1/projects/<ref>/<env>"
        ]
        assert counted == [sent]
    assert list(tmp_path.iterdir()) == []  # the directory of the counts is removed with the master
    with installation.log.open() as file:
        file.seek(began)
        lines = [json.loads(line) for line in file.read().splitlines()]
    assert {"gunicorn.error", "deployments.api.middleware"} <= {line["logger"] for line in lines}
    assert sum(line["event"] == "request" for line in lines) == sent  # the scrapes have no line


def wrong_log_in(origin: str) -> int:
    """The status of a wrong password, on a connection of its own: any of the workers may answer."""
    parts = urlsplit(origin)
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)) as connection:
        connection.request("GET", "/admin/login/")
        page = connection.getresponse()
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.read().decode())
        assert token is not None
        body = urlencode({"csrfmiddlewaretoken": token[1], "username": "eve", "password": "wrong"})
        cookie = page.headers["Set-Cookie"].partition(";")[0]
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": cookie}
        connection.request("POST", "/admin/login/", body, headers)
        return connection.getresponse().status


def test_two_workers_share_the_count_of_wrong_passwords(installation: Installation, tmp_path: Path) -> None:
    with installation.serving(METRICS_KEY=KEY, TMPDIR=str(tmp_path)) as origin:
        first = [wrong_log_in(origin) for _ in range(10)]
        later = [wrong_log_in(origin) for _ in range(40)]
        workers = len(list(tmp_path.glob("*/counter_*.db")))
    installation.manage("axes_reset")

    assert first == [200] * 9 + [429]
    assert set(later) == {429}
    assert workers == 3  # both counted log-ins; the file of the master has only the zeros of the start
