"""What is assumed of ECR's images: reads, immutable tags, archive, pull times."""

from __future__ import annotations

import hashlib

from conformance.account import EMPTY_LAYER, INDEX, MANIFEST, Account, on, shown
from conformance.assumptions import NotRun, assumed, expect

NOBODY = "sha256:" + 64 * "0"


@assumed("image-missing", "api:DescribeImages", "aws/ecr.py _describe_images")
def image_missing(aws: Account) -> None:
    """DescribeImages refuses the whole call with ImageNotFoundException if one image is missing, and its message has
    the digest.
    """
    name = aws.repository()
    ids = [{"imageDigest": aws.push(name, "v1")}, {"imageDigest": NOBODY}]
    message = aws.refused("ImageNotFoundException", lambda: aws.ecr.describe_images(**on(name), imageIds=ids))
    expect(NOBODY in message and "does not exist within the repository with name" in message, message)


@assumed("manifest-missing", "api:ImageFailure", "aws/ecr.py manifests")
def manifest_missing(aws: Account) -> None:
    """BatchGetImage answers for a missing tag or digest with a failure ImageNotFound, and for a text that is no digest
    with InvalidImageDigest; the call is no error.
    """
    ids = [{"imageTag": "none"}, {"imageDigest": NOBODY}, {"imageDigest": "sha256:none"}]
    answer = aws.ecr.batch_get_image(**on(aws.repository()), imageIds=ids)
    codes = sorted(each["failureCode"] for each in answer["failures"])
    expect(codes == ["ImageNotFound", "ImageNotFound", "InvalidImageDigest"], shown(answer))


@assumed("manifest-unchanged", "api:Image", "deploys/image_proof.py manifests")
def manifest_unchanged(aws: Account) -> None:
    """BatchGetImage gives the manifest byte by byte as it was pushed: its SHA-256 is the digest. ListImages has its
    tag.
    """
    name = aws.repository()
    digest = aws.push(name, "v1")
    found = aws.ecr.batch_get_image(**on(name), imageIds=[{"imageDigest": digest}])["images"][0]["imageManifest"]
    expect("sha256:" + hashlib.sha256(found.encode()).hexdigest() == digest, f"a manifest with another digest: {found}")
    listed = aws.ecr.list_images(**on(name), filter={"tagStatus": "TAGGED"})["imageIds"]
    expect(listed == [{"imageDigest": digest, "imageTag": "v1"}], listed)


@assumed("layer-url", "api:GetDownloadUrlForLayer", "aws/ecr.py download_url")
def layer_url(aws: Account) -> None:
    """GetDownloadUrlForLayer of an image's layer is a URL; of a missing layer it is LayersNotFoundException."""
    name = aws.repository()
    aws.push(name, "v1")
    digest, _ = aws.layer(name, EMPTY_LAYER)  # is there by now
    url = aws.ecr.get_download_url_for_layer(**on(name), layerDigest=digest)["downloadUrl"]
    expect(url.startswith(("https://", "http://")), url)
    missing = {**on(name), "layerDigest": NOBODY}
    aws.refused("LayersNotFoundException", lambda: aws.ecr.get_download_url_for_layer(**missing))


@assumed(
    "immutable-tag", "guide:image-tag-mutability", "sandbox/store.py tag_exists; aws/probes.py IMMUTABLE_WITH_EXCLUSION"
)
def immutable_tag(aws: Account) -> None:
    """An immutable tag is not moved (ImageTagAlreadyExistsException), the same image again is
    ImageAlreadyExistsException, and a tag that a filter excludes is moved.
    """
    filters = [{"filterType": "WILDCARD", "filter": "cache"}]
    name = aws.repository(imageTagMutability="IMMUTABLE_WITH_EXCLUSION", imageTagMutabilityExclusionFilters=filters)
    aws.push(name, "v1")
    aws.refused("ImageTagAlreadyExistsException", lambda: aws.push(name, "v1", annotations={"other": "yes"}))
    aws.refused("ImageAlreadyExistsException", lambda: aws.push(name, "v1"))
    aws.push(name, "cache")
    moved = aws.push(name, "cache", annotations={"other": "yes"})
    expect(aws.image(name, moved)["imageTags"] == ["cache"], "that the tag cache was not moved")


@assumed(
    "index-and-referrer",
    "api:ImageDetail",
    "aws/values.py of an index that of its largest image; sandbox/store.py size_of",
)
def index_and_referrer(aws: Account) -> None:
    """The size of an index is that of its largest image, its image is not deleted before it
    (ImageReferencedByManifestList), and a referrer has the digest of its subject and its artifact type.
    """
    name = aws.repository()
    digest = aws.push(name)
    size = len(aws.ecr.batch_get_image(**on(name), imageIds=[{"imageDigest": digest}])["images"][0]["imageManifest"])
    child = {
        "mediaType": MANIFEST,
        "digest": digest,
        "size": size,
        "platform": {"architecture": "amd64", "os": "linux"},
    }
    index = aws.put(name, {"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]}, "index")
    sizes = [aws.image(name, each)["imageSizeInBytes"] for each in (index, digest)]
    expect(sizes[0] == sizes[1], f"imageSizeInBytes {sizes[0]} of the index and {sizes[1]} of its image")
    deleted = aws.ecr.batch_delete_image(**on(name), imageIds=[{"imageDigest": digest}])
    codes = [each["failureCode"] for each in deleted["failures"]]
    expect(codes == ["ImageReferencedByManifestList"], shown(deleted))
    subject = {"mediaType": MANIFEST, "digest": digest, "size": size}
    found = aws.image(name, aws.push(name, artifactType="application/vnd.example.sbom", subject=subject))
    saw = (found.get("subjectManifestDigest"), found.get("artifactMediaType"))
    expect(saw == (digest, "application/vnd.example.sbom"), shown(found))


@assumed(
    "archived-image",
    "guide:archive-image; the failure code of BatchGetImage is not documented",
    "deploys/image_proof.py _INACCESSIBLE; sandbox/ecr_images.py ImageInaccessible; sandbox/registry.py pullable",
)
def archived_image(aws: Account) -> None:
    """An archived image has the status ARCHIVED, is in a list only with the filter imageStatus, is described by its id
    also without, is a failure ImageInaccessible of BatchGetImage and a 404 of the registry, and is ACTIVATING while it
    is restored.
    """
    name, ecr = aws.repository(), aws.ecr
    digest = aws.push(name, "v1")
    ids = [{"imageDigest": digest}]
    move = {**on(name), "imageId": ids[0]}
    status = ecr.update_image_storage_class(**move, targetStorageClass="ARCHIVE")["imageStatus"]
    expect(status == "ARCHIVED", status)
    expect(not ecr.describe_images(**on(name))["imageDetails"], "the archived image in a list without filter")
    every = ecr.describe_images(**on(name), filter={"imageStatus": "ANY"})["imageDetails"]
    expect([each["imageDigest"] for each in every] == [digest], f"{every} with imageStatus ANY")
    expect(aws.image(name, digest)["imageStatus"] == "ARCHIVED", "another status by its id")
    failures = ecr.batch_get_image(**on(name), imageIds=ids)["failures"]
    pull = aws.ask(aws.log_in(), "GET", f"{name}/manifests/{digest}", Accept=MANIFEST)
    expect([each["failureCode"] for each in failures] == ["ImageInaccessible"], f"the failures {failures}")
    expect(pull.status == 404, f"status {pull.status} to a pull")
    again = {**move, "targetStorageClass": "STANDARD"}
    status = ecr.update_image_storage_class(**again)["imageStatus"]
    expect(status == "ACTIVATING", status)
    aws.refused("ImageStorageClassUpdateNotSupportedException", lambda: ecr.update_image_storage_class(**again))


@assumed("push-restores", "guide:archive-image", "sandbox/store.py a push restores an archived image at once")
def push_restores(aws: Account) -> None:
    """A push of an archived image restores it: it is ACTIVE at once."""
    name = aws.repository()
    digest = aws.push(name, "v1")
    move = {"imageId": {"imageDigest": digest}, "targetStorageClass": "ARCHIVE"}
    aws.ecr.update_image_storage_class(**on(name), **move)
    aws.push(name, "v1")
    status = aws.image(name, digest)["imageStatus"]
    expect(status == "ACTIVE", status)


@assumed(
    "restore-time",
    "guide:archive_restore_image",
    "sandbox/store.py RESTORE_SECONDS; aws/ecr.py restore_image",
    minutes=21,
)
def restore_time(aws: Account) -> None:
    """A restore from the archive ends within twenty minutes; then the image is ACTIVE."""
    name = aws.repository()
    digest = aws.push(name, "v1")
    for storage in ("ARCHIVE", "STANDARD"):
        aws.ecr.update_image_storage_class(**on(name), imageId={"imageDigest": digest}, targetStorageClass=storage)

    def active() -> bool:
        return bool(aws.image(name, digest, filter={"imageStatus": "ANY"})["imageStatus"] == "ACTIVE")

    expect(aws.until(active, seconds=20 * 60, every=60), "another status than ACTIVE after twenty minutes")


@assumed(
    "what-is-a-pull",
    "seen:aws/containers-roadmap/issues/2390; guide:pull-time-update-exclusions",
    "aws/ecr.py as BatchGetImage does; sandbox/ecr_registry.py record_pull",
    minutes=20,
)
def what_is_a_pull(aws: Account) -> None:
    """DescribeImages and ListImages do not move the pull time of an image. BatchGetImage does, as a pull; it is seen
    within fifteen minutes.
    """
    name = aws.repository()
    digest = aws.push(name, "v1")
    aws.ecr.list_images(**on(name))
    aws.image(name, digest)
    aws.wait(300)
    saw = aws.image(name, digest).get("lastRecordedPullTime")
    expect(saw is None, f"lastRecordedPullTime {saw} without a pull")
    aws.ecr.batch_get_image(**on(name), imageIds=[{"imageDigest": digest}])
    saw = aws.until(lambda: aws.image(name, digest).get("lastRecordedPullTime"), seconds=15 * 60, every=30)
    expect(saw, "no lastRecordedPullTime for fifteen minutes")


@assumed(
    "excluded-is-no-pull",
    "guide:pull-time-update-exclusions",
    "doctor.py RegisterPullTimeUpdateExclusion; sandbox/ecr_registry.py quiet",
    makes="repository role exclusion",
    minutes=15,
    registry_wide=True,
)
def excluded_is_no_pull(aws: Account) -> None:
    """A pull with a session of a role among the pull time exclusions does not move the pull time."""
    name, role = aws.repository(), aws.role("ecr:BatchGetImage")
    digest = aws.push(name, "v1")
    aws.exclude(role)
    listed = aws.ecr.list_pull_time_update_exclusions()["pullTimeUpdateExclusions"]
    expect(listed == [role], listed)
    session, ids = aws.assume(role), [{"imageDigest": digest}]
    pulled = aws.until(
        lambda: aws.answers("AccessDeniedException", lambda: session("ecr").batch_get_image(**on(name), imageIds=ids)),
        seconds=60,
    )
    if pulled is None:
        raise NotRun("a role whose policy counts within a minute")
    aws.wait(14 * 60)
    saw = aws.image(name, digest).get("lastRecordedPullTime")
    expect(saw is None, f"lastRecordedPullTime {saw}")
