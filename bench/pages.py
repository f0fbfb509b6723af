"""How long each page and each answer of the API takes on the server in a large installation, and its queries.

    .venv/bin/python bench/pages.py [sqlite | postgresql] [NAME …]     (NAME: a whole address, or a part of one)

Makes 100,000 deployments, 10,000 repositories and what belongs to them (`tests.support.size`) in a database of its own,
and asks for each address through Django's test client: no socket, no browser. The addresses are those of
`tests.browser.pages`; of each list also every filter, search, order, the second and the last page; each GET of the API.
A time is of the processor: of this process and of the process of PostgreSQL that works for it, so that neighbours on
the machine do not count; the shortest of TIMES requests. Ends with 1 if one is above the bar.

Environment: BENCH_DATABASE keeps the database for the next run: a path without rows, or with those of a run before.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TIMES = 3
BAR_SECONDS, BAR_QUERIES = 0.300, 20
SHOWN = 25  # of the slowest


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one address took: seconds, queries, and the seconds of its slowest query with its text."""

    address: str
    seconds: float
    queries: int
    slowest: tuple[float, str]


def main(arguments: list[str]) -> int:
    vendor = arguments[0] if arguments else "sqlite"
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory(prefix="registry-admin-bench-") as folder:
        from tests.postgresql import Server

        server = None
        url = os.environ.get("BENCH_DATABASE", f"{folder}/bench.sqlite3")
        if vendor == "postgresql" and "://" not in url:
            server = Server.start()
            url = server.url
        elif "://" not in url:
            url = f"sqlite:///{url}"
        try:
            return measured(url, folder, arguments[1:])
        finally:
            if server is not None:
                server.stop()


def measured(url: str, folder: str, names: list[str]) -> int:
    os.environ |= {
        "ENV_FILE": os.devnull,
        "DATABASE_URL": url,
        "SECRET_KEY": "only for a measurement, of rows that nobody owns",
        "DJANGO_SETTINGS_MODULE": "registry_admin.settings",
        "LOG_LEVEL": "ERROR",
        "ALLOWED_HOSTS": "testserver",
        "STATIC_ROOT": folder,
    }
    import django

    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    from deployments import config
    from sandbox.control import Sandbox
    from tests.admin.installation import ENVIRONMENT

    settings.CONFIGURATION = config.load(ENVIRONMENT).require()
    call_command("migrate", verbosity=0)
    with Sandbox.start() as sandbox:
        os.environ |= sandbox.environment("owner")
        found = []
        for address, asking in asked(names):
            found.append(taken(address, asking))
            if found[-1].seconds > BAR_SECONDS:
                print(f"{found[-1].seconds * 1000:7.0f} ms {found[-1].queries:3} queries  {address}", flush=True)
    return report(found)


def asked(names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(address, arguments of the client's `get`) of everything to measure, after the rows are made."""
    from django.contrib.auth.models import User
    from django.test.utils import setup_test_environment, teardown_test_environment

    from deployments.models import Deployment
    from tests.browser import pages
    from tests.support.size import Size, grow
    from tests.support.walk import api_addresses, variations

    started = time.monotonic()
    if Deployment.objects.count() < 50_000:
        pages.make()
        grow(Size())
        print(f"rows made in {time.monotonic() - started:.0f} s", flush=True)
    person = User.objects.get(username=pages.USER)
    # The test environment gives an answer its context, and slows every template: all addresses are found before.
    setup_test_environment(debug=False)
    found = [
        each
        for address in pages.addresses().values()
        for each in (address, *(variations(address, person) if "?" not in address else ()))
    ]
    teardown_test_environment()
    for each in found:
        if is_wanted(each, names):
            yield each, {"person": person}
    for address, headers in api_addresses():
        if is_wanted(address, names):
            yield address, {"headers": headers}


def is_wanted(address: str, names: list[str]) -> bool:
    """Whether a name is the address, or a part of it; each address is without names."""
    return not names or any(name == address if name.startswith("/") else name in address for name in names)


def spent() -> float:
    """Seconds of the processor that this process has used, and the process of PostgreSQL that works for it."""
    from django.db import connection

    if connection.vendor != "postgresql":
        return time.process_time()
    with connection.cursor() as cursor:
        cursor.execute("SET max_parallel_workers_per_gather = 0")  # other processes would not be counted
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    nanoseconds = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    return time.process_time() + nanoseconds / 1e9


def taken(address: str, asking: dict[str, Any]) -> Found:
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    client = Client()
    if person := asking.get("person"):
        client.force_login(person)
    seconds = []
    for _ in range(TIMES):
        start = spent()
        response = client.get(address, headers=asking.get("headers"))
        seconds.append(spent() - start)
        if response.status_code >= 400 and "not-found" not in address:
            print(f"{response.status_code} {address}")
    slowest = (0.0, "")
    with CaptureQueriesContext(connection) as captured:
        client.get(address, headers=asking.get("headers"))
    if captured.captured_queries:
        worst = max(captured.captured_queries, key=lambda query: float(query["time"]))
        slowest = (float(worst["time"]), worst["sql"])
    return Found(address=address, seconds=min(seconds), queries=len(captured), slowest=slowest)


def report(found: list[Found]) -> int:
    found.sort(key=lambda each: -each.seconds)
    print(f"{len(found)} addresses; the slowest {min(SHOWN, len(found))}:")
    for each in found[:SHOWN]:
        print(f"{each.seconds * 1000:7.0f} ms {each.queries:3} queries  {each.address}")
        if each.seconds > BAR_SECONDS:
            print(f"            {each.slowest[0] * 1000:.0f} ms: {each.slowest[1][:400]}")
    late = [each for each in found if each.seconds > BAR_SECONDS or each.queries > BAR_QUERIES]
    print(f"{len(late)} above {BAR_SECONDS * 1000:.0f} ms or {BAR_QUERIES} queries")
    return int(bool(late))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
