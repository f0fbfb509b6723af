"""How long the console's pages take on the server, with a small and a large number of deployments.

    make bench PART=console                              (2,000 and 20,000)
    .venv/bin/python -m bench.console [SMALL LARGE]      (2,000 and 100,000)

Makes up two installations in temporary SQLite files and asks for each page through Django's own test client: no
socket, no browser. The bar: with the large one at most three times the time of the small one. Ends with 1 if a page
is above it (and takes longer than 50 ms, below which the clock says more than the page).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.report import Row, as_text

ROOT = Path(__file__).resolve().parent.parent
TIMES = 5
BAR, NOISE = 3.0, 0.050  # times, seconds


def pages(deployments: int, repositories: int) -> dict[str, float]:
    """Page → seconds of this process (median): SQLite works in it, and a neighbour's load is not counted.

    Called in a process of its own, with a database and its caches for each size.
    """
    with tempfile.TemporaryDirectory(prefix="registry-admin-bench-") as folder:
        os.environ |= {
            "ENV_FILE": os.devnull,
            "DATABASE_URL": f"sqlite:///{folder}/bench.sqlite3",
            "SECRET_KEY": "only for a measurement, of rows that nobody owns",
            "DJANGO_SETTINGS_MODULE": "registry_admin.settings",
            "LOG_LEVEL": "WARNING",
            "ALLOWED_HOSTS": "testserver",
        }
        import django

        django.setup()
        from django.conf import settings
        from django.contrib.auth.models import User
        from django.core.management import call_command
        from django.test import Client

        from deployments import config
        from deployments.models import Deployment, Repository
        from tests.admin.installation import ENVIRONMENT, Installation

        settings.CONFIGURATION = config.load(ENVIRONMENT).require()
        call_command("migrate", verbosity=0)
        Installation(deployments=deployments, projects=10, repositories=repositories)
        client = Client()
        client.force_login(User.objects.create(username="bench", is_staff=True, is_superuser=True))
        one = Deployment.objects.filter(status="DEPLOYED").order_by("created_at")[deployments // 2]
        repository = Repository.objects.exclude(policy_text="").order_by("pk")[0]
        listed = "/admin/deployments/deployment/"
        addresses = {
            "dashboard": "/admin/",
            "deployments": listed,
            "deployments, page 5": f"{listed}?p=5",
            "deployments of a status": f"{listed}?status=FAILED",
            "deployments of a project": f"{listed}?project__ref={one.project.ref}",
            "deployments of an environment": f"{listed}?environment__slug=prod",
            "deployments, last 7 days": f"{listed}?created_at=7d",
            "search: version": f"{listed}?q={one.version}",
            "search: short code": f"{listed}?q={one.short_code}",
            "search: digest": f"{listed}?q={one.image_digest}",
            "search: commit": f"{listed}?q={one.git['commitSha'][:10]}",
            "search: message": f"{listed}?q=thumbnails",
            "search: nothing": f"{listed}?q=zzzzzz+zzzzz",
            "deployment": f"{listed}{one.pk}/change/",
            "repositories": "/admin/deployments/repository/",
            "repository": f"/admin/deployments/repository/{repository.pk}/change/",
            "projects": "/admin/deployments/project/",
            "project": f"/admin/deployments/project/{one.project_id}/change/",
            "environments": "/admin/deployments/environment/",
            "environment": f"/admin/deployments/environment/{one.environment_id}/change/",
            "sweeps": "/admin/deployments/sweep/",
            "access keys": "/admin/deployments/accesskey/",
        }
        found = {}
        for name, address in addresses.items():
            assert client.get(address).status_code == 200, address  # noqa: S101
            times = []
            for _ in range(TIMES):
                start = time.process_time()
                client.get(address)
                times.append(time.process_time() - start)
            found[name] = statistics.median(times)
        return found


def measure(small: int = 2_000, large: int = 20_000) -> list[Row]:
    """A row for each page: the large installation beside the small one."""
    results = []
    for number in (small, large):
        command = [sys.executable, "-m", "bench.console", "--pages", str(number), "40"]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        results.append(json.loads(done.stdout))
    return [
        Row(
            figure=f"{name}, {large:,} deployments",
            measured=f"{results[1][name] * 1000:.0f} ms",
            reference=f"with {small:,} {few * 1000:.0f} ms",
            ratio=results[1][name] / few,
            goal=f"≤ {BAR:g} × or ≤ {NOISE * 1000:.0f} ms",
            met=results[1][name] <= max(BAR * few, NOISE),
            reason="a query of this page reads more rows than it shows",
        )
        for name, few in results[0].items()
    ]


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--pages"]:
        print(json.dumps(pages(int(arguments[1]), int(arguments[2]))))
        return 0
    rows = measure(*([int(each) for each in arguments] or [2_000, 100_000]))
    print(as_text(rows))
    return int(not all(row.met for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
