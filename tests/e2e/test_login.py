"""`trigger.dev login` with the real CLI in a terminal of its own, and a browser without the browser around it."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from types import TracebackType

import pytest

from tests.e2e import cli
from tests.e2e.installation import BEFORE, FIRST, LOCAL_BUILD, NEWEST, OLD, OPERATOR, Target, only, request, trigger

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(cli.missing()), reason=cli.missing() or "npm is here"),
    pytest.mark.timeout(600),
]

PASSWORD = "only-for-this-installation"


class Browser:
    """A person who is signed in: keeps cookies, sends forms, follows no link by itself."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        self.headers: http.client.HTTPMessage

    def get(self, url: str) -> str:
        return self._open(url, None)

    def post(self, url: str, **fields: str) -> str:
        """Send the form of a page, with its CSRF token."""
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.get(url))
        assert token is not None
        return self._open(url, urllib.parse.urlencode({"csrfmiddlewaretoken": token[1], **fields}).encode())

    def _open(self, url: str, body: bytes | None) -> str:
        with self.opener.open(url, body, timeout=30) as response:
            self.headers = response.headers
            return str(response.read().decode())


@pytest.fixture
def browser(target: Target) -> Browser:  # `target`, because its bootstrap makes the operator
    installation = target.installation
    installation.manage(
        "shell", "-c",
        "from django.contrib.auth.models import User\n"
        f"user = User.objects.get(username={OPERATOR!r})\nuser.set_password({PASSWORD!r})\nuser.save()",
    )  # fmt: skip
    browser = Browser(installation.origin)
    browser.post(f"{installation.origin}/admin/login/", username=OPERATOR, password=PASSWORD, next="/healthz")
    return browser


class Terminal:
    """A program in a terminal that is wide enough for any link."""

    def __init__(self, command: list[str], *, cwd: Path, env: dict[str, str]) -> None:
        self.screen, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 1000, 0, 0))
        self.process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=inside, stdout=inside, stderr=inside, start_new_session=True
        )
        os.close(inside)
        self.said = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        os.close(self.screen)

    def read_until(self, pattern: str, *, seconds: float = 60) -> re.Match[str]:
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.said)):
            assert time.monotonic() < end, f"{pattern} did not come:\n{self.said}"
            assert self._read(), f"it ended without {pattern}:\n{self.said}"
        return found

    def _read(self) -> bool:
        if not select.select([self.screen], [], [], 0.5)[0]:
            return self.process.poll() is None
        try:
            data = os.read(self.screen, 65536)
        except OSError:  # what Linux says when the other side is gone
            return False
        self.said += re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07)", "", data.decode(errors="replace"))
        return True

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())

    def status(self, *, seconds: float = 60) -> int:
        end = time.monotonic() + seconds
        while self._read():
            assert time.monotonic() < end, f"it did not end:\n{self.said}"
        return self.process.wait(10)


@contextmanager
def logging_in(
    version: str, target: Target, *arguments: str, path: Path | None = None
) -> Iterator[tuple[Terminal, Path]]:
    """`trigger.dev login` of a person at a terminal, and the home folder that it leaves the token in."""
    with cli.project(version) as folder:
        home = folder.parent / "home"
        home.mkdir(exist_ok=True)
        program = cli.install(version) / "node_modules" / ".bin" / "trigger"
        command = [str(program), "login", "--api-url", target.installation.origin, *arguments]
        env = {
            "PATH": os.pathsep.join(
                str(each) for each in (path, Path(sys.executable).parent, os.environ["PATH"]) if each
            ),
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "TERM": "xterm",
            "NODE_OPTIONS": f"--require={cli.OFFLINE}",
            "TRIGGER_TELEMETRY_DISABLED": "1",
            "BROWSER": "true",
        }
        with Terminal(command, cwd=folder, env=env) as terminal:
            yield terminal, home


def link_in(terminal: Terminal) -> str:
    return terminal.read_until(r"(http://localhost:\d+/account/login/[^\s\x1b]+)")[1]


def token_in(home: Path) -> str:
    """What the CLI keeps; each version has its own file for it."""
    files = [path.read_text() for path in home.rglob("*.json")]
    found = re.search(r"tr_pat_[1-9a-km-z]{40}", "".join(files))
    assert found is not None, files
    return found[0]


@pytest.mark.parametrize("version", [BEFORE, FIRST, OLD])
def test_an_older_cli_waits_until_its_login_is_approved(version: str, target: Target, browser: Browser) -> None:
    with logging_in(version, target) as (terminal, home):
        link = link_in(terminal)
        assert "the person who began the login gets your token" in browser.get(link)
        assert "Go back to your terminal" in browser.post(link, approve="1")

        terminal.read_until("Logged in successfully")
        assert terminal.status() == 0
        token = token_in(home)

    assert token.startswith("tr_pat_")
    assert token not in terminal.said
    status, who = request("GET", f"{target.installation.origin}/api/v2/whoami", Authorization=f"Bearer {token}")
    assert (status, json.loads(who)["email"]) == (200, OPERATOR)


def test_a_new_cli_asks_for_the_code_that_the_browser_shows(target: Target, browser: Browser) -> None:
    with logging_in(NEWEST, target, "--no-browser") as (terminal, home):
        page = browser.post(link_in(terminal), approve="1")
        code = re.search(r">([A-Z2-9]{4}-[A-Z2-9]{4}-[A-Z2-9]{4})<", page)
        assert code is not None
        terminal.read_until("paste the code")
        terminal.type("AAAA-BBBB-CCCC\r")
        # Once the CLI asks again; what is typed before that is lost.
        terminal.read_until(r"(?s)That code didn't work: The approval code is wrong\. Check.*paste the code")
        terminal.type(f"{code[1]}\r")

        terminal.read_until("Logged in successfully")
        assert terminal.status() == 0
        token = token_in(home)

        # What a person does next, with nothing in the environment.
        done = trigger(target, *LOCAL_BUILD, TRIGGER_ACCESS_TOKEN="", HOME=str(home))

    assert done.status == 0, done.output
    assert (only(target.rows()).status, only(target.rows()).triggered_by) == ("DEPLOYED", OPERATOR)
    assert token not in terminal.said


def test_a_new_cli_that_can_open_a_browser_gets_the_code_from_it(
    target: Target, browser: Browser, tmp_path: Path
) -> None:
    opener = tmp_path / "xdg-open"
    opener.write_text("#!/bin/sh\nexit 0\n")
    opener.chmod(0o755)
    with logging_in(NEWEST, target, path=tmp_path) as (terminal, _):
        page = browser.post(link_in(terminal), approve="1")
        back = browser.headers["Refresh"].removeprefix("0;url=")
        assert "The CLI continues by itself" in page
        assert "login approved" in browser.get(back)

        terminal.read_until("Logged in successfully")
        assert terminal.status() == 0


def test_a_program_without_a_terminal_finishes_its_login_later(target: Target, browser: Browser) -> None:
    with cli.project(NEWEST) as folder:
        env = {"TRIGGER_ACCESS_TOKEN": "", "CI": ""}
        api = ("--api-url", target.installation.origin)
        begun = cli.run(NEWEST, "login", *api, "--no-browser", "--no-wait", cwd=folder, env=env)
        assert begun.status == 0, begun.output
        link = re.search(r"http://localhost:\d+/account/login/\S+", begun.output)
        assert link is not None, begun.output
        code = re.search(r">([A-Z2-9]{4}-[A-Z2-9]{4}-[A-Z2-9]{4})<", browser.post(link[0], approve="1"))
        assert code is not None

        done = cli.run(NEWEST, "login", "--code", code[1], cwd=folder, env=env)

    assert "Logged in successfully" in done.output, done.output


def test_a_declined_login_ends_at_once(target: Target, browser: Browser) -> None:
    with logging_in(BEFORE, target) as (terminal, _):
        browser.post(link_in(terminal), decline="1")

        terminal.read_until("Failed to get access token")  # it keeps our sentence to itself
        terminal.status(seconds=10)
