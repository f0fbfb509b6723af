"""The steps of a deployment as calls of the use cases, without the API."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from deployments.aws import partitions
from deployments.config import Configuration
from deployments.deploys import image_proof, lifecycle, promotions
from deployments.models import Deployment, Environment, Project, Repository
from deployments.reconcile import repositories
from sandbox import images
from sandbox.control import Sandbox
from tests.support.constants import HOST, OWNER, TRAIL


def trust(principal: str = OWNER, **condition: Any) -> str:
    statement = {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": "sts:AssumeRole", **condition}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def deploying(environment: Environment, configuration: Configuration) -> Deployment:
    deployment = lifecycle.create_deployment(
        environment=environment, configuration=configuration, trail=TRAIL, content_hash="abc", type="MANAGED"
    ).deployment
    lifecycle.index(
        deployment=deployment, content_hash="abc", tasks=[], metadata={}, timeout=configuration.deploy_timeout
    )
    return deployment


def push(
    sandbox: Sandbox, deployment: Deployment, image: images.Image | None = None, *, repository: str | None = None
) -> str:
    place = image_proof.ImageLocation.of(deployment.image_ref)
    image = image or images.build()
    return images.push(image, sandbox.url, *sandbox.login(), repository or place.name, place.tag, registry=HOST)


def finalize(
    deployment: Deployment,
    configuration: Configuration,
    digest: str | None = None,
    *,
    skip: bool = False,
    meanwhile: Callable[[], object] | None = None,
) -> list[str]:
    """The sentences that a finalize reports. `meanwhile` is called once, while the image is being verified."""
    said: list[str] = []

    def report(sentence: str) -> None:
        said.append(sentence)
        if meanwhile is not None and len(said) == 1:
            meanwhile()

    promotions.finalize(
        deployment=deployment, digest=digest, skip_promotion=skip, configuration=configuration, report=report
    )
    return said


def deployed(
    environment: Environment,
    configuration: Configuration,
    sandbox: Sandbox,
    text: str = "hello\n",
    *,
    image: images.Image | None = None,
) -> Deployment:
    """A deployment whose image, made of the text unless it is given, was pushed, verified and promoted."""
    deployment = deploying(environment, configuration)
    finalize(deployment, configuration, push(sandbox, deployment, image or images.build(text)))
    deployment.refresh_from_db()
    return deployment


def move(sandbox: Sandbox, deployment: Deployment, digest: str, storage: str = "ARCHIVE") -> None:
    """Archive an image of the deployment's repository, or restore it, as somebody else does."""
    name = image_proof.ImageLocation.of(deployment.image_ref).name
    sandbox.client("ecr").update_image_storage_class(
        repositoryName=name, imageId={"imageDigest": digest}, targetStorageClass=storage
    )


def delete(sandbox: Sandbox, deployment: Deployment) -> None:
    """Delete the deployment's image, as somebody else does."""
    name = image_proof.ImageLocation.of(deployment.image_ref).name
    sandbox.client("ecr").batch_delete_image(repositoryName=name, imageIds=[{"imageDigest": deployment.image_digest}])


def ensure(project: Project, configuration: Configuration, **changes: Any) -> Repository:
    registry = configuration.registry("MANAGED")
    ecr_registry = partitions.registry_of(registry.host)
    assert ecr_registry is not None
    arguments: dict[str, Any] = {
        "config": registry,
        "registry": ecr_registry,
        "name": f"trigger/{project.ref}",
        "project": project,
        "desired_digest": configuration.desired_digest,
        "freshness": configuration.freshness,
        "enforce": configuration.enforce,
    }
    return repositories.ensure_repository(**{**arguments, **changes})
