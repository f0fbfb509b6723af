"""`trigger.dev login`: a person approves in the browser that a CLI acts for them. No key is copied by hand.

A CLI begins a login and gets a code, with which it polls, and a link, which it shows. A signed-in person opens the link
and approves or declines the login. After the approval the CLI collects a personal access token, once. The link does
not contain the code, so a person who sees the link cannot collect the token.

Anybody can begin a login and send the link to another person. Therefore a CLI of version 4.8 or newer is *bound* to the
login by two proofs: a PKCE verifier (RFC 7636, S256) proves that it began the login, and an approval code, which only
the approving browser gets, proves that the CLI and the browser belong to the same person. The browser sends the
approval code to a port on the same machine (“callback”), or the person copies it (“paste”). Older CLIs only poll until
the login is approved; their only protection is that the approval page shows the client and its address.

To begin a login writes no row: the code and the link are signed and contain what a row would (D-login-no-row). So
nobody can begin so many logins that others cannot. The row is made when a signed-in person opens the link. A login
expires after ten minutes by the database's clock, and each new row deletes expired rows.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
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
KEY_NAME = "trigger.dev login"

_LINK_SALT = "deployments.access.cli_login.link"
_CODE_SALT = "deployments.access.cli_login.code"
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
    *,
    challenge: str = "",
    callback_port: int | None = None,
    client: str = "",
    address: str = "",
    refuse_unbound: bool = False,
) -> StartedLogin:
    """A new login, without a row. `challenge`: the PKCE challenge; empty for a CLI without PKCE.

    Raises Refusal if the challenge is malformed, or if it is empty and `refuse_unbound`.
    """
    if challenge and not _CHALLENGE.fullmatch(challenge):
        raise refusal("challenge_malformed")
    if not challenge and refuse_unbound:
        raise refusal("login_unbound")
    port = callback_port if challenge else None
    begun = {"login": secrets.token_urlsafe(16), "at": round(clock.now().timestamp(), 3)}
    # The approval page shows the client and the address.
    link = begun | {"challenge": challenge, "port": port, "client": client[:100], "address": address[:64]}
    return StartedLogin(
        code=signing.dumps(begun, salt=_CODE_SALT),
        handle=signing.dumps(link, salt=_LINK_SALT),
        approval=None if not challenge else "callback" if port else "paste",
    )


def find(*, handle: str) -> PendingLogin | None:
    """The login of a link; None for an invalid link, and for a login that has expired or was declined.

    Makes the login's row, so only signed-in people may call this.
    """
    said, now = _read(handle, _LINK_SALT), clock.now()
    if said is None or _end(said) <= now:
        return None
    digest = keys.digest(said["login"])
    login = LoginRequest.objects.select_related("user").filter(code_digest=digest).first()
    if login is None:
        LoginRequest.objects.filter(expires_at__lt=now - LOGIN_LIFETIME).delete()
        login, _ = LoginRequest.objects.get_or_create(
            code_digest=digest,
            defaults={
                "challenge": said["challenge"],
                "callback_port": said["port"],
                "created_at": _end(said) - LOGIN_LIFETIME,
                "expires_at": _end(said),
            },
        )
    if login.expires_at <= now:
        return None
    return PendingLogin(login=login, client=said["client"], address=said["address"])


def _read(text: str, salt: str) -> dict[str, Any] | None:
    try:
        # No max_age: it would compare the clocks of two hosts. `_end` limits the age.
        said: dict[str, Any] = signing.loads(text, salt=salt)
    except signing.BadSignature:
        return None
    return said


def _end(said: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(said["at"], tz=UTC) + LOGIN_LIFETIME


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
    said, now = _read(code, _CODE_SALT), clock.now()
    if said is None or _end(said) <= now:
        raise NotFound(_GONE)
    login = LoginRequest.objects.select_related("user").filter(code_digest=keys.digest(said["login"])).first()
    if login is None:
        return None  # nobody has opened the link
    if login.expires_at <= now:
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
        waiting = LoginRequest.objects.filter(pk=login.pk, collected_at=None, expires_at__gt=Now())
        if not waiting.update(collected_at=Now()):
            raise NotFound(_GONE)  # another request collected the token, or the user's keys were revoked
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
