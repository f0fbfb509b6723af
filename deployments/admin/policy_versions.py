"""Versions of the default policies: a list, and a page with the roll-out, what the version changes, and its buttons.

Each button leads to a page that says what will happen; the POST of that page does it, by `reconcile.rollouts`. A worker
takes the steps, and the page of a version that moves renews itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Page, Paginator
from django.db.models import Count, Exists, OuterRef, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse

from deployments import policy, tasks
from deployments.access.audit import Trail
from deployments.admin.display import ago, badge, one_line, two_lines
from deployments.admin.pages import (
    Alarm,
    Button,
    Nouns,
    ReadOnly,
    audit_of,
    may,
    menu,
    require,
    shown_configuration,
    who,
)
from deployments.admin.sidebyside import side_by_side
from deployments.aws.partitions import partition_of
from deployments.config import Configuration, RegistryConfig
from deployments.errors import Refusal
from deployments.models import PolicyStep, PolicyVersion, ProcessRole, Repository, StepState, VersionState
from deployments.reconcile import processes, rollouts, what_if
from deployments.reconcile.policy_versions import MOVING, OPEN
from deployments.reconcile.targets import Target
from deployments.row_values import MANAGED

ROLL_OUT, UNDO = "roll_out_policyversion", "undo_policyversion"
REPOSITORIES_SHOWN = 100
LOST_SHOWN = 20
WAITING, CANARIES, WATCHING = VersionState.WAITING, VersionState.CANARIES, VersionState.WATCHING
BATCHES, STOPPED, ACTIVE = VersionState.BATCHES, VersionState.STOPPED, VersionState.ACTIVE
_HAVE_IT = (StepState.WRITTEN, StepState.UNCHANGED)
_WITHOUT_STAGES = "It was active at once, without stages."


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What a person can do with a version. `command`: of manage.py, with the same result. `says`: what will happen."""

    word: str
    right: str
    states: tuple[VersionState, ...]
    command: str
    says: str
    done: str
    is_danger: bool = False


#: The last part of the address → the act.
ACTS: Mapping[str, Act] = {
    "start": Act(
        word="Start",
        right=ROLL_OUT,
        states=(WAITING,),
        command="policy start {}",
        says="The canaries get the version first, and are watched. Then it is written in batches, each twice as large "
        "as the one before. The roll-out stops by itself when an account that could pull from a repository cannot any "
        "more, or when AWS refuses a write.",
        done="The roll-out has started.",
    ),
    "now": Act(
        word="Start at once",
        right=ROLL_OUT,
        states=(WAITING,),
        command="policy start {} --now",
        says="Every repository gets the version as soon as workers can write it. There are no canaries, and an account "
        "that loses its pull does not stop the roll-out. Use it to take access away without delay.",
        done="The version is being written to every repository.",
        is_danger=True,
    ),
    "pause": Act(
        word="Pause",
        right=ROLL_OUT,
        states=(CANARIES, WATCHING, BATCHES),
        command="policy pause {}",
        says="Repositories that have the version keep it. The others keep the version before.",
        done="The roll-out is stopped.",
    ),
    "resume": Act(
        word="Resume",
        right=ROLL_OUT,
        states=(STOPPED,),
        command="policy resume {}",
        says="The roll-out goes on with the stage in which it was stopped.",
        done="The roll-out goes on.",
    ),
    "undo": Act(
        word="Undo",
        right=UNDO,
        states=(CANARIES, WATCHING, BATCHES, STOPPED, ACTIVE),
        command="policy rollback {}",
        says="Each repository that the version was written to gets exactly the policy from before back. Its policy is "
        "read first. Where it was changed since, it is left and listed. Repositories that the version was not written "
        "to are not touched.",
        done="The policies from before are being put back.",
        is_danger=True,
    ),
}


def is_possible(act: str, row: PolicyVersion) -> bool:
    """Whether `reconcile.rollouts` would do it now."""
    if row.state not in ACTS[act].states:
        return False
    return act != "undo" or rollouts.why_not_undone(row) == ""


class WithSteps(Nouns):
    """The list of versions. One query counts the repositories that have each version."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        rows: Any = list(self.result_list)
        steps = PolicyStep.objects.filter(version__in=[row.pk for row in rows], state__in=_HAVE_IT).order_by()
        have_it = dict(steps.values_list("version").annotate(Count("pk")))
        for row in rows:
            row.have_it = have_it.get(row.pk, 0)
        self.result_list = rows


@admin.register(PolicyVersion)
class PolicyVersionAdmin(ReadOnly):
    page_template = "registry_admin/policy_version.html"
    nothing_yet = (
        "No versions yet. A process makes the first one when it starts with a default repository policy: "
        "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY."
    )
    list_display = ("version", "state_cell", "registry", "brought", "rolled_out")
    list_filter = (menu("State", "state", words=dict(VersionState.choices)),)
    search_fields = ("account", "namespace", "proposed_by", "why", "reason")
    search_help_text = "Account, namespace, person, process or reason"
    sortable_by = ()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return WithSteps

    def get_queryset(self, request: HttpRequest) -> QuerySet[PolicyVersion]:
        return PolicyVersion.objects.select_related("text", "follows__text", "sweep")

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            *(
                path(f"<int:pk>/{act}/", wrap(self.act_view), {"act": act}, name=f"deployments_policyversion_{act}")
                for act in ACTS
            ),
            *super().get_urls(),
        ]

    def act_view(self, request: HttpRequest, pk: int, act: str) -> HttpResponse:
        """GET says what will happen, POST does it and wakes a worker."""
        chosen = ACTS[act]
        require(request, chosen.right)
        row: PolicyVersion = self.one(request, pk)
        address = reverse("admin:deployments_policyversion_change", args=[row.pk])
        if request.method == "POST":
            try:
                _do(act, row, request)
            except Refusal as refusal:
                self.message_user(request, refusal.sentence, messages.ERROR)
            else:
                tasks.wake_workers()
                self.message_user(request, chosen.done, messages.SUCCESS)
            return HttpResponseRedirect(address)
        if not is_possible(act, row):
            return HttpResponseRedirect(address)  # the page of the version shows what is possible now
        configuration = shown_configuration()
        target = _target_of(row, configuration)
        lost = rollouts.lost_pulls(row, target) if act == "resume" and target is not None else []
        names = list(dict.fromkeys(name for name, _, _ in lost))
        return self.render_page(
            request,
            "registry_admin/policy_version_act.html",
            row,
            {
                "title": f"{chosen.word} version {row.number}?",
                "act": chosen,
                "style": "danger" if chosen.is_danger else "default",
                "command": f"manage.py {chosen.command.format(row.number)}",
                "asks_reason": act == "pause",
                "lost": sorted(Counter(account for _, account, _ in lost).items()),
                "lost_named": names[:LOST_SHOWN],
                "lost_more": max(0, len(names) - LOST_SHOWN),
                "answer": _preview(row, target, configuration) if row.state == WAITING else None,
            },
        )

    def page(self, request: HttpRequest, row: PolicyVersion) -> dict[str, Any]:
        configuration = shown_configuration()
        target = _target_of(row, configuration)
        before, partition = row.follows.text.text if row.follows else "", partition_of(row.region)
        counts, moves = _counts(row), row.state in MOVING
        comparison = policy.compare(before, row.text.text, partition=partition) if before else None
        outcome = request.GET.get("outcome", "")
        return {
            "title": str(row),
            "live": moves,
            "no_worker": processes.absence(ProcessRole.WORKER) if moves else "",
            "alarm": _alarm(row, has_target=target is not None),
            "buttons": [
                Button(
                    word=f"{act.word}…",
                    address=reverse(f"admin:deployments_policyversion_{name}", args=[row.pk]),
                    style="button danger" if act.is_danger else "button",
                )
                for name, act in ACTS.items()
                if may(request, act.right) and is_possible(name, row)
            ],
            "picture": list(_picture(row, counts)),
            "stages": Stages.of(counts, at_once=row.at_once),
            "have_it": sum(number for (_, state), number in counts.items() if state in _HAVE_IT),
            "all": counts.total() + (_without_step(row) if row.state in OPEN else 0),
            "outcome": outcome,
            "outcomes": list(_outcomes(counts)),
            "repositories": _repositories(row, outcome, request.GET.get("p", "1")),
            "comparison": comparison,
            "lines": side_by_side(before, row.text.text, partition=partition),
            "answer": _preview(row, target, configuration) if row.state in (WAITING, STOPPED) else None,
            "staged": configuration.staged,
            "without_stages": "" if counts or row.state in OPEN else _WITHOUT_STAGES,
            "audit": audit_of(request, row),
        }

    @admin.display(description="Version")
    def version(self, row: PolicyVersion) -> str:
        return f"Version {row.number}"

    @admin.display(description="State")
    def state_cell(self, row: PolicyVersion) -> str:
        return two_lines(badge(row), one_line(row.reason or row.why))

    @admin.display(description="Registry")
    def registry(self, row: PolicyVersion) -> str:
        return two_lines(row.account, f"{row.region}, {row.namespace}")

    @admin.display(description="Proposed")
    def brought(self, row: PolicyVersion) -> str:
        return two_lines(ago(row.proposed_at), row.proposed_by)

    @admin.display(description="Rolled out to")
    def rolled_out(self, row: Any) -> str:
        return f"{row.have_it:,} repositor{'y' if row.have_it == 1 else 'ies'}" if row.have_it else "–"


def _do(act: str, row: PolicyVersion, request: HttpRequest) -> None:
    """Raises Refusal if the version is in another state by now."""
    by, trail = who(request), Trail.of(request)
    match act:
        case "start" | "now":
            rollouts.start(version=row, at_once=act == "now", by=by, trail=trail)
        case "pause":
            reason = request.POST.get("reason", "").strip()[:300]
            rollouts.pause(version=row, reason=reason and f"Stopped by {by}: {reason}", by=by, trail=trail)
        case "resume":
            rollouts.resume(version=row, configuration=shown_configuration(), by=by, trail=trail)
        case _:
            rollouts.rollback(version=row, by=by, trail=trail)


def _target_of(row: PolicyVersion, configuration: Configuration) -> Target | None:
    return None if configuration.problems else rollouts.target_of(row, configuration)


def _preview(row: PolicyVersion, target: Target | None, configuration: Configuration) -> what_if.Rehearsal | None:
    """What the version would change in each repository; None if the settings do not name its registry."""
    return None if target is None else rollouts.preview(row, configuration)


def _alarm(row: PolicyVersion, *, has_target: bool) -> Alarm | None:
    """Why the version needs a person, and the next step; None: it needs none."""
    if row.state in OPEN and not has_target:
        place = f"{row.account}, {row.region}, {row.namespace}"
        return Alarm(
            title="The settings do not name the registry of this version",
            words=f"Nothing is written to {place} until they do.",
        )
    if row.state == WAITING:
        then = f"Start it here, or with manage.py policy start {row.number}. Until then no repository gets it."
        return Alarm(title="The version waits for a person", words=row.why, then=then, tone="warn")
    if row.state == STOPPED:
        then = f"Resume or undo it here, or with manage.py policy resume {row.number} or policy rollback {row.number}."
        return Alarm(title="The roll-out is stopped", words=row.reason, then=then)
    return None


# ---------------------------------------------------------------------------------------------------------- the stages


def _counts(row: PolicyVersion) -> Counter[tuple[int, str]]:
    """(stage, state of a step) → number of repositories. One query."""
    found = row.steps.order_by().values_list("stage", "state").annotate(number=Count("pk"))
    return Counter({(stage, state): number for stage, state, number in found})


def _without_step(row: PolicyVersion) -> int:
    """The number of managed repositories of the registry that no stage has chosen yet. One query."""
    has_step = Exists(PolicyStep.objects.filter(version=row, repository=OuterRef("pk")))
    rows = Repository.objects.filter(account=row.account, region=row.region, name__startswith=f"{row.namespace}/")
    return rows.filter(~has_step, management__in=MANAGED).count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The table of the stages: the columns that some stage has a number for, and a row for each stage."""

    columns: list[str]
    rows: list[tuple[str, int, list[int]]]  # name, number of repositories, the number of each column

    @classmethod
    def of(cls, counts: Counter[tuple[int, str]], *, at_once: bool) -> Stages:
        states = [state for state in StepState if any(state == each for _, each in counts)]
        return cls(
            columns=[str(state.label) for state in states],
            rows=[
                (
                    _stage_name(stage, at_once=at_once),
                    sum(number for (each, _), number in counts.items() if each == stage),
                    [counts[stage, state] for state in states],
                )
                for stage in sorted({stage for stage, _ in counts})
            ],
        )


def _stage_name(stage: int, *, at_once: bool) -> str:
    if stage == 0:
        return "All at once" if at_once else "Canaries"
    return f"Batch {stage}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A state in the picture of a roll-out. `tone`: ok, it was passed; idle, it comes later."""

    word: str
    tone: str
    is_present: bool
    words: str = ""
    at: datetime | None = None  # in the future: until then


def _picture(row: PolicyVersion, counts: Counter[tuple[int, str]]) -> Iterator[Place]:
    """The states of a roll-out in their order; none for a version that has none, or was superseded."""
    going_back = row.state in (VersionState.UNDOING, VersionState.UNDONE)
    if row.state == VersionState.SUPERSEDED or (row.state == ACTIVE and not counts):
        return
    order = [WAITING, BATCHES, ACTIVE] if row.at_once else [WAITING, CANARIES, WATCHING, BATCHES, ACTIVE]
    present = VersionState(row.resumes or CANARIES) if row.state == STOPPED else VersionState(row.state)
    if going_back:
        order = [WAITING, BATCHES] if row.stage or row.at_once else [WAITING, CANARIES]
        order.append(present)
    for place, state in enumerate(order):
        is_present, tone = state == present, "ok"
        if is_present and row.state != ACTIVE:
            tone = {STOPPED: "bad", VersionState.UNDONE: "idle"}.get(VersionState(row.state), "run")
        elif place > order.index(present):
            tone = "idle"
        word = f"{_WORDS[state]}: stopped" if is_present and row.state == STOPPED else _WORDS[state]
        passed = place < order.index(present)
        words, at = _of_state(row, state, counts, passed=passed, present=is_present)
        yield Place(word=word, tone=tone, is_present=is_present, words=words, at=at)


_WORDS = {
    WAITING: "Start",
    CANARIES: "Canaries",
    WATCHING: "Canaries watched",
    BATCHES: "Batches",
    ACTIVE: "Active",
    VersionState.UNDOING: "Is undone",
    VersionState.UNDONE: "Undone",
}


def _of_state(
    row: PolicyVersion, state: VersionState, counts: Counter[tuple[int, str]], *, passed: bool, present: bool
) -> tuple[str, datetime | None]:
    """What the picture says of a state, and since or until when."""
    sizes = Counter[int]()
    for (stage, _), number in counts.items():
        sizes[stage] += number
    if state == WAITING:
        return ("waits for a person", None) if present else (f"by {row.started_by}" * passed, row.started_at)
    if state == CANARIES and sizes[0]:
        return f"{sizes[0]} repositor{'y' if sizes[0] == 1 else 'ies'}", None
    if state == WATCHING and present and row.watched_until:
        return "until", row.watched_until
    if state == BATCHES and row.at_once:
        return "all at once", None
    if state == BATCHES and present and row.stage:
        left = 0 if passed else _without_step(row)
        return f"batch {row.stage} of about {row.stage + _batches(sizes[row.stage], left)}", None
    if state == BATCHES and passed and (done := max(sizes, default=0)):
        return f"{done} batch{'' if done == 1 else 'es'}", None
    return "", row.changed_at if present and row.state in (ACTIVE, VersionState.UNDONE) else None


def _batches(size: int, left: int) -> int:
    """How many batches follow one of so many repositories, if so many are left."""
    number = 0
    while left > 0:
        size = min(max(2 * size, 2), rollouts.MOST_IN_BATCH)
        left, number = left - size, number + 1
    return number


def _outcomes(counts: Counter[tuple[int, str]]) -> Iterator[tuple[str, str, int]]:
    """(value, word, number of repositories) of each state that a repository has."""
    for value, word in StepState.choices:
        if number := sum(each for (_, state), each in counts.items() if state == value):
            yield value, word, number


def _repositories(row: PolicyVersion, outcome: str, number: str) -> Page[PolicyStep]:
    """A page of the repositories of a roll-out. `outcome`: only those in this state; empty: all."""
    steps = row.steps.select_related("repository").only(
        "version", "stage", "state", "words", "written_at", "repository__name"
    )
    if outcome in StepState.values:
        steps = steps.filter(state=outcome)
    return Paginator(steps, REPOSITORIES_SHOWN).get_page(number)


# ------------------------------------------------------------------------------------------------- of a repository


@dataclass(frozen=True, slots=True, kw_only=True)
class OfRepository:
    """Which version a repository shall have, while not all repositories of its registry shall have the same one."""

    version: PolicyVersion  # that is rolled out
    words: str


def of_repository(row: Repository, config: RegistryConfig | None) -> OfRepository | None:
    """None if no roll-out is open, or the repository is not managed. At most one query."""
    if config is None or config.active_version is None or not row.is_managed:
        return None
    known = PolicyVersion.objects.in_bulk([pk for pk, _ in config.versions])
    active = known.get(config.active_version)
    opened = next((each for each in known.values() if each.state in OPEN), None)
    if active is None or opened is None:
        return None
    own = known.get(row.policy_version_id or active.pk, active)
    if own != active:
        words = f"Version {own.number}, in a roll-out; version {active.number} is active"
        return OfRepository(version=opened, words=words)
    state = opened.get_state_display().lower()
    return OfRepository(version=opened, words=f"Version {active.number}, active; version {opened.number}: {state}")
