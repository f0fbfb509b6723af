"""Repositories: all accounts and regions in one table, and a page that says what is wrong, since when, what to do."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html

from deployments.admin.console import ReadOnly, menu
from deployments.admin.deployments import listed
from deployments.admin.display import ago, badge, two_lines
from deployments.admin.sidebyside import laid_out, side_by_side
from deployments.config import RegistryConfig
from deployments.models import Repository, RepositoryStatus

#: What a registry's host has in it → the partition, and the partition's console. The first that fits counts.
_PARTITIONS = (
    (".amazonaws.com.cn", "aws-cn", "console.amazonaws.cn"),
    (".us-gov-", "aws-us-gov", "console.amazonaws-us-gov.com"),
    (".amazonaws.com", "aws", "console.aws.amazon.com"),
    (".on.aws", "aws", "console.aws.amazon.com"),
)


def reason(row: Repository) -> str:
    """Why a repository needs somebody, in words: the last error, or else what differs."""
    if row.last_error:
        return row.last_error.replace(f" on {row.name}", "", 1)  # its name stands beside it
    if row.status == RepositoryStatus.MISSING:
        return "Gone from the registry. The next deploy makes it again."
    return " ".join(str(difference.get("words", "")) for difference in row.differences)


@admin.register(Repository)
class RepositoryAdmin(ReadOnly):
    page_template = "registry_admin/repository.html"
    nothing_yet = "No repositories yet. The first deploy of a project makes its repository."
    list_display = ("name_cell", "status_cell", "place", "project", "checked", "in_sync")
    list_select_related = ("project",)
    list_filter = (
        menu("Status", "status", words=dict(RepositoryStatus.choices)),
        menu("Account", "account"),
        menu("Region", "region"),
        menu("Project", "project__ref", label="project__name"),
    )
    search_fields = ("name", "^account", "project__name", "last_error")
    search_help_text = "Name, account, project or error"
    sortable_by = ("name_cell", "checked", "in_sync")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Repository]:
        return Repository.objects.select_related("project")

    @admin.display(description="Repository", ordering="name")
    def name_cell(self, row: Repository) -> str:
        name = format_html("<code>{}</code>", row.name)
        if row.status in (RepositoryStatus.IN_SYNC, RepositoryStatus.PENDING, RepositoryStatus.UNMANAGED):
            return name
        return format_html('{}<span class="under {}">{}</span>', name, row.status, reason(row))

    @admin.display(description="Policy")
    def status_cell(self, row: Repository) -> str:
        return badge(row)

    @admin.display(description="Account")
    def place(self, row: Repository) -> str:
        return two_lines(row.account, row.region)

    @admin.display(description="Checked", ordering="last_checked_at")
    def checked(self, row: Repository) -> str:
        return ago(row.last_checked_at, "never")

    @admin.display(description="Last in sync", ordering="last_in_sync_at")
    def in_sync(self, row: Repository) -> str:
        return ago(row.last_in_sync_at, "never")

    def page(self, request: HttpRequest, row: Repository) -> dict[str, Any]:
        registry = registry_of(row)
        desired = registry.default_repository_policy if registry else None
        lines = []
        if desired and row.policy_text:
            lines = side_by_side(row.policy_text, desired, partition=partition_of(row))
        return {
            "reason": reason(row),
            "aws_console": aws_console(row),
            "uri": f"{row.host}/{row.name}",
            "registry": registry,
            "desired": desired,
            "lines": lines,
            "one_policy": laid_out(row.policy_text or desired or ""),
            "policy_differs": any(each.get("what") == "policy" for each in row.differences),
            "events": row.events.all()[:50],
            "latest": listed().filter(repository=row)[:10],
        }


def registry_of(row: Repository) -> RegistryConfig | None:
    """The part of the configuration that a repository belongs to; None when the settings name another registry now."""
    configuration = settings.CONFIGURATION
    for registry in (configuration.v4, configuration.plain):
        if registry.host == row.host and row.name.startswith(f"{registry.namespace}/"):
            return registry
    return None


def aws_console(row: Repository) -> str:
    """Where AWS shows this repository; empty for a registry that is none of theirs."""
    for part, _, console in _PARTITIONS:
        if part in row.host:
            path = f"ecr/repositories/private/{row.account}/{row.name}?region={row.region}"
            return f"https://{row.region}.{console}/{path}"
    return ""


def partition_of(row: Repository) -> str:
    return next((partition for part, partition, _ in _PARTITIONS if part in row.host), "aws")
