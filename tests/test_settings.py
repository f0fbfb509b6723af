"""How the program starts, and how it refuses to: in processes of their own, with nothing but the given environment."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from deployments.checks import registries_do_not_overlap, registry_hosts_are_what_they_look_like
from deployments.config import Configuration

pytestmark = pytest.mark.slow  # each is a process or more
ROOT = Path(__file__).resolve().parent.parent
KEY = "only-for-the-tests-0123456789-0123456789-0123456789"


def manage(
    *arguments: str, folder: Path = ROOT, variables: Mapping[str, str] | None = None, **more: str
) -> tuple[int, str]:
    """Exit status and everything that was said by `manage.py`, run with these variables only."""
    given = {"PATH": os.environ["PATH"], "ENV_FILE": os.devnull, **(variables or {}), **more}
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments], cwd=folder, env=given, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The program as a fresh clone has it: no database, no key, no .env."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("deployments", "templates", "static"):
        (folder / name).symlink_to(ROOT / name)
    # These find the others by where they lie themselves, so they have to be copies.
    (folder / "registry_admin").mkdir()
    for source in (ROOT / "manage.py", *(ROOT / "registry_admin").rglob("*.py")):
        (folder / source.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        (folder / source.relative_to(ROOT)).write_text(source.read_text())
    return folder


def test_a_fresh_clone_starts_with_an_empty_environment_and_makes_its_key_once(clone: Path) -> None:
    assert manage("check", folder=clone)[0] == 0
    key = clone / "state" / "secret_key"
    first = key.read_text()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(first) >= 50

    assert manage("migrate", "--verbosity", "0", folder=clone)[0] == 0
    assert manage("makemigrations", "--check", "--dry-run", folder=clone)[0] == 0

    assert key.read_text() == first
    assert (clone / "state" / "db.sqlite3").exists()
    assert stat.S_IMODE((clone / "state").stat().st_mode) == 0o700
    assert [path.name for path in clone.rglob("secret_key*")] == ["secret_key"]


def test_files_beside_the_code_go_on_being_used(clone: Path, tmp_path: Path) -> None:
    """As version 0.2.0 left them."""
    assert manage("migrate", "--verbosity", "0", folder=clone)[0] == 0
    for path in (clone / "state").iterdir():
        path.rename(clone / path.name)
    (clone / "state").rmdir()
    before = {path.name: path.read_bytes() for path in (clone / "db.sqlite3", clone / "secret_key")}

    assert manage("migrate", "--check", folder=clone)[0] == 0

    assert not (clone / "state").exists()
    assert (clone / "secret_key").read_bytes() == before["secret_key"]


def test_a_start_that_would_hide_an_earlier_database_and_key_names_the_commands_that_move_them(
    clone: Path, tmp_path: Path
) -> None:
    assert manage("migrate", "--verbosity", "0", folder=clone)[0] == 0
    moved = tmp_path / "a state directory"

    status, said = manage("migrate", "--check", folder=clone, STATE_DIR=str(moved))

    assert status == 1
    assert not moved.exists()
    assert "Traceback" not in said
    [line] = [line for line in said.splitlines() if "then type: " in line]
    subprocess.run(["/bin/sh", "-c", line.partition("then type: ")[2]], check=True, timeout=10)
    assert sorted(path.name for path in moved.iterdir()) == ["db.sqlite3", "secret_key"]
    assert manage("migrate", "--check", folder=clone, STATE_DIR=str(moved)) == (0, "")
    assert list((clone / "state").iterdir()) == []


@pytest.mark.parametrize("command", ["version", "errors", "env_example", "collectstatic"])
def test_a_command_that_needs_no_database_makes_no_file_in_the_state_directory(clone: Path, command: str) -> None:
    """The build of an image runs collectstatic: a key that it made would be the key of everyone who has the image."""
    status, _ = manage(command, *["--noinput"] * (command == "collectstatic"), folder=clone)

    assert status == 0
    assert not (clone / "state").exists()


def test_a_state_directory_that_cannot_be_made_is_named(clone: Path) -> None:
    status, said = manage("check", folder=clone, STATE_DIR="/proc/no-folder")

    assert status == 1
    assert said.startswith("STATE_DIR: /proc/no-folder cannot be made: ")
    assert "Traceback" not in said


def test_an_ecr_registry_without_a_default_policy_and_a_region_that_nobody_knows_are_warned_of(tmp_path: Path) -> None:
    status, said = manage(
        "check",
        DATABASE_URL=f"sqlite:///{tmp_path}/x.sqlite3",
        SECRET_KEY=KEY,
        DEPLOY_REGISTRY_HOST="111111111111.dkr.ecr.us-esat-1.amazonaws.com",
    )

    assert status == 0
    assert "deployments.W004" in said
    assert "deployments.W005" in said


def test_a_database_without_a_secret_key_stops_the_start_and_says_how_to_make_one() -> None:
    status, said = manage("check", DATABASE_URL="postgres://user:canary@127.0.0.1/x")

    assert status != 0
    assert "SECRET_KEY" in said
    assert "token_urlsafe" in said
    assert "Traceback" not in said
    assert "canary" not in said


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://user:canary@127.0.0.1/x",
        "postgres://",
        "postgres://a:canary@[::1/x",
        '"postgres://user:canary@db:5432/app"',
        "host=db user=u password=canary dbname=app",
        "DATABASE_URL=postgres://user:canary@db/app",
        "\ufeffpostgres://user:canary@db/app",
        "postgres://user:canary@db/app?sslmod=x",
    ],
)
def test_a_database_address_that_cannot_be_used_is_not_shown(url: str) -> None:
    status, said = manage("check", DATABASE_URL=url, SECRET_KEY=KEY)

    assert status != 0
    assert said.startswith("DATABASE_URL: ")
    assert said.count("\n") == 1
    assert "canary" not in said


def test_the_web_process_names_a_malformed_database_url_in_one_sentence_without_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import registry_admin.wsgi"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "ENV_FILE": os.devnull, "DATABASE_URL": '"postgres://user:canary@db/app"'},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stderr.startswith("DATABASE_URL: The value begins with a quote mark.")) == (1, True)
    assert "canary" not in done.stdout + done.stderr


def test_every_malformed_variable_is_reported_at_once_by_the_system_checks(tmp_path: Path) -> None:
    status, said = manage(
        "check",
        DATABASE_URL=f"sqlite:///{tmp_path}/x.sqlite3",
        SECRET_KEY=KEY,
        DEPLOY_REGISTRY_HOST="https://registry",
        DEPLOY_TIMEOUT_MS="soon",
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY='{"canary": ',
    )

    assert status != 0
    assert said.count("deployments.E001") == 3
    assert "canary" not in said


def test_a_setting_can_come_from_a_file_and_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(
        '{"Version": "2012-10-17",\n "Statement": [{"Effect": "Allow", "Principal": "*",\n  "Action": "ecr:*"}]}\n'
    )
    variables = {
        "DATABASE_URL": f"sqlite:///{tmp_path}/x.sqlite3",
        "SECRET_KEY_FILE": str(tmp_path / "key"),
        "DEPLOY_REGISTRY_HOST": "111111111111.dkr.ecr.us-east-1.amazonaws.com",
        "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY_FILE": str(policy),
    }
    (tmp_path / "key").write_text(KEY + "\n")

    status, said = manage("check", variables=variables)
    assert (status != 0, "deployments.E110" in said) == (True, True)  # open to the whole world

    policy.unlink()
    status, said = manage("check", variables=variables)
    assert "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY_FILE: The file cannot be read" in said


def test_a_dollar_sign_in_a_value_is_a_dollar_sign(tmp_path: Path) -> None:
    env = tmp_path / "env"
    env.write_text(f"SECRET_KEY='$canary{KEY}'\nDATABASE_URL=sqlite:///{tmp_path}/x.sqlite3\n")

    status, said = manage("check", ENV_FILE=str(env))

    assert (status, "canary" in said) == (0, False)


def test_policy_commands_work_while_the_policy_setting_is_broken(tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text('{"Version": "2012-10-17", "Statement": []}')

    status, said = manage(
        "policy",
        "compare",
        str(policy),
        str(policy),
        "--region",
        "cn-north-1",
        DATABASE_URL=f"sqlite:///{tmp_path}/x.sqlite3",
        SECRET_KEY=KEY,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY="{",
    )

    assert (status, said.strip()) == (0, "identical")


def test_the_web_process_says_in_one_sentence_that_the_database_is_not_ready(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import registry_admin.wsgi"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "ENV_FILE": os.devnull, "SECRET_KEY": KEY,
             "DATABASE_URL": f"sqlite:///{tmp_path}/x.sqlite3"},
        capture_output=True,
        text=True,
        timeout=60,
    )  # fmt: skip

    assert done.returncode == 1
    assert "Run the migrate command." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("host", "identifier"),
    [
        ("1111.dkr.ecr.us-east-1.amazonaws.com", "deployments.E002"),
        ("111111111111.dkr.ecr.us-east-1.amazonaws.com.cn", "deployments.E002"),
        ("registry.example.com", "deployments.W002"),
    ],
)
def test_a_host_that_looks_like_ecr_and_is_not_stops_the_start(host: str, identifier: str, configure: object) -> None:
    assert callable(configure)
    configuration = configure(DEPLOY_REGISTRY_HOST=host, DEPLOY_REGISTRY_ECR_TAGS="a=b")
    assert isinstance(configuration, Configuration)

    assert [message.id for message in registry_hosts_are_what_they_look_like()] == [identifier]


@pytest.mark.parametrize(
    ("host", "namespace"),
    [("111111111111.dkr.ecr-fips.us-east-1.amazonaws.com", "trigger"), (None, "trigger/v4")],
)
def test_two_settings_that_claim_the_same_repositories_stop_the_start(
    host: str | None, namespace: str, configure: object
) -> None:
    assert callable(configure)
    plain = "111111111111.dkr.ecr.us-east-1.amazonaws.com"
    configure(
        DEPLOY_REGISTRY_HOST=plain,
        V4_DEPLOY_REGISTRY_HOST=host or plain,
        V4_DEPLOY_REGISTRY_NAMESPACE=namespace,
        V4_DEPLOY_REGISTRY_ECR_TAGS="a=b",
    )

    assert [message.id for message in registries_do_not_overlap()] == ["deployments.E003"]
