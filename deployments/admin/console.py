"""What all pages share: nouns as titles, filters as menus with counts, rows that only the program writes.

No query in a display method: what a list shows comes with its queryset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.template.response import TemplateResponse
from django.utils.text import capfirst

if TYPE_CHECKING:
    _Admin = admin.ModelAdmin[Any]
else:
    _Admin = admin.ModelAdmin


class Nouns(ChangeList):
    """A list whose page is called what it lists, not “Select … to change”."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = str(capfirst(self.opts.verbose_name_plural))


class Console(_Admin):
    """The look of a list. `nothing_yet` is what an empty one says: the next command."""

    nothing_yet: ClassVar[str] = ""
    list_per_page = 50
    show_full_result_count = False  # counting everything beside the result is a second scan for a small remark
    show_facets = admin.ShowFacets.NEVER

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return Nouns


class ReadOnly(Console):
    """Rows that only the program writes, each with a page of its own instead of a form."""

    page_template: ClassVar[str]

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def page(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """What the page shows beside the row."""
        return {}

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(("GET", "HEAD"))
        row = self.get_object(request, unquote(object_id))
        if row is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)  # type: ignore[attr-defined,no-any-return]
        return self.render_page(request, self.page_template, row, self.page(request, row))

    def render_page(
        self, request: HttpRequest, template: str, row: Model | None, context: dict[str, Any]
    ) -> HttpResponse:
        request.current_app = self.admin_site.name  # as Django's own views do
        return TemplateResponse(
            request,
            template,
            {**self.admin_site.each_context(request), "opts": self.opts, "original": row, "title": str(row), **context},
        )


class Menu(admin.SimpleListFilter):
    """A filter as a menu: the values that there are, each with its count, from one GROUP BY.

    Django's own filters ask for the values and count each by an expression of its own, which grows with the number
    of values. Subclasses name the `field` and, if people know a value by another name, the `label` field or `words`.
    """

    parameter_name: str
    field: ClassVar[str]
    label: ClassVar[str] = ""
    words: ClassVar[dict[str, str]] = {}  # value → word, in the order in which people think of them

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return []

    def has_output(self) -> bool:
        return True

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        return queryset if value is None else queryset.filter(**{self.field: value})

    def choices(self, changelist: ChangeList) -> Any:
        rows = changelist.get_queryset(self.request, exclude_parameters=self.expected_parameters())
        fields = [self.field, *([self.label] if self.label else [])]
        counts = list(rows.order_by(*reversed(fields)).values_list(*fields).annotate(count=Count("pk")))
        if self.words:
            order = list(self.words)
            counts.sort(key=lambda row: order.index(row[0]) if row[0] in order else len(order))
        yield {
            "selected": self.value() is None,
            "query_string": changelist.get_query_string(remove=[self.parameter_name]),
            "display": "All",
            "count": sum(row[-1] for row in counts),
        }
        for value, *name, count in counts:
            yield {
                "selected": self.value() == str(value),
                "query_string": changelist.get_query_string({self.parameter_name: value}),
                "display": self.words.get(value) or (name[0] if name else value) or "–",
                "count": count,
            }


def menu(title: str, field: str, *, label: str = "", words: dict[str, str] | None = None) -> type[Menu]:
    """A `Menu` over a field; its name in the address is the field's own."""
    return type(
        f"{title}Menu",
        (Menu,),
        {"title": title, "parameter_name": field, "field": field, "label": label, "words": words or {}},
    )
