"""Log lines, and the only importer of structlog. Which lines there are: docs/logs-and-metrics.md.

A line has an event name (`deployment.failed`) and fields. A field that is bound once (`bind`, `bound`) is on every line
of the same request or task, also on lines of Django, gunicorn and django-q, and in threads whose function went through
`carried`. A line has no query string, header or body; a value that looks like a secret is left out (`harmless`).
"""

from __future__ import annotations

import contextvars
import json
import logging
import re
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar

import structlog
from structlog.contextvars import bind_contextvars as bind
from structlog.contextvars import bound_contextvars as bound
from structlog.contextvars import clear_contextvars as clear
from structlog.contextvars import get_contextvars as context

__all__ = [
    "Fields", "Formatter", "bind", "bound", "carried", "clear", "context", "get_logger", "harmless", "has_secret",
    "replaced",
]  # fmt: skip

P = ParamSpec("P")
T = TypeVar("T")

HIDDEN = "(not kept)"
#: (what such a text contains in lower case, pattern). To look for the first takes a tenth of the second's time.
_SECRETS = tuple(
    (part, re.compile(pattern))
    for part, pattern in (
        ("tr_", r"tr_[a-z]+_[A-Za-z0-9]{12,}"),  # our keys
        ("hooks.slack.com/", r"hooks\.slack\.com/\S{4}"),
        ("://", r"\w+://[^/\s:@]*:[^/\s@]+@"),  # a password in a URL
        ("akia", r"\bAKIA[0-9A-Z]{12}"),  # AWS key ids
        ("asia", r"\bASIA[0-9A-Z]{12}"),
        ("-----begin", r"-----BEGIN"),  # private keys
        ("gh", r"\bgh[pousr][-_]\w{8}"),  # tokens with a well-known prefix
        ("xox", r"\bxox[abprs][-_]\w{8}"),
        ("glpat", r"\bglpat[-_]\w{8}"),
        ("bearer", r"(?i:\bbearer\s+\S{8})"),
    )
)
_CONTROL = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]"
)  # all control characters except the line feed, which is escaped
_as_text = structlog.processors.LogfmtRenderer(bool_as_flag=False)


class Fields(dict[str, Any]):
    """The message of the program's own lines: the event and its fields."""

    def __str__(self) -> str:
        rest = {name: harmless(value) for name, value in self.items() if name != "event"}
        return f"{_one_line(self['event'])} {_as_text(None, '', rest)}".rstrip()


def harmless(value: object) -> object:
    """The value for a log line: a number, or a text without the lines that contain a secret."""
    if value is None or isinstance(value, bool | int | float):
        return value
    lines = str(value).split("\n")
    return "\n".join(HIDDEN if has_secret(line) else _printable(line) for line in lines)


def has_secret(text: str) -> bool:
    """Whether a part of the text looks like a secret."""
    lowered = text.lower()
    return any(pattern.search(text) for part, pattern in _SECRETS if part in lowered)


def _printable(line: str) -> str:
    return line if line.isprintable() else _CONTROL.sub(" ", line)


def carried(function: Callable[P, T]) -> Callable[P, T]:
    """The function for a call in another thread: its log lines get the fields that are bound now."""
    here = contextvars.copy_context()

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return here.run(function, *args, **kwargs)

    return call


def replaced(record: logging.LogRecord, event: str, **fields: object) -> logging.LogRecord:
    """A copy of the record with this event and these fields in place of its message and traceback."""
    line = logging.makeLogRecord(record.__dict__)
    line.msg, line.args = Fields(event=event, **fields, **_bound_besides(fields)), ()
    line.exc_info = line.exc_text = None
    return line


class Formatter(logging.Formatter):
    """One line for each record: a JSON object, or text with its traceback below, indented.

    Times are UTC, ISO 8601 with milliseconds.
    """

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.msg, Fields):
            fields = {name: harmless(value) for name, value in record.msg.items()}
        else:
            fields = {name: harmless(value) for name, value in _bound_besides({}).items()}
            fields["event"] = harmless(_without_path(record))
        event = fields.pop("event")
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        trace = str(harmless(self.formatException(record.exc_info))) if record.exc_info else ""
        if self._as_json:
            head = {"timestamp": at, "level": record.levelname.lower(), "logger": record.name, "event": event}
            return json.dumps(head | fields | ({"exception": trace} if trace else {}), ensure_ascii=False)
        line = f"{at} {record.levelname} {record.name} {_one_line(event)} {_as_text(None, '', fields)}".rstrip()
        return line + "".join(f"\n    {each}" for each in trace.splitlines())


def _one_line(text: object) -> str:
    return str(text).replace("\n", r"\n")


def _without_path(record: logging.LogRecord) -> str:
    """The message of a line of another library. Django's lines name the path, which may be a log-in link, so it is
    replaced by the route.
    """
    message, request = record.getMessage(), getattr(record, "request", None)
    path = getattr(request, "path", "")
    return message.replace(path, f"/{route(request)}") if len(path) > 1 else message


def route(request: Any) -> str:
    """The URL pattern of a request; empty if no pattern matched."""
    match = getattr(request, "resolver_match", None)
    return str(match.route) if match is not None else ""


def _bound_besides(fields: MutableMapping[str, Any] | dict[str, object]) -> dict[str, Any]:
    return {name: value for name, value in sorted(context().items()) if name not in fields}


def _to_logging(logger: object, method: str, event: MutableMapping[str, Any]) -> tuple[tuple[Fields], dict[str, Any]]:
    error = event.pop("exc_info", None)
    return (Fields(**event, **_bound_besides(event)),), {"exc_info": error}


structlog.configure(
    processors=[structlog.stdlib.filter_by_level, _to_logging],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=True,
)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """`log = get_logger(__name__)`, then `log.info("deployment.created", version=…)`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
