"""The audit log: write its lines, find them and export them.

This is the only module that writes `AuditEntry`. It adds rows and changes none. The admin offers neither change nor
delete, and a test checks both. Only `forget` deletes: entries that are older than RETENTION_AUDIT_DAYS, if it is set.

A change and its line are one transaction, so neither exists without the other, even if the process dies. `Trail` is the
actor and the request. `Trail.change` is the transaction of a change that calls no other system. A use case that calls
AWS, during which no transaction may be open, uses `Trail.attempt` and commits at its end. After a refusal, both write a
line with the reason:

    with trail.change("revoke.key", key):
        keys.revoke(key)

    with trail.attempt("promote.deployment", deployment) as attempt:
        ...                       # calls AWS
        with attempt.commit():    # the change, and the line
            ...

A line is small and contains no secret: long values are cut, and a value whose name or form is that of a secret is
replaced by HIDDEN, whatever the caller passed.
"""

from __future__ import annotations

import csv
import getpass
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.db import connection, transaction
from django.db.models import Model, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest

from deployments.errors import NotFound, Refusal
from deployments.log import HIDDEN, has_secret
from deployments.long_reads import in_pages
from deployments.models import AccessKey, ActorKind, AuditEntry

DONE = "done"
BEGUN = "begun"  # written before a call to another system; a second line has the result, unless the process died
MAX_VALUES_LISTED = 200  # entries of a list or members of an object that are kept; the group admin has some 120 rights
MAX_VALUE_CHARACTERS = 300  # characters of a text that are kept

_ACTION = re.compile(r"[a-z_]+\.[a-z_]+")
#: Names of secret values (`secret_name` and `key_prefix` do not match). `has_secret` finds secret texts.
_SECRET_NAME = re.compile(
    r"(?i)(^|[_\-.])(password|passwd|secret|token|authorization|cookie|credentials?|private_key|api_key|value)s?$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """The person, key or process that acts, as text that stays readable after the person or the key is deleted."""

    kind: ActorKind
    name: str

    @classmethod
    def of_request(cls, request: HttpRequest) -> Actor:
        """The access key of the request (with its owner), else the signed-in person."""
        auth = getattr(request, "auth", None)
        key = auth if isinstance(auth, AccessKey) else getattr(auth, "key", None)
        if isinstance(key, AccessKey):
            return cls.key(key)
        user = getattr(request, "user", None)
        if user is not None and user.is_authenticated:
            return cls.person(user)
        return cls(kind=ActorKind.SYSTEM, name="unknown")

    @classmethod
    def person(cls, user: Any) -> Actor:
        """A person with an account, also one who is not logged in yet."""
        return cls(kind=ActorKind.PERSON, name=user.email or user.get_username())

    @classmethod
    def key(cls, key: AccessKey) -> Actor:
        """An access key, with its owner."""
        owner = f" ({key.user.email or key.user.get_username()})" if key.user is not None else ""
        return cls(kind=ActorKind.KEY, name=f"{key}{owner}")

    @classmethod
    def command(cls, name: str = "manage.py") -> Actor:
        """Somebody with a shell on the host: `Actor.command("reconcile")`."""
        return cls(kind=ActorKind.COMMAND, name=name)

    @classmethod
    def schedule(cls, name: str) -> Actor:
        """A schedule of the worker: `Actor.schedule("sweep")`."""
        return cls(kind=ActorKind.SCHEDULE, name=name)

    @classmethod
    def system(cls, name: str = "Registry Admin") -> Actor:
        """The program itself, without a request: for example a timeout."""
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
    """Write one line. `action` is “verb.noun” (promote.deployment); `outcome` is “done”, or the reason of a refusal.

    `before` and `after` are the few values that the action changes. `request` gives the line its request id and
    address. Raises RuntimeError outside a transaction, because the line and its change must be committed together;
    ValueError for an action that is not “verb.noun”.
    """
    if not connection.in_atomic_block:
        raise RuntimeError(
            f"The line of {action} would be a commit of its own, separate from its change: write both inside "
            "Trail.change or Attempt.commit"
        )
    if not _ACTION.fullmatch(action):
        raise ValueError(f"An action is called verb.noun, as in promote.deployment; not {action!r}.")
    meta = request.META if request is not None else {}
    AuditEntry.objects.create(
        at=Now(),
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


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One action of an actor. `target`, `before` and `after` may be set until the line is written."""

    trail: Trail
    action: str
    target: Model | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    _is_recorded: bool = field(default=False, repr=False)

    @contextmanager
    def commit(self) -> Iterator[None]:
        """The transaction of the change. Its last statement writes the line, unless `nothing_changed` was called."""
        with transaction.atomic():
            yield
            if not self._is_recorded:
                self._write(DONE)

    def begin(self) -> None:
        """Commit a line with the outcome BEGUN, before a call that changes another system. A second line has the
        result.
        """
        with transaction.atomic():
            self.trail.record(self.action, self.target, before=self.before, after=self.after, outcome=BEGUN)

    def refuse(self, reason: str) -> None:
        """Commit a line with the reason of a refusal."""
        with transaction.atomic():
            self._write(reason)

    def nothing_changed(self) -> None:
        """Nothing was changed, so no line is written."""
        self._is_recorded = True

    def _write(self, outcome: str) -> None:
        self.trail.record(self.action, self.target, before=self.before, after=self.after, outcome=outcome)
        self._is_recorded = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """The actor and the request, with which a use case writes its audit lines."""

    actor: Actor
    request: HttpRequest | None = None

    @classmethod
    def of(cls, request: HttpRequest) -> Trail:
        """The trail of a request: its access key, or the signed-in person."""
        return cls(actor=Actor.of_request(request), request=request)

    @classmethod
    def of_command(cls, name: str) -> Trail:
        """The trail of a management command; the actor includes the user of the shell."""
        return cls(actor=Actor.command(f"{name} ({shell_user()})"))

    @contextmanager
    def change(
        self,
        action: str,
        target: Model | None = None,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> Iterator[Attempt]:
        """A change and its line in one transaction. After a Refusal: no change, and a line with the reason."""
        with self.attempt(action, target, before=before, after=after) as attempt, attempt.commit():
            yield attempt

    @contextmanager
    def attempt(
        self,
        action: str,
        target: Model | None = None,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> Iterator[Attempt]:
        """A change that calls another system before it commits. A Refusal writes a line with the reason; NotFound
        writes no line, because the line would have no target. Raises RuntimeError if the block ends without a commit,
        a refusal or `nothing_changed`.
        """
        attempt = Attempt(trail=self, action=action, target=target, before=before, after=after)
        try:
            yield attempt
        except NotFound:
            raise
        except Refusal as refusal:
            attempt.refuse(refusal.sentence)
            raise
        if not attempt._is_recorded:
            raise RuntimeError(f"{action} was neither committed nor refused, so no line would be written")

    def record(
        self,
        action: str,
        target: Model | None = None,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        outcome: str = DONE,
    ) -> None:
        """Write one more line inside the open transaction. Arguments and errors are those of `record`."""
        record(
            actor=self.actor,
            action=action,
            target=target,
            before=before,
            after=after,
            outcome=outcome,
            request=self.request,
        )


def shell_user() -> str:
    """The user of the shell that a command runs in."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown user"


def history(target: Model) -> QuerySet[AuditEntry]:
    """The lines about this object, newest first."""
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
        members = list(value.items())[:MAX_VALUES_LISTED]
        return {_text(key, 60): _harmless(item, name=str(key), depth=depth - 1) for key, item in members}
    if isinstance(value, list | tuple | set | frozenset):
        if depth == 0:
            return "[…]"
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else list(value)
        more = [f"… and {len(items) - MAX_VALUES_LISTED} more"] if len(items) > MAX_VALUES_LISTED else []
        return [_harmless(item, depth=depth - 1) for item in items[:MAX_VALUES_LISTED]] + more
    return _harmless_text(str(value))


def _harmless_text(text: str) -> str:
    text = text.replace("\0", "")
    if has_secret(text):
        return HIDDEN
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[:MAX_VALUE_CHARACTERS] + "…"


def forget(keys: Iterable[int]) -> int:
    """Delete entries, for `deployments.retention` only, which writes an entry about it. Returns their number."""
    return AuditEntry.objects.filter(pk__in=list(keys)).delete()[0]


# ------------------------------------------------------------------------------------------------------------- export

COLUMNS = (
    "at", "actor_kind", "actor", "action", "object_type", "object_id", "object_label", "outcome", "before", "after",
    "request_id", "address",
)  # fmt: skip


def as_json_lines(entries: QuerySet[AuditEntry]) -> Iterator[str]:
    """Each entry as a line of JSON. Reads the database in pages (`long_reads`)."""
    for row in _rows(entries):
        yield json.dumps(row, ensure_ascii=False) + "\n"


class _Echo:
    """A file object for `csv.writer` whose `write` returns the line."""

    def write(self, line: str) -> str:
        return line


def as_csv(entries: QuerySet[AuditEntry]) -> Iterator[str]:
    """The entries as CSV with a header. A cell that a spreadsheet would read as a formula begins with an apostrophe."""
    writer = csv.writer(_Echo())
    yield writer.writerow(COLUMNS)
    for row in _rows(entries):
        yield writer.writerow([_cell(row[name]) for name in COLUMNS])


def _rows(entries: QuerySet[AuditEntry]) -> Iterator[dict[str, Any]]:
    for row in in_pages(entries):
        yield {name: getattr(row, name) for name in COLUMNS} | {"at": row.at.isoformat()}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
