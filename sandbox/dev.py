"""``python -m sandbox.dev``: an installation for developers: a local ECR, SQLite, the web server, the worker.

``.dev`` has the database, the logs, ``env`` (with which each command of manage.py uses this installation) and the
operator's password, so that every start prints the same password. The next start uses the same data, and the same port
if it is free. Only the local ECR starts empty: the next deploy of a repository creates the repository again.

After a change of code, `runserver` restarts the web server, and this module restarts the worker and the consumer of
events. The output of all processes is printed and stored in the logs. All processes end with this process, also if it
is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from sandbox.control import Sandbox
from sandbox.installation import (
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
from sandbox.screen import DIM, Screen, run, shown

#: The processes that this module restarts after a change of code. `runserver` restarts itself.
COMMANDS = ("worker", "events")
CODE = ("deployments", "registry_admin")


class Output:
    """The lines of the processes' logs, each with the name of its process."""

    def __init__(self, screen: Screen, processes: Processes, *names: str) -> None:
        self._screen, self._names = screen, names
        self._logs = {name: processes.log(name).open() for name in names}
        self._begun = dict.fromkeys(names, "")

    def print_new(self) -> None:
        for name in self._names:
            *lines, self._begun[name] = (self._begun[name] + self._logs[name].read()).split("\n")
            for line in lines:
                self.say(name, line)

    def say(self, name: str, line: str) -> None:
        print(f"{self._screen.paint(f'{name:<6} |', DIM)} {line}", flush=True)


def earlier(directory: Path) -> dict[str, str]:
    """The settings of the previous start, which `configure` wrote."""
    with contextlib.suppress(FileNotFoundError):
        lines = (directory / "env").read_text().splitlines()
        return {name: value.strip("'") for name, _, value in (line.partition("=") for line in lines)}
    return {}


def free_port(wanted: int) -> int:
    """The wanted port if it is free, else a free port."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)) as listener:
            return int(listener.getsockname()[1])
    raise Failure("This machine has no free port on 127.0.0.1.")


def operator(directory: Path) -> tuple[str, str]:
    """The operator's password and token. The first start stores them, because the program shows them only once."""
    kept = directory / "operator.json"
    if not kept.exists():
        password, token = bootstrap()
        draft = kept.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps([password, token]))
        draft.replace(kept)
    password, token = json.loads(kept.read_text())
    return password, token


def is_ready(port: int) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("localhost", port, timeout=2)
        with contextlib.closing(connection):
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
    return False


def install(screen: Screen, processes: Processes, directory: Path) -> tuple[Sandbox, str, str, str]:
    """Start the installation. Returns the sandbox, the web server's origin, the operator's password and token."""
    before = earlier(directory)
    for log in directory.glob("*.log"):
        log.unlink()
    port = free_port(urlsplit(before.get("APP_ORIGIN", "")).port or 0)
    origin = f"http://localhost:{port}"
    with screen.step("A local ECR, in the place of AWS") as note:
        sandbox = start_sandbox(processes)
        note(sandbox.url)
        if before:
            note("It starts empty: a repository of the database is missing in it until the next deploy recreates it.")
    with screen.step("The database: manage.py migrate") as note:
        kept = {"SECRET_KEY": before["SECRET_KEY"]} if "SECRET_KEY" in before else {}
        static = directory / "static"  # empty, so that static files are served from their source folders
        static.mkdir(exist_ok=True)
        configure(directory, sandbox, origin, DEBUG="1", STATIC_ROOT=str(static), **kept)
        os.environ["PYTHONUNBUFFERED"] = "1"
        manage("migrate", "--no-input")
        note(shown(directory / "db.sqlite3"))
    with screen.step("The operator, a project, its environments and keys: manage.py bootstrap") as note:
        password, token = operator(directory)
        note(f"{OPERATOR}, “{PROJECT}” ({REF})")
    with screen.step("The web server and the worker: manage.py runserver, worker, events") as note:
        processes.start("web", "manage.py", "runserver", f"127.0.0.1:{port}")
        for command in COMMANDS:
            processes.start(command, "manage.py", command)
        processes.wait_for("web", lambda: is_ready(port))
        note(origin)
    return sandbox, origin, password, token


def changes() -> Iterator[float]:
    """The time of the last change of each source file."""
    for folder in CODE:
        for path in (ROOT / folder).rglob("*.py"):
            with contextlib.suppress(FileNotFoundError):
                yield path.stat().st_mtime


def stay_up(processes: Processes, output: Output) -> None:
    """Print the output of the processes, and restart them after a change of code, until Ctrl-C."""
    seen = sorted(changes())
    running = set(COMMANDS)
    while True:
        output.print_new()
        for name in [each for each in running if processes.has_ended(each)]:
            running.remove(name)
            output.say(name, f"ended with status {processes.stop(name)}; it starts again after the next change of code")
        if (now := sorted(changes())) != seen:
            seen = now
            for name in COMMANDS:
                if name in running:
                    processes.stop(name)
                processes.start(name, "manage.py", name)
                running.add(name)
                output.say(name, "started again, because the code changed")
        processes.look_after()
        time.sleep(0.5)


def perform(screen: Screen, directory: Path) -> None:
    with hold(directory, "installation"), Processes(directory) as processes:
        try:
            sandbox, origin, password, token = install(screen, processes, directory)
            tell_what_is_there(screen, directory, origin, sandbox, password, token)
            print("It stays up until Ctrl-C. From here on: what the processes write.", flush=True)
            with contextlib.suppress(Interrupted):
                stay_up(processes, Output(screen, processes, "web", *COMMANDS))
        finally:
            with screen.step("Everything that was started ends"):
                processes.end()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox.dev", description="An installation to change the code on.")
    parser.add_argument("--directory", type=Path, default=ROOT / ".dev", help="for its files (default: .dev)")
    directory = parser.parse_args().directory.resolve()
    screen = Screen()
    return run(screen, directory, "installation", lambda: perform(screen, directory))


if __name__ == "__main__":
    sys.exit(main())
