"""Two minutes of everything at once on PostgreSQL, with faults sprinkled in; then it comes to rest and is audited.

    make soak                        two minutes
    make soak SECONDS=600 SEED=7     longer, and the same dice as another run

Two web services, two workers and an events process. Deploys with real pushes, cancels, reads, sweeps and pages of the
console go on while web and worker processes are killed, AWS throttles and loses answers, PostgreSQL crashes, and
somebody changes repositories from outside. Ends with 1 when anything is violated (a 500, or an invariant of `audit`).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import random
import re
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox.images import RegistryError
from tests.faults.audit import audit, rest
from tests.faults.installation import (
    Answer,
    Installation,
    Postgresql,
    Project,
    Stuck,
    completed,
    installations,
    policy,
    resident,
    send,
    wait_for,
)
from tests.faults.operations import new_key

DEPLOYERS, READERS, PROJECTS, TRIES = 4, 2, 24, 8
PAGES = (
    "/admin/", "/admin/deployments/deployment/", "/admin/deployments/repository/", "/admin/deployments/sweep/",
    "/admin/deployments/auditentry/", "/admin/deployments/project/", "/admin/setup/",
)  # fmt: skip
#: What a request's path is called in the figures.
NAMES = (
    (r"POST /api/v1/deployments$", "deploy"),
    (r".*/generate-registry-credentials$", "credentials"),
    (r".*/background-workers$", "index"),
    (r".*/finalize$", "finalize"),
    (r".*/cancel$", "cancel"),
    (r"GET /api/v1/deployments/current", "current"),
    (r"GET /api/v1/deployments", "list"),
    (r"GET /admin/", "console page"),
    (r"POST /admin/", "console form"),
    (r"GET /(healthz|readyz)", "health"),
)


class Soak:
    def __init__(self, installation: Installation, *, seconds: float, seed: int) -> None:
        self.installation, self.seconds, self.dice = installation, seconds, random.Random(seed)  # noqa: S311
        self.projects: list[Project] = []
        self.stop = threading.Event()
        self.counts: Counter[str] = Counter()
        self.memory: dict[str, float] = {}  # after the first seconds, when every process has done something
        self.problems: list[str] = []
        self._lock = threading.Lock()

    # -- those who use it --

    def persist(self, call: Callable[[], Answer]) -> Answer:
        """As the CLI: again where the connection broke or the answer says that trying again helps."""
        answer = call()
        for attempt in range(TRIES - 1):
            if answer.status not in (0, 429, 500, 502, 503, 504):
                break
            time.sleep(min(float(answer.headers.get("retry-after") or 0.3 * 2**attempt), 5.0))
            answer = call()
        return answer

    def deployer(self, dice: random.Random) -> None:
        while not self.stop.is_set():
            self.deploy_once(dice.choice(self.projects), dice.random())
            time.sleep(dice.random() * 0.5)

    def deploy_once(self, project: Project, luck: float = 0.5) -> bool:
        """A whole deploy; whether it came to its end. Of ten one is canceled."""
        installation, key = self.installation, new_key()
        begun = self.persist(lambda: installation.deploy(project, key=key))
        if begun.status != 200:
            return self._gave_up("deploy", begun)
        deployment = begun.body
        if luck < 0.1:
            path = f"/api/v1/deployments/{deployment['id']}/cancel"
            self.persist(lambda: installation.post(path, {"reason": "changed my mind"}, key=project.keys["prod"]))
            self.counts["canceled"] += 1
            return True
        given = self.persist(lambda: installation.credentials(project, deployment["id"]))
        if given.status != 200:
            return self._gave_up("credentials", given)
        for attempt in range(TRIES):
            try:
                image = installation.push(project, deployment, given.body)
                break
            except (OSError, RegistryError) as error:
                # The repository may have been deleted from outside; then only another deploy makes it again.
                if attempt == TRIES - 1 or getattr(error, "status", 0) == 404:
                    self.counts["pushes given up"] += 1
                    return False
                time.sleep(0.3)
        indexed = self.persist(lambda: installation.index(project, deployment["id"]))
        if indexed.status != 200:
            return self._gave_up("index", indexed)
        for attempt in range(TRIES):
            if completed(finalized := installation.finalize(project, deployment["id"], image.digest)):
                self.counts["deployed"] += 1
                return True
            time.sleep(0.3 * 2**attempt)
        return self._gave_up("finalize", finalized)

    def _gave_up(self, what: str, answer: Answer) -> bool:
        words = answer.error or next(iter(re.findall(r'"error": "(.{1,100})', answer.text)), answer.text[:80])
        self.counts[f"given up at {what}: {answer.status} {words[:90]}"] += 1
        return False

    def reader(self, dice: random.Random) -> None:
        while not self.stop.is_set():
            project = dice.choice(self.projects)
            path = dice.choice(["/api/v1/deployments/current", "/api/v1/deployments?page%5Bsize%5D=20", "/readyz"])
            self.installation.get(path, key=project.keys["prod"])
            time.sleep(dice.random() * 0.2)

    def operator(self, dice: random.Random) -> None:
        swept = 0.0
        while not self.stop.is_set():
            self.installation.console("GET", dice.choice(PAGES))
            if time.monotonic() - swept > 15:
                swept = time.monotonic()
                self.installation.console("POST", "/admin/deployments/sweep/start/", {})
            time.sleep(0.3)

    # -- those who break it --

    def breaker(self) -> None:
        faults = [self.kill_web, self.kill_worker, self.throttle, self.lose, self.outside, self.outside, self.slow]
        crashed = time.monotonic()
        while not self.stop.wait(2 + self.dice.random() * 3):
            try:
                if time.monotonic() - crashed > 40:
                    crashed = time.monotonic()
                    self.restart_database()
                else:
                    self.dice.choice(faults)()
            except Exception as error:  # of the outsider's own calls, which may be struck too
                self.counts[f"a fault that could not be made: {type(error).__name__}"] += 1

    def kill_web(self) -> None:
        victims = self.installation.web_workers()
        send(signal.SIGKILL, self.dice.choice(victims))
        self.counts["web processes killed"] += 1

    def kill_worker(self) -> None:
        service = self.dice.choice(self.installation.running("worker"))
        if cluster := service.cluster():
            send(signal.SIGKILL, self.dice.choice(cluster))
            self.counts["worker processes killed"] += 1

    def throttle(self) -> None:
        code = {"code": "ThrottlingException", "status": 400}
        self.installation.fault("error", "ecr:*", every=3, times=60, **code)
        self.counts["throttled"] += 1

    def lose(self) -> None:
        kind = self.dice.choice(["lost", "lost", "reset", "unanswered"])
        self.installation.fault(kind, self.dice.choice(["ecr:Set*", "ecr:Create*", "ecr:*", "sts:*"]), times=3)
        self.counts["answers lost"] += 1

    def slow(self) -> None:
        self.installation.fault("latency", "ecr:*", seconds=1.0, times=20)
        self.counts["slowed down"] += 1

    def outside(self) -> None:
        names = [name for name in sorted(self.installation.live_names()) if name.startswith("trigger/proj")]
        if not names:
            return
        name, ecr = self.dice.choice(names), self.installation.ecr
        with contextlib.suppress(
            ecr.exceptions.RepositoryPolicyNotFoundException, ecr.exceptions.RepositoryNotFoundException
        ):
            luck = self.dice.random()
            if luck < 0.45:
                ecr.delete_repository_policy(repositoryName=name)
            elif luck < 0.9:
                ecr.set_repository_policy(repositoryName=name, policyText=policy("555555555555"))
            else:
                ecr.delete_repository(repositoryName=name, force=True)
            self.counts["changed outside"] += 1

    def restart_database(self) -> None:
        database = self.installation.database
        assert isinstance(database, Postgresql)
        database.server.crash(away=2)
        self.counts["database crashes"] += 1

    # -- the run --

    def run(self) -> None:
        self.projects = [self.installation.bootstrap() for _ in range(PROJECTS)]
        names: list[tuple[Callable[..., None], list[Any]]] = [(self.breaker, []), (self.operator, [self._dice()])]
        names += [(self.deployer, [self._dice()]) for _ in range(DEPLOYERS)]
        names += [(self.reader, [self._dice()]) for _ in range(READERS)]
        threads = [threading.Thread(target=self._guarded, args=(call, arguments)) for call, arguments in names]
        for thread in threads:
            thread.start()
        until = time.monotonic() + self.seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 10))
            self.installation.collect_journal()
            self.memory = self.memory or memory(self.installation)
            done = ", ".join(f"{number} {what}" for what, number in sorted(self.counts.items()) if "given" not in what)
            print(f"  {max(0, until - time.monotonic()):4.0f} s left: {done}", flush=True)
        self.stop.set()
        for thread in threads:
            thread.join(120)

    def _dice(self) -> random.Random:
        return random.Random(self.dice.random())  # noqa: S311

    def _guarded(self, call: Callable[..., None], arguments: list[Any]) -> None:
        try:
            call(*arguments)
        except Exception as error:
            self.problems.append(f"the soak itself: {call.__name__}: {type(error).__name__}: {error}")

    def settle(self) -> None:
        """No more faults; every project must be deployable."""
        self.installation.sandbox.clear_faults()
        self.installation.collect_journal()
        for project in self.projects[:6]:
            try:
                wait_for(functools.partial(self.deploy_once, project), 150, f"a deploy of {project.ref} at rest")
            except Stuck as error:
                self.problems.append(f"I11: {error}")
        try:
            rest(self.installation)
        except Stuck as error:
            self.problems.append(f"I12: {error}")


def memory(installation: Installation) -> dict[str, float]:
    """MB of each kind of process, all of its processes together."""
    found: Counter[str] = Counter()
    number: Counter[str] = Counter()
    for service in installation.services:
        if service.is_running and service.name in ("web", "worker", "events"):
            number[service.name] += 1
            found[f"{service.name} {number[service.name]}"] += sum(map(resident, service.all_members()))  # type: ignore[assignment]
    return dict(found)


def figures(installation: Installation) -> list[str]:
    """Latency of what was answered, by operation, and every answer that was none of success, by status and code."""
    took: dict[str, list[float]] = {}
    errors: Counter[str] = Counter()
    for asked in installation.asked:
        line = f"{asked.method} {asked.path}"
        name = next((name for pattern, name in NAMES if re.match(pattern, line)), "other")
        answer = asked.answer
        if 0 < answer.status < 400 or (name == "current" and answer.status == 404):
            took.setdefault(name, []).append(answer.seconds)
            if name == "finalize" and not completed(answer):
                errors["finalize: an error event"] += 1
        else:
            code = ""
            with contextlib.suppress(ValueError, TypeError, AttributeError):
                code = str(answer.body.get("code", ""))
            errors[f"{name}: {answer.status or 'cut off'} {code}".rstrip()] += 1
    lines = [f"{'operation':<14}{'number':>8}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}"]
    for name, all_of in sorted(took.items()):
        cuts = statistics.quantiles(all_of, n=100, method="inclusive") if len(all_of) > 1 else all_of * 99
        lines.append(
            f"{name:<14}{len(all_of):>8}{cuts[49] * 1000:>9.0f}{cuts[98] * 1000:>9.0f}{max(all_of) * 1000:>9.0f}"
        )
    lines += ["", "not answered as asked:", *(f"  {number:>5}  {what}" for what, number in sorted(errors.items()))]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=None, help="of the dice; printed where none is given")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10_000)
    print(
        f"Soak of {arguments.seconds:.0f} s, seed {seed}. Starting PostgreSQL, 2 web, 2 workers, events …", flush=True
    )
    with installations(Path(tempfile.mkdtemp(prefix="ra-faults-"))) as of:
        installation = of("postgresql")
        queue = installation.sandbox.events_to("soak", region=installation.region)
        installation.settings |= {
            "RECONCILE_EVENTS_QUEUE_URL": queue,
            "RECONCILE_INTERVAL_MINUTES": "1",
            "RECONCILE_FRESHNESS_SECONDS": "5",
        }
        for start in (
            installation.start_web,
            installation.start_web,
            installation.start_worker,
            installation.start_worker,
        ):
            start()
        installation.start_events(queue)
        soak = Soak(installation, seconds=arguments.seconds, seed=seed)
        since = time.time()
        soak.run()
        print("Faults end; it comes to rest …", flush=True)
        soak.settle()
        ended = memory(installation)
        problems = soak.problems + audit(installation, since)
        alive = {name: len(installation.running(name)) for name in ("web", "worker", "events")}
        if alive != {"web": 2, "worker": 2, "events": 1}:
            problems.append(f"I12: processes ended by themselves; left are {alive}")
        print("\n".join(["", *figures(installation), "", "what happened:"]))
        print("\n".join(f"  {number:>5}  {what}" for what, number in sorted(soak.counts.items())))
        print("\nMB, all processes of each, after ten seconds and at the end:")
        print("\n".join(f"  {name:<10}{soak.memory.get(name, 0):>7.0f}{ended[name]:>7.0f}" for name in sorted(ended)))
        print(f"\nAWS calls: {sum(installation.sandbox.calls().values()):,}")
        if problems:
            print(f"\n{len(problems)} VIOLATIONS (seed {seed}):", *(f"  {each}" for each in problems), sep="\n")
            print(installation.logged(15))
        else:
            print(f"\nEvery invariant holds (seed {seed}).")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
