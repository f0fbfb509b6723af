"""A real browser in front of a real installation: gunicorn with collected static files, Debian's chromium, axe-core.

Playwright comes from PyPI and brings no browser of its own; the browser is Debian's (`apt-get install chromium`), or
the one that CHROMIUM names. axe-core comes from npm, once, into a cache folder. Where the browser or npm is missing
the tests are skipped and say so. Everything happens from outside: no test here touches Django's own database.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.admin.installation import ENVIRONMENT

ROOT = Path(__file__).resolve().parent.parent.parent
AXE = "4.14.1"
DESK, PHONE = (1360, 940), (390, 844)
SEED = """
import json, sys, django
django.setup()
from tests.browser import pages
pages.make()
json.dump({"user": pages.USER, "password": pages.PASSWORD, "pages": pages.addresses()}, sys.stdout)
"""
#: Runs in every page before anything else: remembers what the policy stopped.
WATCH = """
window.violations = [];
document.addEventListener('securitypolicyviolation', event => {
    window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile || ''}`);
});
"""


def chromium() -> str:
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    absent = "" if chromium() else "no chromium here: apt-get install -y chromium"
    absent = absent or ("" if shutil.which("npm") else "npm is not on PATH, and axe-core comes from it")
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)
            if absent:
                item.add_marker(pytest.mark.skip(reason=absent))


@pytest.fixture(scope="session")
def axe() -> str:
    """The text of axe-core's script."""
    folder = Path(os.environ.get("BROWSER_CACHE", ROOT / ".cache" / "browser")) / f"axe-core-{AXE}"
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second waits, and finds it done
        if not script.exists():
            command = ["npm", "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund",
                       "--loglevel=error", f"axe-core@{AXE}"]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            if done.returncode:
                raise RuntimeError(f"npm install axe-core@{AXE}: {done.stderr or done.stdout}")
    return script.read_text()


@dataclass(kw_only=True)
class Served:
    """A running installation."""

    folder: Path
    origin: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    pages: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "ENV_FILE": os.devnull,
            "SECRET_KEY": "only-for-this-installation-0123456789-0123456789-0123456789",
            "DATABASE_URL": f"sqlite:///{self.folder / 'db.sqlite3'}",
            "STATIC_ROOT": str(self.folder / "static"),
            "DJANGO_SETTINGS_MODULE": "registry_admin.settings",
            "PYTHONPATH": str(ROOT),
            "AWS_EC2_METADATA_DISABLED": "true",
            **ENVIRONMENT,
        }

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


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(folder=tmp_path_factory.mktemp("served"))
    made.run("manage.py", "migrate", "--verbosity", "0")
    made.run("manage.py", "collectstatic", "--noinput", "--verbosity", "0")
    seeded = json.loads(made.run("-c", SEED))
    made.user, made.password, made.pages = seeded["user"], seeded["password"], seeded["pages"]
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener, (made.folder / "web.log").open("w") as log:
        made.origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        options = ["--bind", f"fd://{listener.fileno()}", "--workers", "1", "--threads", "8", "--no-control-socket"]
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *options, "registry_admin.wsgi"],
            cwd=ROOT, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env=made.environment | {"APP_ORIGIN": made.origin}, start_new_session=True,
        )  # fmt: skip
    try:
        with urllib.request.urlopen(f"{made.origin}/readyz", timeout=60) as answer:
            assert answer.status == 200
        yield made
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@pytest.fixture(scope="module")  # while it is open, Django takes this thread for one that runs asynchronous code
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium(),
            args=["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-component-update",
                  "--disable-background-networking"],
        )  # fmt: skip
        yield started
        started.close()


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


@pytest.fixture(scope="module")
def session(browser: Browser, served: Served) -> Any:
    """The cookies of somebody who is logged in."""
    context = new_context(browser, served)
    log_in(context.new_page(), served)
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def page(browser: Browser, served: Served, session: Any) -> Iterator[Page]:
    """A page of somebody who is logged in, in a window of its own. What the policy stops is in `window.violations`."""
    context = new_context(browser, served, storage_state=session)
    context.add_init_script(WATCH)
    yield context.new_page()
    context.close()


@pytest.fixture
def plain_page(browser: Browser, served: Served, session: Any) -> Iterator[Page]:
    """The same in a browser that runs no script."""
    context = new_context(browser, served, storage_state=session, java_script_enabled=False)
    yield context.new_page()
    context.close()


def wait_until(condition: Any, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)
