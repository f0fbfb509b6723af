"""The middleware for every request and answer.

It gives each answer a request id and, behind trusted proxies, each request the address of its client in REMOTE_ADDR.
Below `/api/`, each HTML error page becomes a JSON error with one sentence, because the CLI shows the sentence and no
HTML. A body that is larger than its path allows is refused before anything reads it (`bodies.admit`). The health
endpoints answer for any host name, because probes use IP addresses.
"""

from __future__ import annotations

import ipaddress
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core import signals
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from deployments import database, log, measure, views
from deployments.access import hashing
from deployments.api import bodies
from deployments.api.auth import KEY_REFUSED
from deployments.api.errors import RETRY_AFTER_SECONDS, internal_error
from deployments.errors import Refusal

logger = log.get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: Programs poll these paths, so their lines are logged only with LOG_LEVEL=DEBUG, unless the server failed.
_PROBES = frozenset({"healthz", "readyz"})
_POLLS = frozenset({"api/v1/deployments/current", "metrics", "status.json"})
_MONITORED = frozenset({"/metrics", "/status.json"})
_LIVE = "X-Live"  # the header of an answer to an open page that renews itself (`deployments.admin.live`)
_SENTENCES = {
    400: "The request is malformed.",
    403: "No permission.",
    404: "There is nothing at this address.",
}


def _is_api(request: HttpRequest) -> bool:
    """Whether the request is for `/api` or a path below it."""
    return request.path_info == "/api" or request.path_info.startswith("/api/")


class RequestMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        started = time.monotonic()
        given = request.headers.get("X-Request-ID", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        request.META["REQUEST_ID"] = request_id
        log.clear()
        log.bind(request_id=request_id)
        hashing.rank.set(hashing.Rank.KNOWN)
        if address := _forwarded_address(request):
            request.META["REMOTE_ADDR"] = address
        response = self._answer(request)
        response["X-Request-ID"] = request_id
        if isinstance(response, HttpResponse) and not response.has_header("Content-Length"):
            # Django's CommonMiddleware does the same, but not for answers that are made here. Without a length, the
            # server cannot keep the connection open.
            response["Content-Length"] = str(len(response.content))
        if isinstance(response, StreamingHttpResponse):
            ended = _Ended(response.streaming_content, log.carried(lambda: _log(request, response, started)))
            response.streaming_content = ended
        else:
            _log(request, response, started)
        log.clear()
        return response

    def _answer(self, request: HttpRequest) -> HttpResponseBase:
        # Before Django checks the Host header, because a probe sends an IP address as its host.
        if request.path_info == "/healthz":
            return views.healthz(request)
        if request.path_info == "/readyz":
            return views.readyz(request)
        if request.path_info in _MONITORED:  # a monitor asks each host by its own address, and sends METRICS_KEY
            request.META["HTTP_HOST"] = urlsplit(settings.CONFIGURATION.app_origin).netloc
        if "\0" in request.path_info or "%00" in request.META.get("QUERY_STRING", ""):
            request.path_info = request.path_info.replace("\0", "")  # later code could not store it either
            return _refusal(request, 400, "The address contains a NUL character.")
        asked = request
        try:
            request, end_of_body = bodies.admit(request, lazily=_is_api(request))
        except bodies.BodyError as error:
            return _refusal(request, error.status, error.sentence)
        try:
            response = self.get_response(request)
        finally:
            end_of_body()
            if asked is not request:  # a request with another body; `_log` gets the first one
                asked.resolver_match = request.resolver_match
                asked.META[KEY_REFUSED] = request.META.get(KEY_REFUSED)
        if not _is_api(request):
            return response
        if response.status_code >= 400 and "json" not in response.get("Content-Type", ""):
            response = _as_json(request, response)
        if not response.has_header("Cache-Control"):
            response["Cache-Control"] = "no-store"  # some answers contain keys
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer 503 if the database does not answer. After an unexpected error in the API, log the traceback with the
        request id and answer 500 with this id.
        """
        if (outage := database.outage(exception)) is not None:
            database.log_outage(exception, where=log.route(request))
            if not _is_api(request):
                return views.database_away(request, outage)
            log.bind(error=outage.sentence, code=outage.code)
            answer = {"error": outage.sentence, "code": outage.code}
            return JsonResponse(answer, status=503, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
        if isinstance(exception, Refusal) and exception.code == hashing.BUSY:
            return views.log_ins_busy(request, exception)
        if not _is_api(request) or isinstance(exception, Http404 | PermissionDenied | SuspiciousOperation):
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
    code = log.context().get("code", "")
    refused = bool(code) and status in (400, 409, 422)
    polled = route in _POLLS or response.has_header(_LIVE)
    if route in _PROBES or request.META.get(KEY_REFUSED) or (polled and status < 500):
        write = logger.debug
    else:
        write = logger.warning if status >= 500 or refused else logger.info
    seconds = time.monotonic() - started
    measure.request(route=route, method=request.method or "", status=status, seconds=seconds)
    if code:
        measure.refusal(code)
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
    """The client's address for the outermost trusted proxy; empty if the request did not pass all trusted proxies.

    Each proxy appends the address of its own client to X-Forwarded-For. The addresses before those of the trusted
    proxies come from the client and may be forged.
    """
    hops: int = settings.CONFIGURATION.trusted_proxies
    seen = request.headers.get("X-Forwarded-For", "").split(",")
    if not hops or len(seen) < hops:
        return ""
    try:
        return str(ipaddress.ip_address(seen[-hops].strip()))
    except ValueError:
        return ""


def _as_json(request: HttpRequest, response: HttpResponseBase) -> HttpResponse:
    status = response.status_code
    if status == 405:
        sentence = f"{request.method} is not allowed here. Allowed: {response.get('Allow', 'nothing')}."
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
    if not _is_api(request):
        return views.refused(request, status, sentence)
    answer = JsonResponse({"error": sentence}, status=status)
    if status < 500:
        answer["x-should-retry"] = "false"
    return answer
