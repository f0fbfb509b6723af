"""What people do in the console: each by a POST with a right of its own, shown first, written down, AWS never asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.contrib.messages import WARNING, get_messages
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_q.models import OrmQ

from deployments.access import keys
from deployments.config import Configuration
from deployments.deploys import promotions
from deployments.errors import Refusal
from deployments.models import (
    AccessKey,
    AuditEntry,
    Deployment,
    DeploymentStatus,
    Environment,
    EnvironmentVariable,
    KeyKind,
    Process,
    ProcessRole,
    Promotion,
    Repository,
    RepositoryStatus,
    Sweep,
    SweepStatus,
)
from deployments.reconcile import processes, repositories, requests
from tests.admin.installation import CLUSTER, ENVIRONMENT, HOST, UNPROVED, Installation, policy, rolled
from tests.support.constants import TRAIL

REPOSITORIES, DEPLOYMENTS = "/admin/deployments/repository/", "/admin/deployments/deployment/"
ASK = f"{REPOSITORIES}ask/"


def drifted() -> Repository:
    """A repository that the settings name, with a policy that somebody else wrote."""
    row = Repository.objects.filter(host=HOST, status="in_sync")[0]
    row.status, row.policy_text = RepositoryStatus.DRIFTED, policy(CLUSTER, roots=True, actions=["ecr:*"])
    row.save()
    return row


# -------------------------------------------------------------------------------------------------------- promotion


@pytest.mark.costly
def test_a_roll_back_says_what_will_change_then_does_it_and_is_marked_as_one(
    installation: Installation, operator: Client, configure: Callable[..., Configuration]
) -> None:
    configure(**ENVIRONMENT, **UNPROVED)
    older, promotion = rolled()
    page = f"{DEPLOYMENTS}{older.pk}/promote/"

    question = operator.get(page).content.decode()
    assert f"Roll back to {older.version}?" in question
    assert older.image_digest in question
    assert promotion.deployment.image_digest in question
    assert Promotion.objects.get(pk=promotion.pk).deployment_id == promotion.deployment_id  # a look changes nothing

    operator.post(page, {"instead_of": promotion.deployment_id})

    after = Promotion.objects.get(pk=promotion.pk)
    assert (after.deployment_id, after.rolled_back_from_id) == (older.pk, promotion.deployment_id)
    assert after.promoted_by == "operator"
    entry = AuditEntry.objects.get(action="rollback.deployment")
    assert entry.before == {"current": str(promotion.deployment.version)}
    assert "Rolled back to" in operator.get(f"{DEPLOYMENTS}{older.pk}/change/").content.decode()
    newer = operator.get(f"{DEPLOYMENTS}{promotion.deployment_id}/change/").content.decode()
    assert "which is older, replaced it" in " ".join(newer.split())
    listed = operator.get(DEPLOYMENTS, {"mark": "rolled_back"}).context["cl"].result_list
    assert promotion.deployment_id in [row.pk for row in listed]


@pytest.mark.costly
def test_going_forward_again_is_a_promotion_and_takes_the_mark_away(
    installation: Installation, operator: Client, configure: Callable[..., Configuration]
) -> None:
    configuration = configure(**ENVIRONMENT, **UNPROVED)
    older, promotion = rolled()
    newest = promotion.deployment
    promotions.make_current(deployment=older, instead_of=newest.pk, by="x", configuration=configuration, trail=TRAIL)

    operator.post(f"{DEPLOYMENTS}{newest.pk}/promote/", {"instead_of": older.pk})

    after = Promotion.objects.get(pk=promotion.pk)
    assert (after.deployment_id, after.rolled_back_from) == (newest.pk, None)
    assert AuditEntry.objects.filter(action="promote.deployment").exists()


def test_a_promotion_that_somebody_else_overtook_is_asked_about_again(
    installation: Installation, operator: Client
) -> None:
    older, promotion = rolled()

    response = operator.post(f"{DEPLOYMENTS}{older.pk}/promote/", {"instead_of": "deployment_gone"}, follow=True)

    assert Promotion.objects.get(pk=promotion.pk).deployment_id == promotion.deployment_id
    assert "Check again what will change" in response.content.decode()
    assert AuditEntry.objects.get(action="rollback.deployment").outcome != "done"


def test_a_deploy_that_is_promoted_in_the_meantime_is_not_marked_as_rolled_back(installation: Installation) -> None:
    older, promotion = rolled()
    promotion.rolled_back_from = promotion.deployment  # as a roll-back long ago left it
    promotion.save()

    assert promotions.rolled_back(promotion) is None
    promotion.deployment = older
    assert promotions.rolled_back(promotion) == promotion.rolled_back_from


def test_what_never_went_well_cannot_become_current(installation: Installation, operator: Client) -> None:
    failed = Deployment.objects.filter(status="FAILED")[0]
    page = f"{DEPLOYMENTS}{failed.pk}/promote/"
    token = promotions.change_to(failed).token

    assert "cannot become current" in operator.get(page).content.decode()
    operator.post(page, {"instead_of": token})

    assert not Promotion.objects.filter(deployment=failed).exists()


@pytest.mark.costly
def test_canceling_ends_a_running_deployment_with_a_reason_and_an_ended_one_not(
    installation: Installation, operator: Client
) -> None:
    going = Deployment.objects.filter(status="BUILDING")[0]
    page = f"{DEPLOYMENTS}{going.pk}/cancel/"

    operator.get(page)
    going.refresh_from_db()
    assert going.status == "BUILDING"

    operator.post(page, {"reason": "wrong branch"})
    going.refresh_from_db()
    assert (going.status, going.canceled_reason) == (DeploymentStatus.CANCELED, "By operator: wrong branch")
    answer = operator.post(page, follow=True).content.decode()
    assert "already CANCELED" in answer


@pytest.mark.costly
@pytest.mark.parametrize(
    ("right", "address"),
    [
        ("promote_deployment", "deployment/{newer}/promote/"),
        ("rollback_deployment", "deployment/{older}/promote/"),
        ("cancel_deployment", "deployment/{going}/cancel/"),
        ("reconcile_repository", "repository/{repository}/look/reconcile/"),
        ("reconcile_repository", "repository/{repository}/look/preview/"),
        ("except_repository", "repository/{repository}/look/end/"),
        ("reconcile_repository", "repository/ask/?look=preview&pk={repository}"),
        ("adopt_repository", "repository/ask/?look=adopt&pk={repository}"),
        ("except_repository", "repository/ask/?look=except&pk={repository}"),
        ("restore_policy_repository", "repository/{repository}/restore/{event}/"),
        ("take_over_policy_repository", "repository/{repository}/take-over/"),
        ("restore_image_repository", "repository/{repository}/images/latest/restore/"),
        ("adopt_statement_repository", "repository/{repository}/statement/"),
        ("refuse_statement_repository", "repository/{repository}/statement/refuse/"),
        ("start_sweep", "sweep/start/"),
        ("stop_sweep", "sweep/{sweep}/stop/"),
        ("rotate_accesskey", "accesskey/{key}/rotate/"),
        ("revoke_accesskey", "accesskey/{key}/revoke/"),
        ("change_environmentvariable", "environment/{environment}/variable/"),
        ("delete_environmentvariable", "environment/{environment}/variable/delete/?name=LOG_LEVEL"),
    ],
)
def test_each_action_needs_its_own_right_and_no_other_one_will_do(
    right: str, address: str, installation: Installation, person: Callable[..., Client]
) -> None:
    older, promotion = rolled()
    newer = Deployment.objects.filter(environment=promotion.environment, status="DEPLOYED").order_by("-created_at")[0]
    Promotion.objects.filter(pk=promotion.pk).update(deployment=older)
    oldest = Deployment.objects.filter(environment=promotion.environment, status="DEPLOYED").order_by("created_at")[0]
    if right == "rollback_deployment":
        Promotion.objects.filter(pk=promotion.pk).update(deployment=newer)
    repository = drifted()
    path = "/admin/deployments/" + address.format(
        newer=newer.pk,
        older=oldest.pk,
        going=Deployment.objects.filter(status="BUILDING")[0].pk,
        repository=repository.pk,
        event=repository.events.exclude(policy_before="")[0].pk,
        sweep=Sweep.objects.filter(status="running")[0].pk,
        key=AccessKey.objects.filter(kind=KeyKind.ENVIRONMENT, revoked_at=None, replaced_by=None)[0].pk,
        environment=EnvironmentVariable.objects.all()[0].environment_id,
    )
    looks = ["view_deployment", "view_repository", "view_sweep", "view_accesskey", "view_environment"]
    others = [
        each
        for each in (
            "promote_deployment", "rollback_deployment", "cancel_deployment", "reconcile_repository",
            "except_repository", "adopt_repository", "restore_policy_repository", "start_sweep", "stop_sweep",
            "take_over_policy_repository", "restore_image_repository", "adopt_statement_repository",
            "refuse_statement_repository", "rotate_accesskey", "revoke_accesskey",
            "change_environmentvariable", "delete_environmentvariable",
        )
        if each != right
    ]  # fmt: skip
    audited = AuditEntry.objects.count()

    assert person(*looks, *others).post(path).status_code == 403
    assert AuditEntry.objects.count() == audited
    assert person(*looks, right).post(path).status_code in (200, 302)


@pytest.mark.costly
def test_no_action_is_taken_without_a_token(installation: Installation) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create(username="x", is_staff=True, is_superuser=True))
    repository = Repository.objects.filter(host=HOST, status="in_sync")[0]
    sweeps = Sweep.objects.count()

    for path in (
        f"{REPOSITORIES}{repository.pk}/look/reconcile/", f"{ASK}?look=reconcile", "/admin/deployments/sweep/start/",
        f"{DEPLOYMENTS}{rolled()[0].pk}/promote/",
    ):  # fmt: skip
        assert client.post(path).status_code == 403

    assert Sweep.objects.count() == sweeps


@pytest.mark.parametrize("path", ["look/reconcile/", "look/preview/", "look/end/"])
def test_a_get_of_a_button_does_nothing(path: str, installation: Installation, operator: Client) -> None:
    row = Repository.objects.filter(host=HOST)[0]
    sweeps = Sweep.objects.count()

    assert operator.get(f"{REPOSITORIES}{row.pk}/{path}").status_code == 405
    assert Sweep.objects.count() == sweeps


# ------------------------------------------------------------------------------------------------------------- looks


@pytest.mark.costly
def test_the_button_of_a_row_starts_a_sweep_over_it_wakes_the_workers_and_leads_back_with_the_filters(
    installation: Installation, operator: Client
) -> None:
    row = drifted()
    back = f"{REPOSITORIES}?status=drifted"
    # A superuser's list has one form for the buttons of all rows.
    assert f'formaction="{REPOSITORIES}{row.pk}/look/reconcile/"' in operator.get(back).content.decode()

    response = operator.post(f"{REPOSITORIES}{row.pk}/look/reconcile/", {"next": back})

    assert response["Location"] == back
    sweep = Sweep.objects.latest("pk")
    assert (sweep.names, sweep.requested_by, sweep.trigger, sweep.dry_run) == ([row.name], "operator", "person", False)
    assert OrmQ.objects.exists()
    assert AuditEntry.objects.get(action="reconcile.repository").object_id == str(row.pk)


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example/x", "javascript:alert(1)", "relative"])
def test_a_button_never_leads_to_another_site(target: str, installation: Installation, operator: Client) -> None:
    row = Repository.objects.filter(host=HOST, status="in_sync")[0]

    response = operator.post(f"{REPOSITORIES}{row.pk}/look/preview/", {"next": target})

    assert response["Location"] == f"{REPOSITORIES}{row.pk}/change/"


@pytest.mark.costly
def test_a_selection_in_the_list_leads_to_a_page_that_asks_and_then_to_the_sweep(
    installation: Installation, operator: Client
) -> None:
    rows = list(Repository.objects.filter(host=HOST, status="in_sync")[:2])

    asked = operator.post(
        REPOSITORIES, {"action": "ask_preview", "_selected_action": [row.pk for row in rows], "index": "0"}
    )
    page = operator.get(asked["Location"])
    assert "2 repositories" in page.content.decode()
    before = Sweep.objects.count()

    done = operator.post(asked["Location"])

    sweep = Sweep.objects.latest("pk")
    assert Sweep.objects.count() == before + 1
    assert sweep.dry_run
    assert sorted(sweep.names) == sorted(row.name for row in rows)
    assert done["Location"] == reverse("admin:deployments_sweep_change", args=[sweep.pk])


@pytest.mark.costly
def test_all_that_match_the_filter_are_acted_on_and_not_only_the_first_page(
    installation: Installation, operator: Client
) -> None:
    Installation(projects=80, repositories=80, deployments=0, seed=3)
    wanted = set(Repository.objects.filter(status="in_sync", host=HOST).values_list("name", flat=True))
    assert len(wanted) > 50

    operator.post(f"{ASK}?look=reconcile&status=in_sync")

    # Those of other registries are not within the settings' reach.
    assert set(Sweep.objects.latest("pk").names) == wanted


def test_select_across_all_pages_asks_about_the_filter_and_not_about_the_page(
    installation: Installation, operator: Client
) -> None:
    response = operator.post(
        f"{REPOSITORIES}?status=in_sync",
        {"action": "ask_except", "select_across": "1", "index": "0",
         "_selected_action": [Repository.objects.filter(status="in_sync")[0].pk]},
    )  # fmt: skip

    assert response["Location"].endswith("?look=except&status=in_sync")


@pytest.mark.costly
def test_an_adopted_repository_is_taken_over_behind_a_page_that_says_what_that_means(
    installation: Installation, operator: Client
) -> None:
    row = Repository.objects.filter(host=HOST, status="in_sync")[0]
    Repository.objects.filter(pk=row.pk).update(origin="adopted", management="adopted")
    assert "Take over…" in operator.get(f"{REPOSITORIES}{row.pk}/change/").content.decode()

    page = f"{ASK}?look=take&pk={row.pk}"
    assert "somebody else" in operator.get(page).content.decode()
    operator.post(page)

    row.refresh_from_db()
    assert (row.management, Sweep.objects.latest("pk").names) == ("full", [row.name])
    assert "Take over…" not in operator.get(f"{REPOSITORIES}{row.pk}/change/").content.decode()


@pytest.mark.parametrize("look", ["reconcile", "preview"])
def test_a_check_of_one_repository_looks_for_a_missing_one_too(
    look: str, installation: Installation, operator: Client
) -> None:
    row = Repository.objects.filter(host=HOST)[0]
    Repository.objects.filter(pk=row.pk).update(status=RepositoryStatus.MISSING, management="")

    operator.post(f"{REPOSITORIES}{row.pk}/look/{look}/")

    assert Sweep.objects.latest("pk").names == [row.name]


@pytest.mark.costly
def test_what_no_sweep_can_reach_is_said_instead_of_a_sweep_over_nothing(
    installation: Installation, operator: Client
) -> None:
    row = Repository.objects.exclude(host=HOST)[0]
    before = Sweep.objects.count()

    page = operator.post(f"{REPOSITORIES}{row.pk}/look/reconcile/", follow=True).content.decode()

    assert "None of these repositories can be checked" in page
    assert Sweep.objects.count() == before


def test_adopting_marks_the_row_and_has_it_looked_at(installation: Installation, operator: Client) -> None:
    row = Repository.objects.filter(host=HOST, status="in_sync")[0]
    Repository.objects.filter(pk=row.pk).update(status=RepositoryStatus.UNMANAGED, origin="", management="unmanaged")

    operator.post(f"{ASK}?look=adopt&pk={row.pk}")

    row.refresh_from_db()
    assert (row.status, row.management) == (RepositoryStatus.PENDING, "adopted")
    assert Sweep.objects.latest("pk").names == [row.name]


@pytest.mark.costly
def test_an_exception_has_a_mode_an_end_and_a_reason_and_stands_in_the_history(
    installation: Installation, operator: Client
) -> None:
    row = Repository.objects.filter(host=HOST, status="in_sync", mode="")[0]

    refused = operator.post(f"{ASK}?look=except&pk={row.pk}", {"mode": "observe", "hours": 4, "reason": " "})
    assert "errorlist" in refused.content.decode()
    operator.post(f"{ASK}?look=except&pk={row.pk}", {"mode": "observe", "hours": 4, "reason": "OPS-1"})

    row.refresh_from_db()
    assert (row.mode, row.mode_reason, row.mode_by) == ("observe", "OPS-1", "operator")
    assert row.mode_until is not None
    assert abs(row.mode_until - timezone.now() - timedelta(hours=4)) < timedelta(minutes=1)
    page = operator.get(f"{REPOSITORIES}{row.pk}/change/").content.decode()
    assert "Exception: only observed until" in page
    assert "OPS-1" in page
    assert row.events.filter(message__contains="OPS-1", cause="operator").exists()

    operator.post(f"{REPOSITORIES}{row.pk}/look/end/")
    row.refresh_from_db()
    assert row.mode == ""
    assert row.mode_until is None


def test_an_exception_in_the_past_or_without_a_reason_is_refused(installation: Installation) -> None:
    rows = Repository.objects.all()[:1]
    now = timezone.now()

    with pytest.raises(Refusal, match="in the future"):
        requests.set_override(rows=rows, mode="observe", until=now - timedelta(seconds=1), reason="x", by="x")
    with pytest.raises(Refusal, match="reason"):
        requests.set_override(rows=rows, mode="observe", until=now + timedelta(hours=1), reason=" ", by="x")


# ------------------------------------------------------------------------------------------------------------ sweeps


@pytest.mark.costly
def test_a_sweep_is_started_by_a_post_and_watched_and_stopped(installation: Installation, operator: Client) -> None:
    before = Sweep.objects.count()
    assert "What it will do" in operator.get("/admin/deployments/sweep/start/").content.decode()
    assert Sweep.objects.count() == before

    response = operator.post("/admin/deployments/sweep/start/", {"dry_run": "1"})

    sweep = Sweep.objects.latest("pk")
    assert (sweep.names, sweep.dry_run, sweep.adopt) == ([], True, False)
    page = operator.get(response["Location"]).content.decode()
    assert 'id="live" class="live" data-running' in page
    assert "Waiting for a worker" in page
    operator.post(f"/admin/deployments/sweep/{sweep.pk}/stop/")
    sweep.refresh_from_db()
    assert sweep.status == SweepStatus.STOPPED


def test_adopting_by_a_sweep_takes_the_right_to_adopt(
    installation: Installation, person: Callable[..., Client]
) -> None:
    client = person("start_sweep", "view_sweep")

    assert "Adopt discovered" not in client.get("/admin/deployments/sweep/start/").content.decode()
    assert client.post("/admin/deployments/sweep/start/", {"adopt": "1"}).status_code == 403


def test_the_findings_of_a_sweep_can_be_read_by_outcome(installation: Installation, operator: Client) -> None:
    sweep = Sweep.objects.filter(status="done", findings__outcome="failed")[0]

    page = operator.get(f"/admin/deployments/sweep/{sweep.pk}/change/", {"outcome": "failed", "p": "99"})

    assert {finding.outcome for finding in page.context["findings"]} == {"failed"}


# -------------------------------------------------------------------------------------------------- keys, variables


@pytest.mark.costly
def test_rotating_shows_the_new_key_once_and_the_old_one_works_on_for_a_while(
    installation: Installation, operator: Client
) -> None:
    old = AccessKey.objects.filter(kind=KeyKind.ENVIRONMENT, revoked_at=None, replaced_by=None)[0]
    page = f"/admin/deployments/accesskey/{old.pk}/rotate/"
    before = AccessKey.objects.count()
    operator.get(page)
    assert AccessKey.objects.count() == before

    made = operator.post(page, {"hours": 24})

    new = AccessKey.objects.latest("pk")
    old.refresh_from_db()
    assert new.replaces == old
    assert new.scopes == old.scopes == ["deploy"]
    assert keys.authenticate(made.context["text"]) == new
    assert "no-store" in made["Cache-Control"]
    assert old.is_live
    assert old.expires_at is not None
    seen = operator.get(f"/admin/deployments/accesskey/{new.pk}/change/").content.decode()
    assert "No use of the old key was seen since this key was made." in seen
    AccessKey.objects.filter(pk=old.pk).update(last_used_at=timezone.now(), last_used_by="old CLI at 10.0.0.9")
    seen = operator.get(f"/admin/deployments/accesskey/{new.pk}/change/").content.decode()
    assert "Since this key was made, the old key was used by:" in seen
    assert "old CLI at 10.0.0.9" in seen
    environment = operator.get(f"/admin/deployments/environment/{old.environment_id}/change/").content.decode()
    assert ">Replaced<" in environment
    # A second successor would make it unclear which one counts.
    assert "it has been rotated already" in operator.post(page, {"hours": 0}, follow=True).content.decode()
    assert AccessKey.objects.count() == before + 1


def test_nobody_gets_to_see_a_new_token_of_somebody_else(
    installation: Installation, person: Callable[..., Client]
) -> None:
    token = AccessKey.objects.filter(kind=KeyKind.USER, revoked_at=None)[0]
    before = AccessKey.objects.count()
    other, page = person("rotate_accesskey"), f"/admin/deployments/accesskey/{token.pk}/rotate/"

    assert page not in other.get("/admin/deployments/accesskey/").content.decode()
    assert other.post(page).status_code == 403
    assert AccessKey.objects.count() == before


def test_a_key_is_made_with_scopes_and_an_end(installation: Installation, operator: Client) -> None:
    environment = Environment.objects.filter(slug="prod")[0]

    operator.post(
        "/admin/deployments/accesskey/add/",
        {"kind": "environment", "environment": environment.pk, "scopes": ["read"], "days": "30"},
    )

    key = AccessKey.objects.latest("pk")
    assert key.scopes == ["read"]
    assert key.expires_at is not None


@pytest.mark.costly
def test_a_variable_is_set_changed_and_deleted_and_a_secret_is_never_shown(
    installation: Installation, operator: Client
) -> None:
    environment = Environment.objects.filter(slug="prod")[0]
    page = f"/admin/deployments/environment/{environment.pk}/"

    operator.post(f"{page}variable/", {"name": "TOKEN", "value": "hush-hush", "is_secret": "on"})
    operator.post(f"{page}variable/", {"name": "LEVEL", "value": "debug"})

    shown = operator.get(f"{page}change/").content.decode()
    assert "LEVEL" in shown
    assert "debug" in shown
    assert "TOKEN" in shown
    assert "hush-hush" not in shown + operator.get(f"{page}variable/", {"name": "TOKEN"}).content.decode()
    assert "debug" in operator.get(f"{page}variable/", {"name": "LEVEL"}).content.decode()
    assert "hush-hush" not in json.dumps(list(AuditEntry.objects.values("before", "after", "outcome")))
    assert environment.variables.get(name="TOKEN").updated_by == "operator"

    operator.get(f"{page}variable/delete/?name=LEVEL")
    assert environment.variables.filter(name="LEVEL").exists()
    operator.post(f"{page}variable/delete/?name=LEVEL")
    assert not environment.variables.filter(name="LEVEL").exists()


def test_a_name_that_cannot_be_is_refused_with_a_sentence(installation: Installation, operator: Client) -> None:
    environment = Environment.objects.filter(slug="prod")[0]

    page = operator.post(f"/admin/deployments/environment/{environment.pk}/variable/", {"name": "A=B", "value": "x"})

    assert "without =" in page.content.decode()


def test_who_may_not_see_variables_does_not(installation: Installation, person: Callable[..., Client]) -> None:
    environment = EnvironmentVariable.objects.all()[0].environment_id

    page = person("view_environment").get(f"/admin/deployments/environment/{environment}/change/").content.decode()

    assert "Environment variables" not in page
    assert "LOG_LEVEL" not in page


# -------------------------------------------------------------------------------------------------------- audit lines


def audited(action: str) -> list[tuple[str, str, str]]:
    """(who, the object's id, the outcome) of each line about this action, the first one first."""
    lines = AuditEntry.objects.filter(action=action).order_by("pk")
    assert not lines.exclude(actor_kind="person").exists()
    return list(lines.values_list("actor", "object_id", "outcome"))


@pytest.mark.costly
def test_revoking_a_key_leaves_one_line_with_its_owner(installation: Installation, operator: Client) -> None:
    key = AccessKey.objects.filter(kind=KeyKind.ENVIRONMENT, revoked_at=None)[0]

    operator.post(f"/admin/deployments/accesskey/{key.pk}/revoke/")
    operator.post(f"/admin/deployments/accesskey/{key.pk}/revoke/")

    assert audited("revoke.key") == [("operator", str(key.pk), "done")]
    assert key.environment is not None
    assert AuditEntry.objects.get(action="revoke.key").before == {
        "owner": f"{key.environment.project} / {key.environment}",
        "last_used_by": key.last_used_by,
    }


def test_rotating_a_key_leaves_a_line_and_a_refused_rotation_one_with_the_reason(
    installation: Installation, operator: Client
) -> None:
    key = AccessKey.objects.filter(kind=KeyKind.ENVIRONMENT, revoked_at=None, replaced_by=None)[0]

    for _ in range(2):
        operator.post(f"/admin/deployments/accesskey/{key.pk}/rotate/", {"hours": 24})

    [done, refused] = audited("rotate.key")
    assert done == ("operator", str(key.pk), "done")
    assert refused[:2] == ("operator", str(key.pk))
    assert "it has been rotated already" in refused[2]


def test_making_a_key_leaves_a_line(installation: Installation, operator: Client) -> None:
    environment = Environment.objects.filter(slug="prod")[0]

    operator.post("/admin/deployments/accesskey/add/", {"kind": "environment", "environment": environment.pk})

    assert audited("make.key") == [("operator", str(AccessKey.objects.latest("pk").pk), "done")]


def test_setting_and_deleting_a_variable_leave_lines_with_its_name_and_a_refused_one_the_reason(
    installation: Installation, operator: Client
) -> None:
    environment = Environment.objects.filter(slug="prod")[0]
    page = f"/admin/deployments/environment/{environment.pk}/variable/"

    operator.post(page, {"name": "TOKEN", "value": "hush", "is_secret": "on"})
    operator.post(page, {"name": "A=B", "value": "x"})
    operator.post(f"{page}delete/?name=TOKEN")

    [done, refused] = audited("set.variable")
    assert done == ("operator", str(environment.pk), "done")
    assert "without =" in refused[2]
    assert audited("delete.variable") == [("operator", str(environment.pk), "done")]
    assert AuditEntry.objects.get(action="delete.variable").before == {"name": "TOKEN", "is_secret": True}


def test_a_refused_restore_leaves_a_line_with_the_reason(installation: Installation, operator: Client) -> None:
    row = Repository.objects.filter(host=HOST, status="in_sync")[0]
    kept = row.events.exclude(policy_before="")[0]
    assert repositories.claim(row) is not None

    operator.post(f"{REPOSITORIES}{row.pk}/restore/{kept.pk}/", {"hours": "4"})

    [(who, what, outcome)] = audited("restore.repository")
    assert (who, what) == ("operator", str(row.pk))
    assert "Another process is changing" in outcome


def test_canceling_leaves_a_line_and_a_refused_cancel_one_with_the_reason(
    installation: Installation, operator: Client
) -> None:
    going = Deployment.objects.filter(status="BUILDING")[0]

    for _ in range(2):
        operator.post(f"{DEPLOYMENTS}{going.pk}/cancel/", {"reason": "wrong branch"})

    [done, refused] = audited("cancel.deployment")
    assert done == ("operator", going.pk, "done")
    assert "already CANCELED" in refused[2]
    first = AuditEntry.objects.filter(action="cancel.deployment").earliest("pk")
    assert (first.before, first.after) == ({"status": "BUILDING"}, {"status": "CANCELED"})


def test_starting_and_stopping_a_sweep_leave_a_line_each_and_stopping_an_ended_one_does_not(
    installation: Installation, operator: Client
) -> None:
    operator.post("/admin/deployments/sweep/start/", {"dry_run": "1"})
    sweep = Sweep.objects.latest("pk")
    for _ in range(2):
        operator.post(f"/admin/deployments/sweep/{sweep.pk}/stop/")

    assert audited("start.sweep") == audited("stop.sweep") == [("operator", str(sweep.pk), "done")]
    assert AuditEntry.objects.get(action="start.sweep").after == {"dry_run": True, "adopt": False, "over": "all"}


@pytest.mark.parametrize(
    ("look", "action", "changes"),
    [
        ("reconcile", "reconcile.repository", {}),
        ("preview", "preview.repository", {}),
        ("adopt", "adopt.repository", {"status": "unmanaged", "origin": "", "management": "unmanaged"}),
        ("take", "take.repository", {"origin": "adopted", "management": "adopted"}),
        ("except", "except.repository", {}),
    ],
)
def test_each_look_leaves_a_line_with_how_many_it_was_about_and_a_refused_one_with_the_reason(
    look: str, action: str, changes: dict[str, object], installation: Installation, operator: Client
) -> None:
    row = Repository.objects.filter(host=HOST, status="in_sync", mode="")[0]
    Repository.objects.filter(pk=row.pk).update(**changes)
    exception = {"mode": "observe", "hours": 4, "reason": "OPS-1"} if look == "except" else {}

    operator.post(f"{ASK}?look={look}&pk={row.pk}", exception)

    [line] = AuditEntry.objects.order_by("pk")
    assert (line.action, line.actor, line.outcome) == (action, "operator", "done")
    assert (line.after or {})["repositories"] == 1
    if look in ("reconcile", "preview"):
        elsewhere = Repository.objects.exclude(host=HOST).exclude(status__in=("unmanaged", "missing"))[0]
        operator.post(f"{ASK}?look={look}&pk={elsewhere.pk}")
        assert "None of these repositories can be checked" in AuditEntry.objects.latest("pk").outcome


# ------------------------------------------------------------------------------------------ a worker that is not there


@pytest.mark.parametrize("address", ["refresh of a repository", "reconcile of a repository", "start of a sweep"])
@pytest.mark.parametrize(
    ("beat", "words"),
    [
        (None, "No worker has run in the last day."),
        (timedelta(minutes=12, seconds=5), "No worker has been seen for 12 minutes."),
        (timedelta(seconds=3), ""),
    ],
)
def test_a_button_says_that_no_worker_runs_where_it_is_pressed(
    beat: timedelta | None, words: str, address: str, installation: Installation, operator: Client
) -> None:
    """C4: with no worker for minutes, the page said that a worker looks now."""
    Process.objects.all().delete()
    if beat is not None:
        Process.objects.create(role="worker", host="here", pid=7, beat_at=timezone.now() - beat)
    row = Repository.objects.filter(host=HOST, status="in_sync")[0]
    where, data = {
        "refresh of a repository": (reverse("admin:deployments_repository_look", args=[row.pk, "preview"]), {}),
        "reconcile of a repository": (reverse("admin:deployments_repository_look", args=[row.pk, "reconcile"]), {}),
        "start of a sweep": (reverse("admin:deployments_sweep_start"), {"dry_run": "1"}),
    }[address]

    response = operator.post(where, data)

    said = [message.message for message in get_messages(response.wsgi_request) if message.level == WARNING]
    sweep = Sweep.objects.latest("pk")
    assert said == ([f"{words} {sweep} waits until one runs: python manage.py worker"] if words else [])
    page = operator.get(reverse("admin:deployments_sweep_change", args=[sweep.pk])).content.decode()
    assert ("python manage.py worker" in page.partition("progress-title")[2]) == bool(words)


def test_a_worker_that_ended_is_not_seen_any_more(installation: Installation, operator: Client) -> None:
    now = timezone.now()
    Process.objects.all().delete()
    Process.objects.create(role="worker", host="here", pid=7, beat_at=now - timedelta(minutes=1), ended_at=now)

    assert processes.absence(ProcessRole.WORKER) == "No worker has been seen for 1 minute."
