"""An OpenID provider on loopback, for tests of single sign-on: real HTTP, real signatures, one-time codes, PKCE.

It refuses what a provider refuses (a foreign redirect address, a code twice, a wrong verifier, a wrong client secret).
`faults` make it lie: each name is one thing that a client must not believe. `instead` has functions that answer for an
address in another way, for a provider that is broken or hostile.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

CLIENT_ID, CLIENT_SECRET = "registry-admin", "a-client-secret-that-no-log-may-have"


@dataclass
class Provider:
    """The provider. `people`: subject → claims. Tests change them, and `faults`, while it runs."""

    redirect_to: str = ""
    people: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: set[str] = field(default_factory=set)
    instead: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)  # of its document
    calls: Counter[str] = field(default_factory=Counter)
    groups_in_userinfo: bool = False
    port: int = 0
    scheme: str = "http"
    key: Any = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "first"}))
    hang: threading.Event = field(default_factory=threading.Event)
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)
    _tokens: dict[str, str] = field(default_factory=dict)

    @property
    def issuer(self) -> str:
        host = "localhost" if self.scheme == "https" else "127.0.0.1"
        return f"{self.scheme}://{host}:{self.port}/company"

    def rotate_key(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": secrets.token_hex(4)})

    def approve(self, address: str, subject: str) -> str:
        """What a browser does with the address of a log-in: choose a person. Returns the address it is sent back to."""
        parts = urlsplit(address)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        body = urlencode({"subject": subject})
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", f"{parts.path}?{parts.query}", body, headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        assert answer.status == 302, answer.status
        return answer.getheader("Location") or ""

    # ---------------------------------------------------------------------------------------------- what it answers

    def document(self) -> dict[str, Any]:
        return {
            "issuer": "https://other.example.com" if "wrong_document" in self.faults else self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "jwks_uri": f"{self.issuer}/keys",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "none", "HS256"],
            "token_endpoint_auth_methods_supported": (
                ["client_secret_post"] if "post_only" in self.faults else ["client_secret_basic"]
            ),
            **self.more,
        }

    def authorize(self, query: dict[str, str], subject: str) -> str:
        assert query["redirect_uri"] == self.redirect_to, query["redirect_uri"]
        assert query["client_id"] == CLIENT_ID
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        if subject == "refuse":
            back = {"error": "access_denied", "error_description": "<b>no</b>", "state": query["state"]}
        else:
            code = secrets.token_urlsafe(16)
            self._codes[code] = {**query, "subject": subject}
            back = {"code": code, "state": query["state"]}
        if "other_issuer_in_answer" in self.faults:
            back["iss"] = "https://other.example.com"
        return f"{self.redirect_to}?{urlencode(back)}"

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        basic = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        known = authorization == f"Basic {basic}" if "post_only" not in self.faults else False
        known = known or (form.get("client_id"), form.get("client_secret")) == (CLIENT_ID, CLIENT_SECRET)
        if not known:
            return 401, {"error": "invalid_client"}
        asked = self._codes.pop(form.get("code", ""), None)
        verifier = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(verifier).rstrip(b"=").decode()
        if asked is None or asked["code_challenge"] != challenge or form.get("redirect_uri") != self.redirect_to:
            return 400, {"error": "invalid_grant"}
        access = secrets.token_urlsafe(16)
        self._tokens[access] = asked["subject"]
        answer: dict[str, Any] = {"access_token": access, "token_type": "Bearer", "expires_in": 60}
        if "no_id_token" not in self.faults:
            answer["id_token"] = self._id_token(asked)
        return 200, answer

    def userinfo(self, authorization: str) -> tuple[int, dict[str, Any]]:
        subject = self._tokens.get(authorization.removeprefix("Bearer "))
        if subject is None:
            return 401, {"error": "invalid_token"}
        shown = "somebody-else" if "userinfo_of_another" in self.faults else subject
        return 200, {**self.people.get(subject, {}), "sub": shown}

    def _id_token(self, asked: dict[str, str]) -> str:
        now = int(time.time())
        claims = {
            "iss": "https://other.example.com" if "wrong_issuer" in self.faults else self.issuer,
            "sub": asked["subject"],
            "aud": "another-client" if "wrong_audience" in self.faults else CLIENT_ID,
            "iat": now,
            "exp": now + (-600 if "expired" in self.faults else 60),
            "nonce": "another-nonce" if "wrong_nonce" in self.faults else asked["nonce"],
        }
        person = self.people.get(asked["subject"], {})
        claims |= {name: value for name, value in person.items() if name != "groups" or not self.groups_in_userinfo}
        if "audience_of_another_for_us" in self.faults:
            claims |= {"aud": "another-client", "azp": CLIENT_ID}
        if "no_nonce" in self.faults:
            del claims["nonce"]
        if "foreign_key" in self.faults:
            foreign = RSAKey.generate_key(2048, {"kid": self.key.kid})
            return jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, foreign)
        if "signed_with_secret" in self.faults:
            return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(CLIENT_SECRET), algorithms=["HS256"])
        if "not_signed" in self.faults:
            parts = ({"alg": "none"}, claims)
            texts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
            return ".".join([*texts, ""])
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, self.key)


_PAGE = """<!doctype html><html lang="en"><title>Company log-in</title><h1>Company log-in</h1><form method="post">
<label>Person <select name="subject">{options}</select></label> <button>Continue</button></form></html>"""


@contextmanager
def running(certificate: tuple[Path, Path] | None = None) -> Iterator[Provider]:
    """A provider that runs until the block ends. `certificate`: for localhost, and its key; then it speaks TLS."""
    provider = Provider(scheme="https" if certificate else "http")

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            self._answer({name: values[0] for name, values in parse_qs(text).items()})

        def _answer(self, form: dict[str, str]) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            what = parts.path.rpartition("/")[2]
            provider.calls[what] += 1
            if "hang" in provider.faults:
                provider.hang.wait(30)
            if "error_500" in provider.faults:
                return self._send(500, {"error": "server_error"})
            if "not_json" in provider.faults:
                return self._send_text(200, "text/html", "<h1>Maintenance</h1>")
            if what in provider.instead:
                return provider.instead[what](self)
            authorization = self.headers.get("Authorization", "")
            match what:
                case "openid-configuration":
                    self._send(200, provider.document())
                case "keys":
                    self._send(200, {"keys": [provider.key.as_dict(private=False, use="sig", alg="RS256")]})
                case "authorize" if self.command == "POST":
                    self.send_response(302)
                    self.send_header("Location", provider.authorize(query, form["subject"]))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                case "authorize":
                    options = "".join(f"<option>{escape(each)}</option>" for each in (*provider.people, "refuse"))
                    self._send_text(200, "text/html; charset=utf-8", _PAGE.format(options=options))
                case "token":
                    self._send(*provider.token(form, authorization))
                case "userinfo":
                    self._send(*provider.userinfo(authorization))
                case _:
                    self._send(404, {})

        def _send(self, status: int, body: dict[str, Any]) -> None:
            self._send_text(status, "application/json", json.dumps(body))

        def _send_text(self, status: int, kind: str, text: str) -> None:
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that waited no longer

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    provider.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        provider.hang.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
