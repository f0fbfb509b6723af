"""People with different rights, and an installation for them to look at."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client

from deployments import config
from tests.admin.installation import ENVIRONMENT, FIRST_USER, Installation


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The rows of an installation as statements that insert them again: a tenth of the time that the models take."""

    installation: Installation
    made_at: float  # by time.monotonic
    inserts: list[tuple[str, list[Any]]]

    @classmethod
    def of(cls, installation: Installation, made_at: float) -> Kept:
        """Reads what stands in our tables, and the users that the installation has made."""
        models = apps.get_app_config("deployments").get_models(include_auto_created=True)
        wanted = [(model._meta.db_table, "TRUE") for model in models] + [("auth_user", f"id >= {FIRST_USER}")]
        inserts = []
        with connection.cursor() as cursor:
            for table, condition in wanted:
                cursor.execute(f"SELECT * FROM {table} WHERE {condition}")  # noqa: S608  (our tables)
                rows = cursor.fetchall()
                columns = ", ".join(connection.ops.quote_name(column[0]) for column in cursor.description)
                row = f"({', '.join(['%s'] * len(cursor.description))})"
                insert = f"INSERT INTO {table} ({columns}) VALUES {', '.join([row] * len(rows))}"  # noqa: S608
                if rows:
                    inserts.append((insert, [value for values in rows for value in values]))
        return cls(installation=installation, made_at=made_at, inserts=inserts)

    def restored(self) -> Installation:
        with connection.cursor() as cursor:
            for insert, values in self.inserts:
                cursor.execute(insert, values)
        return copy.deepcopy(self.installation)


KEPT_SECONDS = 30  # the rows have times that are counted back from the time when they were made
_kept: list[Kept] = []


@pytest.fixture
def installation(db: None, configure: Callable[..., config.Configuration]) -> Installation:
    configure(**ENVIRONMENT)
    now = time.monotonic()
    if not _kept or now - _kept[-1].made_at > KEPT_SECONDS:
        _kept[:] = [Kept.of(Installation(projects=2, repositories=12, deployments=40), now)]
        return copy.deepcopy(_kept[-1].installation)
    return _kept[-1].restored()


@pytest.fixture
def operator(db: None) -> Client:
    """A browser in which a superuser is logged in."""
    client = Client()
    client.force_login(User.objects.create(username="operator", is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def person(db: None) -> Callable[..., Client]:
    """A browser of somebody with exactly these rights: `person("view_deployment", …)`."""

    def make(*codenames: str) -> Client:
        user = User.objects.create(username=("-".join(codenames) or "nobody")[:150], is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        assert user.user_permissions.count() == len(codenames)
        client = Client()
        client.force_login(user)
        return client

    return make
