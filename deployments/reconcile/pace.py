"""How fast a sweep may ask AWS: a steady spacing of calls that shrinks while AWS refuses, and grows back.

AWS publishes no rate for ECR's management calls and throttles them early. botocore's own modes do not fit a sweep:
`standard` runs out of retries and leaves repositories undone, `adaptive` takes nearly twice the time. Taking, while
being refused, the rate that AWS *accepted* as one's own comes within a few per cent of the best there is.

Pure but for the clock and the sleep that are handed in; safe for many threads. The database's side of it (the rate
that all workers share and remember) is `deployments.reconcile.chunks`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

WINDOW_SECONDS = 2.0  # seconds over which the accepted rate is measured (D-sweep-rate)
SETTLE_SECONDS = 1.0  # seconds after a change in which further refusals teach nothing new
CALM_SECONDS = 10.0  # seconds without a refusal before the rate grows
GROWTH_FACTOR = 1.03  # per second of calm
SLICE_SECONDS = 0.25  # seconds of sleep after which a stop is noticed


class Pace:
    """One registry's spacing of calls in this process."""

    def __init__(
        self,
        rate: float,
        *,
        ceiling: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._ceiling = ceiling
        self._rate = min(rate, ceiling)
        self._next = 0.0
        self._accepted: deque[float] = deque()
        self._changed = float("-inf")
        # A rate below the ceiling was learned from refusals, so it is not tried to grow at once.
        self._refused = clock() if rate < ceiling else float("-inf")
        self._grown = clock()

    @property
    def rate(self) -> float:
        """Calls per second that may be made now."""
        with self._lock:
            self._grow(self._clock())
            return self._rate

    def share(self, rate: float, ceiling: float) -> None:
        """Take another rate and ceiling, because others share the registry's or have learned a new one."""
        with self._lock:
            self._ceiling = ceiling
            self._rate = min(rate, ceiling)

    def wait(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Sleep until this thread's turn to make a call; False when it was stopped before that."""
        turn = self._take()
        while (left := turn - self._clock()) > 0:
            if stopped():
                return False
            self._sleep(min(left, SLICE_SECONDS))
        return True

    def spend(self) -> None:
        """Take a turn without waiting for it: for calls that must not be late. The others wait the longer."""
        self._take()

    def _take(self) -> float:
        with self._lock:
            now = self._clock()
            self._grow(now)
            turn = max(self._next, now)
            self._next = turn + 1 / self._rate
            return turn

    def accepted(self) -> None:
        """AWS took a call."""
        with self._lock:
            self._accepted.append(self._clock())
            self._forget()

    def refused(self) -> None:
        """AWS throttled a call: from now on go as fast as it accepted of late."""
        with self._lock:
            now = self._refused = self._clock()
            if now - self._changed < SETTLE_SECONDS:
                return
            self._forget()
            # A burst at the start says little about the rate, so nothing is measured over less than a second.
            seconds = max(1.0, now - self._accepted[0]) if self._accepted else 1.0
            self._rate = max(1.0, min(self._rate * 0.9, len(self._accepted) / seconds))
            self._changed = self._grown = now
            self._next = max(self._next, now + 1 / self._rate)

    def _grow(self, now: float) -> None:
        if (
            now - max(self._refused, self._grown) < 1
            or now - self._refused < CALM_SECONDS
            or self._rate >= self._ceiling
        ):
            return
        self._rate = min(
            self._ceiling, self._rate * GROWTH_FACTOR ** (now - max(self._grown, self._refused + CALM_SECONDS))
        )
        self._grown = now

    def _forget(self) -> None:
        while self._accepted and self._accepted[0] < self._clock() - WINDOW_SECONDS:
            self._accepted.popleft()
