"""Finalize's answer: server-sent events that start at once and never fall silent.

The CLI takes every refusal from an `error` event only; any other status loses our sentence. A proxy or the CLI drops
a connection on which nothing comes, so the work runs in a thread of its own and the stream pings while it waits.
A CLI that goes away does not stop the work: what was begun is finished, and asking again finds it done.
"""

from __future__ import annotations

import contextvars
import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping

from django.db import connections
from django.http import StreamingHttpResponse

from deployments import database
from deployments.api.errors import internal_error
from deployments.deploys.lifecycle import Refusal
from deployments.log import get_logger

log = get_logger(__name__)

PING_SECONDS = 10.0  # as upstream; proxies commonly give up after 60


def event(name: str, data: Mapping[str, object]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def response(
    work: Callable[[], Iterator[str]], *, complete: Mapping[str, object], request_id: str
) -> StreamingHttpResponse:
    """An event stream: the sentences that `work` yields as `log`, then `complete`, or `error` if it refuses."""
    events = _events(work, complete, request_id, contextvars.copy_context())
    answer = StreamingHttpResponse(events, content_type="text/event-stream")
    answer["Cache-Control"] = "no-cache"
    answer["X-Accel-Buffering"] = "no"
    return answer


def _events(
    work: Callable[[], Iterator[str]],
    complete: Mapping[str, object],
    request_id: str,
    request_context: contextvars.Context,
) -> Iterator[bytes]:
    events: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            for sentence in work():
                events.put(event("log", {"message": sentence}))
            last = event("complete", complete)
        except Refusal as refusal:
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
            connections.close_all()  # this thread's own; nobody else would close it
        events.put(last)
        events.put(None)

    # Not a daemon: a web process that is told to stop lets a promotion that was begun come to its end.
    threading.Thread(target=request_context.run, args=(run,), name="finalize").start()
    yield event("ping", {})  # the first bytes, so that every proxy sees that an answer has begun
    while True:
        try:
            found = events.get(timeout=PING_SECONDS)
        except queue.Empty:
            yield event("ping", {})
            continue
        if found is None:
            return
        yield found
