"""Limits how many threads of a web process wait for AWS at the same time: half of them, so that the others can answer.

A request that waits for AWS, or for another request that waits for AWS, holds a place. If no place is free, a request
is refused at once (503 with Retry-After, which the CLI repeats). At most half of the places are held by requests that
wait for the lease of another request, so that one hanging repository cannot take all places.

Only `finalize` may wait for a place, because no CLI repeats it. At most a quarter of the threads may wait so. Processes
that serve no requests (workers, commands) never call `limit` and have no limit.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from deployments.errors import refusal

LINE_SECONDS = 20.0  # how long `finalize` waits for a place

_free = threading.Condition()  # guards the numbers below; notified when a place becomes free
_threads: int | None = None
_held = _in_line = _waiting = 0
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
    global _held, _in_line
    places = max(1, threads // 2)  # D-thread-limit
    with _free:
        if _held >= places and in_line and _in_line < threads // 4:
            _in_line += 1
            try:
                _free.wait_for(lambda: _held < places, LINE_SECONDS)
            finally:
                _in_line -= 1
        if _held >= places:
            raise refusal("server_waits_for_aws")
        _held += 1


def _leave() -> None:
    global _held
    with _free:
        _held -= 1
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
