"""Converges one repository with the configuration. Deploys, sweeps and change events call the same function.

The protocol (for each point a test fails if the point is left out):

* Row first: the row is written before the repository is created in ECR.
* One process at a time, by a lease with an expiry and an epoch, which one conditional UPDATE on the database's clock
  takes and another returns. No transaction is open during a call to AWS. A deploy that finds the lease taken waits.
* Level-triggered: observe, compare by meaning, write only the differences. No step relies on an earlier step of the
  same run, so the next run finishes a run that died on any line.
* A result is written only under the epoch of its lease. No request to AWS is sent late in the lease, or when the
  process may count as silent. So a process that was suspended overwrites neither a newer result nor a newer policy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, TypeVar

from django.db.models import Exists, Q, QuerySet, Subquery
from django.db.models.functions import Now

from deployments import policy
from deployments.aws.ecr import Ecr, longest_call
from deployments.aws.values import CreateOutcome, Details, Observation
from deployments.catalogue import sentence
from deployments.compiled_queries import Compiled
from deployments.config import RegistryConfig
from deployments.errors import RegistryError, registry_error
from deployments.images import EcrRegistry
from deployments.log import get_logger
from deployments.models import (
    ConfigurationActivation,
    EventKind,
    EventState,
    Project,
    Repository,
    RepositoryEvent,
    RepositoryStatus,
    WritesPause,
)
from deployments.reconcile import (
    bulkhead,
    causes,
    desired,
    lifecycle_safety,
    ownership,
    policy_versions,
    processes,
    registry_policies,
)
from deployments.reconcile.lease import Claim, Lease
from deployments.reconcile.lifecycle_safety import Previews
from deployments.row_values import (
    AdoptedStatement,
    ConsumerPull,
    Difference,
    Encryption,
    Management,
    Mutability,
    Part,
    PreviewResult,
    SeenStatement,
)

T = TypeVar("T")
log = get_logger(__name__)


class RowValues(TypedDict, total=False):
    """The columns of a repository's row that are written here. `Now` is the time of the database when it writes."""

    host: str
    status: str
    differences: list[Difference]
    last_error: str
    last_error_code: str
    last_error_heals: bool
    last_error_is_installation: bool
    last_error_at: Now | None
    error_since: datetime | None
    attempted_at: datetime
    last_checked_at: datetime
    written_at: Now
    last_in_sync_at: datetime | None
    drifted_since: datetime | None
    incomparable_since: datetime | None
    checked_digest: str
    management: str
    origin: str
    taken_over_at: datetime | None
    creating_since: datetime | None
    policy_text: str
    policy_applied_at: datetime | None
    adopted_statements: list[AdoptedStatement]
    foreign_statements: list[SeenStatement]
    lifecycle_text: str
    lifecycle_is_ours: bool
    lifecycle_previews: dict[str, PreviewResult]
    policy_version_id: int | None
    tags: dict[str, str]
    mutability: Mutability
    encryption: Encryption
    details_checked_at: datetime | None
    last_pulled_at: datetime | None
    pulls_read_at: datetime | None
    consumers: dict[str, ConsumerPull]


#: The columns that are reset when the repository is gone, because the next repository of this name is a new one. The
#: event of the loss (`gone_event`) keeps the facts about the old repository.
GONE: RowValues = {
    "status": RepositoryStatus.MISSING,
    "differences": [],
    "origin": "",
    "management": "",
    "taken_over_at": None,
    "last_in_sync_at": None,
    "policy_applied_at": None,
    "policy_text": "",
    "policy_version_id": None,
    "lifecycle_is_ours": False,
    "lifecycle_previews": {},
    "details_checked_at": None,
    "last_pulled_at": None,
    "pulls_read_at": None,
    "consumers": {},
    "adopted_statements": [],
    "foreign_statements": [],
    "drifted_since": None,
    "incomparable_since": None,
}

_WITHOUT_ERROR: RowValues = {
    "last_error": "",
    "last_error_code": "",
    "last_error_heals": False,
    "last_error_is_installation": False,
    "last_error_at": None,
    "error_since": None,
}

REPOSITORY_LEASE = timedelta(seconds=90)
LEASE_WAIT_SECONDS = 60  # longest wait for a lease that another holder has
CALL_STUCK_SECONDS = 3.0  # no request waits for a holder in this process whose call to AWS takes longer
#: No request waits for a holder in another process that has had its lease for longer: a set-up takes three calls.
HOLDER_STUCK_SECONDS = 9.0
BOUNDED_ERRORS_RETRYABLE_FOR = timedelta(minutes=5)  # a bounded error is retryable only for this time
#: An attempt takes less time, so an older error was met again by a second attempt.
SAME_ERROR_TWICE_AFTER = timedelta(minutes=1)
AWS_CLOCK_SKEW = timedelta(seconds=60)  # how far our clock and AWS's may differ (D-lost-answer)
FULL_PASS_SHARE = 15 / 16  # of RECONCILE_FULL_PASS_HOURS: the time from one turn of a repository to the next
_GOLDEN_RATIO = 0.6180339887498949
_TURNS_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)  # any fixed time
NOT_FOUND = "RepositoryNotFoundException"
NOT_VISIBLE = "NotVisibleYet"
VISIBLE_SECONDS = 20  # for this time after CreateRepository, ECR may not find a repository (D-not-visible-yet)


def ensure_repository(
    *,
    config: RegistryConfig,
    registry: EcrRegistry,
    name: str,
    project: Project,
    desired_digest: str,
    freshness: timedelta,
    enforce: bool = True,
    activation: int = 0,
    cause: str = "deploy",
) -> Repository:
    """Create or check the repository of a deploy and return its row: it exists, is set up and has the policy.

    `activation`: the activation that the other values are from (`generation.in_force`). If another configuration counts
    now, RegistryError (ConfigurationChanged) is raised before any call to AWS.

    Makes no call to AWS if the row was checked within `freshness`. If AWS fails for a repository that was in sync
    before, the error is recorded on the row and the row is returned: the deploy continues. Raises RegistryError if the
    repository never was in sync (consumers may not be able to pull), and if the whole installation is at fault; Refusal
    (retryable) if too many requests wait for AWS (`bulkhead`).
    """
    arrived = processes.clock()
    row = _row(registry, name)
    if row is None:
        Repository.objects.get_or_create(
            account=registry.account,
            region=registry.region,
            name=name,
            defaults={"host": config.host, "project": project},
        )
        row = _row(registry, name)
    elif row.project_id is None:  # a sweep discovered it before the project existed
        Repository.objects.filter(pk=row.pk, project__isnull=True).update(project=project)
    first_seen: datetime | None = None
    with ExitStack() as place, ExitStack() as waiting:
        while True:
            if row is None:
                raise registry_error("Removed", operation="wait", name=name)
            if (row.activation or 0) != activation:
                raise registry_error("ConfigurationChanged", operation="wait", name=name)
            entered, first_seen = first_seen is not None, first_seen or row.db_now
            since = min(first_seen, row.db_now - freshness) if freshness else first_seen
            if _is_settled(row, desired_digest, since=since, tried_since=first_seen):
                break
            if not entered:
                place.enter_context(bulkhead.place())
            lease = claim(row)
            if lease is None:
                _require_patience(row, registry, seconds=processes.clock() - arrived)
                if not entered:
                    waiting.enter_context(bulkhead.waiting())
                time.sleep(0.05)
                row = _row(registry, name)
                continue
            waiting.close()
            if lease.activation != activation:
                lease.give_up()
                raise registry_error("ConfigurationChanged", operation="lease", name=name)
            if _is_settled(lease.row, desired_digest, since=since, tried_since=first_seen):
                # Another process has finished the work between our read of the row and our lease.
                lease.give_up()
                row = lease.row
                break
            ecr = Ecr.of(config, registry, before_attempt=lease.require_time)
            result = converge(
                lease=lease,
                ecr=ecr,
                config=config,
                desired_digest=desired_digest,
                cause=cause,
                enforce=enforce,
                create=True,
                details=not freshness,  # who always wants a look wants a look at everything
            )
            return _usable(result.repository, config, result.error, enforce)
    return _usable(row, config, _error_of(row) if row.last_error else None, enforce)


def _require_patience(row: Any, registry: EcrRegistry, *, seconds: float) -> None:
    """Raise RegistryError (retryable) if the wait for another holder's lease would block this thread for too long.

    For a holder in this process, the duration of its current call to AWS is known; for a holder in another process,
    only how long it has had the lease.
    """
    if row.lease_process is not None and row.lease_process == processes.current_id():
        stuck = longest_call(registry, row.name) > CALL_STUCK_SECONDS
    else:
        stuck = row.lease_until is not None and row.db_now - (row.lease_until - REPOSITORY_LEASE) > timedelta(
            seconds=HOLDER_STUCK_SECONDS
        )
    if stuck:
        raise registry_error("HolderWaits", operation="wait", name=row.name)
    if seconds > LEASE_WAIT_SECONDS:
        raise registry_error("Busy", operation="wait", name=row.name, seconds=LEASE_WAIT_SECONDS)


def _row(registry: EcrRegistry, name: str) -> Any:
    """The row, with `db_now` (the database's clock) and `activation` (the valid one). One query."""
    return _by_name.first(registry.account, registry.region, name)


def _newest() -> Any:
    return ConfigurationActivation.objects.order_by("-id").values("id")[:1]


def _named(account: str, region: str, name: str) -> QuerySet[Repository]:
    rows = Repository.objects.filter(account=account, region=region, name=name).order_by()
    return rows.annotate(db_now=Now(), activation=Subquery(_newest()))


_by_name = Compiled[Repository](_named, str, str, str)


def _is_settled(row: Repository, desired_digest: str, *, since: datetime, tried_since: datetime) -> bool:
    """Whether the row was checked since `since`, or an attempt has failed since `tried_since`: waiting deploys share
    both.
    """
    if row.last_error_at is not None:
        return row.last_error_at >= tried_since
    return (
        row.status in (RepositoryStatus.IN_SYNC, RepositoryStatus.DRIFTED)
        and row.checked_digest == desired_digest
        and row.last_checked_at is not None
        and row.last_checked_at >= since
    )


def _usable(row: Any, config: RegistryConfig, error: RegistryError | None, enforce: bool) -> Repository:
    """The row (with `db_now`) if a deploy may continue with it. Otherwise raises the RegistryError."""
    never_right = row.last_in_sync_at is None
    enforce = effective_enforce(row, enforce, row.db_now)
    wants_policy = config.default_repository_policy is not None and (enforce or row.origin == "created")
    never_had_policy = wants_policy and row.policy_applied_at is None
    if error is not None and (error.installation or never_right or never_had_policy):
        raise error
    if never_had_policy:
        words = " ".join(each.words for each in row.differences if each.part == Part.POLICY)
        raise registry_error("PolicyNotApplied", operation="SetRepositoryPolicy", name=row.name, words=words)
    usable: Repository = row
    return usable


def effective_enforce(row: Repository, enforce: bool, now: datetime) -> bool:
    """Whether drift of this repository is corrected: by its override while that is valid, else by the setting."""
    if row.mode and row.mode_until is not None and row.mode_until > now:
        return row.mode == "enforce"
    return enforce


def corrects(row: Repository, *, enforce: bool) -> bool:
    """Whether differences are corrected; `enforce` as of `effective_enforce`.

    A new repository is set up completely, also after an incomplete attempt.
    """
    return enforce or (row.origin == "created" and row.last_in_sync_at is None)


def _error_of(row: Repository) -> RegistryError:
    return RegistryError(
        operation="",
        code=row.last_error_code,
        sentence=row.last_error,
        retryable=row.last_error_heals,
        installation=row.last_error_is_installation,
    )


# ------------------------------------------------------------------------------------------------------- the lease


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryLease(Lease[Repository]):
    """A repository's lease, with the conditions for a write to AWS."""

    @property
    def activation(self) -> int:
        """Id of the activation that was valid when the lease was taken; 0: there was none."""
        return self.row.activation or 0  # type: ignore[attr-defined]

    def require_writable(self) -> None:
        """Raise RegistryError if nothing may be written to AWS. Called before each write and each retry.

        The reasons: the lease was lost, another configuration counts now, or an operator has paused all writes.
        """
        paused = WritesPause.objects.filter(lifted_at=None)
        found: Any = self.mine.annotate(activation=Subquery(_newest()), paused=Exists(paused)).first()
        if found is None:
            raise registry_error("TakenOver", operation="lease", name=self.row.name)
        if (found.activation or 0) != self.activation:
            raise registry_error("ConfigurationChanged", operation="lease", name=self.row.name)
        if found.paused:
            pause = paused.first()
            words = "for a moment" if pause is None else f"by {pause.paused_by}: {pause.reason}"
            raise registry_error("WritesPaused", operation="lease", name=self.row.name, words=words)


def claim(row: Repository) -> RepositoryLease | None:
    """Take a repository's lease; None while another holder has it. The lease's row has `db_now`."""
    return RepositoryLease.claim_one(_claim, row.pk)


_claim: Claim[Repository] = Claim(
    lambda pk: Repository.objects.filter(id=pk).annotate(db_now=Now(), activation=Subquery(_newest())),
    REPOSITORY_LEASE,
    management=ownership.BY_OLD_COLUMNS,
)


# ---------------------------------------------------------------------------------------------------- convergence


@dataclass(slots=True, kw_only=True)
class _Run:
    """What one convergence found and did. One UPDATE writes it to the row at the end."""

    lease: RepositoryLease
    cause: str
    enforce: bool
    partition: str
    previews: Previews | None = None  # None: this run makes no preview of a lifecycle policy
    writes: bool = True  # False: a refresh, which writes nothing to AWS, whatever the settings say
    missing: bool = False
    policy_by: str = ""  # who has changed the policy, by the event that led to this run
    unanswered: bool = False  # the answer to our CreateRepository was lost, so it may have succeeded
    values: RowValues = field(default_factory=RowValues)
    events: list[RepositoryEvent] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)  # differences that are left at the end
    errors: list[RegistryError] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    @property
    def row(self) -> Repository:
        return self.lease.row

    def happened(self, kind: EventKind, message: str, *, policy_before: str = "") -> None:
        self.events.append(self.event(kind, message, policy_before=policy_before))

    def event(self, kind: EventKind, message: str, *, policy_before: str = "", **values: Any) -> RepositoryEvent:
        return RepositoryEvent(
            repository_id=self.row.pk,
            kind=kind,
            message=message,
            cause=self.cause,
            policy_before=policy_before,
            **values,
        )


def reconcile(
    *,
    row: Repository,
    ecr: Ecr,
    config: RegistryConfig,
    desired_digest: str,
    cause: str,
    enforce: bool,
    activation: int = 0,
    writes: bool = True,
    details: bool = False,
    observation: Observation | None = None,
    previews: bool = False,
    policy_by: str = "",
) -> Converged | None:
    """Converge an existing repository, for a sweep or a change event; without `writes`, only record what is seen.

    None if another process holds the lease, or if another configuration than the caller's (`activation`) counts now.
    `observation`: the caller's own, made after it had read `row`; it is used only if no lease was taken since. The
    error NotVisibleYet is not recorded on the row: ECR does not find the repository, which is too new to be called
    missing (`may_be_invisible`), so the caller must try again.
    """
    lease = claim(row)
    if lease is None:
        return None
    if lease.activation != activation:
        lease.give_up()
        return None
    return converge(
        lease=lease,
        ecr=replace(ecr, before_attempt=lease.require_time),
        config=config,
        desired_digest=desired_digest,
        cause=cause,
        enforce=enforce,
        create=False,
        writes=writes,
        details=details,
        observation=observation if lease.epoch == row.lease_epoch + 1 else None,
        previews=previews,
        policy_by=policy_by,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Converged:
    """The result of a convergence: the updated row, its error, and the corrected differences in words."""

    repository: Repository
    error: RegistryError | None
    written: tuple[str, ...]
    before: str  # the status before


def converge(
    *,
    lease: RepositoryLease,
    ecr: Ecr,
    config: RegistryConfig,
    desired_digest: str,
    cause: str,
    enforce: bool,
    create: bool,
    writes: bool = True,
    details: bool = False,
    observation: Observation | None = None,
    previews: bool = False,
    policy_by: str = "",
) -> Converged:
    """Observe one repository, correct the differences, record the result and return the lease.

    All paths use this function. `enforce` False: correct nothing on an existing repository. `create`: create a missing
    repository (a deploy does, a sweep does not). `writes` False: write nothing to AWS at all (a refresh). `details`:
    read all parts, even if they are not due. `observation`: one that the caller has made since the row was last
    written. `previews`: let AWS preview lifecycle policies, which takes seconds. Without it, a lifecycle policy that
    needs a preview waits for a run that makes one: a sweep. `policy_by`: who has changed the policy, as an event says.
    """
    row, before, code_before = lease.row, lease.row.status, lease.row.last_error_code
    config = policy_versions.for_repository(config, row)
    incomparable_before = row.incomparable_since
    now: datetime = row.db_now  # type: ignore[attr-defined]
    run = _Run(
        lease=lease,
        cause=cause,
        enforce=effective_enforce(row, enforce, now),
        partition=ecr.registry.partition,
        writes=writes,
        policy_by=policy_by,
        values={"host": config.host, "attempted_at": now},
    )
    if previews:
        since = full_pass_before(row.pk, config, now)
        run.previews = Previews(ecr=ecr, row=row, config=config, now=now, since=since, again=details)
    if row.management == Management.UNMANAGED:  # the status changes afterwards, also after an error
        run.values["management"] = ""
    try:
        try:
            if observation is None:
                observation = _observe(
                    run, ecr=ecr, config=config, desired_digest=desired_digest, now=now, create=create, details=details
                )
            elif not observation.exists:
                observation = _not_found(run, ecr=ecr, config=config, now=now, create=create)
            if observation is not None:
                _correct(run, observation, ecr=ecr, config=config, now=now)
            if observation is not None and any(error.code == NOT_FOUND for error in run.errors):
                _deleted_meanwhile(run, ecr=ecr, config=config, now=now, create=create)
        except RegistryError as refused:
            run.errors.append(refused)
            if refused.code == NOT_VISIBLE and not create:  # nothing was observed, so nothing is recorded
                lease.give_up()
                return Converged(repository=row, error=refused, written=(), before=before)
        # An error of the repository policy breaks pulls, so it comes before errors of other parts.
        run.errors.sort(key=lambda each: (not each.installation, "RepositoryPolicy" not in each.operation))
        error = run.errors[0] if run.errors else None
        if (
            error is not None
            and error.bounded
            and row.error_since is not None
            and row.error_since < now - BOUNDED_ERRORS_RETRYABLE_FOR
        ):
            error = replace(error, retryable=False)  # its time is over: a person must look
        _record(run, error=error, desired_digest=desired_digest, now=now)
        kept = lease.finish(run.values, run.events)
    except BaseException:
        lease.give_up()
        raise
    if kept:
        for name, value in run.values.items():
            if not isinstance(value, Now):  # only the database knows this time
                setattr(row, name, value)
        changed = (row.last_error_code, row.incomparable_since) != (code_before, incomparable_before)
        if row.status != before or run.written or changed:
            log_status(row, before=before, cause=cause, written=run.written)
    else:
        row.refresh_from_db()  # another process took the lease, and its result counts
    return Converged(repository=row, error=error, written=tuple(run.written), before=before)


def log_status(row: Repository, *, before: str, cause: str, written: Iterable[str] = ()) -> None:
    """The line of a repository whose status, error or content was changed: `repository.` and the status that it has."""
    quiet = row.status in (RepositoryStatus.IN_SYNC, RepositoryStatus.PENDING)
    details: dict[str, object] = {}
    if row.status == RepositoryStatus.FAILED:
        details = {"code": row.last_error_code, "error": row.last_error}
    elif row.status == RepositoryStatus.DRIFTED:
        details = {"differences": desired.verdict(row.differences).words}
    if words := " ".join(written):
        details["corrected"] = words
    (log.info if quiet else log.warning)(
        f"repository.{row.status}", repository=row.name, account=row.account, before=before, cause=cause, **details
    )


def remembered(row: Repository) -> Details:
    """The details as stored on the row, also from listings: for a repository whose details are not due."""
    return Details(
        created_at=row.created_at,
        mutability=row.mutability.mode,
        exclusions=row.mutability.exclusions,
        encryption=row.encryption.type,
        kms_key=row.encryption.kms_key,
        lifecycle=row.lifecycle_text or None,
        tags=row.tags,
    )


def is_remembered(row: Repository, details: Details) -> bool:
    """Whether the details are those that the row has from an earlier look, and of the same repository."""
    same = replace(details, created_at=row.created_at, tags=dict(details.tags)) == remembered(row)
    return same and still_adopted(row, details.created_at) == row.adopted_statements


def still_adopted(row: Repository, created_at: datetime) -> list[AdoptedStatement]:
    """The adopted statements that count for the repository that AWS created at this time.

    An adoption before that was about a repository of the same name, which was deleted between two looks.
    """
    until = created_at - AWS_CLOCK_SKEW
    return [each for each in row.adopted_statements if datetime.fromisoformat(each.at) >= until]


def created_again(row: Repository, created_at: datetime, *, cause: str) -> RepositoryEvent:
    """The event of adoptions that have ended because the repository is not the one that they were about."""
    ended = [each for each in row.adopted_statements if each not in still_adopted(row, created_at)]
    message = (
        f"The repository was deleted, and created again on {created_at:%d %b %Y, %H:%M} UTC. So these statements of "
        f"others, adopted before, are no longer kept: {', '.join(each.name for each in ended)}."
    )
    return RepositoryEvent(repository_id=row.pk, kind=EventKind.CHANGED, message=message, cause=cause)


def detail_differences(row: Repository, config: RegistryConfig, details: Details) -> list[Difference]:
    """How the details differ from the configuration, for the management of this row."""
    return desired.detail_differences(
        config, details, management=row.management, lifecycle_is_ours=row.lifecycle_is_ours
    )


def details_due(row: Repository, *, config: RegistryConfig, desired_digest: str, now: datetime) -> bool:
    """Whether the details must be read again: they are old, the configuration changed, or the last attempt failed."""
    return (
        row.details_checked_at is None
        or row.details_checked_at < full_pass_before(row.pk, config, now)
        or row.checked_digest != desired_digest
        or bool(row.last_error)
    )


def full_pass_before(pk: int, config: RegistryConfig, now: datetime) -> datetime:
    """What was read of this repository before this time is old.

    A period is FULL_PASS_SHARE of RECONCILE_FULL_PASS_HOURS; the rest is for the sweep's work. Each repository has its
    turn once in a period, at a time that follows from its number, so that each sweep reads an equal share, also after
    all repositories were read at one time. At the turn, what was read more than a quarter of a period before is old.
    What is newer gets old half a period after the turn.
    """
    period = config.full_pass * FULL_PASS_SHARE
    turn = period * (pk * _GOLDEN_RATIO % 1)  # numbers in a row are spread evenly
    since = (now - _TURNS_BEGAN - turn) % period
    return now - since - (period / 4 if since < period / 2 else timedelta())


def preview_due(
    row: Repository, observed: Details | None, *, config: RegistryConfig, asked: bool, now: datetime
) -> bool:
    """Whether a sweep has to let AWS preview the live lifecycle policy. `asked`: a person asked for this look.

    `observed`: the details, if this sweep has read them.
    """
    text = (observed or remembered(row)).lifecycle
    if not text or not (observed or row.lifecycle_previews):
        return False
    since = full_pass_before(row.pk, config, now)
    return lifecycle_safety.is_due(row, text, config=config, since=since, again=asked, whole=observed is not None)


def _observe(
    run: _Run, *, ecr: Ecr, config: RegistryConfig, desired_digest: str, now: datetime, create: bool, details: bool
) -> Observation | None:
    """Observe the repository; create it if it is missing and `create` is set.

    None if the repository was created just now, or if it is missing. Raises RegistryError, also (NotVisibleYet) if ECR
    may not show the repository yet.
    """
    row = run.row
    not_there = not row.is_managed and (row.last_checked_at is None or row.status == RepositoryStatus.MISSING)
    if not_there and create:
        if _create(run, ecr=ecr, config=config, now=now):
            return None
        return _wait_until_visible(ecr, row.name)
    due = details or details_due(row, config=config, desired_digest=desired_digest, now=now)
    observation = ecr.observe(row.name, details=due)
    return observation if observation.exists else _not_found(run, ecr=ecr, config=config, now=now, create=create)


def may_be_invisible(at: Any = None) -> Q:
    """Condition for repositories that exist and that ECR may not find at the time `at` (default: now).

    We created them, or wrote to them, at most `VISIBLE_SECONDS` before, so it is not known whether they are missing.
    """
    return Q(origin="created", written_at__gt=(at or Now()) - timedelta(seconds=VISIBLE_SECONDS))


def _not_found(run: _Run, *, ecr: Ecr, config: RegistryConfig, now: datetime, create: bool) -> Observation | None:
    """Handle a repository that ECR does not find. Results and errors are those of `_observe`."""
    if Repository.objects.filter(may_be_invisible(), pk=run.row.pk).exists():
        if not create:
            raise registry_error(NOT_VISIBLE, operation="DescribeRepositories", name=run.row.name)
        found = _retry_while_not_found(lambda: _existing(ecr, run.row.name))
        if isinstance(found, Observation):
            return found
        if found.code != NOT_VISIBLE:
            raise found
    if create:
        return _recreate(run, ecr=ecr, config=config, now=now)
    run.missing = True
    return None


def _recreate(run: _Run, *, ecr: Ecr, config: RegistryConfig, now: datetime) -> Observation | None:
    """Create a missing repository again. None, or the observation if another client has created it meanwhile."""
    # Written first, so that after a crash the new repository does not count as one that was in sync.
    run.lease.note(GONE, gone_event(run.row, cause=run.cause))
    if _create(run, ecr=ecr, config=config, now=now):
        return None
    return _wait_until_visible(ecr, run.row.name)


def _deleted_meanwhile(run: _Run, *, ecr: Ecr, config: RegistryConfig, now: datetime, create: bool) -> None:
    """A read found the repository and a write did not, so it was deleted in between: discard all that was read."""
    run.row.policy_text = run.values.get("policy_text", run.row.policy_text)  # newer than the row; the event keeps it
    run.values = {"host": run.values["host"], "attempted_at": run.values["attempted_at"]}
    run.differences, run.errors, run.written = [], [], []
    observation = _not_found(run, ecr=ecr, config=config, now=now, create=create)
    if observation is not None:
        _correct(run, observation, ecr=ecr, config=config, now=now)


def gone_event(row: Repository, *, cause: str) -> RepositoryEvent:
    """The event of a missing repository. It keeps the facts that `GONE` resets: the origin, and when it was in sync."""
    origin = {"created": "created by Registry Admin", "adopted": "adopted"}.get(row.origin, "never set up completely")
    facts = [f"It was {origin}"]
    for words, at in (("last in sync", row.last_in_sync_at), ("policy last verified", row.policy_applied_at)):
        facts.append(f"{words} {at:%d %b %Y, %H:%M} UTC" if at is not None else f"{words} never")
    return RepositoryEvent(
        repository_id=row.pk,
        kind=EventKind.MISSING,
        message=f"{sentence('missing', name='The repository')} {', '.join(facts)}.",
        cause=cause,
        policy_before=row.policy_text,
    )


def _create(run: _Run, *, ecr: Ecr, config: RegistryConfig, now: datetime) -> bool:
    """Create the repository and set it up. False if it exists already and must be observed."""
    row = run.row
    config, tags = policy_versions.for_new_repository(config), dict(config.tags)
    run.unanswered = row.creating_since is not None  # an earlier CreateRepository whose answer we did not get
    run.lease.require_writable()
    if not run.unanswered:
        run.lease.note({"creating_since": now})
    try:
        created = ecr.create(
            row.name,
            mutability=desired.MUTABILITY,
            exclusions=desired.EXCLUSIONS,
            tags=tags,
            kms_key=config.kms_key,
        )
    except RegistryError as error:
        if not error.retryable:  # AWS refused: nothing was created
            run.values["creating_since"] = None
        raise
    if created is not CreateOutcome.CREATED:
        run.unanswered = run.unanswered or created is CreateOutcome.UNSURE
        return False
    run.happened(EventKind.CREATED, "Created with its encryption, tag mutability and AWS tags.")
    run.values |= {
        "written_at": Now(),
        "creating_since": None,
        "origin": "created",
        "management": Management.FULL,
        "policy_text": "",
        "policy_version_id": config.new_version,
        "policy_applied_at": None,
        "last_in_sync_at": None,
        "lifecycle_text": "",
        "lifecycle_is_ours": True,
        "tags": tags,
        "mutability": Mutability(mode=desired.MUTABILITY, exclusions=desired.EXCLUSIONS),
        "encryption": Encryption(type="KMS" if config.kms_key else "AES256", kms_key=config.kms_key),
        "details_checked_at": now,
    }
    row.origin, row.management, row.last_in_sync_at, row.policy_applied_at = "created", Management.FULL, None, None
    row.policy_version_id = config.new_version
    differences = [Difference(part=Part.LIFECYCLE, words="The repository has no lifecycle policy.", fixable=True)]
    differences += policy_differences(row, None, config, partition=ecr.registry.partition)
    _write(run, differences, ecr=ecr, config=config, now=now, policy_before="", just_created=True)
    return True


def _wait_until_visible(ecr: Ecr, name: str) -> Observation:
    observation = _retry_while_not_found(lambda: _existing(ecr, name))
    if isinstance(observation, RegistryError):
        raise observation
    return observation


def _existing(ecr: Ecr, name: str) -> Observation | RegistryError:
    observation = ecr.observe(name, details=True)
    if observation.exists:
        return observation
    return registry_error(NOT_VISIBLE, operation="DescribeRepositories", name=name)


def _retry_while_not_found(call: Callable[[], T | RegistryError]) -> T | RegistryError:
    """Call until ECR finds the repository, for at most VISIBLE_SECONDS. Returns the last result."""
    pause, until = 0.1, processes.clock() + VISIBLE_SECONDS
    while True:
        result = call()
        if not _is_not_found(result) or processes.clock() + pause > until:
            return result
        time.sleep(pause)
        pause = min(pause * 2, 2.0)


def _is_not_found(result: object) -> bool:
    return isinstance(result, RegistryError) and result.code in (NOT_FOUND, NOT_VISIBLE)


def _decide_origin(run: _Run, observation: Observation, config: RegistryConfig) -> None:
    """Decide whether an existing repository is ours (the answer to our CreateRepository was lost) or is adopted.

    Sets `origin` and, with it, `management`.
    """
    details = observation.details
    if not isinstance(details, Details):
        return  # not observed; the next check decides
    since = run.row.creating_since  # D-lost-answer
    made_by_us = (
        since is not None
        and run.unanswered
        and details.created_at >= since - AWS_CLOCK_SKEW
        and (details.mutability, details.exclusions) == (desired.MUTABILITY, desired.EXCLUSIONS)
        and all(details.tags.get(key) == value for key, value in config.tags)
    )
    run.values["creating_since"] = None
    # A process of version 0.1.0, which has found that the repository before was gone, does not know this column.
    run.values["adopted_statements"] = run.row.adopted_statements = []
    run.values["foreign_statements"] = run.row.foreign_statements = []
    run.values["origin"] = run.row.origin = "created" if made_by_us else "adopted"
    run.values["management"] = run.row.management = Management.FULL if made_by_us else Management.ADOPTED
    if made_by_us:
        run.happened(EventKind.CREATED, "Created. AWS's answer was lost; a check found the repository.")
    else:
        run.happened(EventKind.ADOPTED, f"Adopted: somebody else created it on {details.created_at:%Y-%m-%d}.")


def _correct(run: _Run, observation: Observation, *, ecr: Ecr, config: RegistryConfig, now: datetime) -> None:
    """Compare the observation with the configuration and write the differences that we may correct."""
    row = run.row
    if not row.is_managed:
        _decide_origin(run, observation, config)
    if isinstance(observation.details, Details):
        adopted = still_adopted(row, observation.details.created_at)
        if adopted != row.adopted_statements:
            run.events.append(created_again(row, observation.details.created_at, cause=run.cause))
            run.values["adopted_statements"] = row.adopted_statements = adopted
    differences, errors = compare(row, observation, config, partition=run.partition)
    run.errors += errors
    policy_before = row.policy_text
    if not isinstance(observation.policy, RegistryError):
        policy_before = observation.policy or ""
        _saw_policy(run, policy_before, differences, config=config, now=now)
    if isinstance(observation.details, Details):
        details = observation.details
        run.values |= {
            "lifecycle_text": details.lifecycle or "",
            "tags": dict(details.tags),
            "mutability": Mutability(mode=details.mutability, exclusions=details.exclusions),
            "encryption": Encryption(type=details.encryption, kms_key=details.kms_key),
            "details_checked_at": now,
        }
    live = run.values.get("lifecycle_text", row.lifecycle_text)
    lifecycle = next((each for each in differences if each.part is Part.LIFECYCLE and each.fixable), None)
    if lifecycle is not None and corrects(run.row, enforce=run.enforce) and lifecycle_safety.must_stay(row, config):
        # The other parts first: a preview takes seconds.
        rest = [each for each in differences if each is not lifecycle]
        _write(run, rest, ecr=ecr, config=config, now=now, policy_before=policy_before)
        _write_previewed(run, lifecycle, ecr=ecr, config=config, now=now)
    else:
        _write(run, differences, ecr=ecr, config=config, now=now, policy_before=policy_before)
    if lifecycle is None:
        _keep_preview(run, "settings", None)
    if live and desired.may_touch_tagged(live) and run.values.get("lifecycle_text", live) == live:
        _watch_live(run, live, config=config, now=now)
    else:
        _keep_preview(run, "live", None)


def _write_previewed(run: _Run, difference: Difference, *, ecr: Ecr, config: RegistryConfig, now: datetime) -> None:
    """Write the lifecycle policy if AWS's preview takes away no image that must stay; else say why not."""
    text = config.lifecycle_policy
    before = lifecycle_safety.stored(run.row, "settings", text)
    if run.previews is None:
        if before is not None:
            difference = _refused(difference, before)
        elif run.writes:
            words = (
                f"{difference.words} The next sweep lets AWS preview the lifecycle policy of the settings, and then "
                "writes that policy."
            )
            difference = replace(difference, words=words, fixable=False, waits=True)
        run.differences.append(difference)
        return
    try:
        run.lease.require_writable()
        result = run.previews.result("settings", text)
    except RegistryError as error:
        _not_written(run, [difference], error)
        return
    if result is not None and not result.words and not run.previews.are_the_same(result):
        result = replace(result, words="The images that must stay changed during AWS's preview.", then="start")
    if result is not None and result.words:
        _keep_preview(run, "settings", result)
        run.differences.append(_refused(difference, result))
        return
    _keep_preview(run, "settings", None)
    _write(run, [difference], ecr=ecr, config=config, now=now, policy_before="")


def _refused(difference: Difference, result: PreviewResult) -> Difference:
    """The difference of a lifecycle policy that is not written. It is drift: a person has to do something."""
    return replace(difference, words=f"{difference.words} {result.words} Until then nothing is written.", waits=True)


def _watch_live(run: _Run, live: str, *, config: RegistryConfig, now: datetime) -> None:
    """Report a live lifecycle policy, ours or not, that would take away an image that must stay. Nothing is written.

    A run that makes no preview, and is the first one to see this policy, leaves the question to the next sweep.
    """
    before = lifecycle_safety.stored(run.row, "live", live)
    result = before
    observed = "details_checked_at" in run.values
    if run.previews is not None and (observed or (before is not None and before.then)):
        try:
            run.lease.require_writable()  # while writes are paused, no preview is started either
            result = run.previews.result("live", live)
        except RegistryError as error:
            if error.code != "WritesPaused":
                run.errors.append(error)
    elif run.previews is None and observed and before is None:
        result = lifecycle_safety.to_be_asked(run.row, live, config=config, now=now)
    _keep_preview(run, "live", result)
    if result is not None and result.words:
        run.differences.append(Difference(part=Part.LIFECYCLE, words=result.words, fixable=False))


def _keep_preview(run: _Run, policy: str, result: PreviewResult | None) -> None:
    """Put what AWS's preview of this policy said on the row; None: nothing is known, or it does not matter any more."""
    before = run.values.get("lifecycle_previews", run.row.lifecycle_previews) or {}
    after = {name: each for name, each in before.items() if name != policy}
    if result is not None:
        after[policy] = result
    if after != before:
        run.values["lifecycle_previews"] = after


def compare(
    row: Repository, observation: Observation, config: RegistryConfig, *, partition: str
) -> tuple[list[Difference], list[RegistryError]]:
    """The differences between the observation and the configuration, and the errors of parts that could not be read."""
    differences: list[Difference] = []
    details = remembered(row) if observation.details is None else observation.details
    if not isinstance(observation.policy, RegistryError):
        differences += policy_differences(row, observation.policy, config, partition=partition)
    if not isinstance(details, RegistryError):
        differences += detail_differences(row, config, details)
    return differences, [part for part in (observation.policy, details) if isinstance(part, RegistryError)]


def trust(row: Repository, config: RegistryConfig) -> policy.Trust:
    """Which statements of others may stay in the policy of a repository."""
    return policy.Trust(
        owner=row.account,
        consumers=config.consumer_accounts,
        adopted=frozenset(each.statement for each in row.adopted_statements),
        refused=frozenset(each.statement for each in row.foreign_statements if each.refused_by),
        keeps=config.foreign_statements,
        written=config.written_grants,
    )


def policy_differences(
    row: Repository, text: str | None, config: RegistryConfig, *, partition: str
) -> list[Difference]:
    """How a live policy text (None: there is none) differs from the default policy of this repository."""
    default = policy_versions.for_repository(config, row).default_repository_policy
    return desired.policy_differences(default, text, partition=partition, trust=trust(row, config))


def policy_to_write(row: Repository, text: str, live: str, config: RegistryConfig, *, partition: str) -> str:
    """This text, and the statements of others that the live policy has and that are kept.

    `text`: the default policy, or an earlier policy that a person puts back. Raises RegistryError (PolicyTooLong) if
    ECR would not take all of it.
    """
    services = trust(row, config)
    whole = desired.policy_beside(text, live, partition=partition, trust=services)
    if whole != text and len(whole) > policy.MAX_CHARACTERS:
        kept = desired.kept_statements(text, live, partition=partition, trust=services)
        raise registry_error(
            "PolicyTooLong",
            operation="SetRepositoryPolicy",
            name=row.name,
            statements=", ".join(each.name for each in kept),
            characters=f"{len(whole):,}",
            own=f"{len(text):,}",
            limit=f"{policy.MAX_CHARACTERS:,}",
        )
    return whole


def pullers(row: Repository, text: str, config: RegistryConfig, *, partition: str) -> dict[str, ConsumerPull]:
    """Whether each consumer account can pull: by this text, and by the registry policy as it was last read."""
    if not config.consumer_accounts:
        return {}
    return desired.pullers(
        text,
        registry_policies.seen(account=row.account, region=row.region),
        config.consumer_accounts,
        arn=f"arn:{partition}:ecr:{row.region}:{row.account}:repository/{row.name}",
        partition=partition,
    )


def _seen_statements(run: _Run, text: str, config: RegistryConfig, *, now: datetime) -> list[SeenStatement]:
    """The statements of others in this policy text, since when they are known and by whom; and the refused ones."""
    default, row = config.default_repository_policy, run.row
    before = {each.statement: each for each in row.foreign_statements}
    live: tuple[policy.ForeignStatement, ...] = ()
    if text and default is not None and text != default:
        live = policy.foreign_statements(text, default=default, partition=run.partition, trust=trust(row, config))
    new = SeenStatement(statement="", first_seen=now.isoformat(), by=run.policy_by)
    found = {
        each.text: replace(before.get(each.text, replace(new, statement=each.text)), kept=each.kept)
        for each in live
        if not each.ours
    }
    refused = {key: replace(each, kept=False) for key, each in before.items() if each.refused_by and key not in found}
    return [*found.values(), *refused.values()]


def _saw_policy(run: _Run, text: str, differences: list[Difference], *, config: RegistryConfig, now: datetime) -> None:
    """Record the observed policy text (empty: none), who may pull by it, and the time if it is as configured."""
    run.values["policy_text"] = text
    run.values["consumers"] = pullers(run.row, text, config, partition=run.partition)
    seen = _seen_statements(run, text, config, now=now)
    if seen != run.values.get("foreign_statements", run.row.foreign_statements):
        run.values["foreign_statements"] = seen
    differs = any(difference.part is Part.POLICY for difference in differences)
    if config.default_repository_policy is not None and not differs:
        run.values["policy_applied_at"] = now


def _write(
    run: _Run,
    differences: list[Difference],
    *,
    ecr: Ecr,
    config: RegistryConfig,
    now: datetime,
    policy_before: str,
    just_created: bool = False,
) -> None:
    """Correct the fixable differences, with parallel calls. The differences that stay go to `run.differences`.

    `policy_before`: the live policy that this run has read; empty: none. Those of its statements stay that are kept.
    """
    name = run.row.name
    default, tags = config.default_repository_policy or "", dict(config.tags)
    writers: dict[Part, Callable[[], None]] = {
        Part.POLICY: lambda: ecr.set_policy(
            name, policy_to_write(run.row, default, policy_before, config, partition=run.partition)
        ),
        Part.LIFECYCLE: lambda: ecr.put_lifecycle(name, config.lifecycle_policy),
        Part.TAGS: lambda: ecr.put_tags(name, tags),
        Part.MUTABILITY: lambda: ecr.put_mutability(name, desired.MUTABILITY, desired.EXCLUSIONS),
    }
    mine = [
        difference
        for difference in differences
        if difference.fixable and run.writes and corrects(run.row, enforce=run.enforce)
    ]
    run.differences += [difference for difference in differences if difference not in mine]
    if not mine:
        return
    try:
        run.lease.require_writable()
    except RegistryError as refused:
        _not_written(run, mine, refused)
        return
    words = next((difference.words for difference in mine if difference.part is Part.POLICY), "")
    if words and policy_before:
        # Before the write, so that a crash in between loses no policy. Only once if every attempt fails.
        earlier = RepositoryEvent.objects.filter(repository_id=run.row.pk, policy_before=policy_before)
        if run.row.status != RepositoryStatus.FAILED or not earlier.exists():
            run.event(EventKind.DRIFT_FOUND, words, policy_before=policy_before).save()
    if words:
        policy_versions.keep_before(run.row, policy_before)

    results: dict[Part, RegistryError | None] = {}

    def write() -> RegistryError | None:
        """Write the parts that are not written yet. Returns an error if ECR did not find the repository, else None."""
        left = [each.part for each in mine if each.part not in results or _is_not_found(results[each.part])]
        if results:  # a retry, up to VISIBLE_SECONDS after the first try
            try:
                run.lease.require_writable()
            except RegistryError as refused:
                results.update(dict.fromkeys(left, refused))
                return refused
        results.update(zip(left, ecr.side_by_side([writers[part] for part in left]), strict=True))
        return next((error for error in results.values() if _is_not_found(error)), None)

    if just_created:
        _retry_while_not_found(write)
    else:
        write()
    for difference in mine:
        result = results[difference.part]
        if result is not None:
            if difference.part is Part.POLICY:
                result = _naming_the_statement(result, ecr=ecr, config=config, policy_before=policy_before)
            run.errors.append(result)
            run.differences.append(difference)
            continue
        run.values["written_at"] = Now()
        run.written.append(_written(run, difference, config=config, now=now, policy_before=policy_before))


def _not_written(run: _Run, differences: list[Difference], error: RegistryError) -> None:
    """Record why these differences were not corrected.

    While writes are paused, a repository that was in sync becomes drifted, as in observe mode; a new one fails.
    """
    if error.code != "WritesPaused" or run.row.last_in_sync_at is None:
        run.errors.append(error)
    run.differences += differences


def _naming_the_statement(
    error: RegistryError, *, ecr: Ecr, config: RegistryConfig, policy_before: str
) -> RegistryError:
    """The error of SetRepositoryPolicy, with the statement (of our policy, or of the live one) that keeps us out.

    ECR refuses a policy that would prevent its own update, and does not say by which statement.
    """
    text = policy_before if error.denied else config.default_repository_policy or ""
    if not (error.denied or error.code == "InvalidParameterException") or error.bounded:
        return error
    writer = config.writer(ecr.registry.account)
    words = desired.lockout_words(text, writer=writer, partition=ecr.registry.partition, live=error.denied)
    return replace(error, sentence=f"{error.sentence} {words}".strip())


def _written(run: _Run, difference: Difference, *, config: RegistryConfig, now: datetime, policy_before: str) -> str:
    """Record a write, and return what it changed in words."""
    words = difference.words
    match difference.part:
        case Part.POLICY:
            healed = run.row.policy_applied_at is not None
            default = config.default_repository_policy or ""
            services = trust(run.row, config)
            kept = desired.kept_statements(default, policy_before, partition=run.partition, trust=services)
            text = desired.policy_beside(default, policy_before, partition=run.partition, trust=services)
            # From the reader's side: what the write gives and takes, not how the policy before it differed.
            words = desired.written_words(policy_before, text, partition=run.partition)
            names = ", ".join(each.name for each in kept)
            beside = f" Statements of others that are kept: {names}." if kept else ""
            again = f" again. {words}" if healed else "."
            # The event of the drift has the policy that was there before.
            run.happened(
                EventKind.HEALED if healed else EventKind.POLICY_APPLIED,
                f"The default repository policy was written{again}{beside}",
            )
            _saw_policy(run, text, [], config=config, now=now)
        case Part.LIFECYCLE:
            run.happened(EventKind.CHANGED, "The lifecycle policy was written.")
            run.values |= {"lifecycle_text": config.lifecycle_policy, "lifecycle_is_ours": True}
        case Part.TAGS:
            run.happened(EventKind.CHANGED, difference.words + " They were written.")
            run.values["tags"] = {**run.values.get("tags", run.row.tags), **dict(config.tags)}
        case Part.MUTABILITY:
            run.happened(EventKind.CHANGED, difference.words + " It was changed.")
            run.values["mutability"] = Mutability(mode=desired.MUTABILITY, exclusions=desired.EXCLUSIONS)
    return words


def _record(run: _Run, *, error: RegistryError | None, desired_digest: str, now: datetime) -> None:
    """Set the columns that the result of the run gives: error, missing, or the verdict."""
    row, values = run.row, run.values
    if "policy_text" in values:
        _record_comparability(run, now=now)
    if error is not None:
        failure, events = _failure(row, error, cause=run.cause, now=now)
        values |= failure
        values["differences"] = run.differences
        run.events += events
        return
    values |= {**_WITHOUT_ERROR, "last_checked_at": now, "checked_digest": desired_digest}
    if run.missing:
        values |= GONE
        if row.status != RepositoryStatus.MISSING:
            run.events.append(gone_event(row, cause=run.cause))
        return
    _record_verdict(run, now=now)


def _record_verdict(run: _Run, *, now: datetime) -> None:
    """Set the columns for in sync or drifted (and since when), by the differences that are left."""
    row, values = run.row, run.values
    verdict = desired.verdict(run.differences)
    values["differences"] = run.differences
    if verdict.drifted and not run.writes:
        values["checked_digest"] = ""  # so that a deploy does not take the drift for the result of an attempt
    if not verdict.drifted:
        values |= {"status": RepositoryStatus.IN_SYNC, "last_in_sync_at": now, "drifted_since": None}
        return
    # A drift that is left when the policy can be compared again begins now: before, only the other state was notified.
    began = row.drifted_since is None or (row.incomparable_since is not None and not _is_incomparable(run))
    values |= {"status": RepositoryStatus.DRIFTED, "drifted_since": now if began else row.drifted_since}
    reported = any(event.state == EventState.INCOMPARABLE for event in run.events)
    if not reported and (row.status != RepositoryStatus.DRIFTED or row.differences != values["differences"]):
        policy_before = values.get("policy_text", row.policy_text)
        since = now if began and not _is_incomparable(run) else None
        run.events.append(
            run.event(EventKind.DRIFT_FOUND, verdict.words, policy_before=policy_before, state_since=since)
        )


def _is_incomparable(run: _Run) -> bool:
    return any(difference.is_incomparable for difference in run.differences)


def _record_comparability(run: _Run, *, now: datetime) -> None:
    """Record whether the policy that was observed can be compared. An event when that begins and when it ends.

    The state outlasts an error: a repository that failed in between is not notified a second time.
    """
    since, verdict = run.row.incomparable_since, desired.verdict(run.differences)
    if _is_incomparable(run) and since is None:
        run.values["incomparable_since"] = now
        event = run.event(
            EventKind.DRIFT_FOUND, verdict.words, policy_before=run.values.get("policy_text", ""), state_since=now
        )
        event.state = EventState.INCOMPARABLE
        run.events.append(event)
    elif since is not None and not _is_incomparable(run):
        run.values["incomparable_since"] = None
        words = f"The repository policy can be compared again. {verdict.words}".strip()
        event = run.event(EventKind.CHANGED, words, state_since=now)
        event.state = EventState.COMPARABLE
        run.events.append(event)


def record_policy(
    *,
    lease: RepositoryLease,
    config: RegistryConfig,
    partition: str,
    text: str,
    cause: str,
    written: bool = True,
    also: RowValues | None = None,
) -> bool:
    """Record a policy that was written (or else read) under the lease by a person's request, and return the lease.

    No call to AWS.

    The other parts were not read. So their differences stay, and a repository that has failed or was never checked does
    not become in sync. The next check reads all parts. False if the lease was lost; then nothing is written. `also`:
    further columns.
    """
    row = lease.row
    now: datetime = row.db_now  # type: ignore[attr-defined]
    run = _Run(lease=lease, cause=cause, enforce=False, partition=partition)
    run.values = {**(also or {}), "checked_digest": ""}
    if written:
        run.values["written_at"] = Now()
    run.differences = policy_differences(row, text, config, partition=partition)
    run.differences += [each for each in row.differences if each.part is not Part.POLICY]
    _saw_policy(run, text, run.differences, config=config, now=now)
    _record_comparability(run, now=now)
    checked = row.status in (RepositoryStatus.IN_SYNC, RepositoryStatus.DRIFTED)
    if checked or desired.verdict(run.differences).drifted:
        _record_verdict(run, now=now)
    else:
        run.values["differences"] = run.differences
    return lease.finish(run.values, run.events)


def _failure(
    row: Repository, error: RegistryError, *, cause: str, now: datetime
) -> tuple[RowValues, list[RepositoryEvent]]:
    """The columns and events of an attempt that ended in this error. An event only if the error is new or lasts."""
    since = (row.error_since if row.last_error_code == error.code else None) or now
    values: RowValues = {
        "status": RepositoryStatus.FAILED,
        "last_error": str(error),
        "last_error_code": error.code,
        "last_error_heals": error.retryable,
        "last_error_is_installation": error.installation,
        # The end of the attempt: deploys that wait for it use its result.
        "last_error_at": Now(),
        "error_since": since,
    }
    event = RepositoryEvent(repository_id=row.pk, kind=EventKind.ERROR, message=str(error), cause=cause)
    again = RepositoryEvent.objects.filter(repository_id=row.pk, kind=EventKind.ERROR, state_since=since)
    if not error.installation and now > since + SAME_ERROR_TWICE_AFTER and not again.exists():
        event.message, event.state_since = f"{causes.AGAIN}{error}", since
    return values, [event] if event.state_since or row.last_error != str(error) else []


def record_unmanaged(*, row: Repository, policy: str | None, config: RegistryConfig, partition: str) -> bool:
    """Record the policy of an unmanaged repository (None: it has none) and who can pull by it. No call to AWS.

    Nothing about whose the repository is changes. False, and nothing is written, if another process holds the lease or
    has had it since `row` was read, or if the repository is managed now.
    """
    lease = claim(row)
    if lease is None:
        return False
    if lease.epoch != row.lease_epoch + 1 or lease.row.management != Management.UNMANAGED:
        lease.give_up()
        return False
    text = policy or ""
    values: RowValues = {
        **_WITHOUT_ERROR,
        "policy_text": text,
        "consumers": pullers(lease.row, text, config, partition=partition),
        "last_checked_at": lease.row.db_now,  # type: ignore[attr-defined]
    }
    return lease.finish(values)


def record_failure(*, row: Repository, error: RegistryError, cause: str) -> bool:
    """Record on the row and in the history that the caller could not check the repository. No call to AWS.

    An unmanaged repository stays unmanaged, without an event.

    False, and nothing is written, if another process holds the lease or has checked the repository since `row` was
    read.
    """
    lease = claim(row)
    if lease is None:
        return False
    if lease.row.last_checked_at != row.last_checked_at:
        lease.give_up()
        return False
    try:
        now: datetime = lease.row.db_now  # type: ignore[attr-defined]
        values, events = _failure(lease.row, error, cause=cause, now=now)
        if lease.row.management == Management.UNMANAGED:
            values["status"], events = RepositoryStatus.UNMANAGED, []
        kept = lease.finish(values, events)
    except BaseException:
        lease.give_up()
        raise
    found = lease.row
    before, code_before = found.status, found.last_error_code
    found.status, found.last_error_code, found.last_error = values["status"], error.code, str(error)
    if kept and (before, code_before) != (found.status, found.last_error_code):
        log_status(found, before=before, cause=cause)
    return kept
