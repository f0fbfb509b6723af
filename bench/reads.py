"""What the reads of a sweep take: memory, CPU, time under a limit of calls, and time with two worker hosts.

Everything is real: the sandbox over HTTP, `manage.py reconcile --all` and `manage.py worker` as processes of their own,
SQLite and PostgreSQL. All repositories are in sync, so a sweep only reads. docs/performance.md says how each figure is
measured.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from bench import servers
from bench.deploys import say
from bench.report import Row, as_text
from sandbox.control import Sandbox
from tests.postgresql import Server as Postgres

#: Calls a second that the sandbox accepts → repositories. `reconcile --all` makes four calls for each in its sweep, so
#: each of these sweeps has about ten seconds.
LIMITS = {20: 55, 50: 140, 100: 275}
FEW, MANY = 1_000, 10_000
MEMORY_MB, CPU_MS, TIME, REFUSED = 80, 1.2, 1.05, 0.03
#: For two worker hosts.
SHARED, LATENCY_SECONDS, SHARED_LIMIT, GAIN = 2_000, 0.2, 100, 1.8
#: Not of a sweep: `reconcile --all` lists the tags after it.
AFTER_THE_SWEEP = "ListImages"
#: Packages that a production installation does not have (requirements.txt); other packages load them if they are there.
NOT_IN_PRODUCTION = ("rich", "psutil", "greenlet")
_AS_HOST = "import os, socket, sys; socket.sethostname(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What one process took from its start to its end."""

    memory: float  # MB at most
    cpu: float  # seconds
    reads: int  # calls to AWS
    in_sync: int  # repositories


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced:
    """One sweep as AWS saw it."""

    seconds: float  # from its first call to its last one
    accepted: int
    refused: int

    @property
    def refused_part(self) -> float:
        """The refused calls as a part of all calls."""
        return self.refused / (self.accepted + self.refused)

    def ideal(self, rate: int) -> float:
        """The least seconds: the bucket's burst, which is a second's worth, at once, and the rest at its rate."""
        return (self.accepted - rate) / rate

    def against(self, rate: int) -> float:
        """Its time as a multiple of the ideal."""
        return self.seconds / self.ideal(rate)


class Installation:
    """A database with managed repositories in it, and how its processes are started."""

    def __init__(self, sandbox: Sandbox, database: str, folder: Path) -> None:
        self.sandbox = sandbox
        for name in NOT_IN_PRODUCTION:
            (folder / f"{name}.py").write_text("raise ImportError\n")
        self.variables = servers.environment(
            sandbox, database, PYTHONPATH=str(folder), LOG_LEVEL="WARNING",
            RECONCILE_CALLS_PER_SECOND="1000", RECONCILE_INTERVAL_MINUTES="0",
        )  # fmt: skip
        self.run("bench.prepare", "projects", "0")
        if not sandbox.client("ecr").describe_repositories()["repositories"]:
            create_repositories(sandbox, 0, 1)
        self.run("manage", "reconcile", "--all", "--adopt", "--json")

    def run(self, module: str, *arguments: str) -> Used:
        """Run the module to its end. Raises RuntimeError if it fails."""
        self.sandbox.reset_calls()
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=servers.ROOT, env=self.variables, stdout=output, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            printed = output.read()
        said = json.loads(printed) if printed.startswith("{") else {}
        # A status of 1 with a result: after the sweep, AWS refused to list the tags of a repository.
        if (process.returncode and not said) or any(said.get(each) for each in ("failed", "drifted", "error")):
            raise RuntimeError(f"{module} {' '.join(arguments)}: {printed[-1000:]}")
        return Used(
            memory=used.ru_maxrss / 1024, cpu=used.ru_utime + used.ru_stime,
            reads=sum(self.sandbox.calls().values()), in_sync=said.get("in_sync", 0),
        )  # fmt: skip

    def reconcile(self) -> Used:
        """`manage.py reconcile --all`."""
        return self.run("manage", "reconcile", "--all", "--json")

    def paced(self, module: str, *arguments: str) -> Paced:
        """Run the module, and read from the sandbox's journal what its sweep did."""
        began = time.time()
        self.run(module, *arguments)
        journal = [
            each
            for each in self.sandbox.journal()
            if each["time"] >= began and each["service"] == "ecr" and each["operation"] != AFTER_THE_SWEEP
        ]
        refused = sum(each["outcome"] == "ThrottlingException" for each in journal)
        seconds = journal[-1]["time"] - journal[0]["time"]
        return Paced(seconds=seconds, accepted=len(journal) - refused, refused=refused)

    @contextmanager
    def workers(self, number: int) -> Iterator[None]:
        """So many `manage.py worker`, each with a host name of its own where the system lets us set it."""
        own_name = os.geteuid() == 0 and not subprocess.run(["unshare", "-u", "true"], capture_output=True).returncode
        started = []
        try:
            for host in range(number):
                command = [sys.executable, "manage.py", "worker"]
                if own_name:
                    command = ["unshare", "-u", sys.executable, "-c", _AS_HOST, f"bench-host-{host}", *command]
                started.append(
                    subprocess.Popen(
                        command, cwd=servers.ROOT, env=self.variables, stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                    )
                )  # fmt: skip
            self.run("bench.prepare", "workers", str(number))
            yield
        finally:
            for process in started:
                process.send_signal(signal.SIGTERM)
            for process in started:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(15)
                process.kill()
                process.wait()


def measure() -> list[Row]:
    """Run everything. Takes about five minutes on two quiet cores."""
    with ExitStack() as stack:
        sandbox = stack.enter_context(servers.sandbox())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="registry-admin-bench-")))
        one = Installation(sandbox, f"sqlite:///{quote(str(folder / 'bench.sqlite3'))}", folder)
        nothing, no_look = one.reconcile(), one.run("bench.prepare", "look")
        rows = []
        for rate, number in LIMITS.items():
            say(f"{number} repositories at {rate} calls a second …")
            grow(one, number)
            rows += _said(_limited(one, rate))
        say(f"{FEW:,} repositories …")
        grow(one, FEW)
        few = one.reconcile()
        create_repositories(sandbox, FEW, SHARED)
        rows += _said(_hosts(sandbox, folder))
        say(f"{MANY:,} repositories …")
        create_repositories(sandbox, SHARED, MANY)
        one.run("bench.prepare", "managed", str(MANY))
        many = one.reconcile()
        look = one.run("bench.prepare", "look")
        return [*_memory(few, many), *_cpu(nothing, many, no_look, look), *rows]


def _said(rows: list[Row]) -> list[Row]:
    say(as_text(rows))
    return rows


def create_repositories(sandbox: Sandbox, first: int, end: int) -> None:
    """Repositories of the projects with these numbers, with all that the first one got from the program."""
    client = sandbox.client("ecr", max_pool_connections=8)
    lifecycle = client.get_lifecycle_policy(repositoryName=name_of(0))["lifecyclePolicyText"] if first else ""

    def create(number: int) -> None:
        client.create_repository(repositoryName=name_of(number))
        client.set_repository_policy(repositoryName=name_of(number), policyText=servers.POLICY)
        if lifecycle:
            client.put_lifecycle_policy(repositoryName=name_of(number), lifecyclePolicyText=lifecycle)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, range(first, end)))


def name_of(number: int) -> str:
    """The repository of a project of `bench.prepare managed`."""
    return f"trigger/proj_bench{number:05}"


def grow(installation: Installation, number: int) -> None:
    """Let the registry and the rows have so many repositories."""
    present = len(list(_names(installation.sandbox)))
    create_repositories(installation.sandbox, present, number)
    installation.run("bench.prepare", "managed", str(number))


def _names(sandbox: Sandbox) -> Iterator[str]:
    for page in sandbox.client("ecr").get_paginator("describe_repositories").paginate(maxResults=1000):
        yield from (each["repositoryName"] for each in page["repositories"])


def _throttle(sandbox: Sandbox, rate: int) -> None:
    sandbox.clear_faults()
    sandbox.fault("throttle", "ecr:*", rate=rate, burst=rate)


def _limited(one: Installation, rate: int) -> list[Row]:
    one.run("bench.prepare", "forget")
    sweeps = []
    for _ in range(2):  # in the first one it learns the rate
        _throttle(one.sandbox, rate)
        sweeps.append(one.paced("manage", "reconcile", "--all", "--json"))
    one.sandbox.clear_faults()
    first, last = sweeps
    return [
        _timed(f"first sweep at {rate} calls a second", first, rate),
        _timed(f"second sweep at {rate} calls a second", last, rate),
        Row(figure=f"refused calls of the second sweep at {rate} a second", measured=f"{last.refused_part:.1%}",
            reference="", ratio=None, goal=f"≤ {REFUSED:.0%}", met=last.refused_part <= REFUSED,
            calls=str(last.refused), reason=REASONS["refused"]),
    ]  # fmt: skip


def _timed(figure: str, sweep: Paced, rate: int, reason: str = "time") -> Row:
    ratio = sweep.against(rate)
    return Row(
        figure=figure, measured=f"{sweep.seconds:.1f} s", reference=f"ideal {sweep.ideal(rate):.1f} s", ratio=ratio,
        goal=f"≤ {TIME:g} ×", met=ratio <= TIME, calls=f"{sweep.accepted} + {sweep.refused} refused",
        reason=REASONS[reason],
    )  # fmt: skip


def _hosts(sandbox: Sandbox, folder: Path) -> list[Row]:
    """One and two worker hosts on PostgreSQL."""
    server = Postgres.start(durable=True)
    try:
        say(f"{SHARED:,} repositories, one and two worker hosts …")
        shared = Installation(sandbox, server.url, folder)
        shared.run("bench.prepare", "managed", str(SHARED))
        free, limited = {}, {}
        for number in (1, 2):
            with shared.workers(number):
                shared.run("bench.prepare", "sweep")  # so that all processes have their clients and connections
                sandbox.fault("latency", "ecr:*", seconds=LATENCY_SECONDS)
                free[number] = shared.paced("bench.prepare", "sweep")
                shared.run("bench.prepare", "forget")
                for _ in range(2):  # in the first one they learn the rate
                    _throttle(sandbox, SHARED_LIMIT)
                    limited[number] = shared.paced("bench.prepare", "sweep")
                sandbox.clear_faults()
                shared.run("bench.prepare", "forget")
    finally:
        sandbox.clear_faults()
        server.stop()
    gain = free[1].seconds / free[2].seconds
    slower = limited[2].against(SHARED_LIMIT) / limited[1].against(SHARED_LIMIT)
    return [
        Row(figure=f"two worker hosts, {LATENCY_SECONDS * 1000:.0f} ms a call", measured=f"{free[2].seconds:.1f} s",
            reference=f"one host {free[1].seconds:.1f} s", ratio=gain, goal=f"≥ {GAIN:g} ×", met=gain >= GAIN,
            calls=str(free[2].accepted), reason=REASONS["hosts"]),
        Row(figure=f"two worker hosts at {SHARED_LIMIT} calls a second", measured=f"{limited[2].seconds:.1f} s",
            reference=f"one host {limited[1].seconds:.1f} s", ratio=slower, goal=f"≤ {TIME:g} ×", met=slower <= TIME,
            calls=f"{limited[2].accepted} + {limited[2].refused} refused", reason=REASONS["shared"]),
        _timed(f"a worker of two processes at {SHARED_LIMIT} calls a second", limited[1], SHARED_LIMIT, "shared"),
        _timed(f"two workers of two processes at {SHARED_LIMIT} calls a second", limited[2], SHARED_LIMIT, "shared"),
    ]  # fmt: skip


def _memory(few: Used, many: Used) -> list[Row]:
    return [
        Row(figure=f"memory of reconcile --all, {FEW:,} repositories", measured=f"{few.memory:.0f} MB", reference="",
            ratio=None, goal=f"≤ {MEMORY_MB} MB", met=few.memory <= MEMORY_MB, reason=REASONS["memory"]),
        Row(figure=f"memory of reconcile --all, {MANY:,} repositories", measured=f"{many.memory:.0f} MB",
            reference=f"{FEW:,} repositories {few.memory:.0f} MB", ratio=many.memory / few.memory,
            goal=f"≤ {MEMORY_MB} MB", met=many.memory <= MEMORY_MB, calls=str(many.reads), reason=REASONS["memory"]),
    ]  # fmt: skip


def _cpu(nothing: Used, everything: Used, no_look: Used, look: Used) -> list[Row]:
    rows = []
    for figure, empty, full in (
        ("CPU of a read, reconcile --all (all parts and tags)", nothing, everything),
        ("CPU of a look, scheduled sweep (the policy)", no_look, look),
    ):
        each = (full.cpu - empty.cpu) * 1000 / (full.reads - empty.reads)
        rows.append(
            Row(figure=figure, measured=f"{each:.2f} ms", reference=f"the process without reads {empty.cpu:.1f} s",
                ratio=None, goal=f"≤ {CPU_MS} ms", met=each <= CPU_MS, calls=str(full.reads), reason=REASONS["cpu"])
        )  # fmt: skip
    return rows


#: Why a goal is missed, if it is.
REASONS = {
    "memory": "modules 62 MB, botocore's data of ECR 8 MB; the rest is the sixteen threads and the rows of a chunk",
    "cpu": "boto3 takes 0.6 ms a call on a quiet machine",
    "time": "half a second of ten goes by before the first call and after the last; or the machine is busy",
    "refused": "the rate rises by 0.5% a second until a call is refused",
    "shared": "the last chunks have fewer workers, which the others notice after up to a second",
    "hosts": "both cores are busy: a look takes CPU too, here and in the sandbox",
}
