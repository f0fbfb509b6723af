"""A changed default policy is rolled out in stages, stops by itself, and is put back. AWS calls are counted."""

from __future__ import annotations

import pytest
from django.db.models import Count

from deployments.config import Configuration
from deployments.models import PolicyVersion, Project, Repository, StepState, VersionState
from deployments.reconcile import rollouts
from sandbox.control import Sandbox
from tests.support.constants import TRAIL
from tests.support.rollouts import (
    ONE,
    THREE,
    TWO,
    allowing,
    newest,
    repositories_in_sync,
    started_with,
    work_off,
)

pytestmark = pytest.mark.django_db(transaction=True)


def live(sandbox: Sandbox, name: str) -> str:
    return str(sandbox.client("ecr").get_repository_policy(repositoryName=name)["policyText"])


def test_a_version_that_drops_an_account_is_written_to_the_canaries_only_and_put_back(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE, TWO))
    rows = repositories_in_sync(own, project, 40)
    own = started_with(ecr_configuration, allowing(ONE))
    version = newest()
    assert (version.number, version.state) == (2, VersionState.WAITING)
    assert "333333333333" in version.why
    sandbox.reset_calls()
    assert work_off(own).state == VersionState.WAITING
    assert sandbox.calls().get("ecr:SetRepositoryPolicy", 0) == 0

    rollouts.start(version=version, at_once=False, by="ann", trail=TRAIL)
    version = work_off(own)

    assert version.state == VersionState.STOPPED
    assert f"account {TWO} could pull" in version.reason
    assert sandbox.calls()["ecr:SetRepositoryPolicy"] == 2
    sandbox.reset_calls()
    rollouts.rollback(version=version, by="ann", trail=TRAIL)
    version = work_off(own)
    assert version.state == VersionState.UNDONE
    assert sandbox.calls()["ecr:SetRepositoryPolicy"] == 2
    assert all(TWO in live(sandbox, row.name) for row in rows)
    assert not Repository.objects.exclude(policy_version=None).exists()


def test_a_version_that_adds_an_account_reaches_every_repository_once(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    rows = repositories_in_sync(own, project, 40)
    sandbox.reset_calls()
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    assert newest().state == VersionState.CANARIES

    version = work_off(own)

    assert version.state == VersionState.ACTIVE, version.reason
    assert sandbox.calls()["ecr:SetRepositoryPolicy"] == 40
    assert all(THREE in live(sandbox, row.name) for row in rows)
    assert PolicyVersion.objects.get(number=1).state == VersionState.SUPERSEDED
    sizes = dict(version.steps.values_list("stage").annotate(Count("pk")))
    assert sizes == {0: 2, 1: 4, 2: 8, 3: 16, 4: 10}
    assert set(version.steps.values_list("state", flat=True)) == {StepState.WRITTEN}
    assert not Repository.objects.exclude(policy_version=None).exists()
