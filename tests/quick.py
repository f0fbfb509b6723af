"""What each test process makes quicker, without changing what a test proves. Loaded by pytest (`-p tests.quick`)."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import botocore.session
import pytest
from django.db import connection, transaction
from django.test import TransactionTestCase
from django.test.utils import override_settings


@pytest.fixture(autouse=True, scope="session")
def quick_passwords() -> Iterator[None]:
    """Use a fast password hash: the slow one of production proves nothing in a test."""
    with override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"]):
        yield


@pytest.fixture(autouse=True, scope="session")
def quick_clients() -> Iterator[None]:
    """Read botocore's service descriptions once, not for each session: reading takes a quarter of the time of a test
    that calls AWS.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
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
    """Empty the tables after a test that was not rolled back.

    Django's own way makes the rows of migrate again each time, which takes longer than most tests.
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
        yield
