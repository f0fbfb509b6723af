"""Registry credentials for one deploy: as narrow as the installation allows, and it is known how narrow they are.

An ECR log-in acts with the rights of whoever fetched it, lives for hours and cannot be taken back. So it is fetched
with a session that may push to and pull from one repository and do nothing else. Where AWS definitively does not
allow such a session, the log-in is the server's own, which opens the whole registry; that is remembered for a while,
so that not every deploy asks in vain, and told on the deployment. A push role that is configured is an order: where it
is refused, nothing wider takes its place. Nothing here is stored or logged but the kind.
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
from deployments.aws.values import Access, Session
from deployments.config import RegistryConfig
from deployments.errors import RegistryError, refusal
from deployments.images import EcrRegistry
from deployments.log import get_logger

log = get_logger(__name__)

SESSION, TOKEN, PASSWORD = "session", "token", "password"
SESSION_SECONDS = 3600  # the most that AWS gives to a session that was made with another role's session
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

#: (who asked, for which role) → until when it is not asked again (this process's clock), and AWS's reason.
_not_allowed: dict[tuple[str, str | None], tuple[float, str]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A log-in that the CLI pushes with. `wider`: why it opens more than the one repository, if it does."""

    username: str
    password: str = field(repr=False)
    expires_at: datetime
    repository_uri: str
    endpoint: str | None  # where the registry is really served, if that is known
    kind: str
    wider: str = ""


def issue(*, image_ref: str, label: str, registry: RegistryConfig) -> Credentials:
    """Credentials to push an image with. `label` is the session's name, which CloudTrail shows. Raises Refusal."""
    uri = image_ref.rpartition(":")[0]
    host, _, name = uri.partition("/")
    ecr = ecr_of(registry, host)
    if ecr is not None:
        return _of_ecr(ecr, registry, name=name, label=label, uri=uri)
    if registry.username and registry.password:
        return Credentials(
            username=registry.username,
            password=registry.password,
            # A password does not expire; the CLI wants a time, and asks again at its next deploy.
            expires_at=timezone.now() + timedelta(hours=12),
            repository_uri=uri,
            endpoint=None,
            kind=PASSWORD,
        )
    raise refusal("no_credentials", host=host)


def session_policy(registry: EcrRegistry, name: str) -> str:
    """What a session may do: push to and pull from this one repository. AWS takes 2,048 characters."""
    statements = [
        {"Effect": "Allow", "Action": PUSH_AND_PULL, "Resource": registry.repository_arn(name)},
        {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"},  # it takes no repository
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))


def _of_ecr(ecr: Ecr, registry: RegistryConfig, *, name: str, label: str, uri: str) -> Credentials:
    try:
        made = _session(ecr, registry, name=name, label=label)
        session = made if isinstance(made, Session) else None
        login = ecr.authorization(session)
    except RegistryError as error:
        if registry.push_role_arn:  # no fallback to wider credentials: D-push-credentials
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


def _session(ecr: Ecr, registry: RegistryConfig, *, name: str, label: str) -> Session | str:
    """A session for one repository, or why there is none. Raises RegistryError for all that is no definitive “no”."""
    policy = session_policy(ecr.registry, name)
    if registry.push_role_arn:
        role = Access(
            role_arn=registry.push_role_arn,
            external_id=registry.assume_role_external_id,
            setting="DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN",
        )
        return ecr.assume(role, label=label, policy=policy, seconds=SESSION_SECONDS)
    us = ecr.ambient()
    make: Callable[..., Session]
    if ecr.access.role_arn:
        make = functools.partial(ecr.assume, ecr.access)
    elif us.long_lived:
        make = ecr.federate
    else:
        return catalogue.sentence("credentials_not_narrowable")
    asked = (us.access_key, ecr.access.role_arn)
    until, reason = _not_allowed.get(asked, (0.0, ""))
    if time.monotonic() < until:
        return reason
    try:
        return make(label=label, policy=policy, seconds=SESSION_SECONDS)
    except RegistryError as error:
        if not error.denied:
            raise
        log.warning("credentials.not_narrowed", reason=error.sentence)
        _not_allowed[asked] = (time.monotonic() + REMEMBER_SECONDS, error.sentence)
        return error.sentence
