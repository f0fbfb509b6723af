"""Repositories: one list for all accounts and regions, and a page with the problem, since when, and the next step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.db.models.functions import Lower
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from deployments.admin import differences
from deployments.admin.attention import WORST_FIRST, ByAttention, ByCause, attention
from deployments.admin.bulk_actions import BULK_ACTIONS, BulkActions, applies, button, offered
from deployments.admin.dashboard import shell
from deployments.admin.deployments import latest
from deployments.admin.display import ago, badge, two_lines
from deployments.admin.exports import Exports
from deployments.admin.image_states import kept_images
from deployments.admin.images import Images
from deployments.admin.pages import Alarm, audit_of, may, menu, shown_configuration
from deployments.admin.policies import (
    Policies,
    aws_console,
    beside,
    openness,
    pullers,
    pulls_rest_on,
    risks,
    service_statements,
    state_of,
    take_over_button,
)
from deployments.admin.sidebyside import laid_out, side_by_side
from deployments.admin.sweeps import last_check
from deployments.aws.partitions import partition_of
from deployments.catalogue import sentence
from deployments.config import RegistryConfig
from deployments.models import Deployment, EventKind, Repository, RepositoryStatus
from deployments.reconcile import lifecycle_safety, registry_policies, repositories, targets, writes_pause

PARTS = ("policy", "lifecycle", "tags", "mutability", "encryption")


class Excepted(admin.SimpleListFilter):
    title = "Exception"
    parameter_name = "mode"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("observe", "Observed for a while"), ("enforce", "Enforced for a while")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Repository]) -> QuerySet[Repository]:
        if self.value() not in ("observe", "enforce"):
            return queryset
        return queryset.filter(mode=self.value(), mode_until__gt=timezone.now())


class Incomparable(admin.SimpleListFilter):
    title = "Comparison"
    parameter_name = "comparison"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("incomparable", "Policy cannot be compared")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Repository]) -> QuerySet[Repository]:
        return queryset.filter(incomparable_since__isnull=False) if self.value() == "incomparable" else queryset


def reason(row: Repository) -> str:
    """Why a repository needs attention: the last error, or else the differences."""
    if row.last_error:
        return row.last_error.replace(f" on {row.name}", "", 1)  # the page shows the name beside this text
    if row.status == RepositoryStatus.MISSING:
        return sentence("missing", name="The repository")
    return " ".join(each.words for each in row.differences)


@admin.register(Repository)
class RepositoryAdmin(BulkActions, Policies, Images, Exports):
    page_template = "registry_admin/repository.html"
    change_list_template = "registry_admin/repository_list.html"
    nothing_yet = "No repositories yet. The first deploy of a project makes its repository."
    list_display = ("name_cell", "status_cell", "place", "project", "checked", "act")
    list_select_related = ("project",)
    list_filter = (
        ByAttention,
        ByCause,
        menu("Status", "status", words=dict(RepositoryStatus.choices)),
        menu("Account", "account"),
        menu("Region", "region"),
        menu("Project", "project__ref", label="project__name"),
        Excepted,
        Incomparable,
    )
    search_fields = ("name", "^account", "project__name", "last_error")
    search_help_text = "Name, account, project or error"
    sortable_by = ("name_cell", "checked")
    ordering = (WORST_FIRST, Lower("name"))  # an expression, so that no column is marked as sorted

    columns: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "name": lambda row: row.name,
        "account": lambda row: row.account,
        "region": lambda row: row.region,
        "status": lambda row: row.status,
        "reason": lambda row: reason(row),
        "project": lambda row: row.project.ref if row.project else None,
        "origin": lambda row: row.origin,
        "last_checked_at": lambda row: row.last_checked_at,
        "last_in_sync_at": lambda row: row.last_in_sync_at,
        "drifted_since": lambda row: row.drifted_since,
        "incomparable_since": lambda row: row.incomparable_since,
        "exception": lambda row: row.mode,
        "exception_until": lambda row: row.mode_until,
        "exception_reason": lambda row: row.mode_reason,
        "consumers": lambda row: {account: answer.verdict for account, answer in row.consumers.items()},
    }

    def get_queryset(self, request: HttpRequest) -> QuerySet[Repository]:
        return Repository.objects.select_related("project").annotate(
            can_be_reconciled=applies(BULK_ACTIONS["reconcile"])
        )

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        may_act = any(may(request, bulk.right) for bulk in BULK_ACTIONS.values())
        found, chosen = attention(request), request.GET.get(ByCause.parameter_name)
        alarms = [alarm for alarm in found.alarms if alarm.cause.key == chosen]
        context = {
            "may_act": may_act,
            "may_reconcile": may(request, "reconcile_repository"),
            "attention": replace(found, alarms=alarms, left=[]) if alarms else None,
            # Above the whole list; a list with a filter or a search shows what was asked for.
            "shared": [] if request.GET else [alarm for alarm in found.alarms if len(alarm.rows) > 1],
        }
        return super().changelist_view(request, context | (extra_context or {}))

    def get_list_display(self, request: HttpRequest) -> Any:
        shown = list(self.list_display)
        return shown if may(request, "reconcile_repository") else shown[:-1]

    @admin.display(description="Repository", ordering="name")
    def name_cell(self, row: Repository) -> str:
        name = format_html("<code>{}</code>", row.name)
        if row.status in (RepositoryStatus.IN_SYNC, RepositoryStatus.PENDING, RepositoryStatus.UNMANAGED):
            return name
        return format_html('{}<span class="under {}">{}</span>', name, row.status, reason(row))

    @admin.display(description="Policy")
    def status_cell(self, row: Repository) -> str:
        more = ["cannot be compared"] if row.incomparable_since is not None else []
        if row.mode and in_force(row):
            more.append(f"{row.mode} {until_word(row)}")
        return two_lines(badge(row), ", ".join(more)) if more else badge(row)

    @admin.display(description="Account")
    def place(self, row: Repository) -> str:
        return two_lines(row.account, row.region)

    @admin.display(description="Checked", ordering="last_checked_at")
    def checked(self, row: Repository) -> str:
        in_sync = row.last_in_sync_at
        if in_sync is None or in_sync == row.last_checked_at:
            return ago(row.last_checked_at, "never")
        return two_lines(ago(row.last_checked_at, "never"), format_html("in sync {}", ago(in_sync)))

    @admin.display(description=SafeString('<span class="visually-hidden">Action</span>'))
    def act(self, row: Any) -> str:
        """The reconcile button of a row.

        It belongs to the empty form above the list, because forms cannot be nested.
        """
        if not row.can_be_reconciled:
            return ""
        target = reverse("admin:deployments_repository_look", args=[row.pk, "reconcile"])
        return format_html(
            '<button type="submit" form="rowact" formaction="{}" class="quiet-button" aria-label="Reconcile {} now">'
            "Reconcile</button>",
            target,
            row.name,
        )

    def page(self, request: HttpRequest, row: Repository) -> dict[str, Any]:
        registry = settings_of(row)
        default = registry.default_repository_policy if registry else None
        desired = beside(row, default) if default else None
        lines = []
        if desired and row.policy_text:
            lines = side_by_side(row.policy_text, desired, partition=partition_of(row.region))
        events = list(row.events.all()[:50])
        reading = registry_policies.reading(account=row.account, region=row.region)
        registry_policy = registry_policies.policy_of(reading) if reading is not None else None
        covered, missing = registry is not None, row.status == RepositoryStatus.MISSING
        excepted = bool(row.mode) and in_force(row)
        take_over = take_over_button(request, row)
        check = last_check(row, no_worker=shell(request).no_worker)
        policy_words, policy_differs = differences.of_the_policy(row, registry, partition=partition_of(row.region))
        acts = {bulk.name: button(bulk, row, excepted=excepted) for bulk in offered(request, row)}
        return {
            "live": check is not None and check.waits,
            "check": check,
            "aws_console": aws_console(row),
            "uri": f"{row.host}/{row.name}",
            "registry": registry,
            "desired": desired,
            "lines": lines,
            "one_policy": laid_out(row.policy_text or desired or ""),
            "policy_words": policy_words,
            "policy_differs": policy_differs,
            "differences": differences.card(
                row, enforce=shown_configuration().enforce, paused=writes_pause.current() is not None
            ),
            "path_name": row.project or row,
            "events": events,
            "gone_words": next((event.message for event in events if event.kind == EventKind.MISSING), ""),
            "latest": latest(Deployment.objects.filter(repository=row)),
            "images": kept_images(Q(repository=row)),
            "risks": risks(row),
            "service_statements": service_statements(request, row, events),
            "pullers": pullers(row, registry_policy),
            "pulls_rest_on": pulls_rest_on(row, registry_policy) if row.last_checked_at and not missing else "",
            "registry_policy": reading,
            "states": {part: state_of(row, part, covered=covered) for part in PARTS},
            "safe_lifecycle": lifecycle_safety.suggestion(row),
            "excepted": excepted,
            "only_observed": row.mode == "observe",
            "end": acts.pop("end", None),
            "buttons": [*([take_over] if take_over else []), *acts.values()],
            "take_over": take_over,
            "incomparable": row.incomparable_since is not None,
            "may_be_open": openness(row) == "unknown",
            "first_error": row.error_since if lasts(row) else None,
            "may_restore": may(request, "restore_policy_repository") and covered and not missing,
            "alarm": Alarm(title="Deleted from ECR", words=reason(row)) if missing else None,
            "missing": missing,
            "audit": audit_of(request, row),
        }


def lasts(row: Repository) -> bool:
    """Whether the present error of a repository was met before its last attempt."""
    if row.error_since is None or row.last_error_at is None:
        return False
    return row.last_error_at - row.error_since > repositories.SAME_ERROR_TWICE_AFTER


def in_force(row: Repository) -> bool:
    """Whether the row's override is still valid. An override that has ended stays on the row."""
    return row.mode_until is not None and row.mode_until > timezone.now()


def until_word(row: Repository) -> str:
    """“until 3 Nov, 14:00” for the override of a repository; empty without an override."""
    return f"until {row.mode_until:%d %b, %H:%M}" if row.mode_until else ""


def settings_of(row: Repository) -> RegistryConfig | None:
    """The settings of a repository's registry; None if no configured registry matches, or the settings have errors."""
    configuration = shown_configuration()
    target = None if configuration.problems else targets.of(row, configuration)
    return target.config if target else None
