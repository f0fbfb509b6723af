"""Rules for the whole code: layers and importers (pyproject.toml), the reader of the environment, words, migrations."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import call_command

ROOT = Path(__file__).resolve().parent.parent
#: Private words and idioms that once stood in the code, and the plain words for them.
PLAIN_WORDS = {
    r"doorbells?|rings? the": "wake-up task",
    r"heals": "is retryable, corrects",
    r"mend(s|ed|er)?": "correct",
    r"told": "reported, logged",
    r"sealed": "encrypted",
    r"heard of": "the last heartbeat",
    r"puts? right": "correct",
    r"who(m)?ever": "the noun: the process, the caller, the user",
    r"what came of": "the result",
    r"by and by|for ever": "the time",
    r"on the wire": "that are sent",
    r"as they lie": "unchanged",
}


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def test_the_contracts_of_imports_in_pyproject_hold() -> None:
    # In a process of its own: the library configures logging, and so switches off the loggers of other tests.
    lint = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(cache_dir=None))"
    done = subprocess.run([sys.executable, "-c", lint], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_no_walk_through_the_code_enters_more_modules_than_decided() -> None:
    # In a process of its own: each module is to be imported, and none of a test's threads to be counted.
    done = subprocess.run([sys.executable, "-m", "tests.walks"], cwd=ROOT, capture_output=True, text=True, timeout=90)

    assert done.returncode == 0, done.stdout + done.stderr


def test_no_test_module_imports_another_test_module_or_a_conftest() -> None:
    imports = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sources("tests")
        for line in path.read_text().splitlines()
        if re.match(r"\s*(from|import) tests\b.*\b(test_\w+|conftest)\b", line)
    ]

    assert imports == [], "what tests share stands in tests/support, or in a module beside them"


def test_only_the_settings_read_the_environment() -> None:
    readers = [
        str(path.relative_to(ROOT))
        for path in sources("deployments", "registry_admin")
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    ]

    # Those beside the settings only name the settings module, and web_server the directory of the counters.
    assert set(readers) <= {f"registry_admin/{name}.py" for name in ("settings", "wsgi", "command_line", "web_server")}


@pytest.mark.costly
@pytest.mark.django_db
def test_no_migration_is_missing() -> None:
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


@pytest.mark.costly
@pytest.mark.parametrize("words", PLAIN_WORDS)
def test_no_private_word_comes_back_into_the_code(words: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources("deployments", "registry_admin", "sandbox", "conformance")
        if path.parent.name != "migrations"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(rf"\b({words})\b", line, re.IGNORECASE)
    ]

    assert found == [], f"rather: {PLAIN_WORDS[words]}"


@pytest.mark.costly
def test_no_file_names_a_folder_that_a_stranger_does_not_have() -> None:
    needle = ".." + "/shared"
    named = [
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*")
        if path.is_file()
        and not {".git", ".venv", ".cache", "node_modules", ".mypy_cache", ".ruff_cache"} & set(path.parts)
        and path.suffix in {".py", ".md", ".toml", ".txt", ".html", ".css", ".js", ".json", ".ts", ""}
        and needle in path.read_text(errors="ignore")
    ]

    assert named == []
