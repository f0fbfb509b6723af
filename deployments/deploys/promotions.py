"""The end of a successful deployment: its image is proved, and it becomes the current one of its environment.

Use cases, like `deployments.deploys.lifecycle`: keyword-only, without HTTP and settings. The registry is asked before
the database's transaction. DEPLOYED and the promotion are one transaction, and so is a promotion with its line of the
audit log.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.db.models.functions import Now

from deployments import catalogue, images
from deployments.access.audit import Trail
from deployments.config import Configuration, RegistryConfig
from deployments.deploys import image_proof
from deployments.deploys.lifecycle import configuration_in_force, ensure_repository, log_change, update_running
from deployments.errors import NotFound, Refusal, refusal
from deployments.log import get_logger
from deployments.models import (
    Deployment,
    DeploymentStatus,
    Environment,
    Promotion,
    PromotionEvent,
)
from deployments.reconcile import bulkhead

log = get_logger(__name__)

BUILDING, DEPLOYING, DEPLOYED = DeploymentStatus.BUILDING, DeploymentStatus.DEPLOYING, DeploymentStatus.DEPLOYED
CANCELED = DeploymentStatus.CANCELED


def finalize(
    *, deployment: Deployment, digest: str | None, skip_promotion: bool, configuration: Configuration
) -> Iterator[str]:
    """DEPLOYING → DEPLOYED once the image is proved (`image_proof`), and the promotion with it, both or neither.
    Yields sentences on the way.

    Raises Refusal when the proof fails, and for a wrong status; the deployment stays as it is then, and its receipt
    has the reason, also where the caller goes away. The finalize that makes it DEPLOYED stores whether a promotion was
    wanted (`promotion_wanted`); repeating it on a DEPLOYED one is a success, whose sentence says what holds now. A
    deploy overtaken by a newer one ends well, without promotion.
    """
    if deployment.status == DEPLOYED:
        yield _finalized_before(deployment, skip_promotion=skip_promotion)
        return
    if deployment.status != DEPLOYING:
        raise Refusal(_not_deploying(deployment), code="wrong_status")
    if not images.is_digest(digest):
        digest = None  # it is whatever stood in buildx's metadata file
    receipt = yield from _prove(deployment, digest, configuration, in_line=True)
    if deployment.repository is not None and deployment.repository.last_error:
        # The deploy went on because the repository was right before; this is where the CLI's user hears of it.
        yield f"Note: {deployment.repository.last_error}"
    promoted: _Promoted | None = None
    with transaction.atomic():
        moved = update_running(
            deployment,
            status=DEPLOYED,
            deployed_at=Now(),
            image_digest=receipt["digest"] or digest or "",
            receipt=receipt,
            promotion_wanted=not skip_promotion,
            deadline=None,
        )
        if moved:
            log_change("deployment.deployed", deployment, promote=not skip_promotion)
        if moved and not skip_promotion:
            promoted = _make_current(deployment, by=deployment.triggered_by, newer_only=True)
    deployment.refresh_from_db()
    if not moved and deployment.status != DEPLOYED:
        raise Refusal(_not_deploying(deployment), code="wrong_status")
    if not moved:
        yield _finalized_before(deployment, skip_promotion=skip_promotion)
    elif promoted is None:
        yield f"Version {deployment.version} is deployed and, as asked, not promoted."
    elif promoted.is_current:
        yield f"Version {deployment.version} is deployed and current."
    else:
        yield f"Version {deployment.version} is deployed. A newer version is current, so it was not promoted."


def _finalized_before(deployment: Deployment, *, skip_promotion: bool) -> str:
    """Complete what an earlier finalize asked for, and report the present state."""
    wanted, version = deployment.promotion_wanted, deployment.version
    finished = False
    with transaction.atomic():
        if wanted and not _is_overtaken(deployment):
            finished = _make_current(deployment, by=deployment.triggered_by, newer_only=True).made
    if finished:
        return f"Version {version} was deployed already, but not promoted; it is current now."
    current = current_promotion(environment=deployment.environment)
    if current is not None and current.deployment_id == deployment.id:
        said = f"Version {version} is deployed already and current."
    elif wanted is False:
        said = f"Version {version} is deployed already and, as it was asked for then, not promoted."
    else:
        there = f"version {current.deployment.version}" if current is not None else "no version"
        said = f"Version {version} is deployed already and not current; {there} is."
    if wanted is not None and wanted is skip_promotion:
        first = "to promote it" if wanted else "not to promote it"
        said += f" The finalize that deployed it asked {first}, and that stands; to change it, promote a version."
    return said


def _is_overtaken(deployment: Deployment) -> bool:
    """Whether this deployment or a newer one has been current: after a roll-back neither comes back by itself."""
    newer = Q(deployment__version_day__gt=deployment.version_day) | Q(
        deployment__version_day=deployment.version_day, deployment__version_number__gte=deployment.version_number
    )
    if PromotionEvent.objects.filter(newer, environment=deployment.environment_id).exists():
        return True
    # Promotions of version 0.1.0 left no event; the current one names what it was rolled back from.
    current = current_promotion(environment=deployment.environment)
    replaced = current.rolled_back_from if current is not None else None  # D-finalize
    return replaced is not None and replaced.version >= deployment.version


def _prove(
    deployment: Deployment, digest: str | None, configuration: Configuration, *, in_line: bool = False
) -> image_proof.Steps:
    """Prove the deployment's image; the receipt, also of a refusal, is on the row afterwards or returned.

    Where as many requests wait for AWS as may, it is a Refusal at once, `in_line` after some time, and nothing is
    written down.
    """
    if not configuration.image_verification:
        return image_proof.unproved("Proving is switched off (DEPLOY_IMAGE_VERIFICATION_ENABLED).")
    configuration = configuration_in_force(configuration)
    registry = configuration.registry(deployment.type or None)
    with bulkhead.place(in_line=in_line):
        return (yield from _prove_now(deployment, digest, configuration, registry))


def _prove_now(
    deployment: Deployment, digest: str | None, configuration: Configuration, registry: RegistryConfig
) -> image_proof.Steps:
    def mend() -> None:
        # Somebody changed the policy since this deployment began. What cannot be mended is told by the second look.
        with suppress(Refusal):
            name = image_proof.Place.of(deployment.image_ref).name
            ensure_repository(deployment.environment, configuration, registry, name, freshness=timedelta(0))

    try:
        return (
            yield from image_proof.prove(
                image_ref=deployment.image_ref,
                digest=digest,
                platforms=deployment.image_platform.split(","),
                registry=registry,
                mend=mend,
            )
        )
    except Refusal as refused:
        refused_receipt = image_proof.unproved(refused.sentence) | {"code": refused.code, "digest": digest or ""}
        Deployment.objects.filter(id=deployment.id).exclude(status=DEPLOYED).update(receipt=refused_receipt)
        raise


def _not_deploying(deployment: Deployment) -> str:
    if deployment.status == CANCELED and deployment.canceled_reason:
        return f"The deployment was canceled: {deployment.canceled_reason}"
    if deployment.status == BUILDING:
        return "The deployment has no worker: the image was not indexed, so it cannot be finalized."
    return catalogue.sentence("wrong_status", status=deployment.status, wanted="not DEPLOYING; it cannot be finalized")


def promote(
    *,
    environment: Environment,
    version: str,
    by: str,
    configuration: Configuration,
    trail: Trail,
    allow_rollbacks: bool = False,
    instead_of: str | None = None,
) -> Deployment:
    """Make a deployed version the current one. Raises NotFound, or Refusal with the reason.

    `instead_of` is the id of the deployment that somebody agreed to replace ("": none is current); another one that
    became current since is a Refusal. The image is proved again: since its deploy it may have expired, or a policy may
    have changed. What cannot be found out does not stop it, if the image was proved before: going back to what worked
    is needed most on a day when AWS does not answer. Only DEPLOY_IMAGE_VERIFICATION_ENABLED=0 leaves the proof out.
    """
    try:
        wanted = images.Version.parse(version)
    except ValueError:
        raise NotFound(f"There is no version {version[:40]}.") from None
    deployment = (
        Deployment.objects.select_related("worker")
        .filter(environment=environment, version_day=wanted.day, version_number=wanted.number)
        .first()
    )
    if deployment is None:
        raise NotFound(f"There is no version {wanted} in this environment.")
    current = current_promotion(environment=environment)
    before = current.deployment if current is not None else None
    with trail.attempt(_action(deployment, before), deployment, before=_named(before)) as attempt:
        if deployment.status != DEPLOYED or not hasattr(deployment, "worker"):
            raise refusal("not_deployed", version=wanted, status=deployment.status)
        _agreed(before, instead_of)
        if before is not None and before.id == deployment.id:
            raise refusal("already_current", version=wanted)
        if before is not None and not allow_rollbacks and before.version > wanted:
            raise refusal("older_than_current", version=wanted)
        _prove_again(deployment, configuration)
        with attempt.commit():
            promoted = _make_current(deployment, by=by, newer_only=not allow_rollbacks, instead_of=instead_of)
            attempt.action, attempt.before = _action(deployment, promoted.before), _named(promoted.before)
            if not promoted.made:
                code = "already_current" if promoted.is_current else "older_than_current"
                raise refusal(code, version=wanted)
            attempt.after = _named(deployment)
    return deployment


def _action(deployment: Deployment, before: Deployment | None) -> str:
    rolls_back = before is not None and before.version > deployment.version
    return "rollback.deployment" if rolls_back else "promote.deployment"


def _named(current: Deployment | None) -> dict[str, str | None]:
    return {"current": str(current.version) if current is not None else None}


def _agreed(before: Deployment | None, instead_of: str | None) -> None:
    """Raise Refusal where another deployment is current than the one that somebody agreed to replace."""
    if instead_of is not None and (before.id if before is not None else "") != instead_of:
        raise refusal("current_has_changed", version=before.version if before is not None else "nothing")


def _prove_again(deployment: Deployment, configuration: Configuration) -> None:
    proved = deployment.receipt is not None and "unproved" not in deployment.receipt
    steps = _prove(deployment, deployment.image_digest or None, configuration)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        if "unproved" not in end.value:
            Deployment.objects.filter(id=deployment.id).update(receipt=end.value)
    except Refusal as refused:
        if refused.code not in ("image_undecided", "server_waits_for_aws") or not proved:
            raise
        log.warning(
            "promotion.not_proved_again",
            deployment=deployment.short_code,
            deployment_id=deployment.id,
            reason=refused.sentence,
        )


def current_promotion(*, environment: Environment) -> Promotion | None:
    promotions = Promotion.objects.select_related("deployment", "rolled_back_from")
    return promotions.filter(environment=environment, label="current").first()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Promoted:
    """What was current before; whether the deployment was made current now; whether it is (another call may have)."""

    before: Deployment | None
    made: bool
    is_current: bool


def _make_current(deployment: Deployment, *, by: str, newer_only: bool, instead_of: str | None = None) -> _Promoted:
    """Point the environment at this deployment, and add the promotion's event. Not made when what is current is newer
    and that matters, or is this one. Raises Refusal for `instead_of` as `promote`, and when others kept coming between.

    Inside a transaction, with what belongs to the promotion. A compare-and-set on what was current: of two at once, the
    one that loses looks again.
    """
    for _ in range(20):
        current = current_promotion(environment=deployment.environment)
        before = current.deployment if current is not None else None
        _agreed(before, instead_of)
        if before is not None and before.id == deployment.id:
            return _Promoted(before=before, made=False, is_current=True)
        older = before is not None and before.version > deployment.version
        if newer_only and older:
            return _Promoted(before=before, made=False, is_current=False)
        rolled_back_from = before if older else None
        values = {"deployment": deployment, "promoted_by": by, "rolled_back_from": rolled_back_from}
        if current is None:
            try:
                with transaction.atomic():
                    Promotion.objects.create(
                        environment_id=deployment.environment_id, label="current", promoted_at=Now(), **values
                    )
            except IntegrityError:
                continue
        elif not Promotion.objects.filter(id=current.id, deployment_id=current.deployment_id).update(
            promoted_at=Now(), **values
        ):
            continue
        PromotionEvent.objects.create(
            environment_id=deployment.environment_id, deployment=deployment, by=by, rolled_back_from=rolled_back_from
        )
        log_change(
            "deployment.promoted",
            deployment,
            before=str(before.version) if before is not None else "",
            rolled_back=rolled_back_from is not None,
        )
        return _Promoted(before=before, made=True, is_current=True)
    raise refusal("busy", what="the current deployment of this environment")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionChange:
    """What making a deployment current would change, as it stands now."""

    deployment: Deployment
    current: Promotion | None

    @property
    def rolls_back(self) -> bool:
        return self.current is not None and self.deployment.version < self.current.deployment.version

    @property
    def token(self) -> str:
        """Names what is current now; what somebody has agreed to replace."""
        return self.current.deployment_id if self.current else ""


def change_to(deployment: Deployment) -> PromotionChange:
    return PromotionChange(deployment=deployment, current=current_promotion(environment=deployment.environment))


def make_current(
    *, deployment: Deployment, instead_of: str, by: str, configuration: Configuration, trail: Trail
) -> None:
    """Promote, or roll back to, a deployment in the place of the one that the person saw (`PromotionChange.token`).

    Its image is proved again first, which asks the registry while the person waits: an image that expired since must
    not become what the cluster runs. Raises Refusal, also when another one has become current since.
    """
    promote(
        environment=deployment.environment,
        version=str(deployment.version),
        allow_rollbacks=change_to(deployment).rolls_back,
        instead_of=instead_of,
        by=by,
        configuration=configuration,
        trail=trail,
    )


def rolled_back(promotion: Promotion) -> Deployment | None:
    """The newer deployment that this promotion took the place of, if what is current is still older than that."""
    replaced = promotion.rolled_back_from
    return replaced if replaced is not None and replaced.version > promotion.deployment.version else None
