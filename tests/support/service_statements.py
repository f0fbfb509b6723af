"""The statements of Lambda in a repository policy, as AWS's pages and Lambda itself write them; and the live policy."""

from __future__ import annotations

import json
from typing import Any

from deployments.models import Repository
from sandbox.control import Sandbox
from tests.support.constants import OWNER

SID = "LambdaECRImageRetrievalPolicy"
TWO_ACTIONS = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
OF_POLICY = ["ecr:DeleteRepositoryPolicy", "ecr:GetRepositoryPolicy", "ecr:SetRepositoryPolicy"]


def bare(sid: str = SID) -> dict[str, Any]:
    """The form without a condition, for functions of the registry's own account."""
    principal = {"Service": "lambda.amazonaws.com"}
    return {"Sid": sid, "Effect": "Allow", "Principal": principal, "Action": TWO_ACTIONS}


def function_of(account: str, sid: str = SID, **more: Any) -> dict[str, Any]:
    """The form for the functions of one account."""
    source = {"StringLike": {"aws:sourceArn": f"arn:aws:lambda:us-east-1:{account}:function:*"}}
    return {**bare(sid), "Condition": source, **more}


#: What Lambda adds itself: it may change the policy, so an operator has to adopt it.
ADDED = function_of(OWNER, Action=TWO_ACTIONS + OF_POLICY)


def live(sandbox: Sandbox) -> Any:
    """The live policy of the one repository."""
    name = Repository.objects.get().name
    return json.loads(sandbox.client("ecr").get_repository_policy(repositoryName=name)["policyText"])


def sids(sandbox: Sandbox) -> list[str]:
    return [each.get("Sid", "") for each in live(sandbox)["Statement"]]


def add(sandbox: Sandbox, *statements: dict[str, Any], instead: bool = False) -> None:
    """Somebody reads the policy and adds statements; `instead`: they are there in place of our own."""
    document = live(sandbox)
    document["Statement"] = [*([] if instead else document["Statement"]), *statements]
    name = Repository.objects.get().name
    sandbox.client("ecr").set_repository_policy(repositoryName=name, policyText=json.dumps(document))
    sandbox.reset_calls()
