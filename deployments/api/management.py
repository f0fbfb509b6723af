"""What the console does for projects, environments, keys and trust policies, for a management token.

docs/management-api.md is for its users. Each route asks for the right that the console asks for, and calls the same
function. What a request wants to make may be there already: an equal one is the answer, with 200 instead of 201, and a
different one is refused with 409. So the same request may be sent again at any time, and Terraform and scripts need no
memory of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from django.http import HttpResponse
from ninja import Query, Router
from ninja.responses import Status

from deployments import clock
from deployments.access import keys, trust
from deployments.access.audit import Actor, Trail
from deployments.api import branches, schemas
from deployments.api.auth import UserRequest, management_token, require_active, require_right
from deployments.api.errors import HttpRefusal, http_refusal, refusing_with
from deployments.api.pages import answer_of, number_of, page_of
from deployments.api.projects import PROJECT_NOT_FOUND, find_project
from deployments.api.schemas import refusals
from deployments.deploys import projects
from deployments.errors import Refusal
from deployments.log import bind
from deployments.models import SLUG_ALIASES, AccessKey, Environment, KeyKind, Project, TrustPolicy

router = Router(auth=management_token, tags=["management"])

LONGEST_LIFE = timedelta(days=3650)  # of a key with an end
_READ = refusals(400, 401, 403, 404, 422)
_WRITE = refusals(400, 401, 403, 404, 409, 413, 415, 422)
_Row = TypeVar("_Row", bound=Model)


# ------------------------------------------------------------------------------------------------------------ projects


@router.get(
    "/projects",
    response={200: schemas.ManagedProjects, **_READ},
    exclude_none=True,
    summary="All projects, by ref; archived ones too",
)
def list_projects(request: UserRequest, filters: Query[schemas.ProjectFilters]) -> dict[str, Any]:
    """`pagination.next` of a page is the `page[after]` of the next page; the last page has no `next`."""
    require_right(request.auth, "view_project")
    rows = Project.objects.order_by("ref")
    if filters.name is not None:
        rows = rows.filter(name=filters.name)
    if filters.archived is not None:
        rows = rows.filter(archived_at__isnull=not filters.archived)
    if filters.after is not None:
        rows = rows.filter(ref__gt=filters.after)
    page, has_more = page_of(rows, filters.size)
    return answer_of([_project(row) for row in page], has_more)


@router.post(
    "/projects",
    response={200: schemas.ManagedProject, 201: schemas.ManagedProject, **_WRITE},
    exclude_none=True,
    summary="Make a project with its root environments",
)
def make_project(request: UserRequest, body: schemas.NewProject) -> Status[dict[str, Any]]:
    """200: the project with this ref or, without a ref, with this name exists. 409: it has another name or is archived,
    or several projects have the name."""
    require_right(request.auth, "add_project")
    with refusing_with(409):
        project, is_new = projects.ensure(name=body.name, ref=body.ref, trail=Trail.of(request))
    return Status(201 if is_new else 200, _project(project))


@router.get(
    "/projects/{ref}",
    response={200: schemas.ManagedProject, **_READ},
    exclude_none=True,
    summary="One project",
)
def show_project(request: UserRequest, ref: str) -> dict[str, Any]:
    require_right(request.auth, "view_project")
    return _project(find_project(ref))


@router.put(
    "/projects/{ref}",
    response={200: schemas.ManagedProject, 201: schemas.ManagedProject, **_WRITE},
    exclude_none=True,
    summary="Rename, archive or restore a project; make it if it does not exist",
)
def set_project(request: UserRequest, ref: str, body: schemas.ProjectValues) -> Status[dict[str, Any]]:
    """A field that is absent stays as it is. To archive is to refuse deploys; what runs stays current."""
    if body.ref not in (None, ref):
        raise http_refusal(409, "exists_with_others", what=f"The project {ref[:64]}", others="ref")
    require_right(request.auth, "view_project")
    trail = Trail.of(request)
    project, is_new = Project.objects.filter(ref=ref).first(), False
    if project is None:
        require_right(request.auth, "add_project")
        if body.archived:
            require_right(request.auth, "archive_project")
        if body.name is None:
            raise HttpRefusal(404, f"{PROJECT_NOT_FOUND}. To make it, send its name.")
        try:
            project, is_new = projects.ensure(name=body.name, ref=ref, trail=trail)
        except ValueError as error:
            raise HttpRefusal(400, f"{error}.") from error
        except Refusal:
            project = find_project(ref)  # another request has made it meanwhile, and with other values
    renames = body.name is not None and body.name != project.name
    moves = body.archived is not None and body.archived != (project.archived_at is not None)
    for changes, right in ((renames, "change_project"), (moves, "archive_project")):
        if changes:
            require_right(request.auth, right)
    if renames and body.name:
        projects.rename(project=project, name=body.name, trail=trail)
    if moves:
        (projects.archive if body.archived else projects.restore)(project=project, trail=trail)
    project.refresh_from_db()
    return Status(201 if is_new else 200, _project(project))


@router.delete(
    "/projects/{ref}",
    response={204: None, **_WRITE},
    summary="Delete an archived project with its keys and deployments; its repositories stay in AWS",
)
def delete_project(request: UserRequest, ref: str, name: str) -> Status[None]:
    """`name` is the name of the project, as the console asks for it: a deletion cannot be taken back."""
    require_right(request.auth, "delete_project")
    with refusing_with(409):
        projects.delete(project=find_project(ref), typed=name, trail=Trail.of(request))
    return Status(204, None)


def _project(project: Project) -> dict[str, Any]:
    return {
        "id": project.ref,
        "ref": project.ref,
        "name": project.name,
        "archived": project.archived_at is not None,
        "createdAt": project.created_at,
    }


# -------------------------------------------------------------------------------------------------------- environments


@router.get(
    "/projects/{ref}/environments",
    response={200: schemas.ManagedEnvironments, **_READ},
    exclude_none=True,
    summary="The environments of a project: the root environments and the preview branches",
)
def list_environments(request: UserRequest, ref: str, filters: Query[schemas.Page]) -> dict[str, Any]:
    require_right(request.auth, "view_environment")
    project = find_project(ref)
    rows = _environments(project).order_by("pk")
    if filters.after is not None:
        rows = rows.filter(pk__gt=_environment(project, filters.after).pk)
    page, has_more = page_of(rows, filters.size)
    return answer_of([_described(row) for row in page], has_more)


@router.post(
    "/projects/{ref}/environments",
    response={200: schemas.ManagedEnvironment, 201: schemas.ManagedEnvironment, **_WRITE},
    exclude_none=True,
    summary="Make a preview branch, or restore it from the archive",
)
def make_environment(request: UserRequest, ref: str, body: schemas.NewEnvironment) -> Status[dict[str, Any]]:
    """A project has its root environments from its beginning, so only preview branches are made."""
    require_right(request.auth, "add_environment")
    project = find_project(ref)
    require_active(project)
    preview = _environment(project, "preview")
    branch, is_new = branches.add(preview, body.branch, {}, Trail.of(request))
    return Status(201 if is_new else 200, _described(_environment(project, str(branch.pk))))


@router.get(
    "/projects/{ref}/environments/{environment}",
    response={200: schemas.ManagedEnvironment, **_READ},
    exclude_none=True,
    summary="One environment",
)
def show_environment(request: UserRequest, ref: str, environment: str) -> dict[str, Any]:
    require_right(request.auth, "view_environment")
    return _described(_environment(find_project(ref), environment))


@router.put(
    "/projects/{ref}/environments/{environment}",
    response={200: schemas.ManagedEnvironment, **_WRITE},
    exclude_none=True,
    summary="Archive or restore a preview branch",
)
def set_environment(
    request: UserRequest, ref: str, environment: str, body: schemas.EnvironmentValues
) -> dict[str, Any]:
    require_right(request.auth, "change_environment")
    found = _environment(find_project(ref), environment)
    if body.branch is not None and branches.clean(body.branch) != found.branch:
        raise http_refusal(409, "exists_with_others", what=f"The environment {found}", others="branch")
    _set_archived(request, found, body.archived)
    return _described(_environment(found.project, environment))


@router.delete(
    "/projects/{ref}/environments/{environment}",
    response={204: None, **_WRITE},
    summary="Archive a preview branch; its deployments stay",
)
def delete_environment(request: UserRequest, ref: str, environment: str) -> Status[None]:
    require_right(request.auth, "change_environment")
    _set_archived(request, _environment(find_project(ref), environment), True)
    return Status(204, None)


def _set_archived(request: UserRequest, environment: Environment, archived: bool) -> None:
    parent = environment.parent
    if archived == (environment.archived_at is not None):
        return
    if parent is None:
        raise http_refusal(409, "root_environment", environment=environment, project=environment.project)
    if archived:
        try:
            branches.archive(parent, environment.branch, Trail.of(request))
        except HttpRefusal:
            environment.refresh_from_db(fields=["archived_at"])
            if environment.archived_at is None:
                raise  # else another request has archived it meanwhile
    else:
        require_active(environment.project)
        branches.add(parent, environment.branch, {}, Trail.of(request))


def _environments(project: Project) -> QuerySet[Environment]:
    return Environment.objects.select_related("project", "parent").filter(project=project)


def _environment(project: Project, name: str) -> Environment:
    """The root environment with this slug, or the preview branch with this id. Raises HttpRefusal (404)."""
    rows = _environments(project)
    if number := number_of(name):
        found = rows.filter(pk=number).first()
    else:
        found = rows.filter(slug=SLUG_ALIASES.get(name, name), parent=None).first()
    if found is None:
        raise HttpRefusal(404, "Environment not found")
    bind(environment=str(found))
    return found


def _described(environment: Environment) -> dict[str, Any]:
    return {
        "id": str(environment.pk) if environment.parent_id else environment.slug,
        "project": environment.project.ref,
        "slug": environment.slug,
        "branch": environment.branch or None,
        "archived": environment.archived_at is not None,
        "createdAt": environment.created_at,
    }


def _filtered(rows: QuerySet[_Row], project: Project, filters: schemas.NameFilters) -> QuerySet[_Row]:
    """The rows of an environment that the filters leave, by id."""
    if filters.name is not None:
        rows = rows.filter(name=filters.name)
    if filters.environment is not None:
        rows = rows.filter(environment=_environment(project, filters.environment))
    if filters.after is not None:
        rows = rows.filter(pk__gt=number_of(filters.after))
    return rows.order_by("pk")


# ---------------------------------------------------------------------------------------------------------------- keys


@router.get(
    "/projects/{ref}/keys",
    response={200: schemas.ManagedKeys, **_READ},
    exclude_none=True,
    summary="The environment keys of a project that work",
)
def list_keys(request: UserRequest, ref: str, filters: Query[schemas.NameFilters]) -> dict[str, Any]:
    """A rotated key is in the list until its grace is over. Deploy keys, which last for one deploy, are not."""
    require_right(request.auth, "view_accesskey")
    project = find_project(ref)
    rows = _keys(project).filter(keys.live())
    page, has_more = page_of(_filtered(rows, project, filters), filters.size)
    return answer_of([_key(row) for row in page], has_more)


@router.post(
    "/projects/{ref}/keys",
    response={200: schemas.ManagedKey, 201: schemas.NewManagedKey, **_WRITE},
    exclude_none=True,
    summary="Make the key of an environment",
)
def make_key(request: UserRequest, ref: str, body: schemas.NewKey, response: HttpResponse) -> Status[dict[str, Any]]:
    """201 has the text of the key, which is not stored and in no other answer. 200: a key with this name works in this
    environment; if its text is lost, rotate it. 409: that key has other scopes or another end."""
    require_right(request.auth, "add_accesskey")
    project = find_project(ref)
    require_active(project)
    environment = _environment(project, body.environment)
    if environment.parent_id is not None:
        raise HttpRefusal(400, "A preview branch has no keys of its own: make one of the environment preview.")
    if unknown := sorted(set(body.scopes) - keys.SCOPES.keys()):
        raise HttpRefusal(400, f"There is no scope {unknown[0][:20]}; there are {', '.join(keys.SCOPES)}.")
    if body.expiresAt is not None and not timedelta(0) < body.expiresAt - clock.now() <= LONGEST_LIFE:
        raise HttpRefusal(400, f"expiresAt: write a time in the next {LONGEST_LIFE.days} days.")
    with refusing_with(409):
        key, text = keys.ensure_environment_key(
            environment=environment,
            name=body.name,
            scopes=body.scopes,
            expires_at=body.expiresAt,
            trail=Trail.of(request),
        )
    response["Cache-Control"] = "no-store"
    return Status(201, {**_key(key), "key": text}) if text else Status(200, _key(key))


@router.get(
    "/projects/{ref}/keys/{key_id}",
    response={200: schemas.ManagedKey, **_READ},
    exclude_none=True,
    summary="One environment key that works",
)
def show_key(request: UserRequest, ref: str, key_id: str) -> dict[str, Any]:
    """404 also for a key that was revoked or has expired: Terraform then makes a new one."""
    require_right(request.auth, "view_accesskey")
    return _key(_find_key(find_project(ref), key_id))


@router.post(
    "/projects/{ref}/keys/{key_id}/rotate",
    response={201: schemas.NewManagedKey, **_WRITE},
    exclude_none=True,
    summary="Make a new key, and let the old key expire",
)
def rotate_key(
    request: UserRequest, ref: str, key_id: str, body: schemas.Rotation, response: HttpResponse
) -> Status[dict[str, Any]]:
    """The new key has the environment, name and scopes of the old one. Its text is in this answer only. If the answer
    is lost, rotate the new key, which the list has."""
    require_right(request.auth, "rotate_accesskey")
    old = _find_key(find_project(ref), key_id)
    with refusing_with(409), Trail.of(request).change("rotate.key", old) as line:
        new, text = keys.rotate(old, grace=timedelta(hours=body.graceHours))
        line.after = {"successor": str(new), "hours": body.graceHours}
    response["Cache-Control"] = "no-store"
    return Status(201, {**_key(new), "key": text})


@router.delete(
    "/projects/{ref}/keys/{key_id}",
    response={204: None, **_WRITE},
    summary="Revoke an environment key; it fails from the next request on",
)
def revoke_key(request: UserRequest, ref: str, key_id: str) -> Status[None]:
    """204 also for a key that was revoked before."""
    require_right(request.auth, "revoke_accesskey")
    key = _keys(find_project(ref)).filter(pk=number_of(key_id)).first()
    if key is None:
        raise HttpRefusal(404, "There is no such key in this project.")
    with Trail.of(request).change("revoke.key", key, before={"last_used_by": key.last_used_by}) as line:
        if not keys.revoke(key):
            line.nothing_changed()
    return Status(204, None)


def _keys(project: Project) -> QuerySet[AccessKey]:
    rows = AccessKey.objects.select_related("environment__project").defer("digest")
    return rows.filter(environment__project=project, kind=KeyKind.ENVIRONMENT)


def _find_key(project: Project, key_id: str) -> AccessKey:
    found = _keys(project).filter(keys.live(), pk=number_of(key_id)).first()
    if found is None:
        raise HttpRefusal(404, "There is no such key in this project, or it does not work any more.")
    return found


def _key(key: AccessKey) -> dict[str, Any]:
    environment = key.environment
    assert environment is not None  # `_keys` finds no other key  # noqa: S101
    return {
        "id": str(key.pk),
        "project": environment.project.ref,
        "environment": environment.slug,
        "name": key.name,
        "scopes": key.scopes,
        "prefix": key.prefix,
        "createdAt": key.created_at,
        "expiresAt": key.expires_at,
        "lastUsedAt": key.last_used_at,
        "lastUsedBy": key.last_used_by or None,
    }


# ------------------------------------------------------------------------------------------------------ trust policies


@router.get(
    "/projects/{ref}/trust-policies",
    response={200: schemas.ManagedTrustPolicies, **_READ},
    exclude_none=True,
    summary="The trust policies of a project",
)
def list_trust_policies(request: UserRequest, ref: str, filters: Query[schemas.NameFilters]) -> dict[str, Any]:
    """Without `ca` and `jwks`, which may be long."""
    require_right(request.auth, "view_trustpolicy")
    project = find_project(ref)
    rows = trust.list_policies(project=project).defer("ca", "jwks")
    page, has_more = page_of(_filtered(rows, project, filters), filters.size)
    return answer_of([_policy(row) for row in page], has_more)


@router.post(
    "/projects/{ref}/trust-policies",
    response={200: schemas.ManagedTrustPolicy, 201: schemas.ManagedTrustPolicy, **_WRITE},
    exclude_none=True,
    summary="Trust the signed tokens of a CI system or of a cluster",
)
def make_trust_policy(request: UserRequest, ref: str, body: schemas.NewTrustPolicy) -> Status[dict[str, Any]]:
    """200: the environment has a policy with this name, and it trusts the same. 409: it trusts something else.
    `allowPrivate`, `ca` and `jwks` need the right to trust private issuers too."""
    require_right(request.auth, "add_trustpolicy")
    project = find_project(ref)
    require_active(project)
    with _refusing_trust():
        policy, is_new = trust.ensure(
            environment=_environment(project, body.environment),
            kind=body.kind,
            name=body.name,
            claims=body.claims,
            issuer=body.issuer,
            branch_claim=body.branchClaim,
            enabled=body.enabled,
            allow_private=body.allowPrivate,
            ca=body.ca,
            jwks=body.jwks,
            by=Actor.key(request.auth).name,
            may_trust_private=keys.owner_has(request.auth, "trust_private_issuer"),
            trail=Trail.of(request),
        )
    return Status(201 if is_new else 200, _whole(policy))


@router.get(
    "/projects/{ref}/trust-policies/{policy_id}",
    response={200: schemas.ManagedTrustPolicy, **_READ},
    exclude_none=True,
    summary="One trust policy",
)
def show_trust_policy(request: UserRequest, ref: str, policy_id: str) -> dict[str, Any]:
    require_right(request.auth, "view_trustpolicy")
    return _whole(_find_policy(ref, policy_id))


@router.put(
    "/projects/{ref}/trust-policies/{policy_id}",
    response={200: schemas.ManagedTrustPolicy, **_WRITE},
    exclude_none=True,
    summary="Change a trust policy; the keys that it gave are revoked",
)
def set_trust_policy(request: UserRequest, ref: str, policy_id: str, body: schemas.TrustPolicyValues) -> dict[str, Any]:
    """A field that is absent stays as it is. The kind and the environment stay: another one is a 409."""
    require_right(request.auth, "change_trustpolicy")
    policy = _find_policy(ref, policy_id)
    slug = body.environment and SLUG_ALIASES.get(body.environment, body.environment)
    fixed = {"kind": (body.kind, policy.kind), "environment": (slug, policy.environment.slug)}
    if differing := [field for field, (asked, has) in fixed.items() if asked not in (None, has)]:
        what = f"The trust policy “{policy.name}”"
        raise http_refusal(409, "exists_with_others", what=what, others=", ".join(differing))
    with _refusing_trust():
        changed = trust.change(
            policy=policy,
            name=body.name,
            issuer=body.issuer,
            claims=body.claims,
            branch_claim=body.branchClaim,
            enabled=body.enabled,
            allow_private=body.allowPrivate,
            ca=body.ca,
            jwks=body.jwks,
            may_trust_private=keys.owner_has(request.auth, "trust_private_issuer"),
            trail=Trail.of(request),
        )
    return _whole(changed)


@router.delete(
    "/projects/{ref}/trust-policies/{policy_id}",
    response={204: None, **_WRITE},
    summary="Delete a trust policy; the keys that it gave are revoked",
)
def delete_trust_policy(request: UserRequest, ref: str, policy_id: str) -> Status[None]:
    require_right(request.auth, "delete_trustpolicy")
    trust.delete(policy=_find_policy(ref, policy_id), trail=Trail.of(request))
    return Status(204, None)


@contextmanager
def _refusing_trust() -> Iterator[None]:
    taken = frozenset({"exists_with_others", "trust_name_taken", "trust_too_many"})
    with refusing_with(409, codes=taken), refusing_with(403, codes=frozenset({"trust_needs_administrator"})):
        yield


def _find_policy(ref: str, policy_id: str) -> TrustPolicy:
    found = trust.list_policies(project=find_project(ref)).filter(pk=number_of(policy_id)).first()
    if found is None:
        raise HttpRefusal(404, "There is no such trust policy in this project.")
    return found


def _whole(policy: TrustPolicy) -> dict[str, Any]:
    return {**_policy(policy), "ca": policy.ca, "jwks": policy.jwks}


def _policy(policy: TrustPolicy) -> dict[str, Any]:
    return {
        "id": str(policy.pk),
        "project": policy.environment.project.ref,
        "environment": policy.environment.slug,
        "name": policy.name,
        "kind": policy.kind,
        "issuer": policy.issuer,
        "claims": policy.claims,
        "branchClaim": policy.branch_claim,
        "enabled": policy.enabled,
        "allowPrivate": policy.allow_private,
        "createdAt": policy.created_at,
        "lastUsedAt": policy.last_used_at,
        "lastError": policy.last_error or None,
    }
