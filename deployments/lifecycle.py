"""A deployment's life: create, index, finalize, promote, fail, cancel, time out.

Use cases: keyword-only functions that are told everything they need. They know no HTTP and no settings. Every change
of status is a compare-and-set against the status it was decided on, so of two callers one is faster and the other
one finds nothing to do. AWS is asked before the database's transaction, never inside it.

The statuses and what leads from one to the next are the seed's (trigger.dev), with its known traps left out: a
deploy overtaken by a newer one ends well and is not promoted, and a retried request makes no second deployment.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, connection, transaction
from django.db.models import Q
from django.utils import timezone

from deployments import catalogue, credentials, images, proof, provisioning
from deployments.catalogue import NotFound as NotFound  # what a use case raises: named here to be caught
from deployments.catalogue import Refusal as Refusal
from deployments.catalogue import refusal
from deployments.config import Configuration, RegistryConfig
from deployments.credentials import Credentials
from deployments.ecr import RegistryError, registry_of
from deployments.models import (
    FINAL_STATUSES,
    BackgroundWorker,
    Deployment,
    DeploymentStatus,
    Environment,
    Promotion,
    Repository,
)
from deployments.reconcile import generation

logger = logging.getLogger(__name__)

PENDING, BUILDING = DeploymentStatus.PENDING, DeploymentStatus.BUILDING
DEPLOYING, DEPLOYED = DeploymentStatus.DEPLOYING, DeploymentStatus.DEPLOYED
FAILED, CANCELED, TIMED_OUT = DeploymentStatus.FAILED, DeploymentStatus.CANCELED, DeploymentStatus.TIMED_OUT


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """What `create_deployment` came to: a new deployment, or the one that was there already."""

    deployment: Deployment
    outcome: str  # "created" or "existing"
    canceled: tuple[Deployment, ...] = ()


# ----------------------------------------------------------------------------------------------------------- create


def create_deployment(
    *,
    environment: Environment,
    configuration: Configuration,
    content_hash: str,
    type: str | None = None,
    runtime: str = "",
    git: dict[str, Any] | None = None,
    triggered_via: str = "",
    triggered_by: str = "",
    external_id: str = "",
    force: bool = False,
    idempotency_key: str | None = None,
    request_digest: str = "",
) -> Creation:
    """Allocate a version and an image ref, behind which the repository exists and is set up.

    A repeated idempotency key answers with the deployment of the first request. Raises Refusal when the repository
    cannot be made right (nothing is written then but the repository's row), when the key was used for another
    request, or when an external id is being deployed already.
    """
    external_id = external_id.strip()
    if force and not external_id:
        raise refusal("force_without_external_id")
    if len(external_id) > 128:
        raise refusal("external_id_too_long")
    if idempotency_key and (earlier := _repeated(environment, idempotency_key, request_digest)):
        return Creation(deployment=earlier, outcome="created")
    canceled: tuple[Deployment, ...] = ()
    if external_id:
        existing = _existing(environment, external_id, force=force)
        if existing is not None:
            return Creation(deployment=existing, outcome="existing")
        if force:
            canceled = _cancel_running(environment, external_id)
    configuration, registry, name, repository = _allocated(environment, configuration, type)
    for _ in range(3):
        try:
            deployment = _insert(
                environment=environment,
                repository=repository,
                registry=registry,
                name=name,
                content_hash=content_hash,
                type=type or "",
                image_platform=configuration.image_platform,
                runtime=runtime,
                git=git or {},
                triggered_via=triggered_via,
                triggered_by=triggered_by,
                external_id=external_id,
                idempotency_key=idempotency_key or "",
                request_digest=request_digest,
                deadline=timezone.now() + configuration.deploy_timeout,
            )
        except IntegrityError:
            # Our own retry arrived while the first try was still going on, or (once in 10¹²) the short code is taken.
            if idempotency_key and (earlier := _repeated(environment, idempotency_key, request_digest)):
                return Creation(deployment=earlier, outcome="created")
        else:
            return Creation(deployment=deployment, outcome="created", canceled=canceled)
    raise refusal("version_conflict")


def _allocated(
    environment: Environment, own: Configuration, type: str | None
) -> tuple[Configuration, RegistryConfig, str, Repository | None]:
    """The repository of a new deployment by the configuration that counts, and that configuration."""
    for last_try in (False, False, True):
        configuration = _in_force(own)
        registry = configuration.registry(type)
        name = images.repository_name(namespace=registry.namespace, project_ref=environment.project.ref)
        try:
            return configuration, registry, name, _repository(environment, configuration, registry, name)
        except Refusal as refused:
            if refused.code != "ConfigurationChanged" or last_try:
                raise
    raise AssertionError("unreachable")


def _in_force(own: Configuration) -> Configuration:
    try:
        return generation.in_force(own)
    except RegistryError as error:
        raise Refusal(str(error), code=error.code, heals=error.heals) from error


def _repeated(environment: Environment, key: str, request_digest: str) -> Deployment | None:
    earlier = Deployment.objects.filter(environment=environment, idempotency_key=key).first()
    if earlier is not None and earlier.request_digest != request_digest:
        raise refusal("idempotency_key_reused")
    return earlier


def _existing(environment: Environment, external_id: str, *, force: bool) -> Deployment | None:
    """The deployment that an external id stands for already (upstream's rules; `--force` builds anyway)."""
    if force:
        return None
    known = list(
        Deployment.objects.filter(environment=environment, external_id=external_id).order_by("-created_at")[:20]
    )
    running = [deployment for deployment in known if not deployment.is_final]
    if running:
        raise refusal("external_id_in_progress", external_id=external_id, version=running[0].version)
    deployed = [deployment for deployment in known if deployment.status == DEPLOYED]
    return max(deployed, key=lambda deployment: deployment.version, default=None)


def _cancel_running(environment: Environment, external_id: str) -> tuple[Deployment, ...]:
    running = Deployment.objects.filter(environment=environment, external_id=external_id).exclude(
        status__in=FINAL_STATUSES
    )
    reason = f"Another deploy of external id {external_id} was forced."
    return tuple(deployment for deployment in running if _cancel(deployment, reason))


def _repository(
    environment: Environment,
    configuration: Configuration,
    registry: RegistryConfig,
    name: str,
    *,
    freshness: timedelta | None = None,
) -> Repository | None:
    """The repository, made right; None for a registry that is not ECR, where a push creates what it needs."""
    ecr_registry = registry_of(registry.host)
    if ecr_registry is None:
        return None
    try:
        return provisioning.ensure_repository(
            registry=registry,
            ecr_registry=ecr_registry,
            name=name,
            project=environment.project,
            digest=configuration.desired_digest,
            freshness=configuration.freshness if freshness is None else freshness,
            enforce=configuration.enforce,
            activation=configuration.activation,
        )
    except RegistryError as error:
        raise Refusal(str(error), code=error.code, heals=error.heals) from error


def _insert(
    *, environment: Environment, registry: RegistryConfig, name: str, deadline: datetime, **values: Any
) -> Deployment:
    """Take the environment's next version and insert the deployment, both or neither: no gaps, no clashes."""
    with transaction.atomic():
        version = _next_version(environment)
        short_code = images.new_short_code()
        tag = images.tag(version=str(version), environment_type=environment.type, short_code=short_code)
        now = timezone.now()
        return Deployment.objects.create(
            project_id=environment.project_id,
            environment=environment,
            short_code=short_code,
            version_day=version.day,
            version_number=version.number,
            status=BUILDING,
            image_ref=images.image_ref(host=registry.host, repository=name, tag=tag),
            created_at=now,
            started_at=now,
            deadline=deadline,
            **values,
        )


def _next_version(environment: Environment) -> images.Version:
    """One UPDATE … RETURNING on the environment's counter, which also queues concurrent deploys behind each other.

    The day is UTC's, and never goes back, even where one host's clock does.
    """
    today = images.version_day(timezone.now().date())
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {Environment._meta.db_table} SET "  # noqa: S608  (a table name of ours, no input)
            "version_number = CASE WHEN version_day >= %s THEN version_number + 1 ELSE 1 END, "
            "version_day = CASE WHEN version_day >= %s THEN version_day ELSE %s END "
            "WHERE id = %s RETURNING version_day, version_number",
            [today, today, today, environment.pk],
        )
        row = cursor.fetchone()
    if row is None:
        raise NotFound("Environment not found")
    return images.Version(*row)


# ----------------------------------------------------------------------------------------------------- build, index


def find_deployment(*, environment: Environment, deployment_id: str) -> Deployment:
    """The environment's deployment with this id, its worker at hand. Raises NotFound, also for another one's."""
    deployment = (
        Deployment.objects.select_related("worker", "environment", "project", "repository")
        .filter(environment=environment, id=deployment_id)
        .first()
    )
    if deployment is None:
        raise NotFound("Deployment not found")
    return deployment


def progress(*, deployment: Deployment, timeout: timedelta) -> None:
    """PENDING → INSTALLING → BUILDING, one step a call. Raises Refusal from any other status."""
    now = timezone.now()
    steps = {
        DeploymentStatus.PENDING: {"status": DeploymentStatus.INSTALLING, "started_at": now},
        DeploymentStatus.INSTALLING: {"status": BUILDING, "installed_at": now},
    }
    step = steps.get(DeploymentStatus(deployment.status))
    if step is None or not _move(deployment, **step, deadline=now + timeout):
        raise refusal("wrong_status", status=deployment.status, wanted="not waiting to be built")


def index(
    *,
    deployment: Deployment,
    content_hash: str,
    tasks: list[dict[str, Any]],
    metadata: dict[str, Any],
    timeout: timedelta,
    engine: str = "",
    sdk_version: str = "",
    cli_version: str = "",
    runtime: str = "",
    runtime_version: str = "",
    target_platform: str = "",
) -> BackgroundWorker:
    """BUILDING → DEPLOYING, with what the indexer found in the image. Repeating it answers with the same worker.

    Raises Refusal for a second platform of one build (only the first one counts), for other content than was
    announced (the deployment is FAILED then, so that the CLI has something to show), and for a wrong status.
    """
    first_platform = deployment.image_platform.partition(",")[0]
    if target_platform and "," in deployment.image_platform and target_platform != first_platform:
        raise refusal("other_platform", first=first_platform, target=target_platform)
    worker: BackgroundWorker | None = getattr(deployment, "worker", None)
    if worker is None and not deployment.is_final:
        worker = _link_worker(
            deployment,
            content_hash=content_hash,
            tasks=tasks,
            metadata=metadata,
            engine=engine,
            sdk_version=sdk_version,
            cli_version=cli_version,
            runtime=runtime,
            runtime_version=runtime_version,
            deadline=timezone.now() + timeout,
        )
    if worker is None:
        raise refusal("wrong_status", status=deployment.status, wanted="not BUILDING")
    if worker.content_hash != content_hash:
        refused = refusal("content_mismatch")
        _end(deployment, FAILED, error={"name": "ContentMismatch", "message": refused.sentence})
        raise refused
    return worker


def _link_worker(
    deployment: Deployment, *, runtime: str, runtime_version: str, deadline: datetime, **values: Any
) -> BackgroundWorker | None:
    with transaction.atomic():
        moved = Deployment.objects.filter(id=deployment.id, status=BUILDING).update(
            status=DEPLOYING,
            built_at=timezone.now(),
            runtime=runtime or deployment.runtime,
            runtime_version=runtime_version,
            deadline=deadline,
        )
        if moved:
            worker = BackgroundWorker.objects.create(deployment=deployment, **values)
            deployment.status = DEPLOYING
            return worker
    # Somebody was faster: the indexer's own retry, or a cancel.
    deployment.refresh_from_db(fields=["status"])
    return BackgroundWorker.objects.filter(deployment=deployment).first()


# --------------------------------------------------------------------------------------------------------- the ends


def fail(*, environment: Environment, deployment_id: str, error: dict[str, Any]) -> None:
    """End a deployment as FAILED with the caller's error. An unknown or ended one is left as it is."""
    deployment = Deployment.objects.filter(environment=environment, id=deployment_id).first()
    if deployment is not None:
        _end(deployment, FAILED, error=error)


def cancel(*, deployment: Deployment, reason: str = "") -> None:
    """End a deployment as CANCELED. Raises Refusal when it has ended already."""
    if not _cancel(deployment, reason):
        raise refusal("already_final", status=deployment.status)


def _cancel(deployment: Deployment, reason: str) -> bool:
    return _end(deployment, CANCELED, canceled_reason=reason[:200])


def _end(deployment: Deployment, status: DeploymentStatus, **values: Any) -> bool:
    """Move any deployment that has not ended to an end other than DEPLOYED; False when it has ended already."""
    now = timezone.now()
    times = {"canceled_at": now} if status == CANCELED else {"failed_at": now}
    changed = (
        Deployment.objects.filter(id=deployment.id)
        .exclude(status__in=FINAL_STATUSES)
        .update(status=status, deadline=None, **times, **values)
    )
    deployment.refresh_from_db(fields=["status"])
    return bool(changed)


def _move(deployment: Deployment, **values: Any) -> bool:
    """A compare-and-set from the status that `deployment` was read with."""
    return bool(Deployment.objects.filter(id=deployment.id, status=deployment.status).update(**values))


def time_out_overdue() -> int:
    """TIMED_OUT for every deployment whose deadline has passed in an unchanged status. Returns how many."""
    now = timezone.now()
    count = 0
    for deployment in Deployment.objects.filter(deadline__lt=now).exclude(status__in=FINAL_STATUSES)[:500]:
        message = f"Nothing was heard of this deployment in time; it was {deployment.status}."
        count += bool(
            Deployment.objects.filter(id=deployment.id, status=deployment.status, deadline=deployment.deadline).update(
                status=TIMED_OUT,
                failed_at=now,
                deadline=None,
                error={"name": "TimeoutError", "message": message},
            )
        )
    return count


# --------------------------------------------------------------------------------------------- finalize and promote


def finalize(
    *, deployment: Deployment, digest: str | None, skip_promotion: bool, configuration: Configuration
) -> Iterator[str]:
    """DEPLOYING → DEPLOYED once the image is proved (`deployments.proof`), then promote. Yields sentences on the way.

    Raises Refusal when the proof fails, and for a wrong status; the deployment stays as it is then, and its receipt
    has the reason, also where the caller goes away. Repeating it on a DEPLOYED one is a success. A deploy overtaken by
    a newer one ends well, without promotion.
    """
    if deployment.status == DEPLOYED:
        yield f"Version {deployment.version} is deployed already."
        return
    if deployment.status != DEPLOYING:
        raise Refusal(_not_deploying(deployment), code="wrong_status")
    if not images.is_digest(digest):
        digest = None  # it is whatever stood in buildx's metadata file
    receipt = yield from _prove(deployment, digest, configuration)
    if deployment.repository is not None and deployment.repository.last_error:
        # The deploy went on because the repository was right before; this is where the CLI's user hears of it.
        yield f"Note: {deployment.repository.last_error}"
    moved = _move(
        deployment,
        status=DEPLOYED,
        deployed_at=timezone.now(),
        image_digest=receipt["digest"] or digest or "",
        receipt=receipt,
        deadline=None,
    )
    deployment.refresh_from_db()
    if not moved and deployment.status != DEPLOYED:
        raise Refusal(_not_deploying(deployment), code="wrong_status")
    if skip_promotion:
        yield f"Version {deployment.version} is deployed and, as asked, not promoted."
    elif _make_current(deployment, by=deployment.triggered_by, newer_only=True):
        yield f"Version {deployment.version} is deployed and current."
    else:
        yield f"Version {deployment.version} is deployed. A newer version is current, so it was not promoted."


def _prove(deployment: Deployment, digest: str | None, configuration: Configuration) -> proof.Steps:
    """Prove the deployment's image; the receipt, also of a refusal, is on the row afterwards or returned."""
    if not configuration.image_verification:
        return proof.unproved("Proving is switched off (DEPLOY_IMAGE_VERIFICATION_ENABLED).")
    configuration = _in_force(configuration)
    registry = configuration.registry(deployment.type or None)

    def mend() -> None:
        # Somebody changed the policy since this deployment began. What cannot be mended is told by the second look.
        with suppress(Refusal):
            name = proof.Place.of(deployment.image_ref).name
            _repository(deployment.environment, configuration, registry, name, freshness=timedelta(0))

    try:
        return (
            yield from proof.prove(
                image_ref=deployment.image_ref,
                digest=digest,
                platforms=deployment.image_platform.split(","),
                registry=registry,
                mend=mend,
            )
        )
    except Refusal as refused:
        refused_receipt = proof.unproved(refused.sentence) | {"code": refused.code, "digest": digest or ""}
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
    allow_rollbacks: bool = False,
    by: str = "",
    configuration: Configuration | None = None,
) -> Deployment:
    """Make a deployed version the current one. Raises NotFound, or Refusal with the reason.

    With a configuration the image is proved again: since its deploy it may have expired, or a policy may have changed.
    What cannot be found out does not stop it, if the image was proved before: going back to what worked is needed
    most on a day when AWS does not answer.
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
    if deployment.status != DEPLOYED or not hasattr(deployment, "worker"):
        raise refusal("not_deployed", version=wanted, status=deployment.status)
    current = current_promotion(environment=environment)
    if current is not None and current.deployment_id == deployment.id:
        raise refusal("already_current", version=wanted)
    if current is not None and not allow_rollbacks and current.deployment.version > wanted:
        raise refusal("older_than_current", version=wanted)
    if configuration is not None:
        _prove_again(deployment, configuration)
    if not _make_current(deployment, by=by, newer_only=not allow_rollbacks):
        raise refusal("older_than_current", version=wanted)
    return deployment


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
        if refused.code != "image_undecided" or not proved:
            raise
        logger.warning("promotion.not_proved_again deployment=%s reason=%s", deployment.id, refused.sentence)


def current_promotion(*, environment: Environment) -> Promotion | None:
    return Promotion.objects.select_related("deployment").filter(environment=environment, label="current").first()


def _make_current(deployment: Deployment, *, by: str, newer_only: bool) -> bool:
    """Point the environment at this deployment; False when what is current is newer and that matters.

    A compare-and-set on what was current: of two at once, the one that loses looks again.
    """
    for _ in range(20):
        current = (
            Promotion.objects.select_related("deployment")
            .filter(environment_id=deployment.environment_id, label="current")
            .first()
        )
        older = current is not None and current.deployment.version > deployment.version
        values = {
            "deployment": deployment,
            "promoted_at": timezone.now(),
            "promoted_by": by,
            "rolled_back_from": current.deployment if current is not None and older else None,
        }
        if current is None:
            try:
                with transaction.atomic():
                    Promotion.objects.create(environment_id=deployment.environment_id, label="current", **values)
            except IntegrityError:
                continue
            return True
        if current.deployment_id == deployment.id:
            return True
        if newer_only and current.deployment.version > deployment.version:
            return False
        if Promotion.objects.filter(Q(id=current.id) & Q(deployment_id=current.deployment_id)).update(**values):
            return True
    raise refusal("busy")


# ------------------------------------------------------------------------------------------------------ credentials


def registry_credentials(*, deployment: Deployment, configuration: Configuration) -> Credentials:
    """A log-in that the CLI can push this deployment's image with, narrowed to its repository where that is possible.

    Raises Refusal. Its reason, or why the credentials open more than one repository, is also stored on the
    deployment, because the CLI does not show it; `credentials_kind` tells which of the two it is.
    """
    row = Deployment.objects.filter(id=deployment.id)
    try:
        if deployment.is_final:
            raise refusal("already_final", status=deployment.status)
        issued = credentials.issue(
            image_ref=deployment.image_ref,
            label=deployment.id,
            registry=configuration.registry(deployment.type or None),
        )
    except Refusal as refused:
        row.update(credentials_error=refused.sentence, credentials_kind="")
        raise
    row.update(credentials_error=issued.wider, credentials_kind=issued.kind)
    return issued
