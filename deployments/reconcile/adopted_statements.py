"""An operator lets a statement of others stay in a repository policy although the settings do not keep it, or refuses
one that they keep.

Such a statement is drift until then, and enforce mode writes it away (D-foreign-statements). So one that was written
away is offered too, from the history: it stays when it is added again, or when that policy is put back. An adoption
counts for the exact statement, and ends when a look finds the repository gone or created again. A refused statement
goes with the next check, under every setting. No call to AWS: a sweep of the one repository follows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from deployments import clock, policy
from deployments.access.audit import Trail
from deployments.config import Configuration
from deployments.errors import refusal
from deployments.models import EventKind, Repository, RepositoryEvent, Sweep, SweepTrigger
from deployments.reconcile import repositories, sweep_record, targets
from deployments.reconcile.targets import Target
from deployments.row_values import AdoptedStatement, SeenStatement

EVENTS_READ = 50  # of the newest ones: those that the page of a repository shows


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A statement that may be adopted. `live`: it stands in the last observed policy, not only in the history."""

    statement: policy.ForeignStatement
    live: bool

    @property
    def key(self) -> str:
        """The name of the statement in addresses."""
        return key_of(self.statement.text)


def key_of(text: str) -> str:
    """The name of a statement in addresses: 16 characters of its digest."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seen(row: Repository, key: str) -> str:
    """The digest of what a person saw before asking: the live policy, and which statement."""
    return hashlib.sha256(json.dumps([row.policy_text, key]).encode()).hexdigest()


def offers(row: Repository, target: Target, events: Iterable[RepositoryEvent]) -> list[Offer]:
    """The statements that may be adopted: of the last observed policy, then of the policies that events have kept.

    Of the history, nothing is offered that an earlier default policy gave.
    """
    default, found = target.config.default_repository_policy, dict[str, Offer]()
    if default is None or not row.is_managed:  # nothing is written away there
        return []
    trust, partition = repositories.trust(row, target.config), target.registry.partition
    for number, text in enumerate(dict.fromkeys([row.policy_text, *(each.policy_before for each in events)])):
        if not text or text == default:
            continue
        for one in policy.foreign_statements(text, default=default, partition=partition, trust=trust):
            if one.adoptable and (number == 0 or not one.ours):
                found.setdefault(one.text, Offer(statement=one, live=number == 0))
    return list(found.values())


def live(row: Repository, target: Target) -> tuple[policy.ForeignStatement, ...]:
    """The statements of others in the last observed policy; none where nothing is ever written."""
    default = target.config.default_repository_policy
    if default is None or not row.is_managed or row.policy_text in ("", default):
        return ()
    trust, partition = repositories.trust(row, target.config), target.registry.partition
    return policy.foreign_statements(row.policy_text, default=default, partition=partition, trust=trust)


def words_of_unseen(row: Repository, target: Target, adopted: AdoptedStatement) -> str:
    """Why an adopted statement is not one of the kept statements of the last observed policy, in sentences."""
    default, partition = target.config.default_repository_policy or "{}", target.registry.partition
    alone = json.dumps({"Version": "2012-10-17", "Statement": [json.loads(adopted.statement)]})
    trust = repositories.trust(row, target.config)
    found = policy.foreign_statements(alone, default=default, partition=partition, trust=trust)
    if adopted.statement not in {each.text for each in found if each.kept}:
        return (
            "The adoption has no effect now: an AWS service acts in it for an account that is no consumer account any "
            "more, or the default policy has its Sid or allows the same."
        )
    if row.incomparable_since is not None:
        return "The live policy cannot be compared, so it is not known whether the policy contains the statement."
    return "The live policy does not contain the statement. If it is added again, it is kept."


def adopt(
    *, row: Repository, key: str, shown: str, reason: str, configuration: Configuration, by: str, trail: Trail
) -> Sweep:
    """Let the statement stay. Returns the sweep that checks the repository.

    `shown`: what the person saw (`seen`). Raises Refusal if that is not the live policy any more, if there is no such
    statement, without a reason, and while another process works on the repository.
    """
    with trail.change("adopt_statement.repository", row) as line:
        lease = _claim(row)
        found = {each.key: each for each in offers(lease.row, _target(row, configuration), _history(row))}
        if key not in found:
            raise refusal("no_such_statement", name=row.name)
        if shown != seen(lease.row, key):
            raise refusal("policy_changed", name=row.name)
        one, said = found[key].statement, _reason(reason)
        adopted = AdoptedStatement(statement=one.text, reason=said, by=by[:200], at=clock.now().isoformat())
        line.after = {"statement": one.text, "reason": said}
        words = f"Adopted: the statement {one.name} is kept: {one.says} {said}"
        return _finish(lease, {"adopted_statements": [*lease.row.adopted_statements, adopted]}, words, by)


def release(*, row: Repository, key: str, by: str, trail: Trail) -> Sweep:
    """End the adoption of a statement: it is drift from now on. Returns the sweep that checks the repository.

    Raises Refusal if there is no such adoption, and while another process works on the repository.
    """
    with trail.change("release_statement.repository", row) as line:
        lease = _claim(row)
        ended = [each for each in lease.row.adopted_statements if key_of(each.statement) == key]
        if not ended:
            raise refusal("no_such_statement", name=row.name)
        line.before = {"statement": ended[0].statement, "reason": ended[0].reason}
        left = [each for each in lease.row.adopted_statements if each not in ended]
        words = f"The statement {ended[0].name} is no longer adopted."
        return _finish(lease, {"adopted_statements": left}, words, by)


def refuse(
    *, row: Repository, key: str, shown: str, reason: str, configuration: Configuration, by: str, trail: Trail
) -> Sweep:
    """Let the next check remove a live statement that the settings keep. Returns the sweep that checks the repository.

    Arguments and refusals are those of `adopt`.
    """
    with trail.change("refuse_statement.repository", row) as line:
        lease = _claim(row)
        found = {key_of(each.text): each for each in live(lease.row, _target(row, configuration)) if each.kept}
        adopted = {each.statement for each in lease.row.adopted_statements}
        if key not in found or found[key].text in adopted:
            raise refusal("no_such_statement", name=row.name)
        if shown != seen(lease.row, key):
            raise refusal("policy_changed", name=row.name)
        one, said, at = found[key], _reason(reason), clock.now().isoformat()
        known = {each.statement: each for each in lease.row.foreign_statements}
        before = known.get(one.text, SeenStatement(statement=one.text, first_seen=at))
        refused = replace(before, refused_by=by[:200], refused_at=at, reason=said)
        line.after = {"statement": one.text, "reason": said}
        words = f"Refused: the next check removes the statement {one.name}: {one.says} {said}"
        return _finish(lease, {"foreign_statements": [*(known | {one.text: refused}).values()]}, words, by)


def allow(*, row: Repository, key: str, by: str, trail: Trail) -> Sweep:
    """End the refusal of a statement: the settings decide again. Returns the sweep that checks the repository.

    Raises Refusal if there is no such refusal, and while another process works on the repository.
    """
    with trail.change("allow_statement.repository", row) as line:
        lease = _claim(row)
        ended = [each for each in lease.row.foreign_statements if each.refused_by and key_of(each.statement) == key]
        if not ended:
            raise refusal("no_such_statement", name=row.name)
        line.before = {"statement": ended[0].statement, "reason": ended[0].reason}
        left = [each for each in lease.row.foreign_statements if each not in ended]
        words = f"The statement {ended[0].name} is no longer refused."
        return _finish(lease, {"foreign_statements": left}, words, by)


def _reason(reason: str) -> str:
    if not reason.strip():
        raise refusal("statement_without_reason")
    return reason.strip()[:300]


def _target(row: Repository, configuration: Configuration) -> Target:
    target = targets.of(row, configuration)
    if target is None:
        raise refusal("no_such_statement", name=row.name)
    return target


def _history(row: Repository) -> list[RepositoryEvent]:
    return list(row.events.all()[:EVENTS_READ])


def _claim(row: Repository) -> repositories.RepositoryLease:
    """The lease, so that no check that has read the adoptions before is under way. A refusal rolls it back."""
    lease = repositories.claim(row)
    if lease is None:
        raise refusal("busy", what=row.name)
    return lease


def _finish(lease: repositories.RepositoryLease, values: repositories.RowValues, words: str, by: str) -> Sweep:
    event = RepositoryEvent(repository_id=lease.row.pk, kind=EventKind.CHANGED, message=words, cause=by[:100])
    if not lease.finish(values, [event]):
        raise refusal("busy", what=lease.row.name)
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON, requested_by=by, names=[lease.row.name])
    assert sweep is not None  # only scheduled sweeps exclude each other  # noqa: S101
    return sweep
