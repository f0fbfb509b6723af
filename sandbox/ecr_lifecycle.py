"""Lifecycle policies: their operations in ECR's control plane, their previews, and their runs.

A preview is IN_PROGRESS for a second of the sandbox's clock, longer under the fault ``slow_preview``. Its results are
those of the time of its start. ``run`` evaluates a policy as ECR does within 24 hours; the control API decides when.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from sandbox import documents, image_events
from sandbox.aws import AWSError, Call, ServiceEvent, invalid, timestamp
from sandbox.ecr_tokens import Tokens
from sandbox.faults import Faults
from sandbox.lifecycle import DAY_SECONDS, Decision, decide, followers
from sandbox.store import Preview, Repository, Store

PREVIEW_SECONDS = 1.0
# CloudTrail gets several events where ten or more images expire (User Guide, "Logging Amazon ECR actions with AWS
# CloudTrail"); how many images an event then has is not documented.
IMAGES_IN_AN_EVENT = 9
COUNT_TYPES = {
    "imageCountMoreThan": "Image count more than",
    "sinceImagePushed": "Time since image pushed",
    "sinceImagePulled": "Time since image pulled",  # this word and the next one are not documented
    "sinceImageTransitioned": "Time since image transitioned",
}


class Lifecycle:
    """``repository`` finds the repository of a call and checks the caller's permission."""

    def __init__(self, store: Store, tokens: Tokens, faults: Faults, repository: Callable[[Call], Repository]) -> None:
        self._store, self._tokens, self._faults, self._repository = store, tokens, faults, repository

    def do_put_lifecycle_policy(self, call: Call) -> dict[str, Any]:
        repository = self._repository(call)
        repository.lifecycle = documents.lifecycle_policy(str(call.params["lifecyclePolicyText"]))
        repository.lifecycle_at = self._store.now()
        return {**repository.named, "lifecyclePolicyText": repository.lifecycle}

    def do_get_lifecycle_policy(self, call: Call) -> dict[str, Any]:
        repository = self._repository(call)
        return {**_lifecycle(repository), "lastEvaluatedAt": repository.lifecycle_at}

    def do_delete_lifecycle_policy(self, call: Call) -> dict[str, Any]:
        repository = self._repository(call)
        answer = {**_lifecycle(repository), "lastEvaluatedAt": repository.lifecycle_at}
        repository.lifecycle = None
        return answer

    # -- previews --

    def do_start_lifecycle_policy_preview(self, call: Call) -> dict[str, Any]:
        repository, now = self._repository(call), self._store.now()
        text = call.params.get("lifecyclePolicyText")
        text = _lifecycle(repository)["lifecyclePolicyText"] if text is None else documents.lifecycle_policy(str(text))
        if repository.preview is not None and repository.preview.status(now) == "IN_PROGRESS":
            raise AWSError(
                "LifecyclePolicyPreviewInProgressException",
                f"A lifecycle policy preview is already in progress {repository.where}",
            )
        decisions = decide(repository, text, now)
        repository.preview = Preview(
            text=text,
            ready=now + PREVIEW_SECONDS + self._faults.preview_delay(repository.name),
            failed=self._faults.preview_fails(repository.name),
            results=[_result(each) for each in decisions],
        )
        call.events += _service_events("DryRunEvent", repository, text, decisions, now)
        return {**repository.named, "lifecyclePolicyText": text, "status": repository.preview.status(now)}

    def do_get_lifecycle_policy_preview(self, call: Call) -> dict[str, Any]:
        repository, params = self._repository(call), call.params
        preview = repository.preview
        if preview is None:
            raise AWSError(
                "LifecyclePolicyPreviewNotFoundException",
                f"Lifecycle policy preview does not exist {repository.where}",
            )
        wanted = params.get("imageIds")
        if wanted is not None and (params.get("maxResults") is not None or params.get("nextToken") is not None):
            raise invalid("maxResults", "maxResults and nextToken cannot be used together with imageIds")
        status = preview.status(self._store.now())
        answer = {**repository.named, "lifecyclePolicyText": preview.text, "status": status}
        if status != "COMPLETE":
            return answer
        tagged = (params.get("filter") or {}).get("tagStatus", "ANY")
        chosen = [
            (f"{place:09}", each)
            for place, each in enumerate(preview.results)
            if tagged in ("ANY", "TAGGED" if each["imageTags"] else "UNTAGGED")
            and (wanted is None or any(_is(each, image_id) for image_id in wanted))
        ]
        page, token = self._tokens.page(call, chosen, lambda each: each[0])
        return {**answer, **token, "previewResults": [each for _, each in page], "summary": _summary(preview.results)}

    # -- runs --

    def run(self, repository: Repository) -> list[ServiceEvent]:
        """Expires and archives what the policy selects now. Returns the events about it."""
        now, text = self._store.now(), repository.lifecycle
        if text is None:
            return []
        repository.lifecycle_at = now
        decisions = decide(repository, text, now)
        events = [event for each in decisions for event in _apply(repository, each, now)]
        for each in followers(repository, now):
            decisions.append(each)
            events += _apply(repository, each, now)
        return [*events, *_service_events("PolicyExecutionEvent", repository, text, decisions, now)]

    def due(self) -> list[Repository]:
        """The repositories whose policies were not evaluated for 24 hours."""
        before = self._store.now() - DAY_SECONDS
        return [each for each in self._store.repositories() if each.lifecycle and each.lifecycle_at <= before]


def _apply(repository: Repository, decision: Decision, now: float) -> list[ServiceEvent]:
    image = decision.image
    if decision.action == "EXPIRE":
        return image_events.deleted(repository, image, repository.remove(image))
    image.storage, image.archived = "ARCHIVE", now
    return [image_events.transitioned(repository, image)]


def _result(decision: Decision) -> dict[str, Any]:
    transition = {"targetStorageClass": "ARCHIVE"} if decision.action == "TRANSITION" else {}
    return {
        "imageTags": decision.tags,
        "imageDigest": decision.image.digest,
        "imagePushedAt": decision.image.pushed,
        "action": {"type": decision.action, **transition},
        "appliedRulePriority": decision.priority,
        "storageClass": decision.image.storage,
    }


def _is(result: dict[str, Any], image_id: dict[str, str]) -> bool:
    return image_id.get("imageDigest", result["imageDigest"]) == result["imageDigest"] and (
        "imageTag" not in image_id or image_id["imageTag"] in result["imageTags"]
    )


def _summary(results: Iterable[dict[str, Any]]) -> dict[str, Any]:
    kinds = [each["action"]["type"] for each in results]
    moved = kinds.count("TRANSITION")
    counts = {"transitioningImageTotalCounts": [{"targetStorageClass": "ARCHIVE", "imageTotalCount": moved}]}
    return {"expiringImageTotalCount": kinds.count("EXPIRE"), **(counts if moved else {})}


def _service_events(
    name: str, repository: Repository, text: str, decisions: list[Decision], now: float
) -> list[ServiceEvent]:
    """CloudTrail's events about an evaluation; one without images where there is nothing to do.

    Their form is that of the User Guide's example "Image lifecycle policy action", with elements of newer events.
    """
    parts = [decisions[at : at + IMAGES_IN_AN_EVENT] for at in range(0, len(decisions), IMAGES_IN_AN_EVENT)] or [[]]
    return [
        ServiceEvent(
            kind="AWS Service Event via CloudTrail",
            account=repository.account,
            region=repository.region,
            detail={
                "eventVersion": "1.09",
                "userIdentity": {"accountId": repository.account, "invokedBy": "AWS Internal"},
                "eventTime": timestamp(now),
                "eventSource": "ecr.amazonaws.com",
                "eventName": name,
                "awsRegion": repository.region,
                "sourceIPAddress": "AWS Internal",
                "userAgent": "AWS Internal",
                "requestParameters": None,
                "responseElements": None,
                "eventID": str(uuid.uuid4()),
                "readOnly": True,
                "resources": [{"ARN": repository.arn, "accountId": repository.account, "type": "AWS::ECR::Repository"}],
                "eventType": "AwsServiceEvent",
                "managementEvent": True,
                "recipientAccountId": repository.account,
                "serviceEventDetails": {
                    "repositoryName": repository.name,
                    "lifecycleEventPolicy": {
                        "lifecycleEventRules": [_rule(each) for each in json.loads(text)["rules"]],
                        "lastEvaluatedAt": int(now * 1000),
                        "policyVersion": 1,
                        "policyId": str(uuid.uuid4()),
                    },
                    "lifecycleEventImageActions": [_action(each) for each in part],
                    "lifecycleEventFailureDetails": [],
                },
                "eventCategory": "Management",
            },
        )
        for part in parts
    ]


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    selection = rule["selection"]
    return {
        "rulePriority": rule["rulePriority"],
        "description": rule.get("description", ""),
        "lifecycleEventSelection": {
            "tagStatus": selection["tagStatus"].capitalize(),
            "tagPrefixList": selection.get("tagPrefixList", []),
            "tagPatternList": selection.get("tagPatternList", []),
            "countType": COUNT_TYPES[selection["countType"]],
            **({"countUnit": "Days"} if "countUnit" in selection else {}),
            "countNumber": selection["countNumber"],
        },
        "action": rule["action"]["type"],
    }


def _action(decision: Decision) -> dict[str, Any]:
    return {
        "lifecycleEventImage": {
            "digest": decision.image.digest,
            "tagStatus": "Tagged" if decision.tags else "Untagged",
            "tagList": decision.tags,
            "pushedAt": int(decision.image.pushed * 1000),
        },
        **({} if decision.priority is None else {"rulePriority": decision.priority}),
    }


def _lifecycle(repository: Repository) -> dict[str, Any]:
    if repository.lifecycle is None:
        raise AWSError("LifecyclePolicyNotFoundException", f"Lifecycle policy does not exist {repository.where}")
    return {**repository.named, "lifecyclePolicyText": repository.lifecycle}
