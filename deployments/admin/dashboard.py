"""The dashboard: repositories by status, problems, deployments, running processes. The number of queries is fixed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.admin import AdminSite
from django.db.models import Case, Count, Exists, OuterRef, Q, QuerySet, Subquery, Value, When
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Coalesce, Left, Lower, Now
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html

from deployments import tasks, worker
from deployments.admin import commits
from deployments.admin.attention import ALARMING, LEFT, attention, list_address
from deployments.admin.chart import per_day
from deployments.admin.display import TONES, ago
from deployments.admin.image_states import BROKEN_SHOWN, broken_current_images, broken_in_project
from deployments.admin.pages import Alarm, may
from deployments.deploys.projects import DEPLOY_COMMAND, ROOT_SLUGS
from deployments.deploys.promotions import rolled_back
from deployments.models import (
    FINAL_STATUSES,
    ChannelKind,
    Deployment,
    DeploymentStatus,
    Environment,
    NotificationChannel,
    Process,
    ProcessRole,
    Project,
    Promotion,
    Repository,
    RepositoryStatus,
    Sweep,
    SweepStatus,
)
from deployments.reconcile import generation, policy_versions, processes, pull_states, writes_pause
from deployments.reconcile.processes import Seen
from deployments.reconcile.pull_states import PullState

#: Repositories by what is known about the consumer accounts: one cannot pull, or it is not known whether one can.
_STATES = {"without": (PullState.NO,), "undecided": (PullState.DEPENDS, PullState.UNKNOWN)}
UNDER_WAY = tuple(status for status in DeploymentStatus if status not in FINAL_STATUSES)
PROJECTS_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """A number beside a navigation entry, and what it counts."""

    number: int
    words: str
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """What every page says besides its own content."""

    counters: dict[str, Counter]  # by the model's name; without the counters that are 0
    busy: bool  # a sweep or a deployment is under way
    worker_runs: bool
    no_worker: bool  # no worker runs, and something waits for one


def shell(request: HttpRequest) -> Shell:
    """What the navigation and the header say. One query, once for each request."""
    if not hasattr(request, "shell"):
        request.shell = _shell()  # type: ignore[attr-defined]
    found: Shell = request.shell  # type: ignore[attr-defined]
    return found


def _shell() -> Shell:
    rows: dict[str, QuerySet[Any]] = {
        "Deployment": Deployment.objects.filter(status__in=UNDER_WAY),
        "Repository": Repository.objects.filter(ALARMING),
        "Sweep": Sweep.objects.filter(status=SweepStatus.RUNNING),
        "PolicyVersion": policy_versions.in_need(),
        "Worker": processes.alive(ProcessRole.WORKER),
        **_health_rows(),
    }
    counts = [
        each.order_by()
        .annotate(what=Value(name))
        .values("what")
        .annotate(number=Count("pk"))
        .values_list("what", "number")
        for name, each in rows.items()
    ]
    numbers = dict(counts[0].union(*counts[1:], all=True))
    found = {
        "Deployment": Counter(number=numbers["Deployment"], words="in progress", tone="run"),
        "Repository": Counter(number=numbers["Repository"], words="need attention", tone="bad"),
        "Sweep": Counter(number=numbers["Sweep"], words="running", tone="run"),
        "PolicyVersion": Counter(number=numbers["PolicyVersion"], words="need a person", tone="bad"),
    }
    if problems := _problems(numbers):
        words = f"problem{'s need' if problems > 1 else ' needs'} attention"
        found["Setup"] = Counter(number=problems, words=words, tone="bad")
    busy = bool(numbers["Deployment"] or numbers["Sweep"])
    return Shell(
        counters={name: counter for name, counter in found.items() if counter.number},
        busy=busy,
        worker_runs=bool(numbers["Worker"]),
        no_worker=busy and not numbers["Worker"],
    )


def _health_rows() -> dict[str, QuerySet[Any]]:
    """The rows that `_problems` needs the numbers of."""
    return {
        "events": processes.alive(ProcessRole.EVENTS),
        "lost events": processes.silent_processes(ProcessRole.EVENTS),
        "clocks": processes.with_wrong_clock(),
        "mail": NotificationChannel.objects.filter(kind=ChannelKind.MAIL, enabled=True),
        "schedules": tasks.overdue(worker.OVERDUE_SECONDS),
        "settled workers": processes.alive(ProcessRole.WORKER).filter(
            started_at__lte=Now() - timedelta(seconds=worker.OVERDUE_SECONDS)
        ),
    }


def _problems(numbers: Mapping[str, int]) -> int:
    """How many problems the Health page lists at least: those that rows and settings show, without a query of its own.

    Not counted are what only the doctor's own checks find: of the database, of secrets, of single sign-on, of other
    configurations, and of AWS.
    """
    mail_is_missing = not settings.MAIL_IS_CONFIGURED and not settings.CONFIGURATION.problem_of("EMAIL_URL")
    return (
        (not numbers["Worker"])
        + bool(numbers["lost events"] and not numbers["events"])
        + numbers["clocks"]
        + bool(numbers["mail"] and mail_is_missing)
        # After a stop every schedule is overdue until a new worker has read it.
        + bool(numbers["schedules"] and (numbers["settled workers"] or not numbers["Worker"]))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The number of repositories with a status, and their part of the bar in per cent."""

    status: str
    word: str
    tone: str
    number: int
    start: str
    width: str


def dashboard(site: AdminSite, request: HttpRequest) -> dict[str, Any]:
    """The template context. It has only objects that this user may see."""
    sees_deployments = site.get_model_admin(Deployment).has_view_permission(request)
    sees_repositories = site.get_model_admin(Repository).has_view_permission(request)
    sees_sweeps = site.get_model_admin(Sweep).has_view_permission(request)
    context: dict[str, Any] = {
        "sees_deployments": sees_deployments,
        "sees_repositories": sees_repositories,
        "sees_sweeps": sees_sweeps,
    }
    if may(request, "view_policyversion") and "PolicyVersion" in shell(request).counters:
        context["versions"] = list(policy_versions.in_need())
    if sees_repositories:
        numbers = _numbers()
        shares = list(_shares({each["status"]: each["number"] for each in numbers}))
        totals: dict[str, int] = {}
        broken = list(broken_current_images())
        for each in numbers:
            for name in each.keys() - {"status"}:
                totals[name] = totals.get(name, 0) + each[name]
        context |= {
            "shares": shares,
            "repositories": sum(share.number for share in shares),
            "attention": attention(request),
            "attention_number": totals.get("alarming", 0),
            "attention_address": list_address(status="attention"),
            "left_number": totals.get("left", 0),
            "left_address": list_address(status="left"),
            "pending_number": sum(share.number for share in shares if share.status == RepositoryStatus.PENDING),
            "pending_address": list_address(status="pending"),
            "may_reconcile": may(request, "reconcile_repository"),
            "broken_images": broken[:BROKEN_SHOWN],
            "more_broken_images": len(broken) > BROKEN_SHOWN,
            "counts_pulls": pull_states.with_a(settings.CONFIGURATION, *_STATES["without"]) is not None,
            "without_pull": totals.get("without", 0),
            "undecided_pull": totals.get("undecided", 0),
        }
    if sees_deployments:
        chart = per_day()
        context |= {
            "chart": chart,
            "week": chart.last(7),
            **_grid(),
            "recent": _recent(),
            "may_see_health": may(request, "view_setup"),
            "may_add_project": may(request, "add_project"),
            "may_add_channel": may(request, "add_notificationchannel"),
            "deploy_command": f"TRIGGER_API_URL={settings.CONFIGURATION.api_origin} {DEPLOY_COMMAND}",
        }
    if sees_sweeps:
        context["health"] = _health()
        context["may_start"] = may(request, "start_sweep")
    return context


def _numbers() -> list[Any]:
    """For each status, how many repositories have it, and how many of these need attention or are left as they are.

    With a consumer account also the numbers of _STATES. By this process's own settings, which saves a query; `_alarms`
    says if other settings count.
    """
    counts = {
        "number": Count("pk"), "alarming": Count("pk", filter=ALARMING), "left": Count("pk", filter=LEFT),
    }  # fmt: skip
    for name, states in _STATES.items():
        if (found := pull_states.with_a(settings.CONFIGURATION, *states)) is not None:
            counts[name] = Count("pk", filter=found)
    return list(Repository.objects.order_by().values("status").annotate(**counts))


def _shares(counts: Mapping[str, int]) -> Iterator[Share]:
    whole = sum(counts.values()) or 1
    start = 0.0
    for status in (
        RepositoryStatus.IN_SYNC,
        RepositoryStatus.DRIFTED,
        RepositoryStatus.FAILED,
        RepositoryStatus.MISSING,
        RepositoryStatus.PENDING,
        RepositoryStatus.UNMANAGED,
    ):
        width = counts.get(status, 0) / whole * 100
        yield Share(
            status=status,
            word=str(status.label),
            tone=TONES[status],
            number=counts.get(status, 0),
            start=f"{start:.2f}",
            width=f"{width:.2f}",
        )
        start += width


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether processes run and do their work, and when all repositories were last checked."""

    workers: list[Process]
    others: list[Process]  # running processes of the other roles that report trouble
    running: Sweep | None
    last: Any  # the last completed sweep over all repositories, with its sums
    result: str
    interval: timedelta
    overdue: bool
    alarms: list[Alarm]


def _health() -> Health:
    from deployments.admin.sweeps import add_sums, outcome_words  # imported here, because that module imports this one

    now = timezone.now()
    seen = processes.seen(*ProcessRole)
    workers = [row for row in [*seen.alive, *seen.silent] if row.role == ProcessRole.WORKER]
    whole = list(Sweep.objects.filter(names=[], dry_run=False).order_by("-started_at")[:10])
    last = next((sweep for sweep in whole if sweep.status != SweepStatus.RUNNING), None)
    if last is not None:
        add_sums([last])
    interval = settings.CONFIGURATION.reconcile_interval
    newest = whole[0].started_at if whole else None
    return Health(
        workers=workers[:5],
        others=[row for row in seen.alive if row.trouble and row.role != ProcessRole.WORKER][:5],
        running=Sweep.objects.filter(status=SweepStatus.RUNNING).first(),
        last=last,
        result=outcome_words(last.sums) if last is not None else "",  # type: ignore[attr-defined]
        interval=interval,
        # Twice the interval, so that a sweep that starts a little late is not reported.
        overdue=bool(interval) and (newest is None or newest < now - 2 * interval),
        alarms=[*_alarms(), *_silence(seen)],
    )


def _alarms() -> list[Alarm]:
    """Alarms that concern all repositories: writes are paused, or processes have other settings."""
    found = [
        Alarm(title=alarm.title, words=alarm.words, then=alarm.then, tone="warn" if alarm.code == "other" else "bad")
        for alarm in generation.alarms()
    ]
    pause = writes_pause.current()
    if pause is not None:
        words = f"{pause.paused_by} paused them: {pause.reason}"
        then = "Allow them again on the Health page, or with manage.py writes resume."
        found.insert(0, Alarm(title="Writes to AWS are paused", words=words, then=then, tone="warn"))
    return found


def _silence(seen: Seen) -> Iterator[Alarm]:
    """Alarms about processes that should run and do not run."""
    silent = {role: [row for row in seen.silent if row.role == role] for role in ProcessRole}
    if not any(row.role == ProcessRole.WORKER for row in seen.alive):
        last = "No worker has run yet."
        if lost := silent[ProcessRole.WORKER]:
            last = format_html("The last heartbeat of {} was {}.", lost[0], ago(lost[0].beat_at))
        yield Alarm(
            title="No worker is running",
            words=format_html(
                "{} Sweeps, time-outs and notifications wait. Start one: <code>{} worker</code>",
                last,
                settings.COMMAND,
            ),
        )
    elif schedule := worker.overdue_schedule():
        yield Alarm(title="A schedule is overdue", words=schedule)
    if (lost := silent[ProcessRole.EVENTS]) and not any(row.role == ProcessRole.EVENTS for row in seen.alive):
        yield Alarm(
            title="No process consumes the change events",
            words=format_html(
                "The last heartbeat of {} was {}; it did not end on SIGTERM. Only the next sweep finds drift. "
                "Start one: <code>{} events</code>",
                lost[0],
                ago(lost[0].beat_at),
                settings.COMMAND,
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The current promotion of an environment; `replaced`: the newer deployment before a roll-back."""

    promotion: Promotion
    replaced: Deployment | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A project with the current promotion of each of its root environments."""

    project: Project
    cells: list[Cell | None]
    branches: int
    alarms: str  # the list of its repositories that need attention; empty if none does
    has_broken_image: bool  # a current image cannot be pulled


def commit_message() -> Left:
    """The beginning of the commit message of a promotion's deployment."""
    return Left(KeyTextTransform("commitMessage", "deployment__git"), commits.MAX_SUBJECT_CHARACTERS + 1)


def _grid() -> dict[str, Any]:
    """Projects as rows, those in trouble first; root environments as columns.

    A column such as dev only if a project has a promotion there.
    """
    every = Project.objects.filter(archived_at=None)
    number = every.order_by().values("archived_at").annotate(number=Count("pk")).values("number")
    open_branches = Environment.objects.filter(project=OuterRef("pk"), parent__isnull=False, archived_at=None)
    branches = open_branches.order_by().values("project").annotate(number=Count("pk")).values("number")
    rows_in_trouble = Repository.objects.filter(ALARMING, project=OuterRef("pk"))
    projects: list[Any] = list(
        every.annotate(
            branches=Coalesce(Subquery(branches), 0),
            number=Subquery(number),
            has_alarm=Exists(rows_in_trouble),
            has_broken_image=broken_in_project(),
        ).order_by(Case(When(Q(has_alarm=True) | Q(has_broken_image=True), then=0), default=1), Lower("name"), "pk")[
            :PROJECTS_SHOWN
        ]
    )
    current = {
        (promotion.environment.project_id, promotion.environment.slug): Cell(
            promotion=promotion, replaced=rolled_back(promotion)
        )
        for promotion in Promotion.objects.filter(
            label="current",
            environment__in=Environment.objects.filter(
                project__in=[project.pk for project in projects], parent__isnull=True
            ),
        )
        .select_related("environment", "deployment", "rolled_back_from")
        .annotate(message=commit_message())  # the CLI may send much more in `git`
        .defer(
            "deployment__error",
            "deployment__git",
            "environment__git",
            "rolled_back_from__error",
            "rolled_back_from__git",
        )
    }
    columns = [*ROOT_SLUGS, *sorted({slug for _, slug in current if slug not in ROOT_SLUGS})]
    rows = [
        Row(
            project=each,
            cells=[current.get((each.pk, slug)) for slug in columns],
            branches=each.branches,
            alarms=list_address(status="attention", project__ref=each.ref) if each.has_alarm else "",
            has_broken_image=each.has_broken_image,
        )
        for each in projects
    ]
    return {"columns": columns, "grid": rows, "more_projects": projects[0].number - len(projects) if projects else 0}


def _recent() -> Any:
    from deployments.admin.deployments import latest

    return latest(Deployment.objects.all())
