"""`manage.py keys`: list, create, rotate and revoke access keys, for a host without a browser.

A new key is printed once, alone on standard output; all other text goes to standard error, so that
`KEY=$(manage.py keys create …)` works. Each change is in the audit log, with the name of the shell's user.

Exit status: 0 done, 1 refused, 2 the key, user or environment does not exist.
"""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from django.db.models import Q, QuerySet

from deployments import clock
from deployments.access import keys
from deployments.access.audit import Trail
from deployments.checks import WITHOUT_PAGES
from deployments.errors import Refusal, refusal
from deployments.models import SLUG_ALIASES, AccessKey, Environment, KeyKind

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def span(text: str) -> timedelta:
    """Read a time span: “24h”, “90d”, “30m” or “0”. Raises ArgumentTypeError."""
    if text == "0":
        return timedelta(0)
    match = re.fullmatch(r"(\d{1,5})([mhd])", text, re.ASCII)
    if match is None:
        raise ArgumentTypeError("write a number and m, h or d, as in 24h")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


class Command(BaseCommand):
    requires_system_checks = WITHOUT_PAGES
    help = "List, create, rotate and revoke access keys. A new key is printed once, on standard output."

    def add_arguments(self, parser: ArgumentParser) -> None:
        commands = parser.add_subparsers(dest="what", required=True)
        shown = commands.add_parser("list", help="list the valid keys; with --all also revoked and expired keys")
        shown.add_argument("--project", metavar="REF", help="only the keys of this project")
        shown.add_argument("--all", action="store_true", help="also revoked and expired keys")
        shown.add_argument("--json", action="store_true", help="print one JSON array")
        make = commands.add_parser("create", help="make a key for an environment, or a personal token for a user")
        make.add_argument("--user", metavar="NAME", help="login name or e-mail address of the token's owner")
        make.add_argument("--project", metavar="REF", help="with --env: the environment of the key")
        make.add_argument("--env", metavar="SLUG", help="prod, staging, preview or dev")
        make.add_argument("--name", default="", help="where the key will be used, to tell keys apart")
        make.add_argument(
            "--scope",
            action="append",
            choices=sorted({*keys.SCOPES, keys.ADMIN}),
            help=f"limit an environment key; may be repeated. With --user: {keys.ADMIN}, for the management API",
        )
        make.add_argument("--expires", type=span, metavar="SPAN", help="the key expires after this time, such as 90d")
        rotate = commands.add_parser("rotate", help="make a new key and let the old key expire")
        rotate.add_argument("key", metavar="KEY", help="the beginning of the key, as list prints it")
        rotate.add_argument(
            "--grace",
            type=span,
            default=timedelta(hours=24),
            metavar="SPAN",
            help="the old key works for this time (default 24h; 0: revoke it now)",
        )
        revoke = commands.add_parser("revoke", help="revoke a key; it fails from the next request on")
        revoke.add_argument("key", metavar="KEY", help="the beginning of the key, as list prints it")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            getattr(self, f"_{options['what']}")(options)
        except Refusal as refused:
            raise CommandError(str(refused)) from None

    def _list(self, options: dict[str, Any]) -> None:
        rows = _rows().order_by("kind", "-created_at")
        if options["project"]:
            rows = rows.filter(environment__project__ref=options["project"])
        shown = [row for row in rows if options["all"] or row.is_live]
        if options["json"]:
            self.stdout.write(json.dumps([_as_json(row) for row in shown]))
            return
        for row in shown:
            state = "" if row.is_live else "  REVOKED" if row.revoked_at else "  EXPIRED"
            used = f"{row.last_used_at:%Y-%m-%d} by {row.last_used_by}" if row.last_used_at else "never used"
            ends = f", expires {row.expires_at:%Y-%m-%d %H:%M} UTC" if row.expires_at and row.is_live else ""
            self.stdout.write(f"{row.prefix:<18} {_owner(row)}  {row.name or '–'}  {used}{ends}{state}")
        if not shown:
            self.stderr.write("No keys. Make one: manage.py keys create --project REF --env prod")

    def _create(self, options: dict[str, Any]) -> None:
        if bool(options["user"]) == bool(options["project"] or options["env"]):
            raise CommandError("Give --user, or --project and --env.", returncode=2)
        scopes = options["scope"] or []
        if options["user"] and scopes not in ([], [keys.ADMIN]):
            raise CommandError(f"A personal token has the permissions of its user: its only scope is {keys.ADMIN}.")
        if not options["user"] and keys.ADMIN in scopes:
            raise CommandError(f"The scope {keys.ADMIN} is for a token of a user: --user NAME --scope {keys.ADMIN}.")
        expires = clock.now() + options["expires"] if options["expires"] else None
        with Trail.of_command("keys").change("make.key") as line:
            if options["user"]:
                user, management = _user(options["user"]), bool(scopes)
                key, text = keys.make_user_token(user, options["name"], for_management=management, expires_at=expires)
            else:
                where = _environment(options["project"], options["env"])
                key, text = keys.make_environment_key(where, options["name"], scopes=scopes, expires_at=expires)
            line.target, line.after = key, {"kind": key.kind, "name": key.name, "scopes": key.scopes}
        self._hand_out(key, text)

    def _rotate(self, options: dict[str, Any]) -> None:
        old = _find(options["key"])
        with Trail.of_command("keys").change("rotate.key", old) as line:
            key, text = keys.rotate(old, options["grace"])
            line.after = {"replaced_by": str(key), "grace": str(options["grace"])}
        left = f"works for {options['grace']} more" if options["grace"] else "no longer works"
        self.stderr.write(f"{old} {left}.")
        self._hand_out(key, text)

    def _revoke(self, options: dict[str, Any]) -> None:
        key = _find(options["key"])
        with Trail.of_command("keys").change("revoke.key", key):
            if not keys.revoke(key):
                raise refusal("key_revoked", key=key)
        self.stderr.write(f"{key} no longer works.")

    def _hand_out(self, key: AccessKey, text: str) -> None:
        self.stderr.write(f"{key.get_kind_display()} of {_owner(key)}, shown only once:")
        self.stdout.write(text)


def _rows() -> QuerySet[AccessKey]:
    return AccessKey.objects.select_related("environment__project", "user").defer("digest")


def _find(beginning: str) -> AccessKey:
    """The key with this beginning. A whole key is accepted too, although a command line is no place for a secret."""
    found = list(_rows().filter(Q(prefix=beginning.rstrip("…")) | Q(digest=keys.digest(beginning)))[:2])
    if not found:
        raise CommandError(f"No key begins with {beginning[:18]}; see manage.py keys list.", returncode=2)
    if len(found) > 1:
        raise CommandError(f"Several keys begin with {beginning[:18]}: use the console.", returncode=2)
    return found[0]


def _user(name: str) -> Any:
    users = get_user_model()._default_manager.filter(Q(username=name) | Q(email__iexact=name), is_active=True)[:2]
    if len(users) != 1:
        raise CommandError(f"Not exactly one active user has the name or e-mail address {name}.", returncode=2)
    return users[0]


def _environment(ref: str | None, slug: str | None) -> Environment:
    if not ref or not slug:
        raise CommandError("Give both --project and --env.", returncode=2)
    found = Environment.objects.select_related("project").filter(
        project__ref=ref, slug=SLUG_ALIASES.get(slug, slug), parent=None
    )
    environment = found.first()
    if environment is None:
        raise CommandError(f"There is no environment {slug} in a project {ref}.", returncode=2)
    return environment


def _owner(key: AccessKey) -> str:
    if key.environment is not None and key.kind != KeyKind.USER:
        return f"{key.environment.project.ref} {key.environment}"
    return str(key.user)


def _as_json(key: AccessKey) -> dict[str, Any]:
    return {
        "key": key.prefix,
        "kind": key.kind,
        "owner": _owner(key),
        "name": key.name,
        "scopes": key.scopes,
        "live": key.is_live,
        "created_at": key.created_at.isoformat(),
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
        "last_used_at": key.last_used_at.isoformat() if key.last_used_at else None,
        "last_used_by": key.last_used_by,
    }
