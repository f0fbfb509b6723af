"""A database that is behind the registry's tags gives no version twice: `reconcile --all` raises its counters."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from deployments import images
from deployments.access.audit import Trail
from deployments.api import branches
from deployments.aws.ecr import Ecr
from deployments.config import Configuration
from deployments.deploys import lifecycle, versions
from deployments.images import Version
from deployments.models import (
    AuditEntry,
    CallBudget,
    Environment,
    EnvironmentType,
    Project,
    Repository,
    RepositoryStatus,
)
from deployments.reconcile import pace
from sandbox import images as made
from sandbox.control import Sandbox
from tests.support.constants import HOST

pytestmark = pytest.mark.django_db(transaction=True)
TODAY = images.version_day(timezone.now().date())


def repository_of(project: Project) -> str:
    return f"trigger/{project.ref}"


def fill(sandbox: Sandbox, project: Project, *tags: str) -> None:
    """The project's repository as ECR has it, with an image under each tag."""
    client = sandbox.client("ecr")
    client.create_repository(repositoryName=repository_of(project))
    image = made.build()
    for tag in tags:
        made.push(image, sandbox.url, *sandbox.login(), repository_of(project), tag, registry=HOST)


def row_of(project: Project, status: str = RepositoryStatus.UNMANAGED) -> Repository:
    return Repository.objects.create(
        account=HOST[:12], region="us-east-1", host=HOST, name=repository_of(project), project=project, status=status
    )


def learn(configuration: Configuration) -> versions.Learned:
    return versions.learn(configuration=configuration, trail=Trail.of_command("test"))


def version_of(environment: Environment) -> str:
    environment.refresh_from_db()
    return f"{environment.version_day}.{environment.version_number}"


def test_the_counter_is_raised_above_the_highest_tag_and_the_next_version_follows_it(
    ecr_configuration: Configuration, sandbox: Sandbox, environment: Environment
) -> None:
    fill(sandbox, environment.project, f"{TODAY}.9.production.abcdefgh", f"{TODAY}.10.production.abcdefgi", "latest")
    row_of(environment.project)

    learned = learn(ecr_configuration)

    assert version_of(environment) == f"{TODAY}.10"
    assert str(lifecycle._next_version(environment)[0]) == f"{TODAY}.11"
    assert len(learned.raised) == 1
    assert f"{TODAY}.10" in learned.raised[0]
    entry = AuditEntry.objects.get(action="raise.version")
    seen = {"version": f"{TODAY}.10", "seen_in": repository_of(environment.project)}
    assert (entry.object_id, entry.before, entry.after) == (str(environment.pk), {"version": ""}, seen)


def test_a_counter_that_is_above_stays_and_nothing_is_recorded(
    ecr_configuration: Configuration, sandbox: Sandbox, environment: Environment
) -> None:
    fill(sandbox, environment.project, f"{TODAY}.3.production.abcdefgh", "20200101.99.production.abcdefgh")
    row_of(environment.project)
    Environment.objects.filter(pk=environment.pk).update(version_day=TODAY, version_number=4)

    assert learn(ecr_configuration) == versions.Learned(raised=(), refused=())

    assert version_of(environment) == f"{TODAY}.4"
    assert not AuditEntry.objects.exists()


def test_a_counter_that_is_behind_by_some_deploys_of_the_same_day_is_raised(
    ecr_configuration: Configuration, sandbox: Sandbox, environment: Environment
) -> None:
    fill(sandbox, environment.project, f"{TODAY}.3.production.abcdefgh")
    row_of(environment.project)
    Environment.objects.filter(pk=environment.pk).update(version_day=TODAY, version_number=1)

    learn(ecr_configuration)

    assert version_of(environment) == f"{TODAY}.3"


def test_a_deploy_that_counted_meanwhile_is_not_put_back(
    ecr_configuration: Configuration, sandbox: Sandbox, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sandbox, environment.project, f"{TODAY}.3.production.abcdefgh")
    row_of(environment.project)
    real = transaction.atomic

    def late() -> Any:
        Environment.objects.filter(pk=environment.pk).update(version_day=TODAY, version_number=8)
        return real()

    monkeypatch.setattr(transaction, "atomic", late)

    assert learn(ecr_configuration).raised == ()
    assert version_of(environment) == f"{TODAY}.8"


def test_all_preview_branches_are_raised_and_one_that_was_lost_goes_on_above_too(
    ecr_configuration: Configuration, sandbox: Sandbox, environment: Environment
) -> None:
    project = environment.project
    preview = Environment.objects.create(project=project, slug="preview", type=EnvironmentType.PREVIEW)
    known = branches.upsert(preview, "known", {})[0]
    fill(sandbox, project, f"{TODAY}.5.preview.abcdefgh")
    row_of(project)

    learn(ecr_configuration)

    preview.refresh_from_db()
    lost = branches.upsert(preview, "lost", {})[0]
    assert [str(lifecycle._next_version(each)[0]) for each in (known, lost)] == [f"{TODAY}.6"] * 2
    assert version_of(environment) == ".0"


def test_tags_of_other_forms_and_of_the_future_count_for_nothing() -> None:
    tags = [
        "latest", "20261126.1", "20261126.0.production.abcdefgh", "20261126.1.production.ABCDEFGH",
        "99991231.1.production.abcdefgh", "20261126.1.production.abcdefgh-x", "20261126.2.production.abcdefgh",
    ]  # fmt: skip

    assert versions.highest(tags, today="20261127") == {"PRODUCTION": Version("20261126", 2)}


@pytest.mark.costly
@given(
    day=st.dates(), number=st.integers(1, 999_999_999), kind=st.sampled_from(EnvironmentType.values), code=st.uuids()
)
def test_a_tag_of_ours_is_read_as_it_was_written(day: Any, number: int, kind: str, code: Any) -> None:
    version = Version(f"{day:%Y%m%d}".zfill(8), number)
    tag = images.tag(version=str(version), environment_type=kind, short_code=code.hex[:8])

    assert images.parse_tag(tag) == images.Tag(version, kind, code.hex[:8])


def test_a_repository_that_was_discovered_before_its_project_was_made_again_is_looked_at_too(
    ecr_configuration: Configuration, sandbox: Sandbox, environment: Environment
) -> None:
    fill(sandbox, environment.project, f"{TODAY}.7.production.abcdefgh")
    row_of(environment.project)
    Repository.objects.update(project=None)

    learn(ecr_configuration)

    assert version_of(environment) == f"{TODAY}.7"


def test_every_page_of_tags_is_read(
    ecr_configuration: Configuration, sandbox: Sandbox, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = [f"{TODAY}.{number}.production.abcdefgh" for number in range(1, 8)]
    fill(sandbox, environment.project, *tags)
    row_of(environment.project)
    real = Ecr._call

    def small(self: Ecr, operation: str, name: str, request: dict[str, Any], *more: Any, **named: Any) -> Any:
        return real(self, operation, name, request | {"maxResults": 2}, *more, **named)

    monkeypatch.setattr(Ecr, "_call", small)
    sandbox.reset_calls()

    learn(ecr_configuration)

    assert version_of(environment) == f"{TODAY}.7"
    assert sandbox.calls() == {"ecr:ListImages": 4}


def reconcile(*arguments: str) -> tuple[str, str, int]:
    out, said, status = StringIO(), "", 0
    try:
        call_command("reconcile", *arguments, stdout=out, stderr=StringIO())
    except CommandError as error:
        said, status = str(error), error.returncode
    except SystemExit as left:
        status = int(left.code or 0)
    return out.getvalue(), said, status


@pytest.mark.costly
def test_the_whole_reconcile_raises_also_what_it_has_just_discovered(
    ecr_configuration: Configuration, sandbox: Sandbox, environment: Environment
) -> None:
    fill(sandbox, environment.project, f"{TODAY}.7.production.abcdefgh")  # the rows know nothing of it

    out, _, status = reconcile("--all", "--json")

    assert status == 0
    assert len(json.loads(out)["versions_raised"]) == 1
    assert version_of(environment) == f"{TODAY}.7"


@pytest.mark.costly
@pytest.mark.parametrize("arguments", [["--all", "--dry-run"], ["NAME"]])
def test_a_dry_run_and_a_small_reconcile_list_no_tags(
    ecr_configuration: Configuration, sandbox: Sandbox, environment: Environment, arguments: list[str]
) -> None:
    fill(sandbox, environment.project, f"{TODAY}.7.production.abcdefgh")
    row = row_of(environment.project, RepositoryStatus.IN_SYNC)
    Repository.objects.filter(pk=row.pk).update(origin="created", management="full")
    sandbox.reset_calls()

    reconcile(*(repository_of(environment.project) if each == "NAME" else each for each in arguments))

    assert "ecr:ListImages" not in sandbox.calls()
    assert version_of(environment) == ".0"


@pytest.mark.costly
def test_tags_that_may_not_be_listed_are_reported_with_the_permission_and_stop_no_other_repository(
    ecr_configuration: Configuration, sandbox: Sandbox, environment: Environment
) -> None:
    other = Project.objects.create(name="Other")
    theirs = Environment.objects.create(project=other, slug="prod", type=EnvironmentType.PRODUCTION)
    for project in (environment.project, other):
        fill(sandbox, project, f"{TODAY}.7.production.abcdefgh")
    sandbox.fault(
        "error", "ecr:ListImages", code="AccessDeniedException", message="not authorized to perform ecr:ListImages",
        status=400, repository=repository_of(environment.project),
    )  # fmt: skip

    out, said, status = reconcile("--all")

    assert status == 1
    assert "ecr:ListImages" in said
    assert repository_of(environment.project) in said
    assert (version_of(environment), version_of(theirs)) == (".0", f"{TODAY}.7")
    assert "version    Other, prod" in out


def test_a_throttled_listing_is_tried_again(
    ecr_configuration: Configuration, sandbox: Sandbox, environment: Environment
) -> None:
    fill(sandbox, environment.project, f"{TODAY}.7.production.abcdefgh")
    row_of(environment.project)
    sandbox.fault("error", "ecr:ListImages", code="ThrottlingException", message="Rate exceeded", status=400, times=2)

    assert learn(ecr_configuration).refused == ()
    assert version_of(environment) == f"{TODAY}.7"


def test_the_tags_are_listed_at_the_rate_that_the_sweeps_have_learned(
    ecr_configuration: Configuration, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = row_of(environment.project)
    CallBudget.objects.create(account=row.account, region=row.region, rate=3.0)
    rates: list[float] = []

    class Pace(pace.Pace):
        def __init__(self, rate: float, *, ceiling: float) -> None:
            super().__init__(rate, ceiling=ceiling)
            rates.append(rate)

    monkeypatch.setattr(versions, "Pace", Pace)

    learn(ecr_configuration)

    assert rates == [3.0]
