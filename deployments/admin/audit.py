"""The audit log: who did what, when and from where. It can be read, searched and exported, and not changed."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
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

MAX_ROWS_SEARCHED = 20_000  # entries that are searched for words (D-search)
MAX_WITH_ONE_ID = 500
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
    search_fields = ("actor",)  # only switches the search on; `get_search_results` does it
    nothing_found = (
        f"Words are searched only in the newest {MAX_ROWS_SEARCHED:,} entries that match the filters; a request id and "
        "the id of an object in all of them."
    )
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

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[AuditEntry], search_term: str
    ) -> tuple[QuerySet[AuditEntry], bool]:
        """Words in the newest MAX_ROWS_SEARCHED entries, which an index finds; ids in all entries."""
        term = search_term.strip()
        if not term:
            return queryset, False
        last = queryset.order_by("-at").values_list("at", flat=True)
        since = list(last[MAX_ROWS_SEARCHED - 1 : MAX_ROWS_SEARCHED])
        found = queryset.filter(at__gte=since[0]) if since else queryset
        for word in term.split()[:5]:
            found = found.filter(Q(actor__icontains=word) | Q(object_label__icontains=word) | Q(address=word))
        if not hasattr(request, "with_exact_id"):  # a page searches several times
            request.with_exact_id = _with_exact_id(term)  # type: ignore[attr-defined]
        exact = Q(pk__in=request.with_exact_id)  # type: ignore[attr-defined]
        every = queryset.filter(exact | Q(pk__in=found.order_by().values("pk")))
        return (every if request.with_exact_id else found), False  # type: ignore[attr-defined]

    def page(self, request: HttpRequest, row: AuditEntry) -> dict[str, Any]:
        return {
            "title": f"{row.action} by {row.actor}",
            "alarm": Alarm(title="This action was not done", words=why) if (why := problem(row)) else None,
            "address_of_object": address_of(row),
            "request_entries": AuditEntry.objects.filter(request_id=row.request_id)
            .exclude(request_id="")
            .exclude(pk=row.pk)[:20]
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


def _with_exact_id(term: str) -> list[int]:
    """The keys of the newest entries with this id of a request or of an object; at most MAX_WITH_ONE_ID of each."""
    # The condition on the type lets the database use the index that begins with this column.
    types = ["", *{str(model._meta.model_name) for model in apps.get_models()}]
    of_request = AuditEntry.objects.filter(request_id=term).exclude(request_id="")
    of_object = AuditEntry.objects.filter(object_type__in=types, object_id=term).exclude(object_id="")
    newest = (rows.order_by("-at").values_list("pk", flat=True)[:MAX_WITH_ONE_ID] for rows in (of_request, of_object))
    return [key for keys in newest for key in keys]


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
