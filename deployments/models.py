"""The state: what projects there are, what was deployed, what we know of each repository, who may ask.

Rows only. Nothing here talks to AWS or to the queue, so saving a row can never do either, and there are no signals.
The invariants that code could get wrong stand in the database as named constraints.

Statuses are words that a row can rest in. One that would be true only while code runs (“syncing”) is not among
them: a crash would leave it behind.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from deployments import images


class Project(models.Model):
    """What a CLI deploys: one ref, one repository for the images of all its environments."""

    ref = models.CharField(max_length=64, unique=True, default=images.new_project_ref, editable=False)
    name = models.CharField(max_length=200)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class EnvironmentType(models.TextChoices):
    PRODUCTION = "PRODUCTION", "Production"
    STAGING = "STAGING", "Staging"
    PREVIEW = "PREVIEW", "Preview"
    DEVELOPMENT = "DEVELOPMENT", "Development"


#: `{env}` in the API's paths → (type, prefix of its keys). `prod` is also what the CLI makes of `production`.
ENVIRONMENT_SLUGS: dict[str, tuple[EnvironmentType, str]] = {
    "prod": (EnvironmentType.PRODUCTION, "prod"),
    "staging": (EnvironmentType.STAGING, "stg"),
    "preview": (EnvironmentType.PREVIEW, "preview"),
    "dev": (EnvironmentType.DEVELOPMENT, "dev"),
}
#: Upstream's own slug of the staging environment, which users and scripts write too.
SLUG_ALIASES = {"stg": "staging", "production": "prod"}


class Environment(models.Model):
    """Where versions are counted and one deployment is current. A preview branch is one, below its parent."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="environments")
    type = models.CharField(max_length=12, choices=EnvironmentType.choices)
    slug = models.CharField(max_length=16)
    parent = models.ForeignKey("self", null=True, blank=True, on_delete=models.CASCADE, related_name="branches")
    branch = models.CharField(max_length=255, blank=True)
    git = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    archived_at = models.DateTimeField(null=True, blank=True)
    # The version counter: the newest day that had a deployment, and how many it had. One UPDATE moves both.
    version_day = models.CharField(max_length=8, default="", editable=False)
    version_number = models.PositiveIntegerField(default=0, editable=False)

    class Meta:
        ordering = ["project__name", "slug", "branch"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "slug"], condition=Q(parent__isnull=True), name="environment_root_slug_unique"
            ),
            models.UniqueConstraint(
                fields=["parent", "branch"], condition=Q(parent__isnull=False), name="environment_branch_unique"
            ),
            models.CheckConstraint(
                condition=Q(parent__isnull=True, branch="") | (Q(parent__isnull=False) & ~Q(branch="")),
                name="environment_branch_has_parent",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.slug}/{self.branch}" if self.branch else self.slug


class KeyKind(models.TextChoices):
    USER = "user", "Personal access token"
    ENVIRONMENT = "environment", "Environment key"
    DEPLOY = "deploy", "Deploy key (short-lived)"


class AccessKey(models.Model):
    """A bearer token. Stored as its digest; the text is shown once, by whoever made it."""

    kind = models.CharField(max_length=12, choices=KeyKind.choices)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE)
    environment = models.ForeignKey(
        Environment, null=True, blank=True, on_delete=models.CASCADE, related_name="access_keys"
    )
    name = models.CharField(max_length=200, blank=True)
    scopes = models.JSONField(default=list, blank=True)  # "deploy", "read", "credentials"; empty: all
    replaces = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.SET_NULL, related_name="replaced_by", editable=False
    )
    prefix = models.CharField(max_length=24, editable=False)  # enough to tell keys apart, not to use one
    digest = models.CharField(max_length=64, unique=True, editable=False)  # hex SHA-256 of a random 120+ bit text
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_by = models.CharField(max_length=200, blank=True, editable=False)  # client and address

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(kind=KeyKind.USER, user__isnull=False, environment__isnull=True)
                | (~Q(kind=KeyKind.USER) & Q(environment__isnull=False)),
                name="access_key_owner_matches_kind",
            )
        ]

    def __str__(self) -> str:
        return f"{self.prefix}…"

    @property
    def is_live(self) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > timezone.now())


class RepositoryStatus(models.TextChoices):
    PENDING = "pending", "Pending"  # never looked at to the end
    IN_SYNC = "in_sync", "In sync"
    DRIFTED = "drifted", "Drifted"  # differs, and we may not or must not write
    FAILED = "failed", "Failed"  # the last attempt ended in an error
    MISSING = "missing", "Missing"  # gone from the registry; the next deploy makes it again
    UNMANAGED = "unmanaged", "Unmanaged"  # discovered, not adopted


class Repository(models.Model):
    """One ECR repository: what we want, what we saw, and who is working on it right now.

    The row is written before AWS hears of the repository, so a crash never leaves one that nobody knows of.
    """

    account = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    name = models.CharField(max_length=256)
    host = models.CharField(max_length=253)
    project = models.ForeignKey(Project, null=True, blank=True, on_delete=models.SET_NULL, related_name="repositories")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    status = models.CharField(max_length=12, choices=RepositoryStatus.choices, default=RepositoryStatus.PENDING)
    # What differs from the configuration, or is only reported: a list of {"what", "words", "writable"}.
    differences = models.JSONField(default=list, blank=True, encoder=DjangoJSONEncoder)
    last_error = models.TextField(blank=True)
    last_error_code = models.CharField(max_length=100, blank=True)
    last_error_heals = models.BooleanField(default=False)  # by itself: trying again is enough
    last_error_is_installation = models.BooleanField(default=False)  # every repository suffers from it
    last_error_at = models.DateTimeField(null=True, blank=True)
    error_since = models.DateTimeField(null=True, blank=True)  # this error, without a success in between
    attempted_at = models.DateTimeField(null=True, blank=True)  # stamped before the work: a sweep goes stalest first
    last_checked_at = models.DateTimeField(null=True, blank=True)  # when the last look began that AWS answered
    written_at = models.DateTimeField(null=True, blank=True)  # when we last wrote to AWS
    last_in_sync_at = models.DateTimeField(null=True, blank=True)
    drifted_since = models.DateTimeField(null=True, blank=True)
    checked_digest = models.CharField(max_length=64, blank=True)  # the desired state that the last look compared with

    # What AWS showed at the last look of each kind.
    origin = models.CharField(  # "adopted" ones keep what somebody else chose: lifecycle policy, mutability
        max_length=8, blank=True, choices=[("created", "Created by us"), ("adopted", "Adopted")]
    )
    # An operator's click on an adopted one: lifecycle policy and mutability are ours from then on too.
    taken_over_at = models.DateTimeField(null=True, blank=True)
    creating_since = models.DateTimeField(null=True, blank=True)  # CreateRepository was sent, and not answered yet
    policy_text = models.TextField(blank=True)
    policy_applied_at = models.DateTimeField(null=True, blank=True)  # it had our policy at this time; null: never
    lifecycle_text = models.TextField(blank=True)
    lifecycle_is_ours = models.BooleanField(default=False)
    tags = models.JSONField(default=dict, blank=True)
    mutability = models.JSONField(default=dict, blank=True)  # {"mode", "exclusions"}
    encryption = models.JSONField(default=dict, blank=True)  # {"type", "kms_key"}
    details_checked_at = models.DateTimeField(null=True, blank=True)  # describe, lifecycle and tags
    # Whether each configured consumer account may pull, by the policy that was seen: {account: {"pull", "words"}}.
    consumers = models.JSONField(default=dict, blank=True)

    # An exception that an operator made for this repository; it ends by itself.
    mode = models.CharField(max_length=8, blank=True, choices=[("enforce", "Enforce"), ("observe", "Observe")])
    mode_until = models.DateTimeField(null=True, blank=True)
    mode_reason = models.CharField(max_length=300, blank=True)
    mode_by = models.CharField(max_length=200, blank=True)

    # The lease: one worker at a time, taken and returned by a conditional UPDATE, never by a row lock.
    lease_owner = models.CharField(max_length=64, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    lease_process = models.BigIntegerField(null=True, blank=True)  # the Process that holds it, where one is registered
    lease_epoch = models.PositiveBigIntegerField(default=0)  # fencing: a result of an older epoch is dropped

    class Meta:
        verbose_name_plural = "repositories"
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["account", "region", "name"], name="repository_unique"),
            models.CheckConstraint(
                condition=Q(mode="") | (Q(mode_until__isnull=False) & ~Q(mode_reason="")),
                name="repository_mode_has_reason_and_end",
            ),
        ]
        indexes = [models.Index(fields=["status"], name="repository_status")]

    def __str__(self) -> str:
        return self.name

    @property
    def keeps_theirs(self) -> bool:
        """Whether a lifecycle policy or tag mutability that somebody else chose is left as it is."""
        return self.origin == "adopted" and self.taken_over_at is None


class EventKind(models.TextChoices):
    CREATED = "created", "Created"
    ADOPTED = "adopted", "Adopted"
    POLICY_APPLIED = "policy_applied", "Policy applied"
    DRIFT_FOUND = "drift_found", "Drift found"
    HEALED = "healed", "Healed"
    CHANGED = "changed", "Changed"  # lifecycle policy, tags, mutability
    MISSING = "missing", "Missing"
    ERROR = "error", "Error"


class RepositoryEvent(models.Model):
    """Something that was found or done, with the policy text that was there before, so that nothing is ever lost."""

    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="events")
    kind = models.CharField(max_length=16, choices=EventKind.choices)
    at = models.DateTimeField(default=timezone.now)
    message = models.TextField()
    cause = models.CharField(max_length=200, blank=True)  # deploy, sweep, event, command, a person
    policy_before = models.TextField(blank=True)
    # Since when the repository is drifted, or fails, where this event is to be notified; null: it is not.
    state_since = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-at", "-id"]
        indexes = [models.Index(fields=["repository", "-at"], name="repository_event_history")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.message}"


class DesiredState(models.Model):
    """What version 0.1.0 asks before it writes to AWS: the digest of the configuration that counts, newest last.

    Written with each `ConfigurationActivation`, so that processes of 0.1.0 that still run during an upgrade stop
    writing an older policy. Nothing of this version reads it.
    """

    digest = models.CharField(max_length=64)
    registered_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return self.digest[:12]


class PolicyText(models.Model):
    """A default repository policy as an operator wrote it, stored once."""

    digest = models.CharField(max_length=64, unique=True)  # hex SHA-256 of the text
    text = models.TextField()
    first_seen_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.digest[:12]


class ConfigurationGeneration(models.Model):
    """A desired configuration that a process was started with, without secrets (`deployments.reconcile.generation`).

    Which one counts is the newest `ConfigurationActivation`, never the order of these rows.
    """

    digest = models.CharField(max_length=64)  # of the content and the policy texts
    generation = models.BigIntegerField(null=True, blank=True)  # CONFIGURATION_GENERATION of that process
    content = models.JSONField(default=dict)  # everything but the policy texts; a version only adds fields
    plain_policy = models.ForeignKey(PolicyText, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    v4_policy = models.ForeignKey(PolicyText, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    version = models.CharField(max_length=32)  # of the program that wrote the row, and so of one that can read it
    first_seen_at = models.DateTimeField(db_default=Now())
    first_seen_by = models.CharField(max_length=300, blank=True)  # role and host

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["digest", "generation"], name="configuration_unique"),
            models.UniqueConstraint(
                fields=["digest"], condition=Q(generation__isnull=True), name="configuration_unnumbered_unique"
            ),
        ]

    def __str__(self) -> str:
        number = "" if self.generation is None else f" (generation {self.generation})"
        return f"{self.digest[:12]}{number}"


class ActivationCause(models.TextChoices):
    STARTED = "started", "A process was started with it"
    ACTIVATED = "activated", "Activated by a person"
    WENT_BACK = "went_back", "Every process went back to it"


class ConfigurationActivation(models.Model):
    """That a configuration counts from now on, and why. The newest one is the one that counts.

    `follows` is unique, so of two that are written at once after the same one, one is refused and decides again.
    """

    configuration = models.ForeignKey(ConfigurationGeneration, on_delete=models.PROTECT, related_name="activations")
    follows = models.BigIntegerField(unique=True)  # id of the activation before it; 0: it is the first
    at = models.DateTimeField(db_default=Now())
    cause = models.CharField(max_length=12, choices=ActivationCause.choices)
    by = models.CharField(max_length=300)
    reason = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.configuration}: {self.get_cause_display()}"


class WritesPause(models.Model):
    """The emergency stop: while one is not lifted, nothing is written to AWS."""

    paused_at = models.DateTimeField(db_default=Now())
    paused_by = models.CharField(max_length=200)
    reason = models.CharField(max_length=300)
    lifted_at = models.DateTimeField(null=True, blank=True)
    lifted_by = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            # `lifted_by` is empty in every open pause, so at most one is open.
            models.UniqueConstraint(
                fields=["lifted_by"], condition=Q(lifted_at__isnull=True), name="writes_pause_one_open"
            ),
        ]

    def __str__(self) -> str:
        return self.reason


class ProcessRole(models.TextChoices):
    WEB = "web", "Web"
    WORKER = "worker", "Worker"  # the supervisor: one for each `manage.py worker`
    TASK = "task", "Task process"  # one process of a worker's cluster, which runs the queue's tasks
    EVENTS = "events", "Events"
    COMMAND = "command", "Command"


class Process(models.Model):
    """A running process of this program: its role, its configuration, its last heartbeat.

    All times are the database's. A row of a process that ended stays for a day, and as long as it shows which
    processes held the configuration that counts.
    """

    role = models.CharField(max_length=8, choices=ProcessRole.choices)
    host = models.CharField(max_length=253)
    pid = models.PositiveIntegerField()
    version = models.CharField(max_length=32, blank=True)
    configuration = models.ForeignKey(  # what it was started with, counting or not
        ConfigurationGeneration, null=True, blank=True, on_delete=models.SET_NULL, related_name="processes"
    )
    started_at = models.DateTimeField(db_default=Now())
    beat_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(
        null=True, blank=True
    )  # written by the process itself after SIGTERM; null: it runs, or was killed
    silent_from = models.DateTimeField(null=True, blank=True)  # the last heartbeat before its latest long silence
    clock_offset = models.FloatField(default=0, db_default=0.0)  # seconds that this host is ahead of the database
    last_task_at = models.DateTimeField(null=True, blank=True)  # a worker's: when a task last began or ended
    restarts = models.PositiveIntegerField(default=0, db_default=0)  # a worker's: of its cluster
    trouble = models.TextField(blank=True, default="", db_default="")  # what is wrong with it, in words

    class Meta:
        verbose_name_plural = "processes"
        ordering = ["role", "host", "pid"]
        indexes = [models.Index(fields=["role", "-beat_at"], name="process_alive")]

    def __str__(self) -> str:
        return f"{self.get_role_display()} on {self.host} ({self.pid})"


class DeploymentStatus(models.TextChoices):
    BUILDING = "BUILDING", "Building"
    DEPLOYING = "DEPLOYING", "Deploying"
    DEPLOYED = "DEPLOYED", "Deployed"
    FAILED = "FAILED", "Failed"
    CANCELED = "CANCELED", "Canceled"
    TIMED_OUT = "TIMED_OUT", "Timed out"


FINAL_STATUSES = (
    DeploymentStatus.DEPLOYED,
    DeploymentStatus.FAILED,
    DeploymentStatus.CANCELED,
    DeploymentStatus.TIMED_OUT,
)


def _new_deployment_id() -> str:
    return images.new_id("deployment")


class Deployment(models.Model):
    """One run of `deploy`: a version of an environment, an image ref, and how far it came."""

    id = models.CharField(primary_key=True, max_length=40, default=_new_deployment_id, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="deployments")
    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="deployments")
    repository = models.ForeignKey(
        Repository, null=True, blank=True, on_delete=models.SET_NULL, related_name="deployments"
    )
    short_code = models.CharField(max_length=8, default=images.new_short_code, editable=False)
    version_day = models.CharField(max_length=8)
    version_number = models.PositiveIntegerField()
    status = models.CharField(max_length=12, choices=DeploymentStatus.choices)

    type = models.CharField(max_length=16, blank=True)  # MANAGED, UNMANAGED, V1; blank: a 3.x CLI
    content_hash = models.CharField(max_length=200)
    image_ref = models.CharField(max_length=700)  # without the digest
    image_digest = models.CharField(max_length=71, blank=True)
    image_platform = models.CharField(max_length=200)
    runtime = models.CharField(max_length=64, blank=True)
    runtime_version = models.CharField(max_length=64, blank=True)
    git = models.JSONField(default=dict, blank=True)
    triggered_via = models.CharField(max_length=64, blank=True)
    triggered_by = models.CharField(max_length=200, blank=True)  # who: an e-mail address, or a key's prefix
    external_id = models.CharField(max_length=128, blank=True)
    idempotency_key = models.CharField(max_length=200, blank=True)  # blank: none was sent
    request_digest = models.CharField(max_length=64, blank=True)

    error = models.JSONField(null=True, blank=True)  # {"name", "message", "stack"?, "stderr"?}
    credentials_error = models.TextField(blank=True)  # why no registry credentials were issued; the CLI hides it
    credentials_kind = models.CharField(
        max_length=12,
        blank=True,
        choices=[
            ("session", "STS session for this repository"),
            ("token", "ECR token of the whole registry"),
            ("password", "Configured user name and password"),
        ],
    )
    # What was proved of the image before it was promoted: {"digest", "platforms", "pullers", "policy", "at", …}.
    receipt = models.JSONField(null=True, blank=True)
    # Whether the finalize asked for the promotion, so that a repeated one finishes what the first began; null: not yet.
    promotion_wanted = models.BooleanField(null=True, blank=True)
    canceled_reason = models.CharField(max_length=200, blank=True)
    # The forced deployment of the same external id that it was canceled for.
    replaced_by = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.SET_NULL, related_name="replaced", editable=False
    )

    created_at = models.DateTimeField(default=timezone.now, editable=False)
    started_at = models.DateTimeField(null=True, blank=True)
    installed_at = models.DateTimeField(null=True, blank=True)  # never written; version 0.1.0 still selects it
    built_at = models.DateTimeField(null=True, blank=True)
    deployed_at = models.DateTimeField(null=True, blank=True)
    failed_at = models.DateTimeField(null=True, blank=True)
    canceled_at = models.DateTimeField(null=True, blank=True)
    deadline = models.DateTimeField(null=True, blank=True)  # of the present status; null: none is armed

    class Meta:
        ordering = ["-created_at", "-version_number"]
        constraints = [
            models.UniqueConstraint(
                fields=["environment", "version_day", "version_number"], name="deployment_version_unique"
            ),
            models.UniqueConstraint(fields=["project", "short_code"], name="deployment_short_code_unique"),
            models.UniqueConstraint(
                fields=["environment", "idempotency_key"],
                condition=~Q(idempotency_key=""),
                name="deployment_idempotency_key_unique",
            ),
            models.CheckConstraint(
                condition=~Q(status=DeploymentStatus.DEPLOYED) | Q(deployed_at__isnull=False),
                name="deployment_deployed_has_time",
            ),
        ]
        indexes = [
            models.Index(fields=["environment", "-version_day", "-version_number"], name="deployment_newest"),
            models.Index(fields=["-created_at"], name="deployment_recent"),
            models.Index(fields=["environment", "external_id"], name="deployment_external_id"),
            models.Index(fields=["status", "-created_at"], name="deployment_status"),
            models.Index(fields=["environment", "status", "-created_at"], name="deployment_environment_status"),
            models.Index(fields=["image_digest"], name="deployment_digest"),
            models.Index(fields=["project", "status"], name="deployment_project_status"),
            models.Index(fields=["deadline"], condition=Q(deadline__isnull=False), name="deployment_deadline"),
        ]

    def __str__(self) -> str:
        return str(self.version)

    @property
    def version(self) -> images.Version:
        return images.Version(self.version_day, self.version_number)

    @property
    def image_reference(self) -> str:
        """The full pullable name, by digest once it is known."""
        return f"{self.image_ref}@{self.image_digest}" if self.image_digest else self.image_ref

    @property
    def is_final(self) -> bool:
        return self.status in FINAL_STATUSES

    @property
    def duration(self) -> timedelta | None:
        end = self.deployed_at or self.failed_at or self.canceled_at
        return end - self.created_at if end else None


def _new_worker_id() -> str:
    return images.new_id("worker")


class BackgroundWorker(models.Model):
    """What the indexer found in the image: the tasks of a deployment. Made once, at BUILDING → DEPLOYING."""

    id = models.CharField(primary_key=True, max_length=40, default=_new_worker_id, editable=False)
    deployment = models.OneToOneField(Deployment, on_delete=models.CASCADE, related_name="worker")
    content_hash = models.CharField(max_length=200)
    sdk_version = models.CharField(max_length=64, blank=True)
    cli_version = models.CharField(max_length=64, blank=True)
    engine = models.CharField(max_length=8, blank=True)
    tasks: models.JSONField[Any, Any] = models.JSONField(default=list)  # [{"id", "slug", "filePath", "exportName"?}]
    metadata: models.JSONField[Any, Any] = models.JSONField(default=dict)  # queues, platforms; no source files
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return self.id


class Promotion(models.Model):
    """Which deployment is current in an environment."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="promotions")
    label = models.CharField(max_length=32, default="current")
    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="promotions")
    promoted_at = models.DateTimeField(default=timezone.now)
    promoted_by = models.CharField(max_length=200, blank=True)
    # The newer deployment that this one took the place of: it was rolled back to, and is not the latest.
    rolled_back_from = models.ForeignKey(
        Deployment, null=True, blank=True, on_delete=models.SET_NULL, related_name="rolled_back_by"
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["environment", "label"], name="promotion_one_per_environment"),
        ]

    def __str__(self) -> str:
        return f"{self.environment}: {self.deployment}"


class PromotionEvent(models.Model):
    """That a deployment became the current one: written in the transaction of the promotion, never changed."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="promotion_events")
    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="promotion_events")
    at = models.DateTimeField(db_default=Now())
    by = models.CharField(max_length=200, blank=True)
    rolled_back_from = models.ForeignKey(Deployment, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["-at"], name="promotion_event_recent")]

    def __str__(self) -> str:
        return f"{self.environment}: {self.deployment}"


class EnvironmentVariable(models.Model):
    """A variable of an environment: tasks see it while they are indexed. Stored encrypted."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="variables")
    name = models.CharField(max_length=255)
    value = models.TextField()  # encrypted (deployments.access.vault)
    is_secret = models.BooleanField(default=False)  # never shown again
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now)
    updated_by = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["environment", "name"], name="environment_variable_unique")]

    def __str__(self) -> str:
        return self.name


class LoginRequest(models.Model):
    """`trigger.dev login`: a code that the CLI polls with until somebody has approved it in the browser."""

    code_digest = models.CharField(max_length=64, unique=True)
    challenge = models.CharField(max_length=128, blank=True)  # PKCE, S256
    approval_digest = models.CharField(max_length=64, blank=True)  # of the code that the user carries back
    callback_port = models.PositiveIntegerField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE)
    approved_at = models.DateTimeField(null=True, blank=True)
    collected_at = models.DateTimeField(null=True, blank=True)  # the token was handed out, once

    def __str__(self) -> str:
        return f"Login {self.pk}"


class ActorKind(models.TextChoices):
    PERSON = "person", "Person"
    KEY = "key", "Access key"
    SCHEDULE = "schedule", "Schedule"
    COMMAND = "command", "Command"
    SYSTEM = "system", "System"


class AuditEntry(models.Model):
    """Who did what. Append-only: it has no way to be changed, and outlives what it tells of."""

    at = models.DateTimeField(default=timezone.now, db_index=True)
    actor_kind = models.CharField(max_length=12, choices=ActorKind.choices)
    actor = models.CharField(max_length=200)  # an e-mail address, a key's prefix, a command: text, kept as it was
    action = models.CharField(max_length=60)  # verb.noun: promote.deployment
    object_type = models.CharField(max_length=40, blank=True)
    object_id = models.CharField(max_length=64, blank=True)
    object_label = models.CharField(max_length=300, blank=True)
    before = models.JSONField(null=True, blank=True)
    after = models.JSONField(null=True, blank=True)
    outcome = models.CharField(max_length=300, default="done")
    request_id = models.CharField(max_length=64, blank=True)
    address = models.CharField(max_length=64, blank=True)

    class Meta:
        verbose_name_plural = "audit entries"
        ordering = ["-at", "-id"]
        indexes = [models.Index(fields=["object_type", "object_id"], name="audit_entry_object")]

    def __str__(self) -> str:
        return f"{self.actor} {self.action} {self.object_label}"


class ChannelKind(models.TextChoices):
    WEBHOOK = "webhook", "Webhook (signed)"
    SLACK = "slack", "Slack"
    MAIL = "mail", "Mail"


class NotificationChannel(models.Model):
    """Where to tell people that something needs them."""

    name = models.CharField(max_length=100, unique=True)
    kind = models.CharField(max_length=8, choices=ChannelKind.choices)
    address = models.CharField(max_length=500)  # URL, or mail addresses; a Slack URL is a secret and shown shortened
    secret = models.TextField(blank=True)  # of the signature; encrypted (deployments.access.vault)
    events = models.JSONField(default=list, blank=True)  # empty: all
    projects = models.ManyToManyField(Project, blank=True)  # none: all
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_sent_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_error = models.TextField(blank=True, editable=False)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class DeliveryStatus(models.TextChoices):
    WAITING = "waiting", "Waiting"
    SENT = "sent", "Sent"
    FAILED = "failed", "Failed"  # given up


class NotificationDelivery(models.Model):
    """One message to one channel: what it says, how often it was tried, what came back."""

    channel = models.ForeignKey(NotificationChannel, on_delete=models.CASCADE, related_name="deliveries")
    event = models.CharField(max_length=60)
    subject = models.CharField(max_length=300)
    body = models.JSONField(default=dict)
    key = models.CharField(max_length=200)  # one message per channel and state change
    status = models.CharField(max_length=8, choices=DeliveryStatus.choices, default=DeliveryStatus.WAITING)
    attempts = models.PositiveIntegerField(default=0)
    next_try_at = models.DateTimeField(default=timezone.now)
    answer = models.CharField(max_length=300, blank=True)  # status code or error, never the answer's text
    created_at = models.DateTimeField(default=timezone.now)
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "notification deliveries"
        ordering = ["-created_at", "-id"]
        constraints = [models.UniqueConstraint(fields=["channel", "key"], name="notification_once")]
        indexes = [models.Index(fields=["next_try_at"], condition=Q(status="waiting"), name="notification_waiting")]

    def __str__(self) -> str:
        return f"{self.event} → {self.channel}"


class SweepTrigger(models.TextChoices):
    SCHEDULE = "schedule", "Schedule"
    COMMAND = "command", "Command"
    PERSON = "person", "Person"


class SweepStatus(models.TextChoices):
    RUNNING = "running", "Running"  # worked on by whoever takes a chunk of it; rests so while no worker is up
    DONE = "done", "Done"
    STOPPED = "stopped", "Stopped"
    FAILED = "failed", "Failed"  # a fault of the installation: no credentials, role refused


class Sweep(models.Model):
    """One pass over all repositories, or over the named ones."""

    trigger = models.CharField(max_length=12, choices=SweepTrigger.choices)
    requested_by = models.CharField(max_length=200, blank=True)
    names = models.JSONField(default=list, blank=True)  # empty: all
    dry_run = models.BooleanField(default=False)
    adopt = models.BooleanField(default=False)  # discovered repositories too
    status = models.CharField(max_length=12, choices=SweepStatus.choices, default=SweepStatus.RUNNING)
    started_at = models.DateTimeField(default=timezone.now)
    listed_at = models.DateTimeField(null=True, blank=True)  # the registry was listed and the chunks were made
    finished_at = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True)
    discovered = models.PositiveIntegerField(default=0)
    missing = models.PositiveIntegerField(default=0)
    calls = models.JSONField(default=dict, blank=True)  # of the listing: {"DescribeRepositories": 1}
    lease_owner = models.CharField(max_length=64, blank=True)  # of the listing
    lease_until = models.DateTimeField(null=True, blank=True)
    lease_process = models.BigIntegerField(null=True, blank=True)  # the Process that holds it, where one is registered
    lease_epoch = models.PositiveBigIntegerField(default=0)

    class Meta:
        ordering = ["-started_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["trigger"],
                condition=Q(status=SweepStatus.RUNNING, trigger=SweepTrigger.SCHEDULE),
                name="sweep_one_scheduled_running",
            ),
        ]

    def __str__(self) -> str:
        return f"Sweep {self.pk}"


class SweepChunk(models.Model):
    """A part of a sweep that one worker at a time holds, by a lease that covers reading."""

    sweep = models.ForeignKey(Sweep, on_delete=models.CASCADE, related_name="chunks")
    position = models.PositiveIntegerField()
    host = models.CharField(max_length=253)  # with the namespace: which of the configured registries
    namespace = models.CharField(max_length=230)
    size = models.PositiveIntegerField()
    remaining = models.JSONField(default=list)  # ids of repositories that are still to be looked at
    in_sync = models.PositiveIntegerField(default=0)
    healed = models.PositiveIntegerField(default=0)
    drifted = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    calls = models.JSONField(default=dict, blank=True)
    throttled = models.JSONField(null=True, blank=True)  # {id: how often AWS throttled its look in this sweep}
    attempts = models.PositiveIntegerField(default=0)
    finished_at = models.DateTimeField(null=True, blank=True)
    lease_owner = models.CharField(max_length=64, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    lease_process = models.BigIntegerField(null=True, blank=True)  # the Process that holds it, where one is registered
    lease_epoch = models.PositiveBigIntegerField(default=0)

    class Meta:
        ordering = ["position"]
        constraints = [models.UniqueConstraint(fields=["sweep", "position"], name="sweep_chunk_position_unique")]
        indexes = [
            models.Index(fields=["sweep", "position"], condition=Q(finished_at__isnull=True), name="sweep_chunk_open")
        ]

    def __str__(self) -> str:
        return f"{self.sweep} chunk {self.position}"


class SweepFinding(models.Model):
    """A repository that a sweep did not find in sync, and what came of it."""

    class Outcome(models.TextChoices):
        HEALED = "healed", "Healed"
        DRIFTED = "drifted", "Drifted"  # left as it is: observe mode, a dry run, or not ours
        FAILED = "failed", "Failed"
        MISSING = "missing", "Missing"
        DISCOVERED = "discovered", "Discovered"
        ADOPTED = "adopted", "Adopted"

    sweep = models.ForeignKey(Sweep, on_delete=models.CASCADE, related_name="findings")
    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="findings")
    outcome = models.CharField(max_length=12, choices=Outcome.choices)
    words = models.TextField(blank=True)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["sweep", "repository"], name="sweep_finding_once")]

    def __str__(self) -> str:
        return f"{self.repository}: {self.get_outcome_display()}"


class CallBudget(models.Model):
    """How many calls in a second AWS accepts from our sweeps, as the last throttling taught; shared by all workers."""

    account = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    rate = models.FloatField()
    changed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "region"], name="call_budget_unique")]

    def __str__(self) -> str:
        return f"{self.account} {self.region}: {self.rate:.1f}/s"
