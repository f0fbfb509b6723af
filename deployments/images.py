"""Names: registry hosts, repository names, versions, tags, image refs, and the ids and tokens that we make.

Pure: no clock, no network, no database. The `trigger.dev` CLI and ECR require these formats. The table of AWS
partitions is an argument (`deployments.aws.partitions` makes it from botocore's data).
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_BASE58ISH = "123456789abcdefghijkmnopqrstuvwxyz"  # the CLI's alphabet for ids and tokens: no 0, no l
_BASE36 = "0123456789" + _LETTERS
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(
    rf"(?P<host>{_LABEL}(?:\.{_LABEL})*|\[(?P<ipv6>[0-9A-Fa-f:.]+)\])(?::(?P<port>\d{{1,5}}))?", re.ASCII
)
# ECR's pattern for a repository name (botocore's service model); a namespace is the beginning of such a name.
_NAMESPACE = re.compile(r"(?:[a-z0-9]+(?:[._-][a-z0-9]+)*/)*[a-z0-9]+(?:[._-][a-z0-9]+)*")
_ECR_HOST = re.compile(
    r"(?P<account>\d{12})\.(?P<service>dkr\.ecr|dkr-ecr)(?P<fips>-fips)?\.(?P<region>[a-z0-9-]+)\.(?P<suffix>[a-z0-9.-]+)"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """An AWS partition: its regions and the endings of its host names. The data is botocore's."""

    name: str
    regions: frozenset[str]
    region_pattern: str  # regular expression; it also matches regions that are newer than the table
    dns_suffix: str
    dual_stack_suffix: str

    def has(self, region: str) -> bool:
        """Whether the region is, or by its name could be, in this partition. aws-global and its like are no regions."""
        known = region in self.regions or re.fullmatch(self.region_pattern, region) is not None
        return known and not region.endswith("-global")


@dataclass(frozen=True, slots=True, kw_only=True)
class EcrRegistry:
    """An account's ECR registry in one region."""

    account: str
    region: str
    partition: str

    def repository_arn(self, name: str) -> str:
        """The ARN of a repository in this registry."""
        return f"arn:{self.partition}:ecr:{self.region}:{self.account}:repository/{name}"


def parse_ecr_host(host: str, partitions: Iterable[Partition]) -> EcrRegistry | None:
    """The ECR registry that a host name means, in any partition, also FIPS and dual-stack; None for any other host."""
    match = _ECR_HOST.fullmatch(host)
    if match is None:
        return None
    for partition in partitions:
        suffix = partition.dns_suffix if match["service"] == "dkr.ecr" else partition.dual_stack_suffix
        if match["suffix"] == suffix and partition.has(match["region"]):
            return EcrRegistry(account=match["account"], region=match["region"], partition=partition.name)
    return None


def is_registry_host(text: str) -> bool:
    """Whether the text has the form `host` or `host:port` and could exist.

    The host is a DNS name, an IPv4 address, or an IPv6 address in brackets: the grammar of image references in the
    distribution project's package `reference`.
    """
    match = _HOST.fullmatch(text)
    if match is None or len(text) > 253 or not 0 < int(match["port"] or 1) <= 65_535:
        return False
    if match["ipv6"] or re.fullmatch(r"[\d.]+", match["host"]):
        try:
            ipaddress.ip_address(match["ipv6"] or match["host"])
        except ValueError:
            return False
    return True


def is_namespace(text: str) -> bool:
    """Whether `text/proj_xxxxxxxxxxxxxxxxxxxx` is a repository name that ECR accepts (2–256 characters)."""
    return len(text) <= 230 and _NAMESPACE.fullmatch(text) is not None and text[0] in _LETTERS


def is_digest(text: str | None) -> bool:
    """Whether the text is a sha256 digest. The CLI sends the value of buildx's metadata file unchecked."""
    return text is not None and _DIGEST.fullmatch(text) is not None


_PREVIEW = "-preview"


def repository_name(*, namespace: str, project_ref: str, is_preview: bool = False) -> str:
    """The name of a project's repository: `namespace/proj_…`, or `namespace/proj_…-preview` for its previews."""
    return f"{namespace}/{project_ref}" + _PREVIEW * is_preview


def possible_refs(name: str, *, namespace: str) -> tuple[str, ...]:
    """The project refs to which the name of a repository can belong. A project with the first ref owns it."""
    ref = name.removeprefix(f"{namespace}/")
    return (ref, ref.removesuffix(_PREVIEW)) if ref.endswith(_PREVIEW) else (ref,)


def tag(*, version: str, environment_type: str, short_code: str) -> str:
    """`VERSION.ENVTYPE.SHORTCODE`. The short code is needed because branches share a repository and version numbers."""
    return f"{version}.{environment_type.lower()}.{short_code}"


@dataclass(frozen=True, slots=True)
class Tag:
    """The parts of a tag that `tag` made."""

    version: Version
    environment_type: str  # as `EnvironmentType` writes it: PRODUCTION
    short_code: str


def parse_tag(text: str) -> Tag | None:
    """The inverse of `tag`; None for a tag of another form."""
    match = re.fullmatch(r"(\d{8}\.[1-9]\d{0,8})\.([a-z]+)\.([0-9a-z]{8})", text, re.ASCII)
    return Tag(Version.parse(match[1]), match[2].upper(), match[3]) if match else None


def image_ref(*, host: str, repository: str, tag: str, digest: str | None = None) -> str:
    """`host/repository:tag`, with `@sha256:…` if a digest is given."""
    ref = f"{host}/{repository}:{tag}"
    return f"{ref}@{digest}" if digest else ref


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A deployment's version `YYYYMMDD.N`. Ordered by day, then by number: .10 is newer than .9."""

    day: str
    number: int

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read `YYYYMMDD.N`. Raises ValueError for a text of another form."""
        match = re.fullmatch(r"(\d{8})\.([1-9]\d{0,8})", text, re.ASCII)
        if match is None:
            raise ValueError("a version has the form YYYYMMDD.N")
        return cls(match[1], int(match[2]))

    def __str__(self) -> str:
        return f"{self.day}.{self.number}"


def version_day(day: date) -> str:
    """`YYYYMMDD`."""
    return day.strftime("%Y%m%d")


def _random(alphabet: str, length: int) -> str:
    number, text = secrets.randbelow(len(alphabet) ** length), ""
    for _ in range(length):
        number, letter = divmod(number, len(alphabet))
        text += alphabet[letter]
    return text


def new_project_ref() -> str:
    """`proj_` and 20 letters. ECR accepts such a ref at the end of a repository name."""
    return f"proj_{_random(_LETTERS, 20)}"


def is_project_ref(text: str) -> bool:
    """Whether an operator may choose this ref.

    It begins with `proj_`, ECR accepts it in a repository name, and it does not end as the name of another project's
    repository for preview may.
    """
    if text.endswith(_PREVIEW):
        return False
    return len(text) <= 64 and re.fullmatch(r"proj_[a-z0-9]+(?:[._-][a-z0-9]+)*", text) is not None


def new_id(kind: str) -> str:
    """`deployment_…`, `worker_…`, `task_…`: the kind and 21 characters without 0 and l, which are easily confused.

    The first character is a letter, because Django's admin reads “_22” in a URL as an escaped character.
    """
    return f"{kind}_{_random(_LETTERS.replace('l', ''), 1)}{_random(_BASE58ISH, 20)}"


def new_short_code() -> str:
    """8 letters and digits, unique in a project (a constraint checks it)."""
    return _random(_BASE36, 8)


def new_user_token() -> str:
    """A personal access token in the form that the CLI requires: 40 of 34 characters, more than 200 random bits."""
    return f"tr_pat_{_random(_BASE58ISH, 40)}"


def new_environment_key(prefix: str) -> str:
    """`tr_{prod|stg|preview|dev}_` and 24 letters and digits, more than 120 random bits."""
    return f"tr_{prefix}_{_random(_BASE36, 24)}"
