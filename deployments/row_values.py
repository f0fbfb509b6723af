"""The values of JSON columns as typed values. Pure: no Django, no rows.

Each class has `from_row`, which reads the stored JSON, and `as_row`, which makes it. Only these two know the stored
keys. The keys never change, because rows of every version have them. A missing key, or a word that only a newer version
knows, is not an error, because the program may be one version older than its database.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class Management(StrEnum):
    """How much of a repository we manage (`deployments.reconcile.ownership`)."""

    UNMANAGED = "unmanaged"  # a sweep discovered it, and nobody adopted it
    ADOPTED = "adopted"  # a lifecycle policy and a tag mutability that somebody else chose stay
    FULL = "full"  # we created it, or an operator took it over


#: The repositories that a sweep checks.
MANAGED = (Management.ADOPTED, Management.FULL)


class Part(StrEnum):
    """The parts of a repository that the configuration can differ in."""

    POLICY = "policy"
    LIFECYCLE = "lifecycle"
    TAGS = "tags"
    MUTABILITY = "mutability"
    ENCRYPTION = "encryption"
    OTHER = "other"  # a part that only a newer version knows


_PARTS = {part.value: part for part in Part}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One way in which a repository is not as configured. `fixable`: we may correct it."""

    part: Part
    words: str
    fixable: bool
    waits: bool = False  # we write it only after a condition that `words` names, not at the next attempt

    @property
    def is_incomparable(self) -> bool:
        """Whether the repository policy cannot be compared: the only difference of a policy that we may not correct."""
        return self.part is Part.POLICY and not self.fixable

    @classmethod
    def from_row(cls, stored: Mapping[str, Any]) -> Difference:
        return cls(
            part=_PARTS.get(stored.get("what", ""), Part.OTHER),
            words=str(stored.get("words", "")),
            fixable=bool(stored.get("writable")),
            waits=bool(stored.get("waits")),
        )

    def as_row(self) -> dict[str, Any]:
        row: dict[str, Any] = {"what": self.part.value, "words": self.words, "writable": self.fixable}
        return row | {"waits": True} if self.waits else row


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewResult:
    """What AWS's preview of a lifecycle policy said about the images of a repository that must stay."""

    text: str  # digest of the lifecycle policy
    images: str  # digest of the images that must stay
    at: str  # ISO 8601: when a sweep asked
    words: str = ""  # why the policy is not safe, or not known to be; empty: it is safe, or no sweep has asked yet
    then: str = ""  # what the next sweep does: read the result, start the preview; empty: nothing until it is due
    suggestion: str = ""  # a lifecycle policy that keeps the images; empty: none is known

    @classmethod
    def from_row(cls, stored: Mapping[str, Any]) -> PreviewResult:
        return cls(**{name: str(stored.get(name, "")) for name in cls.__dataclass_fields__})

    def as_row(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerPull:
    """Whether a consumer account may pull, by the policies of a repository and of its registry."""

    verdict: str  # yes, no, depends, unknown (a policy that was not read could turn the answer around)
    words: str
    layer: str = ""  # the policy whose statement decides; empty: no statement does
    statement: str = ""

    @classmethod
    def from_row(cls, stored: Mapping[str, Any]) -> ConsumerPull:
        return cls(
            verdict=str(stored.get("pull", "depends")),
            words=str(stored.get("words", "")),
            layer=str(stored.get("layer", "")),
            statement=str(stored.get("statement", "")),
        )

    def as_row(self) -> dict[str, Any]:
        return {"pull": self.verdict, "words": self.words} | _deciding(self.layer, self.statement)


def _deciding(layer: str, statement: str) -> dict[str, str]:
    return {"layer": layer, "statement": statement} if layer else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptedStatement:
    """A statement of others that an operator lets stay in the policy."""

    statement: str  # as `policy.ForeignStatement.text`
    reason: str
    by: str
    at: str  # ISO 8601

    @property
    def name(self) -> str:
        """Its Sid; without one, words in its place."""
        return str(json.loads(self.statement).get("Sid", "without a Sid"))

    @classmethod
    def from_row(cls, stored: Mapping[str, Any]) -> AdoptedStatement:
        return cls(**{name: str(stored.get(name, "")) for name in ("statement", "reason", "by", "at")})

    def as_row(self) -> dict[str, str]:
        return {"statement": self.statement, "reason": self.reason, "by": self.by, "at": self.at}


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenStatement:
    """A statement of others that a look has found in the policy, or that an operator has refused."""

    statement: str  # as `policy.ForeignStatement.text`
    first_seen: str  # ISO 8601
    by: str = ""  # who called SetRepositoryPolicy before, by CloudTrail's event; empty: no event brought it
    kept: bool = False  # at the last look; False also if it was not in the policy then
    refused_by: str = ""  # empty: nobody has refused it
    refused_at: str = ""  # ISO 8601
    reason: str = ""  # why it was refused

    @property
    def since(self) -> datetime:
        """When a look found it first."""
        return datetime.fromisoformat(self.first_seen)

    @property
    def name(self) -> str:
        """Its Sid; without one, words in its place."""
        return str(json.loads(self.statement).get("Sid", "without a Sid"))

    @classmethod
    def from_row(cls, stored: Mapping[str, Any]) -> SeenStatement:
        texts = ("statement", "first_seen", "by", "refused_by", "refused_at", "reason")
        return cls(**{name: str(stored.get(name, "")) for name in texts}, kept=bool(stored.get("kept")))

    def as_row(self) -> dict[str, Any]:
        return {name: value for name in self.__dataclass_fields__ if (value := getattr(self, name))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutability:
    """ECR's tag mutability, and the tags that are excluded from it. Empty: never observed."""

    mode: str = ""
    exclusions: tuple[str, ...] = ()

    @classmethod
    def from_row(cls, stored: Mapping[str, Any]) -> Mutability:
        return cls(mode=str(stored.get("mode", "")), exclusions=tuple(stored.get("exclusions", ())))

    def as_row(self) -> dict[str, Any]:
        return {"mode": self.mode, "exclusions": list(self.exclusions)} if self.mode else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """How ECR encrypts a repository. Empty: never observed."""

    type: str = ""  # AES256, KMS
    kms_key: str | None = None

    @classmethod
    def from_row(cls, stored: Mapping[str, Any]) -> Encryption:
        return cls(type=str(stored.get("type", "")), kms_key=stored.get("kms_key"))

    def as_row(self) -> dict[str, Any]:
        return {"type": self.type, "kms_key": self.kms_key} if self.type else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvedPull:
    """Whether a consumer account can pull an image, and `how` this was found out. A certain no is no receipt."""

    how: str  # trial: the two calls of a pull succeeded with `roles`; policy: by the policies
    words: str
    verdict: str = "yes"  # yes, depends, unknown, as in ConsumerPull
    roles: tuple[str, ...] = ()
    layer: str = ""  # the policy whose statement decides, as in ConsumerPull
    statement: str = ""
    basis: str = ""  # a sentence: which policies the answer rests on, and what was not seen

    @classmethod
    def from_row(cls, stored: Mapping[str, Any]) -> ProvedPull:
        texts = {name: str(stored.get(name, "")) for name in ("how", "words", "layer", "statement", "basis")}
        return cls(verdict=str(stored.get("pull", "yes")), roles=tuple(stored.get("roles", ())), **texts)

    def as_row(self) -> dict[str, Any]:
        return (
            {"pull": self.verdict, "how": self.how, "words": self.words, "roles": list(self.roles)}
            | _deciding(self.layer, self.statement)
            | ({"basis": self.basis} if self.basis else {})
        )

    @property
    def can_pull(self) -> bool:
        """Whether the account can pull, as far as was seen."""
        return self.verdict == "yes"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogIn:
    """What the last registry log-in of a deployment opens: names and patterns of repositories of its registry.

    `push`: to push to and to pull from. `left_out`: what did not fit into the policy of its session.
    """

    push: tuple[str, ...]
    pull: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    expires_at: str = ""  # ISO 8601

    @property
    def ends(self) -> datetime | None:
        """When it ends, as a time; None if the row does not have it."""
        return datetime.fromisoformat(self.expires_at) if self.expires_at else None

    @classmethod
    def from_row(cls, stored: Mapping[str, Any]) -> LogIn:
        names = {name: tuple(stored.get(name, ())) for name in ("push", "pull", "left_out")}
        return cls(**names, expires_at=stored.get("expires_at", ""))

    def as_row(self) -> dict[str, Any]:
        return {
            "push": list(self.push),
            "pull": list(self.pull),
            "left_out": list(self.left_out),
            "expires_at": self.expires_at,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What was verified about an image before its promotion, or why nothing was (`unproved`)."""

    at: str  # ISO 8601
    digest: str = ""
    platforms: tuple[str, ...] = ()
    pullers: Mapping[str, ProvedPull] = field(default_factory=dict)  # by account
    # Only for a verified image:
    repository: str = ""  # with the registry's host
    manifests: int = 0
    layers: int = 0
    policy: str = ""  # digest of the policy text by which the pulls were evaluated
    # Only for an image that was not verified:
    unproved: str = ""
    code: str = ""  # code of the refusal, if there was one

    @property
    def is_proved(self) -> bool:
        """Whether the image was verified."""
        return not self.unproved

    @classmethod
    def from_row(cls, stored: Mapping[str, Any]) -> Receipt:
        known = {name: stored[name] for name in cls.__dataclass_fields__ if name in stored}
        pullers = {account: ProvedPull.from_row(each) for account, each in stored.get("pullers", {}).items()}
        return cls(**{"at": "", **known, "platforms": tuple(stored.get("platforms", ())), "pullers": pullers})

    def as_row(self) -> dict[str, Any]:
        proved: dict[str, Any] = {
            "at": self.at,
            "repository": self.repository,
            "digest": self.digest,
            "platforms": list(self.platforms),
            "manifests": self.manifests,
            "layers": self.layers,
            "policy": self.policy,
            "pullers": {account: each.as_row() for account, each in self.pullers.items()},
        }
        if self.is_proved:
            return proved
        refused = {"unproved": self.unproved} | ({"code": self.code} if self.code else {})
        return {name: proved[name] for name in ("at", "digest", "platforms", "pullers")} | refused
