"""How many of a web process's threads may wait for AWS at once: half of them, so that the others always answer.

A request that waits for AWS, or for another request that does, holds a place. When all are taken, a request is refused
at once (503 with Retry-After, which the CLI repeats) instead of holding one more thread. Of the places at most half are
held by requests that wait for another one's lease, so that one repository that hangs cannot take them all.

Only `finalize` may wait for a place, in a line of a quarter of the threads: no CLI repeats it. Processes that serve no
requests (workers, commands) never call `limit`, and have no bound.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from deployments.errors import refusal

LINE_SECONDS = 20.0  # for a place

_free = threading.Condition()  # guards the numbers below
_threads: int | None = None
_held = _in_line = _waiting = 0
_mine = threading.local()  # .depth: places that this thread has entered, one inside the other; they are one place


def limit(threads: int) -> None:
    """Bound this process, which serves its requests with so many threads."""
    global _threads
    _threads = threads


@contextmanager
def place(*, in_line: bool = False) -> Iterator[None]:
    """Hold one of the places while the caller waits for AWS, or for another request that waits for AWS.

    Raises Refusal (server_waits_for_aws, retryable) when all are taken; `in_line` waits LINE_SECONDS for one before.
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
    """Inside a place: wait for another request's lease. Raises Refusal as `place` when enough others do."""
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
