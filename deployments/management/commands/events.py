"""`manage.py events`: look at repositories the moment that CloudTrail reports a change. Ends cleanly on SIGTERM."""

import re
import signal
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from deployments import events, sweeps
from deployments.ecr import Access, EventQueue
from deployments.models import ProcessRole
from deployments.reconcile import generation


class Command(BaseCommand):
    help = "Consume ECR change events from RECONCILE_EVENTS_QUEUE_URL and heal drift within seconds."

    def handle(self, *args: Any, **options: Any) -> None:
        configuration = settings.CONFIGURATION.require()
        found = sweeps.targets(configuration)
        if not configuration.events_queue_url:
            raise CommandError("RECONCILE_EVENTS_QUEUE_URL is not set; the README shows how to make the queue.")
        if not found:
            raise CommandError("No configured registry is ECR (DEPLOY_REGISTRY_HOST), so there are no events.")
        stop: list[int] = []
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda number, frame: stop.append(number))
        config = found[0].config
        # https://sqs.REGION.…/ACCOUNT/NAME; a queue elsewhere (a sandbox, an endpoint in a VPC) is the registry's.
        region = re.match(r"https?://sqs\.([a-z0-9-]+)\.", configuration.events_queue_url)
        queue = EventQueue(
            url=configuration.events_queue_url,
            region=region[1] if region else found[0].registry.region,
            access=Access(role_arn=config.assume_role_arn, external_id=config.assume_role_external_id),
        )
        generation.register(configuration, role=ProcessRole.EVENTS)
        self.stderr.write("Listening for changes. Ctrl-C ends it.")
        events.consume(configuration=configuration, queue=queue, stopping=lambda: bool(stop))
