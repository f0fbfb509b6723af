"""`manage.py reencrypt`: seal everything that is stored encrypted with the first ENCRYPTION_KEY.

To replace a key: put the new one in front of the old one, restart every process, run this, take the old one out.
Running it again, or while people work, does no harm.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from deployments.access.audit import Trail
from deployments.access.vault import Vault
from deployments.deploys import environment_variables
from deployments.notify import channels


class Command(BaseCommand):
    help = "Encrypt with the first ENCRYPTION_KEY what was encrypted with another one. Safe to run again."

    def handle(self, *args: Any, **options: Any) -> None:
        vault = Vault(settings.ENCRYPTION_KEYS)
        with Trail.of_command("reencrypt").change("reencrypt.secrets") as line:
            done, unreadable = environment_variables.reencrypt(vault=vault)
            reencrypted, closed = channels.reencrypt(vault=vault)
            line.after = {"variables": done, "channels": reencrypted, "unreadable": len(unreadable) + len(closed)}
            if not done and not reencrypted:
                line.nothing_changed()
        self.stdout.write(f"Variables encrypted anew: {done}.")
        for row in unreadable:
            self.stderr.write(f"{row.environment.project.ref} {row.environment} {row.name}: no key opens it.")
        if reencrypted:
            self.stdout.write(f"Secrets of notification channels encrypted anew: {reencrypted}.")
        for channel in closed:
            self.stderr.write(f"Notification channel {channel}: no key opens its secret; set it again.")
        if unreadable or closed:
            raise CommandError(
                f"Values that no key opens: {len(unreadable) + len(closed)}. Put the key that they were stored with "
                "behind the first one in ENCRYPTION_KEY, or set them again.",
                returncode=3,
            )
