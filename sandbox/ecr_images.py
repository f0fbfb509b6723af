"""The operations of ECR's control plane on images and layers.

Reads and writes the same store as the data plane. It does not scan, convert or replicate images. It ignores
acceptedMediaTypes: a manifest is returned as it was pushed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from sandbox.aws import AWSError, Call, invalid
from sandbox.ecr_tokens import Tokens
from sandbox.store import DIGEST, Image, Repository, Store

T = TypeVar("T")
URL_SECONDS = 3600


class Images:
    """``repository`` finds the repository of a call and checks the caller's permission."""

    def __init__(self, store: Store, tokens: Tokens, repository: Callable[[Call], Repository]) -> None:
        self._store, self._tokens, self._repository = store, tokens, repository

    # -- images --

    def do_describe_images(self, call: Call) -> dict[str, Any]:
        repository, wanted = self._repository(call), call.params.get("imageIds")
        if wanted is not None:
            if call.params.get("maxResults") is not None or call.params.get("nextToken") is not None:
                raise invalid("maxResults", "maxResults and nextToken cannot be used together with imageIds")
            found: list[Image] = []
            for each in wanted:
                image = _find(repository, each)
                if image is None:
                    raise AWSError(
                        "ImageNotFoundException",
                        f"The image with imageId {_spelled(each)} does not exist within the repository with name "
                        f"'{repository.name}' in the registry with id '{repository.account}'",
                    )
                if image not in found:
                    found.append(image)
            return {"imageDetails": [_detail(repository, image) for image in found]}
        status = (call.params.get("filter") or {}).get("tagStatus", "ANY")
        images = [each for each in repository.images.values() if _has_status(repository, each, status)]
        page, token = self._page(call, images, lambda image: image.digest)
        return {"imageDetails": [_detail(repository, image) for image in page], **token}

    def do_list_images(self, call: Call) -> dict[str, Any]:
        repository = self._repository(call)
        status = (call.params.get("filter") or {}).get("tagStatus", "ANY")
        ids: list[dict[str, str]] = []
        for image in repository.images.values():
            if _has_status(repository, image, status):
                tags = repository.tags_of(image.digest)
                ids += [{"imageDigest": image.digest, "imageTag": tag} for tag in tags] or [
                    {"imageDigest": image.digest}
                ]
        page, token = self._page(call, ids, lambda each: each["imageDigest"] + each.get("imageTag", ""))
        return {"imageIds": page, **token}

    def _page(self, call: Call, items: Iterable[T], key: Callable[[T], str]) -> tuple[list[T], dict[str, str]]:
        after = ""
        if call.params.get("nextToken") is not None:
            content = self._tokens.verify(str(call.params["nextToken"])) or {}
            if content.get("of") != call.operation:
                raise AWSError("InvalidParameterException", "Invalid parameter at 'nextToken'")
            after = str(content["after"])
        size = call.params.get("maxResults") or 100
        rest = sorted((item for item in items if key(item) > after), key=key)
        if len(rest) <= size:
            return rest, {}
        return rest[:size], {"nextToken": self._tokens.sign({"of": call.operation, "after": key(rest[size - 1])})}

    def do_batch_get_image(self, call: Call) -> dict[str, Any]:
        repository = self._repository(call)
        images: list[dict[str, Any]] = []
        failures: list[dict[str, Any]] = []
        for each in call.params["imageIds"]:
            failure = _failure(each)
            image = None if failure else _find(repository, each)
            if image is None:
                failures.append(failure or _image_failure(each, "ImageNotFound", "Requested image not found"))
                continue
            image.pulled = self._store.now()
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
            tags = repository.tags_of(image.digest)
            goes = [each["imageTag"]] if "imageTag" in each else tags
            last = len(goes) == len(tags)
            if last and any(image.digest in other.children() for other in repository.images.values()):
                failures.append(
                    _image_failure(each, "ImageReferencedByManifestList", "Requested image referenced by manifest list")
                )
                continue
            for tag in goes:
                del repository.image_tags[tag]
            if last:  # deleting its last tag deletes the image
                del repository.images[image.digest]
            deleted += [{"imageDigest": image.digest, "imageTag": tag} for tag in goes] or [
                {"imageDigest": image.digest}
            ]
        return {"imageIds": deleted, "failures": failures}

    def do_put_image(self, call: Call) -> dict[str, Any]:
        repository, params = self._repository(call), call.params
        image = repository.put_image(
            str(params["imageManifest"]).encode(),
            params.get("imageManifestMediaType"),
            tag=params.get("imageTag"),
            digest=params.get("imageDigest"),
            now=self._store.now(),
        )
        image_id = {"imageDigest": image.digest, **({"imageTag": params["imageTag"]} if "imageTag" in params else {})}
        return {"image": _shown(repository, image, image_id)}

    # -- layers --

    def do_batch_check_layer_availability(self, call: Call) -> dict[str, Any]:
        repository = self._repository(call)
        layers: list[dict[str, Any]] = []
        failures: list[dict[str, Any]] = []
        for digest in call.params["layerDigests"]:
            content = repository.layers.get(digest)
            if not DIGEST.fullmatch(digest):
                reason = "Invalid layer digest"
                failures.append({"layerDigest": digest, "failureCode": "InvalidLayerDigest", "failureReason": reason})
            elif content is None:
                layers.append({"layerDigest": digest, "layerAvailability": "UNAVAILABLE"})
            else:
                layers.append({"layerDigest": digest, "layerAvailability": "AVAILABLE", "layerSize": len(content)})
        return {"layers": layers, "failures": failures}

    def do_get_download_url_for_layer(self, call: Call) -> dict[str, Any]:
        repository, digest = self._repository(call), str(call.params["layerDigest"])
        if digest not in repository.layers:
            raise AWSError(
                "LayersNotFoundException",
                f"The layer with digest '{digest}' does not exist in the repository with name '{repository.name}' in "
                f"the registry with id '{repository.account}'",
            )
        ticket = {
            "layer": [repository.account, repository.region, repository.name, digest],
            "expires": self._store.now() + URL_SECONDS,
        }
        url = f"http://{call.request.headers.get('host', '')}/_layers/{self._tokens.sign(ticket)}"
        return {"downloadUrl": url, "layerDigest": digest}

    def download(self, ticket: str) -> bytes | None:
        """The layer of a URL from GetDownloadUrlForLayer; None for an invalid or expired URL."""
        content = self._tokens.verify(ticket) or {}
        if "layer" not in content or content["expires"] <= self._store.now():
            return None
        account, region, name, digest = content["layer"]
        repository = self._store.registry(account, region).repositories.get(name)
        return repository.layers.get(digest) if repository else None

    def do_initiate_layer_upload(self, call: Call) -> dict[str, Any]:
        repository = self._repository(call)
        return {"uploadId": self._store.start_upload(repository), "partSize": 20 * 1024 * 1024}

    def _upload(self, call: Call, repository: Repository) -> bytearray:
        upload = self._store.uploads.get(str(call.params["uploadId"]))
        if upload is None or upload.repository is not repository:
            raise AWSError(
                "UploadNotFoundException", f"The upload with id '{call.params['uploadId']}' could not be found"
            )
        return upload.content

    def do_upload_layer_part(self, call: Call) -> dict[str, Any]:
        repository, params = self._repository(call), call.params
        content = self._upload(call, repository)
        try:
            part = base64.b64decode(str(params["layerPartBlob"]), validate=True)
        except binascii.Error:
            raise AWSError("SerializationException", "layerPartBlob is not base64") from None
        if params["partFirstByte"] != len(content) or params["partLastByte"] != len(content) + len(part) - 1:
            raise AWSError(
                "InvalidLayerPartException",
                f"The part must start at byte {len(content)} and have as many bytes as it says",
            )
        content += part
        return {**_named(repository), "uploadId": params["uploadId"], "lastByteReceived": len(content) - 1}

    def do_complete_layer_upload(self, call: Call) -> dict[str, Any]:
        repository, digests = self._repository(call), call.params["layerDigests"]
        content = self._upload(call, repository)
        if not content:
            raise AWSError("EmptyUploadException", "The upload has no layer parts")
        if digests[0] in repository.layers:
            raise AWSError("LayerAlreadyExistsException", f"The layer with digest '{digests[0]}' already exists")
        repository.put_layer(digests[0], bytes(content))
        del self._store.uploads[str(call.params["uploadId"])]
        return {**_named(repository), "uploadId": call.params["uploadId"], "layerDigest": digests[0]}


def _named(repository: Repository) -> dict[str, Any]:
    return {"registryId": repository.account, "repositoryName": repository.name}


def _find(repository: Repository, image_id: dict[str, str]) -> Image | None:
    return repository.find(digest=image_id.get("imageDigest"), tag=image_id.get("imageTag"))


def _spelled(image_id: dict[str, str]) -> str:
    return f"{{imageDigest:'{image_id.get('imageDigest', 'null')}', imageTag:'{image_id.get('imageTag', 'null')}'}}"


def _has_status(repository: Repository, image: Image, status: str) -> bool:
    return status == "ANY" or (status == "TAGGED") == bool(repository.tags_of(image.digest))


def _detail(repository: Repository, image: Image) -> dict[str, Any]:
    detail: dict[str, Any] = {
        **_named(repository),
        "imageDigest": image.digest,
        "imageSizeInBytes": repository.size_of(image),
        "imagePushedAt": image.pushed,
        "imageManifestMediaType": image.media_type,
        "imageStatus": "ACTIVE",
    }
    tags: Sequence[str] = repository.tags_of(image.digest)
    if tags:
        detail["imageTags"] = tags
    config = image.content.get("config")
    if isinstance(config, dict) and "mediaType" in config:
        detail["artifactMediaType"] = config["mediaType"]
    if image.pulled is not None:
        detail["lastRecordedPullTime"] = image.pulled
    return detail


def _shown(repository: Repository, image: Image, image_id: dict[str, str]) -> dict[str, Any]:
    return {
        **_named(repository),
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
