"""Access keys: make, find, rotate and revoke them.

A key is random text of more than 120 bits, so a plain SHA-256 is enough to store a key and to find it: nobody can
guess 120 bits, and a slow password hash would cost each request some 190 ms. Only the function that makes a key returns
its text; this module writes the text to no row, log line or exception.

This module knows no HTTP: `deployments.api.auth` reads the headers. The database's clock decides whether a key has
expired.
"""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import Count, Exists, F, OuterRef, Q
from django.db.models.functions import Now

from deployments import clock, images
from deployments.access.audit import Trail
from deployments.compiled_queries import Compiled
from deployments.config import Configuration
from deployments.errors import refusal
from deployments.models import (
    ENVIRONMENT_SLUGS,
    AccessKey,
    Deployment,
    Environment,
    Identity,
    KeyClient,
    KeyKind,
    LoginRequest,
    TrustPolicy,
)

#: The scopes of an environment key. `deploy` includes `read`, because a deploy reads its own deployment. `pull` stands
#: alone: a cluster's key does nothing else.
DEPLOY, READ, CREDENTIALS, PULL = "deploy", "read", "credentials", "pull"
SCOPES = {
    DEPLOY: "Deploy, promote, cancel, and set environment variables",
    READ: "Look at deployments and at environment variables that are not secret",
    CREDENTIALS: "Get a log-in for the registry, to push",
    PULL: "Get a log-in for the registry that only pulls, for a cluster outside AWS",
}
#: The scope of a management token: a personal token that opens the management API and nothing that deploys. A token
#: without scopes does not have it (D-management-token).
ADMIN = "admin"

#: The scope of a key that was exchanged for a token (`access.token_exchange`): one deployment, and nothing else. A key
#: with it is refused by versions that do not know it.
ONE_DEPLOYMENT = "one_deployment"
#: How long such a key may wait for its deployment, and read the result of the ended deployment.
BEGIN_WITHIN = timedelta(minutes=10)
READ_RESULT_FOR = timedelta(minutes=10)

#: The lifetime of a deploy key. A build takes tens of minutes. The key is a build argument on docker's command line,
#: where other users of the machine can read it, so it expires within hours.
DEPLOY_KEY_LIFETIME = timedelta(hours=4)
#: The times of uses are for people, who need no finer time; without this limit each request would write to a row.
USE_IS_RECORDED_EVERY = timedelta(minutes=1)
CLIENTS_KEPT_FOR = timedelta(days=90)
MAX_CLIENTS_KEPT = 100  # of one key: its address and name are what a client says they are
_MAX_RECORDED = 10_000
#: (digest of a key, client, when the key was replaced) → when this process recorded this use, on its monotonic clock.
_recorded: OrderedDict[tuple[str, str, datetime | None], float] = OrderedDict()

_SHOWN_CHARACTERS = 6  # of a key, after its kind: enough to tell keys apart, too few to use a key


def live() -> Q:
    """The condition for keys that work: not ended, and not `unseen`."""
    return not_ended() & ~unseen()


def not_ended() -> Q:
    """The condition for keys that are neither revoked nor expired by the database's clock."""
    return Q(revoked_at__isnull=True) & (Q(expires_at__isnull=True) | Q(expires_at__gt=Now()))


def unseen() -> Q:
    """The condition for keys of a person with single sign-on who has not used it for SSO_TOKEN_DAYS.

    Only the OpenID provider knows that a person has left, and it says so at a log-in.
    """
    configuration: Configuration = settings.CONFIGURATION
    linked = Identity.objects.filter(user=OuterRef("user"))
    lately = linked.filter(seen_at__gt=Now() - configuration.sso_token_lifetime)
    return Q(Exists(linked)) & ~Q(Exists(lately))


def digest(text: str) -> str:
    """SHA-256 in hexadecimal: the stored form of keys and codes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def make_user_token(
    user: AbstractBaseUser, name: str = "", *, for_management: bool = False, expires_at: datetime | None = None
) -> tuple[AccessKey, str]:
    """A personal access token of this user: for the CLI, or for the management API only.

    The second value is the only copy of its text.
    """
    return _make(
        images.new_user_token(),
        kind=KeyKind.USER,
        user_id=user.pk,
        name=name,
        scopes=[ADMIN] if for_management else [],
        expires_at=expires_at,
    )


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


def ensure_environment_key(
    *, environment: Environment, name: str, scopes: Iterable[str], expires_at: datetime | None, trail: Trail
) -> tuple[AccessKey, str]:
    """The environment's key with this name that works and was not replaced; made if there is none.

    The second value is the text of a new key, and empty for a key that was there. Of two requests at once, one makes
    the key. Raises ValueError for an unknown scope, Refusal if the key with this name has other scopes or another end.
    """
    limits = sorted(set(scopes))
    with trail.change("make.key") as line:
        Environment.objects.select_for_update(no_key=True).get(pk=environment.pk)
        same = AccessKey.objects.filter(
            live(), environment=environment, kind=KeyKind.ENVIRONMENT, name=name, replaced_at=None
        )
        found = same.order_by("-pk").first()
        if found is None:
            line.target, text = make_environment_key(environment, name, scopes=limits, expires_at=expires_at)
            owner = f"{environment.project} / {environment}"
            line.after = {"kind": line.target.kind, "owner": owner, "scopes": limits, "expires": expires_at}
            return line.target, text
        line.target = found
        wanted = {"scopes": (found.scopes, limits), "expiresAt": (found.expires_at, expires_at)}
        if differing := [field for field, (has, asked) in wanted.items() if has != asked]:
            raise refusal(
                "exists_with_others", what=f"The key “{name}” of {environment}", others=" and ".join(differing)
            )
        line.nothing_changed()
    return found, ""


def make_deploy_key(environment: Environment, token: AccessKey | None = None) -> tuple[AccessKey, str]:
    """A key for one deploy to this environment. The second value is the only copy of its text.

    `token` is the personal access token of the request. The key expires after DEPLOY_KEY_LIFETIME, or when the token
    expires if that is earlier. It stops working when its user is deactivated or one of the user's tokens is revoked.

    Each deploy gets such a key, so this function deletes the environment's expired deploy keys. Raises Refusal if the
    token was revoked during the request.
    """
    now = clock.now()
    end = now + DEPLOY_KEY_LIFETIME
    AccessKey.objects.filter(environment=environment, kind=KeyKind.DEPLOY, expires_at__lte=Now()).delete()
    user = token.user if token is not None else None
    with transaction.atomic():
        if token is not None:
            # `revoke` writes this row first. Either it is earlier, and the token is not live here; or it waits for
            # this transaction, and then revokes the new key too.
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


def make_one_deployment_key(policy: TrustPolicy, *, branch: str, name: str) -> tuple[AccessKey, str]:
    """A key that may begin one deployment within BEGIN_WITHIN, then do what that deployment needs until it ends.

    `branch`: the only branch that it may name, for preview. The second value is the only copy of its text.
    """
    environment = policy.environment
    AccessKey.objects.filter(environment=environment, kind=KeyKind.DEPLOY, expires_at__lte=Now()).delete()
    now = clock.now()
    return _make(
        _environment_text(environment),
        kind=KeyKind.DEPLOY,
        environment_id=environment.pk,
        trust_policy=policy,
        branch=branch,
        name=name[:200],
        scopes=[ONE_DEPLOYMENT],
        created_at=now,
        expires_at=now + BEGIN_WITHIN,
    )


def is_for_one_deployment(key: AccessKey) -> bool:
    """Whether the key was exchanged for a token (`make_one_deployment_key`)."""
    return ONE_DEPLOYMENT in key.scopes


def begin_deployment(key: AccessKey, deployment: Deployment) -> None:
    """Use up a key for one deployment. Needs the transaction that makes the deployment.

    From here on the key lives as long as a deploy key at most; the API compares the end of its deployment at each
    request. Raises Refusal (one_deployment_only) if the key has begun a deployment, has expired or was revoked.
    """
    unused = AccessKey.objects.filter(not_ended(), pk=key.pk, deployment=None)
    if not unused.update(deployment=deployment, expires_at=Now() + DEPLOY_KEY_LIFETIME):
        raise refusal("one_deployment_only", reason="it has begun a deployment before, or no longer works")


def has_begun(key: AccessKey, deployment: Deployment) -> bool:
    """Whether a key for one deployment has begun this one."""
    return AccessKey.objects.filter(pk=key.pk, deployment=deployment).exists()


@functools.cache
def _live_key(sso_token_lifetime: timedelta) -> Compiled[AccessKey]:
    """The key with a digest. `sso_token_lifetime`: the value in `unseen` now, which is a constant of the SQL."""
    known = AccessKey.objects.select_related("user", "environment__project").order_by().annotate(db_now=Now())
    return Compiled(lambda digest: known.filter(live(), digest=digest), str)


def authenticate(text: str) -> AccessKey | None:
    """The key with this text, with its owner, in one query; None if the key is unknown, expired or revoked.

    The work is the same for each text, so that the time of an answer does not show which of the reasons it was.
    """
    lifetime = settings.CONFIGURATION.sso_token_lifetime
    key = _live_key(lifetime).first(digest(text))
    return key if key is not None and (key.user is None or key.user.is_active) else None


def record_use(key: AccessKey, client: str, address: str) -> None:
    """Store who used the key: on its row at most once a minute, and each client's own last use.

    The first use by each client after a rotation is always stored, so that a page can say whether the replaced key is
    still in use.
    """
    read_at: datetime | None = getattr(key, "db_now", None)  # `authenticate` sets it
    user = f"{client or 'unknown client'} at {address or 'unknown address'}"[:200]
    last = key.last_used_at
    is_new = last is None or (key.replaced_at is not None and last <= key.replaced_at)
    is_due = is_new or read_at is None or last is None or last <= read_at - USE_IS_RECORDED_EVERY
    if not is_due and key.last_used_by == user:
        return
    if is_due:
        due = Q(last_used_at__isnull=True) | Q(last_used_at__lte=Now() - USE_IS_RECORDED_EVERY)
        due |= Q(last_used_at__lte=F("replaced_at"))
        AccessKey.objects.filter(due, pk=key.pk).update(last_used_at=Now(), last_used_by=user)
    if _is_first_in_a_minute((key.digest, user, key.replaced_at)):
        KeyClient.objects.bulk_create(
            [KeyClient(key=key, client=user, last_seen_at=Now())],
            update_conflicts=True,
            unique_fields=["key", "client"],
            update_fields=["last_seen_at"],
        )


def _is_first_in_a_minute(use: tuple[str, str, datetime | None]) -> bool:
    """Whether this process has not recorded this use in the last minute."""
    now = time.monotonic()
    if now - _recorded.get(use, -math.inf) < USE_IS_RECORDED_EVERY.total_seconds():
        return False
    _recorded[use] = now
    _recorded.move_to_end(use)
    while len(_recorded) > _MAX_RECORDED:
        _recorded.popitem(last=False)
    return True


def forget_clients() -> None:
    """Delete clients that were not seen for CLIENTS_KEPT_FOR or whose key is gone, and of each key all but the
    MAX_CLIENTS_KEPT newest.
    """
    gone = ~Exists(AccessKey.objects.filter(pk=OuterRef("key_id")))
    KeyClient.objects.filter(Q(last_seen_at__lt=Now() - CLIENTS_KEPT_FOR) | gone).delete()
    crowded = (
        KeyClient.objects.order_by().values("key").annotate(clients=Count("pk")).filter(clients__gt=MAX_CLIENTS_KEPT)
    )
    for row in crowded:
        surplus = KeyClient.objects.filter(key=row["key"]).values_list("pk", flat=True)[MAX_CLIENTS_KEPT:]
        KeyClient.objects.filter(pk__in=list(surplus[:5000])).delete()


def allows(key: AccessKey, scope: str) -> bool:
    """Whether the key has this scope. A key without scopes has each scope of SCOPES, and not ADMIN.

    It has `pull` too, also if it was made before this scope existed: it can begin a deployment, whose log-in already
    pulls from and pushes to the same repository. A key for one deployment has each scope that a deploy needs;
    `api.auth` decides by route what it is good for.
    """
    if is_for_one_deployment(key):
        return scope in (DEPLOY, READ, CREDENTIALS)
    if not key.scopes:
        return scope != ADMIN
    return scope in key.scopes or (scope == READ and DEPLOY in key.scopes)


def owner_has(key: AccessKey, right: str) -> bool:
    """Whether the user of a management token has this right now, and the staff status: what the console asks for.

    `right` is the codename of a permission of this app, such as `add_project`.
    """
    user = key.user
    return user is not None and user.is_active and user.is_staff and user.has_perm(f"deployments.{right}")


def owner_may(key: AccessKey, scope: str) -> bool:
    """Whether the user of a personal token or of its deploy keys may do now what the scope is for (D-token-worth).

    It is what the console asks for: staff status, and the permission to make access keys; for READ, the permission to
    see projects is enough. True for a key without a user.
    """
    user = key.user
    if user is None:
        return True
    enough = ("add_accesskey", "view_project") if scope == READ else ("add_accesskey",)
    return user.is_active and user.is_staff and any(user.has_perm(f"deployments.{name}") for name in enough)


def revoke_all(user: AbstractBaseUser) -> list[AccessKey]:
    """Revoke each key of the user, from the next request on. Returns the keys that were not revoked before.

    Logins of a CLI that the user has approved end, so that none is collected afterwards (`cli_login.collect`).
    """
    with transaction.atomic():
        LoginRequest.objects.filter(user_id=user.pk, collected_at=None).update(expires_at=Now())
        found = list(AccessKey.objects.select_for_update().filter(user_id=user.pk, revoked_at__isnull=True))
        AccessKey.objects.filter(pk__in=[key.pk for key in found]).update(revoked_at=Now())
    return found


def revoke(key: AccessKey) -> bool:
    """Revoke the key, from the next request on. False if the key was revoked before.

    Revoking a personal access token also revokes all deploy keys of its user, because it is not recorded which deploy
    key was made with which token. A running deploy of this user with another token has to be started again. A
    management token makes no deploy keys.
    """
    with transaction.atomic():
        changed = AccessKey.objects.filter(pk=key.pk, revoked_at__isnull=True).update(revoked_at=Now())
        if changed and key.kind == KeyKind.USER and allows(key, DEPLOY):
            deploys = AccessKey.objects.filter(kind=KeyKind.DEPLOY, user=key.user, revoked_at__isnull=True)
            deploys.update(revoked_at=Now())  # D-token-revocation
    return changed > 0


def rotate(key: AccessKey, grace: timedelta = timedelta(0)) -> tuple[AccessKey, str]:
    """A new key with the owner, name, scopes and lifetime of the old key, which works for `grace` longer.

    The second value is the only copy of the new key's text. Both changes are one transaction. If two requests rotate
    one key at once, the second request is refused. Raises Refusal for a key that does not work any more or has been
    rotated before, and for a deploy key.
    """
    if key.kind == KeyKind.DEPLOY:
        raise refusal("key_not_rotatable", key=key, reason="it is a deploy key, which expires by itself")
    with transaction.atomic():
        # Locks the row (on PostgreSQL) until the new key is committed.
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
        works_until = min(now + grace, old.expires_at or now + grace) if grace > timedelta(0) else old.expires_at
        AccessKey.objects.filter(pk=old.pk).update(replaced_at=Now(), expires_at=works_until)
        if grace <= timedelta(0):
            revoke(old)
    return new, text


def _environment_text(environment: Environment) -> str:
    _, prefix = ENVIRONMENT_SLUGS[environment.slug]
    return images.new_environment_key(prefix)


def _make(text: str, **fields: object) -> tuple[AccessKey, str]:
    shown = text[: text.rindex("_") + 1 + _SHOWN_CHARACTERS]
    fields.setdefault("created_at", clock.now())
    return AccessKey.objects.create(prefix=shown, digest=digest(text), **fields), text
