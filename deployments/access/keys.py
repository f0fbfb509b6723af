"""Access keys: made, shown once, recognised, withdrawn.

A key is random text of more than 120 bits, so a plain SHA-256 is enough to store it by and to find it by: there is
nothing to guess, and stretching would cost every request some 190 ms. The text itself exists only in the answer of
the function that made it; nothing here writes it to a row, a log line or an exception.

Knows no HTTP: `deployments.api.auth` turns headers into calls of these functions. Whether a key has expired is decided
by the database's clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from deployments import clock, images
from deployments.errors import refusal
from deployments.models import ENVIRONMENT_SLUGS, AccessKey, Environment, KeyKind

#: What a key of an environment may be limited to. `deploy` includes `read`: a deploy looks at what it did.
DEPLOY, READ, CREDENTIALS = "deploy", "read", "credentials"
SCOPES = {
    DEPLOY: "Deploy, promote, cancel, and set environment variables",
    READ: "Look at deployments and at environment variables that are not secret",
    CREDENTIALS: "Get a log-in for the registry",
}

#: How long a key that one deploy was given works. A build takes tens of minutes; the key stands on docker's command
#: line as a build argument, so it should not outlive the day.
DEPLOY_KEY_LIFETIME = timedelta(hours=4)
#: `last_used_at` is for people; more often than this it would only be a write per request.
USE_IS_RECORDED_EVERY = timedelta(minutes=1)

_SHOWN = 6  # characters of a key after its kind: enough to tell keys apart, not to use one


def live() -> Q:
    """Keys that work: neither revoked nor expired, by the database's clock."""
    return Q(revoked_at__isnull=True) & (Q(expires_at__isnull=True) | Q(expires_at__gt=Now()))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def make_user_token(
    user: AbstractBaseUser, name: str = "", *, expires_at: datetime | None = None
) -> tuple[AccessKey, str]:
    """A personal access token of this user. The second value is the only copy of its text."""
    return _make(images.new_user_token(), kind=KeyKind.USER, user_id=user.pk, name=name, expires_at=expires_at)


def make_environment_key(
    environment: Environment, name: str = "", *, scopes: Iterable[str] = (), expires_at: datetime | None = None
) -> tuple[AccessKey, str]:
    """A long-lived key of one environment, limited to some of SCOPES or (none given) good for all of them.

    The second value is the only copy of its text. Raises ValueError for an unknown scope.
    """
    limits = sorted(set(scopes))
    if unknown := set(limits) - SCOPES.keys():
        raise ValueError(f"There is no scope {sorted(unknown)[0]}; there are {', '.join(SCOPES)}.")
    return _make(
        _environment_text(environment),
        kind=KeyKind.ENVIRONMENT,
        environment_id=environment.pk,
        name=name,
        scopes=limits,
        expires_at=expires_at,
    )


def make_deploy_key(environment: Environment, token: AccessKey | None = None) -> tuple[AccessKey, str]:
    """A key for the deploys of one environment that expires after DEPLOY_KEY_LIFETIME, and not after the personal
    token that it was asked for with; it dies with that token's user, and when a token of theirs is revoked.

    Every deploy asks for one, so the expired ones of the environment are cleared away here. Raises Refusal when the
    token has been revoked in this moment.
    """
    now = clock.now()
    end = now + DEPLOY_KEY_LIFETIME
    AccessKey.objects.filter(environment=environment, kind=KeyKind.DEPLOY, expires_at__lte=Now()).delete()
    user = token.user if token is not None else None
    with transaction.atomic():
        if token is not None:
            # `revoke` writes this row first, so it comes before us, and we see it, or after us, and sees our key.
            token = AccessKey.objects.select_for_update().filter(live(), pk=token.pk).first()
            if token is None:
                raise refusal("key_revoked", key="This access key")
            end = min(end, token.expires_at or end)
        return _make(
            _environment_text(environment),
            kind=KeyKind.DEPLOY,
            environment_id=environment.pk,
            user_id=user.pk if user else None,
            name=f"deploys of {user.get_username()}"[:200] if user else "",
            created_at=now,
            expires_at=end,
        )


def authenticate(text: str) -> AccessKey | None:
    """The key that this text is, with its owner, in one query; None if it is unknown, expired or withdrawn.

    The same work for every text: which of the reasons it was must not be told apart by an answer's time.
    """
    known = AccessKey.objects.select_related("user", "environment__project").annotate(db_now=Now())
    key = known.filter(live(), digest=digest(text)).first()
    return key if key is not None and (key.user is None or key.user.is_active) else None


def record_use(key: AccessKey, client: str, address: str) -> None:
    """Note who used the key and from where, at most once a minute (the condition holds between processes too)."""
    read_at: datetime | None = getattr(key, "db_now", None)  # of a key from `authenticate`
    if read_at is not None and key.last_used_at is not None and key.last_used_at > read_at - USE_IS_RECORDED_EVERY:
        return
    due = Q(last_used_at__isnull=True) | Q(last_used_at__lte=Now() - USE_IS_RECORDED_EVERY)
    AccessKey.objects.filter(due, pk=key.pk).update(
        last_used_at=Now(), last_used_by=f"{client or 'unknown client'} at {address or 'unknown address'}"[:200]
    )


def allows(key: AccessKey, scope: str) -> bool:
    """Whether the key may do this. One without scopes may do everything that its kind may."""
    return not key.scopes or scope in key.scopes or (scope == READ and DEPLOY in key.scopes)


def revoke(key: AccessKey) -> bool:
    """Withdraw the key, from the next request on. False if it was withdrawn already.

    With a personal token go the deploy keys of its user: one of them may have been made with it, and which one is
    not recorded. A deploy that is under way with another token of theirs has to be started again.
    """
    with transaction.atomic():
        changed = AccessKey.objects.filter(pk=key.pk, revoked_at__isnull=True).update(revoked_at=Now())
        if changed and key.kind == KeyKind.USER:
            deploys = AccessKey.objects.filter(kind=KeyKind.DEPLOY, user=key.user, revoked_at__isnull=True)
            deploys.update(revoked_at=Now())  # D-token-revocation
    return changed > 0


def rotate(key: AccessKey, grace: timedelta = timedelta(0)) -> tuple[AccessKey, str]:
    """A key in this one's place: same owner, name, scopes and length of life. The old one works for `grace` more.

    Both or neither; of two who rotate one key at once, the second is refused. Raises Refusal for a key that no longer
    works or has been rotated already, and for a deploy key.
    """
    if key.kind == KeyKind.DEPLOY:
        raise refusal("key_not_rotatable", key=key, reason="it is a deploy key, which expires by itself")
    with transaction.atomic():
        # Locks the row, where the database has locks, until the new key is there.
        old = AccessKey.objects.select_for_update(of=("self",)).filter(live(), pk=key.pk).first()
        if old is None or old.replaced_by.exists():
            raise refusal("key_not_rotatable", key=key, reason="it has been rotated already, or no longer works")
        now = clock.now()
        life = old.expires_at - old.created_at if old.expires_at is not None else None
        text = images.new_user_token() if old.environment is None else _environment_text(old.environment)
        new, text = _make(
            text,
            kind=old.kind,
            user_id=old.user_id,
            environment_id=old.environment_id,
            name=old.name,
            scopes=old.scopes,
            created_at=now,
            expires_at=now + life if life is not None else None,
            replaces=old,
        )
        if grace > timedelta(0):
            AccessKey.objects.filter(pk=old.pk).update(expires_at=min(now + grace, old.expires_at or now + grace))
        else:
            revoke(old)
    return new, text


def _environment_text(environment: Environment) -> str:
    _, prefix = ENVIRONMENT_SLUGS[environment.slug]
    return images.new_environment_key(prefix)


def _make(text: str, **fields: object) -> tuple[AccessKey, str]:
    shown = text[: text.rindex("_") + 1 + _SHOWN]
    fields.setdefault("created_at", clock.now())
    return AccessKey.objects.create(prefix=shown, digest=digest(text), **fields), text
