"""What a measurement runs against: the sandbox, a database, and gunicorn, each a process of its own on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sandbox import installation
from sandbox.control import OWNER_ACCOUNT, Sandbox

ROOT = Path(__file__).resolve().parent.parent
POLICY = json.dumps(installation.POLICY)
WORKERS, THREADS = 2, 8  # as gunicorn.conf.py on two cores
START_SECONDS = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")


def environment(sandbox: Sandbox, database: str, **more: str) -> dict[str, str]:
    """Of a process of the measured installation: nothing of the developer's own but the PATH."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.devnull,
        "ENV_FILE": os.devnull,
        "SECRET_KEY": "only-for-a-measurement-0123456789-0123456789-0123456789",
        "DATABASE_URL": database,
        "DEPLOY_REGISTRY_HOST": installation.HOST,
        "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY,
        "RECONCILE_FRESHNESS_SECONDS": "86400",
        **sandbox.environment("owner"),
        **more,
    }


@contextmanager
def sandbox() -> Iterator[Sandbox]:
    """A sandbox with the role that the seed's plan assumes."""
    with Sandbox.start() as started:
        trust = {"Effect": "Allow", "Principal": {"AWS": OWNER_ACCOUNT}, "Action": "sts:AssumeRole"}
        may = {"Effect": "Allow", "Action": "ecr:*", "Resource": "*"}
        iam = started.client("iam")
        iam.create_role(RoleName="bench", AssumeRolePolicyDocument=_document(trust))
        iam.put_role_policy(RoleName="bench", PolicyName="ecr", PolicyDocument=_document(may))
        yield started


def _document(statement: Mapping[str, object]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running gunicorn. It ends with the block that started it."""

    pid: int
    port: int
    log: Path


@contextmanager
def serving(application: str, *, folder: Path, name: str, bare: bool, **variables: str) -> Iterator[Server]:
    """gunicorn with WORKERS and THREADS, on a free port. `bare`: without the hooks of gunicorn.conf.py."""
    log = folder / f"{name}.log"
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener, log.open("w") as output:
        port = listener.getsockname()[1]
        origin = f"http://localhost:{port}"
        options = ["--bind", f"fd://{listener.fileno()}", "--workers", str(WORKERS), "--threads", str(THREADS)]
        if bare:
            options += ["--config", str(ROOT / "bench" / "bare" / "gunicorn.conf.py")]
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *options, "--no-control-socket", application],
            cwd=ROOT, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env={**variables, "APP_ORIGIN": origin, "API_ORIGIN": origin}, start_new_session=True,
        )  # fmt: skip
    try:
        _wait(port, process, log)
        yield Server(pid=process.pid, port=port, log=log)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):  # processes of its session that are left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5)
            return
        except urllib.error.HTTPError:
            return  # the bare project has no such address
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"gunicorn did not start:\n{log.read_text()[-3000:]}")


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and its children, also of those that have ended. 0 where there is no /proc."""
    seconds, children = 0.0, {pid}
    rows = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            rows[int(folder.name)] = (int(fields[1]), sum(int(field) for field in fields[11:15]))
    grown = True
    while grown:
        grown = False
        for each, (parent, _) in rows.items():
            if parent in children and each not in children:
                children.add(each)
                grown = True
    for each in children & rows.keys():
        seconds += rows[each][1] / _TICKS
    return seconds
