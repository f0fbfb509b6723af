"""Every page of the console with an address of its own, in an installation that `tests.admin.installation` made up.

For the browser's tests and for the pictures in docs/screens, so that a new page cannot be in one and not in the other.
"""

from __future__ import annotations

import json
import os

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.urls import reverse

from deployments import clock
from deployments.admin.attention import cause_of
from deployments.models import (
    AccessKey,
    DeliveryStatus,
    Deployment,
    Environment,
    Identity,
    NotificationChannel,
    NotificationDelivery,
    PolicyStep,
    PolicyVersion,
    Project,
    Promotion,
    Repository,
    RepositoryStatus,
    StepState,
    Sweep,
    SweepStatus,
    TrustPolicy,
    VersionState,
)
from deployments.policy import RegistryPolicy, Trust
from deployments.reconcile import adopted_statements, desired, policy_versions, targets
from deployments.row_values import SeenStatement
from sandbox import images
from sandbox.control import Sandbox
from tests.admin.installation import CLUSTER, DESIRED, HOST, NOBODY, OWNER, SIGN_ON, STAGING, Installation, policy
from tests.support.second_factors import with_app, with_passkey
from tests.support.service_statements import ADDED, bare, function_of

USER, PASSWORD = "mira", "a-password-of-nobody"
STRANGER = "999999999999"  # an account that no policy names
CAREFUL = "kim"  # has a second factor, and the same password
DRIFTED = Repository.objects.filter(host=HOST, status=RepositoryStatus.DRIFTED).exclude(policy_text="").order_by("pk")


def refused() -> str:
    """What docker printed on a node whose account a drifted policy does not name any more."""
    row = DRIFTED[0]
    return (
        "Error response from daemon: pull access denied for "
        f"{row.host}/{row.name}, repository does not exist or may require 'docker login': denied: User: "
        f"arn:aws:sts::{STRANGER}:assumed-role/eks-node-group/i-03543d3e416f0f883 is not authorized to perform: "
        f"ecr:BatchGetImage on resource: arn:aws:ecr:{row.region}:{row.account}:repository/{row.name} because no "
        "resource-based policy allows the ecr:BatchGetImage action"
    )


def make() -> list[str]:
    """The rows, one of them with a policy that cannot be compared, and somebody who may do everything.

    Returns recovery codes of CAREFUL.
    """
    Installation()
    text = policy(CLUSTER, roots=True, Novelty=dict(Until="2027-01-01"))
    row = Repository.objects.filter(host=HOST, status=RepositoryStatus.IN_SYNC, mode="").order_by("-pk")[0]
    row.policy_text, row.status = text, RepositoryStatus.DRIFTED
    row.differences = desired.policy_differences(DESIRED, text, partition="aws", trust=Trust(owner=row.account))
    row.consumers = desired.pullers(
        text,
        RegistryPolicy(text=""),
        (CLUSTER, STAGING),
        arn=f"arn:aws:ecr:{row.region}:{row.account}:repository/{row.name}",
        partition="aws",
    )
    row.last_in_sync_at = row.created_at
    row.drifted_since = row.incomparable_since = row.last_checked_at
    row.save()
    row.pk, row.name, row.project, row.status, row.origin = None, "trigger/reports-of-old", None, "unmanaged", ""
    row.management, row.policy_text, row.differences, row.consumers, row.drifted_since = (
        "unmanaged",
        "",
        [],
        NOBODY,
        None,
    )
    row.incomparable_since = row.last_in_sync_at = row.last_pulled_at = None
    row.save()
    served = Repository.objects.filter(host=HOST, status=RepositoryStatus.IN_SYNC, mode="").order_by("pk")[0]
    statements = [function_of(CLUSTER, "LambdaECRImageCrossAccountRetrievalPolicy"), bare(), ADDED]
    document = json.loads(served.policy_text)
    served.policy_text = json.dumps({**document, "Statement": [*document["Statement"], *statements]})
    target = targets.of(served, settings.CONFIGURATION)
    assert target is not None
    caller = f"arn:aws:sts::{CLUSTER}:assumed-role/a-role-with-a-long-name-for-the-account-s-administrators/ada"
    served.foreign_statements = [
        SeenStatement(statement=each.text, first_seen=clock.now().isoformat(), by=caller, kept=each.kept)
        for each in adopted_statements.live(served, target)
    ]
    served.save()
    user = User.objects.get(username=USER)
    user.is_staff = user.is_superuser = True
    user.first_name = "Mira"
    user.set_password(PASSWORD)
    user.save()
    careful = User.objects.create_superuser(CAREFUL, "kim@example.com", PASSWORD)
    _, codes = with_app(careful, at=clock.now())
    with_passkey(careful, name="Laptop")
    Identity.objects.create(
        user=user, issuer=SIGN_ON["SSO_ISSUER"], subject="f3b1c9d2-7a40", made_by="single sign-on", log_ins=12,
        groups=["engineering", "platform", "chess"],
    )  # fmt: skip
    trusted = TrustPolicy.objects.order_by("pk")[0]
    trusted.last_error_at = clock.now()
    trusted.save()
    chat = NotificationChannel.objects.create(
        name="Deploys", kind="discord", address="https://discord.com/api/…", last_error="Answered 404."
    )
    said = {"event": "sweep.failed", "subject": "Sweeps fail: repositories are not checked", "text": "No credentials."}
    for number, status in enumerate((DeliveryStatus.SENT, DeliveryStatus.FAILED)):
        NotificationDelivery.objects.create(
            channel=chat, event="sweep.failed", subject=said["subject"], body=said, key=f"sweep.failed:{number}",
            status=status, attempts=1 + 3 * number, answer=("204", "Answered 404.")[number],
        )  # fmt: skip
    _roll_outs()
    _push_images(Sandbox(os.environ["AWS_ENDPOINT_URL"]))
    return codes


def _roll_outs() -> None:
    """A version that takes an account's pull away and was stopped, and one in the other namespace in its batches."""
    now = clock.now()
    active = PolicyVersion.objects.get(state=VersionState.ACTIVE)
    rows = list(Repository.objects.filter(host=HOST, management="full").order_by("-pk"))
    place = {"account": OWNER, "region": "us-east-1", "started_by": "mira@example.com", "proposed_by": "web on host-1"}
    stopped = PolicyVersion.objects.create(
        **place, namespace="trigger", number=3, follows=active, text=policy_versions.text_row(policy(CLUSTER)),
        state=VersionState.STOPPED, resumes=VersionState.CANARIES, started_at=now, why=f"Account {STAGING} loses pull.",
        reason=f"Account {STAGING} could pull, and cannot pull now: {rows[0].name}.",
    )  # fmt: skip
    Repository.objects.filter(pk=rows[0].pk).update(policy_text=stopped.text.text)
    for row, state in ((rows[0], StepState.WRITTEN), (rows[1], StepState.LEFT)):
        words = "The repository is only observed, so its policy was not written." if state == StepState.LEFT else ""
        PolicyStep.objects.create(
            version=stopped, repository=row, stage=0, state=state, words=words, pulled_before=[CLUSTER, STAGING],
            before=active.text, after=stopped.text, written_at=None if words else now,
        )  # fmt: skip
    first = PolicyVersion.objects.create(
        **place, namespace="jobs", number=1, text=active.text, state=VersionState.ACTIVE, why="It is the first version."
    )
    moving = PolicyVersion.objects.create(
        **place, namespace="jobs", number=2, follows=first, state=VersionState.BATCHES, stage=3, started_at=now,
        text=policy_versions.text_row(policy(CLUSTER, STAGING, STRANGER)), why=f"Account {STRANGER} gains pull.",
    )  # fmt: skip
    project = Project.objects.order_by("pk")[0]
    for number in range(32):
        row = Repository.objects.create(
            account=OWNER, region="us-east-1", host=HOST, name=f"jobs/{project.ref}-{number:02}", project=project,
            status="in_sync", origin="created", management="full", policy_text=DESIRED, last_checked_at=now,
            details_checked_at=now, last_in_sync_at=now,
        )  # fmt: skip
        if number < 15:
            state = StepState.OPEN if number > 10 else StepState.UNCHANGED if number == 4 else StepState.WRITTEN
            stage = (number + 1).bit_length() - 1
            PolicyStep.objects.create(version=moving, repository=row, stage=stage, state=state)


def _deployed() -> QuerySet[Deployment]:
    """The deployments whose images are in AWS, the newest first: of the repository of a current deployment."""
    current = Promotion.objects.filter(deployment__repository__host=HOST).order_by("pk")[0].deployment
    rows = Deployment.objects.filter(repository=current.repository_id, status="DEPLOYED")
    return rows.order_by("-version_day", "-version_number", "pk")


def _push_images(sandbox: Sandbox) -> None:
    """Images of one repository: of its deployments, two of them archived, and an index that nobody deployed."""
    rows = list(_deployed().select_related("repository").reverse())
    assert rows[0].repository is not None
    name, login, ecr = rows[0].repository.name, sandbox.login(), sandbox.client("ecr")
    ecr.create_repository(repositoryName=name)
    for row in rows:
        tag = row.image_ref.rpartition(":")[2]
        row.image_digest = images.push(images.build(row.pk), sandbox.url, *login, name, tag, registry=HOST)
        row.save(update_fields=["image_digest"])
    images.push(images.build_index(), sandbox.url, *login, name, "by-hand", registry=HOST)
    for row in rows[:2]:
        ecr.update_image_storage_class(
            repositoryName=name, imageId={"imageDigest": row.image_digest}, targetStorageClass="ARCHIVE"
        )
    # The other repositories have no images, so no promotion can be verified: AWS does not answer.
    sandbox.fault("error", "ecr:BatchGetImage", code="AccessDeniedException")


def _refused_deployment() -> Deployment:
    """A failed deployment whose error is the message of a refused pull."""
    row = Deployment.objects.filter(status="FAILED").order_by("-pk")[0]
    row.error = {"name": "BuildError", "message": "The build failed.", "stderr": refused()}
    row.save()
    return row


def addresses() -> dict[str, str]:
    """Name → address, in the order in which people meet them."""
    drifted, incomparable = DRIFTED[0], Repository.objects.exclude(incomparable_since=None)[0]
    served = Repository.objects.filter(policy_text__contains="SetRepositoryPolicy")[0]
    target = targets.of(served, settings.CONFIGURATION)
    assert target is not None
    offer = adopted_statements.offers(served, target, [])[0]
    kept = adopted_statements.key_of(adopted_statements.live(served, target)[0].text)
    deployed = Deployment.objects.filter(status="DEPLOYED").order_by("-created_at")
    archived = _deployed().reverse()[0]
    good, back = deployed[0], Promotion.objects.exclude(rolled_back_from=None)[0]
    older = deployed.filter(environment=good.environment_id).order_by("created_at")[0]
    sweeps = Sweep.objects.order_by("-pk")
    running, done = sweeps.filter(status=SweepStatus.RUNNING)[0], sweeps.filter(status=SweepStatus.DONE)[0]
    key = AccessKey.objects.filter(replaced_by__isnull=False)[0]
    varied = Environment.objects.filter(variables__isnull=False)[0]
    deployment, repository = "/admin/deployments/deployment/", "/admin/deployments/repository/"
    channel, chat = "/admin/deployments/notificationchannel/", NotificationChannel.objects.filter(kind="discord")[0]
    denied = Repository.objects.filter(last_error_code="AccessDeniedException")[0]
    failed = NotificationDelivery.objects.filter(status=DeliveryStatus.FAILED)[0]
    trusted = TrustPolicy.objects.order_by("pk")[0]
    version, stopped = "/admin/deployments/policyversion/", PolicyVersion.objects.get(state="stopped")
    found = {
        "dashboard": "/admin/",
        "pulls": "/admin/pulls/",
        "deployments": deployment,
        "deployments-nothing": f"{deployment}?q=zzzzzzzzzz",
        "deployment": f"{deployment}{good.pk}/change/",
        "deployment-failed": f"{deployment}{Deployment.objects.filter(status='FAILED')[0].pk}/change/",
        "deployment-rolled-back": f"{deployment}{back.deployment_id}/change/",
        "deployment-running": f"{deployment}{Deployment.objects.filter(status='BUILDING')[0].pk}/change/",
        "promote": f"{deployment}{older.pk}/promote/",
        "cancel": f"{deployment}{Deployment.objects.filter(status='BUILDING')[0].pk}/cancel/",
        "repositories": repository,
        "repository": f"{repository}{drifted.pk}/change/",
        "repository-failed": f"{repository}{Repository.objects.filter(status='failed')[0].pk}/change/",
        "repository-excepted": f"{repository}{Repository.objects.exclude(mode='')[0].pk}/change/",
        "repository-unmanaged": f"{repository}{Repository.objects.filter(status='unmanaged')[0].pk}/change/",
        "exception": f"{repository}ask/?look=except&pk={drifted.pk}",
        "all-that-match": f"{repository}ask/?look=reconcile&status=drifted",
        "images": f"{repository}{archived.repository_id}/images/",
        "images-archived": f"{repository}{archived.repository_id}/images/?only=archived",
        "images-missing": f"{repository}{drifted.pk}/images/",
        "images-not-read": f"{repository}{archived.repository_id}/images/?part=nonsense",
        "image-restore": f"{repository}{archived.repository_id}/images/{archived.image_digest}/restore/",
        "put-back": f"{repository}{drifted.pk}/restore/{drifted.events.exclude(policy_before='')[0].pk}/",
        "repository-incomparable": f"{repository}{incomparable.pk}/change/",
        "take-over": f"{repository}{incomparable.pk}/take-over/",
        "repository-services": f"{repository}{served.pk}/change/",
        "statement": f"{repository}{served.pk}/statement/?statement={offer.key}",
        "statement-refuse": f"{repository}{served.pk}/statement/refuse/?statement={kept}",
        "what-if": f"{repository}what-if/",
        "why": "/admin/why/",
        "why-answer": f"/admin/why/?deployment={_refused_deployment().pk}",
        "policy-versions": version,
        "policy-version-stopped": f"{version}{stopped.pk}/change/",
        "policy-version-batches": f"{version}{PolicyVersion.objects.get(state='batches').pk}/change/",
        "policy-version-resume": f"{version}{stopped.pk}/resume/",
        "policy-version-undo": f"{version}{stopped.pk}/undo/",
        "sweeps": "/admin/deployments/sweep/",
        "sweep-running": f"/admin/deployments/sweep/{running.pk}/change/",
        "sweep": f"/admin/deployments/sweep/{done.pk}/change/",
        "sweep-start": "/admin/deployments/sweep/start/",
        "projects": "/admin/deployments/project/",
        "project": f"/admin/deployments/project/{good.project_id}/change/",
        "project-archive": f"/admin/deployments/project/{good.project_id}/archive/",
        "project-delete": f"/admin/deployments/project/{good.project_id}/delete/",
        "project-name": f"/admin/deployments/project/{good.project_id}/name/",
        "project-new": "/admin/deployments/project/add/",
        "environments": "/admin/deployments/environment/",
        "environment": f"/admin/deployments/environment/{varied.pk}/change/",
        "variable": f"/admin/deployments/environment/{varied.pk}/variable/?name=LOG_LEVEL",
        "variable-delete": f"/admin/deployments/environment/{varied.pk}/variable/delete/?name=LOG_LEVEL",
        "keys": "/admin/deployments/accesskey/",
        "key": f"/admin/deployments/accesskey/{key.pk}/change/",
        "key-kinds": "/admin/deployments/accesskey/add/",
        "key-new": "/admin/deployments/accesskey/add/?kind=environment",
        "key-new-personal": "/admin/deployments/accesskey/add/?kind=user",
        "key-new-management": "/admin/deployments/accesskey/add/?kind=management",
        "key-rotate": "/admin/deployments/accesskey/1/rotate/",
        "key-revoke": "/admin/deployments/accesskey/1/revoke/",
        "trust-policies": "/admin/deployments/trustpolicy/",
        "trust-policy": f"/admin/deployments/trustpolicy/{trusted.pk}/change/",
        "trust-policy-kinds": "/admin/deployments/trustpolicy/add/",
        "trust-policy-new": "/admin/deployments/trustpolicy/add/?kind=github",
        "trust-policy-edit": f"/admin/deployments/trustpolicy/{trusted.pk}/edit/",
        "trust-policy-delete": f"/admin/deployments/trustpolicy/{trusted.pk}/delete/",
        "users": "/admin/auth/user/",
        "user": f"/admin/auth/user/{User.objects.get(username=USER).pk}/change/",
        "user-password": f"/admin/auth/user/{User.objects.get(username=CAREFUL).pk}/password/",
        "user-new": "/admin/auth/user/add/",
        "groups": "/admin/auth/group/",
        "group": "/admin/auth/group/add/",
        "password": "/admin/password_change/",
        "your-log-in": "/admin/your-log-in/",
        "your-log-in-add": "/admin/your-log-in/add/",
        "user-second-factors": f"/admin/auth/user/{User.objects.get(username=CAREFUL).pk}/second-factors/",
        "user-single-sign-on": f"/admin/auth/user/{User.objects.get(username=USER).pk}/single-sign-on/",
        "user-not-linked": f"/admin/auth/user/{User.objects.get(username=CAREFUL).pk}/single-sign-on/",
        "forgotten": "/admin/forgotten/",
        "forgotten-sent": "/admin/forgotten/sent/",
        "forgotten-link": "/admin/forgotten/MQ/no-such-link/",
        "forgotten-done": "/admin/forgotten/done/",
        "cause": f"{repository}?cause={cause_of(denied).key}",
        "channel": f"{channel}{chat.pk}/change/",
        "channel-kinds": f"{channel}add/",
        "channel-new": f"{channel}add/?kind=pagerduty",
        "channel-preview": f"{channel}{chat.pk}/preview/",
        "delivery-failed": f"/admin/deployments/notificationdelivery/{failed.pk}/change/",
        "not-found": "/admin/deployments/repository/0/images/",
    }
    # Lists that somebody adds are looked at too, without being named here.
    known = {address.partition("?")[0] for address in found.values()}
    for model in admin.site._registry:
        address = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        if address not in known:
            found[f"{model._meta.model_name}-list"] = address
    found["setup"] = reverse("admin:setup")
    return found
