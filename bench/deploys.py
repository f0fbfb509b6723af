"""How fast a deploy begins, beside a bare Django view, a bare boto3 loop and the call plan of the seed.

All servers run at the same time and are measured in turn, ROUNDS times, so that a neighbour's load falls on all of
them. Each figure is the median of its rounds, each ratio the median of the ratios within one round.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from bench import plans, servers
from bench.load import Seen, load, request
from bench.report import Row
from bench.servers import Server
from sandbox.control import Sandbox
from tests.postgresql import Server as Postgres

ROUNDS = int(os.environ.get("ROUNDS", "3"))
SECONDS = float(os.environ.get("SECONDS", "4"))
NO_ROUND_AFTER_SECONDS = 200
LATENCY_SECONDS = 0.02
IN_FLIGHT = 16
#: With a freshness of one second, this many repositories in turn are all due again when their turn comes.
PROJECTS = 512
BODY: dict[str, object] = {
    "contentHash": "0123456789abcdef" * 4,
    "userId": "1",
    "type": "MANAGED",
    "runtime": "node",
    "gitMeta": {"commitSha": "c3e5c70" * 5, "commitMessage": "A message", "commitRef": "main", "dirty": False},
    "triggeredVia": "cli:github_actions",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A database with projects and keys in it, and the servers that use it."""

    name: str
    variables: dict[str, str] = field(repr=False)  # of its processes
    keys: list[str] = field(repr=False)
    fresh: Server
    looking: Server
    bare: Server
    cpu: Callable[[], float]  # seconds of CPU of its own processes; 0 for SQLite


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of load on one server."""

    seen: Seen
    server_cpu: float  # milliseconds for each answer
    database_cpu: float
    calls: float  # to AWS, for each answer


def measure() -> list[Row]:
    """Run everything. Takes about four minutes; on a busy machine the last rounds are left out."""
    started = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="registry-admin-bench-")))
        sandbox = stack.enter_context(servers.sandbox())
        say("starting the servers …")
        databases = [stack.enter_context(_sqlite(sandbox, folder)), stack.enter_context(_postgresql(sandbox, folder))]
        say(f"making {PROJECTS} repositories …")
        _create_repositories(sandbox)
        for each in databases:
            load(each.fresh.port, _requests(each, each.fresh)[:1], connections=1, seconds=0.0)
            _prepare(each.variables, "repositories")
        sandbox.fault("latency", seconds=LATENCY_SECONDS)
        rounds: list[tuple[Round, Plans]] = []
        while len(rounds) < ROUNDS and (not rounds or time.monotonic() - started < NO_ROUND_AFTER_SECONDS):
            say(f"round {len(rounds) + 1} of {ROUNDS} …")
            rounds.append(_round(sandbox, databases))
        return _rows(rounds, [each.name for each in databases])


def say(text: str) -> None:
    """A line about the progress: to standard error, because the result goes to standard output."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _sqlite(sandbox: Sandbox, folder: Path) -> Iterator[Database]:
    url = f"sqlite:///{quote(str(folder / 'bench.sqlite3'))}"
    with _served("SQLite", sandbox, folder, url, lambda: 0.0) as served:
        yield served


@contextmanager
def _postgresql(sandbox: Sandbox, folder: Path) -> Iterator[Database]:
    server = Postgres.start(durable=True)
    try:
        pid = server.pid
        with _served("PostgreSQL", sandbox, folder, server.url, lambda: servers.cpu_seconds(pid)) as served:
            yield served
    finally:
        server.stop()


@contextmanager
def _served(name: str, sandbox: Sandbox, folder: Path, url: str, cpu: Callable[[], float]) -> Iterator[Database]:
    variables = servers.environment(sandbox, url)
    keys = json.loads(_prepare(variables, "projects", str(PROJECTS)))["keys"]
    program, bare = "registry_admin.wsgi", "django.core.wsgi:get_wsgi_application()"
    looking = {**variables, "RECONCILE_FRESHNESS_SECONDS": "1"}
    bare_variables = {**variables, "DJANGO_SETTINGS_MODULE": "bench.bare.settings"}
    with (
        servers.serving(program, folder=folder, name=f"{name}-fresh", bare=False, **variables) as fresh,
        servers.serving(program, folder=folder, name=f"{name}-looking", bare=False, **looking) as looks,
        servers.serving(bare, folder=folder, name=f"{name}-bare", bare=True, **bare_variables) as view,
    ):
        yield Database(name=name, variables=variables, keys=keys, fresh=fresh, looking=looks, bare=view, cpu=cpu)


def _prepare(variables: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "bench.prepare", *arguments]
    done = subprocess.run(command, cwd=servers.ROOT, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def _names() -> list[str]:
    return [f"trigger/proj_bench{number:05}" for number in range(PROJECTS)]


def _create_repositories(sandbox: Sandbox) -> None:
    """The repositories, as somebody else's with our policy. It takes less time than so many first deploys."""
    client = sandbox.client("ecr", max_pool_connections=8)

    def create(name: str) -> None:
        client.create_repository(repositoryName=name)
        client.set_repository_policy(repositoryName=name, policyText=servers.POLICY)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, _names()))


def _requests(database: Database, server: Server) -> list[bytes]:
    return [request("/api/v1/deployments", port=server.port, key=key, body=BODY) for key in database.keys]


def _run(sandbox: Sandbox, database: Database, server: Server, *, connections: int) -> Measured:
    sandbox.reset_calls()
    before, before_database = servers.cpu_seconds(server.pid), database.cpu()
    seconds = SECONDS if connections > 1 else SECONDS / 2
    seen = load(server.port, _requests(database, server), connections=connections, seconds=seconds)
    after, after_database = servers.cpu_seconds(server.pid), database.cpu()
    return Measured(
        seen=seen,
        server_cpu=(after - before) * 1000 / seen.answered,
        database_cpu=(after_database - before_database) * 1000 / seen.answered,
        calls=sum(sandbox.calls().values()) / seen.answered,
    )


Round = dict[str, Measured]  # “SQLite fresh 16” → one run
Plans = dict[str, dict[str, float]]  # “seed” → what `bench.plans` printed


def _round(sandbox: Sandbox, databases: list[Database]) -> tuple[Round, Plans]:
    names = _names()
    calls = {
        name: plans.run(
            plan,
            environment=servers.environment(sandbox, "sqlite://"),
            threads=threads,
            seconds=SECONDS if threads > 1 else SECONDS / 2,
            names=names,
            policy=servers.POLICY,
        )
        for name, plan, threads in (
            ("seed", "seed", IN_FLIGHT),
            ("seed, one", "seed", 1),
            ("loop", "loop", IN_FLIGHT),
            ("loop, one", "loop", 1),
        )
    }
    found: Round = {}
    for each in databases:
        for kind, server in (("fresh", each.fresh), ("bare", each.bare), ("looking", each.looking)):
            for connections in (IN_FLIGHT, 1):
                found[f"{each.name} {kind} {connections}"] = _run(sandbox, each, server, connections=connections)
    return found, calls


def _rows(rounds: list[tuple[Round, Plans]], names: list[str]) -> list[Row]:
    return [row for name in names for row in _rows_of(name, rounds)]


def _rows_of(name: str, rounds: list[tuple[Round, Plans]]) -> list[Row]:
    def row(
        figure: str,
        ours: Callable[[Round], float],
        beside: str,
        reference: Callable[[Round, Plans], float],
        unit: str,
        *,
        calls: str,
        least: float | None = None,
        most: float | None = None,
        reason: str = "",
    ) -> Row:
        measured = statistics.median(ours(found) for found, _ in rounds)
        referred = statistics.median(reference(*each) for each in rounds)
        ratio = statistics.median(ours(found) / max(reference(found, plans), 1e-9) for found, plans in rounds)
        return Row(
            figure=f"{name}, {figure}",
            measured=f"{measured:.3g} {unit}",
            reference=f"{beside} {referred:.3g} {unit}",
            ratio=round(ratio, 3),
            goal=f"≥ {least:g} ×" if least is not None else f"≤ {most:g} ×" if most is not None else "",
            met=ratio >= least if least is not None else ratio <= most if most is not None else None,
            calls=calls,
            reason=reason,
        )

    fresh, bare, looks = (f"{name} {kind} {IN_FLIGHT}" for kind in ("fresh", "bare", "looking"))
    one, bare_one, looks_one = (f"{name} {kind} 1" for kind in ("fresh", "bare", "looking"))
    made, looked, looked_one = (
        f"{statistics.median(found[kind].calls for found, _ in rounds):.2f}" for kind in (fresh, looks, looks_one)
    )
    refused = sum(sum(found[looks].seen.refused.values()) for found, _ in rounds)
    answered = sum(found[looks].seen.answered for found, _ in rounds)
    busy = f"{REASONS['looking']}; {refused} of {refused + answered} requests got a 503 and were repeated"

    def rate(kind: str) -> Callable[[Round], float]:
        return lambda found: found[kind].seen.rate

    def p50(kind: str) -> Callable[[Round], float]:
        return lambda found: found[kind].seen.p50

    def p99(kind: str) -> Callable[[Round], float]:
        return lambda found: found[kind].seen.p99

    def cpu(kind: str) -> Callable[[Round], float]:
        return lambda found: found[kind].server_cpu + found[kind].database_cpu

    def view(value: Callable[[Round], float]) -> Callable[[Round, Plans], float]:
        return lambda found, _: value(found)

    def plan(name: str, value: str) -> Callable[[Round, Plans], float]:
        return lambda _, plans: plans[name][value]

    return [
        row("known fresh, 16 in flight", rate(fresh), "seed's plan", plan("seed", "rate"), "/s",
            least=6, calls=made, reason=REASONS["rate"]),
        row("known fresh, 16 in flight", rate(fresh), "bare view", view(rate(bare)), "/s",
            least=0.7, calls=made, reason=REASONS["rate"]),
        row("p50, 16 in flight", p50(fresh), "bare view", view(p50(bare)), "ms", calls=made),
        row("p99, 16 in flight", p99(fresh), "bare view", view(p99(bare)), "ms",
            most=3, calls=made, reason=REASONS["rate"]),
        row("CPU of server and database", cpu(fresh), "bare view", view(cpu(bare)), "ms",
            most=1.3, calls=made, reason=REASONS["cpu"]),
        row("p50, one client", p50(one), "bare view", view(p50(bare_one)), "ms", calls=made),
        row("p50, one client", p50(one), "seed's plan", plan("seed, one", "p50"), "ms",
            most=0.05, calls=made, reason=REASONS["one"]),
        row("looking, 16 in flight", rate(looks), "seed's plan", plan("seed", "rate"), "/s",
            least=3, calls=looked, reason=busy),
        row("looking, 16 in flight", rate(looks), "boto3 loop", plan("loop", "rate"), "/s", calls=looked),
        row("looking, p50, one client", p50(looks_one), "boto3 loop", plan("loop, one", "p50"), "ms",
            calls=looked_one),
    ]  # fmt: skip


#: Why a goal is missed, if it is: what is known from profiles.
REASONS = {
    "rate": "the two cores are busy: with the server's work, which no part of the profile leads, the database's, and "
    "that of the load itself",
    "cpu": "middlewares, schema checks, the log line and the metrics",
    "one": "each statement is a round trip",
    "looking": "half of a process's threads may wait for AWS, and a look takes and returns a lease, each a transaction",
}
