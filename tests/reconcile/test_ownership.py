"""`management` says whose a repository is: after each thing that can happen to it, and beside version 0.1.0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from deployments import tasks
from deployments.config import Configuration
from deployments.errors import RegistryError
from deployments.models import Project, Repository, RepositoryStatus
from deployments.reconcile import ownership
from sandbox.control import Sandbox
from tests.support.constants import HOST, OWNER
from tests.support.deploys import ensure
from tests.support.registry import delete_repository
from tests.support.sweeps import sweep_all

BEFORE = [("deployments", "0004_what_was_overtaken")]  # the last migration without the column


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What can happen to the repository of one project."""

    project: Project
    configuration: Configuration
    sandbox: Sandbox

    @property
    def name(self) -> str:
        return f"trigger/{self.project.ref}"

    def deploy(self) -> None:
        ensure(self.project, self.configuration, freshness=timedelta(0))

    def deploy_fails(self) -> None:
        self.sandbox.fault("error", "ecr:DescribeRepositories", code="AccessDeniedException")
        with pytest.raises(RegistryError):
            self.deploy()

    def deploy_with_a_lost_answer(self) -> None:
        self.sandbox.fault("lost", "ecr:CreateRepository", times=1)
        self.deploy()

    def make_by_hand(self) -> None:
        self.sandbox.client("ecr").create_repository(repositoryName=self.name)

    def delete(self) -> None:
        delete_repository(self.sandbox, self.name)

    def sweep(self, **options: Any) -> None:
        sweep_all(self.configuration, **options)

    def sweep_by_name(self) -> None:
        self.sweep(names=[self.name])

    def sweep_that_adopts(self) -> None:
        self.sweep(adopt=True)

    def adopt(self) -> None:
        assert ownership.adopt(row=Repository.objects.get(), by="ada")

    def take_over(self) -> None:
        assert ownership.take_over(row=Repository.objects.get(), by="ada")


@pytest.fixture
def world(project: Project, ecr_configuration: Configuration, sandbox: Sandbox) -> World:
    return World(project=project, configuration=ecr_configuration, sandbox=sandbox)


Step = Callable[[World], None]
W = World
PATHS: dict[str, tuple[list[Step], str]] = {
    "created by a deploy": ([W.deploy], "full"),
    "created, and the answer of AWS was lost": ([W.deploy_with_a_lost_answer], "full"),
    "adopted by a deploy": ([W.make_by_hand, W.deploy], "adopted"),
    "adopted by a deploy, then taken over": ([W.make_by_hand, W.deploy, W.take_over], "full"),
    "taken over, and swept": ([W.make_by_hand, W.deploy, W.take_over, W.sweep], "full"),
    "discovered": ([W.make_by_hand, W.sweep], "unmanaged"),
    "discovered twice": ([W.make_by_hand, W.sweep, W.sweep], "unmanaged"),
    "discovered, then adopted by a person": ([W.make_by_hand, W.sweep, W.adopt], "adopted"),
    "adopted by a person, and swept": ([W.make_by_hand, W.sweep, W.adopt, W.sweep_by_name], "adopted"),
    "adopted by a person, then taken over": ([W.make_by_hand, W.sweep, W.adopt, W.take_over], "full"),
    "discovered and adopted by one sweep": ([W.make_by_hand, W.sweep_that_adopts], "adopted"),
    "discovered by one sweep, adopted by the next": ([W.make_by_hand, W.sweep, W.sweep_that_adopts], "adopted"),
    "discovered, then adopted by a deploy": ([W.make_by_hand, W.sweep, W.deploy], "adopted"),
    "discovered, and a deploy could not see it": ([W.make_by_hand, W.sweep, W.deploy_fails], ""),
    "created, then not in the list of a sweep": ([W.deploy, W.delete, W.sweep], ""),
    "taken over, then not in the list": ([W.make_by_hand, W.deploy, W.take_over, W.delete, W.sweep], ""),
    "created, then not found by a sweep": ([W.deploy, W.delete, W.sweep_by_name], ""),
    "created again by a deploy": ([W.deploy, W.delete, W.deploy], "full"),
    "missing, then created by a deploy": ([W.deploy, W.delete, W.sweep, W.deploy], "full"),
    "adopted, missing, then created by a deploy": ([W.make_by_hand, W.deploy, W.delete, W.deploy], "full"),
    "missing, then made by somebody else": ([W.deploy, W.delete, W.sweep, W.make_by_hand, W.sweep], "adopted"),
    "missing, made by somebody else, looked for": (
        [W.deploy, W.delete, W.sweep, W.make_by_hand, W.sweep_by_name],
        "adopted",
    ),
    "missing, made by somebody else, then a deploy": (
        [W.deploy, W.delete, W.sweep, W.make_by_hand, W.deploy],
        "adopted",
    ),
}


@pytest.mark.costly
@pytest.mark.parametrize("path", PATHS)
def test_whose_a_repository_is_after_each_thing_that_can_happen_to_it(path: str, world: World) -> None:
    steps, management = PATHS[path]
    for step in steps:
        step(world)

        assert ownership.fill() == 0, f"{step.__name__} did not write `management` with the old columns"

    assert Repository.objects.get().management == management


# ------------------------------------------------------------------------------------------------ beside version 0.1.0

#: What the columns of version 0.1.0 say: (status, origin, whether it was taken over) → management.
OLD_COLUMNS: dict[tuple[str, str, bool], str] = {
    ("unmanaged", "", False): "unmanaged",
    ("pending", "", False): "",
    ("failed", "", False): "",
    ("missing", "", False): "",
    ("in_sync", "created", False): "full",
    ("failed", "created", False): "full",
    ("pending", "adopted", False): "adopted",
    ("in_sync", "adopted", False): "adopted",
    ("drifted", "adopted", True): "full",
}


@pytest.mark.django_db
@pytest.mark.parametrize("stale", ["", "unmanaged", "adopted", "full"])
@pytest.mark.parametrize("old", OLD_COLUMNS)
def test_a_row_that_an_older_process_changed_is_filled_from_the_old_columns_once(
    old: tuple[str, str, bool], stale: str
) -> None:
    status, origin, taken_over = old
    Repository.objects.create(
        account=OWNER, region="us-east-1", host=HOST, name="trigger/x", status=status, origin=origin, management=stale,
        taken_over_at=Now() if taken_over else None,
    )  # fmt: skip

    assert ownership.fill() == (stale != OLD_COLUMNS[old])
    assert Repository.objects.get().management == OLD_COLUMNS[old]
    assert ownership.fill() == 0


@pytest.mark.django_db
def test_filling_is_one_statement_however_many_rows_there_are() -> None:
    Repository.objects.bulk_create(
        Repository(account=OWNER, region="us-east-1", host=HOST, name=f"trigger/{number}", origin="created")
        for number in range(20)
    )

    with CaptureQueriesContext(connection) as captured:
        assert ownership.fill() == 20

    assert [query["sql"].split()[0] for query in captured] == ["UPDATE"]


@pytest.mark.costly
@pytest.mark.django_db(transaction=True)
def test_the_migration_keeps_the_rows_and_code_of_the_version_before_goes_on_with_the_new_table() -> None:
    executor = MigrationExecutor(connection)
    newest = [key for key in executor.loader.graph.leaf_nodes() if key[0] == "deployments"]
    before: Any = executor.loader.project_state(BEFORE).apps.get_model("deployments", "Repository")
    values = {"account": OWNER, "region": "us-east-1", "host": HOST}
    executor.migrate(BEFORE)
    try:
        before.objects.create(**values, name="trigger/adopted", status="in_sync", origin="adopted")
    finally:
        MigrationExecutor(connection).migrate(newest)
    before.objects.create(**values, name="trigger/created", status="in_sync", origin="created")
    before.objects.filter(name="trigger/adopted").update(taken_over_at=Now())

    assert set(Repository.objects.values_list("management", flat=True)) == {""}
    ownership.fill()
    assert set(Repository.objects.values_list("management", flat=True)) == {"full"}


def test_the_minutes_tick_fills(transactional_db: None) -> None:
    Repository.objects.create(account=OWNER, region="us-east-1", host=HOST, name="trigger/x", origin="created")

    tasks.STEPS["filling repositories' management"]()

    assert Repository.objects.get().management == "full"


@pytest.mark.costly
def test_the_command_knows_a_repository_that_version_0_1_0_made_just_now(world: World) -> None:
    world.deploy()
    Repository.objects.update(management="")

    call_command("reconcile", world.name, stdout=StringIO(), stderr=StringIO())

    assert Repository.objects.get().management == "full"


def test_a_lifecycle_policy_stays_that_somebody_else_wrote_where_version_0_1_0_adopted_the_repository(
    world: World,
) -> None:
    """Its process does not write `management`, which therefore still says what held before."""
    world.make_by_hand()
    theirs = world.configuration.v4.lifecycle_policy.replace('"countNumber": 3', '"countNumber": 30')
    client = world.sandbox.client("ecr")
    client.put_lifecycle_policy(repositoryName=world.name, lifecyclePolicyText=theirs)
    world.deploy()
    Repository.objects.update(management="full")

    world.deploy()

    assert "30" in client.get_lifecycle_policy(repositoryName=world.name)["lifecyclePolicyText"]
    assert Repository.objects.get().management == "adopted"


@pytest.mark.costly
def test_a_repository_that_version_0_1_0_found_to_be_gone_is_not_taken_over(world: World) -> None:
    world.make_by_hand()
    world.deploy()
    Repository.objects.update(status=RepositoryStatus.MISSING, origin="")
    row = Repository.objects.get()
    assert row.management == "adopted"

    assert not ownership.take_over(row=row, by="ada")

    assert Repository.objects.get().taken_over_at is None
