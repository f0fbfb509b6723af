"""The audit log: who did what, when and from where. It can be read, searched and exported, and not changed."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect, StreamingHttpResponse
from django.urls import NoReverseMatch, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from deployments.access import audit
from deployments.admin.display import ago, mark, problem, short, two_lines
from deployments.admin.pages import Alarm, ReadOnly, menu
from deployments.admin.time_filter import between
from deployments.models import ActorKind, AuditEntry

#: File extension → (content type, function that writes the file).
EXPORTS = {
    "csv": ("text/csv; charset=utf-8", audit.as_csv),
    "jsonl": ("application/x-ndjson; charset=utf-8", audit.as_json_lines),
}


@admin.register(AuditEntry)
class AuditAdmin(ReadOnly):
    page_template = "registry_admin/audit.html"
    change_list_template = "registry_admin/audit_list.html"
    nothing_yet = "No entries yet. Changes by people, keys, schedules and commands are recorded here."
    list_display = ("action_cell", "object_cell", "who", "outcome_cell", "when")
    list_filter = (
        menu("Who", "actor_kind", words=dict(ActorKind.choices)),
        menu("Action", "action"),
        menu("Object", "object_type"),
        between("When", "at"),
    )
    search_fields = ("actor", "object_label", "=object_id", "=request_id", "=address")
    search_help_text = "Person, key, object or request"
    sortable_by = ("when",)

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.export_view)
        return [path("export.<str:ending>", view, name="deployments_auditentry_export"), *super().get_urls()]

    def export_view(self, request: HttpRequest, ending: str) -> HttpResponseBase:
        """All entries that match the filters and the search, as a file that is streamed."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        back = HttpResponseRedirect(reverse("admin:deployments_auditentry_changelist"))
        if ending not in EXPORTS:
            return back
        try:
            entries = self.get_changelist_instance(request).get_queryset(request)
        except IncorrectLookupParameters:
            return back
        kind, write = EXPORTS[ending]
        response = StreamingHttpResponse(write(entries), content_type=kind)
        response["Content-Disposition"] = f'attachment; filename="audit-{timezone.now():%Y%m%d-%H%M%S}.{ending}"'
        return response

    def page(self, request: HttpRequest, row: AuditEntry) -> dict[str, Any]:
        return {
            "title": f"{row.action} by {row.actor}",
            "alarm": Alarm(title="This action was not done", words=why) if (why := problem(row)) else None,
            "address_of_object": address_of(row),
            "request_entries": AuditEntry.objects.filter(request_id=row.request_id).exclude(pk=row.pk)[:20]
            if row.request_id
            else [],
        }

    @admin.display(description="Action", ordering="action")
    def action_cell(self, row: AuditEntry) -> str:
        return format_html("<b>{}</b>", row.action)

    @admin.display(description="Object")
    def object_cell(self, row: AuditEntry) -> str:
        return two_lines(row.object_label or "–", row.object_type)

    @admin.display(description="Who")
    def who(self, row: AuditEntry) -> str:
        return two_lines(row.actor, row.get_actor_kind_display())

    @admin.display(description="Outcome")
    def outcome_cell(self, row: AuditEntry) -> SafeString:
        if row.outcome == audit.BEGUN:
            return mark("idle", "Begun")
        return (
            mark("ok", "Done") if row.outcome == audit.DONE else two_lines(mark("bad", "Not done"), short(row.outcome))
        )

    @admin.display(description="When", ordering="at")
    def when(self, row: AuditEntry) -> str:
        return two_lines(ago(row.at), row.address)


def address_of(row: AuditEntry) -> str:
    """The URL of the object's page; empty if its kind has no page. The object itself may be deleted."""
    if not row.object_type or not row.object_id:
        return ""
    for app in ("deployments", "auth"):
        try:
            return reverse(f"admin:{app}_{row.object_type}_change", args=[row.object_id])
        except NoReverseMatch:
            continue
    return ""
