"""A real Prometheus scrapes a real web process as `deploy/prometheus` says, and evaluates each rule and each panel."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from tests.e2e.installation import Installation
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Debian's prometheus"),
]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KEY = "a-key-of-the-tests-0123456789-0123456789"
Ask = Callable[[str], Any]


@pytest.fixture
def prometheus(installation: Installation, tmp_path: Path) -> Iterator[Ask]:
    """Prometheus with our files, beside a web process: asks its API."""
    with installation.serving(METRICS_KEY=KEY) as origin:
        (tmp_path / "key").write_text(KEY)
        configuration = yaml.safe_load((DEPLOY / "prometheus/scrape.yaml").read_text())
        [job] = configuration["scrape_configs"]
        job["scheme"], job["authorization"]["credentials_file"] = "http", str(tmp_path / "key")
        job["static_configs"] = [{"targets": [origin.removeprefix("http://")]}]
        configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        configuration["rule_files"] = [str(DEPLOY / "prometheus/alerts.yaml")]
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={address}"]
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(["prometheus", *options], cwd=tmp_path, stdout=log, stderr=log)
        try:
            yield lambda path: _answer(address, f"/api/v1/{path}")
        finally:
            process.terminate()
            process.wait(20)


def _answer(address: str, path: str) -> Any:
    """The data of an answer; None if it is refused, or while Prometheus starts."""
    with closing(http.client.HTTPConnection(address, timeout=10)) as connection, suppress(OSError):
        connection.request("GET", path)
        response = connection.getresponse()
        if response.status == 200:
            return json.loads(response.read())["data"]
    return None


def value(prometheus: Ask, query: str) -> list[Any]:
    found = prometheus(f"query?query={quote(query)}")
    return found["result"] if found else []


def test_prometheus_scrapes_the_web_process_and_evaluates_every_rule_and_panel(prometheus: Ask) -> None:
    wait_for(lambda: value(prometheus, "registry_admin_workers"))
    [target] = prometheus("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")

    def rules() -> list[Any]:
        return [rule for group in prometheus("rules")["groups"] for rule in group["rules"]]

    # There is no worker in this installation; after five minutes the alert would fire.
    wait_for(lambda: {rule["name"] for rule in rules() if rule["state"] != "inactive"} == {"RegistryAdminNoWorker"})
    assert {rule["name"]: rule.get("lastError") for rule in rules() if rule["health"] != "ok"} == {}

    dashboard = json.loads((DEPLOY / "grafana/registry-admin.json").read_text())
    for panel in dashboard["panels"]:
        for query in panel.get("targets", []):
            expression = query["expr"].replace("$__rate_interval", "1m")
            assert prometheus(f"query?query={quote(expression)}") is not None, panel["title"]
