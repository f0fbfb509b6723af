"""Signed texts: authorization tokens, page tokens and download URLs that contain their own data.

Nothing is stored for a token, so many tokens cost no memory. The texts are signed but not encrypted; they are valid
only in the process that signed them.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sandbox.aws import AWSError, Call


@dataclass(frozen=True, slots=True)
class Token:
    """The content of an authorization token: its owner, its region, its end (epoch seconds)."""

    access_key: str
    region: str
    expires: float


T = TypeVar("T")


class Tokens:
    """Makes and reads signed authorization tokens, page tokens and download URLs. Stores nothing."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def sign(self, content: Mapping[str, Any]) -> str:
        payload = json.dumps(content, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(hmac.digest(self._secret, payload, "sha256") + payload).decode()

    def verify(self, text: str) -> dict[str, Any] | None:
        """The content; None if this sandbox process did not sign the text."""
        try:
            raw = base64.urlsafe_b64decode(text)
        except (ValueError, binascii.Error):
            return None
        if not hmac.compare_digest(raw[:32], hmac.digest(self._secret, raw[32:], "sha256")):
            return None
        content: dict[str, Any] = json.loads(raw[32:])
        return content

    def page(
        self, call: Call, items: Iterable[T], key: Callable[[T], str], size: int = 100
    ) -> tuple[list[T], dict[str, str]]:
        """The page of the call's nextToken, in the order of the keys; and the next page's nextToken, if there is one.

        ``size``: the page's size if the call has no maxResults.
        """
        after = ""
        if call.params.get("nextToken") is not None:
            content = self.verify(str(call.params["nextToken"])) or {}
            if content.get("of") != call.operation:
                raise AWSError("InvalidParameterException", "Invalid parameter at 'nextToken'")
            after = str(content["after"])
        size = call.params.get("maxResults") or size
        rest = sorted((item for item in items if key(item) > after), key=key)
        if len(rest) <= size:
            return rest, {}
        return rest[:size], {"nextToken": self.sign({"of": call.operation, "after": key(rest[size - 1])})}
