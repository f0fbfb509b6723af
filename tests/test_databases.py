"""The databases that the tests run on: begun once, gone with the run however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests import databases

ROOT = Path(__file__).resolve().parent.parent
#: Ctrl-C is ignored by what a shell has put into the background, and so by this process, if the tests were.
HOLDER = """
import signal, time
from tests.postgresql import Server
signal.signal(signal.SIGINT, signal.default_int_handler)
print(Server.start().url, flush=True)
time.sleep(60)
"""


def socket_of(url: str) -> Path:
    return Path(url.partition("?host=")[2]) / ".s.PGSQL.5432"


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_postgresql_ends_with_the_process_that_started_it_however_that_ends(ending: int) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert holder.stdout is not None
    url = holder.stdout.readline().decode().strip()
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    assert socket_of(url).exists()

    holder.send_signal(ending)
    holder.communicate(timeout=20)

    until = time.monotonic() + 20
    while socket_of(url).parent.parent.exists():
        assert time.monotonic() < until, "the server's folder is still there"
        time.sleep(0.1)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url, connect_timeout=2)


@pytest.mark.slow
def test_servers_that_are_started_at_once_on_a_machine_that_never_had_one_all_start() -> None:
    """As root the PyPI package makes an operating-system user at its first use. Here in a private copy of /etc."""
    begin = "mount --bind $COPY /etc && (userdel -f pgserver || true) 2>/dev/null && ! id pgserver 2>/dev/null"
    script = (
        f'{begin} && for n in 1 2 3; do {sys.executable} -m tests.postgresql </dev/null & all="$all $!"; done; '
        "for one in $all; do wait $one || exit 1; done"
    )
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("needs root and the right to make a mount namespace")
    copy = ROOT / ".cache" / "etc"
    copy.parent.mkdir(exist_ok=True)
    subprocess.run(["rm", "-rf", copy], check=True)
    subprocess.run(["cp", "-a", "/etc", copy], check=True)
    try:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script],
            cwd=ROOT, env={**os.environ, "COPY": str(copy)}, capture_output=True, text=True, timeout=90,
        )  # fmt: skip
    finally:
        subprocess.run(["rm", "-rf", copy], check=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("postgresql://") == 3


def test_every_process_of_a_run_is_on_the_one_server_that_the_first_one_started() -> None:
    if not databases.POSTGRESQL or "TEST_POSTGRES_URL" in os.environ:
        pytest.skip("nothing was started for this run")

    assert os.environ["DATABASE_URL"] == os.environ[databases.STARTED]
    assert ("PYTEST_XDIST_WORKER" in os.environ) == (databases.server is None)
