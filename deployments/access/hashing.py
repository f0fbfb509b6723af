"""The hash of passwords, with a limit on how many a process calculates at one time.

One hash takes a third of a second of a CPU. Without a limit, wrong passwords from some clients hold every thread of the
web process, and its health check waits behind them. Django calls the hasher for each password, so the limit also holds
for changed passwords and for each later way to log in with a password (D-log-in-hash).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.core.exceptions import ValidationError
from django.core.signals import request_started

from deployments.errors import refusal

HASHES_AT_ONCE = 2
WAIT_SECONDS = 2.0  # longer than two hashes
MAX_PASSWORD_CHARACTERS = 4096
BUSY = "log_ins_busy"

#: Whether the address of this thread's request has sent a wrong password lately. `access.log_in_throttle` sets it.
address_has_failed: ContextVar[bool] = ContextVar("address_has_failed", default=False)


def _begin_request(**_: Any) -> None:
    address_has_failed.set(False)  # a server's thread serves one request after another


request_started.connect(_begin_request)


class Places:
    """At most `most` hashes at one time. Addresses that have failed get all places but one, and no place while another
    address waits. One thread of either kind may wait, for up to `seconds`.
    """

    def __init__(self, *, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._free = threading.Condition()  # guards the counts; notified when a place becomes free
        self._held = {False: 0, True: 0}  # by whether the address has failed
        self._waiting = {False: 0, True: 0}

    @contextmanager
    def one(self, *, failed: bool) -> Iterator[None]:
        """Hold a place. Raises Refusal (log_ins_busy, retryable) if no place becomes free."""
        with self._free:
            self._enter(failed)
        try:
            yield
        finally:
            with self._free:
                self._held[failed] -= 1
                self._free.notify_all()

    def _enter(self, failed: bool) -> None:
        if not self._is_free(failed):
            if self._waiting[failed]:
                raise refusal(BUSY)
            self._waiting[failed] += 1
            try:
                got = self._free.wait_for(lambda: self._is_free(failed), self._seconds)
            finally:
                self._waiting[failed] -= 1
            if not got:
                raise refusal(BUSY)
        self._held[failed] += 1

    def _is_free(self, failed: bool) -> bool:
        if failed and (self._waiting[False] or self._held[True] >= self._most - 1):
            return False
        return sum(self._held.values()) < self._most


_places = Places(most=HASHES_AT_ONCE, seconds=WAIT_SECONDS)


class Hasher(PBKDF2PasswordHasher):
    """Django's hasher, with the same name in the stored hashes. Both methods raise Refusal (log_ins_busy)."""

    def encode(self, password: str, salt: str, iterations: int | None = None) -> str:
        """The hash to store."""
        with _places.one(failed=address_has_failed.get()):
            return super().encode(password, salt, iterations)

    def verify(self, password: str, encoded: str) -> bool:
        """Whether the password has this hash. No for a password that is too long to be set, without a hash of it."""
        return len(password) <= MAX_PASSWORD_CHARACTERS and super().verify(password, encoded)


class MaximumLengthValidator:
    """For AUTH_PASSWORD_VALIDATORS: nobody can set a password that is too long to log in with."""

    def validate(self, password: str, user: Any = None) -> None:
        """Raises ValidationError for a password of more than MAX_PASSWORD_CHARACTERS."""
        if len(password) > MAX_PASSWORD_CHARACTERS:
            raise ValidationError(self.get_help_text())

    def get_help_text(self) -> str:
        """The rule, as the forms show it."""
        return f"Your password can have at most {MAX_PASSWORD_CHARACTERS:,} characters."
