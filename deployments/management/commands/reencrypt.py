"""`manage.py reencrypt`: encrypt all stored secrets with the first ENCRYPTION_KEY.

To replace a key: put the new key before the old key, restart every process, run this command, remove the old key. The
command may run again, and while the installation is in use.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from deployments.access import second_factor
from deployments.access.audit import Trail
from deployments.access.vault import Vault
from deployments.checks import WITHOUT_PAGES
from deployments.deploys import environment_variables
from deployments.notify import channels


class Command(BaseCommand):
    requires_system_checks = WITHOUT_PAGES
    help = "Encrypt all stored secrets with the first ENCRYPTION_KEY. Safe to run again."

    def handle(self, *args: Any, **options: Any) -> None:
        vault = Vault(settings.ENCRYPTION_KEYS)
        with Trail.of_command("reencrypt").change("reencrypt.secrets") as line:
            done, unreadable = environment_variables.reencrypt(vault=vault)
            reencrypted, closed = channels.reencrypt(vault=vault)
            apps, lost = second_factor.reencrypt(vault=vault)
            failed = len(unreadable) + len(closed) + len(lost)
            line.after = {"variables": done, "channels": reencrypted, "second_factors": apps, "unreadable": failed}
            if not done and not reencrypted and not apps:
                line.nothing_changed()
        self.stdout.write(f"Variables encrypted again: {done}.")
        for row in unreadable:
            self.stderr.write(f"{row.environment.project.ref} {row.environment} {row.name}: no key decrypts it.")
        if reencrypted:
            self.stdout.write(f"Secrets and addresses of notification channels encrypted again: {reencrypted}.")
        for channel in closed:
            self.stderr.write(
                f"Notification channel {channel}: no key decrypts its secret or its address; set both again."
            )
        if apps:
            self.stdout.write(f"Keys of apps that show codes encrypted again: {apps}.")
        for factor in lost:
            self.stderr.write(f"{factor} of {factor.user}: no key decrypts its key; remove it, and set it up again.")
        if failed:
            raise CommandError(
                f"Values that no key decrypts: {failed}. Add the key that they were encrypted "
                "with to ENCRYPTION_KEY, after the first key, or set the values again.",
                returncode=3,
            )
