"""Calls without side effects that show the doctor which permissions this installation has."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from botocore import exceptions as aws

from deployments.aws.clients import client_of, no_open_transaction, translated
from deployments.aws.ecr import Ecr
from deployments.aws.sqs import EventQueue
from deployments.aws.values import Identity, Listed, Message
from deployments.errors import RegistryError, registry_error
from deployments.settings_table import DEFAULT_LIFECYCLE_POLICY


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """Calls that show what this identity may do, about a repository that does not exist: they change nothing.

    AWS answers “there is no such repository” only to an identity with the permission. Only `pull_time_exclusions`
    needs a permission that the program does not need anyway.
    """

    ecr: Ecr

    def identity(self) -> Identity:
        """The identity that AWS sees. Needs no permission, and no policy can deny it. Raises RegistryError."""
        no_open_transaction()
        access = self.ecr.access
        try:
            answer = client_of("sts", self.ecr.registry.region, access, 1).get_caller_identity()
        except (aws.ClientError, aws.BotoCoreError, OSError) as error:
            raise translated(error, "GetCallerIdentity", "AWS", access) from None
        said = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
        try:
            at = parsedate_to_datetime(said)
        except ValueError:
            at = None
        return Identity(account=answer["Account"], arn=answer["Arn"], at=at)

    def reads(self, name: str) -> dict[str, Callable[[], object]]:
        """{permission: a call that raises RegistryError without it}. No repository with this `name` may exist.

        Permissions: ecr:GetRepositoryPolicy, ecr:GetLifecyclePolicy, ecr:GetLifecyclePolicyPreview,
        ecr:ListTagsForResource, ecr:DescribeRepositories, ecr:BatchGetImage, ecr:DescribeImages, ecr:ListImages,
        ecr:GetAuthorizationToken.
        """
        ecr = self.ecr
        return {
            "ecr:BatchGetImage": lambda: ecr.manifests(name, tag="none"),
            "ecr:DescribeImages": lambda: ecr.image(name, tag="none"),
            "ecr:DescribeRepositories": lambda: ecr._describe(name),
            "ecr:GetAuthorizationToken": ecr.authorization,
            "ecr:GetLifecyclePolicy": lambda: ecr._lifecycle(name),
            "ecr:GetLifecyclePolicyPreview": lambda: _absent(
                lambda: ecr.lifecycle_preview(name, [{"imageTag": "none"}])
            ),
            "ecr:GetRepositoryPolicy": lambda: ecr._policy(name),
            "ecr:ListImages": lambda: list(ecr.image_tags(name)),
            "ecr:ListTagsForResource": lambda: ecr._tags(name),
        }

    def writes(self, name: str) -> dict[str, Callable[[], object]]:
        """{permission: a call that raises RegistryError without it}, for writes that cannot create a repository.

        `name` must be a name that nobody uses or can guess. Each call first sees that no such repository exists, so
        that the write can change nothing. Not among them: ecr:CreateRepository, and the upload of layers, which may
        create a repository (*Create on push*, Amazon ECR User Guide). Permissions: ecr:DescribeRepositories and those
        that are the keys.
        """
        ecr, registry = self.ecr, self.ecr.registry
        owner = {"AWS": f"arn:{registry.partition}:iam::{registry.account}:root"}
        statement = {"Effect": "Allow", "Principal": owner, "Action": ["ecr:BatchGetImage"]}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})

        def absent(write: Callable[[], object]) -> Callable[[], None]:
            def ask() -> None:
                if isinstance(ecr._describe(name), Listed):
                    raise registry_error(
                        "Unexpected", operation="DescribeRepositories", name=name, reason="the repository exists"
                    )
                _absent(write)

            return ask

        return {
            "ecr:PutImageTagMutability": absent(
                lambda: ecr.put_mutability(name, "IMMUTABLE_WITH_EXCLUSION", ("cache",))
            ),
            "ecr:PutLifecyclePolicy": absent(lambda: ecr.put_lifecycle(name, DEFAULT_LIFECYCLE_POLICY)),
            "ecr:SetRepositoryPolicy": absent(lambda: ecr.set_policy(name, policy)),
            "ecr:StartLifecyclePolicyPreview": absent(
                lambda: ecr.start_lifecycle_preview(name, DEFAULT_LIFECYCLE_POLICY)
            ),
            "ecr:TagResource": absent(lambda: ecr.put_tags(name, {"registry-admin": "doctor"})),
        }

    def pull_time_exclusions(self) -> frozenset[str] | None:
        """The ARNs of the roles and users whose pulls ECR does not record; None if the registry is of another account.

        The call takes no account and is about that of the caller. Permission: ecr:ListPullTimeUpdateExclusions. Raises
        RegistryError. (*ListPullTimeUpdateExclusions*, Amazon ECR API Reference)
        """
        ecr, found = self.ecr, frozenset[str]()
        if self.identity().account != ecr.registry.account:
            return None
        request: dict[str, Any] = {"maxResults": 1000}
        while True:
            answer = ecr._call("ListPullTimeUpdateExclusions", ecr.registry.account, request)
            found |= set(answer["pullTimeUpdateExclusions"])
            if not answer.get("nextToken"):
                return found
            request["nextToken"] = answer["nextToken"]

    def events_queue(self, url: str) -> None:
        """Delete a message that the queue never delivered, which changes nothing.

        Permission: sqs:DeleteMessage. Raises RegistryError if the queue does not exist or AWS refuses the call.
        """
        queue = EventQueue(url=url, region=self.ecr.registry.region, access=self.ecr.access)
        queue.delete([Message(id="probe", body="", receipt="registry-admin-doctor", receives=0)])


def _absent(call: Callable[[], object]) -> None:
    """Make a call about a repository that does not exist. Raises RegistryError for any answer but that."""
    try:
        call()
    except RegistryError as error:
        if error.code != "RepositoryNotFoundException":
            raise
