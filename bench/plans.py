"""Calls to AWS without a server and without a database, as references. A command: `python -m bench.plans`.

`seed`: what the first version of this program's ancestor did for each deploy of an existing project: four calls one
after the other, AssumeRole, DescribeRepositories, AssumeRole, SetRepositoryPolicy, each by a client of its own.
`loop`: a bare boto3 loop: one GetRepositoryPolicy by a client that all threads share.

The threads are spread over two processes, as the server's are. Reads its order from standard input as JSON and prints
{"rate": plans a second, "p50": milliseconds, "calls": calls to AWS, "cpu": milliseconds of CPU a plan}.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = 2


def run(plan: str, *, environment: dict[str, str], threads: int, seconds: float, names: list[str], policy: str) -> Any:
    """Run the plan in processes of its own. `threads` in all; 1: one thread in one process."""
    order = {"plan": plan, "threads": threads, "seconds": seconds, "names": names, "policy": policy}
    done = subprocess.run(
        [sys.executable, "-m", "bench.plans"],
        cwd=ROOT, env=environment, input=json.dumps(order), stdout=subprocess.PIPE, text=True, check=True,
        timeout=seconds + 60,
    )  # fmt: skip
    return json.loads(done.stdout)


def _seed(session: Any, names: list[str], policy: str) -> Callable[[int], None]:
    making = threading.Lock()  # making a client is not thread-safe

    def client(service: str, **credentials: str) -> Any:
        with making:
            return session.client(service, **credentials)

    def assume() -> dict[str, str]:
        role = "arn:aws:iam::111111111111:role/bench"
        given = client("sts").assume_role(RoleArn=role, RoleSessionName="bench")["Credentials"]
        return {
            "aws_access_key_id": given["AccessKeyId"],
            "aws_secret_access_key": given["SecretAccessKey"],
            "aws_session_token": given["SessionToken"],
        }

    def deploy(number: int) -> None:
        name = names[number % len(names)]
        client("ecr", **assume()).describe_repositories(repositoryNames=[name])
        client("ecr", **assume()).set_repository_policy(repositoryName=name, policyText=policy)

    return deploy


def _loop(session: Any, names: list[str], policy: str) -> Callable[[int], None]:
    from botocore.config import Config

    client = session.client("ecr", config=Config(max_pool_connections=16))
    return lambda number: client.get_repository_policy(repositoryName=names[number % len(names)])


def _measure(order: dict[str, Any], threads: int, offset: int, results: Any, begin: Any) -> None:
    import boto3

    plan = {"seed": _seed, "loop": _loop}[order["plan"]](boto3.session.Session(), order["names"], order["policy"])
    plan(offset)
    times: list[float] = []

    def work(thread: int) -> None:
        number = offset + thread
        while time.perf_counter() < until:
            started = time.perf_counter()
            plan(number)
            times.append((time.perf_counter() - started) * 1000)
            number += 16

    begin.wait()
    before = resource.getrusage(resource.RUSAGE_SELF)
    until = time.perf_counter() + order["seconds"]
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    after = resource.getrusage(resource.RUSAGE_SELF)
    results.put((times, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))


def main() -> None:
    order = json.load(sys.stdin)
    context = multiprocessing.get_context("spawn")
    processes = min(PROCESSES, order["threads"])
    results, begin = context.Queue(), context.Barrier(processes)
    running = [
        context.Process(target=_measure, args=(order, order["threads"] // processes, 8 * each, results, begin))
        for each in range(processes)
    ]
    for each in running:
        each.start()
    times, cpu = [], 0.0
    for _ in running:
        found, seconds = results.get(timeout=order["seconds"] + 50)
        times += found
        cpu += seconds
    for each in running:
        each.join()
    cuts = statistics.quantiles(times, n=100)
    seconds = order["seconds"]
    answer = {"rate": len(times) / seconds, "p50": cuts[49], "p99": cuts[98], "done": len(times)}
    print(json.dumps({**answer, "cpu": cpu * 1000 / len(times)}))


if __name__ == "__main__":
    main()
