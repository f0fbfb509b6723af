"""`manage.py reconcile`: start a sweep, run it in this process and show its progress. The code is the schedule's.

With --all it also lists the tags of each repository and raises version counters that are behind them, as after a
restore of the database from a backup (`deployments.deploys.versions`).

With --refresh it only looks: the rows get what it sees, also of unmanaged repositories, and nothing is written to AWS.

Exit status: 0 all repositories are in sync or were corrected, 1 errors, 2 wrong usage, 3 drift was found and not
corrected (refresh, observe mode), or the image of a current version cannot be pulled.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connections
from django.db.models import Q

from deployments.access.audit import Trail, shell_user
from deployments.checks import WITHOUT_PAGES
from deployments.config import Configuration
from deployments.deploys import versions
from deployments.deploys.versions import Learned
from deployments.errors import RegistryError
from deployments.models import Repository, RepositoryStatus, Sweep, SweepFinding, SweepStatus, SweepTrigger
from deployments.reconcile import generation, image_states, ownership, sweep_record, sweeps, targets
from deployments.row_values import MANAGED, Management


class Command(BaseCommand):
    help = "Check repositories now and correct drift from the configured policy. Give names, or --all."
    requires_system_checks = WITHOUT_PAGES

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("names", nargs="*", metavar="NAME", help="repository names, such as trigger/proj_…")
        parser.add_argument("--all", action="store_true", help="every repository under the namespace")
        parser.add_argument(
            "--refresh",
            "--dry-run",
            dest="dry_run",
            action="store_true",
            help="check, also unmanaged repositories, and record the results; write nothing to AWS",
        )
        parser.add_argument("--adopt", action="store_true", help="also adopt discovered repositories (with --all)")
        parser.add_argument("--json", action="store_true", help="print one object instead of a table")

    def handle(self, *args: Any, **options: Any) -> None:
        names: list[str] = options["names"]
        if bool(names) == options["all"]:
            raise CommandError("Give repository names, or --all.", returncode=2)
        if options["adopt"] and not options["all"]:
            raise CommandError(
                "--adopt needs --all: repositories are discovered from the list of the whole registry.", returncode=2
            )
        if options["adopt"] and options["dry_run"]:
            raise CommandError("A refresh adopts nothing: leave out --adopt or --refresh.", returncode=2)
        configuration = self._configuration()
        if not targets.configured(configuration):
            raise CommandError("No configured registry is ECR (DEPLOY_REGISTRY_HOST), so there is nothing to do.")
        ownership.fill()
        self._require_known(names, refresh=options["dry_run"])
        trail, asked = Trail.of_command("reconcile"), {"dry_run": options["dry_run"], "adopt": options["adopt"]}
        with trail.change("start.sweep", after={"names": names, **asked}) as line:
            sweep = line.target = sweep_record.start(
                trigger=SweepTrigger.COMMAND, requested_by=f"command ({shell_user()})", names=names, **asked
            )
            assert sweep is not None  # only scheduled sweeps exclude each other  # noqa: S101
        try:
            self._work(sweep)
        except KeyboardInterrupt:
            with trail.change("stop.sweep", sweep) as line:
                if not sweep_record.stop(sweep=sweep):
                    line.nothing_changed()
            raise CommandError("Stopped. Corrections that were made stay; a new run starts a new sweep.") from None
        sweep.refresh_from_db()
        learned = Learned(raised=(), refused=())
        if options["all"] and not sweep.dry_run and sweep.status == SweepStatus.DONE:
            learned = versions.learn(configuration=configuration, trail=trail)
        self._tell(sweep, learned, as_json=options["json"])

    def _configuration(self) -> Configuration:
        """The configuration that counts, with a warning if this shell's settings differ from it."""
        own: Configuration = settings.CONFIGURATION.require()
        try:
            configuration = generation.in_force(own)
        except RegistryError as error:
            raise CommandError(str(error)) from None
        if not generation.is_counting(own):
            self.stderr.write(
                "This shell's settings are not the configuration that counts. The configuration that counts is used; "
                "manage.py configuration list shows it."
            )
        return configuration

    def _require_known(self, names: list[str], *, refresh: bool) -> None:
        managed = Repository.objects.filter(
            Q(status=RepositoryStatus.MISSING)
            | Q(management__in=[*MANAGED, Management.UNMANAGED] if refresh else MANAGED)
        )
        known = set(managed.filter(name__in=names).values_list("name", flat=True))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise CommandError(
                f"Not managed: {', '.join(unknown)}. See the list in the console, or run reconcile --all --adopt.",
                returncode=2,
            )

    def _work(self, sweep: Sweep) -> None:
        """Run the sweep in a thread and show its progress in this thread. Worker processes may take chunks too."""
        failure: list[BaseException] = []

        def run() -> None:
            try:
                while sweeps.work(configuration=settings.CONFIGURATION, seconds=30, sweep_id=sweep.pk):
                    pass
            except BaseException as error:
                failure.append(error)
            finally:
                connections.close_all()

        bar = _Bar(self.stderr)
        while True:
            thread = threading.Thread(target=run, name="reconcile", daemon=True)
            thread.start()
            while thread.is_alive():
                thread.join(0.25)
                bar.show(sweep_record.progress(sweep))
            if failure:
                raise failure[0]
            sweep.refresh_from_db()
            if sweep.status != SweepStatus.RUNNING:
                break
            time.sleep(1)  # other processes work on the last chunks, or the registry must be listed again
        bar.end(sweep_record.progress(sweep))

    def _tell(self, sweep: Sweep, learned: Learned, *, as_json: bool) -> None:
        result = sweep_record.progress(sweep)
        images = image_states.counts(Q(repository__name__in=sweep.names) if sweep.names else Q())
        findings = [
            {"name": found.repository.name, "outcome": found.outcome, "words": found.words}
            for found in SweepFinding.objects.filter(sweep=sweep).select_related("repository")
        ]
        if as_json:
            counts = {
                "status": sweep.status,
                "total": result.total,
                "in_sync": result.in_sync,
                "healed": result.healed,
                "drifted": result.drifted,
                "failed": result.failed,
                "unmanaged": result.unmanaged,
                "missing": result.missing,
                "discovered": result.discovered,
                "calls": result.calls,
                "error": sweep.error,
                "dry_run": sweep.dry_run,
                "images": images.states,
                "versions_raised": learned.raised,
                "versions_unknown": learned.refused,
            }
            self.stdout.write(json.dumps({**counts, "findings": findings}))
        else:
            for found in findings:
                self.stdout.write(f"{found['outcome']:<11}{found['name']}  {found['words']}")
            unmanaged = f", {result.unmanaged} unmanaged" if result.unmanaged else ""
            self.stdout.write(
                f"{result.total} checked: {result.in_sync} in sync, {result.healed} healed, "
                f"{result.drifted} drifted, {result.failed} failed{unmanaged}; {result.missing} missing, "
                f"{result.discovered} discovered. {_parts_read(sweep, result, images)}"
            )
            if images.states:
                self.stdout.write(f"Images that must stay: {images.words}. {images.unknown}".strip())
            for sentence in learned.raised:
                self.stdout.write(f"version    {sentence}")
        if sweep.status != SweepStatus.DONE or result.failed:
            raise CommandError(sweep.error or f"{result.failed} repositories failed.", returncode=1)
        if learned.refused:
            raise CommandError(
                f"The tags of {len(learned.refused)} repositories could not be listed, so the version counters of "
                f"their projects may be behind. The first: {learned.refused[0]}",
                returncode=1,
            )
        if result.drifted or images.broken_current or ((sweep.dry_run or sweep.names) and result.missing):
            sys.exit(3)


def _parts_read(sweep: Sweep, result: sweep_record.Progress, images: image_states.Counts) -> str:
    """Which parts of the repositories were read, in a sentence."""
    if sweep.status != SweepStatus.DONE or result.done < result.total:
        return f"Only {result.done} of {result.total} were read." if result.done else "None was read."
    if result.failed or result.unmanaged:
        return (
            "Every part of those in sync, healed or drifted was read; of the unmanaged ones the policy; of those that "
            "failed not every part."
        )
    return "Of each everything was read but its images." if images.unknown else "Every part of each was read."


class _Bar:
    """Progress on standard error: a bar on a terminal, elsewhere a line for each quarter."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._redraws = bool(stream.isatty())
        self._shown = -1

    def show(self, progress: sweep_record.Progress) -> None:
        if not progress.total:
            return
        done = progress.done / progress.total
        text = f"{progress.done}/{progress.total}  {progress.healed} healed  {progress.failed} failed"
        if self._redraws:
            filled = round(done * 30)
            self._stream.write(f"\r[{'#' * filled}{'.' * (30 - filled)}] {text}", ending="")
            self._stream.flush()
        elif int(done * 4) > self._shown:
            self._shown = int(done * 4)
            self._stream.write(text)

    def end(self, progress: sweep_record.Progress) -> None:
        self.show(progress)
        if self._redraws and progress.total:
            self._stream.write("")
