"""Of each environment, the current image and the newest older deployed images must stay."""

from __future__ import annotations

from typing import Any

import pytest
from django.db.models.functions import Now

from deployments.config import RegistryConfig
from deployments.models import Deployment, DeploymentStatus, Environment, Project, Promotion, Repository
from deployments.reconcile.kept_images import kept

pytestmark = pytest.mark.django_db

DAY = "20261126"


def keeping(rollback_targets: int) -> RegistryConfig:
    return RegistryConfig(host="h", namespace="deployments", rollback_targets=rollback_targets)


def repository(project: Project, name: str = "deployments/one") -> Repository:
    return Repository.objects.create(account="111111111111", region="us-east-1", name=name, host="h", project=project)


def deployed(environment: Environment, place: Repository | None, number: int, **changed: Any) -> Deployment:
    values = {
        "status": DeploymentStatus.DEPLOYED,
        "deployed_at": Now(),
        "version_day": DAY,
        "version_number": number,
        "image_digest": f"sha256:{number:064d}",
        **changed,
    }
    return Deployment.objects.create(
        project=environment.project,
        environment=environment,
        repository=place,
        content_hash="c",
        image_ref="h/one:t",
        **values,
    )


def promoted(deployment: Deployment) -> Deployment:
    Promotion.objects.update_or_create(environment=deployment.environment, defaults={"deployment": deployment})
    return deployment


def versions(place: Repository, rollback_targets: int = 3) -> list[tuple[str, bool]]:
    found = kept([place.pk], config=keeping(rollback_targets)).get(place.pk, [])
    return [(str(each.deployment.version), each.is_current) for each in found]


def test_the_current_image_is_kept_with_the_newest_older_deployed_ones(environment: Environment) -> None:
    place = repository(environment.project)
    for number in (1, 2, 3):
        deployed(environment, place, number)
    deployed(environment, place, 9, version_day="20261125")
    deployed(environment, place, 4, status=DeploymentStatus.FAILED, deployed_at=None)
    deployed(environment, place, 5, image_digest="")
    promoted(deployed(environment, place, 6))
    deployed(environment, place, 7)
    deployed(environment, place, 1, version_day="20261127")
    newest = [(f"{DAY}.6", True), (f"{DAY}.3", False), (f"{DAY}.2", False), (f"{DAY}.1", False)]
    assert versions(place) == newest
    assert versions(place, rollback_targets=0) == newest[:1]
    assert versions(place, rollback_targets=4) == [*newest, ("20261125.9", False)]


def test_images_of_one_environment_are_listed_under_the_repository_that_has_them(environment: Environment) -> None:
    old, new = repository(environment.project, "deployments/old"), repository(environment.project, "deployments/new")
    deployed(environment, old, 1)
    deployed(environment, None, 2)
    promoted(deployed(environment, new, 3))
    assert versions(old) == [(f"{DAY}.1", False)]
    assert versions(new) == [(f"{DAY}.3", True)]


def test_an_environment_without_a_promotion_keeps_nothing(environment: Environment) -> None:
    place = repository(environment.project)
    deployed(environment, place, 1)
    assert kept([place.pk], config=keeping(3)) == {}


def test_an_archived_preview_branch_keeps_nothing(environment: Environment) -> None:
    place = repository(environment.project)
    promoted(deployed(environment, place, 1))
    Environment.objects.filter(pk=environment.pk).update(archived_at=Now())
    assert kept([place.pk], config=keeping(3)) == {}


def test_a_repository_of_two_environments_keeps_the_images_of_both_in_two_queries(
    environment: Environment, django_assert_num_queries: Any
) -> None:
    place, other = repository(environment.project), repository(environment.project, "deployments/other")
    staging = Environment.objects.create(project=environment.project, type="STAGING", slug="stg")
    for each in (environment, staging):
        deployed(each, place, 1)
        promoted(deployed(each, place, 2))
    with django_assert_num_queries(2):
        found = kept([place.pk, other.pk], config=keeping(3))
        assert [str(each.deployment.environment) for each in found[place.pk]] == ["prod", "prod", "stg", "stg"]
    assert list(found) == [place.pk]
