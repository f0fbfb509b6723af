"""The rate limiter of sweeps: calls at a steady rate, which falls while AWS throttles and rises again afterwards.

AWS publishes no rate for ECR's management calls and throttles them early. botocore's retry modes do not fit a sweep:
`standard` runs out of retries, so repositories stay unchecked; `adaptive` takes nearly twice the time. The rule here:
AWS counts calls with a bucket of tokens. When it refuses a call, the bucket is empty. So what AWS accepted from one
refusal to another, divided by the time between them, is the rate of the bucket, and becomes the rate (D-sweep-rate).
Without a refusal the rate rises slowly, to find out whether AWS accepts more.

All workers of a registry share one `Measurement`, and each makes an equal part of the calls. Once a second, and soon
after a refusal, a worker adds the calls that AWS has accepted from it (`Pace.merged`), so a refusal of one worker is
measured with the calls of all. `deployments.reconcile.chunks` stores the measurement.

Pure except for the clock and the sleep function, which are arguments. Safe for many threads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

SETTLE_SECONDS = 1.0  # after a refusal, further ones are ignored for this time: their calls were under way
GUESS_SETTLE_SECONDS = 0.25  # the same, while the rate is a guess
FEWEST_CALLS = 10  # that AWS must have accepted between two refusals, for a measurement
FEW_SECONDS = 3.0  # with fewer in this time, AWS accepts less than twice as many
LONGEST_MEASUREMENT_SECONDS = 60.0
CALM_SECONDS = 4.0  # the rate rises after this time without a throttled call
GROWTH_FACTOR = 1.005  # per second, once the rate rises
START_FACTOR = 1.02  # per second, after a rest, until AWS refuses a call
LONG_CALM_SECONDS = 60.0  # after this time without a throttled call, the rate rises by FAST_GROWTH_FACTOR
FAST_GROWTH_FACTOR = 1.03
GUESS_SECONDS = 1.5  # a guess that lasted longer measures nothing: AWS's bucket may have been full meanwhile
GUESS_FACTOR = 1.4  # per second, while the rate is a guess
LOWEST_RATE = 1.0  # calls per second; throttling lowers the rate no further
BURST_SECONDS = 1.0  # calls that were not made in this time may be made at once, because AWS's bucket has filled
JOIN_SECONDS = 0.5  # a worker that joins others begins so late, because they notice it after up to a second
HOLD_SECONDS = 0.05  # after a refusal, no call begins for this time, in which the measurement is stored
GUESS_HOLD_SECONDS = 0.1  # the same, while the rate is a guess, because it may be many times too high
IDLE_SECONDS = 0.5  # so long without a call, there is less to do than the rate allows
SLICE_SECONDS = 0.25  # longest sleep between two checks for a stop
SAME_SECONDS = 0.001  # two times that differ by less are the same


@dataclass(frozen=True, slots=True)
class Measurement:
    """What all workers of a registry have learned about the calls that AWS accepts."""

    rate: float  # calls per second, as of `at`
    at: float  # when AWS refused a call, or when calls began after a rest; seconds
    seconds: float = LONGEST_MEASUREMENT_SECONDS  # over which the rate was measured; 0: it is a guess
    accepted: int = 0  # calls that AWS has accepted since `at`
    empty: bool = False  # whether AWS's bucket was empty at `at`, because AWS refused a call

    @property
    def window(self) -> float:
        """Seconds before `at` in which a call changes the rate."""
        return self.seconds or 1.0

    def rate_at(self, now: float) -> float:
        """The rate at this time: it rises while AWS refuses no call."""
        calm = now - self.at
        if not self.seconds:
            return self.rate * float(GUESS_FACTOR ** min(60.0, max(0.0, calm - SETTLE_SECONDS)))
        if not self.empty:
            return self.rate * float(START_FACTOR ** min(600.0, max(0.0, calm - CALM_SECONDS)))
        slow = min(calm, LONG_CALM_SECONDS) - CALM_SECONDS
        fast = min(calm - LONG_CALM_SECONDS, 600.0)
        return self.rate * float(GROWTH_FACTOR ** max(0.0, slow) * FAST_GROWTH_FACTOR ** max(0.0, fast))

    def begins_with(self, other: Measurement | None) -> bool:
        """Whether both count the calls since the same time."""
        return other is not None and abs(self.at - other.at) < SAME_SECONDS

    def with_calls(self, before: int, after: int) -> Measurement:
        """The same with calls that AWS had accepted before `at`, in the measured time, and with calls since."""
        more = before / self.window if self.window < LONGEST_MEASUREMENT_SECONDS else 0.0
        return replace(self, rate=self.rate + more, accepted=self.accepted + after)

    def ignores(self, refusal: float) -> bool:
        """Whether a refusal at this time says nothing new, because AWS's bucket was empty just before."""
        settle = SETTLE_SECONDS if self.seconds else GUESS_SETTLE_SECONDS
        return self.empty and refusal - self.at < settle

    def refused(self, at: float, accepted: int, *, ceiling: float, idle: bool) -> Measurement:
        """The measurement after a refusal at this time.

        `accepted`: calls of all workers since `self.at`. `idle`: there was less to do than the rate allows.
        """
        if self.ignores(at):
            return self
        seconds, rate = at - self.at, min(self.rate_at(at), ceiling)
        is_learned = self.seconds > 0
        if idle or seconds > LONGEST_MEASUREMENT_SECONDS or (is_learned and not self.empty):
            # AWS's bucket may have been full since, so this measures nothing. The next refusal does.
            return Measurement(rate, at, empty=True)
        if not is_learned and self.empty and seconds > GUESS_SECONDS:
            # The guess has risen since, and what it was a second ago was accepted.
            return Measurement(rate / GUESS_FACTOR, at, empty=True)
        if accepted >= FEWEST_CALLS:
            # A full bucket accepts the first calls in a burst, so they are not measured over less than a second.
            seconds = seconds if self.empty else max(seconds, 1.0)
            return Measurement(max(LOWEST_RATE, accepted / seconds), at, seconds, empty=True)
        if not self.empty:  # others have emptied the bucket
            return Measurement(max(LOWEST_RATE, min(rate, 2.0 * FEWEST_CALLS)), at, 0.0, empty=True)
        if seconds < FEW_SECONDS:
            return self
        return replace(self, rate=max(LOWEST_RATE, min(rate, 2 * FEWEST_CALLS / seconds)))


class Pace:
    """The rate limiter for one registry in this process."""

    def __init__(
        self,
        rate: float,
        *,
        ceiling: float,
        workers: int = 1,
        stored: Measurement | None = None,
        rested: bool = False,
        alone: bool = True,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`rate` and `ceiling` are those of the registry, of which this is one of so many workers.

        `stored`: what the workers have learned. `rested`: nobody has made calls for a while, so the first calls may
        come at once (BURST_SECONDS). `alone`: nobody else learns, so nobody calls `merged` and `keep`.
        """
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._workers, self._ceiling, self._alone = workers, ceiling, alone
        now, is_learned = clock(), stored is not None or rate < ceiling
        self._stored = stored
        if stored is not None and not rested:
            self._known = stored
        else:
            self._known = Measurement(min(rate, ceiling), now, LONGEST_MEASUREMENT_SECONDS if is_learned else 0.0)
        self._next = now
        if workers > 1 and is_learned:
            self._next += JOIN_SECONDS
        elif rested and is_learned:
            self._next -= BURST_SECONDS
        self._accepted: deque[float] = deque()  # when AWS accepted the calls that are not counted in `_stored`
        self._refusal: float | None = None  # when AWS refused the first call that is not measured yet
        self._merged_at = self._taken = now
        self._idle = float("-inf")

    @property
    def rate(self) -> float:
        """The calls per second that this worker may make now."""
        with self._lock:
            return self._rate(self._clock())

    @property
    def due(self) -> bool:
        """Whether the measurement should be stored at once."""
        return self._refusal is not None

    def wait(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Sleep until this thread may make a call. False if `stopped` returned true before."""
        turn, length = self._take()
        while (left := turn - self._clock()) > 0:
            if stopped():
                with self._lock:
                    self._next -= length  # nobody uses this turn
                return False
            self._sleep(min(left, SLICE_SECONDS))
        return True

    def spend(self) -> None:
        """Count a call without waiting, for calls that must not be late. The calls of other threads wait longer."""
        self._take()

    def accepted(self) -> None:
        """Record that AWS accepted a call."""
        with self._lock:
            now = self._clock()
            self._accepted.append(now)
            while self._accepted[0] < now - LONGEST_MEASUREMENT_SECONDS:
                self._accepted.popleft()

    def refused(self) -> None:
        """Record that AWS throttled a call."""
        with self._lock:
            now = self._clock()
            if self._refusal is not None or self._known.ignores(now):
                return
            self._refusal = now
            hold = HOLD_SECONDS if self._known.seconds else GUESS_HOLD_SECONDS
            self._next = max(self._next, now + hold)
            if self._alone:
                self._keep(self._merge(self._stored))

    def merged(self, stored: Measurement | None) -> Measurement | None:
        """What is stored and what this worker has learned: to be stored, then given to `keep`. None: nothing yet."""
        with self._lock:
            return self._merge(stored)

    def keep(self, stored: Measurement | None, *, workers: int) -> None:
        """Go on with what `merged` has returned, which is stored now, as one of so many workers."""
        with self._lock:
            self._workers = workers
            self._keep(stored)

    def _rate(self, now: float) -> float:
        return min(self._known.rate_at(now), self._ceiling) / self._workers

    def _take(self) -> tuple[float, float]:
        """When this thread may make a call, and the time from there to the next turn; seconds."""
        with self._lock:
            now = self._clock()
            rate = self._rate(now)
            if self._taken < now - max(IDLE_SECONDS, 2 / rate):
                self._idle = now
            self._taken = now
            turn = max(self._next, now - BURST_SECONDS)
            self._next = turn + 1 / rate
            return turn, 1 / rate

    def _merge(self, stored: Measurement | None) -> Measurement | None:
        self._merged_at = self._clock()
        refusal, start = self._refusal, self._known
        if stored is None:
            if refusal is None:
                return None
            start = start.with_calls(0, self._count(start.at))
        elif not stored.begins_with(self._stored):
            # Another worker has measured. It did not know of the last calls of this one.
            after = self._count(stored.at)
            start = stored.with_calls(self._count(stored.at - stored.window) - after, after)
        else:
            # Unless calls began after a rest, and nobody has stored that yet, both count since the same time.
            start = stored if start.begins_with(stored) else start
            start = start.with_calls(0, self._count(start.at))
        if refusal is None:
            return start
        late = self._count(refusal)
        ended = start.refused(refusal, start.accepted - late, ceiling=self._ceiling, idle=self._idle > start.at)
        return ended if ended.begins_with(start) else ended.with_calls(0, late)

    def _keep(self, stored: Measurement | None) -> None:
        if stored is None:
            return
        while self._accepted and self._accepted[0] <= self._merged_at:
            self._accepted.popleft()
        if self._refusal is not None and self._refusal <= self._merged_at:
            self._refusal = None
        self._known = self._stored = stored

    def _count(self, after: float) -> int:
        return sum(at > after for at in self._accepted)
