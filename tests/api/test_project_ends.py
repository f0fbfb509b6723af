"""The end of a project: archived, it takes no deploys and its keys only read; deleted, it is gone.

The race of an archive with a deploy is made exactly: the archive comes while the deploy asks AWS, or just after it.
"""

from __future__ import annotations

import io
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db.models.functions import Now
from django.test import Client

from deployments.access import keys
from deployments.access.audit import Trail
from deployments.deploys import lifecycle, projects, promotions
from deployments.errors import NotFound, Refusal
from deployments.models import (
    AccessKey,
    AuditEntry,
    Deployment,
    Environment,
    NotificationChannel,
    Project,
    Promotion,
    Repository,
    RepositoryEvent,
)
from deployments.reconcile.lease import Lease
from tests.support.cli import Cli

pytestmark = pytest.mark.django_db(transaction=True)
TRAIL = Trail.of_command("test")
PAGES = "/admin/deployments/project/"


def archive(project: Project) -> bool:
    return projects.archive(project=project, trail=TRAIL)


def delete(project: Project, typed: str = "Billing") -> None:
    projects.delete(project=project, typed=typed, trail=TRAIL)


def repository(project: Project | None, name: str = "trigger/x", **more: Any) -> Repository:
    values = {"status": "in_sync", "origin": "created", "management": "full", **more}
    return Repository.objects.create(account="1", region="r", host="h", name=name, project=project, **values)


# ------------------------------------------------------------------------------------------------------------- archive


@pytest.mark.costly
def test_an_archived_project_refuses_deploys_and_log_ins_with_a_sentence_and_what_is_current_stays(
    cli: Cli, user_cli: Cli, project: Project
) -> None:
    current = cli.deploying()
    cli.finalize(current)
    path = f"/api/v1/projects/{project.ref}"

    assert archive(project)

    for answer in (
        cli.deploy(),
        cli.post(f"/api/v1/deployments/{current}/generate-registry-credentials"),
        cli.post(f"/api/v1/deployments/{Deployment.objects.get().version}/promote"),
        cli.get(f"{path}/prod"),
        user_cli.get(f"{path}/prod"),
        user_cli.post(f"{path}/branches", {"env": "preview", "branch": "new"}),
        cli.post(f"{path}/envvars/prod/import", {"variables": {"A": "1"}}),
    ):
        assert (answer.status, answer.body["code"]) == (403, "project_archived")
        assert f"“projects restore {project.ref}”" in answer.error
    assert cli.get("/api/v1/deployments/current").body["id"] == current
    assert cli.get("/api/v1/deployments").status == 200
    assert user_cli.get("/api/v1/projects").body == []
    assert user_cli.get(path).status == 200
    assert not AccessKey.objects.exclude(revoked_at=None).exists()
    assert not AccessKey.objects.filter(kind="deploy").exists()


def test_a_restored_project_takes_deploys_again_with_the_same_keys(cli: Cli, project: Project) -> None:
    archive(project)

    assert projects.restore(project=project, trail=TRAIL)

    assert cli.deploy().status == 200
    assert not projects.restore(project=project, trail=TRAIL)
    actions = AuditEntry.objects.filter(object_type="project").values_list("action", "before", "after")
    assert set(map(str, actions)) == {
        str(("archive.project", {"archived": False}, {"archived": True, "canceled_deployments": 0})),
        str(("restore.project", {"archived": True}, {"archived": False})),
    }


def test_an_archive_cancels_the_running_deployments_and_a_later_finalize_is_refused(cli: Cli, project: Project) -> None:
    done, running = cli.deploying(), cli.deploying()
    cli.finalize(done)
    deployment = lifecycle.find_deployment(
        environment=Environment.objects.get(deployments=running), deployment_id=running
    )

    archive(project)

    with pytest.raises(Refusal, match="The project was archived"):
        promotions.finalize(
            deployment=deployment, digest=None, skip_promotion=False, configuration=settings.CONFIGURATION
        )
    row = Deployment.objects.get(pk=running)
    assert (row.status, row.canceled_reason) == ("CANCELED", "The project was archived.")
    assert Promotion.objects.get().deployment_id == done
    assert Deployment.objects.get(pk=done).status == "DEPLOYED"
    line = AuditEntry.objects.get(action="cancel.deployment")
    assert (line.object_id, line.after) == (running, {"status": "CANCELED"})
    assert AuditEntry.objects.get(action="archive.project").after == {"archived": True, "canceled_deployments": 1}


def test_an_archive_while_a_deploy_asks_aws_leaves_no_deployment(
    cli: Cli, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = lifecycle._allocated

    def archived_meanwhile(*arguments: Any) -> Any:
        found = asked(*arguments)
        archive(project)
        return found

    monkeypatch.setattr(lifecycle, "_allocated", archived_meanwhile)

    answer = cli.deploy()

    assert answer.body["code"] == "project_archived"
    assert not Deployment.objects.exists()
    assert Environment.objects.get(project=project, slug="prod").version_number == 0


def test_an_archived_project_asks_aws_for_nothing(
    project: Project, production: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(project)
    production.project.refresh_from_db()
    monkeypatch.setattr(lifecycle, "_allocated", lambda *_: pytest.fail("AWS was asked"))

    with pytest.raises(Refusal) as refused:
        lifecycle.create_deployment(
            environment=production, configuration=settings.CONFIGURATION, trail=TRAIL, content_hash="x"
        )

    assert refused.value.code == "project_archived"


def test_archiving_twice_changes_nothing_and_writes_no_second_line(project: Project) -> None:
    archive(project)
    at = Project.objects.get().archived_at

    assert not archive(project)
    assert Project.objects.get().archived_at == at
    assert AuditEntry.objects.filter(action="archive.project").count() == 1


# -------------------------------------------------------------------------------------------------------------- delete


def test_a_deleted_project_is_gone_and_its_repositories_stay_unmanaged_and_the_audit_log_stays(
    cli: Cli, project: Project
) -> None:
    cli.finalize(cli.deploying())
    held, theirs = repository(project, mode="observe", mode_reason="x", mode_until=Now()), repository(None, "trigger/y")
    missing = repository(project, "trigger/z", status="missing", management="")
    archive(project)

    delete(project)

    assert not Project.objects.exists()
    assert not Deployment.objects.exists()
    assert not AccessKey.objects.filter(kind="environment").exists()
    assert cli.get("/api/v1/deployments/current").status == 401
    held.refresh_from_db()
    assert (held.project, held.status, held.management, held.origin, held.mode) == (
        None, "unmanaged", "unmanaged", "", "",
    )  # fmt: skip
    theirs.refresh_from_db()
    assert theirs.status == "in_sync"
    assert not Repository.objects.filter(pk=missing.pk).exists()
    assert "project was deleted" in RepositoryEvent.objects.get(repository=held).message
    line = AuditEntry.objects.get(action="delete.project")
    assert line.before is not None
    assert line.before["ref"] == project.ref
    assert (line.before["deployments"], line.before["current"], line.before["live_keys"]) == (1, 1, 1)
    assert AuditEntry.objects.filter(action="archive.project").exists()


def test_only_an_archived_project_is_deleted_and_only_by_its_name(project: Project) -> None:
    with pytest.raises(Refusal) as refused:
        delete(project)
    assert refused.value.code == "project_not_archived"
    archive(project)
    with pytest.raises(Refusal) as refused:
        delete(project, "billing")
    assert refused.value.code == "project_name_differs"
    assert Project.objects.exists()
    assert AuditEntry.objects.filter(action="delete.project").exclude(outcome="done").count() == 2
    delete(project)
    with pytest.raises(NotFound):
        delete(project)


def test_a_check_that_runs_during_the_deletion_loses_its_lease_and_its_result(project: Project) -> None:
    row = repository(project)
    archive(project)
    lease = Lease.claim(Repository.objects.filter(pk=row.pk), timedelta(minutes=1))
    assert lease is not None

    delete(project)

    assert not lease.finish({"status": "in_sync", "management": "full"})
    row.refresh_from_db()
    assert (row.status, row.management) == ("unmanaged", "unmanaged")


def test_a_channel_for_this_project_only_is_switched_off_and_does_not_become_one_for_all(project: Project) -> None:
    other = projects.create_project(name="Other")
    own, both, every = (
        NotificationChannel.objects.create(name=name, kind="mail", address="a@example.com") for name in "abc"
    )
    own.projects.set([project])
    both.projects.set([project, other])
    assert projects.holdings(project).channels == 1
    archive(project)

    delete(project)

    enabled = dict(NotificationChannel.objects.values_list("name", "enabled"))
    assert enabled == {"a": False, "b": True, "c": True}
    assert list(both.projects.all()) == [other]
    assert not every.projects.exists()


# ------------------------------------------------------------------------------------------------- console and command


@pytest.fixture
def browser(operator: User) -> Client:
    client = Client()
    client.force_login(operator)
    return client


@pytest.mark.costly
def test_the_console_says_first_what_happens_with_numbers_and_then_does_it(
    browser: Client, cli: Cli, project: Project
) -> None:
    cli.deploy()
    cli.finalize(cli.deploying())
    repository(project)
    one = f"{PAGES}{project.pk}/"

    asked = browser.get(f"{one}archive/").content.decode()
    for words in ("1 running deployment will be canceled", "1 current version will stay", "1 live key of"):
        assert words in asked
    assert Project.objects.get().archived_at is None
    assert "is archived" in browser.post(f"{one}archive/", follow=True).content.decode()
    page = browser.get(f"{one}change/").content.decode()
    assert "This project is archived" in page
    assert f"{one}restore/" in page
    assert "/promote/" not in page
    assert "Billing" not in browser.get(PAGES).content.decode()
    assert "Billing" in browser.get(f"{PAGES}?state=archived").content.decode()
    assert "Billing" in browser.get(f"{PAGES}?state=all").content.decode()
    assert browser.get("/admin/").context["grid"] == []

    asked = browser.get(f"{one}delete/").content.decode()
    for words in ("3 environments, 2 deployments and 1 live key will be deleted", "1 repository will become unmanaged"):
        assert words in asked
    refused = browser.post(f"{one}delete/", {"name": "Biling"}).content.decode()
    assert "is not the name of the project, Billing" in refused
    assert Project.objects.exists()
    assert "Billing is deleted" in browser.post(f"{one}delete/", {"name": "Billing"}, follow=True).content.decode()
    assert not Project.objects.exists()


@pytest.mark.costly
def test_a_promotion_of_an_archived_project_is_offered_nowhere_and_refused(
    browser: Client, cli: Cli, project: Project
) -> None:
    first, second = cli.deploying(), cli.deploying()
    cli.finalize(first)
    cli.finalize(second)
    archive(project)
    page = f"/admin/deployments/deployment/{first}/"

    assert "/promote/" not in browser.get(f"{page}change/").content.decode()
    assert "The project Billing is archived." in browser.get(f"{page}promote/").content.decode()
    browser.post(f"{page}promote/", {"instead_of": second})

    assert Promotion.objects.get().deployment_id == second


@pytest.mark.parametrize(("name", "right"), [("archive", "archive"), ("restore", "archive"), ("delete", "delete")])
def test_each_end_needs_its_own_right(name: str, right: str, project: Project) -> None:
    if name != "archive":
        archive(project)
    before = Project.objects.values().get()
    viewer = User.objects.create(username="vera", is_staff=True)
    others = {"archive", "delete", "change", "view"} - {right}
    viewer.user_permissions.set(Permission.objects.filter(codename__in=[f"{each}_project" for each in others]))
    client = Client()
    client.force_login(viewer)

    for method in (client.get, client.post):
        assert method(f"{PAGES}{project.pk}/{name}/", {"name": "Billing"}).status_code == 403
    assert Project.objects.values().get() == before


def command(*words: str) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    call_command("projects", *words, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_the_command_asks_says_what_happens_and_does_it(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[str] = ["no", "yes", "Billing"]
    monkeypatch.setattr("builtins.input", lambda question: answers.pop(0))

    with pytest.raises(CommandError, match="Nothing was changed"):
        command("archive", project.ref)
    out, err = command("archive", project.ref)
    assert ("is archived" in out, "No key is revoked" in err) == (True, True)
    assert command("list")[0] == ""
    assert "ARCHIVED" in command("list", "--all")[0]
    assert "takes deploys again" in command("restore", project.ref)[0]
    assert "is archived" in command("archive", project.ref, "--yes")[0]
    with pytest.raises(CommandError, match="is not the name"):
        command("delete", project.ref, "--name", "Bill")
    out, err = command("delete", project.ref)
    assert ("is deleted" in out, "cannot be taken back" in err) == (True, True)
    with pytest.raises(CommandError) as gone:
        command("restore", project.ref)
    assert gone.value.returncode == 2


def test_no_key_is_offered_for_an_archived_project(browser: Client, project: Project) -> None:
    keys.make_environment_key(project.environments.get(slug="prod"))
    archive(project)

    form = browser.get("/admin/deployments/accesskey/add/?kind=environment").context["form"]

    assert not form.fields["environment"].queryset.exists()
