"""Messages in the form in which EventBridge puts them into an SQS queue."""

from __future__ import annotations

import json
from typing import Any

from deployments.aws.values import Message
from tests.support.constants import OWNER


def event(operation: str, name: str, **detail: Any) -> str:
    return json.dumps(
        {
            "source": "aws.ecr",
            "detail-type": "AWS API Call via CloudTrail",
            "account": OWNER,
            "detail": {
                "eventName": operation,
                "eventTime": "2099-01-01T00:00:00Z",
                "awsRegion": "us-east-1",
                "userAgent": "aws-cli",
                "requestParameters": {"repositoryName": name, "registryId": OWNER},
                **detail,
            },
        }
    )


def message(body: str, receives: int = 1) -> Message:
    return Message(id="m", body=body, receipt="r", receives=receives)
