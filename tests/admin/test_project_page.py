"""A project's page is where one works: what is live, roll back, repositories, keys, deployments; and its name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from deployments.access import keys
from deployments.admin import project_page
from deployments.deploys import projects
from deployments.models import (
    AccessKey,
    AuditEntry,
    BackgroundWorker,
    Deployment,
    Environment,
    ImageState,
    Project,
    Promotion,
    Repository,
    RepositoryStatus,
)
from tests.admin.installation import CLUSTER, HOST, STAGING, Installation

PROJECTS, SHA = "/admin/deployments/project/", "0123456789abcdef0123456789abcdef01234567"
REMOTE = "https://github.com/acme/jobs"


@pytest.fixture
def project(db: None) -> Project:
    return projects.create_project(name="Ledger", ref="proj_ledger")


def deployed(environment: Environment, number: int, *, message: str = "", indexed: bool = True) -> Deployment:
    row = Deployment.objects.create(
        project=environment.project, environment=environment, version_day="20261101", version_number=number,
        status="DEPLOYED", content_hash="x", image_ref=f"{HOST}/x:{number}", image_platform="linux/amd64",
        git={"commitMessage": message, "commitSha": SHA, "remoteUrl": REMOTE}, deployed_at=timezone.now(),
    )  # fmt: skip
    if indexed:
        BackgroundWorker.objects.create(deployment=row, content_hash="x", tasks=[])
    return row


def current(row: Deployment, **more: Any) -> Promotion:
    return Promotion.objects.create(environment=row.environment, deployment=row, **more)


def live(browser: Client, project: Project) -> dict[str, project_page.Live]:
    context = browser.get(f"{PROJECTS}{project.pk}/change/").context
    return {str(each.environment): each for each in context["environments"]}


@pytest.mark.costly
def test_each_environment_shows_its_live_version_with_its_commit_and_the_state_of_its_image(
    project: Project, operator: Client, configure: Callable[..., Any]
) -> None:
    configure()
    repository = Repository.objects.create(account="1", region="r", host=HOST, name="x", project=project)
    preview = project.environments.get(slug="preview")
    branch = Environment.objects.create(
        project=project, type="PREVIEW", slug="preview", parent=preview, branch="fix/it"
    )
    Environment.objects.create(
        project=project, type="PREVIEW", slug="preview", parent=preview, branch="old", archived_at=timezone.now()
    )
    row = deployed(project.environments.get(slug="prod"), 2, message="Pay twice")
    current(row, promoted_by="kim@example.com")
    current(deployed(branch, 1, message="Pay once"))
    ImageState.objects.create(
        deployment=row, repository=repository, image="missing", state="missing", words="AWS has no image.",
        since=timezone.now(), looked_at=timezone.now(),
    )  # fmt: skip

    page = operator.get(f"{PROJECTS}{project.pk}/change/").content.decode()
    found = live(operator, project)

    assert list(found) == ["prod", "staging", "preview", "preview/fix/it"]
    assert "Pay twice" in page
    assert "Pay once" in page
    assert "by kim@example.com" in page
    assert f'href="{REMOTE}/commit/{SHA}"' in page
    assert "Missing" in page
    assert "AWS has no image." in page
    assert (found["prod"].image is not None, found["preview/fix/it"].image) == (True, None)


@pytest.mark.costly
def test_the_newest_older_deployed_and_indexed_versions_are_what_one_can_roll_back_to(
    project: Project, operator: Client, person: Callable[..., Client]
) -> None:
    prod = project.environments.get(slug="prod")
    rows = [deployed(prod, number, message=f"Change {number}") for number in range(1, 6)]
    deployed(prod, 6, indexed=False)
    deployed(prod, 9)  # newer than the current one
    failed = deployed(prod, 7)
    Deployment.objects.filter(pk=failed.pk).update(status="FAILED")
    now = deployed(prod, 8)
    current(now)

    found = live(operator, project)["prod"].rollback_targets

    assert [row.pk for row in found] == [rows[4].pk, rows[3].pk]
    page = operator.get(f"{PROJECTS}{project.pk}/change/").content.decode()
    assert f"/admin/deployments/deployment/{rows[4].pk}/promote/" in page
    assert "Change 5" in page
    place = f"/admin/deployments/environment/{prod.pk}/change/"
    assert [row.pk for row in operator.get(place).context["rollback_targets"]] == [rows[4].pk, rows[3].pk]
    assert f"/admin/deployments/deployment/{rows[4].pk}/promote/" in operator.get(place).content.decode()
    viewer = person("view_project", "view_environment", "view_deployment")
    assert live(viewer, project)["prod"].rollback_targets == []
    for address in (f"{PROJECTS}{project.pk}/change/", place):
        assert "/promote/" not in viewer.get(address).content.decode()
    Environment.objects.filter(pk=prod.pk).update(archived_at=timezone.now())
    assert operator.get(place).context["rollback_targets"] == []


@pytest.mark.costly
def test_repositories_say_their_state_and_who_can_pull(installation: Installation, operator: Client) -> None:
    row = Repository.objects.filter(host=HOST, status=RepositoryStatus.IN_SYNC)[0]
    broken = installation.projects[0]
    Repository.objects.filter(project=broken, host=HOST).update(status=RepositoryStatus.MISSING)
    context = operator.get(f"{PROJECTS}{row.project_id}/change/").context

    held = {each.repository.pk: each for each in context["repositories"]}[row.pk]
    assert [account for account, _ in held.pulls] == [CLUSTER, STAGING]
    page = operator.get(f"{PROJECTS}{broken.pk}/change/")
    gone = [each for each in page.context["repositories"] if each.repository.host == HOST]
    assert {answer.verdict for each in gone for _, answer in each.pulls} == {"no"}
    assert "May not pull" in page.content.decode()


def test_keys_are_live_replaced_or_not_used_and_a_link_makes_one(project: Project, operator: Client) -> None:
    prod = project.environments.get(slug="prod")
    used, _ = keys.make_environment_key(prod, "ci")
    keys.record_use(used, "curl", "10.0.0.9")
    keys.rotate(used, grace=timedelta(hours=1))
    keys.make_environment_key(project.environments.get(slug="staging"), "never")
    other = projects.create_project(name="Other")
    keys.make_environment_key(other.environments.get(slug="prod"), "theirs")

    page = operator.get(f"{PROJECTS}{project.pk}/change/")
    text = page.content.decode()

    assert sorted((row.name, row.state) for row in page.context["keys"]) == [
        ("ci", "live"), ("ci", "replaced"), ("never", "live"),
    ]  # fmt: skip
    assert "Replaced" in text
    assert text.count("not used") == 2
    assert "curl at 10.0.0.9" in text
    assert f"/admin/deployments/accesskey/add/?environment={prod.pk}" in text


def test_the_page_shows_only_what_its_reader_may_see(installation: Installation, person: Callable[..., Client]) -> None:
    project = installation.projects[0]
    reader = person("view_project")

    context = reader.get(f"{PROJECTS}{project.pk}/change/").context

    assert [context.get(name) for name in ("environments", "latest", "repositories", "keys")] == [None] * 4
    assert context["audit"] == []
    assert context["buttons"] == []


@pytest.mark.costly
def test_the_page_has_the_same_number_of_queries_for_much_more(installation: Installation, operator: Client) -> None:
    project = installation.projects[0]

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert operator.get(f"{PROJECTS}{project.pk}/change/").status_code == 200
        return len(captured)

    queries()  # content types are read once in a process
    before = queries()
    preview = project.environments.get(slug="preview", parent=None)
    for number in range(40):
        branch = Environment.objects.create(
            project=project, type="PREVIEW", slug="preview", parent=preview, branch=f"b{number}"
        )
        deployed(branch, 1)
        current(deployed(branch, 2))
        keys.make_environment_key(branch)
        Repository.objects.create(account=str(number), region="r", host=HOST, name="x", project=project)

    assert queries() == before <= 20
    context = operator.get(f"{PROJECTS}{project.pk}/change/").context
    branches = [each for each in context["environments"] if each.environment.parent_id]
    assert len(branches) == project_page.BRANCHES_SHOWN
    assert context["more_branches"]
    assert len(context["keys"]) == project_page.KEYS_SHOWN
    assert context["more_keys"]
    assert AccessKey.objects.count() > project_page.KEYS_SHOWN


@pytest.mark.costly
def test_the_name_is_changed_on_its_own_page_and_the_audit_log_has_both_names(
    project: Project, operator: Client
) -> None:
    page = f"{PROJECTS}{project.pk}/name/"

    assert "Ledger" in operator.get(page).content.decode()
    assert operator.post(page, {"name": " "}).context["form"].errors
    response = operator.post(page, {"name": "Books"}, follow=True)

    assert "The project is called Books." in response.content.decode()
    line = AuditEntry.objects.get(action="change.project")
    assert (line.before, line.after) == (
        {"name": "Ledger", "ref": "proj_ledger"},
        {"name": "Books", "ref": "proj_ledger", "changed": ["name"]},
    )
    operator.post(page, {"name": "Books"})
    assert AuditEntry.objects.filter(action="change.project").count() == 1


def test_two_forms_that_make_one_ref_make_one_project_and_the_second_says_it(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(**values: object) -> Project:
        raise IntegrityError("UNIQUE constraint failed")

    monkeypatch.setattr("deployments.deploys.projects.create_project", taken)

    page = operator.post(f"{PROJECTS}add/", {"name": "Ledger", "ref": "proj_ledger"})

    assert page.status_code == 200
    assert "There is a project with this ref." in page.content.decode()
    assert not AuditEntry.objects.filter(action="add.project").exists()


def test_who_may_not_make_or_rename_a_project_does_neither(project: Project, person: Callable[..., Client]) -> None:
    viewer = person("view_project")

    assert viewer.post(f"{PROJECTS}add/", {"name": "Second"}).status_code == 403
    assert viewer.post(f"{PROJECTS}{project.pk}/name/", {"name": "Theirs"}).status_code == 403
    assert list(Project.objects.values_list("name", flat=True)) == ["Ledger"]
    assert "Rename" not in viewer.get(f"{PROJECTS}{project.pk}/change/").content.decode()
