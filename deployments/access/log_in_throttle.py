"""Throttled log-ins to the console, and the only importer of django-axes.

django-axes counts wrong passwords in the database, so all web processes share the counts. Its backend is asked before
Django hashes a password, and its middleware answers with `deployments.views.log_in_throttled`.

A wrong second factor counts like a wrong password.

The rule (D-log-in-throttle): ten wrong passwords within 15 minutes stop log-ins for 15 minutes. Who logs in to an
account from its *usual* address, from which somebody has logged in to it within 30 days, is stopped only by wrong
passwords for this account from this address. Everybody else is stopped by wrong passwords from the address, for any
account, and by wrong passwords for the account, from any address. So nobody at another address can lock a person out of
the person's usual address.
"""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from typing import Any

from axes.attempts import get_cool_off_threshold
from axes.handlers.database import AxesDatabaseHandler
from axes.handlers.proxy import AxesProxyHandler
from axes.helpers import get_client_username
from axes.models import AccessAttempt, AccessLog
from django.contrib.auth import signals
from django.http import HttpRequest

from deployments import measure
from deployments.access import hashing
from deployments.access.hashing import Rank
from deployments.log import get_logger

log = get_logger(__name__)

USUAL_FOR = timedelta(days=30)


def address_of(request: HttpRequest) -> str | None:
    """The address whose wrong passwords are counted together; None, which is one more address, if there is none.

    For IPv6 the first address of its /64: a client with one address of a /64 has all addresses of this /64.
    """
    try:
        address = ipaddress.ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.IPv6Address(int(address) >> 64 << 64))


def counted_by(request: Any, credentials: dict[str, Any] | None = None) -> list[str | list[str]]:
    """Django-axes' AXES_LOCKOUT_PARAMETERS: which wrong passwords count against this log-in."""
    return [["username", "ip_address"]] if _is_usual(request, credentials) else ["ip_address", "username"]


def _is_usual(request: Any, credentials: dict[str, Any] | None) -> bool:
    """One query for a log-in: the request keeps the answer for its account and address."""
    log_in = (get_client_username(request, credentials), request.axes_ip_address)
    kept: dict[object, bool] = request.__dict__.setdefault("registry_admin_usual", {})
    if log_in not in kept:
        kept[log_in] = AccessLog.objects.filter(
            username=log_in[0], ip_address=log_in[1], attempt_time__gte=request.axes_attempt_time - USUAL_FOR
        ).exists()
    return kept[log_in]


def may_try_second_factor(request: Any, user: Any, *, kind: str) -> bool:
    """Whether the second factor of this log-in may be looked at. If not, the middleware answers for the view."""
    if AxesProxyHandler.is_allowed(request, {"username": user.get_username()}):
        return True
    request.axes_locked_out = True
    second_factor_failed(request, user, kind=kind)
    return False


def second_factor_failed(request: Any, user: Any, *, kind: str) -> None:
    """Count a wrong second factor like a wrong password. After the tenth, the middleware answers for the view.

    `kind`: what was wrong, for the audit log: code or passkey.
    """
    credentials = {"username": user.get_username(), "second_factor": kind}
    signals.user_login_failed.send(sender=__name__, credentials=credentials, request=request)


class Throttle(AxesDatabaseHandler):  # type: ignore[misc]  # django-axes has no types
    """Django-axes' handler. It also keeps the counts of a throttled log-in as they are, without a write."""

    def is_allowed(self, request: Any, credentials: dict[str, Any] | None = None) -> bool:
        """Whether the password may be hashed. Gives `hashing` the rank of the log-in."""
        failed = AccessAttempt.objects.filter(
            ip_address=request.axes_ip_address, attempt_time__gte=get_cool_off_threshold(request)
        )
        if _is_usual(request, credentials):
            hashing.rank.set(Rank.KNOWN)
        else:
            hashing.rank.set(Rank.FAILED if failed.exists() else Rank.NEW)
        return bool(super().is_allowed(request, credentials))

    def user_login_failed(self, sender: Any, credentials: dict[str, Any], request: Any = None, **kwargs: Any) -> None:
        """Count a wrong password. A log-in that was throttled is not counted, so the 15 minutes end."""
        if request is None:
            return
        if request.axes_locked_out:
            measure.log_in("throttled")
            return
        measure.log_in("failed")
        super().user_login_failed(sender, credentials, request, **kwargs)
        if request.axes_locked_out:
            log.warning("log_in.throttled", address=request.axes_ip_address, failures=request.axes_failures_since_start)

    def user_logged_in(self, sender: Any, request: Any, user: Any, **kwargs: Any) -> None:
        """Make the address a usual one of the account. Its wrong passwords for this account no longer count."""
        measure.log_in("done")
        super().user_logged_in(sender, request, user, **kwargs)
        mine = AccessAttempt.objects.filter(username=user.get_username(), ip_address=request.axes_ip_address)
        mine.delete()
        AccessLog.objects.filter(attempt_time__lt=request.axes_attempt_time - USUAL_FOR).delete()
