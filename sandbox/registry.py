"""The registry v2 data plane, for docker, containerd, skopeo and oras. IAM decides about every request.

The registry of a request is the first of these that names a registry:
  1. the path: ``/v2/111111111111.dkr.ecr.us-east-1.amazonaws.com/NAME/...``   (any plain client)
  2. the query: ``?ns=HOST``                                                   (containerd's mirrors send it)
  3. the header ``X-Sandbox-Registry: HOST``
  4. the ``Host`` header, if it is an ECR registry host
  5. the authorization token: the caller's own account, in the region that the token was made in.

A layer is mounted from another repository under the conditions of the User Guide, "Blob mounting in Amazon ECR": the
account setting BLOB_MOUNTING is ENABLED, both repositories are of one registry and have the same encryption, and the
caller has ecr:GetDownloadUrlForLayer on the source. In every other case the client uploads the layer. A log-in that was
made with a session ends with the session: AWS refuses temporary credentials then (IAM User Guide, "Temporary security
credentials in IAM"); that ECR uses the words of its own expired token is not documented. The catalogue is not listed.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, urlencode

from sandbox import image_events
from sandbox.aws import AWSError, Call, Change, partition_of, registry_of
from sandbox.content import Content
from sandbox.ecr import ECR
from sandbox.ecr_registry import record_pull
from sandbox.iam import IAM
from sandbox.server import Request, Response
from sandbox.store import DIGEST, Image, Registry, Repository, Store, digest_of

NAME = r"(?P<name>[a-z0-9][a-z0-9._/-]*?)"
ROUTES: tuple[tuple[re.Pattern[str], dict[str, str]], ...] = (
    (re.compile(r"/v2/?"), {"GET": "Ping", "HEAD": "Ping"}),
    (
        re.compile(rf"/v2/{NAME}/manifests/(?P<reference>[^/]+)"),
        {"GET": "GetManifest", "HEAD": "HeadManifest", "PUT": "PutManifest", "DELETE": "DeleteManifest"},
    ),
    (re.compile(rf"/v2/{NAME}/referrers/(?P<digest>[a-z0-9]+:[^/]+)"), {"GET": "ListReferrers"}),
    (re.compile(rf"/v2/{NAME}/blobs/(?P<digest>[a-z0-9]+:[^/]+)"), {"GET": "GetBlob", "HEAD": "HeadBlob"}),
    (re.compile(rf"/v2/{NAME}/blobs/uploads/?"), {"POST": "StartUpload"}),
    (
        re.compile(rf"/v2/{NAME}/blobs/uploads/(?P<upload>[0-9a-f-]{{36}})"),
        {"PATCH": "UploadChunk", "PUT": "FinishUpload", "GET": "GetUpload"},
    ),
    (re.compile(rf"/v2/{NAME}/tags/list"), {"GET": "ListTags"}),
)
INDEX = "application/vnd.oci.image.index.v1+json"
MAX_TAGS_IN_A_PAGE = 1000
VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
# One of these permissions is enough for the request.
ACTIONS: dict[str, tuple[str, ...]] = {
    "GetManifest": ("ecr:BatchGetImage",),
    "HeadManifest": ("ecr:BatchGetImage",),
    "PutManifest": ("ecr:PutImage",),
    "DeleteManifest": ("ecr:BatchDeleteImage",),
    "ListReferrers": ("ecr:BatchGetImage",),
    "GetBlob": ("ecr:GetDownloadUrlForLayer",),
    "HeadBlob": ("ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer"),
    "StartUpload": ("ecr:InitiateLayerUpload",),
    "UploadChunk": ("ecr:UploadLayerPart",),
    "GetUpload": ("ecr:UploadLayerPart",),
    "FinishUpload": ("ecr:CompleteLayerUpload",),
    "ListTags": ("ecr:ListImages",),
}
# ECR's exceptions → error codes of the registry; every other code is shown unchanged.
WORDS: dict[str, tuple[int, str]] = {
    "RepositoryNotFoundException": (404, "NAME_UNKNOWN"),
    "AccessDeniedException": (403, "DENIED"),
    "ImageNotFoundException": (404, "MANIFEST_UNKNOWN"),
    # https://github.com/oras-project/oras-py/issues/54 has the code and the message; the status is not documented.
    "LayersNotFoundException": (404, "BLOB_UPLOAD_UNKNOWN"),
    "ReferencedImagesNotFoundException": (404, "MANIFEST_BLOB_UNKNOWN"),
    "ImageTagAlreadyExistsException": (400, "TAG_INVALID"),
    "ImageDigestDoesNotMatchException": (400, "DIGEST_INVALID"),
    "InvalidLayerException": (400, "BLOB_UPLOAD_INVALID"),
    "LayerPartTooSmallException": (400, "BLOB_UPLOAD_INVALID"),  # its code and status are not documented
    "InvalidLayerPartException": (416, "BLOB_UPLOAD_INVALID"),
    "InvalidParameterException": (405, "UNSUPPORTED"),
    "ImageReferencedByManifestList": (400, "UNSUPPORTED"),  # what ECR says to such a DELETE is not documented
    "LimitExceededException": (413, "SIZE_INVALID"),
    "ThrottlingException": (429, "TOOMANYREQUESTS"),
}


@dataclass(frozen=True, slots=True)
class Target:
    """The registry of a request, and the parts of its path: tag or digest, upload."""

    registry: tuple[str, str] | None
    prefix: str
    reference: str = ""
    digest: str = ""
    upload: str = ""


class RegistryV2:
    def __init__(self, store: Store, iam: IAM, ecr: ECR) -> None:
        self._store, self._iam, self._ecr = store, iam, ecr

    def route(self, request: Request, request_id: str) -> tuple[Call, Target]:
        """The operation and target of a request; the operation is empty for an unknown path or method."""
        call = Call("v2", "", request, request_id)
        for pattern, verbs in ROUTES:
            match = pattern.fullmatch(request.decoded_path)
            if match is None or request.method not in verbs:
                continue
            call.operation = verbs[request.method]
            parts = match.groupdict()
            name = parts.pop("name", None) or ""
            host, _, rest = name.partition("/")
            registry = registry_of(host) if rest else None
            if registry is not None:
                name = rest
            prefix = f"/v2/{host}/" if registry else "/v2/"
            call.repository = name
            return call, Target(registry or _named_registry(request), prefix, **parts)
        return call, Target(None, "/v2/")

    def authenticate(self, call: Call) -> None:
        """The caller of the Basic credentials. 401 for missing or wrong credentials, 403 for an expired token."""
        scheme, _, encoded = call.request.headers.get("authorization", "").partition(" ")
        user, password = "", ""
        if scheme.lower() == "basic":
            try:
                user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                pass
        token = self._ecr.token(password) if user == "AWS" else None
        caller = self._iam.caller(token.access_key, partition_of(token.region).name) if token else None
        if token is None or caller is None:
            raise AWSError("UNAUTHORIZED", "Not Authorized", 401)
        call.caller, call.region = caller, token.region
        if min(token.expires, caller.credential.expires or token.expires) <= self._store.now():
            raise AWSError("DENIED", "Your authorization token has expired. Reauthenticate and try again.", 403)

    def answer(self, call: Call, target: Target) -> Response | Awaitable[Response]:
        """Runs the operation that `route` found. Raises AWSError, which `refusal` turns into an answer."""
        if call.operation == "Ping":
            return Response(200, b"{}", {"Content-Type": "application/json", **VERSION})
        if not call.operation:
            raise AWSError("UNSUPPORTED", "The operation is unsupported", 405)
        account, region = target.registry or self._of_upload(target) or (call.by.account, call.region)
        call.region = region
        if partition_of(region).name != call.by.partition:
            raise AWSError("DENIED", "Your authorization token is from another partition", 403)
        registry = self._store.registry(account, region)
        self._authorize(call, registry, ACTIONS[call.operation])
        repository = self._ecr.existing(registry, call.repository)
        match call.operation:
            case "GetManifest" | "HeadManifest":
                return self._get_manifest(call, repository, target)
            case "PutManifest":
                return self._put_manifest(call, repository, target)
            case "GetBlob" | "HeadBlob":
                return self._get_blob(call, repository, target.digest)
            case "DeleteManifest":
                return self._delete_manifest(call, repository, target)
            case "ListReferrers":
                return self._list_referrers(call, repository, target.digest)
            case "ListTags":
                return self._list_tags(call, repository)
            case "StartUpload":
                return self._start_upload(call, repository, target)
            case _:
                return self._upload(call, repository, target)

    def _of_upload(self, target: Target) -> tuple[str, str] | None:
        # A client that sent ?ns= follows the Location header without ?ns=.
        upload = self._store.uploads.get(target.upload)
        return (upload.repository.account, upload.repository.region) if upload else None

    def _authorize(self, call: Call, registry: Registry, actions: Sequence[str]) -> None:
        for action in actions[:-1]:
            try:
                return self._ecr.authorize(call, registry, call.repository, action)
            except AWSError:
                continue
        self._ecr.authorize(call, registry, call.repository, actions[-1])

    def _get_manifest(self, call: Call, repository: Repository, target: Target) -> Response:
        reference = target.reference
        by_digest = DIGEST.fullmatch(reference)
        image = repository.find(digest=reference) if by_digest else repository.find(tag=reference)
        # An archived image is a 404 (User Guide, "Archiving an image"); its code and message are not documented.
        if image is None or not repository.pullable(image, self._store.now()):
            raise AWSError("MANIFEST_UNKNOWN", "Requested image not found", 404)
        record_pull(call, self._store.registry(repository.account, repository.region), image, self._store.now())
        return Response(200, image.manifest, {"Content-Type": image.media_type, "Docker-Content-Digest": image.digest})

    def _put_manifest(self, call: Call, repository: Repository, target: Target) -> Response:
        by_digest = bool(re.match(r"[a-z0-9]+:", target.reference))
        tag, digest = (None, target.reference) if by_digest else (target.reference, None)
        kind, now = call.request.headers.get("content-type", "").partition(";")[0].strip(), self._store.now()
        try:
            image = repository.put_image(call.request.body, kind or None, tag=tag, digest=digest, now=now)
            call.events += image_events.pushed(repository, image, tag, now)
            call.change = _put_image(repository, image, tag)
        except AWSError as error:
            if error.code != "ImageAlreadyExistsException":
                raise
            # ECR refuses even the same manifest under an immutable tag (moby/buildkit issue 3776).
            if tag is not None and repository.is_immutable(tag):
                raise repository.tag_exists(tag) from None
            image = repository.images[digest_of(call.request.body)]
        location = f"{target.prefix}{repository.name}/manifests/{image.digest}"
        subject = {"OCI-Subject": image.subject} if image.subject else {}
        return Response(201, b"", {"Location": location, "Docker-Content-Digest": image.digest, **subject})

    def _delete_manifest(self, call: Call, repository: Repository, target: Target) -> Response:
        """By digest, the image with all its tags; by tag, the tag, as BatchDeleteImage does. The 202 is OCI's."""
        by_digest = DIGEST.fullmatch(target.reference)
        image_id = {"imageDigest": target.reference} if by_digest else {"imageTag": target.reference}
        tag = image_id.get("imageTag")
        image = repository.find(digest=image_id.get("imageDigest"), tag=tag)
        if image is None:
            raise AWSError("MANIFEST_UNKNOWN", "Requested image not found", 404)
        goes = repository.delete(image, tag)
        call.events += image_events.deleted(repository, image, goes)
        gone = [{"imageDigest": image.digest, "imageTag": each} for each in goes] or [{"imageDigest": image.digest}]
        sent = {"repositoryName": repository.name, "registryId": repository.account, "imageIds": [image_id]}
        call.change = Change("BatchDeleteImage", sent, {"imageIds": gone, "failures": []}, repository.arn)
        return Response(202, b"")

    def _list_referrers(self, call: Call, repository: Repository, digest: str) -> Response:
        """The index of the OCI's referrers API, with active referrers only."""
        kind, now = _query(call.request, "artifactType"), self._store.now()
        found = [each for each in repository.referrers(digest) if each.status(now) == "ACTIVE"]
        descriptors = [
            {
                "mediaType": each.media_type,
                "digest": each.digest,
                "size": len(each.manifest),
                "artifactType": each.artifact_type,
                **({"annotations": each.content["annotations"]} if each.content.get("annotations") else {}),
            }
            for each in found
            if not kind or each.artifact_type == kind
        ]
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors}
        applied = {"OCI-Filters-Applied": "artifactType"} if kind else {}
        return Response(200, json.dumps(index).encode(), {"Content-Type": INDEX, **applied})

    def _list_tags(self, call: Call, repository: Repository) -> Response:
        """Pages like ListImages: 100 tags or ``n``, at most 1,000, with an opaque ``last`` in the Link of the answer.

        The limit's answer is in https://github.com/google/go-containerregistry/issues/681, the Link in
        https://github.com/deitch/docker_registry2/issues/34.
        """
        size, last = _query(call.request, "n"), _query(call.request, "last")
        if size and not (size.isdecimal() and 1 <= int(size) <= MAX_TAGS_IN_A_PAGE):
            why = f"Member must have value less than or equal to {MAX_TAGS_IN_A_PAGE}"
            raise AWSError(
                "UNSUPPORTED", f"Invalid parameter at 'maxResults' failed to satisfy constraint: '{why}'", 405
            )
        call.params = {"maxResults": int(size) if size else None, "nextToken": last or None}
        try:
            page, token = self._ecr.tokens.page(call, repository.image_tags, lambda tag: tag)
        except AWSError:
            why = "Invalid next token provided"
            raise AWSError(
                "UNSUPPORTED", f"Invalid parameter at 'NextToken' failed to satisfy constraint: '{why}'", 405
            ) from None
        headers = {"Content-Type": "application/json"}
        if token:
            more = urlencode({"last": token["nextToken"], **({"n": size} if size else {})})
            headers["Link"] = f'<{call.request.origin}{call.request.path}?{more}>; rel="next"'
        return Response(200, json.dumps({"name": repository.name, "tags": page}).encode(), headers)

    def _get_blob(self, call: Call, repository: Repository, digest: str) -> Response:
        """The layer's size for HEAD, and for GET a redirect to its URL, with the status of ECR."""
        content = repository.layers.get(digest)
        if content is None or repository.availability(digest, self._store.now()) == "ARCHIVED":
            raise AWSError("BLOB_UNKNOWN", "The layer does not exist in the repository", 404)
        headers = {"Docker-Content-Digest": digest}
        if call.request.method == "GET":
            return Response(307, headers={"Location": self._ecr.images.urls.path(repository, digest), **headers})
        headers |= {"Content-Type": "application/octet-stream", "Content-Length": str(content.size)}
        return Response(200, headers=headers)

    def _start_upload(self, call: Call, repository: Repository, target: Target) -> Response | Awaitable[Response]:
        upload_id = self._store.start_upload(repository)
        digest = _query(call.request, "digest")
        if digest:  # the whole layer in one POST
            self._authorize(call, self._store.registry(repository.account, repository.region), ACTIONS["FinishUpload"])
            return self._finish(repository, upload_id, target, digest, call.request.content)
        mount = _query(call.request, "mount")
        if mount and self._mount(call, repository, mount):
            del self._store.uploads[upload_id]
            location = f"{target.prefix}{repository.name}/blobs/{mount}"
            return Response(201, b"", {"Location": location, "Docker-Content-Digest": mount})
        return _accepted(repository, upload_id, target, 202, 0)

    def _mount(self, call: Call, repository: Repository, digest: str) -> bool:
        """Mounts a layer of the repository that the request names. False: the client has to upload the layer.

        ECR mounts only a layer that an image of that repository has (aws/containers-roadmap issue 2860).
        """
        registry = self._store.registry(repository.account, repository.region)
        name = _query(call.request, "from")
        host, _, rest = name.partition("/")
        name = rest if registry_of(host) == (registry.account, registry.region) else name
        source = registry.repositories.get(name)
        if source is None or registry.settings.get("BLOB_MOUNTING") != "ENABLED":
            return False
        try:
            self._ecr.authorize(call, registry, name, "ecr:GetDownloadUrlForLayer")
        except AWSError:
            return False
        is_there = source.availability(digest, self._store.now()) == "AVAILABLE"
        is_used = any(part.get("digest") == digest for image in source.images.values() for part in image.layers())
        if is_there and is_used and source.encryption == repository.encryption:
            repository.layers[digest] = source.layers[digest]
            return True
        return False

    def _upload(self, call: Call, repository: Repository, target: Target) -> Response | Awaitable[Response]:
        upload = self._store.uploads.get(target.upload)
        if upload is None or upload.repository is not repository:
            raise AWSError("BLOB_UPLOAD_UNKNOWN", "The upload is not known", 404)
        if call.operation == "GetUpload":
            return _accepted(repository, target.upload, target, 204, upload.content.size)
        if call.operation == "FinishUpload":
            digest = _query(call.request, "digest")
            return self._finish(repository, target.upload, target, digest, call.request.content)
        start = call.request.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
        if start.isdecimal():
            upload.check_next(int(start))
        upload.add(call.request.content, self._store.now())
        # The status of ECR, and its Range, which stays at the end of the first chunk (aws/containers-roadmap#2831).
        return _accepted(repository, target.upload, target, 201, upload.first)

    def _finish(
        self, repository: Repository, upload_id: str, target: Target, digest: str, rest: Content
    ) -> Response | Awaitable[Response]:
        """Ends the upload, with the layer or with ECR's exception. What ECR keeps after one is not documented."""
        upload = self._store.uploads.pop(upload_id)
        upload.add(rest, self._store.now())
        location = f"{target.prefix}{repository.name}/blobs/{digest}"
        finished = Response(201, headers={"Location": location, "Docker-Content-Digest": digest})
        if not upload.content.is_large:
            upload.complete(digest, upload.content.digest())
            return finished

        async def finish() -> Response:
            upload.complete(digest, await asyncio.to_thread(upload.content.digest))
            return finished

        return finish()


def refusal(error: AWSError, call: Call) -> Response:
    """The registry's error answer; a 401 also has the challenge for the log-in."""
    status, code = WORDS.get(error.code, (error.status, error.code))
    if code.endswith("Exception"):
        code = "DENIED" if status < 500 else "UNKNOWN"
    headers = {"Content-Type": "application/json; charset=utf-8", **VERSION}
    if status == 401:
        headers["WWW-Authenticate"] = f'Basic realm="{call.request.origin}/",service="ecr.amazonaws.com"'
    return Response(status, json.dumps({"errors": [{"code": code, "message": error.message}]}).encode(), headers)


def _named_registry(request: Request) -> tuple[str, str] | None:
    names = (_query(request, "ns"), request.headers.get("x-sandbox-registry", ""), request.headers.get("host", ""))
    return next((found for name in names if (found := registry_of(name))), None)


def _query(request: Request, name: str) -> str:
    return parse_qs(request.query).get(name, [""])[0] if request.query else ""


def _accepted(repository: Repository, upload_id: str, target: Target, status: int, size: int) -> Response:
    return Response(
        status,
        b"",
        {
            "Location": f"{target.prefix}{repository.name}/blobs/uploads/{upload_id}",
            "Docker-Upload-UUID": upload_id,
            "Range": f"0-{max(size - 1, 0)}",
        },
    )


def _put_image(repository: Repository, image: Image, tag: str | None) -> Change:
    """The change for CloudTrail: a pushed manifest has the same event as PutImage of the control plane."""
    sent: dict[str, object] = {"repositoryName": repository.name, "registryId": repository.account}
    sent |= {"imageManifest": image.manifest.decode(), **({"imageTag": tag} if tag else {})}
    image_id = {"imageDigest": image.digest, **({"imageTag": tag} if tag else {})}
    answered = {"image": {"repositoryName": repository.name, "imageId": image_id}}
    return Change("PutImage", sent, answered, repository.arn)
