"""What AWS answers, as values: repositories as they are seen, credentials, messages. No secret is in their repr."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from deployments.config import RegistryConfig
from deployments.errors import RegistryError


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What DescribeRepositories, GetLifecyclePolicy and ListTagsForResource say of one repository."""

    created_at: datetime
    mutability: str
    exclusions: tuple[str, ...]
    encryption: str
    kms_key: str | None
    lifecycle: str | None  # None: has none
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What a page of DescribeRepositories says of one repository."""

    name: str
    created_at: datetime
    mutability: str
    exclusions: tuple[str, ...]
    encryption: str
    kms_key: str | None


class CreateOutcome(Enum):
    """What CreateRepository came to."""

    CREATED = "created"
    EXISTED = "existed"  # AWS said so at the first try: somebody else's
    UNSURE = "unsure"  # AWS said so at a retry: perhaps our own first try made it, and its answer was lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One look at one repository. A part that AWS refused to show is that part's RegistryError."""

    exists: bool
    policy: str | RegistryError | None = None  # None: has none
    details: Details | RegistryError | None = None  # None: not asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryLogin:
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

    @classmethod
    def of(cls, config: RegistryConfig) -> Access:
        """As a registry's settings say."""
        return cls(role_arn=config.assume_role_arn, external_id=config.assume_role_external_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message of the event queue. `receives` counts how often it was handed out."""

    id: str
    body: str
    receipt: str
    receives: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who AWS says we are, and its clock (HTTP's Date: whole seconds)."""

    account: str
    arn: str
    at: datetime | None
