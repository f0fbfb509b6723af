"""`manage.py doctor`: check this installation. One line per check, with the next step.

Exit status: 0 no check failed, 1 a check warns and --strict was given, 2 a check failed. It also works while the
settings have errors, because then it is needed most.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from deployments import doctor
from deployments.doctor import Level, Report

MARKS = {Level.OK: "ok  ", Level.WARN: "warn", Level.FAIL: "FAIL", Level.SKIPPED: "–   "}


class Command(BaseCommand):
    help = "Check settings, database, worker, AWS permissions and mail; report what is wrong and what to do."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument("--offline", action="store_true", help="do not contact AWS or the mail server")
        parser.add_argument("--strict", action="store_true", help="exit status 1 if a check warns")
        parser.add_argument(
            "--iam-policy", action="store_true", help="print only the minimum IAM policy for this installation"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        configuration = settings.CONFIGURATION
        if options["iam_policy"]:
            text = doctor.operator_policy(configuration)
            if not text:
                self.stderr.write(
                    "No configured registry is ECR, so no IAM policy is needed. See docs/iam-policy.json."
                )
                sys.exit(2)
            self.stdout.write(text)
            return
        report = doctor.examine(configuration=configuration, offline=options["offline"])
        if options["json"]:
            lines = [{**asdict(line), "level": line.level.value} for line in report.lines]
            document = {
                "at": report.at.isoformat(),
                "seconds": round(report.seconds, 1),
                **report.summary,
                "lines": lines,
            }
            self.stdout.write(json.dumps(document))
        else:
            self._tell(report)
        if report.worst is Level.FAIL:
            sys.exit(2)
        if report.worst is Level.WARN and options["strict"]:
            sys.exit(1)

    def _tell(self, report: Report) -> None:
        part = ""
        for line in report.lines:
            if line.part != part:
                part = line.part
                self.stdout.write(part)
            style = {Level.WARN: self.style.WARNING, Level.FAIL: self.style.ERROR}.get(line.level, str)
            self.stdout.write(f"  {style(MARKS[line.level])}  {line.what}: {line.says}")
            if line.then:
                self.stdout.write(f"        → {line.then}")
            if line.copy:
                self.stdout.write(f"          {line.copy}")
        counts = report.summary
        self.stdout.write(
            f"\n{counts['ok']} ok, {counts['warn']} warnings, {counts['fail']} failed, {counts['skipped']} not tried."
        )
