"""Repositories: one list for all accounts and regions, and a page with the problem, since when, and the next step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Max, Q, QuerySet
from django.db.models.functions import Lower
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from deployments.admin import differences
from deployments.admin.attention import (
    ALARMING,
    ALARMS_SHOWN,
    LEFT,
    NEEDS_ATTENTION,
    WORST_FIRST,
    ByCause,
    attention,
    statements_of,
)
from deployments.admin.bulk_actions import BULK_ACTIONS, BulkActions, button, offered, offers_of, with_offers
from deployments.admin.dashboard import shell
from deployments.admin.deployments import latest
from deployments.admin.display import ago, badge, one_line, two_lines
from deployments.admin.exports import Exports
from deployments.admin.image_states import kept_images
from deployments.admin.images import Images
from deployments.admin.pages import (
    MAX_MENU_CHOICES,
    Alarm,
    Button,
    Nouns,
    Several,
    Together,
    audit_of,
    may,
    menu,
    shown_configuration,
)
from deployments.admin.policies import (
    Policies,
    aws_console,
    beside,
    openness,
    pullers,
    pulls_rest_on,
    risks,
    state_of,
    statements_of_others,
    take_over_button,
)
from deployments.admin.policy_versions import of_repository
from deployments.admin.pulls import Asked, marks
from deployments.admin.sidebyside import laid_out, side_by_side
from deployments.admin.sweeps import last_check
from deployments.aws.partitions import partition_of
from deployments.catalogue import sentence
from deployments.config import RegistryConfig
from deployments.models import Deployment, EventKind, Repository, RepositoryStatus
from deployments.reconcile import (
    lifecycle_safety,
    pull_states,
    registry_policies,
    repositories,
    targets,
    writes_pause,
)

#: The order of the statuses in the menu and in the tiles, the worst first.
BY_STATUS = (*NEEDS_ATTENTION, RepositoryStatus.PENDING, RepositoryStatus.UNMANAGED, RepositoryStatus.IN_SYNC)
PARTS = ("policy", "lifecycle", "tags", "mutability", "encryption")


class Excepted(Several):
    title = "Exception"
    parameter_name = "mode"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("observe", "Observed for a while"), ("enforce", "Enforced for a while")]

    def where(self, value: str) -> Q:
        return Q(mode=value, mode_until__gt=timezone.now())


class Incomparable(Several):
    title = "Comparison"
    parameter_name = "comparison"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("incomparable", "Policy cannot be compared")]

    def where(self, value: str) -> Q:
        return Q(incomparable_since__isnull=False)


def reason(row: Repository) -> str:
    """Why a repository needs attention: the last error, or else the differences."""
    if row.last_error:
        return row.last_error.replace(f" on {row.name}", "", 1)  # the page shows the name beside this text
    if row.status == RepositoryStatus.MISSING:
        return sentence("missing", name="The repository")
    return " ".join(each.words for each in row.differences)


class WithDeploys(Nouns):
    """The list. One query reads when each repository of the page last got an image."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        rows: Any = list(self.result_list)
        deployed = Deployment.objects.filter(repository__in=[row.pk for row in rows], deployed_at__isnull=False)
        newest = dict(deployed.order_by().values_list("repository").annotate(Max("deployed_at")))
        for row in rows:
            row.last_deployed_at = newest.get(row.pk)
        self.result_list = rows


@admin.register(Repository)
class RepositoryAdmin(BulkActions, Policies, Images, Exports):
    page_template = "registry_admin/repository.html"
    tiles = "Status"
    change_list_template = "registry_admin/repository_list.html"
    nothing_yet = "No repositories yet. The first deploy of a project makes its repository."
    list_display = ("name_cell", "status_cell", "deployed", "place", "checked", "act")
    list_select_related = ("project",)
    list_filter = (
        menu(
            "Status",
            "status",
            words={status: str(status.label) for status in BY_STATUS},
            together={
                "attention": Together(word="Needs attention", tone="bad", where=ALARMING),
                "left": Together(word="Drifted, with an exception", tone="idle", where=LEFT),
            },
        ),
        ByCause,
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
        rows = pull_states.with_states(Repository.objects.select_related("project"), Asked.of(request).accounts)
        return with_offers(request, rows)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Repository | None:
        """The row of a page, without what only the list shows: that would take the page a query more."""
        try:
            return Repository.objects.select_related("project").get(pk=object_id)
        except (Repository.DoesNotExist, ValueError):
            return None

    def get_ordering(self, request: HttpRequest) -> Any:
        return (WORST_FIRST, "worst", Lower("name"))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return WithDeploys

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        may_act = any(may(request, bulk.right) for bulk in BULK_ACTIONS.values())
        found, chosen = attention(request), request.GET.getlist(ByCause.parameter_name)
        alarms = [alarm for alarm in found.alarms if alarm.cause.key in chosen]
        context = {
            "may_act": may_act,
            "may_reconcile": may(request, "reconcile_repository"),
            "attention": replace(found, alarms=alarms, left=[]) if alarms else None,
            # Above the whole list; a list with a filter or a search shows what was asked for.
            "shared": [] if request.GET else [alarm for alarm in found.alarms if len(alarm.rows) > 1][:ALARMS_SHOWN],
            "grouped": found.grouped if found.is_cut else 0,
        }
        return super().changelist_view(request, context | (extra_context or {}))

    def get_list_display(self, request: HttpRequest) -> Any:
        """Without what says nothing: accounts and regions if all are the same, actions for people who have none."""
        acts = any(may(request, bulk.right) for bulk in BULK_ACTIONS.values())
        needless = {"place": len(_places(request)) < 2, "act": not acts}
        columns: list[Any] = [name for name in self.list_display if not needless.get(name)]
        return [*columns[:2], _pull(Asked.of(request)), *columns[2:]]

    def get_list_filter(self, request: HttpRequest) -> Any:
        """Without the menus of account and region where all repositories have the same one and none is chosen."""
        places = _places(request)
        needless = {
            name
            for name, values in (("account", {each[0] for each in places}), ("region", {each[1] for each in places}))
            if len(values) < 2 and name not in request.GET
        }
        return [each for each in self.list_filter if each.parameter_name not in needless]

    @admin.display(description="Repository", ordering="name")
    def name_cell(self, row: Repository) -> str:
        """The project, or the name of a repository without one; below it one line of the reason. The page has all."""
        name = format_html("<code>{}</code>", row.name)
        title = two_lines(row.project, name) if row.project else name
        if row.status not in NEEDS_ATTENTION:
            return title
        return format_html('{}<span class="under reason {}">{}</span>', title, row.status, one_line(reason(row)))

    @admin.display(description="Policy")
    def status_cell(self, row: Repository) -> str:
        more = ["cannot be compared"] if row.incomparable_since is not None else []
        if row.status == RepositoryStatus.IN_SYNC and (others := differences.others_kept(row)):
            more.append(others)
        if row.mode and in_force(row):
            more.append(f"{row.mode} {until_word(row)}")
        return two_lines(badge(row), ", ".join(more)) if more else badge(row)

    @admin.display(description="Last deployed")
    def deployed(self, row: Any) -> str:
        return ago(row.last_deployed_at)

    @admin.display(description="Account")
    def place(self, row: Repository) -> str:
        return two_lines(row.account, row.region)

    @admin.display(description="Checked", ordering="last_checked_at")
    def checked(self, row: Repository) -> str:
        in_sync = row.last_in_sync_at
        if in_sync is None or in_sync == row.last_checked_at:
            return ago(row.last_checked_at, "never")
        return two_lines(ago(row.last_checked_at, "never"), format_html("in sync {}", ago(in_sync)))

    @admin.display(description=SafeString('<span class="visually-hidden">Actions</span>'), empty_value="")
    def act(self, row: Repository) -> str:
        """The menu of a row. Its buttons belong to the empty form above the list, because forms cannot be nested."""
        excepted = bool(row.mode) and in_force(row)
        found = [button(bulk, row, excepted=excepted) for bulk in offers_of(row)]
        if not found:
            return ""
        entries = format_html_join("", "<li>{}</li>", ((_entry(each, row.name),) for each in found))
        return format_html(
            '<details class="row-menu" name="row-menu"><summary><span class="visually-hidden">Actions for {}</span>'
            "</summary><ul>{}</ul></details>",
            row.name,
            entries,
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
            "version": of_repository(row, registry),
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
            "statements_of_others": statements_of_others(request, row, events),
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
            "statements": statements_of(row),
            "first_error": row.error_since if lasts(row) else None,
            "may_restore": may(request, "restore_policy_repository") and covered and not missing,
            "alarm": Alarm(title="Deleted from ECR", words=reason(row)) if missing else None,
            "missing": missing,
            "audit": audit_of(request, row),
        }


def _pull(asked: Asked) -> Callable[[Repository], str]:
    """The column with a mark for each consumer account; none if the settings name another registry now."""

    def pull(row: Repository) -> str:
        if asked.accounts and not any(each.has(row) for each in asked.targets):
            return format_html(
                '<span title="{0}" aria-hidden="true">–</span><span class="visually-hidden">{0}</span>',
                "Its registry is not in the settings",
            )
        return marks(row, asked.accounts)

    return admin.display(description="Pull")(pull)


def _entry(each: Button, name: str) -> SafeString:
    form = '<button form="rowact" formaction="{}">{}<span class="visually-hidden"> {}</span></button>'
    link = '<a href="{}">{}<span class="visually-hidden"> {}</span></a>'
    return format_html(form if each.posts else link, each.address, each.word, name)


def _places(request: HttpRequest) -> list[tuple[str, str]]:
    """The (account, region) of all repositories, read once for each request; at most as many as a menu shows."""
    found: list[tuple[str, str]] | None = getattr(request, "places_of_repositories", None)
    if found is None:
        found = list(Repository.objects.order_by().values_list("account", "region").distinct()[:MAX_MENU_CHOICES])
        request.places_of_repositories = found  # type: ignore[attr-defined]
    return found


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
