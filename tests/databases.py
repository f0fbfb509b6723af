"""Which database the suite runs on. Loaded by pytest before Django's settings are (`-p tests.databases`).

The default is SQLite in a file, because the threads of a live server need their own connections. With
TEST_DATABASE=postgresql it is a real PostgreSQL: the server at TEST_POSTGRES_URL, or else a server from PyPI, which the
process that distributes the tests starts once and ends at the end of the run. Each test process has its own database
there, named after the process.

The developer's environment must not reach the tests, so every variable that the program reads is removed.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from deployments.settings_table import SETTINGS
from tests import postgresql

POSTGRESQL = os.environ.get("TEST_DATABASE") == "postgresql"
DIRECTORY = Path(tempfile.mkdtemp(prefix="registry-admin-tests-"))

_FOREIGN = ("AWS_", "DEPLOY_", "V4_DEPLOY_", "DEPRECATE_", "RECONCILE_", "BOTO_", "EMAIL_", "NOTIFY_", "METRICS_")
_NAMES = {setting.name for setting in SETTINGS}


def _isolate() -> None:
    for name in list(os.environ):
        if name.startswith(_FOREIGN) or name.removesuffix("_FILE") in _NAMES:
            del os.environ[name]
    os.environ["ENV_FILE"] = os.devnull
    os.environ["SECRET_KEY"] = "only-for-the-tests-0123456789-0123456789-0123456789"
    # Not the developer's collected files, which may be old. The folder exists, because WhiteNoise warns about a missing
    # one.
    (DIRECTORY / "static").mkdir(exist_ok=True)
    os.environ["STATIC_ROOT"] = str(DIRECTORY / "static")
    # No test may find AWS credentials other than the sandbox's.
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull


STARTED = "TEST_POSTGRES_STARTED"  # address of the server that the first process started, for its workers

server: postgresql.Server | None = None  # the server that this process started


def _postgresql() -> str:
    global server
    given = os.environ.get("TEST_POSTGRES_URL")
    if given:
        return given
    if "PYTEST_XDIST_WORKER" in os.environ:
        return os.environ[STARTED]
    server = postgresql.Server.start()
    atexit.register(server.stop)
    os.environ[STARTED] = server.url
    return server.url


atexit.register(shutil.rmtree, DIRECTORY, ignore_errors=True)


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: two processes for each core, because many tests wait for a socket. Four use one server well."""
    return min(4, 2 * (os.cpu_count() or 1))


def pytest_addoption(parser: pytest.Parser) -> None:
    words = "leave out the modules of which no test uses the database of the tests"
    parser.addoption("--database-only", action="store_true", help=words)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`make test` runs everything on SQLite, and on PostgreSQL what can differ there."""
    if not config.getoption("--database-only"):
        return
    using = {item.path for item in items if _uses_database(item)}
    config.hook.pytest_deselected(items=[item for item in items if item.path not in using])
    items[:] = [item for item in items if item.path in using]


def _uses_database(item: pytest.Item) -> bool:
    fixtures = {"db", "transactional_db"}.intersection(getattr(item, "fixturenames", ()))
    return bool(fixtures) or item.get_closest_marker("django_db") is not None


def url_of(name: str) -> str:
    """DATABASE_URL of another test database on the same server, for a process that a test starts."""
    if not POSTGRESQL:
        return f"sqlite:///{name}"
    base, mark, query = os.environ["DATABASE_URL"].partition("?")
    return f"{base.rpartition('/')[0]}/{name}{mark}{query}"


_isolate()
os.environ["DATABASE_URL"] = _postgresql() if POSTGRESQL else f"sqlite:///{DIRECTORY / 'main.sqlite3'}"
