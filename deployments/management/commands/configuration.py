"""`manage.py configuration`: show which configuration counts and which processes hold which, and change it."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from deployments.access.audit import Trail
from deployments.checks import WITHOUT_PAGES
from deployments.models import ConfigurationGeneration
from deployments.reconcile import generation


class Command(BaseCommand):
    requires_system_checks = WITHOUT_PAGES
    help = "Show which configuration counts (list), or choose it (activate DIGEST --reason …)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_subparsers(dest="what", required=True)
        what.add_parser("list", help="all configurations that processes were started with, newest first")
        activate = what.add_parser("activate", help="from now on, all processes use this configuration")
        activate.add_argument("digest", help="the beginning of the digest, as list prints it")
        activate.add_argument("--reason", default="", help="why, for the audit log")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["what"] == "list":
            self._list()
        else:
            self._activate(options["digest"], options["reason"])

    def _list(self) -> None:
        current = generation.counting()
        if current is None:
            self.stdout.write("No process has been started yet, so no configuration counts.")
            return
        holders: dict[int | None, list[str]] = {}
        for process in generation.running():
            holders.setdefault(process.configuration_id, []).append(f"{process.role} on {process.host}")
        rows = ConfigurationGeneration.objects.select_related("plain_policy", "v4_policy").order_by("-id")
        for row in rows[:50]:
            counts = row.pk == current.configuration_id
            number = "" if row.generation is None else f"generation {row.generation}, "
            self.stdout.write(
                f"{row.digest[:12]}  {'COUNTS' if counts else '      '}  {number}first seen "
                f"{row.first_seen_at:%Y-%m-%d %H:%M:%S} UTC, {row.first_seen_by}; held by "
                f"{', '.join(dict.fromkeys(holders.get(row.pk, []))) or 'no running process'}"
            )
            if counts:
                reason = f": {current.reason}" if current.reason else ""
                self.stdout.write(
                    f"    since {current.at:%Y-%m-%d %H:%M:%S} UTC, {current.by}. {current.get_cause_display()}{reason}"
                )
            else:
                for sentence in generation.differences(current.configuration, row):
                    self.stdout.write(f"    {sentence}")
        for alarm in generation.alarms():
            self.stdout.write(f"{alarm.words} {alarm.then}")

    def _activate(self, digest: str, reason: str) -> None:
        try:
            row = generation.find(digest)
        except ValueError as error:
            raise CommandError(str(error)) from None
        if not generation.activate(row=row, trail=Trail.of_command("configuration"), reason=reason):
            self.stdout.write(f"{row} counts already.")
            return
        self.stdout.write(f"{row} counts from now on, for all processes.")
