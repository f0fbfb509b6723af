"""A signed token of a CI job or a service account is exchanged for a key of one deployment (D-token-exchange).

The token says who asks: its issuer signs it, and a trust policy (`access.trust`) says which issuer and claims are
accepted. Each token is exchanged once; a row of `ExchangedToken` keeps this in the database until the token has
expired. The key belongs to the policy's environment, may begin one deployment within BEGIN_WITHIN, and then does only
what this deployment needs (`access.keys`).

A refusal says which claim differed. Anybody can get tokens of a public issuer like GitHub, so a refusal has what a
policy expects only for a token of the policy's own repository, and for a request that names the project and
environment. A refusal of a verified token is written on the policy that the token was meant for. No row and no sentence
has the token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from deployments import clock
from deployments.access import keys, openid, trust
from deployments.access.audit import Actor, Trail
from deployments.access.openid import Malformed, SignedToken
from deployments.errors import Refusal, refusal
from deployments.log import bind, get_logger
from deployments.models import (
    SLUG_ALIASES,
    AccessKey,
    ActorKind,
    EnvironmentType,
    ExchangedToken,
    Project,
    TrustPolicy,
)

log = get_logger(__name__)

#: Clocks may differ by this much.
LEEWAY = timedelta(seconds=30)
#: From `iat` to `exp`. GitHub's tokens live for minutes, GitLab's as long as the job may run, Kubernetes' for an hour.
MAX_TOKEN_LIFETIME = timedelta(hours=24)
NOTED_EVERY = timedelta(minutes=1)
MAX_SHOWN_CHARACTERS = 120  # of a claim's value in a sentence
MAX_ENVIRONMENTS_SHOWN = 5
#: A workflow that GitHub runs for a pull request of anybody, with the rights of the repository. PyPI refuses it too.
#: Forgejo and Gitea have the same event, and their policies are of the kind “other”.
REFUSED_EVENT = "pull_request_target"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """The key that a token was exchanged for. `text` is its only copy."""

    key: AccessKey
    policy: TrustPolicy
    text: str = field(repr=False)


def exchange(
    *, token: str, audience: str, trail: Trail, project_ref: str = "", environment: str = "", recorded: bool = True
) -> Exchanged:
    """Exchange a token for a key. `project_ref`, `environment` (slug): which policies count; empty: all.

    `recorded`: whether a refusal is written, on the policy, in the audit log and in the log.

    Asks the issuer for its keys, so no transaction may be open. Raises Refusal (trust_…, project_archived).
    """
    try:
        read = openid.read_token(token)
    except Malformed as reason:
        raise refusal("trust_token_malformed", reason=reason) from None
    policies = _signed_for(read, _candidates(read, project_ref, environment))
    now = clock.now()
    named = bool(project_ref and environment)
    found, refused = None, _checked_times(read.claims, audience, now)
    if refused is None:
        found, refused = _accepting(policies, read.claims, named)
    if found is not None and refused is None:
        try:
            return _exchanged(found, read, trail)
        except Refusal as again:
            refused = again
    assert refused is not None  # noqa: S101
    if recorded:
        _record(refused, found or _meant(policies, read.claims, named), read, trail)
    raise refused


# ------------------------------------------------------------------------------------------------------ which policies


def _candidates(token: SignedToken, project_ref: str, environment: str) -> list[TrustPolicy]:
    issuer = token.claims.get("iss")
    if not isinstance(issuer, str) or not re.fullmatch(r"[!-~]{1,500}", issuer):  # PostgreSQL takes no NUL
        raise _differs("iss", issuer, "the address of the issuer")
    rows = trust.list_policies().filter(issuer=issuer, enabled=True)
    where = ""
    if project_ref:
        rows, where = rows.filter(environment__project__ref=project_ref), f" for the project {_shown(project_ref)}"
    if environment:
        slug = SLUG_ALIASES.get(environment, environment)
        rows, where = rows.filter(environment__slug=slug), f"{where} in the environment {_shown(environment)}"
    found = [each for each in rows if each.issuer == issuer]  # a collation may find more
    if not found:
        raise refusal("trust_no_policy", issuer=_shown(issuer), where=where)
    return found


def _signed_for(token: SignedToken, policies: list[TrustPolicy]) -> list[TrustPolicy]:
    """The policies whose keys verify the token. Raises the first refusal if there is none."""
    by_source: dict[tuple[str, str, bool], list[TrustPolicy]] = {}
    for policy in policies:
        by_source.setdefault((policy.jwks, policy.ca, policy.allow_private), []).append(policy)
    found: list[TrustPolicy] = []
    refused: Refusal | None = None
    for (jwks, ca, allow_private), these in by_source.items():
        try:
            if jwks:
                known: Mapping[str, Any] = openid.read_keys(jwks)
            else:
                known = openid.published_keys(these[0].issuer, token.kid, ca=ca, allow_private=allow_private)
        except Refusal as unreachable:
            refused = refused or unreachable
            _note(unreachable, these)
            continue
        if openid.is_signed_by(token, known):
            found += these
    if not found:
        issuer, kid = _shown(policies[0].issuer), _shown(token.kid)
        raise refused or refusal("trust_signature", issuer=issuer, kid=kid, algorithm=token.algorithm)
    return found


def _accepting(
    policies: list[TrustPolicy], claims: Mapping[str, Any], named: bool
) -> tuple[TrustPolicy | None, Refusal | None]:
    """The policy that accepts the claims, or why none does."""
    accepting = [each for each in policies if _refused_by(each, claims) is None]
    if not accepting:
        meant = _meant(policies, claims, named)
        if meant is not None:
            return None, _refused_by(meant, claims)
        nearest = min(policies, key=lambda each: len(trust.differing(each.claims, claims)))
        name = trust.differing(trust.identifying(nearest), claims)[0]
        return None, refusal("trust_claim_unnamed", claim=name, actual=_shown(trust.claim_of(claims, name)))
    environments = {each.environment_id: each.environment for each in accepting}
    if len(environments) > 1:
        shown = [f"{each.project.ref} / {each}" for each in environments.values()][:MAX_ENVIRONMENTS_SHOWN]
        return None, refusal("trust_ambiguous", environments=", ".join(shown))
    return accepting[0], None


def _meant(policies: list[TrustPolicy], claims: Mapping[str, Any], named: bool) -> TrustPolicy | None:
    """The policy that the token was meant for: one of the token's own repository, else one that the request names."""
    ordered = sorted(policies, key=lambda each: len(trust.differing(each.claims, claims)))
    own = [each for each in ordered if not trust.differing(trust.identifying(each), claims)]
    return next(iter(own), ordered[0] if named else None)


def _refused_by(policy: TrustPolicy, claims: Mapping[str, Any]) -> Refusal | None:
    names = trust.differing(policy.claims, claims)
    if names:
        identifying = trust.identifying(policy)
        name = next((each for each in names if each in identifying), names[0])
        return _differs(name, trust.claim_of(claims, name), _shown(policy.claims[name]))
    if claims.get("event_name") == REFUSED_EVENT:
        return _differs("event_name", REFUSED_EVENT, "another event: this one runs for pull requests of forks")
    if policy.environment.type == EnvironmentType.PREVIEW and not _branch(policy, claims):
        return _differs(policy.branch_claim, trust.claim_of(claims, policy.branch_claim), "the name of a branch")
    return None


def _branch(policy: TrustPolicy, claims: Mapping[str, Any]) -> str:
    """The branch that the token names; empty if it names none, but a tag or a pull request."""
    name = trust.claim_of(claims, policy.branch_claim)
    if not isinstance(name, str) or (policy.branch_claim == "ref" and claims.get("ref_type", "branch") != "branch"):
        return ""
    branch = name.removeprefix("refs/heads/")
    return "" if branch.startswith("refs/") or len(branch) > 255 or not branch.isprintable() else branch


# ------------------------------------------------------------------------------------------- what every token must have


def _checked_times(claims: Mapping[str, Any], audience: str, now: datetime) -> Refusal | None:
    aud = claims.get("aud")
    if aud != audience and aud != [audience]:
        return _differs("aud", aud, _shown(audience))
    times = {name: _time(claims.get(name)) for name in ("exp", "iat", "nbf")}
    exp, iat, nbf = times["exp"], times["iat"], times["nbf"]
    if exp is None or iat is None or (nbf is None and "nbf" in claims):
        name = next(name for name, at in times.items() if at is None)
        return _differs(name, claims.get(name), "a time in seconds since 1970")
    shown = _utc(now)
    if exp <= now - LEEWAY:
        return _differs("exp", claims["exp"], f"later than {shown}")
    for name, at in (("iat", iat), ("nbf", nbf)):
        if at is not None and at > now + LEEWAY:
            return _differs(name, claims[name], f"no later than {shown}")
    if exp - iat > MAX_TOKEN_LIFETIME or exp <= iat:
        hours = MAX_TOKEN_LIFETIME // timedelta(hours=1)
        allowed = f"after iat, which is {_shown(claims['iat'])}, and at most {hours} hours later"
        return _differs("exp", claims["exp"], allowed)
    jti = claims.get("jti")
    if jti is not None and (not isinstance(jti, str) or not jti):
        return _differs("jti", jti, "a text")
    return None


def _time(value: Any) -> datetime | None:
    """RFC 7519, NumericDate."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return datetime.fromtimestamp(value, tz=UTC)
    except (ValueError, OverflowError, OSError):  # infinite, or a year that no calendar has
        return None


def _utc(at: datetime) -> str:
    return f"{int(at.timestamp())} (now, {at:%Y-%m-%d %H:%M:%S} UTC)"


def _differs(claim: str, actual: Any, expected: str) -> Refusal:
    return refusal("trust_claim", claim=claim, actual=_shown(actual), expected=expected)


def _shown(value: Any) -> str:
    """A value of the token in a sentence: short, and with every character that could be mistaken written out."""
    if value is None:
        return "absent"
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(each, dict | list) for each in value)):
        return "an object" if isinstance(value, dict) else "a list with objects or lists"
    text = json.dumps(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}…"


# --------------------------------------------------------------------------------------------------------- the exchange


def _exchanged(policy: TrustPolicy, token: SignedToken, trail: Trail) -> Exchanged:
    """Make the key, and remember the token, in one transaction."""
    claims = token.claims
    trail = Trail(actor=_actor(policy, claims), request=trail.request)
    with transaction.atomic():
        # `trust.change` and `trust.delete` write this row first, so the key is made by the policy that was compared, or
        # is revoked by the change.
        rows = TrustPolicy.objects.select_for_update().filter(pk=policy.pk, enabled=True)
        row, project = rows.first(), Project.objects.filter(pk=policy.environment.project_id).first()
        if row is None or row.changed_at != policy.changed_at or project is None:
            raise refusal("trust_no_policy", issuer=_shown(policy.issuer), where="")
        if project.archived_at is not None:
            raise refusal("project_archived", project=project.name, ref=project.ref)
        ExchangedToken.objects.filter(expires_at__lt=Now()).delete()
        expires = datetime.fromtimestamp(claims["exp"], tz=UTC) + 2 * LEEWAY
        _, is_new = ExchangedToken.objects.get_or_create(digest=_digest(token), defaults={"expires_at": expires})
        if not is_new:
            raise refusal("trust_token_used")
        key, text = keys.make_one_deployment_key(
            policy, branch=_branch(policy, claims), name=f"{policy.name}: {_subject(claims)}"
        )
        TrustPolicy.objects.filter(pk=policy.pk).update(last_used_at=Now())
        after = {"key": str(key), "expires": str(key.expires_at), "branch": key.branch, **_evidence(policy, claims)}
        trail.record("exchange.trust_policy", policy, after=after)
    bind(project=project.ref, environment=str(policy.environment))
    log.info("trust.exchanged", policy=policy.pk, key=str(key))
    return Exchanged(key=key, policy=policy, text=text)


def _digest(token: SignedToken) -> str:
    """What makes two tokens the same: issuer and `jti`, else the text that is signed. JSON keeps the parts apart."""
    jti = token.claims.get("jti")
    same = ["jti", jti] if jti is not None else ["text", token.signed_text]
    return keys.digest(json.dumps([token.claims["iss"], *same]))


def _actor(policy: TrustPolicy, claims: Mapping[str, Any]) -> Actor:
    return Actor(kind=ActorKind.SYSTEM, name=f"{policy.get_kind_display()}: {_subject(claims)}")


def _subject(claims: Mapping[str, Any]) -> str:
    subject = claims.get("sub")
    return subject[:MAX_SHOWN_CHARACTERS] if isinstance(subject, str) and subject.isprintable() else "no subject"


def _evidence(policy: TrustPolicy, claims: Mapping[str, Any]) -> dict[str, Any]:
    """The claims that say which run asked, for the audit log."""
    names = dict.fromkeys((*policy.claims, "sub", "sha", "run_id", "pipeline_id", "job_id", "actor", "user_login"))
    found = {name: trust.claim_of(claims, name) for name in names}
    return {"claims": {name: _shown(value) for name, value in found.items() if value is not None}}


def _record(refused: Refusal, policy: TrustPolicy | None, token: SignedToken, trail: Trail) -> None:
    """Write the refusal of a verified token on the policy and in the audit log; without a policy, a line of the log."""
    log.info("trust.refused", code=refused.code, reason=refused.sentence)
    if policy is None:
        return
    with transaction.atomic():
        _note(refused, [policy])
        trail = Trail(actor=_actor(policy, token.claims), request=trail.request)
        trail.record("exchange.trust_policy", policy, outcome=refused.sentence, after=_evidence(policy, token.claims))


def _note(refused: Refusal, policies: list[TrustPolicy]) -> None:
    """Write the refusal on the policies, the same one at most once in NOTED_EVERY."""
    due = ~Q(last_error=refused.sentence) | Q(last_error_at__lt=Now() - NOTED_EVERY)
    rows = TrustPolicy.objects.filter(due, pk__in=[each.pk for each in policies])
    rows.update(last_error=refused.sentence, last_error_at=Now())
