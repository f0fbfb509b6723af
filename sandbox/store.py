"""The content of the registries: repositories, images, layers, uploads; and the rules that both planes share.

The control plane (``ecr``) and the data plane (``registry``) write through this module, so DescribeImages shows pushed
images, and an immutable tag is immutable on both planes. This module checks no permissions.
"""

from __future__ import annotations

import bisect
import fnmatch
import hashlib
import json
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from sandbox.aws import AWSError, partition_of
from sandbox.content import Content
from sandbox.documents import Stored

MAX_REPOSITORIES = 100_000
# https://docs.aws.amazon.com/AmazonECR/latest/userguide/service-quotas.html, "Maximum layer size" and "Minimum layer
# part size"
MAX_LAYER = 52_000 * 1024 * 1024
MIN_PART = 5 * 1024 * 1024
ABANDONED_SECONDS = 3600  # how long ECR keeps an upload that gets no more bytes is not documented
RESTORE_SECONDS = 20 * 60  # "up to 20 minutes" (User Guide, "Restoring an image"); here always the whole time
# How long ECR keeps the results of a preview before it says EXPIRED is not documented.
PREVIEW_KEPT_SECONDS = 24 * 3600
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
INDEXES = {"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass(slots=True)
class Image:
    """A pushed manifest. ``archived`` and ``activated``: when it was last archived, when its last restore ends."""

    digest: str
    manifest: bytes
    media_type: str
    pushed: float
    pulled: float | None = None
    content: dict[str, Any] = field(default_factory=dict)
    storage: Literal["STANDARD", "ARCHIVE"] = "STANDARD"
    archived: float | None = None
    activated: float | None = None

    def status(self, now: float) -> Literal["ACTIVE", "ARCHIVED", "ACTIVATING"]:
        if self.storage == "ARCHIVE":
            return "ARCHIVED"
        return "ACTIVATING" if self.activated is not None and self.activated > now else "ACTIVE"

    def layers(self) -> list[dict[str, Any]]:
        """The descriptors of config and layers, without child manifests."""
        config = self.content.get("config")
        return ([config] if isinstance(config, dict) else []) + list(self.content.get("layers", []))

    @property
    def artifact_type(self) -> str | None:
        """The artifact's media type: its own, or that of its config."""
        config = self.content.get("config")
        kind = self.content.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else None)
        return kind if isinstance(kind, str) else None

    @property
    def subject(self) -> str | None:
        """The digest of the image that this referrer is about."""
        subject = self.content.get("subject")
        return subject.get("digest") if isinstance(subject, dict) else None

    def children(self) -> list[str]:
        """The digests of the child manifests of an index."""
        return [str(each.get("digest")) for each in self.content.get("manifests", [])]


@dataclass(slots=True)
class Upload:
    """A layer that arrives in parts. ``first``: the size of its first part; ``touched``: when the last part came."""

    repository: Repository
    touched: float
    content: Content = field(default_factory=Content)
    first: int = 0
    _last: int = 0
    _has_small_part: bool = False

    def add(self, part: Content, now: float) -> None:
        """Appends a part. Raises LimitExceededException if the layer becomes too large."""
        if self.content.size + part.size > MAX_LAYER:
            raise AWSError("LimitExceededException", f"A layer ends at {MAX_LAYER} bytes")
        self.touched = now
        if not part.size:
            return
        self._has_small_part = self._has_small_part or 0 < self._last < MIN_PART
        self._last = part.size
        if self.content.size:
            for piece in part.pieces():
                self.content.append(piece)
        else:
            self.content, self.first = part, part.size

    def check_next(self, start: int) -> None:
        """Raises InvalidLayerPartException if the next part does not begin at this byte."""
        if start != self.content.size:
            # The words are in https://github.com/apple/containerization/issues/790.
            raise AWSError(
                "InvalidLayerPartException", f"First byte of the layer part is {start} instead of {self.content.size}"
            )

    def complete(self, digest: str, real: str) -> None:
        """Puts the layer into the repository. ``real``: the digest of the content. Raises ECR's exceptions."""
        if self._has_small_part:
            # The words are in https://github.com/dotnet/sdk-container-builds/issues/424.
            raise AWSError("LayerPartTooSmallException", "All layer parts except the last part should be at least 5MB")
        if digest != real:
            # The words are in https://github.com/bazelbuild/rules_docker/issues/298.
            raise AWSError(
                "InvalidLayerException", "None of the provided layer digests match the calculated layer digest"
            )
        self.repository.layers[digest] = self.content


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A preview of a lifecycle policy, with the results that it shows from ``ready`` on."""

    text: str
    ready: float
    failed: bool
    results: list[dict[str, Any]]

    def status(self, now: float) -> Literal["IN_PROGRESS", "COMPLETE", "EXPIRED", "FAILED"]:
        if now < self.ready:
            return "IN_PROGRESS"
        if self.failed:
            return "FAILED"
        return "COMPLETE" if now < self.ready + PREVIEW_KEPT_SECONDS else "EXPIRED"


@dataclass(slots=True, kw_only=True)
class Repository:
    """One repository with its content and policies."""

    account: str
    region: str
    name: str
    created: float
    mutability: str = "MUTABLE"
    exclusions: list[str] = field(default_factory=list)
    scan_on_push: bool = False
    encryption: dict[str, str] = field(default_factory=lambda: {"encryptionType": "AES256"})
    tags: dict[str, str] = field(default_factory=dict)
    policy: Stored | None = None
    lifecycle: str | None = None
    lifecycle_at: float = 0.0
    preview: Preview | None = None
    images: dict[str, Image] = field(default_factory=dict)
    image_tags: dict[str, str] = field(default_factory=dict)
    layers: dict[str, Content] = field(default_factory=dict)

    @property
    def arn(self) -> str:
        return arn_of(self.account, self.region, self.name)

    @property
    def uri(self) -> str:
        return f"{self.account}.dkr.ecr.{self.region}.{partition_of(self.region).suffix}/{self.name}"

    @property
    def named(self) -> dict[str, str]:
        """How ECR's answers name the repository."""
        return {"registryId": self.account, "repositoryName": self.name}

    @property
    def where(self) -> str:
        """How ECR's messages name the repository."""
        return f"for the repository with name '{self.name}' in the registry with id '{self.account}'"

    def tags_of(self, digest: str) -> list[str]:
        return [tag for tag, each in self.image_tags.items() if each == digest]

    def size_of(self, image: Image) -> int:
        """The size in bytes as ECR counts it: config and layers; for an index, the size of its largest image."""
        if image.children():
            known = (self.images[each] for each in image.children() if each in self.images)
            return max((self.size_of(each) for each in known), default=0)
        return sum(int(layer.get("size", 0)) for layer in image.layers())

    def is_immutable(self, tag: str) -> bool:
        excluded = any(fnmatch.fnmatchcase(tag, each) for each in self.exclusions)
        match self.mutability:
            case "IMMUTABLE":
                return True
            case "IMMUTABLE_WITH_EXCLUSION":
                return not excluded
            case "MUTABLE_WITH_EXCLUSION":
                return excluded
            case _:
                return False

    def find(self, *, digest: str | None = None, tag: str | None = None) -> Image | None:
        """The image with this digest or tag; None if it does not exist or the tag has another digest."""
        found = self.image_tags.get(tag) if tag is not None else digest
        if found is None or (digest is not None and digest != found):
            return None
        return self.images.get(found)

    def referrers(self, digest: str) -> list[Image]:
        """The images whose subject is this digest, whether or not the subject is there."""
        return [each for each in self.images.values() if each.subject == digest]

    def tag_exists(self, tag: str) -> AWSError:
        return AWSError(
            "ImageTagAlreadyExistsException",
            f"The image tag '{tag}' already exists in the '{self.name}' repository and cannot be overwritten "
            "because the tag is immutable.",
        )

    def pullable(self, image: Image | None, now: float) -> bool:
        """Whether a pull gets the image. At AWS an archived image answers 404 until its restore has ended."""
        return image is not None and image.status(now) == "ACTIVE"

    def availability(self, layer: str, now: float) -> Literal["AVAILABLE", "UNAVAILABLE", "ARCHIVED"]:
        """A layer is archived if images have it and none of them is active."""
        if layer not in self.layers:
            return "UNAVAILABLE"
        if all(image.archived is None for image in self.images.values()):
            return "AVAILABLE"
        users = [each for each in self.images.values() if any(part.get("digest") == layer for part in each.layers())]
        archived = users and all(each.status(now) != "ACTIVE" for each in users)
        return "ARCHIVED" if archived else "AVAILABLE"

    def transition(self, image: Image, storage: str, now: float) -> None:
        """Archives or restores an image. Raises ImageStorageClassUpdateNotSupportedException.

        Refused is the archival of a child of an index before the index (User Guide, "Lifecycle policy evaluation
        rules"), and, as people saw at AWS, a transition to the class that the image has, or during a restore.
        """
        indexes = (each for each in self.images.values() if image.digest in each.children())
        if image.storage == storage or image.status(now) == "ACTIVATING":
            raise _unsupported(image, f"is {image.status(now)}")
        if storage == "ARCHIVE":
            if any(each.storage == "STANDARD" for each in indexes):
                raise _unsupported(image, "is referenced by a manifest list that is not archived")
            image.storage, image.archived = "ARCHIVE", now
        else:
            image.storage, image.activated = "STANDARD", now + RESTORE_SECONDS

    def delete(self, image: Image, tag: str | None = None) -> list[str]:
        """Deletes a tag of an image, or the image; with its last tag, the image goes. Returns the deleted tags.

        Raises AWSError with ImageReferencedByManifestList, a failure code of BatchDeleteImage.
        """
        if tag is not None and self.tags_of(image.digest) != [tag]:
            del self.image_tags[tag]
            return [tag]
        if any(image.digest in other.children() for other in self.images.values()):
            raise AWSError("ImageReferencedByManifestList", "Requested image referenced by manifest list")
        return self.remove(image)

    def remove(self, image: Image) -> list[str]:
        """Deletes an image without any check. Returns its tags."""
        tags = self.tags_of(image.digest)
        for tag in tags:
            del self.image_tags[tag]
        del self.images[image.digest]
        return tags

    def put_image(
        self, manifest: bytes, media_type: str | None, *, tag: str | None, digest: str | None, now: float
    ) -> Image:
        """Stores a manifest. Raises ECR's exceptions: ImageAlreadyExistsException if nothing would change."""
        try:
            content = json.loads(manifest)
        except (ValueError, RecursionError):
            content = None
        kind = media_type or (content.get("mediaType") if isinstance(content, dict) else None)
        if not isinstance(content, dict) or not kind or content.get("mediaType", kind) != kind:
            raise _bad_manifest()  # not JSON, or its media type is unknown or differs
        real = digest_of(manifest)
        if digest is not None and digest != real:
            raise AWSError("ImageDigestDoesNotMatchException", f"The digest {digest} is not the manifest's: {real}")
        if tag is not None and not TAG.fullmatch(tag):
            raise AWSError(
                "InvalidParameterException",
                f"Invalid parameter at 'imageTag' failed to satisfy constraint: "
                f"'must satisfy regular expression '{TAG.pattern}''",
            )
        image = Image(real, manifest, kind, pushed=now, content=content)
        self._check_references(image)
        known, current = self.images.get(real), self.image_tags.get(tag) if tag is not None else None
        if tag is not None and current is not None and current != real and self.is_immutable(tag):
            raise self.tag_exists(tag)
        if known is not None and known.status(now) != "ACTIVE":  # a push restores an archived image at once
            known.storage, known.activated = "STANDARD", now
        elif known is not None and (tag is None or current == real):
            which = f"digest '{real}'" if tag is None else f"digest '{real}' and tag '{tag}'"
            raise AWSError(
                "ImageAlreadyExistsException",
                f"Image with {which} already exists in the repository with name '{self.name}' in registry with id "
                f"'{self.account}'",
            )
        image = self.images.setdefault(real, image)
        if tag is not None:
            self.image_tags[tag] = real
        return image

    def _check_references(self, image: Image) -> None:
        where = f"into repository with name '{self.name}' in the registry with id '{self.account}'"
        lists = [image.content.get(name, []) for name in ("layers", "manifests")]
        entries = [entry for each in lists if isinstance(each, list) for entry in each]
        if not all(isinstance(each, list) for each in lists) or not all(_is_descriptor(each) for each in entries):
            raise _bad_manifest()
        if not all(_is_descriptor(image.content[each]) for each in ("config", "subject") if each in image.content):
            raise _bad_manifest()
        if (image.media_type in INDEXES) != ("manifests" in image.content):
            raise _bad_manifest()
        missing = [str(each.get("digest")) for each in image.layers() if each.get("digest") not in self.layers]
        if missing:
            raise AWSError(
                "LayersNotFoundException",
                f"Layers with digests '[{', '.join(missing)}]' required for pushing image {where} do not exist",
            )
        absent = [each for each in image.children() if each not in self.images]
        if absent:
            raise AWSError(
                "ReferencedImagesNotFoundException",
                f"Images with digests '[{', '.join(absent)}]' required for pushing image {where} do not exist",
            )


def _is_descriptor(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("digest"), str) and isinstance(value.get("size"), int)


def _unsupported(image: Image, why: str) -> AWSError:
    return AWSError("ImageStorageClassUpdateNotSupportedException", f"The image '{image.digest}' {why}")


def _bad_manifest() -> AWSError:
    """ECR says so to each manifest that it does not take (https://github.com/chainguard-dev/apko/issues/450)."""
    return AWSError(
        "InvalidParameterException",
        "Invalid parameter at 'ImageManifest' failed to satisfy constraint: 'Invalid JSON syntax'",
    )


def arn_of(account: str, region: str, name: str) -> str:
    return f"arn:{partition_of(region).name}:ecr:{region}:{account}:repository/{name}"


def not_found(name: str, account: str) -> AWSError:
    """ECR's RepositoryNotFoundException."""
    return AWSError(
        "RepositoryNotFoundException",
        f"The repository with name '{name}' does not exist in the registry with id '{account}'",
    )


@dataclass(slots=True)
class Registry:
    """The private registry of an account in a region. Names are sorted, so that pages stay consistent after changes."""

    account: str
    region: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    policy: Stored | None = None
    settings: dict[str, str] = field(default_factory=dict)
    quiet: dict[str, float] = field(default_factory=dict)  # the ARNs whose pulls move no pull time, and since when

    @property
    def arn(self) -> str:
        return f"arn:{partition_of(self.region).name}:ecr:{self.region}:{self.account}:registry"

    def add(self, repository: Repository) -> None:
        if repository.name in self.repositories:
            raise AWSError(
                "RepositoryAlreadyExistsException",
                f"The repository with name '{repository.name}' already exists in the registry with id '{self.account}'",
            )
        if len(self.names) >= MAX_REPOSITORIES:
            raise AWSError(
                "LimitExceededException",
                f"The maximum number of repositories ({MAX_REPOSITORIES}) is reached in registry '{self.account}'",
            )
        self.repositories[repository.name] = repository
        bisect.insort(self.names, repository.name)

    def remove(self, repository: Repository) -> None:
        del self.repositories[repository.name]
        del self.names[bisect.bisect_left(self.names, repository.name)]

    def after(self, name: str) -> Iterator[Repository]:
        """The repositories whose names come after a name, in order."""
        for index in range(bisect.bisect_right(self.names, name), len(self.names)):
            yield self.repositories[self.names[index]]


class Store:
    """All registries, the running uploads, and the running restores with their ends."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._registries: dict[tuple[str, str], Registry] = {}
        self.uploads: dict[str, Upload] = {}
        self.restores: list[tuple[Repository, Image, float]] = []

    def registry(self, account: str, region: str) -> Registry:
        """The registry of an account in a region, which exists from the first call on."""
        key = (account, region)
        found = self._registries.get(key)
        if found is None:
            found = self._registries[key] = Registry(account, region)
        return found

    def repositories(self) -> list[Repository]:
        """The repositories of all registries."""
        return [each for registry in self._registries.values() for each in registry.repositories.values()]

    def restored(self) -> list[tuple[Repository, Image]]:
        """The images whose restore has ended since the last call of this method."""
        now = self.now()
        due = [each for each in self.restores if each[2] <= now]
        self.restores = [each for each in self.restores if each[2] > now]
        # Without images that were deleted, archived again, or pushed in the meantime.
        return [(where, image) for where, image, end in due if image.storage == "STANDARD" and image.activated == end]

    def start_upload(self, repository: Repository) -> str:
        """Starts an upload and returns its id."""
        upload_id = str(uuid.uuid4())
        self.uploads[upload_id] = Upload(repository, self.now())
        return upload_id

    def forget_abandoned_uploads(self) -> None:
        end = self.now() - ABANDONED_SECONDS
        for upload_id in [each for each, upload in self.uploads.items() if upload.touched < end]:
            del self.uploads[upload_id]
