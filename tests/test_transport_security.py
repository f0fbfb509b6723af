"""HSTS, the redirect to https, and the keys that a new installation does not start with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import Client

from deployments import checks, config, doctor
from deployments.access import key_strength
from deployments.models import ProcessRole, Project
from deployments.reconcile import generation

ROOT = Path(__file__).resolve().parent.parent
#: Also of `make lint`, which runs `check --deploy` with them.
PRODUCTION = dict(line.split("=", 1) for line in (ROOT / "tests/production.env").read_text().splitlines())


@pytest.fixture
def https(settings: Any) -> Client:
    """A browser, and the settings of a production with the redirect."""
    settings.CONFIGURATION = config.load(
        PRODUCTION | {"HTTPS_REDIRECT": "1", "API_ORIGIN": "http://registry-admin.internal:8000"}
    )
    settings.ALLOWED_HOSTS = ["deploy.example.com", "registry-admin.internal"]
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    settings.SECURE_HSTS_SECONDS = 30 * 24 * 60 * 60
    return Client(SERVER_NAME="deploy.example.com", HTTP_HOST="deploy.example.com")


@pytest.mark.costly
@pytest.mark.django_db
def test_hsts_is_on_https_answers_only_for_this_host_only(https: Client) -> None:
    over_https = https.get("/admin/login/", headers={"X-Forwarded-Proto": "https"})
    over_http = https.get("/admin/login/")

    assert (over_https.status_code, over_https["Strict-Transport-Security"]) == (200, "max-age=2592000")
    assert (over_http.status_code, over_http["Location"]) == (302, "https://deploy.example.com/admin/login/")
    assert not over_http.has_header("Strict-Transport-Security")


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/status.json", "/api/v2/whoami"])
def test_probes_scrapes_and_the_api_are_never_redirected(path: str, https: Client) -> None:
    assert not 300 <= https.get(path).status_code < 400


@pytest.mark.django_db
def test_api_origin_is_never_redirected(https: Client) -> None:
    assert https.get("/admin/login/", headers={"Host": "registry-admin.internal:8000"}).status_code == 200
    assert https.get("/admin/login/", headers={"Host": "deploy.example.com"}).status_code == 302


@pytest.mark.django_db
def test_without_the_setting_nothing_is_redirected(https: Client, settings: Any) -> None:
    settings.CONFIGURATION = config.load(PRODUCTION)

    assert https.get("/admin/login/").status_code == 200


@pytest.mark.slow
def test_the_deploy_checks_are_clean_under_production_settings(tmp_path: Path) -> None:
    environment = PRODUCTION | {"ENV_FILE": "/dev/null", "DATABASE_URL": f"sqlite:///{tmp_path}/db"}

    def manage(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)

    done = manage("check", "--deploy", "--fail-level", "WARNING")
    assert done.returncode == 0, done.stderr
    names = ["HSTS_SECONDS", "HSTS_INCLUDE_SUBDOMAINS", "HSTS_PRELOAD", "PROXY_SSL_HEADER"]
    command = f"from django.conf import settings; print([getattr(settings, 'SECURE_' + name) for name in {names}])"
    values = manage("shell", "-v", "0", "-c", command).stdout.strip()
    assert values == "[2592000, False, False, ('HTTP_X_FORWARDED_PROTO', 'https')]"


@pytest.mark.slow
def test_the_web_process_of_a_new_installation_does_not_start_with_a_weak_key(tmp_path: Path) -> None:
    environment = PRODUCTION | {"ENV_FILE": "/dev/null", "DATABASE_URL": f"sqlite:///{tmp_path}/db"}

    def python(*arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment | changed, capture_output=True, text=True, timeout=60)

    assert python("manage.py", "migrate", "-v", "0").returncode == 0
    start = ("-c", "import registry_admin.wsgi")
    refused = python(*start, METRICS_KEY="guessable")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "A new installation does not start with such a key" in refused.stderr
    assert "guessable" not in refused.stderr.partition("A new installation")[2]
    assert python(*start).returncode == 0
    warned = python(*start, METRICS_KEY="guessable")
    assert warned.returncode == 0, "it has run before"
    assert "deployments.W011" in warned.stderr


def ids(settings: Any, **changed: str) -> list[str]:
    settings.CONFIGURATION = config.load(PRODUCTION | changed)
    settings.SECRET_KEY = settings.CONFIGURATION.secret_key
    settings.METRICS_KEY = settings.CONFIGURATION.metrics_key or ""
    found = [*checks.keys_are_long_enough(app_configs=None), *checks.the_proxy_is_known(app_configs=None)]
    return [(each.id or "").removeprefix("deployments.") for each in found]


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, []),
        ({"SECRET_KEY": "short"}, ["W010"]),
        ({"SECRET_KEY": "ab" * 30}, ["W010"]),
        ({"SECRET_KEY": "django-insecure-0123456789-0123456789-0123456789"}, ["W010"]),
        ({"SECRET_KEY": "0123456789abcdef0123456789abcdef"}, []),
        ({"METRICS_KEY": "a"}, ["W011"]),
        ({"METRICS_KEY": ""}, []),
        ({"TRUSTED_PROXIES": "0"}, ["W012"]),
        ({"TRUSTED_PROXIES": "0", "APP_ORIGIN": "http://localhost:8000"}, []),
        ({"TRUSTED_PROXIES": "nonsense"}, []),
        ({"HTTPS_REDIRECT": "1"}, []),
        ({"HTTPS_REDIRECT": "1", "PROXY_SCHEME_HEADER": ""}, ["W014"]),
    ],
)
def test_a_weak_key_and_an_unknown_proxy_are_warned_of(
    changed: dict[str, str], found: list[str], settings: Any
) -> None:
    assert ids(settings, **changed) == found


def test_the_warning_about_proxies_is_true_with_a_proxy_and_with_tls_in_gunicorn(settings: Any) -> None:
    settings.CONFIGURATION = config.load(PRODUCTION | {"TRUSTED_PROXIES": "0"})
    (warning,) = checks.the_proxy_is_known(app_configs=None)

    assert "so a proxy stands in front" not in warning.msg
    assert "If gunicorn itself ends TLS, slow clients can hold all its threads." in warning.msg
    assert warning.hint is not None
    assert "leave it at 0, because with 1 each client could name its own address" in warning.hint


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["SECRET_KEY", "METRICS_KEY"])
def test_a_new_installation_does_not_start_with_a_weak_key_and_one_that_has_run_is_warned(
    name: str, settings: Any
) -> None:
    assert ids(settings, **{name: "guessable"}) == [{"SECRET_KEY": "W010", "METRICS_KEY": "W011"}[name]]

    with pytest.raises(SystemCheckError, match=name) as refused:
        call_command("bootstrap", "--email", "ada@example.com", "--project", "First")
    assert "guessable" not in str(refused.value)
    with pytest.raises(SystemCheckError, match=name):
        call_command("worker")
    assert not Project.objects.exists()

    generation.register(settings.CONFIGURATION, role=ProcessRole.WEB)
    key_strength.refuse_weak_keys(settings)
    lines = doctor.examine(configuration=settings.CONFIGURATION, offline=True).lines
    (line,) = [each for each in lines if each.says.startswith(f"{name}:")]
    assert line.level is doctor.Level.WARN
    if name == "SECRET_KEY":
        order = ["SECRET_KEY_FALLBACKS", "Restart every process", "reencrypt", "remove the old key"]
        assert sorted(order, key=line.then.index) == order


@pytest.mark.django_db
def test_an_installation_of_version_0_1_0_has_run_before(settings: Any) -> None:
    ids(settings, SECRET_KEY="guessable")
    Project.objects.create(name="Billing")

    key_strength.refuse_weak_keys(settings)
