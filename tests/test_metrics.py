"""Numbers for machines: closed without a key, true with one, in a form that Prometheus reads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from deployments import measure
from deployments.access import keys
from deployments.admin import chart
from deployments.deploys import tally
from deployments.measure import Sample
from deployments.metrics import samples
from deployments.models import Environment, Process, ProcessRole, Repository
from sandbox.control import Sandbox
from tests.admin.installation import Installation
from tests.support.cli import Cli

ROOT = Path(__file__).resolve().parent.parent
KEY = "a-key-of-the-tests-0123456789-0123456789"
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
def test_who_does_not_send_the_key_gets_no_number(path: str, given: str, watched: Client) -> None:
    response = Client(headers={"Authorization": given}).get(path)

    assert (response.status_code, response.content) == (401, b"")


@pytest.mark.parametrize("path", ["/metrics", "/status.json"])
def test_a_monitor_asks_a_host_by_its_own_address(path: str, watched: Client) -> None:
    assert watched.get(path, headers={"Host": "10.0.0.11:8000"}).status_code == 200
    assert Client().get(path, headers={"Host": "10.0.0.11:8000"}).status_code == 401


@pytest.mark.costly
def test_the_numbers_are_those_of_the_rows_and_readable(watched: Client) -> None:
    Installation(projects=2, repositories=12, deployments=40)
    Process.objects.all().delete()
    Process.objects.create(role=ProcessRole.WORKER, host="one", pid=1)
    Process.objects.create(role=ProcessRole.WORKER, host="gone", pid=2, beat_at=timezone.now() - timedelta(hours=1))
    response = watched.get("/metrics")
    text = response.content.decode()

    assert "version=0.0.4" in response["Content-Type"]
    drifted = Repository.objects.filter(status="drifted")
    assert (
        sum(int(each) for each in re.findall(r'repositories\{.*status="drifted"\} (\d+)\.0', text)) == drifted.count()
    )
    assert "registry_admin_workers 1.0\n" in text
    assert re.search(r"registry_admin_drift_seconds [1-9]", text)
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) \w+ .+|\w+(\{(\w+=\"[^\"]*\",?)+\})? -?[0-9.e-]+", line), line
    typed = re.findall(r"# TYPE (\w+)", text)
    assert len(typed) == len(set(typed))


def test_an_empty_installation_has_numbers_too(watched: Client) -> None:
    text = watched.get("/metrics").content.decode()

    assert 'registry_admin_deployments{status="FAILED"} 0.0' in text
    assert "registry_admin_workers 0.0" in text
    assert watched.get("/status.json").json()["ok"] is False


def test_the_status_is_good_while_a_worker_lives_and_the_queue_moves(
    watched: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    Process.objects.create(role=ProcessRole.WORKER, host="one", pid=1)
    assert watched.get("/status.json").json()["ok"] is True

    monkeypatch.setattr("deployments.tasks.oldest_waiting", lambda: 600.0)
    told = watched.get("/status.json").json()
    assert (told["ok"], told["queue_wait_seconds"]) == (False, 600.0)


@pytest.mark.costly
def test_a_scrape_takes_a_known_number_of_queries(watched: Client) -> None:
    Installation(projects=2, repositories=12, deployments=40)
    with CaptureQueriesContext(connection) as captured:
        list(samples())

    assert len(captured) <= 16  # three are about the change feed, one about versions of the default policy


def test_a_label_cannot_break_out_of_its_quotes() -> None:
    hostile = Sample(name="x", help="X.", value=1, labels={"a": 'b"} 2\n\\'})
    text, _ = measure.exposition([hostile], directory="", accept="")

    assert text.decode().splitlines()[-1] == 'registry_admin_x{a="b\\"} 2\\n\\\\"} 1.0'


@pytest.mark.costly
def test_the_metrics_that_were_there_before_keep_their_names_types_and_labels(watched: Client) -> None:
    Installation(projects=2, repositories=12, deployments=40)
    Process.objects.create(role=ProcessRole.WORKER, host="one", pid=1)
    found = {family.name: family for family in text_string_to_metric_families(watched.get("/metrics").content.decode())}
    labels = {
        "deployments": {"status"}, "deployments_in_progress": set(), "repositories": {"account", "region", "status"},
        "drift_seconds": set(), "oldest_check_seconds": set(), "last_sweep_seconds": set(), "workers": set(),
        "worker_heartbeat_seconds": set(), "processes": {"role"}, "configuration_alarms": {"code"},
        "writes_paused": set(), "events_processes": set(), "events_silent": set(), "processes_in_trouble": set(),
        "clock_offset_seconds": {"role", "host", "pid"}, "queue_wait_seconds": set(), "notifications": {"status"},
    }  # fmt: skip

    for name, wanted in labels.items():
        family = found[f"registry_admin_{name}"]
        assert family.type == "gauge"
        assert all(set(sample.labels) == wanted for sample in family.samples), name


@pytest.mark.costly
def test_a_scraper_that_asks_for_openmetrics_gets_it(watched: Client) -> None:
    answer = watched.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"})

    assert answer["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.content.endswith(b"# EOF\n")


def plan_of(query: str) -> str:
    """The database's plan, where a table of a few rows is read as a large one is."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute(f"EXPLAIN {query}")
        else:
            cursor.execute(f"EXPLAIN QUERY PLAN {query}")
        return str(cursor.fetchall())


@pytest.mark.costly
@pytest.mark.parametrize("read", [lambda: list(samples()), lambda: chart.per_day()], ids=["metrics", "chart"])
def test_old_deployments_are_counted_by_the_worker_and_new_ones_in_an_index_from_then_on(
    read: Callable[[], Any], watched: Client
) -> None:
    Installation(projects=2, repositories=2, deployments=10)
    tally.count()
    with CaptureQueriesContext(connection) as captured:
        read()

    [query] = [each["sql"] for each in captured if 'FROM "deployments_deployment"' in each["sql"]]
    plan = plan_of(query)
    if connection.vendor == "sqlite":
        assert "COVERING INDEX deployment_status (status=? AND created_at>?)" in plan
    else:  # among a few rows, PostgreSQL takes the index of status and time or the one of the time alone
        assert re.search(r"Index Cond: .*created_at >= ", plan), plan


def test_the_messages_of_the_last_thirty_days_are_counted_in_an_index(watched: Client) -> None:
    with CaptureQueriesContext(connection) as captured:
        list(samples())

    [query] = [each["sql"] for each in captured if 'FROM "deployments_notificationdelivery"' in each["sql"]]
    assert "notification_by_status" in plan_of(query)


def counted(watched: Client) -> dict[tuple[str, str, str], float]:
    """(name of a sample, label, its value) → the value, summed over the samples that have this label."""
    sums: dict[tuple[str, str, str], float] = defaultdict(float)
    for family in text_string_to_metric_families(watched.get("/metrics").content.decode()):
        for sample in family.samples:
            if "le" not in sample.labels:
                for label, value in sample.labels.items():
                    sums[sample.name.removeprefix("registry_admin_"), label, value] += sample.value
    return sums


@pytest.mark.costly
@pytest.mark.django_db(transaction=True)
def test_requests_deploys_and_calls_to_aws_are_counted_with_their_outcomes_and_durations(
    client: Client, environment: Environment, ecr_configuration: Any, sandbox: Sandbox, settings: Any
) -> None:
    settings.METRICS_KEY = KEY
    watched, cli = Client(headers=SENT), Cli(client, keys.make_environment_key(environment)[1])
    wanted = {
        ("request_duration_seconds_count", "route", "api/v1/deployments"): 2.0,
        ("aws_call_duration_seconds_count", "operation", "CreateRepository"): 2.0,
        ("repository_writes_total", "outcome", "AccessDeniedException"): 1.0,
        ("repository_writes_total", "operation", "SetRepositoryPolicy"): 1.0,
        ("deploys_total", "result", "created"): 1.0,
        ("deploys_total", "result", "refused"): 1.0,
        ("deploys_total", "result", "failed"): 1.0,
    }

    before = counted(watched)
    sandbox.fault("error", "ecr:CreateRepository", code="AccessDeniedException", status=400, times=1)
    assert cli.deploy().status == 422
    deployment_id = cli.deploy().body["id"]
    cli.post(f"/api/v1/deployments/{deployment_id}/fail", {"error": {"name": "X", "message": "y"}})

    after = counted(watched)
    assert {each: after[each] - before[each] for each in wanted} == wanted


@pytest.mark.django_db(transaction=True)
def test_refusals_are_counted_by_their_code_those_of_a_finalize_in_its_stream_too(
    client: Client, environment: Environment, ecr_configuration: Any, settings: Any
) -> None:
    settings.METRICS_KEY = KEY
    watched, cli = Client(headers=SENT), Cli(client, keys.make_environment_key(environment)[1])
    reader = Cli(client, keys.make_environment_key(environment, scopes=["read"])[1])
    before = counted(watched)
    cli.finalize(cli.deploying())  # nothing was pushed
    assert reader.deploy().status == 403  # the key lacks the scope
    assert cli.get("/api/v1/nothing").status == 404  # has no code

    after = counted(watched)
    found = {key[2]: after[key] - before[key] for key in after if key[:2] == ("refusals_total", "code")}
    assert {code: count for code, count in found.items() if count} == {"image_not_found": 1, "scope_missing": 1}


def test_a_code_that_another_registry_made_up_is_no_label() -> None:
    measure.refusal("MADE_UP_BY_A_REGISTRY")

    text = measure.exposition([], directory="", accept="")[0].decode()
    assert 'registry_admin_refusals_total{code="other"}' in text
    assert "MADE_UP" not in text


def test_samples_of_one_name_are_one_family_also_if_they_come_apart() -> None:
    apart = [Sample(name=name, help="X.", value=1, labels={"n": n}) for n in "12" for name in ("x", "y")]

    text = measure.exposition(apart, directory="", accept="")[0].decode()

    assert text.count("# TYPE registry_admin_x gauge") == 1
    assert text.index('registry_admin_x{n="2"}') < text.index("registry_admin_y")


def test_no_label_holds_what_a_client_sends(watched: Client) -> None:
    watched.generic("BREW", "/account/login/a-log-in-link?q=query")
    watched.get("/wp-login.php")

    text = watched.get("/metrics").content.decode()
    assert 'method="other",route="account/login/<str:handle>"' in text
    assert 'method="GET",route="",status="4xx"' in text
    for sent in ("BREW", "a-log-in-link", "query", "wp-login"):
        assert sent not in text


def test_processes_that_are_started_with_one_directory_add_up_in_it(tmp_path: Path) -> None:
    count = "from deployments import measure; measure.deploy('failed'); measure.aws_call("
    count += "operation='TagResource', outcome='ok', seconds=0.5, is_write=True)"
    for _ in range(2):
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        subprocess.run([sys.executable, "-c", count], cwd=ROOT, env=environment, check=True, timeout=60)

    text, _ = measure.exposition([], directory=str(tmp_path), accept="")
    assert 'registry_admin_deploys_total{result="failed"} 2.0' in text.decode()
    assert 'registry_admin_repository_writes_total{operation="TagResource",outcome="ok"} 2.0' in text.decode()
    assert 'registry_admin_aws_call_duration_seconds_sum{operation="TagResource",outcome="ok"} 1.0' in text.decode()
