"""The archive storage class and pull times: an archived image is described, and not pulled before its restore ends."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import images
from sandbox.control import Sandbox
from tests.sandbox.asking import OWNER, keys, policy, refused, session_policy

ANY = {"imageStatus": "ANY"}


@pytest.fixture
def digest(sandbox: Sandbox, ecr: Any, repository: str) -> str:
    """An archived image with the tag v1."""
    digest = images.push(images.build(), sandbox.url, *sandbox.login(), repository, "v1")
    answer = move(ecr, repository, digest, "ARCHIVE")
    assert (answer["registryId"], answer["repositoryName"]) == (OWNER, repository)
    assert (answer["imageId"], answer["imageStatus"]) == ({"imageDigest": digest}, "ARCHIVED")
    return digest


def move(ecr: Any, repository: str, digest: str, storage: str) -> Any:
    return ecr.update_image_storage_class(
        repositoryName=repository, imageId={"imageDigest": digest}, targetStorageClass=storage
    )


def shown(ecr: Any, repository: str, chosen: dict[str, str] | None = None) -> list[Any]:
    details: list[Any] = ecr.describe_images(repositoryName=repository, filter=chosen or {})["imageDetails"]
    return details


def pulls(sandbox: Sandbox, repository: str) -> bool:
    try:
        images.pull(sandbox.url, *sandbox.login(), repository, "v1")
    except images.RegistryError as error:
        if error.status != 404:
            raise
        return False
    return True


def test_an_archived_image_is_shown_only_to_those_who_ask_for_it(ecr: Any, repository: str, digest: str) -> None:
    assert shown(ecr, repository) == []
    assert ecr.list_images(repositoryName=repository)["imageIds"] == []

    for chosen in (ANY, {"imageStatus": "ARCHIVED"}):
        (detail,) = shown(ecr, repository, chosen)
        assert (detail["imageStatus"], detail["imageTags"]) == ("ARCHIVED", ["v1"])
        assert detail["lastArchivedAt"] >= detail["imagePushedAt"]
    for more in ({}, {"filter": ANY}):  # by its id, also without a filter
        (named,) = ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": "v1"}], **more)["imageDetails"]
        assert (named["imageDigest"], named["imageStatus"]) == (digest, "ARCHIVED")
    with refused("ImageNotFoundException"):
        ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": "v1"}], filter={"imageStatus": "ACTIVE"})
    assert ecr.list_images(repositoryName=repository, filter=ANY)["imageIds"] == [
        {"imageDigest": digest, "imageTag": "v1"}
    ]


def test_an_archived_image_is_not_pulled(sandbox: Sandbox, ecr: Any, repository: str, digest: str) -> None:
    assert not pulls(sandbox, repository)
    answer = ecr.batch_get_image(repositoryName=repository, imageIds=[{"imageTag": "v1"}])
    assert [each["failureCode"] for each in answer["failures"]] == ["ImageInaccessible"]
    layer = images.build().blobs[1].digest
    (found,) = ecr.batch_check_layer_availability(repositoryName=repository, layerDigests=[layer])["layers"]
    assert found["layerAvailability"] == "ARCHIVED"
    with refused("LayerInaccessibleException"):
        ecr.get_download_url_for_layer(repositoryName=repository, layerDigest=layer)
    with (
        images.RegistryClient(sandbox.url, *sandbox.login()) as client,
        pytest.raises(images.RegistryError, match="BLOB_UNKNOWN"),
    ):
        client.request("GET", f"/v2/{repository}/blobs/{layer}")


def test_a_restore_takes_its_time(sandbox: Sandbox, ecr: Any, repository: str, digest: str) -> None:
    assert move(ecr, repository, digest, "STANDARD")["imageStatus"] == "ACTIVATING"
    sandbox.advance(19 * 60)
    (detail,) = shown(ecr, repository, {"imageStatus": "ACTIVATING"})
    assert "lastActivatedAt" not in detail
    assert not pulls(sandbox, repository)

    sandbox.advance(61)

    (detail,) = shown(ecr, repository)
    assert detail["imageStatus"] == "ACTIVE"
    assert detail["lastActivatedAt"] > detail["lastArchivedAt"]
    assert pulls(sandbox, repository)


def test_a_push_restores_an_archived_image_at_once(sandbox: Sandbox, ecr: Any, repository: str, digest: str) -> None:
    images.push(images.build(), sandbox.url, *sandbox.login(), repository, "v1")

    assert pulls(sandbox, repository)
    assert "lastActivatedAt" in shown(ecr, repository)[0]


def test_a_transition_that_makes_no_sense_is_refused(sandbox: Sandbox, ecr: Any, repository: str, digest: str) -> None:
    def refuse(image: str, storage: str) -> None:
        with refused("ImageStorageClassUpdateNotSupportedException"):
            move(ecr, repository, image, storage)

    refuse(digest, "ARCHIVE")
    move(ecr, repository, digest, "STANDARD")
    refuse(digest, "STANDARD")
    refuse(digest, "ARCHIVE")
    index = images.build_index("another")
    images.push(index, sandbox.url, *sandbox.login(), repository, "v2")
    refuse(index.images[0].digest, "ARCHIVE")
    move(ecr, repository, index.digest, "ARCHIVE")
    move(ecr, repository, index.images[0].digest, "ARCHIVE")
    with refused("ImageNotFoundException"):
        move(ecr, repository, "sha256:" + "0" * 64, "ARCHIVE")
    with refused("InvalidParameterException"):
        ecr.update_image_storage_class(repositoryName=repository, imageId={}, targetStorageClass="ARCHIVE")


def test_another_account_needs_a_grant_to_archive(sandbox: Sandbox, ecr: Any, repository: str, digest: str) -> None:
    ecr.set_repository_policy(repositoryName=repository, policyText=policy())

    with refused("AccessDeniedException"):
        sandbox.client("ecr", "cluster").update_image_storage_class(
            registryId=OWNER, repositoryName=repository, imageId={"imageTag": "v1"}, targetStorageClass="STANDARD"
        )


def test_images_are_described_in_pages(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    with images.RegistryClient(sandbox.url, *sandbox.login()) as client:
        pushed = [client.push(images.build(f"image {number}"), repository, f"v{number}") for number in range(5)]
    move(ecr, repository, pushed[0], "ARCHIVE")

    pages = ecr.get_paginator("describe_images").paginate(
        repositoryName=repository, filter=ANY, PaginationConfig={"PageSize": 2}
    )

    assert [len(page["imageDetails"]) for page in pages] == [2, 2, 1]
    assert {each["imageDigest"] for each in shown(ecr, repository)} == set(pushed[1:])
    for more in ({"maxResults": 2}, {"nextToken": "made up"}):
        with refused("InvalidParameterException"):
            ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": "v1"}], **more)
    with refused("InvalidParameterException"):
        ecr.describe_images(repositoryName=repository, nextToken="made up")
    with refused("InvalidParameterException"):
        ecr.describe_images(repositoryName=repository, maxResults=1001)


def test_a_pull_moves_the_pull_time_and_a_description_does_not(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    images.push(images.build(), sandbox.url, *sandbox.login(), repository, "v1")
    assert "lastRecordedPullTime" not in shown(ecr, repository)[0]
    seen = []
    for pull in (
        lambda: pulls(sandbox, repository),
        lambda: ecr.batch_get_image(repositoryName=repository, imageIds=[{"imageTag": "v1"}]),
        lambda: shown(ecr, repository),
    ):
        sandbox.advance(3600)
        pull()
        seen.append(shown(ecr, repository)[0]["lastRecordedPullTime"])

    assert seen[0] < seen[1] == seen[2]


@pytest.mark.costly
def test_the_pulls_of_an_excluded_role_move_no_pull_time(
    sandbox: Sandbox, ecr: Any, repository: str, role: str
) -> None:
    images.push(images.build(), sandbox.url, *sandbox.login(), repository, "v1")
    session = keys(sandbox.client("sts").assume_role(RoleArn=role, RoleSessionName="probe"))

    def pull_as_role() -> None:
        sandbox.client("ecr", session).batch_get_image(repositoryName=repository, imageIds=[{"imageTag": "v1"}])
        images.pull(sandbox.url, *sandbox.login(session), repository, "v1")

    made = ecr.register_pull_time_update_exclusion(principalArn=role)
    assert (made["principalArn"], "createdAt" in made) == (role, True)
    pull_as_role()
    assert "lastRecordedPullTime" not in shown(ecr, repository)[0]
    ecr.deregister_pull_time_update_exclusion(principalArn=role)
    pull_as_role()
    assert "lastRecordedPullTime" in shown(ecr, repository)[0]


@pytest.mark.costly
def test_pull_time_exclusions_are_listed_once_each_and_limited(sandbox: Sandbox, ecr: Any) -> None:
    arns = [f"arn:aws:iam::{OWNER}:role/scanner-{number:03}" for number in range(100)]
    for arn in arns:
        ecr.register_pull_time_update_exclusion(principalArn=arn)

    first = ecr.list_pull_time_update_exclusions(maxResults=60)
    rest = ecr.list_pull_time_update_exclusions(nextToken=first["nextToken"])
    assert first["pullTimeUpdateExclusions"] + rest["pullTimeUpdateExclusions"] == arns
    with refused("ExclusionAlreadyExistsException"):
        ecr.register_pull_time_update_exclusion(principalArn=arns[0])
    with refused("LimitExceededException"):
        ecr.register_pull_time_update_exclusion(principalArn=f"arn:aws:iam::{OWNER}:role/one-more")
    with refused("ExclusionNotFoundException"):
        ecr.deregister_pull_time_update_exclusion(principalArn=f"arn:aws:iam::{OWNER}:role/one-more")
    with refused("InvalidParameterException"):
        ecr.register_pull_time_update_exclusion(principalArn=f"arn:aws:iam::{OWNER}:root")
    reader = sandbox.client("sts").get_federation_token(
        Name="reader", Policy=session_policy("ecr:ListPullTimeUpdateExclusions")
    )
    narrow = sandbox.client("ecr", keys(reader))
    narrow.list_pull_time_update_exclusions()
    with refused("AccessDeniedException"):
        narrow.deregister_pull_time_update_exclusion(principalArn=arns[0])
