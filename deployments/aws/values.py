"""AWS's answers as values: observations of repositories, credentials, messages. Their repr contains no secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from deployments.errors import RegistryError


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """The answers of DescribeRepositories, GetLifecyclePolicy and ListTagsForResource about one repository."""

    created_at: datetime
    mutability: str
    exclusions: tuple[str, ...]
    encryption: str
    kms_key: str | None
    lifecycle: str | None  # the lifecycle policy; None: the repository has no lifecycle policy
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One repository in an answer of DescribeRepositories."""

    name: str
    created_at: datetime
    mutability: str
    exclusions: tuple[str, ...]
    encryption: str
    kms_key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedImage:
    """One image in an answer of DescribeImages. AWS does not say there which platforms an image is for.

    `size`: in bytes, compressed; of an index that of its largest image. `pulled_at`: of the last pull that AWS
    recorded, exact to 24 hours. `subject`: the digest of the image that a referrer (a signature, an attestation) is
    about. (*ImageDetail*, Amazon ECR API Reference)
    """

    digest: str
    status: str  # ACTIVE, ARCHIVED, ACTIVATING
    pushed_at: datetime | None
    archived_at: datetime | None
    pulled_at: datetime | None = None
    tags: tuple[str, ...] = ()
    size: int | None = None
    media_type: str = ""  # of the manifest
    artifact_type: str = ""
    subject: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedImages:
    """One answer of DescribeImages about a repository. `next_token`: for the call after it; empty: there is no more."""

    images: tuple[DescribedImage, ...]
    next_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewedImage:
    """One image that a lifecycle policy would expire or archive, in an answer of GetLifecyclePolicyPreview."""

    digest: str
    tags: tuple[str, ...]
    action: str  # EXPIRE, TRANSITION (to the archive)
    rule: int  # the priority of the rule that decides


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecyclePreview:
    """The newest preview of a repository. `images` is empty unless the status is COMPLETE."""

    text: str  # the lifecycle policy that is previewed
    status: str  # IN_PROGRESS, COMPLETE, EXPIRED, FAILED
    images: tuple[PreviewedImage, ...] = ()


class CreateOutcome(Enum):
    """The result of CreateRepository."""

    CREATED = "created"
    EXISTED = "existed"  # AWS answered “already exists” to the first try, so somebody else created the repository
    UNSURE = "unsure"  # AWS answered “already exists” to a retry; the first try may have created it, its answer lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One observation of one repository. A part that AWS refused to show is a RegistryError."""

    exists: bool
    policy: str | RegistryError | None = None  # None: the repository has no policy
    details: Details | RegistryError | None = None  # None: the details were not requested


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryLogin:
    """A log-in for a registry. `endpoint` is ECR's proxyEndpoint; in the sandbox it is not the registry's host."""

    username: str
    password: str = field(repr=False)
    expires_at: datetime | None
    endpoint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Temporary credentials with fewer rights than the identity that made them."""

    access_key: str
    secret: str = field(repr=False)
    token: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ambient:
    """The credentials of this process. `long_lived`: the access key of an IAM user, not of a session."""

    access_key: str
    long_lived: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message of the event queue. `receives`: how often SQS has delivered it, this time included."""

    id: str
    body: str
    receipt: str
    receives: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The identity that AWS sees, and AWS's clock (the HTTP header Date, in whole seconds; None if unreadable)."""

    account: str
    arn: str
    at: datetime | None
