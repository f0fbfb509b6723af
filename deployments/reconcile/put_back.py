"""Put back a repository policy that was there before: by a person, who has seen what it changes.

The same rules as everywhere: one worker at a time by the repository's lease, the text that is there is read and kept
in the history before it is overwritten, no transaction is open while AWS is asked, and the row says what came of it.
In enforce mode the next look would heal it again, so an exception comes first, and stays when the write is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models.functions import Now

from deployments import policy
from deployments.access.audit import Attempt, Trail
from deployments.aws.ecr import Ecr
from deployments.config import Configuration
from deployments.errors import Refusal, RegistryError, refusal, registry_error
from deployments.models import EventKind, RepositoryEvent, RepositoryStatus
from deployments.reconcile import bulkhead, desired, generation, repositories, requests, targets
from deployments.reconcile.repositories import RepositoryLease

ATTEMPTS_PER_CALL = 1  # somebody waits for the answer, and can press the button again


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Observe this repository until a time, so that what was put back stays."""

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
    """Write the policy text that an event kept. Returns the text that was there.

    Asks AWS twice: a read and a write. Raises Refusal when there is nothing to put back, when ECR would refuse the
    text, when somebody is working on the repository, and with AWS's own reason. The audit log has a line that it
    begins, committed before the write, and one with the result.
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
        reason = "the event has none" if not text else "the settings name another registry than this repository's"
        raise refusal("nothing_to_put_back", reason=reason)
    errors = [
        finding
        for finding in policy.lint(
            text, partition=target.registry.partition, allow_public=configuration.allow_public_policy
        )
        if finding.level == "error"
    ]
    if errors:
        raise Refusal(f"This policy is not put back: {errors[0].message} {errors[0].hint}", code=errors[0].id)
    if override is not None:
        after = {"mode": "observe", "until": override.until.isoformat(), "reason": override.reason, "repositories": 1}
        with attempt.trail.change("except.repository", row, after=after):
            requests.set_override(rows=[row], mode="observe", until=override.until, reason=override.reason, by=by)
    lease = repositories.claim(row)
    if lease is None:
        raise refusal("busy", what=row.name)
    try:
        if lease.activation != configuration.activation:  # checked and compared by another one than counts by now
            raise registry_error("ConfigurationChanged", operation="lease", name=row.name)
        ecr = target.ecr(before_attempt=lease.require_time, attempts=ATTEMPTS_PER_CALL)
        before = _write(ecr, row.name, text, event=event, by=by, attempt=attempt, lease=lease)
    except RegistryError as error:
        lease.give_up()
        raise error.as_refusal() from error
    except BaseException:
        lease.give_up()
        raise
    differences = desired.policy_differences(
        target.config.default_repository_policy, text, partition=target.registry.partition
    )
    left = [each for each in row.differences if each.get("what") != desired.Part.POLICY]
    values: dict[str, Any] = {
        "policy_text": text,
        "written_at": Now(),
        "checked_digest": "",  # the next look looks at everything
        "consumers": desired.pullers(text, target.config.consumer_accounts, partition=target.registry.partition),
        "differences": [*[each.as_row() for each in differences], *left],
    }
    now = lease.row.db_now  # type: ignore[attr-defined]
    events = []
    if differences:
        values |= {"status": RepositoryStatus.DRIFTED, "drifted_since": row.drifted_since or now}
        if row.drifted_since is None:
            words = " ".join(each.words for each in differences)
            events.append(
                RepositoryEvent(
                    repository_id=row.pk,
                    kind=EventKind.DRIFT_FOUND,
                    message=words,
                    cause=by[:100],
                    state_since=now,
                )
            )
    elif row.status == RepositoryStatus.DRIFTED and not any(each.get("writable") for each in left):
        values |= {"status": RepositoryStatus.IN_SYNC, "drifted_since": None, "last_in_sync_at": now}
    with attempt.commit():
        kept = lease.finish(values, events)
    if kept and values.get("status", row.status) != row.status:
        status_before, row.status, row.differences = row.status, values["status"], values["differences"]
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
    # Before the write, so that a crash between the two loses neither the earlier policy nor who replaced it.
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
