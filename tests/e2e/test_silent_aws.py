"""gunicorn as it is shipped, while AWS does not answer: requests that need no AWS are answered at once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.installation import Installation, Target, request

pytestmark = pytest.mark.slow
WAITS = (0.5, 1, 2, 4)  # of the CLI, which repeats a 503


@pytest.fixture
def silent(installation: Installation) -> Iterator[Callable[[str], None]]:
    """Have AWS keep back every answer to these calls until the end of the test."""

    def hang(match: str) -> None:
        installation.sandbox.fault("hang", match)

    yield hang
    installation.sandbox.clear_faults()


def create(target: Target, *, tries: int = 1) -> tuple[int, Any, float]:
    """A deploy's first request, repeated as the CLI does: status, body and seconds of the last try."""
    for wait in (*WAITS[: tries - 1], 0):
        began = time.monotonic()
        status, answer = request(
            "POST",
            f"{target.installation.origin}/api/v1/deployments",
            {"contentHash": "0" * 64, "type": "MANAGED"},
            timeout=90,
            Authorization=f"Bearer {target.keys['prod']}",
        )
        if status != 503:
            break
        time.sleep(wait)
    return status, json.loads(answer), time.monotonic() - began


def slowest(installation: Installation, path: str, *, times: int = 20) -> float:
    took = []
    for _ in range(times):
        began = time.monotonic()
        assert request("GET", f"{installation.origin}{path}")[0] == 200
        took.append(time.monotonic() - began)
        time.sleep(0.05)
    return max(took)


def test_health_is_answered_while_24_deploys_wait_for_aws(
    installation: Installation, silent: Callable[[str], None]
) -> None:
    targets = [installation.new_target() for _ in range(12)]
    silent("ecr:*")
    with ThreadPoolExecutor(24) as pool:
        deploys = [pool.submit(create, target) for target in targets * 2]
        time.sleep(1)
        health, readiness = slowest(installation, "/healthz"), slowest(installation, "/readyz")
        installation.sandbox.clear_faults()
        answers = [deploy.result(60) for deploy in deploys]

    assert health < 1, health
    assert readiness < 1, readiness
    assert {status for status, _, _ in answers} <= {200, 503}
    refused = [(body, seconds) for status, body, seconds in answers if status == 503]
    assert len(refused) >= 24 - 2 * 4
    assert {body["code"] for body, _ in refused} <= {"server_waits_for_aws", "HolderWaits"}
    for target in targets:
        assert create(target, tries=5)[0] == 200


def test_a_project_whose_aws_calls_hang_does_not_keep_another_one_waiting(
    installation: Installation, silent: Callable[[str], None]
) -> None:
    stuck, other = installation.new_target(), installation.new_target()
    assert create(other)[0] == 200
    silent("ecr:CreateRepository")
    with ThreadPoolExecutor(20) as pool:
        deploys = [pool.submit(create, stuck) for _ in range(20)]
        time.sleep(1)
        status, _, seconds = create(other)
        installation.sandbox.clear_faults()
        answers = [deploy.result(60) for deploy in deploys]

    assert (status, seconds < 2) == (200, True), seconds
    assert sum(status == 503 for status, _, _ in answers) >= 20 - 2 * 4


def test_sixteen_first_deploys_at_once_all_succeed_through_gunicorn(installation: Installation) -> None:
    target = installation.new_target()
    installation.sandbox.reset_calls()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: create(target, tries=5), range(16)))

    assert [status for status, _, _ in answers] == [200] * 16
    assert installation.sandbox.calls()["ecr:CreateRepository"] == 1
