"""`manage.py web`: the web server. The process becomes gunicorn, so its id stays and signals reach it."""

import hashlib
import json
import os
import sys
from argparse import REMAINDER, ArgumentParser
from io import StringIO
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.core.management.base import BaseCommand

from deployments.checks import WITHOUT_PAGES
from registry_admin import VERSION

LIST = "staticfiles.json"  # in STATIC_ROOT: Django's list of the collected files
SOURCES = "sources.sha256"  # in STATIC_ROOT: of which files the others were made


class Command(BaseCommand):
    requires_system_checks = []  # `handle` runs some; `registry_admin.wsgi` runs all, and logs the warnings
    help = "Run the web server at BIND, with WEB_CONCURRENCY processes of WEB_THREADS threads each."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("gunicorn", nargs=REMAINDER, help="after --: options of gunicorn, which override settings")

    def handle(self, *args: Any, **options: Any) -> None:
        # A setting that is an error for us may end gunicorn with a traceback before it loads the application.
        call_command("check", tags=list(WITHOUT_PAGES), stdout=StringIO(), stderr=StringIO())  # raises for errors
        self._collect_static_files()
        given = [each for each in options["gunicorn"] if each != "--"]
        command = [sys.executable, "-m", "gunicorn", "--config", "python:registry_admin.web_server", *given]
        os.execve(sys.executable, [*command, "registry_admin.wsgi"], settings.CHILD_ENVIRONMENT)  # noqa: S606

    def _collect_static_files(self) -> None:
        """Those of this version, so that an upgrade needs no further command. A read-only folder stays as it is."""
        root = settings.STATIC_ROOT
        try:
            root.mkdir(parents=True, exist_ok=True)
            if os.access(root, os.W_OK):
                collect(root)
        except OSError as error:
            self.stderr.write(f"STATIC_ROOT: no static files were copied into {root}: {error.strerror}.")


def collect(root: Path) -> bool:
    """Run collectstatic into `root`, unless these files are there already: compressing them takes seconds of a start.

    Returns whether it ran. The file `SOURCES` in `root` is written last, so a run that was ended is done again.
    Raises OSError.
    """
    sources, kept = _digest_of_sources(), root / SOURCES
    if kept.exists() and kept.read_bytes() == sources.encode() and _is_whole(root):
        return False
    kept.unlink(missing_ok=True)
    if _names(root) is None:  # Django would end with a traceback when it reads a broken list
        (root / LIST).unlink(missing_ok=True)
    call_command("collectstatic", interactive=False, verbosity=0)
    kept.write_text(sources)
    return True


def _digest_of_sources() -> str:
    """SHA-256, as 64 hexadecimal digits, of the version and of the names and contents of all files to collect."""
    digest = hashlib.sha256(VERSION.encode())
    config: Any = apps.get_app_config("staticfiles")
    for finder in get_finders():
        for path, storage in sorted(finder.list(config.ignore_patterns), key=lambda found: found[0]):
            with storage.open(path) as file:
                digest.update(f"\0{path}\0".encode() + hashlib.sha256(file.read()).digest())
    return digest.hexdigest()


def _names(root: Path) -> list[str] | None:
    """The names of the files in collectstatic's list; None if there is no list, or a broken one."""
    try:
        found = json.loads((root / LIST).read_text())
        return list(found["paths"].values()) if found["version"] else None
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _is_whole(root: Path) -> bool:
    """Whether each file is there that the pages name by the list of collectstatic."""
    names = _names(root)
    return names is not None and all((root / name).is_file() for name in names)
