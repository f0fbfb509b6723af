"""Projects with one of everything, whose every text names its environment, and the rows of each owner."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import User
from django.db.models import Model
from django.db.models.functions import Now

from deployments.access import cli_login, keys
from deployments.access.trust import GITHUB_ISSUER
from deployments.access.vault import Vault
from deployments.config import Configuration
from deployments.deploys import environment_variables, projects, promotions
from deployments.models import (
    AccessKey,
    BackgroundWorker,
    Deployment,
    Environment,
    Project,
    Repository,
    TrustPolicy,
)
from tests.support.ci_tokens import GITHUB
from tests.support.cli import DIGEST, HASH
from tests.support.constants import OWNER, TRAIL

HOST = "registry.example.com"
#: A registry that is not ECR: no request of an attack calls AWS.
SETTINGS = {
    "DEPLOY_REGISTRY_HOST": HOST,
    "DEPLOY_REGISTRY_USERNAME": "pusher",
    "DEPLOY_REGISTRY_PASSWORD": "canary-registry-password",
    "DEPLOY_IMAGE_VERIFICATION_ENABLED": "0",
}
CODE_VERIFIER = "v" * 64
_STATUSES = ("BUILDING", "DEPLOYING", "DEPLOYED", "DEPLOYED", "FAILED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One environment, and what can be named of it in a request. Every text of its rows contains `canary`."""

    environment: Environment
    canary: str
    deployments: tuple[Deployment, ...]
    external_id: str

    @property
    def ref(self) -> str:
        return str(self.environment.project.ref)

    @property
    def slug(self) -> str:
        return self.environment.slug

    @property
    def ids(self) -> list[str]:
        return [deployment.id for deployment in self.deployments]

    @property
    def key_ids(self) -> list[str]:
        owner = self.environment.parent_id or self.environment.pk
        found = AccessKey.objects.filter(environment=owner, kind="environment", name=self.canary)
        return [str(key.pk) for key in found]

    @property
    def policy_ids(self) -> list[str]:
        owner = self.environment.parent_id or self.environment.pk
        return [str(policy.pk) for policy in TrustPolicy.objects.filter(environment=owner, name=self.canary)]

    @property
    def versions(self) -> list[str]:
        return [str(deployment.version) for deployment in self.deployments]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A project with production, staging and a preview branch, and a person with an approved CLI log-in."""

    project: Project
    places: dict[str, Place]
    person: User
    login_code: str
    branch: str = field(default="feat/x")

    @classmethod
    def make(cls, name: str, *, first: int) -> Side:
        """`first`: the number of its first version, so that no version of one side exists on the other."""
        project = projects.create_project(name=f"canary-{name}-project")
        preview = Environment.objects.get(project=project, slug="preview", parent=None)
        branch = Environment.objects.create(
            project=project, type=preview.type, slug="preview", parent=preview, branch=f"feat/{name}"
        )
        roots = {each.slug: each for each in project.environments.filter(parent=None)}
        places = {
            kind: _place(environment, f"canary-{name}-{kind}", first + 100 * number)
            for number, (kind, environment) in enumerate(
                {"prod": roots["prod"], "staging": roots["staging"], "branch": branch}.items()
            )
        }
        person = User.objects.create_superuser(f"canary-{name}-person", f"{name}@example.com")
        return cls(project=project, places=places, person=person, login_code=_login(person), branch=branch.branch)

    @property
    def preview(self) -> Environment:
        return Environment.objects.select_related("project").get(project=self.project, slug="preview", parent=None)


def _login(person: User) -> str:
    """The code of a log-in with PKCE that the person has approved and whose token nobody has collected."""
    challenge = urlsafe_b64encode(hashlib.sha256(CODE_VERIFIER.encode()).digest()).rstrip(b"=").decode()
    begun = cli_login.begin(challenge=challenge)
    found = cli_login.find(handle=begun.handle)
    assert found is not None
    cli_login.approve(login=found.login, user=person)
    return begun.code


def _place(environment: Environment, canary: str, first: int) -> Place:
    configuration: Configuration = settings.CONFIGURATION
    repository = Repository.objects.create(
        account=OWNER, region="us-east-1", host=HOST, name=f"trigger/{canary}", project=environment.project,
        status="in_sync", origin="created", management="full",
    )  # fmt: skip
    external_id = f"pr-{environment.pk}"
    found = []
    for number, status in enumerate(_STATUSES):
        row = Deployment.objects.create(
            project_id=environment.project_id, environment=environment, repository=repository,
            version_day="20260101", version_number=first + number, status=status, type="MANAGED", content_hash=HASH,
            image_ref=f"{HOST}/trigger/{canary}:{number}", image_platform="linux/amd64",
            image_digest=DIGEST if status == "DEPLOYED" else "",
            external_id=external_id if status in ("BUILDING", "DEPLOYED") else "",
            idempotency_key=f"key-{environment.pk}-{number}",
            git={"commitMessage": canary}, triggered_by=canary, canceled_reason="",
            error={"name": "Error", "message": canary} if status == "FAILED" else None,
            deployed_at=Now() if status == "DEPLOYED" else None, deadline=Now() + timedelta(hours=1),
        )  # fmt: skip
        if status != "BUILDING":
            tasks = [{"id": f"task_{row.pk}", "slug": canary, "filePath": canary}]
            BackgroundWorker.objects.create(deployment=row, content_hash=HASH, tasks=tasks)
        found.append(Deployment.objects.get(pk=row.pk))
    promotions.promote(
        environment=environment, version=str(found[2].version), by=canary, configuration=configuration, trail=TRAIL
    )
    vault = Vault(settings.ENCRYPTION_KEYS)
    for name, is_secret in (("SHARED", False), ("SECRET", True)):
        environment_variables.store(
            environment=environment, variables={name: f"{canary}-{name}"}, vault=vault, is_secret=is_secret
        )
    root = environment if environment.parent is None else environment.parent
    keys.make_environment_key(root, canary)
    TrustPolicy.objects.create(environment=root, name=canary, kind="github", issuer=GITHUB_ISSUER, claims=GITHUB)
    return Place(environment=environment, canary=canary, deployments=tuple(found), external_id=external_id)


#: What is written beside a change: sessions, wake-up tasks, the use of a key; and what the attack itself sets.
_ASIDE = {"session", "keyclient", "logentry", "ormq", "task", "success", "failure", "schedule", "permission", "group"}
_USE = ("last_used_at", "last_used_by", "last_login", "request_digest")

Rows = dict[object, list[tuple[str, dict[str, Any]]]]


def rows_by_owner() -> Rows:
    """Every row of the database, by the id of the environment that owns it; “project ID” for the rows of a project,
    and None for all others.
    """
    deployments = dict(Deployment.objects.values_list("pk", "environment_id"))
    repositories = dict(Repository.objects.values_list("pk", "project_id"))
    access_keys = dict(AccessKey.objects.values_list("pk", "environment_id"))
    found: Rows = {}

    def owner(model: type[Model], row: dict[str, Any]) -> object:
        if model._meta.model_name == "auditentry":
            return about(row["object_type"], row["object_id"])
        if model is Environment:
            return row["id"]
        if row.get("environment_id"):
            return row["environment_id"]
        if row.get("deployment_id"):
            return deployments[row["deployment_id"]]
        project = row["id"] if model is Project else row.get("project_id")
        if row.get("repository_id"):
            project = repositories[row["repository_id"]]
        return f"project {project}" if project else None

    def about(kind: str, pk: str) -> object:
        if kind == "deployment":
            return deployments.get(pk)
        if kind == "accesskey":
            return access_keys.get(int(pk))
        return int(pk) if kind == "environment" else None

    for model, row in _rows():
        found.setdefault(owner(model, row), []).append((model._meta.label, row))
    return found


def _rows() -> Iterator[tuple[type[Model], dict[str, Any]]]:
    for model in apps.get_models(include_auto_created=True):
        if model._meta.model_name in _ASIDE or model._meta.app_label in ("axes", "contenttypes"):
            continue
        for row in model._base_manager.order_by("pk").values():
            yield model, {name: value for name, value in row.items() if name not in _USE}
