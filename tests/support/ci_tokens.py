"""Tokens as CI systems and clusters sign them, by the issuer that `openid_provider` runs, and policies that trust them.

The claims are those of the documentation: docs.github.com “OpenID Connect reference”, docs.gitlab.com “OpenID Connect
(OIDC) Authentication Using ID Tokens”, kubernetes.io “Managing Service Accounts”.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from joserfc import jwt

from deployments.access import trust
from deployments.access.audit import Trail
from deployments.models import Environment, TrustPolicy
from tests.support.openid_provider import Provider

REPOSITORY_ID, OWNER_ID = "74931560", "65894216"
GITHUB = {"repository_id": REPOSITORY_ID, "repository_owner_id": OWNER_ID, "ref": "refs/heads/main"}
GITLAB = {"project_id": "20748", "ref": "main", "ref_type": "branch"}
KUBERNETES = {
    "kubernetes.io/namespace": "builds",
    "kubernetes.io/serviceaccount/name": "deployer",
    "kubernetes.io/serviceaccount/uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798",
}


def usual(provider: Provider, **more: Any) -> dict[str, Any]:
    """The claims that each token has: issuer, audience, times, and an id of its own."""
    now = int(time.time())
    return {
        "iss": provider.issuer,
        "aud": settings.CONFIGURATION.app_origin,
        "iat": now,
        "nbf": now - 5,
        "exp": now + 300,
        "jti": secrets.token_hex(16),
        **more,
    }


def github(provider: Provider, **more: Any) -> dict[str, Any]:
    """The claims of a job of GitHub Actions, for a push to main."""
    return usual(provider) | {
        "sub": "repo:octo-org/billing:ref:refs/heads/main",
        "repository": "octo-org/billing",
        "repository_id": REPOSITORY_ID,
        "repository_owner": "octo-org",
        "repository_owner_id": OWNER_ID,
        "repository_visibility": "private",
        "ref": "refs/heads/main",
        "ref_type": "branch",
        "ref_protected": "true",
        "sha": "5c1a7f3e0c5a4c6f8f7f3f9c4b1b7d2a9e8d7c6b",
        "head_ref": "",
        "base_ref": "",
        "event_name": "push",
        "actor": "octocat",
        "actor_id": "583231",
        "run_id": "9876543210",
        "run_number": "42",
        "run_attempt": "1",
        "workflow": "deploy",
        "workflow_ref": "octo-org/billing/.github/workflows/deploy.yml@refs/heads/main",
        "job_workflow_ref": "octo-org/billing/.github/workflows/deploy.yml@refs/heads/main",
        "runner_environment": "github-hosted",
        **more,
    }


def gitlab(provider: Provider, **more: Any) -> dict[str, Any]:
    """The claims of a job of GitLab CI/CD on main."""
    return usual(provider) | {
        "sub": "project_path:acme/billing:ref_type:branch:ref:main",
        "namespace_id": "72",
        "namespace_path": "acme",
        "project_id": "20748",
        "project_path": "acme/billing",
        "user_id": "1",
        "user_login": "sample-user",
        "pipeline_id": "574",
        "pipeline_source": "push",
        "job_id": "302",
        "ref": "main",
        "ref_type": "branch",
        "ref_protected": "true",
        "runner_environment": "gitlab-hosted",
        "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        **more,
    }


def kubernetes(provider: Provider, **more: Any) -> dict[str, Any]:
    """The claims of a projected service account token; its audience is a list."""
    now = int(time.time())
    return usual(provider) | {
        "aud": [settings.CONFIGURATION.app_origin],
        "exp": now + 3600,
        "sub": "system:serviceaccount:builds:deployer",
        "kubernetes.io": {
            "namespace": "builds",
            "pod": {"name": "deploy-7d9f", "uid": "a64e6ac9-6ee0-4ff6-9e28-35b0b3dd0c13"},
            "serviceaccount": {"name": "deployer", "uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"},
        },
        **more,
    }


def signed(provider: Provider, claims: Mapping[str, Any], *, key: Any = None, **header: Any) -> str:
    """The claims as a token. `key`: instead of the provider's; `header`: more of its header."""
    key = key or provider.key
    parameters = {"alg": "RS256", "typ": "JWT", "kid": provider.key.kid, **header}
    return jwt.encode(parameters, dict(claims), key, algorithms=[parameters["alg"]])


def part(content: bytes | Mapping[str, Any]) -> str:
    """Base64url of some bytes, or of an object as JSON, as a part of a token."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed_text(provider: Provider, header: bytes | Mapping[str, Any], payload: bytes | Mapping[str, Any]) -> str:
    """A token with exactly these bytes, with a signature (RS256) of the provider."""
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    text = f"{part(header)}.{part(payload)}"
    signature = provider.key.private_key.sign(text.encode(), PKCS1v15(), SHA256())
    return f"{text}.{part(signature)}"


def policy(
    provider: Provider,
    environment: Environment,
    certificate: Path,
    *,
    kind: str = "github",
    claims: Mapping[str, str] = GITHUB,
    name: str = "main branch",
    **more: Any,
) -> TrustPolicy:
    """A policy that trusts the provider, which is on loopback and has a certificate of its own."""
    return trust.create(
        environment=environment,
        kind=kind,
        name=name,
        claims=claims,
        issuer=provider.issuer,
        allow_private=True,
        ca=certificate.read_text(),
        trail=Trail.of_command("test"),
        by="ada@example.com",
        may_trust_private=True,
        **more,
    )


@cache
def silent_issuer() -> Provider:
    """An issuer that does not run: its keys are pasted into policies (`pasted_policy`)."""
    return Provider(scheme="https", port=8443)


def pasted_policy(environment: Environment, **more: Any) -> TrustPolicy:
    """A policy that trusts `silent_issuer` by its pasted keys."""
    issuer = silent_issuer()
    values: dict[str, Any] = {"kind": "github", "name": "main branch", "claims": GITHUB, "by": "ada@example.com"}
    return trust.create(
        environment=environment,
        issuer=issuer.issuer,
        jwks=json.dumps({"keys": [issuer.key.as_dict(private=False)]}),
        trail=Trail.of_command("test"),
        may_trust_private=True,
        **(values | more),
    )
