"""The page “Who can pull”: repositories × consumer accounts, the worst first, from what the rows have."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.messages import get_messages
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from deployments import config
from deployments.config import Configuration
from deployments.models import AuditEntry, Process, Project, RegistryPolicyReading, Repository, Sweep, SweepTrigger
from deployments.reconcile import pull_states
from deployments.reconcile.pull_states import PullState
from deployments.row_values import ConsumerPull
from sandbox.control import Sandbox
from tests.admin.installation import CLUSTER, STAGING
from tests.support.constants import HOST, OWNER, POLICY
from tests.support.registry import calls, drift, fill
from tests.support.sweeps import sweep_all, work_off

pytestmark = pytest.mark.django_db
PULLS, WHY = "/admin/pulls/", "/admin/why/"
STRANGER = "trigger/proj_stranger"
Configure = Callable[..., Configuration]
SETTINGS = {
    "DEPLOY_REGISTRY_HOST": HOST,
    "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY,
    "DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS": f"{CLUSTER},{STAGING}",
    "RECONCILE_CALLS_PER_SECOND": "5000",
}


@pytest.fixture
def consumers(configure: Configure) -> Configuration:
    return configure(**SETTINGS)


def answer(verdict: str, layer: str = "", statement: str = "") -> ConsumerPull:
    return ConsumerPull(verdict=verdict, words=f"the words of {verdict}.", layer=layer, statement=statement)


def row(name: str, *verdicts: str, **values: Any) -> Repository:
    """A repository with these answers for the cluster's account and that of staging."""
    found = {account: answer(verdict) for account, verdict in zip((CLUSTER, STAGING), verdicts, strict=False)}
    about: dict[str, Any] = {
        "account": OWNER, "region": "us-east-1", "host": HOST, "name": f"trigger/{name}", "status": "in_sync",
        "origin": "created", "management": "full", "last_checked_at": timezone.now(), "consumers": found,
    }  # fmt: skip
    return Repository.objects.create(**about | values)


def names(client: Client, **query: str | list[str]) -> list[str]:
    response = client.get(PULLS, query)
    assert response.status_code == 200
    return [each.name.removeprefix("trigger/") for each in response.context["cl"].result_list]


def cells(client: Client, name: str, **query: str) -> list[str]:
    """The texts of the cells of a repository's line, without tags."""
    lines = re.findall(r"<tr>(.*?)</tr>", client.get(PULLS, query).content.decode(), re.DOTALL)
    [line] = [line for line in lines if f"<code>trigger/{name.removeprefix('trigger/')}</code>" in line]
    found = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line, re.DOTALL)
    return [html.unescape(re.sub(r"<[^>]*>", "", cell)) for cell in found]


@pytest.mark.costly
def test_the_worst_comes_first_and_what_was_not_looked_at_never_pulls(
    consumers: Configuration, operator: Client
) -> None:
    row("a-good", "yes", "yes")
    row("b-unseen", "yes")  # no answer about the account of staging
    row("c-unread", "unknown", "yes")
    row("d-depends", "yes", "depends")
    row("e-denied", "no", "yes")
    row("f-gone", status="missing", management="")
    row("g-new", status="pending", management="", last_checked_at=None)

    assert names(operator) == ["e-denied", "f-gone", "d-depends", "b-unseen", "c-unread", "g-new", "a-good"]
    assert names(operator, state="yes") == ["e-denied", "d-depends", "b-unseen", "c-unread", "a-good"]
    assert names(operator, state="unknown") == ["b-unseen", "c-unread", "g-new"]
    assert names(operator, state="no", consumer=STAGING) == ["f-gone"]
    assert names(operator, consumer=STAGING)[:2] == ["f-gone", "d-depends"]


@pytest.mark.costly
def test_a_word_of_a_newer_version_is_unknown_and_an_account_that_is_configured_no_more_is_not_shown(
    consumers: Configuration, operator: Client, configure: Configure
) -> None:
    row("one", "perhaps", "yes")

    assert "Unknown" in cells(operator, "one")[2]

    configure(**SETTINGS | {"DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS": STAGING})
    page = operator.get(PULLS).content.decode()
    assert (CLUSTER in page, STAGING in page) == (False, True)


@pytest.mark.costly
def test_a_cell_says_on_what_it_rests_how_old_it_is_and_leads_to_the_reason(
    consumers: Configuration, operator: Client
) -> None:
    read_at = timezone.now() - timedelta(minutes=7)
    RegistryPolicyReading.objects.create(account=OWNER, region="us-east-1", read_at=read_at)
    denied = {CLUSTER: answer("no", "registry policy", "Closed"), STAGING: answer("yes", "repository policy", "Nodes")}
    one = row("one", consumers=denied, last_checked_at=timezone.now() - timedelta(hours=2))

    page = operator.get(PULLS).content.decode()

    _, _, cluster, staging, pulled, looked = cells(operator, "one")
    assert "Does not pull" in cluster
    assert "registry policy, Closed" in cluster
    assert "Pulls" in staging
    assert "repository policy, Nodes" in staging
    assert (pulled, looked) == ("not seen", "2\xa0hours ago")
    assert f'href="/admin/deployments/repository/{one.pk}/change/#pullers-title"' in page
    assert f"the words of no. Repository policy: read {one.last_checked_at:%d %b %Y, %H:%M} UTC. " in page
    assert f"Registry policy: read {read_at:%d %b %Y, %H:%M} UTC." in page
    assert "7\xa0minutes ago" in page
    assert page.count(f'href="{WHY}"') == 2  # the navigation, and the head of the list
    assert 'id="pullers-title"' in operator.get(f"/admin/deployments/repository/{one.pk}/change/").content.decode()


def test_the_last_pull_is_shown_with_the_age_of_the_answer(consumers: Configuration, operator: Client) -> None:
    now = timezone.now()
    row("one", "yes", "yes", last_pulled_at=now - timedelta(days=3), pulls_read_at=now - timedelta(hours=1))
    row("two", "yes", "yes", pulls_read_at=now - timedelta(hours=1))

    assert cells(operator, "one")[4] == "3\xa0days agoasked 1\xa0hour ago"
    assert cells(operator, "two")[4].startswith("no pull recorded")


@pytest.mark.costly
def test_a_failed_look_is_named_beside_the_older_answer(consumers: Configuration, operator: Client) -> None:
    row("one", "yes", "yes", status="failed", last_error="AWS refused it.")
    row("two", status="unmanaged", management="unmanaged", last_checked_at=None, last_error="AWS refused it.")

    assert "the last attempt failed" in cells(operator, "one")[5]
    assert "Not checked yet. AWS refused it." in operator.get(PULLS).content.decode()


def test_only_repositories_of_registries_that_the_settings_name_are_listed(
    configure: Configure, operator: Client
) -> None:
    configure(**SETTINGS, V4_DEPLOY_REGISTRY_HOST=HOST.replace("us-east-1", "eu-west-1"))
    row("here", "yes", "yes")
    row("there", "no", "yes", region="eu-west-1")
    row("elsewhere", "no", "no", region="eu-central-1")

    assert names(operator) == ["there", "here"]


@pytest.mark.costly
def test_search_and_project_leave_out_the_others_and_the_numbers_obey(
    consumers: Configuration, operator: Client
) -> None:
    shop = Project.objects.create(name="Web shop", ref="proj_shop")
    row("proj_shop", "no", "yes", project=shop)
    row("proj_other", "no", "no")

    assert names(operator, q="shop") == names(operator, project__ref="proj_shop") == ["proj_shop"]
    page = operator.get(PULLS, {"project__ref": "proj_shop"}).content.decode()
    assert 'Does not pull<span class="number">1</span>' in page
    assert 'Does not pull<span class="number">2</span>' in operator.get(PULLS).content.decode()


@pytest.mark.parametrize("query", ["state=x", "consumer=%00", "project__ref='", "o=9.-9", "p=x", "consumer=1&state=no"])
def test_an_address_that_makes_no_sense_is_no_server_error(
    query: str, consumers: Configuration, operator: Client
) -> None:
    row("one", "yes", "yes")

    assert operator.get(f"{PULLS}?{query}").status_code < 500
    assert operator.get(f"{PULLS}export.csv?{query}").status_code < 500


def test_the_summary_counts_each_state_of_each_account_and_leads_to_the_list(
    consumers: Configuration, operator: Client
) -> None:
    for number, verdicts in enumerate([("no", "yes"), ("no", "yes"), ("depends", "yes")]):
        row(f"r{number}", *verdicts)

    response = operator.get(PULLS)

    [(_, cluster), (_, staging)] = response.context["cl"].summary
    assert [number for _, number, _ in cluster] == [2, 1]
    assert [number for _, number, _ in staging] == [3]
    assert names(operator, consumer=CLUSTER, state="no") == ["r0", "r1"]
    assert cluster[0][2] == f"?consumer={CLUSTER}&state=no"


def test_the_file_has_the_state_and_the_reason_of_each_account(consumers: Configuration, operator: Client) -> None:
    row("one", "no", "yes")
    row("two")

    text = operator.get(f"{PULLS}export.csv?state=no").getvalue().decode()
    lines = operator.get(f"{PULLS}export.jsonl").getvalue().decode()

    [found] = csv.DictReader(io.StringIO(text))
    assert (found["name"], found[CLUSTER], found[STAGING]) == ("trigger/one", "no", "yes")
    assert found[f"{CLUSTER} reason"] == "the words of no."
    assert [json.loads(line)[CLUSTER] for line in lines.splitlines()] == ["no", "unknown"]


@pytest.mark.costly
@pytest.mark.parametrize("accounts", ["", CLUSTER])
def test_without_a_consumer_account_the_page_names_the_setting(
    accounts: str, configure: Configure, operator: Client
) -> None:
    configure(**SETTINGS | {"DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS": accounts})
    row("one", "no")

    page = operator.get(PULLS).content.decode()

    assert ("DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS" in page) == (not accounts)
    assert ("an account cannot pull from" in operator.get("/admin/").content.decode()) == bool(accounts)
    assert operator.get(f"{PULLS}export.csv").status_code == 200


def test_settings_with_errors_are_no_server_error(consumers: Configuration, operator: Client, settings: Any) -> None:
    settings.CONFIGURATION = config.load({"DEPLOY_REGISTRY_HOST": "not a host"})

    assert "The settings have errors" in operator.get(PULLS).content.decode()


# ----------------------------------------------------------------------------------------------------------- who may


@pytest.mark.costly
def test_a_viewer_sees_it_and_only_who_may_start_sweeps_presses(
    consumers: Configuration, person: Callable[..., Client]
) -> None:
    viewer, presser, stranger = (
        person("view_repository"),
        person("view_repository", "start_sweep"),
        person("view_sweep"),
    )

    assert "Refresh" not in viewer.get(PULLS).content.decode()
    assert viewer.post(PULLS).status_code == 403
    assert [stranger.get(PULLS).status_code, stranger.post(PULLS).status_code] == [403, 403]
    assert stranger.get(f"{PULLS}export.csv").status_code == 403
    assert PULLS not in stranger.get("/admin/").content.decode()
    assert not Sweep.objects.exists()

    assert ">Refresh</button>" in presser.get(PULLS).content.decode()
    answer = presser.post(f"{PULLS}?state=no")

    sweep = Sweep.objects.get()
    assert (answer.status_code, answer["Location"]) == (302, f"{PULLS}?state=no")
    assert (sweep.dry_run, sweep.adopt, sweep.names, sweep.trigger) == (True, False, [], SweepTrigger.PERSON)
    assert AuditEntry.objects.get(action="start.sweep").after == {"dry_run": True, "adopt": False, "over": "all"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (json.dumps({"Version": "2012-10-17", "Statement": []}), "Differs in what it allows"),
        (json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Novelty": 1}]}), "Cannot be compared"),
        (POLICY, "The same in what it allows"),
    ],
)
def test_the_page_of_an_unmanaged_repository_compares_the_policy_that_a_refresh_saw(
    consumers: Configuration, operator: Client, text: str, says: str
) -> None:
    found = row("theirs", "no", status="unmanaged", management="unmanaged", origin="", policy_text=text)

    page = operator.get(f"/admin/deployments/repository/{found.pk}/change/").content.decode()

    [heading] = re.findall(r'id="policy-title">.*?<span class="quiet">(.*?)</span>', page, re.DOTALL)
    assert heading.strip() == says


def test_the_page_of_a_repository_that_is_gone_says_that_nobody_pulls(
    consumers: Configuration, operator: Client
) -> None:
    statement = {"Effect": "Allow", "Principal": {"AWS": CLUSTER}, "Action": "ecr:*", "Resource": "*"}
    RegistryPolicyReading.objects.create(
        account=OWNER, region="us-east-1", text=json.dumps({"Statement": [statement]}), scope="V2",
        read_at=timezone.now(),
    )  # fmt: skip
    found = row("gone", "yes", "yes", status="missing", management="", origin="")

    page = operator.get(f"/admin/deployments/repository/{found.pk}/change/").content.decode()

    assert "Nobody: the repository was deleted." in page
    assert "may pull" not in page.lower()
    assert "This rests on" not in page


def test_the_button_says_that_no_worker_runs(consumers: Configuration, operator: Client) -> None:
    Process.objects.create(role="worker", host="h", pid=1, beat_at=timezone.now() - timedelta(minutes=9))

    said = [str(each) for each in get_messages(operator.post(PULLS).wsgi_request)]

    assert any(words.startswith("No worker has been seen for 9 minutes.") for words in said)


@pytest.mark.costly
def test_it_is_the_first_entry_and_the_dashboard_and_the_set_up_page_lead_there(
    consumers: Configuration, operator: Client
) -> None:
    row("one", "no", "yes")
    row("two", "yes", "yes")
    dashboard = operator.get("/admin/")

    entries = [model["name"] for section in dashboard.context["available_apps"] for model in section["models"]]
    assert entries[0] == "Who can pull"
    assert dashboard.context["without_pull"] == 1
    assert "which, and why" in dashboard.content.decode()
    assert operator.get("/admin/setup/").content.decode().count(f'href="{PULLS}"') == 2
    assert '<a href="/admin/">Dashboard</a>' in operator.get(PULLS).content.decode()


def tile(client: Client, words: str) -> str:
    """The tile of the dashboard with these words: its classes and what it says."""
    [found] = [
        each for each in client.get("/admin/").content.decode().split('<li class="panel tile')[1:] if words in each
    ]
    return " ".join(html.unescape(re.sub(r"<(?!a )[^>]*>", " ", found.partition("</li>")[0])).split())


@pytest.mark.costly
@pytest.mark.parametrize("verdict", ["depends", "unknown", "a word of a newer version"])
def test_a_tile_is_green_only_if_it_is_known_that_every_account_pulls(
    verdict: str, consumers: Configuration, operator: Client
) -> None:
    row("one", "yes", "yes")
    assert tile(operator, "cannot pull").startswith('ok">')

    row("two", "yes", verdict)
    found = tile(operator, "cannot pull")

    assert found.startswith('">')
    assert '<a href="/admin/pulls/?state=depends&state=unknown">not known of 1' in found
    assert names(operator, state=["depends", "unknown"]) == ["two"]


@pytest.mark.costly
def test_a_repository_that_was_never_checked_is_no_all_clear(consumers: Configuration, operator: Client) -> None:
    row("one", "yes", "yes")
    assert tile(operator, "needing attention").startswith('ok">')

    row("two", status="pending", last_checked_at=None)

    assert tile(operator, "needing attention").startswith('">')
    assert '<a href="/admin/deployments/repository/?status=pending">1 pending' in tile(operator, "needing attention")
    page = " ".join(operator.get("/admin/").content.decode().split())
    assert (
        'Nothing at the last checks; <a href="/admin/deployments/repository/?status=pending">1</a> is pending.' in page
    )


# -------------------------------------------------------------------------------------------- from AWS to the page


@pytest.mark.costly
@pytest.mark.django_db(transaction=True)
def test_a_refresh_makes_the_page_true_about_drift_the_registry_policy_and_unmanaged_repositories(
    consumers: Configuration, sandbox: Sandbox, operator: Client
) -> None:
    """A1, C2, C19: none of the three was on any page."""
    drifted, whole = fill(sandbox, consumers, 2)
    client = sandbox.client("ecr")
    client.create_repository(repositoryName=STRANGER)
    sweep_all(consumers)
    drift(sandbox, [drifted])
    statement = {"Sid": "Closed", "Effect": "Deny", "Principal": {"AWS": STAGING}, "Action": "ecr:*", "Resource": "*"}
    client.put_registry_policy(policyText=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    sandbox.reset_calls()
    assert "Pulls" in cells(operator, drifted)[2]

    operator.post(PULLS)
    work_off(consumers, Sweep.objects.latest("pk"))

    assert {name for name in calls(sandbox) if not name.startswith(("Get", "Describe", "List"))} == set()
    assert "Does not pull" in cells(operator, drifted)[2]
    assert "Drifted" in cells(operator, drifted)[1]
    assert "Pulls" in cells(operator, whole)[2]
    for name in (drifted, whole, STRANGER):
        assert "registry policy, Closed" in cells(operator, name)[3]
    unmanaged = cells(operator, STRANGER)
    assert "Unmanaged" in unmanaged[1]
    assert "no statement allows it" in unmanaged[2]


# ------------------------------------------------------------------------------------------------------------- size


def many(count: int) -> Iterator[Repository]:
    for number in range(count):
        found = {
            account: answer(("yes", "no", "depends", "unknown", "yes", "yes")[(number + place) % 6])
            for place, account in enumerate((CLUSTER, STAGING))
        }
        yield Repository(
            account=OWNER, region="us-east-1", host=HOST, name=f"trigger/proj_{number:06}", status="in_sync",
            origin="created", management="full", policy_text="x" * 1500, consumers=found,
        )  # fmt: skip


@pytest.mark.wide
def test_ten_thousand_repositories_take_as_many_queries_as_ten_and_are_paged(
    consumers: Configuration, operator: Client
) -> None:
    def queries() -> int:
        operator.get(PULLS)
        with CaptureQueriesContext(connection) as captured:
            page = operator.get(PULLS, {"state": "no", "p": "3"} if Repository.objects.count() > 1000 else {})
            assert page.status_code == 200
        return len(captured)

    Repository.objects.bulk_create(many(10))
    few = queries()
    Repository.objects.all().delete()
    Repository.objects.bulk_create(many(10_000), batch_size=500)

    assert queries() <= few <= 20
    response = operator.get(PULLS)
    assert (response.context["cl"].result_count, len(response.context["cl"].result_list)) == (10_000, 25)


def test_the_states_of_the_query_are_those_of_the_rows(consumers: Configuration) -> None:
    expected = {"yes": PullState.YES, "no": PullState.NO, "depends": PullState.DEPENDS, "unknown": PullState.UNKNOWN}
    for verdict in expected:
        row(verdict, verdict, "yes")

    found = pull_states.states(consumers, [CLUSTER, STAGING])

    assert {each.name.removeprefix("trigger/"): each.pull_222222222222 for each in found} == expected
    assert {each.worst for each in found} == set(expected.values())
    cannot = pull_states.with_a(consumers, PullState.NO)
    assert cannot is not None
    assert [each.name for each in Repository.objects.filter(cannot)] == ["trigger/no"]
