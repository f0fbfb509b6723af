"""`manage.py writes`: the emergency stop of every write to AWS."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from deployments.access.audit import Trail
from deployments.checks import WITHOUT_PAGES
from deployments.reconcile import writes_pause


class Command(BaseCommand):
    requires_system_checks = WITHOUT_PAGES
    help = "Stop all writes to AWS (pause --reason …), allow them again (resume), or show the state (status)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_subparsers(dest="what", required=True)
        pause = what.add_parser(
            "pause", help="stop all writes to AWS until resume; deploys that need no write continue"
        )
        pause.add_argument("--reason", required=True, help="the reason; it is part of the error of each refused write")
        what.add_parser("resume", help="allow writes again")
        what.add_parser("status", help="show whether writes are allowed; exit status 1 while they are paused")

    def handle(self, *args: Any, **options: Any) -> None:
        trail = Trail.of_command("writes")
        if options["what"] == "pause":
            done = writes_pause.pause(trail=trail, reason=options["reason"])
            self.stdout.write("Writes to AWS are paused." if done else "Writes to AWS were paused already.")
        elif options["what"] == "resume":
            done = writes_pause.resume(trail=trail)
            self.stdout.write("Writes to AWS are allowed again." if done else "Writes to AWS were not paused.")
        else:
            row = writes_pause.current()
            if row is None:
                self.stdout.write("Writes to AWS are allowed.")
                return
            self.stdout.write(
                f"Writes to AWS have been paused since {row.paused_at:%Y-%m-%d %H:%M:%S} UTC by "
                f"{row.paused_by}: {row.reason}"
            )
            raise SystemExit(1)
