"""A real browser in front of a real installation: gunicorn with collected static files, Debian's Chromium, axe-core.

Playwright comes from PyPI and brings no browser of its own. The browser is Debian's `chromium-headless-shell`, which
draws no window (half the CPU time), else its `chromium`, or the one that CHROMIUM names. axe-core comes from npm, once,
into a cache folder. Where the browser or npm is missing the tests are skipped and say so. Everything happens from
outside: no test here touches Django's own database.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from sandbox.control import Sandbox
from tests.browser.served import ROOT, Served, log_in, new_context
from tests.support import prepared

AXE = "4.14.1"


SEED = """
import json, sys, django
django.setup()
from tests.browser import pages
codes = pages.make()
json.dump({"user": pages.USER, "password": pages.PASSWORD, "codes": codes, "pages": pages.addresses()}, sys.stdout)
"""
#: Runs in every page before anything else: remembers what the policy stopped.
WATCH = """
window.violations = [];
document.addEventListener('securitypolicyviolation', event => {
    window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile || ''}`);
});
"""


def chromium() -> str:
    return os.environ.get("CHROMIUM") or shutil.which("chromium-headless-shell") or shutil.which("chromium") or ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    absent = "" if chromium() else "no Chromium here: apt-get install -y chromium-headless-shell"
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
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits, and finds the work done
        if not script.exists():
            command = ["npm", "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund",
                       "--loglevel=error", f"axe-core@{AXE}"]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            if done.returncode:
                raise RuntimeError(f"npm install axe-core@{AXE}: {done.stderr or done.stdout}")
    return script.read_text()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Sandbox.start() as aws:
        made = Served(folder=tmp_path_factory.mktemp("served"), more={**aws.environment(), "NOTIFY_ALLOW_PRIVATE": "1"})
        prepared.migrate(made.folder / "db.sqlite3")
        seeded = json.loads(made.run("-c", SEED))
        names = ("user", "password", "codes", "pages")
        made.user, made.password, made.codes, made.pages = (seeded[name] for name in names)
        with made.serving():
            yield made


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
