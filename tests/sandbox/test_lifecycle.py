"""Lifecycle policies: a preview says what a run does, and a run does it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import WaiterError

from sandbox import images
from sandbox.control import Sandbox
from tests.sandbox.asking import OWNER, policy, receive, refused

DAY = 24 * 3600
ANY = {"imageStatus": "ANY"}
ARCHIVE = {"type": "transition", "targetStorageClass": "archive"}


def rule(priority: int, count_type: str, number: int, action: Any = None, **selection: Any) -> dict[str, Any]:
    if "tagPatternList" in selection or "tagPrefixList" in selection:
        selection["tagStatus"] = "tagged"
    units = {} if count_type == "imageCountMoreThan" else {"countUnit": "days"}
    chosen = {"tagStatus": "any", "countType": count_type, "countNumber": number, **units, **selection}
    return {"rulePriority": priority, "selection": chosen, "action": action or {"type": "expire"}}


def text(*rules: dict[str, Any]) -> str:
    return json.dumps({"rules": rules}).ljust(100)


class Shop:
    """A repository whose images have names; each image is a day older than the next one."""

    def __init__(self, sandbox: Sandbox, ecr: Any, name: str) -> None:
        self.sandbox, self.ecr, self.name = sandbox, ecr, name
        self.digests: dict[str, str] = {}

    def push(self, *tags: str, image: images.Image | None = None, name: str = "") -> str:
        name = name or tags[0]
        image = image or images.build(name)
        with images.RegistryClient(self.sandbox.url, *self.sandbox.login()) as client:
            client.push(image, self.name, tags[0] if tags else None)
        for tag in tags[1:]:
            manifest = image.manifest.content.decode()
            self.ecr.put_image(repositoryName=self.name, imageManifest=manifest, imageTag=tag)
        self.digests[name] = image.digest
        self.sandbox.advance(DAY)
        return image.digest

    def preview(self, *rules: dict[str, Any]) -> list[tuple[str, str, int]]:
        """Name, action and rule of each image that the policy would touch, oldest first."""
        self.ecr.start_lifecycle_policy_preview(repositoryName=self.name, lifecyclePolicyText=text(*rules))
        self.sandbox.advance(2)
        answer = self.ecr.get_lifecycle_policy_preview(repositoryName=self.name)
        assert answer["status"] == "COMPLETE"
        names = {digest: name for name, digest in self.digests.items()}
        return [
            (names[each["imageDigest"]], each["action"]["type"], each["appliedRulePriority"])
            for each in answer["previewResults"]
        ]

    def run(self, *rules: dict[str, Any]) -> None:
        self.ecr.put_lifecycle_policy(repositoryName=self.name, lifecyclePolicyText=text(*rules))
        assert self.sandbox.run_lifecycle(self.name) == 1

    def statuses(self) -> dict[str, str]:
        """The status of each image that is there."""
        details = self.ecr.describe_images(repositoryName=self.name, filter=ANY)["imageDetails"]
        found = {each["imageDigest"]: each["imageStatus"] for each in details}
        return {name: found[digest] for name, digest in self.digests.items() if digest in found}


@pytest.fixture
def shop(sandbox: Sandbox, ecr: Any, repository: str) -> Shop:
    return Shop(sandbox, ecr, repository)


PROD = rule(1, "imageCountMoreThan", 1, tagPrefixList=["prod"])
BETA = rule(2, "imageCountMoreThan", 1, tagPrefixList=["beta"])


@pytest.mark.parametrize(
    ("rules", "expired"),
    [
        ((PROD, BETA), [("a", 1)]),
        ((PROD | {"rulePriority": 2}, BETA | {"rulePriority": 1}), [("a", 1), ("b", 1)]),
        ((rule(1, "imageCountMoreThan", 1, tagPrefixList=["alpha", "beta"]),), []),
        ((rule(1, "imageCountMoreThan", 1, tagPatternList=["*prod*", "beta-*"]),), [("a", 1)]),
        ((rule(1, "imageCountMoreThan", 1, tagPatternList=["beta??"]),), []),
        ((rule(1, "imageCountMoreThan", 1, tagPatternList=["beta-[1-3]"]),), []),
        ((rule(1, "imageCountMoreThan", 2),), [("a", 1)]),
        ((rule(1, "imageCountMoreThan", 99, tagPrefixList=["prod"]), rule(2, "sinceImagePushed", 1)), [("c", 2)]),
    ],
)
def test_rules_decide_as_in_the_examples_of_the_guide(shop: Shop, rules: Any, expired: list[tuple[str, int]]) -> None:
    """The first two are examples A and B of "Examples of lifecycle policies in Amazon ECR"."""
    shop.push("beta-1", "prod-1", name="a")
    shop.push("beta-2", "prod-2", name="b")
    shop.push("beta-3", name="c")
    shop.sandbox.advance(60)

    assert shop.preview(*rules) == [(name, "EXPIRE", priority) for name, priority in expired]
    assert set(shop.statuses()) == {"a", "b", "c"}
    shop.run(*rules)
    assert set(shop.statuses()) == {"a", "b", "c"} - {name for name, _ in expired}


@pytest.mark.costly
def test_a_rule_for_any_image_leaves_those_of_other_rules_alone(shop: Shop) -> None:
    """Example B of "Filtering on all images" in the guide."""
    shop.push("alpha-1", "beta-1", name="a")
    shop.push(name="b")
    shop.push("alpha-2", name="c")
    shop.push("git-hash", name="d")
    shop.push(name="e")

    assert shop.preview(
        rule(1, "imageCountMoreThan", 1, tagPatternList=["alpha*"]),
        rule(2, "sinceImagePushed", 2, tagStatus="untagged"),
        rule(3, "imageCountMoreThan", 1),
    ) == [("a", "EXPIRE", 1), ("b", "EXPIRE", 2), ("d", "EXPIRE", 3)]


def test_age_counts_from_the_push_and_untagged_images_are_their_own(shop: Shop) -> None:
    shop.push(name="loose")
    shop.push("v1")
    old = rule(1, "sinceImagePushed", 3, tagStatus="untagged")

    assert shop.preview(old) == []
    shop.sandbox.advance(DAY + 60)
    assert shop.preview(old) == [("loose", "EXPIRE", 1)]
    shop.run(old)

    assert shop.statuses() == {"v1": "ACTIVE"}


def test_images_that_nobody_pulls_are_archived_and_later_expire(shop: Shop) -> None:
    shop.push("v1")
    shop.push("v2")
    shop.ecr.put_lifecycle_policy(
        repositoryName=shop.name,
        lifecyclePolicyText=text(
            rule(1, "sinceImagePulled", 10, ARCHIVE, tagPrefixList=["v"]),
            rule(2, "sinceImageTransitioned", 90, storageClass="archive", tagPrefixList=["v"]),
        ),
    )
    shop.sandbox.advance(8.5 * DAY)
    images.pull(shop.sandbox.url, *shop.sandbox.login(), shop.name, "v2")
    shop.sandbox.advance(2 * DAY)
    assert shop.statuses() == {"v1": "ARCHIVED", "v2": "ACTIVE"}
    shop.sandbox.advance(87 * DAY)
    assert shop.statuses() == {"v1": "ARCHIVED", "v2": "ARCHIVED"}

    shop.sandbox.advance(2 * DAY)

    assert shop.statuses() == {"v2": "ARCHIVED"}


def test_a_restored_image_is_as_young_as_its_restore(shop: Shop) -> None:
    digest = shop.push("v1")
    for storage in ("ARCHIVE", "STANDARD"):
        shop.ecr.update_image_storage_class(
            repositoryName=shop.name, imageId={"imageDigest": digest}, targetStorageClass=storage
        )
        shop.sandbox.advance(20 * DAY)

    assert shop.preview(rule(1, "sinceImagePulled", 30, ARCHIVE)) == []
    assert shop.preview(rule(1, "sinceImagePulled", 19, ARCHIVE)) == [("v1", "TRANSITION", 1)]


def test_an_image_of_an_index_stays_as_long_as_its_index(shop: Shop) -> None:
    index = images.build_index()
    shop.push("v1", image=index)
    for child in index.images:
        shop.digests[f"child {child.digest}"] = child.digest
    everything = rule(1, "sinceImagePushed", 1, tagStatus="untagged")
    shop.sandbox.advance(60)

    assert shop.preview(everything) == []
    shop.ecr.batch_delete_image(repositoryName=shop.name, imageIds=[{"imageTag": "v1"}])

    assert len(shop.preview(everything)) == 2
    shop.run(everything)
    assert shop.statuses() == {}


# -- previews --------------------------------------------------------------------------------------------------------


def test_a_preview_takes_time_and_there_is_one_at_a_time(shop: Shop) -> None:
    shop.push("v1")
    shop.push("v2")
    shop.sandbox.fault("slow_preview", repository=shop.name, seconds=600)
    with refused("LifecyclePolicyPreviewNotFoundException"):
        shop.ecr.get_lifecycle_policy_preview(repositoryName=shop.name)
    with refused("LifecyclePolicyNotFoundException"):
        shop.ecr.start_lifecycle_policy_preview(repositoryName=shop.name)
    shop.ecr.put_lifecycle_policy(repositoryName=shop.name, lifecyclePolicyText=text(rule(1, "imageCountMoreThan", 1)))

    url = shop.sandbox.events_to("ecr-changes")

    started = shop.ecr.start_lifecycle_policy_preview(repositoryName=shop.name)

    (event,) = receive(shop.sandbox.client("sqs"), url)
    assert event["detail"]["eventName"] == "DryRunEvent"
    assert len(event["detail"]["serviceEventDetails"]["lifecycleEventImageActions"]) == 1
    assert (started["status"], started["registryId"]) == ("IN_PROGRESS", OWNER)
    with refused("LifecyclePolicyPreviewInProgressException"):
        shop.ecr.start_lifecycle_policy_preview(repositoryName=shop.name)
    running = shop.ecr.get_lifecycle_policy_preview(repositoryName=shop.name)
    assert running["status"] == "IN_PROGRESS"
    assert "summary" not in running
    shop.sandbox.advance(602)
    done = shop.ecr.get_lifecycle_policy_preview(repositoryName=shop.name)
    assert done["summary"] == {"expiringImageTotalCount": 1}
    assert done["previewResults"][0]["imageTags"] == ["v1"]
    assert done["previewResults"][0]["storageClass"] == "STANDARD"
    shop.sandbox.clear_faults()
    shop.sandbox.advance(DAY)
    assert shop.ecr.get_lifecycle_policy_preview(repositoryName=shop.name)["status"] == "EXPIRED"


def test_a_preview_can_fail(shop: Shop) -> None:
    shop.sandbox.fault("failed_preview", times=1)
    policy_text = text(rule(1, "imageCountMoreThan", 1))
    shop.ecr.start_lifecycle_policy_preview(repositoryName=shop.name, lifecyclePolicyText=policy_text)
    shop.sandbox.advance(2)

    waiter = shop.ecr.get_waiter("lifecycle_policy_preview_complete")
    with pytest.raises(WaiterError, match="FAILED"):
        waiter.wait(repositoryName=shop.name, WaiterConfig={"Delay": 1, "MaxAttempts": 1})

    shop.ecr.start_lifecycle_policy_preview(repositoryName=shop.name, lifecyclePolicyText=policy_text)
    shop.sandbox.advance(2)
    waiter.wait(repositoryName=shop.name, WaiterConfig={"Delay": 1, "MaxAttempts": 1})


@pytest.mark.costly
def test_a_preview_has_pages_and_filters(shop: Shop) -> None:
    for number in range(4):
        shop.push(f"v{number}")
    shop.push(name="loose")
    shop.preview(rule(1, "imageCountMoreThan", 1, ARCHIVE))

    pages = list(
        shop.ecr.get_paginator("get_lifecycle_policy_preview").paginate(
            repositoryName=shop.name, PaginationConfig={"PageSize": 3}
        )
    )
    assert [[each["imageTags"] for each in page["previewResults"]] for page in pages] == [
        [["v0"], ["v1"], ["v2"]],
        [["v3"]],
    ]
    assert pages[0]["summary"] == {
        "expiringImageTotalCount": 0,
        "transitioningImageTotalCounts": [{"targetStorageClass": "ARCHIVE", "imageTotalCount": 4}],
    }
    assert pages[0]["previewResults"][0]["action"] == {"type": "TRANSITION", "targetStorageClass": "ARCHIVE"}
    get = shop.ecr.get_lifecycle_policy_preview
    chosen = get(repositoryName=shop.name, imageIds=[{"imageTag": "v2"}, {"imageDigest": shop.digests["v3"]}])
    assert [each["imageTags"] for each in chosen["previewResults"]] == [["v2"], ["v3"]]
    assert get(repositoryName=shop.name, filter={"tagStatus": "UNTAGGED"})["previewResults"] == []
    with refused("InvalidParameterException"):
        get(repositoryName=shop.name, imageIds=[{"imageTag": "v2"}], maxResults=1)
    with refused("InvalidParameterException"):
        shop.ecr.start_lifecycle_policy_preview(repositoryName=shop.name, lifecyclePolicyText="{}".ljust(100))


def test_a_preview_needs_permission(shop: Shop) -> None:
    shop.ecr.set_repository_policy(repositoryName=shop.name, policyText=policy())

    for operation in ("start_lifecycle_policy_preview", "get_lifecycle_policy_preview"):
        with refused("AccessDeniedException"):
            getattr(shop.sandbox.client("ecr", "cluster"), operation)(registryId=OWNER, repositoryName=shop.name)


# -- runs ------------------------------------------------------------------------------------------------------------


def test_a_policy_runs_a_day_after_it_was_put(shop: Shop) -> None:
    shop.push("v1")
    shop.push("v2")
    policy_text = text(rule(1, "imageCountMoreThan", 1))
    shop.ecr.put_lifecycle_policy(repositoryName=shop.name, lifecyclePolicyText=policy_text)
    put = shop.ecr.get_lifecycle_policy(repositoryName=shop.name)["lastEvaluatedAt"]

    shop.sandbox.advance(DAY - 60)
    assert set(shop.statuses()) == {"v1", "v2"}
    shop.sandbox.advance(120)

    assert set(shop.statuses()) == {"v2"}
    assert shop.ecr.get_lifecycle_policy(repositoryName=shop.name)["lastEvaluatedAt"] > put


@pytest.mark.costly
def test_a_run_tells_cloudtrail_and_sends_an_event_for_each_image(shop: Shop) -> None:
    for number in range(12):
        shop.push(f"v{number}")
    url = shop.sandbox.events_to("ecr-changes")

    shop.run(rule(1, "imageCountMoreThan", 1))

    found = receive(shop.sandbox.client("sqs"), url, count=1 + 11 + 2)
    runs = [each for each in found if each["detail-type"] == "AWS Service Event via CloudTrail"]
    deleted = [each["detail"]["image-tag"] for each in found if each["detail-type"] == "ECR Image Action"]
    assert deleted == [f"v{number}" for number in range(11)]
    assert [len(each["detail"]["serviceEventDetails"]["lifecycleEventImageActions"]) for each in runs] == [9, 2]
    detail = runs[0]["detail"]
    assert (detail["eventName"], detail["eventType"]) == ("PolicyExecutionEvent", "AwsServiceEvent")
    first = detail["serviceEventDetails"]["lifecycleEventImageActions"][0]
    assert (first["lifecycleEventImage"]["tagList"], first["rulePriority"]) == (["v0"], 1)


def test_a_run_that_archives_sends_its_events(shop: Shop) -> None:
    shop.push("v1")
    shop.push("v2")
    url = shop.sandbox.events_to("ecr-changes")

    shop.run(rule(1, "imageCountMoreThan", 1, ARCHIVE))

    found = receive(shop.sandbox.client("sqs"), url, count=3)
    (archived,) = [each for each in found if each["detail-type"] == "ECR Image Action"]
    assert archived["detail"]["target-storage-class"] == "ARCHIVE"
    assert shop.statuses() == {"v1": "ARCHIVED", "v2": "ACTIVE"}
