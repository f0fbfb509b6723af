"""`make demo` from the outside: what it shows, and that nothing of it is left, however it ends."""

from __future__ import annotations

import http.cookiejar
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cli import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(90),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the demo's processes through /proc"),
]


class Demo:
    """A running demo with a folder of its own, and every process that belongs to it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.directory, self._temporary = folder / "demo", folder / "tmp"
        self._temporary.mkdir(exist_ok=True)
        self.output = ""
        self._sessions: set[int] = set()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sandbox.demo", "--directory", str(self.directory), *arguments],
            cwd=ROOT, env={**os.environ, "TMPDIR": str(self._temporary), "TERM": "xterm"}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            # Under nohup a hang-up is ignored, and the demo respects that; here it is meant.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )  # fmt: skip

    def read(self, until: str = "\0") -> None:
        """Its output up to the line that begins so, or to its end; meanwhile its sessions are written down."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            self.processes()
            if line.startswith(until):
                return
        assert until == "\0", f"ended before it said “{until}”:\n{self.output}"

    def processes(self) -> dict[int, str]:
        """What is alive of it, by id: what inherited its temporary folder or is in a session that one of those was."""
        alive = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                # pid (name) state ppid pgrp session …
                state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                inherited = f"TMPDIR={self._temporary}".encode() in (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue  # it has ended meanwhile
            if state not in "ZX" and (inherited or int(session) in self._sessions):
                self._sessions.add(int(session))
                alive[int(folder.name)] = command
        return alive

    def is_gone(self, seconds: float = 0) -> bool:
        deadline = time.monotonic() + seconds
        while left := self.processes():
            if time.monotonic() > deadline:
                print("left over:", left)
                return False
            time.sleep(0.1)
        return True

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(40)

    def found(self, pattern: str) -> str:
        match = re.search(pattern, self.output, re.MULTILINE)
        assert match, f"{pattern} is not in:\n{self.output}"
        return match[1]


@pytest.fixture
def demos(tmp_path: Path) -> Iterator[list[Demo]]:
    """What a test starts; ended here if the test did not come to that."""
    started: list[Demo] = []
    yield started
    for demo in started:
        if demo.process.poll() is None:
            demo.end(signal.SIGTERM)
        if demo.process.stdout:
            demo.process.stdout.close()


def test_once_shows_a_refused_pull_and_a_deploy_whose_pull_is_served_and_leaves_nothing(
    tmp_path: Path, demos: list[Demo]
) -> None:
    demos.append(demo := Demo(tmp_path, "--once"))
    demo.read()
    assert demo.process.wait(5) == 0, demo.output
    assert re.findall("REFUSED|ACCEPTED", demo.output) == ["REFUSED", "ACCEPTED"] * 2 + ["ACCEPTED"]
    assert re.search(r"Put back [0-4]\.\d seconds after the change", demo.output)
    assert "REFUSED, 403 DENIED" in demo.output
    assert re.findall("AWS calls: (.*)", demo.output) == [
        "CreateRepository 1, PutLifecyclePolicy 1, SetRepositoryPolicy 1",
        "GetRepositoryPolicy 1",
        "GetRepositoryPolicy 1, SetRepositoryPolicy 1",
    ]
    assert "\x1b[" not in demo.output, "colours are for terminals"
    assert demo.is_gone()


def test_it_stays_up_for_the_log_in_that_it_prints_until_ctrl_c(tmp_path: Path, demos: list[Demo]) -> None:
    demos.append(demo := Demo(tmp_path))
    demo.read("It stays up")
    origin, password, token = (
        demo.found(pattern)
        for pattern in (r"(http://localhost:\d+)/admin/", r"log in as \S+ with (\S+)", r"token (tr_pat_\w+)")
    )
    assert f"TRIGGER_API_URL={origin} " in demo.output
    assert f"TRIGGER_ACCESS_TOKEN={token} " in demo.output
    assert 'type="password"' not in log_in(origin, "demo@example.com", password), "the form is shown again"
    assert 'type="password"' in log_in(origin, "demo@example.com", "guessed")
    kept = b"".join(path.read_bytes() for path in demo.directory.rglob("*") if path.is_file())
    assert password.encode() not in kept
    assert token.encode() not in kept

    demos.append(second := Demo(tmp_path, "--once"))
    second.read()
    assert second.process.wait(5) == 1
    assert "running here already" in second.output

    assert len(demo.processes()) > 5
    assert demo.end(signal.SIGINT) == 0
    assert demo.is_gone()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGINT])
def test_nothing_is_left_when_it_is_ended_in_the_middle(tmp_path: Path, demos: list[Demo], number: int) -> None:
    demos.append(demo := Demo(tmp_path))
    demo.read(" 4. ")  # the line is complete when everything runs
    assert len(demo.processes()) > 5
    assert demo.end(number) == (-number if number == signal.SIGKILL else 130)
    assert demo.is_gone(seconds=30)


def test_a_process_that_ends_by_itself_ends_the_demo_with_its_last_words(tmp_path: Path, demos: list[Demo]) -> None:
    demos.append(demo := Demo(tmp_path))
    demo.read(" 4. ")
    workers = [pid for pid, command in demo.processes().items() if "manage.py worker" in command]
    os.kill(workers[0], signal.SIGTERM)
    demo.read()
    assert demo.process.wait(5) == 1
    assert "The worker process ended" in demo.output
    assert f"More in {demo.directory}/worker.log" in demo.output
    assert demo.is_gone()


def log_in(origin: str, name: str, password: str) -> str:
    """The page that the admin shows after this log-in."""
    jar = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(jar))
    address = f"{origin}/admin/login/?next=/admin/"
    opener.open(address, timeout=20).read()
    csrf = next(str(cookie.value) for cookie in jar if cookie.name == "csrftoken")
    form = {"username": name, "password": password, "csrfmiddlewaretoken": csrf}
    request = urllib.request.Request(address, urllib.parse.urlencode(form).encode(), {"Referer": address})
    with opener.open(request, timeout=20) as answer:
        page: str = answer.read().decode()
    return page
