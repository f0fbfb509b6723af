"""A read-only client for registries that are not ECR: the registry v2 API (OCI distribution), standard library only.

It reads manifests and small blobs, logs in as docker does (Basic, or a bearer token from the token server that the
registry names), and turns every other answer into a `RegistryError`. Time and size of an answer are limited. The user
name and password go only to the registry's host and to its token server. The client knows no images and no rows.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.error import URLError
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request

from deployments.errors import RegistryError, registry_error

ANSWER_SECONDS = 5  # for the connection, and for each read
TOTAL_SECONDS = 15  # for one whole answer
MAX_BYTES = 4 * 1024 * 1024  # the size that registries must accept for a manifest (OCI distribution specification)
REDIRECTS = 3
SERVED_BY = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


class _Unanswered(Exception):
    """The registry sent no answer or an unreadable answer. The text says why and contains no URL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


def _opener() -> OpenerDirector:
    """urllib with proxies from the environment, without its other handlers: each status is an answer, no redirect is
    followed (urllib would send the password along), and no file: URL is opened.
    """
    opener = OpenerDirector()
    for handler in (ProxyHandler(), HTTPHandler(), HTTPSHandler()):
        opener.add_handler(handler)
    return opener


_OPENER = _opener()


def digest_of(content: bytes) -> str:
    """The content's digest in the form of a registry: `sha256:` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def download(url: str) -> bytes | None:
    """The content of a URL that needs no log-in (ECR's layers in S3); None without an answer of status 200."""
    try:
        answer = _get(url, {}, plain=url.startswith("http:"))
    except _Unanswered:
        return None
    return answer.body if answer.status == 200 else None


@dataclass(slots=True, kw_only=True)
class Registry:
    """One registry, for the verification of one image. Keeps the log-in between calls."""

    host: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    _authorization: dict[str, str] = field(default_factory=dict, repr=False)

    def manifest(self, name: str, reference: str) -> bytes | None:
        """An image's manifest by tag or digest; None if it does not exist.

        Raises RegistryError with the code RegistrySilent (the host does not answer as a registry), RegistryClosed (the
        registry requires a log-in and none is configured), RegistryLogin (it refused the log-in) or RegistryFault.
        """
        self._require_registry(name)
        return self._read(name, f"manifests/{reference}", {"Accept": ACCEPT})

    def blob(self, name: str, digest: str) -> bytes | None:
        """A blob of at most MAX_BYTES; None if it does not exist. Raises RegistryError like `manifest`."""
        return self._read(name, f"blobs/{digest}", {})

    @property
    def _base(self) -> str:
        return f"{'http' if self._plain else 'https'}://{SERVED_BY.get(self.host, self.host)}/v2/"

    @property
    def _plain(self) -> bool:
        """Whether HTTP without TLS is allowed: as in docker, only for this machine."""
        return re.fullmatch(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?", self.host) is not None

    def _require_registry(self, name: str) -> None:
        """Raise RegistryError (RegistrySilent) if the host is not a registry: a 404 of another program that listens on
        a registry's usual port would not mean that the image is missing.
        """
        try:
            answer = _get(self._base, self._authorization, plain=self._plain)
        except _Unanswered as silence:
            raise self._error("RegistrySilent", name, str(silence)) from None
        page = answer.headers.get("content-type", "").startswith("text/html")
        if answer.status not in (200, 401) or page:
            raise self._error("RegistrySilent", name, "a web page" if page else f"status {answer.status}")

    def _read(self, name: str, path: str, headers: Mapping[str, str]) -> bytes | None:
        url = f"{self._base}{name}/{path}"
        try:
            answer = _get(url, {**headers, **self._authorization}, plain=self._plain)
            if answer.status == 401 and not self._authorization:
                self._log_in(name, answer.headers.get("www-authenticate", ""))
                answer = _get(url, {**headers, **self._authorization}, plain=self._plain)
        except _Unanswered as silence:
            raise self._error("RegistryFault", name, str(silence)) from None
        if answer.status in (401, 403):
            code = "RegistryLogin" if self.username else "RegistryClosed"
            raise self._error(code, name, f"status {answer.status}")
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise self._error("RegistryFault", name, f"status {answer.status}")
        return answer.body

    def _log_in(self, name: str, challenge: str) -> None:
        """Follow the registry's challenge: send the password (Basic), or fetch a token with it (Bearer)."""
        basic = {}
        if self.username and self.password:
            pair = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
            basic = {"Authorization": f"Basic {pair}"}
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() != "bearer":
            self._authorization = basic
            return
        asked = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        realm = _joined(self._base, asked.get("realm", ""))
        query = {"scope": f"repository:{name}:pull"} | ({"service": asked["service"]} if "service" in asked else {})
        answer = _get(f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}", basic, plain=self._plain)
        if answer.status != 200:
            return  # without a token; the registry then answers 401 again
        try:
            said = json.loads(answer.body)
            token = str(said.get("token") or said.get("access_token") or "")
        except (ValueError, RecursionError, AttributeError):
            raise _Unanswered("its token cannot be read") from None
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise _Unanswered("its token cannot be read")
        self._authorization = {"Authorization": f"Bearer {token}"}

    def _error(self, code: str, name: str, reason: str) -> RegistryError:
        return registry_error(code, operation="GET", name=name, host=self.host, reason=reason)


def _get(url: str, headers: Mapping[str, str], *, plain: bool) -> _Answer:
    """One GET that follows redirects, and sends the log-in only to the first host. Raises _Unanswered."""
    until = time.monotonic() + TOTAL_SECONDS
    origin, sent = urlsplit(url).netloc, dict(headers)
    for _ in range(REDIRECTS + 1):
        where = urlsplit(url)
        if where.scheme != "https" and not (plain and where.scheme == "http"):
            raise _Unanswered("it redirects to a URL without TLS")
        if where.netloc != origin:
            sent.pop("Authorization", None)
        answer = _once(url, sent, until)
        if answer.status not in (301, 302, 303, 307, 308):
            return answer
        url = _joined(url, answer.headers.get("location", ""))
    raise _Unanswered("it redirects too often")


def _joined(url: str, location: str) -> str:
    try:
        joined = urljoin(url, location)
        urlsplit(joined)
    except ValueError:
        raise _Unanswered("it redirects to an invalid URL") from None
    return joined


def _once(url: str, headers: Mapping[str, str], until: float) -> _Answer:
    try:
        with _OPENER.open(Request(url, headers=dict(headers)), timeout=ANSWER_SECONDS) as response:  # noqa: S310
            said = {name.lower(): value for name, value in response.headers.items()}
            body = bytearray()
            while chunk := response.read1(64 * 1024):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise _Unanswered("its answer is too large")
                if time.monotonic() > until:
                    raise _Unanswered("its answer takes too long")
            return _Answer(status=response.status, headers=said, body=bytes(body))
    except TimeoutError:
        raise _Unanswered("no answer in time") from None
    except URLError as error:
        slow = isinstance(error.reason, TimeoutError)
        raise _Unanswered("no answer in time" if slow else "no connection") from None
    except (OSError, http.client.HTTPException, ValueError):
        raise _Unanswered("no connection, or not HTTP") from None
