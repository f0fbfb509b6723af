"""`manage.py createsuperuser`: Django's command, with a line of the audit log in the transaction of the new user."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.management.commands import createsuperuser
from django.contrib.auth.models import UserManager

from deployments.access.audit import Trail


class _Manager:
    """The manager of users as Django's command uses it; `create_superuser` writes the line too."""

    def __init__(self, users: UserManager[Any]) -> None:
        self._users = users

    def __getattr__(self, name: str) -> Any:
        return getattr(self._users, name)

    def db_manager(self, using: str) -> _Manager:
        return _Manager(self._users.db_manager(using))

    def create_superuser(self, **values: Any) -> Any:
        with Trail.of_command("createsuperuser").change("add.user") as line:
            user = line.target = self._users.create_superuser(**values)
            line.after = {"username": user.get_username(), "staff": True, "superuser": True}
        return user


class _Users:
    """The model of users as Django's command uses it, with `_Manager` for its manager."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._default_manager = _Manager(model._default_manager)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, **values: Any) -> Any:
        return self._model(**values)


class Command(createsuperuser.Command):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.UserModel: Any = _Users(self.UserModel)
