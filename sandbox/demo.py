"""``python -m sandbox.demo``: an installation on this machine that shows deploys step by step.

It starts the parts of an installation (the local ECR instead of AWS, the web server, the worker), then deploys over
HTTP like the trigger.dev CLI, and pulls the image as the account of a cluster: the pull from a repository without a
policy is refused, the pull from the program's repository succeeds. Then the installation keeps running; ``--once`` ends
it after the deploys.

``.demo`` has the database, the logs and ``env``, with which each command of manage.py uses this installation. Every run
starts with an empty database, because the local ECR loses its repositories when it ends. The project's ref stays the
same, so that a ``trigger.config.ts`` keeps working.

The demo uses the commands and the API of the program and imports nothing from it. All processes end with the demo, also
if it is killed. It builds and runs no real code; the command line that it prints does.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import re
import socket
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from sandbox import images
from sandbox.control import CLUSTER_ACCOUNT, OWNER_ACCOUNT, Sandbox
from sandbox.installation import (
    HOST,
    OPERATOR,
    PROJECT,
    REF,
    bootstrap,
    configure,
    hold,
    manage,
    start_sandbox,
    tell_what_is_there,
)  # fmt: skip
from sandbox.keeper import ROOT, Failure, Interrupted, Processes
from sandbox.screen import GREEN, RED, Note, Screen, run, shown

LEFTOVERS = ("db.sqlite3*", "*.log", "env")  # files of an earlier run; the demo deletes no other files

# --- The installation -----------------------------------------------------------------------------------------------


def clear(directory: Path) -> IO[str]:
    """Empty the folder and lock it. Returns the lock. Raises Failure if another demo has the lock."""
    lock = hold(directory, "demo")
    for pattern in LEFTOVERS:
        for path in directory.glob(pattern):
            path.unlink()
    return lock


# --- The deploy, like the CLI ---------------------------------------------------------------------------------------


class Api:
    """A client of the program's API that sends the CLI's requests."""

    def __init__(self, port: int, log: Path) -> None:
        self.origin, self._port, self._log = f"http://localhost:{port}", port, log

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self._ask("GET", "/readyz", timeout=2)[0] == 200
        return False

    def call(self, method: str, path: str, key: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON of the answer. Raises Failure with the server's sentence."""
        status, content = self._ask(method, path, key, body)
        if status != 200:
            raise Failure(f"{method} {path} was answered with {status}: {content[:500]}", self._log)
        return json.loads(content)

    def events(self, path: str, key: str, body: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """(name, data) of each server-sent event in the answer to a POST."""
        status, content = self._ask("POST", path, key, body)
        if status != 200:
            raise Failure(f"POST {path} was answered with {status}: {content[:500]}", self._log)
        found = re.findall(r"^event: (.*)\ndata: (.*)$", content, re.MULTILINE)
        return [(name, json.loads(data)) for name, data in found]

    def _ask(
        self, method: str, path: str, key: str = "", body: Mapping[str, Any] | None = None, timeout: int = 60
    ) -> tuple[int, str]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        with contextlib.closing(http.client.HTTPConnection("localhost", self._port, timeout=timeout)) as connection:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read().decode()


class Deploy:
    """A deploy to the production environment. The methods are its steps, in order."""

    def __init__(self, api: Api, sandbox: Sandbox, token: str, text: str) -> None:
        self._api, self._sandbox = api, sandbox
        self._image, self._hash = images.build(text), hashlib.sha256(text.encode()).hexdigest()
        self._key: str = api.call("GET", f"/api/v1/projects/{REF}/prod", token)["apiKey"]
        self._path = self.repository = self.tag = ""

    def ask_for_ref(self, note: Note) -> None:
        self._sandbox.reset_calls()
        wish = {"contentHash": self._hash, "type": "MANAGED", "runtime": "node-22", "triggeredVia": "cli:manual"}
        answer = self._api.call("POST", "/api/v1/deployments", self._key, wish)
        calls = sorted(self._sandbox.calls().items())
        self._path = f"deployments/{answer['id']}"
        self.repository, _, self.tag = answer["imageTag"].removeprefix(f"{HOST}/").rpartition(":")
        note(f"Version {answer['version']}, {answer['imageTag']}")
        note("AWS calls: " + (", ".join(f"{name.removeprefix('ecr:')} {count}" for name, count in calls) or "none"))

    def push(self, note: Note) -> None:
        given = self._api.call("POST", f"/api/v1/{self._path}/generate-registry-credentials", self._key, {})
        where = (given["proxyEndpoint"], given["username"], given["password"], self.repository, self.tag)
        digest = images.push(self._image, *where, registry=HOST)
        note(f"Pushed as {given['username']}, until {given['expiresAt']}: {digest}")

    def report_tasks(self, note: Note) -> None:
        task = {"id": "hello-world", "filePath": "src/trigger/hello.ts", "exportName": "helloWorld"}
        metadata = {"contentHash": self._hash, "packageVersion": "4.8.3", "runtime": "node-22", "tasks": [task]}
        report = {"localOnly": True, "engine": "V2", "metadata": metadata}
        self._api.call("POST", f"/api/v1/{self._path}/background-workers", self._key, report)
        note(f"Tasks: {task['id']}")

    def finalize(self, note: Note) -> None:
        events = self._api.events(f"/api/v3/{self._path}/finalize", self._key, {"imageDigest": self._image.digest})
        for name, data in events:
            note(f"{name:<8} {data.get('message') or data.get('error') or ''}".rstrip())
        if [name for name, _ in events][-1:] != ["complete"]:
            raise Failure(f"The deploy was not finalized: {events[-1:]}")

    def all_steps(self, note: Note) -> None:
        self.ask_for_ref(note)
        for each in (self.push, self.report_tasks, self.finalize):
            each(lambda _: None)
        note("Pushed and finalized as before")


def show_pull(screen: Screen, note: Note, sandbox: Sandbox, repository: str, tag: str, *, refused: bool) -> None:
    """Pull as the cluster's account. Raises Failure if the result is not the expected result."""
    with images.RegistryClient(sandbox.url, *sandbox.login("cluster"), registry=HOST) as client:
        try:
            # A separate GET first: the pull begins with a HEAD, and the refusal of a HEAD has no message.
            client.request("GET", f"/v2/{HOST}/{repository}/manifests/{tag}", headers={"Accept": images.ACCEPT})
            image = client.pull(repository, tag)
        except images.RegistryError as error:
            if not refused or error.status != 403:
                raise
            note(f"{CLUSTER_ACCOUNT} pulls: {screen.paint('REFUSED', RED)}, {error.status} {error.code}")
            for line in textwrap.wrap(error.message, 110, break_long_words=False, break_on_hyphens=False):
                note(f"  {line}")
            return
    if refused:
        raise Failure(f"{CLUSTER_ACCOUNT} was served {repository}:{tag}, which should have been refused.")
    size = sum(len(blob.content) for blob in image.blobs)
    note(f"{CLUSTER_ACCOUNT} pulls: {screen.paint('ACCEPTED', GREEN)}, 200, {size} bytes with every digest right")


# --- The steps ------------------------------------------------------------------------------------------------------


def install(screen: Screen, processes: Processes, directory: Path) -> tuple[Sandbox, Api, str, str]:
    """Start the installation. Returns its processes, and the operator's password and token."""
    listener = socket.create_server(
        ("127.0.0.1", 0)
    )  # gunicorn inherits the socket, so no other program can take the port
    api = Api(listener.getsockname()[1], processes.log("web"))
    with screen.step("A local ECR, in the place of AWS") as note:
        sandbox = start_sandbox(processes)
        note(f"{sandbox.url}: {OWNER_ACCOUNT} owns the registry, {CLUSTER_ACCOUNT} runs the cluster that pulls")
    with screen.step("A database: manage.py migrate") as note:
        configure(directory, sandbox, api.origin)
        manage("migrate", "--no-input")
        note(shown(directory / "db.sqlite3"))
    with screen.step("An operator, a project, its environments and keys: manage.py bootstrap") as note:
        password, token = bootstrap()
        note(f"{OPERATOR}, “{PROJECT}” ({REF})")
    with screen.step("The worker and the web server: manage.py worker, gunicorn") as note, listener:
        fd = listener.fileno()
        processes.start("worker", "manage.py", "worker")
        gunicorn = ("-m", "gunicorn", "registry_admin.wsgi", "--workers=2", f"--bind=fd://{fd}")
        processes.start("web", *gunicorn, pass_fds=(fd,))
        listener.close()  # closed here, so that connections fail when gunicorn ends
        processes.wait_for("web", api.is_ready)
        processes.wait_for("worker", lambda: "worker.cluster_started" in processes.log("worker").read_text())
        note(api.origin)
    return sandbox, api, password, token


def show_the_problem(screen: Screen, sandbox: Sandbox) -> None:
    repository = "trigger/proj_by_hand"
    with screen.step("Without Registry Admin: a repository without a policy") as note:
        sandbox.client("ecr").create_repository(repositoryName=repository)
        images.push(images.build("by hand\n"), sandbox.url, *sandbox.login("owner"), repository, "1", registry=HOST)
        note(f"{OWNER_ACCOUNT} creates {repository} and pushes an image")
        show_pull(screen, note, sandbox, repository, "1", refused=True)


def show_a_deploy(screen: Screen, api: Api, sandbox: Sandbox, token: str) -> Deploy:
    with screen.step("With Registry Admin: a deploy requests an image ref, and its repository is set up") as note:
        deploy = Deploy(api, sandbox, token, "first\n")
        deploy.ask_for_ref(note)
    with screen.step("The image is pushed with short-lived credentials that the API gave out") as note:
        deploy.push(note)
    with screen.step("The deploy reports its tasks and is finalized") as note:
        deploy.report_tasks(note)
        deploy.finalize(note)
    with screen.step("The cluster, in another account, pulls at the first try") as note:
        show_pull(screen, note, sandbox, deploy.repository, deploy.tag, refused=False)
    with screen.step("The next deploy checks the repository, finds no difference, and writes nothing") as note:
        Deploy(api, sandbox, token, "second\n").all_steps(note)
    with screen.step("Somebody deletes the policy, and the next deploy restores it") as note:
        sandbox.client("ecr").delete_repository_policy(repositoryName=deploy.repository)
        show_pull(screen, note, sandbox, deploy.repository, deploy.tag, refused=True)
        Deploy(api, sandbox, token, "third\n").all_steps(note)
        show_pull(screen, note, sandbox, deploy.repository, deploy.tag, refused=False)
    return deploy


def show_the_watch(screen: Screen, processes: Processes, sandbox: Sandbox, deploy: Deploy) -> None:
    def carries_policy() -> bool:
        return "policyText" in client.get_repository_policy(repositoryName=deploy.repository)

    client = sandbox.client("ecr")
    with screen.step("It is deleted again, with manage.py events listening: no deploy is needed") as note:
        processes.start("events", "manage.py", "events")
        processes.wait_for("events", lambda: "Listening" in processes.log("events").read_text())
        client.delete_repository_policy(repositoryName=deploy.repository)
        started = time.monotonic()
        missing = client.exceptions.RepositoryPolicyNotFoundException
        processes.wait_for("events", lambda: _is(carries_policy, unless=missing))
        note(f"Restored {time.monotonic() - started:.1f} seconds after the change")
        show_pull(screen, note, sandbox, deploy.repository, deploy.tag, refused=False)


def _is(condition: Callable[[], bool], *, unless: type[Exception]) -> bool:
    try:
        return condition()
    except unless:
        return False


def play(screen: Screen, processes: Processes, directory: Path, *, once: bool) -> None:
    sandbox, api, password, token = install(screen, processes, directory)
    show_the_problem(screen, sandbox)
    deploy = show_a_deploy(screen, api, sandbox, token)
    show_the_watch(screen, processes, sandbox, deploy)
    processes.look_after()
    tell_what_is_there(screen, directory, api.origin, sandbox, password, token)
    print("Now it ends; without --once it stays up." if once else "It stays up until Ctrl-C.", flush=True)
    with contextlib.suppress(Interrupted):
        while not once:
            time.sleep(0.5)
            processes.look_after()


def perform(screen: Screen, directory: Path, *, once: bool) -> None:
    with clear(directory), Processes(directory) as processes:
        try:
            play(screen, processes, directory, once=once)
        finally:
            with screen.step("Everything that was started ends"):
                processes.end()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox.demo", description="Deploys, shown on this machine.")
    parser.add_argument("--once", action="store_true", help="end after the deploys")
    parser.add_argument("--directory", type=Path, default=ROOT / ".demo", help="for its files (default: .demo)")
    arguments = parser.parse_args()
    screen, directory = Screen(), arguments.directory.resolve()
    print("Registry Admin: deploys here, pulls from another account. Nothing leaves this machine.", flush=True)
    return run(screen, directory, "demo", lambda: perform(screen, directory, once=arguments.once))


if __name__ == "__main__":
    sys.exit(main())
