"""Files with keys and the database are for their owner only, and keys are replaced by the recipes of docs/keys.md."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connections
from django.test import Client
from django.test.utils import override_settings

from deployments import checks, clock, config, doctor
from deployments.access import second_factor
from deployments.access.vault import Vault
from deployments.config import Configuration
from deployments.deploys import environment_variables
from deployments.models import Environment, EnvironmentVariable, NotificationChannel
from deployments.notify import channels
from registry_admin.sqlite.base import DatabaseWrapper
from tests.support.second_factors import with_app

ROOT = Path(__file__).resolve().parent.parent.parent

# ----------------------------------------------------------------------------------------------------------- the files


def mode(path: Path | str) -> str:
    return f"{stat.S_IMODE(os.stat(path).st_mode):04o}"


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        assert os.umask(before) == value, "the program has changed the umask"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Callable[[], DatabaseWrapper]]:
    opened: list[DatabaseWrapper] = []

    def connect() -> DatabaseWrapper:
        options = {"init_command": "PRAGMA journal_mode=WAL;"}
        values = {**connections.settings["default"], "ENGINE": "registry_admin.sqlite"}
        made = DatabaseWrapper(values | {"NAME": str(tmp_path / "db.sqlite3"), "OPTIONS": options}, "at_rest")
        opened.append(made)
        with made.cursor() as cursor:
            cursor.execute("CREATE TABLE IF NOT EXISTS t (x)")
            cursor.execute("INSERT INTO t VALUES (1)")
        return made

    yield connect
    for each in opened:
        each.close()


def test_a_new_sqlite_database_and_its_files_are_for_their_owner_only(
    database: Callable[[], Any], tmp_path: Path, django_db_blocker: Any
) -> None:
    with django_db_blocker.unblock(), umask(0o022):
        database()

        assert {path.name: mode(path) for path in tmp_path.iterdir()} == {
            "db.sqlite3": "0600",
            "db.sqlite3-wal": "0600",
            "db.sqlite3-shm": "0600",
        }


def test_an_existing_database_keeps_its_mode(
    database: Callable[[], Any], tmp_path: Path, django_db_blocker: Any
) -> None:
    (tmp_path / "db.sqlite3").touch()
    (tmp_path / "db.sqlite3").chmod(0o640)  # also under another umask than the usual one
    with django_db_blocker.unblock(), umask(0o022):
        database()

    assert mode(tmp_path / "db.sqlite3") == "0640"


def warned(settings: Any, path: Path) -> list[str]:
    settings.SECRET_FILES = {"ENV_FILE": path, "SECRET_KEY_FILE": path.with_name("missing")}
    settings.DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "x"}}
    found = list(checks.files_are_private(app_configs=None))
    assert {each.id for each in found} <= {"deployments.W013"}
    return [f"{each.msg} {each.hint}" for each in found]


@pytest.mark.filterwarnings("ignore:Overriding setting DATABASES")
@pytest.mark.parametrize(
    ("bits", "is_warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True), (0o620, True), (0o644, True)]
)
def test_a_file_with_bits_for_others_is_warned_of_with_the_command(
    bits: int, is_warned: bool, settings: Any, tmp_path: Path
) -> None:
    path = tmp_path / "a file"
    path.write_text("SECRET_KEY=canary")
    path.chmod(bits)

    found = warned(settings, path)

    assert bool(found) == is_warned
    for sentence in found:
        assert f"(mode {bits:04o})" in sentence
        assert f"chmod 600 '{path}'" in sentence
        assert "canary" not in sentence


@pytest.mark.filterwarnings("ignore:Overriding setting DATABASES")
def test_the_group_of_a_read_only_mounted_secret_may_read_it(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mounted"
    path.touch()
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))

    path.chmod(0o440)
    assert warned(settings, path) == []
    path.chmod(0o444)
    assert len(warned(settings, path)) == 1


@pytest.mark.filterwarnings("ignore:Overriding setting DATABASES")
def test_the_database_and_the_files_beside_it_are_looked_at(settings: Any, tmp_path: Path) -> None:
    settings.SECRET_FILES = {}
    settings.DATABASES = {"default": {"ENGINE": "registry_admin.sqlite", "NAME": str(tmp_path / "db")}}
    for end in ("", "-wal", "-shm"):
        (tmp_path / f"db{end}").touch()
        (tmp_path / f"db{end}").chmod(0o644)

    found = [each.msg.partition(":")[0] for each in checks.files_are_private(app_configs=None)]
    assert found == ["database", "database-wal", "database-shm"]


def test_the_files_of_the_settings_are_known() -> None:
    assert {"ENV_FILE", "secret_key"} <= set(django_settings.SECRET_FILES)


# ---------------------------------------------------------------------------------------------------------- the doctor


@pytest.mark.costly
@pytest.mark.django_db
@pytest.mark.parametrize("kind", ["Environment variables", "Channels' secrets"])
def test_the_doctor_decrypts_a_stored_value_with_the_present_keys(
    kind: str, environment: Environment, settings: Any, configure: Callable[..., Configuration]
) -> None:
    def level() -> list[doctor.Level]:
        report = doctor.examine(configuration=configure(), offline=True)
        return [line.level for line in report.lines if line.what == kind]

    assert level() == []
    vault = Vault(settings.ENCRYPTION_KEYS)
    if kind == "Environment variables":
        environment_variables.store(environment=environment, variables={"A": "x"}, vault=vault, by="a test")
    else:
        NotificationChannel.objects.create(name="ops", kind="webhook", address="https://hook.example/x/y")
        channels.encrypt_addresses(vault=vault)
    assert level() == [doctor.Level.OK]

    settings.ENCRYPTION_KEYS = ("another-key-of-the-tests-0123456789-0123456789",)
    assert level() == [doctor.Level.FAIL]


# ---------------------------------------------------------------------------------------------------------- the recipes

VALUES = {
    "old": "the-old-key-of-the-tests-0123456789-0123456789",
    "new": "the-new-key-of-the-tests-0123456789-0123456789",
}
OTHER = "a-third-key-of-the-tests-0123456789-0123456789"


def steps(title: str, before: dict[str, str], folder: Path) -> list[dict[str, str] | str]:
    """The steps of a recipe in docs/keys.md: the settings in `.env` after its lines were run, or `reencrypt`."""
    page = (ROOT / "docs" / "keys.md").read_text()
    section = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"(?ms)^ +```sh\n(.*?)^ +```$", section)
    script = "old=old new=new\n"
    if "ENCRYPTION" in title:
        script += re.search(r"(?m)^grep -q '.ENCRYPTION_KEY=.*$", page)[0]  # type: ignore[index]
    for number, block in enumerate(blocks):
        kept = [line for line in textwrap.dedent(block).splitlines() if not re.match("new=|sudo |python ", line)]
        script += "\n".join(["", *kept, f"cp .env {number}\n"])
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in before.items()))
    subprocess.run(["bash", "-euc", script], cwd=folder, check=True, timeout=30)
    return [
        "reencrypt"
        if "python manage.py reencrypt" in block
        else dict(line.split("=") for line in _lines(folder, number))
        for number, block in enumerate(blocks)
    ]


def _lines(folder: Path, number: int) -> list[str]:
    return (folder / str(number)).read_text().splitlines()


def process(given: dict[str, str], fixed: dict[str, str]) -> Any:
    """The settings of a process that was started at this step."""
    written = {name: re.sub("old|new", lambda key: VALUES[key[0]], value) for name, value in given.items()}
    configuration = config.load(fixed | written)
    configuration.require()
    key = configuration.secret_key or ""
    return override_settings(
        CONFIGURATION=configuration,
        SECRET_KEY=key,
        SECRET_KEY_FALLBACKS=list(configuration.secret_key_fallbacks),
        ENCRYPTION_KEYS=configuration.vault_secrets(key),
    )


@pytest.mark.costly
@pytest.mark.django_db
@pytest.mark.parametrize(
    ("title", "before", "fixed"),
    [
        ("Replace `ENCRYPTION_KEY`", {"ENCRYPTION_KEY": "old"}, {"SECRET_KEY": OTHER}),
        ("Replace `ENCRYPTION_KEY`", {"SECRET_KEY": "old"}, {"SECRET_KEY": VALUES["old"]}),
        ("Replace `SECRET_KEY`", {"SECRET_KEY": "old"}, {}),
        ("Replace `SECRET_KEY`", {"SECRET_KEY": "old"}, {"ENCRYPTION_KEY": OTHER}),
    ],
)
def test_a_key_is_replaced_by_the_recipe_while_older_processes_still_run(
    title: str, before: dict[str, str], fixed: dict[str, str], environment: Environment, tmp_path: Path
) -> None:
    recipe = steps(title, before, tmp_path)
    assert len(recipe) == 4
    assert recipe[2] == "reencrypt"
    user = User.objects.create_superuser("ada", "ada@example.com")
    browser = Client()
    NotificationChannel.objects.create(name="ops", kind="webhook", address="https://hook.example/x/y")
    number = 0

    def store() -> None:
        nonlocal number
        number += 1
        vault = Vault(django_settings.ENCRYPTION_KEYS)
        environment_variables.store(environment=environment, variables={f"V{number}": f"{number}"}, vault=vault, by="x")
        channels.encrypt_addresses(vault=vault)

    def read() -> None:
        vault = Vault(django_settings.ENCRYPTION_KEYS)
        found = environment_variables.values(environment=environment, vault=vault)
        assert found == {f"V{each}": f"{each}" for each in range(1, number + 1)}
        assert channels.url_of(NotificationChannel.objects.get(), vault=vault) == "https://hook.example/x/y"
        assert second_factor.can_decrypt(vault)

    running = before
    with process(running, fixed):
        store()
        with_app(user, at=clock.now())
        browser.force_login(user)
    for step in recipe:
        if step == "reencrypt":
            with process(running, fixed):
                call_command("reencrypt")
            continue
        assert isinstance(step, dict)
        if step == recipe[-1]:
            with process(running, fixed):
                browser.force_login(user)  # the older sessions have ended by then
        for given in (step, running, step, running):  # old and new processes beside each other
            with process(given, fixed):
                store()
                read()
                assert browser.get("/admin/", follow=True).status_code == 200
                assert browser.get("/admin/").status_code == 200, "the session was ended"
        running = step
    with process(running, fixed):
        read()
        vault = Vault(django_settings.ENCRYPTION_KEYS)
        stored = [row.value for row in EnvironmentVariable.objects.all()]
        assert len(stored) == number
        assert all(vault.is_current(each) for each in stored)


def test_the_recipe_for_a_weak_secret_key_decrypts_what_it_encrypted() -> None:
    weak = config.load({"SECRET_KEY": OTHER, "ENCRYPTION_KEY": VALUES["new"], "SECRET_KEY_FALLBACKS": "short"})

    assert weak.problems == ()
    encrypted = Vault(["short"]).encrypt("x", context="here")
    assert Vault(weak.vault_secrets(OTHER)).decrypt(encrypted, context="here") == "x"
