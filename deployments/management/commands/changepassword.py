"""`manage.py changepassword`: Django's command, with a line of the audit log in the transaction of the change."""

from __future__ import annotations

import getpass
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.management.commands import changepassword
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from deployments.access import sessions
from deployments.access.audit import Trail

_TRIES = 3


class Command(changepassword.Command):
    def handle(self, *args: Any, **options: Any) -> str:
        """Django's own `handle` saves by itself; it asks in the same way."""
        users = get_user_model()
        name = options["username"] or getpass.getuser()
        user = users._default_manager.filter(**{users.USERNAME_FIELD: name}).first()
        if user is None:
            raise CommandError(f"There is no user {name}.")
        self.stdout.write(f"New password for {user}.")
        password = self._ask(user)
        user.set_password(password)  # outside of the transaction, because it takes some 0.3 s
        trail = Trail.of_command("changepassword")
        with trail.change("change.user", user, after={"changed": ["password"]}):
            user.save(update_fields=["password"])
            sessions.end_others(user, trail)
        return f"{user} has a new password. The sessions of {user} have ended."

    def _ask(self, user: Any) -> str:
        """A password that was typed twice and passes the validators. Raises CommandError after three tries."""
        for _ in range(_TRIES):
            password = getpass.getpass("Password: ")
            if password != getpass.getpass("Password (again): "):
                self.stderr.write("The two passwords differ.")
                continue
            try:
                validate_password(password, user)
            except ValidationError as error:
                self.stderr.write("\n".join(error.messages))
                continue
            return password
        raise CommandError(f"The password of {user} is not changed: {_TRIES} tries failed.")
