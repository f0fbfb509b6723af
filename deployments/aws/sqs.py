"""The queue of change events: receive messages and delete them. The only caller of SQS."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from botocore import exceptions as aws

from deployments.aws.clients import (
    ATTEMPTS_PER_CALL,
    client_of,
    no_open_transaction,
    translated,
)
from deployments.aws.values import (
    Access,
    Message,
)

RECEIVE_SECONDS = 5  # of SQS's long polling, at most 20; a stop waits for it


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQueue:
    """An SQS queue. The region is in its URL, or is the registry's. `seconds`: how long SQS waits for a message."""

    url: str
    region: str
    access: Access
    seconds: int = RECEIVE_SECONDS

    def receive(self) -> list[Message]:
        """Up to ten messages, at once when there are some, else none after `seconds`.

        Permission: sqs:ReceiveMessage. Raises RegistryError.
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
        """Take messages off the queue. Permission: sqs:DeleteMessage. Raises RegistryError."""
        entries = [{"Id": str(place), "ReceiptHandle": each.receipt} for place, each in enumerate(messages)]
        for start in range(0, len(entries), 10):
            self._call("DeleteMessageBatch", {"QueueUrl": self.url, "Entries": entries[start : start + 10]})

    def _call(self, operation: str, request: dict[str, Any]) -> Any:
        no_open_transaction()
        name = self.url.rpartition("/")[2]
        try:
            client = client_of("sqs", self.region, self.access, ATTEMPTS_PER_CALL, waits=self.seconds)
            return client._make_api_call(operation, request)
        except (aws.ClientError, aws.BotoCoreError, OSError) as error:
            raise translated(error, operation, name, self.access) from None
