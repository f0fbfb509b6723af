"""The requests of a deploy, in the order in which the CLI sends them. Each route calls one use case of `lifecycle`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pydantic
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from ninja.responses import Status

from deployments import images, measure, models
from deployments.access import keys
from deployments.access.audit import Trail
from deployments.api import listing, schemas, stream
from deployments.api.auth import (
    EnvironmentRequest,
    may_begin,
    may_deploy,
    may_end,
    may_fetch_credentials,
    may_go_on,
    may_read_result,
)
from deployments.api.errors import HttpRefusal, refusing_with
from deployments.api.schemas import refusals
from deployments.deploys import lifecycle, promotions
from deployments.errors import Refusal, refusal
from deployments.log import bind
from deployments.models import DeploymentStatus, EnvironmentType
from deployments.row_values import LogIn

router = listing.router  # shared: ninja needs the GET and POST routes of one address in one router

IDEMPOTENCY_HEADER = "x-trigger-request-idempotency-key"
_BODY = refusals(400, 401, 403, 404, 413, 415, 422)


@router.post(
    "/v1/deployments",
    auth=may_begin,
    response={200: schemas.CreatedDeployment, **_BODY, 409: None},
    exclude_none=True,
    summary="Begin a deployment: get a version, and an image ref whose repository is ready for the push",
)
def create(request: EnvironmentRequest, body: schemas.NewDeployment) -> dict[str, Any]:
    """With the header `x-trigger-request-idempotency-key`, a repeated request with the same value gets the deployment
    of the first request. 409: another deploy with the external id is running."""
    configuration = settings.CONFIGURATION
    environment = request.auth.environment
    if body.type is None and configuration.refuse_v3:
        raise HttpRefusal(400, "This CLI is too old for this server: upgrade the CLI (npx trigger.dev@latest deploy).")
    if environment.type == EnvironmentType.DEVELOPMENT:
        raise HttpRefusal(400, "The development environment has no deployments.")
    with (
        refusing_with(409, codes=frozenset({"external_id_in_progress"})),
        refusing_with(403, codes=frozenset({"one_deployment_only"})),
        refusing_with(400, codes=frozenset({"force_without_external_id", "external_id_too_long"})),
        _counting_refusals(),
    ):
        creation = lifecycle.create_deployment(
            environment=environment,
            configuration=configuration,
            trail=Trail.of(request),
            content_hash=body.contentHash,
            type=body.type,
            runtime=body.runtime or "",
            git=body.gitMeta.model_dump(exclude_none=True) if body.gitMeta else {},
            triggered_via=body.triggeredVia or "",
            triggered_by=request.auth.name[:200],
            external_id=body.externalId or "",
            force=body.force,
            idempotency_key=_idempotency_key(request),
            request_digest=hashlib.sha256(request.body).hexdigest(),
            begun_by=request.auth.person,
            only_key=request.auth.key if keys.is_for_one_deployment(request.auth.key) else None,
        )
    deployment = creation.deployment
    bind(deployment=deployment.short_code)
    canceled = creation.canceled if body.force else ()
    answer: dict[str, Any] = {
        "id": deployment.id,
        "contentHash": deployment.content_hash,
        "shortCode": deployment.short_code,
        "version": str(deployment.version),
        "imageTag": deployment.image_ref,
        "imagePlatform": deployment.image_platform,
        "externalId": deployment.external_id or None,
        "outcome": creation.outcome,
        "canceledDeployments": [{"version": str(each.version), "shortCode": each.short_code} for each in canceled]
        or None,
    }
    if creation.outcome == "existing":
        answer["imageTag"] = deployment.image_reference
        answer["isPromoted"] = deployment.promotions.filter(environment=environment, label="current").exists()
    if body.type is None:
        # A 3.x CLI joins host and tag itself; without a host it would push to trigger.dev's registry.
        answer["registryHost"], _, answer["imageTag"] = answer["imageTag"].partition("/")
    return answer


@contextmanager
def _counting_refusals() -> Iterator[None]:
    try:
        yield
    except lifecycle.Refusal:
        measure.deploy("refused")
        raise


def _idempotency_key(request: HttpRequest) -> str | None:
    key = request.headers.get(IDEMPOTENCY_HEADER, "").strip()
    if len(key) > 200 or not key.isprintable():
        raise HttpRefusal(400, f"The header {IDEMPOTENCY_HEADER} has at most 200 printable characters.")
    return key or None


@router.get(
    "/v1/deployments/{deployment_id}",
    auth=may_read_result,
    response={200: schemas.Deployment, **refusals(401, 403, 404, 422)},
    exclude_none=True,
    summary="The state of a deployment",
)
def show(request: EnvironmentRequest, deployment_id: str) -> dict[str, Any]:
    """For the deployment of a 3.x CLI, this request comes before finalize: 422 if finalize would refuse the image, and
    no `worker` after the deployment was canceled, has failed or has timed out. Both end the CLI; a refused finalize
    does not."""
    deployment = _find(request, deployment_id)
    if keys.allows(request.auth.key, keys.DEPLOY):
        refused = promotions.stops_v3(deployment, settings.CONFIGURATION)
        if refused is not None:
            raise HttpRefusal(422, refused.sentence, code=refused.code)
    worker = None if _has_ended_v3(deployment) else getattr(deployment, "worker", None)
    return {
        "id": deployment.id,
        "status": deployment.status,
        "contentHash": deployment.content_hash,
        "shortCode": deployment.short_code,
        "version": str(deployment.version),
        "imageReference": deployment.image_reference,
        "imagePlatform": deployment.image_platform,
        "commitSHA": deployment.git.get("commitSha"),
        "canceledReason": deployment.canceled_reason or None,
        "errorData": deployment.error,
        "externalId": deployment.external_id or None,
        "registryLogIn": _opened(_shown(deployment, request.auth.person)),
        "worker": worker
        and {"id": worker.id, "version": str(deployment.version), "tasks": worker.tasks[: schemas.MAX_TASKS]},
    }


@router.post(
    "/v1/deployments/{deployment_id}/generate-registry-credentials",
    auth=may_fetch_credentials,
    response={200: schemas.RegistryCredentials, **refusals(401, 403, 404, 422)},
    exclude_none=True,
    summary="A log-in for the push of this deployment's image",
)
def registry_credentials(request: EnvironmentRequest, deployment_id: str, response: HttpResponse) -> dict[str, Any]:
    """In ECR the log-in also pulls from the base repositories of the settings. With a deploy key that was made with a
    personal access token, it also opens the repositories of that person's deployments that are in progress now: never
    those of preview deployments, and never in a log-in for a preview deployment. It ends at `expiresAt`, 15 minutes to
    an hour from now, and cannot be changed or taken back."""
    response["Cache-Control"] = "no-store"
    credentials = lifecycle.registry_credentials(
        deployment=_find(request, deployment_id), configuration=settings.CONFIGURATION, person=request.auth.person
    )
    return {
        "username": credentials.username,
        "password": credentials.password,
        "expiresAt": credentials.expires_at,
        "repositoryUri": credentials.repository_uri,
        "proxyEndpoint": credentials.endpoint,
        "opens": _opened(credentials.opens),
        "message": credentials.message or None,
    }


def _shown(deployment: models.Deployment, person: int | None) -> LogIn | None:
    """The deployment's log-in; for a key that belongs to no person, without the repositories of other deployments."""
    log_in = deployment.log_in
    if log_in is None or person is not None:
        return log_in
    own = deployment.image_ref.rpartition(":")[0].partition("/")[2]
    return replace(log_in, push=tuple(name for name in log_in.push if name in (own, "*")), left_out=())


def _opened(log_in: LogIn | None) -> dict[str, Any] | None:
    if log_in is None:
        return None
    names = {"push": list(log_in.push), "pull": list(log_in.pull), "leftOut": list(log_in.left_out)}
    return {**names, "expiresAt": log_in.ends}


@router.post(
    "/v1/deployments/{deployment_id}/background-workers",
    auth=may_go_on,
    response={200: schemas.CreatedWorker, **_BODY, 409: None},
    summary="Store the indexer's report about the image: BUILDING becomes DEPLOYING",
)
def background_workers(
    request: EnvironmentRequest, deployment_id: str, body: schemas.NewWorkerUnread
) -> dict[str, Any]:
    """The body may have up to 64 MiB, of which at most 3 MiB and 150,000 values are not `contents` of source files, and
    at most 10,000 tasks. Unknown fields are ignored. A repeated request gets the same worker."""
    deployment = _find(request, deployment_id)
    worker = _worker(deployment, body.root)
    metadata = worker.metadata
    with refusing_with(400), refusing_with(409, codes=frozenset({"content_mismatch"})):
        stored = lifecycle.index(
            deployment=deployment,
            content_hash=metadata.contentHash,
            engine=worker.engine or "",
            sdk_version=metadata.packageVersion,
            cli_version=metadata.cliPackageVersion or "",
            runtime=metadata.runtime or "",
            runtime_version=metadata.runtimeVersion or "",
            tasks=[
                {"id": images.new_id("task"), "slug": task.id, "filePath": task.filePath}
                | ({"exportName": task.exportName} if task.exportName is not None else {})
                for task in metadata.tasks
            ],
            metadata={
                "queues": metadata.queues or [],
                "buildPlatform": worker.buildPlatform or "",
                "targetPlatform": worker.targetPlatform or "",
            },
            target_platform=worker.targetPlatform or "",
            timeout=settings.CONFIGURATION.deploy_timeout,
        )
    return {"id": stored.id, "version": str(deployment.version), "contentHash": stored.content_hash}


def _worker(deployment: models.Deployment, body: dict[str, Any]) -> schemas.NewWorker:
    """The indexer's report. If it cannot be read, fail the deployment and raise Refusal.

    The error is stored on the deployment because the indexer ignores the answer and the CLI shows only a stored error.
    """
    try:
        return schemas.NewWorker.model_validate(body)
    except pydantic.ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors(include_input=False)[:3]
        )
        unreadable = refusal("report_unreadable", problems=problems)
        lifecycle.fail(
            environment=deployment.environment,
            deployment_id=deployment.id,
            error={"name": "TaskMetadataParseError", "message": unreadable.sentence},
        )
        raise unreadable from None


@router.post(
    "/v1/deployments/{deployment_id}/fail",
    auth=may_end,
    response={200: schemas.Id, **refusals(400, 401, 403, 413, 415, 422)},
    summary="End a deployment as failed, with the error",
)
def fail(request: EnvironmentRequest, deployment_id: str, body: schemas.Failure) -> dict[str, Any]:
    """Unknown and ended deployments are not changed; the answer is the same."""
    lifecycle.fail(
        environment=request.auth.environment,
        deployment_id=deployment_id,
        error=body.error.model_dump(exclude_none=True),
    )
    return {"id": deployment_id}


def _has_ended_v3(deployment: models.Deployment) -> bool:
    """Whether this is the deployment of a 3.x CLI that has ended without success."""
    return not deployment.type and deployment.is_final and deployment.status != DeploymentStatus.DEPLOYED


_EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["log", "ping", "complete", "error"]},
        "data": {"type": "string", "description": "JSON"},
    },
}


@router.post(
    "/v3/deployments/{deployment_id}/finalize",
    auth=may_end,
    response=refusals(400, 401, 403, 413, 415, 422),
    summary="Finish a deployment, as a stream of events",
    openapi_extra={
        "responses": {
            200: {
                "description": "Events: `log` {message}, `ping` {}, and at the end `complete` {id} or `error` {error}.",
                "content": {"text/event-stream": {"schema": _EVENT}},
            },
            204: {"description": "The deployment of a 3.x CLI has ended without success: the CLI asks no more."},
        }
    },
)
def finalize(request: EnvironmentRequest, deployment_id: str, body: schemas.Finalize) -> HttpResponseBase:
    """Every refusal is an `error` event, also for an unknown deployment: the CLI does not show the text of another
    status than 200. A repeated request for a DEPLOYED deployment completes. A 3.x CLI repeats a request that was
    refused every three seconds without an end, so it gets a 204, after which it does not."""
    bind(deployment_id=deployment_id)
    known = models.Deployment.objects.filter(environment=request.auth.environment, id=deployment_id).first()
    if known is not None:
        bind(deployment=known.short_code)
    if known is not None and _has_ended_v3(known):
        return HttpResponse(status=204)
    return stream.response(
        lambda report: _finalize(request, deployment_id, body, report),
        complete={"id": deployment_id},
        request_id=request.META["REQUEST_ID"],
    )


def _finalize(
    request: EnvironmentRequest,
    deployment_id: str,
    body: schemas.Finalize,
    report: Callable[[str], object] = lambda sentence: None,
) -> None:
    digest = body.imageDigest if isinstance(body.imageDigest, str) else None
    deployment = _find(request, deployment_id)
    try:
        promotions.finalize(
            deployment=deployment,
            digest=digest if images.is_digest(digest) else None,
            skip_promotion=body.skipPromotion or False,
            configuration=settings.CONFIGURATION,
            report=report,
        )
    except Refusal as refused:
        promotions.fail_v3(deployment, refused)
        raise


@router.post(
    "/v2/deployments/{deployment_id}/finalize",
    auth=may_end,
    response={200: schemas.Id, **_BODY},
    summary="Finish a deployment, as plain JSON",
)
def finalize_v2(request: EnvironmentRequest, deployment_id: str, body: schemas.Finalize) -> dict[str, Any]:
    with refusing_with(400):
        _finalize(request, deployment_id, body)
    return {"id": deployment_id}


@router.post(
    "/v1/deployments/{deployment_id}/finalize",
    auth=may_end,
    response={200: schemas.Id, **_BODY},
    summary="Finish a deployment, for the oldest CLIs",
)
def finalize_v1(request: EnvironmentRequest, deployment_id: str, body: schemas.Finalize) -> dict[str, Any]:
    return finalize_v2(request, deployment_id, body)


@router.post(
    "/v1/deployments/{version}/promote",
    auth=may_deploy,
    response={200: schemas.Promoted, **refusals(400, 401, 403, 404, 422)},
    summary="Make a deployed version current",
)
def promote(request: EnvironmentRequest, version: str, allowRollbacks: bool = False) -> dict[str, Any]:
    """A version that is older than the current version is refused unless `allowRollbacks` is true."""
    with refusing_with(400):
        deployment = promotions.promote(
            environment=request.auth.environment,
            version=version,
            allow_rollbacks=allowRollbacks,
            by=request.auth.name[:200],
            configuration=settings.CONFIGURATION,
            trail=Trail.of(request),
        )
    return {"id": deployment.id, "version": str(deployment.version), "shortCode": deployment.short_code}


@router.post(
    "/v1/deployments/{deployment_id}/cancel",
    auth=may_deploy,
    response={204: None, **_BODY, 409: None},
    summary="Cancel a deployment that has not ended",
)
def cancel(request: EnvironmentRequest, deployment_id: str, body: schemas.Cancel | None = None) -> Status[None]:
    deployment = _find(request, deployment_id)
    with refusing_with(409):
        lifecycle.cancel(deployment=deployment, trail=Trail.of(request), reason=(body and body.reason) or "")
    return Status(204, None)


def _find(request: EnvironmentRequest, deployment_id: str) -> models.Deployment:
    deployment = lifecycle.find_deployment(environment=request.auth.environment, deployment_id=deployment_id)
    bind(deployment=deployment.short_code)
    return deployment
