"""An installation of the program against the sandbox: its settings, its commands, its operator and project.

`make demo` and `make dev` use it. It uses the program's commands and imports nothing from the program.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shlex
import subprocess
import sys
from pathlib import Path
from typing import IO
from urllib.parse import quote

from sandbox.control import CLUSTER_ACCOUNT, OWNER_ACCOUNT, Sandbox
from sandbox.keeper import ROOT, START_SECONDS, Failure, Processes
from sandbox.screen import BOLD, Screen, shown

HOST = f"{OWNER_ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
OPERATOR, PROJECT, REF = "demo@example.com", "Demo", "proj_demo"
#: The settings that let a cluster in another account pull.
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Sid": "ClusterPulls",
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{CLUSTER_ACCOUNT}:root"},
            "Action": ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
        }
    ],
}
#: Prefixes of variables that are removed from the user's environment, so that a profile, a proxy or another
#: installation's settings do not affect this installation.
KEPT = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TERM", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")


def hold(directory: Path, what: str) -> IO[str]:
    """Make a missing folder and lock it. Returns the lock. Raises Failure if another process has the lock."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = (directory / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Failure(f"Another {what} is running here already: end that one first, with Ctrl-C.") from None
    return lock


def start_sandbox(processes: Processes) -> Sandbox:
    """Starts the sandbox and waits until it is ready."""
    processes.start("sandbox", "-m", "sandbox", "--port", "0")
    said = processes.log("sandbox").read_text
    return Sandbox(processes.wait_for("sandbox", lambda: re.search(r"ready at (\S+)\n", said()))[1])


def configure(directory: Path, sandbox: Sandbox, origin: str, **more: str) -> None:
    """Write the settings and `more` settings to `env`, which every process reads that is started later."""
    aws = sandbox.environment("owner")
    settings = {
        "DATABASE_URL": f"sqlite:///{quote(str(directory / 'db.sqlite3'))}",
        "SECRET_KEY": secrets.token_urlsafe(50),
        "APP_ORIGIN": origin,
        "API_ORIGIN": origin,
        "DEPLOY_REGISTRY_HOST": HOST,
        "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": json.dumps(POLICY),
        "RECONCILE_EVENTS_QUEUE_URL": sandbox.events_to("registry-admin", reads=["GetRegistryPolicy"]),
        # By default, a deploy does not check a repository again that was in sync within the last minute.
        "RECONCILE_FRESHNESS_SECONDS": "0",
        **aws,
        **more,
    }
    (directory / "env").unlink(missing_ok=True)
    with open(directory / "env", "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as env:
        env.writelines(f"{name}='{value}'\n" for name, value in settings.items())
    mine = {name: os.environ[name] for name in KEPT if name in os.environ}
    os.environ.clear()
    os.environ.update(mine, ENV_FILE=str(directory / "env"), **aws)


def manage(*command: str) -> tuple[str, str]:
    """Run `manage.py COMMAND` and return its output. The output is not logged, because it may be a secret."""
    done = subprocess.run(
        [sys.executable, "manage.py", *command], cwd=ROOT, start_new_session=True, timeout=START_SECONDS,
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise Failure(f"manage.py {command[0]} ended with status {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout, done.stderr


def bootstrap() -> tuple[str, str]:
    """Make the project with its environments and keys. Returns the operator's password and personal access token."""
    said, beside = manage("bootstrap", "--email", OPERATOR, "--project", PROJECT, "--ref", REF, "--json")
    password = re.search(r"^Password of .*: (\S+)$", beside, re.MULTILINE)
    if password is None:
        raise Failure("manage.py bootstrap did not print the operator's password.")
    return password[1], json.loads(said)["token"]


def tell_what_is_there(
    screen: Screen, directory: Path, origin: str, sandbox: Sandbox, password: str, token: str
) -> None:
    def quoted(path: Path) -> str:
        return shlex.quote(str(path))

    print(f"""
{screen.paint("To look at", BOLD)}
    Admin      {origin}/admin/   log in as {OPERATOR} with {password}
    API        {origin}/api/docs   token {token}
    Commands   ENV_FILE={shown(directory / "env")} {shown(Path(sys.executable))} manage.py …
    Logs       {shown(directory)}/*.log

{screen.paint("To try: a deploy by the real CLI, in a project of trigger.dev", BOLD)}
    PATH={quoted(ROOT / "sandbox" / "bin")}:$PATH DOCKER_CONFIG={quoted(directory / "docker")} \\
    SANDBOX_URL={sandbox.url} TRIGGER_API_URL={origin} \\
    TRIGGER_ACCESS_TOKEN={token} \\
    npx trigger.dev@4.8.3 deploy --local-build --project-ref {REF}

    The first folder on PATH has a stand-in for docker, which pushes to the local ECR instead of to AWS.
    No project at hand?  cp -r {quoted(ROOT / "tests" / "e2e" / "project")} hello && cd hello && npm install
""")
