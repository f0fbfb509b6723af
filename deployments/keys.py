"""Access keys: made, shown once, recognised, withdrawn.

A key is random text of more than 120 bits, so a plain SHA-256 is enough to store it by and to find it by: there is
nothing to guess, and stretching would cost every request some 190 ms. The text itself exists only in the answer of
the function that made it; nothing here writes it to a row, a log line or an exception.

Knows no HTTP: `deployments.api.auth` turns headers into calls of these functions.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta

from django.contrib.auth.models import AbstractBaseUser
from django.db.models import Q
from django.utils import timezone

from deployments import images
from deployments.models import ENVIRONMENT_SLUGS, AccessKey, Environment, KeyKind

#: How long a key that one deploy was given works. A build takes tens of minutes; the key stands on docker's command
#: line as a build argument, so it should not outlive the day.
DEPLOY_KEY_LIFETIME = timedelta(hours=4)
#: `last_used_at` is for people; more often than this it would only be a write per request.
USE_IS_RECORDED_EVERY = timedelta(minutes=1)

_SHOWN = 6  # characters of a key after its kind: enough to tell keys apart, not to use one


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def make_user_token(user: AbstractBaseUser, name: str = "") -> tuple[AccessKey, str]:
    """A personal access token of this user. The second value is the only copy of its text."""
    return _make(images.new_user_token(), kind=KeyKind.USER, user_id=user.pk, name=name)


def make_environment_key(environment: Environment, name: str = "") -> tuple[AccessKey, str]:
    """A long-lived key of one environment. The second value is the only copy of its text."""
    return _make(_environment_text(environment), kind=KeyKind.ENVIRONMENT, environment_id=environment.pk, name=name)


def make_deploy_key(environment: Environment, user: AbstractBaseUser | None = None) -> tuple[AccessKey, str]:
    """A key for the deploys of one environment that expires after DEPLOY_KEY_LIFETIME, and dies with its user.

    Every deploy asks for one, so the expired ones of the environment are cleared away here.
    """
    now = timezone.now()
    AccessKey.objects.filter(environment=environment, kind=KeyKind.DEPLOY, expires_at__lte=now).delete()
    return _make(
        _environment_text(environment),
        kind=KeyKind.DEPLOY,
        environment_id=environment.pk,
        user_id=user.pk if user else None,
        name=f"deploys of {user.get_username()}"[:200] if user else "",
        expires_at=now + DEPLOY_KEY_LIFETIME,
    )


def authenticate(text: str) -> AccessKey | None:
    """The key that this text is, with its owner, in one query; None if it is unknown, expired or withdrawn.

    The same work for every text: which of the reasons it was must not be told apart by an answer's time.
    """
    try:
        key = AccessKey.objects.select_related("user", "environment__project").get(digest=digest(text))
    except AccessKey.DoesNotExist:
        return None
    if not key.is_live or (key.user is not None and not key.user.is_active):
        return None
    return key


def record_use(key: AccessKey, client: str, address: str) -> None:
    """Note who used the key and from where, at most once a minute (the condition holds between processes too)."""
    now = timezone.now()
    due = now - USE_IS_RECORDED_EVERY
    if key.last_used_at is not None and key.last_used_at > due:
        return
    AccessKey.objects.filter(Q(last_used_at__isnull=True) | Q(last_used_at__lte=due), pk=key.pk).update(
        last_used_at=now, last_used_by=f"{client or 'unknown client'} at {address or 'unknown address'}"[:200]
    )


def revoke(key: AccessKey) -> bool:
    """Withdraw the key, from the next request on. False if it was withdrawn already."""
    changed = AccessKey.objects.filter(pk=key.pk, revoked_at__isnull=True).update(revoked_at=timezone.now())
    return changed > 0


def rotate(key: AccessKey) -> tuple[AccessKey, str]:
    """Withdraw the key and make one with the same owner and name. For an overlap, make one first and revoke later."""
    revoke(key)
    if key.user is not None and key.kind == KeyKind.USER:
        return make_user_token(key.user, key.name)
    assert key.environment is not None  # the row's own constraint  # noqa: S101
    return make_environment_key(key.environment, key.name)


def _environment_text(environment: Environment) -> str:
    _, prefix = ENVIRONMENT_SLUGS[environment.slug]
    return images.new_environment_key(prefix)


def _make(text: str, **fields: object) -> tuple[AccessKey, str]:
    shown = text[: text.rindex("_") + 1 + _SHOWN]
    return AccessKey.objects.create(prefix=shown, digest=digest(text), **fields), text
