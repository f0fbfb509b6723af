"""A project and the environments that it starts with. The admin and `bootstrap` make one in the same way."""

from __future__ import annotations

from django.db import transaction

from deployments import images
from deployments.models import ENVIRONMENT_SLUGS, Environment, Project

#: The root environments of every project; preview branches come below `preview` when the CLI asks for them.
ROOT_SLUGS = ("prod", "staging", "preview")


def create_project(*, name: str, ref: str | None = None) -> Project:
    """A new project with its root environments, or nothing at all.

    `ref` is one that somebody brings along (it stands in their `trigger.config`). Raises ValueError for one that
    cannot end a repository name, and IntegrityError for one that is taken.
    """
    if ref is not None and not images.is_project_ref(ref):
        raise ValueError("a project ref reads proj_ and lower case letters and digits, at most 64 characters")
    with transaction.atomic():
        project = Project.objects.create(name=name, ref=ref or images.new_project_ref())
        ensure_environments(project)
    return project


def ensure_environments(project: Project) -> list[Environment]:
    """The root environments, made where they are missing. Calling it again, or twice at once, does no harm."""
    return [
        Environment.objects.get_or_create(
            project=project, slug=slug, parent=None, defaults={"type": ENVIRONMENT_SLUGS[slug][0]}
        )[0]
        for slug in ROOT_SLUGS
    ]
