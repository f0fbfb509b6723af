"""`trigger.dev login`, the CLI's side: begin one, and ask for the token. The person's side is `deployments.views`."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest
from django.urls import reverse
from ninja import Router

from deployments.access import cli_login
from deployments.access.audit import Actor, Trail
from deployments.api import limits, schemas
from deployments.api.auth import client_of, too_many
from deployments.api.errors import refusing_with
from deployments.api.schemas import refusals
from deployments.errors import Refusal

router = Router(tags=["login"], auth=None)


@router.post(
    "/v1/authorization-code",
    response={200: schemas.AuthorizationCode, **refusals(400, 415, 422)},
    exclude_none=True,
    summary="Begin a login: a code to ask with, and a link for the browser",
)
def authorization_code(request: HttpRequest, body: schemas.NewLogin | None = None) -> dict[str, Any]:
    """`approval`: the token needs the code that the browser gets when somebody approves: sent to the port on 127.0.0.1
    that was named (`callback`), or shown to be pasted (`paste`). Without a challenge there is no such code."""
    address = request.META.get("REMOTE_ADDR", "")
    if wait := limits.begun_logins.count(address):
        raise too_many("log-ins begun", wait)
    begun = cli_login.begin(
        challenge=body.codeChallenge if body else "",
        callback_port=body.callbackPort if body else None,
        client=client_of(request),
        address=address,
    )
    path = reverse("login-approve", args=[begun.handle])
    return {
        "authorizationCode": begun.code,
        "url": f"{settings.CONFIGURATION.app_origin}{path}",
        "approval": begun.approval,
    }


@router.post(
    "/v1/token",
    response={200: schemas.LoginToken, **refusals(400, 403, 404, 422)},
    summary="The personal access token of a login that was approved; null until then",
)
def token(request: HttpRequest, body: schemas.LoginProof) -> dict[str, Any]:
    """Ask about once a second; the login ends ten minutes after it began. The token is given out once. The body is
    JSON, whatever its Content-Type: the CLI sends text/plain."""
    with (
        refusing_with(400, codes=frozenset({"approval_code_wrong"})),  # for which the CLI asks its user again
        refusing_with(403, codes=frozenset({"verifier_wrong"})),
    ):
        try:
            with transaction.atomic():
                found = cli_login.collect(
                    code=body.authorizationCode,
                    verifier=body.codeVerifier or "",
                    approval_code=body.approvalCode or "",
                )
                if found is not None:
                    key, text = found
                    trail = Trail(actor=Actor.key(key), request=request)
                    trail.record("make.key", key, after={"kind": key.kind, "name": key.name})
        except Refusal:
            if wait := limits.failed_logins.count(request.META.get("REMOTE_ADDR", "")):
                raise too_many("failed log-ins", wait) from None
            raise
    if found is None:
        return {"token": None}
    return {"token": {"token": text, "obfuscatedToken": str(key)}}
