"""A whole installation for the real CLI to deploy to: a sandbox ECR, migrated rows, gunicorn on a free port.

Everything here happens from outside, as an operator would do it: commands of manage.py, requests, and a look into the
database file. Nothing is patched.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sandbox.control import Sandbox
from tests.e2e import cli
from tests.support.constants import HOST, POLICY

OPERATOR = "ada@example.com"
# In seconds: a command of manage.py, the web server's start, and its end.
COMMAND_LIMIT, START_LIMIT, STOP_LIMIT = 60, 30, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A deployment as the database has it."""

    id: str
    environment: str  # prod, staging, or preview/BRANCH
    version: str
    status: str
    type: str
    image_reference: str  # with the digest, once there is one
    external_id: str
    triggered_by: str
    error: dict[str, Any]
    credentials_error: str
    tasks: tuple[str, ...]
    is_current: bool


@dataclass(kw_only=True)
class Installation:
    """Where it runs, and what an operator can do with it."""

    folder: Path
    sandbox: Sandbox
    origin: str = ""
    token: str = field(default="", repr=False)
    _number: Iterator[int] = field(default_factory=itertools.count, repr=False)

    @property
    def database(self) -> Path:
        return self.folder / "db.sqlite3"

    @property
    def log(self) -> Path:
        return self.folder / "web.log"

    def environment(self, **more: str) -> dict[str, str]:
        """Of a process of this installation: nothing of the developer's own but the PATH."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "ENV_FILE": os.devnull,
            "SECRET_KEY": "only-for-this-installation-0123456789-0123456789-0123456789",
            "DATABASE_URL": f"sqlite:///{self.database}",
            "DEPLOY_REGISTRY_HOST": HOST,
            "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY,
            **self.sandbox.environment("owner"),
            **more,
        }

    def manage(self, *arguments: str) -> str:
        """`manage.py ARGUMENTS`; what it printed. Raises RuntimeError with its complaint."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=cli.ROOT, env=self.environment(), capture_output=True, text=True, timeout=COMMAND_LIMIT,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"manage.py {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    @contextmanager
    def serving(self, *, api_port: int | None = None, **more: str) -> Iterator[str]:
        """gunicorn as `make run` starts it, on a free port; gives its origin.

        `api_port` is where the CLI looks for the API, if that is not the server itself; `more` are variables.
        """
        # Bound and listening before gunicorn is there: no other process can take the port in between, and the first
        # request waits for the start by itself.
        with socket.create_server(("127.0.0.1", 0), backlog=64) as listener, self.log.open("a") as log:
            port = listener.getsockname()[1]
            # `localhost`, not an address: in a build by the CLI it becomes host.docker.internal.
            origin = f"http://localhost:{port}"
            options = ["--bind", f"fd://{listener.fileno()}"]
            # Enough to prove that nothing relies on one process; one for each core would be a crowd on a large machine.
            options += ["--workers", "2"]
            # It would lie in the home folder, where two servers of one installation cannot both have theirs.
            options += ["--no-control-socket"]
            process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *options, "registry_admin.wsgi"],
                cwd=cli.ROOT, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.environment(
                    **{"APP_ORIGIN": origin, "API_ORIGIN": f"http://localhost:{api_port or port}", **more}
                ),
                start_new_session=True,
            )  # fmt: skip
        try:
            try:
                status = request("GET", f"{origin}/readyz", timeout=START_LIMIT)[0]
            except OSError as error:
                raise RuntimeError(f"gunicorn did not start: {error}\n{self.log.read_text()}") from None
            if status != 200:
                raise RuntimeError(f"gunicorn is not ready: {status}\n{self.log.read_text()}")
            yield origin
        finally:
            process.terminate()
            try:
                process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                pass
            with suppress(ProcessLookupError):  # processes of its session that are left
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_LIMIT)

    def bootstrap(self, name: str) -> Target:
        made = json.loads(self.manage("bootstrap", "--email", OPERATOR, "--project", name, "--json"))
        self.token = self.token or made["token"]  # printed once, with the operator's first project
        return Target(installation=self, ref=made["project_ref"], keys=made["keys"])

    def new_target(self) -> Target:
        return self.bootstrap(f"Project {next(self._number)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A project to deploy, and what its developer was given."""

    installation: Installation
    ref: str
    keys: Mapping[str, str] = field(repr=False)

    @property
    def repository(self) -> str:
        return f"trigger/{self.ref}"

    def tag(self, row: Row) -> str:
        """What its image reference must begin with, up to the short code."""
        kind = {"prod": "production"}.get(row.environment, row.environment.partition("/")[0])
        return f"{HOST}/{self.repository}:{row.version}.{kind}."

    def env(self, **more: str) -> dict[str, str]:
        """What the developer sets before `trigger.dev deploy`."""
        return {
            "TRIGGER_API_URL": self.installation.origin,
            "TRIGGER_ACCESS_TOKEN": self.installation.token,
            "TRIGGER_PROJECT_REF": self.ref,
            "SANDBOX_URL": self.installation.sandbox.url,
            **more,
        }

    def api(self, method: str, path: str, body: object = None, *, key: str = "prod") -> dict[str, Any]:
        """A request with the key of an environment. The answer must be a success."""
        url = f"{self.installation.origin}{path}"
        status, answer = request(method, url, body, Authorization=f"Bearer {self.keys[key]}")
        assert status < 300, f"{method} {path}: {status} {answer!r}"
        found: dict[str, Any] = json.loads(answer) if answer else {}
        return found

    def docker_login(self, folder: Path) -> None:
        """Log the developer in with credentials that the API issues. It issues them for a deployment, so for one that
        is called off before it began."""
        begun = self.api("POST", "/api/v1/deployments", {"contentHash": "0" * 64, "type": "MANAGED"})
        issued = self.api("POST", f"/api/v1/deployments/{begun['id']}/generate-registry-credentials", {})
        self.api("POST", f"/api/v1/deployments/{begun['id']}/cancel", {"reason": "Only for its credentials"})
        username, password = issued["username"], issued["password"]
        done = cli.docker(
            "login", "--username", username, "--password-stdin", HOST, cwd=folder, env=self.env(), stdin=password
        )
        assert done.status == 0, done.output

    def rows(self) -> list[Row]:
        """Its deployments in the order of their making, but those that `docker_login` called off."""
        query = """
            SELECT deployment.*, environment.slug, environment.branch, worker.tasks, promotion.id AS promotion
            FROM deployments_deployment deployment
            JOIN deployments_project project ON project.id = deployment.project_id
            JOIN deployments_environment environment ON environment.id = deployment.environment_id
            LEFT JOIN deployments_backgroundworker worker ON worker.deployment_id = deployment.id
            LEFT JOIN deployments_promotion promotion ON promotion.deployment_id = deployment.id
                AND promotion.environment_id = environment.id AND promotion.label = 'current'
            WHERE project.ref = ? AND deployment.canceled_reason <> 'Only for its credentials'
            ORDER BY deployment.created_at
        """
        # Not through Django: its connection in this process is the suite's own database.
        with closing(sqlite3.connect(f"file:{self.installation.database}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [_row(found) for found in connection.execute(query, [self.ref])]


def _row(found: sqlite3.Row) -> Row:
    return Row(
        id=found["id"],
        environment=f"{found['slug']}/{found['branch']}".rstrip("/"),
        version=f"{found['version_day']}.{found['version_number']}",
        status=found["status"],
        type=found["type"],
        image_reference="@".join(filter(None, (found["image_ref"], found["image_digest"]))),
        external_id=found["external_id"],
        triggered_by=found["triggered_by"],
        error=json.loads(found["error"] or "null") or {},
        credentials_error=found["credentials_error"],
        tasks=tuple(task["slug"] for task in json.loads(found["tasks"] or "[]")),
        is_current=found["promotion"] is not None,
    )


def request(method: str, url: str, body: object = None, *, timeout: float = 30, **headers: str) -> tuple[int, bytes]:
    """One request, whatever its answer's status. No proxy and no redirect comes between."""
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)) as connection:
        content = None if body is None else json.dumps(body)
        connection.request(method, parts.path, content, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, response.read()


# The newest CLI; one that tells the server of a local build, and the first 4.x, which does not; the last 3.x.
NEWEST, BEFORE, FIRST, OLD = "4.8.3", "4.4.6", "4.0.7", "3.3.17"
LOCAL_BUILD = ("deploy", "--local-build")  # logs in to the registry itself, with credentials of the server


def trigger(
    target: Target, *arguments: str, version: str = NEWEST, files: Mapping[str, str] | None = None, **env: str
) -> cli.Result:
    """The CLI in a fresh copy of the project, with an empty home."""
    with cli.project(version, files) as folder:
        return cli.run(version, *arguments, cwd=folder, env=target.env(**env))


def only(rows: list[Row]) -> Row:
    assert len(rows) == 1, rows
    return rows[0]
