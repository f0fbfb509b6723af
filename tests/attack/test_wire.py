"""Raw requests to a real gunicorn: headers that name another path or address, and requests that two servers would read
in two ways.
"""

from __future__ import annotations

import http.client
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sandbox.control import Sandbox
from tests.attack.attacker import Sent
from tests.e2e.installation import Installation
from tests.support import prepared

KIND = "raw requests to gunicorn"
pytestmark = pytest.mark.slow
PROXIED = "203.0.113.7"


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with Sandbox.start() as sandbox:
        made = Installation(folder=tmp_path_factory.mktemp("attacked"), sandbox=sandbox)
        prepared.migrate(made.database)
        with made.serving(TRUSTED_PROXIES="1", LOG_LEVEL="DEBUG") as made.origin:
            yield made


def raw(installation: Installation, sent: Sent, request: bytes) -> bytes:
    """Everything that is answered to these bytes, until the server closes the connection or is silent for a second."""
    sent.count()
    parts = urlsplit(installation.origin)
    with closing(socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20)) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except (ConnectionResetError, TimeoutError):
            pass
        return answer


def statuses(answer: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"^HTTP/1\.[01] (\d{3})", answer, re.MULTILINE)]


def get(path: str, *headers: str, host: str = "localhost") -> bytes:
    lines = (f"GET {path} HTTP/1.1", f"Host: {host}", *headers, "Connection: close", "", "")
    return "\r\n".join(lines).encode("latin-1")


# ---------------------------------------------------------------------------------------------------- paths and hosts

MOVES = (
    "SCRIPT_NAME", "SCRIPT-NAME", "script_name", "PATH_INFO", "PATH-INFO", "REQUEST_URI", "RAW_URI", "X-Original-URL",
    "X-Rewrite-URL", "X-Forwarded-Prefix", "X-Script-Name", "wsgi.input",
)  # fmt: skip


@pytest.mark.attack(sample=4)
@pytest.mark.parametrize("header", MOVES)
def test_no_header_moves_the_path_of_a_request(header: str, installation: Installation, sent: Sent) -> None:
    for value in ("/api", "/healthz", "/evil", "/admin/login/", "//evil.example"):
        moved = raw(installation, sent, get("/api/admin/login/", f"{header}: {value}"))
        assert statuses(moved) == [404], f"{header}: {value}"
        plain = raw(installation, sent, get("/healthz", f"{header}: {value}"))
        assert statuses(plain) == [200], f"{header}: {value}"
        login = raw(installation, sent, get("/admin/", f"{header}: {value}"))
        assert b"\r\nLocation: /admin/login/?next=/admin/\r\n" in login, f"{header}: {value}"


HOSTS = (
    "evil.example", "evil.example:80", "localhost.evil.example", "localhost@evil.example", "evil.example/localhost",
    "localhost, evil.example", "localhost\tevil.example", "", "[::1].evil.example", "*", "localhost#.evil.example",
)  # fmt: skip


@pytest.mark.attack(sample=2)
@pytest.mark.parametrize("host", HOSTS)
def test_a_host_that_is_not_ours_is_refused(host: str, installation: Installation, sent: Sent) -> None:
    for path in ("/admin/login/", "/admin/", "/api/v2/whoami", "/nothing"):
        answer = raw(installation, sent, get(path, host=host))
        assert statuses(answer) in ([400], [404]), f"Host: {host}"
        assert b"evil.example" not in answer


@pytest.mark.attack(sample=2)
@pytest.mark.parametrize(
    "headers",
    [
        (f"X-Forwarded-For: 6.6.6.6, {PROXIED}",),
        (f"X-Forwarded-For: 6.6.6.6, 6.6.6.7,{PROXIED}",),
        (f"X-Forwarded-For: {PROXIED}",),
        ("X-Forwarded-For: 6.6.6.6", f"X-Forwarded-For: {PROXIED}"),
        (f"X-Forwarded-For: {PROXIED}", "X_Forwarded_For: 6.6.6.6"),
        (f"X-Forwarded-For: {PROXIED}", "X-Real-IP: 6.6.6.6", "Forwarded: for=6.6.6.6", "Client-IP: 6.6.6.6"),
        (f"X-Forwarded-For: 6.6.6.6,{PROXIED}", "REMOTE_ADDR: 6.6.6.6", "Remote-Addr: 6.6.6.6"),
    ],
)
def test_the_address_of_a_client_is_the_one_that_the_proxy_appended(
    headers: tuple[str, ...], installation: Installation, sent: Sent
) -> None:
    target = installation.new_target()

    answer = raw(
        installation, sent, get("/api/v1/deployments", f"Authorization: Bearer {target.keys['prod']}", *headers)
    )

    assert statuses(answer) == [200]
    with closing(sqlite3.connect(f"file:{installation.database}?mode=ro", uri=True)) as rows:
        uses = rows.execute("SELECT last_used_at, last_used_by FROM deployments_accesskey WHERE last_used_by <> ''")
        _, used = max(uses)
    assert used.endswith(f" at {PROXIED}")
    assert "6.6.6" not in used


# ----------------------------------------------------------------------------------------------------------- smuggling

_NEXT = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
_POST = b"POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\n"
#: Name → what stands between the first line with its Host and the smuggled request.
AMBIGUOUS: dict[str, bytes] = {
    "a length and chunks": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 4\r\n\r\n",
    "two lengths in one header": b"Content-Length: 0, 4\r\n\r\n",
    "a length with a plus": b"Content-Length: +0\r\n\r\n",
    "a negative length": b"Content-Length: -1\r\n\r\n",
    "a length in hex": b"Content-Length: 0x0\r\n\r\n",
    "a length with an underscore": b"Content-Length: 0_0\r\n\r\n",
    "a length of other digits": "Content-Length: \u0660\r\n\r\n".encode(),
    "a length with a blank before the colon": b"Content-Length : 0\r\n\r\n",
    "a length after a line feed only": b"X: y\nContent-Length: 0\r\n\r\n",
    "a folded header": b"X: y\r\n Content-Length: 0\r\n\r\n",
    "a NUL in a header": b"X: y\0z\r\nContent-Length: 0\r\n\r\n",
    "a carriage return in a header": b"X: y\rContent-Length: 0\r\n\r\n",
    "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked, then identity": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "identity, then chunked": b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a coding with a tab": b"Transfer-Encoding:\tchunked\x0b\r\n\r\n0\r\n\r\n",
    "a coding with a blank before the colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "gzip and chunks": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an underscore for the dash": b"Transfer_Encoding: chunked\r\nContent_Length: 4\r\n\r\n0\r\n\r\n",
    "a chunk with a negative size": b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "a chunk with a prefix": b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
    "a chunk with an underscore": b"Transfer-Encoding: chunked\r\n\r\n0_0\r\n\r\n",
    "a chunk with a line feed only": b"Transfer-Encoding: chunked\r\n\r\n1;x=\n0\r\nA\r\n0\r\n\r\n",
    "a trailer with a length": b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 40\r\n\r\n",
    "two hosts": b"Host: evil.example\r\nContent-Length: 0\r\n\r\n",
    "a header without a name": b": y\r\nContent-Length: 0\r\n\r\n",
    "a header without a colon": b"X\r\nContent-Length: 0\r\n\r\n",
}  # fmt: skip
#: The first request is refused, and the connection ends.
REFUSED: tuple[list[int], ...] = ([], [400], [411], [413], [431], [501])
#: What RFC 9112 lets a server read in one way only, with the answers to both requests.
READ_IN_ONE_WAY = {
    "identity, then chunked": [411, 404],  # chunked is the last coding
    "an underscore for the dash": [403, 400],  # other headers, so there is no body, and a chunk is no request
}
#: First lines, paths and sizes.
LINES = {
    "no version": b"GET /healthz\r\n\r\n",
    "version 0.9": b"GET /healthz HTTP/0.9\r\n\r\n",
    "version 2": b"GET /healthz HTTP/2.0\r\nHost: localhost\r\n\r\n",
    "version 1.10": b"GET /healthz HTTP/1.10\r\nHost: localhost\r\n\r\n",
    "an absolute address of another host": b"GET http://evil.example/admin/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "two blanks": b"GET  /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a method in small letters": b"get /admin/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TRACE": b"TRACE /admin/ HTTP/1.1\r\nHost: localhost\r\nX-Secret: canary-secret\r\n\r\n",
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path to a file": b"GET /static/../../registry_admin/settings.py HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an encoded path to a file": b"GET /static/%2e%2e/%2e%2e/manage.py HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path with a NUL": b"GET /static/%00.css HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path with a line break": b"GET /admin/%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an endless first line": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "200 headers": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(200)) + b"\r\n",
    "a header of 64 KiB": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 65536 + b"\r\n\r\n",
    "a TLS hello": bytes.fromhex("16030100a5010000a10303") + b"\0" * 150,
}


@pytest.mark.attack(sample=8)
@pytest.mark.parametrize("name", AMBIGUOUS)
def test_a_request_that_can_be_read_in_two_ways_hides_no_second_one(
    name: str, installation: Installation, sent: Sent
) -> None:
    answer = raw(installation, sent, _POST + AMBIGUOUS[name] + _NEXT)

    found = statuses(answer)
    assert found in REFUSED or found == READ_IN_ONE_WAY.get(name), found
    assert _is_alive(installation)


@pytest.mark.attack(sample=4)
@pytest.mark.parametrize("name", LINES)
def test_a_strange_request_is_refused_or_harmless(name: str, installation: Installation, sent: Sent) -> None:
    answer = raw(installation, sent, LINES[name])

    assert all(status < 500 or status == 501 or status == 505 for status in statuses(answer)), answer[:200]
    head = answer.partition(b"\r\n\r\n")[0]
    assert b"\r\nSet-Cookie: a=b" not in head
    for text in (b"canary-secret", b"INSTALLED_APPS", b"DJANGO_SETTINGS_MODULE", b"evil.example"):
        assert text not in answer
    assert _is_alive(installation)


def _is_alive(installation: Installation) -> bool:
    parts = urlsplit(installation.origin)
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)) as connection:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200


@pytest.mark.attack
def test_no_raw_request_has_put_a_line_of_its_own_into_the_log(installation: Installation, sent: Sent) -> None:
    for text in ("%0aforged", "%0d%0aforged", "%1b[31mforged", "%e2%80%a8forged"):
        raw(installation, sent, get(f"/{text}", f"User-Agent: {text}", f"X-Request-ID: {text}"))
        raw(installation, sent, get("/", "User-Agent: \x1b[31mforged\x85forged", "X-Request-ID: a b"))

    lines = Path(installation.log).read_text().splitlines()
    assert [line for line in lines if not line.startswith("{")] == []
    assert "\x1b" not in "".join(lines)
