"""What holds for every answer, whichever view gives it.

A request id on each; below `/api/` a JSON error with one sentence in place of every HTML page (the CLI shows the
sentence verbatim, and shows nothing of HTML); bodies that are too large refused before they are read; the health
endpoints answered to any host name, because probes come by address. And on every request the address of its client
in REMOTE_ADDR, where proxies that are trusted stand between.
"""

from __future__ import annotations

import ipaddress
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from django.conf import settings
from django.core import signals
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.core.handlers.wsgi import WSGIRequest
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from deployments import database, log, measure, views
from deployments.api.auth import KEY_REFUSED
from deployments.api.bodies import KIB, MIB, rule
from deployments.api.errors import RETRY_AFTER_SECONDS, Refused, internal_error

logger = log.get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: Who asks here asks for ever: their lines are for LOG_LEVEL=DEBUG, unless the server failed.
_PROBES = frozenset({"healthz", "readyz"})
_POLLS = frozenset({"api/v1/deployments/current", "metrics", "status.json"})
_SENTENCES = {
    400: "The request was not understood.",
    403: "This is not allowed.",
    404: "There is nothing at this address.",
}


class ApiMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        started = time.monotonic()
        given = request.headers.get("X-Request-ID", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        request.META["REQUEST_ID"] = request_id
        log.clear()
        log.bind(request_id=request_id)
        if address := _forwarded_address(request):
            request.META["REMOTE_ADDR"] = address
        response = self._answer(request)
        response["X-Request-ID"] = request_id
        if isinstance(response, HttpResponse) and not response.has_header("Content-Length"):
            # Django's own middleware does this too, but comes after us; without it a connection cannot be kept.
            response["Content-Length"] = str(len(response.content))
        if isinstance(response, StreamingHttpResponse):
            ended = _Ended(response.streaming_content, log.carried(lambda: _log(request, response, started)))
            response.streaming_content = ended
        else:
            _log(request, response, started)
        log.clear()
        return response

    def _answer(self, request: HttpRequest) -> HttpResponseBase:
        # Before the look at the Host header, which a probe cannot know.
        if request.path_info == "/healthz":
            return views.healthz(request)
        if request.path_info == "/readyz":
            return views.readyz(request)
        if "\0" in request.path_info or "%00" in request.META.get("QUERY_STRING", ""):
            request.path_info = request.path_info.replace("\0", "")  # what comes after us cannot store one either
            return _refusal(request, 400, "The address holds a NUL character.")
        if not views.is_api(request):
            return self.get_response(request)
        request = _with_length(request)
        refusal = _too_large(request)
        response = refusal or self.get_response(request)
        if response.status_code >= 400 and "json" not in response.get("Content-Type", ""):
            response = _as_json(request, response)
        if not response.has_header("Cache-Control"):
            response["Cache-Control"] = "no-store"  # several answers hold keys
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Every page reports a database that does not answer. For an unexpected error the log has the traceback, and
        the answer has the id that finds it.
        """
        if (outage := database.outage(exception)) is not None:
            database.log_outage(exception, where=log.route(request))
            if not views.is_api(request):
                return views.database_away(request, outage)
            answer = {"error": outage.sentence, "code": outage.code}
            return JsonResponse(answer, status=503, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
        if not views.is_api(request) or isinstance(exception, Http404 | PermissionDenied | SuspiciousOperation):
            return None
        request_id = request.META["REQUEST_ID"]
        logger.error("api.failed", method=request.method, route=log.route(request), exc_info=exception)
        return JsonResponse({"error": internal_error(request_id)}, status=500)


class _Ended:
    """A stream that calls `end` when the server closes it: only then is it known how long the answer took."""

    def __init__(self, content: Any, end: Callable[[], None]) -> None:
        self._content, self._end = content, end

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._content)

    def close(self) -> None:
        self._end()


def _log(request: HttpRequest, response: HttpResponseBase, started: float) -> None:
    """Count a request, and write its one line. The route stands for the path, which may be a log-in link.

    WARNING: the server failed, or refused a deploy for a reason of the catalogue. DEBUG: probes and polls, and requests
    without a key that works. INFO: all others.
    """
    path, status = request.path_info[1:], response.status_code
    route = path if path in _PROBES else log.route(request)
    refused = "code" in log.context() and status in (400, 409, 422)
    if route in _PROBES or request.META.get(KEY_REFUSED) or (route in _POLLS and status < 500):
        write = logger.debug
    else:
        write = logger.warning if status >= 500 or refused else logger.info
    seconds = time.monotonic() - started
    measure.request(route=route, method=request.method or "", status=status, seconds=seconds)
    write("request", method=request.method, route=route, status=status, duration_ms=round(seconds * 1000))


def _log_uncaught(sender: Any, request: HttpRequest | None = None, **_: Any) -> None:
    """An error that no view of the API raised: of a page, or of another middleware. Called while it is handled."""
    error = sys.exc_info()[1]
    if error is not None and database.outage(error) is not None:
        database.log_outage(error, where=log.route(request))
    else:
        logger.error("page.failed", route=log.route(request), exc_info=True)


signals.got_request_exception.connect(_log_uncaught, dispatch_uid="registry-admin-log")


def _forwarded_address(request: HttpRequest) -> str:
    """The address that the outermost of the trusted proxies saw; empty if the request did not come through them all.

    Each one adds what it saw at the end; whatever stands further to the front was sent by the client, and may be a lie.
    """
    hops: int = settings.CONFIGURATION.trusted_proxies
    seen = request.headers.get("X-Forwarded-For", "").split(",")
    if not hops or len(seen) < hops:
        return ""
    try:
        return str(ipaddress.ip_address(seen[-hops].strip()))
    except ValueError:
        return ""


class _Unmeasured:
    """A chunked body, read to its end, which only the server knows, and not beyond what the address takes."""

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream = stream
        self._left = limit
        self._limit = limit

    def read(self, size: int = -1) -> bytes:
        return self._counted(self._stream.read, size)

    def readline(self, size: int = -1) -> bytes:
        return self._counted(self._stream.readline, size)

    def _counted(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            data = read(size)
            self._left -= len(data)
            more = self._left <= 0 and self._stream.read(1)
        except Exception:  # each server has its own for a chunk that is none
            raise Refused(400, "The body broke off.") from None
        if more:
            raise Refused(413, _sentence_of_limit(self._limit))
        return data


def _with_length(request: HttpRequest) -> HttpRequest:
    """The request; if its body comes in chunks, from a server that knows their end, one that Django can read."""
    chunked = request.headers.get("Transfer-Encoding", "").strip().lower() == "chunked"
    if not chunked or not request.META.get("wsgi.input_terminated"):
        return request
    limit = rule(request.path_info).limit
    environ = request.META | {
        "CONTENT_LENGTH": str(limit),
        "wsgi.input": _Unmeasured(request.META["wsgi.input"], limit),
    }
    del environ["HTTP_TRANSFER_ENCODING"]
    return WSGIRequest(environ)


def _too_large(request: HttpRequest) -> HttpResponse | None:
    if request.headers.get("Transfer-Encoding"):
        return _refusal(request, 411, "Send the body with a Content-Length.")
    try:
        length = int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        return _refusal(request, 400, "The Content-Length is not a number.")
    limit = rule(request.path_info).limit
    if length <= limit:
        return None
    return _refusal(request, 413, _sentence_of_limit(limit))


def _sentence_of_limit(limit: int) -> str:
    size = f"{limit // MIB} MiB" if limit >= MIB else f"{limit // KIB} KiB"
    return f"The body is larger than {size}, the most that this address takes."


def _as_json(request: HttpRequest, response: HttpResponseBase) -> HttpResponse:
    status = response.status_code
    if status == 405:
        sentence = f"{request.method} is not possible here; possible: {response.get('Allow', 'nothing')}."
    elif status >= 500:
        sentence = internal_error(request.META["REQUEST_ID"])
    else:
        sentence = _SENTENCES.get(status, "The request was refused.")
    answer = _refusal(request, status, sentence)
    if response.has_header("Allow"):
        answer["Allow"] = response["Allow"]
    response.close()
    return answer


def _refusal(request: HttpRequest, status: int, sentence: str) -> HttpResponse:
    log.bind(error=sentence)
    answer = JsonResponse({"error": sentence}, status=status)
    if status < 500:
        answer["x-should-retry"] = "false"
    return answer
