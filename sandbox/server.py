"""HTTP/1.1 on one asyncio loop, with or without TLS: small, fast, keep-alive.

Knows nothing about AWS: it passes a ``Request`` to one function and sends the ``Response``, at once or when an
awaitable ends. The function may also raise ``Dropped``: then the connection is reset without an answer, as after a
network fault. Memory is bounded: a large body goes to a file as it arrives (``Content``), and leaves it in pieces that
wait for a slow client. A body beyond its limit is read to its end and not kept, because a client that still sends may
not read an answer; the function gets the request with ``too_large``. No HTTP/2.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast
from urllib.parse import unquote

from sandbox.content import IN_MEMORY, Content

MAX_HEAD = 64 * 1024
CLOSE = "Connection: close\r\n"
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
    content: Content
    connection: Connection
    scheme: str = "http"
    too_large: bool = False

    @property
    def body(self) -> bytes:
        """The whole body, in memory. A layer is read from ``content``."""
        return self.content.read()

    @property
    def origin(self) -> str:
        """Scheme, host and port, as the client names them."""
        return f"{self.scheme}://{self.headers.get('host', '')}"

    @property
    def gone(self) -> asyncio.Event:
        """Set after the client has closed the connection."""
        return self.connection.gone

    @property
    def decoded_path(self) -> str:
        return unquote(self.path)


@dataclass(slots=True)
class Response:
    """One answer. ``large``: its body, in pieces, instead of ``body``; then ``headers`` has its Content-Length."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    large: Iterator[bytes] | None = None


Handler = Callable[[Request], Response | Awaitable[Response]]
Limit = Callable[[str], int]


class BadRequest(Exception):
    """The data is not a supported HTTP/1.1 request; the answer has this status and the connection ends."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Connection(asyncio.Protocol):
    """One client connection. Handles one request at a time, in order."""

    def __init__(
        self,
        handler: Handler,
        limit: Limit,
        scheme: str,
        tasks: set[asyncio.Task[None]],
        connections: set[Connection],
    ) -> None:
        self._handler, self._limit, self._scheme = handler, limit, scheme
        self._tasks, self._connections = tasks, connections
        self._buffer = bytearray()
        self._head: tuple[str, str, dict[str, str]] | None = None
        self._content: Content | None = None  # of a body that arrives in parts
        self._left = 0  # bytes that are still to come, of that body or of its chunk
        self._chunked = self._in_chunk = False
        self._too_large = False
        self._busy = False
        self._writable: asyncio.Future[None] | None = None  # while the client reads too slowly
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
        self.resume_writing()

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

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
            except OSError as error:  # of the file of a large body
                self._write(Response(507, f"cannot keep the body: {error}".encode()), "GET", keep=False)
                return
            if request is None:
                return
            answer = self._handler(request)
            if isinstance(answer, Response) and answer.large is None:
                self._write(answer, request.method, _keeps(request))
            else:
                self._busy = True
                task = asyncio.ensure_future(self._later(answer, request))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _later(self, answer: Response | Awaitable[Response], request: Request) -> None:
        try:
            response = answer if isinstance(answer, Response) else await answer
            if response.large is None or request.method == "HEAD":
                self._write(response, request.method, _keeps(request))
            else:
                await self._write_large(response, response.large, _keeps(request))
        except Dropped:
            self._reset()
        self._busy = False
        self._advance()

    def _reset(self) -> None:
        sock = self._transport.get_extra_info("socket")
        if sock is not None and not self._lost:  # linger 0: the client gets a reset, not a normal end
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def _write_large(self, response: Response, pieces: Iterator[bytes], keep: bool) -> None:
        self._write(response, "HEAD", keep=True)
        for piece in pieces:
            if self._transport.is_closing():
                return
            self._transport.write(piece)
            if self._writable is not None:
                await self._writable
        if not keep:
            self._transport.close()

    def _write(self, response: Response, method: str, keep: bool) -> None:
        if self._transport.is_closing():
            return
        status, headers = response.status, response.headers
        text = f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}\r\n"
        for name, value in headers.items():
            text += f"{name}: {value}\r\n"
        if "Content-Length" not in headers and status != 204:
            text += f"Content-Length: {len(response.body)}\r\n"
        head = f"{text}{'' if keep else CLOSE}\r\n".encode("latin-1")
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
        content = self._body(target, headers)
        if content is None:
            return None
        self._head, too_large, self._too_large = None, self._too_large, False
        path, _, query = target.partition("?")
        return Request(method, path, query, headers, content, self, self._scheme, too_large)

    def _body(self, target: str, headers: Mapping[str, str]) -> Content | None:
        """The body of the request with this head; None until more bytes arrive."""
        if self._content is None:
            encoding = headers.get("transfer-encoding")
            chunked = encoding is not None and "chunked" in encoding.lower()
            length = 0 if chunked else int(headers.get("content-length") or 0)
            if length <= IN_MEMORY and not chunked:
                if len(self._buffer) < length:
                    return None
                content = Content(bytes(self._buffer[:length]))
                del self._buffer[:length]
                return content
            self._content, self._left, self._chunked = Content(), length, chunked
        limit = self._limit(target.partition("?")[0])
        complete = self._dechunk(limit) if self._chunked else self._take(limit)
        if not complete:
            return None
        content, self._content = self._content, None
        return content

    def _take(self, limit: int) -> bool:
        """Moves bytes that have arrived from the buffer to the body. True if none is still to come."""
        part = self._buffer[: self._left]
        del self._buffer[: len(part)]
        self._left -= len(part)
        if self._content is not None and self._content.size + len(part) > limit:
            self._too_large = True
        if self._too_large:
            self._content = Content()
        elif self._content is not None:
            self._content.append(part)
        return not self._left

    def _dechunk(self, limit: int) -> bool:
        while True:
            if self._in_chunk:
                if not self._take(limit) or len(self._buffer) < 2:
                    return False
                del self._buffer[:2]
                self._in_chunk = False
            end = self._buffer.find(b"\r\n", 0, MAX_HEAD)
            if end < 0 and len(self._buffer) < MAX_HEAD:
                return False
            try:
                size = int(self._buffer[: max(end, 0)].split(b";")[0], 16)
            except ValueError:
                size = -1
            if size < 0:
                raise BadRequest(400, "bad chunk")
            if size == 0:
                if len(self._buffer) < end + 4:
                    return False
                del self._buffer[: end + 4]
                return True
            del self._buffer[: end + 2]
            self._left, self._in_chunk = size, True

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
        if not headers.get("content-length", "0").isdecimal():
            raise BadRequest(400, "bad Content-Length")
        if "expect" in headers and headers["expect"].lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        headers.setdefault("connection", "close" if first[2] == "HTTP/1.0" else "keep-alive")
        target = first[1]
        if target.startswith(("http://", "https://")):  # the absolute form, which clients send to proxies
            target = "/" + target.split("/", 3)[3] if target.count("/") > 2 else "/"
        return first[0], target, headers


def _keeps(request: Request) -> bool:
    return request.headers["connection"].lower() != "close"


class Server:
    """Listens on one address until closed."""

    def __init__(self, handler: Handler, limit: Limit, tls: ssl.SSLContext | None = None) -> None:
        """``limit``: the largest body that a path takes, in bytes; at least IN_MEMORY."""
        self._handler, self._limit, self._tls = handler, limit, tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()
        self._server: asyncio.Server

    async def start(self, host: str, port: int) -> int:
        """Starts to listen and returns the port. For port 0 the kernel chooses it."""
        loop = asyncio.get_running_loop()
        scheme = "https" if self._tls else "http"
        self._server = await loop.create_server(
            lambda: Connection(self._handler, self._limit, scheme, self._tasks, self._connections),
            host,
            port,
            backlog=1024,
            ssl=self._tls,
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
