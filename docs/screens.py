"""Pictures of the admin, made with a real browser from an installation that this script makes up.

    make screens        or        .venv/bin/python docs/screens.py [NAME …]

Nothing of yours is touched: the database is a file in a temporary folder, the server listens on a free port of the
loopback address. The browser is Debian's `chromium-headless-shell` or `chromium`, or the one that CHROMIUM names;
Playwright comes from PyPI and need not be in the project's environment: `PLAYWRIGHT_PYTHON` names a Python that has it
(default: the one that runs this).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCREENS = ROOT / "docs" / "screens"
LARGEST = 300 * 1024
DESK, PHONE = {"width": 1360, "height": 940}, {"width": 390, "height": 844}
TALLEST = 1500  # pixels of a picture of a whole page
#: Page of tests/browser/pages.py, what its picture's name ends with, scheme, window, and what is opened or done on it.
SHOTS = (
    ("dashboard", "-light", "light", DESK, ""),
    ("dashboard", "-dark", "dark", DESK, ""),
    ("dashboard", "-phone", "light", PHONE, ""),
    ("pulls", "-light", "light", DESK, ""),
    ("pulls", "-phone", "dark", PHONE, ""),
    ("deployments", "-light", "light", DESK, "Status"),
    ("deployments", "-time", "light", DESK, "Created"),
    ("deployments", "-phone", "dark", PHONE, ""),
    ("repositories", "-dark", "dark", DESK, ""),
    ("repository", "-light", "light", DESK, ""),
    ("repository", "-phone", "light", PHONE, ""),
    ("images", "-light", "light", DESK, ""),
    ("images", "-phone", "dark", PHONE, ""),
    ("login", "", "light", DESK, ""),
    ("what-if", "-answer", "light", DESK, "#what-if"),
    ("sweep-running", "-dark", "dark", DESK, ""),
    ("policy-version-stopped", "-light", "light", DESK, ""),
    ("policy-version-stopped", "-phone", "dark", PHONE, ""),
    ("policy-version-batches", "-dark", "dark", DESK, ""),
    ("your-log-in", "", "light", DESK, "#recovery-code"),
    ("your-log-in", "-phone", "dark", PHONE, "#recovery-code"),
    ("second-factor", "", "light", DESK, "#second-factor"),
    ("second-factor", "-phone", "light", PHONE, "#second-factor"),
)
LEFT_OUT = {
    "dashboard", "why", "pulls", "deployments", "repositories", "repository", "what-if", "sweep-running", "not-found",
    "images", "images-archived", "images-missing", "images-not-read", "deployments-nothing", "password", "user-new",
    "user-password",
    "policy-version-stopped", "policy-version-batches",
    "repository-services", "your-log-in", "forgotten-sent", "forgotten-link", "forgotten-done",
}  # fmt: skip
#: Shown as far as the window goes; the others from top to end.
AS_SEEN = ("dashboard", "pulls", "deployments", "repositories", "images")


def serve_and_shoot(names: list[str]) -> int:
    """Make the installation, serve it from this process, and let the browser's process take the pictures."""
    with tempfile.TemporaryDirectory(prefix="registry-admin-screens-") as folder:
        sys.path.insert(0, str(ROOT))
        os.environ |= {
            "ENV_FILE": os.devnull,
            "DATABASE_URL": f"sqlite:///{folder}/screens.sqlite3",
            "SECRET_KEY": "only for pictures, of rows that nobody owns",
            "DJANGO_SETTINGS_MODULE": "registry_admin.settings",
            "LOG_LEVEL": "WARNING",
        }
        import django

        django.setup()
        import logging
        from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

        from django.conf import settings
        from django.core.management import call_command
        from django.core.wsgi import get_wsgi_application

        from deployments import config
        from sandbox.control import Sandbox
        from tests.admin.installation import ENVIRONMENT, SIGN_ON, STAGED, TWO_NAMESPACES
        from tests.browser import pages

        aws = Sandbox.start()
        os.environ |= aws.environment()
        logging.getLogger("django.request").setLevel(logging.ERROR)
        settings.MAIL_IS_CONFIGURED = True  # so that the page of a forgotten password is there
        call_command("migrate", verbosity=0)

        class Quiet(WSGIRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

        server: WSGIServer = make_server("127.0.0.1", 0, get_wsgi_application(), handler_class=Quiet)
        origin = f"http://localhost:{server.server_port}"  # browsers make passkeys for no IP address
        settings.CONFIGURATION = config.load(
            {**ENVIRONMENT, **STAGED, **TWO_NAMESPACES, **SIGN_ON, "APP_ORIGIN": origin}
        ).require()
        codes = pages.make()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        known = {"login": "", **pages.addresses(), "second-factor": ""}  # steps of the log-in
        shots = [[f"{name}{suffix}", known[name], scheme, size, does] for name, suffix, scheme, size, does in SHOTS]
        # Each page once, and those of SHOTS in the ways that are named there.
        shots += [
            [name, address, "light", DESK, ""] for name, address in known.items() if address and name not in LEFT_OUT
        ]
        wanted = [shot for shot in shots if shot[0] in names] if names else shots
        SCREENS.mkdir(parents=True, exist_ok=True)
        order = json.dumps(
            {
                "origin": origin,
                "pages": wanted,
                "user": pages.USER,
                "password": pages.PASSWORD,
                "careful": pages.CAREFUL,
                "codes": codes,
            }
        )
        python = os.environ.get("PLAYWRIGHT_PYTHON") or sys.executable
        status = subprocess.run([python, __file__, "--browser"], input=order, text=True, check=False).returncode
        server.shutdown()
        server.server_close()
        aws.stop()
        return status


def browser() -> int:
    """Takes the pictures that standard input asks for. Runs on any Python that has Playwright, without Django."""
    from playwright.sync_api import sync_playwright  # type: ignore[import-not-found,unused-ignore]

    order = json.load(sys.stdin)
    with sync_playwright() as playwright:
        program = os.environ.get("CHROMIUM") or shutil.which("chromium-headless-shell") or "/usr/bin/chromium"
        chromium = playwright.chromium.launch(
            executable_path=program,
            args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                  "--disable-background-networking", "--disable-component-update", "--hide-scrollbars"],
        )  # fmt: skip
        worst = 0
        for name, path, scheme, size, menu in order["pages"]:
            sharp = 1.5 if size == PHONE else 1
            context = chromium.new_context(
                viewport=size, color_scheme=scheme, reduced_motion="reduce", device_scale_factor=sharp
            )
            page = context.new_page()
            page.on("console", lambda message, name=name: _say(f"{name}: {message.type}: {message.text}"))
            page.goto(f"{order['origin']}/admin/login/")
            if name != "login":
                page.fill("#id_username", order["careful" if menu in ("#second-factor", "#recovery-code") else "user"])
                page.fill("#id_password", order["password"])
                page.click("[type=submit]")
                if menu == "#recovery-code":
                    page.fill("#id_code", order["codes"].pop())
                    page.press("#id_code", "Enter")
                    page.wait_for_url("**/admin/")
                if path:
                    page.goto(order["origin"] + path)
            if menu == "#what-if":
                page.fill("textarea", page.input_value("textarea").replace("333333333333", "444444444444"))
                page.get_by_role("button", name="Preview").click()
                page.wait_for_selector("#answer-title")
            elif menu and not menu.startswith("#"):
                page.locator("summary", has_text=re.compile(rf"^\s*{menu}")).click()
            file = SCREENS / f"{name}.png"
            height = page.evaluate("document.documentElement.scrollHeight")
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            tall = not name.startswith(AS_SEEN)
            clip = {"x": 0, "y": 0, "width": size["width"], "height": min(height, TALLEST) if tall else size["height"]}
            page.screenshot(path=file, clip=clip, full_page=True)
            _say(
                f"{file.relative_to(ROOT)}: {file.stat().st_size // 1024} KiB" + (f", {wide} px too wide" * bool(wide))
            )
            worst = max(worst, file.stat().st_size)
            context.close()
        chromium.close()
    return int(worst > LARGEST)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(browser() if "--browser" in sys.argv else serve_and_shoot(sys.argv[1:]))
