"""A deployment's life: create, index, finalize, promote, fail, cancel, time out.

Use cases: keyword-only functions that are told everything they need. They know no HTTP and no settings. Every change
of status is a compare-and-set against the status it was decided on, so of two callers one is faster and the other
one finds nothing to do. AWS is asked before the database's transaction, never inside it. Facts that belong together
are one transaction: a status and the promotion that belongs to it, a forced deploy and the cancel that it asks for, a
change and its line of the audit log. All times are the database's clock.

The statuses and what leads from one to the next are the seed's (trigger.dev), with its known traps left out: a
deploy overtaken by a newer one ends well and is not promoted, and a retried request makes no second deployment.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now

from deployments import clock, images, measure
from deployments.access.audit import Trail
from deployments.aws.partitions import registry_of
from deployments.config import Configuration, RegistryConfig
from deployments.deploys import push_credentials
from deployments.deploys.push_credentials import Credentials
from deployments.errors import NotFound as NotFound  # what a use case raises: named here to be caught
from deployments.errors import Refusal as Refusal
from deployments.errors import RegistryError, refusal
from deployments.log import get_logger
from deployments.models import (
    FINAL_STATUSES,
    BackgroundWorker,
    Deployment,
    DeploymentStatus,
    Environment,
    Repository,
)
from deployments.reconcile import bulkhead, generation, repositories

log = get_logger(__name__)

BUILDING, DEPLOYING, DEPLOYED = DeploymentStatus.BUILDING, DeploymentStatus.DEPLOYING, DeploymentStatus.DEPLOYED
REASON_LENGTH = 300  # characters of a deployment's error in its log line; the row has all of it
FAILED, CANCELED, TIMED_OUT = DeploymentStatus.FAILED, DeploymentStatus.CANCELED, DeploymentStatus.TIMED_OUT


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedDeployment:
    """What `create_deployment` came to: a new deployment, or the one that was there already."""

    deployment: Deployment
    outcome: str  # "created" or "existing"

    @property
    def canceled(self) -> tuple[Deployment, ...]:
        """The deployments that were canceled so that this one could be forced. One query."""
        return tuple(self.deployment.replaced.order_by("version_day", "version_number"))


def log_change(event: str, deployment: Deployment, **fields: object) -> None:
    """Count a change of a deployment and write its line, once it is committed. A failure is a WARNING."""
    write = log.warning if event in ("deployment.failed", "deployment.timed_out") else log.info
    line = functools.partial(
        write,
        event,
        deployment=deployment.short_code,
        deployment_id=deployment.id,
        version=str(deployment.version),
        project=deployment.project.ref,
        environment=str(deployment.environment),
        **fields,
    )

    def committed() -> None:
        measure.deploy(event.removeprefix("deployment."))
        line()

    transaction.on_commit(committed)


# ----------------------------------------------------------------------------------------------------------- create


def create_deployment(
    *,
    environment: Environment,
    configuration: Configuration,
    trail: Trail,
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
) -> CreatedDeployment:
    """Allocate a version and an image ref, behind which the repository exists and is set up.

    `force` cancels the running deployments of the same external id, together with the insert of the new one or not at
    all. A repeated idempotency key answers with the deployment of the first request. Raises Refusal when the repository
    cannot be made right (nothing is written then but the repository's row), when the key was used for another
    request, or when an external id is being deployed already.
    """
    external_id = external_id.strip()
    if force and not external_id:
        raise refusal("force_without_external_id")
    if len(external_id) > 128:
        raise refusal("external_id_too_long")
    if idempotency_key and (earlier := _repeated(environment, idempotency_key, request_digest)):
        return CreatedDeployment(deployment=earlier, outcome="created")
    if external_id and not force and (existing := _existing(environment, external_id)):
        return CreatedDeployment(deployment=existing, outcome="existing")
    configuration, registry, name, repository = _allocated(environment, configuration, type)
    for _ in range(3):
        try:
            return _insert(
                environment=environment,
                trail=trail,
                force=force,
                timeout=configuration.deploy_timeout,
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
            )
        except IntegrityError:
            # Our own retry arrived while the first try was still going on, or (once in 10¹²) the short code is taken.
            if idempotency_key and (earlier := _repeated(environment, idempotency_key, request_digest)):
                return CreatedDeployment(deployment=earlier, outcome="created")
    raise refusal("version_conflict")


def _allocated(
    environment: Environment, own: Configuration, type: str | None
) -> tuple[Configuration, RegistryConfig, str, Repository | None]:
    """The repository of a new deployment by the configuration that counts, and that configuration."""
    for last_try in (False, False, True):
        configuration = configuration_in_force(own)
        registry = configuration.registry(type)
        name = images.repository_name(namespace=registry.namespace, project_ref=environment.project.ref)
        try:
            return configuration, registry, name, ensure_repository(environment, configuration, registry, name)
        except Refusal as refused:
            if refused.code != "ConfigurationChanged" or last_try:
                raise
    raise AssertionError("unreachable")


def configuration_in_force(own: Configuration) -> Configuration:
    try:
        return generation.in_force(own)
    except RegistryError as error:
        raise error.as_refusal() from error


def _repeated(environment: Environment, key: str, request_digest: str) -> Deployment | None:
    earlier = Deployment.objects.filter(environment=environment, idempotency_key=key).first()
    if earlier is not None and earlier.request_digest != request_digest:
        raise refusal("idempotency_key_reused")
    return earlier


def _existing(environment: Environment, external_id: str) -> Deployment | None:
    """The deployment that an external id stands for already (upstream's rules; `--force` builds anyway)."""
    known = list(
        Deployment.objects.filter(environment=environment, external_id=external_id).order_by("-created_at")[:20]
    )
    running = [deployment for deployment in known if not deployment.is_final]
    if running:
        raise refusal("external_id_in_progress", external_id=external_id, version=running[0].version)
    deployed = [deployment for deployment in known if deployment.status == DEPLOYED]
    return max(deployed, key=lambda deployment: deployment.version, default=None)


def ensure_repository(
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
        return repositories.ensure_repository(
            config=registry,
            registry=ecr_registry,
            name=name,
            project=environment.project,
            desired_digest=configuration.desired_digest,
            freshness=configuration.freshness if freshness is None else freshness,
            enforce=configuration.enforce,
            activation=configuration.activation,
        )
    except RegistryError as error:
        raise error.as_refusal() from error


def _insert(
    *,
    environment: Environment,
    trail: Trail,
    force: bool,
    timeout: timedelta,
    registry: RegistryConfig,
    name: str,
    external_id: str,
    **values: Any,
) -> CreatedDeployment:
    """Take the environment's next version, insert the deployment and cancel those that it replaces: in one transaction,
    so there are no gaps, no clashes and no deployment that was canceled for one that never came.
    """
    with transaction.atomic():
        if external_id and not force:
            # Of two with one external id that both found nothing before they asked AWS, the second one finds the first.
            Environment.objects.select_for_update(no_key=True).get(pk=environment.pk)
            if existing := _existing(environment, external_id):
                return CreatedDeployment(deployment=existing, outcome="existing")
        version, now = _next_version(environment)
        short_code = images.new_short_code()
        tag = images.tag(version=str(version), environment_type=environment.type, short_code=short_code)
        deployment = Deployment.objects.create(
            project=environment.project,
            environment=environment,
            short_code=short_code,
            version_day=version.day,
            version_number=version.number,
            status=BUILDING,
            image_ref=images.image_ref(host=registry.host, repository=name, tag=tag),
            external_id=external_id,
            created_at=now,
            started_at=now,
            deadline=now + timeout,
            **values,
        )
        log_change("deployment.created", deployment, image=deployment.image_ref)
        if force:
            _replace(deployment, trail)
    return CreatedDeployment(deployment=deployment, outcome="created")


def _replace(deployment: Deployment, trail: Trail) -> None:
    """Cancel the other running deployments of its external id. Inside the transaction that inserts it."""
    running = Deployment.objects.filter(environment_id=deployment.environment_id, external_id=deployment.external_id)
    reason = f"Another deploy of external id {deployment.external_id} was forced."[:200]
    for each in running.exclude(status__in=FINAL_STATUSES).exclude(id=deployment.id).select_for_update(no_key=True):
        before = {"status": each.status}
        if _end(each, CANCELED, canceled_reason=reason, replaced_by=deployment):
            after = {"status": CANCELED, "replaced_by": str(deployment.version)}
            trail.record("cancel.deployment", each, before=before, after=after)


def _next_version(environment: Environment) -> tuple[images.Version, datetime]:
    """One UPDATE … RETURNING on the environment's counter, which also queues concurrent deploys behind each other; and
    the time at which it was our turn.

    The day is UTC's by the database's clock, and never goes back, even where that clock does.
    """
    day, now = clock.DAY[connection.vendor], clock.NOW[connection.vendor]
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {Environment._meta.db_table} SET "  # noqa: S608  (names and texts of ours, no input)
            f"version_number = CASE WHEN version_day >= {day} THEN version_number + 1 ELSE 1 END, "
            f"version_day = CASE WHEN version_day >= {day} THEN version_day ELSE {day} END "
            f"WHERE id = %s RETURNING version_day, version_number, {now}",
            [environment.pk],
        )
        row = cursor.fetchone()
    if row is None:
        raise NotFound("Environment not found")
    return images.Version(*row[:2]), clock.read(row[2])


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
            timeout=timeout,
        )
    if worker is None:
        raise refusal("wrong_status", status=deployment.status, wanted="not BUILDING")
    if worker.content_hash != content_hash:
        refused = refusal("content_mismatch")
        _end(deployment, FAILED, error={"name": "ContentMismatch", "message": refused.sentence})
        raise refused
    return worker


def _link_worker(
    deployment: Deployment, *, runtime: str, runtime_version: str, timeout: timedelta, **values: Any
) -> BackgroundWorker | None:
    with transaction.atomic():
        moved = Deployment.objects.filter(id=deployment.id, status=BUILDING).update(
            status=DEPLOYING,
            built_at=Now(),
            runtime=runtime or deployment.runtime,
            runtime_version=runtime_version,
            deadline=Now() + timeout,
        )
        if moved:
            worker = BackgroundWorker.objects.create(deployment=deployment, **values)
            deployment.status = DEPLOYING
            log_change("deployment.indexed", deployment, tasks=len(worker.tasks))
            return worker
    # Somebody was faster: the indexer's own retry, or a cancel.
    deployment.refresh_from_db(fields=["status"])
    return BackgroundWorker.objects.filter(deployment=deployment).first()


# --------------------------------------------------------------------------------------------------------- the ends


def fail(*, environment: Environment, deployment_id: str, error: dict[str, Any]) -> None:
    """End a deployment as FAILED with the caller's error. An unknown or ended one is left as it is."""
    related = Deployment.objects.select_related("project", "environment")
    deployment = related.filter(environment=environment, id=deployment_id).first()
    if deployment is not None:
        _end(deployment, FAILED, error=error)


def cancel(*, deployment: Deployment, trail: Trail, reason: str = "") -> None:
    """End a deployment as CANCELED. Raises Refusal when it has ended already."""
    with trail.change("cancel.deployment", deployment) as line:
        row = Deployment.objects.select_for_update(no_key=True).only("status").get(id=deployment.id)
        line.before, line.after = {"status": row.status}, {"status": CANCELED}
        if not _end(deployment, CANCELED, canceled_reason=reason[:200]):
            line.after = None
            raise refusal("already_final", status=deployment.status)


def _end(deployment: Deployment, status: DeploymentStatus, **values: Any) -> bool:
    """Move any deployment that has not ended to an end other than DEPLOYED; False when it has ended already."""
    times = {"canceled_at": Now()} if status == CANCELED else {"failed_at": Now()}
    changed = (
        Deployment.objects.filter(id=deployment.id)
        .exclude(status__in=FINAL_STATUSES)
        .update(status=status, deadline=None, **times, **values)
    )
    deployment.refresh_from_db(fields=["status"])
    if changed:
        error: dict[str, Any] = values.get("error") or {}
        reason = values.get("canceled_reason") or f"{error.get('name', '')}: {error.get('message', '')}"[:REASON_LENGTH]
        log_change(f"deployment.{status.lower()}", deployment, reason=reason)
    return bool(changed)


def update_running(deployment: Deployment, **values: Any) -> bool:
    """A compare-and-set from the status that `deployment` was read with."""
    return bool(Deployment.objects.filter(id=deployment.id, status=deployment.status).update(**values))


def time_out_overdue() -> int:
    """TIMED_OUT for every deployment whose deadline has passed in an unchanged status. Returns how many."""
    overdue = Deployment.objects.filter(deadline__lt=Now()).exclude(status__in=FINAL_STATUSES)
    count = 0
    for deployment in overdue.select_related("project", "environment").order_by("created_at"):
        message = f"The CLI sent nothing for this deployment in time; it was {deployment.status}."
        # One statement compares status and deadline and changes them, so a deployment that moves on is not timed out.
        changed = overdue.filter(pk=deployment.pk, status=deployment.status).update(
            status=TIMED_OUT,
            failed_at=Now(),
            deadline=None,
            error={"name": "TimeoutError", "message": message},
        )
        if changed:
            log_change("deployment.timed_out", deployment, reason=message)
            count += 1
    return count


# --------------------------------------------------------------------------------------------- finalize and promote


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
        with bulkhead.place():
            issued = push_credentials.issue(
                image_ref=deployment.image_ref,
                label=deployment.id,
                registry=configuration.registry(deployment.type or None),
            )
    except Refusal as refused:
        row.update(credentials_error=refused.sentence, credentials_kind="")
        raise
    row.update(credentials_error=issued.wider, credentials_kind=issued.kind)
    return issued
