"""Leases: one process at a time works on a repository, on a sweep's listing or on a chunk of one.

A lease is taken and returned by a conditional UPDATE on the database's clock, never by a row lock, so no transaction
is open while its holder waits for AWS. It ends when it is returned, when its time is over, or when its holder's
process has sent no heartbeat for 15 seconds (`processes.silent`). A holder that cannot return it, because the database
is away, does so with the next heartbeat of its process.

Nothing here stops a holder that went on too long: it writes its result only where `lease_epoch` still is the one that
it took, and asks `processes.may_write` before each call to AWS.
"""

from __future__ import annotations

import logging
import uuid
from datetime import timedelta
from typing import Any

from django.db import Error, connection
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

from deployments.reconcile import processes

log = logging.getLogger(__name__)

#: The columns of a lease that is not held.
RETURNED: dict[str, Any] = {"lease_owner": "", "lease_until": None, "lease_process": None}


def free() -> Q:
    """Rows whose lease is free. Of Repository, Sweep and SweepChunk."""
    return Q(lease_until__isnull=True) | Q(lease_until__lt=Now()) | processes.silent()


def claim(rows: QuerySet[Any], duration: timedelta, **values: Any) -> QuerySet[Any] | None:
    """Take the lease of one row, and set these columns beside; None while another holder has it.

    `rows` selects the row; what is returned selects it too, while the lease is ours. The lease's epoch is one higher
    than the last one's.
    """
    processes.beat_if_late()  # else another process could take the lease at once
    owner = uuid.uuid4().hex
    won = rows.filter(free()).update(
        lease_owner=owner,
        lease_until=Now() + duration,
        lease_process=processes.current_id(),
        lease_epoch=F("lease_epoch") + 1,
        **values,
    )
    return rows.filter(lease_owner=owner) if won else None


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
        log.warning("lease.not_returned error=%s: the next heartbeat returns it", type(error).__name__)
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
