"""Deployments: the list, and a page with the steps of a deployment, their durations, and the reason of a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import EmptyResultSet
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.db.models.fields.json import KT
from django.db.models.functions import Now
from django.http import HttpRequest
from django.utils.html import format_html

from deployments.admin import commits, why
from deployments.admin.display import ago, badge, clock, commit_cell, headline, one_line, tags, took, two_lines
from deployments.admin.exports import Exports
from deployments.admin.pages import Alarm, Nouns, Several, Together, audit_of, menu
from deployments.admin.promotions import Promotions, offers
from deployments.admin.search import MAX_ROWS_SEARCHED, find, with_exact_text
from deployments.admin.time_filter import between
from deployments.deploys import lifecycle
from deployments.deploys.projects import DEPLOY_COMMAND
from deployments.deploys.push_credentials import incomplete
from deployments.models import FINAL_STATUSES, Deployment, DeploymentStatus, Promotion


def _rolled_back_from() -> QuerySet[Any, Any]:
    """Deployments that were rolled back: an older deployment is current in their place."""
    newer = Q(rolled_back_from__version_day__gt=F("deployment__version_day")) | Q(
        rolled_back_from__version_day=F("deployment__version_day"),
        rolled_back_from__version_number__gt=F("deployment__version_number"),
    )
    return Promotion.objects.filter(newer, label="current").values("rolled_back_from")


def listed() -> QuerySet[Deployment]:
    """Deployments with all values that a list shows, and without the stack traces."""
    return (
        Deployment.objects.select_related("project", "environment", "repository")
        .annotate(
            is_current=Exists(Promotion.objects.filter(deployment=OuterRef("pk"), label="current")),
            is_rolled_back=Exists(_rolled_back_from().filter(rolled_back_from=OuterRef("pk"))),
            reason=KT("error__message"),
            db_now=Now(),
        )
        .defer("error", "receipt")
    )


LOG_LINES_SHOWN = 12  # of the output of a failed build; the rest is folded
_WENT_WRONG = (DeploymentStatus.FAILED, DeploymentStatus.TIMED_OUT)


def latest(rows: QuerySet[Deployment]) -> list[Deployment]:
    """The newest ten of the rows, with the values of `listed`."""
    return by_keys(rows.order_by("-created_at", "-version_number")[:10])


def by_keys(rows: QuerySet[Deployment]) -> list[Deployment]:
    """The rows in their order, with the values of `listed`.

    In two queries: first the keys are sorted, then the values are read. One query would carry all values through the
    database's sort, also error messages that are read from JSON.
    """
    keys = list(rows.values_list("pk", flat=True))
    found = {row.pk: row for row in listed().filter(pk__in=keys)}
    return [found[key] for key in keys if key in found]


class KeysFirst(Nouns):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list: Any = by_keys(self.result_list)


UNDER_WAY = tuple(status for status in DeploymentStatus if status not in FINAL_STATUSES)


class Mark(Several):
    title = "Mark"
    parameter_name = "mark"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("current", "Current in its environment"),
            ("rolled_back", "Rolled back from"),
            ("under_way", "In progress"),
        ]

    def where(self, value: str) -> Q:
        # Through the Promotion rows (one per environment), which is cheaper than a condition on every deployment.
        if value == "current":
            return Q(pk__in=Promotion.objects.filter(label="current").values("deployment"))
        return Q(pk__in=_rolled_back_from()) if value == "rolled_back" else Q(status__in=UNDER_WAY)


@admin.register(Deployment)
class DeploymentAdmin(Promotions, Exports):
    page_template = "registry_admin/deployment.html"
    tiles = "Status"
    nothing_yet = f"No deployments yet. In a project's folder: {DEPLOY_COMMAND}"
    nothing_found = f"Words are searched only in the newest {MAX_ROWS_SEARCHED:,} deployments that match the filters."
    list_display = ("version_cell", "status_cell", "where", "commit", "by", "created")
    list_filter = (
        menu(
            "Status",
            "status",
            words=dict(DeploymentStatus.choices),
            together={
                "under_way": Together(word="In progress", tone="run", where=Q(status__in=UNDER_WAY)),
                "went_wrong": Together(word="Failed or timed out", tone="bad", where=Q(status__in=_WENT_WRONG)),
            },
        ),
        menu("Environment", "environment__slug"),
        # Through the environment, so that one index answers the counts of all three menus.
        menu("Project", "environment__project__ref", label="environment__project__name", name="project__ref"),
        Mark,
        between("Created", "created_at"),
    )
    search_fields = ("short_code",)  # only switches the search on; deployments.admin.search does it
    search_help_text = "Version, commit, project, person or error"
    sortable_by = ("version_cell", "created")
    columns: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "version": lambda row: str(row.version),
        "short_code": lambda row: row.short_code,
        "status": lambda row: row.status,
        "project": lambda row: row.project.ref,
        "environment": lambda row: str(row.environment),
        "is_current": lambda row: row.is_current,
        "image_ref": lambda row: row.image_ref,
        "image_digest": lambda row: row.image_digest,
        "commit": lambda row: row.git.get("commitSha"),
        "branch": lambda row: row.git.get("commitRef"),
        "message": lambda row: row.git.get("commitMessage"),
        "triggered_by": lambda row: row.triggered_by,
        "triggered_via": lambda row: row.triggered_via,
        "created_at": lambda row: row.created_at,
        "deployed_at": lambda row: row.deployed_at,
        "seconds": lambda row: row.duration.total_seconds() if row.duration else None,
        "reason": lambda row: row.reason or row.canceled_reason,
        "id": lambda row: row.pk,
    }

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return KeysFirst

    def get_queryset(self, request: HttpRequest) -> QuerySet[Deployment]:
        return listed()

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Deployment], search_term: str
    ) -> tuple[QuerySet[Deployment], bool]:
        """A page asks for the same rows several times, for the list and for its menus. They are searched once."""
        if not search_term.strip():
            return queryset, False
        if not hasattr(request, "found_by_search"):
            request.found_by_search, request.with_exact_text = {}, cache(with_exact_text)  # type: ignore[attr-defined]
        found: dict[str, QuerySet[Deployment]] = request.found_by_search  # type: ignore[attr-defined]
        exact: Callable[[str], list[str]] = request.with_exact_text  # type: ignore[attr-defined]
        try:
            asked = str(queryset.query)
        except EmptyResultSet:  # its filters exclude every row
            return queryset, False
        if asked not in found:
            found[asked] = find(queryset, search_term, everything=listed(), exact=exact)
        return found[asked], False

    @admin.display(description="Deployment", ordering="version_day")
    def version_cell(self, row: Deployment) -> str:
        version = format_html("{} · <code>{}</code>", row.version, row.short_code)
        return two_lines(format_html('<b class="line">{}</b> {}', headline(row), tags(row)), version)

    @admin.display(description="Status")
    def status_cell(self, row: Deployment) -> str:
        reason = one_line(row.reason or row.canceled_reason or "")  # type: ignore[attr-defined]
        if (silent := _silent_since(row)) is not None:
            reason = format_html("No request since {}", clock(silent))
        return two_lines(badge(row), reason) if reason else badge(row)

    @admin.display(description="Project")
    def where(self, row: Deployment) -> str:
        return two_lines(row.project, row.environment)

    @admin.display(description="Commit")
    def commit(self, row: Deployment) -> str:
        return commit_cell(row) if row.git else "–"

    @admin.display(description="By")
    def by(self, row: Deployment) -> str:
        return two_lines(row.triggered_by or "–", row.triggered_via)

    @admin.display(description="Created", ordering="created_at")
    def created(self, row: Deployment) -> str:
        return two_lines(ago(row.created_at), f"took {took(row.duration)}" if row.duration else "")

    def page(self, request: HttpRequest, row: Deployment) -> dict[str, Any]:
        good = last_good(row)
        return {
            "steps": list(steps(row)),
            "bar": list(bar(row)),
            "commit_sha": str(row.git.get("commitSha") or ""),
            "commit_links": commits.links(row.git, triggered_via=row.triggered_via),
            "worker": getattr(row, "worker", None),
            "log_end": log_end(row),
            "without_of_receipt": "at pullers unproved" + (" digest" if _same_digest(row) else ""),
            "last_good": good if row.status in _WENT_WRONG else None,
            "alarm": _credentials_alarm(row),
            "live": row.status in UNDER_WAY,
            "silent_since": _silent_since(row),
            "why": why.of_deployment(request, row),
            "audit": audit_of(request, row),
            **offers(request, row, good),
        }


def _silent_since(row: Deployment) -> datetime | None:
    return lifecycle.silent_since(row, row.db_now)  # type: ignore[attr-defined]  # `listed` reads it


def log_end(row: Deployment) -> str:
    """The last lines of the output of a failed build, if the CLI sent the output."""
    output = str((row.error or {}).get("stderr") or "").rstrip()
    return "\n".join(output.splitlines()[-LOG_LINES_SHOWN:])


def _same_digest(row: Deployment) -> bool:
    """Whether the digest that was verified is the one of the image, which the page shows anyway."""
    return row.receipt is not None and row.receipt.digest == row.image_digest


def _credentials_alarm(row: Deployment) -> Alarm | None:
    if row.credentials_error and not row.credentials_kind:
        title = "No registry credentials were issued"
        if row.log_in:
            title = "The last request for registry credentials was refused"
        return Alarm(title=title, words=row.credentials_error, tone="warn")
    if left_out := incomplete(row.log_in):
        return Alarm(title="The registry credentials do not open every repository", words=left_out, tone="warn")
    if not row.credentials_error:
        return None
    title = "The registry credentials are valid for more than this repository"
    return Alarm(title=title, words=row.credentials_error, tone="warn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of a deployment: when it was reached, and the time since the step before."""

    word: str
    at: datetime
    took: timedelta | None = None
    tone: str = "ok"


_ENDS = {
    DeploymentStatus.FAILED: ("Failed", "bad"),
    DeploymentStatus.CANCELED: ("Canceled", "idle"),
    DeploymentStatus.TIMED_OUT: ("Timed out", "bad"),
}


def steps(row: Deployment) -> Iterator[Step]:
    """The steps that were reached, in order. A step that the CLI skipped is left out."""
    word, tone = _ENDS.get(DeploymentStatus(row.status), ("Ended", "idle"))
    before = None
    for each, at, its_tone in (
        ("Created", row.created_at, "ok"),
        ("Started", row.started_at, "ok"),
        ("Built", row.built_at, "ok"),
        ("Deployed", row.deployed_at, "ok"),
        (word, row.failed_at or row.canceled_at, tone),
    ):
        if at is not None:
            yield Step(word=each, at=at, took=at - before if before else None, tone=its_tone)
            before = at


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A step's part of the whole duration, in per cent, for an SVG bar (the page allows no style attributes)."""

    word: str
    took: timedelta
    tone: str
    start: str
    width: str


def bar(row: Deployment) -> Iterator[Segment]:
    """The segments of the bar that shows how the duration divides into steps."""
    reached = list(steps(row))
    whole = (reached[-1].at - reached[0].at).total_seconds()
    if whole <= 0:
        return
    start = 0.0
    for step in reached[1:]:
        width = max(0.0, (step.took or timedelta()).total_seconds() / whole * 100)
        yield Segment(
            word=step.word, took=step.took or timedelta(), tone=step.tone, start=f"{start:.2f}", width=f"{width:.2f}"
        )
        start += width


def last_good(row: Deployment) -> Deployment | None:
    """The newest successful deployment before this deployment in the same environment."""
    older = Q(version_day__lt=row.version_day) | Q(version_day=row.version_day, version_number__lt=row.version_number)
    return (
        Deployment.objects.filter(older, environment=row.environment_id, status=DeploymentStatus.DEPLOYED)
        .order_by(F("version_day").desc(), F("version_number").desc())
        .first()
    )
