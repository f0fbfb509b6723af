"""Leases: one process at a time works on a repository, on a sweep's listing or on a chunk of one.

A lease is taken and returned by a conditional UPDATE on the database's clock, never by a row lock, so no transaction
is open while its holder waits for AWS. It ends when it is returned, when its time is over, or when its holder's
process has sent no heartbeat for 15 seconds (`processes.silent`). A holder that cannot return it, because the database
is away, does so with the next heartbeat of its process.

Nothing here stops a holder that went on too long: it writes its result only where `lease_epoch` still is the one that
it took, and asks `processes.may_write` before each call to AWS.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Self, TypeVar

from django.db import Error, connection, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

from deployments.errors import registry_error
from deployments.log import get_logger
from deployments.models import Repository, RepositoryEvent, Sweep, SweepChunk
from deployments.reconcile import processes

log = get_logger(__name__)

#: The columns of a lease that is not held.
RETURNED: dict[str, Any] = {"lease_owner": "", "lease_until": None, "lease_process": None}
CALLS_END_SHARE_OF_LEASE = 0.5  # of the lease: no request is sent to AWS after it; D-lease

Row = TypeVar("Row", Repository, Sweep, SweepChunk)


def free() -> Q:
    """Rows whose lease is free. Of Repository, Sweep and SweepChunk."""
    return Q(lease_until__isnull=True) | Q(lease_until__lt=Now()) | processes.silent()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease(Generic[Row]):
    """The right to work on one row until it expires. The row is a Repository, a Sweep (its listing) or a SweepChunk."""

    row: Row  # as it was when the lease was taken
    epoch: int
    taken: float  # `processes.clock()` before the lease was taken
    duration: timedelta

    @classmethod
    def claim(cls, rows: QuerySet[Row], duration: timedelta, **values: Any) -> Self | None:
        """Take the lease of the one row that `rows` selects, and set these columns beside.

        None while another holder has the lease. Time is the database's, so the clocks of hosts need not agree. The
        epoch is one higher than the last holder's. `rows` also says how the row is read (annotations, related rows).
        """
        taken = processes.clock()
        processes.beat_if_late()  # else another process could take the lease at once
        owner = uuid.uuid4().hex
        won = rows.filter(free()).update(
            lease_owner=owner,
            lease_until=Now() + duration,
            lease_process=processes.current_id(),
            lease_epoch=F("lease_epoch") + 1,
            **values,
        )
        if not won:
            return None
        mine = rows.filter(lease_owner=owner)
        try:
            row = mine.first()
        except BaseException:
            give_back(mine)
            raise
        return None if row is None else cls(row=row, epoch=row.lease_epoch, taken=taken, duration=duration)

    @property
    def mine(self) -> QuerySet[Row]:
        """Selects the row, and nothing once another holder has taken the lease over."""
        return type(self.row)._default_manager.filter(pk=self.row.pk, lease_epoch=self.epoch)

    def require_time(self) -> None:
        """Raise RegistryError when the lease may end, or may have ended, before another request to AWS is answered."""
        late = processes.clock() - self.taken > self.duration.total_seconds() * CALLS_END_SHARE_OF_LEASE
        if late or not processes.may_write():
            raise registry_error("OutOfTime", operation="lease", name=str(self.row))

    def note(self, values: dict[str, Any], *events: RepositoryEvent) -> None:
        """Write columns and events before the next step, and keep the lease. Raises RegistryError when it was lost."""
        if not self._write(values, events):
            raise registry_error("TakenOver", operation="lease", name=str(self.row))
        for name, value in values.items():
            setattr(self.row, name, value)

    def renew(self, values: dict[str, Any]) -> bool:
        """Write columns and start the lease's duration anew; False (and nothing written) when the lease was lost."""
        return self._write({**values, "lease_until": Now() + self.duration}, ())

    def finish(
        self, values: dict[str, Any], events: Sequence[RepositoryEvent] = (), *, rest: timedelta | None = None
    ) -> bool:
        """Write the result and return the lease; False (and nothing written) when the lease was lost.

        `rest`: for so long nobody takes the next lease.
        """
        returned = RETURNED if rest is None else {**RETURNED, "lease_until": Now() + rest}
        return self._write({**values, **returned}, events)

    def give_up(self) -> None:
        """Return the lease without a result. Raises no error of the database: see `give_back`."""
        give_back(self.mine)

    def _write(self, values: dict[str, Any], events: Sequence[RepositoryEvent]) -> bool:
        if not events:
            return bool(self.mine.update(**values))
        with transaction.atomic():
            kept = self.mine.update(**values)
            if kept:
                RepositoryEvent.objects.bulk_create(events)
        return bool(kept)


_owed: list[QuerySet[Any]] = []  # rows whose lease this process has not been able to return


def give_back(rows: QuerySet[Any]) -> None:
    """Return the lease of these rows, which are selected by the epoch that the caller holds, so that a later holder's
    lease is never ended. While the database is away or takes no writes, this process's next heartbeat does it.
    """
    try:
        try:
            rows.update(**RETURNED)
        except Error:
            if connection.in_atomic_block or connection.is_usable():
                raise
            connection.close()  # it was cut, and the database may answer a new one
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
