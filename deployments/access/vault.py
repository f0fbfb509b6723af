"""Secrets at rest: sealed before they are stored, opened where they are used. The only importer of cryptography.

AES-256-GCM under a key that HKDF derives from a text of the installation (ENCRYPTION_KEY, else SECRET_KEY). A vault
has one text to seal with and any number of older ones to open with, so that a text can be replaced without a moment
at which something cannot be read. What is sealed is bound to a context, the place that it belongs to: a row's value
that somebody copied into another row does not open there.

Pure: knows no settings and no rows. Neither a text nor a value is ever in an exception or in a `repr`.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_VERSION = "v1"
_NONCE = 12  # bytes; random, which is safe for some four billion values under one key


class Unreadable(Exception):
    """What is stored was sealed with a text that this vault does not have, or for another place, or was changed."""


class Vault:
    """`Vault(settings.ENCRYPTION_KEYS)`: the first text seals, each of them opens. Making one costs microseconds."""

    __slots__ = ("_current", "_keys")

    def __init__(self, texts: Iterable[str]) -> None:
        keys = [_derive(text) for text in texts]
        if not keys:
            raise ValueError("A vault needs at least one text to derive its key from.")
        self._current = keys[0][0]
        self._keys = dict(reversed(keys))  # the first one wins

    def seal(self, text: str, *, context: str) -> str:
        """The text as something that may be stored: printable, about a third longer, never twice the same."""
        nonce = os.urandom(_NONCE)
        sealed = self._keys[self._current].encrypt(nonce, text.encode("utf-8"), context.encode("utf-8"))
        return f"{_VERSION}.{self._current}.{base64.urlsafe_b64encode(nonce + sealed).decode('ascii')}"

    def open(self, sealed: str, *, context: str) -> str:
        """The text that was sealed for this context. Raises Unreadable."""
        version, _, rest = sealed.partition(".")
        name, _, content = rest.partition(".")
        cipher = self._keys.get(name)
        if version != _VERSION or cipher is None:
            raise Unreadable("It was encrypted with a key that this installation does not have.")
        try:
            found = base64.urlsafe_b64decode(content.encode("ascii"))
            return cipher.decrypt(found[:_NONCE], found[_NONCE:], context.encode("utf-8")).decode("utf-8")
        except (InvalidTag, ValueError, binascii.Error):  # ValueError: cut off, or no text
            raise Unreadable("It was changed, or belongs somewhere else.") from None

    def is_current(self, sealed: str) -> bool:
        """Whether it was sealed with the text that this vault seals with now."""
        return sealed.startswith(f"{_VERSION}.{self._current}.")


def _derive(text: str) -> tuple[str, AESGCM]:
    """A name that tells keys apart and says nothing of them, and the key."""
    material = HKDF(algorithm=SHA256(), length=38, salt=None, info=b"registry-admin vault v1").derive(text.encode())
    return base64.urlsafe_b64encode(material[32:]).decode("ascii"), AESGCM(material[:32])
