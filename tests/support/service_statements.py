"""The statements of Lambda in a repository policy, as AWS's pages and Lambda itself write them."""

from __future__ import annotations

from typing import Any

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
