"""Whether the change events of a registry are complete, as measured, and what a scheduled sweep need not read then.

A change feed that loses events looks like one without changes. So it is measured by our own calls:

* Each reading of the registry policy (GetRegistryPolicy) is a proof: CloudTrail records it, and EventBridge sends it
  through the rule, the target and the queue of the changes, if the rule's state is
  ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS. Its event says that the path worked, and how long it took. Each sweep
  makes such a reading. Once one has come back, the events process makes one in each fifth of the time after which the
  feed counts as silent: so a feed at rest proves itself without a write.
  (*Receiving read-only management events from AWS services*, Amazon EventBridge User Guide; *Logging Amazon ECR Actions
  with AWS CloudTrail*, Amazon ECR User Guide: all API calls)
* Each own write is a proof that the rule's pattern has its operation: a write whose event does not come is a gap.

A feed is trusted while own reads come back without a pause, and no write of the last RECONCILE_FULL_PASS_HOURS is
without its event. Then a scheduled sweep leaves out each repository that is in sync and was read after the proofs
began, until its turn in RECONCILE_FULL_PASS_HOURS (`repositories.full_pass_before`). Without a proof (also: a rule that
sends no reads) every sweep reads every repository. When trust ends, a sweep of all repositories starts at once.

What is not measured: AWS sends events on a best effort basis, so a single event may be lost while the proofs beside it
come. Such a change is found in RECONCILE_FULL_PASS_HOURS. (*Amazon ECR events*, Amazon EventBridge Events Reference)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Exists, F, Min, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Now

from deployments import clock
from deployments.config import Configuration, RegistryConfig
from deployments.models import ChangeFeed, ImageState, Repository, RepositoryStatus, Sweep, SweepTrigger
from deployments.reconcile import desired, image_states, repositories, targets
from deployments.row_values import Management, Mutability

PROOF = "GetRegistryPolicy"  # the read of ours whose event is a proof
#: Without a proof for half of RECONCILE_INTERVAL_MINUTES, and at most for this time, a feed is silent.
SILENT_AT_MOST = timedelta(minutes=15)
PROOFS_PER_SILENCE = 5  # an events process makes so many reads in the time after which a feed is silent
#: The events process makes reads only while one has come back in this time: else the rule sends no events of reads.
ASKED_AFTER_PROOF = timedelta(hours=1)
#: From a write in AWS to the time on the row of the repository, with the difference of two clocks.
WRITE_TAKES = repositories.REPOSITORY_LEASE + repositories.AWS_CLOCK_SKEW
ROWS_PER_QUERY = 5000
MUTABILITY = Mutability(mode=desired.MUTABILITY, exclusions=desired.EXCLUSIONS)  # of repositories that are ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """The state of a registry's change feed."""

    account: str
    region: str
    trusted: bool
    words: str  # why, in a sentence
    since: datetime | None = None  # since when it is trusted, or is not; None: it never was
    unbroken_since: datetime | None = None  # changes after this time are known, if it is trusted
    proven_at: datetime | None = None  # when AWS took the newest own read whose event came
    delay: timedelta | None = None  # from the newest own read that came back to its event
    lost_at: datetime | None = None  # when it last stopped being trusted


def silent_after(interval: timedelta) -> timedelta:
    """After this time without a proof a feed is silent. `interval`: that of the scheduled sweeps."""
    return min(interval / 2, SILENT_AT_MOST) if interval else SILENT_AT_MOST


# ------------------------------------------------------------------------------------------------------ what came back


def read_returned(*, account: str, region: str, at: datetime, interval: timedelta) -> None:
    """Record that the event of an own read has come. `at`: when AWS took the read, by AWS's clock.

    Of a read from the future (the two clocks differ) only the arrival counts. A result of another process that is newer
    stays.
    """
    now = clock.now()
    at = min(at, now)
    row, is_new = ChangeFeed.objects.get_or_create(
        account=account,
        region=region,
        defaults={"first_proven_at": at, "proven_at": at, "arrived_at": now, "unbroken_since": at},
    )
    if is_new or at <= row.proven_at:
        return
    values: dict[str, Any] = {"proven_at": at, "arrived_at": now}
    silence = silent_after(interval)
    if at - row.proven_at > silence:
        values["unbroken_since"] = at
        if row.proven_at - row.unbroken_since >= interval - silence:
            values["lost_at"] = row.proven_at + silence
    ChangeFeed.objects.filter(pk=row.pk, proven_at=row.proven_at).update(**values)


def write_returned(*, account: str, region: str, name: str, at: datetime) -> None:
    """Record that the event of an own write to this repository has come. `at`: when AWS took the write."""
    rows = Repository.objects.filter(account=account, region=region, name=name)
    rows.filter(Q(write_returned_at=None) | Q(write_returned_at__lt=at)).update(write_returned_at=at)


def proof_is_due(*, account: str, region: str, interval: timedelta) -> bool:
    """Whether the caller has to make a read as a proof now. Of several processes, one gets True."""
    if not interval:
        return False
    before = Now() - silent_after(interval) / PROOFS_PER_SILENCE
    rows = ChangeFeed.objects.filter(
        Q(asked_at=None) | Q(asked_at__lt=before),
        account=account,
        region=region,
        proven_at__gt=Now() - ASKED_AFTER_PROOF,
    )
    return bool(rows.update(asked_at=Now()))


# ----------------------------------------------------------------------------------------------------------- the state


def state(*, account: str, region: str, configuration: Configuration) -> Feed:
    """The state of a registry's change feed. Two queries, or three."""
    row = ChangeFeed.objects.filter(account=account, region=region).first()
    where: dict[str, Any] = {"account": account, "region": region}
    if row is None:
        words = "No event of an own read has come yet, so it is not known whether the change events are complete."
        return Feed(**where, trusted=False, words=words)
    now, interval = clock.now(), configuration.reconcile_interval
    silence = silent_after(interval)
    trusted_from, silent_at = row.unbroken_since + interval, row.proven_at + silence
    where |= {"unbroken_since": row.unbroken_since, "proven_at": row.proven_at}
    where |= {"delay": row.arrived_at - row.proven_at}
    if now > silent_at:
        # Proofs that ended before the feed was trusted take nothing away.
        lost_at = silent_at if silent_at >= trusted_from else row.lost_at
        words = (
            f"The last own read whose event came was made at {_time(row.proven_at)}, more than {_took(silence)} ago."
        )
        return Feed(**where, trusted=False, words=words, since=lost_at, lost_at=lost_at)
    if (missing := _write_without_event(row, now, silence, configuration.plain.full_pass)) is not None:
        name, written_at = missing
        lost_at = written_at + silence
        words = (
            f"The event of our write to {name} at {_time(written_at)} has not come: the rule may lack its operation."
        )
        return Feed(**where, trusted=False, words=words, since=lost_at, lost_at=lost_at)
    if now < trusted_from:
        words = f"Events of own reads have come without a pause since {_time(row.unbroken_since)}. The feed is trusted "
        words += f"after {_took(interval)} without a pause."
        return Feed(**where, trusted=False, words=words, since=row.lost_at, lost_at=row.lost_at)
    words = (
        f"The newest own read whose event came is less than {_took(silence)} old, and no write of ours lacks its event."
    )
    return Feed(**where, trusted=True, words=words, since=trusted_from, lost_at=row.lost_at)


def states(configuration: Configuration) -> list[Feed]:
    """The states of the change feeds of the configured registries, each once."""
    registries = {target.registry: None for target in targets.configured(configuration)}
    return [state(account=each.account, region=each.region, configuration=configuration) for each in registries]


def _write_without_event(
    row: ChangeFeed, now: datetime, silence: timedelta, full_pass: timedelta
) -> tuple[str, datetime] | None:
    """The name of the repository and the time of the oldest write of ours whose event should have come; None: none."""
    returned = Q(write_returned_at__gte=F("written_at") - WRITE_TAKES)
    rows = Repository.objects.filter(
        account=row.account,
        region=row.region,
        written_at__gt=max(row.first_proven_at, now - full_pass),
        written_at__lt=now - silence,
    ).exclude(returned)
    found: Any = rows.order_by("written_at").values_list("name", "written_at").first()
    return found  # type: ignore[no-any-return]


def sweep_is_owed(configuration: Configuration) -> bool:
    """Whether a feed has stopped being trusted since the last scheduled sweep was started."""
    if not configuration.reconcile_interval:
        return False
    lost = [each.lost_at for each in states(configuration) if not each.trusted and each.lost_at]
    if not lost:
        return False
    scheduled = Sweep.objects.filter(trigger=SweepTrigger.SCHEDULE, started_at__gte=max(lost))
    return not scheduled.exists()


# ----------------------------------------------------------------------------------------------------------- the share


def to_read(
    rows: QuerySet[Repository], *, feed: Feed, config: RegistryConfig, desired_digest: str, known_from: datetime | None
) -> Iterator[int]:
    """The ids of the repositories that a scheduled sweep reads, in the order of `rows`: all, or those that need it.

    Left out is a repository that is in sync with this configuration, was read after the feed's proofs began and after
    `known_from`, and whose turn in RECONCILE_FULL_PASS_HOURS has not come: for its policy, its details and its images.
    A repository whose row says anything else is read, also one of which the registry's list shows another tag
    mutability. `known_from`: when the configuration began to count; None: no configuration was activated.
    """
    if not feed.trusted or feed.unbroken_since is None:
        yield from rows.values_list("pk", flat=True).iterator(chunk_size=ROWS_PER_QUERY)
        return
    now = clock.now()
    read_after = max(filter(None, (known_from, feed.unbroken_since + repositories.AWS_CLOCK_SKEW)))
    look = ImageState.objects.filter(repository=OuterRef("pk")).order_by().values("repository")
    settled = Q(
        status=RepositoryStatus.IN_SYNC,
        checked_digest=desired_digest,
        last_error="",
        incomparable_since=None,
        last_checked_at__gte=read_after,
    )
    settled = settled & ~Q(Exists(image_states.unsettled(OuterRef("pk"))))
    new = image_states.never_looked_at()
    found = rows.annotate(
        is_settled=settled, looked_at=Subquery(look.annotate(at=Min("looked_at")).values("at"))
    ).values_list("pk", "is_settled", "management", "mutability", "last_checked_at", "details_checked_at", "looked_at")
    for pk, is_settled, management, mutability, *times in found.iterator(chunk_size=ROWS_PER_QUERY):
        listed_otherwise = management == Management.FULL and mutability != MUTABILITY
        is_old = None in times[:2] or min(filter(None, times)) < repositories.full_pass_before(pk, config, now)
        if not is_settled or listed_otherwise or pk in new or is_old:
            yield pk


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _took(length: timedelta) -> str:
    seconds = length.total_seconds()
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
