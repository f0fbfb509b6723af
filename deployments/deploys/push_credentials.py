"""Registry credentials for one deploy, limited to one repository if the installation allows it.

An ECR log-in has the rights of the identity that fetched it, is valid for hours and cannot be revoked. So it is fetched
with a session that may only push to and pull from one repository. If AWS denies such a session, the log-in is the
server's own, which gives access to the whole registry: the deployment stores the reason, and the denial is remembered
for REMEMBER_SECONDS, so that not every deploy repeats the denied call. If a push role is configured and AWS refuses it,
the request fails; there is no fallback to broader credentials. The credentials are neither stored nor logged, only
their kind is stored.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.utils import timezone

from deployments import catalogue
from deployments.aws.ecr import Ecr, ecr_of
from deployments.aws.values import Session
from deployments.config import Access, RegistryConfig
from deployments.errors import RegistryError, refusal
from deployments.images import EcrRegistry
from deployments.log import get_logger

log = get_logger(__name__)

SESSION, TOKEN, PASSWORD = "session", "token", "password"
SESSION_SECONDS = 3600  # AWS's maximum for a session that was made with another role's session (role chaining)
REMEMBER_SECONDS = 600
PUSH_AND_PULL = (
    "ecr:BatchCheckLayerAvailability",
    "ecr:BatchGetImage",
    "ecr:CompleteLayerUpload",
    "ecr:GetDownloadUrlForLayer",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
)

#: (access key, role) → (end by the monotonic clock until which AWS is not called again, AWS's reason).
_not_allowed: dict[tuple[str, str | None], tuple[float, str]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A log-in for the CLI's push. `wider`: why it gives access to more than one repository; empty if it does not."""

    username: str
    password: str = field(repr=False)
    expires_at: datetime
    repository_uri: str
    endpoint: str | None  # ECR's proxyEndpoint; None for another registry
    kind: str
    wider: str = ""


def issue(*, image_ref: str, label: str, config: RegistryConfig) -> Credentials:
    """Credentials for the push of an image. `label` is the session's name, which CloudTrail shows. Raises Refusal."""
    uri = image_ref.rpartition(":")[0]
    host, _, name = uri.partition("/")
    ecr = ecr_of(config, host)
    if ecr is not None:
        return _of_ecr(ecr, config, name=name, label=label, uri=uri)
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


def session_policy(registry: EcrRegistry, name: str) -> str:
    """The policy of a session that may push to and pull from this repository. AWS accepts 2,048 characters."""
    statements = [
        {"Effect": "Allow", "Action": PUSH_AND_PULL, "Resource": registry.repository_arn(name)},
        # AWS accepts only * as the resource of this action.
        {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"},
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))


def _of_ecr(ecr: Ecr, config: RegistryConfig, *, name: str, label: str, uri: str) -> Credentials:
    try:
        made = _session(ecr, config, name=name, label=label)
        session = made if isinstance(made, Session) else None
        login = ecr.authorization(session)
    except RegistryError as error:
        if config.push_role_arn:  # no fallback to wider credentials: D-push-credentials
            raise refusal("push_role_refused", reason=error.sentence, retryable=error.retryable) from error
        raise error.as_refusal() from error
    return Credentials(
        username=login.username,
        password=login.password,
        expires_at=login.expires_at or timezone.now() + timedelta(hours=12),
        repository_uri=uri,
        endpoint=login.endpoint,
        kind=SESSION if session else TOKEN,
        wider="" if isinstance(made, Session) else catalogue.sentence("credentials_wider", reason=made),
    )


def _session(ecr: Ecr, config: RegistryConfig, *, name: str, label: str) -> Session | str:
    """A session for one repository, or a sentence why AWS does not allow such a session.

    Raises RegistryError if the push role is refused, and for other errors than a denial.
    """
    policy = session_policy(ecr.registry, name)
    if config.push_role_arn:
        role = Access(
            role_arn=config.push_role_arn,
            external_id=config.assume_role_external_id,
            setting="DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN",
        )
        return ecr.assume(role, label=label, policy=policy, seconds=SESSION_SECONDS)
    ambient = ecr.ambient()
    make: Callable[..., Session]
    if ecr.access.role_arn:
        make = functools.partial(ecr.assume, ecr.access)
    elif ambient.long_lived:
        make = ecr.federate
    else:
        return catalogue.sentence("credentials_not_narrowable")
    identity = (ambient.access_key, ecr.access.role_arn)
    until, reason = _not_allowed.get(identity, (0.0, ""))
    if time.monotonic() < until:
        return reason
    try:
        return make(label=label, policy=policy, seconds=SESSION_SECONDS)
    except RegistryError as error:
        if not error.denied:
            raise
        log.warning("credentials.not_narrowed", reason=error.sentence)
        _not_allowed[identity] = (time.monotonic() + REMEMBER_SECONDS, error.sentence)
        return error.sentence
