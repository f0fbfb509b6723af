"""A running installation with a page of every kind, and what a test's browser does with it."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page

from tests.admin.installation import ENVIRONMENT, SIGN_ON, STAGED
from tests.support import prepared

ROOT = Path(__file__).resolve().parent.parent.parent
DESK, PHONE = (1360, 940), (390, 844)


@dataclass(kw_only=True)
class Served:
    """A running installation."""

    folder: Path
    origin: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    codes: list[str] = field(default_factory=list, repr=False)  # recovery codes of `pages.CAREFUL`
    pages: dict[str, str] = field(default_factory=dict)
    more: dict[str, str] = field(default_factory=dict)  # settings besides those that every installation has

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "ENV_FILE": os.devnull,
            "SECRET_KEY": "only-for-this-installation-0123456789-0123456789-0123456789",
            "DATABASE_URL": f"sqlite:///{self.folder / 'db.sqlite3'}",
            "STATIC_ROOT": str(prepared.static_root()),
            "DJANGO_SETTINGS_MODULE": "registry_admin.settings",
            "PYTHONPATH": str(ROOT),
            "AWS_EC2_METADATA_DISABLED": "true",
            "EMAIL_URL": "smtp://127.0.0.1:9",  # so that the pages of a forgotten password are there
            **ENVIRONMENT,
            **STAGED,
            **SIGN_ON,
            **self.more,
        }

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Its web process, until the block ends. `more` may name the origin, which is known from here on."""
        with socket.create_server(("127.0.0.1", 0), backlog=64) as listener, (self.folder / "web.log").open("w") as log:
            self.origin = f"http://localhost:{listener.getsockname()[1]}"  # browsers make passkeys for no IP address
            self.more = {**self.more, "APP_ORIGIN": self.origin}
            options = ["--bind", f"fd://{listener.fileno()}", "--workers", "1", "--threads", "8", "--no-control-socket"]
            process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *options, "registry_admin.wsgi"],
                cwd=ROOT, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.environment, start_new_session=True,
            )  # fmt: skip
        try:
            with urllib.request.urlopen(f"{self.origin}/readyz", timeout=60) as answer:
                assert answer.status == 200
            yield
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=180
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)[:60]}: {done.stderr}")
        return done.stdout

    def sql(self, statement: str, *values: Any) -> list[Any]:
        """A look into the rows, or a change of them behind the server's back. The server's own writers wait for it."""
        with closing(sqlite3.connect(self.folder / "db.sqlite3", timeout=20)) as connection, connection:
            return connection.execute(statement, values).fetchall()


def new_context(browser: Browser, served: Served, **options: Any) -> BrowserContext:
    width, height = options.pop("size", DESK)
    context = browser.new_context(
        base_url=served.origin, viewport={"width": width, "height": height}, reduced_motion="reduce", **options
    )
    context.set_default_timeout(15_000)
    return context


def log_in(page: Page, served: Served) -> None:
    page.goto("/admin/login/")
    page.fill("#id_username", served.user)
    page.fill("#id_password", served.password)
    page.press("#id_password", "Enter")
    page.wait_for_url("**/admin/")


def wait_until(condition: Any, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)
