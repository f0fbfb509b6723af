"""The alert rules and the dashboard name what `/metrics` has, and their own tools read them.

promtool is Debian's (package prometheus) and checks every expression; Grafana itself cannot be had here, so the
dashboard is read by Grafana's own library for dashboards, and nothing is drawn.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands
from django.test import Client
from django.utils import timezone
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

from deployments import measure, tasks
from deployments.models import ChangeFeed, PolicyStep, PolicyVersion, Repository, Sweep, SweepTrigger, VersionState
from deployments.settings_table import SETTINGS
from tests.admin.installation import ENVIRONMENT, OWNER, Installation

ROOT = Path(__file__).resolve().parent.parent
RULES, UNIT_TESTS = ROOT / "deploy/prometheus/alerts.yaml", ROOT / "deploy/prometheus/alerts.test.yaml"
SCRAPE = ROOT / "deploy/prometheus/scrape.yaml"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/registry-admin.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
DOCUMENT = (ROOT / "docs/logs-and-metrics.md").read_text()
KEY = "a-key-of-the-tests-0123456789-0123456789"

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's prometheus, for promtool")


def run(*arguments: str, folder: Path) -> str:
    done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def families(transactional_db: None, settings: Any, configure: Any) -> dict[str, set[str]]:
    """What `/metrics` has where everything is there: a roll-out, a change feed, sweeps, images. By name."""
    settings.METRICS_KEY = KEY
    configure(**ENVIRONMENT)
    Installation(projects=2, repositories=12, deployments=40)
    tasks.ensure_schedules()
    version = PolicyVersion.objects.get(state=VersionState.ACTIVE)
    PolicyVersion.objects.create(
        account=OWNER, region="us-east-1", namespace="trigger", number=3, text=version.text, follows=version,
        state=VersionState.STOPPED,
    ).steps.add(PolicyStep(repository=Repository.objects.all()[0], stage=0), bulk=False)  # fmt: skip
    now = timezone.now()
    moments = dict.fromkeys(("first_proven_at", "proven_at", "arrived_at", "unbroken_since"), now)
    ChangeFeed.objects.create(account=OWNER, region="us-east-1", **moments)
    Sweep.objects.create(trigger=SweepTrigger.SCHEDULE, listed_at=now - timedelta(minutes=1))
    measure.refusal("image_not_found")
    measure.log_in("done")
    measure.aws_call(operation="CreateRepository", outcome="ok", seconds=0.1, is_write=True)
    measure.request(route="api/v1/deployments", method="POST", status=200, seconds=0.1)
    text = Client(headers={"Authorization": f"Bearer {KEY}"}).get("/metrics").content.decode()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def used(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric of an expression with the labels by which it is selected."""
    for name, selector in re.findall(r"(registry_admin_\w+)(\{[^}]*\})?", expression):
        yield name, set(re.findall(r"(\w+)\s*[=!]~?=?\s*\"", selector))


@pytest.mark.costly
def test_every_metric_and_label_of_the_rules_and_the_dashboard_is_in_metrics_and_the_document_has_all(
    families: dict[str, set[str]],
) -> None:
    expressions = [rule["expr"] for rule in ALERTS] + QUERIES
    series = re.findall(r"registry_admin_\w+(?:\{[^}]*\})?", UNIT_TESTS.read_text())
    for expression in expressions + series:
        for name, labels in used(expression):
            assert name in families, name
            assert labels <= families[name], (name, labels)
    shown = {name for expression in expressions for name, _ in used(expression)}
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in families}
    assert ours - {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown} == set(), "on no panel"
    missing = [name for name in ours if f"`{name.removeprefix('registry_admin_')}" not in DOCUMENT]
    assert missing == []


def test_each_alert_says_what_happens_and_the_next_step_and_names_what_exists() -> None:
    commands = {*get_commands(), "web"}
    settings = {setting.name for setting in SETTINGS}
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        words = rule["annotations"]
        assert set(words) == {"summary", "description", "next_step"}, rule["alert"]
        text = " ".join(words.values())
        assert set(re.findall(r"registry-admin (\w+)", text)) <= commands, text
        assert {name for name in re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", text) if name != "TIMED_OUT"} <= settings, text
        assert all((ROOT / page).exists() for page in re.findall(r"docs/[\w-]+\.md", text)), text


def test_an_alert_shows_only_labels_that_its_expression_keeps() -> None:
    for rule in ALERTS:
        kept = {label for by in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for label in re.split(r",\s*", by)}
        shown = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        assert shown <= kept, rule["alert"]


def test_each_alert_has_a_unit_test_in_which_it_is_silent_first_and_fires_then() -> None:
    tests = yaml.safe_load(UNIT_TESTS.read_text())["tests"]

    assert [test["name"] for test in tests] == [rule["alert"] for rule in ALERTS]
    for test in tests:
        silent, firing = test["promql_expr_test"]
        assert silent["expr"] == firing["expr"] == f'count(ALERTS{{alertname="{test["name"]}", alertstate="firing"}})'
        assert (silent["exp_samples"], firing["exp_samples"]) == ([], [{"value": 1}])


@promtool
def test_promtool_reads_the_rules_and_each_fires_when_it_shall() -> None:
    assert f"{len(ALERTS)} rules found" in run("check", "rules", RULES.name, folder=RULES.parent)
    assert "SUCCESS" in run("test", "rules", UNIT_TESTS.name, folder=RULES.parent)


@promtool
def test_promtool_reads_the_scrape_configuration(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    text = SCRAPE.read_text().replace("/etc/prometheus/registry-admin.key", "key")
    (tmp_path / "prometheus.yml").write_text(text + f"rule_files: [{RULES}]\n")

    assert "SUCCESS" in run("check", "config", "prometheus.yml", folder=tmp_path)


@promtool
@pytest.mark.costly
def test_promtool_finds_nothing_wrong_with_what_metrics_answers(families: dict[str, Any], tmp_path: Path) -> None:
    answer = Client(headers={"Authorization": f"Bearer {KEY}"}).get("/metrics").content
    checked = subprocess.run(["promtool", "check", "metrics"], input=answer, capture_output=True, timeout=60)

    # It also advises on names; those were given out, and stay.
    assert b"error" not in checked.stderr.lower()
    assert checked.returncode in (0, 3)


@promtool
def test_promtool_reads_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(QUERIES)
    ]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))

    assert f"{len(QUERIES)} rules found" in run("check", "rules", "panels.yaml", folder=tmp_path)


def test_grafanas_own_library_reads_the_dashboard_and_keeps_all_of_it() -> None:
    plugins.register_default_plugins()

    read = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))

    assert list(lost(DASHBOARD, read)) == []


def lost(wrote: Any, read: Any, path: str = "") -> Iterator[str]:
    """The places of a dashboard that its reader does not know, or reads as something else."""
    if isinstance(wrote, dict) and isinstance(read, dict):
        for key, value in wrote.items():
            yield from lost(value, read[key], f"{path}.{key}") if key in read else [f"{path}.{key}"]
    elif isinstance(wrote, list) and isinstance(read, list) and len(wrote) == len(read):
        for number, (left, right) in enumerate(zip(wrote, read, strict=True)):
            yield from lost(left, right, f"{path}[{number}]")
    elif wrote != read:
        yield path


def test_the_panels_of_the_dashboard_overlap_nowhere_and_each_says_what_it_shows() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert [
        panel["title"] for panel in PANELS if not panel["description"] or not panel["fieldConfig"]["defaults"]
    ] == []
    assert {query["datasource"]["uid"] for panel in PANELS for query in panel["targets"]} == {"${datasource}"}
