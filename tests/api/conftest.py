"""What the contract tests stand on: one project of one operator, its keys, and a CLI without the CLI around it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.test import Client

from deployments import config
from deployments.access import keys
from deployments.api import limits
from deployments.deploys import projects
from deployments.models import Environment, Project
from tests.support.cli import Cli


@pytest.fixture(autouse=True)
def configuration(configure: Callable[..., config.Configuration]) -> config.Configuration:
    return configure()


@pytest.fixture(autouse=True)
def _no_limit_is_reached_yet() -> None:
    for limiter in (limits.failed_logins, limits.failed_exchanges, limits.unknown_keys, limits.pull_log_ins):
        limiter.clear()


@pytest.fixture
def operator(db: None) -> User:
    return User.objects.create_superuser("ada@example.com", "ada@example.com")


@pytest.fixture
def project(db: None) -> Project:
    return projects.create_project(name="Billing")


@pytest.fixture
def production(project: Project) -> Environment:
    return Environment.objects.select_related("project").get(project=project, slug="prod")


@pytest.fixture
def user_cli(client: Client, operator: User) -> Cli:
    return Cli(client, keys.make_user_token(operator, "laptop")[1])


@pytest.fixture
def cli(client: Client, production: Environment) -> Cli:
    """Holds the key of the production environment."""
    return Cli(client, keys.make_environment_key(production)[1])


@pytest.fixture
def preview_cli(client: Client, project: Project) -> Cli:
    return Cli(client, keys.make_environment_key(project.environments.get(slug="preview"))[1])


@pytest.fixture
def stranger(client: Client, db: None) -> Cli:
    """Holds the production key of another project."""
    other = projects.create_project(name="Other")
    return Cli(client, keys.make_environment_key(other.environments.get(slug="prod"))[1])
