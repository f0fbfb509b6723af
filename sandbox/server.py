"""HTTP/1.1 on one asyncio loop: small, fast, keep-alive, whole bodies in memory.

Knows nothing about AWS: it passes a ``Request`` to one function and sends the ``Response``, at once or when an
awaitable ends. The function may also return ``Dropped``: then the connection is reset without an answer, as after a
network fault. No TLS, no HTTP/2, no streaming: a body larger than MAX_BODY is refused with 413.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast
from urllib.parse import unquote

MAX_HEAD = 64 * 1024
MAX_BODY = 80 * 1024 * 1024
REASONS = {status.value: status.phrase for status in HTTPStatus}


class Dropped(Exception):
    """Instead of an answer: reset the connection."""


@dataclass(slots=True)
class Request:
    """One request. ``path`` is not decoded, header names are lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    connection: Connection

    @property
    def gone(self) -> asyncio.Event:
        """Set after the client has closed the connection."""
        return self.connection.gone

    @property
    def decoded_path(self) -> str:
        return unquote(self.path)


@dataclass(slots=True)
class Response:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Response | Awaitable[Response]]


class BadRequest(Exception):
    """The data is not a supported HTTP/1.1 request; the answer has this status and the connection ends."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Connection(asyncio.Protocol):
    """One client connection. Handles one request at a time, in order."""

    def __init__(self, handler: Handler, tasks: set[asyncio.Task[None]], connections: set[Connection]) -> None:
        self._handler, self._tasks, self._connections = handler, tasks, connections
        self._buffer = bytearray()
        self._head: tuple[str, str, dict[str, str]] | None = None
        self._chunks = bytearray()
        self._busy = False
        self._gone: asyncio.Event | None = None
        self._lost = False
        self._transport: asyncio.Transport

    # -- called by asyncio --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._busy:
            self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._connections.discard(self)
        if self._gone is not None:
            self._gone.set()

    # -- requests and answers --

    @property
    def gone(self) -> asyncio.Event:
        if self._gone is None:
            self._gone = asyncio.Event()
            if self._lost:
                self._gone.set()
        return self._gone

    def close(self) -> None:
        self._transport.abort()

    def _advance(self) -> None:
        while not self._busy and not self._transport.is_closing():
            try:
                request = self._parse()
            except BadRequest as error:
                self._write(Response(error.status, str(error).encode()), "GET", keep=False)
                return
            if request is None:
                return
            answer = self._handler(request)
            if isinstance(answer, Response):
                self._write(answer, request.method, _keeps(request))
            else:
                self._busy = True
                task = asyncio.ensure_future(self._later(answer, request))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _later(self, answer: Awaitable[Response], request: Request) -> None:
        try:
            self._write(await answer, request.method, _keeps(request))
        except Dropped:
            self._reset()
        self._busy = False
        self._advance()

    def _reset(self) -> None:
        sock = self._transport.get_extra_info("socket")
        if sock is not None and not self._lost:  # linger 0: the client gets a reset, not a normal end
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _write(self, response: Response, method: str, keep: bool) -> None:
        if self._transport.is_closing():
            return
        status = response.status
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        if "Content-Length" not in response.headers and status != 204:
            lines.append(f"Content-Length: {len(response.body)}")
        lines.append("\r\n" if keep else "Connection: close\r\n\r\n")
        head = "\r\n".join(lines).encode("latin-1")
        self._transport.write(head if method == "HEAD" else head + response.body)
        if not keep:
            self._transport.close()

    def _parse(self) -> Request | None:
        """The next complete request; None until more bytes arrive."""
        if self._head is None:
            self._head = self._parse_head()
        if self._head is None:
            return None
        method, target, headers = self._head
        if "chunked" in headers.get("transfer-encoding", "").lower():
            body = self._dechunk()
            if body is None:
                return None
        else:
            length = int(headers.get("content-length") or 0)
            if len(self._buffer) < length:
                return None
            body = bytes(self._buffer[:length])
            del self._buffer[:length]
        self._head = None
        path, _, query = target.partition("?")
        return Request(method, path, query, headers, body, self)

    def _parse_head(self) -> tuple[str, str, dict[str, str]] | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if self._buffer[:1] == b"\x16":  # a TLS hello: a client that tries https first goes on with http
                raise BadRequest(400, "no TLS here")
            if len(self._buffer) > MAX_HEAD:
                raise BadRequest(431, "headers too large")
            return None
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        first = lines[0].split(" ")
        if len(first) != 3 or not first[2].startswith("HTTP/1."):
            raise BadRequest(400, "not an HTTP/1.1 request")
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            name, value = name.lower(), value.strip()
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            raise BadRequest(400, "bad Content-Length")
        if int(length) > MAX_BODY:
            raise BadRequest(413, f"bodies end at {MAX_BODY} bytes here")
        if headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        headers.setdefault("connection", "close" if first[2] == "HTTP/1.0" else "keep-alive")
        target = first[1]
        if target.startswith(("http://", "https://")):  # the absolute form, which clients send to proxies
            target = "/" + target.split("/", 3)[3] if target.count("/") > 2 else "/"
        return first[0], target, headers

    def _dechunk(self) -> bytes | None:
        while True:
            end = self._buffer.find(b"\r\n")
            if end < 0:
                return None
            try:
                size = int(self._buffer[:end].split(b";")[0], 16)
            except ValueError:
                raise BadRequest(400, "bad chunk") from None
            if len(self._chunks) + size > MAX_BODY:
                raise BadRequest(413, f"bodies end at {MAX_BODY} bytes here")
            if len(self._buffer) < end + 2 + size + 2:
                return None
            self._chunks += self._buffer[end + 2 : end + 2 + size]
            del self._buffer[: end + 2 + size + 2]
            if size == 0:
                body = bytes(self._chunks)
                self._chunks.clear()
                return body


def _keeps(request: Request) -> bool:
    return request.headers["connection"].lower() != "close"


class Server:
    """Listens on one address until closed."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()
        self._server: asyncio.Server

    async def start(self, host: str, port: int) -> int:
        """Starts to listen and returns the port. For port 0 the kernel chooses it."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._handler, self._tasks, self._connections), host, port, backlog=1024
        )
        address: tuple[str, int] = self._server.sockets[0].getsockname()
        return address[1]

    async def close(self) -> None:
        """Stops at once and closes the connections of clients that still wait for an answer."""
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        for connection in list(self._connections):
            connection.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
