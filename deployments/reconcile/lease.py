"""Leases: one process at a time works on a repository, on the listing of a sweep or on a chunk of a sweep.

A lease is taken and returned by a conditional UPDATE on the database's clock, never by a row lock, so no transaction
is open while its holder waits for AWS. A lease ends when it is returned, when its time is over, or when its holder's
process has sent no heartbeat for 15 seconds (`processes.silent`). If the database does not answer, the next heartbeat
of the holder's process returns the lease.

Nothing here stops a holder whose lease has ended. So a holder writes its result only if `lease_epoch` is unchanged, and
it calls `require_time` before each call to AWS.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Self, TypeVar

from django.db import Error, connection, transaction
from django.db.models import BooleanField, ExpressionWrapper, F, Q, QuerySet
from django.db.models.functions import Now

from deployments.compiled_queries import Compiled, CompiledUpdate
from deployments.errors import registry_error
from deployments.log import get_logger
from deployments.models import Repository, RepositoryEvent, Sweep, SweepChunk
from deployments.reconcile import processes

log = get_logger(__name__)

#: The columns of a lease that is not held.
RETURNED: dict[str, Any] = {"lease_owner": "", "lease_until": None, "lease_process": None}
CALLS_END_SHARE_OF_LEASE = 0.5  # after this share of the lease, no request is sent to AWS (D-lease)

Row = TypeVar("Row", Repository, Sweep, SweepChunk)


def free() -> Q:
    """Condition for rows of Repository, Sweep or SweepChunk: no process holds the lease."""
    return Q(lease_until__isnull=True) | Q(lease_until__lt=Now()) | processes.silent()


def is_free() -> ExpressionWrapper[Any]:
    """`free` as a column of a query."""
    return ExpressionWrapper(free(), output_field=BooleanField())


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease(Generic[Row]):
    """The right to work on a Repository, a Sweep (its listing) or a SweepChunk until the lease ends."""

    row: Row  # as it was when the lease was taken
    epoch: int
    taken: float  # `processes.clock()` just before the lease was taken
    duration: timedelta

    @classmethod
    def claim(cls, rows: QuerySet[Row], duration: timedelta, **values: Any) -> Self | None:
        """Take the lease of the one row that `rows` selects, and set the columns `values` in the same UPDATE.

        None while another process holds the lease. The time is the database's, so the clocks of hosts need not agree.
        The epoch is one higher than the last holder's. The lease's row is read through `rows`, with its annotations.
        """

        def take(owner: str) -> int:
            return rows.filter(free()).update(**_taken(owner, processes.current_id(), duration), **values)

        def read(owner: str) -> Row | None:
            return rows.filter(lease_owner=owner).first()

        return cls._claim(lambda: rows, duration, take, read)

    @classmethod
    def claim_one(cls, claim: Claim[Row], pk: int) -> Self | None:
        """`claim` the lease of the row with this key, with statements that were compiled before."""

        def take(owner: str) -> int:
            return claim.take.run(pk, owner, processes.current_id())

        def read(owner: str) -> Row | None:
            return claim.read.first(pk, owner)

        return cls._claim(lambda: claim.rows(pk), claim.duration, take, read)

    @classmethod
    def _claim(
        cls,
        rows: Callable[[], QuerySet[Row]],
        duration: timedelta,
        take: Callable[[str], int],
        read: Callable[[str], Row | None],
    ) -> Self | None:
        taken = processes.clock()
        processes.beat_if_late()  # else this process may count as silent, and another process could take the lease
        owner = uuid.uuid4().hex
        if not take(owner):
            return None
        try:
            row = read(owner)
        except BaseException:
            give_back(rows().filter(lease_owner=owner))
            raise
        return None if row is None else cls(row=row, epoch=row.lease_epoch, taken=taken, duration=duration)

    @property
    def mine(self) -> QuerySet[Row]:
        """Selects the row; selects nothing once another process has taken the lease."""
        return type(self.row)._default_manager.filter(pk=self.row.pk, lease_epoch=self.epoch)

    def require_time(self) -> None:
        """Raise RegistryError (OutOfTime) if the lease may end before another request to AWS is answered."""
        late = processes.clock() - self.taken > self.duration.total_seconds() * CALLS_END_SHARE_OF_LEASE
        if late or not processes.may_write():
            raise registry_error("OutOfTime", operation="lease", name=str(self.row))

    def note(self, values: Mapping[str, Any], *events: RepositoryEvent) -> None:
        """Write columns and events and keep the lease. Raises RegistryError (TakenOver) if the lease was lost."""
        if not self._write(values, events):
            raise registry_error("TakenOver", operation="lease", name=str(self.row))
        for name, value in values.items():
            setattr(self.row, name, value)

    def renew(self, values: Mapping[str, Any]) -> bool:
        """Write columns and restart the lease's duration. False if the lease was lost; then nothing is written."""
        return self._write({**values, "lease_until": Now() + self.duration}, ())

    def finish(
        self, values: Mapping[str, Any], events: Sequence[RepositoryEvent] = (), *, rest: timedelta | None = None
    ) -> bool:
        """Write the result and return the lease. False if the lease was lost; then nothing is written.

        `rest`: no process can take the next lease before this time has passed.
        """
        returned = RETURNED if rest is None else {**RETURNED, "lease_until": Now() + rest}
        return self._write({**values, **returned}, events)

    def give_up(self) -> None:
        """Return the lease without a result. Does not raise during a database outage: see `give_back`."""
        give_back(self.mine)

    def _write(self, values: Mapping[str, Any], events: Sequence[RepositoryEvent]) -> bool:
        if not events:
            return bool(self.mine.update(**values))
        with transaction.atomic():
            kept = self.mine.update(**values)
            if kept:
                RepositoryEvent.objects.bulk_create(events)
        return bool(kept)


class Claim(Generic[Row]):
    """The statements of `Lease.claim_one`, compiled once: each deploy that looks at its repository runs them.

    `rows` makes the query of the row with a key, as for `Lease.claim`; the values are columns that the UPDATE sets.
    """

    def __init__(self, rows: Callable[[int], QuerySet[Row]], duration: timedelta, **values: Any) -> None:
        self.rows: Callable[[int], QuerySet[Row]] = rows
        self.duration = duration

        def taken(pk: int, owner: str, process: int) -> tuple[QuerySet[Row], dict[str, Any]]:
            return rows(pk).filter(free()), {**_taken(owner, process, duration), **values}

        def mine(pk: int, owner: str) -> QuerySet[Row]:
            return rows(pk).filter(lease_owner=owner).order_by()

        self.take = CompiledUpdate(taken, int, str, int)
        self.read: Compiled[Row] = Compiled(mine, int, str)


def _taken(owner: str, process: int | None, duration: timedelta) -> dict[str, Any]:
    """The columns of a lease that was just taken."""
    return {
        "lease_owner": owner,
        "lease_until": Now() + duration,
        "lease_process": process,
        "lease_epoch": F("lease_epoch") + 1,
    }


_owed: list[QuerySet[Any]] = []  # rows whose lease this process could not return yet


def give_back(rows: QuerySet[Any]) -> None:
    """Return the lease of these rows. The caller selects them by its own epoch, so a later lease is never ended.

    While the database does not answer or is read-only, the next heartbeat of this process returns the lease.
    """
    try:
        try:
            rows.update(**RETURNED)
        except Error:
            if connection.in_atomic_block or connection.is_usable():
                raise
            connection.close()  # this connection broke; a new connection may work
            rows.update(**RETURNED)
    except Error as error:
        log.warning("lease.not_returned", error=type(error).__name__, then="the next heartbeat returns it")
        _owed.append(rows)


def give_back_owed() -> None:
    """Return the leases that could not be returned earlier. Called after each heartbeat."""
    while _owed:
        rows = _owed.pop()
        try:
            rows.update(**RETURNED)
        except Error:
            _owed.append(rows)
            raise


processes.after_beat.append(give_back_owed)
