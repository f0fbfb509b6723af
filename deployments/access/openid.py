"""OpenID Connect: the log-in of people at the provider of single sign-on, and the signed tokens of CI systems.

The only importer of Authlib, joserfc and requests. Knows no rows and no sessions: `access.single_sign_on` has the rules
for people, `access.trust` and `access.token_exchange` those for tokens.
The flow is the authorization code flow with PKCE (RFC 7636), a state and a nonce (OpenID Connect Core 1.0, section
3.1). The id token is verified: signature by the provider's published keys, issuer, audience, times, nonce.

Anybody can begin a log-in, and a provider that does not work must not hold the server. So each answer has to be
complete after TIMEOUT seconds and has at most MAX_ANSWER bytes, no redirect is followed, and at most AT_ONCE threads of
a process ask the provider while at most as many wait for their place. Through a proxy of the environment (HTTPS_PROXY)
TIMEOUT counts between two bytes. The provider's document and keys are kept for KEPT_FOR seconds; a key that is not
among them is looked for again.

People enter the issuers of trust policies, so a request to such an issuer follows the rules of `outbound_http` too:
public addresses, no proxy. Its keys are kept for KEPT_FOR seconds, and a token can make this process ask an issuer at
most once in ASKED_EVERY seconds. A failure is kept for FAILURE_KEPT_FOR seconds, and takes no known key away.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import math
import re
import socket
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.django_client import DjangoOAuth2App
from authlib.integrations.requests_client import OAuth2Session
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.ssl_ import create_urllib3_context

from deployments import outbound_http
from deployments.config import Configuration
from deployments.errors import Refusal, refusal
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

ASKED_EVERY = 60.0
FAILURE_KEPT_FOR = 10.0
MAX_ISSUERS_KEPT = 200
MAX_KEYS_OF_ISSUER = 100
MIN_RSA_BITS = 2048
ALLOWED_BY = "an administrator can allow it in the trust policy"
#: Parameters of a token's header that name another key, or change what is signed (RFC 7515 and 7797).
REFUSED_PARAMETERS = ("jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc")


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
    """Second handles of the sockets of the exchange that this thread is in, and the rule for their addresses."""

    def __init__(self) -> None:
        self.open: list[socket.socket] = []
        self.allow_private: bool | None = None


_sockets = _Sockets()


class _Watched(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        name = self._dns_host  # `host` is this name too: the name in the certificate
        try:
            if _sockets.allow_private is not None:
                addresses = outbound_http.addresses(
                    name, self.port or 443, seconds=TIMEOUT, allow_private=_sockets.allow_private, allowed_by=ALLOWED_BY
                )
                self._dns_host = str(addresses[0])
            made = super()._new_conn()
        finally:
            self._dns_host = name
        _sockets.open.append(made.dup())
        return made


class _SecureWatched(_Watched, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureWatched


class _Transport(HTTPAdapter):
    """One exchange within TIMEOUT, however the bytes come; an answer of at most MAX_ANSWER bytes; no redirect.

    `allow_private`: None for an address of the settings; else the rule of `outbound_http` for an address that a person
    entered.
    """

    def __init__(self, allow_private: bool | None = None) -> None:
        self.allow_private = allow_private
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        request.headers["Accept-Encoding"] = "identity"  # a short answer must not become a long one
        _sockets.open, _sockets.allow_private, began = [], self.allow_private, time.monotonic()
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What is asked: the codes of its refusals, and its places. One cannot take the places of the other."""

    unreachable: str
    busy: str
    not_trusted: str
    line: threading.BoundedSemaphore = field(  # who has a place, and who waits for one
        default_factory=lambda: threading.BoundedSemaphore(2 * AT_ONCE)
    )
    places: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(AT_ONCE))


_PROVIDER = _Asked(unreachable="sso_unreachable", busy="sso_busy", not_trusted="sso_not_trusted")
_ISSUER = _Asked(unreachable="trust_issuer_unreachable", busy="trust_busy", not_trusted="trust_issuer_unreachable")
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
def _explained(asked: _Asked = _PROVIDER) -> Iterator[None]:
    """One of the AT_ONCE places, and refusals instead of the libraries' exceptions."""
    with _place(asked), _refusing(asked):
        yield


@contextmanager
def _place(asked: _Asked) -> Iterator[None]:
    if not asked.line.acquire(blocking=False):
        raise refusal(asked.busy)
    try:
        if not asked.places.acquire(timeout=TIMEOUT / 2):
            raise refusal(asked.busy)
        try:
            yield
        finally:
            asked.places.release()
    finally:
        asked.line.release()


@contextmanager
def _refusing(asked: _Asked) -> Iterator[None]:
    """Raise refusals instead of the libraries' exceptions, whose texts may contain tokens."""
    try:
        yield
    except requests.Timeout:
        raise refusal(asked.unreachable, reason=f"no answer within {TIMEOUT:.0f} seconds") from None
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else "an error"
        raise refusal(asked.unreachable, reason=f"it answered {status}") from None
    except requests.JSONDecodeError:
        raise refusal(asked.unreachable, reason="its answer is not JSON") from None
    except requests.TooManyRedirects:
        raise refusal(asked.unreachable, reason="it redirects to another address") from None
    except requests.exceptions.ContentDecodingError:
        raise refusal(asked.unreachable, reason="its answer is compressed or longer than 1 MiB") from None
    except requests.RequestException as error:
        log.warning("sso.unreachable" if asked is _PROVIDER else "trust.unreachable", kind=type(error).__name__)
        is_tls = asked is _ISSUER and isinstance(error, requests.exceptions.SSLError)
        reason = "this server does not trust its certificate" if is_tls else "no connection"
        raise refusal(asked.unreachable, reason=reason) from None
    except outbound_http.Undeliverable as error:
        raise refusal(asked.unreachable, reason=str(error).rstrip(".")) from None
    except JoseError as error:
        log.warning("sso.not_trusted", kind=type(error).__name__)
        raise refusal("sso_not_trusted", reason=f"its id token is not valid ({type(error).__name__})") from None
    except AuthlibBaseError as error:
        raise _denied(str(error.error)) from None
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        log.warning("sso.not_trusted" if asked is _PROVIDER else "trust.unreachable", kind=type(error).__name__)
        raise refusal(asked.not_trusted, reason="it does not have the form that OpenID Connect asks for") from None


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


# ------------------------------------------------------------------------------------------------- tokens of CI systems


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedToken:
    """A token (RFC 7515, compact form) that was taken apart. Nothing of it is verified."""

    text: str = field(repr=False)
    algorithm: str
    kid: str
    claims: Mapping[str, Any] = field(repr=False)

    @property
    def signed_text(self) -> str:
        """What the signature covers. The signature itself has more than one spelling."""
        return self.text.rpartition(".")[0]


class Malformed(ValueError):
    """Why a token cannot be verified, as a part of a sentence, without text of the token."""


def read_token(text: str) -> SignedToken:
    """Take a token apart. Raises Malformed."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", text):
        raise Malformed("it is not three parts of base64url with a dot between them")
    header, claims, _ = (_decoded(part) for part in text.split("."))
    parameters = _object(header, "header")
    if named := [name for name in REFUSED_PARAMETERS if name in parameters]:
        raise Malformed(f"its header has {named[0]}")
    algorithm, kid = parameters.get("alg"), parameters.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise Malformed(f"its algorithm is not one of {', '.join(ALGORITHMS)}")
    if not isinstance(kid, str) or not 0 < len(kid) <= 255:
        raise Malformed("its header has no kid that names a key")
    return SignedToken(text=text, algorithm=algorithm, kid=kid, claims=_object(claims, "payload"))


def _decoded(part: str) -> bytes:
    try:
        found = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise Malformed("a part of it is not base64url") from None
    if base64.urlsafe_b64encode(found).rstrip(b"=").decode() != part:
        raise Malformed("a part of it is not base64url")  # one text has one spelling
    return found


def _object(raw: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_repetition, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Malformed(f"its {what} is not JSON, or names a member twice") from None
    if not isinstance(found, dict):
        raise Malformed(f"its {what} is not a JSON object")
    return found


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is named twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def is_signed_by(token: SignedToken, keys: Mapping[str, Any]) -> bool:
    """Whether the key that the token names has signed it. `keys`: of `read_keys` or `published_keys`."""
    key = keys.get(token.kid)
    if key is None or (key.alg or token.algorithm) != token.algorithm:
        return False
    try:
        jws.deserialize_compact(token.text, key, algorithms=[token.algorithm])
    except (JoseError, ValueError, TypeError):
        return False
    return True


def read_keys(text: str) -> dict[str, Any]:
    """The usable public keys of a JSON key set (RFC 7517), by their kid. Raises ValueError, with a sentence."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("The key set is not JSON.") from None
    if not isinstance(found, dict) or not isinstance(found.get("keys"), list):
        raise ValueError('The key set is not a JSON object with "keys", as an issuer publishes it.')
    keys: dict[str, Any] = {}
    for each in found["keys"][:MAX_KEYS_OF_ISSUER]:
        if isinstance(each, dict) and {"d", "k"} & each.keys():
            raise ValueError("The key set contains a private key. Paste the public keys, and replace this private key.")
        key = _usable(each)
        if key is not None:
            keys.setdefault(key.kid, key)
    if not keys:
        raise ValueError(f"The key set has no key for signatures with a kid: RSA of {MIN_RSA_BITS} bits, EC or OKP.")
    return keys


def _usable(stored: Any) -> Any:
    if not isinstance(stored, dict) or stored.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    if stored.get("use", "sig") != "sig":
        return None
    if not isinstance(stored.get("kid"), str) or not isinstance(stored.get("alg", ""), str):
        return None
    try:
        if stored["kty"] == "RSA" and _bits(stored["n"]) < MIN_RSA_BITS:
            return None
        key = JWKRegistry.import_key(stored)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return key


def _bits(number: str) -> int:
    """The length of a number in base64url, however many zeros it begins with."""
    return int.from_bytes(base64.urlsafe_b64decode(number + "==")).bit_length()


def check_certificates(pem: str) -> None:
    """Raises ValueError, with a sentence, if the text has no certificates in PEM, or a private key."""
    if "PRIVATE KEY-----" in pem:
        raise ValueError("The text contains a private key. Paste the certificate, and replace this private key.")
    try:
        create_urllib3_context().load_verify_locations(cadata=pem)
    except (ValueError, TypeError, OSError):  # TypeError: it is not ASCII
        raise ValueError("This is not a certificate in PEM (-----BEGIN CERTIFICATE-----).") from None


@dataclass(slots=True)
class _Published:
    """The keys of an issuer as this process knows them."""

    keys: dict[str, Any] = field(default_factory=dict)
    read_at: float | None = None  # when `keys` were read
    refused: Refusal | None = None  # why the last request failed
    asked_at: float | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def has(self, kid: str) -> bool:
        """Whether this key is known and not too old. A request that fails later does not take it away."""
        return kid in self.keys and _age(self.read_at) < KEPT_FOR

    def serves(self, kid: str) -> bool:
        """Whether the issuer need not be asked for this key."""
        pause = ASKED_EVERY if self.refused is None else FAILURE_KEPT_FOR
        return self.has(kid) or _age(self.asked_at) < pause


def _age(at: float | None) -> float:
    return math.inf if at is None else time.monotonic() - at


_published: OrderedDict[tuple[str, str, bool], _Published] = OrderedDict()
_published_lock: Final = threading.Lock()


def published_keys(issuer: str, kid: str, *, ca: str = "", allow_private: bool = False) -> Mapping[str, Any]:
    """The issuer's public keys by kid, which may lack `kid`. Asks the issuer only if that can help (ASKED_EVERY).

    `ca`: the only roots for the issuer's certificate, in PEM. Makes network calls, so no transaction may be open.
    Raises Refusal (trust_issuer_unreachable, trust_busy), both retryable.
    """
    with _published_lock:
        known = _published.setdefault((issuer, ca, allow_private), _Published())
        _published.move_to_end((issuer, ca, allow_private))
        while len(_published) > MAX_ISSUERS_KEPT:
            _published.popitem(last=False)
    if not known.serves(kid):
        with _place(_ISSUER), known.lock:
            if not known.serves(kid):
                _ask(known, issuer, ca, allow_private)
    if known.refused is not None and not known.has(kid):
        raise Refusal(known.refused.sentence, code=known.refused.code, retryable=known.refused.retryable)
    return known.keys


def _ask(known: _Published, issuer: str, ca: str, allow_private: bool) -> None:
    try:
        with _refusing(_ISSUER):
            known.keys = _fetched(issuer, ca, allow_private)
        known.read_at, known.refused = time.monotonic(), None
    except Refusal as refused:
        known.refused = refused
    finally:
        known.asked_at = time.monotonic()


def _fetched(issuer: str, ca: str, allow_private: bool) -> dict[str, Any]:
    """OpenID Connect Discovery 1.0, section 4: the document at the issuer's address, and the keys that it names."""
    with requests.Session() as session, tempfile.NamedTemporaryFile("w", suffix=".pem") as roots:
        session.trust_env = False  # no proxy, and no password of a .netrc
        session.mount("https://", _Transport(allow_private=allow_private))
        if ca:
            roots.write(ca)
            roots.flush()
            session.verify = roots.name
        document = _json(session, f"{issuer.rstrip('/')}/.well-known/openid-configuration", allow_private)
        if document.get("issuer") != issuer:
            raise refusal("trust_issuer_unreachable", reason="its document names another issuer")
        keys = _json(session, str(document.get("jwks_uri", "")), allow_private)
        return read_keys(json.dumps(keys))


def _json(session: requests.Session, address: str, allow_private: bool) -> dict[str, Any]:
    target = outbound_http.parse(address, allow_private=allow_private, allowed_by=ALLOWED_BY)
    if not target.https:
        raise outbound_http.Undeliverable(reason="The address does not begin with https://.", permanent=True)
    answer = session.get(address, timeout=TIMEOUT)
    answer.raise_for_status()
    found = answer.json()
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found
