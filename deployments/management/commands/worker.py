"""`manage.py worker`: the background worker, supervised. Ends cleanly on SIGTERM and Ctrl-C."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from deployments import provisioning
from deployments.worker import Supervisor, WorkerRefused


class Command(BaseCommand):
    help = "Run the background worker: schedules, sweeps, timeouts. Supervises django-q2's cluster."

    def handle(self, *args: Any, **options: Any) -> None:
        provisioning.register_desired_state()
        try:
            Supervisor().run()
        except WorkerRefused as refused:
            raise CommandError(str(refused)) from None
