"""The emergency stop: while it is on, nothing is written to AWS. Reads and deploys that need no write still work.

The pause is read right before each write (`RepositoryLease.require_writable`), so it holds from the next write on.
"""

from __future__ import annotations

from django.db import IntegrityError
from django.db.models.functions import Now

from deployments.access.audit import Trail
from deployments.log import get_logger
from deployments.models import WritesPause

log = get_logger(__name__)


def current() -> WritesPause | None:
    """The current pause; None if writes are allowed."""
    return WritesPause.objects.filter(lifted_at=None).first()


def pause(*, trail: Trail, reason: str) -> bool:
    """Stop all writes to AWS until `resume`. False if they were paused already."""
    try:
        with trail.change("pause.writes", after={"reason": reason}) as line:
            line.target = WritesPause.objects.create(paused_by=trail.actor.name[:200], reason=reason[:300])
    except IntegrityError:
        return False
    log.warning("writes.paused", by=trail.actor.name, reason=reason)
    return True


def resume(*, trail: Trail) -> bool:
    """Allow writes again. False if they were not paused."""
    with trail.change("resume.writes") as line:
        line.target = current()
        lifted = line.target is not None and WritesPause.objects.filter(pk=line.target.pk, lifted_at=None).update(
            lifted_at=Now(), lifted_by=trail.actor.name[:200]
        )
        if not lifted:
            line.nothing_changed()
    if lifted:
        log.warning("writes.resumed", by=trail.actor.name)
    return bool(lifted)
