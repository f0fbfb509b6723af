"""Which images of a repository must stay: of each environment the current one, and those of its roll-back targets.

A roll-back target is an older deployed version than the current one; a promotion of it is a roll-back. Of each
environment the newest of them are kept, as many as ROLLBACK_TARGETS says. An archived preview branch keeps nothing.
Only rows are read here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from django.db.models import OuterRef, Q, QuerySet, Subquery

from deployments.config import RegistryConfig
from deployments.models import Deployment, DeploymentStatus, Promotion


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptImage:
    """The image of a deployment that is current in its environment, or a roll-back target there."""

    deployment: Deployment  # with its environment and project
    is_current: bool

    @property
    def digest(self) -> str:
        """The digest that was deployed; empty if it is not known, because the image was never verified."""
        return self.deployment.image_digest


def kept(repositories: Collection[int], *, config: RegistryConfig) -> dict[int, list[KeptImage]]:
    """Repository id → its kept images, of each environment the current image first and then the newest target.

    Two queries, whatever the number of repositories. A repository without a kept image is left out. The images of one
    environment may be in several repositories: each is listed under its own.
    """
    found: dict[int, list[KeptImage]] = {}
    promotions = Promotion.objects.filter(environment__project__repositories__in=repositories)
    current = _current(promotions, config.rollback_targets)
    deployments = Deployment.objects.select_related("environment", "project").in_bulk(
        [pk for row in current for pk in row]
    )
    for row in current:
        for pk in row:
            deployment = deployments.get(pk)  # None: it was deleted between the two queries
            place = deployment.repository_id if deployment is not None else None
            if deployment is not None and place is not None and place in repositories:
                found.setdefault(place, []).append(KeptImage(deployment=deployment, is_current=pk == row[0]))
    return found


def kept_deployments(environments: Collection[int], *, rollback_targets: int) -> set[str]:
    """The ids of the current deployments of these environments and of their roll-back targets. One query."""
    promotions = Promotion.objects.filter(environment__in=environments)
    return {pk for row in _current(promotions, rollback_targets) for pk in row}


def _current(promotions: QuerySet[Promotion], rollback_targets: int) -> list[list[str]]:
    """For each environment of these promotions: the ids of its current deployment and its targets."""
    older = Q(version_day__lt=OuterRef("deployment__version_day")) | Q(
        version_number__lt=OuterRef("deployment__version_number")
    )
    targets = (
        # The first condition repeats a part of `older` as a range, for the index by version.
        Deployment.objects.filter(
            older, environment=OuterRef("environment"), version_day__lte=OuterRef("deployment__version_day")
        )
        .filter(status=DeploymentStatus.DEPLOYED)
        .exclude(image_digest="")
        .order_by("-version_day", "-version_number")
        .values("id")
    )
    # One subquery a target, so that the index gives each: a join would read every deployment of the environments.
    columns = {f"target_{number}": Subquery(targets[number : number + 1]) for number in range(rollback_targets)}
    rows = (
        promotions.filter(label="current", environment__archived_at=None)
        .annotate(**columns)
        .order_by("environment_id")
        .values_list("deployment_id", *columns)
        .distinct()
    )
    return [[pk for pk in row if pk is not None] for row in rows]
