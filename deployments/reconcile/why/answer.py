"""The answer about a pull that failed, as a value: a layer, since when, the facts, and the next steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from deployments.aws.values import DescribedImage
from deployments.errors import RegistryError
from deployments.models import Deployment, Repository
from deployments.policy import RegistryPolicy
from deployments.pull_failures import PullFailure


class Layer(StrEnum):
    """Where a pull ends. The values are in `--json` and never change."""

    REPOSITORY_POLICY = "repository_policy"
    REGISTRY_POLICY = "registry_policy"
    IDENTITY = "identity"
    ORGANIZATION = "organization"
    LOG_IN = "log_in"
    WRONG_HOST = "wrong_host"
    NO_IMAGE = "no_image"
    ARCHIVED = "archived"
    PLATFORM = "platform"
    NETWORK = "network"
    THROTTLED = "throttled"
    NOT_OURS = "not_ours"
    UNKNOWN = "unknown"

    @property
    def words(self) -> str:
        """The layer for people."""
        return _WORDS[self]


_WORDS = {
    Layer.REPOSITORY_POLICY: "the repository policy",
    Layer.REGISTRY_POLICY: "the registry policy",
    Layer.IDENTITY: "the identity of the node (its IAM role)",
    Layer.ORGANIZATION: "a policy of the AWS organization",
    Layer.LOG_IN: "the log-in of the node",
    Layer.WRONG_HOST: "the account, region or host of the image ref",
    Layer.NO_IMAGE: "an image that does not exist",
    Layer.ARCHIVED: "an archived image",
    Layer.PLATFORM: "the platform of the image",
    Layer.NETWORK: "the network between the node and the registry",
    Layer.THROTTLED: "throttling: AWS asks for fewer requests",
    Layer.NOT_OURS: "a registry that this installation does not manage",
    Layer.UNKNOWN: "cannot be known from here",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to do next. `command`: for a shell; its parts are quoted."""

    words: str
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What AWS answered to GetRepositoryPolicy, GetRegistryPolicy (with GetAccountSetting) and DescribeImages.

    `policy` None: the repository has no policy. `image` None: there is no such image.
    """

    at: datetime
    calls: Mapping[str, int]
    exists: bool | None = None  # None: AWS did not say
    policy: str | RegistryError | None = None
    registry: RegistryPolicy | RegistryError | None = None  # None: it was not asked for
    image: DescribedImage | RegistryError | None = None
    asked_for_image: bool = False

    @property
    def words(self) -> str:
        """Which calls were made, for people."""
        return ", ".join(f"{name} {number}" for name, number in sorted(self.calls.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """The answer. `certain`: the message, or an observation, leaves no other layer."""

    failure: PullFailure
    layer: Layer
    certain: bool
    says: str
    possible: tuple[Layer, ...] = ()  # the other layers that remain
    since: datetime | None = None
    since_words: str = ""
    facts: tuple[str, ...] = ()
    not_known: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    repository: Repository | None = None
    deployments: tuple[Deployment, ...] = ()
    can_look: bool = False  # AWS could be asked about this repository
    look: Look | None = None

    @property
    def title(self) -> str:
        """The layer as a heading."""
        words = self.layer.words
        if self.layer is Layer.UNKNOWN:
            return "It cannot be known from here"
        return f"{words[0].upper()}{words[1:]}" if self.certain else f"Probably {words}"

    @property
    def others(self) -> str:
        """The other layers that remain, for people; empty if none does."""
        return f"Possible too: {'; '.join(layer.words for layer in self.possible)}." if self.possible else ""

    def as_document(self) -> dict[str, Any]:
        """The answer as JSON values."""
        failure = self.failure
        names = (
            "host",
            "account",
            "region",
            "repository",
            "tag",
            "digest",
            "principal",
            "caller",
            "action",
            "platform",
        )
        return {
            "layer": self.layer.value,
            "certain": self.certain,
            "possible": [layer.value for layer in self.possible],
            "says": self.says,
            "since": self.since.isoformat() if self.since else None,
            "since_words": self.since_words,
            "facts": list(self.facts),
            "not_known": list(self.not_known),
            "next": [{"words": step.words, "command": step.command} for step in self.steps],
            "message": {
                "form": failure.shape.name if failure.shape else None,
                "cause": failure.cause.value if failure.cause else None,
                "source": failure.shape.source if failure.shape else None,
                **{name: getattr(failure, name) for name in names},
            },
            "repository": self.repository
            and {"id": self.repository.pk, "name": self.repository.name, "status": self.repository.status},
            "deployments": [
                {
                    "id": row.pk,
                    "version": str(row.version),
                    "project": row.project.ref,
                    "environment": str(row.environment),
                }
                for row in self.deployments
            ],
            "looked": {"at": self.look.at.isoformat(), "calls": dict(self.look.calls)} if self.look else None,
        }
