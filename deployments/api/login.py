"""How a CLI gets a key: `trigger.dev login` of a person, and the exchange of a CI job's token.

`deployments.views` has the person's pages.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from ninja import Router

from deployments.access import cli_login, token_exchange
from deployments.access.audit import Actor, Trail
from deployments.api import limits, schemas
from deployments.api.auth import client_of, too_many
from deployments.api.errors import HttpRefusal, refusing_with
from deployments.api.schemas import refusals
from deployments.errors import Refusal

router = Router(tags=["login"], auth=None)


@router.post(
    "/v1/authorization-code",
    response={200: schemas.AuthorizationCode, **refusals(400, 415, 422)},
    exclude_none=True,
    summary="Begin a login: get a code for polling, and a link for the browser",
)
def authorization_code(request: HttpRequest, body: schemas.NewLogin | None = None) -> dict[str, Any]:
    """`approval` says how the CLI gets the approval code, which it needs for the token: the browser sends it to the
    given port on 127.0.0.1 (`callback`), or the person copies it (`paste`). Without a challenge there is no approval
    code."""
    address = request.META.get("REMOTE_ADDR", "")
    begun = cli_login.begin(
        challenge=body.codeChallenge if body else "",
        callback_port=body.callbackPort if body else None,
        client=client_of(request),
        address=address,
        refuse_unbound=settings.CONFIGURATION.refuse_unbound_logins,
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
    summary="The personal access token of an approved login; null before the approval",
)
def token(request: HttpRequest, body: schemas.LoginProof) -> dict[str, Any]:
    """Poll about once a second. A login expires after ten minutes. The token is returned once. The body is read as JSON
    whatever its Content-Type is, because the CLI sends text/plain."""
    with (
        refusing_with(400, codes=frozenset({"approval_code_wrong"})),  # then the CLI lets its user type the code again
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


@router.post(
    "/v1/auth/oidc",
    response={200: schemas.ExchangedKey, **refusals(400, 403, 413, 415, 422)},
    exclude_none=True,
    summary="Exchange the signed token of a CI job or a service account for a key of one deployment",
)
def exchange_token(request: HttpRequest, response: HttpResponse, body: schemas.CiToken) -> dict[str, Any]:
    """The token's claims must be those of a trust policy, which an administrator makes on the page of the project. A
    token is exchanged once. The key begins one deployment within ten minutes and does only what this deployment needs.
    `projectRef` and `environment` choose between several policies that accept the token, and let a refusal say what the
    policy expects."""
    response["Cache-Control"] = "no-store"
    configuration, address = settings.CONFIGURATION, request.META.get("REMOTE_ADDR", "")
    wait = limits.failed_exchanges.left(address)  # never for a token that is accepted: many jobs share an address
    try:
        with refusing_with(403):
            made = token_exchange.exchange(
                token=body.token,
                audience=configuration.app_origin,
                trail=Trail.of(request),
                project_ref=body.projectRef,
                environment=body.environment,
                recorded=not wait,
            )
    except HttpRefusal:
        if wait:
            raise too_many("refused tokens", wait) from None
        limits.failed_exchanges.count(address)
        raise
    environment = made.policy.environment
    return {
        "key": made.text,
        "expiresAt": made.key.expires_at,
        "projectRef": environment.project.ref,
        "environment": environment.slug,
        "branch": made.key.branch or None,
        "apiUrl": configuration.api_origin,
    }
