"""`make demo` from the outside: what it shows, and that nothing of it is left, however it ends."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.e2e.demo import Demo, log_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(90),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the demo's processes through /proc"),
]


def test_once_shows_a_refused_pull_and_a_deploy_whose_pull_is_served_and_leaves_nothing(
    tmp_path: Path, demos: list[Demo]
) -> None:
    demos.append(demo := Demo(tmp_path, "--once"))
    demo.read()
    assert demo.process.wait(5) == 0, demo.output
    assert re.findall("REFUSED|ACCEPTED", demo.output) == ["REFUSED", "ACCEPTED"] * 2 + ["ACCEPTED"]
    assert re.search(r"Restored [0-4]\.\d seconds after the change", demo.output)
    assert "REFUSED, 403 DENIED" in demo.output
    assert re.findall("AWS calls: (.*)", demo.output) == [
        "CreateRepository 1, PutLifecyclePolicy 1, SetRepositoryPolicy 1",
        "DescribeRepositories 1, GetLifecyclePolicy 1, GetRepositoryPolicy 1, ListTagsForResource 1",
        "DescribeRepositories 1, GetLifecyclePolicy 1, GetRepositoryPolicy 1, ListTagsForResource 1, "
        "SetRepositoryPolicy 1",
    ]
    assert "\x1b[" not in demo.output, "colours are for terminals"
    assert demo.is_gone()


def test_it_stays_up_for_the_log_in_that_it_prints_until_ctrl_c(tmp_path: Path, demos: list[Demo]) -> None:
    demos.append(demo := Demo(tmp_path))
    demo.read("It stays up")
    origin, password, token = (
        demo.found(pattern)
        for pattern in (r"(http://localhost:\d+)/admin/", r"log in as \S+ with (\S+)", r"token (tr_pat_\w+)")
    )
    assert f"TRIGGER_API_URL={origin} " in demo.output
    assert f"TRIGGER_ACCESS_TOKEN={token} " in demo.output
    assert 'type="password"' not in log_in(origin, "demo@example.com", password), "the form is shown again"
    assert 'type="password"' in log_in(origin, "demo@example.com", "guessed")
    kept = b"".join(path.read_bytes() for path in demo.directory.rglob("*") if path.is_file())
    assert password.encode() not in kept
    assert token.encode() not in kept

    demos.append(second := Demo(tmp_path, "--once"))
    second.read()
    assert second.process.wait(5) == 1
    assert "running here already" in second.output

    assert len(demo.processes()) > 5
    assert demo.end(signal.SIGINT) == 0
    assert demo.is_gone()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGINT])
def test_nothing_is_left_when_it_is_ended_in_the_middle(tmp_path: Path, demos: list[Demo], number: int) -> None:
    demos.append(demo := Demo(tmp_path))
    demo.read(" 4. ")  # the line is complete when everything runs
    assert len(demo.processes()) > 5
    assert demo.end(number) == (-number if number == signal.SIGKILL else 130)
    assert demo.is_gone(seconds=30)


def test_a_process_that_ends_by_itself_ends_the_demo_with_its_last_words(tmp_path: Path, demos: list[Demo]) -> None:
    demos.append(demo := Demo(tmp_path))
    demo.read(" 4. ")
    workers = [pid for pid, command in demo.processes().items() if "manage.py worker" in command]
    os.kill(workers[0], signal.SIGTERM)
    demo.read()
    assert demo.process.wait(5) == 1
    assert "The worker process ended" in demo.output
    assert f"More in {demo.directory}/worker.log" in demo.output
    assert demo.is_gone()
