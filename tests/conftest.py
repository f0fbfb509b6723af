"""Fixtures for every test: a sandbox ECR on a real socket, rows, and a configuration made from variables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.signals import user_logged_in
from django.core.management import call_command
from django.db import connections
from django.test import Client

from deployments import config, log, service_urls
from deployments.access import sessions
from deployments.aws import clients
from deployments.models import Environment, EnvironmentType, Project
from deployments.reconcile import processes
from sandbox.control import Sandbox
from tests import databases, postgresql
from tests.support.constants import CLUSTER, HOST, POLICY


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """Each test process has its own database. SQLite uses a file, so that each thread can have its own connection."""
    if not databases.POSTGRESQL:
        connections["default"].settings_dict["TEST"]["NAME"] = str(databases.DIRECTORY / "test.sqlite3")


@pytest.fixture
def own_server(transactional_db: None) -> Iterator[postgresql.Server]:
    """Run this test on its own PostgreSQL server, which it may crash. The server of the other tests keeps running."""
    if not databases.POSTGRESQL:
        pytest.skip("SQLite lives in the process of the test, and ends only with it")
    server = postgresql.Server.start()
    ours = connections.settings["default"]  # the settings of every thread's connection
    found = service_urls.parse_database_url(server.url, lambda message, hint: None)
    other = {"NAME": found.name, "USER": found.user, "PASSWORD": found.password, "HOST": found.host, "PORT": found.port}
    kept = {name: ours[name] for name in other}
    try:
        connections.close_all()
        ours.update(other)
        call_command("migrate", verbosity=0)
        yield server
    finally:
        connections.close_all()
        ours.update(kept)
        server.stop()


@pytest.fixture
def crash_database(own_server: postgresql.Server) -> Callable[[], None]:
    return own_server.crash


@pytest.fixture(autouse=True, scope="session")
def no_line_for_a_session_that_a_test_makes() -> Iterator[None]:
    """`Client.force_login` stands for a session that exists, of a recent log-in: it writes no line."""
    real = Client.force_login

    def force_login(client: Client, user: Any, backend: str | None = None) -> None:
        connected = user_logged_in.receivers
        user_logged_in.receivers = [each for each in connected if each[0][0] != "registry-admin-log-in"]
        try:
            real(client, user, backend)
        finally:
            user_logged_in.receivers = connected  # in the same order
        session = client.session
        session[sessions.LOG_IN_AT] = time.time()
        session.save()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "force_login", force_login)
        yield


@pytest.fixture(autouse=True)
def unregistered() -> Iterator[None]:
    """Forget the process row that a test has added, and its end, before the next test."""
    processes._mine, processes._ended, processes._trouble = None, False, ("", None)
    yield
    processes._mine, processes._ended, processes._trouble = None, False, ("", None)


@pytest.fixture(autouse=True)
def nothing_bound() -> Iterator[None]:
    """The fields that a test has bound to its log lines are not on the lines of the next test."""
    yield
    log.clear()


@pytest.fixture(scope="session")
def sandbox_process() -> Iterator[Sandbox]:
    sandbox = Sandbox.start()
    yield sandbox
    sandbox.stop()


@pytest.fixture
def sandbox(sandbox_process: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """An empty sandbox. The AWS credentials of this process are those of its owner account."""
    sandbox_process.reset()
    for name, value in sandbox_process.environment("owner").items():
        monkeypatch.setenv(name, value)
    clients.forget_clients()
    return sandbox_process


@pytest.fixture
def configure(settings: Any) -> Callable[..., config.Configuration]:
    """Make this process's configuration from variables: `configure(DEPLOY_REGISTRY_HOST=…)`."""

    def make(**environment: str) -> config.Configuration:
        settings.CONFIGURATION = config.load(environment).require()
        return django_settings.CONFIGURATION

    return make


@pytest.fixture
def ecr_configuration(configure: Callable[..., config.Configuration], sandbox: Sandbox) -> config.Configuration:
    """The usual installation: the owner's registry, the cluster account's pull policy."""
    return configure(DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY)


@pytest.fixture
def consumers(configure: Callable[..., config.Configuration], sandbox: Sandbox) -> config.Configuration:
    """The usual installation with the cluster as consumer account, and sweeps that no rate limits."""
    return configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS=CLUSTER,
        RECONCILE_CALLS_PER_SECOND="5000",
    )


@pytest.fixture
def project(transactional_db: None) -> Project:
    """A project with its production environment, outside of a transaction: no call to AWS is made inside one."""
    project = Project.objects.create(name="Billing")
    Environment.objects.create(project=project, slug="prod", type=EnvironmentType.PRODUCTION)
    return project


@pytest.fixture
def environment(project: Project) -> Environment:
    return Environment.objects.select_related("project").get(project=project, slug="prod")
