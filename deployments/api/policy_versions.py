"""The versions of the default policy and their roll-outs, for a management token (docs/management-api.md).

Each route asks for the right that the console asks for, and calls the same function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from ninja import Query, Router

from deployments import tasks
from deployments.access.audit import Trail
from deployments.api import schemas
from deployments.api.auth import UserRequest, management_token, require_right
from deployments.api.errors import HttpRefusal, refusing_with
from deployments.api.pages import answer_of, number_of, page_of
from deployments.api.schemas import refusals
from deployments.models import PolicyVersion
from deployments.reconcile import generation, policy_versions, rollouts

router = Router(auth=management_token, tags=["management"])

_READ = refusals(400, 401, 403, 404, 422)
_WRITE = refusals(400, 401, 403, 404, 409, 413, 415, 422)
_ROLL_OUT, _UNDO = "roll_out_policyversion", "undo_policyversion"


@router.get(
    "/policy-versions",
    response={200: schemas.PolicyVersions, **_READ},
    exclude_none=True,
    summary="The versions of the default policy, newest first",
)
def list_policy_versions(request: UserRequest, filters: Query[schemas.Page]) -> dict[str, Any]:
    """`pagination.next` of a page is the `page[after]` of the next page; the last page has no `next`."""
    require_right(request.auth, "view_policyversion")
    rows = _rows()
    if filters.after is not None:
        rows = rows.filter(pk__lt=number_of(filters.after))
    page, has_more = page_of(rows, filters.size)
    return answer_of([policy_versions.described(row) for row in page], has_more)


@router.get(
    "/policy-versions/{version_id}",
    response={200: schemas.WholePolicyVersion, **_READ},
    exclude_none=True,
    summary="One version: its text, and each repository of its roll-out",
)
def show_policy_version(request: UserRequest, version_id: str) -> dict[str, Any]:
    require_right(request.auth, "view_policyversion")
    return policy_versions.described(_find(version_id), whole=True)


@router.get(
    "/policy-versions/{version_id}/preview",
    response={200: schemas.PolicyVersionPreview, **_READ, 409: None},
    exclude_none=True,
    summary="What a version changes: who gains and who loses, and which environments would lose a pull",
)
def preview_policy_version(request: UserRequest, version_id: str) -> dict[str, Any]:
    """By the last observation of each repository; nothing is asked of AWS."""
    require_right(request.auth, "view_policyversion")
    row = _find(version_id)
    with refusing_with(409):
        found = rollouts.preview(row, generation.shown(settings.CONFIGURATION))
    return {
        "repositories": found.total,
        "changed": found.changed,
        "unknown": found.unknown,
        "gains": [{"words": words, "repositories": number} for words, number in found.gains],
        "losses": [{"words": words, "repositories": number} for words, number in found.losses],
        "environments": [
            {
                "project": each.environment.project.ref,
                "environment": str(each.environment),
                "repository": each.repository.name,
            }
            for each in found.running
        ],
    }


@router.post(
    "/policy-versions/{version_id}/start",
    response={200: schemas.PolicyVersion, **_WRITE},
    exclude_none=True,
    summary="Start a version that waits",
)
def start_policy_version(request: UserRequest, version_id: str, body: schemas.StartedVersion) -> dict[str, Any]:
    """`atOnce`: everywhere, without stages, to take access away."""
    return _acted(request, version_id, _ROLL_OUT, functools.partial(rollouts.start, at_once=body.atOnce))


@router.post(
    "/policy-versions/{version_id}/pause",
    response={200: schemas.PolicyVersion, **_WRITE},
    exclude_none=True,
    summary="Stop a roll-out; repositories that have the version keep it",
)
def pause_policy_version(request: UserRequest, version_id: str, body: schemas.PausedVersion) -> dict[str, Any]:
    return _acted(request, version_id, _ROLL_OUT, functools.partial(rollouts.pause, reason=body.reason))


@router.post(
    "/policy-versions/{version_id}/resume",
    response={200: schemas.PolicyVersion, **_WRITE},
    exclude_none=True,
    summary="Let a stopped roll-out go on; accounts that lost their pull so far do not stop it again",
)
def resume_policy_version(request: UserRequest, version_id: str) -> dict[str, Any]:
    resume = functools.partial(rollouts.resume, configuration=generation.shown(settings.CONFIGURATION))
    return _acted(request, version_id, _ROLL_OUT, resume)


@router.post(
    "/policy-versions/{version_id}/rollback",
    response={200: schemas.PolicyVersion, **_WRITE},
    exclude_none=True,
    summary="Put back what was there before, on the repositories that the version was written to",
)
def roll_back_policy_version(request: UserRequest, version_id: str) -> dict[str, Any]:
    return _acted(request, version_id, _UNDO, rollouts.rollback)


def _acted(request: UserRequest, version_id: str, right: str, act: Callable[..., None]) -> dict[str, Any]:
    """Act on a version and wake a worker. Raises HttpRefusal: 403 without the right, 404, and 409 in a wrong state."""
    require_right(request.auth, right)
    row, trail = _find(version_id), Trail.of(request)
    with refusing_with(409):
        act(version=row, by=trail.actor.name, trail=trail)
    tasks.wake_workers()
    row.refresh_from_db()
    return policy_versions.described(row)


def _rows() -> QuerySet[PolicyVersion]:
    return PolicyVersion.objects.select_related("text", "follows__text").order_by("-pk")


def _find(version_id: str) -> PolicyVersion:
    found = _rows().filter(pk=number_of(version_id)).first()
    if found is None:
        raise HttpRefusal(404, "There is no such version of the default policy.")
    return found
