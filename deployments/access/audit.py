"""Who did what: the lines of the audit log, how they are written, found again and exported.

Append-only. This is the only module that writes `AuditEntry`, and all that it can do is add one; the admin offers
neither change nor delete, and a test holds the door shut.

A change and its line are one transaction, so neither exists without the other, whenever the process dies. `Trail` says
who acts; `Trail.change` is the transaction of a change that asks nobody else. What calls AWS on its way, where no
transaction may be open, uses `Trail.attempt` and commits at its end. In both a refusal leaves a line with its reason:

    with trail.change("revoke.key", key):
        keys.revoke(key)

    with trail.attempt("promote.deployment", deployment) as attempt:
        ...                       # asks AWS
        with attempt.commit():    # the change, and the line
            ...

What is written is small and holds no secret: values are cut, and those whose name or form says that they are one are
left out, whatever the caller passed.
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
from deployments.models import AccessKey, ActorKind, AuditEntry

DONE = "done"
BEGUN = "begun"  # a call to another system was made; another line has its result, unless this process was killed first
HIDDEN = "(not kept)"
MAX_VALUES_LISTED = 20  # entries of a list or members of an object that are kept
MAX_VALUE_CHARACTERS = 300  # characters of a text that are kept

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
    Only inside the transaction of the change that the line is about: raises RuntimeError outside of one.
    """
    if not connection.in_atomic_block:
        raise RuntimeError(
            f"The line of {action} would be a commit of its own, and could be lost without its change: write both "
            "inside Trail.change or Attempt.commit"
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
    """One action of an actor. Its fields may be set until its line is written."""

    trail: Trail
    action: str
    target: Model | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    _is_told: bool = field(default=False, repr=False)

    @contextmanager
    def commit(self) -> Iterator[None]:
        """The transaction of the change; the line is its last statement, unless `nothing_changed` was called."""
        with transaction.atomic():
            yield
            if not self._is_told:
                self._write(DONE)

    def begin(self) -> None:
        """Write a line of its own that says that it begins: before a call that changes something at another system,
        which no transaction of ours covers. The result is another line.
        """
        with transaction.atomic():
            self.trail.record(self.action, self.target, before=self.before, after=self.after, outcome=BEGUN)

    def refuse(self, reason: str) -> None:
        """Write the line with the reason why it was not done, in a transaction of its own."""
        with transaction.atomic():
            self._write(reason)

    def nothing_changed(self) -> None:
        """Nothing was changed, so no line is written."""
        self._is_told = True

    def _write(self, outcome: str) -> None:
        self.trail.record(self.action, self.target, before=self.before, after=self.after, outcome=outcome)
        self._is_told = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """The actor and the request: a use case writes its lines with it."""

    actor: Actor
    request: HttpRequest | None = None

    @classmethod
    def of(cls, request: HttpRequest) -> Trail:
        return cls(actor=Actor.of_request(request), request=request)

    @classmethod
    def of_command(cls, name: str) -> Trail:
        """A command, with the name of the shell's user."""
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
        """A change and its line in one transaction; after a Refusal the line with the reason, and no change."""
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
        """What asks another system before it commits. After a Refusal there is a line with the reason; NotFound, which
        is about nothing that is here, leaves none. Raises RuntimeError when it ends without a commit or a refusal.
        """
        attempt = Attempt(trail=self, action=action, target=target, before=before, after=after)
        try:
            yield attempt
        except NotFound:
            raise
        except Refusal as refusal:
            attempt.refuse(refusal.sentence)
            raise
        if not attempt._is_told:
            raise RuntimeError(f"{action} was neither committed nor refused, so it would leave no line")

    def record(
        self,
        action: str,
        target: Model | None = None,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        outcome: str = DONE,
    ) -> None:
        """A further line inside a transaction that is open already (`record`)."""
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
    if _SECRET_TEXT.search(text):
        return HIDDEN
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[:MAX_VALUE_CHARACTERS] + "…"


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
