"""The rate limiter of sweeps: calls at a steady rate, which falls while AWS throttles and rises again afterwards.

AWS publishes no rate for ECR's management calls and throttles them early. botocore's retry modes do not fit a sweep:
`standard` runs out of retries, so repositories stay unchecked; `adaptive` takes nearly twice the time. The rule here:
AWS counts calls with a bucket of tokens. When it refuses a call, the bucket is empty. So what AWS accepted from one
refusal to another, divided by the time between them, is the rate of the bucket, and becomes the rate (D-sweep-rate).
Without a refusal the rate rises slowly, to find out whether AWS accepts more.

Several workers divide the registry's rate. Each measures what AWS accepts of its own calls; the sum of these is the
registry's rate. They learn it from one another through a number that each of them moves: `Pace.share`. It is stored by
`deployments.reconcile.chunks`.

Pure except for the clock and the sleep function, which are arguments. Safe for many threads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

WINDOW_SECONDS = 2.0  # before the first refusal, the accepted rate is measured over this time
SETTLE_SECONDS = 1.0  # after a change of the rate, throttled calls are ignored for this time
FEWEST_CALLS = 10  # that AWS must have accepted between two refusals, for a measurement
SURE_CALLS = 20  # a measurement with so many calls becomes the rate; with fewer, the rate moves a part of the way
LONGEST_MEASUREMENT_SECONDS = 60.0
CALM_SECONDS = 4.0  # the rate rises after this time without a throttled call
GROWTH_FACTOR = 1.005  # per second, once the rate rises
GUESS_FACTOR = 1.15  # per second, one second after a refusal from which the rate was only guessed
LONG_CALM_SECONDS = 60.0  # after this time without a throttled call, the rate rises by FAST_GROWTH_FACTOR
FAST_GROWTH_FACTOR = 1.03
LOWEST_RATE = 1.0  # calls per second; throttling lowers the rate no further
BURST_SECONDS = 1.0  # calls that were not made in this time may be made at once, because AWS's bucket has filled
IDLE_SECONDS = 0.5  # a call that comes so late after its turn shows that there is less to do than the rate allows
SLICE_SECONDS = 0.25  # longest sleep between two checks for a stop
LEARNED_SHARE = 0.25  # each second, a worker moves the registry's rate so far to the one that it has measured
FAIR_PART = 0.5  # a worker with less than this part of an equal share takes an equal share


class Pace:
    """The rate limiter for one registry in this process."""

    def __init__(
        self,
        rate: float,
        *,
        ceiling: float,
        workers: int = 1,
        rested: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`rate` and `ceiling` are those of the registry, of which this is one of so many workers.

        `rested`: nobody has made calls for a while, so the first calls may come at once (BURST_SECONDS).
        A rate below the ceiling was learned from throttling, so it does not rise at once.
        """
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._workers, self._ceiling = workers, ceiling / workers
        self._rate = min(rate, ceiling) / workers
        now, learned = clock(), rate < ceiling
        self._next = now - (BURST_SECONDS if rested and learned else 0.0)
        self._recent: deque[float] = deque()  # when AWS accepted the last calls
        self._accepted = 0
        self._guessed = False  # whether the last measurement was of few calls, or of a burst beside other workers
        self._empty: tuple[float, int] | None = None  # when AWS's bucket was empty, and the calls accepted until then
        self._idle = self._changed = float("-inf")
        self._known = self._rate if learned else 0.0  # the last rate that was measured; 0: none
        self._refused = now if learned else float("-inf")
        self._grown = now

    @property
    def rate(self) -> float:
        """The calls per second that this worker may make now."""
        with self._lock:
            self._grow(self._clock())
            return self._rate

    @property
    def calm(self) -> float:
        """Seconds since AWS last throttled a call; also since the start, if the rate was learned before."""
        with self._lock:
            return self._clock() - self._refused

    def share(self, stored: float | None, *, ceiling: float, workers: int) -> float:
        """Learn the registry's rate from what the workers have stored (None: nothing), and return it, to be stored.

        Call it once a second. A worker whose part does not fit takes an equal one: because the number of workers has
        changed, or because the others got all that AWS accepted when this one began.
        """
        with self._lock:
            self._grow(self._clock())
            mine = self._rate * self._workers
            learned = min(ceiling, mine if stored is None else stored + (mine - stored) * LEARNED_SHARE)
            equal = learned / workers
            if self._rate < equal * FAIR_PART:
                self._rate, self._empty = equal, None
            elif workers != self._workers:
                self._rate = equal
            self._workers, self._ceiling = workers, ceiling / workers
            self._rate = min(self._rate, self._ceiling)
            return learned

    def wait(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Sleep until this thread may make a call. False if `stopped` returned true before."""
        turn = self._take()
        while (left := turn - self._clock()) > 0:
            if stopped():
                with self._lock:
                    self._next -= 1 / self._rate  # nobody uses this turn
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
            if self._next < now - max(IDLE_SECONDS, 2 / self._rate):
                self._idle, self._empty = now, None
            turn = max(self._next, now - BURST_SECONDS)
            self._next = turn + 1 / self._rate
            return turn

    def accepted(self) -> None:
        """Record that AWS accepted a call."""
        with self._lock:
            self._accepted += 1
            self._recent.append(self._clock())
            self._forget()

    def refused(self) -> None:
        """Record that AWS throttled a call: the rate becomes the rate that AWS accepts."""
        with self._lock:
            now = self._refused = self._clock()
            if now - self._changed < SETTLE_SECONDS or not self._measure(now):
                return
            self._rate = max(LOWEST_RATE, min(self._rate, self._ceiling))
            self._empty = (now, self._accepted)
            self._changed = self._grown = now
            self._next = max(self._next, now + 1 / self._rate)

    def _measure(self, now: float) -> bool:
        """Set the rate by what AWS has accepted. False if too few calls were accepted since the refusal before."""
        if self._empty is not None and now - self._empty[0] <= LONGEST_MEASUREMENT_SECONDS:
            accepted = self._accepted - self._empty[1]
            seconds = now - self._empty[0]
            if accepted < FEWEST_CALLS and self._rate > LOWEST_RATE * FEWEST_CALLS:
                self._rate = min(self._rate, 2 * FEWEST_CALLS / seconds)  # it is not measured, but it is not higher
                return False
            measured = accepted / seconds
            self._rate += (measured - self._rate) * min(1.0, accepted / SURE_CALLS)
            self._known, self._guessed = self._rate, False
            return True
        self._forget()
        few = len(self._recent) < FEWEST_CALLS  # other workers got what AWS accepts, or deploys did
        self._guessed = few or self._workers > 1
        # The first calls come in a burst, so the rate is never measured over less than a second.
        seconds = max(1.0, now - self._recent[0]) if self._recent else 1.0
        measured = len(self._recent) / seconds
        if now - self._idle < WINDOW_SECONDS:  # there was less to do than the rate allows, so this measures too little
            measured, self._known = max(measured, self._known), 0.0
        if few:
            measured = max(measured, self._rate / 4)  # not measured, so only a step down
        self._rate = min(self._rate, measured)
        return True

    def _grow(self, now: float) -> None:
        calm, wanted = now - self._refused, SETTLE_SECONDS if self._guessed else CALM_SECONDS
        if now - max(self._refused, self._grown) < 1 or calm < wanted or self._rate >= self._ceiling:
            return
        calmly = FAST_GROWTH_FACTOR if calm > LONG_CALM_SECONDS else GROWTH_FACTOR
        factor = GUESS_FACTOR if self._guessed else calmly
        self._rate = min(self._ceiling, self._rate * factor ** (now - max(self._grown, self._refused + wanted)))
        self._grown = now

    def _forget(self) -> None:
        while self._recent and self._recent[0] < self._clock() - WINDOW_SECONDS:
            self._recent.popleft()
