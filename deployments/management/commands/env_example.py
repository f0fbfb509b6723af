"""`manage.py env_example`: print `.env.example`, or the table of docs/settings.md, from the rows of the settings."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from deployments import settings_table


class Command(BaseCommand):
    help = "Print .env.example, or with --readme the table of docs/settings.md."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--readme", action="store_true", help="print the table of docs/settings.md")

    def handle(self, *args: Any, **options: Any) -> None:
        text = settings_table.readme_table() if options["readme"] else settings_table.env_example()
        self.stdout.write(text, ending="")
