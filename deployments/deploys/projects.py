"""Make a project with its root environments, for the admin and for `manage.py bootstrap`."""

from __future__ import annotations

from django.db import transaction

from deployments import images
from deployments.models import ENVIRONMENT_SLUGS, Environment, Project

#: The root environments of every project. The CLI makes preview branches below `preview`.
ROOT_SLUGS = ("prod", "staging", "preview")


def create_project(*, name: str, ref: str | None = None) -> Project:
    """A new project with its root environments, in one transaction.

    `ref` is an existing project ref from a `trigger.config`; None makes a new ref. Raises ValueError for a ref that
    cannot be part of a repository name, IntegrityError for a ref that another project has.
    """
    if ref is not None and not images.is_project_ref(ref):
        raise ValueError("a project ref is proj_ followed by lower case letters and digits, at most 64 characters")
    with transaction.atomic():
        project = Project.objects.create(name=name, ref=ref or images.new_project_ref())
        ensure_environments(project)
    return project


def ensure_environments(project: Project) -> list[Environment]:
    """The root environments of the project; makes the missing ones. May be repeated, also concurrently."""
    return [
        Environment.objects.get_or_create(
            project=project, slug=slug, parent=None, defaults={"type": ENVIRONMENT_SLUGS[slug][0]}
        )[0]
        for slug in ROOT_SLUGS
    ]
