"""`manage.py bootstrap`: create an operator, a project with its environments, and the keys to deploy with.

A second run creates only what is missing, so the command can be part of an installation's start script. A secret is
printed once, when it is made.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.validators import validate_email
from django.db import transaction
from django.db.models import Q, QuerySet

from deployments import images
from deployments.access import keys
from deployments.access.audit import Actor, Trail
from deployments.access.key_strength import refuse_weak_keys
from deployments.checks import WITHOUT_PAGES
from deployments.deploys import projects
from deployments.models import AccessKey, KeyKind, Project

#: The name of the keys that this command makes. It finds and rotates only keys with this name.
KEY_NAME = "bootstrap"


@dataclass(slots=True, kw_only=True)
class _Result:
    """The operator's and the project's state after the run. A secret is None if it existed before."""

    project: Project
    is_new_project: bool
    password: str | None = field(repr=False)
    token: str | None = field(repr=False)
    keys: dict[str, str | None] = field(repr=False)
    revoked: list[AccessKey]


class Command(BaseCommand):
    requires_system_checks = WITHOUT_PAGES
    help = "Create an operator, a project with its environments, and the keys to deploy with. Safe to run again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--email", required=True, help="The operator's address, which is also the login name.")
        parser.add_argument("--project", required=True, help="The project's name.")
        parser.add_argument("--ref", help="The project's ref (proj_…), if trigger.config has one already.")
        parser.add_argument("--json", action="store_true", help="Print one JSON object and nothing else.")
        parser.add_argument(
            "--rotate", action="store_true", help="Revoke the keys that this command made, and make new ones."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        email, name, ref = _email(options["email"]), _name(options["project"]), _ref(options["ref"])
        refuse_weak_keys(settings)
        result = self._make(email, name, ref, rotate=options["rotate"])
        if result.password is not None:
            self.stderr.write(f"Password of {email}, shown only once: {result.password}")
        for key in result.revoked:
            self.stderr.write(f"{key} (id {key.pk}, {key.get_kind_display()}) no longer works.")
        if options["json"]:
            made = {"project_ref": result.project.ref, "token": result.token, "keys": result.keys}
            self.stdout.write(json.dumps(made))
        else:
            self._tell(email, result)

    def _make(self, email: str, name: str, ref: str | None, *, rotate: bool) -> _Result:
        with transaction.atomic():
            # Two runs at once (two containers that start) wait for each other here: the operator's row is unique and
            # locked.
            operator, password = _operator(email)
            project, is_new_project = _project(name, ref)
            revoked = _revoke(operator, project) if rotate else []
            result = _Result(
                project=project,
                is_new_project=is_new_project,
                password=password,
                token=_token(operator),
                keys=_environment_keys(project),
                revoked=revoked,
            )
            made = {
                "operator": email if password else None,
                "project": project.ref if is_new_project else None,
                "personal key": bool(result.token),
                "keys of": [slug for slug, text in result.keys.items() if text],
            }
            trail = Trail(actor=Actor.command("bootstrap"))
            if password:
                trail.record("add.user", operator, after={"username": email, "staff": True, "superuser": True})
            for key in revoked:
                trail.record("revoke.key", key)
            if any(made.values()):
                trail.record("bootstrap.project", project, after=made)
            return result

    def _tell(self, email: str, result: _Result) -> None:
        configuration = settings.CONFIGURATION
        project = result.project
        kept = "made earlier and not shown again; --rotate replaces it"
        self.stdout.write(f"Operator  {email}" + ("" if result.password else " (existed)"))
        self.stdout.write(f"Project   {project.name}, {project.ref}" + ("" if result.is_new_project else " (existed)"))
        self.stdout.write(f"Token     {result.token or kept}")
        for slug, text in result.keys.items():
            self.stdout.write(f"Key       {slug:<8} {text or kept}")
        self.stdout.write(
            f"\nAdmin:    {configuration.app_origin}/admin/\n"
            f"Next: set project: “{project.ref}” in trigger.config.ts, then run\n\n"
            f"  TRIGGER_API_URL={configuration.api_origin} TRIGGER_ACCESS_TOKEN={result.token or 'tr_pat_…'} "
            + projects.DEPLOY_COMMAND
        )


def _email(text: str) -> str:
    email = text.strip()
    try:
        validate_email(email)
    except ValidationError:
        raise CommandError(
            "--email: this is not an e-mail address. For example --email you@example.com.", returncode=2
        ) from None
    if len(email) > 150:  # Django's limit for a login name
        raise CommandError("--email: the address is longer than 150 characters.", returncode=2)
    return email


def _name(text: str) -> str:
    name = text.strip()
    if not name or len(name) > 200 or not name.isprintable():
        raise CommandError("--project: give the project a name of 1 to 200 printable characters.", returncode=2)
    return name


def _ref(text: str | None) -> str | None:
    ref = text.strip() if text is not None else None
    if ref is not None and not images.is_project_ref(ref):
        raise CommandError(
            "--ref: this is not a project ref. A ref is proj_ followed by lower case letters and digits, at most 64 "
            "characters, because it is the end of the repository's name. Without --ref, one is made.",
            returncode=2,
        )
    return ref


def _operator(email: str) -> tuple[AbstractBaseUser, str | None]:
    """The user with this login name, and the password if the user is new. An existing user's permissions stay."""
    users = get_user_model()._default_manager
    password = secrets.token_urlsafe(15)
    user, created = users.get_or_create(
        username=email, defaults={"email": email, "is_staff": True, "is_superuser": True}
    )
    if created:
        user.set_password(password)
        user.save(update_fields=["password"])
        return user, password
    user = users.select_for_update().get(pk=user.pk)
    if not user.is_active:
        raise CommandError(f"The user {email} is not active, so this user's token would not work.", returncode=2)
    return user, None


def _project(name: str, ref: str | None) -> tuple[Project, bool]:
    """The project with this ref, or without a ref with this name, and whether it was created now."""
    if ref is not None and (found := Project.objects.filter(ref=ref).first()):
        projects.ensure_environments(found)
        return found, False
    named = list(Project.objects.filter(name=name)[:2])
    if ref is None and len(named) == 1:
        projects.ensure_environments(named[0])
        return named[0], False
    if ref is None and named:
        raise CommandError(f"Several projects are named “{name}”: choose one with --ref.", returncode=2)
    if named:
        raise CommandError(
            f"There is a project named “{name}” with another ref, {named[0].ref}. Leave --ref out to use that project, "
            "or give the new project another name.",
            returncode=2,
        )
    return projects.create_project(name=name, ref=ref), True


def _revoke(operator: AbstractBaseUser, project: Project) -> list[AccessKey]:
    """Revoke the keys of this operator and this project that this command made. Returns them."""
    ours = Q(kind=KeyKind.USER, user_id=operator.pk) | Q(kind=KeyKind.ENVIRONMENT, environment__project=project)
    return [key for key in _live().filter(ours).order_by("pk") if keys.revoke(key)]


def _token(operator: AbstractBaseUser) -> str | None:
    live = _live().filter(kind=KeyKind.USER, user_id=operator.pk)
    return None if live.exists() else keys.make_user_token(operator, KEY_NAME)[1]


def _environment_keys(project: Project) -> dict[str, str | None]:
    made: dict[str, str | None] = {}
    for environment in projects.ensure_environments(project):
        kept = _live().filter(kind=KeyKind.ENVIRONMENT, environment=environment).exists()
        made[environment.slug] = None if kept else keys.make_environment_key(environment, KEY_NAME)[1]
    return made


def _live() -> QuerySet[AccessKey]:
    return AccessKey.objects.filter(name=KEY_NAME, revoked_at=None)
