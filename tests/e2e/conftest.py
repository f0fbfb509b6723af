"""One installation for the whole run, because it takes seconds to start; each test has a project of its own in it.

So tests share no version counter, no repository and no promotion.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.control import Sandbox
from tests.e2e.demo import Demo
from tests.e2e.installation import Installation, Target
from tests.support import prepared


@pytest.fixture(scope="session")
def installation_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    # Below pytest's temporary folder, which it keeps for three runs: the log and the rows of a failure stay.
    with Sandbox.start() as sandbox:
        made = Installation(folder=tmp_path_factory.mktemp("installation"), sandbox=sandbox)
        prepared.migrate(made.database)
        with made.serving() as made.origin:
            yield made


@pytest.fixture
def installation(installation_process: Installation) -> Iterator[Installation]:
    """The running installation without faults. What the server logged is shown with a test that fails."""
    log = installation_process.log
    before = log.stat().st_size
    installation_process.sandbox.clear_faults()
    yield installation_process
    with log.open() as file:
        file.seek(before)
        print(f"--- the server's log, in full in {log} ---\n{file.read()}")


@pytest.fixture
def target(installation: Installation) -> Target:
    """A new project."""
    return installation.new_target()


@pytest.fixture
def demos(tmp_path: Path) -> Iterator[list[Demo]]:
    """What a test starts; ended here if the test did not come to that."""
    started: list[Demo] = []
    yield started
    for demo in started:
        if demo.process.poll() is None:
            demo.end(signal.SIGTERM)
        if demo.process.stdout:
            demo.process.stdout.close()
