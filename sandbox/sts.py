"""STS: the caller's identity, and sessions with limited permissions.

A session policy limits its session everywhere, also on the data plane. STS packs it into a binary form whose size has a
limit of its own, and says in PackedPolicySize how many per cent of it are used (API Reference, AssumeRole). AWS
documents neither the form nor the limit: here it is zlib's form and PACKED_BYTES. No web identity, no SAML, no MFA.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any

from sandbox import iam, policy
from sandbox.aws import AWSError, Call, timestamp
from sandbox.iam import IAM, Credential
from sandbox.policy import Ask, Policy

SESSION_NAME = re.compile(r"[\w+=,.@-]{2,64}", re.ASCII)
ROLE_ARN = re.compile(r"arn:[\w-]+:iam::([0-9]{12}):role/(?:[\x21-\x7e]+/)?([\w+=,.@-]{1,64})", re.ASCII)
PACKED_BYTES = 500  # similar names fill the 2,048 characters of a policy, random names do not
OPERATIONS = frozenset({"GetCallerIdentity", "AssumeRole", "GetFederationToken", "GetSessionToken"})


class STS:
    def __init__(self, store: IAM) -> None:
        self._iam = store

    def answer(self, call: Call) -> dict[str, Any]:
        """Runs one operation and returns its result."""
        match call.operation:
            case "GetCallerIdentity":  # needs no permission, and no policy can deny it
                return {"UserId": call.by.user_id, "Account": call.by.account, "Arn": call.by.arn}
            case "AssumeRole":
                return self._assume_role(call)
            case "GetFederationToken":
                return self._federate(call)
            case "GetSessionToken":
                self._only_for_users(call, f"arn:{call.by.partition}:iam::{call.by.account}:*")
                seconds = _seconds(call.params, low=900, high=129600, default=43200)
                return {"Credentials": _shown(self._iam.add_session(call.by.credential.owner, seconds=seconds))}
            case _:
                raise AWSError("InvalidAction", f"Could not find operation {call.operation} for version 2011-06-15")

    def _assume_role(self, call: Call) -> dict[str, Any]:
        arn = str(call.params.get("RoleArn", ""))
        if len(arn) < 20:
            raise _invalid(arn, "roleArn", "Member must have length greater than or equal to 20")
        match = ROLE_ARN.fullmatch(arn)
        if match is None:
            raise AWSError("ValidationError", f"{arn} is invalid")
        name = _name(call.params, "RoleSessionName")
        chained = call.by.kind != "IAMUser"
        seconds = _seconds(call.params, low=900, high=43200, default=3600)
        session = _session_policies(call.params)
        role = self._iam.find(match[1], "role", match[2])
        if role is None or role.arn(call.by.partition) != arn:
            raise iam.denied(call, _sentence(call, arn))
        external_id = call.params.get("ExternalId")
        ask = Ask(
            principal=call.by.principal,
            action="sts:AssumeRole",
            resource=arn,
            owner=role.account,
            context={
                **self._iam.context(call),
                "sts:rolesessionname": (name,),
                **({"sts:externalid": (str(external_id),)} if external_id else {}),
            },
        )
        verdict = policy.decide(
            ask,
            identity=call.by.identity,
            resource=[policy.parse(role.trust)],
            session=call.by.credential.session,
            trust=True,
        )
        if not verdict.allowed:
            # A missing role and a refusing trust policy have the same error, so that nobody can search for roles.
            silent = "resource-based" in verdict.because
            raise iam.denied(call, _sentence(call, arn) if silent else verdict.sentence(ask))
        if chained and seconds > 3600:
            raise AWSError(
                "ValidationError",
                "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining",
            )
        if seconds > role.max_session:
            raise AWSError(
                "ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
            )
        packed = _packed(call.params)
        credential = self._iam.add_session(role, seconds=seconds, name=name, session=session)
        user = {
            "AssumedRoleId": f"{role.unique_id}:{name}",
            "Arn": f"arn:{call.by.partition}:sts::{role.account}:assumed-role/{role.name}/{name}",
        }
        return {"AssumedRoleUser": user, "Credentials": _shown(credential), **packed}

    def _federate(self, call: Call) -> dict[str, Any]:
        name = _name(call.params, "Name", high=32)
        arn = f"arn:{call.by.partition}:sts::{call.by.account}:federated-user/{name}"
        self._only_for_users(call, arn)
        seconds = _seconds(call.params, low=900, high=129600, default=43200)
        # Without a session policy a federated user has no permissions.
        session = _session_policies(call.params) or ()
        packed = _packed(call.params)
        credential = self._iam.add_session(call.by.credential.owner, seconds=seconds, name=name, session=session)
        user = {"FederatedUserId": f"{call.by.account}:{name}", "Arn": arn}
        return {"Credentials": _shown(credential), "FederatedUser": user, **packed}

    def _only_for_users(self, call: Call, resource: str) -> None:
        if call.by.kind != "IAMUser" or call.by.credential.token is not None:
            raise AWSError("AccessDenied", f"Cannot call {call.operation} with session credentials", 403)
        if call.operation != "GetSessionToken":  # GetSessionToken needs no permission
            self._iam.require(call, f"sts:{call.operation}", resource)


def _sentence(call: Call, arn: str) -> str:
    return f"User: {call.by.arn} is not authorized to perform: sts:AssumeRole on resource: {arn}"


def _invalid(value: str, where: str, constraint: str) -> AWSError:
    return AWSError(
        "ValidationError",
        f"1 validation error detected: Value '{value}' at '{where}' failed to satisfy constraint: {constraint}",
    )


def _name(params: Mapping[str, Any], key: str, high: int = 64) -> str:
    name = str(params.get(key, ""))
    where = key[0].lower() + key[1:]
    if len(name) < 2:
        raise _invalid(name, where, "Member must have length greater than or equal to 2")
    if len(name) > high:
        raise _invalid(name, where, f"Member must have length less than or equal to {high}")
    if not SESSION_NAME.fullmatch(name):
        raise _invalid(name, where, r"Member must satisfy regular expression pattern: [\w+=,.@-]*")
    return name


def _seconds(params: Mapping[str, Any], *, low: int, high: int, default: int) -> int:
    text = str(params.get("DurationSeconds", default))
    if not text.isdecimal() or int(text) < low:
        raise _invalid(text, "durationSeconds", f"Member must have value greater than or equal to {low}")
    if int(text) > high:
        raise _invalid(text, "durationSeconds", f"Member must have value less than or equal to {high}")
    return int(text)


def _session_policies(params: Mapping[str, Any]) -> tuple[Policy, ...] | None:
    """The inline and managed session policies; None if the call has no session policy."""
    texts: list[str] = []
    if "Policy" in params:
        text = str(params["Policy"])
        if len(text) > 2048:
            raise _invalid(text, "policy", "Member must have length less than or equal to 2048")
        texts.append(text)
    for key, arn in params.items():
        if key.startswith("PolicyArns.member."):
            name = str(arn).rpartition("/")[2]
            if name not in iam.MANAGED:
                raise AWSError("MalformedPolicyDocument", f"PolicyArn {arn} does not exist in the sandbox")
            texts.append(iam.MANAGED[name])
    try:
        policies = tuple(policy.parse(text) for text in texts)
    except (ValueError, AttributeError, RecursionError):
        raise AWSError("MalformedPolicyDocument", "This policy contains invalid Json") from None
    if any(statement.principals is not None for each in policies for statement in each):
        raise AWSError("MalformedPolicyDocument", "Policy document should not specify a principal.")
    if any(statement.resources is None for each in policies for statement in each):
        raise AWSError("MalformedPolicyDocument", "Policy statement must contain resources.")
    return policies or None


def _packed(params: Mapping[str, Any]) -> dict[str, int]:
    if "Policy" not in params:
        return {}
    percent = -(-len(zlib.compress(str(params["Policy"]).encode())) * 100 // PACKED_BYTES)
    if percent > 100:  # the code and the percentage are documented, the other words are not
        sentence = f"Packed policy consumes {percent}% of allotted space, please use smaller policy."
        raise AWSError("PackedPolicyTooLarge", sentence)
    return {"PackedPolicySize": percent}


def _shown(credential: Credential) -> dict[str, Any]:
    return {
        "AccessKeyId": credential.access_key,
        "SecretAccessKey": credential.secret,
        "SessionToken": credential.token,
        "Expiration": timestamp(credential.expires or 0),
    }
