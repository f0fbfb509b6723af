"""Error answers: every error of the API becomes one JSON object with one sentence.

The CLI shows `error` verbatim for every status, and retries 408, 409, 429 and 5xx five times unless the answer has the
header `x-should-retry: false`. So each error that is not retryable has this header, and a retryable error is a 503.
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


class HttpRefusal(HttpError):
    """A refusal with an HTTP status. `code` is stable, for programs.

    `more`: further keys of the JSON answer. `retry_after`: seconds, for the header Retry-After.
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


def http_refusal(status: int, code: str, *, retry_after: int | None = None, **values: object) -> HttpRefusal:
    """The catalogue's error with this HTTP status. Raises KeyError for an unknown code or missing value."""
    return HttpRefusal(status, sentence(code, **values), code=code, retry_after=retry_after)


def internal_error(request_id: str) -> str:
    """The sentence for an unexpected error. The log has the traceback under the request id."""
    return f"The server failed. Its log has the reason under the request id {request_id}."


@contextmanager
def refusing_with(status: int, *, codes: frozenset[str] | None = None) -> Iterator[None]:
    """Give refusals that are not retryable (all, or only those with one of the codes) this status instead of 422."""
    try:
        yield
    except Refusal as refusal:
        if refusal.retryable or isinstance(refusal, NotFound) or (codes is not None and refusal.code not in codes):
            raise
        raise HttpRefusal(status, refusal.sentence, code=refusal.code) from refusal


def register(api: NinjaAPI) -> None:
    """Set the handlers that turn exceptions into error answers."""

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
        if isinstance(cause, BodyError):  # ninja raises its own error from the parser's; the cause has the sentence
            return body_error(request, cause)
        if not isinstance(error, HttpRefusal):
            return answer(request, error.status_code, error.message)
        response = answer(request, error.status_code, error.message, code=error.code, more=error.more)
        if error.retry_after is not None:
            response["Retry-After"] = str(error.retry_after)
        return response

    def body_error(request: HttpRequest, error: BodyError) -> HttpResponse:
        return answer(request, error.status, error.sentence)

    def invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
        return answer(request, 422, sentence_of(error))

    def configuration(request: HttpRequest, error: ConfigurationError) -> HttpResponse:
        log.error("api.configuration", error=str(error))
        return answer(request, 503, "The server's configuration has problems, which its log names.")

    def unexpected(request: HttpRequest, error: Exception) -> HttpResponse:
        raise error  # to the middleware, which also knows the database's errors; ninja would show a traceback in DEBUG

    # Any: ninja's type of the error is “an error or its class”, but ninja passes errors only.
    handlers: dict[type[Exception], Any] = {
        Refusal: refusal,
        HttpError: http_error,
        BodyError: body_error,
        ValidationError: invalid,
        ConfigurationError: configuration,
        Exception: unexpected,
    }
    for kind, handler in handlers.items():
        api.add_exception_handler(kind, handler)


def sentence_of(error: ValidationError) -> str:
    """The first three problems in one sentence, without the values: a value may be a secret in a wrong field."""
    problems = []
    for problem in error.errors[:3]:
        source, *where = (str(step) for step in problem["loc"])
        if source == "body":
            where = where[1:]  # without the name of the route's parameter
        if not where:
            return "The body is missing: send a JSON object."
        problems.append(f"{'.'.join(where)}: {problem['msg']}")
    return f"{'; '.join(problems)}."
