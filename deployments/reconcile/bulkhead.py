"""Limits how many threads of a web process wait for AWS at the same time: half of them, so that the others can answer.

A request that waits for AWS, or for another request that waits for AWS, holds a place. If no place is free, a request
is refused (503 with Retry-After, which the CLI repeats). At most half of the places are held by requests that wait for
the lease of another request, so that one hanging repository cannot take all places.

While AWS answers, places become free every few milliseconds. Then a request first waits for one, MOMENT_SECONDS at
most; one thread does not wait so. While AWS hangs, a request is refused at once.

Only `finalize` may wait longer, because no CLI repeats it. At most a quarter of the threads may wait so. Processes that
serve no requests (workers, commands) never call `limit` and have no limit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from deployments.errors import refusal

LINE_SECONDS = 20.0  # how long `finalize` waits for a place
MOMENT_SECONDS = 0.25  # how long other requests wait, and how long ago a place has become free if AWS answers

_free = threading.Condition()  # guards the numbers below; notified when a place becomes free
_threads: int | None = None
_held = _in_line = _moments = _waiting = 0
_left_at = float("-inf")  # monotonic: when a place became free
_mine = threading.local()  # .depth: how many nested `place` blocks this thread is in; together they hold one place


def limit(threads: int) -> None:
    """Set the limits of this process, which serves requests with so many threads."""
    global _threads
    _threads = threads


@contextmanager
def place(*, in_line: bool = False) -> Iterator[None]:
    """Hold a place while the caller waits for AWS, or for another request that waits for AWS.

    Raises Refusal (server_waits_for_aws, retryable) if no place is free. `in_line`: first wait up to LINE_SECONDS.
    """
    if _threads is None:
        yield
        return
    depth = getattr(_mine, "depth", 0)
    if not depth:
        _enter(_threads, in_line=in_line)
    _mine.depth = depth + 1
    try:
        yield
    finally:
        _mine.depth = depth
        if not depth:
            _leave()


def _enter(threads: int, *, in_line: bool) -> None:
    global _held, _in_line, _moments
    places = max(1, threads // 2)  # D-thread-limit
    with _free:
        if _held >= places and in_line and _in_line < threads // 4:
            _in_line += 1
            try:
                _free.wait_for(lambda: _held < places, LINE_SECONDS)
            finally:
                _in_line -= 1
        elif _held >= places and places + _in_line + _moments + 1 < threads and _moves():
            _moments += 1
            try:
                _free.wait_for(lambda: _held < places, MOMENT_SECONDS)
            finally:
                _moments -= 1
        if _held >= places:
            raise refusal("server_waits_for_aws")
        _held += 1


def _moves() -> bool:
    """Whether AWS answers requests of this process."""
    return time.monotonic() - _left_at < MOMENT_SECONDS


def _leave() -> None:
    global _held, _left_at
    with _free:
        _held -= 1
        _left_at = time.monotonic()
        _free.notify()


@contextmanager
def waiting() -> Iterator[None]:
    """Inside `place`: wait for the lease of another request. Raises Refusal, like `place`, if too many requests do."""
    global _waiting
    if _threads is None:
        yield
        return
    with _free:
        if _waiting >= max(1, _threads // 4):
            raise refusal("server_waits_for_aws")
        _waiting += 1
    try:
        yield
    finally:
        with _free:
            _waiting -= 1
