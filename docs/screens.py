"""Pictures of the admin, made with a real browser from an installation that this script makes up.

    make screens        or        .venv/bin/python docs/screens.py [NAME …]

Nothing of yours is touched: the database is a file in a temporary folder, the server listens on a free port of the
loopback address. The browser is Debian's `chromium`; Playwright comes from PyPI and need not be in the project's
environment: `PLAYWRIGHT_PYTHON` names a Python that has it (default: the one that runs this).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCREENS = ROOT / "docs" / "screens"
LARGEST = 300 * 1024
USER, PASSWORD = "mira", "screens"


def serve_and_shoot(names: list[str]) -> int:
    """Make the installation, serve it from this process, and let the browser's process take the pictures."""
    with tempfile.TemporaryDirectory(prefix="registry-admin-screens-") as folder:
        sys.path.insert(0, str(ROOT))
        os.environ |= {
            "ENV_FILE": f"{folder}/none",
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
        from django.contrib.auth.models import User
        from django.core.management import call_command
        from django.core.wsgi import get_wsgi_application

        from deployments import config
        from deployments.models import AccessKey, Deployment, Environment, Promotion, Repository, Sweep
        from tests.admin.installation import ENVIRONMENT, HOST, Installation

        logging.getLogger("django.request").setLevel(logging.ERROR)
        settings.CONFIGURATION = config.load(ENVIRONMENT).require()
        call_command("migrate", verbosity=0)
        Installation()
        user = User.objects.get(username=USER)
        user.is_staff = user.is_superuser = True
        user.first_name = "Mira"
        user.set_password(PASSWORD)
        user.save()

        class Quiet(WSGIRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

        server: WSGIServer = make_server("127.0.0.1", 0, get_wsgi_application(), handler_class=Quiet)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        drifted = Repository.objects.filter(status="drifted", host=HOST).exclude(policy_text="").order_by("pk")[0]
        failed = Deployment.objects.filter(status="FAILED").order_by("-created_at")[0]
        good = Deployment.objects.filter(status="DEPLOYED").order_by("-created_at")[0]
        old = AccessKey.objects.filter(replaced_by__isnull=False)[0]
        varied = Environment.objects.filter(variables__isnull=False)[0]
        back = Promotion.objects.exclude(rolled_back_from=None)[0]
        older = Deployment.objects.filter(status="DEPLOYED", environment=good.environment_id).order_by("created_at")[0]
        going = Deployment.objects.filter(status="BUILDING")[0]
        running = Sweep.objects.filter(status="running")[0]
        kept = drifted.events.exclude(policy_before="")[0]
        desk, phone = {"width": 1360, "height": 940}, {"width": 390, "height": 844}
        pages = [
            ["dashboard-light", "/admin/", "light", desk, ""],
            ["deployments-light", "/admin/deployments/deployment/", "light", desk, "Status"],
            ["repository-light", f"/admin/deployments/repository/{drifted.pk}/change/", "light", desk, ""],
            ["repositories-dark", "/admin/deployments/repository/", "dark", desk, ""],
            ["phone", "/admin/", "light", phone, ""],
            # The rest is made on request, to look at while working on the pages.
            ["dashboard-dark", "/admin/", "dark", desk, ""],
            ["deployment-failed", f"/admin/deployments/deployment/{failed.pk}/change/", "light", desk, ""],
            ["deployment-good", f"/admin/deployments/deployment/{good.pk}/change/", "dark", desk, ""],
            ["sweeps", "/admin/deployments/sweep/", "light", desk, ""],
            ["sweep-running", f"/admin/deployments/sweep/{running.pk}/change/", "light", desk, ""],
            ["sweep-done", f"/admin/deployments/sweep/{running.pk - 1}/change/", "dark", desk, ""],
            ["sweep-start", "/admin/deployments/sweep/start/", "light", desk, ""],
            ["promote", f"/admin/deployments/deployment/{older.pk}/promote/", "light", desk, ""],
            ["cancel", f"/admin/deployments/deployment/{going.pk}/cancel/", "light", desk, ""],
            ["except", f"/admin/deployments/repository/ask/?look=except&pk={drifted.pk}", "light", desk, ""],
            ["adopt", "/admin/deployments/repository/ask/?look=reconcile&status=drifted", "dark", desk, ""],
            ["restore", f"/admin/deployments/repository/{drifted.pk}/restore/{kept.pk}/", "light", desk, ""],
            ["what-if", "/admin/deployments/repository/what-if/", "light", desk, "#what-if"],
            ["created-menu", "/admin/deployments/deployment/", "light", desk, "Created"],
            ["deployment-back", f"/admin/deployments/deployment/{back.deployment_id}/change/", "light", desk, ""],
            ["keys", "/admin/deployments/accesskey/", "light", desk, ""],
            ["key-new", "/admin/deployments/accesskey/add/", "light", desk, ""],
            ["key", f"/admin/deployments/accesskey/{old.pk}/change/", "light", desk, ""],
            ["key-rotate", "/admin/deployments/accesskey/1/rotate/", "light", desk, ""],
            ["environment-variables", f"/admin/deployments/environment/{varied.pk}/change/", "light", desk, ""],
            ["variable", f"/admin/deployments/environment/{varied.pk}/variable/", "light", desk, ""],
            ["key-revoke", "/admin/deployments/accesskey/1/revoke/", "dark", desk, ""],
            ["projects", "/admin/deployments/project/", "light", desk, ""],
            ["project", "/admin/deployments/project/1/change/", "light", desk, ""],
            ["environments", "/admin/deployments/environment/", "light", desk, ""],
            ["environment", "/admin/deployments/environment/1/change/", "light", desk, ""],
            ["users", "/admin/auth/user/", "light", desk, ""],
            ["user", "/admin/auth/user/1/change/", "light", desk, ""],
            ["user-dark", "/admin/auth/user/1/change/", "dark", desk, ""],
            ["group-new", "/admin/auth/group/add/", "light", desk, ""],
            ["phone-deployments", "/admin/deployments/deployment/", "dark", phone, ""],
            ["phone-repository", f"/admin/deployments/repository/{drifted.pk}/change/", "light", phone, ""],
            ["phone-deployment", f"/admin/deployments/deployment/{failed.pk}/change/", "light", phone, ""],
            ["phone-menu", "/admin/", "light", phone, "Menu"],
            ["login", "/admin/logout/", "light", desk, ""],
        ]
        wanted = [page for page in pages if page[0] in names] if names else pages[:5]
        SCREENS.mkdir(parents=True, exist_ok=True)
        order = json.dumps({"origin": f"http://127.0.0.1:{server.server_port}", "pages": wanted})
        python = os.environ.get("PLAYWRIGHT_PYTHON") or sys.executable
        status = subprocess.run([python, __file__, "--browser"], input=order, text=True, check=False).returncode
        server.shutdown()
        server.server_close()
        return status


def browser() -> int:
    """Takes the pictures that standard input asks for. Runs on any Python that has Playwright, without Django."""
    from playwright.sync_api import sync_playwright  # type: ignore[import-not-found,unused-ignore]

    order = json.load(sys.stdin)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
            args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                  "--disable-background-networking", "--disable-component-update", "--hide-scrollbars"],
        )  # fmt: skip
        worst = 0
        for name, path, scheme, size, menu in order["pages"]:
            sharp = 1.5 if name.startswith("phone") else 1
            context = chromium.new_context(
                viewport=size, color_scheme=scheme, reduced_motion="reduce", device_scale_factor=sharp
            )
            page = context.new_page()
            page.on("console", lambda message, name=name: _say(f"{name}: {message.type}: {message.text}"))
            page.goto(f"{order['origin']}/admin/login/")
            if name != "login":
                page.fill("#id_username", USER)
                page.fill("#id_password", PASSWORD)
                page.click("[type=submit]")
                page.goto(order["origin"] + path)
            if menu == "#what-if":
                page.fill("textarea", page.input_value("textarea").replace("333333333333", "444444444444"))
                page.get_by_role("button", name="Work it out").click()
            elif menu:
                page.locator("summary", has_text=re.compile(f"^{menu}")).click()
            file = SCREENS / f"{name}.png"
            height = page.evaluate("document.documentElement.scrollHeight")
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            tall = not name.startswith(("dashboard", "deployments", "repositories", "created")) and name != "phone"
            clip = {"x": 0, "y": 0, "width": size["width"], "height": min(height, 1500) if tall else size["height"]}
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
