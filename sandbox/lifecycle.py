"""What a lifecycle policy does to a repository's images: the same rules for a preview and for expiry.

The source of each rule is the User Guide, "Automate the cleanup of images by using lifecycle policies in Amazon ECR",
section "Lifecycle policy evaluation rules". Not documented, and decided here:

- rules of one storage class do not protect images of the other one
- during a restore, no rule selects the image
- an image that was restored counts as pushed at the end of its restore, for its age as for its order
- no rule selects or counts a referrer; it expires when its subject is absent, and is archived when its subject is
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sandbox.store import Image, Repository

DAY_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Decision:
    """An image with its tags, what happens to it, and the rule that decided; ``priority`` is None for a referrer."""

    image: Image
    tags: list[str]
    action: Literal["EXPIRE", "TRANSITION"]
    priority: int | None


def decide(repository: Repository, text: str, now: float) -> list[Decision]:
    """The images that this policy would expire or archive now, oldest first. Changes nothing."""
    decisions: list[Decision] = []
    protected: dict[str, set[str]] = {"STANDARD": set(), "ARCHIVE": set()}
    images = [each for each in repository.images.values() if not each.subject and each.status(now) != "ACTIVATING"]
    kept = {child for each in repository.images.values() if each.storage == "STANDARD" for child in each.children()}
    for rule in sorted(json.loads(text)["rules"], key=lambda rule: int(rule["rulePriority"])):
        selection, storage = rule["selection"], str(rule["selection"].get("storageClass", "standard")).upper()
        found = [each for each in images if each.storage == storage and _tagged(repository, each, selection)]
        action: Literal["EXPIRE", "TRANSITION"] = "TRANSITION" if rule["action"]["type"] == "transition" else "EXPIRE"
        decisions += (
            Decision(image, repository.tags_of(image.digest), action, rule["rulePriority"])
            for image in _due(found, selection, now)
            if image.digest not in protected[storage] and image.digest not in kept
        )
        # A rule of a higher number cannot touch the image, whether or not this rule does.
        protected[storage].update(each.digest for each in found)
    return sorted(decisions, key=lambda each: _pushed(each.image))


def followers(repository: Repository, now: float) -> list[Decision]:
    """The referrers that follow their subjects: expire with a deleted one, are archived with an archived one."""
    found = []
    for image in repository.images.values():
        if image.subject is None:
            continue
        subject, tags = repository.images.get(image.subject), repository.tags_of(image.digest)
        if subject is None:
            found.append(Decision(image, tags, "EXPIRE", None))
        elif subject.storage == "ARCHIVE" and image.status(now) == "ACTIVE":
            found.append(Decision(image, tags, "TRANSITION", None))
    return found


def _tagged(repository: Repository, image: Image, selection: dict[str, Any]) -> bool:
    tags = repository.tags_of(image.digest)
    match selection["tagStatus"]:
        case "any":
            return True
        case "untagged":
            return not tags
    wanted = selection.get("tagPatternList") or [f"{prefix}*" for prefix in selection["tagPrefixList"]]
    # All patterns must match, each of them any tag. Only * is a wildcard.
    patterns = [each.replace("[", "[[]").replace("?", "[?]") for each in wanted]
    return all(any(fnmatch.fnmatchcase(tag, each) for tag in tags) for each in patterns)


def _due(images: list[Image], selection: dict[str, Any], now: float) -> Iterator[Image]:
    count = int(selection["countNumber"])
    match selection["countType"]:
        case "imageCountMoreThan":
            yield from sorted(images, key=_pushed, reverse=True)[count:]
        case "sinceImagePushed":
            yield from (each for each in images if now - _pushed(each) > count * DAY_SECONDS)
        case "sinceImagePulled":
            yield from (each for each in images if now - _pulled(each) > count * DAY_SECONDS)
        case _:
            yield from (each for each in images if each.archived and now - each.archived > count * DAY_SECONDS)


def _pushed(image: Image) -> float:
    return image.pushed if image.activated is None else image.activated


def _pulled(image: Image) -> float:
    return max(_pushed(image), image.pulled) if image.pulled is not None else _pushed(image)
