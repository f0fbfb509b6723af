"""Names: registry hosts, repository names, versions, tags, image refs, and the ids that we hand out.

Pure: no clock, no network, no database. The formats are those that the `trigger.dev` CLI and ECR expect; the table
of AWS partitions is handed in (`deployments.aws` has it, and botocore's data is its source).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_BASE58ISH = "123456789abcdefghijkmnopqrstuvwxyz"  # the CLI's alphabet for ids and tokens: no 0, no l
_BASE36 = "0123456789" + _LETTERS
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:\d{1,5})?")
# ECR's own pattern for a repository name (botocore's service model), applied to its beginning.
_NAMESPACE = re.compile(r"(?:[a-z0-9]+(?:[._-][a-z0-9]+)*/)*[a-z0-9]+(?:[._-][a-z0-9]+)*")
_ECR_HOST = re.compile(
    r"(?P<account>\d{12})\.(?P<service>dkr\.ecr|dkr-ecr)(?P<fips>-fips)?\.(?P<region>[a-z0-9-]+)\.(?P<suffix>[a-z0-9.-]+)"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """An AWS partition: its regions, and what its host names end in. Data, never a list of ours."""

    name: str
    regions: frozenset[str]
    region_pattern: str  # regions that are newer than the table
    dns_suffix: str
    dual_stack_suffix: str

    def has(self, region: str) -> bool:
        return region in self.regions or re.fullmatch(self.region_pattern, region) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class EcrRegistry:
    """An account's ECR registry in one region."""

    account: str
    region: str
    partition: str

    def repository_arn(self, name: str) -> str:
        return f"arn:{self.partition}:ecr:{self.region}:{self.account}:repository/{name}"


def parse_ecr_host(host: str, partitions: Iterable[Partition]) -> EcrRegistry | None:
    """The ECR registry that a host names, in any partition, FIPS or dual-stack; None for every other host."""
    match = _ECR_HOST.fullmatch(host)
    if match is None:
        return None
    for partition in partitions:
        suffix = partition.dns_suffix if match["service"] == "dkr.ecr" else partition.dual_stack_suffix
        if match["suffix"] == suffix and partition.has(match["region"]):
            return EcrRegistry(account=match["account"], region=match["region"], partition=partition.name)
    return None


def is_registry_host(text: str) -> bool:
    return len(text) <= 253 and _HOST.fullmatch(text) is not None


def is_namespace(text: str) -> bool:
    """Whether `text/proj_xxxxxxxxxxxxxxxxxxxx` is a repository name that ECR takes (2–256 characters in all)."""
    return len(text) <= 230 and _NAMESPACE.fullmatch(text) is not None and text[0] in _LETTERS


def is_digest(text: str | None) -> bool:
    """Whether this is a sha256 digest. The CLI passes on whatever stands in buildx's metadata file."""
    return text is not None and _DIGEST.fullmatch(text) is not None


def repository_name(*, namespace: str, project_ref: str) -> str:
    return f"{namespace}/{project_ref}"


def tag(*, version: str, environment_type: str, short_code: str) -> str:
    """VERSION.ENVTYPE.SHORTCODE. The short code keeps branches apart that share a version and a repository."""
    return f"{version}.{environment_type.lower()}.{short_code}"


@dataclass(frozen=True, slots=True)
class Tag:
    """What a tag of ours says."""

    version: Version
    environment_type: str  # as `EnvironmentType` writes it: PRODUCTION
    short_code: str


def parse_tag(text: str) -> Tag | None:
    """The inverse of `tag`; None for a tag of another form."""
    match = re.fullmatch(r"(\d{8}\.[1-9]\d{0,8})\.([a-z]+)\.([0-9a-z]{8})", text, re.ASCII)
    return Tag(Version.parse(match[1]), match[2].upper(), match[3]) if match else None


def image_ref(*, host: str, repository: str, tag: str, digest: str | None = None) -> str:
    ref = f"{host}/{repository}:{tag}"
    return f"{ref}@{digest}" if digest else ref


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A deployment's version `YYYYMMDD.N`. Ordered by day, then by number: .10 is newer than .9."""

    day: str
    number: int

    @classmethod
    def parse(cls, text: str) -> Version:
        """Raises ValueError for a text of another form."""
        match = re.fullmatch(r"(\d{8})\.([1-9]\d{0,8})", text, re.ASCII)
        if match is None:
            raise ValueError("a version reads YYYYMMDD.N")
        return cls(match[1], int(match[2]))

    def __str__(self) -> str:
        return f"{self.day}.{self.number}"


def version_day(day: date) -> str:
    return day.strftime("%Y%m%d")


def _random(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


def new_project_ref() -> str:
    """`proj_` and 20 letters, so that it is a legal end of a repository name."""
    return f"proj_{_random(_LETTERS, 20)}"


def is_project_ref(text: str) -> bool:
    """Whether a ref that an operator brings along can be one: `proj_…`, and legal at the end of a repository name."""
    return len(text) <= 64 and re.fullmatch(r"proj_[a-z0-9]+(?:[._-][a-z0-9]+)*", text) is not None


def new_id(kind: str) -> str:
    """`deployment_…`, `worker_…`, `task_…`: 21 characters that are never mistaken for one another.

    A letter comes first: Django's admin reads “_22” in an address as an escaped character.
    """
    return f"{kind}_{_random(_LETTERS.replace('l', ''), 1)}{_random(_BASE58ISH, 20)}"


def new_short_code() -> str:
    return _random(_BASE36, 8)


def new_user_token() -> str:
    """A personal access token as the CLI recognises it; 40 characters of 34 are over 200 bits."""
    return f"tr_pat_{_random(_BASE58ISH, 40)}"


def new_environment_key(prefix: str) -> str:
    """`tr_{prod|stg|preview|dev}_` and 24 letters and digits, over 120 bits."""
    return f"tr_{prefix}_{_random(_BASE36, 24)}"
