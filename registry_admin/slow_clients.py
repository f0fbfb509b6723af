"""The gunicorn worker of this program: gthread, in which a slow or silent client takes no thread.

gthread gives a thread to a connection as soon as it has sent one byte, and waits for the rest without a limit. Here the
main thread collects a request until its head, and a body up to EARLY_BYTES, have arrived; then a thread gets it. A
thread waits for a client only for a larger body, a chunked one, or one announced by `Expect`. It waits at most
SILENT_SECONDS and as long as SLOWEST_BYTES_PER_SECOND allow, and less than half of the threads wait so at once
(D-slow-clients). With TLS in gunicorn itself all this is off: use a proxy.
"""

from __future__ import annotations

import errno
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from selectors import EVENT_READ
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

SILENT_SECONDS = 30.0
PLACE_SECONDS = 0.1  # for the right to wait: a client that sends steadily gives it back within milliseconds
CLOSING_SECONDS = 0.01  # gunicorn waits in the main thread for the client to close
STOPPING_SECONDS = 2.0  # as gunicorn gives a connection that is kept open
SLOWEST_BYTES_PER_SECOND = 16 * 1024
EARLY_BYTES = 256 * 1024 + 64 * 1024  # a page's largest form, and its head
MOST_EARLY_BYTES = 16 * 1024 * 1024  # of all requests that arrive; the oldest ends if they have more
MOST_ARRIVING = 500  # connections; below worker_connections, so that new ones are accepted

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)
_BY_A_THREAD = re.compile(rb"\r\n(?:transfer-encoding|expect):", re.IGNORECASE)


def has_arrived(request: bytes) -> bool:
    """Whether a thread can take a request that began like this. gunicorn parses it; this only decides when."""
    head, end, body = request.partition(b"\r\n\r\n")
    if not end:
        return len(request) >= EARLY_BYTES
    head += b"\r\n"
    length = _LENGTH.search(head)
    if _BY_A_THREAD.search(head) or length is None or int(length[1]) > EARLY_BYTES:
        return True
    return len(body) >= int(length[1]) or len(request) >= EARLY_BYTES


class Connection(socket.socket):
    """A client's connection. If a thread waits too long for the client, it counts as reset by the client."""

    early = b""  # what the main thread received of the request
    began = 0.0  # when the request began to arrive
    waiting: threading.Semaphore  # how many threads may wait
    _arrived, _waited = 0, 0.0
    _too_slow = False

    def recv(self, size: int, flags: int = 0) -> bytes:
        if self.early:
            data, self.early = self.early[:size], self.early[size:]
            return data
        timeout = self.gettimeout()
        if threading.current_thread() is threading.main_thread():  # gunicorn closes the connection
            self.settimeout(CLOSING_SECONDS)
            return super().recv(size, flags)
        self.settimeout(0)
        try:
            data = super().recv(size, flags)
        except BlockingIOError:
            data = self._wait_for(size, flags, timeout)
        finally:
            self.settimeout(timeout)
        self._arrived += len(data)
        return data

    def _wait_for(self, size: int, flags: int, timeout: float | None) -> bytes:
        if self._too_slow:
            raise ConnectionResetError(errno.ECONNRESET, "The client is too slow.")
        if not self.waiting.acquire(timeout=PLACE_SECONDS):
            self._too_slow = True
            # Not the client's fault, so the API answers with a 503. gunicorn knows the number, and ends without a line.
            raise ConnectionAbortedError(errno.ECONNRESET, "Too many threads wait for clients.")
        started = time.monotonic()
        left = min(SILENT_SECONDS, SILENT_SECONDS + self._arrived / SLOWEST_BYTES_PER_SECOND - self._waited)
        try:
            with self._hangs_up_after(left if timeout is None else timeout, errno.ECONNRESET):
                return super().recv(size, flags)
        finally:
            self.waiting.release()
            self._waited += time.monotonic() - started

    def sendall(self, data: Any, flags: int = 0) -> None:
        with self._hangs_up_after(SILENT_SECONDS + len(data) / SLOWEST_BYTES_PER_SECOND, errno.EPIPE):
            super().sendall(data, flags)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        with self._hangs_up_after(SILENT_SECONDS, errno.EPIPE):
            return super().sendfile(file, offset, count)

    @contextmanager
    def _hangs_up_after(self, seconds: float, number: int) -> Iterator[None]:
        before = self.gettimeout()
        self.settimeout(max(seconds, 0.001))
        try:
            yield
        except TimeoutError:
            self._too_slow = True
            raise OSError(number, "The client is too slow.") from None  # gunicorn ends the connection without a line
        finally:
            if self.fileno() >= 0:
                self.settimeout(before)

    def receive_early(self) -> bool:
        """Receive what is there without waiting. Returns whether a thread can take the request, or its end."""
        try:
            data = super().recv(64 * 1024)
        except BlockingIOError:
            return False
        except OSError:
            return True  # the thread gets the same error
        self.early += data
        return not data or has_arrived(self.early)

    def begin(self, early: bytes) -> None:
        """A request begins, of which `early` was received with the request before it."""
        self.early, self.began = early, time.monotonic()
        self._arrived, self._waited = 0, 0.0


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.arriving: dict[Any, None] = {}  # connections, oldest first
        self.waiting = threading.Semaphore(max(1, self.cfg.threads // 2 - 1))

    def enqueue_req(self, conn: Any) -> None:
        """gunicorn calls it, in the main thread, for each request: as soon as its first byte can be read."""
        if self.cfg.is_ssl:
            super().enqueue_req(conn)
            return
        if not isinstance(conn.sock, Connection):
            conn.sock = Connection(fileno=conn.sock.detach())
            conn.sock.waiting = self.waiting
        conn.sock.begin(conn.parser.unreader.take_buffered() if conn.parser else b"")
        conn.sock.setblocking(False)
        if has_arrived(conn.sock.early):
            self._give_to_thread(conn)
            return
        self.arriving[conn] = None
        self.poller.register(conn.sock, EVENT_READ, partial(self._readable, conn))

    def _readable(self, conn: Any, _: object) -> None:
        if conn.sock.receive_early():
            self._stop_waiting(conn)
            self._give_to_thread(conn)
        while self.arriving and sum(len(each.sock.early) for each in self.arriving) > MOST_EARLY_BYTES:
            self._end(next(iter(self.arriving)))

    def _give_to_thread(self, conn: Any) -> None:
        conn.data_ready = True
        super().enqueue_req(conn)

    def _stop_waiting(self, conn: Any) -> None:
        del self.arriving[conn]
        self.poller.unregister(conn.sock)

    def _end(self, conn: Any) -> None:
        self._stop_waiting(conn)
        self.nr_conns -= 1
        conn.close()

    def murder_pending(self) -> None:
        """gunicorn calls it at least once a second, to end connections on which nothing arrived in time."""
        super().murder_pending()
        until = time.monotonic() - (SILENT_SECONDS if self.alive else STOPPING_SECONDS)
        for conn in list(self.arriving):
            if conn.sock.began < until or len(self.arriving) > MOST_ARRIVING:
                self._end(conn)
            else:
                break
