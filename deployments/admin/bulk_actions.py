"""The actions of the console on repositories: reconcile, adopt, take over, override. On one, some, or all that a filter
leaves.

Nothing here calls AWS: a check is a sweep, which is written as a row and run by a worker. A GET first shows what will
happen to which repositories; its URL has the selection, so it can be opened again and shared. Only the buttons for a
single repository act without such a page.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import BooleanField, ExpressionWrapper, Q, QuerySet
from django.db.models.functions import Now
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.html import format_html
from django.views.decorators.http import require_POST

from deployments import clock, tasks
from deployments.access.audit import Trail
from deployments.admin.pages import Button, ReadOnly, back_to, may, require, say_if_no_worker, who
from deployments.errors import Refusal
from deployments.models import Repository, RepositoryStatus, Sweep
from deployments.reconcile import requests, targets
from deployments.row_values import MANAGED, Management

ROWS_SHOWN = 20  # repositories of the selection that the confirmation page names


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkAction:
    """An action on repositories: the word on its button, the permission that it needs, and what it will do.

    `where` selects the repositories that it is for. Lists, pages and the action itself use this one condition.
    """

    name: str
    word: str
    right: str
    says: str
    where: Q
    by_sweep: bool = True  # only repositories of a registry that the settings name can be checked by a sweep

    def meant(self) -> Q:
        """The repositories that the action is for, as a condition."""
        return self.where & targets.rows(settings.CONFIGURATION) if self.by_sweep else self.where


_CHECKED_BY_SWEEPS = Q(management__in=MANAGED) | Q(status=RepositoryStatus.MISSING)

BULK_ACTIONS = {
    bulk.name: bulk
    for bulk in (
        BulkAction(
            name="reconcile",
            word="Reconcile now",
            right="reconcile_repository",
            says="A worker reads every part of each repository and corrects what differs from the settings. Where an "
            "exception or the setting says observe, the worker only reports. It also checks whether missing "
            "repositories exist again.",
            where=_CHECKED_BY_SWEEPS,
        ),
        BulkAction(
            name="preview",
            word="Refresh (writes nothing)",
            right="reconcile_repository",
            says="A worker reads every part of each repository, also of unmanaged and missing ones. It records here "
            "what it sees, and writes nothing to AWS.",
            where=_CHECKED_BY_SWEEPS | Q(management=Management.UNMANAGED),
        ),
        BulkAction(
            name="adopt",
            word="Adopt",
            right="adopt_repository",
            says="From now on the discovered repositories are managed: they get the policy and tags of the settings. A "
            "lifecycle policy and tags that somebody else chose stay.",
            where=Q(management=Management.UNMANAGED),
        ),
        BulkAction(
            name="take",
            word="Take over",
            right="adopt_repository",
            says="Adopted repositories are managed fully: a lifecycle policy and a tag mutability that somebody else "
            "chose are overwritten by the settings.",
            where=Q(management=Management.ADOPTED),
        ),
        BulkAction(
            name="except",
            word="Make an exception",
            right="except_repository",
            says="Until a time of your choice the policy is only observed, or is enforced, regardless of the setting. "
            "Then the exception ends.",
            where=~Q(status=RepositoryStatus.UNMANAGED),
            by_sweep=False,
        ),
        BulkAction(
            name="end",
            word="End the exception",
            right="except_repository",
            says="From the next check on, these repositories follow the setting again.",
            where=Q(mode__in=("observe", "enforce"), mode_until__gt=Now()),
            by_sweep=False,
        ),
    )
}
ACTIONS_WITHOUT_QUESTION = ("reconcile", "preview", "end")  # for one repository


class OverrideForm(forms.Form):
    """The form of an override. The reason and the end are required, so that no forgotten override stays for years."""

    mode = forms.ChoiceField(
        label="Mode",
        choices=[
            ("observe", "Observe: report what differs, write nothing"),
            ("enforce", "Enforce: correct what differs"),
        ],
        initial="observe",
        widget=forms.RadioSelect,
    )
    hours = forms.TypedChoiceField(
        label="Until",
        coerce=int,
        initial=24,
        choices=[(1, "in 1 hour"), (4, "in 4 hours"), (24, "in 1 day"), (72, "in 3 days"), (168, "in 7 days"),
                 (720, "in 30 days")],
    )  # fmt: skip
    reason = forms.CharField(label="Reason", max_length=300, help_text="Shown with the repository, and in its history.")

    def values(self) -> dict[str, Any]:
        """Mode, end and reason of a valid form."""
        data = self.cleaned_data
        until = clock.now() + timedelta(hours=data["hours"])
        return {"mode": data["mode"], "until": until, "reason": data["reason"]}


def _ask(name: str) -> Any:
    """An entry of the list's action menu. It redirects to the confirmation page."""

    def action(self: BulkActions, request: HttpRequest, queryset: QuerySet[Repository]) -> HttpResponse:
        if request.POST.get("select_across") == "1":
            chosen = request.GET.urlencode()
        else:
            chosen = urlencode([("pk", pk) for pk in request.POST.getlist(ACTION_CHECKBOX_NAME)])
        return HttpResponseRedirect(f"{reverse('admin:deployments_repository_ask')}?look={name}&{chosen}")

    action.__name__ = f"ask_{name}"
    return admin.action(description=BULK_ACTIONS[name].word, permissions=[BULK_ACTIONS[name].right.split("_")[0]])(
        action
    )


class BulkActions(ReadOnly):
    """Adds the actions to the repositories' list and pages."""

    actions = [_ask(name) for name in BULK_ACTIONS]

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path("ask/", wrap(self.ask_view), name="deployments_repository_ask"),
            path(
                "<int:pk>/look/<str:name>/",
                wrap(require_POST(self.bulk_action_view)),
                name="deployments_repository_look",
            ),
            *super().get_urls(),
        ]

    def has_reconcile_permission(self, request: HttpRequest) -> bool:
        return may(request, "reconcile_repository")

    def has_adopt_permission(self, request: HttpRequest) -> bool:
        return may(request, "adopt_repository")

    def has_except_permission(self, request: HttpRequest) -> bool:
        return may(request, "except_repository")

    def bulk_action_view(self, request: HttpRequest, pk: int, name: str) -> HttpResponse:
        """POST of a button for one repository: run the action, then go back to the page that it came from."""
        if name not in ACTIONS_WITHOUT_QUESTION:
            raise Http404
        bulk = BULK_ACTIONS[name]
        require(request, bulk.right)
        row = self.one(request, pk)
        self._do(request, bulk, Repository.objects.filter(bulk.meant(), pk=row.pk), target=row)
        return HttpResponseRedirect(back_to(request, reverse("admin:deployments_repository_change", args=[row.pk])))

    def ask_view(self, request: HttpRequest) -> HttpResponse:
        """GET shows the repositories and what will happen to them; POST does it."""
        if not self.has_view_permission(request):
            return HttpResponseRedirect(reverse("admin:index"))
        bulk, chosen = BULK_ACTIONS.get(request.GET.get("look", "")), request.GET.getlist("pk")
        keep = request.GET.copy()
        try:
            everything = self.all_that_match(request, "look", "pk", "p")
        except IncorrectLookupParameters:
            return HttpResponseRedirect(reverse("admin:deployments_repository_changelist"))
        filtered = request.GET.urlencode()
        rows = everything.filter(pk__in=[pk for pk in chosen if pk.isdecimal()][:1000]) if chosen else everything
        if bulk is not None:
            require(request, bulk.right)
            rows = rows.filter(bulk.meant())
        form = OverrideForm(request.POST or None) if bulk is not None and bulk.name == "except" else None
        if request.method == "POST" and bulk is not None and (form is None or form.is_valid()):
            exception = form.values() if form is not None else {}
            address = self._do(request, bulk, rows, **exception)
            return HttpResponseRedirect(address or f"{reverse('admin:deployments_repository_changelist')}?{filtered}")
        keep.pop("look", None)
        number = rows.count()
        return self.render_page(
            request,
            "registry_admin/bulk_action.html",
            None,
            {
                "title": bulk.word if bulk else "All that match",
                "action": bulk,
                "actions": [each for each in BULK_ACTIONS.values() if may(request, each.right)],
                "selection": keep.urlencode(),
                "number": number,
                "rows": rows.order_by("name", "pk")[:ROWS_SHOWN],
                "more": number > ROWS_SHOWN,
                "back": f"{reverse('admin:deployments_repository_changelist')}?{filtered}",
                "by_filter": not chosen,
                "form": form,
            },
        )

    def _do(
        self,
        request: HttpRequest,
        bulk: BulkAction,
        rows: QuerySet[Repository],
        *,
        target: Repository | None = None,
        **exception: Any,
    ) -> str:
        """Run the action and show a message. Returns the URL of the sweep that does the work, or an empty text."""
        action, configuration, by = f"{bulk.name}.repository", settings.CONFIGURATION, who(request)
        rows = rows.select_related(None)
        sweep: Sweep | None = None
        after: dict[str, Any] = {}
        try:
            with Trail.of(request).change(action, target) as line:
                match bulk.name:
                    case "except":
                        count = requests.set_override(rows=rows.only("pk"), by=by, **exception)
                        words = "The exception was made." if count == 1 else f"{count:,} exceptions were made."
                        after = {**exception, "until": exception["until"].isoformat()}
                    case "end":
                        count = requests.end_override(rows=rows.only("pk", "mode"), by=by)
                        words = "The exception was ended." if count == 1 else f"{count:,} exceptions were ended."
                        with contextlib.suppress(
                            Refusal
                        ):  # no repository is left for a sweep, which is not an error here
                            sweep = (
                                requests.request_sweep(rows=rows, configuration=configuration, by=by) if count else None
                            )
                    case "adopt":
                        count, sweep = requests.adopt(rows=rows, configuration=configuration, by=by)
                        words = f"{count:,} adopted."
                    case "take":
                        count, sweep = requests.take_over(rows=rows, configuration=configuration, by=by)
                        words = f"{count:,} taken over."
                    case _:
                        sweep = requests.request_sweep(
                            rows=rows,
                            configuration=configuration,
                            by=by,
                            dry_run=bulk.name == "preview",
                        )
                        count = len(sweep.names)
                        it = "the repository" if count == 1 else f"{count:,} repositories"
                        words = f"{bulk.word}: queued for {it}."
                names = sweep.names if sweep else []
                line.after = {"repositories": count, **({"names": names} if names else {}), **after}
        except Refusal as refusal:
            self.message_user(request, refusal.sentence, messages.ERROR)
            return ""
        if sweep is None:
            self.message_user(request, words, messages.SUCCESS if count else messages.WARNING)
            return ""
        tasks.wake_workers()
        address = reverse("admin:deployments_sweep_change", args=[sweep.pk])
        self.message_user(request, format_html('{} <a href="{}">View {}</a>', words, address, sweep), messages.SUCCESS)
        say_if_no_worker(request, sweep)
        return address


def offered(request: HttpRequest, row: Repository) -> list[BulkAction]:
    """The actions that this person may use on this repository in its current state. One query."""
    actions = [bulk for bulk in BULK_ACTIONS.values() if may(request, bulk.right)]
    answers = Repository.objects.filter(pk=row.pk).values_list(*(applies(bulk) for bulk in actions)).first()
    return [bulk for bulk, answer in zip(actions, answers or (), strict=False) if answer] if actions else []


def with_offers(request: HttpRequest, rows: QuerySet[Repository]) -> QuerySet[Any]:
    """`rows`, each with what `offers_of` reads: whether an action that this person may use is for it."""
    return rows.annotate(
        **{f"may_{bulk.name}": applies(bulk) for bulk in BULK_ACTIONS.values() if may(request, bulk.right)}
    )


def offers_of(row: Any) -> list[BulkAction]:
    """The actions on a row of `with_offers` that its person may use."""
    return [bulk for bulk in BULK_ACTIONS.values() if getattr(row, f"may_{bulk.name}", False)]


def applies(bulk: BulkAction) -> ExpressionWrapper[Any]:
    """A query expression: whether the action is for the row."""
    return ExpressionWrapper(bulk.meant(), output_field=BooleanField())


def button(bulk: BulkAction, row: Repository, *, excepted: bool) -> Button:
    """The button for one repository: it acts at once, or links to the confirmation page."""
    style = "button" if bulk.name in ("reconcile", "adopt") else "closelink"
    if bulk.name in ACTIONS_WITHOUT_QUESTION:
        address = reverse("admin:deployments_repository_look", args=[row.pk, bulk.name])
        return Button(word=bulk.word, address=address, style=style, posts=True)
    word = "Change the exception" if bulk.name == "except" and excepted else bulk.word
    address = f"{reverse('admin:deployments_repository_ask')}?look={bulk.name}&pk={row.pk}"
    return Button(word=f"{word}…", address=address, style=style)
