"""How these tests ask, and how they are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.exceptions import ClientError

OWNER, CLUSTER = "111111111111", "222222222222"
HOST = f"{OWNER}.dkr.ecr.us-east-1.amazonaws.com"
PULL = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]


class Refusal:
    """What AWS said."""

    code = ""
    message = ""
    status = 0


@contextmanager
def refused(code: str) -> Iterator[Refusal]:
    """The call inside must be refused with this error code."""
    refusal = Refusal()
    with pytest.raises(ClientError) as caught:
        yield refusal
    refusal.code = caught.value.response["Error"]["Code"]
    refusal.message = caught.value.response["Error"]["Message"]
    refusal.status = caught.value.response["ResponseMetadata"]["HTTPStatusCode"]
    assert refusal.code == code, refusal.message


def statement(
    principal: Any = CLUSTER, action: Any = tuple(PULL), effect: str = "Allow", **more: Any
) -> dict[str, Any]:
    who = principal if isinstance(principal, dict) or principal == "*" else {"AWS": principal}
    what = list(action) if isinstance(action, tuple) else action
    return {"Effect": effect, "Principal": who, "Action": what, **more}


def policy(*statements: dict[str, Any]) -> str:
    """A policy text; without statements, the one that lets the cluster account pull."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements) or [statement()]})


def session_policy(action: Any, resource: str = "*", effect: str = "Allow") -> str:
    return json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": effect, "Action": action, "Resource": resource}]}
    )


def keys(answer: dict[str, Any]) -> tuple[str, str, str]:
    """The credentials in an answer of STS, as ``Sandbox.client`` takes them."""
    found = answer["Credentials"]
    return found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"]


def receive(sqs: Any, url: str, *, count: int = 1, wait: int = 5) -> list[dict[str, Any]]:
    """The next messages' bodies, deleted from the queue."""
    bodies: list[dict[str, Any]] = []
    while len(bodies) < count:
        messages = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=wait, MaxNumberOfMessages=10).get("Messages", [])
        if not messages:
            break
        for message in messages:
            bodies.append(json.loads(message["Body"]))
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return bodies
