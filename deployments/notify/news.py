"""News: changes of state of the last day, found in the rows. This module only reads.

The code of deploys and sweeps does not call this package, so a notification never delays a deploy or lets it fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.db.models import Exists, F, OuterRef, Q, Subquery

from deployments.models import (
    AccessKey,
    ConfigurationActivation,
    Deployment,
    DeploymentStatus,
    EventKind,
    EventState,
    ImageStateChange,
    ImageStatus,
    KeyKind,
    PolicyStep,
    PolicyVersion,
    Process,
    ProcessRole,
    Promotion,
    PromotionEvent,
    Repository,
    RepositoryEvent,
    RepositoryStatus,
    Sweep,
    SweepStatus,
    VersionState,
    WritesPause,
)
from deployments.notify import pages
from deployments.reconcile import causes, generation, repositories
from deployments.reconcile.causes import Cause
from deployments.reconcile.processes import LONG_SILENCE

#: Event → its label in the form of a channel.
EVENTS = {
    "deployment.failed": "A deployment failed",
    "deployment.timed_out": "A deployment timed out",
    "deployment.promoted": "A deployment became current",
    "deployment.rolled_back": "An environment was rolled back",
    "repository.drifted": "A repository drifted and was not repaired",
    "repository.incomparable": "A repository has a policy that cannot be compared",
    "repository.comparable": "The policy of a repository can be compared again",
    "repository.healed": "A repository's policy was changed and was repaired",
    "repository.failed": "A repository failed twice in a row",
    "repository.missing": "A repository was deleted from the registry",
    "image.not_runnable": "The current image of an environment cannot be pulled",
    "image.runnable": "The current image of an environment can be pulled again",
    "image.rollback_lost": "The image of a roll-back target cannot be pulled",
    "sweep.failed": "Sweeps began to fail",
    "worker.silent": "A worker stopped responding",
    "configuration.changed": "Another configuration counts",
    "configuration.disputed": "Processes disagree about the configuration, and a person has to decide",
    "policy.waiting": "A version of the default policy waits for a person",
    "policy.stopped": "The roll-out of a version of the default policy stopped",
    "policy.rolled_out": "A version of the default policy was rolled out",
    "policy.undone": "A version of the default policy was undone",
    "writes.paused": "Writes to AWS were paused",
    "key.expiring": "An access key expires within a week",
}

LOOK_BACK = timedelta(hours=24)  # an older change is not notified, even if no worker ran meanwhile (D-no-cursor)
MAX_ROWS_PER_KIND = 5000  # the most rows of a kind that a worker reads at once
LONGEST_DEPLOY = timedelta(days=30)  # from creation to end: a timeout may be 7 days, and a worker may apply it late
KEY_EXPIRY_WARNING = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """A change of state.

    `key` identifies it and never changes. `path` is the path of its page. `project` is a primary key. `subject` begins
    with the name of the project. Of a repository: `about` is its project's name (without a project its own name), and
    several repositories with one `cause` are one message.
    """

    event: str
    key: str
    at: datetime
    subject: str
    text: str
    path: str
    project: int | None = None
    data: dict[str, Any] = field(default_factory=dict)
    about: str = ""
    cause: Cause | None = None


def current_news(now: datetime, *, most: int = MAX_ROWS_PER_KIND) -> list[News]:
    """The changes of the last day, each change once. `most`: the rows of a kind that are read, the newest ones.

    A row with only the present state would miss a change that another change has replaced since the last call. So each
    kind of change is found in rows that stay: ended deployments, `PromotionEvent`, `RepositoryEvent`,
    `ImageStateChange`, ended sweeps, the latest missing heartbeat of a process.
    """
    since = now - LOOK_BACK
    found = (
        _deployments(since, most),
        _promotions(since, most),
        _repositories(since, most),
        _repository_events(since, most),
        _images(since, most),
        _sweeps(since),
        _workers(since, now),
        _configurations(since, now),
        _versions(since),
        _pauses(since),
        _keys(since, now),
    )
    # By key, because a change that still lasts is found twice: in the present state and in the history.
    return list({each.key: each for kind in found for each in kind}.values())


def _deployments(since: datetime, most: int) -> Iterator[News]:
    ended = (
        # `created_at` is part of the index on status and creation.
        Deployment.objects.filter(
            status__in=(DeploymentStatus.FAILED, DeploymentStatus.TIMED_OUT),
            created_at__gte=since - LONGEST_DEPLOY,
            failed_at__gte=since,
        )
        .select_related("project", "environment")
        .order_by("-created_at")[:most]
    )
    for row in ended:
        failed = row.status == DeploymentStatus.FAILED
        event = "deployment.failed" if failed else "deployment.timed_out"
        error = row.error or {}
        yield News(
            event=event,
            key=f"{event}:{row.pk}",
            at=row.failed_at or row.created_at,
            subject=f"{row.project} / {row.environment}: {row.version} {'failed' if failed else 'timed out'}",
            text=str(error.get("message") or "No reason was given.")[:1000] + _by(row.triggered_by),
            path=pages.page_of("deployment", row.pk),
            project=row.project_id,
            data=_of_deployment(row),
        )


def _promotions(since: datetime, most: int) -> Iterator[News]:
    related = ("deployment__project", "deployment__environment", "environment", "rolled_back_from")
    events = PromotionEvent.objects.filter(at__gte=since).select_related(*related).order_by("-at")
    for event in events[:most]:
        yield _promotion(event, event.at, event.by, event.rolled_back_from, key=f"promotion:{event.pk}")
    # Version 0.1.0 writes no events, and may still promote while an upgrade runs.
    written = PromotionEvent.objects.filter(
        environment=OuterRef("environment"), deployment=OuterRef("deployment"), at__gte=since - LOOK_BACK
    )
    promotions = Promotion.objects.filter(~Exists(written), label="current", promoted_at__gte=since)
    for promotion in promotions.select_related(*related).order_by("-promoted_at")[:most]:
        row, back, at = promotion.deployment, promotion.rolled_back_from, promotion.promoted_at
        if back is not None and back.version <= row.version:
            back = None  # a later promotion has ended the roll-back
        name = "deployment.promoted" if back is None else "deployment.rolled_back"
        key = f"{name}:{row.pk}:{at.timestamp():.3f}"
        yield _promotion(promotion, at, promotion.promoted_by, back, key=key)


def _promotion(
    promotion: Promotion | PromotionEvent, at: datetime, by: str, back: Deployment | None, *, key: str
) -> News:
    row = promotion.deployment
    words = f"{row.version} is current" if back is None else f"rolled back to {row.version}"
    return News(
        event="deployment.promoted" if back is None else "deployment.rolled_back",
        key=key,
        at=at,
        subject=f"{row.project} / {promotion.environment}: {words}",
        text=(f"It replaces {back.version}." if back is not None else "It was promoted.") + _by(by),
        path=pages.page_of("deployment", row.pk),
        project=row.project_id,
        data=_of_deployment(row) | {"replaces": str(back.version) if back is not None else None},
    )


def _of_deployment(row: Deployment) -> dict[str, Any]:
    return {
        "project": row.project.ref,
        "environment": str(row.environment),
        "deployment": row.pk,
        "version": str(row.version),
        "status": row.status,
        "image": row.image_reference,
        "triggered_by": row.triggered_by,
    }


def _by(name: str) -> str:
    return f" By {name}." if name else ""


def _repositories(since: datetime, most: int) -> Iterator[News]:
    """The repositories that are drifted or failed now. Needed because version 0.1.0 stores no `state_since`."""
    fields = ("name", "account", "region", "project__name", "status", "drifted_since", "differences", "last_error",
              "last_error_code", "error_since", "last_error_at")  # fmt: skip
    rows = Repository.objects.select_related("project").only(*fields)
    drifted = rows.filter(status=RepositoryStatus.DRIFTED, drifted_since__gte=since, incomparable_since=None)
    for row in drifted.order_by("-drifted_since", "pk")[:most]:
        words = " ".join(each.words for each in row.differences)
        yield _state(row, RepositoryStatus.DRIFTED, row.drifted_since or since, row.drifted_since or since, words)
    failing = rows.filter(
        status=RepositoryStatus.FAILED,
        last_error_is_installation=False,  # reported once, by the news of the sweep
        error_since__gte=since,
        last_error_at__gt=F("error_since") + repositories.SAME_ERROR_TWICE_AFTER,
    )
    for row in failing.order_by("-error_since", "pk")[:most]:
        yield _state(row, RepositoryStatus.FAILED, row.error_since or since, row.error_since or since, row.last_error)


def _repository_events(since: datetime, most: int) -> Iterator[News]:
    # The newest rows by id: the table has no index on the time alone, and its number of rows only grows.
    newest = Subquery(RepositoryEvent.objects.order_by("-id").values("id")[:1])
    happened = RepositoryEvent.objects.filter(
        Q(kind__in=(EventKind.HEALED, EventKind.MISSING)) | Q(state_since__isnull=False),
        id__gt=newest - 4 * most,
        at__gte=since,
    )
    for event in happened.select_related("repository__project").order_by("-id")[:most]:
        row, key, message = event.repository, str(event.pk), event.message
        match event.state or event.kind:
            case EventState.INCOMPARABLE:
                cause = replace(causes.INCOMPARABLE, said=message)
                yield _of_repository("repository.incomparable", row, row.status, event.at, key, cause)
            case EventState.COMPARABLE:
                cause = Cause(what="The repository policy can be compared again", said=message)
                yield _of_repository("repository.comparable", row, row.status, event.at, key, cause)
            case EventKind.HEALED:
                cause = Cause(what=f"A change of the repository policy was repaired. {message}".rstrip("."))
                yield _of_repository("repository.healed", row, row.status, event.at, key, cause)
            case EventKind.MISSING:
                cause = replace(causes.MISSING, said=message)
                yield _of_repository("repository.missing", row, RepositoryStatus.MISSING, event.at, key, cause)
            case EventKind.ERROR:
                yield _state(row, RepositoryStatus.FAILED, event.state_since or event.at, event.at, message)
            case _:
                yield _state(row, RepositoryStatus.DRIFTED, event.state_since or event.at, event.at, message)


def _state(row: Repository, status: RepositoryStatus, since: datetime, at: datetime, text: str) -> News:
    """A repository is drifted or failed since a time. The key is the same for each row that reports this state."""
    failed = status == RepositoryStatus.FAILED
    cause = causes.of_error(text, name=row.name) if failed else causes.of_words(text)
    return _of_repository(f"repository.{status}", row, status, at, f"{since.timestamp():.3f}", cause)


def _of_repository(event: str, row: Repository, status: str, at: datetime, key: str, cause: Cause) -> News:
    about, place = str(row.project or row.name), f"Repository {row.name} of account {row.account}, {row.region}."
    return News(
        event=event,
        key=f"{event}:{row.pk}:{key}",
        at=at,
        subject=f"{about}: {cause.title}",
        text="\n".join(filter(None, (cause.action, _said(cause), place))),
        path=pages.page_of("repository", row.pk),
        project=row.project_id,
        data={"repository": row.name, "account": row.account, "region": row.region, "status": status},
        about=about,
        cause=cause,
    )


def _said(cause: Cause) -> str:
    return cause.said[:800] or f"{cause.what[:800]}."


def of_one_cause(items: list[News]) -> News:
    """One message for the news of one event about several repositories with one cause; `items` are in their order."""
    cause, first = items[0].cause, items[0]
    if cause is None:
        raise ValueError("News without a cause have no message together")
    paths = {each.path: each for each in items}
    names = list(dict.fromkeys(each.about for each in items))
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
    lines = [f"- {each.about} ({each.data['repository']})" for each in paths.values()][:20]
    rest = [f"… and {len(paths) - 20:,} more."] if len(paths) > 20 else []
    number = f"{len(paths):,}" + (" or more" if len(items) >= MAX_ROWS_PER_KIND else "")
    return News(
        event=first.event,
        key=first.key,
        at=items[-1].at,
        subject=f"{shown}: {cause.title} ({number} repositories)",
        text="\n".join(filter(None, (cause.action, _said(cause), *lines, *rest))),
        path=f"{pages.list_of('repository')}?{urlencode({'cause': cause.key})}",
        data={"count": len(paths), "cause": cause.what, "repositories": [e.data["repository"] for e in items[:100]]},
    )


def _images(since: datetime, most: int) -> Iterator[News]:
    """Images that must stay and stopped being pullable, and current images that can be pulled again."""
    related = ("deployment__project", "deployment__environment")
    for change in ImageStateChange.objects.filter(at__gte=since).select_related(*related)[:most]:
        row, again = change.deployment, change.state == ImageStatus.RUNNABLE
        if again and not change.is_current:
            continue
        event = "image.runnable" if again else "image.not_runnable" if change.is_current else "image.rollback_lost"
        words = "can be pulled again" if again else f"cannot be pulled ({change.get_state_display().lower()})"
        good = f"The last good version is {change.last_good}: roll back to it." if change.last_good else ""
        if event == "image.not_runnable" and not good:
            good = "No roll-back target is known whose image can be pulled: deploy again."
        role = "current" if change.is_current else "a roll-back target"
        yield News(
            event=event,
            key=f"{event}:{change.pk}",
            at=change.at,
            subject=f"{row.project} / {row.environment}: the image of {row.version}, {role}, {words}",
            text=f"{change.words} {good}".strip()[:1000],
            path=pages.page_of("environment", row.environment_id),
            project=row.project_id,
            data=_of_deployment(row) | {"image_state": change.state, "last_good": change.last_good or None},
        )


def _sweeps(since: datetime) -> Iterator[News]:
    """Failed sweeps, in the order of their ends, if the sweep before did not fail."""
    ended = Sweep.objects.filter(dry_run=False, finished_at__isnull=False).order_by("-finished_at", "-pk")
    earlier = ended.filter(finished_at__lt=since).first()
    before = earlier.status if earlier is not None else ""
    for row in reversed(ended.filter(finished_at__gte=since)[:MAX_ROWS_PER_KIND]):
        if row.status == SweepStatus.FAILED and before != SweepStatus.FAILED:
            yield News(
                event="sweep.failed",
                key=f"sweep.failed:{row.pk}",
                at=row.finished_at or row.started_at,
                subject="Sweeps fail: repositories are not checked",
                text=row.error[:1000] or "No reason was given.",
                path=pages.INDEX,
                data={"sweep": row.pk, "trigger": row.trigger},
            )
        before = row.status


def _workers(since: datetime, now: datetime) -> Iterator[News]:
    """Processes without a heartbeat: they were killed or cannot reach the database. A process that ends on SIGTERM
    records its end.
    """
    silent_now = Q(ended_at=None, beat_at__gte=since, beat_at__lt=now - LONG_SILENCE)
    for row in Process.objects.filter(Q(silent_from__gte=since) | silent_now, role__in=WATCHED_ROLES):
        if row.silent_from is not None and row.silent_from >= since:
            yield _silence(row, row.silent_from, " It sends heartbeats again.")
        if row.ended_at is None and row.beat_at < now - LONG_SILENCE:
            yield _silence(row, row.beat_at, f" Before that: {row.trouble}" if row.trouble else "")


#: The roles whose missing heartbeat is notified, with their names.
WATCHED_ROLES = {ProcessRole.WORKER: "The worker", ProcessRole.EVENTS: "The consumer of change events"}


def _silence(row: Process, last: datetime, more: str) -> News:
    return News(
        event="worker.silent",
        key=f"worker.silent:{row.pk}:{last.timestamp():.0f}",
        at=last + LONG_SILENCE,
        subject=f"{WATCHED_ROLES[ProcessRole(row.role)]} on {row.host} sends no heartbeat",
        text=f"Its last heartbeat was at {last:%Y-%m-%d %H:%M:%S} UTC (process {row.pid}).{more}",
        path=pages.INDEX,
        data={"role": row.role, "host": row.host, "pid": row.pid, "last_beat": last.isoformat(timespec="seconds")},
    )


def _configurations(since: datetime, now: datetime) -> Iterator[News]:
    rows = ConfigurationActivation.objects.select_related("configuration").filter(at__gte=since, follows__gt=0)
    for row in rows[:MAX_ROWS_PER_KIND]:
        yield News(
            event="configuration.changed",
            key=f"configuration.changed:{row.pk}",
            at=row.at,
            subject=f"Another configuration counts: {row.configuration}",
            text=f"{row.get_cause_display()}: {row.by}." + (f" {row.reason}" if row.reason else ""),
            path=pages.HEALTH,
            data={"digest": row.configuration.digest, "generation": row.configuration.generation, "cause": row.cause},
        )
    for alarm in generation.alarms():
        if alarm.code != "other":  # “other” does no harm: the process uses the configuration that counts
            yield News(
                event="configuration.disputed",
                key=f"configuration.disputed:{alarm.code}:{alarm.key}",
                at=now,
                subject="Processes were started with different settings, and a person has to decide",
                text=f"{alarm.words} {alarm.then}",
                path=pages.HEALTH,
                data={"code": alarm.code},
            )


#: State of a version → event, what happened, and the next step. The number of the version is put into the braces.
_VERSIONS = {
    VersionState.WAITING: (
        "policy.waiting",
        "waits for a person",
        "Look at its page, and start it there or with manage.py policy start {0}.",
    ),
    VersionState.STOPPED: (
        "policy.stopped",
        "was stopped in its roll-out",
        "Look at its page. manage.py policy resume {0} lets it go on, and manage.py policy rollback {0} undoes it.",
    ),
    VersionState.ACTIVE: ("policy.rolled_out", "was rolled out and is active", ""),
    VersionState.UNDONE: (
        "policy.undone",
        "was undone",
        "The setting still has its text. Its page lists what was left as it is.",
    ),
}


def _versions(since: datetime) -> Iterator[News]:
    """Versions that wait, are stopped, were rolled out or were undone. What a person ended before is no news."""
    undone = PolicyVersion.objects.filter(follows=OuterRef("pk"), state__in=(VersionState.UNDOING, VersionState.UNDONE))
    rows = PolicyVersion.objects.filter(state__in=_VERSIONS, changed_at__gte=since)
    # Active by stages, and not because the version after it was undone.
    rows = rows.filter(~Q(state=VersionState.ACTIVE) | Exists(PolicyStep.objects.filter(version=OuterRef("pk"))))
    for row in rows.exclude(Exists(undone), state=VersionState.ACTIVE)[:MAX_ROWS_PER_KIND]:
        event, happened, then = _VERSIONS[VersionState(row.state)]
        yield News(
            event=event,
            key=f"{event}:{row.pk}:{row.changed_at.timestamp():.3f}",
            at=row.changed_at,
            subject=f"{row} of {row.account}, {row.region} ({row.namespace}) {happened}",
            text=f"{row.reason or row.why} {then.format(row.number)}".strip(),
            path=pages.page_of("policyversion", row.pk),
            data={
                "version": row.number, "account": row.account, "region": row.region, "namespace": row.namespace,
                "state": row.state,
            },
        )  # fmt: skip


def _pauses(since: datetime) -> Iterator[News]:
    for row in WritesPause.objects.filter(paused_at__gte=since)[:MAX_ROWS_PER_KIND]:
        yield News(
            event="writes.paused",
            key=f"writes.paused:{row.pk}",
            at=row.paused_at,
            subject=f"Writes to AWS were paused by {row.paused_by}",
            text=f"{row.reason} manage.py writes resume allows them again.",
            path=pages.HEALTH,
            data={"by": row.paused_by},
        )


def _keys(since: datetime, now: datetime) -> Iterator[News]:
    rows = (
        # Also keys that have expired: a short-lived key, or a key that expired while no worker ran.
        AccessKey.objects.filter(revoked_at=None, expires_at__gt=since, expires_at__lte=now + KEY_EXPIRY_WARNING)
        .exclude(kind=KeyKind.DEPLOY)
        .filter(~Exists(AccessKey.objects.filter(replaces=OuterRef("pk"), revoked_at=None)))
        .select_related("environment__project", "user")
        .defer("digest")
    )
    for row in rows[:MAX_ROWS_PER_KIND]:
        owner = f"{row.environment.project} / {row.environment}" if row.environment else str(row.user)
        ahead = row.expires_at is not None and row.expires_at > now
        yield News(
            event="key.expiring",
            key=f"key.expiring:{row.pk}:{row.expires_at:%Y%m%d}",
            at=row.expires_at or now,  # in the future, so that a new channel gets this news too
            subject=f"{owner}: the key {row} expire{'s' if ahead else 'd'} on {row.expires_at:%Y-%m-%d}",
            text=f"Last used: {row.last_used_by or 'never'}." + (" Rotate it before then." if ahead else ""),
            path=pages.page_of("accesskey", row.pk),
            project=row.environment.project_id if row.environment else None,
            data={"key": str(row), "expires_at": row.expires_at.isoformat() if row.expires_at else None},
        )
