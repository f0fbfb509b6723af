"""The images of a repository as AWS has them: one call a page, no pull; and the restore of an archived image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from deployments.aws import clients, ecr
from deployments.aws.values import DescribedImage
from deployments.config import Access, Configuration
from deployments.deploys import image_proof
from deployments.errors import Refusal
from deployments.models import AuditEntry, Deployment, Environment, Repository
from deployments.reconcile import bulkhead, generation, repositories, repository_images, targets
from deployments.reconcile.repository_images import ImagePage, Only, SeenImage
from sandbox import images
from sandbox.control import Sandbox
from tests.support.constants import HOST, TRAIL
from tests.support.deploys import delete, deployed, move

MINUTES = 60
UNKNOWN = "sha256:" + "0" * 64


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_proof, "RETRY_PAUSES_SECONDS", (0.0, 0.0))


def read(configuration: Configuration, **changes: Any) -> ImagePage:
    row = Repository.objects.get()
    target = targets.of(row, configuration)
    assert target is not None
    return repository_images.read(row=row, target=target, **changes)


def restore(configuration: Configuration, digest: str) -> str:
    row = Repository.objects.get()
    return repository_images.restore(row=row, digest=digest, configuration=configuration, trail=TRAIL)


def refused(configuration: Configuration, digest: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        restore(configuration, digest)
    return caught.value


def push(sandbox: Sandbox, text: str, tag: str) -> str:
    name = Repository.objects.get().name
    return images.push(images.build(text), sandbox.url, *sandbox.login(), name, tag, registry=HOST)


def live(sandbox: Sandbox, digest: str) -> dict[str, Any]:
    found = sandbox.client("ecr").describe_images(
        repositoryName=Repository.objects.get().name, imageIds=[{"imageDigest": digest}], filter={"imageStatus": "ANY"}
    )
    detail: dict[str, Any] = found["imageDetails"][0]
    return detail


@pytest.fixture
def two(environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox) -> list[Deployment]:
    """A roll-back target and the current deployment, a minute apart."""
    older = deployed(environment, ecr_configuration, sandbox, "one")
    sandbox.advance(MINUTES)
    found = [older, deployed(environment, ecr_configuration, sandbox, "two")]
    sandbox.reset_calls()
    return found


@pytest.mark.costly
def test_a_page_costs_one_call_and_moves_no_pull_time(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    before = [live(sandbox, each.image_digest).get("lastRecordedPullTime") for each in two]
    sandbox.reset_calls()

    found = read(ecr_configuration)

    assert sandbox.calls() == {"ecr:DescribeImages": 1}
    assert [live(sandbox, each.image_digest).get("lastRecordedPullTime") for each in two] == before
    assert found.is_whole
    assert (found.in_part, found.pages) == (2, 1)


@pytest.mark.costly
def test_the_newest_push_comes_first_with_its_deployment_and_why_it_stays(
    two: list[Deployment], ecr_configuration: Configuration
) -> None:
    newest, target = read(ecr_configuration).images

    assert newest.described.digest == two[1].image_digest
    assert [(use.deployment.pk, use.is_current, use.is_target) for use in newest.uses] == [(two[1].pk, True, False)]
    assert [(use.deployment.pk, use.is_current, use.is_target) for use in target.uses] == [(two[0].pk, False, True)]
    assert newest.platforms == "linux/amd64"
    assert newest.note == ""
    assert newest.described.tags == (two[1].image_ref.rpartition(":")[2],)
    assert newest.described.size
    assert isinstance(newest.described.pushed_at, datetime)


@pytest.mark.costly
def test_the_platforms_of_an_image_that_nothing_was_verified_for_are_not_seen(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    push(sandbox, "by hand", "by-hand")

    found = {each.described.tags: each for each in read(ecr_configuration).images}[("by-hand",)]

    assert (found.platforms, found.uses) == ("", ())


@pytest.mark.costly
def test_an_image_of_many_deployments_names_those_that_it_must_stay_for_and_the_newest_others(
    two: list[Deployment], ecr_configuration: Configuration
) -> None:
    for number in range(10, 17):
        Deployment.objects.create(
            project=two[0].project, environment=two[0].environment, repository=two[0].repository,
            version_day="20250101", version_number=number, status="FAILED", content_hash="x",
            image_digest=two[1].image_digest,
        )  # fmt: skip

    newest, _ = read(ecr_configuration).images

    assert [str(use.deployment.version) for use in newest.uses] == [
        str(two[1].version), "20250101.16", "20250101.15", "20250101.14", "20250101.13",
    ]  # fmt: skip
    assert newest.more_uses == 3


@pytest.mark.costly
def test_a_page_has_fifty_images_and_the_same_queries_for_any_number(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    with CaptureQueriesContext(connection) as few:
        read(ecr_configuration)
    for number in range(59):
        push(sandbox, f"more {number}", f"more-{number}")
    sandbox.reset_calls()

    with CaptureQueriesContext(connection) as many:
        first = read(ecr_configuration)
    second = read(ecr_configuration, number=2)

    assert (len(first.images), len(second.images), first.pages) == (50, 11, 2)
    assert not {each.described.digest for each in first.images} & {each.described.digest for each in second.images}
    assert sandbox.calls() == {"ecr:DescribeImages": 2}
    assert len(many) == len(few)
    assert read(ecr_configuration, number=99).number == 2


@pytest.mark.costly
def test_more_than_one_call_gives_is_read_in_parts(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ecr, "IMAGES_PER_PAGE", 1)

    first = read(ecr_configuration)
    second = read(ecr_configuration, token=first.next_token)

    assert sandbox.calls() == {"ecr:DescribeImages": 2}
    assert [first.is_whole, second.is_whole, bool(second.next_token)] == [False, False, False]
    shown = {each.described.digest for part in (first, second) for each in part.images}
    assert shown == {each.image_digest for each in two}
    assert (first.endangered, second.endangered) == ((), ())  # what a part does not have may be in another part


@pytest.mark.costly
@pytest.mark.parametrize(
    ("only", "wanted"),
    [
        (Only.ALL, {"one", "two", "index", "untagged"}),
        (Only.TAGGED, {"one", "two", "index"}),
        (Only.ARCHIVED, {"one"}),
    ],
)
def test_aws_selects_the_images_with_a_tag_and_the_archived_ones(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox, only: Only, wanted: set[str]
) -> None:
    index = images.build_index(platforms=["linux/amd64"])
    name = Repository.objects.get().name
    images.push(index, sandbox.url, *sandbox.login(), name, "index", registry=HOST)
    known = {two[0].image_digest: "one", two[1].image_digest: "two", index.digest: "index"}
    known[index.images[0].digest] = "untagged"
    move(sandbox, two[0], two[0].image_digest)
    sandbox.reset_calls()

    found = read(ecr_configuration, only=only)

    assert {known[each.described.digest] for each in found.images} == wanted
    assert sandbox.calls() == {"ecr:DescribeImages": 1}


@pytest.mark.costly
def test_an_image_in_use_that_is_archived_or_gone_is_named_first(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    move(sandbox, two[0], two[0].image_digest)
    delete(sandbox, two[1])

    found = read(ecr_configuration)

    assert [(each.kept.deployment.pk, each.state) for each in found.endangered] == [
        (two[1].pk, "missing"),
        (two[0].pk, "archived"),
    ]
    assert [each.state for each in read(ecr_configuration, only=Only.TAGGED).endangered] == ["archived"]


@pytest.mark.costly
def test_of_a_repository_that_is_gone_every_image_in_use_is_missing(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.client("ecr").delete_repository(repositoryName=Repository.objects.get().name, force=True)

    found = read(ecr_configuration)

    assert (found.exists, found.images) == (False, ())
    assert [each.state for each in found.endangered] == ["missing", "missing"]


@pytest.mark.costly
def test_an_error_of_aws_is_in_the_answer_with_the_statement_to_add(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.fault("error", "ecr:DescribeImages", code="AccessDeniedException")

    found = read(ecr_configuration)

    assert found.error is not None
    assert "ecr:DescribeImages" in found.error.sentence
    assert found.statement["Action"] == ["ecr:DescribeImages"]
    assert found.statement["Resource"] == "arn:aws:ecr:us-east-1:111111111111:repository/trigger/*"
    assert found.endangered == ()  # not seen is not missing


@pytest.mark.costly
def test_after_a_fault_of_aws_it_is_not_asked_again(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.fault("error", "ecr:DescribeImages", code="ServerException", status=500)

    found = read(ecr_configuration)

    assert found.error is not None
    assert found.error.retryable
    assert found.statement == {}
    assert sandbox.calls() == {"ecr:DescribeImages": 1}


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clients that wait for an answer for a moment only."""
    monkeypatch.setattr(clients, "READ_SECONDS", 0.3)
    clients.forget_clients(Access())
    yield
    clients.forget_clients(Access())


@pytest.mark.costly
def test_an_aws_that_does_not_answer_is_a_sentence(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox, no_patience: None
) -> None:
    sandbox.fault("hang", "ecr:DescribeImages")

    found = read(ecr_configuration)

    assert found.error is not None
    assert (found.error.code, found.images, found.endangered) == ("Timeout", (), ())


@pytest.mark.costly
def test_after_a_restore_without_an_answer_the_lease_is_free_and_the_restore_can_be_asked_for_again(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox, no_patience: None
) -> None:
    move(sandbox, two[0], two[0].image_digest)
    sandbox.fault("unanswered", "ecr:UpdateImageStorageClass", times=1)

    assert refused(ecr_configuration, two[0].image_digest).retryable
    sandbox.reset_calls()

    assert restore(ecr_configuration, two[0].image_digest) == "ACTIVATING"
    assert sandbox.calls() == {"ecr:DescribeImages": 1}


def test_a_token_of_another_call_is_an_error_of_aws(two: list[Deployment], ecr_configuration: Configuration) -> None:
    assert read(ecr_configuration, token="x" * 9_000).error is not None


@pytest.mark.costly
def test_while_too_many_requests_wait_for_aws_no_page_is_read(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulkhead, "_threads", 2)
    monkeypatch.setattr(bulkhead, "_held", 1)

    for asked in (lambda: read(ecr_configuration), lambda: restore(ecr_configuration, two[0].image_digest)):
        with pytest.raises(Refusal) as caught:
            asked()
        assert caught.value.code == "server_waits_for_aws"
    assert sandbox.calls() == {}


def seen(**described: Any) -> SeenImage:
    values = {"digest": UNKNOWN, "status": "ACTIVE", "pushed_at": None, "archived_at": None, **described}
    return SeenImage(described=DescribedImage(**values))


@pytest.mark.parametrize(
    ("described", "note"),
    [
        ({"tags": ("v1",)}, ""),
        ({"tags": ("v1",), "artifact_type": "application/vnd.oci.image.config.v1+json"}, ""),
        ({"media_type": images.INDEX, "tags": ("v1",)}, "Index of images"),
        ({"media_type": images.MANIFEST}, "No tag: an image of an index, or its tag has moved"),
        ({"subject": UNKNOWN, "artifact_type": "application/x-sig"}, "Referrer: application/x-sig"),
        ({"subject": UNKNOWN}, "Referrer: signature or attestation"),
        ({"artifact_type": "application/x-chart", "tags": ("1",)}, "Artifact: application/x-chart"),
    ],
)
def test_what_is_no_image_with_a_tag_is_called_what_it_is(described: dict[str, Any], note: str) -> None:
    assert seen(**described).note == note


# ------------------------------------------------------------------------------------------------------- the restore


def lines() -> list[tuple[str, str]]:
    entries = AuditEntry.objects.filter(action="restore_image.repository").order_by("pk")
    return [(entry.outcome[:40], str((entry.after or {}).get("status", ""))) for entry in entries]


@pytest.mark.costly
def test_an_archived_image_is_restored_and_pulled_again(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    digest = two[0].image_digest
    move(sandbox, two[0], digest)
    pulled = (sandbox.url, *sandbox.login(), Repository.objects.get().name, two[0].image_ref.rpartition(":")[2])
    with pytest.raises(images.RegistryError):
        images.pull(*pulled)
    sandbox.reset_calls()

    assert restore(ecr_configuration, digest) == "ACTIVATING"

    assert sandbox.calls() == {"ecr:DescribeImages": 1, "ecr:UpdateImageStorageClass": 1}
    assert lines() == [("begun", ""), ("done", "ACTIVATING")]
    assert [each.state for each in read(ecr_configuration).endangered] == ["restoring"]
    sandbox.advance(20 * MINUTES + 1)
    images.pull(*pulled)
    assert read(ecr_configuration).endangered == ()
    assert repositories.claim(Repository.objects.get()) is not None  # the lease was returned


@pytest.mark.costly
def test_a_second_restore_writes_nothing_to_aws(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    move(sandbox, two[0], two[0].image_digest)
    restore(ecr_configuration, two[0].image_digest)
    sandbox.reset_calls()

    assert restore(ecr_configuration, two[0].image_digest) == "ACTIVATING"
    assert restore(ecr_configuration, two[1].image_digest) == "ACTIVE"

    assert sandbox.calls() == {"ecr:DescribeImages": 2}


@pytest.mark.parametrize("digest", [UNKNOWN, "latest", "", "sha256:" + "A" * 64])
def test_an_image_that_does_not_exist_is_not_restored(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox, digest: str
) -> None:
    assert refused(ecr_configuration, digest).code == "nothing_to_restore"
    assert "ecr:UpdateImageStorageClass" not in sandbox.calls()


@pytest.mark.costly
def test_while_writes_are_paused_no_image_is_restored(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    move(sandbox, two[0], two[0].image_digest)
    call_command("writes", "pause", "--reason", "a look at it")
    sandbox.reset_calls()

    assert refused(ecr_configuration, two[0].image_digest).code == "WritesPaused"
    assert sandbox.calls() == {"ecr:DescribeImages": 1}
    assert repositories.claim(Repository.objects.get()) is not None


@pytest.mark.costly
def test_a_repository_that_is_not_managed_is_left_alone(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    Repository.objects.update(management="unmanaged", status="unmanaged")

    assert refused(ecr_configuration, two[0].image_digest).code == "nothing_to_restore"
    assert sandbox.calls() == {}


def test_a_repository_that_another_process_changes_is_not_waited_for(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    assert repositories.claim(Repository.objects.get()) is not None

    assert refused(ecr_configuration, two[0].image_digest).code == "busy"
    assert sandbox.calls() == {}


def test_another_configuration_than_the_one_that_counts_restores_nothing(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(ecr_configuration, activation=ecr_configuration.activation + 7)
    monkeypatch.setattr(generation, "in_force", lambda _: other)

    assert refused(ecr_configuration, two[0].image_digest).code == "ConfigurationChanged"
    assert sandbox.calls() == {}


@pytest.mark.costly
def test_a_refused_restore_names_the_permission_and_leaves_a_line_with_the_reason(
    two: list[Deployment], ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    move(sandbox, two[0], two[0].image_digest)
    sandbox.fault("error", "ecr:UpdateImageStorageClass", code="AccessDeniedException")

    sentence = refused(ecr_configuration, two[0].image_digest).sentence

    assert "ecr:UpdateImageStorageClass" in sentence
    assert [outcome for outcome, _ in lines()] == ["begun", sentence[:40]]
