"""Links for one log-in, which `manage.py break_glass` makes: without password, second factor and single sign-on.

Who has a shell with the settings could write any row, so the link gives nothing that its maker does not have. It works
once, for MAX_AGE: it names the account's last log-in, and a log-in changes that.
"""

from __future__ import annotations

from datetime import timedelta

from django.contrib.auth.models import User
from django.core import signing
from django.db.models.functions import Now

from deployments.errors import refusal

BY = "a link of break_glass"
MAX_AGE = timedelta(minutes=10)
_SALT = "break_glass"


def make(user: User) -> str:
    """The token of a link."""
    return signing.dumps([user.pk, _last(user)], salt=_SALT)


def read(token: str) -> User:
    """The account of a link that still works. Raises Refusal (log_in_link_ended)."""
    try:
        pk, last = signing.loads(token, salt=_SALT, max_age=MAX_AGE)
    except signing.BadSignature:
        raise refusal("log_in_link_ended") from None
    user = User.objects.filter(pk=pk, is_active=True).first()
    if user is None or _last(user) != last:
        raise refusal("log_in_link_ended")
    return user


def use(token: str) -> User:
    """The account of a link, which no longer works from now on. Raises Refusal (log_in_link_ended)."""
    user = read(token)
    # Compare-and-set: of two requests with one link, one logs in.
    if not User.objects.filter(pk=user.pk, last_login=user.last_login).update(last_login=Now()):
        raise refusal("log_in_link_ended")
    return user


def _last(user: User) -> str:
    return user.last_login.isoformat() if user.last_login is not None else ""
