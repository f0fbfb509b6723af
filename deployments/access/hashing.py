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
from enum import IntEnum
from typing import Any

from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.core.exceptions import ValidationError

from deployments.errors import refusal

HASHES_AT_ONCE = 2
WAIT_SECONDS = 2.0  # longer than two hashes
MAX_PASSWORD_CHARACTERS = 4096
BUSY = "log_ins_busy"


class Rank(IntEnum):
    """Whose password is hashed first."""

    KNOWN = 0  # a signed-in person, or a log-in from the usual address of the account
    NEW = 1  # a log-in from another address
    FAILED = 2  # a log-in from another address that has sent a wrong password lately


#: The rank of this thread's request. The middleware sets it at the begin of each request, because a server's thread
#: serves one after another, and `access.log_in_throttle` before a log-in.
rank: ContextVar[Rank] = ContextVar("rank", default=Rank.KNOWN)


class Places:
    """At most `most` hashes at one time. One place is kept for the rank KNOWN, and no rank gets a place while a better
    rank waits. One thread of each rank may wait, for up to `seconds`; none of the rank FAILED.
    """

    def __init__(self, *, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._free = threading.Condition()  # guards the counts; notified when a place becomes free
        self._held = dict.fromkeys(Rank, 0)
        self._waiting = dict.fromkeys(Rank, 0)

    @contextmanager
    def one(self, rank: Rank) -> Iterator[None]:
        """Hold a place. Raises Refusal (log_ins_busy, retryable) if no place becomes free."""
        with self._free:
            self._enter(rank)
        try:
            yield
        finally:
            with self._free:
                self._held[rank] -= 1
                self._free.notify_all()

    def _enter(self, rank: Rank) -> None:
        if not self._is_free(rank):
            if rank is Rank.FAILED or self._waiting[rank]:
                raise refusal(BUSY)
            self._waiting[rank] += 1
            try:
                got = self._free.wait_for(lambda: self._is_free(rank), self._seconds)
            finally:
                self._waiting[rank] -= 1
            if not got:
                raise refusal(BUSY)
        self._held[rank] += 1

    def _is_free(self, rank: Rank) -> bool:
        if any(self._waiting[better] for better in Rank if better < rank):
            return False
        held = sum(self._held.values())
        return held < self._most and (rank is Rank.KNOWN or held - self._held[Rank.KNOWN] < self._most - 1)


_places = Places(most=HASHES_AT_ONCE, seconds=WAIT_SECONDS)


class Hasher(PBKDF2PasswordHasher):
    """Django's hasher, with the same name in the stored hashes. Both methods raise Refusal (log_ins_busy)."""

    def encode(self, password: str, salt: str, iterations: int | None = None) -> str:
        """The hash to store."""
        with _places.one(rank.get()):
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
