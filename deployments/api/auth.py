"""Authentication by bearer tokens, and what each kind of key may access.

Personal access tokens (`tr_pat_…`) belong to a user and have access to every project: an installation is one
organization. They, and the deploy keys that were made with them, may do what their user may do at the time of the
request. Environment keys have access to their own environment only, and may be limited to some scopes. A key that was
exchanged for the token of a CI job has access to the routes of one deployment (`InDeploy`). Unknown, expired and
revoked keys get the same 401, and a 429 if one address sends too many of them. This limit never affects a key that
works.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from django.conf import settings
from django.http import HttpRequest
from ninja.security import HttpBearer

from deployments.access import groups, keys
from deployments.access.audit import Actor
from deployments.api import branches, limits
from deployments.api.errors import HttpRefusal, http_refusal
from deployments.log import bind, get_logger
from deployments.models import AccessKey, Deployment, Environment, EnvironmentType, KeyKind, Project

log = get_logger(__name__)

BRANCH_HEADER = "x-trigger-branch"
KEY_REFUSED = "registry_admin.key_refused"  # in META of a request without a key that works


class UserRequest(HttpRequest):
    """A request with a personal access token, or with any key: the route's `auth` decides."""

    auth: AccessKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """An environment key, and its environment: the key's own, or the preview branch that the request's header names."""

    key: AccessKey
    environment: Environment

    @property
    def name(self) -> str:
        """For “triggered by”: the user of a deploy key, whose token a CI key is from, else the key's visible prefix."""
        user = self.key.user
        if keys.is_for_one_deployment(self.key):
            return self.key.name
        return (user.email or user.get_username()) if user else str(self.key)

    @property
    def person(self) -> int | None:
        """The id of the user with whose personal access token the deploy key was made; None for an environment key."""
        return self.key.user_id if self.key.kind == KeyKind.DEPLOY else None


class EnvironmentRequest(HttpRequest):
    """A request with an environment key."""

    auth: Caller


class InDeploy(StrEnum):
    """When a key for one deployment (`access.token_exchange`) may use a route."""

    NEVER = "never"
    BEGINS = "begins"  # to begin its deployment, and to repeat this request
    RUNS = "runs"  # before its deployment begins, and until it ends
    BEGUN = "begun"  # for its deployment, until it ends
    RESULT = "result"  # for its deployment, and for some minutes after its end


class _Bearer(HttpBearer):
    def __init__(self, in_deploy: InDeploy = InDeploy.NEVER) -> None:
        super().__init__()
        self.in_deploy = in_deploy

    def __call__(self, request: HttpRequest) -> AccessKey | Caller:
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            _log_refused_key(request, "no key was sent")
            raise HttpRefusal(401, f"Send an access key: Authorization: Bearer tr_…. {_where_keys_come_from()}")
        key = keys.authenticate(text.strip())
        if key is None:
            raise _unknown(request)
        bind(actor=Actor.key(key).name)
        if key.environment is not None:
            bind(project=key.environment.project.ref, environment=str(key.environment))
        _require_owner(key, keys.DEPLOY if key.kind == KeyKind.DEPLOY else keys.READ)
        if keys.is_for_one_deployment(key) and (reason := _outside_deploy(request, key, self.in_deploy)):
            raise http_refusal(403, "one_deployment_only", reason=reason)
        keys.record_use(key, client_of(request), request.META.get("REMOTE_ADDR", ""))
        return self.admit(request, key)

    def authenticate(self, request: HttpRequest, token: str) -> None:
        """Ninja's hook, not used: it cannot give a reason. `admit` raises HttpRefusal with the reason."""

    def admit(self, request: HttpRequest, key: AccessKey) -> AccessKey | Caller:
        """The value of `request.auth` for a valid key. Raises HttpRefusal if the route does not accept the key."""
        return key


class AnyKey(_Bearer):
    openapi_description = "A personal access token (`tr_pat_…`) or an environment's key (`tr_prod_…`, `tr_stg_…`, …)."


class UserToken(_Bearer):
    openapi_description = "A personal access token: `tr_pat_…`."

    def admit(self, request: HttpRequest, key: AccessKey) -> AccessKey:
        if key.kind != KeyKind.USER:
            raise HttpRefusal(
                403, "This request needs a personal access token (tr_pat_…), not the key of an environment."
            )
        return key


class ManagementToken(_Bearer):
    openapi_description = (
        "A management token: a personal access token (`tr_pat_…`) with the scope `admin`. Each request also needs the "
        "right that the console asks its owner for."
    )

    def admit(self, request: HttpRequest, key: AccessKey) -> AccessKey:
        if key.kind != KeyKind.USER or not keys.allows(key, keys.ADMIN):
            raise http_refusal(403, "not_a_management_token")
        return key


class EnvironmentKey(_Bearer):
    openapi_description = (
        "An environment's key, from `GET /api/v1/projects/{ref}/{env}`. With the key of `preview`, the header "
        f"`{BRANCH_HEADER}` names the branch. A key that is limited to other scopes gets a 403."
    )

    def __init__(self, scope: str, in_deploy: InDeploy = InDeploy.NEVER, *, needs_branch: bool = True) -> None:
        super().__init__(in_deploy)
        self.scope = scope
        self.needs_branch = needs_branch  # False: without the header, the environment is `preview` itself

    def admit(self, request: HttpRequest, key: AccessKey) -> Caller:
        if key.environment is None:
            raise HttpRefusal(
                403, "This request needs the key of an environment, from GET /api/v1/projects/{ref}/{env}."
            )
        require_scope(key, self.scope)
        if self.scope not in (keys.READ, keys.PULL):  # what is current stays so, and nodes go on pulling it
            require_active(key.environment.project)
        if key.environment.type != EnvironmentType.PREVIEW:
            return Caller(key=key, environment=key.environment)
        name = request.headers.get(BRANCH_HEADER, "")
        if not name and not self.needs_branch:
            return Caller(key=key, environment=key.environment)
        if not name:
            raise HttpRefusal(401, f"Preview deployments belong to a branch: name it in the header {BRANCH_HEADER}.")
        require_own_branch(key, name)
        return Caller(key=key, environment=branches.find(key.environment, name))


user_token, any_key, management_token = UserToken(), AnyKey(), ManagementToken()
may_read, may_deploy = EnvironmentKey(keys.READ), EnvironmentKey(keys.DEPLOY)
may_pull = EnvironmentKey(keys.PULL, needs_branch=False)
#: The routes that a deploy needs: a key for one deployment may use them too.
any_key_in_deploy = AnyKey(InDeploy.RUNS)
may_read_in_deploy = EnvironmentKey(keys.READ, InDeploy.RUNS)
may_read_result = EnvironmentKey(keys.READ, InDeploy.RESULT)
may_begin = EnvironmentKey(keys.DEPLOY, InDeploy.BEGINS)
may_go_on = EnvironmentKey(keys.DEPLOY, InDeploy.BEGUN)
may_end = EnvironmentKey(keys.DEPLOY, InDeploy.RESULT)
may_fetch_credentials = EnvironmentKey(keys.CREDENTIALS, InDeploy.BEGUN)


def require_own_branch(key: AccessKey, name: str) -> None:
    """Raise HttpRefusal (403) if the key is for another preview branch: its token named the only one."""
    if key.branch and branches.clean(name) != key.branch:
        raise http_refusal(403, "one_deployment_only", reason=f"it is for the branch {key.branch}")


def _outside_deploy(request: HttpRequest, key: AccessKey, when: InDeploy) -> str:
    """Why a key for one deployment may not use this route now, as a part of a sentence; empty if it may."""
    if when == InDeploy.NEVER:
        return "no deploy needs it"
    if when == InDeploy.BEGINS:
        return ""  # `lifecycle.create_deployment` decides: a lost answer is repeated
    named = request.resolver_match.kwargs.get("deployment_id") if request.resolver_match else None
    if key.deployment_id is None:
        return "the key has not begun its deployment" if named or when != InDeploy.RUNS else ""
    if named not in (None, key.deployment_id):
        return "it is about another deployment than the one that the key has begun"
    ended, by_deadline = _end(key)
    if ended is None:
        return ""
    if by_deadline and request.method != "GET":
        return "its deadline has passed"
    allowed_for = keys.READ_RESULT_FOR if when == InDeploy.RESULT else timedelta(0)
    now: datetime = key.db_now  # type: ignore[attr-defined]  # `keys.authenticate` sets it
    return "its deployment has ended" if ended + allowed_for <= now else ""


def _end(key: AccessKey) -> tuple[datetime | None, bool]:
    """(when the deployment of this key ended, whether by a deadline that no worker has seen yet)."""
    fields = ("status", "deadline", "deployed_at", "failed_at", "canceled_at")
    deployment = Deployment.objects.only(*fields).filter(pk=key.deployment_id).first()
    if deployment is None:
        return datetime.min.replace(tzinfo=UTC), False
    if deployment.is_final:
        return deployment.deployed_at or deployment.failed_at or deployment.canceled_at, False
    now: datetime = key.db_now  # type: ignore[attr-defined]
    passed = deployment.deadline is not None and deployment.deadline <= now
    return (deployment.deadline if passed else None), passed


def require_scope(key: AccessKey, scope: str) -> None:
    """Raise HttpRefusal (403) if the key does not have this scope, or its user has no right to what it is for."""
    if not keys.allows(key, scope):
        raise http_refusal(403, "scope_missing", scopes=", ".join(key.scopes), scope=scope)
    _require_owner(key, scope)


def require_right(key: AccessKey, right: str) -> None:
    """Raise HttpRefusal (403) if the owner of a management token does not have this right now: `keys.owner_has`."""
    if not keys.owner_has(key, right):
        raise http_refusal(403, "right_missing", owner=key.user, right=groups.name_of(right))


def require_active(project: Project) -> None:
    """Raise HttpRefusal (403) if the project is archived.

    Not a 404: after a 404 the CLI explains that the project ref may be wrong.
    """
    if project.archived_at is not None:
        raise http_refusal(403, "project_archived", project=project.name, ref=project.ref)


def _require_owner(key: AccessKey, scope: str) -> None:
    if not keys.owner_may(key, scope):
        act, right = ("see projects", "Can view project") if scope == keys.READ else ("deploy", "Can add access key")
        raise http_refusal(403, "owner_without_right", owner=key.user, act=act, right=right)


def _unknown(request: HttpRequest) -> HttpRefusal:
    address = request.META.get("REMOTE_ADDR", "")
    wait = limits.unknown_keys.count(address)
    _log_refused_key(request, "unknown, expired or revoked")
    if not wait:
        return HttpRefusal(401, f"This access key is unknown, expired or revoked. {_where_keys_come_from()}")
    if not limits.logged_too_many_keys.count(address):
        log.warning("api.too_many_unknown_keys", address=address)
    return too_many("unknown, expired or revoked access keys", wait)


def _log_refused_key(request: HttpRequest, reason: str) -> None:
    """Log one line for each address in ten minutes.

    The line of the request itself is logged only with LOG_LEVEL=DEBUG, because a program with a dead key never stops
    asking.
    """
    request.META[KEY_REFUSED] = True
    address = request.META.get("REMOTE_ADDR", "")
    if not limits.logged_refused_keys.count(address):
        log.info("api.key_refused", address=address, client=client_of(request), reason=reason)


def too_many(what: str, wait: float) -> HttpRefusal:
    """A 429 that says after how many seconds (`wait`) to try again. The CLI shows the sentence and does not retry."""
    seconds = math.ceil(wait)
    return http_refusal(429, "too_many_requests", what=what, seconds=seconds, retry_after=seconds)


def _where_keys_come_from() -> str:
    return f"Keys are made in the admin ({settings.CONFIGURATION.app_origin}/account/tokens)."


def client_of(request: HttpRequest) -> str:
    """The client's name from its headers, printable, at most 100 characters. The client may send any name."""
    version = request.headers.get("x-trigger-cli-version", "")
    client = f"trigger.dev {version}" if version else request.headers.get("User-Agent", "")
    return "".join(character for character in client if character.isprintable())[:100]
