"""Would a lifecycle policy expire or archive an image that must stay? AWS's preview of it answers, not this program.

The images that must stay are the current one of each environment and its roll-back targets (`kept_images`). A lifecycle
policy is written to a repository that has such images only if the preview touches none of them. A live lifecycle policy
is previewed too, because a rule that touched nothing yesterday may touch an image today (D-lifecycle-preview).

A preview changes no image, but it takes seconds or more, so only sweeps make one. What AWS said is kept on the row: the
same question is not asked again before the repository is read as a whole, unless AWS had not answered it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from deployments import ecr_rules
from deployments.aws.ecr import Ecr
from deployments.aws.values import PreviewedImage
from deployments.config import RegistryConfig
from deployments.errors import RegistryError
from deployments.models import Repository
from deployments.reconcile import desired, kept_images, processes
from deployments.reconcile.kept_images import KeptImage
from deployments.row_values import PreviewResult

PREVIEW_SECONDS = 15.0  # longest wait for AWS's previews of one repository, far below the time of a repository's lease
VERSIONS_SHOWN = 20
READ, START = "read", "start"  # `PreviewResult.then`

Policy = Literal["settings", "live"]
_NAMED: dict[Policy, str] = {"settings": "the lifecycle policy of the settings", "live": "the live lifecycle policy"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Previews:
    """Makes the previews of one repository, under its lease.

    `since`: an older result is asked for again. `again`: so is every result, because a person asked for this look.
    """

    ecr: Ecr
    row: Repository
    config: RegistryConfig
    now: datetime
    since: datetime
    again: bool

    def result(self, policy: Policy, text: str) -> PreviewResult | None:
        """What AWS says about this lifecycle policy; None if the repository has no image that must stay.

        Without a call to AWS if the row has an answer to the same question. Raises RegistryError if the repository does
        not exist, or the whole installation is at fault; every other error becomes the words of the result.
        """
        kept = must_stay(self.row, self.config)
        if not kept:
            return None
        before, images = stored(self.row, policy, text), _images(kept)
        due = before is None or before.images != images or self.again or _is_older(before, self.since)
        if before is not None and not due and not before.then:
            return before
        reads = before is not None and not due and before.then == READ
        result = PreviewResult(text=_digest(text), images=images, at=self.now.isoformat())
        until = processes.clock() + PREVIEW_SECONDS
        try:
            touched = self._touched(text, kept, until=until, started=reads)
        except _NotSeen as unseen:
            at = before.at if before is not None and reads else result.at  # from then on it is due again
            return replace(
                result,
                at=at,
                words=f"It is not known which images {_NAMED[policy]} would take away: {unseen}",
                then=unseen.then,
            )
        if not touched:
            return result
        suggestion = protecting(text, map(_tag, kept)) or protecting(text, (_tag(each) for each, _ in touched))
        proved = False
        if suggestion:
            try:
                proved = not self._touched(suggestion, kept, until=until)
                suggestion = suggestion if proved else ""
            except _NotSeen:
                pass  # offered without a proof
        words = _touched_words(_NAMED[policy], touched, suggestion=suggestion, proved=proved)
        return replace(result, words=words, suggestion=suggestion)

    def are_the_same(self, result: PreviewResult) -> bool:
        """Whether the images that must stay are those of the result. They change while AWS makes a preview."""
        return _images(must_stay(self.row, self.config)) == result.images

    def _touched(
        self, text: str, kept: Sequence[KeptImage], *, until: float, started: bool = False
    ) -> list[tuple[KeptImage, PreviewedImage]]:
        """The images that must stay and that this policy would expire or archive. Raises _NotSeen; RegistryError.

        `started`: an earlier sweep has started the preview. Then one call reads it, and does not wait for it.
        """
        name, pause = self.row.name, 0.25
        asked = [{"imageDigest": each.digest} if each.digest else {"imageTag": _tag(each)} for each in kept]
        then = READ if started else START
        try:
            if not started and not self.ecr.start_lifecycle_preview(name, text):
                raise _NotSeen("AWS makes another preview of this repository now.", START)
            then = READ
            while True:
                preview = self.ecr.lifecycle_preview(name, asked)
                ours = preview is not None and desired.same_lifecycle(preview.text, text)
                if preview is None or not ours or preview.status == "EXPIRED":
                    if started:
                        return self._touched(text, kept, until=until)
                    raise _NotSeen("Another preview has replaced ours.", START)
                if preview.status == "COMPLETE":
                    return _of(kept, preview.images)
                if preview.status != "IN_PROGRESS":
                    raise _NotSeen("AWS's preview failed.")
                if started or processes.clock() + pause > until:
                    raise _NotSeen("AWS has not finished its preview. The next sweep reads it.", READ)
                time.sleep(pause)
                pause = min(pause * 2, 2.0)
        except RegistryError as error:
            if error.installation or error.code == "RepositoryNotFoundException":
                raise
            allow = f" {_statement(self.ecr, self.config)}" if error.denied else ""
            raise _NotSeen(f"{error}{allow}", then if error.retryable else "") from None


class _NotSeen(Exception):
    """AWS's preview was not seen, for a reason in a sentence. `then`: as in `PreviewResult`."""

    def __init__(self, words: str, then: str = "") -> None:
        super().__init__(words)
        self.then = then


def stored(row: Repository, policy: Policy, text: str) -> PreviewResult | None:
    """What the row has about this lifecycle policy, for any images; None if nothing."""
    found = (row.lifecycle_previews or {}).get(policy)
    return found if found is not None and found.text == _digest(text) else None


def to_be_asked(row: Repository, text: str, *, config: RegistryConfig, now: datetime) -> PreviewResult | None:
    """That the next sweep must let AWS preview this policy; None: the repository has no image that must stay."""
    return (
        PreviewResult(text=_digest(text), images="", at=now.isoformat(), then=START) if must_stay(row, config) else None
    )


def suggestion(row: Repository) -> str:
    """The lifecycle policy that was found to keep the images of a repository; empty if none is needed or known."""
    results = row.lifecycle_previews or {}
    return next((results[policy].suggestion for policy in _NAMED if policy in results), "")


def is_due(row: Repository, text: str, *, config: RegistryConfig, since: datetime, again: bool, whole: bool) -> bool:
    """Whether a sweep has to ask about this live lifecycle policy. `since`, `again`: as of `Previews`.

    `whole`: the sweep reads every part of the repository. If it does not, only an unfinished answer is due.
    """
    found = stored(row, "live", text)
    if found is not None and found.then:
        return True
    if not whole or not desired.may_touch_tagged(text):
        return False
    return (again or found is None or _is_older(found, since)) and bool(found or must_stay(row, config))


def protecting(text: str, tags: Iterable[str]) -> str:
    """This lifecycle policy, with a rule before its own rules for each of the tags, which keeps the tag's image.

    A rule of a higher number cannot expire or archive an image that matches a rule of a lower number, and one image has
    a tag, so “more than one image” is never true for the rule of the tag. (*Lifecycle policy evaluation rules*, Amazon
    ECR User Guide) Empty if ECR would refuse the text: it takes 50 rules.
    """
    try:
        rules = sorted(json.loads(text)["rules"], key=lambda rule: rule["rulePriority"])
    except (ValueError, RecursionError, TypeError, KeyError):
        return ""
    first = [
        {
            "description": "This image must stay",
            "selection": {
                "tagStatus": "tagged",
                "tagPatternList": [tag],
                "countType": "imageCountMoreThan",
                "countNumber": 1,
            },
            "action": {"type": "expire"},
        }
        for tag in dict.fromkeys(tags)
    ]
    numbered = [{**rule, "rulePriority": number} for number, rule in enumerate((*first, *rules), start=1)]
    made = json.dumps({"rules": numbered})
    return "" if ecr_rules.lifecycle_breaches(made) else made


def _touched_words(
    subject: str, touched: Sequence[tuple[KeptImage, PreviewedImage]], *, suggestion: str, proved: bool
) -> str:
    named = [
        f"version {kept.deployment.version} ({'current' if kept.is_current else 'a roll-back target'} in "
        f"{kept.deployment.environment}, {'expired' if image.action == 'EXPIRE' else 'archived'} by rule {image.rule})"
        for kept, image in touched[:VERSIONS_SHOWN]
    ]
    more = f", and {len(touched) - VERSIONS_SHOWN} more" if len(touched) > VERSIONS_SHOWN else ""
    words = f"By AWS's preview, {subject} would take away {', '.join(named)}{more}."
    if not suggestion:
        return f"{words} Give its rules higher counts, or protect these images with a rule of a lower number."
    tags = list(dict.fromkeys(_tag(kept) for kept, _ in touched[:VERSIONS_SHOWN]))
    rules, them = f"A rule with a lower number for the tag {tags[0]} keeps this image", "it"
    if len(tags) > 1:
        rules, them = f"Rules with lower numbers for the tags {', '.join(tags)} keep these images", "them"
    proof = "AWS's preview of that text takes none away" if proved else "AWS has not previewed that text"
    return f"{words} {rules}. The page of the repository has a text with {them}; {proof}."


def _statement(ecr: Ecr, config: RegistryConfig) -> str:
    statement = {
        "Effect": "Allow",
        "Action": ["ecr:StartLifecyclePolicyPreview", "ecr:GetLifecyclePolicyPreview"],
        "Resource": ecr.registry.repository_arn(f"{config.namespace}/*"),
    }
    return f"Add this statement to the IAM policy: {json.dumps(statement)}"


def must_stay(row: Repository, config: RegistryConfig) -> list[KeptImage]:
    """The images of this repository that must stay."""
    return kept_images.kept([row.pk], config=config).get(row.pk, [])


def _of(kept: Sequence[KeptImage], images: Iterable[PreviewedImage]) -> list[tuple[KeptImage, PreviewedImage]]:
    found = list(images)
    return [
        (each, image)
        for each in kept
        for image in found
        if image.digest == each.digest or (not each.digest and _tag(each) in image.tags)
    ]


def _tag(image: KeptImage) -> str:
    return image.deployment.image_ref.rpartition(":")[2]


def _images(kept: Iterable[KeptImage]) -> str:
    """A digest of the images that must stay, and of what each of them is."""
    named = sorted(f"{each.deployment.pk} {each.digest} {each.is_current}" for each in kept)
    return _digest("\n".join(named))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _is_older(result: PreviewResult, since: datetime) -> bool:
    try:
        return datetime.fromisoformat(result.at) < since
    except ValueError:  # a row that somebody wrote by hand
        return True
