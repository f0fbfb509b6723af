"""Deployments for other clients than the CLI: a list, the newest deployment, and the current deployment.

A cluster polls `current` for the image to run. So the answer has the image reference with the digest, and an ETag: an
unchanged answer costs one query and has no body.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models.fields.json import KT
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.cache import get_conditional_response
from ninja import Query, Router
from ninja.responses import Status

from deployments import models
from deployments.api import schemas
from deployments.api.auth import EnvironmentRequest, may_read
from deployments.api.errors import HttpRefusal
from deployments.api.schemas import refusals
from deployments.deploys import lifecycle, promotions
from deployments.models import DeploymentStatus, ImageStatus

# `deployments.api.deployments` adds its routes after these routes: Django uses the first pattern that matches, and
# {deployment_id} also matches `current` and `latest`.
router = Router(auth=may_read, tags=["deployments"])

_PERIOD = re.compile(r"(\d{1,4})\s*([smhdw])", re.ASCII)
#: trigger.dev's statuses for remote builders, which do not exist here. A filter by these statuses finds nothing.
_NEVER = {"PENDING", "INSTALLING"}
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_IMAGE_STATE = {
    "description": "Whether the image can be pulled, by its last check. unknown: AWS did not say, or the image was not "
    "checked since the promotion.",
    "schema": {"type": "string", "enum": ImageStatus.values},
}
#: Of a text in the list: enough for a branch, a pull request's title and a commit's subject.
TEXT_LENGTH = 256
MESSAGE_LENGTH = 1000


@router.get(
    "/v1/deployments",
    response={200: schemas.Deployments, **refusals(400, 401, 403, 404, 422)},
    exclude_unset=True,  # only the runtime's fields may be null; other empty fields are left out
    summary="The environment's deployments, newest first",
)
def listed(request: EnvironmentRequest, filters: Query[schemas.DeploymentFilters]) -> dict[str, Any]:
    """`pagination.next` of a page is the `page[after]` of the next page; the last page has no `next`.

    Long texts are cut, and an error has its name and message only: `GET /v1/deployments/{id}` has the stack and the
    output of the build, up to 400,000 characters of one deployment.
    """
    found = models.Deployment.objects.filter(environment=request.auth.environment).order_by("-created_at", "-id")
    if filters.status:
        statuses = [word.strip().upper() for word in filters.status.split(",")]
        if unknown := sorted(set(statuses) - set(DeploymentStatus.values) - _NEVER):
            raise HttpRefusal(400, f"Unknown status {unknown[0][:20]}; known: {', '.join(DeploymentStatus.values)}.")
        found = found.filter(status__in=statuses)
    if filters.period:
        found = found.filter(created_at__gte=timezone.now() - _period(filters.period))
    if filters.since:
        found = found.filter(created_at__gte=_moment(filters.since, "from"))
    if filters.until:
        found = found.filter(created_at__lte=_moment(filters.until, "to"))
    if filters.after:
        last = lifecycle.find_deployment(environment=request.auth.environment, deployment_id=filters.after)
        found = found.filter(created_at__lte=last.created_at).exclude(created_at=last.created_at, id__gte=last.id)
    found = found.defer("error", "receipt").annotate(failure=KT("error__name"), reason=KT("error__message"))
    page = list(found[: filters.size + 1])
    rest = page[filters.size :]
    page = page[: filters.size]
    return {
        "data": [_item(row, _short(row.git), _reason(row)) for row in page],
        "pagination": {"next": page[-1].id} if rest else {},
    }


@router.get(
    "/v1/deployments/latest",
    response={200: schemas.CurrentDeployment, **refusals(401, 403, 404)},
    exclude_unset=True,  # only the runtime's fields may be null; other empty fields are left out
    summary="The newest deployment, whatever its status",
)
def latest(request: EnvironmentRequest) -> schemas.CurrentDeployment:
    found = models.Deployment.objects.filter(environment=request.auth.environment).order_by("-created_at", "-id")
    deployment = found.first()
    if deployment is None:
        raise HttpRefusal(404, "This environment has no deployment yet.")
    return _current(deployment)


@router.get(
    "/v1/deployments/current",
    response={200: schemas.CurrentDeployment, 304: None, **refusals(401, 403, 404)},
    exclude_unset=True,  # only the runtime's fields may be null; other empty fields are left out
    summary="The current deployment: the image to run",
    openapi_extra={"responses": {status: {"headers": {"X-Image-State": _IMAGE_STATE}} for status in (200, 304)}},
)
def current(request: EnvironmentRequest, response: HttpResponse) -> schemas.CurrentDeployment | Status[None]:
    """Poll with `If-None-Match`: the answer is 304 without a body until another deployment is promoted.

    The header `X-Image-State` of both answers says whether the image can be pulled. It is no part of the ETag.
    """
    promotion = promotions.current_promotion(environment=request.auth.environment)
    if promotion is None:
        raise HttpRefusal(404, "This environment has no promoted deployment yet.")
    etag = f'"{hashlib.sha256(f"{promotion.pk} {promotion.promoted_at.isoformat()}".encode()).hexdigest()[:32]}"'
    response["ETag"] = etag
    response["Cache-Control"] = "private, no-cache"
    looked_at = getattr(promotion.deployment, "image_state", None)  # None: not looked at yet
    response["X-Image-State"] = looked_at.state if looked_at is not None else ImageStatus.UNKNOWN
    if _has(request, etag):
        return Status(304, None)
    return _current(promotion.deployment)


def _has(request: HttpRequest, etag: str) -> bool:
    answer = get_conditional_response(request, etag=etag)
    return answer is not None and answer.status_code == 304


def _short(git: dict[str, Any]) -> dict[str, Any]:
    return {name: value[:TEXT_LENGTH] if isinstance(value, str) else value for name, value in git.items()}


def _reason(row: Any) -> dict[str, str] | None:
    return {"name": row.failure, "message": row.reason[:MESSAGE_LENGTH]} if row.failure else None


def _item(deployment: models.Deployment, git: dict[str, Any], error: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "id": deployment.id,
        "createdAt": deployment.created_at,
        "shortCode": deployment.short_code,
        "version": str(deployment.version),
        "runtime": deployment.runtime or None,
        "runtimeVersion": deployment.runtime_version or None,
        "status": deployment.status,
    } | {
        name: value
        for name, value in {
            "deployedAt": deployment.deployed_at,
            "git": git,
            "error": error,
            "externalId": deployment.external_id,
        }.items()
        if value
    }


def _current(deployment: models.Deployment) -> schemas.CurrentDeployment:
    return schemas.CurrentDeployment(
        **_item(deployment, deployment.git, deployment.error),
        imageReference=deployment.image_reference,
        imagePlatform=deployment.image_platform,
    )


def _period(text: str) -> timedelta:
    match = _PERIOD.fullmatch(text)
    if match is None:
        raise HttpRefusal(400, "period: write a number and a unit, for example 12h, 7d or 4w.")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _moment(text: str, name: str) -> datetime:
    try:
        if text.isascii() and text.isdecimal():  # milliseconds, as JavaScript counts
            return datetime.fromtimestamp(int(text[:16]) / 1000, UTC)
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise HttpRefusal(
            400, f"{name}: write a time as 2026-08-01T12:00:00Z, or in milliseconds since 1970."
        ) from None
