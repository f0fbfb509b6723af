"""Sealed texts: authorization tokens, page tokens and download addresses that carry their own truth.

Nothing is remembered per token, so handing out many costs nothing. They are signed and not secret: they die with the
process.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Token:
    """What an authorization token says: whose it is, for which region, until when (epoch seconds)."""

    access_key: str
    region: str
    expires: float


class Tokens:
    """Authorization tokens and download addresses that carry their own truth, signed; nothing is remembered."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def seal(self, content: Mapping[str, Any]) -> str:
        payload = json.dumps(content, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(hmac.digest(self._secret, payload, "sha256") + payload).decode()

    def open(self, text: str) -> dict[str, Any] | None:
        """The content, or None if this sandbox did not seal it."""
        try:
            raw = base64.urlsafe_b64decode(text)
        except (ValueError, binascii.Error):
            return None
        if not hmac.compare_digest(raw[:32], hmac.digest(self._secret, raw[32:], "sha256")):
            return None
        content: dict[str, Any] = json.loads(raw[32:])
        return content
