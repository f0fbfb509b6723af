"""gunicorn as it is shipped, stopped by SIGTERM while a deploy waits for AWS."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.installation import Installation, request

pytestmark = pytest.mark.slow
AWS_SECONDS = 4.0


def test_a_web_process_stops_accepting_at_once_and_ends_when_its_requests_have_ended(
    installation: Installation,
) -> None:
    target = installation.new_target()
    installation.sandbox.fault("latency", "ecr:CreateRepository", seconds=AWS_SECONDS)
    with ThreadPoolExecutor(max_workers=2) as pool:
        with installation.serving() as origin:
            deploy = pool.submit(
                request, "POST", f"{origin}/api/v1/deployments", {"contentHash": "0" * 64, "type": "MANAGED"},
                timeout=60, Authorization=f"Bearer {target.keys['prod']}",
            )  # fmt: skip
            time.sleep(1.5)  # it waits for AWS now
            assert not deploy.done()
            late = pool.submit(_first_refused, origin)
            stopped = time.monotonic()  # leaving the block sends SIGTERM, and waits for the end
        took = time.monotonic() - stopped
        status, answer = deploy.result(60)

    assert (status, json.loads(answer)["imageTag"].count(target.ref)) == (200, 1)
    assert late.result(30) - stopped < 2
    assert took < 10  # what was left of the call to AWS, not the 30 seconds that a request may take


def _first_refused(origin: str) -> float:
    """When a connection was refused for the first time; asks for ten seconds at most."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            request("GET", f"{origin}/healthz", timeout=1)
        except OSError:
            return time.monotonic()
        time.sleep(0.05)
    return until
