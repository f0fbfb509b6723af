"""`trigger.dev login`: a person approves in the browser that a CLI acts for them. No key is copied by hand.

A CLI begins a login and gets a code, with which it polls, and a link, which it shows. A signed-in person opens the link
and approves or declines the login. After the approval the CLI collects a personal access token, once. The link does
not contain the code, so a person who sees the link cannot collect the token.

Anybody can begin a login and send the link to another person. Therefore a CLI of version 4.8 or newer is *bound* to the
login by two proofs: a PKCE verifier (RFC 7636, S256) proves that it began the login, and an approval code, which only
the approving browser gets, proves that the CLI and the browser belong to the same person. The browser sends the
approval code to a port on the same machine (“callback”), or the person copies it (“paste”). Older CLIs only poll until
the login is approved; their only protection is that the approval page shows the client and its address.

The table stays small: a login expires after ten minutes by the database's clock, and each new login deletes expired
logins.
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

#: Old CLIs poll for one to five minutes, new CLIs for ten.
LOGIN_LIFETIME = timedelta(minutes=10)
#: The most logins that may wait for approval at one time, in the whole installation.
MAX_PENDING_LOGINS = 1_000
KEY_NAME = "trigger.dev login"

_SALT = "deployments.access.cli_login"
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")  # base64url of a SHA-256
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # no two look alike; 12 of 32 letters are 60 bits
_GONE = "This login is unknown, has expired or was declined. Run trigger.dev login again."


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedLogin:
    """A new login, for the CLI. `approval`: how the CLI gets the approval code (“callback”, “paste”); None: no code."""

    code: str = field(repr=False)
    handle: str  # for the link
    approval: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingLogin:
    """The login of a link, with the client name and the address of the CLI that began it."""

    login: LoginRequest
    client: str
    address: str

    @property
    def is_bound(self) -> bool:
        """Whether the CLI must send a verifier and an approval code."""
        return bool(self.login.challenge)

    @property
    def is_waiting(self) -> bool:
        """Whether nobody has approved the login. `find` returns no expired and no declined login."""
        return self.login.approved_at is None


def begin(
    *, challenge: str = "", callback_port: int | None = None, client: str = "", address: str = ""
) -> StartedLogin:
    """A new login. `challenge`: the PKCE challenge; empty for a CLI without PKCE.

    Raises Refusal if the challenge is malformed, and a retryable Refusal while too many logins wait for approval.
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
    # The link contains the client and the address, signed; the approval page shows both.
    handle = signing.dumps({"login": login.pk, "client": client[:100], "address": address[:64]}, salt=_SALT)
    approval = None if not challenge else "callback" if login.callback_port else "paste"
    return StartedLogin(code=code, handle=handle, approval=approval)


def find(*, handle: str) -> PendingLogin | None:
    """The login of a link; None for an invalid link, and for a login that has expired or was declined."""
    try:
        # No max_age: it would compare the clocks of two hosts. `expires_at` below limits the age.
        said: dict[str, Any] = signing.loads(handle, salt=_SALT)
    except signing.BadSignature:
        return None
    login = LoginRequest.objects.select_related("user").filter(pk=said["login"], expires_at__gt=Now()).first()
    return PendingLogin(login=login, client=said["client"], address=said["address"]) if login is not None else None


def approve(*, login: LoginRequest, user: AbstractBaseUser) -> str:
    """Let the CLI act for this user. Returns the only copy of the approval code; empty if the CLI is not bound.

    Raises NotFound if the login has expired, or was approved or declined before.
    """
    code = _approval_code() if login.challenge else ""
    decided = LoginRequest.objects.filter(pk=login.pk, approved_at=None, expires_at__gt=Now()).update(
        user_id=user.pk, approved_at=Now(), approval_digest=_approval_digest(code) if code else ""
    )
    if not decided:
        raise NotFound(_GONE)
    return code


def decline(*, login: LoginRequest) -> bool:
    """End a login that waits for approval. False if the login does not wait any more."""
    waiting = LoginRequest.objects.filter(pk=login.pk, approved_at=None, expires_at__gt=Now())
    return bool(waiting.update(expires_at=Now()))


def collect(*, code: str, verifier: str = "", approval_code: str = "") -> tuple[AccessKey, str] | None:
    """(row, text) of the token of an approved login, once; None while nobody has approved the login.

    Raises NotFound if the login does not exist, has ended or its token was collected; Refusal with the code
    `approval_code_wrong`, after which the CLI may try another approval code; Refusal with the code `verifier_wrong`.
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
            raise NotFound(_GONE)  # another request collected the token
        return keys.make_user_token(login.user, KEY_NAME)


def _challenge(verifier: str) -> str:
    found = hashlib.sha256(verifier.encode("utf-8", "surrogatepass")).digest()
    return base64.urlsafe_b64encode(found).rstrip(b"=").decode("ascii")


def _approval_code() -> str:
    letters = "".join(secrets.choice(_LETTERS) for _ in range(12))
    return f"{letters[:4]}-{letters[4:8]}-{letters[8:]}"


def _approval_digest(code: str) -> str:
    """The digest of the code's letters and digits, in upper case: people leave out dashes and type lower case."""
    return keys.digest(re.sub(r"[^A-Z0-9]", "", code.upper()))
