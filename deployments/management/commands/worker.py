"""`manage.py worker`: run the background worker under its supervisor. Ends cleanly on SIGTERM and Ctrl-C."""

from argparse import SUPPRESS, ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from deployments import tasks
from deployments.access.key_strength import refuse_weak_keys
from deployments.checks import WITHOUT_PAGES
from deployments.models import ProcessRole
from deployments.reconcile import connection_count, generation
from deployments.worker import Supervisor, WorkerRefused, unready


class Command(BaseCommand):
    help = "Run the background worker: schedules, sweeps, timeouts, notifications. Supervises django-q2's cluster."
    requires_system_checks = WITHOUT_PAGES

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--cluster", action="store_true", help=SUPPRESS
        )  # the supervisor starts the cluster with it
        parser.add_argument(
            "--check", action="store_true", help="for a probe: status 1 unless a worker runs on this host"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["check"]:
            if reason := unready():
                raise CommandError(reason)
            return
        if options["cluster"]:
            tasks.run_cluster()
            return
        refuse_weak_keys(settings)
        generation.register(settings.CONFIGURATION, role=ProcessRole.WORKER)
        connection_count.warn(threads=settings.CONFIGURATION.web_threads, worker=1)
        try:
            Supervisor().run()
        except WorkerRefused as refused:
            raise CommandError(str(refused)) from None
