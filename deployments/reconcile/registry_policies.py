"""The registry policy of each registry: read from AWS once by each sweep, and kept on a row with the time.

A registry's own policy can take a pull away, or give one, on every repository. So each place that says who can pull
evaluates it beside the repository policy (`deployments.policy.effective`). This module reads it and never writes it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Q

from deployments import clock
from deployments.aws.ecr import Ecr
from deployments.errors import RegistryError
from deployments.images import EcrRegistry
from deployments.log import get_logger
from deployments.models import RegistryPolicyReading, Repository
from deployments.policy import RegistryPolicy
from deployments.reconcile import desired
from deployments.row_values import ConsumerPull

ROWS_PER_UPDATE = 500
log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A reading: `policy`, or the `error` for which AWS did not show it."""

    policy: RegistryPolicy | None
    error: RegistryError | None


def look(ecr: Ecr) -> Look:
    """Read the registry policy from AWS, and keep it. No transaction may be open. Raises no RegistryError.

    Costs one call, and a second one (its scope) where the registry has a policy. If it has changed, the answers on the
    rows of its repositories follow, without a call. An error that a later call may not have leaves the row as it is.
    """
    registry, at = ecr.registry, clock.now()
    about = {"account": registry.account, "region": registry.region}
    try:
        found = Look(policy=ecr.registry_policy(), error=None)
    except RegistryError as error:
        found = Look(policy=None, error=error)
        log.warning("registry_policy.not_read", **about, error=str(error))
    if (found.error is None or not found.error.retryable) and _keep(registry, found, at):
        log.info("registry_policy.changed", **about)
        refresh(registry)
    return found


def seen(*, account: str, region: str) -> RegistryPolicy | None:
    """The registry policy as it was last read; None if it was never read, or AWS does not show it. No call to AWS."""
    row = reading(account=account, region=region)
    return None if row is None else policy_of(row)


def reading(*, account: str, region: str) -> RegistryPolicyReading | None:
    """The row with the last reading; None before the first one."""
    return RegistryPolicyReading.objects.filter(account=account, region=region).first()


def refresh(registry: EcrRegistry) -> None:
    """Evaluate again who can pull from the repositories of a registry, by the policies on the rows.

    A row whose policy is read meanwhile keeps the result of that. A sweep evaluates every row too, so that a run that
    dies here leaves nothing wrong for longer.
    """
    policy = seen(account=registry.account, region=registry.region)
    changed: dict[tuple[str, str], list[int]] = defaultdict(list)
    answers: dict[str, dict[str, ConsumerPull]] = {}
    rows = Repository.objects.filter(account=registry.account, region=registry.region).exclude(consumers={})
    for row in rows.only("pk", "name", "policy_text", "consumers").iterator(chunk_size=ROWS_PER_UPDATE):
        now = desired.pullers(
            row.policy_text,
            policy,
            row.consumers,
            arn=registry.repository_arn(row.name),
            partition=registry.partition,
        )
        if now != row.consumers:
            key = json.dumps({account: pull.as_row() for account, pull in now.items()}, sort_keys=True)
            answers[key] = now
            changed[row.policy_text, key].append(row.pk)
    for (text, key), pks in changed.items():
        for start in range(0, len(pks), ROWS_PER_UPDATE):
            unchanged = Q(pk__in=pks[start : start + ROWS_PER_UPDATE], policy_text=text)
            Repository.objects.filter(unchanged).exclude(consumers={}).update(consumers=answers[key])


def policy_of(row: RegistryPolicyReading) -> RegistryPolicy | None:
    return None if row.read_at is None or row.error else RegistryPolicy(text=row.text, scope=row.scope)


def _keep(registry: EcrRegistry, found: Look, at: datetime) -> bool:
    """Write a reading to the row unless a later one is there. Whether what is known has changed.

    After an error the row keeps the text that was read before, as history, but it counts as not read.
    """
    row, _ = RegistryPolicyReading.objects.get_or_create(account=registry.account, region=registry.region)
    before = policy_of(row)
    values: dict[str, Any] = {"error": str(found.error or "")}
    if found.policy is not None:
        values |= {"text": found.policy.text, "scope": found.policy.scope, "read_at": at}
    earlier = Q(read_at=None) | Q(read_at__lte=at)
    kept = RegistryPolicyReading.objects.filter(earlier, pk=row.pk).update(**values)
    return bool(kept) and before != found.policy
