"""Second factors of a test: an app with its codes, and a passkey in software."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pyotp
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from django.conf import settings
from django.contrib.auth.models import User
from fido2.cose import ES256
from fido2.utils import websafe_encode
from fido2.webauthn import AttestationObject, AttestedCredentialData, AuthenticatorData, CollectedClientData

from deployments.access import second_factor
from deployments.access.vault import Vault
from tests.support.constants import TRAIL

FLAG = AuthenticatorData.FLAG
#: A time at which a test's clock stands, in the middle of its 30 seconds.
NOON = datetime(2026, 11, 26, 12, 0, 15, tzinfo=UTC)
#: A code that no app of `with_app` shows.
WRONG = "000000"


def code_of(seed: str, at: datetime = NOON, *, steps: int = 0) -> str:
    """What an app with this key shows then, or so many times 30 seconds later."""
    return pyotp.TOTP(seed).at(at, counter_offset=steps)


def with_app(person: User, *, name: str = "Phone", at: datetime = NOON, steps: int = -1) -> tuple[str, list[str]]:
    """Add an app, which is confirmed by its code of the 30 seconds before `at`: so the code of `at` was not used.

    `at` is the time of the test's clock. Returns the key of the app, and the recovery codes.
    """
    seed, vault = second_factor.new_seed(), Vault(settings.ENCRYPTION_KEYS)
    while WRONG in (code_of(seed, at), code_of(seed, at, steps=-1)):
        seed = second_factor.new_seed()
    code = code_of(seed, at, steps=steps)
    return seed, second_factor.add_app(person=person, seed=seed, code=code, name=name, vault=vault, trail=TRAIL)


@dataclass(kw_only=True)
class SoftPasskey:
    """A passkey: answers, as JSON, what a browser with its security key answers (WebAuthn).

    `counts`: whether it counts its uses. `origin` and `host` are what the browser takes from the address of the page.
    """

    origin: str = "http://localhost:8000"
    host: str = "localhost"
    counts: bool = True
    uses: int = 0
    id: bytes = field(default_factory=lambda: os.urandom(32))
    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def make(self, options: str) -> str:
        """The answer to navigator.credentials.create()."""
        client = self._client(CollectedClientData.TYPE.CREATE, options)
        key: Any = ES256.from_cryptography_key(self.key.public_key())  # type: ignore[no-untyped-call]
        public = AttestedCredentialData.create(b"\0" * 16, self.id, key)
        flags = FLAG.UP | FLAG.UV | FLAG.AT
        made = AttestationObject.create("none", AuthenticatorData.create(self._host, flags, self._use(), public), {})
        return self._answer(clientDataJSON=client, attestationObject=made)

    def use(self, options: str) -> str:
        """The answer to navigator.credentials.get()."""
        client = self._client(CollectedClientData.TYPE.GET, options)
        data = AuthenticatorData.create(self._host, FLAG.UP | FLAG.UV, self._use())
        signature = self.key.sign(data + client.hash, ec.ECDSA(hashes.SHA256()))
        return self._answer(clientDataJSON=client, authenticatorData=data, signature=signature)

    @property
    def _host(self) -> bytes:
        return hashlib.sha256(self.host.encode()).digest()

    def _use(self) -> int:
        self.uses += self.counts
        return self.uses

    def _client(self, kind: Any, options: str) -> CollectedClientData:
        return CollectedClientData.create(kind, json.loads(options)["challenge"], self.origin)

    def _answer(self, **response: bytes) -> str:
        shown = websafe_encode(self.id)
        written = {name: websafe_encode(value) for name, value in response.items()}
        return json.dumps({"id": shown, "rawId": shown, "type": "public-key", "response": written})


def with_passkey(person: User, *, name: str) -> SoftPasskey:
    """Add a passkey that belongs to APP_ORIGIN."""
    origin: str = settings.CONFIGURATION.app_origin
    passkey = SoftPasskey(origin=origin, host=urlsplit(origin).hostname or "")
    options, challenge = second_factor.begin_passkey(person=person, origin=origin)
    second_factor.add_passkey(
        person=person, origin=origin, challenge=challenge, credential=passkey.make(options), name=name, trail=TRAIL
    )
    return passkey
