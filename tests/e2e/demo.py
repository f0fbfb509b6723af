"""`make demo` and `make dev` as a person has them: started, read, ended, and what is left of their processes."""

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
from pathlib import Path

from tests.e2e.cli import ROOT


class Demo:
    """A running `make demo` (or another module of the sandbox's, in a folder of the name) and all of its processes."""

    def __init__(self, folder: Path, *arguments: str, name: str = "demo") -> None:
        self.directory, self._temporary = folder / name, folder / "tmp"
        self._temporary.mkdir(exist_ok=True)
        self.output = ""
        self._sessions: set[int] = set()
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"sandbox.{name}", "--directory", str(self.directory), *arguments],
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
