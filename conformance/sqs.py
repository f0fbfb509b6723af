"""What is assumed of SQS: receive and delete, as `manage.py events` does."""

from __future__ import annotations

from conformance.account import Account, shown
from conformance.assumptions import assumed, expect
from conformance.journal import code_of


@assumed("queue-missing", "sqs:ReceiveMessage", "catalogue.py QueueDoesNotExist", makes="")
def queue_missing(aws: Account) -> None:
    """A missing queue is QueueDoesNotExist or AWS.SimpleQueueService.NonExistentQueue."""
    sqs = aws.clients("sqs")
    try:
        sqs.get_queue_url(QueueName=aws.short)
    except sqs.exceptions.ClientError as error:
        code = code_of(error)
        if "Denied" in code:
            raise
        expect(code in ("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"), code)
    else:
        expect(False, "a queue that nobody made")


@assumed("delete-unknown", "sqs:DeleteMessageBatch", "aws/probes.py events_queue", makes="queue")
def delete_unknown(aws: Account) -> None:
    """DeleteMessageBatch with a receipt that the queue never gave is no error: the entry is among Failed, as
    ReceiptHandleIsInvalid.
    """
    entry = {"Id": "0", "ReceiptHandle": "registry-admin-doctor"}
    answer = aws.clients("sqs").delete_message_batch(QueueUrl=aws.queue(), Entries=[entry])
    expect([each["Code"] for each in answer.get("Failed", ())] == ["ReceiptHandleIsInvalid"], shown(answer))


@assumed("messages", "sqs:ReceiveMessage", "aws/sqs.py receive", makes="queue")
def messages(aws: Account) -> None:
    """A received message is hidden for its visibility timeout, comes again with ApproximateReceiveCount 2, and is gone
    after DeleteMessageBatch; an empty queue answers after WaitTimeSeconds without messages.
    """
    sqs, url = aws.clients("sqs"), aws.queue()

    def receive(wait: int) -> list[dict[str, object]]:
        request = {"MaxNumberOfMessages": 10, "MessageSystemAttributeNames": ["ApproximateReceiveCount"]}
        answer = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=wait, VisibilityTimeout=1, **request)
        return list(answer.get("Messages", ()))

    sqs.send_message(QueueUrl=url, MessageBody="body")
    first = receive(20)
    expect([each["Body"] for each in first] == ["body"], first)
    again = receive(20)
    expect([each["Attributes"] for each in again] == [{"ApproximateReceiveCount": "2"}], again)
    entries = [{"Id": "0", "ReceiptHandle": again[0]["ReceiptHandle"]}]
    deleted = sqs.delete_message_batch(QueueUrl=url, Entries=entries)
    expect(not deleted.get("Failed"), shown(deleted))
    left = receive(2)
    expect(not left, left)
