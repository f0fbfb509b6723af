"""An installation that could be somebody's: for the admin's tests, which need many rows, and for the pictures of it.

The same rows every time (one seeded generator); only their times are counted back from now.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import User
from django.urls import reverse
from django.utils import timezone

from deployments import images
from deployments.access import keys, trust
from deployments.access.vault import Vault
from deployments.deploys import environment_variables
from deployments.deploys.projects import create_project
from deployments.models import (
    AccessKey,
    BackgroundWorker,
    Deployment,
    DeploymentStatus,
    Environment,
    EnvironmentType,
    EventKind,
    ImageState,
    ImageStatus,
    PolicyVersion,
    Process,
    ProcessRole,
    Project,
    Promotion,
    RegistryPolicyReading,
    Repository,
    RepositoryEvent,
    RepositoryStatus,
    Sweep,
    SweepChunk,
    SweepFinding,
    SweepStatus,
    SweepTrigger,
    TrustPolicy,
    VersionState,
)
from deployments.reconcile import ownership, policy_versions
from deployments.row_values import ConsumerPull, Difference, Encryption, LogIn, Mutability, Part, ProvedPull, Receipt
from registry_admin import VERSION

OWNER, CLUSTER, STAGING, SECOND = "111111111111", "222222222222", "333333333333", "444444444444"
HOST = f"{OWNER}.dkr.ecr.us-east-1.amazonaws.com"
PULL = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
NAMES = (
    "Billing worker", "Support agent", "Media pipeline", "Search indexer", "Data exports", "Onboarding mails",
    "Fraud checks", "Invoice OCR", "Price feeds", "Webhook relay",
)  # fmt: skip
PEOPLE = ("mira@example.com", "jonas@example.com", "aiko@example.com", "sam@example.com")
FIRST_USER = 1_000_000  # so that a test may make users of its own before
COMMITS = (
    "Retry webhooks with jitter", "Fix N+1 in invoice export", "Bump ffmpeg to 7.1", "Drop the legacy importer",
    "Tune queue concurrency", "Handle an empty transcript", "Rotate SMTP credentials", "Cache exchange rates",
    "Move thumbnails to webp", "Send receipts in the customer's language", "Index attachments over 20 MB",
)  # fmt: skip
BRANCHES = ("main", "main", "main", "chore/deps", "feat/receipts", "fix/timeouts")
FAILURES = (
    ("IndexingFailed", "TypeError: Cannot read properties of undefined (reading 'queue') in src/trigger/nightly.ts"),
    ("BuildFailed", "npm ci: package-lock.json is out of step with package.json (missing: zod@3.25.1)"),
    ("ImageNotFound", "The image was not found in the registry. Did the push end with an error?"),
    ("BuildFailed", "ERROR: failed to solve: process \"/bin/sh -c npm run build\" did not complete: exit code 1"),
)  # fmt: skip


def policy(*accounts: str, actions: list[str] | None = None, roots: bool = False, **more: Any) -> str:
    principals = [f"arn:aws:iam::{account}:root" if roots else account for account in accounts]
    statement = {"Sid": "NodesPull", "Effect": "Allow", "Principal": {"AWS": principals}, "Action": actions or PULL}
    return json.dumps({"Version": "2012-10-17", "Statement": [{**statement, **more}]})


DESIRED = policy(CLUSTER, STAGING)
LIVE = policy(STAGING, CLUSTER, roots=True)
LIFECYCLE = json.dumps(
    {
        "rules": [
            {
                "rulePriority": 1,
                "description": "Untagged images expire 3 days after they were pushed",
                "selection": {
                    "tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 3,
                },
                "action": {"type": "expire"},
            }
        ]
    }
)  # fmt: skip
#: The one that the settings name, and the ones that they named before.
REGISTRIES = [
    (account, region)
    for region in ("us-east-1", "eu-central-1", "eu-west-1", "us-west-2", "ap-southeast-2")
    for account in (OWNER, SECOND)
]
ENVIRONMENT = {
    "DEPLOY_REGISTRY_HOST": HOST,
    "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": DESIRED,
    "DEPLOY_REGISTRY_ECR_TAGS": "team=platform,managed-by=registry-admin",
    "DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS": f"{CLUSTER},{STAGING}",
}
STAGED = {"DEPLOY_REGISTRY_ECR_ROLLOUT": "staged"}
#: So that the pictures can show a roll-out that is stopped and another one in batches.
TWO_NAMESPACES = {"DEPLOY_REGISTRY_NAMESPACE": "jobs", "V4_DEPLOY_REGISTRY_NAMESPACE": "trigger"}
#: Single sign-on with a provider that does not exist: for the pages that speak of it.
SIGN_ON = {
    "SSO_ISSUER": "https://id.example.com/realms/company",
    "SSO_CLIENT_ID": "registry-admin",
    "SSO_NAME": "Company log-in",
    "SSO_GROUPS": '{"engineering":"viewer","platform":"operator","platform-admins":"admin"}',
}


def _difference(part: str, words: str, *, fixable: bool) -> Difference:
    return Difference(part=Part(part), words=words, fixable=fixable)


def _can_pull(account: str) -> ConsumerPull:
    words = f"account {account} may pull"
    return ConsumerPull(verdict="yes", words=words, layer="repository policy", statement="NodesPull")


def _cannot_pull(account: str) -> ConsumerPull:
    return ConsumerPull(verdict="no", words=f"No statement lets account {account} pull.")


NOBODY = {account: _cannot_pull(account) for account in (CLUSTER, STAGING)}


#: status → what a row in it looks like, in turn.
TROUBLES: dict[str, list[dict[str, Any]]] = {
    RepositoryStatus.FAILED: [
        {
            "last_error_code": "AccessDeniedException",
            "last_error": "AWS refused SetRepositoryPolicy on {name}: AccessDeniedException: User: "
            f"arn:aws:sts::{OWNER}:assumed-role/registry-admin/web is not authorized to perform: "
            "ecr:SetRepositoryPolicy. Allow ecr:SetRepositoryPolicy on this repository to the identity that "
            "Registry Admin runs as.",
        },
        {
            "last_error_code": "InvalidParameterException",
            "last_error_heals": True,
            "last_error": "AWS refused SetRepositoryPolicy on {name}: InvalidParameterException: Principal not found. "
            "A role or user that the policy names does not exist (yet). AWS needs some minutes after a role is made; "
            "the next deploy tries again. If the error stays: correct the ARN in the policy setting.",
        },
        {
            "last_error_code": "ThrottlingException",
            "last_error_heals": True,
            "last_error": "AWS refused GetRepositoryPolicy on {name}: ThrottlingException: Rate exceeded. AWS is "
            "limiting the rate of calls; trying again in a moment is enough.",
        },
    ],
    RepositoryStatus.DRIFTED: [
        {
            "policy_text": policy(CLUSTER, roots=True, actions=["ecr:*"]),
            "consumers": {
                CLUSTER: _can_pull(CLUSTER),
                STAGING: _cannot_pull(STAGING),
            },
            "differences": [
                _difference(
                    "policy",
                    f"Compared with the default policy, account {STAGING} loses pull; account {CLUSTER} gains every "
                    "ECR action except pull.",
                    fixable=True,
                ),
            ],
        },
        {
            "origin": "adopted",
            "mutability": Mutability(mode="MUTABLE"),
            "differences": [
                _difference(
                    "mutability",
                    "Tag mutability is MUTABLE instead of IMMUTABLE_WITH_EXCLUSION (except cache).",
                    fixable=False,
                ),
                _difference("lifecycle", "The lifecycle policy is another one, made by somebody else.", fixable=False),
            ],
        },
        {
            "policy_text": "",
            "consumers": NOBODY,
            "differences": [_difference("policy", "The repository has no policy.", fixable=True)],
        },
    ],
    RepositoryStatus.MISSING: [{"policy_text": "", "consumers": {}}],
    RepositoryStatus.PENDING: [
        {"policy_text": "", "consumers": {}, "last_checked_at": None, "details_checked_at": None},
    ],
    RepositoryStatus.UNMANAGED: [{"policy_text": policy(SECOND, roots=True), "consumers": NOBODY, "origin": ""}],
}
STATUSES = (
    *[RepositoryStatus.IN_SYNC] * 2,
    RepositoryStatus.DRIFTED,
    RepositoryStatus.IN_SYNC,
    RepositoryStatus.FAILED,
    *[RepositoryStatus.IN_SYNC] * 6,
    RepositoryStatus.DRIFTED,
    RepositoryStatus.MISSING,
    *[RepositoryStatus.IN_SYNC] * 3,
    RepositoryStatus.FAILED,
    *[RepositoryStatus.IN_SYNC] * 4,
    RepositoryStatus.PENDING,
    RepositoryStatus.DRIFTED,
    *[RepositoryStatus.IN_SYNC] * 10,
    RepositoryStatus.UNMANAGED,
    RepositoryStatus.FAILED,
    *[RepositoryStatus.IN_SYNC] * 4,
)


class Installation:
    """Builds the rows. Sizes are what the caller wants to look at, or to multiply."""

    def __init__(self, *, projects: int = 10, repositories: int = 40, deployments: int = 300, seed: int = 7) -> None:
        self.random = random.Random(seed)  # noqa: S311  # scenery
        self.now = timezone.now()
        self.projects = [self._project(number) for number in range(projects)]
        self.repositories = Repository.objects.bulk_create(self._repositories(repositories))
        ownership.fill()
        for account, region in REGISTRIES:
            found = {"read_at": self._ago(minutes=2)}
            RegistryPolicyReading.objects.update_or_create(account=account, region=region, defaults=found)
        RepositoryEvent.objects.bulk_create(self._events())
        self.deployments = Deployment.objects.bulk_create(self._deployments(deployments))
        BackgroundWorker.objects.bulk_create(self._workers())
        Promotion.objects.bulk_create(self._promotions())
        ImageState.objects.bulk_create(self._image_states())
        self._keys()
        self._sweeps()
        self._versions()
        self._workers_of_the_queue()

    def _ago(self, **span: float) -> datetime:
        return self.now - timedelta(**span)

    def _project(self, number: int) -> Project:
        name = NAMES[number % len(NAMES)] + (f" {number // len(NAMES) + 1}" if number >= len(NAMES) else "")
        ref = "proj_" + "".join(self.random.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(20))
        project = create_project(name=name, ref=ref)
        Project.objects.filter(pk=project.pk).update(created_at=self._ago(days=200 - number))
        preview = project.environments.get(slug="preview")
        for branch in ("feat/receipts", "fix/timeouts")[: number % 3]:
            Environment.objects.create(
                project=project, type=EnvironmentType.PREVIEW, slug="preview", parent=preview, branch=branch
            )
        return project

    def _repositories(self, count: int) -> Iterator[Repository]:
        seen: dict[str, int] = {}
        for number in range(count):
            status = STATUSES[number % len(STATUSES)]
            project = self.projects[number % len(self.projects)]
            account, region = REGISTRIES[number // len(self.projects)]
            looked = self._ago(minutes=self.random.randint(2, 55))
            values: dict[str, Any] = {
                "account": account,
                "region": region,
                "host": f"{account}.dkr.ecr.{region}.amazonaws.com",
                "name": f"trigger/{project.ref}",
                "project": project,
                "status": status,
                "origin": "created",
                "created_at": self._ago(days=self.random.randint(5, 190)),
                "last_checked_at": looked,
                "details_checked_at": looked,
                "policy_text": LIVE,
                "lifecycle_text": LIFECYCLE,
                "lifecycle_is_ours": True,
                "tags": {"team": "platform", "managed-by": "registry-admin"},
                "mutability": Mutability(mode="IMMUTABLE_WITH_EXCLUSION", exclusions=("cache",)),
                "encryption": Encryption(type="AES256"),
                "policy_applied_at": self._ago(days=self.random.randint(3, 60)),
                "last_in_sync_at": looked,
                "last_pulled_at": self._ago(hours=number % 30),
                "pulls_read_at": looked if number % 4 else None,
                "consumers": {
                    CLUSTER: _can_pull(CLUSTER),
                    STAGING: _can_pull(STAGING),
                },
            }
            if number == 3:
                values |= {
                    "mode": "observe", "mode_until": self.now + timedelta(days=2), "mode_by": PEOPLE[1],
                    "mode_reason": "The data team tries another account until Thursday (OPS-311).",
                }  # fmt: skip
            if status != RepositoryStatus.IN_SYNC:
                turn = seen[status] = seen.get(status, -1) + 1
                trouble = TROUBLES[status][turn % len(TROUBLES[status])]
                values |= {"last_in_sync_at": self._ago(hours=self.random.randint(2, 90)), **trouble}
                if "last_error" in trouble:
                    values |= {"last_error": trouble["last_error"].format(name=values["name"]), "last_error_at": looked}
                if status == RepositoryStatus.DRIFTED:
                    values["drifted_since"] = self._ago(hours=self.random.randint(1, 70))
            yield Repository(**values)

    def _events(self) -> Iterator[RepositoryEvent]:
        for row in self.repositories:
            yield RepositoryEvent(
                repository=row, kind=EventKind.CREATED, at=row.created_at, cause="deploy",
                message="Created with the default repository policy, tags and a lifecycle policy.",
            )  # fmt: skip
            yield RepositoryEvent(
                repository=row, kind=EventKind.POLICY_APPLIED, at=row.policy_applied_at or self.now, cause="deploy",
                message=f"The default repository policy was written: account {STAGING} may pull.",
                policy_before=policy(CLUSTER, roots=True),
            )  # fmt: skip
            if row.status == RepositoryStatus.DRIFTED and row.drifted_since:
                words = "; ".join(each.words for each in row.differences)
                yield RepositoryEvent(
                    repository=row, kind=EventKind.DRIFT_FOUND, at=row.drifted_since, cause="sweep", message=words
                )
            if row.last_error and row.last_error_at:
                yield RepositoryEvent(
                    repository=row, kind=EventKind.ERROR, at=row.last_error_at, cause="sweep", message=row.last_error
                )

    def _deployments(self, count: int) -> Iterator[Deployment]:
        environments = [
            environment
            for project in self.projects
            for environment in Environment.objects.filter(project=project).select_related("project")
        ]
        weights = [5 if each.slug == "preview" else 3 if each.slug == "prod" else 2 for each in environments]
        by_project = {row.project_id: row for row in self.repositories if row.host == HOST}
        # Denser towards now, and in the order of time, so that versions count up by day.
        moments = sorted(self._ago(minutes=9 + self.random.random() ** 1.6 * 60 * 24 * 45) for _ in range(count))
        numbers: dict[tuple[int, str], int] = {}
        for index, created in enumerate(moments):
            environment = self.random.choices(environments, weights)[0]
            day = images.version_day(created.date())
            number = numbers[environment.pk, day] = numbers.get((environment.pk, day), 0) + 1
            yield self._deployment(environment, by_project.get(environment.project_id), created, number, count - index)

    def _deployment(
        self, environment: Environment, repository: Repository | None, created: datetime, number: int, from_end: int
    ) -> Deployment:
        status = self.random.choices(
            ["DEPLOYED", "FAILED", "CANCELED", "TIMED_OUT"], [84, 11, 3, 2]
        )[0] if from_end > 4 else ("DEPLOYING", "BUILDING", "BUILDING", "DEPLOYED")[from_end - 1]  # fmt: skip
        sha = hashlib.sha1(f"{environment.pk}{created}{number}".encode()).hexdigest()  # noqa: S324
        day = images.version_day(created.date())
        short_code = images.new_short_code()
        version = images.Version(day, number)
        tag = images.tag(version=str(version), environment_type=environment.type, short_code=short_code)
        started = created + timedelta(seconds=self.random.randint(1, 6))
        installed = started + timedelta(seconds=self.random.randint(9, 40))
        built = installed + timedelta(seconds=self.random.randint(25, 130))
        ended = built + timedelta(seconds=self.random.randint(4, 25))
        row = Deployment(
            project_id=environment.project_id,
            environment=environment,
            repository=repository,
            short_code=short_code,
            version_day=day,
            version_number=number,
            status=status,
            type="MANAGED",
            content_hash=sha,
            image_ref=f"{HOST}/trigger/{environment.project.ref}:{tag}",
            image_platform="linux/amd64",
            runtime="node",
            runtime_version="22.16.0",
            git={
                "commitSha": sha,
                "commitMessage": self.random.choice(COMMITS),
                "commitRef": environment.branch or self.random.choice(BRANCHES),
                "commitAuthorName": self.random.choice(PEOPLE).partition("@")[0].title(),
                "remoteUrl": "https://github.com/example/jobs.git",
                "dirty": self.random.random() < 0.06,
            },
            triggered_by=self.random.choice(PEOPLE),
            credentials_kind="session",
            log_in=LogIn(
                push=(f"trigger/{environment.project.ref}",),
                pull=("platform/*",),
                expires_at=(created + timedelta(minutes=16)).isoformat(),
            ),
            triggered_via=self.random.choice(("cli:manual", "cli:github_actions", "cli:github_actions")),
            created_at=created,
            started_at=started,
        )
        if status in (DeploymentStatus.BUILDING, DeploymentStatus.DEPLOYING):
            row.deadline = self.now + timedelta(minutes=4)
            row.last_request_at = self.now - timedelta(minutes=4)
        if status in (DeploymentStatus.DEPLOYED, DeploymentStatus.DEPLOYING):
            row.built_at = built
        if status == DeploymentStatus.DEPLOYED:
            row.deployed_at = ended
            row.image_digest = "sha256:" + hashlib.sha256(sha.encode()).hexdigest()
            row.receipt = Receipt(
                at=ended.isoformat(), digest=row.image_digest, platforms=("linux/amd64",), manifests=3, layers=11,
                policy="sha256:" + hashlib.sha256(LIVE.encode()).hexdigest(),
                pullers={
                    CLUSTER: ProvedPull(
                        how="trial", words=f"Account {CLUSTER} may pull: NodesPull allows it.",
                        roles=(f"arn:aws:iam::{CLUSTER}:role/nodes",),
                    ),
                    STAGING: ProvedPull(how="policy", words=f"Account {STAGING} may pull: NodesPull allows it."),
                },
            )  # fmt: skip
        elif status == DeploymentStatus.FAILED:
            name, message = self.random.choice(FAILURES)
            row.failed_at = built
            row.error = {"name": name, "message": message, "stack": f"{name}: {message}\n    at build (index.js:12:7)"}
        elif status == DeploymentStatus.CANCELED:
            row.canceled_at, row.canceled_reason = started + timedelta(seconds=30), "Superseded by a newer one"
        elif status == DeploymentStatus.TIMED_OUT:
            row.failed_at = started + timedelta(minutes=8)
        return row

    def _workers(self) -> Iterator[BackgroundWorker]:
        for row in self.deployments:
            if row.built_at:
                yield BackgroundWorker(
                    deployment=row,
                    content_hash=row.content_hash,
                    sdk_version="4.8.3",
                    cli_version="4.8.3",
                    tasks=[
                        {"id": slug, "slug": slug, "filePath": f"src/trigger/{slug}.ts", "exportName": name}
                        for slug, name in (
                            ("send-receipt", "sendReceipt"), ("nightly-export", "nightlyExport"), ("resize", "resize"),
                        )
                    ],
                )  # fmt: skip

    def _promotions(self) -> Iterator[Promotion]:
        deployed: dict[int, list[Deployment]] = {}
        for row in self.deployments:
            if row.status == DeploymentStatus.DEPLOYED:
                deployed.setdefault(row.environment_id, []).append(row)
        for number, rows in enumerate(deployed.values()):
            # One environment was rolled back this morning.
            back = number == 2 and len(rows) > 1
            row = rows[-2] if back else rows[-1]
            yield Promotion(
                environment_id=row.environment_id,
                deployment=row,
                promoted_at=self._ago(minutes=47) if back else row.deployed_at or self.now,
                promoted_by=PEOPLE[0] if back else row.triggered_by,
                rolled_back_from=rows[-1] if back else None,
            )

    def _image_states(self) -> Iterator[ImageState]:
        """Every deployed image was looked at; one of the current ones is missing."""
        current = {row.deployment_id for row in Promotion.objects.all()}
        missing = next((row.pk for row in self.deployments if row.pk in current and row.repository_id), "")
        for row in self.deployments:
            if row.status != DeploymentStatus.DEPLOYED or row.repository_id is None:
                continue
            state = ImageStatus.MISSING if row.pk == missing else ImageStatus.RUNNABLE
            words = "AWS has no image with the digest that was deployed, in any storage class."
            yield ImageState(
                deployment=row,
                repository_id=row.repository_id,
                image="missing" if row.pk == missing else "active",
                state=state,
                words=words if row.pk == missing else "",
                since=self._ago(minutes=22),
                looked_at=self._ago(minutes=4),
                known=state,
                known_at=self._ago(minutes=4),
            )

    def _sweeps(self) -> None:
        """A day of scheduled sweeps, one that a person asked for, a refresh, and one that is going on."""
        repositories = [row for row in self.repositories if row.status != RepositoryStatus.UNMANAGED]
        by_status = {status: [row for row in repositories if row.status == status] for status in RepositoryStatus}
        for number in range(12, -1, -1):
            started = self._ago(minutes=10 * number + 4)
            values: dict[str, Any] = {"trigger": SweepTrigger.SCHEDULE}
            if number == 0:
                values = {"trigger": SweepTrigger.PERSON, "requested_by": PEOPLE[2]}
            if number == 5:
                values = {"trigger": SweepTrigger.PERSON, "requested_by": PEOPLE[1], "dry_run": True}
            elif number == 3:
                values = {"trigger": SweepTrigger.PERSON, "requested_by": PEOPLE[0], "names": [repositories[0].name]}
            running = number == 0
            sweep = Sweep.objects.create(
                **values,
                status=SweepStatus.RUNNING if running else SweepStatus.DONE,
                started_at=started,
                listed_at=started + timedelta(seconds=2),
                finished_at=None if running else started + timedelta(seconds=self.random.randint(9, 40)),
                missing=len(by_status[RepositoryStatus.MISSING]),
                discovered=1 if number == 7 else 0,
                calls={"DescribeRepositories": 1},
            )
            one = bool(values.get("names"))
            size = 1 if one else len(repositories)
            troubles = [] if one else by_status[RepositoryStatus.DRIFTED] + by_status[RepositoryStatus.FAILED]
            healed = [] if one or running else by_status[RepositoryStatus.IN_SYNC][number % 5 : number % 5 + number % 3]
            done = size * 6 // 10 if running else size
            found = troubles[: len(troubles) // 2] if running else troubles
            drifted = sum(row.status == RepositoryStatus.DRIFTED for row in found)
            SweepChunk.objects.create(
                sweep=sweep, position=0, host=HOST, size=size,
                remaining=[row.pk for row in repositories[done:]],
                in_sync=max(0, done - len(found) - len(healed)), healed=len(healed),
                drifted=drifted, failed=len(found) - drifted,
                calls={"GetRepositoryPolicy": done, "SetRepositoryPolicy": len(healed)},
                finished_at=None if running else sweep.finished_at,
            )  # fmt: skip
            SweepFinding.objects.bulk_create(
                SweepFinding(
                    sweep=sweep, repository=row, outcome="drifted" if row.status == "drifted" else "failed",
                    words=row.last_error or " ".join(part.words for part in row.differences),
                )
                for row in found
            )  # fmt: skip
            SweepFinding.objects.bulk_create(
                SweepFinding(
                    sweep=sweep, repository=row, outcome="healed",
                    words=f"Compared with the default policy, account {STAGING} loses pull.",
                )
                for row in healed
            )  # fmt: skip

    def _versions(self) -> None:
        """Two versions of the default policy, as `at-once` makes them. Not a second time: numbers are unique."""
        before = None
        for number, text in enumerate((policy(CLUSTER), DESIRED), 1) if not PolicyVersion.objects.exists() else ():
            before = PolicyVersion.objects.create(
                account=OWNER, region="us-east-1", namespace="trigger", number=number, follows=before,
                text=policy_versions.text_row(text), state=VersionState.ACTIVE if before else VersionState.SUPERSEDED,
                proposed_by="web process on registry-admin-7c9f", pauses=False, started_by="Registry Admin",
                why="DEPLOY_REGISTRY_ECR_ROLLOUT is at-once." if before else "It is the first version.",
                reason="" if before else "Version 2 is active.", started_at=self._ago(days=30 - number),
                proposed_at=self._ago(days=30 - number), changed_at=self._ago(days=29 - number),
            )  # fmt: skip

    def _workers_of_the_queue(self) -> None:
        for number, host in enumerate(("deploy-1", "deploy-2")):
            Process.objects.get_or_create(
                role=ProcessRole.WORKER,
                host=host,
                pid=4100 + number,
                defaults={
                    "started_at": self._ago(days=3), "beat_at": self._ago(seconds=3 + number),
                    "last_task_at": self._ago(minutes=1), "restarts": number, "version": VERSION,
                    "trouble": "A process of the cluster ended: signal 9." if number else "",
                },
            )  # fmt: skip

    def _keys(self) -> None:
        for number, address in enumerate(PEOPLE):
            user, _ = User.objects.get_or_create(
                username=address.partition("@")[0], defaults={"pk": FIRST_USER + number, "email": address}
            )
            key, _ = keys.make_user_token(user, "laptop")
            key.created_at = self._ago(days=90 - number)
            key.last_used_at = self._ago(minutes=7 + number * 200) if number < 3 else None
            key.last_used_by = "trigger.dev 4.8.3 at 10.4.0.17" if number < 3 else ""
            key.revoked_at = self._ago(days=2) if number == 3 else None
            key.save()
        for project in self.projects:
            for environment in project.environments.filter(parent__isnull=True).exclude(slug="preview"):
                key, _ = keys.make_environment_key(environment, "CI", scopes=["deploy"])
                key.created_at = self._ago(days=60)
                key.save()
            TrustPolicy.objects.create(
                environment=environment, name="main branch", kind="github", issuer=trust.GITHUB_ISSUER,
                claims={"repository_id": "74931560", "repository_owner_id": "65894216", "ref": "refs/heads/main"},
                created_at=self._ago(days=30), created_by=PEOPLE[0], last_used_at=self._ago(hours=2),
                last_error="The token is not accepted: its claim ref is \"refs/heads/next\", and it must be "
                "\"refs/heads/main\".", last_error_at=self._ago(days=1),
            )  # fmt: skip
        key.last_used_at, key.last_used_by = self._ago(minutes=12), "trigger.dev 4.6.0 at 10.4.2.9"
        key.save()
        keys.rotate(key, grace=timedelta(hours=20))
        AccessKey.objects.filter(pk=key.pk).update(last_used_at=self._ago(seconds=-1))
        environment_variables.store(
            environment=environment,
            variables={"LOG_LEVEL": "info", "BILLING_URL": "https://billing.example.com"},
            vault=Vault(settings.ENCRYPTION_KEYS),
            is_secret=False,
            by=PEOPLE[2],
            override=True,
        )
        environment_variables.store(
            environment=environment,
            variables={"STRIPE_KEY": "only scenery"},
            vault=Vault(settings.ENCRYPTION_KEYS),
            is_secret=True,
            by=PEOPLE[2],
            override=True,
        )


def address(page: str) -> str:
    """Of a list, of the newest row's page (`…/one`), or of anything else below /admin/."""
    if not page.endswith("/one"):
        return f"/admin/{page}/" if page else "/admin/"
    label, name, _ = page.split("/")
    model = next(each for each in admin.site._registry if each._meta.label_lower == f"{label}.{name}")
    row = model._default_manager.order_by("-pk")[0]
    return reverse(f"admin:{label}_{name}_change", args=[row.pk])


#: A promotion proves its image, which asks AWS; tests/deploys/test_lifecycle.py is about that.
UNPROVED = {"DEPLOY_IMAGE_VERIFICATION_ENABLED": "0"}


def rolled() -> tuple[Deployment, Promotion]:
    """An older deployed one, and what is current in its environment."""
    for promotion in Promotion.objects.filter(rolled_back_from=None).select_related("deployment"):
        older = Deployment.objects.filter(
            environment=promotion.environment, status="DEPLOYED", created_at__lt=promotion.deployment.created_at
        ).exclude(pk=promotion.deployment_id)
        if older:
            return older[0], promotion
    raise AssertionError("the installation has no environment with two deployed versions")
