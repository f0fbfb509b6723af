"""`manage.py events`: check a repository as soon as CloudTrail reports a change. Ends cleanly on SIGTERM and Ctrl-C."""

import re
import signal
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from deployments.access.key_strength import refuse_weak_keys
from deployments.aws.sqs import EventQueue
from deployments.checks import WITHOUT_PAGES
from deployments.log import get_logger
from deployments.models import ProcessRole
from deployments.reconcile import change_events, connection_count, generation, processes, targets

log = get_logger(__name__)


class Command(BaseCommand):
    help = "Consume ECR change events from RECONCILE_EVENTS_QUEUE_URL and correct drift within seconds."
    requires_system_checks = WITHOUT_PAGES

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--check", action="store_true", help="for a probe: status 1 unless an events process runs on this host"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["check"]:
            if reason := change_events.unready():
                raise CommandError(reason)
            return
        configuration = settings.CONFIGURATION.require()
        found = targets.configured(configuration)
        if not configuration.events_queue_url:
            raise CommandError(
                "RECONCILE_EVENTS_QUEUE_URL is not set; docs/change-events.md shows how to create the queue."
            )
        if not found:
            raise CommandError("No configured registry is ECR (DEPLOY_REGISTRY_HOST), so there are no events.")
        refuse_weak_keys(settings)
        stop: list[int] = []

        def stopped(number: int, frame: object) -> None:
            if not stop:  # exit within STOP_SECONDS, even if AWS or the database does not answer
                processes.exit_after(processes.STOP_SECONDS - 1.5, processes.end)
            stop.append(number)

        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, stopped)
        # https://sqs.REGION.…/ACCOUNT/NAME. For another host (the sandbox, a VPC endpoint), use the registry's region.
        region = re.match(r"https?://sqs\.([a-z0-9-]+)\.", configuration.events_queue_url)
        queue = EventQueue(
            url=configuration.events_queue_url,
            region=region[1] if region else found[0].registry.region,
            access=found[0].config.access,
        )
        generation.register(configuration, role=ProcessRole.EVENTS)
        connection_count.warn(threads=configuration.web_threads, events=1)
        processes.keep_alive(ProcessRole.EVENTS, configuration=generation.held, lives=change_events.is_moving)
        log.info("events.started", queue=queue.url.rpartition("/")[2], says="Listening for changes. Stop with Ctrl-C.")
        change_events.consume(configuration=configuration, queue=queue, stopping=lambda: bool(stop))
        processes.end()
