"""The search of the deployments' list.

A version, a digest, a short code and an id are recognised by their form and found by an index, in deployments of any
age. Words (of a commit, its message, a branch, a project's name, a person, an error) need a scan, so they are searched
only in the newest rows that match the filters. A filter by time makes older rows searchable.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from django.db.models import Q, QuerySet

from deployments import images
from deployments.models import Deployment, Project

MAX_ROWS_SEARCHED = 5_000  # rows that are searched for words (D-search)
MAX_RESULTS = 500

_DIGEST = re.compile(r"(sha256:)?([0-9a-f]{64})")
_DAY = re.compile(r"[0-9]{8}")
_SHORT_CODE = re.compile(r"[0-9a-z]{8}")


def find(
    rows: QuerySet[Deployment], text: str, *, everything: QuerySet[Deployment], exact: Callable[[str], list[str]]
) -> QuerySet[Deployment]:
    """Those of `rows` that match the search text, in their order, at most MAX_RESULTS for a search by words.

    `everything`: the same rows without filters, which are not asked twice where the keys of the result are known.
    `exact`: `with_exact_text`, or a function that remembers its result, because one page searches several times.
    """
    everything = everything.order_by(*rows.query.order_by)
    term = text.strip()
    if (digest := _DIGEST.fullmatch(term)) or term.startswith("sha256:"):
        first = f"sha256:{digest[2]}" if digest else term
        # A range, because no index answers LIKE on both databases: the digits of a digest are 0 to f.
        said = Q(image_digest__gte=first, image_digest__lt=f"{first}g")
        # The newest rows first: a search through all rows is needed only if none of them has the digest.
        return everything.filter(pk__in=_keys(_newest(rows).filter(said)) or _keys(rows.order_by().filter(said)))
    if term.startswith("deployment_"):
        return rows.filter(pk=term)
    try:
        version = images.Version.parse(term)
    except ValueError:
        pass
    else:
        return rows.filter(version_day=version.day, version_number=version.number)
    if _DAY.fullmatch(term):
        return rows.filter(version_day=term)
    newest = _newest(rows)
    for word in term.split()[:5] or [""]:
        said = Q(git__commitMessage__icontains=word) | Q(git__commitRef__icontains=word)
        said |= Q(git__commitSha__startswith=word.lower()) | Q(short_code__startswith=word.lower())
        said |= Q(external_id__startswith=word) | Q(triggered_by__icontains=word) | Q(project__name__icontains=word)
        said |= Q(git__commitAuthorName__icontains=word) | Q(canceled_reason__icontains=word)
        said |= Q(error__name__icontains=word) | Q(error__message__icontains=word)
        newest = newest.filter(said)
    found = exact(term)
    found = _keys(rows.filter(pk__in=found)) if found else []
    return everything.filter(pk__in={*found, *_keys(newest)})


def with_exact_text(term: str) -> list[str]:
    """The keys of the deployments of any age whose external id or short code is exactly this text."""
    found = _keys(Deployment.objects.filter(external_id=term).exclude(external_id="").order_by())
    if _SHORT_CODE.fullmatch(term.lower()):
        # The condition on the project lets the database use the index that begins with this column.
        projects = Project.objects.order_by().values("pk")
        found += _keys(Deployment.objects.filter(project__in=projects, short_code=term.lower()).order_by())
    return found


def _newest(rows: QuerySet[Deployment]) -> QuerySet[Deployment]:
    """The newest MAX_ROWS_SEARCHED of the rows, newest first.

    Those since the time of the last of them, and an index finds that time. PostgreSQL reads the whole table for a
    condition on the rows of a subquery with a limit.
    """
    last = rows.order_by("-created_at").values_list("created_at", flat=True)
    since = list(last[MAX_ROWS_SEARCHED - 1 : MAX_ROWS_SEARCHED])
    rows = rows.order_by("-created_at", "-version_number")
    return rows.filter(created_at__gte=since[0]) if since else rows


def _keys(rows: QuerySet[Any]) -> list[str]:
    return list(rows.values_list("pk", flat=True)[:MAX_RESULTS])
