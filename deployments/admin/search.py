"""The search of the deployments' list.

A version, a digest, a short code and an id are recognised by their form and found by an index, in deployments of any
age. Words (of a commit, its message, a branch, a project's name, a person, an error) need a scan, so they are searched
only in the newest rows that match the filters. A filter by time makes older rows searchable.
"""

from __future__ import annotations

import re
from typing import Any

from django.db.models import Q, QuerySet

from deployments import images
from deployments.models import Deployment, Environment, Project

MAX_ROWS_SEARCHED = 5_000  # rows that are searched for words (D-search)
MAX_RESULTS = 500

_DIGEST = re.compile(r"(sha256:)?([0-9a-f]{64})")
_DAY = re.compile(r"[0-9]{8}")
_SHORT_CODE = re.compile(r"[0-9a-z]{8}")


def find(rows: QuerySet[Deployment], text: str) -> QuerySet[Deployment]:
    """Those of `rows` that match the search text, at most MAX_RESULTS for a search by words."""
    term = text.strip()
    newest = rows.order_by("-created_at", "-version_number").values("pk")[:MAX_ROWS_SEARCHED]
    if (digest := _DIGEST.fullmatch(term)) or term.startswith("sha256:"):
        said = Q(image_digest=f"sha256:{digest[2]}") if digest else Q(image_digest__startswith=term)
        # The newest rows first: a search through all rows is needed only if none of them has the digest.
        keys = _keys(Deployment.objects.filter(said, pk__in=newest)) or _keys(rows.order_by().filter(said))
        return rows.filter(pk__in=keys)
    if term.startswith("deployment_"):
        return rows.filter(pk=term)
    # The condition on the environment (or project) lets the database use the index that begins with this column.
    everywhere = Environment.objects.order_by().values("pk")
    try:
        version = images.Version.parse(term)
    except ValueError:
        pass
    else:
        return rows.filter(environment__in=everywhere, version_day=version.day, version_number=version.number)
    if _DAY.fullmatch(term):
        return rows.filter(environment__in=everywhere, version_day=term)
    found = set(_keys(rows.filter(environment__in=everywhere, external_id=term)))
    if _SHORT_CODE.fullmatch(term.lower()):
        projects = Project.objects.order_by().values("pk")
        found |= set(_keys(rows.filter(project__in=projects, short_code=term.lower())))
    for word in term.split()[:5] or [""]:
        said = Q(git__commitMessage__icontains=word) | Q(git__commitRef__icontains=word)
        said |= Q(git__commitSha__startswith=word.lower()) | Q(short_code__startswith=word.lower())
        said |= Q(external_id__startswith=word) | Q(triggered_by__icontains=word) | Q(project__name__icontains=word)
        said |= Q(git__commitAuthorName__icontains=word) | Q(canceled_reason__icontains=word)
        said |= Q(error__name__icontains=word) | Q(error__message__icontains=word)
        newest = Deployment.objects.filter(said, pk__in=newest).order_by("-created_at").values("pk")
    return rows.filter(pk__in=found | set(_keys(newest)))


def _keys(rows: QuerySet[Any]) -> list[str]:
    return list(rows.values_list("pk", flat=True)[:MAX_RESULTS])
