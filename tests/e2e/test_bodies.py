"""The memory of a web process under the largest bodies that it accepts, and slow clients, with gunicorn as shipped."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deployments.api.bodies import KIB, LARGE_AT_ONCE, MAX_VALUES, MIB
from tests.e2e.installation import Installation, Target, request
from tests.support.cli import HASH

pytestmark = pytest.mark.slow
MOST_MEMORY_BYTES = 300 * MIB
AT_ONCE = 16


def peak_bytes(installation: Installation, origin: str) -> int:
    """The largest resident size that one of the web processes has had, as Linux counts it."""
    port = urlsplit(origin).port
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            environment = (status.parent / "environ").read_bytes()
            peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
            if f"APP_ORIGIN=http://localhost:{port}".encode() in environment and peak:
                found.append(int(peak[1]) * KIB)
    assert found
    return max(found)


def post(origin: str, path: str, body: bytes, **headers: str) -> int:
    parts = urlsplit(origin)
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)) as connection:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        with suppress(BrokenPipeError, ConnectionResetError):  # refused before it was read
            connection.request("POST", path, body, {"Connection": "close", **sent})
        try:
            return connection.getresponse().status
        except (ConnectionResetError, BrokenPipeError):
            return 413


def report(*, contents: bytes = b"", queues: bytes = b"[]", more: bytes = b"0") -> bytes:
    return (
        b'{"metadata":{"contentHash":"%s","packageVersion":"1","tasks":[],"queues":%s,'
        b'"sourceFiles":[{"contents":"%s"}]},"x":%s}' % (HASH.encode(), queues, contents, more)
    )


def unique_keys(count: int) -> bytes:
    return b"{%s}" % b",".join(b'"k%x":%d.5' % (number, number) for number in range(count))


_FREE = MAX_VALUES - 50
REPORTS: dict[str, Callable[[], bytes]] = {
    "contents of 63 MiB": lambda: report(contents=b"x" * 63 * MIB),
    "contents of 63 MiB of escapes": lambda: report(contents=b"\\n" * (63 * MIB // 2)),
    "contents and one wide character": lambda: report(
        contents=b"x" * 59 * MIB, more=b'"%s"' % ("👍".encode() * 750_000)
    ),
    "as many unique keys as are allowed": lambda: report(more=unique_keys(_FREE)),
    "as many objects as are allowed": lambda: report(more=b"[%s]" % b",".join([b'{"a":0}'] * (_FREE // 2 - 10))),
    "as many as are allowed, in queues": lambda: report(
        queues=b"[%s]" % b",".join(b'{"a%x":[[],{}]}' % number for number in range(9_999)),
        more=unique_keys(MAX_VALUES // 2),
    ),
    "just below what needs a place": lambda: report(more=unique_keys(16_000)),
    "all of it": lambda: report(
        contents=b"x" * 57 * MIB, more=b'["%s",%s]' % ("👍".encode() * 150_000, unique_keys(_FREE - 50))
    ),
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_web_process_stays_below_300_mib_with_the_largest_reports(
    installation: Installation, target: Target, name: str, record_property: Callable[[str, object], None]
) -> None:
    body = REPORTS[name]()
    with installation.serving() as origin:
        deployments = [
            target.api("POST", "/api/v1/deployments", {"contentHash": HASH, "type": "MANAGED"})["id"]
            for _ in range(AT_ONCE)
        ]
        fresh = peak_bytes(installation, origin)
        with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            statuses = list(
                pool.map(
                    lambda deployment: post(
                        origin, f"/api/v1/deployments/{deployment}/background-workers", body,
                        Content_Type="application/json", Authorization=f"Bearer {target.keys['prod']}",
                    ),
                    deployments,
                )
            )  # fmt: skip
        peak = peak_bytes(installation, origin)
    record_property("peak", peak)
    print(f"{name}: {len(body) / MIB:.1f} MiB, fresh {fresh // MIB} MiB, peak {peak // MIB} MiB, {sorted(statuses)}")

    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= LARGE_AT_ONCE
    assert peak < MOST_MEMORY_BYTES


@pytest.mark.parametrize("size", [256 * KIB, 63 * MIB])
@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_a_web_process_stays_below_300_mib_with_forms_of_anybody(
    installation: Installation, size: int, content_type: str
) -> None:
    if content_type.startswith("multipart"):
        field = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n%s\r\n'
        body = field % (b"a" * (size - 200)) + b"--x--\r\n"
    else:
        body = b"a=" + b"%41" * ((size - 2) // 3)
    with installation.serving() as origin, ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        fresh = peak_bytes(installation, origin)
        statuses = list(
            pool.map(
                lambda _: post(
                    origin, "/admin/login/", body, Content_Type=content_type, Cookie=f"csrftoken={'a' * 32}"
                ),
                range(AT_ONCE * 4),
            )
        )
        peak = peak_bytes(installation, origin)
    print(f"{size // KIB} KiB {content_type}: fresh {fresh // MIB} MiB, peak {peak // MIB} MiB, {set(statuses)}")

    assert set(statuses) == ({403} if size <= 256 * KIB else {413})
    assert peak < MOST_MEMORY_BYTES


HALF = {
    "silent": b"",
    "half a line": b"GET /heal",
    "half a head": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    "a form that does not come": b"POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\na=",
    "a chunked form that does not come": (
        b"POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n"
    ),
    "an expected form that does not come": (
        b"POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    ),
    "half a head after a request": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /heal",
}


@pytest.mark.parametrize("sent", HALF.values(), ids=list(HALF))
def test_clients_that_send_half_a_request_do_not_stop_the_server(installation: Installation, sent: bytes) -> None:
    with installation.serving() as origin, ExitStack() as held:
        for _ in range(64):
            connection = socket.create_connection(("127.0.0.1", urlsplit(origin).port or 0))
            held.enter_context(closing(connection)).sendall(sent)
        statuses = [request("GET", f"{origin}/healthz", timeout=25)[0] for _ in range(20)]
        pages = [request("GET", f"{origin}/admin/login/", timeout=25)[0] for _ in range(4)]

    assert (set(statuses), set(pages)) == ({200}, {200})
