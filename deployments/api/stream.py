"""The answer to a finalize: server-sent events that start at once, with pings while the work takes time.

The CLI shows the sentence of an `error` event only, not of an answer with another status than 200. A proxy or the CLI
closes a connection without data, so the work runs in its own thread and the stream sends pings. The work continues
after the CLI disconnects, and a repeated finalize finds it done.
"""

from __future__ import annotations

import contextvars
import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping

from django.db import connection, connections
from django.http import StreamingHttpResponse

from deployments import database, measure
from deployments.api.errors import internal_error
from deployments.deploys.lifecycle import Refusal
from deployments.log import get_logger

log = get_logger(__name__)

Report = Callable[[str], object]
PING_SECONDS = 10.0  # as trigger.dev's server; many proxies close a silent connection after 60 seconds


def event(name: str, data: Mapping[str, object]) -> bytes:
    """One server-sent event with JSON data."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def response(
    work: Callable[[Report], object], *, complete: Mapping[str, object], request_id: str
) -> StreamingHttpResponse:
    """An event stream: a `log` event for each sentence that `work` reports, then `complete`, or `error` on a Refusal.

    `complete`: the data of the last event. An unexpected error is logged with the request id.
    """
    events = _events(work, complete, request_id, contextvars.copy_context())
    answer = StreamingHttpResponse(events, content_type="text/event-stream")
    answer["Cache-Control"] = "no-cache"
    answer["X-Accel-Buffering"] = "no"
    return answer


def _events(
    work: Callable[[Report], object],
    complete: Mapping[str, object],
    request_id: str,
    request_context: contextvars.Context,
) -> Iterator[bytes]:
    events: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            work(lambda sentence: events.put(event("log", {"message": sentence})))
            last = event("complete", complete)
        except Refusal as refusal:
            measure.refusal(refusal.code)
            log.warning("deployment.finalize_refused", code=refusal.code, error=refusal.sentence)
            last = event("error", {"error": refusal.sentence})
        except Exception as error:
            outage = database.outage(error)
            if outage is not None:
                database.log_outage(error, where="finalize")
            else:
                log.exception("api.finalize_failed")
            last = event("error", {"error": outage.sentence if outage is not None else internal_error(request_id)})
        finally:
            connections.close_all()  # this thread's own connections
        events.put(last)
        events.put(None)

    if connection.vendor == "postgresql" and not connection.in_atomic_block:
        connection.close()  # this thread only waits: a finalize has one connection, as every request (docs/sizing.md)
    # Not a daemon thread: a web process that stops waits until a running finalize has ended.
    threading.Thread(target=request_context.run, args=(run,), name="finalize").start()
    yield event("ping", {})  # the first bytes at once, so that proxies forward the answer
    while True:
        try:
            found = events.get(timeout=PING_SECONDS)
        except queue.Empty:
            yield event("ping", {})
            continue
        if found is None:
            return
        yield found
