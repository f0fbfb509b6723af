"""What a page finds on its PATH in the place of systemctl and npx, and the processes of its terminals.

    python -m tests.docs.processes systemctl restart registry-admin-web …
    python -m tests.docs.processes terminal 'gunicorn registry_admin.wsgi'
    python -m tests.docs.processes npx trigger.dev@latest deploy

The variables PAGE_FOLDER (the page's folder, with the checkout in it), PAGE_ORIGIN (of its web process) and
SANDBOX_URL say where. `keep` ends what was started when its standard input closes, also if the tests are killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

START_SECONDS, STOP_SECONDS = 60, 15
#: What a process writes when it works: the worker, events, the sandbox. The web process is asked.
WORKS = (b"worker.cluster_started", b"Listening", b"sandbox ready at")
#: The command of each unit in deploy/systemd.
UNITS = {
    "registry-admin-web": ("manage.py", "web"),
    "registry-admin-worker": ("manage.py", "worker"),
    "registry-admin-events": ("manage.py", "events"),
}


def start(folder: Path, name: str, command: list[str], environment: dict[str, str]) -> None:
    """Start a process in the checkout and wait until it works. Raises SystemExit with its log if it does not."""
    log = folder / f"{name}.log"
    log.touch()
    before = log.stat().st_size
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=folder / "checkout", env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    (folder / "pids" / name).write_text(str(process.pid))
    if re.search(r"gunicorn|manage\.py web", " ".join(command)):
        works = _is_ready
    else:

        def works() -> bool:
            said = log.read_bytes()[before:]
            return any(words in said for words in WORKS)

    until = time.monotonic() + START_SECONDS
    while not works():
        if process.poll() is not None or time.monotonic() > until:
            break
        time.sleep(0.1)
    else:
        if process.poll() is None:
            return
    sys.exit(f"{name} does not run:\n{log.read_text()[-3000:]}")


def stop(folder: Path, name: str) -> None:
    """End a process as systemd does: SIGTERM, and SIGKILL to what is left of its session."""
    file = folder / "pids" / name
    if not file.exists():
        return
    pid = int(file.read_text())
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + STOP_SECONDS
    while _lives(pid) and time.monotonic() < until:
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    file.unlink()


def _leave(folder: Path, name: str) -> None:
    """Send a process SIGTERM and do not wait; `end_all` does."""
    file = folder / "pids" / name
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(file.read_text()), signal.SIGTERM)
    file.rename(file.with_name(f"{name}-{time.time_ns()}"))


def end_all(folder: Path) -> None:
    for file in list((folder / "pids").iterdir()):
        stop(folder, file.name)


def _lives(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):  # a child of this process has to be waited for
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _is_ready() -> bool:
    try:
        with urllib.request.urlopen(f"{os.environ['PAGE_ORIGIN']}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        with error:
            return False
    except OSError:
        return False


def systemctl(folder: Path, verb: str, *units: str) -> None:
    names = [unit.removesuffix(".service") for unit in units if not unit.startswith("-")]
    if verb not in ("start", "stop", "restart") or not set(names) <= set(UNITS):
        sys.exit(f"systemctl {verb} {' '.join(units)}: tests/docs/processes.py knows no such unit or verb")
    kept = ("PATH", "HOME", "BIND", "WEB_CONCURRENCY")
    clean = {name: os.environ[name] for name in kept}
    for name in names:
        running = (folder / "pids" / name).exists()
        if verb == "stop" or (verb == "restart" and "web" in name):  # two web processes cannot have one port
            stop(folder, name)
        elif (
            verb == "restart" and running
        ):  # the old process may take eight seconds to end; it works beside the new one
            _leave(folder, name)
        if verb == "start" or (verb == "restart" and running):  # a scene without events processes has none afterwards
            start(folder, name, [sys.executable, *UNITS[name]], clean)


def terminal(folder: Path, line: str) -> None:
    name = f"terminal-{len(list((folder / 'pids').iterdir()))}"
    start(folder, name, ["bash", "-c", f"exec {line}"], dict(os.environ))


def deploy() -> None:
    """A deploy as the CLI makes it, by its requests. The real CLI is tests/e2e's."""
    from sandbox.control import Sandbox
    from sandbox.demo import Api, Deploy

    api = Api(urlsplit(os.environ["TRIGGER_API_URL"]).port or 80, Path(os.devnull))
    made = Deploy(api, Sandbox(os.environ["SANDBOX_URL"]), os.environ["TRIGGER_ACCESS_TOKEN"], f"{time.time_ns()}\n")
    for step in (made.ask_for_ref, made.push, made.report_tasks, made.finalize):
        step(print)


def main(what: str, *arguments: str) -> None:
    folder = Path(os.environ["PAGE_FOLDER"])
    if what == "keep":
        sys.stdin.read()
        end_all(folder)
    elif what == "systemctl":
        systemctl(folder, *arguments)
    elif what == "terminal":
        terminal(folder, *arguments)
    elif what == "npx" and arguments[:1] and arguments[0].startswith("trigger.dev") and arguments[1:2] == ("deploy",):
        deploy()
    else:
        sys.exit(f"tests/docs/processes.py has no {what} {' '.join(arguments)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
