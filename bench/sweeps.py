"""What a sweep takes before its first read, by the number of repositories: time, memory, rows; and a plan of calls.

    python -m bench.sweeps [NUMBER …]      (1,000, 10,000 and 100,000; `make bench PART=sweeps` has them as a table)

Each number runs in a process of its own, on an SQLite file in a temporary folder. The list of the registry is made up
here (1,000 repositories a page, no latency), and no other call is made, so the figures are those of this program and
its database: the listing, the choice of the repositories to read, the chunks, and how a worker finds its next chunk.
The calls and the times at a rate are computed from the rules, not measured.
"""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench.report import Row

ROOT = Path(__file__).resolve().parent.parent
HOST = "111111111111.dkr.ecr.us-east-1.amazonaws.com"
WHERE = {"account": "111111111111", "region": "us-east-1"}
FULL_PASS_HOURS, FULL_PASS_SHARE, SWEEPS_A_DAY = 6, 15 / 16, 144


def main(numbers: list[int]) -> dict[int, dict[str, float]]:
    """Measure and print; the figures of each number."""
    found = {}
    for number in numbers:
        with tempfile.TemporaryDirectory(prefix="registry-admin-bench-") as folder:
            environment = {
                "PATH": os.environ["PATH"],
                "DJANGO_SETTINGS_MODULE": "registry_admin.settings",
                "ENV_FILE": "/dev/null",
                "DATABASE_URL": f"sqlite:///{folder}/bench.sqlite3",
                "DEPLOY_REGISTRY_HOST": HOST,
                "PYTHONPATH": str(ROOT),
                "LOG_LEVEL": "ERROR",
                "SECRET_KEY": "only for a measurement, of rows that nobody owns, in a file that is deleted",
            }
            command = [sys.executable, "-m", "bench.sweeps", "--measure", str(number)]
            done = subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        *lines, last = done.stdout.splitlines()
        print("\n".join(lines), file=sys.stderr)
        plan(number)
        found[number] = json.loads(last)
    return found


def measure() -> list[Row]:
    """The part `sweeps` of `make bench`."""
    found = main([1_000, 100_000])
    small, large = found[1_000]["memory"], found[100_000]["memory"]
    every, share = calls_a_day(10_000)
    seconds = found[100_000]["listing"]
    return [
        Row(figure="memory of a sweep's beginning, 100,000 repositories", measured=f"{large} MB",
            reference=f"1,000 repositories {small} MB", ratio=large / small, goal="≤ 1.2 ×", met=large <= 1.2 * small),
        Row(figure="listing and chunks, 100,000 repositories", measured=f"{seconds:.0f} s", reference="", ratio=None,
            goal="", met=None),
        Row(figure="calls a day at rest, 10,000 repositories (computed)", measured=f"{share:,.0f}",
            reference=f"every sweep reads everything {every:,.0f}", ratio=share / every, goal="≤ 0.1 ×",
            met=share <= 0.1 * every),
    ]  # fmt: skip


def calls_a_day(number: int) -> tuple[float, float]:
    """The calls of a day at rest, one current image in each repository: without, and beside a proven change feed."""
    pages = math.ceil(number / 1000)
    whole = 24 / (FULL_PASS_HOURS * FULL_PASS_SHARE)  # times a day that every part of a repository is read
    every = SWEEPS_A_DAY * (number * 2 + pages + 1) + number * 3 * whole
    return every, SWEEPS_A_DAY * (pages + 1) + 24 * 60 + number * 5 * whole


def plan(number: int) -> None:
    """Print the calls of a day at rest, and how long a sweep takes at a rate (computed)."""
    every, share = calls_a_day(number)
    whole = 24 / (FULL_PASS_HOURS * FULL_PASS_SHARE)
    said = [f"  computed: calls a day at rest {every:,.0f}; beside a proven feed {share:,.0f} ({share / every:.3f})"]
    for rate in (20, 50, 100):
        said.append(
            f"  computed: a sweep of everything at {rate} calls a second: {number * 2 / rate / 60:,.1f} minutes; "
            f"of a share {number * 5 * whole / SWEEPS_A_DAY / rate:,.0f} seconds"
        )
    print("\n".join(said), file=sys.stderr)


def measure_one(number: int) -> None:
    """Print what the steps of a sweep's beginning take with so many repositories."""
    import django

    django.setup()
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connection

    from deployments.aws.ecr import Ecr
    from deployments.aws.values import Listed
    from deployments.models import ChangeFeed, Repository, Sweep, SweepTrigger
    from deployments.reconcile import desired, registry_policies, repositories, sweep_record, sweeps
    from deployments.reconcile.chunks import CHUNK_LEASE
    from deployments.reconcile.lease import Lease
    from deployments.row_values import Encryption, Mutability

    call_command("migrate", verbosity=0)
    configuration = settings.CONFIGURATION
    namespace = configuration.v4.namespace
    mutability = Mutability(mode=desired.MUTABILITY, exclusions=desired.EXCLUSIONS)
    now = datetime.now(UTC)
    read_at = now - timedelta(minutes=5)
    policy = "x" * 400

    def row(each: int) -> Repository:
        return Repository(
            **WHERE, host=HOST, name=f"{namespace}/proj_{each:06d}", status="in_sync", origin="created",
            management="full", policy_text=policy, mutability=mutability, encryption=Encryption(type="AES256"),
            checked_digest=configuration.desired_digest, last_checked_at=read_at, last_in_sync_at=read_at,
            details_checked_at=turn(each + 1), attempted_at=read_at,
        )  # fmt: skip

    def turn(pk: int) -> datetime:
        """The last turn of a repository before the sweep before this one, at which every part of it was read."""
        period = configuration.v4.full_pass * repositories.FULL_PASS_SHARE
        own = period * (pk * repositories._GOLDEN_RATIO % 1)
        then = now - timedelta(minutes=10)
        return then - (then - repositories._TURNS_BEGAN - own) % period

    for start in range(0, number, 1000):
        Repository.objects.bulk_create(row(each) for each in range(start, min(start + 1000, number)))

    def pages(ecr: Ecr, token: str = "") -> Iterator[tuple[list[Listed], str]]:
        for start in range(int(token or 0), number, 1000):
            end = min(start + 1000, number)
            page = [
                Listed(
                    name=f"{namespace}/proj_{each:06d}", created_at=now - timedelta(days=9), mutability=mutability.mode,
                    exclusions=mutability.exclusions, encryption="AES256", kms_key=None,
                )
                for each in range(start, end)
            ]  # fmt: skip
            yield page, str(end) if end < number else ""

    Ecr.pages = pages  # type: ignore[assignment,method-assign]
    registry_policies.look = lambda ecr: registry_policies.Look(policy=None, error=None)

    took: list[float] = []

    def timed(what: str, do: Callable[[], Any]) -> Any:
        began = time.monotonic()
        answer = do()
        took.append(time.monotonic() - began)
        print(f"  {what}: {took[-1]:.2f} s")
        return answer

    def listed(title: str) -> Sweep:
        sweep = sweep_record.start(trigger=SweepTrigger.SCHEDULE)
        assert sweep is not None  # noqa: S101
        lease = Lease.claim(Sweep.objects.filter(pk=sweep.pk), CHUNK_LEASE)
        assert lease is not None  # noqa: S101
        timed(title, lambda: sweeps._list(lease, configuration))
        sweep.refresh_from_db()
        print(
            f"  → {sweep_record.size_of(sweep):,} to read in {sweep.chunks.count():,} chunks, {sweep.spared:,} left out"
        )
        return sweep

    print(f"{number:,} repositories")
    before = peak()
    sweep = listed("listing and chunks, everything")
    running = Sweep.objects.filter(pk=sweep.pk)
    timed("finding the next chunk", lambda: sweep_record.next_piece(running))
    timed("progress of the sweep's page", lambda: sweep_record.progress(sweep))
    sweep_record.stop(sweep=sweep)
    ago = now - timedelta(hours=1)
    ChangeFeed.objects.create(**WHERE, first_proven_at=ago, proven_at=now, arrived_at=now, unbroken_since=ago)
    sweep_record.stop(sweep=listed("listing and chunks, a share"))
    print(f"  memory: {before} MB before, {peak()} MB at most")
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA page_count")
        print(f"  database: {cursor.fetchone()[0] * 4096 / 1e6:,.0f} MB")
    print(json.dumps({"memory": peak(), "listing": took[0]}))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure_one(int(sys.argv[2]))
    else:
        main([int(each) for each in sys.argv[1:]] or [1_000, 10_000, 100_000])
