"""A refresh looks at repositories, records what it sees on their rows, and writes nothing to AWS."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from deployments.config import Configuration
from deployments.models import (
    EventKind,
    Project,
    Repository,
    RepositoryEvent,
    RepositoryStatus,
    SweepTrigger,
)
from deployments.reconcile import repositories, requests, sweep_record, sweeps
from deployments.row_values import Management
from sandbox import images
from sandbox.control import Sandbox
from tests.support.constants import CLUSTER, HOST, POLICY
from tests.support.deploys import ensure
from tests.support.registry import calls, delete_repository, drift, fill, policies
from tests.support.sweeps import sweep_all, work_off

pytestmark = pytest.mark.django_db(transaction=True)
STRANGER = "trigger/proj_stranger"


def refresh(configuration: Configuration, **options: Any) -> Any:
    sweep = sweep_all(configuration, trigger=SweepTrigger.PERSON, dry_run=True, **options)
    return sweep_record.progress(sweep)


def writes(sandbox: Sandbox) -> dict[str, int]:
    return {name: count for name, count in calls(sandbox).items() if not name.startswith(("Get", "Describe", "List"))}


def stranger(sandbox: Sandbox, policy: str = "") -> None:
    """A repository that somebody else made under our namespace."""
    client = sandbox.client("ecr")
    client.create_repository(repositoryName=STRANGER)
    if policy:
        client.set_repository_policy(repositoryName=STRANGER, policyText=policy)
    sandbox.reset_calls()


def verdict(name: str) -> str:
    return Repository.objects.get(name=name).consumers[CLUSTER].verdict


@pytest.mark.costly
def test_what_changed_behind_our_back_is_on_the_row_and_nothing_is_written(
    consumers: Configuration, sandbox: Sandbox
) -> None:
    """C2: a dry run that found drift left the repository in sync, and “May pull” with it."""
    names = fill(sandbox, consumers, 3)
    sweep_all(consumers)
    drift(sandbox, names[:2])

    done = refresh(consumers)

    assert writes(sandbox) == {}
    assert (done.drifted, done.in_sync, done.total) == (2, 1, 3)
    for name in names[:2]:
        row = Repository.objects.get(name=name)
        assert (row.status, row.drifted_since is not None, bool(row.differences)) == ("drifted", True, True)
        assert RepositoryEvent.objects.filter(repository=row, kind=EventKind.DRIFT_FOUND).count() == 1
        assert verdict(name) == "no"
    assert (Repository.objects.get(name=names[2]).status, verdict(names[2])) == ("in_sync", "yes")
    assert policies(sandbox, names) == 1

    sweep_all(consumers)  # may write

    assert policies(sandbox, names) == 3
    assert {verdict(name) for name in names} == {"yes"}


@pytest.mark.costly
def test_a_repository_at_rest_gets_the_time_of_the_refresh(consumers: Configuration, sandbox: Sandbox) -> None:
    [name] = fill(sandbox, consumers, 1)
    before = Repository.objects.get()

    refresh(consumers)
    refresh(consumers)  # the first one stores the texts as ECR has them

    row = Repository.objects.get(name=name)
    assert before.last_checked_at is not None
    assert row.last_checked_at is not None
    assert row.last_checked_at > before.last_checked_at
    assert row.details_checked_at == row.last_checked_at == row.last_in_sync_at


@pytest.mark.costly
def test_a_deploy_after_a_refresh_that_found_drift_looks_again_and_corrects_it(
    consumers: Configuration, sandbox: Sandbox, project: Project
) -> None:
    name = ensure(project, consumers).name
    sandbox.client("ecr").delete_repository_policy(repositoryName=name)
    refresh(consumers)
    assert Repository.objects.get().status == RepositoryStatus.DRIFTED

    ensure(project, consumers, freshness=timedelta(hours=1))

    assert policies(sandbox, [name]) == 1


@pytest.mark.costly
def test_a_repository_whose_set_up_failed_is_not_set_up_by_a_refresh(
    consumers: Configuration, sandbox: Sandbox
) -> None:
    [name] = fill(sandbox, consumers, 1)
    sandbox.client("ecr").delete_repository_policy(repositoryName=name)
    sandbox.reset_calls()
    Repository.objects.update(status="failed", last_error="x", last_in_sync_at=None, policy_applied_at=None)

    refresh(consumers)

    assert writes(sandbox) == {}
    assert Repository.objects.get().status == RepositoryStatus.DRIFTED


@pytest.mark.costly
def test_a_repository_that_is_gone_is_missing_after_a_refresh(consumers: Configuration, sandbox: Sandbox) -> None:
    names = fill(sandbox, consumers, 2)
    delete_repository(sandbox, names[0])
    delete_repository(sandbox, names[1])
    sandbox.reset_calls()

    refresh(consumers, names=names[:1])
    assert [row.status for row in Repository.objects.order_by("name")] == ["missing", "in_sync"]
    refresh(consumers)

    assert [row.status for row in Repository.objects.order_by("name")] == ["missing", "missing"]
    assert writes(sandbox) == {}


@pytest.mark.costly
@pytest.mark.parametrize("by_name", [True, False])
def test_an_unmanaged_repository_shows_who_can_pull_and_stays_unmanaged(
    by_name: bool, consumers: Configuration, sandbox: Sandbox
) -> None:
    stranger(sandbox, POLICY)
    sweep_all(consumers)
    assert Repository.objects.get().consumers == {}  # a sweep by the schedule does not look at it
    sandbox.reset_calls()

    done = refresh(consumers, names=[STRANGER] if by_name else [], adopt=True)

    row = Repository.objects.get()
    assert (row.status, row.management, row.origin) == ("unmanaged", Management.UNMANAGED, "")
    assert (verdict(STRANGER), row.policy_text != "", row.policy_applied_at) == ("yes", True, None)
    assert row.last_checked_at is not None
    assert (done.unmanaged, done.in_sync, done.total, done.done) == (1, 0, 1, 1)
    listed = {} if by_name else {"DescribeRepositories": 1}
    assert calls(sandbox) == {"GetRegistryPolicy": 1, "GetRepositoryPolicy": 1, "DescribeImages": 1, **listed}
    assert not RepositoryEvent.objects.exists()


@pytest.mark.costly
def test_an_unmanaged_repository_without_a_policy_can_be_pulled_by_nobody(
    consumers: Configuration, sandbox: Sandbox
) -> None:
    stranger(sandbox)

    refresh(consumers)

    assert (verdict(STRANGER), Repository.objects.get().status) == ("no", "unmanaged")


@pytest.mark.costly
def test_an_unmanaged_repository_that_aws_does_not_show_says_so_and_keeps_what_was_seen(
    consumers: Configuration, sandbox: Sandbox
) -> None:
    stranger(sandbox, POLICY)
    refresh(consumers)
    seen = Repository.objects.get()
    sandbox.fault("error", "ecr:GetRepositoryPolicy", code="AccessDeniedException")

    done = refresh(consumers)

    row = Repository.objects.get()
    assert (row.status, row.management, row.last_error_code) == ("unmanaged", "unmanaged", "AccessDeniedException")
    assert (row.consumers, row.last_checked_at, done.failed) == (seen.consumers, seen.last_checked_at, 1)
    assert not RepositoryEvent.objects.exists()
    sandbox.clear_faults()
    refresh(consumers)
    assert Repository.objects.get().last_error == ""


@pytest.mark.costly
def test_an_unmanaged_repository_that_is_gone_has_no_row_any_more(consumers: Configuration, sandbox: Sandbox) -> None:
    stranger(sandbox, POLICY)
    sweep_all(consumers)
    sandbox.client("ecr").delete_repository(repositoryName=STRANGER)

    refresh(consumers, names=[STRANGER])

    assert not Repository.objects.exists()


@pytest.mark.costly
def test_a_repository_that_another_process_works_on_is_not_touched(consumers: Configuration, sandbox: Sandbox) -> None:
    [name] = fill(sandbox, consumers, 1)
    stranger(sandbox, POLICY)
    sweep_all(consumers)
    drift(sandbox, [name])
    Repository.objects.update(lease_owner="deploy", lease_until=Now() + timedelta(hours=1))
    before = list(Repository.objects.order_by("pk").values("status", "consumers", "policy_text", "last_checked_at"))
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON, dry_run=True)
    assert sweep is not None

    sweeps.work(configuration=consumers, seconds=2, sweep_id=sweep.pk)

    seen = list(Repository.objects.order_by("pk").values("status", "consumers", "policy_text", "last_checked_at"))
    assert seen == before
    Repository.objects.update(lease_owner="", lease_until=None)
    sweep.chunks.update(lease_until=None)
    work_off(consumers, sweep)
    assert {row.status for row in Repository.objects.all()} == {"drifted", "unmanaged"}


def test_a_result_of_an_unmanaged_repository_is_not_written_over_a_newer_one(
    consumers: Configuration, sandbox: Sandbox
) -> None:
    stranger(sandbox, POLICY)
    sweep_all(consumers)
    row = Repository.objects.get()
    about: dict[str, Any] = {"config": consumers.v4, "partition": "aws"}

    Repository.objects.update(lease_epoch=row.lease_epoch + 1)  # another process has worked on it since
    assert not repositories.record_unmanaged(row=row, policy=POLICY, **about)
    row.refresh_from_db()
    Repository.objects.update(status="pending", management="adopted", origin="adopted")  # somebody has adopted it
    assert not repositories.record_unmanaged(row=row, policy=POLICY, **about)

    after = Repository.objects.get()
    assert (after.policy_text, after.consumers, after.lease_owner) == ("", {}, "")


def test_a_row_that_a_deploy_makes_right_now_is_not_looked_at(
    consumers: Configuration, sandbox: Sandbox, project: Project
) -> None:
    Repository.objects.create(account="111111111111", region="us-east-1", name="trigger/proj_new", host=HOST)

    refresh(consumers)

    assert (Repository.objects.get().status, "GetRepositoryPolicy" in calls(sandbox)) == ("pending", False)


@pytest.mark.costly
def test_a_person_refreshes_unmanaged_and_missing_repositories_too(consumers: Configuration, sandbox: Sandbox) -> None:
    names = fill(sandbox, consumers, 2)
    stranger(sandbox)
    sweep_all(consumers)
    Repository.objects.filter(name=names[1]).update(status="missing", management="")

    sweep = requests.request_sweep(rows=Repository.objects.all(), configuration=consumers, by="a person", dry_run=True)

    assert (sweep.names, sweep.dry_run) == ([*names, STRANGER], True)


@pytest.mark.costly
def test_a_refresh_says_when_an_image_was_last_pulled_and_a_sweep_does_not_ask(
    consumers: Configuration, sandbox: Sandbox
) -> None:
    [name] = fill(sandbox, consumers, 1)
    images.push(images.build(), sandbox.url, *sandbox.login(), name, "v1")
    sandbox.reset_calls()
    sweep_all(consumers)
    row = Repository.objects.get()
    assert (row.last_pulled_at, row.pulls_read_at, "DescribeImages" in calls(sandbox)) == (None, None, False)

    refresh(consumers)
    row.refresh_from_db()
    assert (row.last_pulled_at, row.pulls_read_at is not None) == (None, True)

    images.pull(sandbox.url, *sandbox.login(), name, "v1")
    refresh(consumers)
    row.refresh_from_db()
    assert row.last_pulled_at is not None
    seen_at = row.pulls_read_at
    sandbox.fault("error", "ecr:DescribeImages", code="AccessDeniedException")

    done = refresh(consumers)

    row.refresh_from_db()
    assert (row.pulls_read_at, row.status, done.failed) == (seen_at, "in_sync", 0)


@pytest.mark.costly
def test_the_registry_policy_that_denies_an_account_is_on_every_row_after_a_refresh(
    consumers: Configuration, sandbox: Sandbox
) -> None:
    """A1: no verdict knew of it."""
    [name] = fill(sandbox, consumers, 1)
    stranger(sandbox, POLICY)
    refresh(consumers)
    assert {verdict(name), verdict(STRANGER)} == {"yes"}
    statement = {"Sid": "Closed", "Effect": "Deny", "Principal": {"AWS": CLUSTER}, "Action": "ecr:*", "Resource": "*"}
    text = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    sandbox.client("ecr").put_registry_policy(policyText=text)
    sandbox.reset_calls()

    refresh(consumers)

    assert writes(sandbox) == {}
    for row in Repository.objects.all():
        answer = row.consumers[CLUSTER]
        assert (answer.verdict, answer.layer, answer.statement) == ("no", "registry policy", "Closed")
