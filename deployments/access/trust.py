"""Trust policies: whose signed tokens are exchanged for a key of one deployment (D-trust-policies).

A CI system and a Kubernetes cluster sign a token for each job or pod, with claims that say what runs. A trust policy
belongs to one environment and says which issuer and which claims are trusted; `access.token_exchange` compares a token
with it. PyPI's trusted publishers are the model (pypi/warehouse, `warehouse/oidc`).

A policy binds what cannot be given to somebody else: the ids of a repository or a project, not its name, because a name
that becomes free can be taken. A claim must be equal to its value. Only in GLOB_CLAIMS does `*` stand for any
characters but a slash, because refs and workflow files have parts that change.

A person makes policies with a permission of its own. To trust an issuer at a private address, a certificate of its own
or pasted keys needs another one (`may_trust_private`): such a policy makes this server ask addresses that only it can
reach, or believe keys that nobody publishes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from deployments import outbound_http
from deployments.access import openid
from deployments.access.audit import Trail
from deployments.errors import NotFound, Refusal, refusal
from deployments.models import AccessKey, Environment, EnvironmentType, Project, TrustKind, TrustPolicy
from deployments.outbound_http import Undeliverable

#: docs.github.com, “OpenID Connect reference”.
GITHUB_ISSUER = "https://token.actions.githubusercontent.com"
GITLAB_ISSUER = "https://gitlab.com"
#: Claims whose values may have `*`.
GLOB_CLAIMS = ("ref", "head_ref", "base_ref", "job_workflow_ref", "workflow_ref", "ci_config_ref_uri")
#: What every token is compared with anyway, or what differs in each token.
RESERVED_CLAIMS = ("iss", "aud", "exp", "iat", "nbf", "jti")
#: A policy of the kind “other” binds one of them: who the token is about, not only what was done.
IDENTIFYING_CLAIMS = (
    "sub", "client_id", "azp", "repository_id", "project_id", "pipeline_id", "repositoryUuid",
    "oidc.circleci.com/project-id", "kubernetes.io/serviceaccount/uid",
)  # fmt: skip
MAX_CLAIMS = 20
MAX_NAME_CHARACTERS = 100
MAX_VALUE_CHARACTERS = 500
MAX_PASTED_CHARACTERS = 64 * 1024
MAX_POLICIES_OF_ENVIRONMENT = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What a policy of a kind begins with. `required`: claims that it binds, of each group at least one."""

    issuer: str
    required: tuple[tuple[str, ...], ...]
    numbers: tuple[str, ...] = ()  # claims whose values are decimal numbers, written as text
    branch_claim: str = ""  # the claim that has the branch, for preview environments


PRESETS: dict[str, Preset] = {
    TrustKind.GITHUB: Preset(
        issuer=GITHUB_ISSUER,
        required=(("repository_id",), ("repository_owner_id",)),
        numbers=("repository_id", "repository_owner_id"),
        branch_claim="head_ref",
    ),
    # docs.gitlab.com, “OpenID Connect (OIDC) Authentication Using ID Tokens”. In the pipeline of a merge request from
    # a fork, project_id is the fork's.
    TrustKind.GITLAB: Preset(
        issuer=GITLAB_ISSUER,
        required=(("project_id",),),
        numbers=("project_id", "namespace_id"),
        branch_claim="ref",
    ),
    # kubernetes.io, “Managing Service Accounts”: the claim `kubernetes.io` has the namespace and the service account.
    TrustKind.KUBERNETES: Preset(
        issuer="",
        required=(
            ("kubernetes.io/namespace",),
            ("kubernetes.io/serviceaccount/uid", "kubernetes.io/serviceaccount/name"),
        ),
    ),
    TrustKind.OTHER: Preset(issuer="", required=(IDENTIFYING_CLAIMS,), branch_claim="ref"),
}


# ------------------------------------------------------------------------------------------------------------ claims


def claim_of(claims: Mapping[str, Any], name: str) -> Any:
    """The claim of this name. A name with slashes also leads into objects: `kubernetes.io/namespace`. Else None."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("/"):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def differing(expected: Mapping[str, str], claims: Mapping[str, Any]) -> list[str]:
    """The names of the expected claims that the token lacks, or has with another value or as no text."""
    return [name for name, value in expected.items() if not _equal(name, value, claim_of(claims, name))]


def _equal(name: str, expected: str, actual: Any) -> bool:
    if not isinstance(actual, str):
        return False
    if name not in GLOB_CLAIMS or "*" not in expected:
        return actual == expected
    wanted, given = expected.split("/"), actual.split("/")
    return len(wanted) == len(given) and all(map(_matches, wanted, given))


def _matches(pattern: str, text: str) -> bool:
    """Whether a text without slashes matches. Not a regular expression, which can take years for many asterisks."""
    if "*" not in pattern:
        return text == pattern
    first, *between, last = pattern.split("*")
    at, end = len(first), len(text) - len(last)
    if not text.startswith(first) or not text.endswith(last) or at > end:
        return False
    for part in between:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def identifying(policy: TrustPolicy) -> dict[str, str]:
    """The claims of the policy that say whose token it is, without those that say what was done."""
    names = {name for group in PRESETS[policy.kind].required for name in group}
    return {name: value for name, value in policy.claims.items() if name in names}


# ---------------------------------------------------------------------------------------------------------- policies


def list_policies(*, project: Project | None = None, environment: Environment | None = None) -> QuerySet[TrustPolicy]:
    """The trust policies, of one project or environment if it is given, with their environments and projects."""
    rows = TrustPolicy.objects.select_related("environment__project")
    if project is not None:
        rows = rows.filter(environment__project=project)
    return rows if environment is None else rows.filter(environment=environment)


def create(
    *,
    environment: Environment,
    kind: str,
    name: str,
    claims: Mapping[str, str],
    trail: Trail,
    by: str,
    issuer: str = "",
    branch_claim: str = "",
    enabled: bool = True,
    allow_private: bool = False,
    ca: str = "",
    jwks: str = "",
    may_trust_private: bool = False,
) -> TrustPolicy:
    """A new trust policy. `issuer` and `branch_claim`: empty for those of the kind. `by`: who makes it, for its page.

    Raises Refusal (`trust_policy_refused`, `trust_needs_administrator`, `trust_name_taken`, `trust_too_many`).
    """
    policy = _new(
        environment=environment,
        kind=kind,
        name=name,
        claims=claims,
        issuer=issuer,
        branch_claim=branch_claim,
        enabled=enabled,
        allow_private=allow_private,
        ca=ca,
        jwks=jwks,
    )
    policy.created_by = by[:200]
    with trail.change("add.trust_policy") as line:
        _require_right(policy, None, may_trust_private)
        _require_valid(policy)
        if TrustPolicy.objects.filter(environment=environment).count() >= MAX_POLICIES_OF_ENVIRONMENT:
            raise refusal("trust_too_many", most=MAX_POLICIES_OF_ENVIRONMENT)
        _save(policy)
        policy.refresh_from_db(fields=["created_at", "changed_at"])
        line.target, line.after = policy, described(policy)
    return policy


def ensure(
    *, environment: Environment, name: str, trail: Trail, by: str, may_trust_private: bool = False, **values: Any
) -> tuple[TrustPolicy, bool]:
    """(the environment's policy with this name, whether this call made it). `values` are those of `create`.

    Of several requests at once, one makes the policy. Raises Refusal as `create`, and if the policy that is there
    trusts something else.
    """
    rows = list_policies(environment=environment).filter(name=_line(name))
    found = rows.first()
    if found is None:
        rights: dict[str, Any] = {"trail": trail, "by": by, "may_trust_private": may_trust_private}
        try:
            return create(environment=environment, name=name, **values, **rights), True
        except Refusal as refused:
            found = rows.first() if refused.code == "trust_name_taken" else None
            if found is None:
                raise
    wanted = _new(environment=environment, name=name, **values)
    if differing := [field for field in _TRUSTED if getattr(found, field) != getattr(wanted, field)]:
        what = f"The trust policy “{found.name}” of {environment}"
        raise refusal("exists_with_others", what=what, others=", ".join(differing))
    return found, False


#: What a policy trusts.
_TRUSTED = ("kind", "issuer", "claims", "branch_claim", "enabled", "allow_private", "ca", "jwks")


def _new(
    *,
    environment: Environment,
    kind: str,
    name: str,
    claims: Mapping[str, str],
    issuer: str = "",
    branch_claim: str = "",
    enabled: bool = True,
    allow_private: bool = False,
    ca: str = "",
    jwks: str = "",
) -> TrustPolicy:
    """A policy that is not saved, with what the kind says where the values are empty."""
    preset = PRESETS.get(kind)
    if preset is not None:
        issuer = issuer or preset.issuer
        if environment.type == EnvironmentType.PREVIEW:
            branch_claim = branch_claim or preset.branch_claim
    return TrustPolicy(
        environment=environment,
        kind=kind,
        name=_line(name),
        issuer=issuer.strip(),
        claims=dict(claims),
        branch_claim=branch_claim.strip(),
        enabled=enabled,
        allow_private=allow_private,
        ca=ca.strip(),
        jwks=jwks.strip(),
    )


def change(
    *,
    policy: TrustPolicy,
    trail: Trail,
    name: str | None = None,
    issuer: str | None = None,
    claims: Mapping[str, str] | None = None,
    branch_claim: str | None = None,
    enabled: bool | None = None,
    allow_private: bool | None = None,
    ca: str | None = None,
    jwks: str | None = None,
    may_trust_private: bool = False,
) -> TrustPolicy:
    """Change a policy; None keeps a value. A policy that is disabled, or trusts something else now, revokes its keys.

    The kind and the environment cannot be changed. Raises NotFound, and Refusal as `create` does.
    """
    texts = {"issuer": issuer, "branch_claim": branch_claim, "ca": ca, "jwks": jwks}
    values: dict[str, Any] = {field: value.strip() for field, value in texts.items() if value is not None}
    marks = {"enabled": enabled, "allow_private": allow_private}
    values |= {field: value for field, value in marks.items() if value is not None}
    if name is not None:
        values["name"] = _line(name)
    if claims is not None:
        values["claims"] = dict(claims)
    with trail.change("change.trust_policy", policy) as line:
        row = _locked(policy)
        before, kept = described(row), {field: getattr(row, field) for field in values}
        private = {field: getattr(row, field) for field in _PRIVATE}
        for field, value in values.items():
            setattr(row, field, value)
        if values == kept:
            line.nothing_changed()
            return row
        _require_right(row, private, may_trust_private)
        _require_valid(row)
        _save(row)
        TrustPolicy.objects.filter(pk=row.pk).update(changed_at=Now())
        revoked = 0
        if {field for field in values if values[field] != kept[field]} - {"name"} and before["enabled"]:
            revoked = _revoke_keys(row)
        line.before, line.after = before, described(row) | {"revoked_keys": revoked}
    row.refresh_from_db(fields=["changed_at"])
    return row


def delete(*, policy: TrustPolicy, trail: Trail) -> None:
    """Delete a policy and revoke the keys that were exchanged by it, also that of a running deploy. Raises NotFound."""
    with trail.change("delete.trust_policy", policy) as line:
        row = _locked(policy)
        line.before = described(row) | {"revoked_keys": _revoke_keys(row)}
        row.delete()


def described(policy: TrustPolicy) -> dict[str, Any]:
    """The values of a policy for the audit log and the API. They contain no secret: a key set is public keys."""
    return {
        "environment": f"{policy.environment.project.ref} / {policy.environment}",
        "name": policy.name,
        "kind": policy.kind,
        "issuer": policy.issuer,
        "claims": dict(policy.claims),
        "branch_claim": policy.branch_claim,
        "enabled": policy.enabled,
        "allow_private": policy.allow_private,
        "own_certificate": bool(policy.ca),
        "pasted_keys": bool(policy.jwks),
    }


#: What only `may_trust_private` gives, with the issuer that it is given for.
_PRIVATE = ("issuer", "allow_private", "ca", "jwks")


def _require_right(policy: TrustPolicy, before: Mapping[str, Any] | None, may_trust_private: bool) -> None:
    asked = policy.allow_private or policy.ca or policy.jwks
    changed = before != {field: getattr(policy, field) for field in _PRIVATE}
    if asked and changed and not may_trust_private:
        raise refusal("trust_needs_administrator")


def _require_valid(policy: TrustPolicy) -> None:
    if found := problems(policy):
        raise refusal("trust_policy_refused", reason=next(iter(found.values())))


def _save(policy: TrustPolicy) -> None:
    try:
        with transaction.atomic():
            policy.save()
    except IntegrityError:
        raise refusal("trust_name_taken", name=policy.name) from None


def _locked(policy: TrustPolicy) -> TrustPolicy:
    rows = TrustPolicy.objects.select_related("environment__project").select_for_update(of=("self",))
    row = rows.filter(pk=policy.pk).first()
    if row is None:
        raise NotFound("The trust policy does not exist any more.")
    return row


def _revoke_keys(policy: TrustPolicy) -> int:
    return AccessKey.objects.filter(trust_policy=policy, revoked_at=None, expires_at__gt=Now()).update(revoked_at=Now())


def _line(text: str) -> str:
    return " ".join(text.split())


# -------------------------------------------------------------------------------------------------------- validation


def problems(policy: TrustPolicy) -> dict[str, str]:
    """Field → why its value is refused, as a sentence; empty for a policy that can be saved. No host is resolved."""
    found: dict[str, str] = {}
    if not policy.name or len(policy.name) > MAX_NAME_CHARACTERS or not policy.name.isprintable():
        found["name"] = f"A trust policy has a name of at most {MAX_NAME_CHARACTERS} visible characters."
    if policy.environment.parent_id is not None or policy.environment.type == EnvironmentType.DEVELOPMENT:
        found["environment"] = "Choose production, staging or preview. A policy of preview is for its branches."
    if policy.kind not in PRESETS:
        return found | {"kind": f"The kind is one of {', '.join(PRESETS)}."}
    checks = {
        "issuer": _problem_of_issuer(policy),
        "claims": _problem_of_claims(policy),
        "branch_claim": _problem_of_branch_claim(policy),
        "ca": _problem_of_pasted(policy.ca, openid.check_certificates),
        "jwks": _problem_of_pasted(policy.jwks, openid.read_keys),
    }
    if policy.jwks and policy.ca:
        checks["ca"] = "With pasted keys the issuer is never asked, so it needs no certificate."
    return found | {field: problem for field, problem in checks.items() if problem}


def _problem_of_issuer(policy: TrustPolicy) -> str:
    if not policy.issuer.startswith("https://"):
        return "The issuer is an address that begins with https://, as in the token's claim iss."
    if "?" in policy.issuer or "#" in policy.issuer:
        return "An issuer's address has no query and no fragment (OpenID Connect Discovery)."
    try:
        host = outbound_http.parse(policy.issuer, allow_private=policy.allow_private or bool(policy.jwks)).host
    except Undeliverable as error:
        return str(error).replace("NOTIFY_ALLOW_PRIVATE=1 allows it", "an administrator can allow it")
    # A preset binds ids. The same issuer as “other” could be trusted by names, which can be taken by others. GitHub has
    # an issuer for each enterprise too, with the same host.
    for kind in (TrustKind.GITHUB, TrustKind.GITLAB):
        if policy.kind != kind and host == outbound_http.parse(PRESETS[kind].issuer).host:
            return f"This is the issuer of {kind.label}: choose that kind."
    return ""


def _problem_of_claims(policy: TrustPolicy) -> str:
    claims, preset = policy.claims, PRESETS[policy.kind]
    if not all(isinstance(name, str) and isinstance(value, str) for name, value in claims.items()):
        return "Each claim is a name and a text."
    if len(claims) > MAX_CLAIMS:
        return f"A trust policy has at most {MAX_CLAIMS} claims."
    for name, value in claims.items():
        if problem := _problem_of_claim(name, value, preset):
            return problem
    missing = [group for group in preset.required if not any(name in claims for name in group)]
    if missing:
        what = " or ".join(missing[0])
        return f"The policy must bind the claim {what}: else it would accept tokens of others."
    if policy.kind == TrustKind.GITLAB and "ref" in claims and not {"ref_type", "ref_path"} & claims.keys():
        # Who may not push to a protected branch may often push a tag with its name.
        return "Bind the claim ref_type (branch or tag) beside ref: a tag can have the name of a branch."
    return ""


def _problem_of_claim(name: str, value: str, preset: Preset) -> str:
    is_one_line = name.isprintable() and name == name.strip() and "=" not in name  # see `from_lines`
    if not name or len(name) > MAX_NAME_CHARACTERS or not is_one_line:
        return f"A claim has a name of at most {MAX_NAME_CHARACTERS} visible characters, without =."
    if name in RESERVED_CLAIMS:
        return f"The claim {name} is checked for every token and cannot be part of a policy."
    if not value or len(value) > MAX_VALUE_CHARACTERS or not value.isprintable() or value != value.strip():
        return (
            f"The claim {name} needs a value of at most {MAX_VALUE_CHARACTERS} visible characters, without spaces at "
            "its ends."
        )
    if name in preset.numbers and not re.fullmatch(r"[1-9][0-9]{0,19}", value):
        return f"The claim {name} is a number, which is an id and not a name."
    if "*" in value and name not in GLOB_CLAIMS:
        return f"The claim {name} is compared exactly: * is only allowed in {', '.join(GLOB_CLAIMS)}."
    if not value.strip("*/"):
        return f"The claim {name} would accept any value: leave it out, or write more than *."
    return ""


def _problem_of_branch_claim(policy: TrustPolicy) -> str:
    if policy.environment.type != EnvironmentType.PREVIEW:
        return "Only a policy of preview names the claim that has the branch." if policy.branch_claim else ""
    if policy.kind == TrustKind.KUBERNETES:
        return "A token of a Kubernetes service account names no branch, so it cannot deploy to preview."
    if not re.fullmatch(r"[!-~]{1,100}", policy.branch_claim) or policy.branch_claim in RESERVED_CLAIMS:
        return "Name the claim that has the branch: a key for preview deploys to that branch only."
    return ""


def _problem_of_pasted(text: str, check: Any) -> str:
    if not text:
        return ""
    if len(text) > MAX_PASTED_CHARACTERS:
        return f"At most {MAX_PASTED_CHARACTERS // 1024} KiB are stored."
    try:
        check(text)
    except ValueError as error:
        return str(error)
    return ""


def as_lines(claims: Mapping[str, str]) -> str:
    """The claims as text for a form: `NAME = VALUE`, one a line."""
    return "\n".join(f"{name} = {value}" for name, value in claims.items())


def from_lines(text: str) -> dict[str, str]:
    """The claims that a person wrote. Raises ValueError, with a sentence: no `=` in a line, a repeated name."""
    claims: dict[str, str] = {}
    for line in _lines(text):
        name, sign, value = (part.strip() for part in line.partition("="))
        if not sign:
            raise ValueError("Write each claim on a line of its own, as NAME = VALUE.")
        if name in claims:
            raise ValueError(f"The claim {name[:MAX_NAME_CHARACTERS]} is written twice.")
        claims[name] = value
    return claims


def _lines(text: str) -> Iterable[str]:
    return (line for line in text.splitlines() if line.strip())
