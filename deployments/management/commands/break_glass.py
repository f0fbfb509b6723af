"""`manage.py break_glass NAME`: print a link for one log-in, if single sign-on or a second factor does not work."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.urls import reverse

from deployments.access import break_glass, single_sign_on
from deployments.access.audit import Trail
from deployments.log import get_logger

log = get_logger(__name__)


class Command(BaseCommand):
    help = "Print a link for one log-in to the console, without password, second factor and single sign-on."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="name of the account")
        parser.add_argument("--activate", action="store_true", help="make the account active if it is not")

    def handle(self, *args: Any, **options: Any) -> None:
        user = User.objects.filter(username=options["name"]).first()
        if user is None:
            names = ", ".join(User.objects.filter(is_superuser=True).values_list("username", flat=True)[:10])
            raise CommandError(f"There is no account {options['name']}. Superusers: {names or 'none'}.")
        if not user.is_active and not options["activate"]:
            raise CommandError(f"{user} is inactive, so no link can log in. --activate makes the account active.")
        if not user.is_staff:
            raise CommandError(f"{user} has no staff status, so the account has no access to the console.")
        before = {"active": user.is_active}
        with Trail.of_command("break_glass").change("make.log_in_link", user, before=before, after={"active": True}):
            if User.objects.filter(pk=user.pk, is_active=False).update(is_active=True):
                single_sign_on.activity_was_set(user)
        log.warning("break_glass.link_made", user=user.pk)
        minutes = int(break_glass.MAX_AGE.total_seconds() // 60)
        self.stderr.write(f"A link for one log-in as {user}, within {minutes} minutes:")
        address = reverse("admin:break_glass", args=[break_glass.make(user)])
        self.stdout.write(f"{settings.CONFIGURATION.app_origin}{address}")
