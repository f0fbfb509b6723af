"""How much of a repository we manage: `Repository.management` (D-management).

| value       | when                                                | what is written to AWS                       |
|-------------|-----------------------------------------------------|----------------------------------------------|
| empty       | no repository was seen yet, or it is gone           | nothing, until a deploy creates it           |
| `unmanaged` | a sweep discovered it, or its project was deleted   | nothing                                      |
| `adopted`   | somebody else made it; a deploy or a person adopted | repository policy, AWS tags, missing parts   |
| `full`      | we created it, or a person took it over             | everything that AWS lets us change           |

Version 0.1.0 writes only `status`, `origin` and `taken_over_at`. So this version writes `management` together with
these columns. While a process of version 0.1.0 may run, `fill` and each lease (`repositories.claim`) set the value that
follows from these columns. So write them together: a `management` that does not follow from them is replaced.
"""

from __future__ import annotations

from collections.abc import Collection

from django.db import transaction
from django.db.models import Case, CharField, F, Value, When
from django.db.models.functions import Now

from deployments.log import get_logger
from deployments.models import EventKind, Repository, RepositoryEvent, RepositoryStatus
from deployments.reconcile import lease
from deployments.row_values import Management

log = get_logger(__name__)

#: The value of `management` that follows from the columns of version 0.1.0, in SQL.
BY_OLD_COLUMNS = Case(
    When(status=RepositoryStatus.UNMANAGED, then=Value(Management.UNMANAGED)),
    When(origin="created", then=Value(Management.FULL)),
    When(origin="adopted", taken_over_at__isnull=False, then=Value(Management.FULL)),
    When(origin="adopted", then=Value(Management.ADOPTED)),
    default=Value(""),
    output_field=CharField(),
)


def fill() -> int:
    """Set `management` on the rows that a process of version 0.1.0 has changed. Returns their number.

    Called at the start of a web process and of `manage.py reconcile`, and each minute by the worker. One UPDATE, which
    writes only rows that need it.
    """
    return Repository.objects.exclude(management=BY_OLD_COLUMNS).update(management=BY_OLD_COLUMNS)


def adopt(*, row: Repository, by: str) -> bool:
    """Adopt a discovered repository. False if it is not unmanaged.

    Its next check writes the policy, and the tags and lifecycle policy that are missing.
    """
    with transaction.atomic():
        adopted = Repository.objects.filter(pk=row.pk, status=RepositoryStatus.UNMANAGED).update(
            status=RepositoryStatus.PENDING, origin="adopted", management=Management.ADOPTED, details_checked_at=None
        )
        if adopted:
            _note(row, "Adopted by an operator.", by)
    if adopted:
        log.info("repository.pending", repository=row.name, account=row.account, before=row.status, cause=by)
    return bool(adopted)


def take_over(*, row: Repository, by: str) -> bool:
    """Take over an adopted repository. False if it is not adopted.

    Its next check replaces the lifecycle policy and the tag mutability that somebody else chose.
    """
    with transaction.atomic():
        # `origin` too: a process of version 0.1.0 may have found that the repository is gone.
        taken = Repository.objects.filter(pk=row.pk, management=Management.ADOPTED, origin="adopted").update(
            taken_over_at=Now(), management=Management.FULL, details_checked_at=None
        )
        if taken:
            _note(row, "Taken over: its lifecycle policy and tag mutability are managed too.", by)
    return bool(taken)


def release(*, rows: Collection[Repository], by: str) -> None:
    """Stop managing repositories whose project is deleted. AWS is not asked: they keep their policies and images.

    A process that works on one of them loses its lease, so that its result is dropped. Needs an open transaction.
    """
    Repository.objects.filter(pk__in=[row.pk for row in rows]).update(
        project=None, status=RepositoryStatus.UNMANAGED, origin="", taken_over_at=None, management=Management.UNMANAGED,
        policy_version=None,
        mode="", mode_until=None, mode_reason="", mode_by="", differences=[], drifted_since=None,
        last_error="", last_error_code="", last_error_at=None, error_since=None, creating_since=None,
        lease_epoch=F("lease_epoch") + 1, **lease.RETURNED,
    )  # fmt: skip
    for row in rows:
        words = "Its project was deleted, so it is unmanaged. It keeps its policies and images."
        RepositoryEvent.objects.create(repository_id=row.pk, kind=EventKind.CHANGED, message=words, cause=by)


def _note(row: Repository, words: str, by: str) -> None:
    RepositoryEvent.objects.create(repository_id=row.pk, kind=EventKind.ADOPTED, message=words, cause=by)
