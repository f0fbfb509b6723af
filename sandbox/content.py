"""Bytes of any size: small ones in memory, large ones in a file without a name, which ends with its last user.

The file lies in the folder for temporary files, which the environment's TMPDIR names. It never has a name there, so
nothing stays behind, also after SIGKILL. A reader asks for a range of bytes; there is no position that readers share.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from io import FileIO

IN_MEMORY = 1024 * 1024  # bytes
PIECE = 256 * 1024  # bytes


class Content:
    """Bytes to which more can be appended."""

    __slots__ = ("_file", "_memory", "size")

    def __init__(self, memory: bytes = b"") -> None:
        self._memory: bytes | bytearray = memory
        self._file: FileIO | None = None
        self.size = len(memory)

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def is_large(self) -> bool:
        """Whether the bytes are in a file: then read them in pieces, and compute the digest in a thread."""
        return self._file is not None

    def append(self, data: bytes | bytearray) -> None:
        """Raises OSError if the file system is full."""
        if self._file is None and self.size + len(data) > IN_MEMORY:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (`__del__` closes it)
            self._write(self._memory)
            self._memory = b""
        if self._file is not None:
            self._write(data)
        else:
            if not isinstance(self._memory, bytearray):
                self._memory = bytearray(self._memory)
            self._memory += data
        self.size += len(data)

    def _write(self, data: bytes | bytearray) -> None:
        rest = memoryview(data)
        while rest and self._file is not None:
            rest = rest[self._file.write(rest) :]

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes from ``start`` up to ``stop``, at most 2 GiB."""
        if self._file is not None:
            return os.pread(self._file.fileno(), (self.size if stop is None else stop) - start, start)
        if isinstance(self._memory, bytes) and not start and stop is None:
            return self._memory
        return bytes(self._memory[start:stop])

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        end = self.size if stop is None else stop
        for place in range(start, end, PIECE):
            yield self.read(place, min(place + PIECE, end))

    def digest(self) -> str:
        """The digest, as in ``sha256:0123…``."""
        found = hashlib.sha256()
        for piece in self.pieces():
            found.update(piece)
        return f"sha256:{found.hexdigest()}"
