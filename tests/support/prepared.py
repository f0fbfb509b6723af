"""What every new installation of a test would make again, made once for each test process: it takes seconds of CPU.

`migrate` makes the tables of a new installation in three seconds, and a first `registry-admin web` compresses the
console's files in two. Tests of these commands, of demo and of dev run them; other tests take a copy.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND_SECONDS = 120


def migrate(database: Path) -> None:
    """Put a new installation's SQLite file there: every migration has run, and no command besides."""
    shutil.copyfile(_migrated(), database)
    database.chmod(0o600)


@cache
def static_root() -> Path:
    """A STATIC_ROOT that `web` has filled, for any number of processes of this version; never to be written to."""
    manage("web", "--", "--version")  # gunicorn says its version and ends
    return _folder() / "static"


@cache
def _migrated() -> Path:
    manage("migrate", "--verbosity", "0")
    return _folder() / "db.sqlite3"


@cache
def _folder() -> Path:
    made = tempfile.mkdtemp(prefix="registry-admin-prepared-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


def manage(*arguments: str, **more: str) -> str:
    """`manage.py ARGUMENTS` of this process's installation, with `more` settings; what it wrote to standard error."""
    folder = _folder()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "ENV_FILE": os.devnull,
        "SECRET_KEY": "only-for-the-tests-0123456789-0123456789-0123456789",
        "DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}",
        "STATIC_ROOT": str(folder / "static"),
        **more,
    }
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=COMMAND_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, f"manage.py {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stderr
