"""Harmless calls that show the doctor which permissions this installation has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from botocore import exceptions as aws

from deployments.aws.clients import (
    client_of,
    no_open_transaction,
    translated,
)
from deployments.aws.ecr import Ecr
from deployments.aws.sqs import EventQueue
from deployments.aws.values import (
    Identity,
    Message,
)
from deployments.errors import RegistryError


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """Harmless questions that show what this identity may do: reads of a repository that does not exist.

    “There is no such repository” is said only to those who may ask. Writes cannot be tried without writing. No
    method needs a permission of its own beyond the operator's policy; the one that could use more says so.
    """

    ecr: Ecr

    def identity(self) -> Identity:
        """sts:GetCallerIdentity needs no permission, and no policy can take it away. Raises RegistryError."""
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
        """Permission → a question that shows whether we have it; it raises RegistryError if not. `name` must not exist.

        Permissions: ecr:GetRepositoryPolicy, ecr:GetLifecyclePolicy, ecr:ListTagsForResource,
        ecr:DescribeRepositories, ecr:BatchGetImage, ecr:ListImages, ecr:GetAuthorizationToken.
        """
        ecr = self.ecr
        return {
            "ecr:BatchGetImage": lambda: ecr.manifests(name, tag="none"),
            "ecr:DescribeRepositories": lambda: ecr._describe(name),
            "ecr:GetAuthorizationToken": ecr.authorization,
            "ecr:GetLifecyclePolicy": lambda: ecr._lifecycle(name),
            "ecr:GetRepositoryPolicy": lambda: ecr._policy(name),
            "ecr:ListImages": lambda: list(ecr.image_tags(name)),
            "ecr:ListTagsForResource": lambda: ecr._tags(name),
        }

    def registry_policy(self) -> tuple[str | None, str | None]:
        """(the registry-wide policy, its scope V1 or V2), each None where there is none or it cannot be known.

        Beyond the operator's policy, and worth allowing only for this look: ecr:GetRegistryPolicy and
        ecr:GetAccountSetting. Raises RegistryError when the first is refused.
        """
        account = self.ecr.registry.account
        answer = self.ecr._call(
            "GetRegistryPolicy", account, {}, {"RegistryPolicyNotFoundException": {"policyText": None}}
        )
        try:
            scope = self.ecr._call("GetAccountSetting", account, {"name": "REGISTRY_POLICY_SCOPE"})["value"]
        except RegistryError:
            scope = None
        return answer["policyText"], scope

    def events_queue(self, url: str) -> None:
        """Ask the queue to delete a message that it never gave out: nothing is received, nothing is lost.

        Permission: sqs:DeleteMessage. Raises RegistryError when the queue is not there or refuses us.
        """
        queue = EventQueue(url=url, region=self.ecr.registry.region, access=self.ecr.access)
        queue.delete([Message(id="probe", body="", receipt="registry-admin-doctor", receives=0)])
