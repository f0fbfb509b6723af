"""The page of a repository: its cards agree with each other in every state, and it says what is important first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from deployments.admin.sidebyside import side_by_side
from deployments.config import Configuration
from deployments.models import EventKind, Repository, RepositoryStatus, Sweep
from deployments.policy import RegistryPolicy, Trust
from deployments.reconcile import desired, repositories, sweep_record, writes_pause
from deployments.row_values import Difference, Part
from sandbox.control import Sandbox
from tests.admin.installation import CLUSTER, DESIRED, ENVIRONMENT, HOST, LIVE, STAGING, Installation, policy
from tests.support.constants import TRAIL
from tests.support.registry import calls, delete_repository, fill
from tests.support.sweeps import work_off

OTHER, ODD = policy(CLUSTER, roots=True, actions=["ecr:*"]), policy(CLUSTER, roots=True, Novelty={"Until": "2027"})


def page_of(operator: Client, row: Repository) -> str:
    address = reverse("admin:deployments_repository_change", args=[row.pk])
    return " ".join(operator.get(address).content.decode().split())


# ------------------------------------------------------------------------------------------------- no contradictions


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A state that the program writes to a row: the status, what differs, and the settings around it."""

    status: str
    differs: str  # nothing, policy, none (there is no policy), reported, waits, odd (incomparable)
    error: str = ""  # heals, person
    mode: str = ""
    paused: bool = False
    management: str = "full"

    def __str__(self) -> str:
        words = (self.status, self.differs, self.error, self.mode, "paused" * self.paused, self.management)
        return "-".join(word for word in words if word)


def states() -> Iterator[State]:
    around = list(itertools.product(("", "observe", "enforce"), (False, True), ("full", "adopted")))
    for mode, paused, management in around:
        common: dict[str, Any] = {"mode": mode, "paused": paused, "management": management}
        for differs in ("nothing", "reported"):
            yield State(status="in_sync", differs=differs, **common)
        for differs in ("policy", "none", "waits", "odd"):
            yield State(status="drifted", differs=differs, **common)
        for differs, error in itertools.product(("nothing", "policy", "none", "reported"), ("heals", "person")):
            yield State(status="failed", differs=differs, error=error, **common)
    for paused in (False, True):
        yield State(status="missing", differs="nothing", paused=paused, management="")
        yield State(status="pending", differs="nothing", paused=paused, management="")
        for differs in ("nothing", "policy", "none", "odd"):
            yield State(status="unmanaged", differs=differs, paused=paused, management="unmanaged")


def write(state: State, row: Repository) -> None:
    """Make the row one that the program could have written."""
    now = timezone.now()
    text = {"policy": OTHER, "none": "", "odd": ODD}.get(state.differs, LIVE)
    found = desired.policy_differences(DESIRED, text or None, partition="aws", trust=Trust(owner=row.account))
    if state.differs in ("reported", "waits"):
        words = {"reported": "Tag mutability is MUTABLE.", "waits": "Version 1 would go."}[state.differs]
        found = [Difference(part=Part.MUTABILITY, words=words, fixable=False)]
        if state.differs == "waits":
            found = [Difference(part=Part.LIFECYCLE, words=words, fixable=True, waits=True)]
    if state.status == "unmanaged":
        found = []
    arn = f"arn:aws:ecr:us-east-1:{row.account}:repository/{row.name}"
    consumers = desired.pullers(text, RegistryPolicy(text=""), (CLUSTER, STAGING), arn=arn, partition="aws")
    values: dict[str, Any] = {
        "status": state.status, "management": state.management, "differences": found, "policy_text": text,
        "origin": "created" if state.management == "full" else "adopted", "consumers": consumers,
        "last_checked_at": now - timedelta(hours=1), "last_in_sync_at": now - timedelta(days=1),
        "details_checked_at": now - timedelta(hours=1),
        "drifted_since": now - timedelta(hours=2) if state.status == "drifted" else None,
        "incomparable_since": now if state.differs == "odd" and state.management != "unmanaged" else None,
        "mode": state.mode, "mode_until": now + timedelta(hours=1) if state.mode else None, "mode_reason": "x",
        "last_error": "", "last_error_at": None, "error_since": None, "last_error_heals": False,
    }  # fmt: skip
    if state.error:
        heals = state.error == "heals"
        values |= {"last_error": "AWS said no.", "last_error_code": "X", "last_error_heals": heals}
        values |= {"last_error_at": now, "error_since": now - timedelta(seconds=2)}
    if state.status == "missing":
        values |= dict(repositories.GONE)
    if state.status in ("pending", "missing"):
        values |= {"policy_text": "", "consumers": {}}
    if state.status == "pending":
        values |= {"last_checked_at": None, "details_checked_at": None, "last_in_sync_at": None, "origin": ""}
    for name, value in values.items():
        setattr(row, name, value)
    row.save()


CORRECTS, NEEDS, HEALS = "The next reconcile corrects it.", "Needs a person", "A later attempt may succeed"
SAME, OTHERWISE, DELETED = "The same in what it allows", "Differs in what it allows", "was deleted"
#: Pairs of words that never stand on one page.
CONTRADICTIONS = [
    *((CORRECTS, other) for other in (NEEDS, HEALS, "only observed until", "are paused", DELETED, "Unmanaged</span>")),
    *((CORRECTS, other) for other in ("The last attempt failed", "Reported only", "In sync</span>")),
    ("counts as in sync", "The last attempt failed"),
    ("counts as in sync", "Drifted</span>"),
    ("In sync</span>", "What differs from the settings"),
    ("In sync</span>", "The last attempt failed"),
    ("Exception: left as it is", "are paused"),
    (NEEDS, HEALS),
    (NEEDS, "the next attempt tries again"),
    (HEALS, "Not corrected: the last attempt failed"),
    (SAME, OTHERWISE),
    (SAME, '<span class="tag">policy</span>'),
    (SAME, "cannot be compared"),
    (SAME, DELETED),
    (SAME, "Not checked yet"),
    ("May pull</span>", DELETED),
    ("May pull</span>", "Not checked yet"),
    ("May pull</span>", "Nobody"),
    ("May pull</span>", "It had none at the last check"),
    ("No risks", "May be open"),
    ("It had none at the last check", DELETED),
    ("No risks", DELETED),
    ("Restore this policy…", DELETED),
    ("As configured", DELETED),
    ("only observed until", "enforced until"),
]  # fmt: skip


@pytest.mark.wide
def test_no_two_cards_contradict_each_other_in_any_state(installation: Installation, operator: Client) -> None:
    row = Repository.objects.filter(host=HOST, status="in_sync")[0]
    wrong, seen = list[str](), set[str]()
    every = sorted(states(), key=lambda state: state.paused)
    for state in every:
        if state.paused and writes_pause.current() is None:
            writes_pause.pause(trail=TRAIL, reason="an incident")
        write(state, row)
        page = page_of(operator, row).split("<main")[1]
        seen |= {words for pair in CONTRADICTIONS for words in pair if words in page}
        wrong += [f"{state}: {one} / {other}" for one, other in CONTRADICTIONS if one in page and other in page]
        # “Reported only” and what happens are said of each difference exactly once.
        assert page.count("differences-title") == (2 if row.differences else 0), str(state)

    assert wrong == []
    assert {CORRECTS, NEEDS, HEALS, SAME, OTHERWISE, DELETED, "counts as in sync", "are paused"} <= seen


@pytest.mark.costly
@pytest.mark.parametrize(
    ("status", "words"),
    [("in_sync", "So the repository counts as in sync."), ("failed", "Registry Admin does not change it")],
)
def test_what_is_only_reported_has_a_card_of_its_own(
    status: str, words: str, installation: Installation, operator: Client
) -> None:
    row = Repository.objects.filter(host=HOST, status="in_sync")[0]
    write(State(status=status, differs="reported", error="heals" * (status == "failed"), management="adopted"), row)

    page = page_of(operator, row)

    assert '<span class="tag">1 reported only</span>' in page
    assert words in page
    assert ("counts as in sync" in page) == (status == "in_sync")


@pytest.mark.costly
def test_a_policy_that_differs_only_from_the_settings_of_now_is_not_called_the_same(
    installation: Installation, operator: Client
) -> None:
    row = Repository.objects.filter(host=HOST, status="in_sync")[0]
    assert "The same in what it allows" in page_of(operator, row)

    row.policy_text = OTHER  # the last check compared it with settings of which OTHER was the default policy
    row.save()

    page = page_of(operator, row)
    assert "Differs from the settings of now, which the last check did not know" in page
    assert "The same in what it allows" not in page


@pytest.mark.costly
@pytest.mark.parametrize(
    ("mode", "words"), [("", "Left as it is: the settings say observe."), ("observe", "Exception: ")]
)
def test_a_difference_that_is_only_observed_says_because_of_what(
    mode: str, words: str, installation: Installation, operator: Client, configure: Callable[..., Configuration]
) -> None:
    configure(**ENVIRONMENT, **({} if mode else {"DEPLOY_REGISTRY_ECR_POLICY_MODE": "observe"}))
    row = Repository.objects.filter(host=HOST, status="in_sync")[0]
    row.last_in_sync_at = timezone.now()
    write(State(status="drifted", differs="policy", mode=mode), row)

    card = page_of(operator, row).split('id="differences-title"')[1].split("</section>")[0]

    assert words in card
    assert (f"until {row.mode_until:%d %b %Y, %H:%M} UTC." in card) if row.mode_until else "until" not in card
    assert CORRECTS not in card


@pytest.mark.costly
def test_an_error_says_when_it_was_met_first_only_if_that_was_before_the_last_attempt(
    installation: Installation, operator: Client
) -> None:
    row = Repository.objects.filter(host=HOST, status="in_sync")[0]
    write(State(status="failed", differs="nothing", error="person"), row)
    assert ", first " not in page_of(operator, row)

    row.error_since = timezone.now() - timedelta(hours=3)
    row.save()

    page = page_of(operator, row)
    assert ", first <time" in page
    assert "</time>, failed</dd>" in page.split("<dt>Last attempt</dt>")[1].split("</div>")[0]


@pytest.mark.costly
@pytest.mark.parametrize(
    ("status", "words"),
    [("in_sync", "In sync."), ("failed", "No difference was found."), ("unmanaged", "The repository was read.")],
)
def test_the_card_of_a_check_that_found_nothing_does_not_call_a_repository_in_sync_that_is_not(
    status: str, words: str, installation: Installation, operator: Client
) -> None:
    row = Repository.objects.filter(host=HOST, status="in_sync")[0]
    now = timezone.now()
    Sweep.objects.create(
        trigger="person", names=[row.name], dry_run=True, status="done", listed_at=now, finished_at=now
    )
    Repository.objects.filter(pk=row.pk).update(status=status)

    card = page_of(operator, row).split('id="check-title"')[1].split("</section>")[0]

    assert f"<p> {words} " in card


# ----------------------------------------------------------------------------------------------- what stands first


@pytest.mark.costly
def test_the_name_of_the_project_is_the_title_and_the_ref_stands_below(
    installation: Installation, operator: Client
) -> None:
    row = Repository.objects.filter(host=HOST, status="in_sync", project__isnull=False)[0]
    page = page_of(operator, row)

    name = str(row.project)
    assert f'<h1 class="named"> {name} <code>{row.name}</code> </h1>' in page
    assert f'<li aria-current="page">{name}</li>' in page
    assert f"In sync · {name} · {row.name}" in page.split("<title>")[1].split("</title>")[0]

    Repository.objects.filter(pk=row.pk).update(project=None)
    page = page_of(operator, row)
    assert f"<h1> <code>{row.name}</code> </h1>" in page
    assert f'<li aria-current="page">{row.name}</li>' in page


@pytest.mark.costly
def test_who_can_pull_stands_above_the_policy(installation: Installation, operator: Client) -> None:
    page = page_of(operator, Repository.objects.filter(host=HOST, status="in_sync")[0])

    assert page.index("pullers-title") < page.index("policy-title") < page.index("history-title")


def test_a_sid_is_no_difference_and_no_comma_is_one() -> None:
    without = policy(CLUSTER).replace('"Sid": "NodesPull", ', "")
    renamed = policy(CLUSTER, Sid="Nodes")

    lines = [line for line in side_by_side(without, policy(CLUSTER)) if line.differs]
    assert [(line.left, (line.right or "").strip()) for line in lines] == [(None, '"Sid": "NodesPull"')]
    for left, right in ((without, policy(CLUSTER)), (renamed, policy(CLUSTER))):
        assert all(line.is_name for line in side_by_side(left, right) if line.differs)
    other = side_by_side(policy(CLUSTER, Condition={"StringEquals": {"Sid": "x"}}), policy(CLUSTER))
    assert not any(line.is_name for line in other)


@pytest.mark.costly
def test_a_difference_of_a_sid_is_dimmed_and_explained(installation: Installation, operator: Client) -> None:
    row = Repository.objects.filter(host=HOST, status="in_sync")[0]
    words = "A <code>Sid</code> is only the name of a statement"
    assert words not in page_of(operator, row)

    row.policy_text = policy(STAGING, CLUSTER, roots=True, Sid="Another")
    row.save()

    page = page_of(operator, row)
    assert words in page
    assert '<tr class="name">' in page
    assert '<tr class="differs">' not in page


# ----------------------------------------------------------------------------------- deleted behind the program's back


@pytest.mark.costly
@pytest.mark.django_db(transaction=True)
def test_reconcile_of_a_repository_that_was_deleted_says_that_and_keeps_its_history(
    consumers: Configuration, sandbox: Sandbox, operator: Client
) -> None:
    [name] = fill(sandbox, consumers, 1)
    before = Repository.objects.get(name=name)
    assert before.last_in_sync_at is not None
    delete_repository(sandbox, name)
    sandbox.reset_calls()

    operator.post(reverse("admin:deployments_repository_look", args=[before.pk, "reconcile"]))
    sweep = Sweep.objects.get()
    work_off(consumers, sweep)

    row = Repository.objects.get(name=name)
    far = sweep_record.progress(sweep)
    assert (row.status, row.last_error) == (RepositoryStatus.MISSING, "")
    assert (far.missing, far.drifted, far.failed, far.done, far.total) == (1, 0, 0, 1, 1)
    assert {call for call in calls(sandbox) if call.startswith(("Set", "Put", "Create", "Tag"))} == set()
    assert row.last_checked_at is not None
    assert row.events.get().kind == EventKind.MISSING
    page = page_of(operator, row)
    assert "Deleted from ECR" in page
    assert "right after it was made" not in page
    facts = page.split('id="facts-title"')[1].split("</section>")[0]
    assert f"last in sync {before.last_in_sync_at:%d %b %Y, %H:%M} UTC" in facts
    assert "<dt>Last checked</dt><dd><time" in facts
    assert "never" not in facts
