"""When a thread gets a request, and how long it waits for a client. tests/e2e/test_bodies.py tries it with gunicorn."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from registry_admin import slow_clients
from registry_admin.slow_clients import EARLY_BYTES, Connection, has_arrived

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    ("request_", "arrived"),
    [
        (b"", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (HEAD + b"Content-Length: 3\r\n\r\nab", False),
        (HEAD + b"Content-Length: 3\r\n\r\nabc", True),
        (HEAD + b"content-length:3\r\n\r\nab", False),
        (HEAD + b"X: \r\n\r\nContent-Length: 3\r\n\r\n", True),  # in the body, not in the head
        (HEAD + b"Content-Length: 99999999\r\n\r\n", True),  # refused, or read after the key was checked
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", True),
        (HEAD + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n", True),  # waits for an answer
        (b"x" * EARLY_BYTES, True),
    ],
)
def test_a_thread_gets_a_request_when_its_head_and_small_body_have_arrived(request_: bytes, arrived: bool) -> None:
    assert has_arrived(request_) is arrived


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    ours, client = socket.socketpair()
    connection = Connection(fileno=ours.detach())
    connection.waiting = threading.Semaphore(1)
    with connection, client:
        yield connection, client


def in_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(call).result(10)


def test_what_arrived_early_is_received_first(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    connection.begin(b"abc")
    client.sendall(b"d")

    assert [in_thread(lambda: connection.recv(2)) for _ in range(3)] == [b"ab", b"c", b"d"]


def test_a_silent_client_counts_as_one_that_hung_up(
    pair: tuple[Connection, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_clients, "SILENT_SECONDS", 0.01)

    for _ in range(2):  # the second time at once
        with pytest.raises(ConnectionResetError):
            in_thread(lambda: pair[0].recv(1))


def test_a_client_that_sends_a_byte_now_and_then_is_too_slow(
    pair: tuple[Connection, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = pair[0]
    connection.begin(b"")
    connection._waited = slow_clients.SILENT_SECONDS  # as after many bytes, each shortly before the limit
    assert connection._arrived / slow_clients.SLOWEST_BYTES_PER_SECOND == 0

    with pytest.raises(ConnectionResetError):
        in_thread(lambda: connection.recv(1))


def test_a_client_that_does_not_read_counts_as_one_that_hung_up(
    pair: tuple[Connection, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_clients, "SILENT_SECONDS", 0.01)
    monkeypatch.setattr(slow_clients, "SLOWEST_BYTES_PER_SECOND", 2**40)

    with pytest.raises(BrokenPipeError) as found:
        in_thread(lambda: pair[0].sendall(b"x" * 8 * 2**20))

    assert found.value.errno == errno.EPIPE


def test_no_thread_waits_for_a_client_while_as_many_wait_as_may(
    pair: tuple[Connection, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, client = pair
    monkeypatch.setattr(slow_clients, "PLACE_SECONDS", 0.01)
    connection.waiting.acquire()
    client.sendall(b"a")

    assert in_thread(lambda: connection.recv(1)) == b"a"  # what is there needs no wait
    with pytest.raises(ConnectionAbortedError) as found:  # the server's doing: the API answers with a 503
        in_thread(lambda: connection.recv(1))
    assert found.value.errno == errno.ECONNRESET  # gunicorn ends such a connection without a line
