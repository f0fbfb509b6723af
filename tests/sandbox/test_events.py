"""Change events: ECR's calls as CloudTrail tells them, through EventBridge, in an SQS queue."""

from __future__ import annotations

import json
import threading
import time
from typing import Any, cast

import pytest

from sandbox import images
from sandbox.content import Content
from sandbox.control import Sandbox
from sandbox.gateway import Gateway
from sandbox.server import Connection, Request
from sandbox.store import Image, Repository
from tests.sandbox.asking import CLUSTER, OWNER, keys, policy, receive, refused, statement


def test_a_policy_deleted_behind_our_back_is_reported(sandbox: Sandbox, ecr: Any, role: str, repository: str) -> None:
    ecr.set_repository_policy(repositoryName=repository, policyText=policy())
    url = sandbox.events_to("ecr-changes")
    session = keys(sandbox.client("sts").assume_role(RoleArn=role, RoleSessionName="somebody"))

    sandbox.client("ecr", session).delete_repository_policy(repositoryName=repository)

    (event,) = receive(sandbox.client("sqs"), url)
    detail = event["detail"]
    assert (event["source"], event["detail-type"]) == ("aws.ecr", "AWS API Call via CloudTrail")
    assert (event["account"], event["region"]) == (OWNER, "us-east-1")
    assert (detail["eventSource"], detail["eventName"]) == ("ecr.amazonaws.com", "DeleteRepositoryPolicy")
    assert detail["requestParameters"] == {"repositoryName": repository, "registryId": OWNER}
    assert detail["userIdentity"]["type"] == "AssumedRole"
    assert detail["userIdentity"]["arn"] == f"arn:aws:sts::{OWNER}:assumed-role/deployer/somebody"
    assert detail["userIdentity"]["sessionContext"]["sessionIssuer"]["arn"] == role
    assert detail["readOnly"] is False


@pytest.mark.costly
def test_each_change_is_reported_once_and_nothing_else_is(sandbox: Sandbox, ecr: Any) -> None:
    url = sandbox.events_to("ecr-changes")
    arn = ecr.create_repository(repositoryName="shop")["repository"]["repositoryArn"]
    ecr.set_repository_policy(repositoryName="shop", policyText=policy())
    ecr.get_repository_policy(repositoryName="shop")
    ecr.describe_repositories()
    with refused("RepositoryAlreadyExistsException"):
        ecr.create_repository(repositoryName="shop")
    ecr.tag_resource(resourceArn=arn, tags=[{"Key": "a", "Value": "b"}])
    images.push(images.build(), sandbox.url, *sandbox.login(), "shop", "v1")
    ecr.delete_repository(repositoryName="shop", force=True)

    received = receive(sandbox.client("sqs"), url, count=6)

    events = [each for each in received if each["detail-type"] == "AWS API Call via CloudTrail"]
    assert [each["detail"]["eventName"] for each in events] == [
        "CreateRepository",
        "SetRepositoryPolicy",
        "TagResource",
        "PutImage",
        "DeleteRepository",
    ]
    assert [each["detail"]["action-type"] for each in received if each not in events] == ["PUSH"]
    # As in CloudTrail, tags are about an ARN; the repository is among the resources.
    assert events[2]["detail"]["requestParameters"]["resourceArn"] == arn
    assert {each["detail"]["resources"][0]["ARN"] for each in events} == {arn}
    assert receive(sandbox.client("sqs"), url, wait=0) == []


def test_a_rule_of_eventbridge_chooses_what_its_queue_gets(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    sqs, events = sandbox.client("sqs"), sandbox.client("events")
    url = sqs.create_queue(QueueName="policies")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    pattern = {
        "source": ["aws.ecr"],
        "detail-type": ["AWS API Call via CloudTrail"],
        "detail": {
            "eventSource": ["ecr.amazonaws.com"],
            "eventName": ["SetRepositoryPolicy", "DeleteRepositoryPolicy"],
            "requestParameters": {"repositoryName": [{"prefix": "trigger/"}]},
        },
    }
    events.put_rule(Name="ecr-policies", EventPattern=json.dumps(pattern))
    events.put_targets(Rule="ecr-policies", Targets=[{"Id": "queue", "Arn": arn}])
    ecr.create_repository(repositoryName="other/shop")

    ecr.set_repository_policy(repositoryName="other/shop", policyText=policy())
    ecr.set_repository_policy(repositoryName=repository, policyText=policy())
    ecr.put_image_scanning_configuration(repositoryName=repository, imageScanningConfiguration={"scanOnPush": True})

    (event,) = receive(sqs, url)
    assert event["detail"]["requestParameters"]["repositoryName"] == repository
    assert receive(sqs, url, wait=0) == []


def test_an_event_belongs_to_the_registrys_account(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    url = sandbox.events_to("ecr-changes")
    ecr.set_repository_policy(
        repositoryName=repository, policyText=policy(statement(CLUSTER, "ecr:PutImageTagMutability"))
    )
    sandbox.client("ecr", "cluster").put_image_tag_mutability(
        registryId=OWNER, repositoryName=repository, imageTagMutability="IMMUTABLE"
    )
    sandbox.client("ecr", "cluster").create_repository(repositoryName="theirs")

    events = receive(sandbox.client("sqs"), url, count=2)

    assert [each["detail"]["eventName"] for each in events] == ["SetRepositoryPolicy", "PutImageTagMutability"]
    assert events[1]["detail"]["userIdentity"]["accountId"] == CLUSTER


def test_events_can_come_twice(sandbox: Sandbox, ecr: Any) -> None:
    url = sandbox.events_to("ecr-changes", copies=2)
    ecr.create_repository(repositoryName="shop")

    first, second = receive(sandbox.client("sqs"), url, count=2)

    assert first["detail"]["eventID"] == second["detail"]["eventID"]


def test_a_waiting_receiver_wakes_at_once_and_holds_up_nobody(sandbox: Sandbox, ecr: Any) -> None:
    url = sandbox.events_to("ecr-changes")
    sqs = sandbox.client("sqs")
    got: list[tuple[float, str]] = []

    def wait() -> None:
        for body in receive(sqs, url, wait=20):
            got.append((time.monotonic(), body["detail"]["eventName"]))

    waiting = threading.Thread(target=wait)
    waiting.start()
    while sandbox.calls().get("sqs:ReceiveMessage", 0) == 0:
        time.sleep(0.01)
    ecr.describe_repositories()
    made = time.monotonic()
    ecr.create_repository(repositoryName="shop")
    waiting.join(10)

    assert [name for _, name in got] == ["CreateRepository"]
    assert got[0][0] - made < 10  # not the 20 seconds of the poll


# -- images ----------------------------------------------------------------------------------------------------------


def actions(sandbox: Sandbox, url: str, count: int) -> list[dict[str, Any]]:
    """The next events of ECR itself, without CloudTrail's."""
    found = receive(sandbox.client("sqs"), url, count=count)
    return [each for each in found if each["detail-type"] != "AWS API Call via CloudTrail"]


def test_a_push_and_a_deletion_are_events_of_ecr_itself(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    url = sandbox.events_to("ecr-changes")
    digest = images.push(images.build(), sandbox.url, *sandbox.login(), repository, "v1")
    ecr.put_image(repositoryName=repository, imageManifest=images.build().manifest.content.decode(), imageTag="v2")
    ecr.batch_delete_image(repositoryName=repository, imageIds=[{"imageDigest": digest}])

    found = actions(sandbox, url, 3 + 4)

    assert [(each["detail"]["action-type"], each["detail"]["image-tag"]) for each in found] == [
        ("PUSH", "v1"),
        ("PUSH", "v2"),
        ("DELETE", "v1"),
        ("DELETE", "v2"),
    ]
    event = found[0]
    assert (event["detail-type"], event["source"]) == ("ECR Image Action", "aws.ecr")
    assert (event["account"], event["region"], event["resources"]) == (OWNER, "us-east-1", [])
    assert event["detail"] == {
        "result": "SUCCESS",
        "repository-name": repository,
        "image-digest": digest,
        "action-type": "PUSH",
        "image-tag": "v1",
    }


def test_an_image_that_was_archived_and_one_whose_restore_has_ended_are_events(
    sandbox: Sandbox, ecr: Any, repository: str
) -> None:
    digest = images.push(images.build(), sandbox.url, *sandbox.login(), repository, "v1")
    url = sandbox.events_to("ecr-changes")
    for storage in ("ARCHIVE", "STANDARD"):
        ecr.update_image_storage_class(
            repositoryName=repository, imageId={"imageDigest": digest}, targetStorageClass=storage
        )
    (archived,) = actions(sandbox, url, 3)
    sandbox.advance(20 * 60)
    (restored,) = actions(sandbox, url, 1)

    assert archived["detail"] == {
        "result": "SUCCESS",
        "repository-name": repository,
        "image-digest": digest,
        "action-type": "UPDATE_STORAGE_CLASS",
        "target-storage-class": "ARCHIVE",
        "manifest-media-type": images.MANIFEST,
        "artifact-media-type": images.CONFIG,
    }
    assert restored["detail"]["target-storage-class"] == "STANDARD"
    assert restored["detail"]["last-activated-at"].endswith("Z")


def test_a_push_during_a_restore_ends_the_restore_and_sends_one_event_about_it(
    sandbox: Sandbox, ecr: Any, repository: str
) -> None:
    digest = images.push(images.build(), sandbox.url, *sandbox.login(), repository, "v1")
    for storage in ("ARCHIVE", "STANDARD"):
        ecr.update_image_storage_class(
            repositoryName=repository, imageId={"imageDigest": digest}, targetStorageClass=storage
        )
    url = sandbox.events_to("ecr-changes")

    images.push(images.build(), sandbox.url, *sandbox.login(), repository, "v1")
    sandbox.advance(20 * 60 + 1)
    ecr.create_repository(repositoryName="trigger/last")

    found = actions(sandbox, url, 4)
    assert [each["detail"]["action-type"] for each in found] == ["PUSH", "UPDATE_STORAGE_CLASS"]


def test_a_restore_ends_also_when_nobody_moves_the_clock() -> None:
    gateway = Gateway()
    world, request = gateway.world, Request("GET", "/_sandbox/health", "", {}, Content(), cast(Connection, None))
    repository = Repository(account=OWNER, region="us-east-1", name="shop", created=0.0)
    image = Image("sha256:1", b"{}", images.MANIFEST, pushed=0.0, storage="ARCHIVE")
    repository.transition(image, "STANDARD", world.now())
    world.store.restores.append((repository, image, image.activated or 0.0))
    gateway.handle(request)
    assert len(world.store.restores) == 1

    world.offset += 20 * 60 + 1
    gateway.handle(request)

    assert world.store.restores == []


def test_a_rule_can_choose_ecrs_own_events(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    sqs, events = sandbox.client("sqs"), sandbox.client("events")
    url = sqs.create_queue(QueueName="images")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    pattern = {"source": ["aws.ecr"], "detail-type": ["ECR Image Action"], "detail": {"action-type": ["DELETE"]}}
    events.put_rule(Name="images", EventPattern=json.dumps(pattern))
    events.put_targets(Rule="images", Targets=[{"Id": "queue", "Arn": arn}])

    images.push(images.build(), sandbox.url, *sandbox.login(), repository, "v1")
    ecr.batch_delete_image(repositoryName=repository, imageIds=[{"imageTag": "v1"}])

    (event,) = receive(sqs, url)
    assert event["detail"]["image-tag"] == "v1"


# -- the queue -------------------------------------------------------------------------------------------------------


@pytest.fixture
def sqs(sandbox: Sandbox) -> Any:
    return sandbox.client("sqs")


def test_a_message_is_hidden_while_somebody_works_on_it(sqs: Any) -> None:
    url = sqs.create_queue(QueueName="work", Attributes={"VisibilityTimeout": "30"})["QueueUrl"]
    assert sqs.get_queue_url(QueueName="work")["QueueUrl"] == url
    sqs.send_message(QueueUrl=url, MessageBody="hello")

    (first,) = sqs.receive_message(QueueUrl=url, AttributeNames=["All"])["Messages"]
    assert "Messages" not in sqs.receive_message(QueueUrl=url)
    counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert counts["ApproximateNumberOfMessagesNotVisible"] == "1"

    sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=first["ReceiptHandle"], VisibilityTimeout=0)
    (again,) = sqs.receive_message(QueueUrl=url, AttributeNames=["All"])["Messages"]
    assert (first["Attributes"]["ApproximateReceiveCount"], again["Attributes"]["ApproximateReceiveCount"]) == (
        "1",
        "2",
    )

    # The receipt of the first time deletes nothing any more.
    sqs.delete_message(QueueUrl=url, ReceiptHandle=first["ReceiptHandle"])
    counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert counts["ApproximateNumberOfMessagesNotVisible"] == "1"
    answer = sqs.delete_message_batch(
        QueueUrl=url,
        Entries=[{"Id": "a", "ReceiptHandle": again["ReceiptHandle"]}, {"Id": "b", "ReceiptHandle": "nonsense"}],
    )
    assert [each["Id"] for each in answer["Successful"]] == ["a"]
    assert [each["Code"] for each in answer["Failed"]] == ["ReceiptHandleIsInvalid"]


def test_a_message_comes_back_when_its_time_is_over_even_to_one_who_waits(sqs: Any) -> None:
    url = sqs.create_queue(QueueName="work")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="hello")
    sqs.receive_message(QueueUrl=url, VisibilityTimeout=1)

    (message,) = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=10)["Messages"]

    assert message["Body"] == "hello"


def test_a_poison_message_ends_in_the_dead_letter_queue(sqs: Any) -> None:
    dead = sqs.create_queue(QueueName="dead")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 2})
    url = sqs.create_queue(QueueName="work", Attributes={"RedrivePolicy": redrive})["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="poison")

    for _ in range(2):
        assert sqs.receive_message(QueueUrl=url, VisibilityTimeout=0)["Messages"]

    assert "Messages" not in sqs.receive_message(QueueUrl=url)
    assert sqs.receive_message(QueueUrl=dead)["Messages"][0]["Body"] == "poison"


def test_a_queue_that_is_not_there_has_the_name_that_clients_know(sandbox: Sandbox, sqs: Any) -> None:
    with refused("AWS.SimpleQueueService.NonExistentQueue"):
        sqs.get_queue_url(QueueName="nowhere")
    url = sqs.create_queue(QueueName="mine")["QueueUrl"]
    with pytest.raises(sqs.exceptions.QueueDoesNotExist):
        sqs.receive_message(QueueUrl=url + "-not")
    with refused("AccessDenied"):
        sandbox.client("sqs", "cluster").receive_message(QueueUrl=url)
    sqs.purge_queue(QueueUrl=url)
