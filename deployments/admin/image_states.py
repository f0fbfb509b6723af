"""The states of images that must stay, as the pages of an environment, of a repository and the dashboard show them."""

from __future__ import annotations

from typing import Any

from django.db.models import Q

from deployments.models import ImageState
from deployments.reconcile import image_states

SHOWN = 50
BROKEN_SHOWN = 8


def kept_images(rows: Q) -> Any:
    """The images that were looked at, with `is_current`: by environment, first the current one. One query."""
    found = image_states.with_current(ImageState.objects.filter(rows))
    order = ("deployment__environment", "-is_current", "-deployment__version_day", "-deployment__version_number")
    return found.select_related("deployment__environment__project").order_by(*order)[:SHOWN]


def broken_current_images() -> Any:
    """The current images that cannot be pulled, the newest first; at most one more than BROKEN_SHOWN. One query."""
    return _broken().select_related("deployment__environment__project").order_by("-since")[: BROKEN_SHOWN + 1]


def broken_in_project() -> Q:
    """Condition for projects with a current image that cannot be pulled.

    The subquery does not depend on the project, so a database answers it once, and not for each project.
    """
    return Q(pk__in=_broken().values("deployment__project"))


def _broken() -> Any:
    found = image_states.with_current(ImageState.objects.filter(state__in=image_states.BROKEN))
    return found.filter(is_current=True, deployment__environment__archived_at=None)
