"""`manage.py notify`: list the channels, send a test message, or record and send notifications now.

`send` needs no worker. Run by a timer of the host (cron), it also reports that the worker has stopped.
Exit status: 0 sent, 1 not sent, 2 no such channel.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from deployments.access.audit import Trail, shell_user
from deployments.checks import WITHOUT_PAGES
from deployments.models import DeliveryStatus, NotificationChannel
from deployments.notify import deliveries
from deployments.notify.senders import DeliverySettings


class Command(BaseCommand):
    requires_system_checks = WITHOUT_PAGES
    help = "Notifications: list the channels, send a test message, or record new notifications and send them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        commands = parser.add_subparsers(dest="what", required=True)
        commands.add_parser("list", help="the channels, when a message was last sent, and the last error")
        test = commands.add_parser("test", help="send one test message to a channel")
        test.add_argument("name", metavar="NAME", help="the channel's name")
        commands.add_parser(
            "send", help="record new notifications and send those that are due, as the worker does each minute"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        match options["what"]:
            case "list":
                self._list()
            case "test":
                self._test(options["name"])
            case _:
                deliveries.collect(configuration=settings.CONFIGURATION)
                self.stdout.write(f"Sent: {deliveries.deliver(delivery_settings=DeliverySettings.of(settings))}.")

    def _list(self) -> None:
        for channel in NotificationChannel.objects.all():
            state = "on " if channel.enabled else "off"
            last = f"{channel.last_sent_at:%Y-%m-%d %H:%M} UTC" if channel.last_sent_at else "never"
            error = f"; last error: {channel.last_error}" if channel.last_error else ""
            self.stdout.write(f"{state} {channel.kind:<8} {channel.name}  last sent: {last}{error}")

    def _test(self, name: str) -> None:
        channel = NotificationChannel.objects.filter(name=name).first()
        if channel is None:
            known = ", ".join(NotificationChannel.objects.values_list("name", flat=True)) or "none yet"
            raise CommandError(f"There is no channel “{name}”. Channels: {known}.", returncode=2)
        with Trail.of_command("notify").attempt("test.channel", channel) as attempt:
            attempt.begin()
            row = deliveries.send_test(
                channel=channel,
                delivery_settings=DeliverySettings.of(settings),
                origin=settings.CONFIGURATION.app_origin,
                by=f"a command ({shell_user()})",
            )
            if row.status != DeliveryStatus.SENT:
                attempt.refuse(row.answer)
                raise CommandError(f"Not sent: {row.answer}")
            with attempt.commit():
                pass  # the delivery already has the result
        self.stdout.write(f"Sent: {row.answer}.")
