"""The queue of change events: receive messages and delete them. Only this module calls SQS."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from botocore import exceptions as aws

from deployments.aws.clients import (
    ATTEMPTS_PER_CALL,
    client_of,
    no_open_transaction,
    record_call,
    translated,
)
from deployments.aws.values import Message
from deployments.config import Access

RECEIVE_SECONDS = 5  # WaitTimeSeconds of SQS's long polling, at most 20; the end of the process waits as long


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQueue:
    """An SQS queue at a URL, in a region. `seconds`: how long SQS waits for a message."""

    url: str
    region: str
    access: Access
    seconds: int = RECEIVE_SECONDS

    def receive(self) -> list[Message]:
        """Up to ten messages as soon as the queue has any; an empty list after `seconds` without a message.

        Other receivers do not get a received message for 60 seconds. Permission: sqs:ReceiveMessage. Raises
        RegistryError.
        """
        answer = self._call(
            "ReceiveMessage",
            {
                "QueueUrl": self.url,
                "MaxNumberOfMessages": 10,
                "WaitTimeSeconds": self.seconds,
                "VisibilityTimeout": 60,
                "MessageSystemAttributeNames": ["ApproximateReceiveCount"],
            },
        )
        return [
            Message(
                id=entry["MessageId"],
                body=entry["Body"],
                receipt=entry["ReceiptHandle"],
                receives=int(entry.get("Attributes", {}).get("ApproximateReceiveCount", "1")),
            )
            for entry in answer.get("Messages", ())
        ]

    def delete(self, messages: Iterable[Message]) -> None:
        """Delete received messages from the queue. Permission: sqs:DeleteMessage. Raises RegistryError."""
        entries = [{"Id": str(index), "ReceiptHandle": message.receipt} for index, message in enumerate(messages)]
        for start in range(0, len(entries), 10):
            self._call("DeleteMessageBatch", {"QueueUrl": self.url, "Entries": entries[start : start + 10]})

    def _call(self, operation: str, request: dict[str, Any]) -> Any:
        no_open_transaction()
        name = self.url.rpartition("/")[2]
        started = time.monotonic()
        try:
            client = client_of("sqs", self.region, self.access, ATTEMPTS_PER_CALL, waits=self.seconds)
            answer = client._make_api_call(operation, request)
        except (aws.ClientError, aws.BotoCoreError, OSError) as error:
            refused = translated(error, operation, name, self.access)
            record_call(operation, started, refused, queue=name)
            raise refused from None
        record_call(operation, started, answer, queue=name)
        return answer
