"""The real `trigger.dev` CLI from npm, against a whole installation: what its user sees, and what is there afterwards.

Unmodified packages, a real gunicorn, a registry that enforces its policies; only docker is a stand-in (see
sandbox/docker.py). The details of each answer are the business of tests/api; here it counts that the CLI goes on, or
ends with a sentence that helps.
"""

from __future__ import annotations

import io
import json
import os
import re
import select
import socket
import socketserver
import sqlite3
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest

from deployments.admin.ci_files import ci_file
from sandbox import images
from tests.e2e import cli
from tests.e2e.installation import (
    BEFORE,
    FIRST,
    LOCAL_BUILD,
    NEWEST,
    OLD,
    OPERATOR,
    Installation,
    Target,
    only,
    trigger,
)
from tests.support.ci_tokens import GITHUB, github, signed, silent_issuer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(cli.missing()), reason=cli.missing() or "npm is here"),
    pytest.mark.timeout(600),  # the first run on a machine installs the CLI, a quarter of a gigabyte for each version
]


BREAKING_BUILD = """\
import { defineConfig } from "@trigger.dev/sdk/v3";

const breaks = {
  name: "breaks",
  onBuildComplete: (context) => context.addLayer({ id: "breaks", commands: ["echo no room on the moon && exit 3"] }),
};

export default defineConfig({
  project: process.env.TRIGGER_PROJECT_REF,
  dirs: ["./src/trigger"],
  maxDuration: 60,
  build: { extensions: [breaks] },
});
"""
BREAKING_TASK = """\
import { task } from "@trigger.dev/sdk/v3";

if (!process.env.DATABASE_URL) throw new Error("DATABASE_URL is not set");

export const hello = task({ id: "hello", run: async () => 1 });
"""


def pull_as_cluster(target: Target, reference: str) -> images.Image:
    """What a node in the other account does with an image reference. RegistryError with the status of a refusal."""
    host, _, rest = reference.partition("/")
    name, _, digest = rest.partition("@")
    sandbox = target.installation.sandbox
    username, password = sandbox.login("cluster")
    return images.pull(sandbox.url, username, password, name.partition(":")[0], digest, registry=host)


def copy_without_policy(target: Target, image: images.Image) -> str:
    """The same image in a repository as ECR makes them: nobody but its owner pulls from it."""
    sandbox = target.installation.sandbox
    name = f"plain/{target.ref}"
    made = sandbox.client("ecr").create_repository(repositoryName=name)["repository"]
    username, password = sandbox.login("owner")
    host = urlsplit(f"//{made['repositoryUri']}").netloc
    images.push(image, sandbox.url, username, password, name, "copy", registry=host)
    return f"{host}/{name}:copy@{image.digest}"


def tasks_in(image: images.Image) -> list[str]:
    """The tasks that the image's own index names: it is what this CLI built, and not just any image."""
    _, layer = image.blobs
    with tarfile.open(fileobj=io.BytesIO(layer.content)) as tar:
        index = tar.extractfile("app/index.json")
        assert index is not None
        return [task["id"] for task in json.load(index)["tasks"]]


# --- deploy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "arguments", "offline"),
    [
        pytest.param(NEWEST, LOCAL_BUILD, True, id="newest-logs-in-itself"),
        pytest.param(NEWEST, ("deploy",), True, id="newest-with-the-users-login"),
        # The one that may reach for the outside, as it would at its user's.
        pytest.param(BEFORE, LOCAL_BUILD, False, id="4.4-logs-in-itself-and-is-not-kept-offline"),
        pytest.param(FIRST, ("deploy",), True, id="4.0-with-the-users-login"),
        pytest.param(OLD, ("deploy", "--self-hosted", "--push"), True, id="3.3-with-the-users-login"),
    ],
)
def test_what_the_cli_deploys_is_pulled_by_the_cluster_account_thanks_to_our_policy(
    target: Target, version: str, arguments: tuple[str, ...], offline: bool
) -> None:
    with cli.project(version) as folder:
        if arguments != LOCAL_BUILD:
            target.docker_login(folder)
        done = cli.run(version, *arguments, cwd=folder, env=target.env(), offline=offline)

    assert done.status == 0, done.output
    row = only(target.rows())
    assert f"Version {row.version} deployed with 1 detected task" in done.output
    assert (row.environment, row.status, row.tasks, row.is_current) == ("prod", "DEPLOYED", ("hello",), True)
    assert (row.type, row.triggered_by) == ("" if version == OLD else "MANAGED", OPERATOR)
    reference = target.api("GET", "/api/v1/deployments/current")["imageReference"]
    assert reference == row.image_reference
    assert re.fullmatch(rf"{re.escape(target.tag(row))}[0-9a-z]{{8}}@sha256:[0-9a-f]{{64}}", reference)

    image = pull_as_cluster(target, reference)
    assert tasks_in(image) == ["hello"]
    with pytest.raises(images.RegistryError) as refusal:
        pull_as_cluster(target, copy_without_policy(target, image))
    assert refusal.value.status == 403


def test_a_preview_branch_is_deployed_and_archived(target: Target) -> None:
    deployed = trigger(target, *LOCAL_BUILD, "--env", "preview", "--branch", "feat/receipts")

    assert deployed.status == 0, deployed.output
    row = only(target.rows())
    assert (row.environment, row.status, row.is_current) == ("preview/feat/receipts", "DEPLOYED", True)
    assert row.image_reference.startswith(target.tag(row))
    assert tasks_in(pull_as_cluster(target, row.image_reference)) == ["hello"]
    branches = f"/api/v1/projects/{target.ref}/branches"
    assert [each["name"] for each in target.api("GET", branches, key="preview")["branches"]] == ["feat/receipts"]

    archived = trigger(target, "preview", "archive", "--branch", "feat/receipts")

    assert archived.status == 0, archived.output
    assert 'Successfully archived "feat/receipts"' in archived.output
    assert target.api("GET", branches, key="preview") == {"branches": []}
    assert only(target.rows()).status == "DEPLOYED"


def test_the_key_of_an_environment_deploys_to_that_environment(target: Target) -> None:
    key = target.keys["staging"]

    done = trigger(target, *LOCAL_BUILD, TRIGGER_ACCESS_TOKEN=key)

    assert done.status == 0, done.output
    row = only(target.rows())
    assert (row.environment, row.status, row.is_current) == ("staging", "DEPLOYED", True)
    assert row.triggered_by.rstrip("…") in key
    assert key not in done.output


def test_the_token_of_a_ci_job_deploys_once(target: Target) -> None:
    origin, issuer = target.installation.origin, silent_issuer()
    keys = json.dumps({"keys": [issuer.key.as_dict(private=False)]})
    policy = {"kind": "github", "name": "main", "issuer": issuer.issuer, "claims": GITHUB, "jwks": keys, "by": "test"}
    target.installation.manage(
        "shell", "-c",
        "from deployments.access import trust; from deployments.access.audit import Trail; "
        "from deployments.models import Environment; "
        f"environment = Environment.objects.select_related('project').get(project__ref={target.ref!r}, slug='prod'); "
        f"trust.create(environment=environment, trail=Trail.of_command('test'), may_trust_private=True, **{policy!r})",
    )  # fmt: skip
    token = signed(issuer, github(issuer, aud=origin))
    file = ci_file("other", server=origin, api=origin, ref=target.ref, environment="prod")
    shell = ["sh", "-ec", file.partition("npx ")[0] + 'printf %s "$TRIGGER_ACCESS_TOKEN"']
    environment = {"PATH": os.environ["PATH"], "token": token}

    key = subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    done = trigger(target, *LOCAL_BUILD, TRIGGER_ACCESS_TOKEN=key)

    assert done.status == 0, done.output
    row = only(target.rows())
    assert (row.environment, row.status, row.is_current) == ("prod", "DEPLOYED", True)
    assert row.triggered_by == "main: repo:octo-org/billing:ref:refs/heads/main"
    assert key not in done.output
    again = subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=60)
    assert again.returncode == 1
    assert "This token was exchanged before" in again.stdout
    second = trigger(target, *LOCAL_BUILD, TRIGGER_ACCESS_TOKEN=key)
    assert second.status == 1
    assert "This key is for one deployment" in second.output
    assert len(target.rows()) == 1


def test_an_external_id_is_built_once_and_again_with_force(target: Target) -> None:
    build = (*LOCAL_BUILD, "--external-id", "build-1")

    first, second = trigger(target, *build), trigger(target, *build)

    assert (first.status, second.status) == (0, 0), f"{first.output}\n{second.output}"
    row = only(target.rows())
    assert f"Version {row.version} was already deployed for --external-id build-1" in second.output

    forced = trigger(target, *build, "--force")

    assert forced.status == 0, forced.output
    assert [(each.status, each.external_id, each.is_current) for each in target.rows()] == [
        ("DEPLOYED", "build-1", False),
        ("DEPLOYED", "build-1", True),
    ]


def test_a_deployment_that_was_begun_elsewhere_is_finished_by_the_cli(target: Target) -> None:
    begun = target.api("POST", "/api/v1/deployments", {"contentHash": "ab" * 16, "type": "MANAGED"})

    done = trigger(target, *LOCAL_BUILD, TRIGGER_EXISTING_DEPLOYMENT_ID=begun["id"])

    assert done.status == 0, done.output
    row = only(target.rows())
    assert (row.id, row.status, row.tasks) == (begun["id"], "DEPLOYED", ("hello",))


# --- promote --------------------------------------------------------------------------------------------------------


def test_a_version_that_was_not_promoted_is_promoted_later_and_only_once(target: Target) -> None:
    assert trigger(target, *LOCAL_BUILD).status == 0
    skipping = trigger(target, *LOCAL_BUILD, "--skip-promotion")
    assert skipping.status == 0, skipping.output
    older, newer = target.rows()
    assert (newer.status, older.is_current, newer.is_current) == ("DEPLOYED", True, False)

    promoted = trigger(target, "promote", newer.version)

    assert promoted.status == 0, promoted.output
    assert [row.is_current for row in target.rows()] == [False, True]

    again = trigger(target, "promote", newer.version)
    back = trigger(target, "promote", older.version, version=BEFORE)

    assert (again.status, back.status) == (1, 1)
    assert f"Version {newer.version} is already current." in again.output
    assert f"Version {older.version} is older than the current version." in back.output
    assert [row.is_current for row in target.rows()] == [False, True]


# --- what fails -----------------------------------------------------------------------------------------------------


def test_a_build_that_fails_is_recorded_as_failed_with_its_error(target: Target) -> None:
    done = trigger(target, *LOCAL_BUILD, files={"trigger.config.ts": BREAKING_BUILD})

    assert done.status == 1
    assert "no room on the moon" in done.output
    row = only(target.rows())
    assert (row.status, row.tasks, row.is_current) == ("FAILED", (), False)
    assert (row.error["name"], row.error["message"]) == ("BuildError", "Error building image")


@pytest.mark.parametrize("version", [NEWEST, FIRST])
def test_a_task_that_throws_when_it_is_imported_is_recorded_with_its_file_and_message(
    target: Target, version: str
) -> None:
    done = trigger(target, "deploy", version=version, files={"src/trigger/hello.ts": BREAKING_TASK})

    assert done.status == 1
    assert "There was an error importing task files" in done.output
    row = only(target.rows())
    assert (row.status, row.error["name"]) == ("FAILED", "TaskIndexingImportError")
    assert row.error["stack"].startswith('[{"message":"DATABASE_URL is not set","file":"src/trigger/hello.ts"')


def test_a_token_that_nobody_knows_ends_with_where_tokens_are_made(target: Target) -> None:
    done = trigger(target, *LOCAL_BUILD, TRIGGER_ACCESS_TOKEN=f"tr_pat_{'1' * 40}")

    assert done.status == 1
    assert "This access key is unknown, expired or revoked." in done.output
    assert f"{target.installation.origin}/account/tokens" in done.output
    assert target.rows() == []


def test_a_project_that_is_not_there_ends_with_the_clis_own_hint(target: Target) -> None:
    nowhere = f"proj_{'z' * 20}"

    done = trigger(target, *LOCAL_BUILD, TRIGGER_PROJECT_REF=nowhere)

    assert done.status == 1
    assert f"Project not found: {nowhere}. Ensure you are using the correct project ref" in done.output


def test_a_policy_that_ecr_refuses_is_reported_with_its_code_and_the_next_deploy_corrects_it(target: Target) -> None:
    sandbox = target.installation.sandbox
    sandbox.fault(
        "error",
        "ecr:SetRepositoryPolicy",
        repository=target.repository,
        code="InvalidParameterException",
        message="Invalid repository policy provided",
    )

    refused = trigger(target, *LOCAL_BUILD)

    assert refused.status == 1
    assert "Failed to start deployment: " in refused.output
    assert "InvalidParameterException: Invalid repository policy provided" in refused.output
    assert "Correct DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY" in refused.output
    assert target.rows() == []
    assert [fault["struck"] for fault in sandbox.faults()] == [1], "a refusal for good was tried again"

    sandbox.clear_faults()
    done = trigger(target, *LOCAL_BUILD)

    assert done.status == 0, done.output
    assert tasks_in(pull_as_cluster(target, only(target.rows()).image_reference)) == ["hello"]


def test_an_image_that_cannot_be_proved_is_not_deployed_and_the_cli_says_why(target: Target) -> None:
    target.installation.sandbox.fault(
        "error", "ecr:BatchGetImage", repository=target.repository, code="AccessDeniedException", message="not for you"
    )

    done = trigger(target, *LOCAL_BUILD)

    assert done.status == 1
    assert "The image could not be checked before the deploy." in done.output
    assert "AccessDeniedException: not for you" in done.output
    row = only(target.rows())
    assert (row.status, row.tasks, row.is_current) == ("FAILED", ("hello",), False)
    assert "AccessDeniedException: not for you" in row.error["message"]


def test_an_interrupted_deploy_ends_when_it_is_repeated(target: Target) -> None:
    """Not in CI, so with CI="": the runs of a CI are left alone."""
    with cli.project(NEWEST) as folder:
        env = target.env(CI="")
        stopped = cli.interrupt(NEWEST, *LOCAL_BUILD, cwd=folder, env=env, when=lambda: bool(target.rows()))
        assert only(target.rows()).status in ("BUILDING", "DEPLOYING"), stopped.output
        with closing(sqlite3.connect(target.installation.database, timeout=30)) as database, database:
            database.execute("UPDATE deployments_deployment SET last_request_at = '2026-01-01 00:00:00'")

        done = cli.run(NEWEST, *LOCAL_BUILD, cwd=folder, env=env)

    assert done.status == 0, done.output
    assert [(row.status, row.is_current) for row in target.rows()] == [("CANCELED", False), ("DEPLOYED", True)]


def test_a_3_3_cli_whose_image_was_not_pushed_ends_with_the_reason(target: Target) -> None:
    """It would never end after a finalize that is refused. Without --push it pushes nothing."""
    done = trigger(target, "deploy", "--self-hosted", version=OLD)

    assert done.status == 1, done.output
    assert "is not in the registry" in done.output
    row = only(target.rows())
    assert (row.type, row.status, row.tasks, row.is_current) == ("", "FAILED", ("hello",), False)
    assert "is not in the registry" in row.error["message"]


def test_why_no_registry_credentials_were_issued_is_on_the_row_because_the_cli_hides_it(target: Target) -> None:
    target.installation.sandbox.fault(
        "error", "ecr:GetAuthorizationToken", code="AccessDeniedException", message="not for you"
    )

    done = trigger(target, *LOCAL_BUILD)

    assert done.status == 1
    assert "Failed to get docker credentials" in done.output
    row = only(target.rows())
    assert row.status == "FAILED"
    assert "AccessDeniedException: not for you" in row.credentials_error


SLOW_BUILD = BREAKING_BUILD.replace("echo no room on the moon && exit 3", "sleep 6")


def test_two_deploys_at_once_on_one_machine_both_end_with_a_docker_configuration_each(
    installation: Installation, tmp_path: Path
) -> None:
    targets = [installation.new_target(), installation.new_target()]
    home = str(tmp_path)

    def deploy(target: Target) -> cli.Result:
        own = {"HOME": home, "DOCKER_CONFIG": str(tmp_path / target.ref)}
        return trigger(target, *LOCAL_BUILD, files={"trigger.config.ts": SLOW_BUILD}, **own)

    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(deploy, targets))

    assert [each.status for each in done] == [0, 0], [each.output for each in done]
    first, second = [only(target.rows()) for target in targets]
    assert (first.status, second.status) == ("DEPLOYED", "DEPLOYED")
    issued = installation.sandbox.client("ecr")
    for target in targets:
        assert issued.describe_images(repositoryName=target.repository)["imageDetails"]


def test_a_push_with_the_log_in_of_another_deploy_is_refused_and_the_row_says_what_helps(
    installation: Installation, target: Target
) -> None:
    with cli.project(NEWEST) as folder:
        installation.new_target().docker_login(folder)  # it replaces ours, as a second deploy on the machine does
        done = cli.run(NEWEST, "deploy", cwd=folder, env=target.env())

    assert done.status == 1
    row = only(target.rows())
    assert (row.status, row.error["name"]) == ("FAILED", "BuildError")
    assert row.error["message"].startswith("Error building image. The tasks had been indexed")
    assert "give each deploy its own DOCKER_CONFIG (docs/builds.md)" in row.error["message"]


class LossyWire(socketserver.ThreadingTCPServer):
    """Hands bytes to and fro between the CLI and the server. The first answer to a request that begins with `doomed`
    never arrives: the server has sent it, so whatever it stands for was done, and the line is cut."""

    daemon_threads = True

    def __init__(self, doomed: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Pump)
        self.doomed = doomed
        self.port: int = self.server_address[1]
        self.upstream = 0
        self.lost = 0
        self.keys: list[bytes] = []  # the idempotency keys of the doomed requests

    @contextmanager
    def working(self) -> Iterator[None]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            thread.join()
            self.server_close()


class Pump(socketserver.BaseRequestHandler):
    request: socket.socket

    def handle(self) -> None:
        wire = cast(LossyWire, self.server)
        losing = False
        with socket.create_connection(("127.0.0.1", wire.upstream)) as upstream:
            while ready := select.select([self.request, upstream], [], [], 60)[0]:
                for source in ready:
                    try:
                        data = source.recv(65536)
                    except ConnectionError:
                        return
                    if not data:
                        return
                    if source is self.request:
                        if data.startswith(wire.doomed):
                            wire.keys += re.findall(rb"(?i)x-trigger-request-idempotency-key: (\S+)", data)
                            losing = not wire.lost
                        upstream.sendall(data)
                    elif losing:
                        wire.lost += 1
                        return
                    else:
                        self.request.sendall(data)


def test_a_lost_answer_is_asked_for_again_and_makes_no_second_deployment(
    installation: Installation, target: Target
) -> None:
    wire = LossyWire(b"POST /api/v1/deployments HTTP/1.1\r\n")
    # The CLI asks for the address of the API first and goes on with that one, so the wire must be it.
    with wire.working(), installation.serving(api_port=wire.port) as origin:
        wire.upstream = urlsplit(origin).port or 0

        done = trigger(target, *LOCAL_BUILD, TRIGGER_API_URL=f"http://localhost:{wire.port}")

    assert done.status == 0, done.output
    assert wire.lost == 1
    assert len(wire.keys) == 2
    assert len(set(wire.keys)) == 1
    row = only(target.rows())
    assert (row.status, row.is_current) == ("DEPLOYED", True)
    assert row.version.endswith(".1"), "the lost request used a version up"


# --- the other commands ---------------------------------------------------------------------------------------------


def test_the_list_of_projects_shows_what_is_current_in_production(target: Target) -> None:
    assert trigger(target, *LOCAL_BUILD).status == 0

    listed = trigger(target, "projects", "list")

    assert listed.status == 0, listed.output
    assert re.search(rf"│ Registry Admin +│ Project \d+ +│ {target.ref} +│ node", listed.output), listed.output


def test_whoami_shows_the_user_of_a_stored_login_and_the_project(target: Target, tmp_path: Path) -> None:
    # It does not look at TRIGGER_ACCESS_TOKEN. This is the file that `trigger.dev login` leaves behind.
    profile = {"accessToken": target.installation.token, "apiUrl": target.installation.origin}
    stored = tmp_path / ".config" / "trigger" / "config.json"
    stored.parent.mkdir(parents=True)
    stored.write_text(json.dumps({"version": 2, "currentProfile": "default", "profiles": {"default": profile}}))

    done = trigger(target, "whoami", HOME=str(tmp_path), TRIGGER_ACCESS_TOKEN="")

    assert done.status == 0, done.output
    assert re.search(rf"Email: +{OPERATOR}", done.output), done.output
    assert re.search(rf"URL: +{target.installation.origin}/projects/v3/{target.ref}", done.output), done.output
