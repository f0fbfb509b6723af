"""People with different rights, and an installation for them to look at."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from deployments import config
from tests.admin.installation import ENVIRONMENT, Installation


@pytest.fixture
def installation(db: None, configure: Callable[..., config.Configuration]) -> Installation:
    configure(**ENVIRONMENT)
    return Installation(projects=2, repositories=12, deployments=40)


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
