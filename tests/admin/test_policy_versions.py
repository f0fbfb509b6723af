"""The pages of versions of the default policy: what they say, and that a button does what its page has said."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from deployments.admin.policy_versions import ACTS, ROLL_OUT, UNDO
from deployments.config import Configuration
from deployments.models import AuditEntry, PolicyStep, PolicyVersion, Project, Repository, VersionState
from deployments.reconcile import policy_versions
from sandbox.control import Sandbox
from tests.admin.installation import DESIRED, HOST, OWNER, Installation, policy
from tests.support.rollouts import ONE, TWO, allowing, newest, repositories_in_sync, started_with, work_off

VERSIONS = "/admin/deployments/policyversion/"


def text_of(client: Client, address: str, **query: str) -> str:
    response = client.get(address, query)
    assert response.status_code == 200
    return " ".join(html.unescape(response.content.decode()).split())


def page_of(client: Client, row: PolicyVersion, **query: str) -> str:
    return text_of(client, f"{VERSIONS}{row.pk}/change/", **query)


def proposed(state: str, *, steps: int = 0, **values: Any) -> PolicyVersion:
    """The third version of the installation's registry, in this state."""
    active = PolicyVersion.objects.get(state=VersionState.ACTIVE)
    if state == VersionState.ACTIVE:
        PolicyVersion.objects.filter(pk=active.pk).update(state=VersionState.SUPERSEDED)
    made: dict[str, Any] = {
        "number": 3, "follows": active, "text": policy_versions.text_row(policy("222222222222")),
        "proposed_by": "web process on web-1", "why": "Account 333333333333 loses pull.", **values,
    }  # fmt: skip
    row = PolicyVersion.objects.create(account=OWNER, region="us-east-1", namespace="trigger", state=state, **made)
    for repository in Repository.objects.filter(host=HOST).order_by("pk")[:steps]:
        PolicyStep.objects.create(
            version=row, repository=repository, stage=0, state="written", before=policy_versions.text_row(DESIRED)
        )
    return row


# --------------------------------------------------------------------------------------------------------- the buttons


@pytest.mark.wide
@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("state", VersionState.values)
@pytest.mark.parametrize("act", ACTS)
def test_a_version_offers_what_its_views_do_and_nothing_else(
    act: str, state: str, steps: int, installation: Installation, operator: Client
) -> None:
    row, address = proposed(state, steps=steps), ""
    address = reverse(f"admin:deployments_policyversion_{act}", args=[row.pk])
    offered = f'href="{address}"' in page_of(operator, row)

    assert (operator.get(address).status_code == 200) == offered
    with transaction.atomic():
        operator.post(address)
        row.refresh_from_db()
        done = row.state != state
        transaction.set_rollback(True)
    assert done == offered


@pytest.mark.costly
@pytest.mark.parametrize("act", ACTS)
def test_each_button_needs_its_own_right_and_is_shown_only_to_who_has_it(
    act: str, installation: Installation, person: Callable[..., Client]
) -> None:
    state = ACTS[act].states[0]
    row = proposed(state, steps=1)
    right, other = ACTS[act].right, UNDO if ACTS[act].right == ROLL_OUT else ROLL_OUT
    address = reverse(f"admin:deployments_policyversion_{act}", args=[row.pk])
    without, having = person("view_policyversion", other), person("view_policyversion", right)

    assert address not in page_of(without, row)
    assert without.get(address).status_code == without.post(address).status_code == 403
    row.refresh_from_db()
    assert (row.state, AuditEntry.objects.count()) == (state, 0)
    assert address in page_of(having, row)
    assert having.post(address).status_code == 302
    row.refresh_from_db()
    assert row.state != state


def test_a_button_of_a_page_that_is_old_is_refused_with_the_state_of_now(
    installation: Installation, operator: Client
) -> None:
    row = proposed("waiting")
    operator.post(f"{VERSIONS}{row.pk}/start/")

    page = operator.post(f"{VERSIONS}{row.pk}/now/", follow=True).content.decode()

    row.refresh_from_db()
    assert (row.state, row.at_once) == (VersionState.CANARIES, False)
    assert "so this cannot be done" in page


def test_a_confirmation_names_the_command_that_does_the_same(installation: Installation, operator: Client) -> None:
    row = proposed("waiting")

    page = text_of(operator, f"{VERSIONS}{row.pk}/now/")

    assert "manage.py policy start 3 --now" in page
    assert "an account that loses its pull does not stop the roll-out" in page


@pytest.mark.costly
def test_the_reason_of_a_pause_stands_on_the_page(installation: Installation, operator: Client) -> None:
    row = proposed("batches", steps=1)

    operator.post(f"{VERSIONS}{row.pk}/pause/", {"reason": "OPS-7"})

    assert "Stopped by operator: OPS-7" in page_of(operator, row)


# ------------------------------------------------------------------------------------------------------------ the page


def test_the_page_says_why_a_version_waits_what_it_changes_and_which_environments_lose_pull(
    configure: Callable[..., Configuration], installation: Installation, operator: Client
) -> None:
    page = page_of(operator, proposed("waiting"))

    assert "The version waits for a person" in page
    assert "Account 333333333333 loses pull." in page
    assert "manage.py policy start 3" in page
    assert "account 333333333333 loses pull" in page
    assert "Running environments that lose pull" in page
    assert "web process on web-1" in page
    assert "data-running" not in page


@pytest.mark.costly
def test_the_page_of_a_roll_out_says_the_stage_and_counts_the_repositories(
    installation: Installation, operator: Client
) -> None:
    row = proposed("batches", stage=2, steps=1)
    for index, (stage, state) in enumerate(((1, "unchanged"), (1, "left"), (2, "open"), (2, "open"))):
        repository = Repository.objects.create(account=OWNER, region="us-east-1", host=HOST, name=f"trigger/{index}")
        words = "It is only observed." if state == "left" else ""
        PolicyStep.objects.create(version=row, repository=repository, stage=stage, state=state, words=words)
    for index in range(7):  # four in the next batch, and three in the last one
        Repository.objects.create(
            account=OWNER, region="us-east-1", host=HOST, name=f"trigger/left-{index}", management="full"
        )
    Repository.objects.filter(policy_steps=None).exclude(name__contains="/left-").delete()

    page = page_of(operator, row)

    assert "2 of 12 repositories have the version" in page
    assert "batch 2 of about 4" in page
    assert "data-running" in page
    assert 'aria-current="step"> <b>Batches</b>' in page
    assert page.count('data-key="step-') == 5
    left = page_of(operator, row, outcome="left")
    assert left.count('data-key="step-') == 1
    assert "It is only observed." in left


def test_in_at_once_the_page_says_how_to_go_back_and_has_no_button(
    installation: Installation, operator: Client
) -> None:
    active = PolicyVersion.objects.get(state="active")

    page = page_of(operator, active)

    assert "It was active at once, without stages." in page
    assert "To go back, change the setting back." in page
    assert not [act for act in ACTS if f"{VERSIONS}{active.pk}/{act}/" in page]


def test_a_version_of_a_registry_that_the_settings_do_not_name_says_so(
    installation: Installation, operator: Client
) -> None:
    row = proposed("batches")
    PolicyVersion.objects.filter(pk=row.pk).update(namespace="elsewhere")

    assert "The settings do not name the registry of this version" in page_of(operator, row)


@pytest.mark.costly
@pytest.mark.parametrize("state", ["waiting", "stopped"])
def test_a_version_that_needs_a_person_is_on_the_dashboard_with_its_reason_and_a_link(
    state: str, installation: Installation, operator: Client, person: Callable[..., Client]
) -> None:
    assert "Account 333333333333 loses pull." not in text_of(operator, "/admin/")
    row = proposed(state)

    page = text_of(operator, "/admin/")

    assert "Account 333333333333 loses pull." in page
    assert f'href="{VERSIONS}{row.pk}/change/"' in page
    assert "need a person" in page
    assert "Account 333333333333" not in text_of(person("view_repository"), "/admin/")


@pytest.mark.costly
def test_the_pages_of_a_version_take_at_most_twenty_queries_whatever_its_number_of_repositories(
    installation: Installation, operator: Client
) -> None:
    row = proposed("stopped", steps=2, resumes="canaries", reason="Stopped.")
    page_of(operator, row)
    found = []
    for number in (0, 60):
        for index in range(number):
            repository = Repository.objects.create(
                account=OWNER, region="us-east-1", host=HOST, name=f"trigger/more-{index}", management="full"
            )
            PolicyStep.objects.create(version=row, repository=repository, stage=0, pulled_before=[ONE])
        with CaptureQueriesContext(connection) as captured:
            page_of(operator, row)
            text_of(operator, f"{VERSIONS}{row.pk}/resume/")
        found.append(len(captured))

    assert found[0] == found[1] <= 2 * 20


# ----------------------------------------------------------------------------------------------------- a whole roll-out


@pytest.mark.costly
@pytest.mark.django_db(transaction=True)
def test_a_roll_out_is_started_stopped_by_itself_and_undone_in_the_console(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project, operator: Client, settings: Any
) -> None:
    own = started_with(ecr_configuration, allowing(ONE, TWO))
    rows = repositories_in_sync(own, project, 4)
    settings.CONFIGURATION = own = started_with(ecr_configuration, allowing(ONE))
    version = newest()
    page = f"{VERSIONS}{version.pk}/"

    operator.post(f"{page}start/")
    work_off(own)

    stopped = text_of(operator, f"{page}change/")
    assert "The roll-out is stopped" in stopped
    assert f"Account {TWO} could pull" in stopped
    assert "1 of 4 repositories has" not in stopped
    assert "Canaries: stopped" in stopped
    resume = text_of(operator, f"{page}resume/")
    assert f"account {TWO}: 1 repository" in resume
    of_one = text_of(operator, reverse("admin:deployments_repository_change", args=[version.steps.get().repository_id]))
    assert "Version 2, in a roll-out; version 1 is active" in of_one
    other = Repository.objects.exclude(policy_steps__version=version)[0]
    of_other = text_of(operator, reverse("admin:deployments_repository_change", args=[other.pk]))
    assert "Version 1, active; version 2: stopped" in of_other

    operator.post(f"{page}undo/")
    work_off(own)

    assert newest().state == VersionState.UNDONE
    undone = text_of(operator, f"{page}change/")
    assert "Put back" in undone
    assert "Undone by operator." in undone
    assert len(rows) == 4
    actions = set(AuditEntry.objects.values_list("action", flat=True))
    assert {"start.version", "rollback.version"} <= actions
