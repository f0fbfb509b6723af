"""Preview branches: one environment each, below the project's `preview`, found by its name in a header."""

from __future__ import annotations

import re
from typing import Any

from django.db.models.functions import Now

from deployments.api.errors import Refused
from deployments.models import Environment

_PREFIXES = re.compile(r"^refs/(heads|tags|remotes|pull|merge|release)/")
# The rules of `git check-ref-format` that the CLI applies too; slashes are normal.
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\\\ud800-\udfff]|//|\.\.|@\{|^/|/$|\.lock$")
MOST_CHARACTERS = 255


def clean(name: str) -> str | None:
    """The branch's name without git's prefixes; None if it cannot be one."""
    name = _PREFIXES.sub("", name.strip())
    return name if name and len(name) <= MOST_CHARACTERS and not _FORBIDDEN.search(name) else None


def find(preview: Environment, name: str) -> Environment:
    """The branch's environment below `preview`. Raises Refused: 404 for one that is not there, or archived."""
    branch = clean(name)
    found = preview.branches.select_related("project").filter(branch=branch).first() if branch else None
    if found is None or found.archived_at is not None:
        raise Refused(404, "Branch not found. POST /api/v1/projects/{ref}/branches makes it; the CLI does so itself.")
    return found


def upsert(preview: Environment, name: str, git: dict[str, Any]) -> tuple[Environment, bool]:
    """The branch's environment, and whether it was made or brought back from the archive now. Raises Refused: 400 for
    an impossible name.
    """
    branch = clean(name)
    if branch is None:
        raise Refused(
            400,
            "This cannot be the name of a branch: no spaces, none of ~^:?*[\\, no “..”, “//” or “@{”, no slash at "
            f"either end, not ending in .lock, at most {MOST_CHARACTERS} characters.",
        )
    values = {"archived_at": None} | ({"git": git} if git else {})  # outside a work tree the CLI knows nothing of git
    back = bool(preview.branches.filter(branch=branch, archived_at__isnull=False).update(archived_at=None))
    environment, is_new = Environment.objects.update_or_create(
        parent=preview,
        branch=branch,
        defaults=values,
        create_defaults=values
        | {
            "project_id": preview.project_id,
            "type": preview.type,
            "slug": preview.slug,
            # Set by `deployments.versions` in a restored database: a branch that is made again starts above its tags.
            "version_day": preview.version_day,
            "version_number": preview.version_number,
        },
    )
    return environment, is_new or back


def archive(preview: Environment, name: str) -> Environment:
    """Put a branch away; its deployments stay. Raises Refused: 404 if it is not there, 400 if it is put away."""
    branch = clean(name)
    found = preview.branches.filter(branch=branch).first() if branch else None
    if found is None:
        raise Refused(404, "Branch not found")
    if not preview.branches.filter(pk=found.pk, archived_at__isnull=True).update(archived_at=Now()):
        raise Refused(400, "The branch is archived already.")
    return found
