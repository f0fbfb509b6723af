"""Processes that end with whoever started them, however that ends: on Linux and macOS, `kill -9` of it included.

The starter holds one end of a pipe. A keeper, a process of its own in a session of its own, reads the other end: which
processes there are, until the pipe closes. Then it ends them. A wish to end and a sudden death look the same to it, so
there is one way to end, and every ordinary run tests it. It will not restart anything, or end what it was not told of.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 60  # the first start on a slow disk compiles every module
STOP_SECONDS = 12  # a worker lets the task that it has begun come to its end


class Failure(Exception):
    """Something did not come to its end: what and why, for people. `log`: where there is more to read."""

    def __init__(self, sentence: str, log: Path | None = None) -> None:
        super().__init__(sentence)
        self.log = log


class Interrupted(Exception):
    """Ctrl-C, a SIGTERM, or the terminal went away."""


def keep() -> None:
    """The keeper, a process of its own: ends the processes whose ids it was told, as soon as nobody can tell it more.

    The other end of its standard input closes when the demo wishes so, and also when the demo is killed: all ends are
    this one. Every process that was told leads its group; it is asked, and what is left after a while is killed.
    """
    leaders: set[int] = set()
    for line in sys.stdin:
        number = int(line)
        if number > 0:
            leaders.add(number)
        else:  # it has ended, and its id may become another process's
            leaders.discard(-number)
    groups = {*leaders, *groups_below(leaders)}
    for leader in leaders:
        with contextlib.suppress(OSError):
            os.kill(leader, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while any(map(is_alive, groups)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for group in filter(is_alive, groups):
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)


def groups_below(leaders: set[int]) -> set[int]:
    """The process groups of their descendants: the worker runs its cluster in one of its own. Empty without `ps`."""
    try:
        table = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,pgid="], capture_output=True, text=True).stdout
    except OSError:
        return set()
    rows = [[int(number) for number in line.split()] for line in table.splitlines()]
    known = set(leaders)
    while more := {pid for pid, parent, _ in rows if parent in known} - known:
        known |= more
    return {group for pid, _, group in rows if pid in known}


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # the second is what macOS says of a zombie
        return False
    return True


class Processes:
    """The processes of the installation. Leaving the `with` ends them, and waits until they are gone."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._interrupted, self._may_raise = False, True

    def __enter__(self) -> Processes:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup's wish
                signal.signal(number, self._interrupt)
        self._keeper = subprocess.Popen(
            [sys.executable, "-c", "from sandbox.keeper import keep; keep()"],
            cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self._keeper.stdin is not None  # it was asked for  # noqa: S101
        self._told = self._keeper.stdin
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _interrupt(self, *_: object) -> None:
        self._interrupted = True
        if self._may_raise:
            raise Interrupted

    def log(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    def start(self, name: str, *command: str, pass_fds: tuple[int, ...] = ()) -> None:
        """`python COMMAND` in a session of its own, which Ctrl-C does not reach; both its outputs go to its log."""
        with self._known_to_the_keeper(), self.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, pass_fds=pass_fds,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            self._tell(self._running[name].pid)

    def stop(self, name: str) -> int:
        """End one of them: asked first, killed after STOP_SECONDS. Its exit status, also if it had ended before."""
        with self._known_to_the_keeper():
            process = self._running.pop(name)
            process.terminate()
            try:
                status = process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                status = process.wait()
            self._tell(-process.pid)
        return status

    def has_ended(self, name: str) -> bool:
        return name in self._running and self._running[name].poll() is not None

    def _tell(self, number: int) -> None:
        self._told.write(b"%d\n" % number)
        self._told.flush()

    @contextlib.contextmanager
    def _known_to_the_keeper(self) -> Iterator[None]:
        """Ctrl-C waits: between the start or end of a process and the keeper's knowing it nothing may be raised."""
        self._may_raise = False
        try:
            yield
        finally:
            self._may_raise = True
        if self._interrupted:
            raise Interrupted

    def wait_for(self, name: str, ready: Callable[[], Any]) -> Any:
        """What `ready` says, once that is true; Failure if it takes too long, or a process ends before."""
        deadline = time.monotonic() + START_SECONDS
        while not (answer := ready()):
            self.look_after()
            if time.monotonic() > deadline:
                raise Failure(f"The {name} process was not ready after {START_SECONDS} seconds.", self.log(name))
            time.sleep(0.05)
        return answer

    def look_after(self) -> None:
        """Failure if one of them has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise Failure(f"The {name} process ended, with status {process.returncode}.", self.log(name))

    def end(self) -> None:
        self._may_raise = False  # a second Ctrl-C makes nothing faster, and every wait here is bounded
        with contextlib.suppress(OSError):
            self._told.close()
        deadline = time.monotonic() + STOP_SECONDS + 5
        while self._keeper.poll() is None and time.monotonic() < deadline:
            for process in self._running.values():
                process.poll()  # until it is collected it counts as alive
            time.sleep(0.05)
        for process in (*self._running.values(), self._keeper):
            if process.poll() is None:  # somebody killed the keeper, or stopped it
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
