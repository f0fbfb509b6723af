"""A deployment's life: create, index, finalize, promote, fail, cancel, time out.

Use cases: keyword-only functions. They take what they need as arguments and know no HTTP and no settings. Every change
of status is a compare-and-set against the status that the decision was based on, so of two callers one changes the row
and the other finds nothing to do. Calls to AWS come before the database transaction, never inside it. Facts that belong
together are one transaction: a status and its promotion, a forced deploy and the cancel that it causes, a change and
its audit line. All times are the database's clock.

The statuses and their order are trigger.dev's, without two known bugs: a deploy overtaken by a newer deploy ends as
DEPLOYED and is not promoted, and a retried request makes no second deployment.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, connection, transaction
from django.db.models import Q
from django.db.models.functions import Least, Now

from deployments import catalogue, clock, images, measure
from deployments.access import keys
from deployments.access.audit import Trail
from deployments.aws.partitions import registry_of
from deployments.config import Configuration, RegistryConfig
from deployments.deploys import push_credentials
from deployments.deploys.push_credentials import Credentials
from deployments.errors import NotFound as NotFound  # re-exported: the use cases raise it
from deployments.errors import Refusal as Refusal
from deployments.errors import RegistryError, refusal
from deployments.log import get_logger
from deployments.models import (
    FINAL_STATUSES,
    AccessKey,
    BackgroundWorker,
    Deployment,
    DeploymentStatus,
    Environment,
    EnvironmentType,
    Project,
    Repository,
)
from deployments.reconcile import bulkhead, generation, repositories, targets
from registry_admin.compiled_queries import Compiled, CompiledInsert, prepared_cursor

log = get_logger(__name__)

BUILDING, DEPLOYING, DEPLOYED = DeploymentStatus.BUILDING, DeploymentStatus.DEPLOYING, DeploymentStatus.DEPLOYED
FAILED, CANCELED, TIMED_OUT = DeploymentStatus.FAILED, DeploymentStatus.CANCELED, DeploymentStatus.TIMED_OUT
#: `triggered_via` of a deploy that a person began in a shell, as the CLI says; in CI it names the CI.
BY_HAND = "cli:manual"
#: After this time without a request, a running deployment is shown as silent.
SILENCE = timedelta(minutes=1)
#: The worker times deployments out once a minute, and later after a restart: until then each step is still accepted.
TIMED_OUT_LATE = timedelta(minutes=5)
REASON_LENGTH = 300  # characters of a deployment's error in its log line; the row has all of it


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedDeployment:
    """The result of `create_deployment`: a new deployment, or an existing deployment with the same external id."""

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
    begun_by: int | None = None,
    only_key: AccessKey | None = None,
) -> CreatedDeployment:
    """Allocate a version and an image ref whose repository exists and is set up.

    `begun_by`: the id of the user whose personal access token asks for it.

    `force` cancels the running deployments with the same external id, in the transaction that inserts the new
    deployment. A repeated idempotency key answers with the deployment of the first request. `only_key`: a key for one
    deployment, which the new deployment uses up.

    Raises Refusal if the repository cannot be set up (then only the repository's row is written), if the idempotency
    key was used for another request, or if another deploy with the external id is running.
    """
    external_id = external_id.strip()
    if force and not external_id:
        raise refusal("force_without_external_id")
    if len(external_id) > 128:
        raise refusal("external_id_too_long")
    if idempotency_key and (earlier := _repeated(environment, idempotency_key, request_digest, only_key)):
        return CreatedDeployment(deployment=earlier, outcome="created")
    if only_key is not None and only_key.deployment_id is not None:  # before AWS is asked; `_insert` compares again
        raise refusal("one_deployment_only", reason="it has begun a deployment before")
    if external_id and not force and (existing := _existing(environment, external_id)):
        return CreatedDeployment(deployment=existing, outcome="existing")
    require_active(environment.project)  # before AWS is asked; `_insert` compares again
    configuration, config, name, repository = _allocated(environment, configuration, type)
    for _ in range(3):
        try:
            return _insert(
                environment=environment,
                trail=trail,
                force=force,
                timeout=configuration.deploy_timeout,
                repository=repository,
                config=config,
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
                begun_by=begun_by,
                only_key=only_key,
            )
        except IntegrityError:
            # Either the client retried while its first request was running, or (once in 10¹²) the short code is taken.
            if idempotency_key and (earlier := _repeated(environment, idempotency_key, request_digest, only_key)):
                return CreatedDeployment(deployment=earlier, outcome="created")
    raise refusal("version_conflict")


def require_active(project: Project | None) -> None:
    """Raise NotFound if the project was deleted, Refusal if it is archived."""
    if project is None:
        raise NotFound("Project not found")
    if project.archived_at is not None:
        raise refusal("project_archived", project=project.name, ref=project.ref)


def _allocated(
    environment: Environment, own: Configuration, type: str | None
) -> tuple[Configuration, RegistryConfig, str, Repository | None]:
    """(configuration that counts, its registry, repository name, repository row) for a new deployment."""
    for last_try in (False, False, True):
        configuration = configuration_in_force(own)
        config = configuration.registry(type)
        name = repository_name(environment, configuration, config)
        try:
            return configuration, config, name, ensure_repository(environment, configuration, config, name)
        except Refusal as refused:
            if refused.code != "ConfigurationChanged" or last_try:
                raise
    raise AssertionError("unreachable")


def repository_name(environment: Environment, configuration: Configuration, config: RegistryConfig) -> str:
    """The name of the repository for a new deployment of this environment."""
    ref = environment.project.ref
    is_preview = configuration.preview_repositories and environment.type == EnvironmentType.PREVIEW
    name = images.repository_name(namespace=config.namespace, project_ref=ref, is_preview=is_preview)
    if is_preview and (registry_of(config.host) is None or _is_of_another_project(name, ref, config)):
        return images.repository_name(namespace=config.namespace, project_ref=ref)
    return name


def _is_of_another_project(name: str, ref: str, config: RegistryConfig) -> bool:
    """Whether a project was made with a ref that is refused since then: `images.is_project_ref`."""
    others = {each for each in images.possible_refs(name, namespace=config.namespace) if each != ref}
    return Project.objects.filter(ref__in=others).exists()


def configuration_in_force(own: Configuration) -> Configuration:
    """The configuration that counts. `own`: this process's configuration. Raises Refusal if it cannot be used."""
    try:
        return generation.in_force(own)
    except RegistryError as error:
        raise error.as_refusal() from error


_by_idempotency_key = Compiled[Deployment](
    lambda environment, key: Deployment.objects.filter(environment=environment, idempotency_key=key), int, str
)
_locked_project = Compiled[Project](
    lambda pk: Project.objects.select_for_update(no_key=True).filter(pk=pk).order_by(), int
)
_inserted = CompiledInsert(Deployment)


def _repeated(environment: Environment, key: str, request_digest: str, only_key: AccessKey | None) -> Deployment | None:
    earlier = _by_idempotency_key.first(environment.pk, key)
    if earlier is not None and earlier.request_digest != request_digest:
        raise refusal("idempotency_key_reused")
    if earlier is not None and only_key is not None and not keys.has_begun(only_key, earlier):
        raise refusal("one_deployment_only", reason="another key has begun this deployment")
    return earlier


def _existing(environment: Environment, external_id: str) -> Deployment | None:
    """The newest deployed deployment with this external id, as in trigger.dev; None if there is none.

    Raises Refusal if a deployment with this external id is running.
    """
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
    config: RegistryConfig,
    name: str,
    *,
    freshness: timedelta | None = None,
) -> Repository | None:
    """The row of the repository, which is set up in AWS; None for a registry that is not ECR (a push creates there).

    `freshness`: how old the last check may be; None: as the settings say. Raises Refusal.
    """
    ecr_registry = registry_of(config.host)
    if ecr_registry is None:
        return None
    try:
        return repositories.ensure_repository(
            config=config,
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
    config: RegistryConfig,
    name: str,
    external_id: str,
    only_key: AccessKey | None,
    **values: Any,
) -> CreatedDeployment:
    """Take the environment's next version, insert the deployment and, with `force`, cancel the deployments that it
    replaces. One transaction: no version is skipped or used twice, and no deployment is canceled without a new one.
    """
    with transaction.atomic():
        # The lock orders this transaction and `projects.archive`: either this one finds the project archived, or the
        # other one finds the deployment and cancels it.
        require_active(_locked_project.first(environment.project_id))
        if external_id and not force:
            # Two requests with one external id may both have found no deployment before their calls to AWS. This lock
            # lets the second request find the deployment of the first.
            Environment.objects.select_for_update(no_key=True).get(pk=environment.pk)
            if existing := _existing(environment, external_id):
                return CreatedDeployment(deployment=existing, outcome="existing")
        version, now = _next_version(environment)
        short_code = images.new_short_code()
        tag = images.tag(version=str(version), environment_type=environment.type, short_code=short_code)
        deployment = Deployment(
            project=environment.project,
            environment=environment,
            short_code=short_code,
            version_day=version.day,
            version_number=version.number,
            status=BUILDING,
            image_ref=images.image_ref(host=config.host, repository=name, tag=tag),
            external_id=external_id,
            created_at=now,
            started_at=now,
            deadline=now + timeout,
            last_request_at=now,
            **values,
        )
        _inserted.run(deployment)
        if only_key is not None:
            keys.begin_deployment(only_key, deployment)
        log_change("deployment.created", deployment, image=deployment.image_ref)
        if force:
            _replace(deployment, trail)
    return CreatedDeployment(deployment=deployment, outcome="created")


def _replace(deployment: Deployment, trail: Trail) -> None:
    """Cancel the other running deployments with this deployment's external id. Needs an open transaction."""
    running = Deployment.objects.filter(environment_id=deployment.environment_id, external_id=deployment.external_id)
    reason = f"Another deploy of external id {deployment.external_id} was forced."[:200]
    for each in running.exclude(status__in=FINAL_STATUSES).exclude(id=deployment.id).select_for_update(no_key=True):
        before = {"status": each.status}
        if _end(each, CANCELED, canceled_reason=reason, replaced_by=deployment):
            after = {"status": CANCELED, "replaced_by": str(deployment.version)}
            trail.record("cancel.deployment", each, before=before, after=after)


def _next_version(environment: Environment) -> tuple[images.Version, datetime]:
    """(the environment's next version, the database's time). Concurrent deploys wait for each other's transaction here.

    The day of the version is the UTC day of the database's clock. It never goes back, even if the clock does.
    """
    day, now = clock.DAY[connection.vendor], clock.NOW[connection.vendor]
    with prepared_cursor() as cursor:
        cursor.execute(
            f"UPDATE {Environment._meta.db_table} SET "  # noqa: S608  (no input is part of the text)
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
    """The environment's deployment with this id, with its worker. Raises NotFound, also for another environment's."""
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
    """BUILDING → DEPLOYING, with the indexer's report about the image. A repetition answers with the same worker.

    Raises Refusal for the second platform of a build (only the first platform's report is used), for another content
    hash than the deploy announced (the deployment is then FAILED, because the CLI shows only a stored error), and for a
    wrong status.
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
            last_request_at=Now(),
        )
        if moved:
            worker = BackgroundWorker.objects.create(deployment=deployment, **values)
            deployment.status = DEPLOYING
            log_change("deployment.indexed", deployment, tasks=len(worker.tasks))
            return worker
    # Another request changed the status first: the indexer's retry, or a cancel.
    deployment.refresh_from_db(fields=["status"])
    return BackgroundWorker.objects.filter(deployment=deployment).first()


# --------------------------------------------------------------------------------------------------------- the ends


def fail(*, environment: Environment, deployment_id: str, error: dict[str, Any]) -> None:
    """End a deployment as FAILED with the caller's error. Does nothing for an unknown or ended deployment.

    If the registry refused the build, or may have, the message also says what to do.
    """
    related = Deployment.objects.select_related("project", "environment")
    deployment = related.filter(environment=environment, id=deployment_id).first()
    if deployment is not None:
        advice = push_credentials.advice(
            error,
            image_ref=deployment.image_ref,
            is_indexed=deployment.status == DEPLOYING,
            log_in=deployment.log_in,
            now=clock.now(),
        )
        if advice:
            error = {**error, "message": f"{str(error.get('message', '')).rstrip(' .')}. {advice}"}
        _end(deployment, FAILED, error=error)


def cancel(*, deployment: Deployment, trail: Trail, reason: str = "") -> None:
    """End a deployment as CANCELED. Raises Refusal if the deployment has ended."""
    with trail.change("cancel.deployment", deployment) as line:
        row = Deployment.objects.select_for_update(no_key=True).only("status").get(id=deployment.id)
        line.before, line.after = {"status": row.status}, {"status": CANCELED}
        if not _end(deployment, CANCELED, canceled_reason=reason[:200]):
            line.after = None
            raise refusal("already_final", status=deployment.status)


def cancel_running(*, project: Project, trail: Trail, reason: str) -> int:
    """Cancel the running deployments of the project. Needs an open transaction. Returns how many it has canceled."""
    running = Deployment.objects.filter(project=project).exclude(status__in=FINAL_STATUSES)
    canceled = 0
    for each in running.order_by("pk").select_for_update(no_key=True):
        before = {"status": each.status}
        if _end(each, CANCELED, canceled_reason=reason[:200]):
            trail.record("cancel.deployment", each, before=before, after={"status": CANCELED})
            canceled += 1
    return canceled


def _end(deployment: Deployment, status: DeploymentStatus, **values: Any) -> bool:
    """End a running deployment as FAILED, CANCELED or TIMED_OUT; False if it has already ended."""
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
        # deployment.failed, deployment.canceled or deployment.timed_out
        code = {"code": str(error["name"])[:REASON_LENGTH]} if error.get("name") else {}
        log_change(f"deployment.{status.lower()}", deployment, reason=reason, **code)
    return bool(changed)


def end_interrupted(deployment: Deployment) -> int:
    """Cancel earlier deploys that somebody interrupted, now that their repetition is promoted. Returns how many.

    An interrupted CLI (Ctrl-C) says nothing, and a CLI that builds says nothing for minutes either. So a deploy counts
    as interrupted only if it was begun by hand, the same person has deployed the same commit to the same environment
    after it, and it sent no request since then, nor for SILENCE. A deploy that was taken for interrupted and was not
    ends with the reason. Its version would not become current any more, because a newer one has (D-interrupted). The
    caller may call this only then. CI runs, which may well run side by side, are left alone. The CLI recognises a CI by
    its variables, and a pod has none, so the deploys of a key that belongs to no person are left alone too.
    """
    if deployment.triggered_via != BY_HAND or deployment.begun_by is None:
        return 0
    commit = deployment.git.get("commitSha")
    same = Q(git__commitSha=commit) if commit else Q(git__commitSha__isnull=True, content_hash=deployment.content_hash)
    earlier = Deployment.objects.filter(
        same,
        environment=deployment.environment_id,
        triggered_via=BY_HAND,
        begun_by=deployment.begun_by,
        last_request_at__lt=Least(deployment.created_at, Now() - SILENCE),
    ).exclude(status__in=FINAL_STATUSES)
    count = 0
    for each in earlier.select_related("project", "environment").order_by("created_at"):
        reason = (
            f"The same person has deployed the same {'commit' if commit else 'content'} again, as version "
            f"{deployment.version}. This deploy sent no request after {each.last_request_at:%H:%M:%S} UTC."
        )
        # One statement compares and changes, so a deploy that takes its next step in this moment goes on.
        ended = earlier.filter(pk=each.pk, status=each.status).update(
            status=CANCELED, canceled_at=Now(), deadline=None, canceled_reason=reason, replaced_by=deployment
        )
        if ended:
            log_change("deployment.canceled", each, reason=reason)
            count += 1
    return count


def silent_since(deployment: Deployment, now: datetime) -> datetime | None:
    """When the CLI of a running deployment sent its last request, if that was more than SILENCE before `now`.

    `now`: by the database's clock, like the time of the request.
    """
    last = deployment.last_request_at
    return last if not deployment.is_final and last is not None and now - last > SILENCE else None


def update_running(deployment: Deployment, **values: Any) -> bool:
    """Set `values` if the row still has the status that `deployment` was read with; else False."""
    return bool(Deployment.objects.filter(id=deployment.id, status=deployment.status).update(**values))


def time_out_overdue() -> int:
    """End each running deployment as TIMED_OUT whose deadline has passed. Returns how many."""
    overdue = Deployment.objects.filter(deadline__lt=Now()).exclude(status__in=FINAL_STATUSES)
    count = 0
    for deployment in overdue.select_related("project", "environment").order_by("created_at"):
        message = catalogue.sentence("TimeoutError", status=deployment.status)
        # One statement compares and changes status and deadline, so a deployment that takes its next step in time is
        # not timed out.
        changed = overdue.filter(pk=deployment.pk, status=deployment.status).update(
            status=TIMED_OUT,
            failed_at=Now(),
            deadline=None,
            error={"name": "TimeoutError", "message": message},
        )
        if changed:
            log_change("deployment.timed_out", deployment, reason=message, code="TimeoutError")
            count += 1
    return count


# ------------------------------------------------------------------------------------------------------ credentials


def registry_of_image(deployment: Deployment, configuration: Configuration) -> RegistryConfig:
    """The configured registry that a deployment's image is in. Raises Refusal where the settings name another one."""
    config = targets.of_image(deployment.image_ref, deployment.type, configuration)
    if config is None:
        raise refusal("registry_not_configured", host=deployment.image_ref.partition("/")[0])
    return config


def registry_credentials(
    *, deployment: Deployment, configuration: Configuration, person: int | None = None
) -> Credentials:
    """A log-in with which the CLI can push this deployment's image, limited to what the build needs if AWS allows that.

    The log-in is for the registry that the deployment's image ref names, by the configuration that counts. `person`:
    the id of the user whose personal access token asks for it, or whose token the deploy key was made with. It lasts
    as long as a push can still be finished: until the deadline, after the report of the indexer once more the time that
    a deployment has, and TIMED_OUT_LATE.

    Raises Refusal, also if that configuration names another registry by now. `credentials_error` on the deployment
    stores the reason of a refusal, or why the credentials give access to more than one repository, because the CLI
    does not show either. `credentials_kind` is empty after a refusal. `log_in` then keeps what an earlier log-in opens,
    because a refusal does not end it.
    """
    row = Deployment.objects.filter(id=deployment.id)
    try:
        if deployment.is_final:
            raise refusal("already_final", status=deployment.status)
        config = registry_of_image(deployment, configuration_in_force(configuration))
        with bulkhead.place():
            issued = push_credentials.issue(
                image_ref=deployment.image_ref,
                label=deployment.id,
                config=config,
                seconds=_seconds_left(deployment) + (configuration.deploy_timeout + TIMED_OUT_LATE).total_seconds(),
                also=_others_in_progress(deployment, config, person),
            )
    except Refusal as refused:
        row.update(credentials_error=refused.sentence, credentials_kind="", last_request_at=Now())
        raise
    values = {"credentials_error": issued.wider, "credentials_kind": issued.kind, "log_in": issued.opens}
    row.update(**values, last_request_at=Now())
    return issued


def _seconds_left(deployment: Deployment) -> float:
    return (deployment.deadline - clock.now()).total_seconds() if deployment.deadline else 0.0


def _others_in_progress(deployment: Deployment, config: RegistryConfig, person: int | None) -> list[str]:
    """The repositories of the person's other deployments in progress in this registry, the newest deployment first.

    None for a log-in of a preview deployment, and none because of a preview deployment (D-push-credentials).
    """
    registry = registry_of(config.host)
    if person is None or registry is None or deployment.environment.type == EnvironmentType.PREVIEW:
        return []
    running = Deployment.objects.filter(begun_by=person, deadline__gt=Now())  # what has ended has no deadline
    others = running.exclude(environment__type=EnvironmentType.PREVIEW).order_by("-created_at")
    uris = [ref.rpartition(":")[0] for ref in (deployment.image_ref, *others.values_list("image_ref", flat=True))]
    hosts_and_names = [uri.partition("/")[::2] for uri in uris]
    own = hosts_and_names[0][1]
    return list(dict.fromkeys(name for host, name in hosts_and_names if name != own and registry_of(host) == registry))
