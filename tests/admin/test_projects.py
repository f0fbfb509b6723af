"""A project with its environments, as the admin and `bootstrap` make it."""

from __future__ import annotations

import pytest
from django.db import IntegrityError

from deployments.deploys.projects import create_project, ensure_environments
from deployments.models import Environment, EnvironmentType


@pytest.mark.django_db
def test_a_project_starts_with_three_environments_of_the_right_types() -> None:
    project = create_project(name="Billing")

    assert {each.slug: each.type for each in project.environments.all()} == {
        "prod": EnvironmentType.PRODUCTION,
        "staging": EnvironmentType.STAGING,
        "preview": EnvironmentType.PREVIEW,
    }


@pytest.mark.django_db
def test_missing_environments_are_made_and_present_ones_kept() -> None:
    project = create_project(name="Billing")
    kept = project.environments.get(slug="prod")
    project.environments.get(slug="staging").delete()
    Environment.objects.create(
        project=project, slug="preview", type="PREVIEW", parent=project.environments.get(slug="preview"), branch="x"
    )

    first, second = ensure_environments(project), ensure_environments(project)

    assert [each.pk for each in first] == [each.pk for each in second]
    assert kept in first
    assert project.environments.filter(parent=None).count() == 3


@pytest.mark.django_db
def test_a_ref_that_is_taken_or_cannot_be_leaves_nothing_behind() -> None:
    create_project(name="Billing", ref="proj_billing")

    with pytest.raises(IntegrityError):
        create_project(name="Other", ref="proj_billing")
    with pytest.raises(ValueError, match="proj_"):
        create_project(name="Other", ref="Billing")
