"""Who I am, which projects there are, and the key that one environment's deploys are made with."""

from __future__ import annotations

import re
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.http import HttpRequest
from django.utils.text import slugify
from ninja import Router

from deployments import models
from deployments.access import keys
from deployments.access.audit import Trail
from deployments.access.vault import Vault
from deployments.api import branches, schemas
from deployments.api.auth import (
    EnvironmentRequest,
    UserRequest,
    any_key,
    may_deploy,
    may_read,
    require_scope,
    user_token,
)
from deployments.api.errors import Refused
from deployments.api.schemas import refusals
from deployments.deploys import environment_variables
from deployments.log import bind
from deployments.models import SLUG_ALIASES, AccessKey, Environment, EnvironmentType, Promotion

router = Router(tags=["projects"])

# One installation is one organization: nothing is divided by it, but the CLI wants its name.
ORGANIZATION = "Registry Admin"
PROJECT_NOT_FOUND = "Project not found"  # these very words make the CLI explain refs and profiles

# What every CLI from 3.3 on takes for an address (zod's pattern): it needs a dot in its host.
_ADDRESS = re.compile(
    r"(?!\.)(?!.*\.\.)[A-Z0-9_'+\-.]*[A-Z0-9_+-]@(?:[A-Z0-9][A-Z0-9-]*\.)+[A-Z]{2,}", re.IGNORECASE | re.ASCII
)


def address(user: AbstractBaseUser) -> str:
    """The user's e-mail address, or one that leads nowhere: with `admin@localhost` nobody could log in."""
    email = str(getattr(user, "email", ""))
    return email if _ADDRESS.fullmatch(email) else f"user-{user.pk}@registry-admin.invalid"


@router.get(
    "/v2/whoami",
    auth=user_token,
    response={200: schemas.Whoami, **refusals(401, 403)},
    exclude_none=True,
    summary="Who a personal access token belongs to",
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
    summary="What runs in production: every project with its current deployment, or null",
)
def runtimes(request: UserRequest) -> list[dict[str, Any]]:
    current = {
        promotion.environment_id: promotion.deployment
        for promotion in Promotion.objects.select_related("deployment").filter(
            label="current", environment__type=EnvironmentType.PRODUCTION
        )
    }
    # The CLI prints these under “Production” and has no column for another environment.
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
    return [_project(project, organization) for project in models.Project.objects.all()]


@router.get(
    "/v1/projects/{ref}",
    auth=user_token,
    response={200: schemas.Project, **refusals(401, 403, 404)},
    summary="One project",
)
def project(request: UserRequest, ref: str) -> dict[str, Any]:
    return _project(_find_project(ref), _organization())


@router.get(
    "/v1/orgs",
    auth=user_token,
    response={200: list[schemas.Organization], **refusals(401, 403)},
    summary="The organization: an installation is one",
)
def organizations(request: UserRequest) -> list[dict[str, Any]]:
    return [_organization()]


def _organization() -> dict[str, Any]:
    first = models.Project.objects.order_by("created_at").values_list("created_at", flat=True).first()
    # Older than every project; on an empty installation any constant does.
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


def _find_project(ref: str) -> models.Project:
    found = models.Project.objects.filter(ref=ref).first()
    if found is None:
        raise Refused(404, PROJECT_NOT_FOUND)
    bind(project=found.ref)
    return found


# ---- Environment variables. Before {ref}/{env}: Django takes the first address that fits.


@router.get(
    "/v1/projects/{ref}/envvars",
    auth=may_read,
    response={200: schemas.Variables, **refusals(400, 401, 403, 404, 422)},
    summary="The environment's variables, for the build and the indexer",
)
def list_variables(request: EnvironmentRequest, ref: str) -> dict[str, Any]:
    """Those of a preview branch are its parent's, and its own on top. Secret ones are there too, because the code that
    is indexed may read them; a key that is limited to `read` does not get them."""
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
    auth=may_deploy,
    response={200: schemas.Success, 400: schemas.VariablesError, **refusals(401, 403, 404, 415, 422)},
    summary="Store the variables that a project syncs at deploy, all of them or none",
)
def import_variables(
    request: EnvironmentRequest, ref: str, env: str, body: schemas.ImportedVariables
) -> dict[str, Any]:
    """Without `override` one that is set already is refused. `isSecret`: left out, a known one stays what it is.
    `parentVariables` are for the parent of a preview branch, and ignored elsewhere. What the CLI sets for the indexer
    itself (TRIGGER_SECRET_KEY, TRIGGER_API_URL) is left out."""
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
            line.nothing_changed()  # in each environment where something did, a line of its own
            for environment, change in changes.items():
                after = {"added": change.added, "changed": change.changed, "secret_ones": body.isSecret}
                line.trail.record("set.variable", environment, after=after)
    except environment_variables.Rejected as rejected:
        problems = [{"key": name, "error": problem} for name, problem in rejected.problems.items()]
        raise Refused(400, rejected.sentence, code=rejected.code, more={"variableErrors": problems}) from None
    return {"success": True}


# ---- Preview branches.


@router.post(
    "/v1/projects/{ref}/branches",
    auth=any_key,
    response={200: schemas.Id, **refusals(400, 401, 403, 404, 413, 415, 422)},
    summary="Make a preview branch, or find it",
)
def upsert_branch(request: UserRequest, ref: str, body: schemas.NewBranch) -> dict[str, Any]:
    if body.env != "preview":
        raise Refused(400, "Only preview environments have branches here.")
    require_scope(request.auth, keys.DEPLOY)
    git = body.git.model_dump(exclude_none=True) if body.git else {}
    preview = _preview(request.auth, ref)
    with Trail.of(request).change("add.environment") as line:
        line.target, is_new = branches.upsert(preview, body.branch, git)
        if not is_new:
            line.nothing_changed()
    return {"id": str(line.target.pk)}


@router.get(
    "/v1/projects/{ref}/branches",
    auth=any_key,
    response={200: schemas.Branches, **refusals(400, 401, 403, 404)},
    exclude_none=True,
    summary="The preview branches that are not archived",
)
def list_branches(request: UserRequest, ref: str) -> dict[str, Any]:
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
    summary="Put a preview branch away",
)
def archive_branch(request: UserRequest, ref: str, body: schemas.ArchivedBranch) -> dict[str, Any]:
    require_scope(request.auth, keys.DEPLOY)
    preview = _preview(request.auth, ref)
    with Trail.of(request).change("archive.environment") as line:
        archived = line.target = branches.archive(preview, body.branch)
    return {"branch": {"id": str(archived.pk)}}


def _preview(key: AccessKey, ref: str) -> Environment:
    if key.environment is not None:
        _require_own(key, ref, "preview")
        return key.environment
    project = _find_project(ref)
    found = project.environments.filter(slug="preview", parent=None).first()
    if found is None:
        raise Refused(400, "Preview is not enabled: the project has no preview environment.")
    return found


# ---- The key of an environment.


@router.get(
    "/v1/projects/{ref}/{env}/deploy-settings",
    auth=any_key,
    response={200: schemas.DeploySettings, **refusals(401)},
    summary="Which build path a deploy takes: always the CLI's own machine",
)
def deploy_settings(request: UserRequest, ref: str, env: str) -> dict[str, Any]:
    return {"build_path": "depot"}  # the CLI's name for “build here”, as long as no remote builder is offered


@router.get(
    "/v1/projects/{ref}/{env}",
    auth=any_key,
    response={200: schemas.ProjectEnvironment, **refusals(400, 401, 404)},
    summary="The key that this environment's deploys are made with",
)
def environment(request: UserRequest, ref: str, env: str) -> dict[str, Any]:
    """For a personal access token a new key that works for a few hours: the CLI hands it to the image build, where
    it is visible on a command line. A key of the environment itself comes back as it is."""
    key = request.auth
    if key.environment is not None:
        _require_own(key, ref, env)
        found, text = key.environment, request.headers["Authorization"].partition(" ")[2].strip()
    else:
        slug = SLUG_ALIASES.get(env, env)
        project = _find_project(ref)
        root = project.environments.select_related("project").filter(slug=slug, parent=None).first()
        if root is None:
            raise Refused(404, "Environment not found")
        found, (_, text) = root, keys.make_deploy_key(root, key)
    return {
        "apiKey": text,
        "name": found.project.name,
        "apiUrl": settings.CONFIGURATION.api_origin,
        "projectId": str(found.project_id),
    }


def _require_own(key: AccessKey, ref: str, env: str | None = None) -> None:
    """Refuse an environment key for another project or environment, existing or not, in the same words."""
    own = key.environment
    if own is None or own.project.ref != ref or (env is not None and own.slug != SLUG_ALIASES.get(env, env)):
        raise Refused(400, "This key belongs to another project or environment than the address names.")


# ---- Questions that the CLI asks of trigger.dev's own service.


@router.get(
    "/v1/remote-build-provider-status",
    auth=None,
    response={200: schemas.ProviderStatus, **refusals()},
    summary="The state of the remote builder: there is none",
)
def remote_build_provider_status(request: HttpRequest) -> dict[str, Any]:
    return {"status": "unknown", "message": "Images are built on the machine of the CLI; there is no remote builder."}


@router.get(
    "/v1/platform-notifications",
    auth=user_token,
    response={200: schemas.Notification, **refusals(401, 403)},
    summary="News for the CLI's user: none",
)
def platform_notifications(request: UserRequest) -> dict[str, Any]:
    return {"notification": None}
