"""The number of the version, the CHANGELOG, the notes for an upgrade and the supported versions agree."""

from __future__ import annotations

import itertools
import re
import subprocess
from datetime import date, timedelta
from importlib import metadata
from pathlib import Path

import pytest

from registry_admin import VERSION

ROOT = Path(__file__).resolve().parent.parent
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
UPGRADING = (ROOT / "docs/upgrading.md").read_text()
RELEASES = dict(re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\S+)$", CHANGELOG, re.MULTILINE))
SUPPORTED: dict[str, str] = dict(
    re.findall(r"^\| (\d+\.\d+\.[\dx]+) \| (.+) \|$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
)


def test_the_newest_release_of_the_changelog_is_the_version_that_the_program_reports() -> None:
    assert next(iter(RELEASES)) == VERSION


def test_releases_stand_newest_first_with_days_in_order() -> None:
    numbers = [tuple(map(int, version.split("."))) for version in RELEASES]

    assert numbers == sorted(numbers, reverse=True)
    assert list(RELEASES.values()) == sorted(RELEASES.values(), reverse=True)


def test_each_release_but_the_first_has_notes_for_the_upgrade_from_the_one_before() -> None:
    versions = list(RELEASES)
    wanted = [f"### {new}, from {old}" for new, old in itertools.pairwise(versions)]

    assert [line for line in UPGRADING.splitlines() if re.match(r"### \d", line)] == wanted
    for heading in wanted:
        anchor = re.sub(r"[^\w -]", "", heading.removeprefix("### ")).replace(" ", "-")
        assert f"docs/upgrading.md#{anchor}" in CHANGELOG


def test_security_says_of_each_release_whether_it_gets_fixes() -> None:
    def line(version: str) -> str:
        return next(words for each, words in SUPPORTED.items() if version in (each, each.replace("x", version[4:])))

    newest, before, *older = RELEASES
    assert line(newest) == "fixes"
    until = date.fromisoformat(RELEASES[newest]) + timedelta(days=90)
    assert line(before) == f"fixes of vulnerabilities until {until}"
    assert all(line(version).startswith("nothing") for version in older)


@pytest.mark.parametrize("version", list(RELEASES))
def test_a_release_without_a_tag_names_its_commit(version: str) -> None:
    section = CHANGELOG.partition(f"## [{version}]")[2].partition("\n## [")[0]
    named = re.search(r"^The commit `([0-9a-f]{7,})`\.", section, re.MULTILINE)

    if named is None:
        assert version == next(iter(RELEASES)), "only the newest is not tagged yet"
    elif (ROOT / ".git").exists():
        found = subprocess.run(["git", "cat-file", "-e", f"{named[1]}^{{commit}}"], cwd=ROOT, capture_output=True)
        assert found.returncode == 0 or _is_shallow()


def _is_shallow() -> bool:
    asked = ["git", "rev-parse", "--is-shallow-repository"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True).stdout.strip() == "true"


def test_a_package_with_another_licence_than_mit_bsd_or_apache_is_named() -> None:
    names = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    text = (ROOT / "THIRD-PARTY-LICENSES.md").read_text()
    stated = {
        name: " ".join(str(found.metadata.json.get(key, "")) for key in ("license_expression", "license", "classifier"))
        for name in names
        for found in metadata.distributions(name=name)
    }
    strict = {name for name, words in stated.items() if re.search(r"\b[AL]?GPL|\bMPL", words)}

    assert "psycopg" in strict
    assert {name for name in strict if not re.search(rf"(?<![\w-]){name}(?![\w-])", text)} == set()
