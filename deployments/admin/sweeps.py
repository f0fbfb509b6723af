"""Sweeps: who started a sweep, its progress and its results. A running sweep can be watched and stopped.

To start a sweep, the console writes a row and queues wake-up tasks. The page of a running sweep renews itself
(`deployments.admin.live`), and names the repositories that are left, each with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Page, Paginator
from django.db.models import Count, QuerySet, Sum
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST

from deployments import tasks
from deployments.access.audit import Trail
from deployments.admin.attention import list_address
from deployments.admin.display import ago, badge, took, two_lines
from deployments.admin.pages import (
    Alarm,
    Button,
    Nouns,
    ReadOnly,
    may,
    menu,
    require,
    say_if_no_worker,
    shown_configuration,
    who,
)
from deployments.models import (
    ProcessRole,
    Repository,
    RepositoryStatus,
    Sweep,
    SweepChunk,
    SweepFinding,
    SweepStatus,
    SweepTrigger,
)
from deployments.reconcile import change_feed, chunks, processes, sweep_record, targets

FAILED = "The sweep failed for a reason that affects every repository"
NAMES_SHOWN = 20
FINDINGS_SHOWN = 100
LEFT_SHOWN = 5  # repositories that are named for each reason
#: (counter of a chunk, word, tone), in the order of the page.
RESULTS = (
    ("in_sync", "In sync", "ok"),
    ("healed", "Healed", "ok"),
    ("drifted", "Drifted", "warn"),
    ("failed", "Failed", "bad"),
    ("unmanaged", "Unmanaged", "idle"),
)


class WithSums(Nouns):
    """The list of sweeps. One query adds the results of the sweeps that are shown."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        add_sums(self.result_list)


def add_sums(rows: Any) -> None:
    """Give each sweep its `sums`: the counts of its chunks."""
    names = ("size", *(name for name, *_ in RESULTS))
    chunks = SweepChunk.objects.order_by().filter(sweep__in=[row.pk for row in rows])
    counted = chunks.values_list("sweep").annotate(*(Sum(name) for name in names))
    found = {sweep: dict(zip(names, sums, strict=True)) for sweep, *sums in counted}
    for row in rows:
        row.sums = found.get(row.pk) or dict.fromkeys(names, 0)


@admin.register(Sweep)
class SweepAdmin(ReadOnly):
    page_template = "registry_admin/sweep.html"
    change_list_template = "registry_admin/sweep_list.html"
    tools = True
    nothing_yet = f"No sweeps yet. A worker starts one on the schedule: {settings.COMMAND} worker. Or start one here."
    list_display = ("started", "status_cell", "scope", "result", "by", "lasted")
    list_filter = (
        menu("Status", "status", words=dict(SweepStatus.choices)),
        menu("Trigger", "trigger", words=dict(SweepTrigger.choices)),
    )
    search_fields = ("requested_by", "error")
    search_help_text = "Person or error"
    sortable_by = ("started",)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return WithSums

    def get_queryset(self, request: HttpRequest) -> QuerySet[Sweep]:
        return Sweep.objects.all()

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path("start/", wrap(self.start_view), name="deployments_sweep_start"),
            path("<int:pk>/stop/", wrap(require_POST(self.stop_view)), name="deployments_sweep_stop"),
            *super().get_urls(),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        configuration = shown_configuration()
        more = {
            "may_start": may(request, "start_sweep"),
            "feeds": change_feed.states(configuration),
            "share": sweep_record.last_share(),
            "hours": configuration.plain.full_pass.total_seconds() / 3600,
        }
        return super().changelist_view(request, {**more, **(extra_context or {})})

    def start_view(self, request: HttpRequest) -> HttpResponse:
        """GET shows what a sweep would check; POST starts a sweep over all configured registries."""
        require(request, "start_sweep")
        if request.method == "POST":
            dry_run, adopt = "dry_run" in request.POST, "adopt" in request.POST
            if adopt:
                require(request, "adopt_repository")
            sweep = start(request, dry_run=dry_run, adopt=adopt)
            return HttpResponseRedirect(reverse("admin:deployments_sweep_change", args=[sweep.pk]))
        managed = Repository.objects.exclude(status__in=(RepositoryStatus.UNMANAGED, RepositoryStatus.MISSING))
        configuration = shown_configuration()
        return self.render_page(
            request,
            "registry_admin/sweep_start.html",
            None,
            {
                "title": "Start a sweep",
                "number": managed.count(),
                "unmanaged": Repository.objects.filter(status=RepositoryStatus.UNMANAGED).count(),
                "targets": targets.configured(configuration),
                "enforce": configuration.enforce,
                "rate": settings.CONFIGURATION.calls_per_second,
                "running": Sweep.objects.filter(status=SweepStatus.RUNNING).first(),
                "may_adopt": may(request, "adopt_repository"),
            },
        )

    def stop_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """POST: stop a running sweep."""
        require(request, "stop_sweep")
        sweep: Sweep = self.one(request, pk)
        with Trail.of(request).change("stop.sweep", sweep) as line:
            if not (stopped := sweep_record.stop(sweep=sweep)):
                line.nothing_changed()
        if stopped:
            self.message_user(
                request,
                f"{sweep} is stopped. Calls already sent will finish.",
                messages.SUCCESS,
            )
        else:
            self.message_user(request, f"{sweep} had ended already.", messages.WARNING)
        return HttpResponseRedirect(reverse("admin:deployments_sweep_change", args=[sweep.pk]))

    def page(self, request: HttpRequest, row: Sweep) -> dict[str, Any]:
        far, running = how_far(row), row.status == SweepStatus.RUNNING
        no_worker = processes.absence(ProcessRole.WORKER) if running else ""
        address = reverse("admin:deployments_sweep_stop", args=[row.pk])
        stop = Button(word="Stop", address=address, style="button danger", posts=True)
        title = FAILED if row.status == SweepStatus.FAILED else "The last error from AWS"
        outcome = request.GET.get("outcome", "")
        counts = Counter(dict(row.findings.order_by().values_list("outcome").annotate(number=Count("*"))))
        return {
            "title": f"Sweep {row.pk}",
            "progress": far.progress,
            "parts": far.parts,
            "words": far.words,
            "running": running,
            "live": running,
            "no_worker": no_worker,
            "left": waiting(row, no_worker=bool(no_worker)) if running else [],
            "left_number": far.progress.total - far.progress.done,
            "alarm": Alarm(title=title, words=row.error) if row.error else None,
            "buttons": [stop] if running and may(request, "stop_sweep") else [],
            "outcome": outcome,
            "outcomes": [(value, word, counts[value]) for value, word in SweepFinding.Outcome.choices if counts[value]],
            "findings": findings_of(row, outcome, request.GET.get("p", "1")),
            # What lasts is counted and has no finding of its own in a scheduled sweep (`sweep_record.record_findings`).
            "lasting": row.trigger == SweepTrigger.SCHEDULE
            and far.progress.drifted + far.progress.failed > counts["drifted"] + counts["failed"] + counts["missing"],
            "attention_address": list_address(status="attention"),
            "names_shown": row.names[:NAMES_SHOWN],
            "names_more": max(0, len(row.names) - NAMES_SHOWN),
            "took": row.finished_at - row.started_at if row.finished_at else None,
        }

    @admin.display(description="Started", ordering="started_at")
    def started(self, row: Sweep) -> str:
        tag = SafeString(' <span class="tag">refresh</span>') if row.dry_run else ""
        return format_html('<b>{}</b>{}<span class="under">{}</span>', row, tag, ago(row.started_at))

    @admin.display(description="Status")
    def status_cell(self, row: Sweep) -> str:
        return two_lines(badge(row), row.error) if row.error else badge(row)

    @admin.display(description="Scope")
    def scope(self, row: Sweep) -> str:
        return over(row)

    @admin.display(description="Result")
    def result(self, row: Any) -> str:
        size = row.sums["size"]
        return two_lines(outcome_words(row.sums), f"of {size:,} repositor{'y' if size == 1 else 'ies'}" if size else "")

    @admin.display(description="By")
    def by(self, row: Sweep) -> str:
        return two_lines(row.requested_by, row.get_trigger_display()) if row.requested_by else row.get_trigger_display()

    @admin.display(description="Took")
    def lasted(self, row: Sweep) -> str:
        return took(row.finished_at - row.started_at) if row.finished_at else "–"


def start(request: HttpRequest, *, dry_run: bool, adopt: bool = False) -> Sweep:
    """Start a sweep over all configured registries, and say so if no worker runs. The caller checks the right."""
    after = {"dry_run": dry_run, "adopt": adopt, "over": "all"}
    with Trail.of(request).change("start.sweep", after=after) as line:
        sweep = line.target = sweep_record.start(
            trigger=SweepTrigger.PERSON, requested_by=who(request), dry_run=dry_run, adopt=adopt
        )
        assert sweep is not None  # only scheduled sweeps exclude each other  # noqa: S101
    tasks.wake_workers()
    say_if_no_worker(request, sweep)
    return sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class BarPart:
    """A result's part of the bar, in per cent of all repositories of the sweep."""

    name: str
    word: str
    tone: str
    number: int
    start: str
    width: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HowFar:
    """The progress of a sweep, as the page shows it."""

    progress: sweep_record.Progress
    parts: list[BarPart]
    words: str


def how_far(sweep: Sweep) -> HowFar:
    """The progress of a sweep."""
    progress = sweep_record.progress(sweep)
    if sweep.status != SweepStatus.RUNNING:
        words = f"{progress.done:,} of {progress.total:,} repositories checked"
    elif sweep.listed_at is None:
        words = "Waiting for a worker to list the registry"
    else:
        words = f"{progress.done:,} of {progress.total:,} repositories checked so far"
    return HowFar(progress=progress, parts=list(_parts(progress)), words=words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The repositories that are left for one reason. `until`: when a worker looks at them again, if they rest."""

    words: str
    until: datetime | None
    named: list[tuple[int, str]]  # (key, name) of the first ones
    more: int


def waiting(sweep: Sweep, *, no_worker: bool) -> list[Waiting]:
    """What is left of a running sweep, by reason: those first whose calls AWS throttles. Two queries."""
    reasons: dict[tuple[str, datetime | None], list[int]] = {}
    for row in sweep_record.left(sweep):
        reasons.setdefault((why_left(row, no_worker=no_worker), row.rests_until), []).append(row.pk)
    shown = [pk for keys in reasons.values() for pk in keys[:LEFT_SHOWN]]
    names = dict(Repository.objects.filter(pk__in=shown).values_list("pk", "name"))
    return [
        Waiting(
            words=words,
            until=until,
            named=[(pk, names[pk]) for pk in keys[:LEFT_SHOWN] if pk in names],
            more=max(0, len(keys) - LEFT_SHOWN),
        )
        for (words, until), keys in reasons.items()
    ]


def why_left(row: sweep_record.Left | None, *, no_worker: bool) -> str:
    """Why a running sweep has not checked this repository yet. None: the sweep has not been listed."""
    waits = "No worker is running." if no_worker else "Waits for a worker."
    if row is None:
        return waits
    if row.tries:
        of = chunks.MAX_TRIES_PER_REPOSITORY
        words = (
            f"AWS throttled the calls or did not answer: {row.tries} of {of} tries. After the last try it is failed."
        )
        return f"{words} {waits}" if no_worker and not row.taken else words
    if row.taken:
        return "A worker is checking this part of the sweep."
    if row.rests_until:
        return "Another process works on this part."
    return waits


def _parts(progress: sweep_record.Progress) -> Iterator[BarPart]:
    start = 0.0
    for name, word, tone in RESULTS:
        number = getattr(progress, name)
        width = number / (progress.total or 1) * 100
        yield BarPart(name=name, word=word, tone=tone, number=number, start=f"{start:.2f}", width=f"{width:.2f}")
        start += width


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a repository's page says of the last check that somebody asked for."""

    sweep: Sweep
    what: str  # Reconcile or Refresh
    waits: bool
    state: str
    words: str
    tone: str


#: What is said of a check without a finding, by the status that the repository has now.
_NOTHING_FOUND: dict[str, str] = {
    RepositoryStatus.IN_SYNC: "In sync.",
    RepositoryStatus.UNMANAGED: "The repository was read.",
}


def last_check(row: Repository, *, no_worker: bool) -> Checked | None:
    """The check of this repository that waits, or that ended a short time ago. At most two queries."""
    check = sweep_record.check_of(row)
    if check is None:
        return None
    sweep, state, words, tone = check.sweep, "done", _NOTHING_FOUND.get(row.status, "No difference was found."), "idle"
    if check.waits:
        state = "running" if check.left and check.left.taken else "queued"
        words = why_left(check.left, no_worker=no_worker)
        tone = "warn" if no_worker else "run"
    elif check.finding is not None:
        state, words, tone = check.finding.get_outcome_display().lower(), check.finding.words, "idle"
    elif sweep.status in (SweepStatus.STOPPED, SweepStatus.FAILED):
        state, words, tone = sweep.get_status_display().lower(), sweep.error, "warn"
    what = "Refresh" if sweep.dry_run else "Reconcile"
    return Checked(sweep=sweep, what=what, waits=check.waits, state=state, words=words, tone=tone)


def findings_of(sweep: Sweep, outcome: str, number: str) -> Page[SweepFinding]:
    """A page of the sweep's findings. `outcome`: only findings with this outcome; empty: all."""
    rows = sweep.findings.select_related("repository").defer(
        "repository__policy_text", "repository__lifecycle_text", "repository__differences"
    )
    if outcome in SweepFinding.Outcome.values:
        rows = rows.filter(outcome=outcome)
    return Paginator(rows, FINDINGS_SHOWN).get_page(number)


def over(sweep: Sweep) -> str:
    """The repositories of a sweep: all, the one by name, or their number."""
    if not sweep.names:
        return "All repositories"
    if len(sweep.names) == 1:
        return format_html("<code>{}</code>", sweep.names[0])
    return f"{len(sweep.names):,} named repositories"


def outcome_words(sums: dict[str, int]) -> str:
    """“2 healed, 1 failed”, or “All in sync”."""
    found = [f"{sums[name]:,} {word.lower()}" for name, word, _ in RESULTS if name != "in_sync" and sums[name]]
    if found:
        return ", ".join(found)
    return "All in sync" if sums["in_sync"] else "–"
