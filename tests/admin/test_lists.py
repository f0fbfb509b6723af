"""Finding things: search, menus with counts, what a row says."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from deployments.admin import audit
from deployments.config import Configuration
from deployments.models import (
    AuditEntry,
    Deployment,
    DeploymentStatus,
    NotificationChannel,
    Project,
    Repository,
    RepositoryStatus,
)
from deployments.row_values import ConsumerPull
from tests.admin.installation import Installation
from tests.support.constants import HOST, POLICY

REFRESH = "Refresh (writes nothing)"
DEPLOYMENTS, REPOSITORIES = "/admin/deployments/deployment/", "/admin/deployments/repository/"


def found(client: Client, address: str, **query: str) -> list[str]:
    response = client.get(address, query)
    assert response.status_code == 200
    return [str(row.pk) for row in response.context["cl"].result_list]


@pytest.mark.parametrize("by", ["version", "short_code", "sha", "short_sha", "digest", "id"])
def test_a_deployment_is_found_by(by: str, installation: Installation, operator: Client) -> None:
    row = Deployment.objects.filter(status=DeploymentStatus.DEPLOYED).order_by("created_at")[7]
    term = {
        "version": str(row.version),
        "short_code": row.short_code,
        "sha": row.git["commitSha"],
        "short_sha": row.git["commitSha"][:10],
        "digest": row.image_digest,
        "id": row.pk,
    }[by]

    rows = found(operator, DEPLOYMENTS, q=term)

    assert row.pk in rows
    assert len(rows) < 8  # a version is unique in its environment only


@pytest.mark.costly
def test_a_search_for_something_unheard_of_says_so_and_leads_back(installation: Installation, operator: Client) -> None:
    page = operator.get(DEPLOYMENTS, {"q": "%_\\ nothing ' like this"}).content.decode()

    assert "Nothing matches" in page


@pytest.mark.costly
def test_a_menu_shows_each_status_with_its_count_and_filters_by_it(
    installation: Installation, operator: Client
) -> None:
    failed = set(Deployment.objects.filter(status="FAILED").values_list("pk", flat=True))

    page = operator.get(DEPLOYMENTS).content.decode()

    assert f'Failed<span class="number">{len(failed)}</span>' in page
    assert set(found(operator, DEPLOYMENTS, status="FAILED")) == failed


@pytest.mark.costly
def test_the_counts_of_one_menu_obey_the_others(installation: Installation, operator: Client) -> None:
    project = installation.projects[0]
    count = project.deployments.filter(status="DEPLOYED").count()

    page = operator.get(DEPLOYMENTS, {"project__ref": project.ref}).content.decode()

    assert f'Deployed<span class="number">{count}</span>' in page
    assert f"<b>{project.name}</b></summary>" in " ".join(page.split())  # the menu shows what is chosen


def links(client: Client, address: str, within: str) -> dict[str, str]:
    """Word → address of the links in the element that `within` begins, as a person reads them."""
    page = client.get(address).content.decode()
    part = page[page.index(within) :]
    found = re.findall(r'<a\s[^>]*?href="([^"]*)"[^>]*>(.*?)</a>', part[: part.index("</ul>")], re.DOTALL)
    return {" ".join(re.sub(r"<[^>]*>", " ", words).split()): unescape(target) for target, words in found}


@pytest.mark.costly
def test_values_of_one_filter_add_rows_and_a_second_filter_takes_rows_away(
    installation: Installation, operator: Client
) -> None:
    every = set(Deployment.objects.filter(status__in=("FAILED", "TIMED_OUT")).values_list("pk", flat=True))
    project = installation.projects[0]
    its = set(project.deployments.values_list("pk", flat=True))

    assert set(found(operator, f"{DEPLOYMENTS}?status=FAILED&status=TIMED_OUT")) == every
    assert set(found(operator, DEPLOYMENTS, status="went_wrong")) == every
    both = found(operator, f"{DEPLOYMENTS}?status=FAILED&status=TIMED_OUT&project__ref={project.ref}")
    assert set(both) == every & its != every


@pytest.mark.costly
def test_values_of_a_filter_without_counts_add_rows_too(installation: Installation, operator: Client) -> None:
    current = set(found(operator, DEPLOYMENTS, mark="current"))
    under_way = set(found(operator, DEPLOYMENTS, mark="under_way"))

    assert set(found(operator, f"{DEPLOYMENTS}?mark=current&mark=under_way")) == current | under_way != current
    assert set(found(operator, f"{DEPLOYMENTS}?mark=current&mark=nonsense")) == current


def test_a_choice_adds_its_value_to_the_address_and_a_chosen_one_takes_it_out(
    installation: Installation, operator: Client
) -> None:
    number = Repository.objects.filter(status="drifted").count()
    failed = Repository.objects.filter(status="failed").count()
    tiles = links(operator, f"{REPOSITORIES}?status=failed&q=trigger", "tiles states")

    assert tiles[f"{number} Drifted"] == "?q=trigger&status=failed&status=drifted"
    assert tiles[f"{failed} Failed"] == "?q=trigger"


@pytest.mark.costly
def test_each_chosen_value_has_a_chip_that_removes_it_and_nothing_else(
    installation: Installation, operator: Client
) -> None:
    address = f"{REPOSITORIES}?status=failed&status=unmanaged&account=111111111111"

    assert links(operator, address, 'class="chips"') == {
        "Status: Failed , remove": "?account=111111111111&status=unmanaged",
        "Status: Unmanaged , remove": "?account=111111111111&status=failed",
        "Account: 111111111111 , remove": "?status=failed&status=unmanaged",
        "Clear all": "?",
    }
    assert 'class="chips"' not in operator.get(REPOSITORIES).content.decode()


@pytest.mark.costly
def test_a_chosen_value_that_no_row_has_can_be_removed(installation: Installation, operator: Client) -> None:
    Repository.objects.filter(status="failed").delete()

    for query, words in (("status=failed", "Status: Failed"), ("project__ref=gone", "Project: gone")):
        assert links(operator, f"{REPOSITORIES}?{query}", 'class="chips"')[f"{words} , remove"] == "?"


def test_a_chip_of_a_time_removes_the_time(installation: Installation, operator: Client) -> None:
    address = f"{DEPLOYMENTS}?created_at=24h&status=FAILED"

    assert links(operator, address, 'class="chips"')["Created: Last 24 hours , remove"] == "?status=FAILED"


@pytest.mark.costly
@pytest.mark.parametrize("form", ['id="changelist-search"', 'aria-label="Created between two days"'])
def test_a_search_keeps_every_chosen_value(form: str, installation: Installation, operator: Client) -> None:
    page = operator.get(f"{DEPLOYMENTS}?status=FAILED&status=DEPLOYED").content.decode()
    part = page[page.index(form) :]
    hidden = re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', part[: part.index("</form>")])

    assert hidden == [("status", "FAILED"), ("status", "DEPLOYED")]


@pytest.mark.costly
def test_the_first_tile_after_all_counts_what_needs_attention_and_lists_it(
    installation: Installation, operator: Client
) -> None:
    rows = Repository.objects.filter(status__in=("failed", "missing", "drifted"))
    tiles = links(operator, REPOSITORIES, "tiles states")

    words = list(tiles)
    assert words[1] == f"{rows.count()} Needs attention"
    shown = [word.partition(" ")[2] for word in words[2:]]
    worst_first = ["Failed", "Missing", "Drifted", "Pending", "Unmanaged", "In sync"]
    assert shown == [word for word in worst_first if word in shown]
    assert set(found(operator, f"{REPOSITORIES}{tiles[words[1]]}")) == {str(row.pk) for row in rows}


@pytest.mark.costly
def test_several_chosen_values_take_no_more_queries_than_one(installation: Installation, operator: Client) -> None:
    operator.get(REPOSITORIES)
    with CaptureQueriesContext(connection) as one:
        operator.get(f"{REPOSITORIES}?status=failed")
    with CaptureQueriesContext(connection) as several:
        operator.get(f"{REPOSITORIES}?status=failed&status=drifted&status=attention")

    assert len(several) == len(one) <= 20


def test_users_are_filtered_by_several_groups(operator: Client) -> None:
    groups = [Group.objects.create(name=name) for name in ("one", "two", "three")]
    people = [User.objects.create_user(group.name) for group in groups]
    for user, group in zip(people, groups, strict=True):
        user.groups.add(group)
    people[0].groups.add(groups[1])
    people[1].is_active = False
    people[1].save()

    both = f"/admin/auth/user/?group={groups[0].pk}&group={groups[1].pk}"

    assert sorted(found(operator, both)) == sorted(str(each.pk) for each in people[:2])
    assert found(operator, f"{both}&is_active=False") == [str(people[1].pk)]


@pytest.mark.costly
@pytest.mark.parametrize(
    "query", ["status=x", "project__ref=%00", "account='", "region=&status=failed", "page=99", "p=x"]
)
def test_an_address_that_makes_no_sense_is_no_server_error(
    query: str, installation: Installation, operator: Client
) -> None:
    for address in (DEPLOYMENTS, REPOSITORIES):
        assert operator.get(f"{address}?{query}").status_code < 500


@pytest.mark.costly
def test_the_current_deployments_are_marked_and_can_be_filtered(installation: Installation, operator: Client) -> None:
    current = set(Deployment.objects.filter(promotions__label="current").values_list("pk", flat=True))

    assert set(found(operator, DEPLOYMENTS, mark="current")) == current
    page = operator.get(DEPLOYMENTS).content.decode()
    assert page.count('<span class="tag current">current</span>') == len(current)


@pytest.mark.costly
def test_a_repository_in_trouble_says_why_in_the_list_and_on_the_dashboard(
    installation: Installation, operator: Client
) -> None:
    row = Repository.objects.filter(status=RepositoryStatus.FAILED)[0]

    for address in (REPOSITORIES, "/admin/"):
        page = operator.get(address).content.decode()
        assert row.name in page
        assert row.last_error.partition(": ")[2][:60] in page


@pytest.mark.costly
def test_what_a_cli_sent_is_text_and_never_markup(installation: Installation, operator: Client) -> None:
    row = Deployment.objects.filter(status="FAILED")[0]
    attack = "<script>alert(1)</script>"
    row.git = {
        "commitMessage": attack, "commitRef": attack, "commitSha": attack, "commitAuthorName": attack,
        "remoteUrl": "javascript:alert(1)", "dirty": attack,
    }  # fmt: skip
    row.error = {"name": attack, "message": attack, "stack": attack}
    row.triggered_by = row.triggered_via = attack
    row.save()

    for address in ("/admin/", DEPLOYMENTS, f"{DEPLOYMENTS}{row.pk}/change/"):
        page = operator.get(address).content.decode()
        assert "<script>alert" not in page
        assert 'href="javascript:' not in page
    assert "&lt;script&gt;alert" in page


@pytest.mark.costly
@pytest.mark.parametrize("git", [{}, {"commitMessage": None, "commitSha": 5, "remoteUrl": ["x"]}, {"dirty": "no"}])
def test_a_deployment_with_odd_git_data_still_has_a_page(
    git: dict[str, object], installation: Installation, operator: Client
) -> None:
    row = Deployment.objects.all()[0]
    row.git = git
    row.error = {"message": 17}
    row.save()

    assert operator.get(f"{DEPLOYMENTS}{row.pk}/change/").status_code == 200
    assert operator.get(DEPLOYMENTS).status_code == 200


@pytest.mark.costly
def test_the_repositories_that_need_attention_come_first(installation: Installation, operator: Client) -> None:
    order = [row.status for row in operator.get(REPOSITORIES).context["cl"].result_list]

    needing = [status for status in order if status in ("failed", "missing", "drifted")]
    assert order[: len(needing)] == needing
    assert needing == sorted(needing, key=["failed", "missing", "drifted"].index)


def row_of(client: Client, name: str, query: str = "") -> str:
    """The line of a repository in the list."""
    lines: list[str] = re.findall(r"<tr>(.*?)</tr>", client.get(f"{REPOSITORIES}{query}").content.decode(), re.DOTALL)
    [line] = [each for each in lines if f"<code>{name}</code>" in each]
    return line


def repository(name: str, **values: Any) -> Repository:
    about: dict[str, Any] = {
        "account": "111111111111", "region": "us-east-1", "host": HOST, "name": name, "status": "in_sync",
        "origin": "created", "management": "full", "last_checked_at": timezone.now(),
    }  # fmt: skip
    return Repository.objects.create(**about | values)


@pytest.mark.costly
def test_the_name_of_a_project_is_the_headline_of_its_repository_and_long_prose_is_cut_to_a_line(
    operator: Client,
) -> None:
    project = Project.objects.create(name="Billing", ref="proj_billing")
    repository("trigger/proj_billing", project=project, status="failed", last_error="AWS refused it. " * 20)
    repository("trigger/nobodys")

    line = row_of(operator, "trigger/proj_billing")
    assert '>Billing<span class="under"><code>trigger/proj_billing</code></span>' in line
    assert '<span class="under reason failed">AWS refused it.' in line
    assert re.search(r"change/[^>]*><code>trigger/nobodys</code></a>", row_of(operator, "trigger/nobodys"))


@pytest.mark.costly
def test_account_and_region_are_a_column_and_menus_only_where_they_differ(operator: Client) -> None:
    repository("trigger/one")
    page = operator.get(REPOSITORIES).content.decode()
    assert "column-place" not in page
    assert ">Account" not in page.replace("\n", "").replace("  ", "")

    repository("trigger/two", region="eu-central-1")
    page = operator.get(REPOSITORIES).content.decode()
    assert "column-place" in page
    assert [spec.title for spec in operator.get(REPOSITORIES).context["cl"].filter_specs][:4] == [
        "Status", "Cause", "Region", "Project",
    ]  # fmt: skip
    # An address with a menu that is not offered still filters, and the menu is there.
    assert len(found(operator, REPOSITORIES, account="111111111111")) == 2
    assert found(operator, REPOSITORIES, account="999999999999") == []


@pytest.mark.costly
def test_each_consumer_account_has_a_mark_that_says_what_the_page_of_pulls_says(
    configure: Callable[..., Configuration], operator: Client
) -> None:
    accounts = ["222222222222", "333333333333", "444444444444"]
    configure(
        DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS=",".join(accounts),
    )  # fmt: skip
    answers = {accounts[0]: ConsumerPull(verdict="yes", words="."), accounts[1]: ConsumerPull(verdict="no", words=".")}
    repository("trigger/a", consumers=answers)

    line, pulls = row_of(operator, "trigger/a"), operator.get("/admin/pulls/").content.decode()

    marks = re.findall(r'class="pull (\w+)" title="Account (\d+): ([\w ]+)".*?visually-hidden">([^<]*)<', line)
    assert marks == [
        ("ok", accounts[0], "pulls", f"Account {accounts[0]}: pulls."),
        ("bad", accounts[1], "does not pull", f"Account {accounts[1]}: does not pull."),
        ("idle", accounts[2], "unknown", f"Account {accounts[2]}: unknown."),
    ]
    assert re.findall(r'class="badge \w+">(Pulls|Does not pull|Unknown)</span></span>', pulls) == [
        "Pulls", "Does not pull", "Unknown",
    ]  # fmt: skip


def test_a_repository_of_a_registry_that_the_settings_no_longer_name_has_no_marks(
    installation: Installation, operator: Client
) -> None:
    """As on the project's page, and as on the page of pulls, which does not list it."""
    row = Repository.objects.filter(status="in_sync").exclude(account="111111111111")[0]
    Repository.objects.filter(pk=row.pk).update(name="trigger/elsewhere")

    line = row_of(operator, "trigger/elsewhere")

    assert 'class="pull' not in line
    assert "Its registry is not in the settings" in line


def test_many_consumer_accounts_are_counted_by_state(configure: Callable[..., Configuration], operator: Client) -> None:
    accounts = [str(number) * 12 for number in range(2, 8)]
    configure(
        DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS=",".join(accounts),
    )  # fmt: skip
    repository("trigger/a", consumers={accounts[0]: ConsumerPull(verdict="no", words=".")})

    marks = re.findall(r'class="pull \w+" title="([^"]*)"', row_of(operator, "trigger/a"))

    assert marks == ["1 account: does not pull", "5 accounts: unknown"]


def test_of_repositories_with_one_status_those_that_an_account_cannot_pull_come_first(
    configure: Callable[..., Configuration], operator: Client
) -> None:
    configure(
        DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS="222222222222",
    )  # fmt: skip
    for name, verdict in (("a", "yes"), ("b", "no")):
        repository(f"trigger/{name}", consumers={"222222222222": ConsumerPull(verdict=verdict, words=".")})
    repository("trigger/c", status="drifted", consumers={"222222222222": ConsumerPull(verdict="yes", words=".")})

    rows = operator.get(REPOSITORIES).context["cl"].result_list

    assert [row.name for row in rows] == ["trigger/c", "trigger/b", "trigger/a"]


@pytest.mark.costly
def test_the_list_says_when_a_repository_last_got_an_image(installation: Installation, operator: Client) -> None:
    newest = Deployment.objects.filter(deployed_at__isnull=False, repository__isnull=False).order_by("-deployed_at")[0]
    assert newest.repository is not None

    rows = {row.pk: row for row in operator.get(REPOSITORIES).context["cl"].result_list}

    assert rows[newest.repository.pk].last_deployed_at == newest.deployed_at


@pytest.mark.costly
def test_the_menu_of_a_row_has_what_this_person_may_do_with_it(
    configure: Callable[..., Configuration], operator: Client, person: Callable[..., Client]
) -> None:
    configure(DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY)
    repository("trigger/managed")
    repository("trigger/found", status="unmanaged", management="unmanaged", origin="")

    def words(client: Client, name: str) -> list[str]:
        line = row_of(client, name)
        return [each.strip() for each in re.findall(r"<li><(?:a|button)[^>]*>([^<]*)<", line)]

    assert words(operator, "trigger/managed") == ["Reconcile now", REFRESH, "Make an exception…"]
    assert words(operator, "trigger/found") == [REFRESH, "Adopt…"]
    assert words(person("view_repository", "except_repository"), "trigger/managed") == ["Make an exception…"]
    assert "column-act" not in person("view_repository").get(REPOSITORIES).content.decode()


def test_the_channels_that_fail_come_first(operator: Client) -> None:
    for name, values in (("a", {}), ("b", {"enabled": False, "last_error": "Off."}), ("c", {"last_error": "404."})):
        NotificationChannel.objects.create(name=name, kind="mail", address="ops@example.com", **values)

    rows = operator.get("/admin/deployments/notificationchannel/").context["cl"].result_list

    assert [row.name for row in rows] == ["c", "a", "b"]


@pytest.mark.costly
def test_the_audit_log_is_searched_for_words_in_the_newest_entries_and_for_ids_in_all(
    installation: Installation, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_ROWS_SEARCHED", 3)
    AuditEntry.objects.all().delete()
    for hours in range(6):
        AuditEntry.objects.create(
            at=timezone.now() - timedelta(hours=hours), actor_kind="person" if hours % 2 else "command", actor="mira",
            action="promote.deployment", object_type="deployment", object_id=f"deployment_{hours}",
            object_label=f"20261101.{hours}", request_id=f"request-{hours}",
        )  # fmt: skip
    address = "/admin/deployments/auditentry/"

    def names(**query: str) -> list[str]:
        return [row.object_id[-1] for row in operator.get(address, query).context["cl"].result_list]

    assert names(q="mira") == ["0", "1", "2"]
    assert names(q="MIRA 20261101.1") == ["1"]
    assert names(q="mira", actor_kind="person") == ["1", "3", "5"]
    assert names(q="20261101.5") == []
    assert names(q="deployment_5") == names(q="request-5") == ["5"]
    assert names(q="deployment_5", actor_kind="command") == []
    assert "in the newest 20,000 entries that match" in operator.get(address, {"q": "20261101.5"}).content.decode()
