"""A closed loop of HTTP requests from a process of its own: each connection sends its next request after its answer.

`load` starts the process and returns what it saw. One thread with a selector and raw sockets takes some 0.05 ms of CPU
a request, so that the server under test keeps the machine. (wrk takes less, and is not on every machine; a ratio of two
figures needs the same generator for both.)
"""

from __future__ import annotations

import json
import selectors
import socket
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REST_SECONDS = 0.5  # after a refusal, such as 503: as the CLI does
UNIQUE = b"@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@"  # in each request, this is replaced by a new UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one run of load saw. Times are in milliseconds, of answers with 200."""

    rate: float  # answers with 200, a second
    p50: float
    p99: float
    answered: int
    refused: dict[str, int]  # status → answers


def load(port: int, requests: Sequence[bytes], *, connections: int, seconds: float, total: int = 0) -> Seen:
    """Send the requests in turn from another process, over and over for `seconds`, and at least `total` of them.

    Raises RuntimeError if none gets a 200.
    """
    order = {
        "port": port,
        "requests": [each.decode() for each in requests],
        "connections": connections,
        "seconds": seconds,
        "total": total,
    }
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        cwd=ROOT, input=json.dumps(order), stdout=subprocess.PIPE, text=True, timeout=seconds + 120, check=True,
    )  # fmt: skip
    seen = json.loads(done.stdout)
    if not seen["answered"]:
        raise RuntimeError(f"No request was answered with 200: {seen}")
    return Seen(**seen)


def request(path: str, *, port: int, key: str, body: dict[str, object]) -> bytes:
    """A request to begin a deployment, as a CLI of version 4 sends it."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost:{port}\r\nAuthorization: Bearer {key}\r\n"
        "Content-Type: application/json\r\nx-trigger-cli-version: 4.8.3\r\nx-trigger-source: cli\r\n"
        f"x-trigger-request-idempotency-key: {UNIQUE.decode()}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


class _Connection:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began = 0.0
        self.received = b""

    def send(self, request: bytes) -> None:
        self.received = b""
        self.began = time.perf_counter()
        self.socket.sendall(request.replace(UNIQUE, str(uuid.uuid4()).encode()))

    def status(self) -> str:
        """The status of the answer when all of it has arrived, else empty."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionResetError
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return ""
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        return head[9:12].decode() if len(body) >= length else ""


def _run(port: int, requests: list[bytes], connections: int, seconds: float, total: int) -> dict[str, object]:
    times: list[float] = []
    refused: dict[str, int] = {}
    number = 0
    selector = selectors.DefaultSelector()
    open_ones = [_Connection(port) for _ in range(connections)]
    started = time.perf_counter()
    for each in open_ones:
        selector.register(each.socket, selectors.EVENT_READ, each)
        each.send(requests[number % len(requests)])
        number += 1
    waiting = len(open_ones)
    resting: list[tuple[float, _Connection]] = []  # (until when, which)
    heard = time.perf_counter()
    while waiting:
        now = time.perf_counter()
        while resting and resting[0][0] <= now:
            resting.pop(0)[1].send(requests[number % len(requests)])
            number += 1
        ready_ones = selector.select(timeout=max(0.0, resting[0][0] - now) if resting else 10)
        if not ready_ones and now - heard > 30:
            sys.exit("no answer within 30 s")
        for ready, _ in ready_ones:
            heard = now
            connection: _Connection = ready.data
            try:
                status = connection.status()
            except ConnectionResetError:
                selector.unregister(connection.socket)
                connection.socket.close()
                connection.__init__(port)  # type: ignore[misc]
                selector.register(connection.socket, selectors.EVENT_READ, connection)
                status = "reset"
            if not status:
                continue
            now = time.perf_counter()
            if status == "200":
                times.append((now - connection.began) * 1000)
            else:
                refused[status] = refused.get(status, 0) + 1
                if now - started >= seconds + 30:
                    sys.exit(f"refused to the end: {refused}")
                resting.append((now + REST_SECONDS, connection))
                continue
            if now - started < seconds or number < total:
                connection.send(requests[number % len(requests)])
                number += 1
            else:
                waiting -= 1
    took = time.perf_counter() - started
    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else [0.0] * 99
    return {
        "rate": len(times) / took,
        "p50": cuts[49],
        "p99": cuts[98],
        "answered": len(times),
        "refused": refused,
    }


def main() -> None:
    order = json.load(sys.stdin)
    requests = [each.encode() for each in order["requests"]]
    print(json.dumps(_run(order["port"], requests, order["connections"], order["seconds"], order["total"])))


if __name__ == "__main__":
    main()
