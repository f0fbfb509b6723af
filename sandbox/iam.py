"""Accounts, users, roles, access keys and sessions; authentication of requests, and decisions about permissions.

Knows enough of IAM's query API that boto3 can make users and roles. It has its own store instead of moto's, because
each ECR call needs the caller's keys and policies together, and because a deleted role must be deleted for the policies
that name it. An account is the same in every partition (at AWS an account belongs to one partition). Every other
account id also exists, but without users and roles.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from sandbox import policy, signature
from sandbox.aws import ACCOUNT, AWSError, Call, partition_of, snake, timestamp
from sandbox.policy import Ask, Policy, Principal
from sandbox.server import Request

Kind = Literal["user", "role"]
NAME = re.compile(r"[\w+=,.@-]{1,64}", re.ASCII)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def _allow(*actions: str) -> str:
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


_PULL = ("ecr:GetAuthorizationToken", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
_READ = (*_PULL, "ecr:BatchCheckLayerAvailability", "ecr:Get*", "ecr:Describe*", "ecr:List*")
_PUSH = ("ecr:InitiateLayerUpload", "ecr:UploadLayerPart", "ecr:CompleteLayerUpload", "ecr:PutImage")
# The managed policies of ECR, shortened; no other managed policies exist here.
MANAGED = {
    "AdministratorAccess": _allow("*"),
    "AmazonEC2ContainerRegistryFullAccess": _allow("ecr:*"),
    "AmazonEC2ContainerRegistryPowerUser": _allow(*_READ, *_PUSH),
    "AmazonEC2ContainerRegistryReadOnly": _allow(*_READ),
    "AmazonEC2ContainerRegistryPullOnly": _allow(*_PULL),
}


@dataclass(slots=True, kw_only=True)
class Identity:
    """A user or a role."""

    kind: Kind
    account: str
    name: str
    path: str
    unique_id: str
    created: float
    policies: dict[str, str] = field(default_factory=dict)
    managed: list[str] = field(default_factory=list)
    trust: str = ""
    max_session: int = 3600
    deleted: bool = False

    def arn(self, partition: str) -> str:
        return f"arn:{partition}:iam::{self.account}:{self.kind}{self.path}{self.name}"

    def parsed(self) -> tuple[Policy, ...]:
        if self.deleted:
            return ()
        return tuple(
            policy.parse(text) for text in (*self.policies.values(), *(MANAGED[name] for name in self.managed))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """An access key, or the key of a session (then with ``token`` and ``expires``)."""

    access_key: str
    secret: str = field(repr=False)
    owner: Identity
    issued: float
    token: str | None = field(default=None, repr=False)
    expires: float | None = None
    session_name: str = ""
    session: tuple[Policy, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The caller of a request, with its present identity and policies."""

    kind: Literal["IAMUser", "AssumedRole", "FederatedUser"]
    account: str
    partition: str
    arn: str
    user_id: str
    credential: Credential
    principal: Principal
    identity: tuple[Policy, ...]
    context: Mapping[str, tuple[str, ...]]


class IAM:
    """The store, and the operations of IAM's API."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._identities: dict[tuple[str, Kind, str], Identity] = {}
        self._by_id: dict[str, Identity] = {}
        self._credentials: dict[str, Credential] = {}
        self._callers: dict[tuple[str, str], Caller] = {}
        self.accounts: set[str] = set()
        self.generation = (
            0  # changes when a user or role is made or deleted, because stored principals then have other texts
        )

    # -- the store --

    def add_account(self, account: str, access_key: str | None = None, secret: str | None = None) -> Credential:
        """Adds an account with the user ``admin``, who has every permission; returns the admin's access key."""
        if not ACCOUNT.match(account):
            raise AWSError("ValidationError", "an account id has 12 digits")
        if account in self.accounts:
            raise AWSError("EntityAlreadyExists", f"account {account} exists already")
        self.accounts.add(account)
        admin = self._add("user", account, "admin")
        admin.managed.append("AdministratorAccess")
        return self.add_key(admin, access_key, secret)

    def _add(self, kind: Kind, account: str, name: str, path: str = "/") -> Identity:
        unique_id = ("AIDA" if kind == "user" else "AROA") + _letters(17)
        identity = Identity(kind=kind, account=account, name=name, path=path, unique_id=unique_id, created=self._now())
        self._identities[account, kind, name] = identity
        self._by_id[unique_id] = identity
        self._changed()
        return identity

    def add_key(self, owner: Identity, access_key: str | None = None, secret: str | None = None) -> Credential:
        return self._remember(
            Credential(
                access_key=access_key or "AKIA" + _letters(16),
                secret=secret or secrets.token_urlsafe(30),
                owner=owner,
                issued=self._now(),
            )
        )

    def add_session(
        self, owner: Identity, *, seconds: int, name: str = "", session: tuple[Policy, ...] | None = None
    ) -> Credential:
        """Temporary credentials of a role or a federated user (with a ``name``), or of a user (without a ``name``)."""
        return self._remember(
            Credential(
                access_key="ASIA" + _letters(16),
                secret=secrets.token_urlsafe(30),
                owner=owner,
                issued=self._now(),
                token=secrets.token_urlsafe(240),
                expires=self._now() + seconds,
                session_name=name,
                session=session,
            )
        )

    def _remember(self, credential: Credential) -> Credential:
        self._credentials[credential.access_key] = credential
        return credential

    def _changed(self) -> None:
        self.generation += 1
        self._callers.clear()

    def find(self, account: str, kind: Kind, name: str) -> Identity | None:
        """The user or role with this name; None if it does not exist."""
        return self._identities.get((account, kind, name))

    def unique_id(self, arn: str, partition: str) -> str | None:
        """The unique id of the user or role with this ARN; None if it does not exist."""
        match = re.fullmatch(rf"arn:{partition}:iam::([0-9]{{12}}):(user|role)(/.*)", arn)
        if match is None:
            return None
        kind: Kind = "user" if match[2] == "user" else "role"
        identity = self.find(match[1], kind, match[3].rpartition("/")[2])
        return identity.unique_id if identity and identity.arn(partition) == arn else None

    def spelled(self, unique_id: str, partition: str) -> str:
        """The ARN of a unique id; the id itself after its user or role was deleted."""
        identity = self._by_id.get(unique_id)
        return identity.arn(partition) if identity else unique_id

    # -- who calls, and whether they may --

    def caller(self, access_key: str, partition: str) -> Caller | None:
        """The caller with this access key; None for an unknown key."""
        known = self._callers.get((access_key, partition))
        if known is not None:
            return known
        credential = self._credentials.get(access_key)
        if credential is None:
            return None
        caller = self._callers[access_key, partition] = _caller(credential, partition)
        return caller

    def authenticate(self, request: Request, claim: signature.Signature) -> Caller:
        """The caller of a request. Raises AWS's error, with the called service's code, if the signature is wrong."""
        query = claim.service in ("sts", "iam")
        caller = self.caller(claim.access_key, partition_of(claim.region).name)
        token = request.headers.get("x-amz-security-token")
        if caller is None or caller.credential.token != token:
            code = "InvalidClientTokenId" if query else "UnrecognizedClientException"
            raise AWSError(code, "The security token included in the request is invalid.", 403 if query else 400)
        complaint = signature.complaint(request, claim, caller.credential.secret)
        if complaint:
            code = "SignatureDoesNotMatch" if query else "InvalidSignatureException"
            raise AWSError(code, complaint, 403 if query else 400)
        expires = caller.credential.expires
        if expires is not None and expires <= self._now():
            code = "ExpiredToken" if query else "ExpiredTokenException"
            raise AWSError(code, "The security token included in the request is expired", 403 if query else 400)
        return caller

    def require(
        self,
        call: Call,
        action: str,
        resource: str,
        *,
        owner: str | None = None,
        resource_policies: Sequence[Policy] = (),
        context: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """Raises AccessDenied with AWS's message if the caller does not have the permission."""
        caller = call.by
        ask = Ask(
            principal=caller.principal,
            action=action,
            resource=resource,
            owner=owner or caller.account,
            context={**self.context(call), **(context or {})},
        )
        verdict = policy.decide(
            ask, identity=caller.identity, resource=resource_policies, session=caller.credential.session
        )
        if not verdict.allowed:
            raise denied(call, verdict.sentence(ask))

    def context(self, call: Call) -> dict[str, tuple[str, ...]]:
        """The condition keys of a call that do not depend on its resource."""
        now = self._now()
        return {
            **call.by.context,
            "aws:requestedregion": (call.region,),
            "aws:currenttime": (timestamp(now),),
            "aws:epochtime": (str(int(now)),),
        }

    # -- IAM's API --

    def answer(self, call: Call) -> dict[str, Any]:
        """Runs one operation of IAM's API and returns its result."""
        operation = getattr(self, f"do_{snake(call.operation)}", None)
        if operation is None:
            raise AWSError("InvalidAction", f"The sandbox does not do iam:{call.operation}")
        kind = "user" if "User" in call.operation or "AccessKey" in call.operation else "role"
        name = call.params.get("UserName") or call.params.get("RoleName") or "*"
        self.require(call, f"iam:{call.operation}", f"arn:{call.by.partition}:iam::{call.by.account}:{kind}/{name}")
        result: dict[str, Any] = operation(call)
        return result

    def _subject(self, call: Call) -> Identity:
        kind: Kind = "role" if "RoleName" in call.params else "user"
        name = call.params.get("RoleName") or call.params.get("UserName")
        if name is None and call.by.kind == "IAMUser":
            return call.by.credential.owner
        identity = self.find(call.by.account, kind, str(name))
        if identity is None:
            raise AWSError("NoSuchEntity", f"The {kind} with name {name} cannot be found.", 404)
        return identity

    def _create(self, call: Call, kind: Kind) -> Identity:
        name = str(call.params.get("RoleName" if kind == "role" else "UserName", ""))
        path = str(call.params.get("Path", "/"))
        if not NAME.fullmatch(name) or not re.fullmatch(r"/([\x21-\x7e]+/)?", path):
            raise AWSError("ValidationError", f"The specified value for {kind}Name or path is invalid.")
        if self.find(call.by.account, kind, name):
            raise AWSError("EntityAlreadyExists", f"{kind.capitalize()} with name {name} already exists.", 409)
        return self._add(kind, call.by.account, name, path)

    def do_create_user(self, call: Call) -> dict[str, Any]:
        return {"User": _shown(self._create(call, "user"), call)}

    def do_create_role(self, call: Call) -> dict[str, Any]:
        trust = self._trust(call, "AssumeRolePolicyDocument")
        seconds = int(call.params.get("MaxSessionDuration", 3600))
        if not 3600 <= seconds <= 43200:
            raise AWSError("ValidationError", "MaxSessionDuration must be between 3600 and 43200")
        role = self._create(call, "role")
        role.trust, role.max_session = trust, seconds
        return {"Role": _shown(role, call)}

    def _trust(self, call: Call, name: str) -> str:
        """A trust policy with unique ids instead of users and roles, as AWS stores it."""
        text = str(call.params.get(name, ""))
        document = _document(text)
        for statement in policy.many(document["Statement"]):
            principal = statement.get("Principal")
            if not principal or "Resource" in statement:
                raise AWSError("MalformedPolicyDocument", "A trust policy has principals and no resources")
            if isinstance(principal, dict) and "AWS" in principal:
                principal["AWS"] = [self._trusted(str(each), call) for each in policy.many(principal["AWS"])]
        return json.dumps(document)

    def _trusted(self, value: str, call: Call) -> str:
        if ":user/" not in value and ":role/" not in value:
            return value
        unique_id = self.unique_id(value, call.by.partition)
        if unique_id is None:
            raise AWSError("MalformedPolicyDocument", f'Invalid principal in policy: "AWS":"{value}"')
        return unique_id

    def do_update_assume_role_policy(self, call: Call) -> dict[str, Any]:
        self._subject(call).trust = self._trust(call, "PolicyDocument")
        return {}

    def _get(self, call: Call) -> dict[str, Any]:
        identity = self._subject(call)
        return {identity.kind.capitalize(): _shown(identity, call)}

    do_get_user = do_get_role = _get

    def _list(self, call: Call) -> dict[str, Any]:
        kind = "user" if call.operation == "ListUsers" else "role"
        mine = [each for each in self._identities.values() if each.kind == kind and each.account == call.by.account]
        return {f"{kind.capitalize()}s": [_shown(each, call) for each in mine], "IsTruncated": False}

    do_list_users = do_list_roles = _list

    def _delete(self, call: Call) -> dict[str, Any]:
        identity = self._subject(call)
        keys = [key for key, each in self._credentials.items() if each.owner is identity and each.token is None]
        if identity.policies or identity.managed or keys:
            raise AWSError("DeleteConflict", "Cannot delete entity, must delete policies and access keys first.", 409)
        identity.deleted = True
        del self._identities[identity.account, identity.kind, identity.name]
        del self._by_id[identity.unique_id]
        self._changed()
        return {}

    do_delete_user = do_delete_role = _delete

    def _put_policy(self, call: Call) -> dict[str, Any]:
        text = str(call.params.get("PolicyDocument", ""))
        _document(text)
        self._subject(call).policies[str(call.params.get("PolicyName"))] = text
        self._changed()
        return {}

    do_put_user_policy = do_put_role_policy = _put_policy

    def _get_policy(self, call: Call) -> dict[str, Any]:
        identity, name = self._subject(call), str(call.params.get("PolicyName"))
        if name not in identity.policies:
            raise AWSError("NoSuchEntity", f"The policy with name {name} cannot be found.", 404)
        return {
            f"{identity.kind.capitalize()}Name": identity.name,
            "PolicyName": name,
            "PolicyDocument": quote(identity.policies[name]),
        }

    do_get_user_policy = do_get_role_policy = _get_policy

    def _delete_policy(self, call: Call) -> dict[str, Any]:
        self._get_policy(call)
        del self._subject(call).policies[str(call.params.get("PolicyName"))]
        self._changed()
        return {}

    do_delete_user_policy = do_delete_role_policy = _delete_policy

    def _list_policies(self, call: Call) -> dict[str, Any]:
        return {"PolicyNames": list(self._subject(call).policies), "IsTruncated": False}

    do_list_user_policies = do_list_role_policies = _list_policies

    def _attach(self, call: Call) -> dict[str, Any]:
        name = str(call.params.get("PolicyArn")).rpartition("/")[2]
        if name not in MANAGED:
            raise AWSError("NoSuchEntity", f"Policy {call.params.get('PolicyArn')} does not exist in the sandbox.", 404)
        managed = self._subject(call).managed
        if call.operation.startswith("Detach"):
            managed[:] = [each for each in managed if each != name]
        elif name not in managed:
            managed.append(name)
        self._changed()
        return {}

    do_attach_user_policy = do_attach_role_policy = do_detach_user_policy = do_detach_role_policy = _attach

    def _list_attached(self, call: Call) -> dict[str, Any]:
        arn = f"arn:{call.by.partition}:iam::aws:policy/"
        attached = [{"PolicyName": name, "PolicyArn": arn + name} for name in self._subject(call).managed]
        return {"AttachedPolicies": attached, "IsTruncated": False}

    do_list_attached_user_policies = do_list_attached_role_policies = _list_attached

    def _keys(self, user: Identity) -> Iterator[Credential]:
        return (each for each in self._credentials.values() if each.owner is user and each.token is None)

    def do_create_access_key(self, call: Call) -> dict[str, Any]:
        user = self._subject(call)
        if len(list(self._keys(user))) >= 2:
            raise AWSError("LimitExceeded", "Cannot exceed quota for AccessKeysPerUser: 2", 409)
        key = self.add_key(user)
        return {"AccessKey": {**_shown_key(key), "SecretAccessKey": key.secret}}

    def do_list_access_keys(self, call: Call) -> dict[str, Any]:
        keys = [_shown_key(key) for key in self._keys(self._subject(call))]
        return {"AccessKeyMetadata": keys, "IsTruncated": False}

    def do_delete_access_key(self, call: Call) -> dict[str, Any]:
        user, access_key = self._subject(call), str(call.params.get("AccessKeyId"))
        if access_key not in {key.access_key for key in self._keys(user)}:
            raise AWSError("NoSuchEntity", f"The Access Key with id {access_key} cannot be found.", 404)
        del self._credentials[access_key]
        self._changed()
        return {}


def denied(call: Call, sentence: str) -> AWSError:
    """AWS's AccessDenied, with the error code of the called service."""
    if call.service in ("sts", "iam", "sqs"):
        return AWSError("AccessDenied", sentence, 403)
    return AWSError("AccessDeniedException", sentence)


def _letters(count: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(count))


def _document(text: str) -> dict[str, Any]:
    try:
        policy.parse(text)
        document: dict[str, Any] = json.loads(text)
    except (ValueError, AttributeError, RecursionError):
        raise AWSError("MalformedPolicyDocument", "Syntax errors in policy.") from None
    return document


def _caller(credential: Credential, partition: str) -> Caller:
    owner, name = credential.owner, credential.session_name
    kind: Literal["IAMUser", "AssumedRole", "FederatedUser"]
    session_arn = f"arn:{partition}:sts::{owner.account}"
    if owner.kind == "role":
        kind, user_id = "AssumedRole", f"{owner.unique_id}:{name}"
        arn, names = f"{session_arn}:assumed-role/{owner.name}/{name}", {owner.unique_id}
    elif name:
        # A grant to a user is not a grant to the sessions that the user federates.
        kind, user_id = "FederatedUser", f"{owner.account}:{name}"
        arn, names = f"{session_arn}:federated-user/{name}", set()
    else:
        kind, user_id, arn, names = "IAMUser", owner.unique_id, owner.arn(partition), {owner.unique_id}
    context = {
        "aws:principalarn": (owner.arn(partition) if kind != "FederatedUser" else arn,),
        "aws:principalaccount": (owner.account,),
        "aws:principaltype": ("User" if kind == "IAMUser" else kind,),
        "aws:userid": (user_id,),
        "aws:sourceip": ("127.0.0.1",),
        "aws:securetransport": ("true",),  # AWS has no endpoint without TLS; this one stands for it
        "aws:viaawsservice": ("false",),
        **({"aws:username": (owner.name,)} if kind == "IAMUser" else {}),
    }
    return Caller(
        kind=kind,
        account=owner.account,
        partition=partition,
        arn=arn,
        user_id=user_id,
        credential=credential,
        principal=Principal(account=owner.account, arn=arn, names=frozenset({arn, *names})),
        identity=owner.parsed(),
        context=context,
    )


def _shown(identity: Identity, call: Call) -> dict[str, Any]:
    what = identity.kind.capitalize()
    shown: dict[str, Any] = {
        "Path": identity.path,
        f"{what}Name": identity.name,
        f"{what}Id": identity.unique_id,
        "Arn": identity.arn(call.by.partition),
        "CreateDate": timestamp(identity.created),
    }
    if identity.kind == "role":
        shown |= {"AssumeRolePolicyDocument": quote(identity.trust), "MaxSessionDuration": identity.max_session}
    return shown


def _shown_key(key: Credential) -> dict[str, Any]:
    return {
        "UserName": key.owner.name,
        "AccessKeyId": key.access_key,
        "Status": "Active",
        "CreateDate": timestamp(key.issued),
    }
