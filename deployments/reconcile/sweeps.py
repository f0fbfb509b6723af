"""One pass over all repositories: list the registry, divide the work into chunks, observe, correct, count.

The `Sweep` and `SweepChunk` rows say what a sweep still has to do. A task in the queue only wakes a worker up. Each
caller of `work` (a task, the reconcile command) takes a listing or a chunk under a lease. If a worker is killed, its
lease ends and the next worker continues from the row. Two sweeps at the same time do no harm, because a repository is
written to only under its own lease.

A read takes no lease of a repository: if all 250 repositories of a chunk are in sync, the chunk costs four UPDATEs. All
workers share one rate of calls. In a sweep botocore tries once, and a throttled repository is tried again later. It has
MAX_TRIES_PER_REPOSITORY tries in a sweep, with growing pauses; then it has failed, and the sweep ends without it.

Small sweeps come first. A worker leaves a chunk within a second if a smaller sweep waits, or if all repositories of the
chunk rest and other work waits.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import Exists, F, Max, OuterRef, Q, QuerySet
from django.db.models.functions import Now

from deployments.aws.values import Listed
from deployments.catalogue import sentence
from deployments.config import Configuration
from deployments.errors import RegistryError
from deployments.images import possible_refs
from deployments.log import bound, get_logger
from deployments.models import (
    Project,
    Repository,
    RepositoryEvent,
    RepositoryStatus,
    Sweep,
    SweepChunk,
    SweepStatus,
    SweepTrigger,
)
from deployments.reconcile import (
    change_feed,
    generation,
    image_states,
    ownership,
    registry_policies,
    repositories,
    targets,
)
from deployments.reconcile.chunks import CHUNK_LEASE, ChunkRun
from deployments.reconcile.lease import RETURNED, Lease, free
from deployments.reconcile.sweep_record import MAX_DEATHS_PER_CHUNK, Outcome, end, next_piece, record_findings
from deployments.reconcile.targets import Target
from deployments.row_values import MANAGED, Encryption, Management, Mutability

#: Half a minute at 20 calls per second with two workers.
REPOSITORIES_PER_CHUNK = 250
ROWS_COMPARED = 250  # rows in memory at once while a page of the registry's list is compared
log = get_logger(__name__)


# --------------------------------------------------------------------------------------------------------------- work


def work(
    *,
    configuration: Configuration,
    seconds: float,
    sweep_id: int | None = None,
    stopping: Callable[[], bool] = lambda: False,
    wake: Callable[[], None] = lambda: None,
) -> bool:
    """Work on running sweeps for `seconds`, or until no work is left. True if work may be left.

    Calls `wake` after a listing: other workers may take its chunks.

    Ends soon once `stopping` returns true: it waits for the calls that it has sent, and gives the rest back.

    `configuration` is the process's own; the configuration that counts is used. A process that cannot use it takes no
    work, and records the reason on the running sweeps.
    """
    until, own = time.monotonic() + seconds, configuration
    while time.monotonic() < until and not stopping():
        try:
            configuration = generation.in_force(own)
        except RegistryError as refused:
            # Only on sweeps that no other process works on: such a process can use the configuration.
            working = SweepChunk.objects.filter(sweep=OuterRef("pk"), lease_until__gt=Now())
            resting = Sweep.objects.filter(~Exists(working), status=SweepStatus.RUNNING).exclude(error=str(refused))
            if resting.update(error=str(refused)):
                log.warning("sweep.waits", error=str(refused))
            return False
        running = Sweep.objects.filter(status=SweepStatus.RUNNING, **({"pk": sweep_id} if sweep_id else {}))
        _close_finished(running)  # before the next work, which may take long and be another sweep's
        piece = next_piece(running)
        if isinstance(piece, Sweep):
            listing = Lease.claim(Sweep.objects.filter(pk=piece.pk), CHUNK_LEASE)
            if listing is not None:
                with bound(sweep=piece.pk, actor=_actor(piece)):
                    _list(listing, configuration, stopping, until)
                wake()
            continue
        if piece is None:
            return False
        lease = _claim_chunk(piece)
        if lease is None:
            continue
        if lease.row.attempts >= MAX_DEATHS_PER_CHUNK:
            _isolate(lease)
            continue
        with bound(sweep=lease.row.sweep_id, actor=_actor(lease.row.sweep)):
            ChunkRun(lease=lease, configuration=configuration, until=until, running=running, stopping=stopping).run()
    return True


def _actor(sweep: Sweep) -> str:
    """Who started a sweep: a person, or the trigger."""
    return sweep.requested_by or sweep.trigger


def _claim_chunk(chunk: SweepChunk) -> Lease[SweepChunk] | None:
    """Take the lease of an unfinished chunk and count the attempt; None if another worker was faster."""
    rows = SweepChunk.objects.filter(pk=chunk.pk, finished_at__isnull=True).select_related("sweep")
    return Lease.claim(rows, CHUNK_LEASE, attempts=F("attempts") + 1)


def _isolate(lease: Lease[SweepChunk]) -> None:
    """Halve a chunk whose workers keep dying. A chunk of one repository ends with a finding that names it."""
    chunk = lease.row
    half = len(chunk.remaining) // 2
    with transaction.atomic():
        if half:
            kept = {
                "remaining": chunk.remaining[:half],
                "size": F("size") - (len(chunk.remaining) - half),
                "attempts": 0,
            }
            if lease.finish(kept):
                last = SweepChunk.objects.filter(sweep=chunk.sweep).aggregate(at=Max("position"))["at"]
                rest = chunk.remaining[half:]
                SweepChunk.objects.create(
                    sweep=chunk.sweep,
                    position=last + 1,
                    host=chunk.host,
                    namespace=chunk.namespace,
                    size=len(rest),
                    remaining=rest,
                    throttled=chunk.throttled,
                )
            return
        failed = F("failed") + len(chunk.remaining)
        if not lease.finish({"remaining": [], "finished_at": Now(), "failed": failed}):
            return
        words = (
            f"{MAX_DEATHS_PER_CHUNK} workers in a row died while they checked this repository. See the workers' logs."
        )
        record_findings(chunk.sweep, Repository.objects.filter(pk__in=chunk.remaining), Outcome.FAILED, words)


def _close_finished(running: QuerySet[Sweep]) -> None:
    """End every sweep without an open chunk. A conditional UPDATE makes sure that each sweep ends once."""
    for sweep in running.filter(listed_at__isnull=False):
        if not sweep.chunks.filter(finished_at__isnull=True).exists():
            end(sweep.pk, SweepStatus.DONE)


def close_finished() -> None:
    """End the sweeps whose last worker died after it had finished the last chunk."""
    _close_finished(Sweep.objects.filter(status=SweepStatus.RUNNING))


# ------------------------------------------------------------------------------------------------------------ listing


@dataclass(slots=True)
class Listing:
    """How far the listing of a sweep is. It is kept on the sweep's row if its worker has no more time for it.

    So a registry with 100,000 repositories is listed by as many tasks as that takes.
    """

    target: int = 0  # its number in the list of targets
    token: str = ""  # of the next page of this target; empty: the first page
    seen: set[int] = field(default_factory=set)  # the repositories of the pages before
    calls: Counter[str] = field(default_factory=Counter)
    missing: int = 0
    discovered: int = 0
    again: bool = False  # whether AWS has refused a token once, so that the listing began again

    @classmethod
    def from_row(cls, stored: dict[str, Any] | None) -> Listing:
        kept = dict(stored or {})
        seen = {pk for first, last in kept.pop("seen", ()) for pk in range(first, last + 1)}
        return cls(seen=seen, calls=Counter(kept.pop("calls", {})), **kept)

    def as_row(self) -> dict[str, Any]:
        ranges: list[list[int]] = []
        for pk in sorted(self.seen):
            if ranges and pk == ranges[-1][1] + 1:
                ranges[-1][1] = pk
            else:
                ranges.append([pk, pk])
        kept = {"target": self.target, "token": self.token, "missing": self.missing, "discovered": self.discovered}
        return {**kept, "again": self.again, "seen": ranges, "calls": dict(self.calls)}


def _list(
    lease: Lease[Sweep],
    configuration: Configuration,
    stopping: Callable[[], bool] = lambda: False,
    until: float = float("inf"),
) -> None:
    """Compare the registry's list with our rows, and divide the work into chunks, oldest attempt first.

    At the time `until` (monotonic) the listing is left; the next worker continues it.
    """
    sweep = lease.row
    listed = Listing.from_row(sweep.listing)
    found_targets = targets.configured(configuration)

    def still_ours() -> bool:
        """Renew the lease, because many pages take longer than one lease. False if the sweep was stopped or taken."""
        if stopping() or time.monotonic() >= until:
            lease.finish({"listing": listed.as_row()})
            return False
        return bool(lease.mine.filter(status=SweepStatus.RUNNING).update(lease_until=Now() + lease.duration))

    try:
        if not sweep.names:
            for number, target in enumerate(found_targets):
                if number >= listed.target and not _compare_list(sweep, target, listed, still_ours):
                    return
        _look_at_registry_policies(sweep, found_targets, listed.calls)
    except RegistryError as error:
        _list_later(lease, listed, error)
        return
    with transaction.atomic():
        if not lease.mine.filter(listed_at__isnull=True).update(
            listed_at=Now(),
            error="",
            calls=dict(listed.calls),
            missing=listed.missing,
            discovered=listed.discovered,
            listing=None,
            **RETURNED,
        ):
            return  # another process has finished the listing
        position = spared = 0
        for target in found_targets:
            rows = _rows(sweep, target).order_by(F("attempted_at").asc(nulls_first=True), "pk")
            number, ids = 0, list[int]()
            for pk in _to_read(sweep, target, rows, configuration):
                ids.append(pk)
                number += 1
                if len(ids) == REPOSITORIES_PER_CHUNK:
                    position = _cut(sweep, target, position, ids)
                    ids = []
            if ids:
                position = _cut(sweep, target, position, ids)
            spared += rows.count() - number
        if spared > 0:
            Sweep.objects.filter(pk=sweep.pk).update(spared=spared)
    log.info("sweep.listed", chunks=position, missing=listed.missing, discovered=listed.discovered, spared=spared)


def _list_later(lease: Lease[Sweep], listed: Listing, error: RegistryError) -> None:
    """After an error of AWS: leave the rest of the listing to the next worker, or end the sweep.

    The reconcile command reports the error; a scheduled sweep tries again. A token that AWS refuses (it is too old)
    lets the listing begin again, once.
    """
    sweep = lease.row
    refused_token = bool(listed.token) and not (error.retryable or error.installation or listed.again)
    if refused_token:
        listed = Listing(calls=listed.calls, again=True)
    elif not error.retryable or error.installation or sweep.trigger == SweepTrigger.COMMAND:
        end(sweep.pk, SweepStatus.FAILED, str(error))
        return
    # After a pause the next worker continues.
    lease.finish({"error": str(error), "listing": listed.as_row()}, rest=timedelta(seconds=5))
    if sweep.error != str(error):  # once for an outage of AWS, not at each try
        log.warning("sweep.waits", error=str(error))


def _to_read(sweep: Sweep, target: Target, rows: QuerySet[Repository], configuration: Configuration) -> Iterable[int]:
    """The ids of the repositories that the sweep reads: all, or what a trusted change feed leaves to it."""
    if sweep.trigger != SweepTrigger.SCHEDULE or sweep.names or sweep.dry_run:
        return rows.values_list("pk", flat=True).iterator(chunk_size=change_feed.ROWS_PER_QUERY)
    registry, counting = target.registry, generation.counting()
    feed = change_feed.state(account=registry.account, region=registry.region, configuration=configuration)
    return change_feed.to_read(
        rows,
        feed=feed,
        config=target.config,
        desired_digest=configuration.desired_digest,
        known_from=None if counting is None else counting.at,
    )


def _look_at_registry_policies(sweep: Sweep, found: Iterable[Target], calls: Counter[str]) -> None:
    """Read the policy of each registry of the sweep's repositories once.

    botocore tries once, because the listing has a lease. If AWS does not answer, the reading before stays.
    """
    for target in {target.registry: target for target in found}.values():
        if not sweep.names or _rows(sweep, target).exists():
            registry_policies.look(target.ecr(attempts=1, answered=lambda operation, code: calls.update([operation])))


def _rows(sweep: Sweep, target: Target) -> QuerySet[Repository]:
    # A row whose repository was never seen belongs to a deploy that is not completed; only deploys create.
    rows = Repository.objects.filter(target.rows, management__in=[*MANAGED, Management.UNMANAGED])
    rows = rows if sweep.dry_run else rows.filter(management__in=MANAGED)
    if sweep.names:
        missing = Repository.objects.filter(target.rows, status=RepositoryStatus.MISSING)
        return (rows | missing).filter(name__in=sweep.names)
    return rows.exclude(status=RepositoryStatus.MISSING)


def _cut(sweep: Sweep, target: Target, position: int, ids: list[int]) -> int:
    SweepChunk.objects.create(
        sweep=sweep,
        position=position,
        host=target.config.host,
        namespace=target.config.namespace,
        size=len(ids),
        remaining=list(ids),
    )
    return position + 1


def _compare_list(sweep: Sweep, target: Target, listed: Listing, still_ours: Callable[[], bool]) -> bool:
    """List the registry and record what changed, what is new under our namespace, and what is missing.

    False if another process has taken the listing, the sweep was stopped, or there is no time for more pages.
    """
    ecr = target.ecr(answered=lambda operation, code: listed.calls.update([operation]))
    rows = Repository.objects.filter(target.rows)
    for page, token in ecr.pages(listed.token):
        if not still_ours():
            return False
        ours = [entry for entry in page if target.names(entry.name)]
        for start in range(0, len(ours), ROWS_COMPARED):
            _compare_entries(sweep, target, listed, rows, ours[start : start + ROWS_COMPARED])
        listed.token = token
    # Missing: seen before the sweep and not in the list. Not those that a deploy is creating right now.
    expected = (
        rows.filter(Q(last_checked_at__lt=sweep.started_at) | Q(status=RepositoryStatus.UNMANAGED))
        .exclude(status=RepositoryStatus.MISSING)
        .exclude(repositories.may_be_invisible(sweep.started_at))
        .filter(free())
    )
    gone = [pk for pk in expected.values_list("pk", flat=True).iterator(chunk_size=5000) if pk not in listed.seen]
    listed.missing += len(gone)
    _note_missing(sweep, gone)
    image_states.record_missing(target.rows, config=target.config)
    listed.target, listed.seen = listed.target + 1, set()
    return True


def _compare_entries(
    sweep: Sweep, target: Target, listed: Listing, rows: QuerySet[Repository], entries: list[Listed]
) -> None:
    """Record what changed and what is new of these entries of the list."""
    ours = {entry.name: entry for entry in entries}
    known = _by_name(rows, ours)
    listed.seen.update(row.pk for row in known.values())
    fresh = [entry for name, entry in ours.items() if name not in known]
    listed.discovered += len(fresh)
    _note_changes(known, ours)
    created = _discover(sweep, target, fresh)
    listed.seen.update(row.pk for row in created)
    if sweep.adopt and not sweep.dry_run:  # to adopt lets the next sweep write, which a refresh must not decide
        _adopt(sweep, [*created, *(row for row in known.values() if row.status == RepositoryStatus.UNMANAGED)])


def _by_name(rows: QuerySet[Repository], names: Iterable[str]) -> dict[str, Repository]:
    unused = ("policy_text", "lifecycle_text", "lifecycle_previews", "differences", "consumers", "tags", "last_error")
    return {row.name: row for row in rows.filter(name__in=list(names)).defer(*unused)}


def _note_changes(known: dict[str, Repository], listed: dict[str, Listed]) -> None:
    """Write mutability, encryption and existence from the list to the rows that differ from it, and end adoptions of
    statements that were about an earlier repository.

    Each write is a compare-and-set on the epoch that was read, because the result of a deploy may be newer than the
    list.
    """
    for name, row in known.items():
        entry = listed[name]
        adopted = repositories.still_adopted(row, entry.created_at)
        seen: dict[str, Any] = {
            "mutability": Mutability(mode=entry.mutability, exclusions=entry.exclusions),
            "encryption": Encryption(type=entry.encryption, kms_key=entry.kms_key),
        }
        if row.status == RepositoryStatus.MISSING:  # it exists again, and somebody else created it
            seen |= {"status": RepositoryStatus.PENDING, "origin": "adopted", "details_checked_at": None}
            seen["management"] = Management.ADOPTED
        elif not row.is_managed or (row.mutability, row.encryption, row.adopted_statements) == (
            seen["mutability"],
            seen["encryption"],
            adopted,
        ):
            continue
        seen["adopted_statements"] = adopted
        with transaction.atomic():
            changed = Repository.objects.filter(free(), pk=row.pk, lease_epoch=row.lease_epoch).update(**seen)
            if changed and adopted != row.adopted_statements:
                repositories.created_again(row, entry.created_at, cause="listed again").save()
        if changed and "status" in seen:
            before, row.status = row.status, seen["status"]
            repositories.log_status(row, before=before, cause="listed again")


def _discover(sweep: Sweep, target: Target, entries: list[Listed]) -> list[Repository]:
    """Add rows for new repositories under our namespace. They are unmanaged until an operator adopts them."""
    if not entries:
        return []
    refs = {entry.name: possible_refs(entry.name, namespace=target.config.namespace) for entry in entries}
    projects = Project.objects.in_bulk({each for possible in refs.values() for each in possible}, field_name="ref")
    Repository.objects.bulk_create(
        [
            Repository(
                account=target.registry.account,
                region=target.registry.region,
                name=entry.name,
                host=target.config.host,
                project=next((projects[ref] for ref in refs[entry.name] if ref in projects), None),
                status=RepositoryStatus.UNMANAGED,
                management=Management.UNMANAGED,
                mutability=Mutability(mode=entry.mutability, exclusions=entry.exclusions),
                encryption=Encryption(type=entry.encryption, kms_key=entry.kms_key),
            )
            for entry in entries
        ],
        ignore_conflicts=True,  # a deploy may be adding the same row
    )
    rows = Repository.objects.filter(
        account=target.registry.account,
        region=target.registry.region,
        name__in=[entry.name for entry in entries],
        status=RepositoryStatus.UNMANAGED,
    )
    created = list(rows)
    record_findings(sweep, created, Outcome.DISCOVERED, "It is under the namespace, and somebody else created it.")
    return created


def _adopt(sweep: Sweep, rows: list[Repository]) -> None:
    for row in rows:
        ownership.adopt(row=row, by=sweep.requested_by or sweep.trigger)
    record_findings(sweep, rows, Outcome.ADOPTED, "Adopted: it is managed from now on.")


def _note_missing(sweep: Sweep, gone: list[int]) -> None:
    for start_at in range(0, len(gone), 500):
        ids = gone[start_at : start_at + 500]
        rows = []
        with transaction.atomic():
            Repository.objects.filter(pk__in=ids, status=RepositoryStatus.UNMANAGED).delete()
            for row in Repository.objects.filter(pk__in=ids):
                # Only if no check came after the list: a deploy may have created the repository again.
                unchanged = Repository.objects.filter(
                    free(), pk=row.pk, lease_epoch=row.lease_epoch, last_checked_at__lt=sweep.started_at
                )
                if unchanged.update(last_checked_at=Now(), **repositories.GONE):
                    rows.append(row)
            RepositoryEvent.objects.bulk_create(
                repositories.gone_event(row, cause=sweep.requested_by or sweep.trigger) for row in rows
            )
        for row in rows:
            before, row.status = row.status, RepositoryStatus.MISSING
            repositories.log_status(row, before=before, cause=sweep.requested_by or sweep.trigger)
        record_findings(sweep, rows, Outcome.MISSING, sentence("missing", name="The repository"))
