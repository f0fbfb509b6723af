"""What kubelet, containerd, docker, ECS or buildx printed when it could not pull an image, as a value.

Pure: no Django, no rows, no network. `read` finds the first row of `SHAPES` that the text matches, and the image, the
principal and the action that the text names. It does not say who is at fault: `deployments.reconcile.why` adds what
the rows know.

A pasted text is somebody's log and may contain credentials, so `read` masks the text first (`masked`), and everything
that it returns comes from the masked text (D-why). Names go into commands that a person copies: a name that does not
have AWS's or the registry's own grammar is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from deployments.images import Partition, parse_ecr_host

MAX_BYTES = 8 * 1024  # of a pasted text, in UTF-8
MASK = "[masked]"


class Cause(StrEnum):
    """What a message says by itself."""

    GRANTED_BY_NO_RESOURCE_POLICY = "granted_by_no_resource_policy"
    DENIED_BY_RESOURCE_POLICY = "denied_by_resource_policy"
    IDENTITY = "identity"  # an identity policy, a permissions boundary or a session policy
    ORGANIZATION = "organization"  # a service control policy or a resource control policy
    ENDPOINT_POLICY = "endpoint_policy"  # the policy of a VPC endpoint
    REFUSED = "refused"  # 403, or “not authorized” without the kind of policy
    LOG_IN_EXPIRED = "log_in_expired"
    NO_LOG_IN = "no_log_in"
    NO_REPOSITORY = "no_repository"
    NO_IMAGE = "no_image"
    PLATFORM = "platform"
    LAYER_STORAGE = "layer_storage"  # S3, which stores the layers, refused
    NO_HOST = "no_host"  # the name of the host has no address
    CERTIFICATE = "certificate"
    NETWORK = "network"
    THROTTLED = "throttled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One form of message. `source`: a public report with this message, or the documentation of its form."""

    name: str
    cause: Cause
    pattern: re.Pattern[str]
    source: str


def _shape(name: str, cause: Cause, pattern: str, source: str) -> Shape:
    return Shape(name=name, cause=cause, pattern=re.compile(pattern, re.IGNORECASE), source=source)


_IAM = "https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html"
_ISSUE = "https://github.com/{}/issues/{}"

#: In this order: a message often has several of these forms, and the first one here says the most.
SHAPES: tuple[Shape, ...] = (
    # GetAuthorizationToken has no resource, so no repository policy can allow it (Service Authorization Reference).
    _shape(
        "get-authorization-token",
        Cause.IDENTITY,
        r"not authorized to perform: ecr:GetAuthorizationToken",
        _ISSUE.format("buildkite/elastic-ci-stack-for-aws", 193),
    ),
    _shape(
        "resource-policy-grants-nothing",
        Cause.GRANTED_BY_NO_RESOURCE_POLICY,
        r"because no resource-based policy allows",
        _ISSUE.format("aws-actions/amazon-ecr-login", 232),
    ),
    _shape(
        "resource-policy-denies", Cause.DENIED_BY_RESOURCE_POLICY, r"explicit deny in a resource-based policy", _IAM
    ),
    _shape(
        "identity-policy-grants-nothing",
        Cause.IDENTITY,
        r"because no identity-based policy allows",
        _ISSUE.format("everything2/everything2", 2562),
    ),
    _shape(
        "identity-side",
        Cause.IDENTITY,
        r"(?:because no|explicit deny in an?) (?:identity-based policy|permissions boundary|session policy)",
        _IAM,
    ),
    _shape(
        "organization-policy",
        Cause.ORGANIZATION,
        r"(?:because no|explicit deny in an?) (?:service|resource) control policy",
        _IAM,
    ),
    _shape("endpoint-policy", Cause.ENDPOINT_POLICY, r"(?:because no|explicit deny in an?) VPC endpoint policy", _IAM),
    _shape(
        "not-authorized",
        Cause.REFUSED,
        r"is not authorized to perform: ecr:",
        _ISSUE.format("awslabs/amazon-ecr-credential-helper", 88),
    ),
    _shape(
        "token-expired",
        Cause.LOG_IN_EXPIRED,
        r"authorization token has expired",
        _ISSUE.format("awslabs/amazon-ecr-credential-helper", 118),
    ),
    _shape(
        "layer-storage-refuses",
        Cause.LAYER_STORAGE,
        r"starport-layer-bucket[^\n]{0,2000}\b403\b|error parsing HTTP 403 response body",
        _ISSUE.format("awsdocs/amazon-ecr-user-guide", 8),
    ),
    _shape(
        "no-basic-auth",
        Cause.NO_LOG_IN,
        r"no basic auth credentials|authorization failed: no basic auth",
        _ISSUE.format("kubernetes/kops", 16762),
    ),
    _shape(
        "repository-unknown",
        Cause.NO_REPOSITORY,
        r"name unknown|repository with name '[^'\n]{1,300}' does not exist|RepositoryNotFoundException",
        _ISSUE.format("aws-actions/amazon-ecr-login", 166),
    ),
    # Before “not found”, with which containerd ends this message too.
    _shape(
        "no-platform",
        Cause.PLATFORM,
        r"no match for (?:current )?platform|no matching manifest for|descriptor (?:for|matching) platform",
        _ISSUE.format("aws/containers-roadmap", 1120),
    ),
    _shape(
        "name-has-no-address",
        Cause.NO_HOST,
        r"no such host|server misbehaving|Temporary failure in name resolution",
        _ISSUE.format("docker/for-linux", 371),
    ),
    _shape(
        "certificate",
        Cause.CERTIFICATE,
        r"\bx509: |certificate verify failed|failed to verify certificate",
        _ISSUE.format("GoogleContainerTools/kaniko", 2281),
    ),
    _shape(
        "no-connection",
        Cause.NETWORK,
        r"i/o timeout|connection refused|connection reset|no route to host|TLS handshake timeout"
        r"|context deadline exceeded|network is unreachable|request canceled while waiting for connection",
        _ISSUE.format("aws/copilot-cli", 5927),
    ),
    _shape(
        "throttled",
        Cause.THROTTLED,
        r"toomanyrequests|429 Too Many Requests|Rate exceeded",
        _ISSUE.format("mitogen-hq/mitogen", 790),
    ),
    _shape(
        "manifest-unknown",
        Cause.NO_IMAGE,
        r"manifest unknown|does not exist within the repository|ImageNotFoundException"
        r"|\bmanifest for [^\n]{1,600} not found",
        _ISSUE.format("concourse/docker-image-resource", 293),
    ),
    _shape(
        "forbidden",
        Cause.REFUSED,
        r"\b403 Forbidden|status(?: code)?:? 403\b",
        _ISSUE.format("aws/aws-cdk", 29876),
    ),
    _shape(
        "unauthorized",
        Cause.NO_LOG_IN,
        r"\b401 Unauthorized|status(?: code)?:? 401\b|unauthorized: authentication required",
        _ISSUE.format("enix/kube-image-keeper", 172),
    ),
    # docker: the registry said no and gave no reason.
    _shape(
        "denied",
        Cause.REFUSED,
        r"pull access denied|denied: requested access",
        _ISSUE.format("aws/aws-toolkit-jetbrains", 2318),
    ),
    _shape(
        "not-found",
        Cause.NO_IMAGE,
        r"[^\s:]: not found\b|\bnotfound\b|no such image|\bimage [^\s]{1,600} not found",
        _ISSUE.format("aws/containers-roadmap", 2687),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PullFailure:
    """What a text says. A name that the text does not have is empty."""

    shape: Shape | None  # None: no known form
    host: str = ""
    account: str = ""  # of the registry
    region: str = ""
    partition: str = ""  # empty: the host is not an ECR registry
    repository: str = ""
    tag: str = ""
    digest: str = ""
    principal: str = ""  # an ARN
    caller: str = ""  # the principal's account
    action: str = ""  # ecr:BatchGetImage
    platform: str = ""  # linux/arm64

    @property
    def cause(self) -> Cause | None:
        """The cause of its form."""
        return self.shape.cause if self.shape else None


# ------------------------------------------------------------------------------------------------------------ masking

_LONG = re.compile(r"[A-Za-z0-9+/]{40,}={0,2}")
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), instead)
    for pattern, instead in (
        (r"(https?://)[^\s/@\"'<>]+@", rf"\1{MASK}@"),
        (r"(https?://[^\s?\"'<>]+\?)[^\s\"'<>]+", rf"\1{MASK}"),  # a layer's address works without a log-in
        (r"\b(X-Amz-[a-z-]{1,40}=)[^\s&\"'\\]+", rf"\1{MASK}"),
        (r"\b(?-i:eyJ)[\w+/=.-]{8,}", MASK),  # a JSON Web Token, and the token of ECR: Base64 of a JSON object
        (r"\b(bearer|basic)[ \t]+[\w+/=.~-]{8,}", rf"\1 {MASK}"),
        (r"\b((?-i:AWS):)[^\s\"'@]{8,}", rf"\1{MASK}"),  # user name and password of an ECR log-in
        (r"\b(?-i:AKIA|ASIA)(?-i:[A-Z0-9]{12,})\b", MASK),
        (r"\btr_[a-z]{2,8}_\w{8,}", MASK),
        (r"(--?p(?:assword)?[ =])(?!stdin)[^\s\"']{8,}", rf"\1{MASK}"),
        (
            r"((?:authorization|password|passwd|secret|token|signature|api[_-]?key|credential)[\"']?[=:][ \t]*[\"']?)"
            r"(?!bearer|basic|authorization|unexpected|server|\[masked\])[^\s\"'&,;]{6,}",
            rf"\1{MASK}",
        ),
    )
)


def masked(text: str) -> str:
    """The text without credentials: tokens, log-ins, AWS access keys, signatures, the queries of URLs.

    A long Base64 text is masked too if it has capitals, small letters and digits, as the secret part of an AWS key has.
    A digest (hexadecimal) stays.
    """
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return _LONG.sub(lambda found: MASK if _is_random(found[0]) else found[0], text)


def _is_random(text: str) -> bool:
    return any(map(str.isupper, text)) and any(map(str.islower, text)) and any(map(str.isdigit, text))


# ------------------------------------------------------------------------------------------------------------ reading

_NAME = r"[a-z0-9]+(?:[._/-]{1,2}[a-z0-9]+)*"
_HOST = r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}(?::\d{1,5})?"
_REF = re.compile(
    rf"(?<![\w./:@-])(?:https?://)?(?P<host>{_HOST})/(?P<v2>v2/)?(?P<name>[a-z0-9][a-z0-9._/-]{{0,255}})"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_PATH = re.compile(r"(?P<name>.+?)/(?:manifests|blobs)/?(?P<reference>[\w.-]*)")
_LOOKUP = re.compile(rf"(?:lookup|Logging into registry|registry|login to) (?P<host>{_HOST})", re.IGNORECASE)
_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):ecr:(?P<region>[a-z0-9-]{1,32}):(?P<account>\d{12}):repository/(?P<name>[a-z0-9._/-]{2,256})"
)
_USER = re.compile(
    r"User: (?P<arn>arn:aws[a-z-]*:(?:sts|iam)::(?P<account>\d{12}):[a-z-]{1,20}/[\w+=,.@/-]{1,600})", re.ASCII
)
_ACTION = re.compile(r"perform: (ecr:[A-Za-z]{1,60})\b")
_PLATFORM = re.compile(r"\b((?:linux|windows|darwin)/[a-z0-9_]{1,20}(?:/v\d{1,2})?)\b")
_NAMED = re.compile(
    r"repository with name '(?P<name>[a-z0-9._/-]{2,256})'(?: does not exist)? in the registry with id "
    r"'(?P<account>\d{12})'"
)
_IMAGE_ID = re.compile(r"imageDigest: ?'(?P<digest>[^']{0,80})', ?imageTag: ?'(?P<tag>[^']{0,128})'")
_REGION = re.compile(r"(?:\bapi\.ecr\.|\bprod-)([a-z]{2,4}(?:-[a-z]{2,10}){1,2}-\d)(?:\.|-starport-layer-bucket)")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_FULL_NAME = re.compile(_NAME)


def read(text: str, partitions: Iterable[Partition]) -> PullFailure:
    """What a text says. Of several lines, the line with the form comes first; others complete what it does not name.

    The length of the text is the caller's to limit (`MAX_BYTES`).
    """
    text = _plain(masked(text))
    lines = text.splitlines()
    shape, line = next(
        ((shape, line) for shape in SHAPES for line in lines if shape.pattern.search(line)), (None, text)
    )
    known = tuple(partitions)
    found = _first(_names(line, known))
    of_all = _first(_names(text, known))
    if "repository" in found and "host" in found:  # then another image of the text is not mixed into it
        of_all = {name: value for name, value in of_all.items() if name not in _OF_AN_IMAGE}
    return PullFailure(shape=shape, **(of_all | found))


_OF_AN_IMAGE = {"host", "account", "region", "partition", "repository", "tag", "digest"}


def _first(names: Iterator[tuple[str, str]]) -> dict[str, str]:
    found = dict[str, str]()
    for name, value in names:
        found.setdefault(name, value)
    return found


_ABOUT_AN_IMAGE = re.compile(r"\bpull|manifest|dkr[.-]ecr|\becr:|/v2/|source metadata", re.IGNORECASE)


def excerpt(text: str) -> str:
    """The part of a long text that `read` can explain: a line with a form that is about an image, at most MAX_BYTES.

    Empty if there is none. A build connects to other servers too, so “i/o timeout” alone says nothing about an image.
    """
    for shape in SHAPES:
        for line in text[-8 * MAX_BYTES :].splitlines():
            if _ABOUT_AN_IMAGE.search(line) and (found := shape.pattern.search(line)):
                start = max(0, found.start() - MAX_BYTES // 8)
                return line[start:].encode("utf-8", "replace")[:MAX_BYTES].decode("utf-8", "ignore").strip()
    return ""


def _plain(text: str) -> str:
    """Without the escapes that a log line in a log line has: `\\\\\\"` is a quotation mark."""
    return re.sub(r"\\{1,7}n", "\n", re.sub(r"\\{1,7}([\"'])", r"\1", text)).replace("\\u0026", "&")


def _names(text: str, partitions: tuple[Partition, ...]) -> Iterator[tuple[str, str]]:
    """(field, value) pairs, the most certain ones first."""
    if found := _USER.search(text):
        yield "principal", found["arn"].rstrip(".,")
        yield "caller", found["account"]
    if found := _ACTION.search(text):
        yield "action", found[1]
    if found := _PLATFORM.search(text):
        yield "platform", found[1]
    if found := _ARN.search(text):
        yield from (
            (field, found[name])
            for field, name in (
                ("account", "account"), ("region", "region"), ("partition", "partition"),
            )
        )  # fmt: skip
        yield from _repository(found["name"])
    if found := _NAMED.search(text):
        yield "account", found["account"]
        yield from _repository(found["name"])
    if found := _IMAGE_ID.search(text):
        if _DIGEST.fullmatch(found["digest"]):
            yield "digest", found["digest"]
        if found["tag"] != "null" and _TAG.fullmatch(found["tag"]):
            yield "tag", found["tag"]
    refs = [ref for ref in map(_reference, _REF.finditer(text)) if ref]
    refs.sort(key=lambda ref: parse_ecr_host(ref["host"], partitions) is None)  # an ECR registry first
    if not refs and (found := _LOOKUP.search(text)) and "." in found["host"]:
        refs = [{"host": found["host"]}]
    if refs:
        host = refs[0]["host"]
        registry = parse_ecr_host(host, partitions)
        if registry:
            yield "account", registry.account
            yield "region", registry.region
            yield "partition", registry.partition
        for ref in refs:
            if ref["host"] == host:
                yield from ref.items()
    if found := _REGION.search(text):  # the host of the API, or the bucket of the layers
        yield "region", found[1]


def _repository(name: str) -> Iterator[tuple[str, str]]:
    if _FULL_NAME.fullmatch(name):
        yield "repository", name


def _reference(found: re.Match[str]) -> dict[str, str] | None:
    """Host, repository, tag and digest of an image ref, or of an address below /v2/ of a registry."""
    host, name = found["host"], found["name"]
    if ("." not in host and ":" not in host) or "starport-layer-bucket" in host or host.startswith("api.ecr."):
        return None
    ref = {"host": host, "tag": found["tag"] or "", "digest": found["digest"] or ""}
    if found["v2"]:
        path = _PATH.fullmatch(name)
        if path is None:
            return ref
        name, reference = path["name"], path["reference"]
        if "/blobs/" not in found[0] and reference != "sha256":
            ref["tag"] = reference
        elif ref["tag"] and _DIGEST.fullmatch(f"sha256:{ref['tag']}"):
            ref |= {"digest": f"sha256:{ref['tag']}", "tag": ""}
    name = name.rstrip("./-_")
    if name != "v2" and _FULL_NAME.fullmatch(name):
        ref["repository"] = name
    return {field: value for field, value in ref.items() if value}
