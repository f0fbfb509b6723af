"""Log-ins with which clusters outside AWS pull the images of one environment.

A log-in opens one repository: that of the environment's current image. Without a current image it is that of the newest
deployment, and before the first deployment that which a deploy by a 4.x CLI would get. It is never wider
(`push_credentials.issue_pull`). All environments of a project share a repository unless previews have one of their own,
so a log-in for `staging` also pulls production's images.
"""

from __future__ import annotations

import base64
import json

from django.db.models import Q

from deployments import images
from deployments.access.audit import Trail
from deployments.aws.partitions import registry_of
from deployments.config import Configuration
from deployments.deploys import lifecycle, push_credentials
from deployments.deploys.push_credentials import Credentials
from deployments.models import AccessKey, Deployment, Environment, EnvironmentType, Repository
from deployments.reconcile import bulkhead


def issue(
    *, environment: Environment, key: AccessKey, configuration: Configuration, trail: Trail
) -> tuple[Credentials, str]:
    """A log-in for the environment's repository, and what its holder should know, in sentences. Raises Refusal.

    The session's name, which CloudTrail shows, begins with `pull_` and the id of the key.
    """
    with trail.attempt("issue.pull_log_in", environment) as attempt:
        configuration = lifecycle.configuration_in_force(configuration)
        newest = _newest(environment, configuration)
        if newest is not None:
            config = lifecycle.registry_of_image(newest, configuration)
            uri = newest.image_ref.rpartition(":")[0]
        else:
            config = configuration.registry("MANAGED")
            uri = f"{config.host}/{lifecycle.repository_name(environment, configuration, config)}"
        host, _, name = uri.partition("/")
        with bulkhead.place():
            issued = push_credentials.issue_pull(
                host=host, name=name, label=f"pull_{key.pk}_{environment.project.ref}", config=config
            )
        attempt.after = {"repository": uri, "expires": issued.expires_at.isoformat()}
        with attempt.commit():
            pass
    return issued, f"{issued.message} {_who_needs_none(host, name)}".strip()


def docker_config(issued: Credentials) -> str:
    """The log-in as the value of `.dockerconfigjson` in a Secret, in Base64.

    Its key is the repository and not only the host, so that several such Secrets of one registry do not hide each
    other (*Images*, “Interpretation of config.json”, Kubernetes documentation; containers-auth.json(5)).
    """
    auth = base64.b64encode(f"{issued.username}:{issued.password}".encode()).decode()
    config = {"auths": {issued.repository_uri: {"auth": auth}}}
    return base64.b64encode(json.dumps(config).encode()).decode()


def _newest(environment: Environment, configuration: Configuration) -> Deployment | None:
    """The current deployment of the environment or, for `preview`, of its branches; without one, the newest.

    Where previews have a repository of their own, a preview that was deployed before is left out: its image is in the
    repository of production.
    """
    deployments = Deployment.objects.filter(Q(environment=environment) | Q(environment__parent=environment))
    if configuration.preview_repositories and environment.type == EnvironmentType.PREVIEW:
        own = images.repository_name(namespace="", project_ref=environment.project.ref, is_preview=True)
        deployments = deployments.filter(image_ref__contains=f"{own}:")
    newest = deployments.order_by("-created_at")
    return newest.filter(promotions__label="current").first() or newest.first()


def _who_needs_none(host: str, name: str) -> str:
    """The consumer accounts that were seen to pull without a log-in of ours, in one sentence; empty if none was."""
    registry = registry_of(host)
    row = registry and Repository.objects.filter(account=registry.account, region=registry.region, name=name).first()
    accounts = [account for account, pull in row.consumers.items() if pull.verdict == "yes"] if row else []
    if not row or not accounts or row.last_checked_at is None:
        return ""
    return (
        f"Nodes with an AWS role in account {', '.join(accounts)} need no log-in: their account could pull when this "
        f"server last looked, at {row.last_checked_at:%Y-%m-%d %H:%M:%S} UTC."
    )
