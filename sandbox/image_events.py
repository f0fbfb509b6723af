"""The events about images that ECR itself sends to EventBridge, beside those that CloudTrail sends about calls.

The shapes are those of the User Guide, "Amazon ECR events and EventBridge". Not documented, and decided here:

- a deletion sends an event for each tag, or one without a tag
- an action on a referrer is an "ECR Referrer Action", which the guide shows for a restore only
- a push that restores an archived image sends both events
- the deletion of a repository sends no event about its images
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sandbox.aws import ServiceEvent
from sandbox.store import Image, Repository


def pushed(repository: Repository, image: Image, tag: str | None, now: float) -> list[ServiceEvent]:
    """The events of a push that succeeded at ``now``."""
    restored = [transitioned(repository, image)] if image.activated == now else []
    return [_event(repository, image, "PUSH", _tagged(tag)), *restored]


def deleted(repository: Repository, image: Image, tags: Iterable[str]) -> list[ServiceEvent]:
    """The events of a deletion of these tags; without tags, of the untagged image."""
    return [_event(repository, image, "DELETE", _tagged(tag)) for tag in [*tags] or (None,)]


def transitioned(repository: Repository, image: Image) -> ServiceEvent:
    """The event of a finished transition to the storage class that the image now has."""
    detail: dict[str, Any] = {
        "target-storage-class": image.storage,
        "manifest-media-type": image.media_type,
        "artifact-media-type": image.artifact_type,
    }
    if image.storage == "STANDARD" and image.activated is not None:
        moment = datetime.fromtimestamp(image.activated, UTC).isoformat(timespec="milliseconds")
        detail["last-activated-at"] = moment.replace("+00:00", "Z")
    return _event(repository, image, "UPDATE_STORAGE_CLASS", {name: value for name, value in detail.items() if value})


def _tagged(tag: str | None) -> dict[str, str]:
    return {} if tag is None else {"image-tag": tag}


def _event(repository: Repository, image: Image, action: str, more: dict[str, Any]) -> ServiceEvent:
    return ServiceEvent(
        kind="ECR Referrer Action" if image.subject else "ECR Image Action",
        account=repository.account,
        region=repository.region,
        detail={
            "result": "SUCCESS",
            "repository-name": repository.name,
            "image-digest": image.digest,
            "action-type": action,
            **more,
        },
    )
