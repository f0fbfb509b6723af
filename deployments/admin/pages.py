"""Base classes of all pages: titles, filter menus with counts, pages for rows that only the program writes.

A display method makes no query: the queryset of a list has all values that the list shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce
from operator import or_
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import SEARCH_VAR, ChangeList
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count, Model, Q, QuerySet, Value
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, QueryDict
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.text import capfirst

from deployments.access import audit
from deployments.access.audit import Trail
from deployments.admin import live
from deployments.admin.display import TONES, plural
from deployments.config import Configuration
from deployments.models import AuditEntry, ProcessRole, Sweep
from deployments.reconcile import generation, processes

if TYPE_CHECKING:
    _Admin = admin.ModelAdmin[Any]
else:
    _Admin = admin.ModelAdmin


MAX_MENU_CHOICES = 100  # choices that a menu shows; the search finds the others
NAMED_BY_KEY = 500  # up to so many values, a menu reads their names by key; beyond, it reads all names


def may(request: HttpRequest, codename: str) -> bool:
    """Whether the user has this permission of the app, such as `promote_deployment`."""
    return bool(request.user.has_perm(f"deployments.{codename}"))


def require(request: HttpRequest, codename: str) -> None:
    """Raises PermissionDenied unless the user has the permission. Each action has its own (`access.groups`)."""
    if not may(request, codename):
        raise PermissionDenied


def shown_configuration() -> Configuration:
    """The configuration that counts, for pages; this process's own configuration if that one cannot be read."""
    return generation.shown(settings.CONFIGURATION)


def who(request: HttpRequest) -> str:
    """The user's e-mail address, or the login name without one: how rows and histories name people."""
    return str(getattr(request.user, "email", "") or request.user.get_username())


def audit_of(request: HttpRequest, target: Model) -> list[AuditEntry]:
    """The newest ten lines of the audit log about this object; empty for a user who may not see the log."""
    return list(audit.history(target)[:10]) if may(request, "view_auditentry") else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Button:
    """A button of a page: a link to a confirmation page, or, with `posts`, the action itself.

    Python decides which buttons this user gets in the current state, by the same rules as the action's view. A template
    compares no status and no permission.
    """

    word: str
    address: str
    style: str = "button"  # its classes in the style sheet
    posts: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A message at the top of a page: a title, a sentence, and the next step."""

    title: str
    words: str
    then: str = ""
    tone: str = "bad"


def say_if_no_worker(request: HttpRequest, sweep: Sweep) -> None:
    """Say on the next page that no worker runs, so that the sweep waits; nothing if a worker runs."""
    if absent := processes.absence(ProcessRole.WORKER):
        words = f"{absent} {sweep} waits until one runs: {settings.COMMAND} worker"
        messages.warning(request, words)


def back_to(request: HttpRequest, otherwise: str) -> str:
    """The page that a form was sent from (`next`), so that a list keeps its filters; `otherwise` if it is not ours."""
    target = request.POST.get("next", "")
    safe = url_has_allowed_host_and_scheme(target, allowed_hosts={request.get_host()}, require_https=False)
    return target if safe and target.startswith("/") else otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """A chosen value of a filter, and the address of the list without it."""

    filter: str
    word: str
    address: str


class Nouns(ChangeList):
    """A list with the plural noun as its title, instead of “Select … to change”; its filters' choices, read once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = plural(self.opts)

    @cached_property
    def menus(self) -> list[tuple[Any, list[dict[str, Any]]]]:
        """(filter, its choices) of each filter."""
        found: list[tuple[Any, Any]] = [(spec, spec.choices(self)) for spec in self.filter_specs]
        return [(spec, list(choices)) for spec, choices in found]

    @property
    def tiles(self) -> list[dict[str, Any]]:
        """The choices of the filter `tiles` that some row has or that are chosen."""
        return [
            each
            for spec, choices in self.menus
            if spec.title == getattr(self.model_admin, "tiles", "")
            for each in choices
            if each["count"] or each["selected"]
        ]

    @property
    def chips(self) -> list[Chip]:
        """The chosen values of all filters."""
        return [
            Chip(
                filter=str(capfirst(spec.title)),
                word=str(each["display"]),
                address=each["query_string"] if isinstance(spec, Several) else choices[0]["query_string"],
            )
            for spec, choices in self.menus
            for each in choices[1:]
            if each["selected"]
        ]

    @property
    def kept(self) -> list[tuple[str, str]]:
        """(name, value) of everything in the address but the search text, for a form that keeps it."""
        return [(name, value) for name, values in self.filter_params.items() if name != SEARCH_VAR for value in values]


class Console(_Admin):
    """The base of all lists. `nothing_yet`: the text of an empty list, with the next step."""

    nothing_yet: ClassVar[str] = ""
    tiles: ClassVar[str] = ""  # the title of the filter whose choices stand above the list as tiles
    tools: ClassVar[bool] = False  # whether the list has links beside its title
    nothing_found: ClassVar[str] = ""  # added text if a search finds nothing
    list_per_page = 50
    show_full_result_count = False  # the count of all rows would need a second scan
    show_facets = admin.ShowFacets.NEVER

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return Nouns

    def all_that_match(self, request: HttpRequest, *without: str) -> QuerySet[Any]:
        """All rows that match the filters and the search in the URL. `without`: query parameters that are not filters.

        Raises IncorrectLookupParameters, as the list itself does.
        """
        query: QueryDict = request.GET.copy()
        for name in without:
            query.pop(name, None)
        request.GET = query  # type: ignore[assignment]  # the list reads its filters from the request
        return self.get_changelist_instance(request).get_queryset(request)


class ReadOnly(Console):
    """A list of rows that only the program writes. Each row has a page instead of a form."""

    page_template: ClassVar[str]

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def page(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """The template context of a row's page."""
        return {}

    def one(self, request: HttpRequest, pk: Any) -> Any:
        """The row that an action's URL names. Raises PermissionDenied or Http404."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        return get_object_or_404(self.get_queryset(request), pk=pk)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(("GET", "HEAD"))
        row = self.get_object(request, unquote(object_id))
        if row is None and live.is_poll(request):
            raise Http404  # for a person, a redirect; for the page's script, a redirect is the log-in
        if row is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)  # type: ignore[attr-defined,no-any-return]
        return self.render_page(request, self.page_template, row, self.page(request, row))

    def render_page(
        self, request: HttpRequest, template: str, row: Model | None, context: dict[str, Any]
    ) -> HttpResponse:
        request.current_app = self.admin_site.name  # Django's views do the same
        shell = self.admin_site.each_context(request)
        context = {**shell, "opts": self.opts, "original": row, "title": str(row), **context}
        return live.answer(request, TemplateResponse(request, template, context))


class Audited(_Admin):
    """Django's forms, with a line of the audit log in the transaction of each change."""

    #: The word for the object in audit actions: `change.NOUN`.
    noun: ClassVar[str] = ""

    def described(self, row: Any) -> dict[str, Any]:
        """The values of a row that the audit log keeps, before and after a change."""
        return {}

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        before = self.model._base_manager.filter(pk=obj.pk).first() if change else None
        request.before_the_change = self.described(before) if before is not None else None  # type: ignore[attr-defined]
        super().save_model(request, obj, form, change)

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        Trail.of(request).record(f"add.{self.noun}", obj, after=self.described(obj))
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        fields = [field for part in message for field in part.get("changed", {}).get("fields", [])]
        before = getattr(request, "before_the_change", None)
        Trail.of(request).record(
            f"change.{self.noun}", obj, before=before, after={**self.described(obj), "changed": fields}
        )
        return super().log_change(request, obj, message)

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        for row in queryset:
            Trail.of(request).record(f"delete.{self.noun}", row, before=self.described(row))
        return super().log_deletions(request, queryset)

    def response_action(self, *args: Any, **kwargs: Any) -> Any:
        with transaction.atomic():  # Django opens no transaction here, and one action can delete several rows
            return super().response_action(*args, **kwargs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """A value of a menu that stands for rows of several values, such as “needs attention”."""

    word: str
    tone: str
    where: Q


class Several(admin.SimpleListFilter):
    """A filter of which several values can be chosen: `?mark=current&mark=under_way`. A row matches if one value does.

    A choice is a link that adds its value to the address, or takes a chosen value out of it. Subclasses have `lookups`
    and `where`; a value that `lookups` does not have is ignored.
    """

    parameter_name: str
    chosen: list[str]

    def __init__(self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any) -> None:
        self.chosen = list(dict.fromkeys(params.get(self.parameter_name, ())))[:MAX_MENU_CHOICES]
        super().__init__(request, params, model, model_admin)

    def where(self, value: str) -> Q:
        """The rows that match one value of `lookups`, as a condition."""
        raise NotImplementedError

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        known = {str(value) for value, _ in self.lookup_choices}
        wanted = [self.where(value) for value in self.chosen if value in known]
        return queryset.filter(reduce(or_, wanted)) if wanted else queryset

    def choices(self, changelist: ChangeList) -> Any:
        yield self.everything(changelist)
        for value, word in self.lookup_choices:
            yield self.choice(changelist, str(value), str(word))

    def everything(self, changelist: ChangeList) -> dict[str, Any]:
        """The first choice, which chooses no value."""
        return {
            "value": "",
            "selected": not self.chosen,
            "query_string": self._address(changelist, []),
            "display": "All",
        }

    def choice(self, changelist: ChangeList, value: str, word: str) -> dict[str, Any]:
        """A choice of the menu. The address of a chosen one leaves it out, that of another one adds it."""
        selected = value in self.chosen
        others = [each for each in self.chosen if each != value]
        return {
            "value": value,
            "selected": selected,
            "query_string": self._address(changelist, others if selected else [*others, value]),
            "display": word,
            "tone": TONES.get(value, ""),
        }

    def _address(self, changelist: ChangeList, values: list[str]) -> str:
        query = {name: each for name, each in changelist.filter_params.items() if name != self.parameter_name}
        return "?" + urlencode(sorted({**query, self.parameter_name: values}.items()), doseq=True)


class Menu(Several):
    """A filter as a menu of values with counts. One GROUP BY gives the counts of all menus of a list.

    Django's filters count each value by an expression of its own, which becomes slow with many values. Subclasses set
    `field` and, for the names of the values, `label` (a field) or `words`. A field of a related row (`project__ref`)
    is counted by its foreign key, which an index answers; the names are read afterwards. The values of `together` are
    the first choices.
    """

    field: ClassVar[str]
    label: ClassVar[str] = ""
    words: ClassVar[dict[str, str]] = {}  # value → word, in the order of the menu
    together: ClassVar[dict[str, Together]] = {}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return []

    def has_output(self) -> bool:
        return True

    @property
    def column(self) -> str:
        """The column of the listed table: the value itself, or the foreign key of the row that has the value."""
        relation, _, field = self.field.partition("__")
        return f"{relation}_id" if field else relation

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.chosen:
            return queryset
        values: Any = [value for value in self.chosen if value not in self.together]
        relation, _, field = self.field.partition("__")
        if field:
            values = self._related(queryset).filter(**{f"{field}__in": values}).values("pk")
        wanted = [self.together[value].where for value in self.chosen if value in self.together]
        return queryset.filter(reduce(or_, wanted, Q(**{f"{relation}__in": values})))

    def choices(self, changelist: ChangeList) -> Any:
        counts = self._named(self._counted(changelist), changelist.root_queryset)
        found = {str(value): count for value, _, count in counts}
        shown = sorted(counts, key=lambda row: -row[2])[:MAX_MENU_CHOICES]
        shown += [row for row in counts if str(row[0]) in self.chosen and row not in shown]
        order = {value: place for place, value in enumerate(self.words)}
        shown.sort(key=lambda row: (order.get(str(row[0]), len(order)), row[1].casefold()))
        yield {**self.everything(changelist), "count": sum(count for *_, count in counts)}
        for value, each in self.together.items():
            count = self._counted_together(changelist, value)
            yield {**self.choice(changelist, value, each.word), "tone": each.tone, "count": count}
        for value, word, count in shown:
            yield {**self.choice(changelist, str(value), word), "count": count}
        for value in self.chosen:  # no row that the other filters leave has it
            if value not in found and value not in self.together:
                yield {**self.choice(changelist, value, self.words.get(value) or value or "–"), "count": 0}

    def _counted(self, changelist: ChangeList) -> dict[Any, int]:
        """Value of the column → number of rows that match all other filters."""
        counts: dict[Any, int] = {}
        for row in self._combinations(changelist):
            counts[row[self.column]] = counts.get(row[self.column], 0) + row["number"]
        return counts

    def _counted_together(self, changelist: ChangeList, value: str) -> int:
        """The number of rows that match all other filters, and a value of `together`."""
        return sum(row[f"number_{value}"] for row in self._combinations(changelist))

    def _combinations(self, changelist: ChangeList) -> list[dict[str, Any]]:
        """The values of all menus' columns in rows that match all other filters. Unused menus share one query."""
        known: dict[str, list[dict[str, Any]]] = changelist.__dict__.setdefault("counted_for_menus", {})
        used = self.parameter_name if self.chosen else ""
        if used not in known:
            menus = [spec for spec in changelist.filter_specs if isinstance(spec, Menu)]
            numbers = {
                f"number_{value}": Count(Value(1), filter=each.where)
                for spec in menus
                for value, each in spec.together.items()
            }
            rows = changelist.get_queryset(self.request, exclude_parameters=self.expected_parameters()).order_by()
            columns = dict.fromkeys(spec.column for spec in menus)
            known[used] = list(rows.values(*columns).annotate(number=Count("*"), **numbers))
        return known[used]

    def _named(self, counts: dict[Any, int], rows: QuerySet[Any]) -> list[tuple[Any, str, int]]:
        """(value, word, number of rows) for every value."""
        field = self.field.partition("__")[2]
        if not field:
            return [(value, self.words.get(str(value)) or str(value or "–"), count) for value, count in counts.items()]
        known = self._related(rows)
        if len(counts) <= NAMED_BY_KEY:
            known = known.filter(pk__in=[key for key in counts if key is not None])
        label = self.label.partition("__")[2] or field
        found: dict[Any, tuple[str, int]] = {}
        for key, value, word in known.values_list("pk", field, label):
            if key in counts:
                found[value] = (str(word or "–"), found.get(value, ("", 0))[1] + counts[key])
        return [(value, word, count) for value, (word, count) in found.items()]

    def _related(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        relation: Any = rows.model._meta.get_field(self.field.partition("__")[0])
        related: QuerySet[Any] = relation.related_model._base_manager.order_by()
        return related


def menu(
    title: str,
    field: str,
    *,
    label: str = "",
    words: dict[str, str] | None = None,
    name: str = "",
    together: dict[str, Together] | None = None,
) -> type[Menu]:
    """A `Menu` for a field. `name`: its query parameter; default: the field's name."""
    own = {"title": title, "parameter_name": name or field, "field": field, "label": label}
    return type(f"{title}Menu", (Menu,), {**own, "words": words or {}, "together": together or {}})
