"""Encryption of stored secrets. The only importer of cryptography.

AES-256-GCM with keys that HKDF derives from secrets of the installation (ENCRYPTION_KEY, else SECRET_KEY). The first
key encrypts, every key decrypts, so a key can be rotated without downtime. Each value is encrypted for a context that
names its row; a value that somebody copies into another row cannot be decrypted there.

Pure: knows no settings and no rows. No key and no value is ever in an exception or in a `repr`.
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
_NONCE_BYTES = 12  # random, which is safe for some four billion values with one key (NIST SP 800-38D, 8.3)


class Unreadable(Exception):
    """The stored value was encrypted with a key that this vault lacks, or for another context, or was changed."""


class Vault:
    """`Vault(settings.ENCRYPTION_KEYS)`: the first secret encrypts, each secret decrypts. Cheap to make."""

    __slots__ = ("_current", "_keys")

    def __init__(self, secrets: Iterable[str]) -> None:
        keys = [_derive(secret) for secret in secrets]
        if not keys:
            raise ValueError("A vault needs at least one secret to derive its key from.")
        self._current = keys[0][0]
        self._keys = dict(reversed(keys))  # if two keys have one id, the first key stays

    def encrypt(self, text: str, *, context: str) -> str:
        """The encrypted text: printable ASCII, about a third longer, different each time."""
        nonce = os.urandom(_NONCE_BYTES)
        encrypted = self._keys[self._current].encrypt(nonce, text.encode("utf-8"), context.encode("utf-8"))
        return f"{_VERSION}.{self._current}.{base64.urlsafe_b64encode(nonce + encrypted).decode('ascii')}"

    def decrypt(self, encrypted: str, *, context: str) -> str:
        """The text that `encrypt` got with this context. Raises Unreadable."""
        version, _, rest = encrypted.partition(".")
        key_id, _, content = rest.partition(".")
        cipher = self._keys.get(key_id)
        if version != _VERSION or cipher is None:
            raise Unreadable("It was encrypted with a key that this installation does not have.")
        try:
            found = base64.urlsafe_b64decode(content.encode("ascii"))
            return cipher.decrypt(found[:_NONCE_BYTES], found[_NONCE_BYTES:], context.encode("utf-8")).decode("utf-8")
        except (InvalidTag, ValueError, binascii.Error):  # ValueError: cut off, or not text
            raise Unreadable("Its stored value was changed, or belongs to another row.") from None

    def encrypt_again(self, encrypted: str, *, context: str) -> str:
        """The same text, encrypted with the first key. Raises Unreadable."""
        return self.encrypt(self.decrypt(encrypted, context=context), context=context)

    def is_current(self, encrypted: str) -> bool:
        """Whether the text was encrypted with the first key."""
        return encrypted.startswith(f"{_VERSION}.{self._current}.")


def _derive(secret: str) -> tuple[str, AESGCM]:
    """(id, key). The id tells keys apart and reveals nothing about the secret."""
    material = HKDF(algorithm=SHA256(), length=38, salt=None, info=b"registry-admin vault v1").derive(secret.encode())
    return base64.urlsafe_b64encode(material[32:]).decode("ascii"), AESGCM(material[:32])
