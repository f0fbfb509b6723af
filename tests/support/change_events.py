"""Messages in the form in which EventBridge puts them into an SQS queue, and the consumer of the queue."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections

from deployments.aws.sqs import EventQueue
from deployments.aws.values import Message
from deployments.config import Configuration
from deployments.reconcile import change_events
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


@contextmanager
def consuming(configuration: Configuration, queue: EventQueue) -> Iterator[None]:
    """The consumer of change events, in a thread, as `manage.py events` runs it."""
    stop = threading.Event()

    def run() -> None:
        try:
            change_events.consume(configuration=configuration, queue=queue, stopping=stop.is_set)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
