"""Who may do what: rows that only the program writes, people who may only look, and one right for each action."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.urls import reverse

from deployments.access import keys
from deployments.models import AccessKey, AuditEntry, Environment, Project
from tests.admin.installation import Installation, address

WRITTEN_BY_THE_PROGRAM = ["deployments/deployment", "deployments/repository", "deployments/environment"]
NEW_KEY = "/admin/deployments/accesskey/add/"


@pytest.mark.costly
@pytest.mark.parametrize("page", WRITTEN_BY_THE_PROGRAM)
def test_nobody_adds_changes_or_deletes_what_the_program_writes(
    page: str, installation: Installation, operator: Client
) -> None:
    one = address(f"{page}/one")
    model = apps.get_model(page.replace("/", "."))
    rows = set(model.objects.values_list("pk", flat=True))

    assert operator.get(address(f"{page}/add")).status_code == 403
    assert operator.post(one, {"name": "x", "status": "in_sync"}).status_code == 405
    assert operator.post(one.replace("/change/", "/delete/"), {"post": "yes"}).status_code == 403
    assert "delete_selected" not in operator.get(address(page)).content.decode()
    for confirmed in ({}, {"post": "yes"}):
        selected = {"action": "delete_selected", "_selected_action": [str(pk) for pk in rows], "index": "0"}
        answer = operator.post(address(page), selected | confirmed, follow=True).content.decode()
        assert "Are you sure" not in answer
    assert set(model.objects.values_list("pk", flat=True)) == rows
    assert operator.get(one).status_code == 200


def test_a_project_keeps_its_ref_and_its_history(installation: Installation, operator: Client) -> None:
    project = installation.projects[0]
    one = reverse("admin:deployments_project_change", args=[project.pk])

    operator.post(one.replace("/change/", "/name/"), {"name": "Renamed", "ref": "proj_stolen"})

    after = Project.objects.get(pk=project.pk)
    assert (after.name, after.ref) == ("Renamed", project.ref)
    operator.post(one.replace("/change/", "/delete/"), {"post": "yes"})  # Django's own form would delete it
    assert Project.objects.filter(pk=project.pk).exists()


def test_a_new_project_has_its_environments_at_once(operator: Client) -> None:
    response = operator.post("/admin/deployments/project/add/", {"name": "Billing", "ref": "proj_mine"})

    assert response.status_code == 302
    project = Project.objects.get(ref="proj_mine")
    assert {each.slug for each in project.environments.all()} == {"prod", "staging", "preview"}


@pytest.mark.parametrize("ref", ["billing", "proj_UPPER", "proj_a b", "proj_taken"])
def test_a_ref_that_cannot_be_is_refused_with_a_sentence(ref: str, operator: Client) -> None:
    Project.objects.create(name="Other", ref="proj_taken")

    response = operator.post("/admin/deployments/project/add/", {"name": "Billing", "ref": ref})

    assert response.status_code == 200
    assert "errorlist" in response.content.decode()
    assert Project.objects.count() == 1


@pytest.mark.costly
def test_who_may_only_look_sees_lists_and_pages_but_no_way_to_change_anything(
    installation: Installation, person: Callable[..., Client]
) -> None:
    names = ("deployment", "repository", "project", "environment", "accesskey")
    viewer = person(*[f"view_{name}" for name in names])

    for name in names:
        page = viewer.get(f"/admin/deployments/{name}/")
        assert page.status_code == 200
        assert 'class="button' not in page.content.decode()
        assert 'name="action"' not in page.content.decode()
        one = viewer.get(address(f"deployments/{name}/one")).content.decode()
        assert 'type="submit"' not in one.partition("<main")[2]
    key = AccessKey.objects.filter(revoked_at=None)[0]
    assert viewer.get(NEW_KEY).status_code == 403
    assert viewer.post(NEW_KEY, {"kind": "user"}).status_code == 403
    assert viewer.post(f"/admin/deployments/accesskey/{key.pk}/revoke/").status_code == 403
    key.refresh_from_db()
    assert key.is_live


@pytest.mark.costly
def test_the_dashboard_shows_only_what_one_may_see(installation: Installation, person: Callable[..., Client]) -> None:
    repositories = person("view_repository").get("/admin/").content.decode()
    deployments = person("view_deployment").get("/admin/").content.decode()
    nothing = person().get("/admin/").content.decode()

    assert "Needs attention" in repositories
    assert "Recent deployments" not in repositories
    assert "Recent deployments" in deployments
    assert "Needs attention" not in deployments
    assert "trigger/" not in deployments
    assert "Ask an administrator" in nothing
    assert installation.projects[0].name not in nothing


@pytest.mark.parametrize("page", WRITTEN_BY_THE_PROGRAM)
def test_without_the_right_to_look_there_is_no_page(
    page: str, installation: Installation, person: Callable[..., Client]
) -> None:
    client = person("view_group")

    assert client.get(address(page)).status_code == 403
    assert client.get(address(f"{page}/one")).status_code == 403


@pytest.mark.costly
def test_a_key_is_shown_by_the_answer_that_made_it_and_never_again(
    installation: Installation, operator: Client
) -> None:
    environment = Environment.objects.filter(slug="prod")[0]

    made = operator.post(NEW_KEY, {"kind": "environment", "environment": environment.pk, "name": "CI"})

    key = AccessKey.objects.latest("pk")
    text = next(word for word in made.context["text"].split())
    assert keys.digest(text) == key.digest
    assert text in made.content.decode()
    assert "no-store" in made["Cache-Control"]
    for page in ("", "deployments/accesskey", "deployments/accesskey/one", "deployments/environment/one"):
        assert text not in operator.get(address(page)).content.decode()
    assert AuditEntry.objects.filter(action="make.key", object_id=str(key.pk)).exists()
    assert text not in str(list(AuditEntry.objects.values_list("after", "before", "object_label")))


@pytest.mark.costly
def test_no_digest_and_no_password_stands_on_any_page(
    installation: Installation, operator: Client, configure: Callable[..., object]
) -> None:
    configure(DEPLOY_REGISTRY_HOST="registry.example.com", DEPLOY_REGISTRY_PASSWORD="hunter2-registry")
    digests = list(AccessKey.objects.values_list("digest", flat=True))

    for page in (
        "",
        "deployments/accesskey",
        "deployments/accesskey/one",
        "deployments/repository/one",
        "auth/user/one",
    ):
        html = operator.get(address(page)).content.decode()
        assert "hunter2" not in html
        assert not [digest for digest in digests if digest in html]


@pytest.mark.costly
def test_a_personal_token_is_made_for_oneself_and_for_others_only_by_a_superuser(
    installation: Installation, operator: Client, person: Callable[..., Client]
) -> None:
    other = User.objects.get(username="mira")
    maker = person("add_accesskey")
    before = AccessKey.objects.count()

    refused = maker.post(NEW_KEY, {"kind": "user", "user": other.pk})
    assert refused.status_code == 200
    assert "errorlist" in refused.content.decode()
    assert AccessKey.objects.count() == before

    maker.post(NEW_KEY, {"kind": "user", "user": User.objects.get(username="add_accesskey").pk})
    operator.post(NEW_KEY, {"kind": "user", "user": other.pk})
    assert AccessKey.objects.count() == before + 2


def test_a_key_without_an_owner_is_not_made(installation: Installation, operator: Client) -> None:
    before = AccessKey.objects.count()

    response = operator.post(NEW_KEY, {"kind": "environment"})

    assert "Choose the environment" in response.content.decode()
    assert AccessKey.objects.count() == before


@pytest.mark.costly
def test_a_key_is_revoked_by_a_post_and_not_by_looking_at_the_question(
    installation: Installation, operator: Client, person: Callable[..., Client]
) -> None:
    key = AccessKey.objects.filter(revoked_at=None)[0]
    question = f"/admin/deployments/accesskey/{key.pk}/revoke/"

    assert "stop working at once" in operator.get(question).content.decode()
    key.refresh_from_db()
    assert key.is_live

    person("revoke_accesskey").post(question)
    key.refresh_from_db()
    assert not key.is_live
    first = key.revoked_at
    assert operator.post(question).status_code == 302  # twice does no harm
    key.refresh_from_db()
    assert key.revoked_at == first


def test_only_a_key_that_does_not_work_any_more_can_be_deleted(installation: Installation, operator: Client) -> None:
    live = AccessKey.objects.filter(revoked_at=None)[0]
    dead = AccessKey.objects.exclude(revoked_at=None)[0]

    assert operator.post(f"/admin/deployments/accesskey/{live.pk}/delete/", {"post": "yes"}).status_code == 403
    assert operator.post(f"/admin/deployments/accesskey/{dead.pk}/delete/", {"post": "yes"}).status_code == 302
    assert AccessKey.objects.filter(pk=live.pk).exists()
    assert not AccessKey.objects.filter(pk=dead.pk).exists()


def test_rights_are_offered_only_where_they_do_something(operator: Client) -> None:
    page = operator.get("/admin/auth/group/add/").content.decode()

    assert "Can view deployment" in page
    assert "Can add access key" in page
    assert "Can change deployment" not in page  # nobody changes one here
    assert "session" not in page


def test_a_group_is_made_with_the_rights_that_were_ticked(operator: Client) -> None:
    right = Permission.objects.get(codename="view_repository")

    operator.post("/admin/auth/group/add/", {"name": "viewers", "permissions": [right.pk]})

    assert list(Group.objects.get(name="viewers").permissions.all()) == [right]


def test_a_page_that_changes_something_refuses_a_post_without_a_token(installation: Installation) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create(username="operator", is_staff=True, is_superuser=True))
    key = AccessKey.objects.filter(revoked_at=None)[0]

    assert client.post(NEW_KEY, {"kind": "user"}).status_code == 403
    assert client.post(f"/admin/deployments/accesskey/{key.pk}/revoke/").status_code == 403
    key.refresh_from_db()
    assert key.is_live
