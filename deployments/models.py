"""The rows: projects, environments, deployments, repositories, keys, sweeps, notifications, the audit log.

Nothing here calls AWS or the queue, and there are no signals, so saving a row has no other effect. Invariants that code
could break are named constraints in the database.

A status is a state that a row can stay in. There is no status like “syncing” that is true only while code runs, because
a crash would leave it on the row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from deployments import images
from deployments.row_values import (
    MANAGED,
    AdoptedStatement,
    ConsumerPull,
    Difference,
    Encryption,
    LogIn,
    Management,
    Mutability,
    PreviewResult,
    Receipt,
    SeenStatement,
)


class ValuesField(models.JSONField):
    """A JSON column with typed values (`deployments.row_values`). `read` makes the value from the stored JSON.

    A value with `as_row` is stored as that JSON, also inside a list or a dict. In migrations it is a plain JSONField.
    """

    def __init__(self, *args: Any, read: Callable[[Any], Any] = lambda stored: stored, **options: Any) -> None:
        super().__init__(*args, **options)
        self.read = read

    def deconstruct(self) -> Any:
        name, _, args, options = super().deconstruct()
        return name, "django.db.models.JSONField", args, options

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        stored = super().from_db_value(value, expression, connection)
        return None if stored is None else self.read(stored)

    def get_default(self) -> Any:
        default = super().get_default()
        return None if default is None else self.read(default)

    def get_prep_value(self, value: Any) -> Any:
        return _as_stored(super().get_prep_value(value))

    def value_to_string(self, obj: models.Model) -> Any:
        return _as_stored(self.value_from_object(obj))


def _as_stored(value: Any) -> Any:
    if hasattr(value, "as_row"):
        return value.as_row()
    if isinstance(value, Mapping):
        return {key: _as_stored(each) for key, each in value.items()}
    return [_as_stored(each) for each in value] if isinstance(value, list | tuple) else value


class Project(models.Model):
    """What a CLI deploys: a project has one ref, and one repository for the images of all its environments."""

    ref = models.CharField(max_length=64, unique=True, default=images.new_project_ref, editable=False)
    name = models.CharField(max_length=200)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    archived_at = models.DateTimeField(null=True, blank=True, editable=False)  # since then it takes no deploys

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class EnvironmentType(models.TextChoices):
    """The type of an environment, as the API and image tags write it."""

    PRODUCTION = "PRODUCTION", "Production"
    STAGING = "STAGING", "Staging"
    PREVIEW = "PREVIEW", "Preview"
    DEVELOPMENT = "DEVELOPMENT", "Development"


#: `{env}` in the API's paths → (environment type, prefix of its keys). The CLI writes `prod` for `production`.
ENVIRONMENT_SLUGS: dict[str, tuple[EnvironmentType, str]] = {
    "prod": (EnvironmentType.PRODUCTION, "prod"),
    "staging": (EnvironmentType.STAGING, "stg"),
    "preview": (EnvironmentType.PREVIEW, "preview"),
    "dev": (EnvironmentType.DEVELOPMENT, "dev"),
}
#: Other names for a slug that the CLI, users and scripts write.
SLUG_ALIASES = {"stg": "staging", "production": "prod"}


class Environment(models.Model):
    """An environment counts versions and has one current deployment.

    A preview branch is an environment with a parent.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="environments")
    type = models.CharField(max_length=12, choices=EnvironmentType.choices)
    slug = models.CharField(max_length=16)
    parent = models.ForeignKey("self", null=True, blank=True, on_delete=models.CASCADE, related_name="branches")
    branch = models.CharField(max_length=255, blank=True)
    git = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    archived_at = models.DateTimeField(null=True, blank=True)
    # The version counter: the last day that had a deployment, and the last number of that day. One UPDATE sets both.
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
    """The three kinds of bearer token."""

    USER = "user", "Personal access token"
    ENVIRONMENT = "environment", "Environment key"
    DEPLOY = "deploy", "Deploy key (short-lived)"


class AccessKey(models.Model):
    """A bearer token. Only its digest is stored; the token itself is shown once, when it is made."""

    kind = models.CharField(max_length=12, choices=KeyKind.choices)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE)
    environment = models.ForeignKey(
        Environment, null=True, blank=True, on_delete=models.CASCADE, related_name="access_keys"
    )
    name = models.CharField(max_length=200, blank=True)
    scopes = models.JSONField(default=list, blank=True)  # "deploy", "read", "credentials", "pull"; empty: all
    replaces = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.SET_NULL, related_name="replaced_by", editable=False
    )
    prefix = models.CharField(max_length=24, editable=False)  # the first characters, to tell keys apart
    digest = models.CharField(max_length=64, unique=True, editable=False)  # hex SHA-256 of a random 120+ bit text
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_by = models.CharField(max_length=200, blank=True, editable=False)  # client and address
    replaced_at = models.DateTimeField(null=True, blank=True, editable=False)  # when a rotation made its successor
    # Of a key for one deployment (`access.token_exchange`): the trust policy that it is from, the only preview branch
    # that it may name, and the deployment that it has begun.
    trust_policy = models.ForeignKey(
        "TrustPolicy", null=True, blank=True, on_delete=models.SET_NULL, related_name="access_keys", editable=False
    )
    branch = models.CharField(max_length=255, blank=True, default="", db_default="", editable=False)
    deployment = models.ForeignKey(
        "Deployment", null=True, blank=True, on_delete=models.CASCADE, related_name="access_keys", editable=False
    )

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
        """Whether the key is neither revoked nor expired, by this host's clock."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > timezone.now())


class KeyClient(models.Model):
    """A client that used an access key, and when it did so first and last, to within a minute."""

    # Without a constraint: version 0.1.0 deletes keys during an upgrade, and does not know this table. What it leaves
    # is deleted by `keys.forget_clients`.
    key = models.ForeignKey(AccessKey, on_delete=models.CASCADE, related_name="clients", db_constraint=False)
    client = models.CharField(max_length=200)  # as in AccessKey.last_used_by
    first_seen_at = models.DateTimeField(db_default=Now())
    last_seen_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-last_seen_at"]
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["key", "client"], name="key_client_unique")]

    def __str__(self) -> str:
        return self.client


class TrustKind(models.TextChoices):
    """Who signs the tokens that a trust policy accepts."""

    GITHUB = "github", "GitHub Actions"
    GITLAB = "gitlab", "GitLab CI/CD"
    KUBERNETES = "kubernetes", "Kubernetes service account"
    OTHER = "other", "Another OpenID issuer"


class TrustPolicy(models.Model):
    """Whose signed tokens are exchanged for a key of one deployment to an environment (`access.trust`)."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="trust_policies")
    name = models.CharField(max_length=100)
    kind = models.CharField(max_length=12, choices=TrustKind.choices)
    issuer = models.CharField(max_length=500, db_index=True)  # as the claim `iss` has it
    claims: models.JSONField[dict[str, str], dict[str, str]] = models.JSONField(default=dict)  # claim → what it must be
    branch_claim = models.CharField(max_length=100, blank=True, default="")  # of preview: the claim with the branch
    enabled = models.BooleanField(default=True)
    allow_private = models.BooleanField(default=False)  # whether the issuer may have a private address
    ca = models.TextField(blank=True, default="")  # PEM: the only roots for the issuer's certificate; empty: the usual
    jwks = models.TextField(blank=True, default="")  # the issuer's keys as a JSON key set; empty: asked of the issuer
    created_at = models.DateTimeField(db_default=Now())
    created_by = models.CharField(max_length=200, blank=True, default="")
    changed_at = models.DateTimeField(db_default=Now())
    last_used_at = models.DateTimeField(null=True, blank=True)
    last_error = models.TextField(blank=True, default="")  # the last refusal of a token that this policy was meant for
    last_error_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "trust policies"
        ordering = ["environment__project__name", "environment__slug", "name"]
        constraints = [models.UniqueConstraint(fields=["environment", "name"], name="trust_policy_name_unique")]

    def __str__(self) -> str:
        return self.name


class ExchangedToken(models.Model):
    """A token that was exchanged for a key. It cannot be exchanged again, and is forgotten once it has expired."""

    digest = models.CharField(max_length=64, unique=True)  # of the issuer and `jti`, or of what the signature covers
    expires_at = models.DateTimeField(db_index=True)  # the token's end, and the leeway of the clocks

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.digest[:12]


class RepositoryStatus(models.TextChoices):
    """The result of the last check of a repository."""

    PENDING = "pending", "Pending"  # no check was completed yet
    IN_SYNC = "in_sync", "In sync"
    DRIFTED = "drifted", "Drifted"  # it was not shown to be as configured, and we must not write (D-incomparable)
    FAILED = "failed", "Failed"  # the last attempt ended in an error
    MISSING = "missing", "Missing"  # deleted from ECR; the next deploy creates it again
    UNMANAGED = "unmanaged", "Unmanaged"  # discovered, not adopted


class Repository(models.Model):
    """One ECR repository: its project, the last observation of it, and the lease on it.

    The row is written before the repository is created in ECR, so a crash cannot leave a repository without a row.
    """

    account = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    name = models.CharField(max_length=256)
    host = models.CharField(max_length=253)
    project = models.ForeignKey(Project, null=True, blank=True, on_delete=models.SET_NULL, related_name="repositories")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    status = models.CharField(max_length=12, choices=RepositoryStatus.choices, default=RepositoryStatus.PENDING)
    # The differences from the configuration, also those that are only reported.
    differences: models.JSONField[list[Difference], list[Difference]] = ValuesField(
        default=list,
        blank=True,
        encoder=DjangoJSONEncoder,
        read=lambda stored: [Difference.from_row(each) for each in stored],
    )
    last_error = models.TextField(blank=True)
    last_error_code = models.CharField(max_length=100, blank=True)
    last_error_heals = models.BooleanField(default=False)  # retryable: a later attempt can succeed without a change
    last_error_is_installation = models.BooleanField(
        default=False
    )  # the cause is the installation, not this repository
    last_error_at = models.DateTimeField(null=True, blank=True)
    error_since = models.DateTimeField(null=True, blank=True)  # when this error began, without a success since
    attempted_at = models.DateTimeField(
        null=True, blank=True
    )  # written before the work; a sweep takes the oldest first
    last_checked_at = models.DateTimeField(null=True, blank=True)  # start of the last observation that succeeded
    written_at = models.DateTimeField(null=True, blank=True)  # our last write to AWS
    # When AWS took the newest write of ours whose event came back through the change feed; by AWS's clock.
    write_returned_at = models.DateTimeField(null=True, blank=True)
    last_in_sync_at = models.DateTimeField(null=True, blank=True)
    drifted_since = models.DateTimeField(null=True, blank=True)
    # Since when the live repository policy cannot be compared with the default policy; null: it can (D-incomparable).
    incomparable_since = models.DateTimeField(null=True, blank=True)
    checked_digest = models.CharField(max_length=64, blank=True)  # configuration that the last check compared with

    # How much of it we manage; empty: no repository was seen yet, or it is missing.
    management = models.CharField(
        max_length=9, blank=True, default="", db_default="", choices=[(each.value, each.value) for each in Management]
    )

    origin = models.CharField(  # created: we made it; adopted: somebody else made it
        max_length=8, blank=True, choices=[("created", "Created by us"), ("adopted", "Adopted")]
    )
    taken_over_at = models.DateTimeField(null=True, blank=True)  # written for version 0.1.0, which has no `management`
    creating_since = models.DateTimeField(null=True, blank=True)  # CreateRepository was sent and not answered yet
    # What AWS answered at the last observation of each kind.
    policy_text = models.TextField(blank=True)
    policy_applied_at = models.DateTimeField(
        null=True, blank=True
    )  # when the policy was last seen to be ours; null: never
    # The statements of others that an operator adopted: each stays in the policy while it has this text.
    adopted_statements: models.JSONField[list[AdoptedStatement], list[AdoptedStatement]] = ValuesField(
        default=list,
        db_default=[],
        blank=True,
        read=lambda stored: [AdoptedStatement.from_row(each) for each in stored],
    )
    # The statements of others that the last look has found in the policy, and those that an operator has refused.
    foreign_statements: models.JSONField[list[SeenStatement], list[SeenStatement]] = ValuesField(
        default=list,
        db_default=[],
        blank=True,
        read=lambda stored: [SeenStatement.from_row(each) for each in stored],
    )
    lifecycle_text = models.TextField(blank=True)
    lifecycle_is_ours = models.BooleanField(default=False)  # whether we have written the lifecycle policy
    # By policy, "settings" or "live": AWS's preview of it (`reconcile.lifecycle_safety`); null: none.
    lifecycle_previews: models.JSONField[dict[str, PreviewResult] | None, dict[str, PreviewResult] | None] = (
        ValuesField(
            null=True,
            blank=True,
            read=lambda stored: {policy: PreviewResult.from_row(each) for policy, each in stored.items()},
        )
    )
    tags = models.JSONField(default=dict, blank=True)
    mutability: models.JSONField[Mutability, Mutability] = ValuesField(
        default=dict, blank=True, read=Mutability.from_row
    )
    encryption: models.JSONField[Encryption, Encryption] = ValuesField(
        default=dict, blank=True, read=Encryption.from_row
    )
    details_checked_at = models.DateTimeField(null=True, blank=True)  # describe, lifecycle and tags
    # The newest pull of any image that AWS has recorded, and when a refresh asked for it; null: none, and never.
    last_pulled_at = models.DateTimeField(null=True, blank=True)
    pulls_read_at = models.DateTimeField(null=True, blank=True)
    # By account: whether each configured consumer can pull by the observed policies of the repository and the registry.
    consumers: models.JSONField[dict[str, ConsumerPull], dict[str, ConsumerPull]] = ValuesField(
        default=dict,
        blank=True,
        read=lambda stored: {account: ConsumerPull.from_row(each) for account, each in stored.items()},
    )

    # The version of the default policy that it shall have while that is not the active one, in a roll-out; null: the
    # active one. Changed only while no process holds the lease.
    policy_version = models.ForeignKey(
        "PolicyVersion", null=True, blank=True, on_delete=models.SET_NULL, related_name="repositories"
    )

    # The override: a mode that an operator set for this repository until a time.
    mode = models.CharField(max_length=8, blank=True, choices=[("enforce", "Enforce"), ("observe", "Observe")])
    mode_until = models.DateTimeField(null=True, blank=True)
    mode_reason = models.CharField(max_length=300, blank=True)
    mode_by = models.CharField(max_length=200, blank=True)

    # The lease: one process at a time works on the repository. Taken and returned by a conditional UPDATE, not a row
    # lock.
    lease_owner = models.CharField(max_length=64, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    lease_process = models.BigIntegerField(null=True, blank=True)  # the Process that holds it, where one is registered
    lease_epoch = models.PositiveBigIntegerField(default=0)  # fencing token: a result with an older epoch is dropped

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
    def is_managed(self) -> bool:
        """Whether the repository exists and we manage at least its policy and AWS tags."""
        return self.management in MANAGED


class EventKind(models.TextChoices):
    """What happened to a repository."""

    CREATED = "created", "Created"
    ADOPTED = "adopted", "Adopted"
    POLICY_APPLIED = "policy_applied", "Policy applied"
    DRIFT_FOUND = "drift_found", "Drift found"
    HEALED = "healed", "Healed"
    CHANGED = "changed", "Changed"  # lifecycle policy, tags, mutability
    MISSING = "missing", "Missing"
    ERROR = "error", "Error"


class EventState(models.TextChoices):
    """What an event reports beside its kind. Not kinds, because version 0.1.0 fails on a kind that it does not know."""

    INCOMPARABLE = "incomparable", "Incomparable"
    COMPARABLE = "comparable", "Comparable"


class RepositoryEvent(models.Model):
    """Something that was found or done. It keeps the policy text from before a write, so no policy is ever lost."""

    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="events")
    kind = models.CharField(max_length=16, choices=EventKind.choices)
    at = models.DateTimeField(default=timezone.now)
    message = models.TextField()
    cause = models.CharField(max_length=200, blank=True)  # deploy, sweep, event, command, a person
    policy_before = models.TextField(blank=True)
    # Since when the repository is in the state that this event is to be notified for; null: it is not notified.
    state_since = models.DateTimeField(null=True, blank=True)
    # That state; empty: drifted or failed, as the kind says.
    state = models.CharField(max_length=12, blank=True, default="", db_default="", choices=EventState.choices)

    class Meta:
        ordering = ["-at", "-id"]
        indexes = [models.Index(fields=["repository", "-at"], name="repository_event_history")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.message}"


class DesiredState(models.Model):
    """The digest of the configuration that counts, newest last, for processes of version 0.1.0.

    Version 0.1.0 reads it before it writes to AWS. This version adds a row with each `ConfigurationActivation`, so that
    processes of 0.1.0 that still run during an upgrade stop writing an older policy. This version never reads it.
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
    """A configuration that a process was started with, without secrets (`deployments.reconcile.generation`).

    The newest `ConfigurationActivation` says which configuration counts; the order of these rows does not.
    """

    digest = models.CharField(max_length=64)  # of `content` and the policy texts
    generation = models.BigIntegerField(null=True, blank=True)  # CONFIGURATION_GENERATION of that process
    content = models.JSONField(default=dict)  # all but the policy texts; a new version may only add keys
    plain_policy = models.ForeignKey(PolicyText, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    v4_policy = models.ForeignKey(PolicyText, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    version = models.CharField(max_length=32)  # of the program that wrote the row
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
    """Why a configuration began to count."""

    STARTED = "started", "A process was started with it"
    ACTIVATED = "activated", "Activated by a person"
    WENT_BACK = "went_back", "Every process went back to it"


class ConfigurationActivation(models.Model):
    """From `at` on, this configuration counts. The newest activation is the valid one.

    `follows` is unique: if two processes add an activation after the same one, the database refuses the second, which
    then decides again.
    """

    configuration = models.ForeignKey(ConfigurationGeneration, on_delete=models.PROTECT, related_name="activations")
    follows = models.BigIntegerField(unique=True)  # id of the activation before this one; 0: there is none
    at = models.DateTimeField(db_default=Now())
    cause = models.CharField(max_length=12, choices=ActivationCause.choices)
    by = models.CharField(max_length=300)
    reason = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.configuration}: {self.get_cause_display()}"


class VersionState(models.TextChoices):
    """How far the roll-out of a version is (`deployments.reconcile.rollouts`)."""

    WAITING = "waiting", "Waits for a person"
    CANARIES = "canaries", "Canaries"
    WATCHING = "watching", "Canaries are watched"
    BATCHES = "batches", "Batches"
    STOPPED = "stopped", "Stopped"
    ACTIVE = "active", "Active"
    UNDOING = "undoing", "Is undone"
    UNDONE = "undone", "Undone"
    SUPERSEDED = "superseded", "Superseded"


class PolicyVersion(models.Model):
    """A text that the default policy of a registry had or shall have, and its roll-out.

    The numbers of a registry count from 1. At most one version of a registry is active, and at most one waits, moves,
    is stopped or is undone; a newer one supersedes it.
    """

    account = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    namespace = models.CharField(max_length=256)
    number = models.PositiveIntegerField()
    text = models.ForeignKey(PolicyText, on_delete=models.PROTECT, related_name="+")
    state = models.CharField(max_length=12, choices=VersionState.choices)
    follows = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="+")  # was active
    proposed_at = models.DateTimeField(db_default=Now())
    proposed_by = models.CharField(max_length=300)  # role and host of a process, or a person
    why = models.CharField(max_length=300)  # why it starts by itself or waits, in sentences
    started_at = models.DateTimeField(null=True, blank=True)
    started_by = models.CharField(max_length=300, blank=True)
    at_once = models.BooleanField(default=False)  # without stages: no canaries, and a lost pull does not stop it
    pauses = models.BooleanField(default=True)  # whether the canaries are watched for a while
    stage = models.PositiveIntegerField(default=0)  # 0: the canaries; then the batches
    sweep = models.ForeignKey(
        "Sweep", null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )  # of the stage
    watched_until = models.DateTimeField(null=True, blank=True)
    resumes = models.CharField(max_length=12, blank=True)  # the state before a stop
    reason = models.TextField(blank=True)  # why it was stopped, undone or superseded, in sentences
    changed_at = models.DateTimeField(db_default=Now())  # of `state`
    changed_by = models.CharField(max_length=300, blank=True)
    accepted = models.JSONField(default=list, blank=True)  # consumer accounts whose lost pull a person has accepted

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["account", "region", "namespace", "number"], name="policy_version_number"),
            models.UniqueConstraint(
                fields=["account", "region", "namespace"],
                condition=Q(state=VersionState.ACTIVE),
                name="policy_version_one_active",
            ),
            models.UniqueConstraint(
                fields=["account", "region", "namespace"],
                condition=Q(state__in=["waiting", "canaries", "watching", "batches", "stopped", "undoing"]),
                name="policy_version_one_open",
            ),
        ]

    def __str__(self) -> str:
        return f"Version {self.number} of the default policy"

    @property
    def place(self) -> str:
        """The registry: ACCOUNT/REGION/NAMESPACE."""
        return f"{self.account}/{self.region}/{self.namespace}"

    @property
    def state_words(self) -> str:
        """The state as the words after “is”."""
        words = {
            VersionState.WAITING: "waiting for a person",
            VersionState.CANARIES: "at its canaries",
            VersionState.WATCHING: "at its canaries, which are watched",
            VersionState.BATCHES: "in its batches",
            VersionState.UNDOING: "being undone",
        }
        return words.get(VersionState(self.state), self.state)


class StepState(models.TextChoices):
    """What a roll-out did with a repository."""

    PLANNED = "planned", "Planned"
    OPEN = "open", "Under way"  # the repository shall have the version, and was not looked at since
    WRITTEN = "written", "Written"
    UNCHANGED = "unchanged", "Had it already"
    LEFT = "left", "Not written"
    UNDONE = "undone", "Put back"
    KEPT = "kept", "Changed since, not put back"


class PolicyStep(models.Model):
    """One repository in the roll-out of a version: what was there before, and what was written."""

    version = models.ForeignKey(PolicyVersion, on_delete=models.CASCADE, related_name="steps")
    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="policy_steps")
    stage = models.PositiveIntegerField()
    state = models.CharField(max_length=12, choices=StepState.choices, default=StepState.PLANNED)
    version_before = models.ForeignKey(PolicyVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    pulled_before = models.JSONField(default=list, blank=True)  # consumer accounts that could pull when it was opened
    # Set before the first write of the version; null: none. The text of `before` is empty where there was no policy.
    before = models.ForeignKey(PolicyText, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    after = models.ForeignKey(PolicyText, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    written_at = models.DateTimeField(null=True, blank=True)
    words = models.TextField(blank=True)

    class Meta:
        ordering = ["stage", "pk"]
        constraints = [models.UniqueConstraint(fields=["version", "repository"], name="policy_step_once")]

    def __str__(self) -> str:
        return f"{self.repository} in version {self.version_id}"


class WritesPause(models.Model):
    """The emergency stop: while a pause is not lifted, nothing is written to AWS."""

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
    """What a process of this program does."""

    WEB = "web", "Web"
    WORKER = "worker", "Worker"  # the supervisor: one per `manage.py worker`
    TASK = "task", "Task process"  # a process of a worker's cluster; it runs the queue's tasks
    EVENTS = "events", "Events"
    COMMAND = "command", "Command"


class Process(models.Model):
    """A running process of this program: its role, its configuration, its last heartbeat.

    All times are by the database's clock. The row of a process that ended is kept for a day, and longer while it is
    needed to know which processes held the configuration that counts.
    """

    role = models.CharField(max_length=8, choices=ProcessRole.choices)
    host = models.CharField(max_length=253)
    pid = models.PositiveIntegerField()
    version = models.CharField(max_length=32, blank=True)
    configuration = models.ForeignKey(  # the configuration that it was started with, whether it counts or not
        ConfigurationGeneration, null=True, blank=True, on_delete=models.SET_NULL, related_name="processes"
    )
    started_at = models.DateTimeField(db_default=Now())
    beat_at = models.DateTimeField(db_default=Now())
    # Written by the process itself after SIGTERM; null: the process runs, or it was killed.
    ended_at = models.DateTimeField(null=True, blank=True)
    silent_from = models.DateTimeField(null=True, blank=True)  # the last heartbeat before its latest long silence
    clock_offset = models.FloatField(default=0, db_default=0.0)  # seconds that this host is ahead of the database
    last_task_at = models.DateTimeField(null=True, blank=True)  # of a worker: when a task last began or ended
    restarts = models.PositiveIntegerField(default=0, db_default=0)  # of a worker: how often its cluster was restarted
    trouble = models.TextField(blank=True, default="", db_default="")  # what is wrong with this process, in words

    class Meta:
        verbose_name_plural = "processes"
        ordering = ["role", "host", "pid"]
        indexes = [models.Index(fields=["role", "-beat_at"], name="process_alive")]

    def __str__(self) -> str:
        return f"{self.get_role_display()} on {self.host} ({self.pid})"


class DeploymentStatus(models.TextChoices):
    """The status of a deployment, in the CLI's words."""

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
    """One run of `trigger.dev deploy`: its environment, version, image ref and status."""

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
    triggered_by = models.CharField(max_length=200, blank=True)  # an e-mail address, or the prefix of a key
    external_id = models.CharField(max_length=128, blank=True)
    idempotency_key = models.CharField(max_length=200, blank=True)  # blank: the CLI sent none
    request_digest = models.CharField(max_length=64, blank=True)

    error = models.JSONField(null=True, blank=True)  # {"name", "message", "stack"?, "stderr"?}
    credentials_error = models.TextField(
        blank=True
    )  # why no registry credentials were issued; the CLI does not show it
    credentials_kind = models.CharField(
        max_length=12,
        blank=True,
        choices=[
            ("session", "STS session"),
            ("token", "ECR token of the whole registry"),
            ("password", "Configured user name and password"),
        ],
    )
    # What the last log-in opens; null: none was issued, or it was a configured password.
    log_in: models.JSONField[LogIn | None, LogIn | None] = ValuesField(null=True, blank=True, read=LogIn.from_row)
    # The id of the user whose personal access token began it; null: an environment key did. No foreign key: version
    # 0.1.0 deletes users, and does not know this column. An id is never used again.
    begun_by = models.PositiveBigIntegerField(null=True, blank=True, editable=False, db_index=True)
    # What was verified about the image before the promotion; null: nothing was tried.
    receipt: models.JSONField[Receipt | None, Receipt | None] = ValuesField(
        null=True, blank=True, read=Receipt.from_row
    )
    # Whether finalize asked for a promotion, so that a repeated finalize completes the first; null: no finalize yet.
    promotion_wanted = models.BooleanField(null=True, blank=True)
    canceled_reason = models.CharField(max_length=200, blank=True)
    # The deployment for which this one was canceled: forced, with the same external id; or the repetition of an
    # interrupted deploy.
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
    deadline = models.DateTimeField(null=True, blank=True)  # for the current status; null: none
    # When the CLI last asked for a step of it: begin, log-in, index, finalize. Null: not recorded (version 0.1.0).
    last_request_at = models.DateTimeField(null=True, blank=True, editable=False)

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
            models.Index(fields=["external_id"], condition=~Q(external_id=""), name="deployment_external"),
            models.Index(fields=["environment", "-created_at"], name="deployment_environment_recent"),
            models.Index(fields=["version_day", "version_number"], name="deployment_version"),
        ]

    def __str__(self) -> str:
        return str(self.version)

    @property
    def version(self) -> images.Version:
        """`YYYYMMDD.N`, unique in the environment."""
        return images.Version(self.version_day, self.version_number)

    @property
    def image_reference(self) -> str:
        """The image ref, with the digest once it is known."""
        return f"{self.image_ref}@{self.image_digest}" if self.image_digest else self.image_ref

    @property
    def is_final(self) -> bool:
        """Whether the status cannot change any more."""
        return self.status in FINAL_STATUSES

    @property
    def duration(self) -> timedelta | None:
        """From creation to the end; None while the deployment runs and for a deployment that timed out."""
        end = self.deployed_at or self.failed_at or self.canceled_at
        return end - self.created_at if end else None


def _new_worker_id() -> str:
    return images.new_id("worker")


class BackgroundWorker(models.Model):
    """The tasks that the indexer found in a deployment's image. Made once, when BUILDING becomes DEPLOYING."""

    id = models.CharField(primary_key=True, max_length=40, default=_new_worker_id, editable=False)
    deployment = models.OneToOneField(Deployment, on_delete=models.CASCADE, related_name="worker")
    content_hash = models.CharField(max_length=200)
    sdk_version = models.CharField(max_length=64, blank=True)
    cli_version = models.CharField(max_length=64, blank=True)
    engine = models.CharField(max_length=8, blank=True)
    tasks: models.JSONField[Any, Any] = models.JSONField(default=list)  # [{"id", "slug", "filePath", "exportName"?}]
    metadata: models.JSONField[Any, Any] = models.JSONField(default=dict)  # queues, platforms; no source files
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    # When `tasks` and `metadata` were emptied because of their age (`deployments.retention`); null: they were not.
    tasks_deleted_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        indexes = [
            models.Index(
                fields=["created_at"], condition=Q(tasks_deleted_at__isnull=True), name="background_worker_with_tasks"
            )
        ]

    def __str__(self) -> str:
        return self.id


class DeploymentTally(models.Model):
    """How many deployments there are from before a time; all of them have ended. One row (`deploys.tally`)."""

    before = models.DateTimeField()  # the counted deployments were created before this time
    statuses: models.JSONField[dict[str, int], dict[str, int]] = models.JSONField(default=dict)
    # Day in UTC → status → number, of the last days.
    days: models.JSONField[dict[str, dict[str, int]], dict[str, dict[str, int]]] = models.JSONField(default=dict)
    counted_at = models.DateTimeField(db_default=Now())

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"Deployments before {self.before:%Y-%m-%d %H:%M}"


class Promotion(models.Model):
    """The current deployment of an environment."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="promotions")
    label = models.CharField(max_length=32, default="current")
    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="promotions")
    promoted_at = models.DateTimeField(default=timezone.now)
    promoted_by = models.CharField(max_length=200, blank=True)
    # The newer deployment that was current before, if this promotion was a roll-back.
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
    """A deployment became current. Written in the transaction of the promotion and never changed."""

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


class ImageStatus(models.TextChoices):
    """Whether the image of a deployment can be pulled (`deployments.reconcile.image_states`)."""

    RUNNABLE = "runnable", "Runnable"  # it is there, active, and no policy that was read denies it to a consumer
    MISSING = "missing", "Missing"
    ARCHIVED = "archived", "Archived"  # or being restored: nothing can pull it
    NOT_PULLABLE = "not_pullable", "Not pullable"  # it is there, and a consumer account may not pull it
    UNKNOWN = "unknown", "Unknown"  # AWS did not say it


class ImageState(models.Model):
    """The image of a deployment that must stay pullable, as it was last looked at (`reconcile.image_states`).

    Each look writes its result with a condition on `looked_at` and `state`, so an older look overwrites no newer one.
    """

    deployment = models.OneToOneField(
        Deployment, primary_key=True, on_delete=models.CASCADE, related_name="image_state"
    )
    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="image_states")
    image = models.CharField(
        max_length=10, blank=True
    )  # what AWS said: active, archived, restoring, missing; empty: not known
    state = models.CharField(max_length=12, choices=ImageStatus.choices)
    words = models.TextField(blank=True, default="", db_default="")
    since = models.DateTimeField()  # since when looks find this state
    looked_at = models.DateTimeField()  # the start of the last look, whether AWS answered or not
    # The last state that was not unknown; empty: there was none, or a promotion made the next look report it again.
    known = models.CharField(max_length=12, blank=True, default="", db_default="", choices=ImageStatus.choices)
    known_at = models.DateTimeField(null=True, blank=True)  # when it was last seen

    class Meta:
        default_permissions = ()
        indexes = [models.Index(fields=["state"], name="image_state_by_state")]

    def __str__(self) -> str:
        return f"{self.deployment_id}: {self.get_state_display()}"

    @property
    def last_known(self) -> str:
        """The last state that was seen, in words, for an image whose state is unknown; else empty."""
        return self.get_known_display().lower() if self.state == ImageStatus.UNKNOWN else ""


class ImageStateChange(models.Model):
    """An image that must stay became pullable, or stopped being so. Written with the state, and never changed."""

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="image_state_changes")
    state = models.CharField(max_length=12, choices=ImageStatus.choices)
    words = models.TextField(blank=True)
    is_current = models.BooleanField()  # whether the deployment was current then; else it was a roll-back target
    last_good = models.CharField(
        max_length=32, blank=True
    )  # the newest version to roll back to; empty: none, not asked
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-id"]
        default_permissions = ()
        indexes = [models.Index(fields=["-at"], name="image_state_change_recent")]

    def __str__(self) -> str:
        return f"{self.deployment_id}: {self.get_state_display()}"


class EnvironmentVariable(models.Model):
    """A variable of an environment; tasks see it while they are indexed. The value is stored encrypted."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="variables")
    name = models.CharField(max_length=255)
    value = models.TextField()  # encrypted (deployments.access.vault)
    is_secret = models.BooleanField(default=False)  # the value is never shown again
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now)
    updated_by = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["environment", "name"], name="environment_variable_unique")]

    def __str__(self) -> str:
        return self.name


class Identity(models.Model):
    """A person at an OpenID provider, and the account that belongs to the person (`access.single_sign_on`).

    The person is (issuer, subject); names and addresses are only shown.
    """

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="identities")
    issuer = models.CharField(max_length=500)
    subject = models.CharField(max_length=255)  # OpenID Connect Core 1.0, section 2: at most 255 ASCII characters
    made_at = models.DateTimeField(db_default=Now())
    made_by = models.CharField(max_length=200)
    # The last time at which the person proved to be this person: a log-in, or the link itself.
    seen_at = models.DateTimeField(db_default=Now())
    log_ins = models.PositiveIntegerField(default=0)
    groups = models.JSONField(default=list, blank=True)  # of the claim, at the last log-in
    # The last log-in as an administrator. Only after one may log-ins with a password be switched off.
    administrator_at = models.DateTimeField(null=True, blank=True)
    # A log-in without a group made the account inactive. A log-in with one makes only such an account active again.
    access_ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "identities"
        constraints = [
            models.UniqueConstraint(fields=["issuer", "subject"], name="identity_person_unique"),
            models.UniqueConstraint(fields=["user", "issuer"], name="identity_account_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.subject} at {self.issuer}"


class LoginRequest(models.Model):
    """A running `trigger.dev login`: the CLI polls with a code until somebody approves the login in the browser."""

    code_digest = models.CharField(max_length=64, unique=True)
    challenge = models.CharField(max_length=128, blank=True)  # PKCE, S256
    approval_digest = models.CharField(max_length=64, blank=True)  # of the code that the browser hands back to the CLI
    callback_port = models.PositiveIntegerField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE)
    approved_at = models.DateTimeField(null=True, blank=True)
    collected_at = models.DateTimeField(null=True, blank=True)  # when the CLI collected the token; it can do so once

    def __str__(self) -> str:
        return f"Login {self.pk}"


class FactorKind(models.TextChoices):
    """What a person has besides the password."""

    TOTP = "totp", "Code from an app"
    PASSKEY = "passkey", "Passkey"


class SecondFactor(models.Model):
    """An app that shows codes, or a passkey (`deployments.access.second_factor`)."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="second_factors")
    kind = models.CharField(max_length=8, choices=FactorKind.choices)
    name = models.CharField(max_length=100)
    secret = models.TextField(blank=True, default="")  # of an app: the key of its codes, encrypted
    last_step = models.PositiveBigIntegerField(default=0)  # of an app: the 30 seconds of the last code that counted
    credential = models.TextField(blank=True, default="")  # of a passkey: its id and public key, base64url
    credential_digest = models.CharField(max_length=64, blank=True, default="")  # SHA-256 of its id
    sign_count = models.PositiveBigIntegerField(default=0)  # of a passkey: how often it was used; 0: it does not count
    made_at = models.DateTimeField(db_default=Now())
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["pk"]
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["credential_digest"], condition=~Q(credential_digest=""), name="second_factor_passkey_unique"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} “{self.name}”"


class RecoveryCode(models.Model):
    """A code that stands for a second factor once. Only its digest is stored."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="recovery_codes")
    digest = models.CharField(max_length=64, unique=True)
    used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"Recovery code {self.pk}"


class ActorKind(models.TextChoices):
    """Who or what acted."""

    PERSON = "person", "Person"
    KEY = "key", "Access key"
    SCHEDULE = "schedule", "Schedule"
    COMMAND = "command", "Command"
    SYSTEM = "system", "System"


class AuditEntry(models.Model):
    """A line of the audit log: who did what. Never changed; kept when the object that it is about is deleted."""

    at = models.DateTimeField(default=timezone.now, db_index=True)
    actor_kind = models.CharField(max_length=12, choices=ActorKind.choices)
    actor = models.CharField(max_length=200)  # as text: an e-mail address, a key's prefix, a command
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
        indexes = [
            models.Index(fields=["object_type", "object_id"], name="audit_entry_object"),
            models.Index(fields=["request_id"], condition=~Q(request_id=""), name="audit_entry_request"),
            # Each answers a filter of the list in the order of time, and the counts of its menus without reading rows.
            models.Index(fields=["object_type", "at", "action", "actor_kind"], name="audit_entry_of_type"),
            models.Index(fields=["action", "at", "object_type", "actor_kind"], name="audit_entry_of_action"),
        ]

    def __str__(self) -> str:
        return f"{self.actor} {self.action} {self.object_label}"


class ChannelKind(models.TextChoices):
    """How a notification is sent."""

    WEBHOOK = "webhook", "Webhook (signed)"
    SLACK = "slack", "Slack"
    TEAMS = "teams", "Microsoft Teams"
    DISCORD = "discord", "Discord"
    MATTERMOST = "mattermost", "Mattermost"
    PAGERDUTY = "pagerduty", "PagerDuty"
    MAIL = "mail", "Mail"


class NotificationChannel(models.Model):
    """A place to send notifications to."""

    name = models.CharField(max_length=100, unique=True)
    kind = models.CharField(max_length=12, choices=ChannelKind.choices)
    address = models.CharField(max_length=500)  # mail addresses, or a URL without its secret path (notify.channels)
    encrypted_address = models.TextField(blank=True, default="", db_default="")  # the whole URL of a webhook
    # Encrypted: signs webhooks, PagerDuty's integration key, or the whole URL of Slack.
    secret = models.TextField(blank=True)
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
    """Whether a notification was sent."""

    WAITING = "waiting", "Waiting"
    SENT = "sent", "Sent"
    FAILED = "failed", "Failed"  # all attempts failed


class NotificationDelivery(models.Model):
    """One message to one channel, with its attempts and the last answer."""

    channel = models.ForeignKey(NotificationChannel, on_delete=models.CASCADE, related_name="deliveries")
    event = models.CharField(max_length=60)
    subject = models.CharField(max_length=300)
    body = models.JSONField(default=dict)
    key = models.CharField(max_length=200)  # identifies the state change: one message per channel and key
    status = models.CharField(max_length=8, choices=DeliveryStatus.choices, default=DeliveryStatus.WAITING)
    attempts = models.PositiveIntegerField(default=0)
    next_try_at = models.DateTimeField(default=timezone.now)
    answer = models.CharField(max_length=300, blank=True)  # status code or error, never the body of the answer
    created_at = models.DateTimeField(default=timezone.now)
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "notification deliveries"
        ordering = ["-created_at", "-id"]
        constraints = [models.UniqueConstraint(fields=["channel", "key"], name="notification_once")]
        indexes = [
            models.Index(fields=["next_try_at"], condition=Q(status="waiting"), name="notification_waiting"),
            models.Index(fields=["status", "created_at"], name="notification_by_status"),
        ]

    def __str__(self) -> str:
        return f"{self.event} → {self.channel}"


class SweepTrigger(models.TextChoices):
    """What started a sweep."""

    SCHEDULE = "schedule", "Schedule"
    COMMAND = "command", "Command"
    PERSON = "person", "Person"
    ROLLOUT = "rollout", "Roll-out"


class SweepStatus(models.TextChoices):
    """Whether a sweep has ended, and how."""

    RUNNING = "running", "Running"  # any worker may take a chunk; it stays running while no worker is up
    DONE = "done", "Done"
    STOPPED = "stopped", "Stopped"
    FAILED = "failed", "Failed"  # the installation is at fault: no credentials, role refused


class Sweep(models.Model):
    """One pass over all repositories, or over those in `names`."""

    trigger = models.CharField(max_length=12, choices=SweepTrigger.choices)
    requested_by = models.CharField(max_length=200, blank=True)
    names = models.JSONField(default=list, blank=True)  # empty: all
    dry_run = models.BooleanField(default=False)  # a refresh: it records what it sees and writes nothing to AWS
    adopt = models.BooleanField(default=False)  # also adopt the repositories that the sweep discovers
    status = models.CharField(max_length=12, choices=SweepStatus.choices, default=SweepStatus.RUNNING)
    started_at = models.DateTimeField(default=timezone.now)
    listed_at = models.DateTimeField(null=True, blank=True)  # the registry was listed and the chunks were made
    finished_at = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True)
    discovered = models.PositiveIntegerField(default=0)
    missing = models.PositiveIntegerField(default=0)
    calls = models.JSONField(default=dict, blank=True)  # of the listing: {"DescribeRepositories": 1}
    # Repositories that this sweep does not read, because the change feed reported no change (`reconcile.change_feed`).
    spared = models.PositiveIntegerField(default=0, db_default=0)
    # Where an interrupted listing continues (`reconcile.sweeps`); null: at the beginning.
    listing = models.JSONField(null=True, blank=True)
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
        indexes = [
            models.Index(fields=["-started_at"], name="sweep_recent"),
            models.Index(fields=["-started_at"], condition=Q(status="running"), name="sweep_running"),
        ]

    def __str__(self) -> str:
        return f"Sweep {self.pk}"

    @property
    def reads_everything(self) -> bool:
        """Whether a person asked for it: then every part of each repository is read, else the parts that are due."""
        return self.trigger in (SweepTrigger.PERSON, SweepTrigger.COMMAND)


class SweepChunk(models.Model):
    """A part of a sweep. One process at a time works on it, under a lease that also covers the reads."""

    sweep = models.ForeignKey(Sweep, on_delete=models.CASCADE, related_name="chunks")
    position = models.PositiveIntegerField()
    host = models.CharField(max_length=253)  # host and namespace identify the configured registry
    namespace = models.CharField(max_length=230)
    size = models.PositiveIntegerField()
    remaining = models.JSONField(default=list)  # ids of the repositories that are not checked yet
    in_sync = models.PositiveIntegerField(default=0)
    healed = models.PositiveIntegerField(default=0)
    drifted = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    unmanaged = models.PositiveIntegerField(default=0, db_default=0)  # only a refresh reads unmanaged repositories
    calls = models.JSONField(default=dict, blank=True)
    # By repository id: how often AWS throttled its check in this sweep. The keys of JSON are texts.
    throttled: models.JSONField[dict[int, int] | None, dict[int, int] | None] = ValuesField(
        null=True, blank=True, read=lambda stored: {int(pk): tries for pk, tries in stored.items()}
    )
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
    """A repository that a sweep did not find in sync, and what the sweep did."""

    class Outcome(models.TextChoices):
        """What the sweep did or found."""

        HEALED = "healed", "Healed"
        DRIFTED = "drifted", "Drifted"  # left as it is: observe mode, a refresh, or not managed by us
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


class RegistryPolicyReading(models.Model):
    """What AWS last showed of a registry's own policy. It is read once by each sweep, and nothing writes it to AWS."""

    account = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    text = models.TextField(blank=True, default="", db_default="")  # empty: the registry has no policy
    scope = models.CharField(max_length=10, blank=True, default="", db_default="")  # V1, V2; empty: not read
    read_at = models.DateTimeField(null=True, blank=True)  # start of the last reading that AWS answered
    error = models.TextField(blank=True, default="", db_default="")  # why AWS does not show it; empty: AWS showed it

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["account", "region"], name="registry_policy_reading_unique")]

    def __str__(self) -> str:
        return f"{self.account} {self.region}: {self.error or self.scope or 'no policy'}"


class ChangeFeed(models.Model):
    """How complete the change events of a registry are, by the events of our own calls (`reconcile.change_feed`)."""

    account = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    first_proven_at = models.DateTimeField()
    proven_at = models.DateTimeField()  # when AWS took the newest own read whose event came back
    arrived_at = models.DateTimeField()  # when that event came
    unbroken_since = models.DateTimeField()  # the first of the own reads that came back without a pause until now
    lost_at = models.DateTimeField(null=True, blank=True)  # when the feed last stopped being trusted, before that
    asked_at = models.DateTimeField(null=True, blank=True)  # when an events process last made a read as a proof

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["account", "region"], name="change_feed_unique")]

    def __str__(self) -> str:
        return f"{self.account} {self.region}: proven {self.proven_at}"


class CallBudget(models.Model):
    """The calls per second that AWS accepts from our sweeps, learned from throttling. All workers share it.

    The row is a `reconcile.pace.Measurement`.
    """

    account = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    rate = models.FloatField()
    measured_at = models.DateTimeField(null=True)  # None: 0.3.0 or older wrote the row, and changed_at stands for it
    seconds = models.FloatField(db_default=60.0)
    accepted = models.PositiveBigIntegerField(db_default=0)
    empty = models.BooleanField(db_default=False)
    changed_at = models.DateTimeField(default=timezone.now)  # when a sweep last made calls

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "region"], name="call_budget_unique")]

    def __str__(self) -> str:
        return f"{self.account} {self.region}: {self.rate:.1f}/s"


class RetentionRule(models.Model):
    """How long rows of one kind are kept, by the settings of the workers, and since when (`deployments.retention`)."""

    setting = models.CharField(max_length=64, unique=True)  # RETENTION_SWEEPS_DAYS
    days = models.PositiveIntegerField()
    since = models.DateTimeField(db_default=Now())  # since when workers have this number of days
    rests_until = models.DateTimeField(null=True, blank=True)  # until then no row is looked for

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.setting}={self.days}"
