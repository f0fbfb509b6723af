"""Registry credentials for one deploy, or for the pulls of a cluster.

They are limited to the repositories that the deploy needs, if the installation allows it.

An ECR log-in has the rights of the identity that fetched it, is valid for hours and cannot be changed or revoked. So it
is fetched with a session that may push to and pull from the deployment's repository, and pull from the base
repositories of the settings. It ends with the session: AWS's shortest is 15 minutes, and ours is an hour at most. If
AWS denies such a session, the log-in is the server's own, which gives access to the whole registry: the deployment
stores the reason, and the denial is remembered for REMEMBER_SECONDS, so that not every deploy repeats the denied call.
If a push role is configured and AWS refuses it, the request fails; there is no fallback to broader credentials. The
credentials are neither stored nor logged, only their kind and what they open.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.utils import timezone

from deployments import catalogue
from deployments.aws.ecr import Ecr, ecr_of
from deployments.aws.partitions import partitions
from deployments.aws.values import Session
from deployments.config import Access, RegistryConfig
from deployments.errors import RegistryError, refusal
from deployments.images import EcrRegistry
from deployments.log import get_logger
from deployments.pull_failures import Cause, excerpt, read
from deployments.row_values import LogIn

log = get_logger(__name__)

SESSION, TOKEN, PASSWORD = "session", "token", "password"
SHORTEST_SESSION_SECONDS = 900  # AWS STS, AssumeRole and GetFederationToken: DurationSeconds
SESSION_SECONDS = 3600  # AWS's maximum for a session that was made with another role's session (role chaining)
MAX_POLICY_CHARACTERS = 2048  # AWS STS, AssumeRole and GetFederationToken: Policy
REMEMBER_SECONDS = 600
#: What a pull needs. A mount of a layer needs ecr:GetDownloadUrlForLayer on the repository that has the layer
#: (*Blob mounting in Amazon ECR*, Amazon ECR User Guide).
PULL = (
    "ecr:BatchCheckLayerAvailability",
    "ecr:BatchGetImage",
    "ecr:GetDownloadUrlForLayer",
)
PUSH_AND_PULL = (
    "ecr:BatchCheckLayerAvailability",
    "ecr:BatchGetImage",
    "ecr:CompleteLayerUpload",
    "ecr:GetDownloadUrlForLayer",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
)
WHOLE_REGISTRY = LogIn(push=("*",))
BUILD_FAILED = "Error building image"  # the CLI's message where docker's build or its push ended with an error

#: (access key, role, first word of the session's name) → (end by the monotonic clock until which AWS is not called
#: again, AWS's reason). A policy may allow names that begin with `deployment_` and not those that begin with `pull_`.
_not_allowed: dict[tuple[str, str | None, str], tuple[float, str]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A log-in for the CLI's push. `wider`: why it gives access to the whole registry; empty if it does not."""

    username: str
    password: str = field(repr=False)
    expires_at: datetime
    repository_uri: str
    endpoint: str | None  # ECR's proxyEndpoint; None for another registry
    kind: str
    opens: LogIn | None = None  # None: the registry is not ECR, so what its password opens is not known
    wider: str = ""

    @property
    def message(self) -> str:
        """When the log-in ends, and what it does not open, in sentences."""
        if self.opens is None:
            return ""
        ends = f"This log-in ends at {self.expires_at:%Y-%m-%d %H:%M:%S} UTC, and cannot be changed or taken back."
        return f"{ends} {incomplete(self.opens) or self.wider}".strip()


def incomplete(log_in: LogIn | None) -> str:
    """What a log-in was to open and does not, in one sentence; empty if it opens all of it."""
    if log_in is None or not log_in.left_out:
        return ""
    return catalogue.sentence("log_in_incomplete", names=", ".join(log_in.left_out))


def advice(error: Mapping[str, Any], *, image_ref: str, is_indexed: bool, log_in: LogIn | None, now: datetime) -> str:
    """What to do about a build that the registry refused, in sentences; empty for any other error.

    `error`: the error that the CLI has sent. If it has the registry's words, they decide. The CLI (read: 3.3 to 4.8)
    sends only BUILD_FAILED; then it is of use whether the tasks had been indexed, because the push comes next.
    """
    refused = _refused(error, image_ref=image_ref)
    if refused or not is_indexed or error.get("message") != BUILD_FAILED or error.get("stderr"):
        return refused
    has_ended = log_in is not None and log_in.ends is not None and log_in.ends <= now
    return catalogue.sentence("build_log_in_ended" if has_ended else "build_failed_at_its_end")


def _refused(error: Mapping[str, Any], *, image_ref: str) -> str:
    """What the registry's words in an error say; empty if it has none."""
    text = excerpt("\n".join(str(error.get(name) or "") for name in ("message", "stderr")))
    host, _, name = image_ref.rpartition(":")[0].partition("/")
    failure = read(text, partitions())
    if failure.host != host and (not failure.account or failure.account not in host):
        return ""  # another registry's refusal, or one that names no registry
    if failure.cause is Cause.LOG_IN_EXPIRED:
        return catalogue.sentence("build_log_in_ended")
    if failure.cause not in (Cause.IDENTITY, Cause.REFUSED, Cause.NO_LOG_IN):
        return ""
    if failure.repository not in ("", name) and failure.cause is not Cause.NO_LOG_IN:
        return catalogue.sentence("build_base_refused", name=failure.repository)
    return catalogue.sentence("build_log_in_replaced")


def issue(
    *, image_ref: str, label: str, config: RegistryConfig, seconds: float = SESSION_SECONDS, also: Sequence[str] = ()
) -> Credentials:
    """Credentials for the push of an image, and for pulls from the base repositories.

    `label` is the session's name, which CloudTrail shows. `seconds`: how long the log-in is needed; AWS's limits of a
    session count first. `also`: further repositories to push to, which come after the base repositories if not all fit
    into the session's policy. Raises Refusal.
    """
    uri = image_ref.rpartition(":")[0]
    host, _, name = uri.partition("/")
    ecr = ecr_of(config, host)
    if ecr is not None:
        life = int(min(max(seconds, SHORTEST_SESSION_SECONDS), SESSION_SECONDS))
        wanted = _Wanted(always=LogIn(push=(name,)), pull=config.base_repositories, also=tuple(also))
        return _of_ecr(ecr, config, wanted=wanted, label=label, uri=uri, seconds=life)
    if config.username and config.password:
        return Credentials(
            username=config.username,
            password=config.password,
            # The CLI requires a time, although a password does not expire.
            expires_at=timezone.now() + timedelta(hours=12),
            repository_uri=uri,
            endpoint=None,
            kind=PASSWORD,
        )
    raise refusal("no_credentials", host=host)


def issue_pull(*, host: str, name: str, label: str, config: RegistryConfig) -> Credentials:
    """Credentials that pull from one repository. Raises Refusal where AWS allows none that are so narrow, and for a
    registry that is not ECR, whose configured password can also push.
    """
    ecr = ecr_of(config, host)
    if ecr is None:
        raise refusal("pull_not_ecr", host=host)
    wanted = _Wanted(always=LogIn(push=(), pull=(name,)))
    return _of_ecr(ecr, config, wanted=wanted, label=label, uri=f"{host}/{name}", seconds=SESSION_SECONDS, narrow=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What a log-in is to open: `always`, and as many of the others as fit, in their order."""

    always: LogIn
    pull: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def others(self) -> int:
        return len(self.pull) + len(self.also)

    def first(self, count: int) -> LogIn:
        """A log-in with the first so many of the others."""
        pull, also = self.pull[:count], self.also[: max(0, count - len(self.pull))]
        left_out = (*self.pull, *self.also)[count:]
        return LogIn(push=(*self.always.push, *also), pull=(*self.always.pull, *pull), left_out=left_out)


def session_policy(registry: EcrRegistry, log_in: LogIn) -> str:
    """The policy of a session that opens these repositories, and nothing else."""
    # AWS accepts only * as the resource of this action.
    statements: list[dict[str, Any]] = [{"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"}]
    statements += [
        {"Effect": "Allow", "Action": actions, "Resource": arns[0] if len(arns) == 1 else arns}
        for actions, names in ((PUSH_AND_PULL, log_in.push), (PULL, log_in.pull))
        if (arns := [registry.repository_arn(name) for name in names])
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))


def _of_ecr(
    ecr: Ecr, config: RegistryConfig, *, wanted: _Wanted, label: str, uri: str, seconds: int, narrow: bool = False
) -> Credentials:
    """`narrow`: refuse instead of a log-in for the whole registry."""
    try:
        made = _session(ecr, config, wanted=wanted, label=label, seconds=seconds)
        if narrow and isinstance(made, str):
            raise refusal("pull_not_narrowable", reason=made)
        session, opens = (None, WHOLE_REGISTRY) if isinstance(made, str) else made
        login = ecr.authorization(session)
    except RegistryError as error:
        if config.push_role_arn:  # no fallback to wider credentials: D-push-credentials
            raise refusal("push_role_refused", reason=error.sentence, retryable=error.retryable) from error
        raise error.as_refusal() from error
    expires_at = (login.expires_at or timezone.now() + timedelta(hours=12)).astimezone(UTC)
    return Credentials(
        username=login.username,
        password=login.password,
        expires_at=expires_at,
        repository_uri=uri,
        endpoint=login.endpoint,
        kind=SESSION if session else TOKEN,
        opens=replace(opens, expires_at=expires_at.isoformat()),
        wider=catalogue.sentence("credentials_wider", reason=made) if isinstance(made, str) else "",
    )


def _session(
    ecr: Ecr, config: RegistryConfig, *, wanted: _Wanted, label: str, seconds: int
) -> tuple[Session, LogIn] | str:
    """A session with what it opens, or a sentence why AWS does not allow such a session.

    Raises RegistryError if the push role is refused, and for other errors than a denial.
    """
    if config.push_role_arn:
        role = Access(
            role_arn=config.push_role_arn,
            external_id=config.assume_role_external_id,
            setting="DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN",
        )
        return _largest(functools.partial(ecr.assume, role, label=label, seconds=seconds), ecr.registry, wanted)
    ambient = ecr.ambient()
    make: Callable[..., Session]
    if ecr.access.role_arn:
        make = functools.partial(ecr.assume, ecr.access, label=label, seconds=seconds)
    elif ambient.long_lived:
        make = functools.partial(ecr.federate, label=label, seconds=seconds)
    else:
        return catalogue.sentence("credentials_not_narrowable")
    identity = (ambient.access_key, ecr.access.role_arn, label.partition("_")[0])
    until, reason = _not_allowed.get(identity, (0.0, ""))
    if time.monotonic() < until:
        return reason
    try:
        return _largest(make, ecr.registry, wanted)
    except RegistryError as error:
        if not error.denied:
            raise
        log.warning("credentials.not_narrowed", reason=error.sentence)
        _not_allowed[identity] = (time.monotonic() + REMEMBER_SECONDS, error.sentence)
        return error.sentence


def _largest(make: Callable[..., Session], registry: EcrRegistry, wanted: _Wanted) -> tuple[Session, LogIn]:
    """The session that opens the most of what is wanted, and what it opens.

    AWS also limits the packed form of a policy, and does not document its size (API Reference, AssumeRole:
    PackedPolicySize), so the number of repositories that fit is searched by halves. If AWS throttles the search, the
    largest session so far is the answer.
    """
    counts = range(wanted.others, -1, -1)
    most = next((n for n in counts if len(session_policy(registry, wanted.first(n))) <= MAX_POLICY_CHARACTERS), 0)
    least, count = 0, most
    best: tuple[Session, LogIn] | None = None
    while best is None or least < most:
        opens = wanted.first(count)
        try:
            best = make(policy=session_policy(registry, opens)), opens
            least = count
        except RegistryError as error:
            if error.code != "PackedPolicyTooLarge" or not count:
                if best is not None and error.retryable:
                    break  # a smaller session is there already
                raise
            most = count - 1
        count = (least + most + 1) // 2
    return best
