"""The operations of ECR's control plane on images and layers.

Reads and writes the same store as the data plane. It does not scan, convert or replicate images. It ignores
acceptedMediaTypes: a manifest is returned as it was pushed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

from sandbox import image_events
from sandbox.aws import AWSError, Call, invalid
from sandbox.content import Content
from sandbox.ecr_registry import record_pull
from sandbox.ecr_tokens import Tokens
from sandbox.layer_urls import LayerUrls
from sandbox.store import DIGEST, Image, Repository, Store, Upload


class Images:
    """``repository`` finds the repository of a call and checks the caller's permission."""

    def __init__(self, store: Store, tokens: Tokens, repository: Callable[[Call], Repository]) -> None:
        self._store, self._tokens, self._repository = store, tokens, repository
        self.urls = LayerUrls(store, tokens)

    # -- images --

    def do_describe_images(self, call: Call) -> dict[str, Any]:
        repository, wanted = self._repository(call), call.params.get("imageIds")
        if wanted is not None:
            if call.params.get("maxResults") is not None or call.params.get("nextToken") is not None:
                raise invalid("maxResults", "maxResults and nextToken cannot be used together with imageIds")
            found: list[Image] = []
            for each in wanted:
                image = _find(repository, each)
                # ECR shows an archived image by its id also without a filter: people wait so for the end of a restore.
                if image is None or ("filter" in call.params and not self._chosen(call, repository, image)):
                    raise _image_not_found(repository, each)
                if image not in found:
                    found.append(image)
            return {"imageDetails": [self._detail(repository, image) for image in found]}
        images = [each for each in repository.images.values() if self._chosen(call, repository, each)]
        page, token = self._tokens.page(call, images, lambda image: image.digest)
        return {"imageDetails": [self._detail(repository, image) for image in page], **token}

    def _chosen(self, call: Call, repository: Repository, image: Image) -> bool:
        """Whether the filter of the call selects an image; without ``imageStatus`` it selects active images only."""
        chosen = call.params.get("filter") or {}
        tagged, status = chosen.get("tagStatus", "ANY"), chosen.get("imageStatus", "ACTIVE")
        has_tag = bool(repository.tags_of(image.digest))
        return tagged in ("ANY", "TAGGED" if has_tag else "UNTAGGED") and status in (
            "ANY",
            image.status(self._store.now()),
        )

    def _detail(self, repository: Repository, image: Image) -> dict[str, Any]:
        now = self._store.now()
        detail: dict[str, Any] = {
            **repository.named,
            "imageDigest": image.digest,
            "imageSizeInBytes": repository.size_of(image),
            "imagePushedAt": image.pushed,
            "imageManifestMediaType": image.media_type,
            "imageStatus": image.status(now),
        }
        active_since = image.activated if image.activated is not None and image.activated <= now else None
        more = {
            "imageTags": repository.tags_of(image.digest) or None,
            "artifactMediaType": image.artifact_type,
            "lastRecordedPullTime": image.pulled,
            "lastArchivedAt": image.archived,
            "lastActivatedAt": active_since,
            "subjectManifestDigest": image.subject,
        }
        return detail | {name: value for name, value in more.items() if value is not None}

    def do_list_images(self, call: Call) -> dict[str, Any]:
        repository = self._repository(call)
        ids: list[dict[str, str]] = []
        for image in repository.images.values():
            if self._chosen(call, repository, image):
                tags = repository.tags_of(image.digest)
                ids += [{"imageDigest": image.digest, "imageTag": tag} for tag in tags] or [
                    {"imageDigest": image.digest}
                ]
        page, token = self._tokens.page(call, ids, lambda each: each["imageDigest"] + each.get("imageTag", ""))
        return {"imageIds": page, **token}

    def do_batch_get_image(self, call: Call) -> dict[str, Any]:
        repository = self._repository(call)
        registry = self._store.registry(repository.account, repository.region)
        images: list[dict[str, Any]] = []
        failures: list[dict[str, Any]] = []
        for each in call.params["imageIds"]:
            failure = _failure(each)
            image = None if failure else _find(repository, each)
            if image is None:
                failures.append(failure or _image_failure(each, "ImageNotFound", "Requested image not found"))
                continue
            if not repository.pullable(image, self._store.now()):
                # That an archived image has this code is not documented: no other code of the model fits.
                failures.append(_image_failure(each, "ImageInaccessible", "Requested image is archived"))
                continue
            record_pull(call, registry, image, self._store.now())
            image_id = {"imageDigest": image.digest, **({"imageTag": each["imageTag"]} if "imageTag" in each else {})}
            images.append(_shown(repository, image, image_id))
        return {"images": images, "failures": failures}

    def do_batch_delete_image(self, call: Call) -> dict[str, Any]:
        repository = self._repository(call)
        deleted: list[dict[str, str]] = []
        failures: list[dict[str, Any]] = []
        for each in call.params["imageIds"]:
            failure = _failure(each)
            image = None if failure else _find(repository, each)
            if image is None:
                failures.append(failure or _image_failure(each, "ImageNotFound", "Requested image not found"))
                continue
            try:
                goes = repository.delete(image, each.get("imageTag"))
            except AWSError as error:
                failures.append(_image_failure(each, error.code, error.message))
                continue
            call.events += image_events.deleted(repository, image, goes)
            deleted += [{"imageDigest": image.digest, "imageTag": tag} for tag in goes] or [
                {"imageDigest": image.digest}
            ]
        return {"imageIds": deleted, "failures": failures}

    def do_put_image(self, call: Call) -> dict[str, Any]:
        repository, params, now = self._repository(call), call.params, self._store.now()
        image = repository.put_image(
            str(params["imageManifest"]).encode(),
            params.get("imageManifestMediaType"),
            tag=params.get("imageTag"),
            digest=params.get("imageDigest"),
            now=now,
        )
        call.events += image_events.pushed(repository, image, params.get("imageTag"), now)
        image_id = {"imageDigest": image.digest, **({"imageTag": params["imageTag"]} if "imageTag" in params else {})}
        return {"image": _shown(repository, image, image_id)}

    def do_list_image_referrers(self, call: Call) -> dict[str, Any]:
        repository, chosen = self._repository(call), call.params.get("filter") or {}
        types, status = chosen.get("artifactTypes") or [], chosen.get("artifactStatus", "ACTIVE")
        now = self._store.now()
        found = [
            image
            for image in repository.referrers(call.params["subjectId"]["imageDigest"])
            if (not types or image.artifact_type in types) and status in ("ANY", image.status(now))
        ]
        page, token = self._tokens.page(call, found, lambda image: image.digest, size=20)
        referrers = [
            {
                "digest": image.digest,
                "mediaType": image.media_type,
                "size": repository.size_of(image),
                "artifactStatus": image.status(now),
                **({"artifactType": image.artifact_type} if image.artifact_type else {}),
                **({"annotations": image.content["annotations"]} if image.content.get("annotations") else {}),
            }
            for image in page
        ]
        return {"referrers": referrers, **token}

    def do_update_image_storage_class(self, call: Call) -> dict[str, Any]:
        repository, wanted = self._repository(call), call.params["imageId"]
        if not wanted.get("imageDigest") and not wanted.get("imageTag"):
            raise invalid("imageId", "must have an imageDigest or an imageTag")
        image, now = _find(repository, wanted), self._store.now()
        if image is None:
            raise _image_not_found(repository, wanted)
        repository.transition(image, str(call.params["targetStorageClass"]), now)
        if image.storage == "ARCHIVE":
            call.events.append(image_events.transitioned(repository, image))
        elif image.activated is not None:
            self._store.restores.append((repository, image, image.activated))
        image_id = {"imageDigest": image.digest, **({"imageTag": wanted["imageTag"]} if "imageTag" in wanted else {})}
        return {**repository.named, "imageId": image_id, "imageStatus": image.status(now)}

    # -- layers --

    def do_batch_check_layer_availability(self, call: Call) -> dict[str, Any]:
        repository = self._repository(call)
        layers: list[dict[str, Any]] = []
        failures: list[dict[str, Any]] = []
        for digest in call.params["layerDigests"]:
            content, availability = repository.layers.get(digest), repository.availability(digest, self._store.now())
            if not DIGEST.fullmatch(digest):
                reason = "Invalid layer digest"
                failures.append({"layerDigest": digest, "failureCode": "InvalidLayerDigest", "failureReason": reason})
            elif content is None:
                layers.append({"layerDigest": digest, "layerAvailability": availability})
            else:
                layers.append({"layerDigest": digest, "layerAvailability": availability, "layerSize": content.size})
        return {"layers": layers, "failures": failures}

    def do_get_download_url_for_layer(self, call: Call) -> dict[str, Any]:
        repository, digest = self._repository(call), str(call.params["layerDigest"])
        if digest not in repository.layers:
            raise AWSError(
                "LayersNotFoundException",
                f"The layer with digest '{digest}' does not exist in the repository with name '{repository.name}' in "
                f"the registry with id '{repository.account}'",
            )
        if repository.availability(digest, self._store.now()) == "ARCHIVED":
            raise AWSError("LayerInaccessibleException", f"The layer with digest '{digest}' is archived")
        url = f"{call.request.origin}{self.urls.path(repository, digest)}"
        return {"downloadUrl": url, "layerDigest": digest}

    def do_initiate_layer_upload(self, call: Call) -> dict[str, Any]:
        repository = self._repository(call)
        return {"uploadId": self._store.start_upload(repository), "partSize": 20 * 1024 * 1024}

    def _upload(self, call: Call, repository: Repository) -> Upload:
        upload = self._store.uploads.get(str(call.params["uploadId"]))
        if upload is None or upload.repository is not repository:
            raise AWSError(
                "UploadNotFoundException", f"The upload with id '{call.params['uploadId']}' could not be found"
            )
        return upload

    def do_upload_layer_part(self, call: Call) -> dict[str, Any]:
        repository, params = self._repository(call), call.params
        upload = self._upload(call, repository)
        try:
            part = Content(base64.b64decode(str(params["layerPartBlob"]), validate=True))
        except binascii.Error:
            raise AWSError("SerializationException", "layerPartBlob is not base64") from None
        upload.check_next(params["partFirstByte"])
        if params["partLastByte"] != upload.content.size + part.size - 1:
            raise AWSError("InvalidLayerPartException", "The part must have as many bytes as it says")
        upload.add(part, self._store.now())
        return {**repository.named, "uploadId": params["uploadId"], "lastByteReceived": upload.content.size - 1}

    def do_complete_layer_upload(self, call: Call) -> dict[str, Any]:
        repository, digests = self._repository(call), call.params["layerDigests"]
        upload = self._upload(call, repository)
        if not upload.content.size:
            raise AWSError("EmptyUploadException", "The upload has no layer parts")
        if digests[0] in repository.layers:
            raise AWSError("LayerAlreadyExistsException", f"The layer with digest '{digests[0]}' already exists")
        upload.complete(digests[0], upload.content.digest())
        del self._store.uploads[str(call.params["uploadId"])]
        return {**repository.named, "uploadId": call.params["uploadId"], "layerDigest": digests[0]}


def _find(repository: Repository, image_id: dict[str, str]) -> Image | None:
    return repository.find(digest=image_id.get("imageDigest"), tag=image_id.get("imageTag"))


def _image_not_found(repository: Repository, image_id: dict[str, str]) -> AWSError:
    return AWSError(
        "ImageNotFoundException",
        f"The image with imageId {_spelled(image_id)} does not exist within the repository with name "
        f"'{repository.name}' in the registry with id '{repository.account}'",
    )


def _spelled(image_id: dict[str, str]) -> str:
    return f"{{imageDigest:'{image_id.get('imageDigest', 'null')}', imageTag:'{image_id.get('imageTag', 'null')}'}}"


def _shown(repository: Repository, image: Image, image_id: dict[str, str]) -> dict[str, Any]:
    return {
        **repository.named,
        "imageId": image_id,
        "imageManifest": image.manifest.decode(),
        "imageManifestMediaType": image.media_type,
    }


def _failure(image_id: dict[str, str]) -> dict[str, Any] | None:
    if "imageDigest" not in image_id and "imageTag" not in image_id:
        return _image_failure(
            image_id, "MissingDigestAndTag", "Invalid request parameters: both tag and digest missing"
        )
    digest = image_id.get("imageDigest")
    if digest is not None and not DIGEST.fullmatch(digest):
        return _image_failure(
            image_id, "InvalidImageDigest", "Invalid request parameters: image digest should satisfy the regex"
        )
    return None


def _image_failure(image_id: dict[str, str], code: str, reason: str) -> dict[str, Any]:
    return {"imageId": image_id, "failureCode": code, "failureReason": reason}
