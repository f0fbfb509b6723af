"""The images that must stay are looked at by each sweep and each event; what is not seen is never called missing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, connections
from django.db.models import Q
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from deployments import clock
from deployments.aws.values import DescribedImage
from deployments.config import Configuration
from deployments.models import (
    Deployment,
    DeploymentStatus,
    Environment,
    ImageState,
    ImageStateChange,
    Project,
    Promotion,
    Repository,
    SweepFinding,
)
from deployments.reconcile import chunks, image_states, kept_images, targets
from deployments.reconcile.image_states import Look
from deployments.row_values import ConsumerPull
from sandbox import images
from sandbox.control import Sandbox
from tests.support.constants import CLUSTER, HOST, OWNER
from tests.support.registry import calls, delete_repository, drift, fill
from tests.support.sweeps import sweep_all

pytestmark = pytest.mark.django_db(transaction=True)
DAY = "20261126"


def deployed(sandbox: Sandbox, environment: Environment, place: Repository, numbers: Iterable[int]) -> list[str]:
    """Push an image for each number, deploy all, and make the last one current. Returns the digests."""
    digests = []
    for number in numbers:
        image = images.build(f"{environment.pk} {number}\n")
        digest = images.push(image, sandbox.url, *sandbox.login(), place.name, f"{DAY}.{number}.prod", registry=HOST)
        made = Deployment.objects.create(
            project=environment.project,
            environment=environment,
            repository=place,
            content_hash="c",
            image_ref=f"{HOST}/{place.name}:{DAY}.{number}.prod",
            status=DeploymentStatus.DEPLOYED,
            deployed_at=Now(),
            version_day=DAY,
            version_number=number,
            image_digest=digest,
        )
        Promotion.objects.update_or_create(environment=environment, defaults={"deployment": made})
        digests.append(digest)
    sandbox.reset_calls()
    return digests


@pytest.fixture
def place(consumers: Configuration, sandbox: Sandbox, project: Project) -> Repository:
    [name] = fill(sandbox, consumers, 1)
    Repository.objects.filter(name=name).update(project=project)
    return Repository.objects.get(name=name)


@pytest.fixture
def digests(sandbox: Sandbox, environment: Environment, place: Repository) -> list[str]:
    """Four deployed versions, of which the fourth is current."""
    return deployed(sandbox, environment, place, (1, 2, 3, 4))


def delete(sandbox: Sandbox, place: Repository, *digests: str) -> None:
    ids = [{"imageDigest": digest} for digest in digests]
    assert not sandbox.client("ecr").batch_delete_image(repositoryName=place.name, imageIds=ids)["failures"]
    sandbox.reset_calls()


def states() -> dict[int, str]:
    return {row.deployment.version_number: row.state for row in ImageState.objects.select_related("deployment")}


def changes() -> list[tuple[int, str, bool, str]]:
    rows = ImageStateChange.objects.select_related("deployment").order_by("id")
    return [(row.deployment.version_number, row.state, row.is_current, row.last_good) for row in rows]


# ------------------------------------------------------------------------------------------------------------- sweeps


@pytest.mark.costly
def test_a_sweep_looks_at_all_kept_images_of_a_repository_with_one_call_that_is_no_pull(
    consumers: Configuration, digests: list[str], place: Repository, sandbox: Sandbox
) -> None:
    pulled = [each.get("lastRecordedPullTime") for each in described(sandbox, place)]
    sweep_all(consumers)

    assert calls(sandbox) == {
        "DescribeImages": 1,
        "DescribeRepositories": 1,
        "GetRegistryPolicy": 1,
        "GetRepositoryPolicy": 1,
    }
    assert states() == dict.fromkeys((1, 2, 3, 4), "runnable")
    assert changes() == []
    assert [each.get("lastRecordedPullTime") for each in described(sandbox, place)] == pulled


def described(sandbox: Sandbox, place: Repository) -> list[dict[str, Any]]:
    found = sandbox.client("ecr").describe_images(repositoryName=place.name)["imageDetails"]
    sandbox.reset_calls()
    return list(found)


@pytest.mark.costly
def test_a_deleted_current_image_is_missing_and_the_last_good_version_is_named(
    consumers: Configuration, digests: list[str], place: Repository, sandbox: Sandbox
) -> None:
    sweep_all(consumers)
    delete(sandbox, place, digests[3], digests[2])

    sweep = sweep_all(consumers)

    assert calls(sandbox)["DescribeImages"] == 3
    assert states() == {1: "runnable", 2: "runnable", 3: "missing", 4: "missing"}
    assert changes() == [(3, "missing", False, ""), (4, "missing", True, f"{DAY}.2")]
    [finding] = SweepFinding.objects.filter(sweep=sweep)
    assert f"The image of version {DAY}.4, current in prod, is missing." in finding.words
    assert not sweep_all(consumers).findings.exists()  # nothing new
    assert len(changes()) == 2
    ImageState.objects.update(since=Now() + timedelta(minutes=1))  # as if they were there in between
    assert sweep_all(consumers).findings.exists()


@pytest.mark.costly
def test_where_no_image_is_left_each_is_asked_for_at_most_once_more(
    consumers: Configuration, digests: list[str], place: Repository, sandbox: Sandbox
) -> None:
    delete(sandbox, place, *digests)

    sweep_all(consumers)

    assert calls(sandbox)["DescribeImages"] <= 2 + 3
    assert changes()[-1] == (4, "missing", True, "")


@pytest.mark.costly
@pytest.mark.parametrize("gone", range(4))
def test_an_answer_that_does_not_name_the_missing_image_costs_one_call_for_each_image(
    consumers: Configuration,
    digests: list[str],
    place: Repository,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    gone: int,
) -> None:
    delete(sandbox, place, digests[gone])
    ecr = targets.configured(consumers)[0].ecr()
    described = type(ecr)._describe_images
    monkeypatch.setattr(
        type(ecr),
        "_describe_images",
        lambda self, name, ids: found if not isinstance(found := described(self, name, ids), str) else "No such image",
    )

    found = ecr.images(place.name, digests)

    assert set(found) == {*digests} - {digests[gone]}
    assert calls(sandbox)["DescribeImages"] == 2 + 3


@pytest.mark.costly
def test_an_archived_image_is_archived_and_runnable_again_when_it_is_restored(
    consumers: Configuration, digests: list[str], place: Repository, sandbox: Sandbox
) -> None:
    sweep_all(consumers)
    ecr = sandbox.client("ecr")
    about = {"repositoryName": place.name, "imageId": {"imageDigest": digests[3]}}

    ecr.update_image_storage_class(**about, targetStorageClass="ARCHIVE")
    sweep_all(consumers)
    assert states()[4] == "archived"

    ecr.update_image_storage_class(**about, targetStorageClass="STANDARD")
    sweep_all(consumers)
    row = ImageState.objects.get(deployment__version_number=4)
    assert (row.state, row.image) == ("archived", "restoring")

    sandbox.advance(20 * 60 + 1)
    sweep_all(consumers)
    assert states()[4] == "runnable"
    assert changes() == [(4, "archived", True, f"{DAY}.3"), (4, "runnable", True, "")]


@pytest.mark.costly
def test_an_image_that_a_consumer_may_not_pull_is_not_pullable_by_the_verdict_on_the_row(
    consumers: Configuration, digests: list[str], place: Repository, sandbox: Sandbox
) -> None:
    sandbox.client("ecr").put_registry_policy(policyText=denying())

    sweep_all(consumers)

    row = ImageState.objects.get(deployment__version_number=4)
    assert (row.state, row.image) == ("not_pullable", "active")
    assert CLUSTER in row.words
    assert "registry policy" in row.words
    sandbox.client("ecr").delete_registry_policy()
    sweep_all(consumers)
    assert states() == dict.fromkeys((1, 2, 3, 4), "runnable")


def denying() -> str:
    statement = {"Sid": "Closed", "Effect": "Deny", "Principal": {"AWS": CLUSTER}, "Action": "ecr:*", "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.mark.costly
def test_an_answer_of_who_can_pull_that_rests_on_an_unread_policy_is_unknown(
    consumers: Configuration, digests: list[str], sandbox: Sandbox
) -> None:
    sandbox.fault("error", "ecr:GetRegistryPolicy", code="AccessDeniedException")

    sweep_all(consumers)

    assert set(states().values()) == {"unknown"}
    sandbox.clear_faults()
    sweep_all(consumers)
    assert set(states().values()) == {"runnable"}
    assert changes() == []


# ----------------------------------------------------------------------------------------------- unknown, not missing


@pytest.mark.costly
@pytest.mark.parametrize("code", ["ServerException", "AccessDeniedException"])
def test_what_aws_does_not_say_is_unknown_and_not_missing(
    consumers: Configuration, digests: list[str], sandbox: Sandbox, code: str
) -> None:
    sweep_all(consumers)
    sandbox.fault("error", "ecr:DescribeImages", code=code)

    sweep = sweep_all(consumers)

    assert sweep.status == "done"
    assert states() == dict.fromkeys((1, 2, 3, 4), "unknown")
    row = ImageState.objects.get(deployment__version_number=4)
    assert (row.known, row.last_known) == ("runnable", "runnable")
    assert row.known_at is not None
    assert row.known_at < row.looked_at
    assert not SweepFinding.objects.exists()
    sandbox.clear_faults()
    sweep_all(consumers)
    assert states() == dict.fromkeys((1, 2, 3, 4), "runnable")
    assert changes() == []


@pytest.mark.costly
def test_a_lacking_permission_is_unknown_with_the_statement_to_add(
    consumers: Configuration, digests: list[str], place: Repository, sandbox: Sandbox
) -> None:
    sandbox.fault("error", "ecr:DescribeImages", code="AccessDeniedException")

    sweep_all(consumers)

    words = ImageState.objects.get(deployment__version_number=4).words
    _, _, statement = words.partition("The statement to add to its IAM policy: ")
    assert json.loads(statement) == {
        "Effect": "Allow",
        "Action": "ecr:DescribeImages",
        "Resource": f"arn:aws:ecr:us-east-1:{OWNER}:repository/{place.name}",
    }


@pytest.mark.costly
def test_a_missing_image_that_aws_does_not_show_for_a_while_is_reported_once(
    consumers: Configuration, digests: list[str], place: Repository, sandbox: Sandbox
) -> None:
    delete(sandbox, place, digests[3])
    sweep_all(consumers)
    sandbox.fault("error", "ecr:DescribeImages", code="ServerException")
    sweep_all(consumers)
    assert states()[4] == "unknown"
    sandbox.clear_faults()

    sweep_all(consumers)

    assert states()[4] == "missing"
    assert changes() == [(4, "missing", True, f"{DAY}.3")]


@pytest.mark.costly
def test_a_throttled_look_is_tried_again_in_the_same_sweep(
    consumers: Configuration, digests: list[str], sandbox: Sandbox
) -> None:
    sandbox.fault("error", "ecr:DescribeImages", code="ThrottlingException", times=2)

    sweep_all(consumers)

    assert set(states().values()) == {"runnable"}


@pytest.mark.costly
def test_a_look_that_is_throttled_to_the_end_is_unknown(
    consumers: Configuration, digests: list[str], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "rest_seconds", lambda tries: 0.0)
    sweep_all(consumers)
    sandbox.fault("error", "ecr:DescribeImages", code="ThrottlingException")

    sweep_all(consumers)

    assert states() == dict.fromkeys((1, 2, 3, 4), "unknown")


@pytest.mark.costly
def test_a_policy_is_corrected_although_aws_throttles_each_look_at_the_images(
    consumers: Configuration,
    digests: list[str],
    place: Repository,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunks, "rest_seconds", lambda tries: 0.0)
    monkeypatch.setattr(chunks, "UNANSWERED_IN_A_ROW", 3)  # the looks alone must not fail the sweep
    drift(sandbox, [place.name])
    sandbox.fault("error", "ecr:DescribeImages", code="ThrottlingException")

    sweep = sweep_all(consumers)

    assert (sweep.chunks.get().healed, sweep.chunks.get().failed) == (1, 0)
    assert CLUSTER in sandbox.client("ecr").get_repository_policy(repositoryName=place.name)["policyText"]
    assert set(states().values()) == {"unknown"}


@pytest.mark.costly
def test_a_connection_that_breaks_leaves_the_images_unknown(
    consumers: Configuration, digests: list[str], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "rest_seconds", lambda tries: 0.0)
    sweep_all(consumers)
    sandbox.fault("reset", "ecr:DescribeImages")

    sweep = sweep_all(consumers)

    assert sweep.status == "done"
    assert states() == dict.fromkeys((1, 2, 3, 4), "unknown")
    assert changes() == []


@pytest.mark.costly
def test_an_image_without_a_digest_is_not_looked_at_and_says_so(
    consumers: Configuration, digests: list[str], sandbox: Sandbox
) -> None:
    Deployment.objects.filter(version_number=4).update(image_digest="")

    sweep_all(consumers)

    row = ImageState.objects.get(deployment__version_number=4)
    assert row.state == "unknown"
    assert "never verified" in row.words


# ---------------------------------------------------------------------------------------------- deleted, old, obsolete


@pytest.mark.costly
def test_a_deleted_repository_takes_its_images_along_without_a_call(
    consumers: Configuration, digests: list[str], place: Repository, sandbox: Sandbox
) -> None:
    sweep_all(consumers)
    delete_repository(sandbox, place.name)
    sandbox.reset_calls()

    sweep_all(consumers)

    assert "DescribeImages" not in calls(sandbox)
    assert states() == dict.fromkeys((1, 2, 3, 4), "missing")
    assert changes()[-1] == (4, "missing", True, "")
    assert "repository" in ImageState.objects.get(deployment__version_number=4).words


@pytest.mark.costly
def test_the_rows_of_images_that_need_not_stay_any_more_are_deleted(
    consumers: Configuration, digests: list[str], environment: Environment, place: Repository, sandbox: Sandbox
) -> None:
    sweep_all(consumers)
    deployed(sandbox, environment, place, (5,))
    sweep_all(consumers)
    assert sorted(states()) == [2, 3, 4, 5]

    Environment.objects.update(archived_at=Now())
    sweep_all(consumers)
    assert states() == {}
    assert calls(sandbox)["DescribeImages"] == 1


@pytest.mark.costly
def test_the_rows_of_a_deleted_repository_go_too_when_its_images_need_not_stay_any_more(
    consumers: Configuration, digests: list[str], environment: Environment, place: Repository, sandbox: Sandbox
) -> None:
    sweep_all(consumers)
    delete_repository(sandbox, place.name)
    sweep_all(consumers)
    assert states() == dict.fromkeys((1, 2, 3, 4), "missing")

    Environment.objects.update(archived_at=Now())
    sweep_all(consumers)

    assert states() == {}
    assert image_states.counts(Q()).broken_current == 0


@pytest.mark.costly
def test_the_images_of_a_deleted_repository_count_as_looked_at_by_each_listing(
    consumers: Configuration, digests: list[str], place: Repository, sandbox: Sandbox
) -> None:
    sweep_all(consumers)
    delete_repository(sandbox, place.name)
    sweep_all(consumers)
    ImageState.objects.update(looked_at=clock.now() - timedelta(days=2))

    sweep_all(consumers)

    oldest = image_states.current_images().oldest_look
    assert oldest is not None
    assert oldest > clock.now() - timedelta(hours=1)
    assert len(changes()) == 4


@pytest.mark.costly
def test_what_need_not_stay_any_more_is_no_news_when_a_policy_changes(
    consumers: Configuration, digests: list[str], place: Repository
) -> None:
    sweep_all(consumers)
    Promotion.objects.update(deployment=Deployment.objects.get(version_number=3))  # rolled back from version 4
    no = ConsumerPull(verdict="no", words="denied")
    Repository.objects.filter(pk=place.pk).update(consumers={CLUSTER: no})

    image_states.follow(Q(pk=place.pk), config=consumers.v4)

    assert sorted(changes()) == [
        (1, "not_pullable", False, ""),
        (2, "not_pullable", False, ""),
        (3, "not_pullable", True, ""),
    ]


@pytest.mark.costly
def test_the_last_good_version_is_older_than_the_lost_one(
    consumers: Configuration, digests: list[str], place: Repository
) -> None:
    sweep_all(consumers)
    other = Repository.objects.create(account=OWNER, region="us-east-1", name="trigger/other", host=HOST)
    ImageState.objects.filter(deployment__version_number=4).update(repository=other)  # its row is not looked at now
    Deployment.objects.filter(version_number=4).update(repository=other)
    Promotion.objects.update(deployment=Deployment.objects.get(version_number=3))  # rolled back from version 4

    image_states.record([looked(consumers, place, digests[2])], config=consumers.v4)

    assert changes() == [(3, "missing", True, f"{DAY}.2")]


@pytest.mark.costly
def test_a_refresh_looks_at_the_images_too(consumers: Configuration, digests: list[str]) -> None:
    sweep_all(consumers, dry_run=True)

    assert set(states().values()) == {"runnable"}


def looked(consumers: Configuration, place: Repository, *missing: str, seconds: float = 0) -> Look:
    """A look that found all kept images but these, made so many seconds from now."""
    images = kept_images.kept([place.pk], config=consumers.v4)[place.pk]
    found = {
        each.digest: DescribedImage(digest=each.digest, status="ACTIVE", pushed_at=None, archived_at=None)
        for each in images
        if each.digest not in missing
    }
    at = clock.now() + timedelta(seconds=seconds)
    return Look(repository=place.pk, at=at, digests=frozenset(each.digest for each in images), images=found)


@pytest.mark.costly
def test_an_older_look_never_overwrites_a_newer_one(
    consumers: Configuration, digests: list[str], place: Repository
) -> None:
    older, newer = looked(consumers, place), looked(consumers, place, digests[3], seconds=1)
    image_states.record([newer], config=consumers.v4)

    image_states.record([older], config=consumers.v4)

    assert states()[4] == "missing"
    assert changes() == [(4, "missing", True, f"{DAY}.3")]


@pytest.mark.costly
def test_two_looks_at_once_report_one_change(consumers: Configuration, digests: list[str], place: Repository) -> None:
    image_states.record([looked(consumers, place)], config=consumers.v4)
    both = [looked(consumers, place, digests[3], seconds=second) for second in (1, 1.5, 2, 2.5)]
    barrier = threading.Barrier(len(both))

    def record(look: Look) -> None:
        try:
            barrier.wait(10)
            image_states.record([look], config=consumers.v4)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(both)) as pool:
        list(pool.map(record, both))

    assert states()[4] == "missing"
    assert changes() == [(4, "missing", True, f"{DAY}.3")]
    assert ImageState.objects.get(deployment__version_number=4).looked_at == both[-1].at


@pytest.mark.costly
def test_a_look_that_another_one_overtakes_is_written_over_it_if_it_is_newer(
    consumers: Configuration, digests: list[str], place: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other look is written between our read of the row and our write."""
    image_states.record([looked(consumers, place)], config=consumers.v4)
    first, second = looked(consumers, place, digests[3], seconds=1), looked(consumers, place, seconds=2)
    write = image_states._write
    done: list[bool] = []

    def interrupted(*given: Any) -> bool:
        if not done:
            done.append(True)
            image_states.record([first], config=consumers.v4)
        return write(*given)

    monkeypatch.setattr(image_states, "_write", interrupted)
    image_states.record([second], config=consumers.v4)

    assert states()[4] == "runnable"
    assert changes() == [(4, "missing", True, f"{DAY}.3"), (4, "runnable", True, "")]


@pytest.mark.costly
def test_a_deploy_that_is_promoted_between_the_look_and_its_record_keeps_its_row(
    consumers: Configuration, digests: list[str], environment: Environment, place: Repository, sandbox: Sandbox
) -> None:
    look = looked(consumers, place)
    deployed(sandbox, environment, place, (5,))
    image_states.record([looked(consumers, place)], config=consumers.v4)

    image_states.record([replace(look, at=clock.now() + timedelta(seconds=5))], config=consumers.v4)

    assert states() == {5: "runnable", 4: "runnable", 3: "runnable", 2: "runnable"}
    assert changes() == []


# -------------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize("is_missing", [False, True])
def test_an_environment_that_is_deleted_between_the_look_and_its_record_breaks_nothing(
    consumers: Configuration,
    digests: list[str],
    environment: Environment,
    place: Repository,
    monkeypatch: pytest.MonkeyPatch,
    is_missing: bool,
) -> None:
    write = image_states._write

    def late(results: Iterable[Any], before: Any) -> bool:
        results = list(results)
        Environment.objects.all().delete()
        return write(results, before)

    monkeypatch.setattr(image_states, "_write", late)

    image_states.record([looked(consumers, place, *(digests if is_missing else ()))], config=consumers.v4)

    assert not ImageState.objects.exists()
    assert not ImageStateChange.objects.exists()


@pytest.mark.costly
def test_the_command_counts_the_images_and_ends_with_3_for_a_current_one_that_cannot_be_pulled(
    consumers: Configuration, digests: list[str], place: Repository, sandbox: Sandbox
) -> None:
    assert "Images that must stay: 4 runnable." in reconciled(place.name)
    delete(sandbox, place, digests[0])
    assert "Images that must stay: 3 runnable, 1 missing." in reconciled(place.name)
    delete(sandbox, place, digests[3])

    said = reconciled(place.name, status=3)

    assert f"The image of version {DAY}.4, current in prod, is missing." in said
    assert "Images that must stay: 2 runnable, 2 missing." in said
    assert json.loads(reconciled(place.name, "--json", status=3))["images"] == {"missing": 2, "runnable": 2}


@pytest.mark.costly
def test_the_command_says_that_every_part_was_read_only_if_the_images_were_seen(
    digests: list[str], place: Repository, sandbox: Sandbox
) -> None:
    assert "Every part of each was read." in reconciled(place.name)
    sandbox.fault("error", "ecr:DescribeImages", code="AccessDeniedException", status=400)

    said = reconciled(place.name)

    assert "Images that must stay: 4 unknown." in said
    assert "Every part" not in said


def reconciled(*arguments: str, status: int = 0) -> str:
    out = StringIO()
    with pytest.raises(SystemExit) if status else nullcontext() as ended:
        call_command("reconcile", *arguments, stdout=out, stderr=StringIO())
    assert ended is None or ended.value.code == status
    return out.getvalue()


# ------------------------------------------------------------------------------------------------------------ budgets


@pytest.fixture
def many(consumers: Configuration, sandbox: Sandbox) -> Callable[[int, int], None]:
    """Make so many repositories, of which so many have a current image."""

    def make(repositories: int, promotions: int) -> None:
        names = fill(sandbox, consumers, repositories)
        for number, name in enumerate(names[:promotions]):
            project = Project.objects.create(name=f"P{number}")
            environment = Environment.objects.create(project=project, slug="prod", type="PRODUCTION")
            Repository.objects.filter(name=name).update(project=project)
            deployed(sandbox, environment, Repository.objects.get(name=name), (1,))
        sandbox.reset_calls()

    return make


@pytest.mark.slow
def test_a_sweep_over_a_thousand_repositories_with_two_hundred_promotions_costs_two_hundred_calls_more(
    consumers: Configuration, many: Callable[[int, int], None], sandbox: Sandbox
) -> None:
    many(1000, 200)

    sweep_all(consumers)

    assert calls(sandbox) == {
        "DescribeImages": 200,
        "DescribeRepositories": 1,
        "GetRegistryPolicy": 1,
        "GetRepositoryPolicy": 1000,
    }
    assert ImageState.objects.filter(state="runnable").count() == 200


@pytest.mark.costly
def test_a_sweep_takes_the_same_number_of_statements_for_two_images_and_for_twenty(
    consumers: Configuration, many: Callable[[int, int], None], sandbox: Sandbox
) -> None:
    many(24, 20)
    kept = [*Promotion.objects.order_by("pk")]
    counted = []
    for promotion in kept[2:]:
        promotion.delete()
    for number in (2, 20):
        if number == 20:
            Promotion.objects.bulk_create(kept[2:])
        sweep_all(consumers)  # the first look adds rows
        with CaptureQueriesContext(connection) as captured:
            sweep_all(consumers)
        about = [query["sql"] for query in captured if "imagestate" in query["sql"] and "SAVEPOINT" not in query["sql"]]
        counted.append(len(about))
        assert ImageState.objects.count() == number
        assert len([sql for sql in about if sql.startswith(("UPDATE", "INSERT", "DELETE"))]) == 1, about
    assert counted[0] == counted[1]
