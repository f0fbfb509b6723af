"""What a process loads: a worker and most commands neither the console nor the API, the web process all."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from django.contrib import admin
from django.core.checks import Warning, registry

from deployments import checks
from registry_admin.settings import BASE_DIR

#: Packages that only the console or the API needs.
OF_PAGES = ("deployments.admin", "deployments.api", "ninja", "pydantic", "authlib", "joserfc", "requests", "fido2")
_SAYS = """
import importlib, json, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "registry_admin.settings"
import django; django.setup()
from django.core.checks import run_checks
command = importlib.import_module("deployments.management.commands." + sys.argv[1]).Command
run_checks(tags=command.requires_system_checks) if command.requires_system_checks != "__all__" else run_checks()
print(json.dumps(sorted(sys.modules)))
"""


def loaded(command: str) -> set[str]:
    """The modules that a process has loaded when it begins with the command's work."""
    done = subprocess.run(
        [sys.executable, "-c", _SAYS, command], cwd=BASE_DIR, capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "worker", "events", "reconcile", "bootstrap", "configuration", "deployments", "keys", "notify", "projects",
        "prune", "why", "writes",
    ],
)  # fmt: skip
def test_a_command_that_shows_no_page_loads_neither_the_console_nor_the_api(command: str) -> None:
    assert loaded(command).isdisjoint(OF_PAGES)


@pytest.mark.slow
def test_the_checks_of_a_start_load_the_console_and_the_api() -> None:
    assert loaded("createsuperuser") >= {"deployments.admin", "deployments.api", "registry_admin.urls"}


def test_every_check_of_ours_runs_in_the_commands_that_show_no_page() -> None:
    ours = [each for each in registry.registry.get_checks() if each.__module__ == checks.__name__]

    assert len(ours) > 10
    assert [each for each in ours if not set(each.tags) & set(checks.WITHOUT_PAGES)] == []


def test_the_checks_of_the_pages_look_at_every_registered_page(monkeypatch: pytest.MonkeyPatch) -> None:
    page = next(iter(admin.site._registry.values()))
    found = Warning("a fault of a page", id="tests.W001")
    monkeypatch.setattr(page, "check", lambda **kwargs: [found])

    said: list[Any] = registry.registry.run_checks(tags=["admin"])

    assert found in said
