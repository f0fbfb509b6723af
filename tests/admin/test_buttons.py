"""A page offers a button exactly when the action's own view would do what it says: for each status, and by rights."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.messages import SUCCESS, get_messages
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from deployments.access import keys
from deployments.admin.bulk_actions import ACTIONS_WITHOUT_QUESTION, BULK_ACTIONS
from deployments.config import Configuration
from deployments.models import (
    AccessKey,
    Deployment,
    DeploymentStatus,
    Environment,
    KeyKind,
    NotificationChannel,
    Promotion,
    Repository,
    RepositoryStatus,
    Sweep,
    SweepStatus,
)
from deployments.reconcile import ownership
from tests.admin.installation import ENVIRONMENT, HOST, UNPROVED, Installation, rolled

EXCEPTION = {"mode": "observe", "hours": 4, "reason": "OPS-1"}


@contextmanager
def tried() -> Iterator[None]:
    """What is done inside is undone afterwards."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def text_of(client: Client, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200
    return html.unescape(response.content.decode())


def page_of(client: Client, name: str, row: Any) -> str:
    return text_of(client, reverse(f"admin:deployments_{name}_change", args=[row.pk]))


def links(page: str, address: str) -> bool:
    return f'href="{address}"' in page or f'action="{address}"' in page


# ------------------------------------------------------------------------------------------------------ repositories

_PLAIN: dict[str, Any] = {"origin": "created", "taken_over_at": None, "mode": "", "mode_reason": "OPS-1"}
_ADOPTED = {"origin": "adopted"}
_CASES = [
    *({"status": status, **origin} for status in RepositoryStatus.values for origin in ({}, _ADOPTED, {"origin": ""})),
    {**_ADOPTED, "status": "in_sync", "taken_over_at": datetime(2026, 11, 1, tzinfo=UTC)},
    *({"status": status, "mode": "observe", "hours": 1} for status in RepositoryStatus.values),
    {"status": "in_sync", "mode": "enforce", "hours": -1},  # it has ended, and the row keeps it
    *({"status": status, "account": "999999999999"} for status in RepositoryStatus.values),
]


@pytest.mark.wide
@pytest.mark.parametrize("case", _CASES, ids=lambda case: "-".join(str(value) for value in case.values()))
def test_a_repository_offers_what_its_views_do_and_nothing_else(
    case: dict[str, Any], installation: Installation, operator: Client
) -> None:
    hours = case.get("hours")
    until = timezone.now() + timedelta(hours=hours) if hours else None
    row = Repository.objects.filter(host=HOST, status="in_sync")[0]
    values = {**_PLAIN, **{name: value for name, value in case.items() if name != "hours"}, "mode_until": until}
    Repository.objects.filter(pk=row.pk).update(**values)
    ownership.fill()
    page = page_of(operator, "repository", row)
    ask = reverse("admin:deployments_repository_ask")
    offered, done = set(), set()
    for name in BULK_ACTIONS:
        address = f"{ask}?look={name}&pk={row.pk}"
        if name in ACTIONS_WITHOUT_QUESTION:
            address = reverse("admin:deployments_repository_look", args=[row.pk, name])
        if links(page, address):
            offered.add(name)
        operator.cookies.pop("messages", None)  # those of the action before
        with tried():
            response = operator.post(address, EXCEPTION if name == "except" else {})
            if SUCCESS in [message.level for message in get_messages(response.wsgi_request)]:
                done.add(name)
    listed = text_of(operator, reverse("admin:deployments_repository_changelist"))

    assert offered == done
    assert (f"/{row.pk}/look/reconcile/" in listed) == ("reconcile" in done)


@pytest.mark.costly
def test_there_is_a_case_in_which_each_action_is_offered(installation: Installation, operator: Client) -> None:
    row = Repository.objects.filter(host=HOST, status="in_sync")[0]
    until = timezone.now() + timedelta(hours=1)
    Repository.objects.filter(pk=row.pk).update(**_PLAIN | _ADOPTED | {"mode": "observe", "mode_until": until})
    ownership.fill()
    adopted = page_of(operator, "repository", row)
    Repository.objects.filter(pk=row.pk).update(status="unmanaged")
    ownership.fill()
    unmanaged = page_of(operator, "repository", row)

    words = (
        "Reconcile now",
        "Refresh (writes nothing)",
        "Take over…",
        "Change the exception…",
        "End the exception now",
    )
    assert [word for word in words if word not in adopted] == []
    assert "Adopt…" in unmanaged
    assert "Adopt…" not in adopted


# -------------------------------------------------------------------------------------------------------- deployments


@pytest.mark.wide
@pytest.mark.parametrize("status", DeploymentStatus.values)
@pytest.mark.parametrize("case", ["newer", "older", "current", "never indexed"])
def test_a_deployment_offers_what_its_views_do_and_nothing_else(
    status: str, case: str, installation: Installation, operator: Client, configure: Callable[..., Configuration]
) -> None:
    configure(**ENVIRONMENT, **UNPROVED)
    older, promotion = rolled()
    row = promotion.deployment if case in ("newer", "current") else older
    if case == "newer":
        Promotion.objects.filter(pk=promotion.pk).update(deployment=older)
    if case == "never indexed":
        Deployment.objects.get(pk=row.pk).worker.delete()
    Deployment.objects.filter(pk=row.pk).update(status=status)
    page = page_of(operator, "deployment", row)
    current = Promotion.objects.get(pk=promotion.pk).deployment_id
    promote, cancel = (reverse(f"admin:deployments_deployment_{name}", args=[row.pk]) for name in ("promote", "cancel"))

    with tried():
        operator.post(promote, {"instead_of": current})
        promoted = Promotion.objects.get(pk=promotion.pk).deployment_id != current
    with tried():
        operator.post(cancel)
        canceled = Deployment.objects.get(pk=row.pk).status == "CANCELED" and status != "CANCELED"

    assert links(page, promote) == promoted == ("cannot become current" not in text_of(operator, promote))
    assert links(page, cancel) == canceled == ("This deployment has already ended" not in text_of(operator, cancel))
    assert promoted == (status == "DEPLOYED" and case in ("newer", "older"))


@pytest.mark.costly
def test_the_way_back_from_what_is_current_is_offered_when_the_one_before_can_become_current(
    installation: Installation, operator: Client
) -> None:
    _, promotion = rolled()
    page = page_of(operator, "deployment", promotion.deployment)
    # Versions repeat in other environments.
    rows = Deployment.objects.filter(environment=promotion.environment_id)
    before = next(row for row in rows if f"Roll back to {row.version}<" in page)
    promote = reverse("admin:deployments_deployment_promote", args=[before.pk])
    assert links(page, promote)

    Deployment.objects.get(pk=before.pk).worker.delete()  # as of an image that was never indexed

    assert not links(page_of(operator, "deployment", promotion.deployment), promote)


# --------------------------------------------------------------------------------------------------- sweeps and keys


@pytest.mark.costly
@pytest.mark.parametrize("status", SweepStatus.values)
def test_a_sweep_can_be_stopped_while_it_runs_and_its_page_says_so(
    status: str, installation: Installation, operator: Client
) -> None:
    row = Sweep.objects.filter(status="running")[0]
    Sweep.objects.filter(pk=row.pk).update(status=status)
    page, stop = page_of(operator, "sweep", row), reverse("admin:deployments_sweep_stop", args=[row.pk])

    operator.post(stop)

    assert links(page, stop) == (Sweep.objects.get(pk=row.pk).status != status)


@pytest.mark.costly
@pytest.mark.parametrize("state", ["live", "expired", "revoked", "rotated"])
@pytest.mark.parametrize("kind", KeyKind.values)
def test_a_key_offers_what_its_views_do_and_nothing_else(
    kind: str, state: str, installation: Installation, operator: Client
) -> None:
    environment = Environment.objects.filter(archived_at=None)[0]
    row, _ = keys.make_environment_key(environment, "x")
    values: dict[str, Any] = {"kind": kind}
    if kind != KeyKind.ENVIRONMENT:
        values |= {"user": User.objects.get(username="operator")}
    if kind == KeyKind.USER:
        values |= {"environment": None}
    if state == "rotated":
        keys.rotate(row, timedelta(hours=1))
    elif state != "live":
        values |= {f"{state}_at" if state == "revoked" else "expires_at": timezone.now() - timedelta(hours=1)}
    AccessKey.objects.filter(pk=row.pk).update(**values)
    page = page_of(operator, "accesskey", row)
    listed = operator.get(f"/admin/deployments/accesskey/?q={row.prefix}").content.decode()
    rotate, revoke = (reverse(f"admin:deployments_accesskey_{name}", args=[row.pk]) for name in ("rotate", "revoke"))

    with tried():
        operator.post(rotate, {"hours": 1})
        rotated = AccessKey.objects.filter(replaces=row).count() == 1 and state != "rotated"
    before = AccessKey.objects.get(pk=row.pk).revoked_at
    operator.post(revoke)
    revoked = AccessKey.objects.get(pk=row.pk).revoked_at != before

    assert links(page, rotate) == links(listed, rotate) == rotated == (state == "live" and kind != KeyKind.DEPLOY)
    assert links(page, revoke) == revoked == (state != "revoked")


# --------------------------------------------------------------------------------------- environments and everything


@pytest.mark.costly
@pytest.mark.parametrize("archived", [False, True])
def test_an_archived_environment_takes_no_variable_and_no_key_and_its_page_offers_none(
    archived: bool, installation: Installation, operator: Client
) -> None:
    row = Environment.objects.filter(archived_at=None)[0]
    Environment.objects.filter(pk=row.pk).update(archived_at=timezone.now() if archived else None)
    page = page_of(operator, "environment", row)
    variable = reverse("admin:deployments_environment_variable", args=[row.pk])
    key = f"{reverse('admin:deployments_accesskey_add')}?environment={row.pk}"
    number = row.access_keys.count()

    operator.post(variable, {"name": "LEVEL", "value": "1"})
    operator.post(key, {"kind": KeyKind.ENVIRONMENT, "environment": row.pk})

    assert links(page, variable) == row.variables.filter(name="LEVEL").exists() == (not archived)
    assert links(page, key) == (row.access_keys.count() > number) == (not archived)


@pytest.mark.costly
def test_who_may_only_look_is_offered_nothing_to_do(installation: Installation, person: Callable[..., Client]) -> None:
    NotificationChannel.objects.create(name="ops", kind="mail", address="ops@example.com", created_at=timezone.now())
    names = ("deployment", "repository", "sweep", "accesskey", "environment", "environmentvariable",
             "notificationchannel")  # fmt: skip
    client = person(*(f"view_{name}" for name in names))
    repository, sweep = Repository.objects.filter(host=HOST)[0], Sweep.objects.filter(status="running")[0]
    rows = (
        ("deployment", Deployment.objects.filter(status="BUILDING")[0]),
        ("repository", repository),
        ("sweep", sweep),
        ("accesskey", AccessKey.objects.filter(revoked_at=None)[0]),
        ("environment", Environment.objects.filter(archived_at=None)[0]),
        ("notificationchannel", NotificationChannel.objects.latest("pk")),
    )

    for name, row in rows:
        content = page_of(client, name, row).split('id="content"')[1]
        assert 'class="object-tools"' not in content, name
        assert 'method="post"' not in content, name
        assert 'class="button' not in content, name
