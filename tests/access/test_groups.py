"""People: a right for each action, three groups that hold them, and pages that open only to who may see them."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from deployments.access import groups
from deployments.access.groups import ACTIONS, ADMIN, OPERATOR, VIEWER

#: Group → the lists that it sees. A new page without a place here fails the tests.
LOOKS = {
    "accesskey", "deployment", "environment", "notificationchannel", "notificationdelivery", "policyversion", "project",
    "repository", "sweep", "trustpolicy",
}  # fmt: skip
OPERATES = LOOKS | {"auditentry", "environmentvariable"}
SEES = {VIEWER: LOOKS, OPERATOR: OPERATES, ADMIN: OPERATES | {"user", "group"}, "": set()}


def member(group: str) -> Client:
    user = User.objects.create(username=f"{group or 'nobody'}@example.com", is_staff=True)
    if group:
        user.groups.add(Group.objects.get(name=group))
    client = Client()
    client.force_login(user)
    return client


def codenames(group: str) -> set[str]:
    return set(Permission.objects.filter(group__name=group).values_list("codename", flat=True))


# ------------------------------------------------------------------------------------------------- rights and groups


@pytest.mark.django_db
def test_after_migrate_there_are_three_groups_and_a_right_for_each_action() -> None:
    assert set(Group.objects.values_list("name", flat=True)) == {VIEWER, OPERATOR, ADMIN}
    for model, codename in ACTIONS:
        assert Permission.objects.filter(content_type__model=model, codename=codename).count() == 1


@pytest.mark.django_db
def test_a_viewer_only_looks() -> None:
    assert codenames(VIEWER)
    assert not [name for name in codenames(VIEWER) if not name.startswith("view_")]
    assert "view_user" not in codenames(VIEWER)
    assert "view_auditentry" not in codenames(VIEWER)


@pytest.mark.django_db
def test_an_operator_acts_on_what_runs_and_not_on_people_keys_channels_or_old_policies() -> None:
    more = codenames(OPERATOR) - codenames(VIEWER)

    assert {"reconcile_repository", "promote_deployment", "rollback_deployment", "cancel_deployment"} <= more
    assert {"adopt_repository", "except_repository", "start_sweep", "stop_sweep", "view_setup"} <= more
    assert not [
        name
        for name in more
        if name.startswith(("add_", "change_", "delete_"))
        or "key" in name
        or "channel" in name
        or "restore_policy" in name
    ]


@pytest.mark.django_db
def test_an_admin_may_do_everything_that_there_is_a_right_for() -> None:
    every = Permission.objects.filter(content_type__app_label__in=("auth", "deployments"))

    assert codenames(ADMIN) == set(every.values_list("codename", flat=True))
    assert {codename for _, codename in ACTIONS} <= codenames(ADMIN)


@pytest.mark.django_db
def test_migrating_again_changes_nothing_and_takes_a_moment() -> None:
    before = {name: (Group.objects.get(name=name).pk, codenames(name)) for name in (VIEWER, OPERATOR, ADMIN)}
    rights = set(Permission.objects.values_list("pk", flat=True))

    with CaptureQueriesContext(connection) as captured:
        groups.ensure_groups()

    assert {name: (Group.objects.get(name=name).pk, codenames(name)) for name in before} == before
    assert set(Permission.objects.values_list("pk", flat=True)) == rights
    assert len(captured) < 30


@pytest.mark.django_db
def test_what_people_gave_and_made_stays_and_what_is_missing_comes_back() -> None:
    own = Group.objects.create(name="release managers")
    own.permissions.add(Permission.objects.get(codename="promote_deployment"))
    viewer = Group.objects.get(name=VIEWER)
    viewer.permissions.add(Permission.objects.get(codename="start_sweep"))
    viewer.permissions.remove(Permission.objects.get(codename="view_repository"))
    Group.objects.get(name=OPERATOR).delete()

    groups.ensure_groups()

    assert codenames("release managers") == {"promote_deployment"}
    assert {"start_sweep", "view_repository"} <= codenames(VIEWER)
    assert "promote_deployment" in codenames(OPERATOR)


@pytest.mark.django_db
def test_a_right_of_another_apps_model_with_the_same_name_is_not_given_away() -> None:
    foreign = ContentType.objects.create(app_label="elsewhere", model="deployment")
    Permission.objects.create(content_type=foreign, codename="view_deployment", name="Can view theirs")

    groups.ensure_groups()

    assert not Permission.objects.filter(group__name=VIEWER, content_type=foreign).exists()


def test_before_the_tables_are_there_nothing_is_done() -> None:
    class Old:
        def get_model(self, app: str, name: str) -> None:
            raise LookupError

    groups.ensure_groups(apps=Old())


@pytest.mark.costly
@pytest.mark.django_db
def test_flush_and_migrate_themselves_make_the_groups() -> None:
    Group.objects.all().delete()

    call_command("migrate", verbosity=0)

    assert Group.objects.filter(name=OPERATOR).exists()


def test_the_actions_are_about_models_that_exist_and_are_none_of_djangos_own() -> None:
    for model, codename in ACTIONS:
        apps.get_model("deployments", model)
        assert codename.partition("_")[0] not in ("add", "change", "delete")


# -------------------------------------------------------------------------------------------- the pages of each group


@pytest.mark.costly
@pytest.mark.django_db
@pytest.mark.parametrize("group", SEES)
def test_each_group_sees_its_lists_and_no_others(group: str) -> None:
    client = member(group)
    for model in admin.site._registry:
        options = model._meta
        address = reverse(f"admin:{options.app_label}_{options.model_name}_changelist")
        expected = 200 if options.model_name in SEES[group] else 403
        assert (options.model_name, client.get(address).status_code) == (options.model_name, expected)


@pytest.mark.costly
@pytest.mark.django_db
@pytest.mark.parametrize("group", [VIEWER, OPERATOR])
def test_only_an_admin_gets_to_the_forms_that_add_something(group: str) -> None:
    client = member(group)
    for model in admin.site._registry:
        address = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_add")
        assert client.get(address).status_code == 403
        assert client.post(address, {}).status_code == 403


@pytest.mark.costly
@pytest.mark.django_db
def test_an_admin_who_is_no_superuser_makes_people_keys_and_projects() -> None:
    client = member(ADMIN)

    for name in ("auth_user", "auth_group", "deployments_accesskey", "deployments_project"):
        assert client.get(reverse(f"admin:{name}_add")).status_code == 200
