"""The user of a token, projects, environment variables, preview branches, and the keys for deploys."""

from __future__ import annotations

import re
from typing import Any, Literal

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.http import HttpRequest, HttpResponse
from django.utils.text import slugify
from ninja import Router

from deployments import models
from deployments.access import keys
from deployments.access.audit import Trail
from deployments.access.vault import Vault
from deployments.api import branches, limits, schemas
from deployments.api.auth import (
    EnvironmentRequest,
    UserRequest,
    any_key,
    any_key_in_deploy,
    may_go_on,
    may_pull,
    may_read_in_deploy,
    require_active,
    require_own_branch,
    require_scope,
    too_many,
    user_token,
)
from deployments.api.errors import HttpRefusal
from deployments.api.schemas import refusals
from deployments.deploys import environment_variables, pull_log_ins
from deployments.log import bind
from deployments.models import SLUG_ALIASES, AccessKey, Environment, EnvironmentType, Promotion

router = Router(tags=["projects"])

# An installation is one organization. The CLI requires its name.
ORGANIZATION = "Registry Admin"
PROJECT_NOT_FOUND = "Project not found"  # for exactly this text the CLI adds an explanation of refs and profiles

# The pattern for mail addresses in the CLI from 3.3 on (zod): the host must contain a dot.
_ADDRESS = re.compile(
    r"(?!\.)(?!.*\.\.)[A-Z0-9_'+\-.]*[A-Z0-9_+-]@(?:[A-Z0-9][A-Z0-9-]*\.)+[A-Z]{2,}", re.IGNORECASE | re.ASCII
)


def address(user: AbstractBaseUser) -> str:
    """The user's mail address; if the CLI would reject it (`admin@localhost`), an address that does not exist."""
    email = str(getattr(user, "email", ""))
    return email if _ADDRESS.fullmatch(email) else f"user-{user.pk}@registry-admin.invalid"


@router.get(
    "/v2/whoami",
    auth=user_token,
    response={200: schemas.Whoami, **refusals(401, 403)},
    exclude_none=True,
    summary="The user of a personal access token",
)
def whoami(request: UserRequest, projectRef: str = "") -> dict[str, Any]:
    user = request.auth.user
    assert user is not None  # `user_token` admits no other key  # noqa: S101
    origin = settings.CONFIGURATION.app_origin
    answer: dict[str, Any] = {"userId": str(user.pk), "email": address(user), "dashboardUrl": origin}
    if projectRef and (project := models.Project.objects.filter(ref=projectRef).first()):
        answer["project"] = {
            "name": project.name,
            "url": f"{origin}/projects/v3/{project.ref}",
            "orgTitle": ORGANIZATION,
        }
    return answer


@router.get(
    "/v1/projects/runtimes",
    auth=user_token,
    response={200: list[schemas.Runtime], **refusals(401, 403)},
    summary="Every project with its current deployment in production, or null",
)
def runtimes(request: UserRequest) -> list[dict[str, Any]]:
    current = {
        promotion.environment_id: promotion.deployment
        for promotion in Promotion.objects.select_related("deployment").filter(
            label="current", environment__type=EnvironmentType.PRODUCTION
        )
    }
    # Production only: the CLI prints this list under “Production” and has no column for the environment.
    environments = Environment.objects.select_related("project").filter(type=EnvironmentType.PRODUCTION)
    return [
        {
            "organization": {"title": ORGANIZATION, "slug": slugify(ORGANIZATION)},
            "project": {"name": each.project.name, "slug": _slug(each.project), "externalRef": each.project.ref},
            "environment": {"slug": each.slug},
            "deployment": _runtime(current[each.pk]) if each.pk in current else None,
        }
        for each in environments
    ]


def _runtime(deployment: models.Deployment) -> dict[str, Any]:
    node = re.match(r"node-(\d{1,3})$", deployment.runtime) or (
        re.match(r"v?(\d{1,3})\.", deployment.runtime_version) if deployment.runtime.startswith("node") else None
    )
    return {
        "runtime": deployment.runtime or None,
        "runtimeVersion": deployment.runtime_version or None,
        "nodeMajor": int(node[1]) or None if node else None,
        "deployedAt": deployment.deployed_at,
        "shortCode": deployment.short_code,
    }


@router.get(
    "/v1/projects",
    auth=user_token,
    response={200: list[schemas.Project], **refusals(401, 403)},
    summary="All projects",
)
def projects(request: UserRequest) -> list[dict[str, Any]]:
    organization = _organization()
    return [_project(project, organization) for project in models.Project.objects.filter(archived_at=None)]


@router.get(
    "/v1/projects/{ref}",
    auth=user_token,
    response={200: schemas.Project, **refusals(401, 403, 404)},
    summary="One project",
)
def project(request: UserRequest, ref: str) -> dict[str, Any]:
    return _project(find_project(ref), _organization())


@router.get(
    "/v1/orgs",
    auth=user_token,
    response={200: list[schemas.Organization], **refusals(401, 403)},
    summary="The organization of this installation",
)
def organizations(request: UserRequest) -> list[dict[str, Any]]:
    return [_organization()]


def _organization() -> dict[str, Any]:
    first = models.Project.objects.order_by("created_at").values_list("created_at", flat=True).first()
    # The time of the oldest project; any constant for an installation without projects.
    created = first.isoformat() if first else "2024-01-01T00:00:00Z"
    return {"id": "org_1", "title": ORGANIZATION, "slug": slugify(ORGANIZATION), "createdAt": created}


def _project(project: models.Project, organization: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": str(project.pk),
        "externalRef": project.ref,
        "name": project.name,
        "slug": _slug(project),
        "createdAt": project.created_at,
        "organization": organization,
    }


def _slug(project: models.Project) -> str:
    return slugify(project.name) or project.ref


def find_project(ref: str) -> models.Project:
    """The project with this ref. Raises HttpRefusal (404)."""
    found = models.Project.objects.filter(ref=ref).first()
    if found is None:
        raise HttpRefusal(404, PROJECT_NOT_FOUND)
    bind(project=found.ref)
    return found


# ---- Environment variables. Before {ref}/{env}, because Django uses the first pattern that matches.


@router.get(
    "/v1/projects/{ref}/envvars",
    auth=may_read_in_deploy,
    response={200: schemas.Variables, **refusals(400, 401, 403, 404, 422)},
    summary="The environment's variables, for the build and the indexer",
)
def list_variables(request: EnvironmentRequest, ref: str) -> dict[str, Any]:
    """A preview branch has its parent's variables, overridden by its own. Secret variables are included, because the
    indexed code may read them; a key that is limited to `read` does not get them."""
    caller = request.auth
    _require_own(caller.key, ref)
    found = environment_variables.values(
        environment=caller.environment,
        vault=Vault(settings.ENCRYPTION_KEYS),
        secrets=keys.allows(caller.key, keys.DEPLOY),
    )
    return {"variables": found, "allowEmptyEnvironmentVariableValues": True}


@router.post(
    "/v1/projects/{ref}/envvars/{env}/import",
    auth=may_go_on,
    response={200: schemas.Success, 400: schemas.VariablesError, **refusals(401, 403, 404, 415, 422)},
    summary="Store the variables that a project syncs at deploy, all or none",
)
def import_variables(
    request: EnvironmentRequest, ref: str, env: str, body: schemas.ImportedVariables
) -> dict[str, Any]:
    """Without `override`, an existing variable is refused. Without `isSecret`, an existing variable keeps its mark.
    `parentVariables` are for the parent of a preview branch, and ignored for other environments. TRIGGER_SECRET_KEY and
    TRIGGER_API_URL are not stored, because the CLI sets them for the indexer."""
    caller = request.auth
    _require_own(caller.key, ref, env)
    try:
        with Trail.of(request).change("set.variable", caller.environment) as line:
            changes = environment_variables.sync(
                environment=caller.environment,
                variables=body.variables,
                parent_variables=body.parentVariables or {},
                vault=Vault(settings.ENCRYPTION_KEYS),
                is_secret=body.isSecret,
                override=body.override or False,
                by=caller.name,
            )
            line.nothing_changed()  # instead, a line for each environment that changed
            for environment, change in changes.items():
                after = {"added": change.added, "changed": change.changed, "secret_ones": body.isSecret}
                line.trail.record("set.variable", environment, after=after)
    except environment_variables.Rejected as rejected:
        problems = [{"key": name, "error": problem} for name, problem in rejected.problems.items()]
        problems = problems[: environment_variables.MAX_VARIABLES]
        raise HttpRefusal(400, rejected.sentence, code=rejected.code, more={"variableErrors": problems}) from None
    return {"success": True}


# ---- Preview branches.


@router.post(
    "/v1/projects/{ref}/branches",
    auth=any_key_in_deploy,
    response={200: schemas.Id, **refusals(400, 401, 403, 404, 413, 415, 422)},
    summary="Make a preview branch, or restore it from the archive",
)
def upsert_branch(request: UserRequest, ref: str, body: schemas.NewBranch) -> dict[str, Any]:
    if body.env != "preview":
        raise HttpRefusal(400, "Only the preview environment has branches.")
    require_scope(request.auth, keys.DEPLOY)
    require_own_branch(request.auth, body.branch)
    git = body.git.model_dump(exclude_none=True) if body.git else {}
    preview = _preview(request.auth, ref)
    require_active(preview.project)
    branch, _ = branches.add(preview, body.branch, git, Trail.of(request))
    return {"id": str(branch.pk)}


@router.get(
    "/v1/projects/{ref}/branches",
    auth=any_key,
    response={200: schemas.Branches, **refusals(400, 401, 403, 404)},
    exclude_none=True,
    summary="The preview branches that are not archived",
)
def list_branches(request: UserRequest, ref: str) -> dict[str, Any]:
    require_scope(request.auth, keys.READ)
    return {
        "branches": [
            {
                "id": str(each.pk),
                "name": each.branch,
                "createdAt": each.created_at,
                "updatedAt": each.created_at,
                "git": each.git or None,
            }
            for each in _preview(request.auth, ref).branches.filter(archived_at=None)
        ]
    }


@router.post(
    "/v1/projects/{ref}/branches/archive",
    auth=any_key,
    response={200: schemas.ArchivedBranchAnswer, **refusals(400, 401, 403, 404, 413, 415, 422)},
    summary="Archive a preview branch",
)
def archive_branch(request: UserRequest, ref: str, body: schemas.ArchivedBranch) -> dict[str, Any]:
    require_scope(request.auth, keys.DEPLOY)
    preview = _preview(request.auth, ref)
    archived = branches.archive(preview, body.branch, Trail.of(request))
    return {"branch": {"id": str(archived.pk)}}


def _preview(key: AccessKey, ref: str) -> Environment:
    if key.environment is not None:
        _require_own(key, ref, "preview")
        return key.environment
    project = find_project(ref)
    found = project.environments.filter(slug="preview", parent=None).first()
    if found is None:
        raise HttpRefusal(400, "Preview is not enabled: the project has no preview environment.")
    return found


# ---- The key of an environment.


@router.get(
    "/v1/projects/{ref}/{env}/deploy-settings",
    auth=any_key_in_deploy,
    response={200: schemas.DeploySettings, **refusals(401, 403)},
    summary="Where a deploy builds its image: always on the machine of the CLI",
)
def deploy_settings(request: UserRequest, ref: str, env: str) -> dict[str, Any]:
    return {"build_path": "depot"}  # without a remote builder, this value makes the CLI build locally


@router.get(
    "/v1/projects/{ref}/{env}",
    auth=any_key_in_deploy,
    response={200: schemas.ProjectEnvironment, **refusals(400, 401, 403, 404)},
    summary="A key for deploys to this environment",
)
def environment(request: UserRequest, ref: str, env: str) -> dict[str, Any]:
    """With a personal access token, the answer has a new key that expires after some hours: the CLI passes it to the
    image build, where it is visible on a command line. With a key of the environment, the answer has the same key."""
    key = request.auth
    if key.environment is not None:
        _require_own(key, ref, env)
        require_scope(key, keys.READ)
        require_active(key.environment.project)
        found, text = key.environment, request.headers["Authorization"].partition(" ")[2].strip()
    else:
        slug = SLUG_ALIASES.get(env, env)
        project = find_project(ref)
        root = project.environments.select_related("project").filter(slug=slug, parent=None).first()
        if root is None:
            raise HttpRefusal(404, "Environment not found")
        require_scope(key, keys.DEPLOY)
        require_active(project)
        found = root
        with Trail.of(request).change("make.key") as line:
            line.target, text = keys.make_deploy_key(root, key)
            ends = line.target.expires_at
            line.after = {"kind": line.target.kind, "owner": f"{project} / {root}", "expires": str(ends)}
    return {
        "apiKey": text,
        "name": found.project.name,
        "apiUrl": settings.CONFIGURATION.api_origin,
        "projectId": str(found.project_id),
    }


# ---- The log-in of a cluster outside AWS.


@router.post(
    "/v1/projects/{ref}/{env}/pull-credentials",
    auth=may_pull,
    response={200: schemas.PullCredentials | schemas.PullSecret, **refusals(400, 401, 403, 404, 422)},
    exclude_none=True,
    summary="A log-in that pulls from the environment's repository, for a cluster outside AWS",
)
def pull_credentials(
    request: EnvironmentRequest,
    ref: str,
    env: str,
    response: HttpResponse,
    format: Literal["dockerconfigjson"] | None = None,
) -> dict[str, Any]:
    """It opens one repository, only to pull, and ends after an hour. With `format=dockerconfigjson`, the answer is a
    Kubernetes Secret without a name, to be sent as a merge patch. With the key of `preview`, the header
    `x-trigger-branch` may name a branch. Never a wider log-in: where AWS allows the server none for one repository,
    and for a registry that is not ECR, the answer is a 422 with the next step. Nodes that have an AWS role which the
    repository policy lets pull need no log-in."""
    response["Cache-Control"] = "no-store"
    caller = request.auth
    _require_own(caller.key, ref, env)
    if caller.environment.type == EnvironmentType.DEVELOPMENT:
        raise HttpRefusal(400, "The development environment has no deployments, so there is nothing to pull.")
    if wait := limits.pull_log_ins.count(caller.key.digest):
        raise too_many("log-ins with this key", wait)
    issued, message = pull_log_ins.issue(
        environment=caller.environment,
        key=caller.key,
        configuration=settings.CONFIGURATION,
        trail=Trail.of(request),
    )
    if format is not None:
        return {
            "metadata": {"annotations": {"registry-admin/expires-at": issued.expires_at.isoformat()}},
            "data": {".dockerconfigjson": pull_log_ins.docker_config(issued)},
        }
    return {
        "username": issued.username,
        "password": issued.password,
        "expiresAt": issued.expires_at,
        "repositoryUri": issued.repository_uri,
        "proxyEndpoint": issued.endpoint,
        "message": message,
    }


def _require_own(key: AccessKey, ref: str, env: str | None = None) -> None:
    """Raise HttpRefusal (400) if the key belongs to another project or environment.

    The sentence is the same whether the project or environment of the address exists or not.
    """
    own = key.environment
    if own is None or own.project.ref != ref or (env is not None and own.slug != SLUG_ALIASES.get(env, env)):
        raise HttpRefusal(400, "This key belongs to another project or environment than the address.")


# ---- Requests of the CLI about services that only trigger.dev's cloud has.


@router.get(
    "/v1/remote-build-provider-status",
    auth=None,
    response={200: schemas.ProviderStatus, **refusals()},
    summary="The state of the remote builder, which does not exist here",
)
def remote_build_provider_status(request: HttpRequest) -> dict[str, Any]:
    return {"status": "unknown", "message": "There is no remote builder; images are built on the machine of the CLI."}


@router.get(
    "/v1/platform-notifications",
    auth=user_token,
    response={200: schemas.Notification, **refusals(401, 403)},
    summary="Notifications for the user of the CLI: none",
)
def platform_notifications(request: UserRequest) -> dict[str, Any]:
    return {"notification": None}
