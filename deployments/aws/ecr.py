"""The door to AWS: the only importer of boto3.

It speaks ECR and STS, turns expected answers (“already exists”, “no policy”) into ordinary values and every other
one into a single exception, `RegistryError`, that answers what a caller needs to know: will trying again help, or
must a human act, and is it this repository or the whole installation? Its words are the catalogue's.

It holds no rows and knows no desired state. Each method of `Ecr` names the IAM permissions that it needs; the
operator policy in the README is their sum.
"""

from __future__ import annotations

import base64
import functools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, TypeVar, cast

import boto3
from botocore import exceptions as aws
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from django.db import connection

from deployments.catalogue import UNKNOWN, aws_error, registry_error
from deployments.catalogue import RegistryError as RegistryError  # this door's one exception: named here to be caught
from deployments.catalogue import is_throttling as is_throttling
from deployments.config import RegistryConfig
from deployments.images import EcrRegistry, Partition, parse_ecr_host
from deployments.reconcile.desired import Details, Listed

T = TypeVar("T")

CONNECT_SECONDS = 3
READ_SECONDS = 10
ATTEMPTS = 3
SIDE_BY_SIDE = 32  # calls in flight from one process; also the size of each client's connection pool
ROLE_SESSION_SECONDS = 3600
USER_AGENT = "registry-admin"  # in our calls' user agent, so that CloudTrail's events tell which ones are ours
RECEIVE_SECONDS = 5  # of SQS's long polling, at most 20; a stop waits for it


class Creation(Enum):
    """What CreateRepository came to."""

    CREATED = "created"
    EXISTED = "existed"  # AWS said so at the first try: somebody else's
    UNSURE = "unsure"  # AWS said so at a retry: perhaps our own first try made it, and its answer was lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at one repository. A part that AWS refused to show is that part's RegistryError."""

    exists: bool
    policy: str | RegistryError | None = None  # None: has none
    details: Details | RegistryError | None = None  # None: not asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A log-in for a registry. `endpoint` is where it is really served (differs from the host in the sandbox)."""

    username: str
    password: str = field(repr=False)
    expires_at: datetime | None
    endpoint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Temporary credentials that may do less than who made them."""

    access_key: str
    secret: str = field(repr=False)
    token: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ambient:
    """Whose credentials this process has. `long_lived`: an IAM user's own keys, not a session's."""

    access_key: str
    long_lived: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach a registry's AWS account: with the ambient credentials, or by assuming a role with them.

    Permission: sts:AssumeRole on each role that is configured, for whoever the ambient credentials belong to.
    """

    role_arn: str | None = None
    external_id: str | None = field(default=None, repr=False)
    setting: str = "DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN"  # where the role stands, for who has to correct it


# ---------------------------------------------------------------------------------------------------- partitions


@functools.cache
def partitions() -> tuple[Partition, ...]:
    """The AWS partitions as botocore knows them. ECR's dual-stack registries live under `on.` where the APIs of
    the partition live under `api.` (AWS: “Making requests over IPv6”)."""
    data = boto3.session.Session()._session.get_component("data_loader").load_data("partitions")
    return tuple(
        Partition(
            name=entry["id"],
            regions=frozenset(entry["regions"]),
            region_pattern=entry["regionRegex"],
            dns_suffix=entry["outputs"]["dnsSuffix"],
            dual_stack_suffix="on." + entry["outputs"]["dualStackDnsSuffix"].removeprefix("api."),
        )
        for entry in data["partitions"]
    )


def partition_of(region: str) -> str:
    """The partition that a region lies in. Raises ValueError for a region of none."""
    for partition in partitions():
        if not region.endswith("-global") and partition.has(region):
            return partition.name
    raise ValueError(f"“{region[:40]}” is not an AWS region")


@functools.lru_cache(maxsize=64)
def registry_of(host: str) -> EcrRegistry | None:
    """The ECR registry that a host names, in any partition, FIPS and dual-stack included; else None."""
    return parse_ecr_host(host, partitions())


# ------------------------------------------------------------------------------------------- sessions and clients

_lock = threading.Lock()
_clients: dict[tuple[int, str, str, Access, int, int], Any] = {}
_executors: dict[int, ThreadPoolExecutor] = {}


def _config(attempts: int, waits: int = 0) -> Config:
    """`waits`: for how many seconds a call may ask AWS to wait before it answers. The read timeout is longer by that,
    as AWS asks for (SQS, ReceiveMessage: WaitTimeSeconds)."""
    return Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=waits + READ_SECONDS,
        max_pool_connections=SIDE_BY_SIDE,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        user_agent_extra=USER_AGENT,
    )


def _client(service: str, region: str, access: Access, attempts: int, waits: int = 0) -> Any:
    """One client per service, region, access and process: a new one costs a connection, a handshake and 20 ms of CPU.

    Keyed by the process id, because a client's connections must not be shared with a forked worker.
    """
    key = (os.getpid(), service, region, access, attempts, waits)
    client = _clients.get(key)
    if client is None:
        with _lock:
            client = _clients.get(key)
            if client is None:
                session: Any = _session(region, access)  # its overloads name every service of AWS
                client = session.client(service, region_name=region, config=_config(attempts, waits))
                client.meta.events.register("before-send", _before_send)
                _clients[key] = client
    return client


#: The calls that this process waits for: (registry, what it is about, since when, monotonic).
_in_flight: dict[object, tuple[EcrRegistry, str, float]] = {}


def longest_call(registry: EcrRegistry, name: str) -> float:
    """For how many seconds this process has been waiting for one call about a repository; 0 where it does not."""
    calls = [since for where, what, since in list(_in_flight.values()) if (where, what) == (registry, name)]
    return time.monotonic() - min(calls) if calls else 0.0


#: What is asked before each HTTP request of the call that this thread is making.
_before_attempt: ContextVar[Callable[[], None]] = ContextVar("before_attempt", default=lambda: None)


def _before_send(**_: Any) -> None:
    _before_attempt.get()()


def _session(region: str, access: Access) -> boto3.session.Session:
    session = boto3.session.Session(region_name=region)
    core: Any = session._session
    # STS in the registry's own region: the global one cannot be reached from everywhere, and knows one partition.
    core.set_config_variable("sts_regional_endpoints", "regional")
    if access.role_arn is None:
        return session
    # botocore's own assume-role credentials: fetched at first use, refreshed well before they expire by one thread
    # while the others go on. An unset role must never come here: AssumeRole with a null ARN is the seed's bug
    # (trigger.dev issues 2291 and 3364).
    source = session.get_credentials()
    if source is None:
        raise aws.NoCredentialsError()
    extra: dict[str, Any] = {"RoleSessionName": "registry-admin", "DurationSeconds": ROLE_SESSION_SECONDS}
    if access.external_id:
        extra["ExternalId"] = access.external_id
    fetcher = AssumeRoleCredentialFetcher(
        client_creator=functools.partial(core.create_client, region_name=region, config=_config(ATTEMPTS)),
        source_credentials=source,
        role_arn=access.role_arn,
        extra_args=extra,
    )
    core._credentials = DeferredRefreshableCredentials(method="assume-role", refresh_using=fetcher.fetch_credentials)
    return session


def _session_client(region: str, session: Session) -> Any:
    """A client for one call with a session's own credentials. Not kept: each session is used once."""
    with _lock:
        parent: Any = _one_off_session()  # it has read the service's model already
        return parent.client(
            "ecr",
            region_name=region,
            config=_config(ATTEMPTS),
            aws_access_key_id=session.access_key,
            aws_secret_access_key=session.secret,
            aws_session_token=session.token,
        )


@functools.cache
def _one_off_session() -> boto3.session.Session:
    return boto3.session.Session()


def forget_clients(access: Access | None = None) -> None:
    """Drop the cached clients (of one access), so that the next call finds its credentials anew."""
    with _lock:
        for key in [key for key in _clients if access is None or key[3] == access]:
            del _clients[key]


def _executor() -> ThreadPoolExecutor:
    process = os.getpid()
    executor = _executors.get(process)
    if executor is None:
        with _lock:
            executor = _executors.setdefault(
                process, ThreadPoolExecutor(max_workers=SIDE_BY_SIDE, thread_name_prefix="ecr")
            )
    return executor


# ------------------------------------------------------------------------------------------------------- the door


@dataclass(frozen=True, slots=True, kw_only=True)
class Ecr:
    """One ECR registry, reached in one way. Cheap to make; the clients behind it are shared by the process.

    `before_call` runs before every call and may delay it (the sweep's pace). `before_attempt` runs before each of its
    HTTP requests, botocore's own retries included, and may refuse it by a RegistryError (the lease's clock).
    `answered` hears of each answer: the operation, and the error's code or nothing. `attempts` is botocore's own
    number of tries; nothing here tries again on top of it, except once after expired credentials.
    """

    registry: EcrRegistry
    access: Access
    before_call: Callable[[], None] = lambda: None
    before_attempt: Callable[[], None] = lambda: None
    answered: Callable[[str, str], None] = lambda operation, code: None
    attempts: int = ATTEMPTS

    def look(self, name: str, *, details: bool) -> Look:
        """Read the repository policy and, side by side, the details: one round trip of time either way.

        Permissions: ecr:GetRepositoryPolicy; with details ecr:DescribeRepositories, ecr:GetLifecyclePolicy,
        ecr:ListTagsForResource. Raises RegistryError only for what concerns the whole installation.
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
            return Look(exists=False)
        if not details:
            return Look(exists=True, policy=policy)
        for part in rest:
            if isinstance(part, RegistryError):
                return Look(exists=True, policy=policy, details=part)
        description, lifecycle, tags = cast("list[Any]", rest)
        listed: Listed = description
        return Look(
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

    def pages(self) -> Iterator[list[Listed]]:
        """All repositories of the registry, 1,000 to a page. Permission: ecr:DescribeRepositories."""
        request: dict[str, Any] = {"registryId": self.registry.account, "maxResults": 1000}
        while True:
            answer = self._call("DescribeRepositories", self.registry.account, request)
            yield [_listed(entry) for entry in answer["repositories"]]
            if not answer.get("nextToken"):
                return
            request["nextToken"] = answer["nextToken"]

    def create(
        self, name: str, *, mutability: str, exclusions: tuple[str, ...], tags: Mapping[str, str], kms_key: str | None
    ) -> Creation:
        """Create the repository, unless it exists already. Permissions: ecr:CreateRepository, ecr:TagResource.

        CreateRepository takes no client token: when its answer was lost, botocore's own retry turns our success into
        “already exists”. So after a retry nobody knows (yet) who made it.
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
        return answer if isinstance(answer, Creation) else Creation.CREATED

    def set_policy(self, name: str, text: str) -> None:
        """Replace the repository policy by this text, verbatim. Permission: ecr:SetRepositoryPolicy."""
        self._call("SetRepositoryPolicy", name, {**self._on(name), "policyText": text})

    def put_lifecycle(self, name: str, text: str) -> None:
        """Replace the lifecycle policy. Permission: ecr:PutLifecyclePolicy."""
        self._call("PutLifecyclePolicy", name, {**self._on(name), "lifecyclePolicyText": text})

    def put_mutability(self, name: str, mutability: str, exclusions: tuple[str, ...]) -> None:
        """Set the tag mutability. Permission: ecr:PutImageTagMutability."""
        request = {
            **self._on(name),
            "imageTagMutability": mutability,
            "imageTagMutabilityExclusionFilters": _filters(exclusions),
        }
        self._call("PutImageTagMutability", name, request)

    def put_tags(self, name: str, tags: Mapping[str, str]) -> None:
        """Add or overwrite these AWS tags; others stay. Permission: ecr:TagResource."""
        request = {"resourceArn": self.registry.repository_arn(name), "tags": _tag_list(tags)}
        self._call("TagResource", name, request)

    def manifests(self, name: str, *, digests: Sequence[str] = (), tag: str | None = None) -> dict[str, str]:
        """{digest: manifest text} of those images that are there: up to 100 digests, or one tag.

        Permission: ecr:BatchGetImage.
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
                raise aws_error("BatchGetImage", name, code, reason, permission=_permission("BatchGetImage"))
        return {image["imageId"]["imageDigest"]: image["imageManifest"] for image in answer["images"]}

    def image_tags(self, name: str) -> Iterator[str]:
        """Every tag in the repository, 1,000 to a call; none when it is not there. Permission: ecr:ListImages."""
        request: dict[str, Any] = {**self._on(name), "filter": {"tagStatus": "TAGGED"}, "maxResults": 1000}
        while True:
            answer = self._call("ListImages", name, request, {"RepositoryNotFoundException": {"imageIds": []}})
            yield from (image["imageTag"] for image in answer["imageIds"] if "imageTag" in image)
            if not answer.get("nextToken"):
                return
            request["nextToken"] = answer["nextToken"]

    def download_url(self, name: str, digest: str) -> str | None:
        """Where a layer, or an image's configuration, can be fetched for some minutes; None when it is not there.

        The address needs no log-in: it is a secret. Permission: ecr:GetDownloadUrlForLayer.
        """
        answer = self._call(
            "GetDownloadUrlForLayer",
            name,
            {**self._on(name), "layerDigest": digest},
            {"LayersNotFoundException": {"downloadUrl": None}, "RepositoryNotFoundException": {"downloadUrl": None}},
        )
        return cast("str | None", answer["downloadUrl"])

    def authorization(self, session: Session | None = None) -> Credentials:
        """A log-in for this registry, with the rights of this access or of a session, for the shorter of both lives.

        ECR says 12 hours. Permission: ecr:GetAuthorizationToken.
        """
        request = {"registryIds": [self.registry.account]}
        client: Any = session and _session_client(self.registry.region, session)
        try:
            answer = self._call("GetAuthorizationToken", self.registry.account, request, client=client)
        finally:
            if client is not None:
                client.close()
        data = answer["authorizationData"][0]
        username, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
        expires_at: datetime = data["expiresAt"]
        return Credentials(
            username=username,
            password=password,
            expires_at=min(expires_at, session.expires_at) if session else expires_at,
            endpoint=data["proxyEndpoint"],
        )

    def ambient(self) -> Ambient:
        """Whose credentials this process has; asks AWS nothing. Raises RegistryError when it has none."""
        try:
            credentials = _client("sts", self.registry.region, Access(), self.attempts)._get_credentials()
            if credentials is None:
                raise aws.NoCredentialsError()
            found = credentials.get_frozen_credentials()
        except (aws.ClientError, aws.BotoCoreError, OSError) as error:
            raise _translated(error, "GetAuthorizationToken", self.registry.account, Access()) from None
        return Ambient(access_key=found.access_key, long_lived=not found.token)

    def assume(self, access: Access, *, label: str, policy: str, seconds: int) -> Session:
        """A session of a role that may do no more than `policy` allows, under a name that CloudTrail shows.

        Permission: sts:AssumeRole. It is the ambient credentials that need it.
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
        """A session of the IAM user whose keys this process has, that may do no more than `policy` allows.

        Permission: sts:GetFederationToken. It is the ambient credentials that need it.
        """
        request = {"Name": label[:32], "Policy": policy, "DurationSeconds": seconds}
        return _new_session(self._ambient_call("GetFederationToken", label[:32], request, Access()))

    def side_by_side(self, calls: list[Callable[[], T]]) -> list[T | RegistryError]:
        """Run calls of this door at once; a refused one's place holds its RegistryError."""
        _no_open_transaction()
        if len(calls) == 1:
            return [_caught(calls[0])]
        futures: list[Future[T | RegistryError]] = [_executor().submit(_caught, call) for call in calls[1:]]
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
        """One call. An error code in `expected` is answered with its value, or with what that makes of the error; every
        other one raises RegistryError.
        """
        _no_open_transaction()
        for last_try in (client is not None, True):
            self.before_call()
            asked = _before_attempt.set(self.before_attempt)
            _in_flight[call := object()] = (self.registry, name, time.monotonic())
            try:
                through = client or _client("ecr", self.registry.region, self.access, self.attempts)
                answer = through._make_api_call(operation, request)
                self.answered(operation, "")
                return answer
            except aws.ClientError as error:
                code = error.response.get("Error", {}).get("Code", "")
                self.answered(error.operation_name, code)
                if expected is not None and code in expected:
                    answer = expected[code]
                    return answer(error) if callable(answer) else answer
                if code in _EXPIRED and not last_try:
                    forget_clients(self.access)
                    continue
                raise _translated(error, operation, name, self.access) from None
            except (aws.BotoCoreError, OSError) as error:
                raise _translated(error, operation, name, self.access) from None
            finally:
                del _in_flight[call]
                _before_attempt.reset(asked)
        raise AssertionError("unreachable")

    def _ambient_call(self, operation: str, name: str, request: dict[str, Any], access: Access) -> Any:
        """One call of STS with the credentials that this process was started with."""
        _no_open_transaction()
        for last_try in (False, True):
            try:
                client = _client("sts", self.registry.region, Access(), self.attempts)
                return client._make_api_call(operation, request)["Credentials"]
            except (aws.ClientError, aws.BotoCoreError, OSError) as error:
                refused = _translated(error, operation, name, access)
                if refused.code not in _EXPIRED or last_try:
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


def ecr_of(registry: RegistryConfig, host: str) -> Ecr | None:
    """The door to the ECR registry behind a host, with a registry's configured access; None for another registry."""
    found = registry_of(host)
    access = Access(role_arn=registry.assume_role_arn, external_id=registry.assume_role_external_id)
    return None if found is None else Ecr(registry=found, access=access)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message of the event queue. `receives` counts how often it was handed out."""

    id: str
    body: str
    receipt: str
    receives: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQueue:
    """An SQS queue. The region is in its URL, or is the registry's. `seconds`: how long SQS waits for a message."""

    url: str
    region: str
    access: Access
    seconds: int = RECEIVE_SECONDS

    def receive(self) -> list[Message]:
        """Up to ten messages, at once when there are some, else none after `seconds`.

        Permission: sqs:ReceiveMessage. Raises RegistryError.
        """
        answer = self._call(
            "ReceiveMessage",
            {
                "QueueUrl": self.url,
                "MaxNumberOfMessages": 10,
                "WaitTimeSeconds": self.seconds,
                "VisibilityTimeout": 60,
                "MessageSystemAttributeNames": ["ApproximateReceiveCount"],
            },
        )
        return [
            Message(
                id=entry["MessageId"],
                body=entry["Body"],
                receipt=entry["ReceiptHandle"],
                receives=int(entry.get("Attributes", {}).get("ApproximateReceiveCount", "1")),
            )
            for entry in answer.get("Messages", ())
        ]

    def delete(self, messages: Iterable[Message]) -> None:
        """Take messages off the queue. Permission: sqs:DeleteMessage. Raises RegistryError."""
        entries = [{"Id": str(place), "ReceiptHandle": each.receipt} for place, each in enumerate(messages)]
        for start in range(0, len(entries), 10):
            self._call("DeleteMessageBatch", {"QueueUrl": self.url, "Entries": entries[start : start + 10]})

    def _call(self, operation: str, request: dict[str, Any]) -> Any:
        _no_open_transaction()
        name = self.url.rpartition("/")[2]
        try:
            client = _client("sqs", self.region, self.access, ATTEMPTS, waits=self.seconds)
            return client._make_api_call(operation, request)
        except (aws.ClientError, aws.BotoCoreError, OSError) as error:
            raise _translated(error, operation, name, self.access) from None


def _existed(error: aws.ClientError) -> Creation:
    retried = error.response.get("ResponseMetadata", {}).get("RetryAttempts")
    return Creation.UNSURE if retried else Creation.EXISTED


class _Missing:
    """The repository is not there: an answer, not an error."""


_MISSING = _Missing()


def _no_open_transaction() -> None:
    if connection.in_atomic_block:
        raise RuntimeError("AWS must not be asked while a database transaction is open")


def _caught(call: Callable[[], T]) -> T | RegistryError:
    try:
        return call()
    except RegistryError as error:
        return error


def _filters(exclusions: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"filterType": "WILDCARD", "filter": pattern} for pattern in exclusions]


def _tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


# ---------------------------------------------------------------------------------------------------------- errors

_EXPIRED = frozenset({"ExpiredTokenException", "ExpiredToken", "RequestExpired"})
_NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.TokenRetrievalError,
    aws.ProfileNotFound,
    aws.InvalidConfigError,
    aws.SSOError,
    aws.UnauthorizedSSOTokenError,
)


def _translated(error: Exception, operation: str, name: str, access: Access) -> RegistryError:
    """Say once, in words, what boto3 raised. Only here is an AWS error looked at; the words are the catalogue's."""
    if isinstance(error, aws.ClientError):
        body = error.response.get("Error", {})
        meta = error.response.get("ResponseMetadata", {})
        if error.operation_name == "AssumeRole":  # botocore's own, on the way to what was asked
            operation, name = "AssumeRole", access.role_arn or name
        return aws_error(
            operation,
            name,
            body.get("Code", UNKNOWN),
            body.get("Message", ""),
            permission=_permission(operation),
            setting=access.setting,
            request_id=meta.get("RequestId", ""),
            status=meta.get("HTTPStatusCode", 0),
        )
    if isinstance(error, _NO_CREDENTIALS):
        code = "NoCredentials"
    elif isinstance(error, aws.ParamValidationError):
        code = "ParamValidation"
    else:
        code = "Timeout" if isinstance(error, aws.ReadTimeoutError) else "Unreachable"
    return registry_error(code, operation=operation, name=name)


def _permission(operation: str) -> str:
    """The IAM action behind an operation. SQS's batch operations need the permission of the single one."""
    if operation in ("AssumeRole", "GetFederationToken", "GetCallerIdentity"):
        return f"sts:{operation}"
    return f"sqs:{operation.removesuffix('Batch')}" if "Message" in operation else f"ecr:{operation}"


# --------------------------------------------------------------------------------------------- probes for the doctor


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who AWS says we are, and its clock (HTTP's Date: whole seconds)."""

    account: str
    arn: str
    at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """Harmless questions that show what this identity may do: reads of a repository that does not exist.

    “There is no such repository” is said only to those who may ask. Writes cannot be tried without writing. No
    method needs a permission of its own beyond the operator's policy; the one that could use more says so.
    """

    ecr: Ecr

    def identity(self) -> Identity:
        """sts:GetCallerIdentity needs no permission, and no policy can take it away. Raises RegistryError."""
        _no_open_transaction()
        access = self.ecr.access
        try:
            answer = _client("sts", self.ecr.registry.region, access, 1).get_caller_identity()
        except (aws.ClientError, aws.BotoCoreError, OSError) as error:
            raise _translated(error, "GetCallerIdentity", "AWS", access) from None
        said = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
        try:
            at = parsedate_to_datetime(said)
        except ValueError:
            at = None
        return Identity(account=answer["Account"], arn=answer["Arn"], at=at)

    def reads(self, name: str) -> dict[str, Callable[[], object]]:
        """Permission → a question that shows whether we have it; it raises RegistryError if not. `name` must not exist.

        Permissions: ecr:GetRepositoryPolicy, ecr:GetLifecyclePolicy, ecr:ListTagsForResource,
        ecr:DescribeRepositories, ecr:BatchGetImage, ecr:ListImages, ecr:GetAuthorizationToken.
        """
        ecr = self.ecr
        return {
            "ecr:BatchGetImage": lambda: ecr.manifests(name, tag="none"),
            "ecr:DescribeRepositories": lambda: ecr._describe(name),
            "ecr:GetAuthorizationToken": ecr.authorization,
            "ecr:GetLifecyclePolicy": lambda: ecr._lifecycle(name),
            "ecr:GetRepositoryPolicy": lambda: ecr._policy(name),
            "ecr:ListImages": lambda: list(ecr.image_tags(name)),
            "ecr:ListTagsForResource": lambda: ecr._tags(name),
        }

    def registry_policy(self) -> tuple[str | None, str | None]:
        """(the registry-wide policy, its scope V1 or V2), each None where there is none or it cannot be known.

        Beyond the operator's policy, and worth allowing only for this look: ecr:GetRegistryPolicy and
        ecr:GetAccountSetting. Raises RegistryError when the first is refused.
        """
        account = self.ecr.registry.account
        answer = self.ecr._call(
            "GetRegistryPolicy", account, {}, {"RegistryPolicyNotFoundException": {"policyText": None}}
        )
        try:
            scope = self.ecr._call("GetAccountSetting", account, {"name": "REGISTRY_POLICY_SCOPE"})["value"]
        except RegistryError:
            scope = None
        return answer["policyText"], scope

    def events_queue(self, url: str) -> None:
        """Ask the queue to delete a message that it never gave out: nothing is received, nothing is lost.

        Permission: sqs:DeleteMessage. Raises RegistryError when the queue is not there or refuses us.
        """
        queue = EventQueue(url=url, region=self.ecr.registry.region, access=self.ecr.access)
        queue.delete([Message(id="probe", body="", receipt="registry-admin-doctor", receives=0)])
