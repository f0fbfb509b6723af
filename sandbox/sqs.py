"""SQS with standard queues: enough for a consumer of events, with real long polling.

Not moto's SQS, because moto runs a long poll in a thread on global state without a lock, and its EventBridge can
deliver only to its own queues. Here a waiting receiver is a future on the event loop, which ends when a message
arrives. No FIFO queues, no delays per queue, no access to queues of another account.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.aws import AWSError, Call, model, partition_of, snake
from sandbox.iam import IAM

NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
DEFAULTS = {
    "VisibilityTimeout": "30",
    "ReceiveMessageWaitTimeSeconds": "0",
    "MessageRetentionPeriod": "345600",
    "MaximumMessageSize": "262144",
    "DelaySeconds": "0",
}
SETTABLE = DEFAULTS.keys() | {"RedrivePolicy", "Policy", "SqsManagedSseEnabled", "KmsMasterKeyId"}
Result = dict[str, Any]


@dataclass(slots=True)
class Message:
    id: str
    body: str
    sent: float
    attributes: dict[str, Any]
    visible_at: float
    received: int = 0
    first_received: float = 0.0
    receipt: str = ""


@dataclass(slots=True)
class Queue:
    """A queue. Times are of the monotonic clock, except the times in answers."""

    account: str
    region: str
    name: str
    created: float
    attributes: dict[str, str]
    messages: dict[str, Message] = field(default_factory=dict)
    waiting: set[asyncio.Event] = field(default_factory=set)

    @property
    def arn(self) -> str:
        return f"arn:{partition_of(self.region).name}:sqs:{self.region}:{self.account}:{self.name}"

    def put(self, body: str, attributes: dict[str, Any] | None = None, delay: float = 0.0) -> Message:
        """Adds a message, which receivers get after `delay` seconds."""
        message = Message(str(uuid.uuid4()), body, time.time(), attributes or {}, time.monotonic() + delay)
        self.messages[message.id] = message
        self.wake()
        return message

    def wake(self) -> None:
        for event in self.waiting:
            event.set()

    def next_visible(self) -> float | None:
        return min((message.visible_at for message in self.messages.values()), default=None)


class SQS:
    def __init__(self, iam: IAM) -> None:
        self._iam = iam
        self._queues: dict[tuple[str, str, str], Queue] = {}

    def answer(self, call: Call) -> Result | Awaitable[Result]:
        """Runs one operation of SQS's API; a long poll returns an awaitable. Raises AWSError."""
        operation: Callable[[Call], Result | Awaitable[Result]] | None = getattr(
            self, f"do_{snake(call.operation)}", None
        )
        if operation is None:
            raise AWSError("UnknownOperationException", f"The sandbox does not do sqs:{call.operation}")
        model("sqs").check(call.operation, call.params)
        name = str(call.params.get("QueueName") or str(call.params.get("QueueUrl", "")).rpartition("/")[2])
        resource = f"arn:{call.by.partition}:sqs:{call.region}:{call.by.account}:{name}"
        self._iam.require(call, f"sqs:{call.operation.removesuffix('Batch')}", resource)
        return operation(call)

    def by_arn(self, arn: str) -> Queue | None:
        parts = arn.split(":")
        if len(parts) != 6 or parts[2] != "sqs":
            return None
        return self._queues.get((parts[4], parts[3], parts[5]))

    def create(self, account: str, region: str, name: str) -> Queue:
        if not NAME.fullmatch(name):
            raise AWSError("InvalidParameterValue", "Can only include alphanumeric characters, hyphens, or underscores")
        queue = self._queues[account, region, name] = Queue(account, region, name, time.time(), dict(DEFAULTS))
        return queue

    def by_name(self, account: str, name: str, region: str | None = None) -> Queue | None:
        """The queue with this name in the account; without `region` in any region."""
        for (owner, where, each), queue in self._queues.items():
            if owner == account and each == name and region in (None, where):
                return queue
        return None

    # -- queues --

    def _url(self, call: Call, queue: Queue) -> str:
        return f"{call.request.origin}/{queue.account}/{queue.name}"

    def _queue(self, call: Call) -> Queue:
        parts = str(call.params.get("QueueUrl", "")).split("/")
        account, name = (parts[-2], parts[-1]) if len(parts) >= 2 else ("", "")
        queue = self._queues.get((account, call.region, name))
        if queue is None:
            raise AWSError("QueueDoesNotExist", "The specified queue does not exist.")
        if queue.account != call.by.account:
            raise AWSError("AccessDenied", "The sandbox's queues are for their own account.", 403)
        return queue

    def do_create_queue(self, call: Call) -> Result:
        name, attributes = str(call.params.get("QueueName", "")), call.params.get("Attributes") or {}
        _check(attributes)
        queue = self._queues.get((call.by.account, call.region, name))
        if queue is None:
            queue = self.create(call.by.account, call.region, name)
            queue.attributes.update(attributes)
        elif any(queue.attributes.get(each) != value for each, value in attributes.items()):
            raise AWSError("QueueNameExists", "A queue already exists with the same name and a different value")
        return {"QueueUrl": self._url(call, queue)}

    def do_delete_queue(self, call: Call) -> Result:
        queue = self._queue(call)
        del self._queues[queue.account, queue.region, queue.name]
        return {}

    def do_get_queue_url(self, call: Call) -> Result:
        queue = self._queues.get((call.by.account, call.region, str(call.params.get("QueueName"))))
        if queue is None:
            raise AWSError("QueueDoesNotExist", "The specified queue does not exist.")
        return {"QueueUrl": self._url(call, queue)}

    def do_list_queues(self, call: Call) -> Result:
        prefix = str(call.params.get("QueueNamePrefix", ""))
        found = [
            self._url(call, queue)
            for (account, region, name), queue in self._queues.items()
            if account == call.by.account and region == call.region and name.startswith(prefix)
        ]
        return {"QueueUrls": found} if found else {}

    def do_get_queue_attributes(self, call: Call) -> Result:
        queue, now = self._queue(call), time.monotonic()
        hidden = [each for each in queue.messages.values() if each.visible_at > now]
        delayed = sum(1 for each in hidden if not each.received)
        attributes = {
            **queue.attributes,
            "QueueArn": queue.arn,
            "CreatedTimestamp": str(int(queue.created)),
            "ApproximateNumberOfMessages": str(len(queue.messages) - len(hidden)),
            "ApproximateNumberOfMessagesNotVisible": str(len(hidden) - delayed),
            "ApproximateNumberOfMessagesDelayed": str(delayed),
        }
        wanted = set(call.params.get("AttributeNames") or [])
        shown = {name: value for name, value in attributes.items() if "All" in wanted or name in wanted}
        return {"Attributes": shown} if shown else {}

    def do_set_queue_attributes(self, call: Call) -> Result:
        attributes = call.params.get("Attributes") or {}
        _check(attributes)
        self._queue(call).attributes.update(attributes)
        return {}

    def do_purge_queue(self, call: Call) -> Result:
        self._queue(call).messages.clear()
        return {}

    # -- messages --

    def do_send_message(self, call: Call) -> Result:
        return self._send(self._queue(call), call.params)

    def _send(self, queue: Queue, params: Mapping[str, Any]) -> Result:
        body = params.get("MessageBody")
        if not isinstance(body, str) or not body:
            raise AWSError("MissingParameter", "The request must contain the parameter MessageBody.")
        if len(body.encode()) > int(queue.attributes["MaximumMessageSize"]):
            raise AWSError("InvalidParameterValue", "One or more parameters are invalid. Reason: Message too long.")
        delay = _number(params, "DelaySeconds", 0, 900, int(queue.attributes["DelaySeconds"]))
        message = queue.put(body, params.get("MessageAttributes"), delay)
        return {"MessageId": message.id, "MD5OfMessageBody": _md5(body)}

    def do_send_message_batch(self, call: Call) -> Result:
        queue = self._queue(call)
        return _batch(call, lambda entry: self._send(queue, entry))

    def do_receive_message(self, call: Call) -> Result | Awaitable[Result]:
        queue = self._queue(call)
        count = _number(call.params, "MaxNumberOfMessages", 1, 10, 1)
        wait = _number(call.params, "WaitTimeSeconds", 0, 20, int(queue.attributes["ReceiveMessageWaitTimeSeconds"]))
        hide = _number(call.params, "VisibilityTimeout", 0, 43200, int(queue.attributes["VisibilityTimeout"]))
        taken = self._take(queue, count, hide)
        if taken or not wait:
            return _received(call, taken)
        return self._wait(call, queue, count, hide, time.monotonic() + wait)

    async def _wait(self, call: Call, queue: Queue, count: int, hide: int, until: float) -> Result:
        event = asyncio.Event()
        queue.waiting.add(event)
        try:
            while (now := time.monotonic()) < until:
                soonest = queue.next_visible()
                pause = until if soonest is None else min(until, max(soonest, now))
                try:
                    await asyncio.wait_for(event.wait(), pause - now + 0.001)
                except TimeoutError:
                    pass
                event.clear()
                if call.request.gone.is_set():  # the client has closed the connection
                    return {}
                taken = self._take(queue, count, hide)
                if taken:
                    return _received(call, taken)
            return {}
        finally:
            queue.waiting.discard(event)

    def _take(self, queue: Queue, count: int, hide: int) -> list[Message]:
        now = time.monotonic()
        redrive = json.loads(queue.attributes.get("RedrivePolicy") or "{}")
        most = int(redrive.get("maxReceiveCount", 0))
        taken: list[Message] = []
        for message in list(queue.messages.values()):
            if message.visible_at > now:
                continue
            if most and message.received >= most:
                del queue.messages[message.id]
                dead = self.by_arn(str(redrive.get("deadLetterTargetArn")))
                if dead is not None:
                    dead.put(message.body, message.attributes)
                continue
            message.received += 1
            message.first_received = message.first_received or time.time()
            message.receipt = f"{message.id}.{secrets.token_urlsafe(24)}"
            message.visible_at = now + hide
            taken.append(message)
            if len(taken) == count:
                break
        return taken

    def do_delete_message(self, call: Call) -> Result:
        return self._delete(self._queue(call), call.params)

    def _delete(self, queue: Queue, params: Mapping[str, Any]) -> Result:
        message = _by_receipt(queue, params)
        # An older receipt of a message that was received again deletes nothing and is not an error.
        if message is not None and message.receipt == params.get("ReceiptHandle"):
            del queue.messages[message.id]
        return {}

    def do_delete_message_batch(self, call: Call) -> Result:
        queue = self._queue(call)
        return _batch(call, lambda entry: self._delete(queue, entry))

    def do_change_message_visibility(self, call: Call) -> Result:
        return self._change(self._queue(call), call.params)

    def _change(self, queue: Queue, params: Mapping[str, Any]) -> Result:
        seconds = _number(params, "VisibilityTimeout", 0, 43200, 0)
        message = _by_receipt(queue, params)
        if message is None:
            raise AWSError("InvalidParameterValue", "The message does not exist or is not available for change.")
        message.visible_at = time.monotonic() + seconds
        queue.wake()
        return {}

    def do_change_message_visibility_batch(self, call: Call) -> Result:
        queue = self._queue(call)
        return _batch(call, lambda entry: self._change(queue, entry))


def _check(attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        if name not in SETTABLE:
            raise AWSError("InvalidAttributeName", f"Unknown Attribute {name}.")
        if name in DEFAULTS and not str(value).isdecimal():
            raise AWSError("InvalidAttributeValue", f"Invalid value for the parameter {name}.")
        if name == "RedrivePolicy":
            try:
                redrive = json.loads(value)
                int(redrive["maxReceiveCount"]), str(redrive["deadLetterTargetArn"])
            except (ValueError, TypeError, KeyError):
                raise AWSError("InvalidAttributeValue", "Invalid value for the parameter RedrivePolicy.") from None


def _number(params: Mapping[str, Any], name: str, low: int, high: int, default: int) -> int:
    value = params.get(name, default)
    if not isinstance(value, int) or not low <= value <= high:
        raise AWSError("InvalidParameterValue", f"Value {value} for parameter {name} is invalid: {low} to {high}.")
    return value


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _received(call: Call, messages: list[Message]) -> Result:
    names = set(call.params.get("AttributeNames") or []) | set(call.params.get("MessageSystemAttributeNames") or [])
    wanted = set(call.params.get("MessageAttributeNames") or [])
    shown: list[Result] = []
    for message in messages:
        system = {
            "SentTimestamp": str(int(message.sent * 1000)),
            "ApproximateReceiveCount": str(message.received),
            "ApproximateFirstReceiveTimestamp": str(int(message.first_received * 1000)),
            "SenderId": message.id,
        }
        entry: Result = {
            "MessageId": message.id,
            "ReceiptHandle": message.receipt,
            "MD5OfBody": _md5(message.body),
            "Body": message.body,
        }
        if asked := {name: value for name, value in system.items() if names & {"All", name}}:
            entry["Attributes"] = asked
        if own := {name: value for name, value in message.attributes.items() if wanted & {"All", ".*", name}}:
            entry["MessageAttributes"] = own
        shown.append(entry)
    return {"Messages": shown} if shown else {}


def _by_receipt(queue: Queue, params: Mapping[str, Any]) -> Message | None:
    receipt = str(params.get("ReceiptHandle", ""))
    message_id, dot, _ = receipt.partition(".")
    if not dot:
        raise AWSError("ReceiptHandleIsInvalid", f'The input receipt handle "{receipt}" is not a valid receipt handle.')
    return queue.messages.get(message_id)


def _batch(call: Call, act: Callable[[Mapping[str, Any]], Result]) -> Result:
    entries = call.params.get("Entries") or []
    if not entries:
        raise AWSError("EmptyBatchRequest", "There should be at least one entry in the request.")
    if len(entries) > 10:
        raise AWSError("TooManyEntriesInBatchRequest", "Maximum number of entries per request are 10.")
    if len({entry["Id"] for entry in entries}) != len(entries):
        raise AWSError("BatchEntryIdsNotDistinct", "Id used more than once in the request.")
    done: list[Result] = []
    failed: list[Result] = []
    for entry in entries:
        try:
            done.append({"Id": entry["Id"], **act(entry)})
        except AWSError as error:
            failed.append({"Id": entry["Id"], "Code": error.code, "Message": error.message, "SenderFault": True})
    return {"Successful": done, "Failed": failed}
