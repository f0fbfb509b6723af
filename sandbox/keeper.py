"""Processes that end when their starting process ends, also after `kill -9`. For Linux and macOS.

The starting process has one end of a pipe. The keeper, a separate process in its own session, reads the ids of the
processes from the other end until the pipe closes, and then ends these processes. A normal end and a kill of the
starting process close the pipe in the same way, so every run tests this. The keeper restarts no process and ends no
other process.
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
STOP_SECONDS = 12  # a worker first finishes its running task


class Failure(Exception):
    """A step failed. The text says what failed and why; `log` is the file with more details."""

    def __init__(self, sentence: str, log: Path | None = None) -> None:
        super().__init__(sentence)
        self.log = log


class Interrupted(Exception):
    """Ctrl-C, a SIGTERM, or a closed terminal."""


def keep() -> None:
    """The main function of the keeper process: read process ids until standard input closes, then end these processes.

    Standard input closes when the starting process closes its end or is killed. Each process leads its process group:
    the group gets a SIGTERM, and after a while a SIGKILL.
    """
    leaders: set[int] = set()
    for line in sys.stdin:
        number = int(line)
        if number > 0:
            leaders.add(number)
        else:  # the process has ended, and its id may be reused
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
    """The process groups of the descendants: the worker runs its cluster in another group. Empty without `ps`."""
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
    """Whether a process of this process group is running."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # macOS raises PermissionError for a zombie
        return False
    return True


class Processes:
    """The processes of the installation. The end of the `with` block ends them and waits for their end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._interrupted, self._may_raise = False, True

    def __enter__(self) -> Processes:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
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
        """Start `python COMMAND` in its own session, which gets no Ctrl-C. Its output goes to its log."""
        with self._known_to_the_keeper(), self.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, pass_fds=pass_fds,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            self._tell(self._running[name].pid)

    def stop(self, name: str) -> int:
        """End a process: SIGTERM, after STOP_SECONDS SIGKILL. Returns its exit status, also if it has ended before."""
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
        """Delay Ctrl-C until the keeper knows that a process was started or has ended."""
        self._may_raise = False
        try:
            yield
        finally:
            self._may_raise = True
        if self._interrupted:
            raise Interrupted

    def wait_for(self, name: str, ready: Callable[[], Any]) -> Any:
        """Wait for a true value of `ready` and return it. Raises Failure after a timeout or if a process ends."""
        deadline = time.monotonic() + START_SECONDS
        while not (answer := ready()):
            self.look_after()
            if time.monotonic() > deadline:
                raise Failure(f"The {name} process was not ready after {START_SECONDS} seconds.", self.log(name))
            time.sleep(0.05)
        return answer

    def look_after(self) -> None:
        """Raises Failure if a process has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise Failure(f"The {name} process ended, with status {process.returncode}.", self.log(name))

    def end(self) -> None:
        self._may_raise = False  # a second Ctrl-C would not end the processes faster; every wait here has a limit
        with contextlib.suppress(OSError):
            self._told.close()
        deadline = time.monotonic() + STOP_SECONDS + 5
        while self._keeper.poll() is None and time.monotonic() < deadline:
            for process in self._running.values():
                process.poll()  # a process counts as alive until it is reaped
            time.sleep(0.05)
        for process in (*self._running.values(), self._keeper):
            if process.poll() is None:  # somebody killed or stopped the keeper
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
