"""The calls to ECR, and to STS for credentials.

Expected error answers (“already exists”, “no policy”) become values. Every other error becomes `RegistryError`.

This module reads no rows and does not know the desired state. Each method of `Ecr` names the IAM permissions that it
needs; docs/iam-policy.json is their sum.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar, cast

from botocore import exceptions as aws

from deployments.aws.clients import (
    ATTEMPTS_PER_CALL,
    EXPIRED,
    before_attempt,
    client_of,
    executor,
    forget_clients,
    no_open_transaction,
    permission_of,
    record_call,
    session_client,
    translated,
)
from deployments.aws.partitions import registry_of
from deployments.aws.values import (
    Ambient,
    CreateOutcome,
    DescribedImage,
    DescribedImages,
    Details,
    LifecyclePreview,
    Listed,
    Observation,
    PreviewedImage,
    RegistryLogin,
    Session,
)
from deployments.config import Access, RegistryConfig
from deployments.errors import RegistryError, aws_error, registry_error
from deployments.images import EcrRegistry
from deployments.log import carried
from deployments.policy import RegistryPolicy

T = TypeVar("T")
#: The most images that DescribeImages and GetLifecyclePolicyPreview may name, and that DescribeImages gives if it names
#: none (ECR's service model).
IMAGES_PER_CALL, IMAGES_PER_PAGE = 100, 1000

#: The running calls of this process: (registry, repository or account, start by the monotonic clock).
_in_flight: dict[object, tuple[EcrRegistry, str, float]] = {}


def longest_call(registry: EcrRegistry, name: str) -> float:
    """The age in seconds of this process's longest running call about a repository; 0 without a running call."""
    calls = [since for of, about, since in list(_in_flight.values()) if (of, about) == (registry, name)]
    return time.monotonic() - min(calls) if calls else 0.0


LISTED_PER_PAGE = 1000  # the most that DescribeRepositories gives (*DescribeRepositories*, Amazon ECR API Reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ecr:
    """One ECR registry with one access to it. Cheap to make: the process shares the clients.

    `before_call` runs before each call and may delay it (the rate limiter of a sweep). `before_attempt` runs before
    each HTTP request of a call, botocore's retries included, and may stop the request with a RegistryError (the time
    limit of a lease). `answered` is called after each answer with the operation and AWS's error code (empty: none).
    `attempts`: how often botocore tries a call. `Ecr` itself repeats a call only once, after expired credentials.
    `settings`: operation → the variable that its text comes from, for errors; empty: not from a setting.
    `probing`: the calls only ask what AWS allows.
    """

    registry: EcrRegistry
    access: Access
    before_call: Callable[[], None] = lambda: None
    before_attempt: Callable[[], None] = lambda: None
    answered: Callable[[str, str], None] = lambda operation, code: None
    attempts: int = ATTEMPTS_PER_CALL
    settings: Mapping[str, str] = field(default_factory=dict)
    probing: bool = False

    @classmethod
    def of(cls, config: RegistryConfig, registry: EcrRegistry, **more: Any) -> Ecr:
        """The `Ecr` of a registry with the access and the settings of its configuration; `more`: further fields."""
        settings: dict[str, str] = {
            "SetRepositoryPolicy": config.variable("default_repository_policy"),
            "PutLifecyclePolicy": config.variable("lifecycle_policy"),
            "StartLifecyclePolicyPreview": config.variable("lifecycle_policy"),
            "TagResource": config.variable("tags"),
            "CreateRepository": config.variable("kms_key" if config.kms_key else "namespace"),
        }
        more.setdefault("settings", settings)
        return cls(registry=registry, access=config.access, **more)

    def observe(self, name: str, *, details: bool) -> Observation:
        """Read the repository policy and, with `details`, the details. The calls run in parallel.

        Permissions: ecr:GetRepositoryPolicy; with details ecr:DescribeRepositories, ecr:GetLifecyclePolicy,
        ecr:ListTagsForResource. Raises RegistryError only if the error concerns the whole installation.
        """
        calls: list[Callable[[], Any]] = [lambda: self._policy(name)]
        if details:
            calls += [
                lambda: self._describe(name),
                lambda: self._lifecycle(name),
                lambda: self._tags(name),
            ]
        policy, *rest = self.side_by_side(calls)
        for part in (policy, *rest):
            if isinstance(part, RegistryError) and part.installation:
                raise part
        if any(isinstance(part, _Missing) for part in (policy, *rest)):
            return Observation(exists=False)
        if not details:
            return Observation(exists=True, policy=policy)
        for part in rest:
            if isinstance(part, RegistryError):
                return Observation(exists=True, policy=policy, details=part)
        description, lifecycle, tags = cast("list[Any]", rest)
        listed: Listed = description
        return Observation(
            exists=True,
            policy=policy,
            details=Details(
                created_at=listed.created_at,
                mutability=listed.mutability,
                exclusions=listed.exclusions,
                encryption=listed.encryption,
                kms_key=listed.kms_key,
                lifecycle=lifecycle,
                tags=tags,
            ),
        )

    def pages(self, token: str = "") -> Iterator[tuple[list[Listed], str]]:
        """All repositories of the registry, up to 1,000 in a page, each with the token of the next page; empty: none.

        `token`: begin with its page. Permission: ecr:DescribeRepositories.
        """
        request: dict[str, Any] = {"registryId": self.registry.account, "maxResults": LISTED_PER_PAGE}
        while True:
            page = request | ({"nextToken": token} if token else {})
            answer = self._call("DescribeRepositories", self.registry.account, page)
            token = str(answer.get("nextToken") or "")
            found = [_listed(entry) for entry in answer["repositories"]]
            del answer  # some MB, not needed while the caller works
            yield found, token
            if not token:
                return

    def registry_policy(self) -> RegistryPolicy:
        """The registry's own policy and its scope: one call, and where the registry has a policy a second one.

        Permissions: ecr:GetRegistryPolicy, ecr:GetAccountSetting. Raises RegistryError; if AWS does not show the scope,
        the scope is empty. Both calls take no account and are about that of the caller, so an answer about another
        account is an error. (*GetRegistryPolicy*, *GetAccountSetting*, Amazon ECR API Reference)
        """
        account = self.registry.account
        answer = self._call("GetRegistryPolicy", account, {}, {"RegistryPolicyNotFoundException": _no_registry_policy})
        if answer["registryId"] not in ("", account):
            raise registry_error("ForeignRegistryPolicy", operation="GetRegistryPolicy", name=account)
        if not answer["policyText"]:
            return RegistryPolicy(text="")
        try:
            scope = self._call("GetAccountSetting", account, {"name": "REGISTRY_POLICY_SCOPE"})["value"]
        except RegistryError as error:
            if error.retryable:
                raise
            scope = ""
        return RegistryPolicy(text=answer["policyText"], scope=scope)

    def create(
        self, name: str, *, mutability: str, exclusions: tuple[str, ...], tags: Mapping[str, str], kms_key: str | None
    ) -> CreateOutcome:
        """Create the repository unless it exists. Permissions: ecr:CreateRepository, ecr:TagResource.

        CreateRepository takes no client token. If the answer of a successful call is lost, botocore's retry gets
        “already exists”. So after a retry it is not known who created the repository (CreateOutcome.UNSURE).
        """
        request: dict[str, Any] = {
            "registryId": self.registry.account,
            "repositoryName": name,
            "imageTagMutability": mutability,
            "imageTagMutabilityExclusionFilters": _filters(exclusions),
            "encryptionConfiguration": (
                {"encryptionType": "KMS", "kmsKey": kms_key} if kms_key else {"encryptionType": "AES256"}
            ),
        }
        if tags:
            request["tags"] = _tag_list(tags)
        answer = self._call("CreateRepository", name, request, {"RepositoryAlreadyExistsException": _existed})
        return answer if isinstance(answer, CreateOutcome) else CreateOutcome.CREATED

    def set_policy(self, name: str, text: str) -> None:
        """Replace the repository policy with this text, unchanged. Permission: ecr:SetRepositoryPolicy."""
        self._call("SetRepositoryPolicy", name, {**self._on(name), "policyText": text})

    def put_lifecycle(self, name: str, text: str) -> None:
        """Replace the lifecycle policy. Permission: ecr:PutLifecyclePolicy."""
        self._call("PutLifecyclePolicy", name, {**self._on(name), "lifecyclePolicyText": text})

    def start_lifecycle_preview(self, name: str, text: str) -> bool:
        """Let AWS find out what this lifecycle policy would do to the images now. No image is changed.

        AWS answers before the preview is finished, and makes one preview of a repository at a time: False if another
        one is running. The next preview replaces the result. (*StartLifecyclePolicyPreview*, Amazon ECR API Reference)
        Permission: ecr:StartLifecyclePolicyPreview. Raises RegistryError.
        """
        request = {**self._on(name), "lifecyclePolicyText": text}
        running = {"LifecyclePolicyPreviewInProgressException": None}
        return self._call("StartLifecyclePolicyPreview", name, request, running) is not None

    def lifecycle_preview(self, name: str, images: Sequence[Mapping[str, str]]) -> LifecyclePreview | None:
        """The newest preview, with those of `images` that it would expire or archive; None if there is none.

        An image is {"imageDigest": …} or {"imageTag": …}. One call for each 100 images, the most that AWS takes in a
        call; a request with images has no pages. (*GetLifecyclePolicyPreview*, Amazon ECR API Reference)
        Permission: ecr:GetLifecyclePolicyPreview. Raises RegistryError.
        """
        found: list[PreviewedImage] = []
        text = ""
        for start in range(0, len(images), IMAGES_PER_CALL):
            request = {**self._on(name), "imageIds": [dict(each) for each in images[start : start + IMAGES_PER_CALL]]}
            none = {"LifecyclePolicyPreviewNotFoundException": None}
            answer = self._call("GetLifecyclePolicyPreview", name, request, none)
            if answer is None:
                return None
            text = answer["lifecyclePolicyText"]
            if answer["status"] != "COMPLETE":
                return LifecyclePreview(text=text, status=answer["status"])
            found += [
                PreviewedImage(
                    digest=each["imageDigest"],
                    tags=tuple(each.get("imageTags", ())),
                    action=each["action"]["type"],
                    rule=each["appliedRulePriority"],
                )
                for each in answer.get("previewResults", ())
            ]
        return LifecyclePreview(text=text, status="COMPLETE", images=tuple(found))

    def put_mutability(self, name: str, mutability: str, exclusions: tuple[str, ...]) -> None:
        """Set the tag mutability. Permission: ecr:PutImageTagMutability."""
        request = {
            **self._on(name),
            "imageTagMutability": mutability,
            "imageTagMutabilityExclusionFilters": _filters(exclusions),
        }
        self._call("PutImageTagMutability", name, request)

    def put_tags(self, name: str, tags: Mapping[str, str]) -> None:
        """Add or overwrite these AWS tags; the repository keeps its other tags. Permission: ecr:TagResource."""
        request = {"resourceArn": self.registry.repository_arn(name), "tags": _tag_list(tags)}
        self._call("TagResource", name, request)

    def manifests(self, name: str, *, digests: Sequence[str] = (), tag: str | None = None) -> dict[str, str]:
        """{digest: manifest text} of the images that exist among up to 100 digests, or of one tag.

        Permission: ecr:BatchGetImage. Raises RegistryError.
        """
        wanted = [{"imageTag": tag}] if tag else [{"imageDigest": digest} for digest in digests]
        answer = self._call(
            "BatchGetImage",
            name,
            {**self._on(name), "imageIds": wanted},
            {"RepositoryNotFoundException": {"images": []}},
        )
        for failure in answer.get("failures", ()):
            code = str(failure.get("failureCode"))
            if code not in ("ImageNotFound", "InvalidImageDigest", "InvalidImageTag"):
                reason = str(failure.get("failureReason", ""))
                raise aws_error("BatchGetImage", name, code, reason, permission=permission_of("BatchGetImage"))
        return {image["imageId"]["imageDigest"]: image["imageManifest"] for image in answer["images"]}

    def image(self, name: str, *, digest: str = "", tag: str = "") -> DescribedImage | None:
        """The image with this digest, or else this tag, in any storage class; None if it does not exist.

        The call does not count as a pull, as BatchGetImage does. Permission: ecr:DescribeImages. Raises RegistryError.
        """
        described = self._describe_images(name, [{"imageDigest": digest} if digest else {"imageTag": tag}])
        return None if isinstance(described, str) else next(iter(described), None)

    def images(self, name: str, digests: Sequence[str]) -> dict[str, DescribedImage]:
        """{digest: image} of the images that exist among these digests, in any storage class.

        One call for each 100 digests if all exist. If one is missing, AWS refuses the whole call and names an image:
        the others are asked for again; a refusal that names none of them is followed by a call for each. So it costs
        at most one call more than there are digests. No call counts as a pull. Permission: ecr:DescribeImages. Raises
        RegistryError. (*DescribeImages*, Amazon ECR API Reference: at most 100 imageIds, ImageNotFoundException)
        """
        found: dict[str, DescribedImage] = {}
        wanted = list(dict.fromkeys(digests))
        groups = [wanted[at : at + IMAGES_PER_CALL] for at in range(0, len(wanted), IMAGES_PER_CALL)]
        while groups:
            group = groups.pop()
            described = self._describe_images(name, [{"imageDigest": digest} for digest in group])
            if not isinstance(described, str):
                found |= {each.digest: each for each in described}
                continue
            left = [digest for digest in group if digest not in described]
            if len(left) < len(group):
                groups += [left] if left else []
            elif len(group) > 1:
                groups += [[digest] for digest in group]
        return found

    def _describe_images(self, name: str, ids: list[dict[str, str]]) -> list[DescribedImage] | str:
        """The images with these ids; AWS's message if one of them does not exist."""
        request = {
            **self._on(name),
            "imageIds": ids,
            "filter": {"imageStatus": "ANY"},  # without it, AWS leaves archived images out (ECR's service model)
        }
        expected = {
            "ImageNotFoundException": lambda error: error.response["Error"].get("Message", ""),
            "RepositoryNotFoundException": {"imageDetails": []},
        }
        answer = self._call("DescribeImages", name, request, expected)
        return answer if isinstance(answer, str) else [_described(each) for each in answer["imageDetails"]]

    def last_pull(self, name: str) -> datetime | None:
        """When an image of the repository was last pulled, as AWS has recorded it; None: no pull is recorded.

        AWS records a pull at least once in 24 hours, so the time may be older than the last pull (*ImageDetail*, Amazon
        ECR API Reference). Permission: ecr:DescribeImages. Raises RegistryError.
        """
        found: list[datetime] = []
        token: str | None = ""
        while token is not None:
            page = self.image_page(name, token=token, status="ACTIVE")
            found += [each.pulled_at for each in page.images if each.pulled_at is not None] if page is not None else []
            token = (page.next_token or None) if page is not None else None
        return max(found, default=None)

    def image_page(
        self, name: str, *, token: str = "", tags: str = "ANY", status: str = "ANY"
    ) -> DescribedImages | None:
        """Up to 1,000 images of a repository, in an order that AWS does not document; None: there is no repository.

        One call. `token`: `next_token` of the answer before. `tags`: TAGGED, UNTAGGED or ANY. `status`: ACTIVE,
        ARCHIVED, ACTIVATING or ANY. It does not count as a pull. Permission: ecr:DescribeImages. Raises RegistryError.
        """
        request: dict[str, Any] = {
            **self._on(name),
            "maxResults": IMAGES_PER_PAGE,
            "filter": {"tagStatus": tags, "imageStatus": status},
        }
        if token:
            request["nextToken"] = token
        answer = self._call("DescribeImages", name, request, {"RepositoryNotFoundException": _MISSING})
        if isinstance(answer, _Missing):
            return None
        images = tuple(_described(each) for each in answer["imageDetails"])
        return DescribedImages(images=images, next_token=answer.get("nextToken", ""))

    def restore_image(self, name: str, digest: str) -> str:
        """Begin to restore an archived image. Returns its status: ACTIVATING, or ACTIVE once it can be pulled.

        Permission: ecr:UpdateImageStorageClass. Raises RegistryError, also for an image that is not archived.
        """
        request = {**self._on(name), "imageId": {"imageDigest": digest}, "targetStorageClass": "STANDARD"}
        return str(self._call("UpdateImageStorageClass", name, request).get("imageStatus", ""))

    def image_tags(self, name: str) -> Iterator[str]:
        """Every tag in the repository, 1,000 tags a call; no tag if the repository does not exist.

        Permission: ecr:ListImages.
        """
        request: dict[str, Any] = {**self._on(name), "filter": {"tagStatus": "TAGGED"}, "maxResults": 1000}
        while True:
            answer = self._call("ListImages", name, request, {"RepositoryNotFoundException": {"imageIds": []}})
            yield from (image["imageTag"] for image in answer["imageIds"] if "imageTag" in image)
            if not answer.get("nextToken"):
                return
            request["nextToken"] = answer["nextToken"]

    def download_url(self, name: str, digest: str) -> str | None:
        """The URL of a layer or of an image's configuration, valid for some minutes; None if the blob does not exist.

        The URL is a secret, because it works without a log-in. Permission: ecr:GetDownloadUrlForLayer.
        """
        answer = self._call(
            "GetDownloadUrlForLayer",
            name,
            {**self._on(name), "layerDigest": digest},
            {"LayersNotFoundException": {"downloadUrl": None}, "RepositoryNotFoundException": {"downloadUrl": None}},
        )
        return cast("str | None", answer["downloadUrl"])

    def authorization(self, session: Session | None = None) -> RegistryLogin:
        """A log-in for this registry, with the rights of this access or of the session.

        It expires after 12 hours, or when the session expires if that is earlier. Permission:
        ecr:GetAuthorizationToken.
        """
        request = {"registryIds": [self.registry.account]}
        client: Any = session and session_client(self.registry.region, session)
        try:
            answer = self._call("GetAuthorizationToken", self.registry.account, request, client=client)
        finally:
            if client is not None:
                client.close()
        data = answer["authorizationData"][0]
        username, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
        expires_at: datetime = data["expiresAt"]
        return RegistryLogin(
            username=username,
            password=password,
            expires_at=min(expires_at, session.expires_at) if session else expires_at,
            endpoint=data["proxyEndpoint"],
        )

    def ambient(self) -> Ambient:
        """The credentials of this process, without a call to AWS. Raises RegistryError if the process has none."""
        try:
            credentials = client_of("sts", self.registry.region, Access(), self.attempts)._get_credentials()
            if credentials is None:
                raise aws.NoCredentialsError()
            found = credentials.get_frozen_credentials()
        except (aws.ClientError, aws.BotoCoreError, OSError) as error:
            raise translated(error, "GetAuthorizationToken", self.registry.account, Access()) from None
        return Ambient(access_key=found.access_key, long_lived=not found.token)

    def assume(self, access: Access, *, label: str, policy: str, seconds: int) -> Session:
        """A session of a role, limited to what `policy` allows. CloudTrail shows `label` (cut to 64 characters).

        Permission: sts:AssumeRole, for the identity of the ambient credentials.
        """
        request = {
            "RoleArn": access.role_arn,
            "RoleSessionName": label[:64],
            "Policy": policy,
            "DurationSeconds": seconds,
        }
        if access.external_id:
            request["ExternalId"] = access.external_id
        return _new_session(self._ambient_call("AssumeRole", access.role_arn or "", request, access))

    def federate(self, *, label: str, policy: str, seconds: int) -> Session:
        """A session of the IAM user of this process's access key, limited to what `policy` allows.

        Permission: sts:GetFederationToken, for the identity of the ambient credentials.
        """
        request = {"Name": label[:32], "Policy": policy, "DurationSeconds": seconds}
        return _new_session(self._ambient_call("GetFederationToken", label[:32], request, Access()))

    def side_by_side(self, calls: list[Callable[[], T]]) -> list[T | RegistryError]:
        """Run calls of this `Ecr` in parallel. The result of a call that failed is its RegistryError."""
        no_open_transaction()
        if len(calls) == 1:
            return [_caught(calls[0])]
        futures: list[Future[T | RegistryError]] = [executor().submit(carried(_caught), call) for call in calls[1:]]
        return [_caught(calls[0]), *(future.result() for future in futures)]

    # ------------------------------------------------------------------------------------------- single reads

    def _policy(self, name: str) -> str | _Missing | None:
        answer = self._call(
            "GetRepositoryPolicy",
            name,
            self._on(name),
            {"RepositoryPolicyNotFoundException": {"policyText": None}, "RepositoryNotFoundException": _MISSING},
        )
        return answer if isinstance(answer, _Missing) else cast("str | None", answer["policyText"])

    def _describe(self, name: str) -> Any:
        request = {"registryId": self.registry.account, "repositoryNames": [name]}
        answer = self._call("DescribeRepositories", name, request, {"RepositoryNotFoundException": _MISSING})
        return answer if isinstance(answer, _Missing) else _listed(answer["repositories"][0])

    def _lifecycle(self, name: str) -> Any:
        answer = self._call(
            "GetLifecyclePolicy",
            name,
            self._on(name),
            {
                "LifecyclePolicyNotFoundException": {"lifecyclePolicyText": None},
                "RepositoryNotFoundException": _MISSING,
            },
        )
        return answer if isinstance(answer, _Missing) else answer["lifecyclePolicyText"]

    def _tags(self, name: str) -> Any:
        request = {"resourceArn": self.registry.repository_arn(name)}
        answer = self._call("ListTagsForResource", name, request, {"RepositoryNotFoundException": _MISSING})
        return answer if isinstance(answer, _Missing) else {tag["Key"]: tag["Value"] for tag in answer["tags"]}

    def _on(self, name: str) -> dict[str, Any]:
        return {"registryId": self.registry.account, "repositoryName": name}

    def _call(
        self,
        operation: str,
        name: str,
        request: dict[str, Any],
        expected: Mapping[str, Any] | None = None,
        *,
        client: Any = None,
    ) -> Any:
        """One call. If AWS's error code is a key of `expected`, return the value of that key (called with the error if
        it is callable). Any other error raises RegistryError.
        """
        no_open_transaction()
        for last_try in (client is not None, True):
            self.before_call()
            asked = before_attempt.set(self.before_attempt)
            started = time.monotonic()
            _in_flight[call := object()] = (self.registry, name, started)
            try:
                through = client or client_of("ecr", self.registry.region, self.access, self.attempts)
                answer = through._make_api_call(operation, request)
                self.answered(operation, "")
                record_call(operation, started, answer, probe=self.probing, repository=name)
                return answer
            except aws.ClientError as error:
                code = error.response.get("Error", {}).get("Code", "")
                self.answered(error.operation_name, code)
                is_expected = expected is not None and code in expected
                record_call(
                    error.operation_name, started, error, expected=is_expected, probe=self.probing, repository=name
                )
                if expected is not None and is_expected:
                    answer = expected[code]
                    return answer(error) if callable(answer) else answer
                if code in EXPIRED and not last_try:
                    forget_clients(self.access)
                    continue
                about = "TagResource" if code in _OF_TAGS else operation
                raise translated(error, operation, name, self.access, setting=self.settings.get(about, "")) from None
            except (aws.BotoCoreError, OSError) as error:
                refused = translated(error, operation, name, self.access)
                record_call(operation, started, refused, probe=self.probing, repository=name)
                raise refused from None
            finally:
                del _in_flight[call]
                before_attempt.reset(asked)
        raise AssertionError("unreachable")

    def _ambient_call(self, operation: str, name: str, request: dict[str, Any], access: Access) -> Any:
        """One call of STS with the ambient credentials of this process. Raises RegistryError."""
        no_open_transaction()
        for last_try in (False, True):
            started = time.monotonic()
            try:
                client = client_of("sts", self.registry.region, Access(), self.attempts)
                answer = client._make_api_call(operation, request)
                record_call(operation, started, answer)
                return answer["Credentials"]
            except (aws.ClientError, aws.BotoCoreError, OSError) as error:
                refused = translated(error, operation, name, access)
                record_call(operation, started, refused)
                if refused.code not in EXPIRED or last_try:
                    raise refused from None
                forget_clients(Access())
        raise AssertionError("unreachable")


def _new_session(answer: Mapping[str, Any]) -> Session:
    return Session(
        access_key=answer["AccessKeyId"],
        secret=answer["SecretAccessKey"],
        token=answer["SessionToken"],
        expires_at=answer["Expiration"],
    )


def ecr_of(config: RegistryConfig, host: str) -> Ecr | None:
    """The `Ecr` of this host, with the access that the settings say; None if the host is not an ECR registry."""
    found = registry_of(host)
    return None if found is None else Ecr.of(config, found)


def _described(entry: Mapping[str, Any]) -> DescribedImage:
    return DescribedImage(
        digest=entry["imageDigest"],
        status=entry.get("imageStatus", "ACTIVE"),
        pushed_at=entry.get("imagePushedAt"),
        archived_at=entry.get("lastArchivedAt"),
        pulled_at=entry.get("lastRecordedPullTime"),
        tags=tuple(entry.get("imageTags", ())),
        size=entry.get("imageSizeInBytes"),
        media_type=entry.get("imageManifestMediaType", ""),
        artifact_type=entry.get("artifactMediaType", ""),
        subject=entry.get("subjectManifestDigest", ""),
    )


def _listed(entry: Mapping[str, Any]) -> Listed:
    encryption = entry.get("encryptionConfiguration", {})
    filters = entry.get("imageTagMutabilityExclusionFilters", ())
    return Listed(
        name=entry["repositoryName"],
        created_at=entry["createdAt"],
        mutability=entry.get("imageTagMutability", "MUTABLE"),
        exclusions=tuple(sorted(each["filter"] for each in filters)),
        encryption=encryption.get("encryptionType", "AES256"),
        kms_key=encryption.get("kmsKey"),
    )


def _no_registry_policy(error: aws.ClientError) -> dict[str, str]:
    """The answer of a registry without a policy. Its account stands only in AWS's message; empty if it does not."""
    named = re.search(r"\b\d{12}\b", error.response["Error"].get("Message", ""))
    return {"policyText": "", "registryId": named[0] if named else ""}


def _existed(error: aws.ClientError) -> CreateOutcome:
    retried = error.response.get("ResponseMetadata", {}).get("RetryAttempts")
    return CreateOutcome.UNSURE if retried else CreateOutcome.EXISTED


#: CreateRepository answers these codes about its tags.
_OF_TAGS = ("InvalidTagParameterException", "TooManyTagsException")


class _Missing:
    """The answer “the repository does not exist”, as a value."""


_MISSING = _Missing()


def _caught(call: Callable[[], T]) -> T | RegistryError:
    try:
        return call()
    except RegistryError as error:
        return error


def _filters(exclusions: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"filterType": "WILDCARD", "filter": pattern} for pattern in exclusions]


def _tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]
