"""“Who can pull”: repositories × consumer accounts on one page, the worst first, from what the last looks saw.

No call to AWS. The button “Refresh” starts a sweep that looks and writes nothing to AWS (D-refresh). A cell claims what
its row has, and says on which policy and statement that rests, and how old it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.db.models import Count, Q, QuerySet, Value
from django.db.models.functions import Lower
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from deployments.admin import sweeps
from deployments.admin.display import ago, badge, mark, two_lines
from deployments.admin.exports import Exports
from deployments.admin.pages import Nouns, ReadOnly, Several, may, menu, require, shown_configuration
from deployments.config import Configuration
from deployments.models import RegistryPolicyReading, Repository, RepositoryStatus, Sweep, SweepStatus
from deployments.reconcile import pull_states, targets
from deployments.reconcile.pull_states import PullState
from deployments.reconcile.targets import Target

TITLE = "Who can pull"
#: State → its value in the address, tone and word, the worst first.
STATES = {
    PullState.NO: ("no", "bad", "Does not pull"),
    PullState.DEPENDS: ("depends", "warn", "Depends"),
    PullState.UNKNOWN: ("unknown", "idle", "Unknown"),
    PullState.YES: ("yes", "ok", "Pulls"),
}


SIGNS = {PullState.NO: "✕", PullState.DEPENDS: "~", PullState.UNKNOWN: "?", PullState.YES: "✓"}
MARKED = 4  # up to so many accounts have a mark of their own in a row of another list


@dataclass(kw_only=True)
class Asked:
    """What a request asks for: the configuration that counts, its consumer accounts, and those that are shown."""

    configuration: Configuration
    accounts: list[str]
    shown: list[str]

    @classmethod
    def of(cls, request: HttpRequest) -> Asked:
        """Made once for each request."""
        found: Asked | None = getattr(request, "asked_for_pulls", None)
        if found is None:
            configuration = shown_configuration()
            accounts = [] if configuration.problems else pull_states.consumer_accounts(configuration)
            chosen = [account for account in accounts if account in request.GET.getlist("consumer")]
            found = cls(configuration=configuration, accounts=accounts, shown=chosen or accounts)
            request.asked_for_pulls = found  # type: ignore[attr-defined]
        return found

    @cached_property
    def targets(self) -> list[Target]:
        """The targets of the configuration; none if no consumer account is set."""
        return targets.configured(self.configuration) if self.accounts else []

    @cached_property
    def readings(self) -> dict[tuple[str, str], RegistryPolicyReading]:
        """(account, region) → the last reading of the registry's policy."""
        return {(each.account, each.region): each for each in RegistryPolicyReading.objects.all()}

    @property
    def registries(self) -> list[tuple[str, RegistryPolicyReading | None]]:
        """(account and region, the last reading of its policy) of each configured registry."""
        found = {(each.registry.account, each.registry.region) for each in self.targets}
        return [(" ".join(key), self.readings.get(key)) for key in sorted(found)]


class ConsumerMenu(Several):
    """Which accounts are columns. It leaves no row out."""

    title = "Account"
    parameter_name = "consumer"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(account, account) for account in Asked.of(request).accounts]

    def has_output(self) -> bool:
        return len(self.lookup_choices) > 1

    def queryset(self, request: HttpRequest, queryset: QuerySet[Repository]) -> QuerySet[Repository]:
        return queryset


class StateMenu(Several):
    """The repositories from which at least one of the shown accounts has one of the chosen states."""

    title = "State"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(value, word) for value, _, word in STATES.values()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Repository]) -> QuerySet[Repository]:
        shown = Asked.of(request).shown
        found = Q()
        for state, (value, *_) in STATES.items():
            for account in shown if value in self.chosen else ():
                found |= Q(**{f"pull_{account}": state})
        return queryset.filter(found)

    def choices(self, changelist: Any) -> Any:
        for choice in super().choices(changelist):
            state = next((state for state, (value, *_) in STATES.items() if value == choice["value"]), None)
            yield {**choice, "count": changelist.rows_with(state)}


class Matrix(Nouns):
    """The list. One GROUP BY gives the numbers of its menu and of its summary."""

    combinations: list[tuple[int, ...]] | None = None  # states of the shown accounts, and the number of rows with them

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        super().__init__(request, *args, **kwargs)
        self.title = TITLE
        self.asked = Asked.of(request)
        self.request = request

    def _combinations(self) -> list[tuple[int, ...]]:
        if self.combinations is None:
            columns = [f"pull_{account}" for account in self.asked.shown]
            rows = self.get_queryset(self.request, exclude_parameters=["state"]).order_by()
            self.combinations = list(rows.values_list(*columns).annotate(number=Count("*"))) if columns else []
        return self.combinations

    def rows_with(self, state: PullState | None) -> int:
        """The number of repositories that the other filters leave, with this state for a shown account; None: all."""
        return sum(number for *found, number in self._combinations() if state is None or state in found)

    @property
    def summary(self) -> list[tuple[str, list[tuple[SafeString, int, str]]]]:
        """(account, its states): each state as badge, the number of repositories, and the address of their list."""
        found = []
        for place, account in enumerate(self.asked.shown):
            counts: Counter[int] = Counter()
            for combination in self._combinations():
                counts[combination[place]] += combination[-1]
            cells = [
                (mark(tone, word), counts[state], self.get_query_string({"consumer": account, "state": value}, ["p"]))
                for state, (value, tone, word) in STATES.items()
                if counts[state]
            ]
            found.append((account, cells))
        return found


class Pulls(Exports, ReadOnly):
    """The page. Not registered: the site gives it an address of its own beside the list of repositories."""

    change_list_template = "registry_admin/pulls.html"
    actions = None
    list_per_page = 25  # with two accounts the page is as heavy as 50 rows of other lists
    list_filter = (ConsumerMenu, StateMenu, menu("Project", "project__ref", label="project__name"))
    search_fields = ("name", "project__name", "project__ref")
    search_help_text = "Repository or project"
    sortable_by = ("name_cell", "pulled", "looked")
    ordering = ("worst", Lower("name"))  # an expression, so that no column is marked as sorted
    nothing_yet = "No repositories yet. The first deploy of a project makes its repository, and a sweep finds others."

    def page_view(self, request: HttpRequest) -> HttpResponse:
        """GET shows the list, to people who may see repositories; POST starts a refresh of all repositories."""
        if request.method == "POST":
            require(request, "start_sweep")
            sweep = sweeps.start(request, dry_run=True)
            address = reverse("admin:deployments_sweep_change", args=[sweep.pk])
            words = format_html('Refresh: queued for all repositories. <a href="{}">View {}</a>', address, sweep)
            self.message_user(request, words, messages.SUCCESS)
            return HttpResponseRedirect(request.get_full_path())
        asked = Asked.of(request)
        return self.changelist_view(
            request,
            {
                "own_place": True,  # the navigation and the path do not take it for the list of repositories
                "asked": asked,
                "may_refresh": bool(asked.accounts) and may(request, "start_sweep"),
                "running": Sweep.objects.filter(status=SweepStatus.RUNNING).first(),
            },
        )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return Matrix

    def get_queryset(self, request: HttpRequest) -> QuerySet[Repository]:
        asked = Asked.of(request)
        if not asked.shown:
            return Repository.objects.annotate(worst=Value(PullState.UNKNOWN)).none()
        rows = pull_states.states(asked.configuration, asked.shown).select_related("project")
        return rows.defer("policy_text", "lifecycle_text", "differences", "tags", "mutability", "encryption")

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        asked = Asked.of(request)
        accounts = [_column(account, asked) for account in asked.shown]
        return ["name_cell", "status_cell", *accounts, "pulled", "looked"]

    @admin.display(description="Repository", ordering="name")
    def name_cell(self, row: Repository) -> str:
        name = format_html("<code>{}</code>", row.name)
        return two_lines(row.project, name) if row.project else two_lines(name, "no project")

    @admin.display(description="Policy")
    def status_cell(self, row: Repository) -> str:
        return badge(row)

    @admin.display(description="Last pulled", ordering="last_pulled_at")
    def pulled(self, row: Repository) -> str:
        if row.pulls_read_at is None:
            return "not seen"
        return two_lines(ago(row.last_pulled_at, "no pull recorded"), format_html("asked {}", ago(row.pulls_read_at)))

    @admin.display(description="Checked", ordering="last_checked_at")
    def looked(self, row: Repository) -> str:
        looked = ago(row.last_checked_at, "never")
        return two_lines(looked, "the last attempt failed") if row.last_error else looked

    def columns_for(self, request: HttpRequest) -> Mapping[str, Callable[[Any], Any]]:
        columns: dict[str, Callable[[Any], Any]] = {
            "name": lambda row: row.name,
            "account": lambda row: row.account,
            "region": lambda row: row.region,
            "project": lambda row: row.project.ref if row.project else None,
            "status": lambda row: row.status,
            "last_checked_at": lambda row: row.last_checked_at,
            "last_pulled_at": lambda row: row.last_pulled_at,
            "pulls_read_at": lambda row: row.pulls_read_at,
        }
        for account in Asked.of(request).shown:
            columns |= {account: partial(_value, account), f"{account} reason": partial(_words, account)}
        return columns


def _state(row: Repository, account: str) -> PullState:
    return PullState(getattr(row, f"pull_{account}"))


def marks(row: Repository, accounts: Sequence[str]) -> SafeString:
    """A mark for each consumer account, with its state in words for a mouse and a screen reader; “–” without accounts.

    Of more than MARKED accounts, a mark for each state with the number of accounts. The row has `pull_ACCOUNT`.
    """
    found = [(account, _state(row, account)) for account in accounts]
    if len(found) > MARKED:
        counts = Counter(state for _, state in found)
        each = {state: "1 account" if counts[state] == 1 else f"{counts[state]} accounts" for state in STATES}
        shown = [(state, f" {counts[state]}", each[state]) for state in STATES if counts[state]]
    else:
        shown = [(state, "", f"Account {account}") for account, state in found]
    return format_html_join(
        " ",
        '<span class="pull {}" title="{}: {}"><span aria-hidden="true">{}{}</span>'
        '<span class="visually-hidden">{}: {}.</span></span>',
        ((STATES[state][1], who, words := STATES[state][2].lower(), SIGNS[state], number, who, words)
         for state, number, who in shown),
    ) or SafeString("–")  # fmt: skip


def _value(account: str, row: Repository) -> str:
    """The state as the address and a file have it."""
    return STATES[_state(row, account)][0]


def _words(account: str, row: Repository) -> str:
    """The reason for the state, in a sentence."""
    answer = row.consumers.get(account)
    if row.status == RepositoryStatus.MISSING:
        return "The repository was deleted from ECR."
    if answer is None:
        return f"Not checked yet. {row.last_error}".strip()
    return answer.words


def _rests_on(account: str, row: Repository) -> str:
    """The policy and the statement that decide, in a few words."""
    answer = row.consumers.get(account)
    if row.status == RepositoryStatus.MISSING:
        return "the repository was deleted"
    if answer is None:
        return "not checked yet"
    if answer.verdict == "unknown":
        return "a policy was not read"
    otherwise = "no statement allows it" if answer.verdict == "no" else "not understood"
    return ", ".join(filter(None, (answer.layer, answer.statement))) or otherwise


def _column(account: str, asked: Asked) -> Callable[[Repository], str]:
    """The column of a consumer account."""

    def cell(row: Repository) -> str:
        state = _state(row, account)
        name = format_html('<span class="of-account">{}</span>', account)
        _, tone, word = STATES[state]
        reading = asked.readings.get((row.account, row.region))
        title = f"{_words(account, row)} {_ages(row, reading)}"
        rests: str = _rests_on(account, row)
        if state is not PullState.YES:
            address = reverse("admin:deployments_repository_change", args=[row.pk])
            hidden = format_html('<span class="visually-hidden"> for {} from {}</span>', account, row.name)
            rests = format_html('<a href="{}#pullers-title">{}{}</a>', address, rests, hidden)
        shown = format_html('<span title="{}">{}</span>', title, mark(tone, word))
        return two_lines(format_html("{}{}", name, shown), rests)

    cell.__name__ = "pull"
    return admin.display(description=SafeString(f"<code>{account}</code>"))(cell)


def _ages(row: Repository, reading: RegistryPolicyReading | None) -> str:
    """How old the answer is, for the text that a mouse shows. The columns and the head of the list show the same."""
    read_at = reading.read_at if reading is not None else None
    return f"Repository policy: {_time(row.last_checked_at)}. Registry policy: {_time(read_at)}."


def _time(moment: datetime | None) -> str:
    return f"read {moment:%d %b %Y, %H:%M} UTC" if moment is not None else "not read"
