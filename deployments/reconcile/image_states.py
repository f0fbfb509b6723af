"""Whether the images that must stay can be pulled: the current one of each environment and its roll-back targets.

Each sweep and each event about images looks at them with DescribeImages, which counts as no pull (D-standing-proof). A
look says whether the image is there, by the digest that was promoted, and active. Who can pull it is the answer on the
repository's row (`Repository.consumers`), which this module repeats and does not judge again.

An image that AWS did not show is unknown, never missing. Nothing here asks AWS for a manifest or a layer, so an image
of which a part is gone counts as runnable.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Count, Exists, Min, OuterRef, Q, QuerySet

from deployments import clock
from deployments.aws.ecr import Ecr
from deployments.aws.values import DescribedImage
from deployments.config import RegistryConfig
from deployments.errors import RegistryError
from deployments.images import EcrRegistry
from deployments.log import get_logger
from deployments.models import (
    Deployment,
    ImageState,
    ImageStateChange,
    ImageStatus,
    Promotion,
    Repository,
    RepositoryStatus,
)
from deployments.reconcile.kept_images import KeptImage, kept
from deployments.row_values import ConsumerPull

#: The states in which nothing, or not every consumer account, can pull an image.
BROKEN = (ImageStatus.MISSING, ImageStatus.ARCHIVED, ImageStatus.NOT_PULLABLE)
ACTIVE, ARCHIVED, RESTORING, MISSING = "active", "archived", "restoring", "missing"
_OF_AWS = {"ACTIVE": ACTIVE, "ARCHIVED": ARCHIVED, "ACTIVATING": RESTORING}
_NO_DIGEST = "The digest of this image is not known, because the image was never verified. So the image is not checked."
_ROWS_PER_QUERY = 500
_WRITES = 3  # how often a result is written if other looks come first
log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What AWS said of the images of one repository. `at`: the database's time before AWS was asked."""

    repository: int
    at: datetime
    digests: frozenset[str]  # that were asked for
    images: Mapping[str, DescribedImage]
    error: RegistryError | None = None  # why AWS said nothing

    def seen(self, digest: str) -> tuple[str, str]:
        """What is known of an image (`ImageState.image`), and what there is to say about it."""
        if not digest:
            return "", _NO_DIGEST
        if self.error is not None:
            return "", f"AWS did not say whether the image is there. {self.error}"
        found = self.images.get(digest)
        if found is None:
            return MISSING, ""
        status = _OF_AWS.get(found.status, "")
        return status, "" if status else f"AWS gives the image a status that this version does not know: {found.status}"


def wanted(repositories: Collection[int], *, config: RegistryConfig) -> dict[int, list[KeptImage]]:
    """Repository id → the images to look at; an empty list if only rows of earlier looks are left. Three queries."""
    rows = ImageState.objects.filter(repository__in=repositories).order_by().values_list("repository", flat=True)
    found: dict[int, list[KeptImage]] = {pk: [] for pk in rows.distinct()}
    return found | kept(repositories, config=config)


def unsettled(repository: OuterRef) -> QuerySet[ImageState]:
    """The images of a repository that every sweep looks at: AWS did not say, or they cannot be pulled. As a query."""
    return (
        ImageState.objects.filter(repository=repository).exclude(state=ImageStatus.RUNNABLE).exclude(words=_NO_DIGEST)
    )


def never_looked_at() -> set[int]:
    """The repositories with a current image that was never looked at. One query."""
    rows = Promotion.objects.filter(label="current", environment__archived_at=None, deployment__image_state=None)
    return set(rows.exclude(deployment__repository=None).values_list("deployment__repository", flat=True))


def look(*, ecr: Ecr, repository: Repository, images: Sequence[KeptImage], at: datetime) -> Look:
    """Ask AWS for the images: one call where all are there, else at most one call more than there are images.

    Raises no RegistryError: the result has it. No transaction may be open.
    """
    digests = frozenset(each.digest for each in images if each.digest)
    found: dict[str, DescribedImage] = {}
    error: RegistryError | None = None
    if digests:
        try:
            found = ecr.images(repository.name, sorted(digests))
        except RegistryError as refused:
            error = refused if not refused.denied else _with_statement(refused, ecr.registry, repository)
    return Look(repository=repository.pk, at=at, digests=digests, images=found, error=error)


def without_repository(repository: int, images: Iterable[KeptImage], at: datetime) -> Look:
    """The look at the images of a repository that does not exist; nobody has to be asked."""
    digests = frozenset(each.digest for each in images if each.digest)
    return Look(repository=repository, at=at, digests=digests, images={})


def _with_statement(error: RegistryError, registry: EcrRegistry, repository: Repository) -> RegistryError:
    statement = {
        "Effect": "Allow",
        "Action": "ecr:DescribeImages",
        "Resource": registry.repository_arn(repository.name),
    }
    return replace(error, sentence=f"{error.sentence} The statement to add to its IAM policy: {json.dumps(statement)}")


# ------------------------------------------------------------------------------------------------------------ judging


def judged(image: str, words: str, repository: Repository) -> tuple[ImageStatus, str]:
    """The state of an image and a sentence about it, by what was seen of it and by who can pull from its repository."""
    if repository.status == RepositoryStatus.MISSING:
        return ImageStatus.MISSING, "Its repository was deleted from the registry."
    if image == MISSING:
        return ImageStatus.MISSING, "AWS has no image with the digest that was deployed, in any storage class."
    if image == ARCHIVED:
        return ImageStatus.ARCHIVED, (
            "The image is in the archive of ECR, from which nothing can be pulled. Restore it on the page of the "
            "repository's images."
        )
    if image == RESTORING:
        return (
            ImageStatus.ARCHIVED,
            "The image is being restored from the archive of ECR; until then it cannot be pulled.",
        )
    if image != ACTIVE:
        return ImageStatus.UNKNOWN, words
    return _by_consumers(repository.consumers)


def _by_consumers(consumers: Mapping[str, ConsumerPull]) -> tuple[ImageStatus, str]:
    by_verdict: dict[str, list[str]] = {}
    for account, pull in sorted(consumers.items()):
        by_verdict.setdefault(pull.verdict, []).append(f"Account {account}: {pull.words}")
    if "no" in by_verdict:
        return ImageStatus.NOT_PULLABLE, " ".join(by_verdict["no"])
    if "unknown" in by_verdict:
        return ImageStatus.UNKNOWN, " ".join(by_verdict["unknown"])
    if "depends" in by_verdict:
        return ImageStatus.RUNNABLE, " ".join(by_verdict["depends"])
    return ImageStatus.RUNNABLE, "" if consumers else "No consumer account is set, so no pull was evaluated."


# ---------------------------------------------------------------------------------------------------------- recording


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    """The state of one image, by a look or by what is known of who can pull it."""

    deployment: str
    repository: int
    is_current: bool  # else it is a roll-back target
    image: str
    state: ImageStatus
    words: str
    looked_at: datetime
    now: datetime  # since when the state is known, if it is another one than before

    def values(self, before: ImageState | None) -> dict[str, Any]:
        """The columns of the row."""
        found: dict[str, Any] = {"image": self.image, "state": self.state, "words": self.words}
        found["looked_at"] = self.looked_at
        if before is None or before.state != self.state:
            found["since"] = self.now
        if self.state != ImageStatus.UNKNOWN:
            found |= {"known": self.state, "known_at": self.looked_at}
        return found


def record(looks: Collection[Look], *, config: RegistryConfig) -> None:
    """Write the results of looks: the rows of images, and a change for each image that did not have this state.

    A fixed number of statements, and some more for each image whose state has changed. The looks count as made at the
    time of the first of them; a result that is older than its row is dropped. Which images must stay is read again
    here, so that a deploy that was promoted since the look loses nothing; rows of all others are deleted.
    """
    if not looks:
        return
    at = min(each.at for each in looks)
    by_repository = {each.repository: each for each in looks}
    for _ in range(_WRITES):
        keep = kept(by_repository, config=config)
        rows = {row.pk: row for row in ImageState.objects.filter(repository__in=by_repository)}
        if gone := rows.keys() - {image.deployment.pk for images in keep.values() for image in images}:
            ImageState.objects.filter(pk__in=gone).delete()
        if _write(list(_results(by_repository, keep, at)), rows):
            return


def _results(looks: Mapping[int, Look], keep: Mapping[int, Sequence[KeptImage]], at: datetime) -> Iterator[_Result]:
    repositories = Repository.objects.only("name", "status", "consumers").in_bulk(list(looks))
    for pk, repository in repositories.items():
        for image in keep.get(pk, []):
            if image.digest and image.digest not in looks[pk].digests:
                continue  # it was promoted since
            seen, words = looks[pk].seen(image.digest)
            state, words = judged(seen, words, repository)
            yield _Result(
                deployment=image.deployment.pk, repository=pk, is_current=image.is_current, image=seen, state=state,
                words=words, looked_at=at, now=at,
            )  # fmt: skip


def _write(results: Iterable[_Result], before: Mapping[str, ImageState]) -> bool:
    """Write results over the rows that were read before. False if another look or another answer came first."""
    same: dict[str, list[_Result]] = {}
    fresh: list[_Result] = []
    changed: list[_Result] = []
    for result in results:
        row = before.get(result.deployment)
        if row is None:
            (changed if result.state in BROKEN else fresh).append(result)
        elif row.looked_at < result.looked_at:
            is_same = (row.image, row.state, row.words) == (result.image, result.state, result.words)
            is_same &= row.known == result.state or result.state == ImageStatus.UNKNOWN  # else it is to be reported
            (same.setdefault(row.state, []) if is_same else changed).append(result)
    done = True
    for state, group in same.items():
        values = {name: value for name, value in group[0].values(None).items() if name in ("looked_at", "known_at")}
        rows = ImageState.objects.filter(pk__in=[each.deployment for each in group], state=state)
        done &= rows.filter(looked_at__lt=values["looked_at"]).update(**values) == len(group)
    if fresh:
        # The first look, and no change to report. A row that another look has added meanwhile stays.
        try:
            ImageState.objects.bulk_create([_row(each) for each in fresh], ignore_conflicts=True)
        except IntegrityError:
            done = False  # a deployment was deleted meanwhile
    for result in _in_order(changed):
        row = before.get(result.deployment)
        done &= _change(result, row, Q(looked_at__lt=result.looked_at))
    return done


def _in_order(results: Iterable[_Result]) -> list[_Result]:
    """First what can be pulled, last the current images that cannot: so the last good version of a change is right."""
    return sorted(results, key=lambda each: (each.state in BROKEN, each.is_current, each.deployment))


def record_missing(rows: Q, *, config: RegistryConfig) -> None:
    """Record that the images of deleted repositories are missing. `rows` is a condition for repositories. No call.

    This counts as a look at them, also if they were missing before. So rows of images that need not stay go here too.
    """
    at = clock.now()
    has_images = Q(image_state__isnull=False) | Q(promotions__label="current")
    deployments = Deployment.objects.filter(has_images, repository=OuterRef("pk"))
    gone = Repository.objects.filter(rows, Exists(deployments), status=RepositoryStatus.MISSING)
    images = wanted(list(gone.values_list("pk", flat=True)), config=config)
    record([without_repository(pk, each, at) for pk, each in images.items()], config=config)


def follow(rows: Q, *, config: RegistryConfig) -> None:
    """Update the states after repositories were checked: they may be gone, or let others pull. No call to AWS."""
    record_missing(rows, config=config)
    rejudge(rows, config=config)


def rejudge(rows: Q, *, config: RegistryConfig) -> None:
    """Evaluate the states again after the answers who can pull from these repositories may have changed.

    `rows` is a condition for repositories. No call to AWS; without a change, one query, and one for each 500 images.
    A row of an image that need not stay any more is left to the next look, which deletes it.
    """
    now = clock.now()
    found = ImageState.objects.filter(repository__in=Repository.objects.filter(rows), image=ACTIVE)
    ids = list(found.values_list("pk", flat=True))
    changed: list[tuple[_Result, ImageState]] = []
    for start in range(0, len(ids), _ROWS_PER_QUERY):
        some = ImageState.objects.filter(pk__in=ids[start : start + _ROWS_PER_QUERY])
        for row in with_current(some).select_related("repository"):
            state, words = judged(row.image, row.words, row.repository)
            if (state, words) != (row.state, row.words):
                result = _Result(
                    deployment=row.pk, repository=row.repository_id, is_current=row.is_current, image=row.image,
                    state=state, words=words, looked_at=row.looked_at, now=now,
                )  # fmt: skip
                changed.append((result, row))
    if not changed:
        return
    before = {row.pk: row for _, row in changed}
    keep = kept({row.repository_id for _, row in changed}, config=config)
    must_stay = {image.deployment.pk for images in keep.values() for image in images}
    for result in _in_order(result for result, _ in changed if result.deployment in must_stay):
        _change(result, before[result.deployment], Q(looked_at=result.looked_at))


def _row(result: _Result) -> ImageState:
    return ImageState(deployment_id=result.deployment, repository_id=result.repository, **result.values(None))


def _change(result: _Result, before: ImageState | None, unless_newer: Q) -> bool:
    """Write a state and its change, in one transaction. False if another look came first; then nothing is written."""
    known = before.known if before is not None else ""
    is_news = result.state not in (ImageStatus.UNKNOWN, known) and (known or result.state in BROKEN)
    try:
        with transaction.atomic():
            if before is None:
                _row(result).save(force_insert=True)
            else:
                unchanged = ImageState.objects.filter(unless_newer, pk=before.pk, state=before.state)
                if not unchanged.update(**result.values(before)):
                    return False
            if is_news:
                _change_of(result).save()
    except (IntegrityError, Deployment.DoesNotExist):
        return False  # another look has added the row, or the deployment was deleted
    if is_news:
        write = log.info if result.state == ImageStatus.RUNNABLE else log.warning
        about = {"deployment_id": result.deployment, "current": result.is_current}
        write("image.changed", **about, state=str(result.state), before=known, words=result.words)
    return True


def _change_of(result: _Result) -> ImageStateChange:
    last_good: Deployment | None = None
    if result.is_current and result.state in BROKEN:
        lost = Deployment.objects.only("environment", "version_day", "version_number").get(pk=result.deployment)
        good = Deployment.objects.filter(environment=lost.environment_id, image_state__state=ImageStatus.RUNNABLE)
        # A newer version was rolled back, so it is not offered, though its row may still be there.
        older = Q(version_day__lt=lost.version_day)
        older |= Q(version_day=lost.version_day, version_number__lt=lost.version_number)
        last_good = good.filter(older).order_by("-version_day", "-version_number").first()
    return ImageStateChange(
        deployment_id=result.deployment,
        state=result.state,
        words=result.words,
        is_current=result.is_current,
        last_good=str(last_good.version) if last_good is not None else "",
    )


# ------------------------------------------------------------------------------------------------------------ reading


def with_current(rows: QuerySet[ImageState]) -> QuerySet[Any]:
    """Adds `is_current`: whether the deployment is current in its environment; else it is a roll-back target."""
    return rows.annotate(is_current=Exists(Promotion.objects.filter(label="current", deployment=OuterRef("pk"))))


def broken(repositories: Collection[int]) -> dict[int, str]:
    """Repository id → sentences about those of its images that must stay and cannot be pulled. One query."""
    found: dict[int, list[str]] = {}
    rows = with_current(ImageState.objects.filter(repository__in=repositories, state__in=BROKEN))
    for row in rows.select_related("deployment__environment").order_by("deployment__environment", "-pk"):
        deployment, role = row.deployment, "current" if row.is_current else "a roll-back target"
        words = f"The image of version {deployment.version}, {role} in {deployment.environment}, {_IS[row.state]}."
        found.setdefault(row.repository_id, []).append(f"{words} {row.words}".strip())
    return {pk: " ".join(texts) for pk, texts in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many images are in which state."""

    states: Mapping[str, int]
    broken_current: int  # current images that cannot be pulled
    unknown: str  # the sentence of one that is unknown; empty: there is none

    @property
    def words(self) -> str:
        """“3 runnable, 1 missing”, without the states that no image has."""
        return ", ".join(f"{self.states[each]} {each.label.lower()}" for each in ImageStatus if self.states.get(each))


def seen_at(images: Collection[KeptImage]) -> datetime | None:
    """Since when AWS has shown each of these images at least once; None if it has not shown one of them. One query."""
    rows = ImageState.objects.filter(pk__in=[each.deployment.pk for each in images]).exclude(image="")
    found = list(rows.values_list("looked_at", flat=True))
    return min(found) if len(found) == len(images) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentImages:
    """The number of environments by the state of their current image, and the time of the oldest look."""

    by_state: Mapping[str, int]
    oldest_look: datetime | None


def current_images() -> CurrentImages:
    """Of all environments that are not archived. An image that was not looked at yet is unknown. One query."""
    rows = Promotion.objects.filter(label="current", environment__archived_at=None).order_by()
    found = rows.values_list("deployment__image_state__state").annotate(
        number=Count("pk"), oldest=Min("deployment__image_state__looked_at")
    )
    by_state: dict[str, int] = {}
    for state, number, _ in found:
        by_state[state or ImageStatus.UNKNOWN] = by_state.get(state or ImageStatus.UNKNOWN, 0) + number
    return CurrentImages(by_state=by_state, oldest_look=min((at for *_, at in found if at is not None), default=None))


def counts(rows: Q) -> Counts:
    """The states of these images. `rows` is a condition for `ImageState`. Three queries."""
    found = ImageState.objects.filter(rows)
    unknown = found.filter(state=ImageStatus.UNKNOWN).order_by("pk").first()
    return Counts(
        states=dict(found.order_by().values_list("state").annotate(number=Count("pk"))),
        broken_current=with_current(found.filter(state__in=BROKEN)).filter(is_current=True).count(),
        unknown=unknown.words if unknown is not None else "",
    )


_IS: Mapping[str, str] = {
    ImageStatus.MISSING: "is missing",
    ImageStatus.ARCHIVED: "is archived",
    ImageStatus.NOT_PULLABLE: "cannot be pulled",
}
