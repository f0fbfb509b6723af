"""O11: an installation of version 0.1.0 is upgraded while it is used, and something breaks meanwhile.

The older release is taken from the repository's history (`git archive`) and run in our own environment: what it needs
has not changed. It serves while the new migrations run and while web and worker processes of both versions are up.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.installation import ROOT, Answer, Installation, Postgresql, Project, Sqlite
from tests.faults.operations import new_key
from tests.faults.strikes import kill_web_workers

RELEASE = "c3e5c70"  # version 0.1.0


def release(folder: Path) -> Path:
    """Version 0.1.0 in a folder of its own. RuntimeError with what to do where the history does not have it."""
    path = folder / "release"
    path.mkdir()
    archive = subprocess.run(["git", "archive", RELEASE], cwd=ROOT, capture_output=True, timeout=60)
    if archive.returncode:
        raise RuntimeError(f"Version 0.1.0 ({RELEASE}) is not in the history here: git fetch --unshallow --tags")
    subprocess.run(["tar", "-x", "-C", path], input=archive.stdout, check=True, timeout=60)
    return path


class Traffic:
    """First and repeated deploys without a pause, as CLIs make them, until it is told to stop."""

    def __init__(self, installation: Installation, projects: list[Project]) -> None:
        self.installation, self.projects = installation, projects
        self.failed: list[Answer] = []
        self.number = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(projects[index::2],)) for index in range(2)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)

    def _run(self, projects: list[Project]) -> None:
        while not self._stop.is_set():
            for project in projects:
                self.deploy(project)
                if self._stop.wait(0.3):
                    return

    def deploy(self, project: Project) -> None:
        """With the CLI's patience: again while trying again helps, for a minute."""
        key, until = new_key(), time.monotonic() + 60
        while (answer := self.installation.deploy(project, key=key)).status in (0, 429, 503):
            if time.monotonic() > until:
                break
            time.sleep(0.5)
        self.number += 1
        if answer.status != 200:
            self.failed.append(answer)


def upgrade(installation: Installation, breaks: Callable[[Installation], None]) -> Traffic:
    """From 0.1.0 to what is here, under traffic; `breaks` is called after each step."""
    installation.code = release(installation.folder)
    installation.manage("migrate", "--verbosity", "0")
    # The last four have their first deploy after the migration, by whichever version answers.
    projects = [installation.bootstrap(f"Project {number}") for number in range(8)]
    web, worker = installation.start_web(), installation.start_worker()
    with Traffic(installation, projects[:4]) as before:
        time.sleep(2)
    assert not before.failed, before.failed
    with Traffic(installation, projects) as traffic:
        breaks(installation)
        installation.code = ROOT
        installation.end_commander()
        for _ in range(4):  # broken off, it is run again
            status, _, words = installation.command("migrate", "--verbosity", "0")
            if not status:
                break
            time.sleep(3)
        assert not status, words
        time.sleep(1)
        breaks(installation)
        installation.start_web()
        time.sleep(1)
        breaks(installation)  # both versions are up
        web.stop(40)
        installation.start_worker()
        worker.stop(80)
        breaks(installation)
        time.sleep(2)
    return traffic


def nothing(installation: Installation) -> None:
    """The upgrade alone: SIGTERM, one after the other, old and new together."""


def killed(installation: Installation) -> None:
    """Web processes of whichever version, and half of a migration."""
    kill_web_workers(installation)
    if installation.code == ROOT:
        return
    installation.code = ROOT
    migrate = installation.begin_command("migrate", "--verbosity", "0")
    time.sleep(1.2)
    migrate.kill()


def database_away(installation: Installation) -> None:
    database = installation.database
    if isinstance(database, Postgresql):
        database.server.crash(away=2)
        return
    assert isinstance(database, Sqlite)
    with _locked(database):
        time.sleep(5)


@contextlib.contextmanager
def _locked(database: Sqlite) -> Iterator[None]:
    with contextlib.closing(database.connect()) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


BREAKS: dict[str, Callable[[Installation], None]] = {"F4": killed, "F6": database_away, "F11": nothing}
