"""Each command ends in a sentence, whatever is wrong with the database or with the reader of its output.

The commands run as the command line runs them, all those of one state in one process (`tests.support.commands`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import get_commands
from django.test import Client

from tests.support import prepared
from tests.support.constants import HOST, POLICY

ROOT = Path(__file__).resolve().parent.parent
#: By command of ours, and some of Django's: the arguments with which it reaches the database, and writes if it can.
COMMANDS = {
    "bootstrap": ["--email", "eve@example.com", "--project", "Another project"],
    "break_glass": ["ada@example.com", "--activate"],
    "changepassword": ["ada@example.com"],
    "configuration": ["list"],
    "deployments": ["list"],
    "createsuperuser": ["--noinput", "--username", "eve", "--email", "eve@example.com"],
    "events": [],
    "keys": ["list"],
    "migrate": ["--verbosity", "0"],
    "notify": ["list"],
    "policy": ["versions"],
    "projects": ["list"],
    "prune": [],
    "reconcile": ["--all"],
    "reencrypt": [],
    "worker": [],
    "writes": ["pause", "--reason", "a look"],
}
#: No database is needed, or another test is about it.
ELSEWHERE = {
    "doctor": "reports every state itself: tests/test_doctor.py",
    "env_example": "prints a file",
    "errors": "prints a file",
    "web": "becomes another process: below",
    "why": "answers from the words alone, if the database does not answer",
}
#: These write nothing here, so a file that cannot be written is enough.
READ = {"configuration", "deployments", "keys", "notify", "policy", "projects", "reencrypt"}
STOPPED = "The server's database does not answer. Try again. (connection failed: "
STATES = {
    "stopped": STOPPED,
    "empty": "The server's database lacks tables or columns of this version. Run the migrate command.",
    "read-only file": r"The database \S+ cannot be written. Let this user write the file and its folder.",
    "read-only folder": r"The database \S+ cannot be (written|opened). ",
    "no folder": r"The database \S+ cannot be opened. Its folder must exist, and this user must be able to ",
    "no database": r"The database \S+ is not a database of SQLite. Correct DATABASE_URL or STATE_DIR, or restore ",
}
SETTINGS = {
    "PATH": os.environ["PATH"],
    "ENV_FILE": os.devnull,
    "SECRET_KEY": "only-for-the-tests-0123456789-0123456789-0123456789",
    "DEPLOY_REGISTRY_HOST": HOST,
    "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY,
    "RECONCILE_EVENTS_QUEUE_URL": "http://127.0.0.1:1/111111111111/queue",
    "DJANGO_SUPERUSER_PASSWORD": "a-password-of-nobody",
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
}


def started(
    *command: str, url: str, more: Mapping[str, str] = MappingProxyType({}), **options: Any
) -> subprocess.Popen[str]:
    """A process that obeys the modes of files also if root runs the tests. `more`: settings beside the usual ones."""
    dropped = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    return subprocess.Popen(
        [*(dropped if os.geteuid() == 0 else []), sys.executable, *command], cwd=ROOT, text=True,
        env={**SETTINGS, "DATABASE_URL": url, **more}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "db.sqlite3"
    prepared.migrate(path)
    arguments = ["bootstrap", "--email", "ada@example.com", "--project", "A project"]
    process = started("manage.py", *arguments, url=f"sqlite:///{path}")
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == 0, complaints
    return path


def in_state(state: str, folder: Path, migrated: Path) -> str:
    """The URL of a database in this state."""
    path = folder / "db.sqlite3"
    if state == "stopped":
        return "postgres://nobody@127.0.0.1:1/none"
    if state.startswith("read-only"):
        shutil.copy(migrated, path)
        path.chmod(0o400)
        if state == "read-only folder":
            folder.chmod(0o500)
    elif state == "no folder":
        path = folder / "nothing" / "db.sqlite3"
    elif state == "no database":
        path.write_text("This is a text, and it is longer than the header of a database of SQLite." * 10)
        path.chmod(0o600)
    return f"sqlite:///{path}"


def test_the_table_has_every_command_of_ours() -> None:
    ours = {name for name, app in get_commands().items() if app == "deployments"}

    assert ours <= set(COMMANDS) | set(ELSEWHERE)


@pytest.mark.django_db
def test_the_doctor_and_the_pages_name_commands_as_they_are_typed_here(client: Client, settings: Any) -> None:
    settings.COMMAND = "registry-admin"
    client.force_login(User.objects.create_superuser("ada"))

    page = client.get("/admin/setup/").content.decode()

    assert "<code>registry-admin doctor</code>" in page
    assert "registry-admin worker" in page
    assert "python manage.py" not in page


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
def test_each_command_ends_in_a_sentence_about_the_database(state: str, tmp_path: Path, migrated: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    commands = {name: arguments for name, arguments in COMMANDS.items() if state != "empty" or name != "migrate"}
    process = started("-m", "tests.support.commands", json.dumps(commands), url=in_state(state, folder, migrated))
    answers, complaints = process.communicate(timeout=100)
    folder.chmod(0o700)

    assert process.returncode == 0, complaints
    expected = re.compile(re.escape(STATES[state]) if state in ("stopped", "empty") else STATES[state])
    found = json.loads(answers)
    wrong = {name: says for name, (status, says) in found.items() if status != 1 or not expected.match(says)}
    if state == "read-only file":
        wrong = {name: says for name, says in wrong.items() if name not in READ or found[name][0] != 0}
        assert wrong.pop("changepassword") == "The input ended before the command had what it asks for."
    assert wrong == {}
    assert set(found) == set(commands)


@pytest.mark.slow
@pytest.mark.parametrize("state", ["stopped", "empty", "no database"])
def test_the_web_server_ends_in_the_same_sentence(state: str, tmp_path: Path) -> None:
    process = started("manage.py", "web", url=in_state(state, tmp_path, tmp_path))
    _, complaints = process.communicate(timeout=60)

    assert process.returncode != 0
    assert re.search(STATES[state] if state == "no database" else re.escape(STATES[state]), complaints)
    assert "Traceback" not in complaints


@pytest.mark.slow
def test_the_web_server_names_a_doubtful_setting_once(migrated: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{shutil.copy(migrated, tmp_path)}"
    doubtful = {"DEPLOY_REGISTRY_HOST": "registry", "STATIC_ROOT": str(prepared.static_root())}
    process = started("manage.py", "web", "--", "--check-config", url=url, more=doubtful)
    said, complaints = process.communicate(timeout=60)

    assert process.returncode == 0, complaints
    assert (said + complaints).count("a user of Docker Hub") == 1


@pytest.mark.slow
def test_the_web_server_names_a_wrong_number_of_processes_before_gunicorn_fails_at_it(migrated: Path) -> None:
    process = started("manage.py", "web", url=f"sqlite:///{migrated}", more={"WEB_CONCURRENCY": "two"})
    _, complaints = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "WEB_CONCURRENCY: The value is not a whole number of processes from 1 to 64." in complaints
    assert "Traceback" not in complaints


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["errors"], ["keys", "list"], ["version"]], ids=" ".join)
def test_a_list_whose_reader_has_gone_is_no_error(arguments: list[str], migrated: Path) -> None:
    """Also a short one, which is written when the command ends."""
    process = started("manage.py", *arguments, url=f"sqlite:///{migrated}")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # as `| head` does when it has enough
    complaints = process.stderr.read()
    process.stderr.close()
    process.wait(60)

    assert complaints == ""


@pytest.mark.slow
def test_ctrl_c_ends_a_command_without_a_traceback(migrated: Path) -> None:
    process = started(
        "manage.py", "shell", "--verbosity", "0", "--command", "import time; print('here', flush=True); time.sleep(60)",
        url=f"sqlite:///{migrated}",
        # A shell's background process ignores SIGINT, and so would this one, if the tests run there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    said = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=60)
    assert said == "here\n"

    assert (process.returncode, complaints) == (130, "")
