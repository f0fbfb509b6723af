"""What each test process makes quicker, without changing what a test proves. Loaded by pytest (`-p tests.quick`)."""

from __future__ import annotations

import functools
import gc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore import httpsession
from botocore.hooks import EventAliaser
from django.db import connection, transaction
from django.test import TransactionTestCase
from django.test.utils import override_settings
from whitenoise.middleware import WhiteNoiseMiddleware

from tests import databases

# The imports and the collected tests are 350,000 objects, and they stay. Python's garbage collector would visit all of
# them again and again: a fifth of the time of a collection of the tests.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


#: The mark of a whole module: `pytestmark = pytest.mark.slow`, or a list with it.
_SLOW_MODULE = re.compile(r"^pytestmark = (\[[^\]]*)?pytest\.mark\.slow\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A run without slow tests does not import a module whose every test is slow. schemathesis takes half a second."""
    if "not slow" in config.option.markexpr and collection_path.suffix == ".py":
        return bool(_SLOW_MODULE.search(collection_path.read_text())) or None
    return None


#: The modules whose slow tests take longest, longest first. They are begun first, so that no process is left with one
#: of them when the others have ended.
_LONGEST = (
    "e2e/test_cli.py", "docs/test_pages_run.py", "test_upgrade.py", "faults/test_configuration.py",
    "e2e/test_bodies.py", "e2e/test_connections.py", "test_worker.py", "test_settings.py", "browser/test_pages.py",
    "e2e/test_login.py", "faults/test_matrix.py", "e2e/test_demo.py", "e2e/test_flows.py", "api/test_properties.py",
    "test_installed.py",
)  # fmt: skip


@pytest.hookimpl(trylast=True)  # after pytest-randomly
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.markexpr == "slow":
        names = {name: number for number, name in enumerate(_LONGEST)}
        here = Path(__file__).parent
        items.sort(key=lambda item: names.get(str(item.path.relative_to(here)), len(names)))


@pytest.fixture(autouse=True, scope="session")
def quick_passwords() -> Iterator[None]:
    """Use a fast password hash: the slow one of production proves nothing in a test."""
    with override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"]):
        yield


@pytest.fixture(autouse=True, scope="session")
def quick_clients() -> Iterator[None]:
    """Make once what each session and client of boto3 would make again: the descriptions of the services, the names of
    the events, and the TLS settings, which the sandbox (plain HTTP) does not use. Most tests that call AWS make
    clients of their own.
    """
    aliases: dict[str, str] = {}
    begin = EventAliaser.__init__

    def share_aliases(aliaser: Any, *arguments: Any) -> None:
        begin(aliaser, *arguments)
        aliaser._alias_name_cache = aliases

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
        patch.setattr(EventAliaser, "__init__", share_aliases)
        context = httpsession.create_urllib3_context()
        patch.setattr(httpsession, "create_urllib3_context", lambda: context)
        yield


@pytest.fixture(autouse=True, scope="session")
def quick_static_files() -> Iterator[None]:
    """List the static files once, not for each `Client`: each has middleware of its own."""
    files: dict[str, Any] = {}
    find = WhiteNoiseMiddleware.add_files_from_finders

    def add(middleware: Any) -> None:
        if not files:
            find(middleware)
            files.update(middleware.files)
        middleware.files.update(files)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WhiteNoiseMiddleware, "add_files_from_finders", add)
        yield


#: Tables that migrate fills and that only tests in a transaction change. They are not emptied, to keep their rows.
LASTING = {
    "auth_group",
    "auth_group_permissions",
    "auth_permission",
    "django_content_type",
    "django_migrations",
}


@pytest.fixture(autouse=True, scope="session")
def quick_cleaning() -> Iterator[None]:
    """Empty the tables after a test that was not rolled back, and keep the connection to SQLite.

    Django's own way makes the rows of migrate again and connects again each time, which takes longer than most tests.
    """

    tables: list[str] = []

    def clean(case: TransactionTestCase) -> None:
        if not tables:
            tables.extend(set(connection.introspection.django_table_names(only_existing=True)) - LASTING)
        with transaction.atomic(), connection.cursor() as cursor:  # foreign keys are checked at its end
            for table in tables:
                cursor.execute(f"DELETE FROM {connection.ops.quote_name(table)}")  # noqa: S608  (names of our tables)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", clean)
        if not databases.POSTGRESQL:  # there, a test may have cut its connection
            patch.setattr(TransactionTestCase, "_should_reload_connections", lambda _: False)
        yield
