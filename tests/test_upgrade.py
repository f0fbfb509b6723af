"""Version 0.1.0, with data, becomes this one while it serves; and goes on on the migrated database afterwards.

Real processes of both versions, on one database and one sandbox. 0.1.0 comes out of the history, with a virtual
environment of its own that is kept below `.cache/`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sandbox import images
from sandbox.control import Sandbox
from tests import postgresql
from tests.e2e.installation import request
from tests.support.cli import HASH, WORKER
from tests.support.constants import HOST, POLICY

ROOT = Path(__file__).resolve().parent.parent
FIRST = "c3e5c70"  # version 0.1.0
WEBHOOK = "https://discord.example/api/webhooks/1/canary"
COMMAND_SECONDS, START_SECONDS, STOP_SECONDS, INSTALL_SECONDS = 90, 60, 35, 600

pytestmark = [pytest.mark.slow, pytest.mark.timeout(INSTALL_SECONDS + 300)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A version of the program, and the Python that has what it needs."""

    folder: Path
    python: str = sys.executable


NEW = Code(folder=ROOT)


@pytest.fixture(scope="session")
def old() -> Code:
    """0.1.0. Its folder is named after what is in it, so a kept one is the right one."""
    release = ROOT / ".cache" / "releases" / FIRST
    if not (release / "complete").exists():
        shutil.rmtree(release, ignore_errors=True)
        release.mkdir(parents=True)
        packed = subprocess.run(["git", "archive", FIRST], cwd=ROOT, capture_output=True, timeout=COMMAND_SECONDS)
        if packed.returncode:
            pytest.fail(
                f"Version 0.1.0 (commit {FIRST}) is not in this clone's history: {packed.stderr.decode().strip()}. "
                f"Fetch it with: git fetch --unshallow, or git fetch origin {FIRST}"
            )
        subprocess.run(["tar", "-x", "-C", release], input=packed.stdout, check=True, timeout=COMMAND_SECONDS)
        for command in (
            [sys.executable, "-m", "venv", ".venv"],
            [f"{release}/.venv/bin/python", "-m", "pip", "install", "--quiet", "-r", "requirements.txt"],
        ):
            done = subprocess.run(command, cwd=release, capture_output=True, text=True, timeout=INSTALL_SECONDS)
            assert done.returncode == 0, done.stderr
        (release / "complete").touch()
    return Code(folder=release, python=str(release / ".venv/bin/python"))


@dataclass(kw_only=True)
class Installation:
    """One database, one sandbox, one set of settings; any version's processes."""

    sandbox: Sandbox
    folder: Path
    database_url: str
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.folder / "processes.log"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "ENV_FILE": os.devnull,
            "SECRET_KEY": "only-for-this-installation-0123456789-0123456789-0123456789",
            "DATABASE_URL": self.database_url,
            "DEPLOY_REGISTRY_HOST": HOST,
            "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY,
            "STATIC_ROOT": str(self.folder / "static"),
            **self.sandbox.environment("owner"),
        }

    def manage(self, code: Code, *arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [code.python, "manage.py", *arguments], cwd=code.folder, env=self.environment, capture_output=True,
            text=True, timeout=COMMAND_SECONDS,
        )  # fmt: skip
        assert done.returncode == status, f"manage.py {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def serving(self, code: Code) -> Iterator[str]:
        """A version's web process on a free port; its origin, once it says that it is ready."""
        with socket.create_server(("127.0.0.1", 0), backlog=64) as listener, self.log.open("ab") as log:
            origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
            process = subprocess.Popen(
                [code.python, "-m", "gunicorn", "--bind", f"fd://{listener.fileno()}", "--workers", "1",
                 "registry_admin.wsgi"],
                cwd=code.folder, env=self.environment, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            status, body = request("GET", f"{origin}/readyz", timeout=START_SECONDS)
            assert status == 200, f"{body!r}\n{self.log.read_text()}"
            yield origin
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            with suppress(ProcessLookupError):  # what is left of its session
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)

    def project(self, code: Code, name: str) -> Project:
        made = json.loads(self.manage(code, "bootstrap", "--email", "ada@example.com", "--project", name, "--json"))
        return Project(sandbox=self.sandbox, ref=made["project_ref"], key=made["keys"]["prod"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    sandbox: Sandbox
    ref: str
    key: str = field(repr=False)

    def ask(self, method: str, url: str, body: object = None) -> Any:
        status, answer = request(method, url, body, Authorization=f"Bearer {self.key}")
        assert status == 200, f"{method} {url}: {status} {answer!r}"
        return answer.decode()

    def begin(self, origin: str) -> dict[str, Any]:
        answer = self.ask("POST", f"{origin}/api/v1/deployments", {"contentHash": HASH, "type": "MANAGED"})
        begun: dict[str, Any] = json.loads(answer)
        return begun

    def deploy(self, begin: str, *, finish: str = "") -> str:
        """A whole deploy, with an image and its proof; `finish` by another version's process. Its version."""
        begun, then = self.begin(begin), finish or begin
        name, _, tag = begun["imageTag"].removeprefix(f"{HOST}/").rpartition(":")
        pushed = images.push(images.build(), self.sandbox.url, *self.sandbox.login(), name, tag, registry=HOST)
        self.ask("POST", f"{then}/api/v1/deployments/{begun['id']}/background-workers", WORKER)
        told = self.ask("POST", f"{then}/api/v3/deployments/{begun['id']}/finalize", {"imageDigest": pushed})
        assert "event: complete" in told, told
        now = json.loads(self.ask("GET", f"{begin}/api/v1/deployments/{begun['id']}"))
        assert now["status"] == "DEPLOYED"
        return str(begun["version"])


def number(version: str) -> int:
    return int(version.partition(".")[2])


@pytest.fixture(params=["sqlite", "postgresql"])
def installation(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installation]:
    (tmp_path / "static").mkdir()
    with ExitStack() as ends:
        sandbox = ends.enter_context(Sandbox.start())
        url = f"sqlite:///{tmp_path / 'live'}"
        if request.param == "postgresql":
            server = postgresql.Server.start()
            ends.callback(server.stop)
            url = server.url.replace("/postgres?", "/live?")
            on_server(url, "CREATE DATABASE live")
        made = Installation(sandbox=sandbox, folder=tmp_path, database_url=url)
        yield made
        print(made.log.read_text()[-4000:] if made.log.exists() else "")


def on_server(url: str, *statements: str) -> None:
    with psycopg.connect(url.replace("/live?", "/postgres?"), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def copy_database(installation: Installation, source: str, target: str) -> None:
    """The database `live` to `backup`, or back. No process has it open."""
    if "sqlite" in installation.database_url:
        with (
            closing(sqlite3.connect(installation.folder / source)) as old,
            closing(sqlite3.connect(installation.folder / target)) as new,
        ):
            old.backup(new)
    else:
        on_server(
            installation.database_url,
            f"DROP DATABASE IF EXISTS {target} WITH (FORCE)",
            f"CREATE DATABASE {target} TEMPLATE {source}",
        )


def rows(installation: Installation, code: Code) -> list[Any]:
    """What 0.1.0 stores, as it reads it: without the times of use, and without what later deploys have added."""
    wanted = ["project", "environment", "accesskey", "repository", "deployment", "promotion", "environmentvariable"]
    text = installation.manage(code, "dumpdata", *(f"deployments.{name}" for name in wanted))
    return [entry for entry in json.loads(text) if entry["fields"].pop("last_used_at", True) or True]


def managements(installation: Installation) -> set[str]:
    text = installation.manage(NEW, "dumpdata", "deployments.repository")
    return {row["fields"]["management"] for row in json.loads(text)}


def test_0_1_0_serves_while_it_is_upgraded_and_on_the_migrated_database_afterwards(
    old: Code, installation: Installation
) -> None:
    installation.manage(old, "migrate", "--verbosity", "0")
    first = installation.project(old, "First")
    installation.manage(
        old, "shell", "-c",
        "from deployments.models import NotificationChannel as Channel; "
        f"Channel.objects.create(name='ops', kind='webhook', address='{WEBHOOK}')",
    )  # fmt: skip
    later = [installation.project(old, f"Later {number}") for number in range(5)]
    with installation.serving(old) as old_origin:
        assert number(first.deploy(old_origin)) == 1
        before = rows(installation, old)

        with deploying(first, old_origin) as during:
            installation.manage(NEW, "migrate", "--verbosity", "0")
        assert during.errors == []
        assert during.count > 0, "no deploy met the migrations"
        kept = {(row["model"], row["pk"]): row["fields"] for row in rows(installation, old)}
        assert [row for row in before if row["model"] != "deployments.environment"] == [
            {"model": row["model"], "pk": row["pk"], "fields": kept[row["model"], row["pk"]]}
            for row in before
            if row["model"] != "deployments.environment"  # its version counter has moved
        ]

        # Each version makes a repository, sets it up and promotes; a deploy begun with one is finished by the other.
        assert number(later[0].deploy(old_origin)) == 1
        with installation.serving(NEW) as new_origin:
            assert managements(installation) == {"full"}, "the web process fills what 0.1.0 has not written"
            channels = installation.manage(NEW, "dumpdata", "deployments.notificationchannel")
            assert (WEBHOOK in channels, "canary" in channels) == (False, False), "the web process encrypts addresses"
            begun = number(first.deploy(new_origin))
            assert begun > during.count
            assert number(first.deploy(old_origin)) == begun + 1
            assert number(later[1].deploy(new_origin)) == 1
            assert number(later[2].deploy(old_origin)) == 1
            assert number(first.deploy(old_origin, finish=new_origin)) == begun + 2
            assert number(first.deploy(new_origin, finish=old_origin)) == begun + 3
            assert "0 drifted, 0 failed" in installation.manage(NEW, "reconcile", "--all")
        doctor = json.loads(installation.manage(NEW, "doctor", "--offline", "--json", status=2))
        assert [line["what"] for line in doctor["lines"] if line["level"] == "fail"] == ["Heartbeat"]

    # One version back, on the migrated database.
    with installation.serving(old) as old_origin:
        assert number(first.deploy(old_origin)) == begun + 4
        assert number(later[3].deploy(old_origin)) == 1
        assert "0 drifted, 0 failed" in installation.manage(old, "reconcile", "--all")
    # And forward again.
    with installation.serving(NEW) as new_origin:
        assert managements(installation) == {"full"}
        assert number(first.deploy(new_origin)) == begun + 5
        assert number(later[4].deploy(new_origin)) == 1


@dataclass
class During:
    """Deploys that were begun beside something else."""

    count: int = 0
    errors: list[str] = field(default_factory=list)


@contextmanager
def deploying(project: Project, origin: str) -> Iterator[During]:
    """Begin deploys, three at a time, until the end of the `with`."""
    during, over = During(), threading.Event()

    def run() -> None:
        while not over.wait(0.02):
            try:
                project.begin(origin)
            except (AssertionError, OSError) as error:
                during.errors.append(str(error))
            during.count += 1

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield during
    finally:
        over.set()
        for thread in threads:
            thread.join(COMMAND_SECONDS)


def test_a_restored_backup_gives_no_version_twice(installation: Installation) -> None:
    installation.manage(NEW, "migrate", "--verbosity", "0")
    known = installation.project(NEW, "Known")
    with installation.serving(NEW) as origin:
        assert number(known.deploy(origin)) == 1
    copy_database(installation, "live", "backup")
    with installation.serving(NEW) as origin:
        lost = installation.project(NEW, "Lost")
        assert [number(known.deploy(origin)) for _ in range(2)] == [2, 3]
        assert [number(lost.deploy(origin)) for _ in range(2)] == [1, 2]

    copy_database(installation, "backup", "live")
    first = json.loads(installation.manage(NEW, "reconcile", "--all", "--json"))
    installation.manage(NEW, "bootstrap", "--email", "ada@example.com", "--project", "Lost", "--ref", lost.ref)
    second = json.loads(installation.manage(NEW, "reconcile", "--all", "--json"))

    assert (first["discovered"], len(first["versions_raised"])) == (1, 1)
    assert len(second["versions_raised"]) == 1
    key = json.loads(
        installation.manage(
            NEW, "bootstrap", "--email", "ada@example.com", "--project", "Lost", "--ref", lost.ref, "--rotate", "--json"
        )
    )["keys"]["prod"]
    with installation.serving(NEW) as origin:
        assert number(known.deploy(origin)) == 4
        assert number(Project(sandbox=installation.sandbox, ref=lost.ref, key=key).deploy(origin)) == 3


def test_the_notes_name_each_setting_and_each_action_of_aws_that_0_1_0_did_not_have(old: Code) -> None:
    notes = (ROOT / "docs" / "upgrading.md").read_text()

    def settings(code: Code) -> set[str]:
        return set(re.findall(r"(?m)^#? ?([A-Z][A-Z0-9_]+)=", (code.folder / ".env.example").read_text()))

    def actions(code: Code) -> set[str]:
        policy = json.loads((code.folder / "docs" / "iam-policy.json").read_text())
        return {action for statement in policy["Statement"] for action in statement["Action"]}

    new = (settings(NEW) - settings(old)) | (actions(NEW) - actions(old))
    assert {"CONFIGURATION_GENERATION", "ecr:ListImages"} <= new
    assert sorted(name for name in new if f"`{name}`" not in notes) == []
