"""`manage.py errors`: print `docs/errors.md`, or explain one code."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from deployments import catalogue


class Command(BaseCommand):
    help = "Print the page of all errors, or explain the errors with a code."
    requires_system_checks = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("code", nargs="?", help="for example AccessDeniedException or image_not_found")

    def handle(self, *args: Any, **options: Any) -> None:
        code = options["code"]
        if code is None:
            self.stdout.write(catalogue.page(), ending="")
            return
        found = [entry for entry in catalogue.ENTRIES if code in entry.codes]
        if not found:
            raise CommandError(f"There is no error with the code {code[:60]}.")
        for entry in found:
            self.stdout.write(catalogue.explained(entry))
