"""Rarer flows of the real CLI: variables that a project brings along, branches that end, bodies in chunks."""

from __future__ import annotations

import http.client
import json
import re
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from tests.e2e import cli
from tests.e2e.installation import BEFORE, FIRST, LOCAL_BUILD, NEWEST, Installation, Target, only, trigger

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(cli.missing()), reason=cli.missing() or "npm is here"),
    pytest.mark.timeout(600),
]

# --- environment variables ------------------------------------------------------------------------------------------

SYNCING = """\
import { defineConfig } from "@trigger.dev/sdk/v3";

const variables = {
  name: "variables",
  onBuildComplete: (context) => context.addLayer({
    id: "variables",
    deploy: {
      override: true,
      env: { GREETING: "hello from the build", OWN: "own" },
      parentEnv: { SHARED: "all branches" },
      secretEnv: { DATABASE_URL: "postgres://ada:hunter2-hunter2@db/app" },
    },
  }),
};

export default defineConfig({
  project: process.env.TRIGGER_PROJECT_REF,
  dirs: ["./src/trigger"],
  maxDuration: 60,
  build: { extensions: [variables] },
});
"""
READING = """\
import { task } from "@trigger.dev/sdk/v3";

for (const name of NAMES) if (!process.env[name]) throw new Error(`${name} is not set`);

export const hello = task({ id: "hello", run: async () => 1 });
"""


@pytest.mark.parametrize(
    ("version", "names", "arguments"),
    [
        pytest.param(NEWEST, ["GREETING", "DATABASE_URL"], (), id="newest"),
        pytest.param(
            NEWEST, ["OWN", "SHARED", "DATABASE_URL"], ("--env", "preview", "--branch", "vars"), id="a-branch"
        ),
        pytest.param(BEFORE, ["GREETING"], (), id="4.4-which-knows-no-secret-ones"),
    ],
)
def test_a_task_finds_at_its_import_what_the_project_brought_along(
    target: Target, version: str, names: list[str], arguments: tuple[str, ...]
) -> None:
    files = {"trigger.config.ts": SYNCING, "src/trigger/hello.ts": READING.replace("NAMES", json.dumps(names))}

    done = trigger(target, *LOCAL_BUILD, *arguments, version=version, files=files)

    assert done.status == 0, done.output
    assert only(target.rows()).status == "DEPLOYED"
    assert "hunter2" not in done.output
    files_of_the_database = target.installation.folder.glob("db.sqlite3*")
    stored = b"".join(path.read_bytes() for path in files_of_the_database)
    assert b"hunter2-hunter2" not in stored
    assert b"GREETING" in stored
    assert "hunter2" not in target.installation.log.read_text()


def test_variables_are_set_and_listed_with_the_cli(target: Target) -> None:
    options = ("--project-ref", target.ref, "--env", "prod")
    set_one = trigger(target, "env", "set", "COLOUR", "green", *options)
    assert set_one.status == 0, set_one.output

    listed = trigger(target, "env", "list", "--show-values", *options)

    assert listed.status == 0, listed.output
    assert re.search(r"COLOUR +green", listed.output), listed.output


# --- branches that end ----------------------------------------------------------------------------------------------


def branches(target: Target) -> list[str]:
    listed = target.api("GET", f"/api/v1/projects/{target.ref}/branches", key="preview")
    return [each["name"] for each in listed["branches"]]


@pytest.fixture
def branch(target: Target) -> str:
    target.api("POST", f"/api/v1/projects/{target.ref}/branches", {"env": "preview", "branch": "feat/a"}, key="preview")
    assert branches(target) == ["feat/a"]
    return "feat/a"


@pytest.mark.parametrize("state", ["merged", "closed"])
def test_a_deploy_of_a_pull_request_that_is_over_archives_its_branch(target: Target, branch: str, state: str) -> None:
    done = trigger(
        target, "deploy", "--env", "preview",
        TRIGGER_GITHUB_APP="true", GITHUB_REF=f"refs/heads/{branch}",
        GITHUB_PULL_REQUEST_STATE=state, GITHUB_PULL_REQUEST_NUMBER="7",
    )  # fmt: skip

    assert done.status == 0, done.output
    assert f'Successfully archived "{branch}"' in done.output
    assert branches(target) == []
    assert target.rows() == []


def test_the_first_4_0_archives_a_branch_too(target: Target, branch: str) -> None:
    done = trigger(target, "preview", "archive", "--branch", branch, version=FIRST)

    assert done.status == 0, done.output
    assert branches(target) == []


# --- transport ------------------------------------------------------------------------------------------------------


def test_a_body_in_chunks_is_taken_by_the_real_server(installation: Installation, target: Target) -> None:
    address = urlsplit(installation.origin)

    def post(*chunks: bytes) -> tuple[int, dict[str, object]]:
        with closing(http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)) as connection:
            headers = {"Authorization": f"Bearer {target.keys['prod']}", "Content-Type": "application/json"}
            connection.request("POST", "/api/v1/deployments", iter(chunks), headers, encode_chunked=True)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    status, answer = post(b'{"contentHash": "ab', b'cd", "type": "MANAGED"}')
    too_large, refusal = post(b" " * (256 * 1024), b" ")

    assert (status, answer["contentHash"]) == (200, "abcd")
    assert too_large == 413
    assert "256 KiB" in str(refusal["error"])
