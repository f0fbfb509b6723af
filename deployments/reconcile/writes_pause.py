"""The emergency stop: while it is on, nothing is written to AWS. Looking goes on, and so do deploys that need no write.

It is asked right before each write (`provisioning.Lease.require_writable`), so it holds from the next write on.
"""

from __future__ import annotations

import logging

from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from deployments import audit
from deployments.models import WritesPause

log = logging.getLogger(__name__)


def current() -> WritesPause | None:
    """The pause that is on; None when writes are allowed."""
    return WritesPause.objects.filter(lifted_at=None).first()


def pause(*, actor: audit.Actor, reason: str) -> bool:
    """Stop every write to AWS until `resume`. False when they were stopped already."""
    try:
        with transaction.atomic():
            row = WritesPause.objects.create(paused_by=actor.name[:200], reason=reason[:300])
            audit.record(actor=actor, action="pause.writes", target=row, after={"reason": reason})
    except IntegrityError:
        return False
    log.warning("writes.paused by=%s reason=%s", actor.name, reason)
    return True


def resume(*, actor: audit.Actor) -> bool:
    """Allow writes again. False when they were not stopped."""
    with transaction.atomic():
        row = current()
        lifted = row is not None and WritesPause.objects.filter(pk=row.pk, lifted_at=None).update(
            lifted_at=Now(), lifted_by=actor.name[:200]
        )
        if lifted:
            audit.record(actor=actor, action="resume.writes", target=row)
    if lifted:
        log.warning("writes.resumed by=%s", actor.name)
    return bool(lifted)
