"""Are SECRET_KEY and METRICS_KEY hard to guess? A new installation does not start with a weak key.

An installation that has run before is only warned, by the system checks W010 and W011 (in the doctor, on the set-up
page and in the log), because a start that is refused would stop its deploys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.core.management.base import SystemCheckError

from deployments.models import ConfigurationGeneration, Project

MIN_KEY_CHARACTERS = 32  # as for ENCRYPTION_KEY
MIN_DIFFERENT_CHARACTERS = 5  # as Django's check security.W009
_MAKE = "python -c 'import secrets; print(secrets.token_urlsafe(50))'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weakness:
    """A key that can be guessed: the id of its check, and sentences without the key."""

    check: str
    says: str
    then: str


def weaknesses(settings: Any) -> Iterator[Weakness]:
    """The weak keys of Django's settings."""
    if _is_weak(settings.SECRET_KEY):
        yield Weakness(
            check="W010",
            says=f"SECRET_KEY: shorter than {MIN_KEY_CHARACTERS} characters, or easy to guess. Who guesses it can log "
            "in as anybody and decrypt stored secrets.",
            then=f"Make two new keys (each: {_MAKE}), for SECRET_KEY and for ENCRYPTION_KEY. Put the old key into "
            "SECRET_KEY_FALLBACKS, where it still decrypts. Restart every process, run manage.py reencrypt, remove the "
            "old key, and restart every process again. docs/keys.md has each step.",
        )
    if settings.METRICS_KEY and _is_weak(settings.METRICS_KEY):
        yield Weakness(
            check="W011",
            says=f"METRICS_KEY: shorter than {MIN_KEY_CHARACTERS} characters, or easy to guess. Who guesses it can "
            "read /metrics and /status.json.",
            then=f"Make a new key ({_MAKE}), set it here and in the monitoring, and restart the web processes.",
        )


def refuse_weak_keys(settings: Any) -> None:
    """Raise SystemCheckError if a key is weak and this installation has not run before. Queries the database only then.

    Called at the start of every process that serves, and by `manage.py bootstrap`, which makes the first project.
    """
    found = list(weaknesses(settings))
    if found and not ConfigurationGeneration.objects.exists() and not Project.objects.exists():
        lines = (
            f"{each.says} A new installation does not start with such a key. Make another: {_MAKE}." for each in found
        )
        raise SystemCheckError("\n".join(lines))


def _is_weak(key: str) -> bool:
    return (
        len(key) < MIN_KEY_CHARACTERS or len(set(key)) < MIN_DIFFERENT_CHARACTERS or key.startswith("django-insecure-")
    )
