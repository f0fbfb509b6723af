"""Who did what: one function that writes a line, one that finds them again, one that takes them out.

Append-only. This is the only module that writes `AuditEntry`, and all that it can do is add one; the admin offers
neither change nor delete, and a test holds the door shut. A line is written in the transaction of the change that it
tells of, where there is one, so that neither exists without the other.

What is written is small and holds no secret: values are cut, and those whose name or form says that they are one are
left out, whatever the caller passed.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from deployments.models import AccessKey, ActorKind, AuditEntry

DONE = "done"
HIDDEN = "(not kept)"
MANY = 20  # entries of a list or members of an object that are kept
LONG = 300  # characters of a text that are kept

_ACTION = re.compile(r"[a-z_]+\.[a-z_]+")
#: Names of values that are secrets (`secret_name` and `key_prefix` are not), and texts that are: our keys, Slack's
#: addresses, a password in an address, AWS's key ids, private keys, tokens with a well-known beginning.
_SECRET_NAME = re.compile(
    r"(?i)(^|[_\-.])(password|passwd|secret|token|authorization|cookie|credentials?|private_key|api_key|value)s?$"
)
_SECRET_TEXT = re.compile(
    r"tr_[a-z]+_[A-Za-z0-9]{12,}|hooks\.slack\.com/\S{4}|\w+://[^/\s:@]*:[^/\s@]+@|\bA[KS]IA[0-9A-Z]{12}"
    r"|-----BEGIN|\b(?:gh[pousr]|xox[abprs]|glpat)[-_]\w{8}|(?i:\bbearer\s+\S{8})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Whoever did it, as text that stays readable when the person or the key is gone."""

    kind: ActorKind
    name: str

    @classmethod
    def of_request(cls, request: HttpRequest) -> Actor:
        """The access key that the request came with (and whose it is), else the person who is logged in."""
        auth = getattr(request, "auth", None)
        key = auth if isinstance(auth, AccessKey) else getattr(auth, "key", None)
        if isinstance(key, AccessKey):
            return cls.key(key)
        user = getattr(request, "user", None)
        if user is not None and user.is_authenticated:
            return cls(kind=ActorKind.PERSON, name=user.email or user.get_username())
        return cls(kind=ActorKind.SYSTEM, name="nobody who is known")

    @classmethod
    def key(cls, key: AccessKey) -> Actor:
        owner = f" ({key.user.email or key.user.get_username()})" if key.user is not None else ""
        return cls(kind=ActorKind.KEY, name=f"{key}{owner}")

    @classmethod
    def command(cls, name: str = "manage.py") -> Actor:
        """Somebody with a shell on the host: `Actor.command("reconcile")`."""
        return cls(kind=ActorKind.COMMAND, name=name)

    @classmethod
    def schedule(cls, name: str) -> Actor:
        return cls(kind=ActorKind.SCHEDULE, name=name)

    @classmethod
    def system(cls, name: str = "Registry Admin") -> Actor:
        """The program itself, where nobody asked: a timeout, a state that was found."""
        return cls(kind=ActorKind.SYSTEM, name=name)


def record(
    *,
    actor: Actor,
    action: str,
    target: Model | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    outcome: str = DONE,
    request: HttpRequest | None = None,
) -> None:
    """Write one line. `action` is “verb.noun” (promote.deployment); `outcome` is “done” or the reason why not.

    `before` and `after` hold the few values that the action was about. With a request its id and address are kept.
    """
    if not _ACTION.fullmatch(action):
        raise ValueError(f"An action is called verb.noun, as in promote.deployment; not {action!r}.")
    meta = request.META if request is not None else {}
    AuditEntry.objects.create(
        at=timezone.now(),
        actor_kind=actor.kind,
        actor=_text(actor.name, 200),
        action=action[:60],
        object_type=target._meta.model_name or "" if target is not None else "",
        object_id=_text(target.pk, 64) if target is not None else "",
        object_label=_text(target, 300) if target is not None else "",
        before=None if before is None else _harmless(before),
        after=None if after is None else _harmless(after),
        outcome=_harmless_text(outcome)[:300] or DONE,
        request_id=_text(meta.get("REQUEST_ID", ""), 64),
        address=_text(meta.get("REMOTE_ADDR", ""), 64),
    )


def history(target: Model) -> QuerySet[AuditEntry]:
    """What happened to this object, the newest first."""
    return AuditEntry.objects.filter(object_type=target._meta.model_name or "", object_id=str(target.pk))


def _text(value: object, length: int) -> str:
    # PostgreSQL stores no NUL.
    return str(value).replace("\0", "")[:length]


def _harmless(value: Any, *, name: str = "", depth: int = 4) -> Any:
    """The value as small JSON without secrets."""
    if _SECRET_NAME.search(name) and value not in (None, "", True, False):
        return HIDDEN
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        if depth == 0:
            return "{…}"
        members = list(value.items())[:MANY]
        return {_text(key, 60): _harmless(item, name=str(key), depth=depth - 1) for key, item in members}
    if isinstance(value, list | tuple | set | frozenset):
        if depth == 0:
            return "[…]"
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else list(value)
        more = [f"… and {len(items) - MANY} more"] if len(items) > MANY else []
        return [_harmless(item, depth=depth - 1) for item in items[:MANY]] + more
    return _harmless_text(str(value))


def _harmless_text(text: str) -> str:
    text = text.replace("\0", "")
    if _SECRET_TEXT.search(text):
        return HIDDEN
    return text if len(text) <= LONG else text[:LONG] + "…"


# ------------------------------------------------------------------------------------------------------------- export

COLUMNS = (
    "at", "actor_kind", "actor", "action", "object_type", "object_id", "object_label", "outcome", "before", "after",
    "request_id", "address",
)  # fmt: skip


def as_json_lines(entries: QuerySet[AuditEntry]) -> Iterator[str]:
    """One JSON object a line; read from the database piece by piece, so that the whole log fits through."""
    for row in _rows(entries):
        yield json.dumps(row, ensure_ascii=False) + "\n"


class _Echo:
    """What csv writes to: it hands each line back."""

    def write(self, line: str) -> str:
        return line


def as_csv(entries: QuerySet[AuditEntry]) -> Iterator[str]:
    """The same with a head line. A cell that a spreadsheet would take for a formula begins with an apostrophe."""
    writer = csv.writer(_Echo())
    yield writer.writerow(COLUMNS)
    for row in _rows(entries):
        yield writer.writerow([_cell(row[name]) for name in COLUMNS])


def _rows(entries: QuerySet[AuditEntry]) -> Iterator[dict[str, Any]]:
    rows: Iterable[dict[str, Any]] = entries.values(*COLUMNS).iterator(chunk_size=500)
    for row in rows:
        yield row | {"at": row["at"].isoformat()}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
