"""`manage.py web`: the web server. The process becomes gunicorn, so its id stays and signals reach it."""

import os
import sys
from argparse import REMAINDER, ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Run the web server at BIND, with WEB_CONCURRENCY processes of WEB_THREADS threads each."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("gunicorn", nargs=REMAINDER, help="after --: options of gunicorn, which override settings")

    def handle(self, *args: Any, **options: Any) -> None:
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
                call_command("collectstatic", interactive=False, verbosity=0)
        except OSError as error:
            self.stderr.write(f"STATIC_ROOT: no static files were copied into {root}: {error.strerror}.")
