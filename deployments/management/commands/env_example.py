"""`manage.py env_example`: print `.env.example`, made from the table of settings."""

from typing import Any

from django.core.management.base import BaseCommand

from deployments import config


class Command(BaseCommand):
    help = "Print .env.example."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(config.env_example(), ending="")
