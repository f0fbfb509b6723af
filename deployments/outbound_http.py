"""Requests to URLs that people entered: over TLS, to public IP addresses only.

`post` sends a message. `access.openid` asks an issuer with a client of its own, by the rules of `parse` and
`addresses`.

A person who may set a webhook's URL could make this server send requests to hosts that only this server can reach: a
cloud's metadata service, a database, another tenant (SSRF). So the host name is resolved once, every address of the
host must be public (also the address inside a mapped, 6to4, Teredo or NAT64 address), and the connection goes to an
address that was checked. No redirect is followed, no proxy is used, and only the status of the answer is read. With
`allow_private` (a setting) private networks are allowed, also over plain HTTP; link-local and metadata addresses are
never allowed.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 5.0  # for the name resolution, the connection and the answer together
MAX_ANSWER_BYTES = 64 * 1024  # the most that is read of an answer
ALLOWED_PORTS = (443, 8443)
MAX_ADDRESS_CHARACTERS = 500  # the limit of the database column
ALLOWED_BY = "NOTIFY_ALLOW_PRIVATE=1 allows it"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _networks(*texts: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


#: A list, because `is_global` differs between Python versions (for NAT64, 6to4 and multicast).
_NEVER = _networks(
    "0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
    "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32",  # metadata of Alibaba, Azure, Oracle
    "::/128", "fe80::/10", "ff00::/8",
    "fd00:ec2::/32", "fd20:ce::254/128",  # metadata of AWS, Google
    "64:ff9b:1::/48",  # local-use NAT64 (RFC 8215), which may contain any IPv4 address
)  # fmt: skip
_PRIVATE = _networks(
    "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24",
    "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "2001::/23", "2001:db8::/32", "3fff::/20",
)  # fmt: skip
_UNICAST = ipaddress.IPv6Network("2000::/3")  # global unicast; other IPv6 addresses are private or reserved
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(slots=True, kw_only=True)
class Undeliverable(Exception):
    """The message was not delivered. `str()` says why, without the URL and without text of the receiver.

    `permanent`: a retry fails until somebody changes the URL or the setting. `answered`: the receiver answered and
    refused this message, so it may accept other messages.
    """

    reason: str
    permanent: bool = False
    answered: bool = False

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A URL that `parse` allowed."""

    https: bool
    host: str  # the name for TLS and for the Host header
    port: int
    path: str


def parse(url: str, *, allow_private: bool = False, allowed_by: str = ALLOWED_BY) -> Destination:
    """Check a URL without resolving its host. Raises Undeliverable (permanent) if the URL is not allowed.

    `allowed_by`: what would allow a private address, for the sentence.
    """
    if not url:
        raise _no("The address is empty.")
    if len(url) > MAX_ADDRESS_CHARACTERS or not re.fullmatch(r"[!-~]+", url) or "\\" in url:
        raise _no("The address is too long, or has a character that is not allowed in a URL.")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise _no("The address cannot be read.") from None
    if parts.scheme not in (("https", "http") if allow_private else ("https",)):
        raise _no("The address does not begin with https://.")
    if "@" in parts.netloc:
        raise _no("The address contains a user name or a password.")
    if "%" in host or not (re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?", host) or ":" in host):
        raise _no("The address has no valid host name. Write a name with other letters as xn--….")
    if port is None:
        port = 443 if parts.scheme == "https" else 80
    if port == 0 or (port not in ALLOWED_PORTS and not allow_private):
        raise _no("The port of the address is not 443 or 8443.")
    literal = _literal(host)
    if literal is not None and (reason := forbidden(literal, allow_private=allow_private, allowed_by=allowed_by)):
        raise _no(reason)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Destination(https=parts.scheme == "https", host=host.rstrip("."), port=port, path=path)


def forbidden(address: Address, *, allow_private: bool = False, allowed_by: str = ALLOWED_BY) -> str:
    """Why no connection to this IP address is allowed, as a sentence; empty if it is allowed."""
    for inner in _unwrapped(address):
        if any(inner in network for network in _NEVER):
            return "The host has a link-local, multicast, reserved or metadata address."
        closed = any(inner in network for network in _PRIVATE) or (inner.version == 6 and inner not in _UNICAST)
        if closed and not allow_private:
            return f"The host has an address of a private network or of this machine ({allowed_by})."
    return ""


def _unwrapped(address: Address) -> list[Address]:
    """The address, or the IPv4 addresses inside it, to which a router or host could send the packets."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    bits = int(address)
    low = ipaddress.IPv4Address(bits & 0xFFFFFFFF)
    if address.ipv4_mapped or address in _NAT64 or (bits >> 32 == 0 and bits > 1):  # the last: “IPv4-compatible”
        return [low]
    if address.sixtofour:
        return [address.sixtofour]
    if address.teredo:
        return [*address.teredo]
    plain = ipaddress.IPv6Address(bits)  # without a scope id
    isatap = (bits >> 32) & 0xFFFFFFFF in (0x00005EFE, 0x02005EFE)
    return [plain, low] if isatap else [plain]


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _no(reason: str) -> Undeliverable:
    return Undeliverable(reason=reason, permanent=True)


# ------------------------------------------------------------------------------------------------------------ sending


def post(
    url: str, body: bytes, headers: Mapping[str, str], *, allow_private: bool = False, seconds: float = TIMEOUT_SECONDS
) -> int:
    """POST the body and return the status of the answer. Raises Undeliverable if there is no answer.

    `seconds`: the time limit of the whole call.
    """
    target = parse(url, allow_private=allow_private)
    until = time.monotonic() + seconds
    last: Undeliverable | None = None
    for address in addresses(target.host, target.port, seconds=seconds, allow_private=allow_private)[:3]:
        try:
            connection = socket.create_connection((str(address), target.port), timeout=_left(until))
        except OSError as error:
            last = Undeliverable(reason=f"No connection ({type(error).__name__}).")
            continue
        return _exchange(connection, target, body, headers, until)
    raise last or Undeliverable(reason="The host has no address.")


def addresses(
    host: str, port: int, *, seconds: float, allow_private: bool = False, allowed_by: str = ALLOWED_BY
) -> list[Address]:
    """Every address of the host, at least one, all of them allowed. The caller connects to one of them.

    Raises Undeliverable, also if only one of them is not allowed.
    """
    found = _resolve(host, port, seconds)
    for address in found:
        if reason := forbidden(address, allow_private=allow_private, allowed_by=allowed_by):
            raise _no(reason)
    if not found:
        raise Undeliverable(reason="The host has no address.")
    return found


def _resolve(host: str, port: int, seconds: float) -> list[Address]:
    """Every address of the host. Resolved once, so that the checked address is the address of the connection."""
    literal = _literal(host)
    if literal is not None:
        return [literal]
    # getaddrinfo has no timeout. After a timeout here, its thread ends when the resolver gives up.
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="resolve")
    try:
        found = pool.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM).result(seconds)
    except (OSError, UnicodeError):
        raise Undeliverable(reason="The host name could not be resolved.") from None
    except TooLate:
        raise Undeliverable(reason="The host name was not resolved in time.") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return list(dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in found))


def _left(until: float) -> float:
    return max(0.01, until - time.monotonic())


def _exchange(
    connection: socket.socket, target: Destination, body: bytes, headers: Mapping[str, str], until: float
) -> int:
    if target.https:
        context = ssl.create_default_context()
        connection = context.wrap_socket(connection, server_hostname=target.host, do_handshake_on_connect=False)
    # One time limit for the whole exchange: a peer that sends a byte now and then never reaches the timeout of a read.
    alarm = threading.Timer(_left(until), _hang_up, (connection,))
    alarm.daemon = True
    alarm.start()
    try:
        if isinstance(connection, ssl.SSLSocket):
            connection.do_handshake()
        connection.sendall(_request(target, body, headers))
        return _status(connection)
    except ssl.SSLCertVerificationError:
        raise Undeliverable(reason="This server does not trust the host's certificate.") from None
    except (OSError, ValueError) as error:
        late = time.monotonic() >= until - 0.05
        raise Undeliverable(
            reason="No answer in time." if late else f"The connection broke ({type(error).__name__})."
        ) from None
    finally:
        alarm.cancel()
        connection.close()


def _hang_up(connection: socket.socket) -> None:
    try:
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # not SSLSocket.shutdown, which first ends the TLS session
    except OSError:
        pass  # the connection has ended


def _request(target: Destination, body: bytes, headers: Mapping[str, str]) -> bytes:
    host = f"[{target.host}]" if ":" in target.host else target.host
    usual = 443 if target.https else 80
    lines = [
        f"POST {target.path} HTTP/1.1",
        f"Host: {host}" if target.port == usual else f"Host: {host}:{target.port}",
        *(f"{name}: {value}" for name, value in headers.items()),
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    if any(not re.fullmatch(r"[ -~]+", line) for line in lines):
        raise ValueError("A header has a character that HTTP does not allow.")
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def _status(connection: socket.socket) -> int:
    """The status of the answer, after answers below 200. The rest of the answer is not read."""
    seen, total = b"", 0
    while total < MAX_ANSWER_BYTES:
        while b"\r\n\r\n" in seen:
            head, _, seen = seen.partition(b"\r\n\r\n")
            match = re.match(rb"HTTP/1\.[01] (\d{3})\b", head)
            if match is None:
                raise ValueError("not HTTP")
            if int(match[1]) >= 200:
                return int(match[1])
        received = connection.recv(4096)
        if not received:
            raise ValueError("no answer")
        total += len(received)
        seen += received
    raise ValueError("an endless head")
