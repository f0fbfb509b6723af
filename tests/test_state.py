"""Where the database and the key are, and when a start is refused. tests/test_settings.py starts real processes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from registry_admin import state
from registry_admin.state import DATABASE, KEY, StateRefused

BOTH = [DATABASE, KEY]


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    return tmp_path / "code"


def located(code: Path, *, given: Path | None = None, names: list[str] = BOTH) -> dict[str, Path]:
    return state.locate(names, given=given, default=code / "state", former=[code])


def test_new_files_are_in_the_state_directory(code: Path, tmp_path: Path) -> None:
    assert located(code) == {DATABASE: code / "state" / DATABASE, KEY: code / "state" / KEY}
    assert located(code, given=tmp_path / "s") == {DATABASE: tmp_path / "s" / DATABASE, KEY: tmp_path / "s" / KEY}


@pytest.mark.parametrize("there", [[DATABASE], [KEY], BOTH])
def test_each_file_of_an_earlier_version_is_used_where_it_is(code: Path, there: list[str]) -> None:
    for name in there:
        (code / name).touch()

    assert located(code) == {name: (code if name in there else code / "state") / name for name in BOTH}


def test_a_file_in_the_state_directory_counts_more_than_one_beside_the_code(code: Path, tmp_path: Path) -> None:
    for folder in (code, code / "state", tmp_path / "given"):
        folder.mkdir(exist_ok=True)
        (folder / DATABASE).touch()

    assert located(code, names=[DATABASE]) == {DATABASE: code / "state" / DATABASE}
    assert located(code, names=[DATABASE], given=tmp_path / "given") == {DATABASE: tmp_path / "given" / DATABASE}


@pytest.mark.parametrize("former", ["", "state"])
def test_a_new_file_that_would_hide_an_earlier_one_is_refused(code: Path, tmp_path: Path, former: str) -> None:
    (code / former).mkdir(exist_ok=True)
    (code / former / DATABASE).touch()

    with pytest.raises(StateRefused) as refused:
        located(code, given=tmp_path / "given")

    assert f"mv {code / former / DATABASE}* {tmp_path / 'given'}/" in str(refused.value)
    assert KEY not in str(refused.value)
    assert located(code, given=tmp_path / "given", names=[KEY]) == {KEY: tmp_path / "given" / KEY}


def test_without_a_home_the_setting_is_needed_only_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    default = state.default_folder(Path("/opt/code"), in_checkout=False, environment={"XDG_STATE_HOME": "relative"})

    assert default is None
    assert state.locate([], given=None, default=default, former=[]) == {}
    with pytest.raises(StateRefused, match="STATE_DIR: not set"):
        state.locate([KEY], given=None, default=default, former=[])


def test_the_default_of_an_installed_package_is_that_of_the_xdg_specification() -> None:
    def default(**environment: str) -> Path | None:
        return state.default_folder(Path("/opt/code"), in_checkout=False, environment=environment)

    assert default(XDG_STATE_HOME="/var/state") == Path("/var/state/registry-admin")
    assert default() == Path.home() / ".local/state/registry-admin"


def test_a_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    made = state.key_in(tmp_path / KEY)

    assert len(made) >= 50
    assert state.key_in(tmp_path / KEY) == made
    assert stat.S_IMODE((tmp_path / KEY).stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == [KEY]
