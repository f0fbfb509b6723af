"""Request bodies: their limits, how they arrive, and one strict JSON parser for all routes.

Every path has a limit, pages too. `admit` refuses a body by its Content-Length before anything reads it, and a chunked
body when more bytes arrive than the path allows. The parser refuses, with a sentence, what a database or a JSON encoder
would fail on later (NUL, lone surrogates, NaN, infinities, deep nesting, duplicate keys), so that no body causes a 500.
"""

from __future__ import annotations

import io
import json
import math
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, UnreadablePostError
from ninja.parser import Parser

from deployments.errors import refusal

KIB = 1024
MIB = 1024 * KIB
LARGE_BYTES = 256 * KIB
LARGE_AT_ONCE = 2  # in one process (D-body-memory)
PLACE_WAIT_SECONDS = 5.0  # the body of a real deploy keeps its place for less than a second
MAX_VALUES = 150_000  # of JSON in one body: objects, arrays, texts, numbers
_PIECE_BYTES = 64 * KIB
_QUOTE = ord('"')
_places = threading.BoundedSemaphore(LARGE_AT_ONCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The rule for the bodies of one address: size in bytes and depth of nesting, and:

    `repairs`: replace characters that cannot be stored instead of refusing the body. `drops`: object keys to discard
    during parsing because nothing here reads them. `kept`: size in bytes without the texts below these keys.
    `any_type`: read the body as JSON whatever its Content-Type is.
    """

    limit: int = 256 * KIB
    depth: int = 32
    repairs: bool = False
    drops: frozenset[str] = frozenset()
    kept: int = 3 * MIB
    any_type: bool = False


_DEFAULT = Rule()
_RULES = (
    # The body has every source file of a project in `contents`, and the JSON schemas of the tasks' payloads.
    (
        re.compile(r"/api/v1/deployments/[^/]+/background-workers"),
        Rule(limit=64 * MIB, depth=128, drops=frozenset({"contents"})),
    ),
    # The body has the log of a failed build. A NUL in the log must not be a reason to lose it.
    (re.compile(r"/api/v1/deployments/[^/]+/fail"), Rule(limit=4 * MIB, repairs=True)),
    (re.compile(r"/api/v1/projects/[^/]+/envvars/[^/]+/import"), Rule(limit=MIB)),
    # Every CLI sends this body as text/plain.
    (re.compile(r"/api/v1/token"), Rule(limit=4 * KIB, any_type=True)),
    (re.compile(r"/api/v1/authorization-code"), Rule(limit=4 * KIB)),
    (re.compile(r"/api/v1/auth/oidc"), Rule(limit=64 * KIB, depth=2)),
)


def rule(path: str) -> Rule:
    """The rule for the bodies of a path."""
    return next((found for pattern, found in _RULES if pattern.fullmatch(path)), _DEFAULT)


class BodyError(Exception):
    """A refused body: the status of the answer, and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class _Arriving(io.RawIOBase):
    """The JSON body of a request as the file object that Django reads: `read` once, to the end.

    A body above LARGE_BYTES is collected in a temporary file. When it has arrived it takes one of LARGE_AT_ONCE places,
    so a slow client holds none, and keeps the place until `close`. `read` returns the body without the strings that the
    rule drops. Raises BodyError, and Refusal (too_many_large_bodies, retryable) if no place is free.
    """

    def __init__(self, stream: Any, allowed: Rule, *, chunked: bool) -> None:
        self._stream, self._allowed, self._chunked = stream, allowed, chunked
        self._has_place = False

    def read(self, size: int = -1) -> bytes:
        with tempfile.SpooledTemporaryFile(max_size=LARGE_BYTES) as file:
            for piece in _pieces(self._stream, self._allowed.limit if size < 0 else size, self._allowed, self._chunked):
                file.write(piece)
            if file.tell() > LARGE_BYTES:
                if not _places.acquire(timeout=PLACE_WAIT_SECONDS):
                    raise refusal("too_many_large_bodies")
                self._has_place = True
            file.seek(0)
            return without_dropped(iter(lambda: file.read(_PIECE_BYTES), b""), self._allowed)

    def readline(self, size: int | None = -1) -> bytes:
        raise io.UnsupportedOperation("A body is read whole, not in lines.")

    def close(self) -> None:
        """Django closes the stream after the read, but the parsed body needs the place until `release`."""

    def release(self) -> None:
        """Give the place back: the request has ended."""
        if self._has_place:
            self._has_place = False
            _places.release()


def _pieces(stream: Any, size: int, allowed: Rule, chunked: bool) -> Iterator[bytes]:
    """What arrives of a body, at most `size` bytes.

    Raises BodyError if it breaks off, or is longer than is allowed, and Refusal if the server does not wait for it.
    """
    left = min(size, allowed.limit)
    try:
        while left and (piece := stream.read(min(left, _PIECE_BYTES))):
            left -= len(piece)
            yield piece
        more = chunked and not left and stream.read(1)
    except (BodyError, GeneratorExit):
        raise
    except ConnectionAbortedError:  # by the server: too many threads wait for clients (registry_admin.slow_clients)
        raise refusal("too_many_large_bodies") from None
    except Exception:  # each server has its own exception for a malformed chunk
        raise BodyError(400, "The body broke off.") from None
    if more:
        raise BodyError(413, _sentence_of_limit(allowed.limit))


def admit(request: HttpRequest, *, lazily: bool) -> tuple[HttpRequest, Callable[[], None]]:
    """The request with a limited body, and what to call when the request has ended.

    `lazily`: for the API, whose bodies are JSON. The body is read when a view asks for it, so after its key was
    checked. Else a chunked body is read here, because Django's pages do not expect BodyError, and no body without a
    length. Raises BodyError: 413 if the Content-Length is too large.
    """
    allowed = rule(request.path_info)
    stream: Any = request.META["wsgi.input"]
    encoding = request.headers.get("Transfer-Encoding", "").strip().lower()
    if encoding and (encoding != "chunked" or not request.META.get("wsgi.input_terminated")):
        raise BodyError(411, "Send the body with a Content-Length.")
    try:
        length = allowed.limit if encoding else int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        raise BodyError(400, "The Content-Length is not a number.") from None
    if length > allowed.limit:
        raise BodyError(413, _sentence_of_limit(allowed.limit))
    if lazily and (encoding or allowed.limit > _DEFAULT.limit):
        body = _Arriving(stream, allowed, chunked=bool(encoding))
        return _with_body(request, body, length), body.release
    if encoding:
        content = b"".join(_pieces(stream, length, allowed, chunked=True))
        request = _with_body(request, io.BytesIO(content), len(content))
    return request, lambda: None


def _with_body(request: HttpRequest, body: Any, length: int) -> HttpRequest:
    environ = request.META | {"wsgi.input": body, "CONTENT_LENGTH": str(length)}
    # Django has decoded the path in META. A server gives its bytes as Latin-1 (PEP 3333).
    environ["PATH_INFO"] = request.path_info.encode().decode("iso-8859-1")
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    return WSGIRequest(environ)


_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)  # up to its quote, or to the end of what has arrived


def without_dropped(pieces: Iterable[bytes], allowed: Rule) -> bytes:
    """A JSON text with "" for each string below a dropped key: the rest of a body is small, whatever its size.

    It looks at the text only as far as this needs; `parse` decides whether it is JSON. Raises BodyError (422) if more
    than `allowed.kept` bytes or MAX_VALUES values are left.
    """
    drops = {name.encode() for name in allowed.drops}
    kept, rest = bytearray(), b""
    in_string = dropping = False
    string = between = 0  # where in `kept` the last string began, and the text after it
    name = b""  # the last string
    values = 1
    for piece in pieces:
        piece, at = rest + piece, 0
        rest = b""
        while at < len(piece):
            if in_string:
                match = _STRING.match(piece, at)
                end = match.end() if match else at
                if not dropping:
                    kept += piece[at:end]
                at = end
                if end < len(piece) and piece[end] != _QUOTE:  # a backslash, whose character has not arrived
                    rest = piece[end:]
                    break
                if end < len(piece):
                    in_string, name, between = False, bytes(kept[string:]), len(kept) + 1
                    kept += b'"'
                    at += 1
            else:
                end = piece.find(b'"', at)
                text = piece[at:] if end < 0 else piece[at : end + 1]
                values += text.count(b",") + text.count(b"[") + text.count(b"{")
                kept += text
                at += len(text)
                if end >= 0:
                    in_string, string = True, len(kept)
                    dropping = name in drops and kept[between:-1].strip() == b":"
            if values > MAX_VALUES:
                raise BodyError(422, f"The body has more than {MAX_VALUES:,} values.")
        if len(kept) > allowed.kept:
            raise BodyError(422, f"The body has more than {allowed.kept // MIB} MiB without {_names(allowed.drops)}.")
    kept += rest
    return bytes(kept)


def _names(drops: frozenset[str]) -> str:
    return " and ".join(f"“{name}”" for name in sorted(drops))


def _sentence_of_limit(limit: int) -> str:
    size = f"{limit // MIB} MiB" if limit >= MIB else f"{limit // KIB} KiB"
    return f"The body is larger than {size}, the limit of this address."


class StrictParser(Parser):
    """Ninja's parser for bodies: uncompressed JSON objects with the Content-Type application/json."""

    def parse_body(self, request: HttpRequest) -> dict[str, Any]:
        allowed = rule(request.path_info)
        if request.content_type != "application/json" and not allowed.any_type:
            raise BodyError(415, "Send the body as JSON, with Content-Type: application/json.")
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise BodyError(415, "Send the body uncompressed.")
        try:
            body = request.body
        except UnreadablePostError:
            raise BodyError(400, "The body broke off.") from None
        return parse(body, allowed)


def parse(body: bytes, allowed: Rule = _DEFAULT) -> dict[str, Any]:
    """The JSON object in a body. Raises BodyError: 400 if it is not JSON, 422 if the rule does not allow the JSON."""
    try:
        text = body.decode("utf-8")
        document = json.loads(
            text,
            parse_constant=_no_constant,
            parse_float=_finite,
            object_pairs_hook=lambda pairs: _without_duplicates(pairs, allowed.drops),
        )
    except UnicodeDecodeError:
        raise BodyError(400, "The body is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise BodyError(
            400, f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    except RecursionError:
        raise BodyError(400, "The body is nested too deeply.") from None
    except ValueError:  # Python limits the digits of an integer
        raise BodyError(400, "The body contains a number that is too long.") from None
    if not isinstance(document, dict):
        raise BodyError(422, "The body must be a JSON object.")
    if _depth_exceeds(document, allowed.depth):
        raise BodyError(422, f"The body is nested more than {allowed.depth} levels deep.")
    if _SUSPECT.search(text):  # rare; without a match, no string needs a check
        if allowed.repairs:
            return {_without_unclean(name): _repaired(value) for name, value in document.items()}
        if not all(_is_clean(string) for string in _strings(document)):
            raise BodyError(
                422, "The body contains characters that cannot be stored: NUL, or half of a surrogate pair."
            )
    found: dict[str, Any] = document
    return found


# JSON allows no raw NUL and UTF-8 no raw surrogate, so only their escapes can occur.
_SUSPECT = re.compile(r"\\u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2})")
_UNCLEAN = re.compile("[\0\ud800-\udfff]")


def _is_clean(text: str) -> bool:
    return _UNCLEAN.search(text) is None


def _no_constant(name: str) -> float:
    raise BodyError(400, f"The body is not JSON: {name} is not a JSON number.")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise BodyError(400, "The body contains a number that is too large.")
    return number


def _without_duplicates(pairs: list[tuple[str, Any]], dropped: frozenset[str]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise BodyError(400, "The body names a key twice in one object.")
    for name in dropped:
        document.pop(name, None)
    return document


def _containers(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _depth_exceeds(document: Any, most: int) -> bool:
    level = [document]
    for _ in range(most):
        level = [inner for outer in level for inner in _containers(outer) if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _strings(document: Any) -> Iterable[str]:
    stack = [document]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from value
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def _without_unclean(text: str) -> str:
    return _UNCLEAN.sub("\N{REPLACEMENT CHARACTER}", text)


def _repaired(value: Any) -> Any:
    """The value with replacement characters. `parse` has checked the depth, which limits the recursion."""
    if isinstance(value, str):
        return _without_unclean(value)
    if isinstance(value, dict):
        return {_without_unclean(name): _repaired(inner) for name, inner in value.items()}
    return [_repaired(inner) for inner in value] if isinstance(value, list) else value
