"""Rate limits per client address for rare events: an unknown key, a failed login of a CLI, a refused token of a CI job.

Each process counts in its own memory, so several processes allow several times as many events, and a restart resets
the counters. That is enough: a program with a revoked key is slowed down and does not fill the log. The limits are no
protection against guessing keys, which is not necessary: a key has more than 120 random bits.
`access.log_in_throttle` counts wrong passwords.

The memory is limited: a limiter stores a fixed number of addresses and drops the address with the oldest event.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable


class Limiter:
    """At most `most` events of one address in a window of `seconds`, which begins with the first event.

    `addresses`: how many addresses are stored. `clock`: a monotonic clock, for tests.
    """

    def __init__(
        self, *, most: int, seconds: float, addresses: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._seconds = seconds
        self._addresses = addresses
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()  # address → (end of its window, events)

    def count(self, address: str) -> float:
        """Count an event. Returns 0 while the limit is not exceeded, else the seconds until the window ends."""
        now = self._clock()
        name = _network(address)
        with self._lock:
            end, events = self._windows.pop(name, (0.0, 0))
            if end <= now:
                end, events = now + self._seconds, 0
            self._windows[name] = (end, events + 1)
            if len(self._windows) > self._addresses:
                self._windows.popitem(last=False)
        return end - now if events >= self._most else 0.0

    def left(self, address: str) -> float:
        """The seconds until the window ends of an address that has reached the limit; 0 for another address."""
        now = self._clock()
        with self._lock:
            end, events = self._windows.get(_network(address), (0.0, 0))
        return end - now if end > now and events >= self._most else 0.0

    def clear(self) -> None:
        """Forget all events."""
        with self._lock:
            self._windows.clear()

    def __len__(self) -> int:
        return len(self._windows)


def _network(address: str) -> str:
    """The address, or the /64 network for IPv6: a client with one address of a /64 has all addresses of this /64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if parsed.version == 6 and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed.packed[:8] + bytes(8), 64)))
    return str(parsed)


unknown_keys = Limiter(most=30, seconds=60)  # D-unknown-keys
failed_logins = Limiter(most=60, seconds=600)
pull_log_ins = Limiter(most=30, seconds=60)  # of one key; each costs two calls to AWS
failed_exchanges = Limiter(most=60, seconds=600)
logged_refused_keys = Limiter(most=1, seconds=600)
logged_too_many_keys = Limiter(most=1, seconds=600)
