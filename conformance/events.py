"""What is assumed of the events of CloudTrail and ECR that EventBridge sends to the queue of `manage.py events`."""

from __future__ import annotations

import json

from conformance.account import USER_AGENT, Account, Json, allow, document, on, shown
from conformance.assumptions import NotRun, assumed, expect


def wanted(aws: Account, names: set[str], seconds: int) -> dict[str, Json]:
    """The events about this probe's repository, and about reads of the registry, that have come to its queue by then.

    Their eventName or action-type → the event. The account may have other events.
    """
    sqs, found = aws.clients("sqs"), dict[str, Json]()
    url = sqs.get_queue_url(QueueName=aws.short)["QueueUrl"]

    def look() -> bool:
        while received := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages"):
            for message in received:
                event = json.loads(message["Body"])
                name = event["detail"].get("eventName") or event["detail"].get("action-type")
                if aws.name in message["Body"] or name == "GetRegistryPolicy":
                    found[name] = event
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            if names <= found.keys():
                break
        return names <= found.keys()

    aws.until(look, seconds=seconds, every=10)
    return found


@assumed(
    "trail-events",
    "guide:logging-using-cloudtrail; docs:eventbridge/latest/userguide/eb-service-event-cloudtrail-management",
    "reconcile/change_events.py requestParameters",
    "reconcile/change_feed.py GetRegistryPolicy",
    "sandbox/events.py ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS",
    makes="repository queue rule",
    minutes=15,
)
def trail_events(aws: Account) -> None:
    """CloudTrail's events of SetRepositoryPolicy and TagResource come within fifteen minutes, with the repository, the
    region, the time, the caller's ARN and its user agent; with the state ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS
    that of the read GetRegistryPolicy too.
    """
    aws.queue()
    names = {"SetRepositoryPolicy", "TagResource", "GetRegistryPolicy"}
    pattern = {"source": ["aws.ecr"], "detail": {"eventName": sorted(names)}}
    aws.rule(pattern, "ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS")
    aws.wait(30)
    name = aws.repository()
    aws.ecr.set_repository_policy(**on(name), policyText=document(allow(aws.root)))
    aws.ecr.tag_resource(resourceArn=aws.arn, tags=[{"Key": "a", "Value": "b"}])
    aws.answers("RegistryPolicyNotFoundException", aws.ecr.get_registry_policy)
    found = wanted(aws, names, 15 * 60)
    if not found:
        raise NotRun("a trail that records management events of this region; no event came in fifteen minutes")
    expect(names <= found.keys(), f"the events {sorted(found)} only")
    detail = found["SetRepositoryPolicy"]["detail"]
    expect(found["SetRepositoryPolicy"]["detail-type"] == "AWS API Call via CloudTrail", shown(found))
    expect(detail["requestParameters"]["repositoryName"] == name and detail["awsRegion"] == aws.region, shown(detail))
    expect(USER_AGENT in detail["userAgent"] and detail["eventTime"].endswith("Z"), shown(detail))
    expect(detail["userIdentity"]["arn"] == aws.caller, shown(detail["userIdentity"]))
    tagged = found["TagResource"]["detail"]["requestParameters"]
    expect(tagged["resourceArn"] == aws.arn, shown(tagged))


@assumed(
    "image-events",
    "guide:ecr-eventbridge",
    "reconcile/change_events.py _image_action; sandbox/image_events.py pushed",
    makes="repository queue rule",
    minutes=5,
)
def image_events(aws: Account) -> None:
    """ECR's own events “ECR Image Action” say PUSH, UPDATE_STORAGE_CLASS and DELETE with repository-name, image-digest
    and result SUCCESS, without a trail.
    """
    aws.queue()
    aws.rule({"source": ["aws.ecr"], "detail-type": ["ECR Image Action"]}, "ENABLED")
    aws.wait(30)
    name = aws.repository()
    digest = aws.push(name, "v1")
    aws.ecr.update_image_storage_class(**on(name), imageId={"imageDigest": digest}, targetStorageClass="ARCHIVE")
    aws.ecr.batch_delete_image(**on(name), imageIds=[{"imageDigest": digest}])
    names = {"PUSH", "UPDATE_STORAGE_CLASS", "DELETE"}
    found = wanted(aws, names, 4 * 60)
    expect(names <= found.keys(), f"the events {sorted(found)} in four minutes")
    for event in found.values():
        detail = event["detail"]
        same = (detail["repository-name"], detail["image-digest"], detail["result"]) == (name, digest, "SUCCESS")
        expect(same and event["region"] == aws.region, shown(event))
