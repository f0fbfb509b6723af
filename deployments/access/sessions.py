"""The audit log's lines about log-ins, failed log-ins and ended sessions.

They are written by receivers of Django's signals, because every way to log in sends these signals: the console's form,
single sign-on, a password that somebody forgot. `deployments.apps` connects the receivers. A session and its line are
one transaction: no session begins or ends without a line.

A failed log-in costs an attacker nothing, so its lines are bounded (MAX_FAILED). A line never has the name that was
typed, unless it is the name of an account: people type their password into the wrong field.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user_model, login
from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models.functions import Now
from django.http import HttpRequest
from django.utils import timezone

from deployments.access.audit import DONE, Actor, Trail, history
from deployments.log import get_logger
from deployments.models import ActorKind, AuditEntry

log = get_logger(__name__)

ACTION = "log_in.user"
FAILED = "The log-in failed: the name or the password is wrong, or the account may not use the console."
FAILED_SECOND_FACTOR = "The log-in failed: the password was right, and the second factor was wrong."
#: The most lines of failed log-ins in WINDOW about one account, and the most about names that are no account. So
#: failures with names that are no account hide no failure of an account.
MAX_FAILED = 30
WINDOW = timedelta(minutes=10)

#: How a person logged in, as the audit log and the session have it.
PASSWORD = "password"  # noqa: S105  (a name, not a password)
WITH_CODE = f"{PASSWORD} and code"
WITH_PASSKEY = f"{PASSWORD} and passkey"
WITH_RECOVERY_CODE = f"{PASSWORD} and recovery code"
#: Keys of the session: how and when (seconds since 1970, by the clock of the web process) the person logged in.
LOG_IN_BY, LOG_IN_AT = "log_in_by", "log_in_at"
#: How long after a log-in a person may change how they log in.
RECENT = timedelta(minutes=15)
_BACKEND = "django.contrib.auth.backends.ModelBackend"


def begin(request: HttpRequest, user: Any, *, by: str) -> None:
    """Log the person in. Every way to log in ends here, after it has checked everything that it asks for."""
    request.log_in_by = by  # type: ignore[attr-defined]  # for the receiver
    login(request, user, backend=_BACKEND)


def is_recent(request: HttpRequest) -> bool:
    """Whether the person of this session has logged in within RECENT."""
    at = request.session.get(LOG_IN_AT)
    return at is not None and is_within(at, RECENT.total_seconds())


def is_within(at: float, seconds: float) -> bool:
    """Whether a time that a session holds is less than so many seconds away, by the clock of this web process.

    A time in the future counts too: another web process wrote it, and its clock may be ahead of this one.
    """
    return abs(time.time() - at) < seconds


def logged_in(sender: Any, request: HttpRequest, user: Any, **_: Any) -> None:
    """Receiver of `user_logged_in`: store the session, with its line."""
    by: str | None = getattr(request, "log_in_by", None)
    request.session[LOG_IN_BY], request.session[LOG_IN_AT] = by, time.time()
    # A time, not a duration, which would begin again with every change of the session, such as a new password.
    request.session.set_expiry(timezone.now() + timedelta(seconds=settings.SESSION_COOKIE_AGE))
    with transaction.atomic():
        request.session.save()
        Trail(actor=Actor.person(user), request=request).record(ACTION, user, after={"by": by} if by else None)


def logged_out(sender: Any, request: HttpRequest, user: Any, **_: Any) -> None:
    """Receiver of `user_logged_out`: delete the session, with its line. Nothing for a request without a session."""
    if user is None:
        return
    with transaction.atomic():
        request.session.delete()
        Trail(actor=Actor.person(user), request=request).record("log_out.user", user)


def log_in_failed(sender: Any, credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any) -> None:
    """Receiver of `user_login_failed`. `credentials` has `second_factor` (code or passkey) after the right password
    and a wrong second factor.
    """
    users = get_user_model()
    name = str(credentials.get(users.USERNAME_FIELD, "")).replace("\0", "")
    user = users._default_manager.filter(**{users.USERNAME_FIELD: name}).first()
    after: dict[str, Any] = {"account": user is not None}
    if getattr(request, "axes_locked_out", False):
        after["throttled"] = True  # the password, or the second factor, was not looked at
    second = credentials.get("second_factor")
    if second:
        after["second_factor"] = second
    record_failed(user, request=request, after=after, outcome=FAILED_SECOND_FACTOR if second else FAILED)


def record_failed(user: Any, *, request: HttpRequest | None, after: dict[str, Any], outcome: str) -> None:
    """Write the line of a failed log-in. `user` is None if there is no such account. The last line before MAX_FAILED
    says that no more lines follow.
    """
    lines = history(user) if user is not None else AuditEntry.objects.filter(object_type="")
    failed = lines.filter(action=ACTION, at__gt=Now() - WINDOW).exclude(outcome=DONE).count()
    if failed >= MAX_FAILED:
        return
    if failed == MAX_FAILED - 1:
        after["further_lines"] = f"none until {WINDOW.seconds // 60} minutes after the first of these {MAX_FAILED}"
    nobody = Actor(kind=ActorKind.SYSTEM, name="unknown")
    with transaction.atomic():
        Trail(actor=nobody, request=request).record(ACTION, user, after=after, outcome=outcome)
    address = request.META.get("REMOTE_ADDR", "") if request is not None else ""
    log.warning("login.failed", address=address, user=user.pk if user is not None else None)


def end_others(user: Any, trail: Trail, *, also_mine: bool = False) -> None:
    """Delete the sessions of the person, with one line that has their number, in the open transaction of the change
    that ends them: a new password, a removed link, or an account that may no longer use the console. The session of
    the trail's request stays, unless `also_mine`.
    """
    mine = trail.request.session.session_key if trail.request is not None and not also_mine else None
    live = Session.objects.filter(expire_date__gt=Now()).exclude(pk=mine)
    ended = [row.pk for row in live.iterator() if row.get_decoded().get(SESSION_KEY) == str(user.pk)]
    Session.objects.filter(pk__in=ended).delete()
    if ended:
        trail.record("end_sessions.user", user, after={"sessions": len(ended)})
