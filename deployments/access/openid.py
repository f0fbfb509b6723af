"""The OpenID provider of single sign-on: where a log-in begins, and who its answer says the person is.

The only importer of Authlib and of requests. Knows no rows and no sessions: `access.single_sign_on` has the rules.
The flow is the authorization code flow with PKCE (RFC 7636), a state and a nonce (OpenID Connect Core 1.0, section
3.1). The id token is verified: signature by the provider's published keys, issuer, audience, times, nonce.

Anybody can begin a log-in, and a provider that does not work must not hold the server. So each answer has to be
complete after TIMEOUT seconds and has at most MAX_ANSWER bytes, no redirect is followed, and at most AT_ONCE threads of
a process ask the provider while at most as many wait for their place. Through a proxy of the environment (HTTPS_PROXY)
TIMEOUT counts between two bytes. The provider's document and keys are kept for KEPT_FOR seconds; a key that is not
among them is looked for again.
"""

from __future__ import annotations

import hmac
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.django_client import DjangoOAuth2App
from authlib.integrations.requests_client import OAuth2Session
from joserfc.errors import JoseError
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from deployments.config import Configuration
from deployments.errors import refusal
from deployments.log import get_logger

log = get_logger(__name__)

TIMEOUT = 5.0
MAX_ANSWER = 1024 * 1024
AT_ONCE = 2
KEPT_FOR = 10 * 60.0
#: Clocks may differ by this many seconds.
LEEWAY = 60
#: Signatures by a published key. Without this list a provider's document could name `none`, or the client's secret.
ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
)  # fmt: skip
#: What is read of the provider's document. Authlib makes settings of every name in it: `verify` would switch off the
#: check of certificates, `default_timeout` the limit.
ENDPOINTS = ("authorization_endpoint", "token_endpoint", "userinfo_endpoint", "jwks_uri")
READ = (*ENDPOINTS, "issuer", "id_token_signing_alg_values_supported", "token_endpoint_auth_methods_supported")
MAX_GROUP_CHARACTERS = 255
OTHER_STATE = "sso_begin_again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A log-in that begins: the address to which the browser goes, and what the answer is checked with."""

    address: str
    state: str
    nonce: str
    verifier: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who the provider says the person is. (issuer, subject) is the person; everything else is only shown."""

    issuer: str
    subject: str
    username: str = ""
    email: str = ""
    first_name: str = ""
    last_name: str = ""
    groups: tuple[str, ...] = ()
    groups_sent: bool = False  # whether the provider sent the claim at all


def begin(configuration: Configuration, redirect_to: str) -> Begun:
    """Begin a log-in. `redirect_to`: our address for the answer. Raises Refusal (sso_…)."""
    with _explained():
        app = _app(configuration)
        found = app.create_authorization_url(redirect_to)
    return Begun(address=found["url"], state=found["state"], nonce=found["nonce"], verifier=found["code_verifier"])


def finish(configuration: Configuration, redirect_to: str, begun: Begun, answer: Mapping[str, str]) -> Person:
    """The person of the provider's answer, which is the query string of the redirect. Raises Refusal (sso_…)."""
    if not hmac.compare_digest(answer.get("state", "").encode(), begun.state.encode()):
        raise refusal(OTHER_STATE)
    if error := answer.get("error"):
        raise _denied(error)
    with _explained():
        app = _app(configuration)
        metadata = app.load_server_metadata()
        # RFC 9207: an answer of another provider, which the browser was led to, is refused before its code is used.
        if answer.get("iss", metadata["issuer"]) != metadata["issuer"]:
            raise refusal("sso_not_trusted", reason="it is from another issuer")
        token = app.fetch_access_token(redirect_to, code=answer.get("code", ""), code_verifier=begun.verifier)
        checks = {
            "iss": {"essential": True, "value": metadata["issuer"]},
            "aud": {"essential": True, "value": configuration.sso_client_id},
        }
        claims = app.parse_id_token(token, begun.nonce, claims_options=checks, leeway=LEEWAY)
        if not claims:
            raise refusal("sso_not_trusted", reason="it has no id token")
        claims = dict(claims)
        if _claim(claims, configuration.sso_groups_claim) is None and metadata.get("userinfo_endpoint"):
            more = app.userinfo(token=token)
            if more.get("sub") != claims["sub"]:
                raise refusal("sso_not_trusted", reason="its userinfo is about another person")
            claims = {**more, **claims}
    return _person(claims, configuration)


def reach(configuration: Configuration) -> str:
    """Read the provider's document and keys anew, for the doctor. Returns its issuer. Raises Refusal (sso_…)."""
    _kept.clear()
    with _explained():
        app = _app(configuration)
        app.fetch_jwk_set()
        return str(app.load_server_metadata()["issuer"])


class _Sockets(threading.local):
    """Second handles of the sockets of the exchange that this thread is in."""

    def __init__(self) -> None:
        self.open: list[socket.socket] = []


_sockets = _Sockets()


class _Watched(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()
        _sockets.open.append(made.dup())
        return made


class _SecureWatched(_Watched, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureWatched


class _Transport(HTTPAdapter):
    """One exchange within TIMEOUT, however the bytes come; an answer of at most MAX_ANSWER bytes; no redirect."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        request.headers["Accept-Encoding"] = "identity"  # a short answer must not become a long one
        _sockets.open, began = [], time.monotonic()
        alarm = threading.Timer(TIMEOUT, _hang_up, (_sockets.open,))
        alarm.daemon = True
        alarm.start()
        try:
            answer = self._bounded(super().send(request, *args, **kwargs))
        except requests.RequestException:
            if time.monotonic() - began < TIMEOUT:
                raise
        finally:
            alarm.cancel()
            for each in _sockets.open:
                each.close()
        if time.monotonic() - began >= TIMEOUT:  # the alarm has cut the answer, which may look like a whole one
            raise requests.Timeout
        return answer

    def _bounded(self, answer: requests.Response) -> requests.Response:
        with answer:
            if answer.is_redirect:
                raise requests.TooManyRedirects
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise requests.exceptions.ContentDecodingError
            body = bytearray()
            for part in answer.iter_content(64 * 1024):
                body += part
                if len(body) > MAX_ANSWER:
                    raise requests.exceptions.ContentDecodingError
        answer._content = bytes(body)
        return answer


def _hang_up(sockets: list[socket.socket]) -> None:
    for each in sockets:
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the connection has ended


class _Session(OAuth2Session):  # type: ignore[misc]  # Authlib has no types
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mount("https://", _Transport())
        self.mount("http://", _Transport())


class _App(DjangoOAuth2App):  # type: ignore[misc]
    client_cls = _Session


_line = threading.BoundedSemaphore(2 * AT_ONCE)  # who has a place, and who waits for one
_places = threading.BoundedSemaphore(AT_ONCE)
_kept: dict[tuple[str | None, ...], tuple[float, Any]] = {}  # settings → (when it was read, the client)


def _app(configuration: Configuration) -> Any:
    """Authlib's client, with the provider's document. One for the present settings is kept."""
    issuer = configuration.sso_issuer or ""
    settings = (issuer, configuration.sso_client_id, configuration.sso_client_secret, configuration.sso_scopes)
    read_at, app = _kept.get(settings, (0.0, None))
    if app is not None and time.monotonic() - read_at < KEPT_FOR:
        return app
    app = _App(
        None,  # no framework: the caller keeps the state
        client_id=configuration.sso_client_id,
        client_secret=configuration.sso_client_secret,
        server_metadata_url=f"{issuer.rstrip('/')}/.well-known/openid-configuration",
        client_kwargs={
            "scope": configuration.sso_scopes,
            "code_challenge_method": "S256",
            "default_timeout": TIMEOUT,
            "leeway": 0,  # of an access token's end: some providers give it for a minute, and it is used at once
        },
    )
    found = app.load_server_metadata()
    metadata = app.server_metadata = {name: found[name] for name in (*READ, "_loaded_at") if name in found}
    # Some providers are named with a slash at the end and some without; operators write either.
    if not isinstance(metadata.get("issuer"), str) or metadata["issuer"].rstrip("/") != issuer.rstrip("/"):
        raise refusal("sso_not_trusted", reason="the provider calls itself another issuer than SSO_ISSUER")
    schemes = {"https", urlsplit(issuer).scheme}
    if any(urlsplit(str(metadata[name])).scheme not in schemes for name in ENDPOINTS if name in metadata):
        raise refusal("sso_not_trusted", reason="the provider's document has an address that is not https")
    offered = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
    metadata["id_token_signing_alg_values_supported"] = [each for each in ALGORITHMS if each in offered]
    methods = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
    if not configuration.sso_client_secret:
        metadata["token_endpoint_auth_method"] = "none"  # noqa: S105  (OAuth's name for a public client)
    elif "client_secret_basic" not in methods and "client_secret_post" in methods:
        metadata["token_endpoint_auth_method"] = "client_secret_post"  # noqa: S105
    _kept.clear()
    _kept[settings] = (time.monotonic(), app)
    return app


@contextmanager
def _explained() -> Iterator[None]:
    """One of the AT_ONCE places, and refusals instead of the libraries' exceptions, whose texts may contain tokens."""
    if not _line.acquire(blocking=False):
        raise refusal("sso_busy")
    try:
        if not _places.acquire(timeout=TIMEOUT / 2):
            raise refusal("sso_busy")
        try:
            yield
        finally:
            _places.release()
    except requests.Timeout:
        raise refusal("sso_unreachable", reason=f"no answer within {TIMEOUT:.0f} seconds") from None
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else "an error"
        raise refusal("sso_unreachable", reason=f"it answered {status}") from None
    except requests.JSONDecodeError:
        raise refusal("sso_unreachable", reason="its answer is not JSON") from None
    except requests.TooManyRedirects:
        raise refusal("sso_unreachable", reason="it redirects to another address") from None
    except requests.exceptions.ContentDecodingError:
        raise refusal("sso_unreachable", reason="its answer is compressed or longer than 1 MiB") from None
    except requests.RequestException as error:
        log.warning("sso.unreachable", kind=type(error).__name__)
        raise refusal("sso_unreachable", reason="no connection") from None
    except JoseError as error:
        log.warning("sso.not_trusted", kind=type(error).__name__)
        raise refusal("sso_not_trusted", reason=f"its id token is not valid ({type(error).__name__})") from None
    except AuthlibBaseError as error:
        raise _denied(str(error.error)) from None
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        log.warning("sso.not_trusted", kind=type(error).__name__)
        raise refusal("sso_not_trusted", reason="it does not have the form that OpenID Connect asks for") from None
    finally:
        _line.release()


def _denied(error: str) -> Any:
    """RFC 6749, section 4.1.2.1: the code of an error is of these characters. Its description may be of anybody."""
    code = "".join(each for each in error[:60] if each.isascii() and (each.isalnum() or each in "_-."))
    return refusal("sso_denied", reason=code or "unknown error")


def _person(claims: Mapping[str, Any], configuration: Configuration) -> Person:
    groups = _claim(claims, configuration.sso_groups_claim)
    listed = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else []
    names = [each for each in listed if isinstance(each, str)]
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= 255 or not subject.isprintable():
        raise refusal("sso_not_trusted", reason="its subject is not a text of at most 255 visible characters")
    address = _text(claims, "email", 254) if claims.get("email_verified", True) not in (False, "false") else ""
    is_address = address == claims.get("email") and address.count("@") == 1
    return Person(
        issuer=str(configuration.sso_issuer).rstrip("/"),
        subject=subject,
        username=_text(claims, "preferred_username", 150),
        email=address if is_address else "",
        first_name=_text(claims, "given_name", 150) or _text(claims, "name", 150),
        last_name=_text(claims, "family_name", 150) if claims.get("given_name") else "",
        groups=tuple(dict.fromkeys(name for name in names if name.isprintable() and len(name) <= MAX_GROUP_CHARACTERS)),
        groups_sent=groups is not None,
    )


def _text(claims: Mapping[str, Any], name: str, length: int) -> str:
    """A claim as one line of visible characters; empty if it is missing, or longer than a column."""
    value = claims.get(name)
    line = " ".join(value.split()) if isinstance(value, str) else ""
    text = "".join(each for each in line if each.isprintable())  # no half of a character, no turned direction
    return text if len(text) <= length else ""


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """The claim of this name; a name with dots also leads into objects (Keycloak: realm_access.roles)."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
