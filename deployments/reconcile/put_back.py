"""Write a repository policy that a person asks for, after having seen what the write changes: put an earlier policy
back, or take over a policy that cannot be compared (D-incomparable).

The rules are the usual ones: it runs under the repository's lease, the statements of others that are live and kept
stay (D-foreign-statements), the current policy text is kept in the history before it is overwritten, no transaction is
open during a call to AWS, and the result is on the row. In enforce mode the next check would overwrite a restored
policy, so an override is written first; it stays if AWS refuses the write.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction

from deployments import policy
from deployments.access.audit import Attempt, Trail
from deployments.aws.ecr import Ecr
from deployments.config import Configuration
from deployments.errors import Refusal, RegistryError, refusal, registry_error
from deployments.models import EventKind, Repository, RepositoryEvent
from deployments.reconcile import bulkhead, desired, generation, repositories, requests, targets
from deployments.reconcile.repositories import RepositoryLease
from deployments.reconcile.targets import Target

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
    configuration = _in_force(configuration)
    row = event.repository
    text = event.policy_before
    target = targets.of(row, configuration)
    if not text or target is None:
        reason = "the event has no policy" if not text else NOT_CONFIGURED
        raise refusal("nothing_to_put_back", reason=reason)
    against = objection(text, target=target, allow_public=configuration.allow_public_policy)
    if against is not None:
        raise against
    if override is not None:
        after = {"mode": "observe", "until": override.until.isoformat(), "reason": override.reason, "repositories": 1}
        with attempt.trail.change("except.repository", row, after=after):
            requests.set_override(rows=[row], mode="observe", until=override.until, reason=override.reason, by=by)
    return _replace(
        _Replacement(
            row=row,
            target=target,
            text=text,
            message=f"The policy of {event.at:%d %b %Y, %H:%M} UTC was restored.",
            activation=configuration.activation,
            by=by,
            attempt=attempt,
        )
    )


#: Errors that only say what this program does not know. A text that is put back was in force, so AWS knew it.
_NOT_KNOWN_HERE = frozenset({"deployments.E103", "deployments.E108", "deployments.E112"})


def objection(text: str, *, target: targets.Target, allow_public: bool) -> Refusal | None:
    """Why a policy that was in force is not put back; None: it can be. A text that cannot be shown closed is not."""
    partition = target.registry.partition
    for finding in policy.lint(text, partition=partition, allow_public=allow_public, writer=target.writer):
        if finding.level == "error" and finding.id not in _NOT_KNOWN_HERE:
            return Refusal(f"This policy cannot be restored: {finding.message} {finding.hint}", code=finding.id)
    if not allow_public and policy.openness(text, partition=partition) != "closed":
        return refusal("policy_may_be_open")
    return None


NOT_CONFIGURED = "the settings name another registry than this repository's"


def seen(*, live: str, default: str) -> str:
    """The digest of the two texts that a person saw before asking for `take_over`."""
    return hashlib.sha256(json.dumps([live, default]).encode()).hexdigest()


def take_over(*, row: Repository, shown: str, configuration: Configuration, by: str, trail: Trail) -> None:
    """Replace a live policy that cannot be compared by the default policy.

    `shown`: the texts that the person saw (`seen`). If one of them is another text now, nothing is written; the live
    text that was read is recorded on the row, and Refusal (`policy_changed`) is raised. So it is if the policy can be
    compared (`nothing_to_take_over`): then the next check corrects it where the settings say so. Calls to AWS, other
    refusals and audit lines are those of `put_back`. Writes in observe mode too, because a person asks for it.
    """
    with trail.attempt("take_over_policy.repository", row) as attempt, bulkhead.place():
        configuration = _in_force(configuration)
        target = targets.of(row, configuration)
        default = target.config.default_repository_policy if target is not None else None
        if target is None or default is None:
            reason = NOT_CONFIGURED if target is None else "the settings have no default policy for it"
            raise refusal("nothing_to_take_over", name=row.name, reason=reason)
        attempt.after = {"policy": default}
        asked = _Replacement(
            row=row,
            target=target,
            text=default,
            message="The policy was taken over: the default policy replaces one that could not be compared.",
            activation=configuration.activation,
            by=by,
            attempt=attempt,
            shown=shown,
        )
        against = asked.objection(row.policy_text)  # the text that was seen last: this costs no call to AWS
        if against is not None:
            raise against
        _replace(asked)


def _in_force(configuration: Configuration) -> Configuration:
    try:
        return generation.in_force(configuration)
    except RegistryError as error:
        raise error.as_refusal() from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Replacement:
    """The write of one policy text that a person asks for. `shown`: what a live text must be (`seen`); None: any."""

    row: Repository
    target: Target
    text: str
    message: str  # of the event that keeps the replaced text
    activation: int
    by: str
    attempt: Attempt
    shown: str | None = None

    def objection(self, live: str) -> Refusal | None:
        """Why this live text is not replaced; None: it is."""
        if self.shown is None:
            return None
        if self.shown != seen(live=live, default=self.text):
            return refusal("policy_changed", name=self.row.name)
        services = repositories.trust(self.row, self.target.config)
        partition = self.target.registry.partition
        differences = desired.policy_differences(self.text, live or None, partition=partition, trust=services)
        if not any(difference.is_incomparable for difference in differences):
            return refusal("nothing_to_take_over", name=self.row.name, reason="its policy can be compared")
        return None

    def record(self, lease: RepositoryLease, text: str, *, written: bool) -> bool:
        """Record the live text on the row and return the lease. False if the lease was lost."""
        return repositories.record_policy(
            lease=lease,
            config=self.target.config,
            partition=self.target.registry.partition,
            text=text,
            cause=self.by[:100],
            written=written,
        )


def _replace(asked: _Replacement) -> str:
    """Read the live policy, keep it, write the text and record it. Returns the text that it replaces.

    The statements of others that are live and kept stay, as with every write (`repositories.policy_to_write`).
    """
    row, lease = asked.row, repositories.claim(asked.row)
    if lease is None:
        raise refusal("busy", what=row.name)
    try:
        if lease.activation != asked.activation:  # another configuration counts since the text was checked
            raise registry_error("ConfigurationChanged", operation="lease", name=row.name)
        # An earlier policy is not a setting's text, so no setting is named if ECR refuses it.
        named: dict[str, Any] = {"settings": {}} if asked.shown is None else {}
        ecr = asked.target.ecr(before_attempt=lease.require_time, attempts=ATTEMPTS_PER_CALL, **named)
        before = _live(ecr, row.name)
        against = asked.objection(before)
        text = asked.text
        if against is None:
            config, partition = asked.target.config, asked.target.registry.partition
            text = repositories.policy_to_write(lease.row, asked.text, before, config, partition=partition)
            asked.attempt.after = {"policy": text}
            _write(ecr, asked, text, before, lease=lease)
    except RegistryError as error:
        lease.give_up()
        raise error.as_refusal() from error
    except BaseException:
        lease.give_up()
        raise
    if against is not None:
        asked.record(lease, before, written=False)
        row.refresh_from_db()
        raise against
    with asked.attempt.commit():
        kept = asked.record(lease, text, written=True)
    status_before = lease.row.status
    row.refresh_from_db(fields=["status", "differences"])
    if kept and row.status != status_before:
        repositories.log_status(row, before=status_before, cause=asked.by)
    return before


def _live(ecr: Ecr, name: str) -> str:
    """The live policy text; empty: none. Raises RegistryError, and Refusal if the repository is gone."""
    observation = ecr.observe(name, details=False)
    if isinstance(observation.policy, RegistryError):
        raise observation.policy
    if not observation.exists:
        raise refusal("missing", name=name)
    return observation.policy or ""


def _write(ecr: Ecr, asked: _Replacement, text: str, before: str, *, lease: RepositoryLease) -> None:
    lease.require_writable()
    asked.attempt.before = {"policy": before}
    # Before the write, so that a crash between the two loses neither the replaced policy nor the person's name.
    with transaction.atomic():
        RepositoryEvent.objects.create(
            repository_id=asked.row.pk,
            kind=EventKind.POLICY_APPLIED,
            message=asked.message,
            cause=asked.by[:100],
            policy_before=before,
        )
        asked.attempt.begin()
    ecr.set_policy(asked.row.name, text)
