"""Restore an earlier repository policy. A person asks for it after having seen what it changes.

The rules are the usual ones: it runs under the repository's lease, the current policy text is kept in the history
before it is overwritten, no transaction is open during a call to AWS, and the result is on the row. In enforce mode the
next check would overwrite the restored policy, so an override is written first; it stays if AWS refuses the write.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from deployments import policy
from deployments.access.audit import Attempt, Trail
from deployments.aws.ecr import Ecr
from deployments.config import Configuration
from deployments.errors import Refusal, RegistryError, refusal, registry_error
from deployments.models import EventKind, RepositoryEvent
from deployments.reconcile import bulkhead, generation, repositories, requests, targets
from deployments.reconcile.repositories import RepositoryLease

ATTEMPTS_PER_CALL = 1  # a person waits for the answer and can press the button again


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Observe this repository until a time, so that the restored policy stays."""

    until: datetime
    reason: str


def put_back(
    *,
    event: RepositoryEvent,
    configuration: Configuration,
    by: str,
    trail: Trail,
    override: Override | None = None,
) -> str:
    """Write the policy text that an event has kept. Returns the text that it replaces.

    Makes two calls to AWS: a read and a write. Raises Refusal if there is nothing to restore, if ECR would refuse the
    text, if another process holds the lease, and with AWS's reason if AWS refuses. The audit log gets a line before the
    write, committed on its own, and a line with the result.
    """
    after = {"policy": event.policy_before}
    with trail.attempt("restore.repository", event.repository, after=after) as attempt, bulkhead.place():
        return _put_back(event, configuration, by, attempt, override)


def _put_back(
    event: RepositoryEvent, configuration: Configuration, by: str, attempt: Attempt, override: Override | None
) -> str:
    try:
        configuration = generation.in_force(configuration)
    except RegistryError as error:
        raise error.as_refusal() from error
    row = event.repository
    text = event.policy_before
    target = targets.of(row, configuration)
    if not text or target is None:
        reason = "the event has no policy" if not text else "the settings name another registry than this repository's"
        raise refusal("nothing_to_put_back", reason=reason)
    errors = [
        finding
        for finding in policy.lint(
            text,
            partition=target.registry.partition,
            allow_public=configuration.allow_public_policy,
            writer=target.writer,
        )
        if finding.level == "error"
    ]
    if errors:
        raise Refusal(f"This policy cannot be restored: {errors[0].message} {errors[0].hint}", code=errors[0].id)
    if override is not None:
        after = {"mode": "observe", "until": override.until.isoformat(), "reason": override.reason, "repositories": 1}
        with attempt.trail.change("except.repository", row, after=after):
            requests.set_override(rows=[row], mode="observe", until=override.until, reason=override.reason, by=by)
    lease = repositories.claim(row)
    if lease is None:
        raise refusal("busy", what=row.name)
    try:
        if lease.activation != configuration.activation:  # another configuration counts since the text was checked
            raise registry_error("ConfigurationChanged", operation="lease", name=row.name)
        # The text is one of the history, so no setting is named if ECR refuses it.
        ecr = target.ecr(before_attempt=lease.require_time, attempts=ATTEMPTS_PER_CALL, settings={})
        before = _write(ecr, row.name, text, event=event, by=by, attempt=attempt, lease=lease)
    except RegistryError as error:
        lease.give_up()
        raise error.as_refusal() from error
    except BaseException:
        lease.give_up()
        raise
    with attempt.commit():
        kept = repositories.record_policy(
            lease=lease, config=target.config, partition=target.registry.partition, text=text, cause=by[:100]
        )
    status_before = lease.row.status
    row.refresh_from_db(fields=["status", "differences"])
    if kept and row.status != status_before:
        repositories.log_status(row, before=status_before, cause=by)
    return before


def _write(
    ecr: Ecr, name: str, text: str, *, event: RepositoryEvent, by: str, attempt: Attempt, lease: RepositoryLease
) -> str:
    observation = ecr.observe(name, details=False)
    if isinstance(observation.policy, RegistryError):
        raise observation.policy
    if not observation.exists:
        raise refusal("missing", name=name)
    before = observation.policy or ""
    lease.require_writable()
    attempt.before = {"policy": before}
    # Before the write, so that a crash between the two loses neither the replaced policy nor the person's name.
    with transaction.atomic():
        RepositoryEvent.objects.create(
            repository_id=event.repository_id,
            kind=EventKind.POLICY_APPLIED,
            message=f"The policy of {event.at:%d %b %Y, %H:%M} UTC was put back.",
            cause=by[:100],
            policy_before=before,
        )
        attempt.begin()
    ecr.set_policy(name, text)
    return before
