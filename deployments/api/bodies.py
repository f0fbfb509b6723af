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
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, UnreadablePostError
from ninja.parser import Parser

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The rule for the bodies of one address: size in bytes and depth of nesting, and:

    `repairs`: replace characters that cannot be stored instead of refusing the body. `drops`: object keys to discard
    during parsing because nothing here reads them. `any_type`: read the body as JSON whatever its Content-Type is.
    """

    limit: int = 256 * KIB
    depth: int = 32
    repairs: bool = False
    drops: frozenset[str] = frozenset()
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
    """The body of a request as the file object that Django reads. Raises BodyError: 413 if more bytes arrive than the
    path allows, 400 if the body breaks off.
    """

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream, self._limit, self._left = stream, limit, limit

    def read(self, size: int = -1) -> bytes:
        data = self._received(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        if not self._left and self._received(1):
            raise BodyError(413, _sentence_of_limit(self._limit))
        return data

    def readline(self, size: int | None = -1) -> bytes:
        raise io.UnsupportedOperation("A body is read in pieces, not in lines.")

    def _received(self, size: int) -> bytes:
        try:
            data: bytes = self._stream.read(size)
        except Exception:  # each server has its own exception for a malformed chunk
            raise BodyError(400, "The body broke off.") from None
        return data


def admit(request: HttpRequest, *, lazily: bool) -> tuple[HttpRequest, io.IOBase]:
    """The request with a limited body, and the body; close the body when the request has ended.

    `lazily`: a chunked body is read when a view asks for it, so after its key was checked. Else it is read here,
    because Django's pages do not expect BodyError. Raises BodyError: 413 if the Content-Length is too large.
    """
    limit = rule(request.path_info).limit
    stream: Any = request.META["wsgi.input"]
    encoding = request.headers.get("Transfer-Encoding", "").strip().lower()
    if not encoding:
        try:
            length = int(request.META.get("CONTENT_LENGTH") or 0)
        except ValueError:
            raise BodyError(400, "The Content-Length is not a number.") from None
        if length > limit:
            raise BodyError(413, _sentence_of_limit(limit))
        return request, io.BytesIO()
    if encoding != "chunked" or not request.META.get("wsgi.input_terminated"):
        raise BodyError(411, "Send the body with a Content-Length.")
    body: io.IOBase = _Arriving(stream, limit)
    length = limit  # Django reads no body without a length
    if not lazily:
        content = body.read()
        body, length = io.BytesIO(content), len(content)
    environ = request.META | {"wsgi.input": body, "CONTENT_LENGTH": str(length)}
    del environ["HTTP_TRANSFER_ENCODING"]
    return WSGIRequest(environ), body


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
