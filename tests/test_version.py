"""One version, written in one place, is shown wherever people and programs ask what runs here."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

import django
import pytest
from django.contrib.auth.models import User
from django.test import Client

from deployments.models import ProcessRole
from deployments.reconcile import generation
from registry_admin import VERSION, versions

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ".".join(map(str, sys.version_info[:3]))


def test_only_one_file_has_the_version() -> None:
    files = [*ROOT.glob("*.toml"), *ROOT.glob("*.py"), *(ROOT / "registry_admin").rglob("*.py")]

    assert [path.name for path in files if f'"{VERSION}"' in path.read_text()] == ["__init__.py"]
    assert versions() == {"version": VERSION, "python": PYTHON, "django": django.get_version()}


@pytest.mark.django_db
def test_the_pages_the_api_and_the_metrics_show_it(client: Client, settings: Any) -> None:
    settings.METRICS_KEY = "a-key-of-the-tests-0123456789-0123456789"
    stranger = client.get("/admin/login/").content.decode()
    client.force_login(User.objects.create_superuser("ada"))
    page = client.get("/admin/").content.decode()
    metrics = client.get("/metrics", headers={"Authorization": f"Bearer {settings.METRICS_KEY}"}).content.decode()

    [footer] = re.findall(r'<footer id="footer">(.*?)</footer>', page, re.DOTALL)
    assert f"Registry Admin {VERSION} " in footer
    assert VERSION not in stranger
    assert client.get("/api/openapi.json").json()["info"]["version"] == VERSION
    [labels] = re.findall(r"^registry_admin_build_info\{(.*)\} 1\.0$", metrics, re.MULTILINE)
    assert dict(re.findall(r'(\w+)="([^"]*)"', labels)) == versions()


@pytest.mark.django_db
def test_each_start_of_a_process_writes_it_into_the_log_once_with_the_role(
    configure: Any, caplog: pytest.LogCaptureFixture
) -> None:
    configuration = configure()
    with caplog.at_level(logging.INFO):
        for role in (ProcessRole.WEB, ProcessRole.WORKER, ProcessRole.EVENTS):
            generation.register(configuration, role=role)

    lines = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    started = [line for line in lines if line.get("event") == "process.started"]
    assert [line["role"] for line in started] == ["web", "worker", "events"]
    assert all(versions().items() <= line.items() for line in started)
