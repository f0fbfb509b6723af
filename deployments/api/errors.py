"""Every error of the API becomes one JSON object with one sentence, once, here.

The CLI shows `error` verbatim for every status, and retries 408, 409, 429 and 5xx five times unless an answer
carries `x-should-retry: false`. So a definitive “no” always carries it, and a passing one is a 503.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError

from deployments.api.bodies import BodyError
from deployments.catalogue import sentence
from deployments.config import ConfigurationError
from deployments.errors import NotFound, Refusal
from deployments.log import bind, get_logger

log = get_logger(__name__)

RETRY_AFTER_SECONDS = 5


class Refused(HttpError):
    """A refusal with the status that the contract has for it at this address. `code` is stable, for programs.

    `more` goes into the answer beside the sentence; `retry_after` is in seconds.
    """

    def __init__(
        self,
        status: int,
        sentence: str,
        *,
        code: str = "",
        more: Mapping[str, Any] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(status, sentence)
        self.code = code
        self.more = dict(more or {})
        self.retry_after = retry_after


def refused(status: int, code: str, *, retry_after: int | None = None, **values: object) -> Refused:
    """The catalogue's error with this HTTP status. Raises KeyError for an unknown code or missing value."""
    return Refused(status, sentence(code, **values), code=code, retry_after=retry_after)


def internal_error(request_id: str) -> str:
    return f"The server failed. Its log has the reason under the request id {request_id}."


@contextmanager
def refusing_with(status: int, *, codes: frozenset[str] | None = None) -> Iterator[None]:
    """Give definitive refusals (all, or those with one of the codes) this status instead of 422."""
    try:
        yield
    except Refusal as refusal:
        if refusal.retryable or isinstance(refusal, NotFound) or (codes is not None and refusal.code not in codes):
            raise
        raise Refused(status, refusal.sentence, code=refusal.code) from refusal


def register(api: NinjaAPI) -> None:
    def answer(
        request: HttpRequest, status: int, sentence: str, *, code: str = "", more: Mapping[str, Any] | None = None
    ) -> HttpResponse:
        bind(error=sentence, **({"code": code} if code else {}))  # for the line of this request
        body = {"error": sentence} | ({"code": code} if code else {}) | dict(more or {})
        response = api.create_response(request, body, status=status)
        if status == 401:
            response["WWW-Authenticate"] = "Bearer"
        if status == 503:
            response["Retry-After"] = str(RETRY_AFTER_SECONDS)
        else:
            response["x-should-retry"] = "false"
        return response

    def refusal(request: HttpRequest, error: Refusal) -> HttpResponse:
        status = 404 if isinstance(error, NotFound) else 503 if error.retryable else 422
        return answer(request, status, error.sentence, code=error.code)

    def http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
        cause = error.__cause__
        if isinstance(cause, BodyError):  # ninja replaces a parser's error by its own; the cause has the sentence
            return answer(request, cause.status, cause.sentence)
        if not isinstance(error, Refused):
            return answer(request, error.status_code, error.message)
        response = answer(request, error.status_code, error.message, code=error.code, more=error.more)
        if error.retry_after is not None:
            response["Retry-After"] = str(error.retry_after)
        return response

    def invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
        return answer(request, 422, sentence_of(error))

    def configuration(request: HttpRequest, error: ConfigurationError) -> HttpResponse:
        log.error("api.configuration", error=str(error))
        return answer(request, 503, "The server's configuration has problems, which its log names.")

    def unexpected(request: HttpRequest, error: Exception) -> HttpResponse:
        raise error  # to the middleware, for the database's errors too; ninja's own shows a traceback while DEBUG is on

    # Any: ninja types a handler's error as “an error or its class”, and hands over errors only.
    handlers: dict[type[Exception], Any] = {
        Refusal: refusal,
        HttpError: http_error,
        ValidationError: invalid,
        ConfigurationError: configuration,
        Exception: unexpected,
    }
    for kind, handler in handlers.items():
        api.add_exception_handler(kind, handler)


def sentence_of(error: ValidationError) -> str:
    """The first few complaints in one sentence. Never a value: it may be a secret that stood in the wrong place."""
    complaints = []
    for complaint in error.errors[:3]:
        source, *where = (str(step) for step in complaint["loc"])
        if source == "body":
            where = where[1:]  # the name of our own parameter
        if not where:
            return "The body is missing: send a JSON object."
        complaints.append(f"{'.'.join(where)}: {complaint['msg']}")
    return f"{'; '.join(complaints)}."
