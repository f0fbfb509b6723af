"""The rate limiter of sweeps: calls at a steady rate, which falls while AWS throttles and rises again afterwards.

AWS publishes no rate for ECR's management calls and throttles them early. botocore's retry modes do not fit a sweep:
`standard` runs out of retries, so repositories stay unchecked; `adaptive` takes nearly twice the time. The rule here:
while AWS throttles, use the rate that AWS *accepted*. It comes within a few per cent of the best possible time.

Pure except for the clock and the sleep function, which are arguments. Safe for many threads. The learned rate is shared
by all workers through a row: `deployments.reconcile.chunks`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

WINDOW_SECONDS = 2.0  # the accepted rate is measured over this time (D-sweep-rate)
SETTLE_SECONDS = 1.0  # after a change of the rate, throttled calls are ignored for this time
CALM_SECONDS = 10.0  # the rate rises after this time without a throttled call
GROWTH_FACTOR = 1.03  # per second, once the rate rises
LOWEST_RATE = 1.0  # calls per second; throttling lowers the rate no further
SLICE_SECONDS = 0.25  # longest sleep between two checks for a stop


class Pace:
    """The rate limiter for one registry in this process."""

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
        # A rate below the ceiling was learned from throttling, so it does not rise at once.
        self._refused = clock() if rate < ceiling else float("-inf")
        self._grown = clock()

    @property
    def rate(self) -> float:
        """The calls per second that are allowed now."""
        with self._lock:
            self._grow(self._clock())
            return self._rate

    def share(self, rate: float, ceiling: float) -> None:
        """Set rate and ceiling, because other workers share the registry's rate or have learned a new one."""
        with self._lock:
            self._ceiling = ceiling
            self._rate = min(rate, ceiling)

    def wait(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Sleep until this thread may make a call. False if `stopped` returned true before."""
        turn = self._take()
        while (left := turn - self._clock()) > 0:
            if stopped():
                return False
            self._sleep(min(left, SLICE_SECONDS))
        return True

    def spend(self) -> None:
        """Count a call without waiting, for calls that must not be late. The calls of other threads wait longer."""
        self._take()

    def _take(self) -> float:
        with self._lock:
            now = self._clock()
            self._grow(now)
            turn = max(self._next, now)
            self._next = turn + 1 / self._rate
            return turn

    def accepted(self) -> None:
        """Record that AWS accepted a call."""
        with self._lock:
            self._accepted.append(self._clock())
            self._forget()

    def refused(self) -> None:
        """Record that AWS throttled a call: the rate becomes the rate that AWS accepted recently."""
        with self._lock:
            now = self._refused = self._clock()
            if now - self._changed < SETTLE_SECONDS:
                return
            self._forget()
            # The first calls come in a burst, so the rate is never measured over less than a second.
            seconds = max(1.0, now - self._accepted[0]) if self._accepted else 1.0
            self._rate = max(LOWEST_RATE, min(self._rate * 0.9, len(self._accepted) / seconds))
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
