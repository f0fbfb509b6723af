"""`make dev` from the outside: what it prints works, a change of code is taken up, and its data stay."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.cli import ROOT
from tests.e2e.demo import Demo, log_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(90),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes through /proc"),
]
LOG_IN = r"log in as \S+ with (\S+)"


def test_it_stays_up_for_the_log_in_that_it_prints_and_the_next_start_goes_on_with_its_data(
    tmp_path: Path, demos: list[Demo]
) -> None:
    demos.append(first := Demo(tmp_path, name="dev"))
    first.read("It stays up")
    origin, password = first.found(r"(http://localhost:\d+)/admin/"), first.found(LOG_IN)
    assert 'type="password"' not in log_in(origin, "demo@example.com", password), "the form is shown again"

    demos.append(other := Demo(tmp_path, name="dev"))
    other.read()
    assert other.process.wait(5) == 1
    assert "running here already" in other.output

    assert first.end(signal.SIGINT) == 0
    assert first.is_gone()

    demos.append(second := Demo(tmp_path, name="dev"))
    second.read("It stays up")
    assert second.found(LOG_IN) == password
    assert second.found(r"(http://localhost:\d+)/admin/") == origin, "the port is free again"
    assert 'type="password"' not in log_in(origin, "demo@example.com", password)


def test_a_change_of_code_starts_the_worker_again(tmp_path: Path, demos: list[Demo]) -> None:
    demos.append(dev := Demo(tmp_path, name="dev"))
    dev.read("It stays up")
    dev.read("worker | ")  # it watches the code from here on
    os.utime(ROOT / "deployments" / "__init__.py")
    dev.read("worker | started again")
    dev.read("events | started again")


def test_a_worker_that_ends_does_not_end_the_rest(tmp_path: Path, demos: list[Demo]) -> None:
    demos.append(dev := Demo(tmp_path, name="dev"))
    dev.read("It stays up")
    workers = [pid for pid, command in dev.processes().items() if "manage.py worker" in command]
    os.kill(workers[0], signal.SIGTERM)
    dev.read("worker | ended with status 0")
    assert dev.end(signal.SIGINT) == 0
    assert dev.is_gone()
