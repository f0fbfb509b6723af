"""Finding things: search, menus with counts, what a row says."""

from __future__ import annotations

import pytest
from django.test import Client

from deployments.models import Deployment, DeploymentStatus, Repository, RepositoryStatus
from tests.admin.installation import Installation

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


def test_a_search_for_something_unheard_of_says_so_and_leads_back(installation: Installation, operator: Client) -> None:
    page = operator.get(DEPLOYMENTS, {"q": "%_\\ nothing ' like this"}).content.decode()

    assert "Nothing matches" in page


def test_a_menu_shows_each_status_with_its_count_and_filters_by_it(
    installation: Installation, operator: Client
) -> None:
    failed = set(Deployment.objects.filter(status="FAILED").values_list("pk", flat=True))

    page = operator.get(DEPLOYMENTS).content.decode()

    assert f'Failed<span class="number">{len(failed)}</span>' in page
    assert set(found(operator, DEPLOYMENTS, status="FAILED")) == failed


def test_the_counts_of_one_menu_obey_the_others(installation: Installation, operator: Client) -> None:
    project = installation.projects[0]
    count = project.deployments.filter(status="DEPLOYED").count()

    page = operator.get(DEPLOYMENTS, {"project__ref": project.ref}).content.decode()

    assert f'Deployed<span class="number">{count}</span>' in page
    assert f"<b>{project.name}</b> </summary>" in " ".join(page.split())  # the menu shows what is chosen


@pytest.mark.parametrize(
    "query", ["status=x", "project__ref=%00", "account='", "region=&status=failed", "page=99", "p=x"]
)
def test_an_address_that_makes_no_sense_is_no_server_error(
    query: str, installation: Installation, operator: Client
) -> None:
    for address in (DEPLOYMENTS, REPOSITORIES):
        assert operator.get(f"{address}?{query}").status_code < 500


def test_the_current_deployments_are_marked_and_can_be_filtered(installation: Installation, operator: Client) -> None:
    current = set(Deployment.objects.filter(promotions__label="current").values_list("pk", flat=True))

    assert set(found(operator, DEPLOYMENTS, mark="current")) == current
    page = operator.get(DEPLOYMENTS).content.decode()
    assert page.count('<span class="tag current">current</span>') == len(current)


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


def test_the_repositories_that_need_attention_come_first(installation: Installation, operator: Client) -> None:
    order = [row.status for row in operator.get(REPOSITORIES).context["cl"].result_list]

    needing = [status for status in order if status in ("failed", "missing", "drifted")]
    assert order[: len(needing)] == needing
    assert needing == sorted(needing, key=["failed", "missing", "drifted"].index)
