"""`make bench`: its reference does the work of a deploy, its document a place for each part, and each miss is named."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext

from bench import __main__ as command
from bench import deploys, load, report
from bench.bare.urls import deploy
from bench.report import Row
from deployments.access import keys
from deployments.deploys import projects
from deployments.models import Deployment, Environment

ROOT = Path(__file__).resolve().parent.parent


def statements(captured: CaptureQueriesContext) -> list[tuple[str, str]]:
    """(verb, first table) of each statement, sorted: a view need not ask in the order of the program."""
    texts = [query["sql"] for query in captured.captured_queries]
    found = [(text.split()[0], re.search(r"deployments_\w+", text.rpartition(" FROM ")[2])) for text in texts]
    return sorted((verb, table[0]) for verb, table in found if table is not None)


@pytest.mark.costly
@pytest.mark.django_db(transaction=True)
def test_the_bare_view_runs_the_statements_of_a_deploy(ecr_configuration: Any, client: Client) -> None:
    project = projects.create_project(name="Bench", ref="proj_bench")
    environment = Environment.objects.get(project=project, slug="prod")
    text = keys.make_environment_key(environment)[1]
    address, body = "/api/v1/deployments", json.dumps(deploys.BODY)

    def headers() -> dict[str, str]:
        return {"Authorization": f"Bearer {text}", "x-trigger-request-idempotency-key": str(uuid.uuid4())}

    def ours() -> Any:
        return client.post(address, body, content_type="application/json", headers=headers())

    ours()  # the first deploy creates the repository, and the first use of a key is recorded
    with CaptureQueriesContext(connection) as of_a_deploy:
        assert ours().status_code == 200
    with CaptureQueriesContext(connection) as of_the_view:
        answer = deploy(RequestFactory().post(address, body, content_type="application/json", headers=headers()))

    assert statements(of_the_view) == statements(of_a_deploy)
    assert json.loads(answer.content)["version"] == str(Deployment.objects.latest("version_number").version)


def test_the_load_sends_each_request_with_its_own_idempotency_key() -> None:
    made = load.request("/api/v1/deployments", port=1, key="tr_prod_x", body=deploys.BODY)

    head, _, content = made.partition(b"\r\n\r\n")
    assert load.UNIQUE in head
    assert len(load.UNIQUE) == len(str(uuid.uuid4()))  # so that the length of the request stays as it is
    assert f"Content-Length: {len(content)}".encode() in head


def test_a_missed_goal_is_printed_as_a_miss_with_its_reason() -> None:
    rows = [
        Row(figure="quick", measured="1 ms", reference="view 2 ms", ratio=0.5, goal="≤ 1 ×", met=True, reason="none"),
        Row(figure="slow", measured="9 ms", reference="view 2 ms", ratio=4.5, goal="≤ 1 ×", met=False, reason="locks"),
    ]

    assert "MISSED slow: locks" in report.as_text(rows)
    assert "- slow: locks" in report.as_markdown(rows)
    assert "none" not in report.as_text(rows) + report.as_markdown(rows)
    assert report.from_json(json.loads(json.dumps(report.as_json(rows)))) == rows


def test_each_part_has_its_place_in_the_document_and_the_parts_of_the_default_take_ten_minutes() -> None:
    document = (ROOT / "docs/performance.md").read_text()

    for part in command.PARTS:
        assert f"<!-- table of {part} -->" in document
        assert f"<!-- end of {part} -->" in document
    assert sum(command.PARTS[part] for part in command.DEFAULT) < 600


def test_a_table_replaces_the_last_one_of_its_part_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "performance.md"
    document.write_text("A\n<!-- table of deploys -->\nold\n<!-- end of deploys -->\nB\n")
    monkeypatch.setattr(command, "DOCUMENT", document)

    command.write("deploys", "new")

    assert document.read_text() == "A\n<!-- table of deploys -->\nnew\n<!-- end of deploys -->\nB\n"
