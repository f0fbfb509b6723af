"""`registry-admin web` copies the console's static files at its first start, and again only after a change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management.base import CommandError

from deployments.management.commands import web
from tests.support import prepared


@pytest.fixture
def root(settings: Any, tmp_path: Path) -> Path:
    """STATIC_ROOT, with files that are collected as `web` does, of one small folder of sources."""
    sources, found = tmp_path / "sources", tmp_path / "static"
    sources.mkdir()
    found.mkdir()
    (sources / "page.css").write_text("p { color: red }")
    settings.STATIC_ROOT, settings.STATICFILES_DIRS = found, [sources]
    settings.STATICFILES_FINDERS = ["django.contrib.staticfiles.finders.FileSystemFinder"]
    collected = {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"}
    settings.STORAGES = {**settings.STORAGES, "staticfiles": collected}
    assert web.collect(found)
    assert len(list(found.glob("page.*.css"))) == 1
    return found


def test_a_second_start_writes_nothing(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.iterdir()}

    assert not web.collect(root)

    assert {path: path.stat().st_mtime_ns for path in root.iterdir()} == before


def change(root: Path) -> None:
    (root.parent / "sources" / "page.css").write_text("p { color: blue }")


def add(root: Path) -> None:
    (root.parent / "sources" / "more.css").write_text("p { color: red }")


def rename(root: Path) -> None:
    (root.parent / "sources" / "page.css").rename(root.parent / "sources" / "leaf.css")


def lose_a_file(root: Path) -> None:
    next(root.glob("page.*.css")).unlink()


def lose_the_list(root: Path) -> None:
    (root / "staticfiles.json").unlink()


def break_the_list(root: Path) -> None:
    (root / "staticfiles.json").write_text("{")


def make_another_list(root: Path) -> None:
    (root / "staticfiles.json").write_text('{"paths": []}')


def break_the_digest(root: Path) -> None:
    (root / web.SOURCES).write_bytes(b"\xff")


@pytest.mark.parametrize(
    "happens",
    [change, add, rename, lose_a_file, lose_the_list, break_the_list, make_another_list, break_the_digest],
)
def test_a_start_collects_again_after_a_change(root: Path, happens: Callable[[Path], None]) -> None:
    happens(root)

    assert web.collect(root)
    assert not web.collect(root)


@pytest.mark.slow
@pytest.mark.parametrize("words", [b"", b"{bad", b"[]", b"\xff\xfe", b'{"paths": {}}'], ids=repr)
def test_a_start_makes_a_broken_list_again(words: bytes, tmp_path: Path) -> None:
    """In a process of its own, as Django reads the list once."""
    shutil.copytree(prepared.static_root(), tmp_path / "static")
    (tmp_path / "static" / "staticfiles.json").write_bytes(words)

    assert prepared.manage("web", "--", "--version", STATIC_ROOT=str(tmp_path / "static")) == ""

    assert json.loads((tmp_path / "static" / "staticfiles.json").read_bytes())["paths"]


def test_a_new_version_collects_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "VERSION", "99.0")

    assert web.collect(root)


def test_a_start_that_ended_while_it_collected_is_made_up_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(root)
    with monkeypatch.context() as broken:
        broken.setattr(web, "call_command", ended)
        with pytest.raises(CommandError):
            web.collect(root)

    (root.parent / "sources" / "page.css").write_text("p { color: red }")  # as at the first start

    assert web.collect(root)


def ended(*arguments: object, **options: object) -> None:
    raise CommandError("ended")
