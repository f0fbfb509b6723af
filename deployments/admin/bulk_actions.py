"""What people have done to repositories: looked at, adopted, excepted; one, some, or all that a filter leaves.

Nothing here asks AWS: a look is a sweep that is written down and done by a worker. What will happen, and to which, is
shown first by a GET; its address holds the selection, so it can be looked at again and shared. Only the buttons for
one repository, which do what their names say, come without a page in between.
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
from deployments.admin.pages import Button, ReadOnly, back_to, may, require, who
from deployments.errors import Refusal
from deployments.models import Repository, RepositoryStatus, Sweep
from deployments.reconcile import requests, targets
from deployments.row_values import MANAGED, Management

ROWS_SHOWN = 20  # of the selection, on the page that asks


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkAction:
    """Something that can be done to repositories: its button, the right that it takes, and what it will do.

    `where` says to which repositories; lists, pages and the action itself ask by it, and nothing else decides.
    """

    name: str
    word: str
    right: str
    says: str
    where: Q
    by_sweep: bool = True  # only repositories of a registry that the settings name can be checked by a sweep

    def meant(self) -> Q:
        return self.where & targets.rows(settings.CONFIGURATION) if self.by_sweep else self.where


_CHECKED_BY_SWEEPS = Q(management__in=MANAGED) & ~Q(status=RepositoryStatus.MISSING)

BULK_ACTIONS = {
    bulk.name: bulk
    for bulk in (
        BulkAction(
            name="reconcile",
            word="Reconcile now",
            right="reconcile_repository",
            says="A worker looks at each and puts right what differs from the settings. Where an exception or the "
            "setting says observe, it only looks.",
            where=_CHECKED_BY_SWEEPS,
        ),
        BulkAction(
            name="preview",
            word="Dry run",
            right="reconcile_repository",
            says="A worker looks at each and reports what it would write. Nothing changes, in AWS or here.",
            where=_CHECKED_BY_SWEEPS,
        ),
        BulkAction(
            name="recheck",
            word="Check everything again",
            right="reconcile_repository",
            says="As reconcile, and lifecycle policy, AWS tags and tag mutability are read too, however lately they "
            "were. A missing repository is looked for again.",
            where=_CHECKED_BY_SWEEPS | Q(status=RepositoryStatus.MISSING),
        ),
        BulkAction(
            name="adopt",
            word="Adopt",
            right="adopt_repository",
            says="Discovered repositories are kept as the settings say from now on. A lifecycle policy and tags that "
            "somebody else chose stay.",
            where=Q(management=Management.UNMANAGED),
        ),
        BulkAction(
            name="take",
            word="Take over",
            right="adopt_repository",
            says="Adopted repositories are brought in line altogether: a lifecycle policy that somebody else wrote, "
            "and tags that may be overwritten, become what the settings say.",
            where=Q(management=Management.ADOPTED),
        ),
        BulkAction(
            name="except",
            word="Make an exception",
            right="except_repository",
            says="Until a time of your choice the policy is only observed, or is enforced, whatever the setting says. "
            "The exception ends by itself.",
            where=~Q(status=RepositoryStatus.UNMANAGED),
            by_sweep=False,
        ),
        BulkAction(
            name="end",
            word="End the exception",
            right="except_repository",
            says="They follow the setting again, from the next look on.",
            where=Q(mode__in=("observe", "enforce"), mode_until__gt=Now()),
            by_sweep=False,
        ),
    )
}
ACTIONS_WITHOUT_QUESTION = ("reconcile", "preview", "recheck", "end")  # for one repository, without a page that asks


class OverrideForm(forms.Form):
    """An exception has a reason and an end, so that nobody finds one years later and wonders."""

    mode = forms.ChoiceField(
        label="Mode",
        choices=[
            ("observe", "Observe: report what differs, write nothing"),
            ("enforce", "Enforce: put right what differs"),
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
        data = self.cleaned_data
        until = clock.now() + timedelta(hours=data["hours"])
        return {"mode": data["mode"], "until": until, "reason": data["reason"]}


def _ask(name: str) -> Any:
    """The entry of a list's menu of actions: it leads to the page that asks."""

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
    """The actions of repositories."""

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
        """The buttons for one repository."""
        if name not in ACTIONS_WITHOUT_QUESTION:
            raise Http404
        bulk = BULK_ACTIONS[name]
        require(request, bulk.right)
        row = self.one(request, pk)
        self._do(request, bulk, Repository.objects.filter(bulk.meant(), pk=row.pk), target=row)
        return HttpResponseRedirect(back_to(request, reverse("admin:deployments_repository_change", args=[row.pk])))

    def ask_view(self, request: HttpRequest) -> HttpResponse:
        """GET: which repositories, and what will happen to them; POST does it."""
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
        """Do it, say so, and return where what comes of it can be seen: a sweep's page, or nowhere."""
        action, configuration, by = f"{bulk.name}.repository", settings.CONFIGURATION, who(request)
        rows = rows.select_related(None)
        sweep: Sweep | None = None
        after: dict[str, Any] = {}
        try:
            with Trail.of(request).change(action, target) as line:
                match bulk.name:
                    case "except":
                        count = requests.set_override(rows=rows.only("pk"), by=by, **exception)
                        words, after = f"{count:,} excepted.", {**exception, "until": exception["until"].isoformat()}
                    case "end":
                        count = requests.end_override(rows=rows.only("pk", "mode"), by=by)
                        words = "The exception was ended." if count == 1 else f"{count:,} exceptions were ended."
                        with contextlib.suppress(Refusal):  # no repository is left for a sweep: not an error here
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
                            thorough=bulk.name == "recheck",
                        )
                        count = len(sweep.names)
                        it = "it" if count == 1 else f"{count:,} repositories"
                        words = f"{bulk.word}: a worker looks at {it} now."
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
        self.message_user(request, format_html('{} <a href="{}">Watch {}</a>', words, address, sweep), messages.SUCCESS)
        return address


def offered(request: HttpRequest, row: Repository) -> list[BulkAction]:
    """What this person may do to this repository as it is now. One query."""
    actions = [bulk for bulk in BULK_ACTIONS.values() if may(request, bulk.right)]
    answers = Repository.objects.filter(pk=row.pk).values_list(*(applies(bulk) for bulk in actions)).first()
    return [bulk for bulk, answer in zip(actions, answers or (), strict=False) if answer] if actions else []


def applies(bulk: BulkAction) -> ExpressionWrapper[Any]:
    """For a query over repositories: whether the action is meant for the row."""
    return ExpressionWrapper(bulk.meant(), output_field=BooleanField())


def button(bulk: BulkAction, row: Repository, *, excepted: bool) -> Button:
    """The button for one repository: an action that is done at once, or a link to the page that asks."""
    style = "button" if bulk.name in ("reconcile", "adopt") else "closelink"
    if bulk.name in ACTIONS_WITHOUT_QUESTION:
        address = reverse("admin:deployments_repository_look", args=[row.pk, bulk.name])
        return Button(word=bulk.word, address=address, style=style, posts=True)
    word = "Change the exception" if bulk.name == "except" and excepted else bulk.word
    address = f"{reverse('admin:deployments_repository_ask')}?look={bulk.name}&pk={row.pk}"
    return Button(word=f"{word}…", address=address, style=style)
