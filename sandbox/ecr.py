"""ECR's control plane: its operations on the store, with AWS's checks and answers.

Each operation is atomic, because it runs to its end without returning to the event loop. ``iam`` decides about
permissions with the policies of the repository and of the registry. Operations that do not exist here answer
UnknownOperationException: scan results, replication, pull-through caches, creation templates, signing.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any
from unicodedata import category

from sandbox import documents
from sandbox.aws import AWSError, Call, Change, invalid, model, partition_of, snake
from sandbox.ecr_images import Images
from sandbox.ecr_lifecycle import Lifecycle
from sandbox.ecr_registry import RegistryItself, enforced
from sandbox.ecr_tokens import Token, Tokens
from sandbox.faults import Faults
from sandbox.iam import IAM
from sandbox.policy import Ask, Policy, decide
from sandbox.store import Registry, Repository, Store, arn_of, not_found

TOKEN_SECONDS = 12 * 3600  # 12 hours as at AWS, even if the caller's session ends earlier
MAX_TAGS = 50
CHANGES = frozenset(
    {
        "CreateRepository",
        "DeleteRepository",
        "SetRepositoryPolicy",
        "DeleteRepositoryPolicy",
        "PutLifecyclePolicy",
        "DeleteLifecyclePolicy",
        "PutImageTagMutability",
        "PutImageScanningConfiguration",
        "TagResource",
        "UntagResource",
        "PutImage",
        "BatchDeleteImage",
        "UpdateImageStorageClass",
        "PutRegistryPolicy",
        "DeleteRegistryPolicy",
        "PutAccountSetting",
        "RegisterPullTimeUpdateExclusion",
        "DeregisterPullTimeUpdateExclusion",
    }
)
READS = ("Describe", "Get", "List")  # beginnings of the names of calls that change nothing


class ECR:
    def __init__(self, store: Store, iam: IAM, faults: Faults) -> None:
        self._store, self._iam, self._faults = store, iam, faults
        self.tokens = Tokens()
        self.images = Images(store, self.tokens, self.repository)
        self.lifecycle = Lifecycle(store, self.tokens, faults, self.repository)
        self.own = RegistryItself(store, self.tokens, iam, self.registry, self.authorize)
        self._model = model("ecr")

    def answer(self, call: Call) -> dict[str, Any]:
        """Runs one operation and returns its response as JSON. Raises AWSError."""
        if call.operation not in self._model.operations:
            raise AWSError("UnknownOperationException", f"Unknown operation {call.operation}")
        name = f"do_{snake(call.operation)}"
        owners = (self, self.images, self.lifecycle, self.own)
        operation = next((found for owner in owners if (found := getattr(owner, name, None))), None)
        if operation is None:
            raise AWSError("UnknownOperationException", f"The sandbox does not do ecr:{call.operation}")
        self._model.check(call.operation, call.params)
        if call.operation.startswith(READS):
            arn = f"arn:{call.by.partition}:ecr:{call.region}:{call.params.get('registryId') or call.by.account}:*"
            call.change = Change(call.operation, dict(call.params), {}, arn, read_only=True)
        result: dict[str, Any] = operation(call)
        if call.operation in CHANGES:
            account = str(call.params.get("registryId") or call.by.account)
            if "resourceArn" in call.params:
                arn, sent = str(call.params["resourceArn"]), dict(call.params)
            else:
                registry, about = self._store.registry(account, call.region), call.params.get("repositoryName")
                arn = arn_of(account, call.region, about) if about else registry.arn
                sent = {**call.params, "registryId": account}
            call.change = Change(call.operation, sent, result, arn)
        return result

    # -- finding and asking --

    def registry(self, call: Call) -> Registry:
        """The registry of the call's `registryId`, or of the caller's account, in the call's region."""
        return self._store.registry(call.params.get("registryId") or call.by.account, call.region)

    def authorize(
        self,
        call: Call,
        registry: Registry,
        name: str,
        action: str,
        extra: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """Checks the identity, session, repository and registry policies. Raises AWSError (AccessDenied).

        A caller without permission gets the same error whether the repository exists or not.
        """
        repository = registry.repositories.get(name)
        own = registry.policy if enforced(registry, action) else None
        policies = [stored.policy for stored in (own, repository and repository.policy) if stored]
        context = dict(extra or {})
        if repository:
            for key, value in repository.tags.items():
                context[f"aws:resourcetag/{key.lower()}"] = context[f"ecr:resourcetag/{key.lower()}"] = (value,)
        # An action on the registry itself has no resource in IAM: only the Resource * allows it.
        resource = arn_of(registry.account, registry.region, name) if name else "*"
        self._iam.require(call, action, resource, owner=registry.account, resource_policies=policies, context=context)

    def repository(self, call: Call) -> Repository:
        """The repository of the call. Raises AWSError if the caller may not do this operation on it."""
        registry, name = self.registry(call), str(call.params["repositoryName"])
        # ListImageReferrers needs the permission of a pull (API Reference); whether also its own is not documented.
        action = "BatchGetImage" if call.operation == "ListImageReferrers" else call.operation
        self.authorize(call, registry, name, f"ecr:{action}")
        return self.existing(registry, name)

    def existing(self, registry: Registry, name: str) -> Repository:
        """The repository. Raises RepositoryNotFoundException if it does not exist or a fault hides it."""
        repository = registry.repositories.get(name)
        if repository is None or self._faults.hides(repository.name, self._store.now() - repository.created):
            raise not_found(name, registry.account)
        return repository

    # -- repositories --

    def do_create_repository(self, call: Call) -> dict[str, Any]:
        registry, name = self.registry(call), str(call.params["repositoryName"])
        tags = _tags(call.params.get("tags") or [])
        self.authorize(call, registry, name, "ecr:CreateRepository", _requested(tags))
        if tags:
            self.authorize(call, registry, name, "ecr:TagResource", _requested(tags))
        if not name[0].isalpha():
            raise invalid("repositoryName", "must start with a letter")
        mutability, exclusions = _mutability(call.params, "MUTABLE")
        scanning = call.params.get("imageScanningConfiguration") or {}
        repository = Repository(
            account=registry.account,
            region=registry.region,
            name=name,
            created=self._store.now(),
            mutability=mutability,
            exclusions=exclusions,
            scan_on_push=bool(scanning.get("scanOnPush", False)),
            encryption=_encryption(call, registry),
            tags=tags,
        )
        registry.add(repository)
        return {"repository": _shown(repository)}

    def do_describe_repositories(self, call: Call) -> dict[str, Any]:
        registry, names = self.registry(call), call.params.get("repositoryNames")
        if names is None:
            self.authorize(call, registry, "*", "ecr:DescribeRepositories")
            found, token = self._page(call, registry)
            return {"repositories": [_shown(each) for each in found], **token}
        if call.params.get("maxResults") is not None or call.params.get("nextToken") is not None:
            raise invalid("maxResults", "maxResults and nextToken cannot be used together with repositoryNames")
        for name in names:
            self.authorize(call, registry, name, "ecr:DescribeRepositories")
        return {"repositories": [_shown(self.existing(registry, name)) for name in names]}

    def _page(self, call: Call, registry: Registry) -> tuple[list[Repository], dict[str, str]]:
        size = call.params.get("maxResults") or 100
        found: list[Repository] = []
        for repository in registry.after(self._cursor(call)):
            if self._faults.hides(repository.name, self._store.now() - repository.created):
                continue
            if len(found) == size:
                return found, {"nextToken": self.tokens.sign({"of": call.operation, "after": found[-1].name})}
            found.append(repository)
        return found, {}

    def _cursor(self, call: Call) -> str:
        text = call.params.get("nextToken")
        if text is None:
            return ""
        content = self.tokens.verify(text)
        if content is None or content.get("of") != call.operation:
            raise AWSError("InvalidParameterException", "Invalid parameter at 'nextToken'")
        return str(content["after"])

    def do_delete_repository(self, call: Call) -> dict[str, Any]:
        repository = self.repository(call)
        if repository.images and not call.params.get("force"):
            raise AWSError(
                "RepositoryNotEmptyException",
                f"The repository with name '{repository.name}' in registry with id '{repository.account}' cannot be "
                "deleted because it still contains images",
            )
        self.registry(call).remove(repository)
        return {"repository": _shown(repository)}

    def do_put_image_tag_mutability(self, call: Call) -> dict[str, Any]:
        repository = self.repository(call)
        repository.mutability, repository.exclusions = _mutability(call.params, "MUTABLE")
        return {**repository.named, **_shown_mutability(repository)}

    def do_put_image_scanning_configuration(self, call: Call) -> dict[str, Any]:
        repository = self.repository(call)
        repository.scan_on_push = bool(call.params["imageScanningConfiguration"].get("scanOnPush", False))
        return {**repository.named, "imageScanningConfiguration": {"scanOnPush": repository.scan_on_push}}

    # -- policies --

    def do_get_repository_policy(self, call: Call) -> dict[str, Any]:
        repository = self.repository(call)
        if repository.policy is None:
            raise _no_policy(repository)
        return {**repository.named, "policyText": repository.policy.text(self._iam)}

    def do_set_repository_policy(self, call: Call) -> dict[str, Any]:
        repository = self.repository(call)
        if self._faults.forgets_principals(repository.name):
            raise invalid("PolicyText", documents.UNKNOWN)
        partition = partition_of(repository.region).name
        text = str(call.params["policyText"])
        if self._faults.knows_more(repository.name):
            stored = documents.unchecked(text, partition=partition)
        else:
            stored = documents.repository_policy(text, model=self._model, iam=self._iam, partition=partition)
        registry = self.registry(call)
        own = registry.policy if enforced(registry, "ecr:SetRepositoryPolicy") else None
        policies = [stored.policy, *([own.policy] if own else [])]
        if not call.params.get("force") and not self._keeps_control(call, repository, policies):
            # AWS's exact message is not verified.
            raise invalid("PolicyText", "The policy would prevent its own update; use the force flag to set it anyway")
        repository.policy = stored
        return {**repository.named, "policyText": stored.text(self._iam)}

    def _keeps_control(self, call: Call, repository: Repository, policies: list[Policy]) -> bool:
        ask = Ask(
            principal=call.by.principal,
            action="ecr:SetRepositoryPolicy",
            resource=repository.arn,
            owner=repository.account,
            context=self._iam.context(call),
        )
        return decide(ask, identity=call.by.identity, resource=policies, session=call.by.credential.session).allowed

    def do_delete_repository_policy(self, call: Call) -> dict[str, Any]:
        repository = self.repository(call)
        if repository.policy is None:
            raise _no_policy(repository)
        text, repository.policy = repository.policy.text(self._iam), None
        return {**repository.named, "policyText": text}

    # -- the log-in --

    def do_get_authorization_token(self, call: Call) -> dict[str, Any]:
        self._iam.require(call, "ecr:GetAuthorizationToken", "*")
        expires = self._store.now() + TOKEN_SECONDS
        signed = self.tokens.sign({"key": call.by.credential.access_key, "region": call.region, "expires": expires})
        data = {
            "authorizationToken": base64.b64encode(f"AWS:{signed}".encode()).decode(),
            "expiresAt": expires,
            # At AWS the registry's own host; here the address to which the caller sent this request.
            "proxyEndpoint": call.request.origin,
        }
        return {"authorizationData": [data for _ in call.params.get("registryIds") or [None]]}

    def token(self, password: str) -> Token | None:
        """The content of a password of the data plane; None if this sandbox did not issue the password."""
        content = self.tokens.verify(password)
        return Token(content["key"], content["region"], content["expires"]) if content and "key" in content else None

    # -- AWS tags --

    def _tagged(self, call: Call, tags: Mapping[str, str]) -> Repository:
        arn = str(call.params["resourceArn"])
        parts = arn.split(":", 5)
        known = len(parts) == 6 and parts[2] == "ecr" and parts[3] == call.region and "/" in parts[5]
        if not known or parts[1] != partition_of(call.region).name or not parts[5].startswith("repository/"):
            raise invalid("resourceArn", "Invalid resource ARN")
        registry, name = self._store.registry(parts[4], call.region), parts[5].removeprefix("repository/")
        self.authorize(call, registry, name, f"ecr:{call.operation}", _requested(tags))
        return self.existing(registry, name)

    def do_tag_resource(self, call: Call) -> dict[str, Any]:
        tags = _tags(call.params["tags"])
        repository = self._tagged(call, tags)
        merged = repository.tags | tags
        if len(merged) > MAX_TAGS:
            raise _too_many_tags()
        repository.tags = merged
        return {}

    def do_untag_resource(self, call: Call) -> dict[str, Any]:
        keys = {str(key) for key in call.params["tagKeys"]}
        repository = self._tagged(call, dict.fromkeys(keys, ""))
        repository.tags = {key: value for key, value in repository.tags.items() if key not in keys}
        return {}

    def do_list_tags_for_resource(self, call: Call) -> dict[str, Any]:
        repository = self._tagged(call, {})
        return {"tags": [{"Key": key, "Value": value} for key, value in repository.tags.items()]}


def _shown_mutability(repository: Repository) -> dict[str, Any]:
    shown: dict[str, Any] = {"imageTagMutability": repository.mutability}
    if repository.exclusions:
        shown["imageTagMutabilityExclusionFilters"] = [
            {"filterType": "WILDCARD", "filter": each} for each in repository.exclusions
        ]
    return shown


def _shown(repository: Repository) -> dict[str, Any]:
    return {
        "repositoryArn": repository.arn,
        **repository.named,
        "repositoryUri": repository.uri,
        "createdAt": repository.created,
        **_shown_mutability(repository),
        "imageScanningConfiguration": {"scanOnPush": repository.scan_on_push},
        "encryptionConfiguration": repository.encryption,
    }


def _no_policy(repository: Repository) -> AWSError:
    return AWSError("RepositoryPolicyNotFoundException", f"Repository policy does not exist {repository.where}")


def _mutability(params: Mapping[str, Any], default: str) -> tuple[str, list[str]]:
    mode = str(params.get("imageTagMutability") or default)
    filters = [str(each["filter"]) for each in params.get("imageTagMutabilityExclusionFilters") or []]
    if mode.endswith("_WITH_EXCLUSION") != bool(filters):
        raise invalid(
            "imageTagMutabilityExclusionFilters", "must be given with a mutability WITH_EXCLUSION, and only then"
        )
    if any(each.count("*") > 2 for each in filters):
        raise invalid("imageTagMutabilityExclusionFilters", "a filter may contain at most two wildcards")
    if len(set(filters)) != len(filters):
        raise invalid("imageTagMutabilityExclusionFilters", "filters must be unique")
    return mode, filters


def _encryption(call: Call, registry: Registry) -> dict[str, str]:
    asked = call.params.get("encryptionConfiguration") or {"encryptionType": "AES256"}
    if asked["encryptionType"] == "AES256":
        if asked.get("kmsKey"):
            raise invalid("encryptionConfiguration", "kmsKey must not be given with AES256")
        return {"encryptionType": "AES256"}
    here = f"arn:{partition_of(registry.region).name}:kms:{registry.region}:"
    key = asked.get("kmsKey") or here
    if key.startswith("arn:") and not key.startswith(here):
        raise AWSError("KmsException", "The KMS key must be in the same Region as the repository")
    default = f"{here}{registry.account}:alias/aws/ecr"
    return {"encryptionType": asked["encryptionType"], "kmsKey": asked.get("kmsKey") or default}


def _tags(raw: Iterable[Mapping[str, str]]) -> dict[str, str]:
    pairs = [(each["Key"], each["Value"]) for each in raw]
    tags = dict(pairs)
    if len(tags) != len(pairs):
        raise AWSError("InvalidTagParameterException", "A tag key occurs twice")
    for key, value in tags.items():
        if not 1 <= len(key) <= 128 or len(value) > 256 or key.lower().startswith("aws:"):
            raise AWSError(
                "InvalidTagParameterException",
                "Tag keys have 1 to 128 characters and do not start with aws:, values have up to 256",
            )
        if not all(each.isalnum() or each in "_.:/=+-@" or category(each).startswith("Z") for each in key + value):
            raise AWSError("InvalidTagParameterException", "Tags are letters, numbers, spaces and _.:/=+-@")
    if len(tags) > MAX_TAGS:
        raise _too_many_tags()
    return tags


def _too_many_tags() -> AWSError:
    return AWSError("TooManyTagsException", f"A repository has at most {MAX_TAGS} tags")


def _requested(tags: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    if not tags:
        return {}
    return {"aws:tagkeys": tuple(tags), **{f"aws:requesttag/{key.lower()}": (tags[key],) for key in tags}}
