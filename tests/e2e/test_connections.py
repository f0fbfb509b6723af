"""Connections to a real PostgreSQL: as many as docs/sizing.md says, warned of if the server accepts fewer, and fewer
behind PgBouncer in transaction mode, through which everything works.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from deployments.reconcile import connection_count
from sandbox.control import Sandbox
from tests import postgresql
from tests.support import prepared
from tests.support.constants import HOST, POLICY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ROOT = Path(__file__).resolve().parents[2]
PROCESSES, THREADS = 2, 4
POOL = 3
SECONDS = 60


@pytest.fixture(scope="module")
def server() -> Iterator[postgresql.Server]:
    server = postgresql.Server.start()
    yield server
    server.stop()


@dataclass(kw_only=True)
class Running:
    """Processes on a database of their own."""

    url: str
    folder: Path
    port: int
    variables: dict[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "ENV_FILE": os.devnull,
            "STATIC_ROOT": str(prepared.static_root()),
            "SECRET_KEY": "only-for-this-installation-0123456789-0123456789-0123456789",
            "METRICS_KEY": "only-for-this-installation-0123456789-0123456789",
            "DATABASE_URL": self.url,
            "BIND": f"127.0.0.1:{self.port}",
            "WEB_CONCURRENCY": str(PROCESSES),
            "WEB_THREADS": str(THREADS),
            **self.variables,
        }

    def manage(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments], cwd=ROOT, env=self.environment(), capture_output=True, text=True,
            timeout=SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, role: str) -> None:
        with self.log(role).open("w") as log:
            self.started.append(
                subprocess.Popen(
                    [sys.executable, "manage.py", role], cwd=ROOT, env=self.environment(), stdout=log, stderr=log
                )
            )

    def log(self, role: str) -> Path:
        return self.folder / f"{role}.log"

    def get(self, path: str) -> int:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            headers={"Authorization": f"Bearer {self.environment()['METRICS_KEY']}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                answer.read()
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def deploy(self, key: str) -> int:
        """The status of a new deployment's answer. Its statements are sent often enough to be prepared."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/v1/deployments",
            data=json.dumps({"contentHash": "0" * 16, "type": "MANAGED"}).encode(),
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return int(answer.status)

    def wait(self, true: Callable[[], bool], role: str) -> None:
        until = time.monotonic() + SECONDS
        while not true():
            assert time.monotonic() < until, self.log(role).read_text()[-3000:]
            time.sleep(0.2)

    def burst(self, requests: int = 120, at_once: int = 24) -> list[int]:
        """Requests that read rows; the status of each answer."""
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(self.get, ["/readyz", "/status.json"] * (requests // 2)))


@contextmanager
def running(url: str, folder: Path, **variables: str) -> Iterator[Running]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = Running(url=url, folder=folder, port=port, variables=variables)
    try:
        yield made
    finally:
        for process in made.started:
            process.send_signal(signal.SIGTERM)
        for process in made.started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def database(server: postgresql.Server, name: str, role: str = "") -> str:
    """The URL of a new database, as the role."""
    with psycopg.connect(server.url, autocommit=True) as admin:
        if role:
            admin.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 10")
        admin.execute(f"CREATE DATABASE {name} OWNER {role or 'postgres'}")
    url = server.url.replace("/postgres?", f"/{name}?")
    return url.replace("//postgres:", f"//{role}:") if role else url


def connected(server: postgresql.Server, name: str) -> int:
    with psycopg.connect(server.url) as admin:
        row = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", [name]).fetchone()
    assert row is not None
    return int(row[0])


def most(server: postgresql.Server, name: str, during: Callable[[], object]) -> int:
    """The most connections to the database that were seen while the function ran."""
    seen = 0
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(during)
        while not done.done():
            seen = max(seen, connected(server, name))
            time.sleep(0.02)
        done.result()
    return max(seen, connected(server, name))


def test_the_processes_have_as_many_connections_as_are_counted(
    server: postgresql.Server, sandbox: Sandbox, tmp_path: Path
) -> None:
    variables = {
        "DEPLOY_REGISTRY_HOST": HOST,
        "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY,
        **sandbox.environment("owner"),
    }
    with running(database(server, "counted"), tmp_path, **variables) as processes:
        processes.manage("migrate", "--verbosity", "0")
        processes.start("web")
        processes.wait(lambda: processes.get("/readyz") == 200, "web")
        statuses: list[int] = []
        of_web = most(server, "counted", lambda: statuses.extend(processes.burst()))
        assert set(statuses) == {200}
        for number in range(60):
            sandbox.client("ecr").create_repository(repositoryName=f"trigger/proj_{number}")
        processes.start("worker")
        processes.wait(lambda: "worker.cluster_started" in processes.log("worker").read_text(), "worker")
        both = most(server, "counted", lambda: processes.manage("reconcile", "--all", "--adopt"))
        examined = json.loads(subprocess.run(
            [sys.executable, "manage.py", "doctor", "--offline", "--json"], cwd=ROOT, env=processes.environment(),
            capture_output=True, text=True, timeout=SECONDS,
        ).stdout)  # fmt: skip

    counted = Counter(web=PROCESSES)
    assert PROCESSES * THREADS <= of_web <= connection_count.needed(counted, threads=THREADS) - connection_count.COMMAND
    needed = connection_count.needed(counted + Counter(worker=1), threads=THREADS)
    assert both <= needed
    [line] = [each for each in examined["lines"] if each["what"] == "Connections"]
    assert line["level"] == "ok"
    assert line["says"] == (
        f"At most {needed} ({PROCESSES} web processes with {THREADS} threads, 1 worker, 0 events processes); the "
        "server accepts them."
    )


def test_a_start_warns_if_the_server_accepts_fewer_connections(server: postgresql.Server, tmp_path: Path) -> None:
    with running(database(server, "narrow", role="narrow"), tmp_path) as processes:
        processes.manage("migrate", "--verbosity", "0")
        processes.start("web")
        processes.wait(lambda: processes.get("/readyz") == 200, "web")

    lines = [json.loads(line) for line in processes.log("web").read_text().splitlines()]
    [warning] = [line for line in lines if line["event"] == "database.too_few_connections"]
    assert "need up to 11 connections" in warning["says"]
    assert "accepts 10 from this role" in warning["says"]
    assert "WEB_CONCURRENCY" in warning["then"]


@pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="needs Debian's pgbouncer")
def test_everything_works_through_pgbouncer_in_transaction_mode_with_few_connections(
    server: postgresql.Server, sandbox: Sandbox, tmp_path: Path
) -> None:
    database(server, "pooled")
    variables = {
        "DEPLOY_REGISTRY_HOST": HOST,
        "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY,
        **sandbox.environment("owner"),
    }
    with (
        pooled(server, tmp_path) as port,
        running(
            f"postgres://postgres@127.0.0.1:{port}/pooled?disable_server_side_cursors=true", tmp_path, **variables
        ) as processes,
    ):
        processes.manage("migrate", "--verbosity", "0")
        made = processes.manage("bootstrap", "--email", "ada@example.com", "--project", "Pooled", "--json")
        processes.start("web")
        processes.start("worker")
        processes.wait(lambda: processes.get("/readyz") == 200, "web")
        statuses: list[int] = []
        seen = most(server, "pooled", lambda: statuses.extend(processes.burst()))
        deploys = [processes.deploy(json.loads(made)["keys"]["prod"]) for _ in range(30)]
        for number in range(30):
            sandbox.client("ecr").create_repository(repositoryName=f"trigger/proj_pooled{number}")
        processes.manage("reconcile", "--all", "--adopt")
        tables = processes.manage("keys", "list")
        processes.manage("migrate", "--check")

    assert set(statuses) == set(deploys) == {200}
    assert seen <= POOL
    assert "Pooled" in tables or "proj_" in tables
    for role in ("web", "worker"):
        log = processes.log(role).read_text()
        assert "Traceback" not in log
        assert '"level": "error"' not in log
        assert "too_few_connections" not in log


@contextmanager
def pooled(server: postgresql.Server, folder: Path) -> Iterator[int]:
    """The port of a PgBouncer that gives each transaction one of POOL connections."""
    info = psycopg.conninfo.conninfo_to_dict(server.url)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = Path(tempfile.mkdtemp(prefix="registry-admin-pgbouncer-"))
    (settings / "pgbouncer.ini").write_text(
        f"[databases]\npooled = host={info['host']} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\nunix_socket_dir =\n"
        f"pool_mode = transaction\ndefault_pool_size = {POOL}\nmax_client_conn = 200\n"
    )
    user = None
    if os.geteuid() == 0:  # it refuses to run as root
        user = Path(str(info["host"])).owner()
        for path in (settings, settings / "pgbouncer.ini"):
            shutil.chown(path, user)
    with (folder / "pgbouncer.log").open("w") as log:
        process = subprocess.Popen(["pgbouncer", settings / "pgbouncer.ini"], stdout=log, stderr=log, user=user)
    try:
        until = time.monotonic() + SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < until, (folder / "pgbouncer.log").read_text()
                time.sleep(0.1)
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
        shutil.rmtree(settings)
