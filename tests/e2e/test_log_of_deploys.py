"""“Why did deploy X fail” is one grep of the log of a real web process, and `manage.py deployments show` says the same.

Each test lets one thing go wrong, takes what the developer or the operator has of it (a short code, a project's ref, a
request id), and looks for the one line of the log that has the reason in words and its code.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sandbox import images
from tests.e2e import cli
from tests.e2e.installation import COMMAND_LIMIT, Installation, Target, request
from tests.support.cli import HASH, WORKER
from tests.support.constants import HOST
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(installation_process: Installation) -> Target:
    return installation_process.new_target()


@pytest.fixture
def developer(installation: Installation, project: Target) -> Iterator[Target]:
    """The project, in an installation whose faults end with the test."""
    yield project
    installation.sandbox.clear_faults()


def grep(word: str, log: Path | str, **fields: object) -> dict[str, Any]:
    """The one line of the log (a file or its text) that has this word and these fields."""
    text = log if isinstance(log, str) else log.read_text()
    found = [json.loads(line) for line in text.splitlines() if word in line]
    [line] = [line for line in found if fields.items() <= line.items()]
    return dict(line)


def ask(target: Target, path: str, body: object, request_id: str, *, key: str = "") -> int:
    headers = {"Authorization": f"Bearer {key or target.keys['prod']}", "X-Request-ID": request_id}
    return request("POST", f"{target.installation.origin}/api/{path}", body, timeout=30, **headers)[0]


def deploy(target: Target, request_id: str, *, key: str = "") -> int:
    return ask(target, "v1/deployments", {"contentHash": HASH, "type": "MANAGED"}, request_id, key=key)


def begun(target: Target) -> dict[str, Any]:
    made = target.api("POST", "/api/v1/deployments", {"contentHash": HASH, "type": "MANAGED"})
    target.api("POST", f"/api/v1/deployments/{made['id']}/background-workers", WORKER)
    return made


def test_a_refused_deploy_is_found_by_the_projects_ref_and_aws_refused_write_beside_it(target: Target) -> None:
    log, sandbox = target.installation.log, target.installation.sandbox
    where = ("--project", target.ref, "--env", "prod")
    key = target.installation.manage("keys", "create", *where, "--scope", "read").strip()

    for status, aws in ((503, "ServerException"), (422, "AccessDeniedException")):
        sandbox.clear_faults()
        how = {"status": 500 if status == 503 else 400, "times": 99, "message": "For the test"}
        sandbox.fault("error", "ecr:CreateRepository", code=aws, **how)
        assert deploy(target, f"refused-{status}") == status

        line = grep(target.ref, log, request_id=f"refused-{status}", event="request")
        assert (line["environment"], line["code"], line["status"], line["level"]) == ("prod", aws, status, "warning")
        assert "CreateRepository" in line["error"]
        write = grep(target.ref, log, request_id=f"refused-{status}", event="aws.write")
        assert (write["operation"], write["outcome"], write["level"]) == ("CreateRepository", aws, "warning")
        assert write["error"] == "For the test"
        assert write["aws_request_id"]

    assert deploy(target, "refused-403", key=key) == 403
    line = grep(target.ref, log, request_id="refused-403")
    assert (line["environment"], line["code"], line["status"]) == ("prod", "scope_missing", 403)
    assert "scope" in line["error"]
    assert key not in log.read_text()


def test_a_failed_build_is_found_by_its_short_code(developer: Target) -> None:
    made = begun(developer)
    error = {"name": "BuildError", "message": "npm exited with 1"}
    assert ask(developer, f"v1/deployments/{made['id']}/fail", {"error": error}, "failed-build") == 200

    line = grep(made["shortCode"], developer.installation.log, event="deployment.failed")
    assert (line["request_id"], line["project"], line["environment"]) == ("failed-build", developer.ref, "prod")
    assert (line["reason"], line["code"]) == ("BuildError: npm exited with 1", "BuildError")


def test_an_image_that_cannot_be_proved_is_found_by_its_short_code(developer: Target) -> None:
    made, log = begun(developer), developer.installation.log
    assert ask(developer, f"v3/deployments/{made['id']}/finalize", {}, "no-image") == 200

    line = grep(made["shortCode"], log, event="deployment.finalize_refused")
    assert (line["request_id"], line["project"], line["environment"]) == ("no-image", developer.ref, "prod")
    assert line["code"] == "image_not_found"
    assert line["error"].startswith("The image is not in the registry")
    # The request ends when the server closes the stream, a moment after the client has read it.
    wait_for(lambda: log.read_text().count('"request_id": "no-image"') == 2)
    assert grep(made["shortCode"], log, request_id="no-image", event="request")["status"] == 200
    shown = developer.installation.manage("deployments", "show", made["shortCode"])
    assert f"The image was not verified: {line['error']} (image_not_found)" in shown


def test_a_deployment_that_times_out_is_found_by_its_short_code_in_the_log_of_the_process_that_ends_it(
    developer: Target,
) -> None:
    made = begun(developer)
    with closing(sqlite3.connect(developer.installation.database, timeout=20)) as database, database:
        database.execute("UPDATE deployments_deployment SET deadline = '2026-01-01' WHERE id = ?", [made["id"]])
    tick = [sys.executable, "manage.py", "shell", "-c", "from deployments import tasks; tasks.tick()"]
    environment = developer.installation.environment()
    done = subprocess.run(tick, cwd=cli.ROOT, env=environment, capture_output=True, text=True, timeout=COMMAND_LIMIT)

    line = grep(made["shortCode"], done.stderr, event="deployment.timed_out")
    assert (line["project"], line["environment"], line["code"]) == (developer.ref, "prod", "TimeoutError")
    assert line["reason"].endswith("it was DEPLOYING.")


def test_a_promotion_and_one_that_is_refused_are_found_by_the_short_code(developer: Target) -> None:
    made, log = begun(developer), developer.installation.log
    repository, _, tag = made["imageTag"].partition("/")[2].rpartition(":")
    sandbox = developer.installation.sandbox
    images.push(images.build(), sandbox.url, *sandbox.login(), repository, tag, registry=HOST)
    assert ask(developer, f"v3/deployments/{made['id']}/finalize", {}, "first") == 200

    line = grep(made["shortCode"], log, event="deployment.promoted")
    assert (line["request_id"], line["project"], line["environment"]) == ("first", developer.ref, "prod")

    assert ask(developer, f"v1/deployments/{made['version']}/promote", {}, "again") == 400
    line = grep(made["shortCode"], log, request_id="again")
    assert (line["event"], line["code"], line["level"]) == ("request", "already_current", "warning")
    assert made["version"] in line["error"]
