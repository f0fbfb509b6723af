"""The images of one repository as AWS has them, with what the rows know of them; and the restore of an archived image.

A page of images is read from AWS while a person waits: one DescribeImages, tried once. The call gives up to 1,000
images in an order that AWS does not document (*DescribeImages*, Amazon ECR API Reference), so they are sorted here,
the newest push first, and shown in pages. A repository with more images is read in parts of 1,000: each part is sorted
by itself. BatchGetImage is not called, because AWS counts it as a pull; so the platforms of an image are those that
were verified for a deployment, and else not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from deployments import clock, images
from deployments.access.audit import Attempt, Trail
from deployments.aws.values import DescribedImage
from deployments.config import Configuration
from deployments.errors import RegistryError, refusal, registry_error
from deployments.models import Deployment, Repository
from deployments.reconcile import bulkhead, generation, kept_images, repositories, targets
from deployments.reconcile.kept_images import KeptImage
from deployments.reconcile.targets import Target

ATTEMPTS_PER_CALL = 1  # a person waits for the answer and can press the button again
PER_PAGE = 50
USES_SHOWN = 5  # of one image
DEPLOYMENTS_READ = 500  # of the images of one page, the newest
MAX_TOKEN_CHARACTERS = 3_500  # of AWS's nextToken; it is in the page's address, of which gunicorn takes 4,094
ACTIVE, ARCHIVED, ACTIVATING = "ACTIVE", "ARCHIVED", "ACTIVATING"  # AWS's statuses of an image

_INDEXES = {
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
}
#: Media types of the configuration of a container image. Any other names an artifact: a signature, a Helm chart …
_CONFIGURATIONS = {
    "",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
}


class Only(StrEnum):
    """Which images are asked for. AWS selects them, so the others are not read."""

    ALL = "all"
    TAGGED = "tagged"
    ARCHIVED = "archived"

    @property
    def words(self) -> str:
        """The selection for people."""
        return {Only.ALL: "All images", Only.TAGGED: "With a tag", Only.ARCHIVED: "Archived"}[self]


_FILTERS: Mapping[Only, dict[str, str]] = {
    Only.ALL: {},
    Only.TAGGED: {"tags": "TAGGED"},
    Only.ARCHIVED: {"status": ARCHIVED},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A deployment that has an image. It is current, a roll-back target, or neither."""

    deployment: Deployment
    is_current: bool = False
    is_target: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenImage:
    """An image that AWS has described. `uses`: those for which it must stay, then the newest others."""

    described: DescribedImage
    uses: tuple[Use, ...] = ()
    more_uses: int = 0

    @property
    def is_archived(self) -> bool:
        """Whether the image can be restored."""
        return self.described.status == ARCHIVED

    @property
    def note(self) -> str:
        """What the object is, if it is no image with a tag, as far as media types and tags show it."""
        image = self.described
        if image.subject:
            return f"Referrer: {image.artifact_type or 'signature or attestation'}"
        if image.media_type in _INDEXES:
            return "Index of images"
        if image.artifact_type not in _CONFIGURATIONS:
            return f"Artifact: {image.artifact_type}"
        return "" if image.tags else "No tag: an image of an index, or its tag has moved"

    @property
    def platforms(self) -> str:
        """The platforms that were verified for a deployment of this image; empty: not seen."""
        for use in self.uses:
            if use.deployment.receipt is not None and use.deployment.receipt.platforms:
                return ", ".join(use.deployment.receipt.platforms)
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endangered:
    """An image that must stay and cannot be pulled. `state`: archived, restoring or missing."""

    kept: KeptImage
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePage:
    """A page of a repository's images. With an `error` it has no images.

    `token`: by which AWS gave this part of the repository; empty: the first. `next_token`: of the part after it.
    """

    at: datetime
    only: Only = Only.ALL
    token: str = ""
    error: RegistryError | None = None
    exists: bool = True
    images: tuple[SeenImage, ...] = ()
    number: int = 1
    pages: int = 1
    in_part: int = 0  # images
    next_token: str = ""
    endangered: tuple[Endangered, ...] = ()
    statement: dict[str, object] = field(default_factory=dict)  # of IAM, that would allow the refused call

    @property
    def is_whole(self) -> bool:
        """Whether this part is the whole selection."""
        return not (self.token or self.next_token)


def read(*, row: Repository, target: Target, only: Only = Only.ALL, token: str = "", number: int = 1) -> ImagePage:
    """A page of images, the newest push first. One call to AWS; its error is in the answer.

    `token`: empty, or `next_token` of a page before, with the same `only`. `number`: from 1; a larger one than there
    are pages is the last. Raises Refusal (retryable) if too many requests wait for AWS.
    """
    at = clock.now()
    ecr = target.ecr(attempts=ATTEMPTS_PER_CALL)
    try:
        with bulkhead.place():
            answer = ecr.image_page(row.name, token=token[:MAX_TOKEN_CHARACTERS], **_FILTERS[only])
    except RegistryError as error:
        statement = _statement(target, "ecr:DescribeImages") if error.denied else {}
        return ImagePage(at=at, only=only, token=token, error=error, statement=statement)
    kept = kept_images.kept([row.pk], config=target.config).get(row.pk, [])
    if answer is None:
        return ImagePage(at=at, only=only, exists=False, endangered=_endangered(kept, {}, whole=True))
    newest_first = sorted(answer.images, key=lambda each: each.digest)
    newest_first.sort(key=lambda each: each.pushed_at.timestamp() if each.pushed_at else 0.0, reverse=True)
    pages = max(1, -(-len(newest_first) // PER_PAGE))
    number = min(max(number, 1), pages)
    whole = only is Only.ALL and not (token or answer.next_token)
    return ImagePage(
        at=at,
        only=only,
        token=token,
        images=_with_rows(row, newest_first[(number - 1) * PER_PAGE : number * PER_PAGE], kept),
        number=number,
        pages=pages,
        in_part=len(newest_first),
        next_token=answer.next_token,
        endangered=_endangered(kept, {each.digest: each.status for each in newest_first}, whole=whole),
    )


def _with_rows(row: Repository, shown: Iterable[DescribedImage], kept: Iterable[KeptImage]) -> tuple[SeenImage, ...]:
    """The images with their uses. One query."""
    shown = list(shown)
    uses: dict[str, list[Use]] = {each.digest: [] for each in shown}
    must_stay = sorted(kept, key=lambda each: not each.is_current)
    for one in must_stay:
        if one.digest in uses:
            uses[one.digest].append(
                Use(deployment=one.deployment, is_current=one.is_current, is_target=not one.is_current)
            )
    known = {one.deployment.pk for one in must_stay}
    rows = (
        Deployment.objects.filter(repository=row, image_digest__in=list(uses))
        .select_related("environment", "project")
        .defer("error", "git")
        .order_by("-created_at")
    )
    for deployment in rows[:DEPLOYMENTS_READ]:
        if deployment.pk not in known:
            uses[deployment.image_digest].append(Use(deployment=deployment))
    return tuple(
        SeenImage(
            described=each,
            uses=tuple(uses[each.digest][:USES_SHOWN]),
            more_uses=max(0, len(uses[each.digest]) - USES_SHOWN),
        )
        for each in shown
    )


def _endangered(kept: Iterable[KeptImage], statuses: Mapping[str, str], *, whole: bool) -> tuple[Endangered, ...]:
    """The images that must stay and cannot be pulled. `whole`: an image without a status does not exist."""
    states = {ARCHIVED: "archived", ACTIVATING: "restoring", "": "missing" if whole else ""}
    found = ((each, states.get(statuses.get(each.digest, ""), "")) for each in kept if each.digest)
    return tuple(Endangered(kept=each, state=state) for each, state in found if state)


def _statement(target: Target, action: str) -> dict[str, object]:
    """A statement of an IAM policy that allows an action on the repositories of a target."""
    resource = target.registry.repository_arn(f"{target.config.namespace}/*")
    return {"Effect": "Allow", "Action": [action], "Resource": resource}


# --------------------------------------------------------------------------------------------------------- the restore


def find(*, row: Repository, target: Target, digest: str) -> DescribedImage | None:
    """The image as AWS has it now; None if it does not exist. One call. Raises Refusal, with AWS's reason."""
    if not images.is_digest(digest):
        return None
    try:
        with bulkhead.place():
            return target.ecr(attempts=ATTEMPTS_PER_CALL).image(row.name, digest=digest)
    except RegistryError as error:
        raise error.as_refusal() from error


def restore(*, row: Repository, digest: str, configuration: Configuration, trail: Trail) -> str:
    """Ask AWS to restore an archived image. Returns its status: ACTIVATING, or ACTIVE once it can be pulled.

    Makes two calls to AWS: a read, and a write only if the image is archived; so it can be repeated. Runs under the
    repository's lease. Raises Refusal: for a repository that is not managed or not configured, for an image that does
    not exist, if another process holds the lease, while writes are paused, and with AWS's reason. The audit log gets a
    line before the write, committed on its own, and a line with the result.
    """
    with trail.attempt("restore_image.repository", row, after={"digest": digest}) as attempt, bulkhead.place():
        try:
            status = _restore(row, digest, configuration, attempt)
        except RegistryError as error:
            raise error.as_refusal() from error
        with attempt.commit():
            attempt.after = {"digest": digest, "status": status}
    return status


def _restore(row: Repository, digest: str, configuration: Configuration, attempt: Attempt) -> str:
    configuration = generation.in_force(configuration)
    target = targets.of(row, configuration)
    if target is None or not row.is_managed:
        reason = "the settings name another registry" if target is None else "it is not managed, so adopt it first"
        raise refusal("nothing_to_restore", name=row.name, reason=reason)
    lease = repositories.claim(row)
    if lease is None:
        raise refusal("busy", what=row.name)
    try:
        if lease.activation != configuration.activation:
            raise registry_error("ConfigurationChanged", operation="lease", name=row.name)
        ecr = target.ecr(before_attempt=lease.require_time, attempts=ATTEMPTS_PER_CALL)
        found = ecr.image(row.name, digest=digest) if images.is_digest(digest) else None
        if found is None:
            raise refusal("nothing_to_restore", name=row.name, reason=f"it has no image {digest[:80]}")
        attempt.before = {"status": found.status}
        if found.status != ARCHIVED:
            return found.status
        lease.require_writable()
        attempt.begin()
        return ecr.restore_image(row.name, digest)
    finally:
        lease.give_up()
