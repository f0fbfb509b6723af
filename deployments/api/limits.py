"""How often one address may do what it should hardly ever do: send a key that nobody knows, begin a login.

In the memory of each process, so several processes allow several times as much, and a restart forgets. That is
enough for what it is for: a program with a dead key is told to slow down and does not fill the log, and nobody fills
the table of logins. It is no defence against guessing, and none is needed: keys are random and over 120 bits long.

Bounded: a limiter remembers a fixed number of addresses and forgets the one that has been quiet the longest.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable


class Limiter:
    """At most `most` events of one address in a window of `seconds`, which begins with the first one."""

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
        """Note an event. Returns 0 while there are not too many, else the seconds until the window ends."""
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

    def clear(self) -> None:
        with self._lock:
            self._windows.clear()

    def __len__(self) -> int:
        return len(self._windows)


def _network(address: str) -> str:
    """The address; of an IPv6 one the first half, because whoever has one has the whole rest too."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if parsed.version == 6 and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed.packed[:8] + bytes(8), 64)))
    return str(parsed)


unknown_keys = Limiter(most=30, seconds=60)  # D-unknown-keys
begun_logins = Limiter(most=20, seconds=600)
failed_logins = Limiter(most=60, seconds=600)
logged_refused_keys = Limiter(most=1, seconds=600)
logged_too_many_keys = Limiter(most=1, seconds=600)
