"""`trigger.dev login`: a person lets a CLI act for them, in the browser, without carrying a key there.

A CLI begins a login and gets a code to ask with, and a link to show. Whoever opens the link, signed in, approves it
or not; then the CLI fetches a personal access token, once. The link does not hold the code, so who sees the link
cannot fetch the token.

Anybody can begin a login and send the link to somebody else. A CLI of version 4.8 or newer is therefore *bound*: it
proves with a verifier (PKCE, S256) that it is the one that began, and with an approval code, which only the browser
that approved is given, that the two belong together. The code comes back by itself to a port on the same machine
(“callback”), or is carried over by the person (“paste”). Older CLIs just ask until it is approved; for these the page
that approves says what is asking, and from where, and that is all the protection there is.

The table is bounded: a login lives ten minutes by the database's clock, dead ones are cleared away when the next one
begins.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.core import signing
from django.db import transaction
from django.db.models.functions import Now

from deployments import clock
from deployments.access import keys
from deployments.errors import NotFound, refusal
from deployments.models import AccessKey, LoginRequest

#: Old CLIs ask for one to five minutes, new ones keep a login for ten.
LOGIN_LIFETIME = timedelta(minutes=10)
#: Logins that may be waiting at one time, in the whole installation.
MAX_PENDING_LOGINS = 1_000
KEY_NAME = "trigger.dev login"

_SALT = "deployments.access.cli_login"
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")  # base64url of a SHA-256
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # none that is taken for another; 12 of 32 are 60 bits for ten minutes
_GONE = "This login is unknown, has expired or was declined. Run trigger.dev login again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What the CLI is told. `approval`: how the approval code comes back; None: it has none, and just asks."""

    code: str = field(repr=False)
    handle: str  # for the link
    approval: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """A login that waits for somebody's decision, and what was seen of whoever began it."""

    login: LoginRequest
    client: str
    address: str

    @property
    def is_bound(self) -> bool:
        return bool(self.login.challenge)

    @property
    def is_waiting(self) -> bool:
        return self.login.approved_at is None  # one that has expired is not found


def begin(*, challenge: str = "", callback_port: int | None = None, client: str = "", address: str = "") -> Begun:
    """A new login. `challenge`: of PKCE; empty for a CLI that knows none.

    Raises Refusal for a challenge that is none, and (it heals) while too many logins are waiting.
    """
    if challenge and not _CHALLENGE.fullmatch(challenge):
        raise refusal("challenge_malformed")
    now = clock.now()
    LoginRequest.objects.filter(expires_at__lt=now - LOGIN_LIFETIME).delete()
    if LoginRequest.objects.filter(expires_at__gt=now, approved_at=None).count() >= MAX_PENDING_LOGINS:
        raise refusal("too_many_logins")
    code = secrets.token_urlsafe(32)
    login = LoginRequest.objects.create(
        code_digest=keys.digest(code),
        challenge=challenge,
        callback_port=callback_port if challenge else None,
        created_at=now,
        expires_at=now + LOGIN_LIFETIME,
    )
    # What was seen travels in the link, signed, and is shown to whoever opens it.
    handle = signing.dumps({"login": login.pk, "client": client[:100], "address": address[:64]}, salt=_SALT)
    approval = None if not challenge else "callback" if login.callback_port else "paste"
    return Begun(code=code, handle=handle, approval=approval)


def find(*, handle: str) -> Asking | None:
    """The login of a link; None for an invalid link, or when its login has expired or was declined."""
    try:
        # Its own age would compare the clocks of two hosts.
        said: dict[str, Any] = signing.loads(handle, salt=_SALT)
    except signing.BadSignature:
        return None
    login = LoginRequest.objects.select_related("user").filter(pk=said["login"], expires_at__gt=Now()).first()
    return Asking(login=login, client=said["client"], address=said["address"]) if login is not None else None


def approve(*, login: LoginRequest, user: AbstractBaseUser) -> str:
    """Let the CLI act for this user. Returns the approval code, its only copy; empty if the CLI is not bound.

    Raises NotFound when it has expired, or was decided on already.
    """
    code = _approval_code() if login.challenge else ""
    decided = LoginRequest.objects.filter(pk=login.pk, approved_at=None, expires_at__gt=Now()).update(
        user_id=user.pk, approved_at=Now(), approval_digest=_approval_digest(code) if code else ""
    )
    if not decided:
        raise NotFound(_GONE)
    return code


def decline(*, login: LoginRequest) -> bool:
    """End a login that waits; False when there was nothing to end."""
    waiting = LoginRequest.objects.filter(pk=login.pk, approved_at=None, expires_at__gt=Now())
    return bool(waiting.update(expires_at=Now()))


def collect(*, code: str, verifier: str = "", approval_code: str = "") -> tuple[AccessKey, str] | None:
    """The token of an approved login, once; None while nobody has decided.

    Raises NotFound when there is nothing to wait for, and Refusal with the code `approval_code_wrong`, after which
    another try may be right, or `verifier_wrong`.
    """
    logins = LoginRequest.objects.select_related("user")
    login = logins.filter(code_digest=keys.digest(code), expires_at__gt=Now()).first()
    if login is None:
        raise NotFound(_GONE)
    if login.challenge and not hmac.compare_digest(_challenge(verifier), login.challenge):
        raise refusal("verifier_wrong")
    if login.approved_at is None:
        return None
    if login.user is None or not login.user.is_active:
        raise NotFound(_GONE)
    if login.challenge and not hmac.compare_digest(_approval_digest(approval_code), login.approval_digest):
        raise refusal("approval_code_wrong")
    with transaction.atomic():
        if not LoginRequest.objects.filter(pk=login.pk, collected_at=None).update(collected_at=Now()):
            raise NotFound(_GONE)  # somebody was given it already
        return keys.make_user_token(login.user, KEY_NAME)


def _challenge(verifier: str) -> str:
    found = hashlib.sha256(verifier.encode("utf-8", "surrogatepass")).digest()
    return base64.urlsafe_b64encode(found).rstrip(b"=").decode("ascii")


def _approval_code() -> str:
    letters = "".join(secrets.choice(_LETTERS) for _ in range(12))
    return f"{letters[:4]}-{letters[4:8]}-{letters[8:]}"


def _approval_digest(code: str) -> str:
    """Of the letters alone: people leave out the dashes, and write small letters."""
    return keys.digest(re.sub(r"[^A-Z0-9]", "", code.upper()))
