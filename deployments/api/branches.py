"""Preview branches: each is an environment below the project's `preview`. A header of a request names the branch."""

from __future__ import annotations

import re
from typing import Any

from django.db.models.functions import Now

from deployments.access.audit import Trail
from deployments.api.errors import HttpRefusal
from deployments.models import Environment

_PREFIXES = re.compile(r"^refs/(heads|tags|remotes|pull|merge|release)/")
# The rules of `git check-ref-format`, as in the CLI. Slashes are allowed.
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\\\ud800-\udfff]|//|\.\.|@\{|^/|/$|\.lock$")
MAX_BRANCH_CHARACTERS = 255


def clean(name: str) -> str | None:
    """The branch's name without git's prefixes (refs/heads/); None if it is not a valid name."""
    name = _PREFIXES.sub("", name.strip())
    return name if name and len(name) <= MAX_BRANCH_CHARACTERS and not _FORBIDDEN.search(name) else None


def find(preview: Environment, name: str) -> Environment:
    """The branch's environment. Raises HttpRefusal (404) if the branch does not exist or is archived."""
    branch = clean(name)
    found = preview.branches.select_related("project").filter(branch=branch).first() if branch else None
    if found is None or found.archived_at is not None:
        raise HttpRefusal(
            404, "Branch not found. POST /api/v1/projects/{ref}/branches makes a branch; the CLI does that itself."
        )
    return found


def upsert(preview: Environment, name: str, git: dict[str, Any]) -> tuple[Environment, bool]:
    """(the branch's environment, whether this call made it or restored it from the archive).

    `git` is stored if it is not empty. Raises HttpRefusal (400) for an invalid name.
    """
    branch = clean(name)
    if branch is None:
        raise HttpRefusal(
            400,
            "This is not a valid name of a branch: no spaces, none of ~^:?*[\\, no “..”, “//” or “@{”, no slash at "
            f"either end, no .lock at the end, at most {MAX_BRANCH_CHARACTERS} characters.",
        )
    values = {"archived_at": None} | ({"git": git} if git else {})  # outside a git work tree the CLI sends nothing
    restored = bool(preview.branches.filter(branch=branch, archived_at__isnull=False).update(archived_at=None))
    environment, is_new = Environment.objects.update_or_create(
        parent=preview,
        branch=branch,
        defaults=values,
        create_defaults=values
        | {
            "project_id": preview.project_id,
            "type": preview.type,
            "slug": preview.slug,
            # `deployments.deploys.versions` raises these counters after a backup was restored, so a branch that is made
            # again gets versions above its old tags.
            "version_day": preview.version_day,
            "version_number": preview.version_number,
        },
    )
    return environment, is_new or restored


def add(preview: Environment, name: str, git: dict[str, Any], trail: Trail) -> tuple[Environment, bool]:
    """`upsert`, with its audit line if it changed something."""
    with trail.change("add.environment", after={"archived": False}) as line:
        environment, is_new = upsert(preview, name, git)
        line.target = environment
        if not is_new:
            line.nothing_changed()
    return environment, is_new


def archive(preview: Environment, name: str, trail: Trail) -> Environment:
    """Archive a branch; its deployments stay. Raises HttpRefusal: 404 if it does not exist, 400 if it is archived."""
    with trail.change("archive.environment", before={"archived": False}, after={"archived": True}) as line:
        branch = clean(name)
        found = line.target = preview.branches.filter(branch=branch).first() if branch else None
        if found is None:
            raise HttpRefusal(404, "Branch not found")
        if not preview.branches.filter(pk=found.pk, archived_at__isnull=True).update(archived_at=Now()):
            raise HttpRefusal(400, "The branch is already archived.")
    return found
