"""`manage.py prune`: delete now what is older than the settings RETENTION_…_DAYS allow; with --dry-run only count it.

The worker does the same a little at a time. The command does not wait for the 24 hours after an upgrade, because a
person asks for it.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import connection

from deployments import retention
from deployments.access.audit import Trail
from deployments.checks import WITHOUT_PAGES


class Command(BaseCommand):
    requires_system_checks = WITHOUT_PAGES
    help = "Delete rows that are older than the settings RETENTION_…_DAYS allow. --dry-run says how many there are."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="count, and delete nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        configuration = settings.CONFIGURATION.require()
        if options["dry_run"]:
            for kind in retention.KINDS:
                self._tell(retention.outlook(kind, configuration=configuration))
            self.stdout.write("Nothing was deleted.")
            return
        trail, total = Trail.of_command("prune"), dict[str, int]()
        with trail.attempt("prune.rows") as attempt:
            attempt.begin()
            for kind in retention.KINDS:
                if not kind.kept_for(configuration):
                    continue
                found = retention.prune(kind, configuration=configuration, trail=trail)
                total[kind.noun] = found.removed
                self.stdout.write(f"{found.removed:,} {kind.noun} {kind.goes} ({kind.setting}). {kind.stays}".rstrip())
            attempt.after = total
            with attempt.commit():
                pass
        if connection.vendor == "sqlite" and any(total.values()):
            self.stdout.write("SQLite uses the free space again. The file becomes smaller only by VACUUM.")

    def _tell(self, found: retention.Outlook) -> None:
        kind = found.kind
        if not found.days:
            self.stdout.write(f"{kind.noun.capitalize()} are kept forever ({kind.setting}=0).")
            return
        self.stdout.write(
            f"{found.number} {kind.noun} from before {found.before:%Y-%m-%d %H:%M} UTC would be {kind.goes} "
            f"({kind.setting}={found.days}). {kind.stays}".rstrip()
        )
