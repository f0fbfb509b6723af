"""The end of a successful deployment: verify its image, and make it the current deployment of its environment.

Use cases, like `deployments.deploys.lifecycle`: keyword-only, without HTTP and settings. Calls to the registry come
before the database transaction. DEPLOYED and the promotion are one transaction, and so are a promotion and its audit
line.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import DateTimeField, Q, Value
from django.db.models.functions import Least, Now

from deployments import catalogue, clock, images
from deployments.access.audit import Trail
from deployments.config import Configuration
from deployments.deploys import image_proof
from deployments.deploys.lifecycle import (
    BUILDING,
    CANCELED,
    DEPLOYED,
    DEPLOYING,
    configuration_in_force,
    end_interrupted,
    ensure_repository,
    fail,
    log_change,
    registry_of_image,
    require_active,
    update_running,
)
from deployments.errors import NotFound, Refusal, refusal
from deployments.log import bind, get_logger
from deployments.models import (
    Deployment,
    Environment,
    ImageState,
    ImageStatus,
    Promotion,
    PromotionEvent,
)
from deployments.reconcile import bulkhead
from deployments.row_values import Receipt

log = get_logger(__name__)

#: After a refused request for the state of its deployment, a 3.x CLI asks for the state again at once.
V3_PAUSE = timedelta(seconds=30)


def finalize(
    *,
    deployment: Deployment,
    digest: str | None,
    skip_promotion: bool,
    configuration: Configuration,
    report: image_proof.Report = lambda sentence: None,
) -> None:
    """Verify the image (`image_proof`), then DEPLOYING → DEPLOYED and the promotion in one transaction.

    `report` gets sentences about the progress. Raises Refusal if the verification fails, and for a wrong status. Then
    the deployment keeps its status and its receipt has the reason, even if the caller has disconnected.

    The finalize that sets DEPLOYED stores whether a promotion was wanted (`promotion_wanted`). A repetition succeeds,
    and its sentence says what is current. A deployment overtaken by a newer deployment is DEPLOYED without a promotion.
    """
    if deployment.status == DEPLOYED:
        report(_finalized_before(deployment, skip_promotion=skip_promotion))
        return
    if deployment.status != DEPLOYING:
        raise Refusal(_not_deploying(deployment), code="wrong_status")
    update_running(deployment, last_request_at=Now())
    if not images.is_digest(digest):
        digest = None  # the CLI sends the value of buildx's metadata file, whatever it is
    receipt = _prove(deployment, digest, configuration, report=report, in_line=True)
    if deployment.repository is not None and deployment.repository.last_error:
        # The deploy continued because an earlier check found the repository in sync. The CLI shows this note.
        report(f"Note: {deployment.repository.last_error}")
    elif deployment.repository is not None:
        noted = [each.words for each in deployment.repository.differences if each.is_incomparable or each.waits]
        if noted:
            report(f"Note: {' '.join(noted)}")
    promoted: _Promoted | None = None
    with transaction.atomic():
        moved = update_running(
            deployment,
            status=DEPLOYED,
            deployed_at=Now(),
            image_digest=receipt.digest or digest or "",
            receipt=receipt,
            promotion_wanted=not skip_promotion,
            deadline=None,
        )
        if moved:
            log_change("deployment.deployed", deployment, promote=not skip_promotion)
        if moved and not skip_promotion:
            promoted = _make_current(deployment, by=deployment.triggered_by, newer_only=True, proof=receipt)
    deployment.refresh_from_db()
    if promoted is not None:
        end_interrupted(deployment)
    if not moved and deployment.status != DEPLOYED:
        raise Refusal(_not_deploying(deployment), code="wrong_status")
    if not moved:
        report(_finalized_before(deployment, skip_promotion=skip_promotion))
    elif promoted is None:
        report(f"Version {deployment.version} is deployed and, as requested, not promoted.")
    elif promoted.is_current:
        report(f"Version {deployment.version} is deployed and current.")
    else:
        report(f"Version {deployment.version} is deployed. A newer version is current, so it was not promoted.")


def stops_v3(deployment: Deployment, configuration: Configuration) -> Refusal | None:
    """The reason to stop a 3.x CLI before it finalizes: its image was not pushed, or cannot be pulled; None: none.

    A 3.x CLI never ends after a finalize that is refused, and ends with an error after a refused request for the state
    of the deployment, which is its last request before (D-v3). So the image is verified here too. The receipt has the
    reason. For V3_PAUSE after a refusal the answer is None, because the CLI then asks for the state once more,
    prints the reason, and reports the failure.
    """
    if deployment.type or deployment.status != DEPLOYING:
        return None
    receipt = deployment.receipt
    refused_at = datetime.fromisoformat(receipt.at) if receipt is not None and receipt.code else None
    if refused_at is not None and clock.now() - refused_at < V3_PAUSE:
        return None
    try:
        _prove(deployment, None, configuration, in_line=True)
    except Refusal as refused:
        _keep_refusal(deployment, refused)  # also one that came before the verification
        return refused
    return None


def fail_v3(deployment: Deployment, refused: Refusal) -> None:
    """End the deployment of a 3.x CLI whose finalize was refused, because that CLI does not report the failure."""
    if not deployment.type:
        error = {"name": "FinalizeError", "message": refused.sentence}
        fail(environment=deployment.environment, deployment_id=deployment.id, error=error)


def _finalized_before(deployment: Deployment, *, skip_promotion: bool) -> str:
    """Make the promotion that an earlier finalize wanted, if it is missing. Returns a sentence about the result."""
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
        said = f"Version {version} is deployed already and, as requested then, not promoted."
    else:
        other = f"version {current.deployment.version}" if current is not None else "no version"
        said = f"Version {version} is deployed already and not current; {other} is."
    if wanted is not None and wanted is skip_promotion:
        first = "a promotion" if wanted else "no promotion"
        said += (
            f" The finalize that deployed it requested {first}, which a repeated finalize does not change: use promote."
        )
    return said


def _is_overtaken(deployment: Deployment) -> bool:
    """Whether this deployment or a newer deployment has been current. After a roll-back, a repeated finalize must not
    promote such a deployment again.
    """
    newer = Q(deployment__version_day__gt=deployment.version_day) | Q(
        deployment__version_day=deployment.version_day, deployment__version_number__gte=deployment.version_number
    )
    if PromotionEvent.objects.filter(newer, environment=deployment.environment_id).exists():
        return True
    # Version 0.1.0 wrote no events; there the current promotion names the deployment that it rolled back from.
    current = current_promotion(environment=deployment.environment)
    replaced = current.rolled_back_from if current is not None else None  # D-finalize
    return replaced is not None and replaced.version >= deployment.version


def _prove(
    deployment: Deployment,
    digest: str | None,
    configuration: Configuration,
    *,
    report: image_proof.Report = lambda sentence: None,
    in_line: bool = False,
) -> Receipt:
    """Verify the deployment's image and return the receipt. After a Refusal, the row has the receipt.

    If too many requests wait for AWS, raises Refusal without a receipt: at once, or with `in_line` after a waiting
    time.
    """
    if not configuration.image_verification:
        return image_proof.unproved("Image verification is switched off (DEPLOY_IMAGE_VERIFICATION_ENABLED).")
    configuration = configuration_in_force(configuration)
    with bulkhead.place(in_line=in_line):
        return _prove_now(deployment, digest, configuration, report)


def _prove_now(
    deployment: Deployment, digest: str | None, configuration: Configuration, report: image_proof.Report
) -> Receipt:
    def reconcile() -> None:
        # Somebody changed the policy since this deployment began. If this fails, the second read of the policy refuses.
        with suppress(Refusal):
            name = image_proof.ImageLocation.of(deployment.image_ref).name
            ensure_repository(deployment.environment, configuration, config, name, freshness=timedelta(0))

    try:
        config = registry_of_image(deployment, configuration)
        return image_proof.prove(
            image_ref=deployment.image_ref,
            digest=digest,
            platforms=deployment.image_platform.split(","),
            config=config,
            report=report,
            reconcile=reconcile,
        )
    except Refusal as refused:
        _keep_refusal(deployment, refused, digest)
        raise


def _keep_refusal(deployment: Deployment, refused: Refusal, digest: str | None = None) -> None:
    receipt = image_proof.unproved(refused.sentence, digest=digest, code=refused.code)
    receipt = replace(receipt, at=clock.now().isoformat())  # `stops_v3` compares it
    Deployment.objects.filter(id=deployment.id).exclude(status=DEPLOYED).update(receipt=receipt)


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
    """Make a deployed version current. Raises NotFound, or Refusal with the reason.

    `instead_of` is the id of the deployment that the person agreed to replace ("": no deployment); if another
    deployment became current since, this is a Refusal.

    The image is verified again, because it may have expired or a policy may have changed since its deploy. If the
    registry does not answer, an image that was verified before is promoted all the same: a roll-back must work while
    AWS does not answer. Only DEPLOY_IMAGE_VERIFICATION_ENABLED=0 skips the verification.
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
    bind(deployment=deployment.short_code)  # for the line of a request that is refused
    current = current_promotion(environment=environment)
    before = current.deployment if current is not None else None
    with trail.attempt(_action(deployment, before), deployment, before=_named(before)) as attempt:
        require_active(environment.project)
        if deployment.status != DEPLOYED or not hasattr(deployment, "worker"):
            raise refusal("not_deployed", version=wanted, status=deployment.status)
        _agreed(before, instead_of)
        if before is not None and before.id == deployment.id:
            raise refusal("already_current", version=wanted)
        if before is not None and not allow_rollbacks and before.version > wanted:
            raise refusal("older_than_current", version=wanted)
        proof = _prove_again(deployment, configuration)
        with attempt.commit():
            promoted = _make_current(
                deployment, by=by, newer_only=not allow_rollbacks, instead_of=instead_of, proof=proof
            )
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
    """Raise Refusal if the current deployment (`before`) is not the deployment that the person agreed to replace."""
    if instead_of is not None and (before.id if before is not None else "") != instead_of:
        raise refusal("current_has_changed", version=before.version if before is not None else "nothing")


def _prove_again(deployment: Deployment, configuration: Configuration) -> Receipt | None:
    """Verify the image of a deployed version. None if the registry did not answer, and an earlier proof is enough."""
    proved = deployment.receipt is not None and deployment.receipt.is_proved
    try:
        receipt = _prove(deployment, deployment.image_digest or None, configuration)
        if receipt.is_proved:
            Deployment.objects.filter(id=deployment.id).update(receipt=receipt)
        return receipt
    except Refusal as refused:
        if refused.code == "image_not_found" and proved:
            raise _gone(deployment, configuration) from refused
        if refused.code not in ("image_undecided", "registry_not_configured", "server_waits_for_aws") or not proved:
            raise
        log.warning(
            "promotion.not_proved_again",
            deployment=deployment.short_code,
            deployment_id=deployment.id,
            reason=refused.sentence,
        )
        return None


OLDER_ASKED_FOR = 5  # versions; each costs one DescribeImages


def _gone(deployment: Deployment, configuration: Configuration) -> Refusal:
    """The refusal of a version whose verified image is gone. It names the next older version with an image."""
    older = (
        Deployment.objects.filter(environment=deployment.environment_id, status=DEPLOYED, worker__isnull=False)
        .filter(
            Q(version_day__lt=deployment.version_day)
            | Q(version_day=deployment.version_day, version_number__lt=deployment.version_number)
        )
        .exclude(image_digest="")
        .order_by("-version_day", "-version_number")
    )
    then = "No older version with an image was found: deploy again."
    for each in older[:OLDER_ASKED_FOR]:
        try:
            config = registry_of_image(each, configuration_in_force(configuration))
            with bulkhead.place():
                there = image_proof.is_there(image_ref=each.image_ref, digest=each.image_digest, config=config)
        except Refusal:
            there = None
        if there is None:
            then = "Whether an older version has its image was not seen: try one, or deploy again."
            break
        if there:
            then = f"Version {each.version} is the next older one whose image exists."
            break
    return refusal(
        "image_not_found",
        operation="promote",
        version=deployment.version,
        where=deployment.image_ref.rpartition(":")[0],
        what=f"digest {deployment.image_digest}",
        then=then,
    )


def current_promotion(*, environment: Environment) -> Promotion | None:
    """The promotion of the environment's current deployment; None before the first promotion."""
    promotions = Promotion.objects.select_related("deployment__image_state", "rolled_back_from")
    return promotions.filter(environment=environment, label="current").first()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Promoted:
    """The result of `_make_current`."""

    before: Deployment | None  # the current deployment before the call
    made: bool  # whether this call made the deployment current
    is_current: bool  # whether the deployment is current now; another call may have made it current


def _make_current(
    deployment: Deployment,
    *,
    by: str,
    newer_only: bool,
    instead_of: str | None = None,
    proof: Receipt | None = None,
) -> _Promoted:
    """Make this deployment the current deployment of its environment, and add the promotion's event.

    `proof`: the result of the verification that was made for this promotion, if there was one.

    Does nothing if the deployment is current, or if `newer_only` and a newer deployment is current. Raises Refusal for
    `instead_of` like `promote`, and if other promotions came first 20 times. Needs an open transaction. Compares and
    sets the current deployment: of two promotions at once, the slower one reads the current deployment again.
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
        _note_proof(deployment, proof)
        if rolled_back_from is not None:
            # A newer version is no roll-back target; pages and notifications must not name it as one until a look.
            states = ImageState.objects.filter(deployment__environment=deployment.environment_id)
            states.filter(
                Q(deployment__version_day__gt=deployment.version_day)
                | Q(
                    deployment__version_day=deployment.version_day,
                    deployment__version_number__gt=deployment.version_number,
                )
            ).delete()
        log_change(
            "deployment.promoted",
            deployment,
            before=str(before.version) if before is not None else "",
            rolled_back=rolled_back_from is not None,
        )
        return _Promoted(before=before, made=True, is_current=True)
    raise refusal("busy", what="the current deployment of this environment")


def _note_proof(deployment: Deployment, receipt: Receipt | None) -> None:
    """Let the proof count as a look at the image (`reconcile.image_states`), at the time of the receipt.

    Not if the image was not verified now, or if it was not seen whether an account can pull it. Then an image that the
    looks have found broken stays so, and the next look reports it again, because it is the current one now.
    """
    place = Deployment.objects.values_list("repository", flat=True).get(pk=deployment.pk)
    before = ImageState.objects.filter(pk=deployment.pk)
    if receipt is not None and receipt.is_proved and receipt.at and place is not None and _was_seen(receipt):
        # Not later than now: a host whose clock is ahead must not date a look later than the next ones.
        at: Any = Least(Value(datetime.fromisoformat(receipt.at), output_field=DateTimeField()), Now())
        before.filter(looked_at__lt=at).exclude(state=ImageStatus.RUNNABLE).delete()
        known = {"state": ImageStatus.RUNNABLE, "known": ImageStatus.RUNNABLE, "known_at": at}
        state = ImageState(
            deployment_id=deployment.pk, repository_id=place, image="active", since=at, looked_at=at, **known
        )
        ImageState.objects.bulk_create([state], ignore_conflicts=True)
    before.exclude(known__in=("", ImageStatus.RUNNABLE)).update(known="")


def _was_seen(receipt: Receipt) -> bool:
    return all(pull.verdict != "unknown" for pull in receipt.pullers.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionChange:
    """What a promotion of this deployment would change now."""

    deployment: Deployment
    current: Promotion | None

    @property
    def rolls_back(self) -> bool:
        """Whether the current deployment is newer."""
        return self.current is not None and self.deployment.version < self.current.deployment.version

    @property
    def token(self) -> str:
        """The id of the current deployment ("": none), which the person agrees to replace."""
        return self.current.deployment_id if self.current else ""


def change_to(deployment: Deployment) -> PromotionChange:
    """The change that a promotion of this deployment would make."""
    return PromotionChange(deployment=deployment, current=current_promotion(environment=deployment.environment))


def make_current(
    *, deployment: Deployment, instead_of: str, by: str, configuration: Configuration, trail: Trail
) -> None:
    """Promote, or roll back to, a deployment. `instead_of`: the `PromotionChange.token` that the person agreed to.

    The image is verified again first, while the person waits, so that an expired image does not become current. Raises
    Refusal, also if another deployment became current since.
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
    """The newer deployment that this promotion replaced; None if the promoted deployment is newer."""
    replaced = promotion.rolled_back_from
    return replaced if replaced is not None and replaced.version > promotion.deployment.version else None
