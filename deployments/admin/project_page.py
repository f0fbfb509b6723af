"""A project's page: what is live where, its images and roll-back targets, repositories, keys and deployments.

The number of queries is fixed. Nothing is read that the user may not see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib.admin import AdminSite
from django.db.models import F, OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest
from django.urls import reverse

from deployments.access import trust
from deployments.admin.deployments import latest
from deployments.admin.pages import audit_of, may, shown_configuration
from deployments.admin.repositories import reason
from deployments.admin.trust import state
from deployments.deploys.projects import ROOT_SLUGS
from deployments.deploys.promotions import rolled_back
from deployments.models import (
    AccessKey,
    Deployment,
    DeploymentStatus,
    Environment,
    ImageState,
    Project,
    Promotion,
    Repository,
    RepositoryStatus,
    TrustPolicy,
)
from deployments.reconcile import targets
from deployments.row_values import ConsumerPull

BRANCHES_SHOWN = 20
KEYS_SHOWN = 20
POLICIES_SHOWN = 20
REPOSITORIES_SHOWN = 20
ROLLBACK_TARGETS_SHOWN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """An environment: its current promotion, the state of its image, and the newest versions to roll back to."""

    environment: Environment
    promotion: Promotion | None
    replaced: Deployment | None  # the newer deployment before a roll-back
    image: ImageState | None
    rollback_targets: list[Deployment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A repository of the project, why it needs attention, and whether each consumer account can pull from it."""

    repository: Repository
    reason: str
    is_configured: bool  # whether the settings name its registry
    pulls: list[tuple[str, ConsumerPull]]


def project_page(site: AdminSite, request: HttpRequest, project: Project) -> dict[str, Any]:
    """The template context of a project's page."""
    keys = site.get_model_admin(AccessKey)
    context: dict[str, Any] = {"audit": audit_of(request, project)}
    if site.get_model_admin(Environment).has_view_permission(request):
        context |= _environments(request, project)
    if site.get_model_admin(Deployment).has_view_permission(request):
        address = reverse("admin:deployments_deployment_changelist")
        context["latest"] = latest(Deployment.objects.filter(project=project))
        context["deployments_address"] = f"{address}?project__ref={project.ref}"
    if site.get_model_admin(Repository).has_view_permission(request):
        context["repositories"] = list(_repositories(project))
    if site.get_model_admin(TrustPolicy).has_view_permission(request):
        policies = [
            (row, state(row)) for row in trust.list_policies(project=project).defer("ca", "jwks")[:POLICIES_SHOWN]
        ]
        context |= {"policies": policies, "may_add_policies": may(request, "add_trustpolicy")}
    if keys.has_view_permission(request):
        rows = keys.get_queryset(request).filter(environment__project=project)
        rows = rows.order_by(F("revoked_at").asc(nulls_first=True), "-created_at")
        found = list(rows[: KEYS_SHOWN + 1])
        context |= {"keys": found[:KEYS_SHOWN], "more_keys": len(found) > KEYS_SHOWN}
        context["may_make_keys"] = keys.has_add_permission(request) and project.archived_at is None
    return context


def _environments(request: HttpRequest, project: Project) -> dict[str, Any]:
    """The root environments and the preview branches, the newest promotion first. Archived ones are not shown."""
    promoted = Promotion.objects.filter(label="current", environment=OuterRef("pk")).values("promoted_at")
    rows = Environment.objects.filter(project=project, archived_at=None).annotate(since=Subquery(promoted[:1]))
    order = (F("parent").asc(nulls_first=True), F("since").desc(nulls_last=True), "pk")
    found = list(rows.defer("git").order_by(*order)[: BRANCHES_SHOWN + len(ROOT_SLUGS) + 1])
    roots = [row for row in found if row.parent_id is None]
    roots.sort(
        key=lambda row: (row.slug not in ROOT_SLUGS, ROOT_SLUGS.index(row.slug) if row.slug in ROOT_SLUGS else 0)
    )
    branches = [row for row in found if row.parent_id is not None]
    shown = [*roots, *branches[:BRANCHES_SHOWN]]
    offers = ROLLBACK_TARGETS_SHOWN if _may_roll_back(request, project) else 0
    address = reverse("admin:deployments_environment_changelist")
    return {
        "environments": list(_live(shown, targets_shown=offers)),
        "offers_rollback": bool(offers),
        "more_branches": len(found) > len(shown),
        "environments_address": f"{address}?project__ref={project.ref}&state=active",
    }


def _may_roll_back(request: HttpRequest, project: Project) -> bool:
    return may(request, "rollback_deployment") and project.archived_at is None


def rollback_targets(request: HttpRequest, environment: Environment) -> list[Deployment]:
    """The newest versions that this user may roll an environment back to."""
    if environment.archived_at is not None or not _may_roll_back(request, environment.project):
        return []
    [live] = _live([environment], targets_shown=ROLLBACK_TARGETS_SHOWN)
    return live.rollback_targets


def _live(environments: Sequence[Environment], *, targets_shown: int) -> Iterator[Live]:
    names = [f"target_{number}" for number in range(targets_shown)]
    promotions = Promotion.objects.filter(label="current", environment__in=environments).annotate(
        **{name: Subquery(_rollback_targets()[number : number + 1]) for number, name in enumerate(names)}
    )
    related = promotions.select_related("deployment", "rolled_back_from")
    unread = [f"{row}__{field}" for row in ("deployment", "rolled_back_from") for field in ("error", "receipt")]
    current = {row.environment_id: row for row in related.defer(*unread, "rolled_back_from__git")}
    wanted = {pk for row in current.values() for name in names if (pk := getattr(row, name))}
    deployments = Deployment.objects.defer("error", "receipt").in_bulk(wanted)
    images = ImageState.objects.in_bulk([row.deployment_id for row in current.values()])
    for environment in environments:
        promotion = current.get(environment.pk)
        found = [deployments.get(getattr(promotion, name)) for name in names] if promotion else []
        yield Live(
            environment=environment,
            promotion=promotion,
            replaced=rolled_back(promotion) if promotion else None,
            image=images.get(promotion.deployment_id) if promotion else None,
            rollback_targets=[row for row in found if row is not None],
        )


def _rollback_targets() -> QuerySet[Any, Any]:
    """The deployments that a promotion's environment can be rolled back to, the newest first."""
    day = OuterRef("deployment__version_day")
    older = Q(version_day__lt=day) | Q(version_number__lt=OuterRef("deployment__version_number"))
    rows = Deployment.objects.filter(older, environment=OuterRef("environment"), version_day__lte=day)
    rows = rows.filter(status=DeploymentStatus.DEPLOYED, worker__isnull=False)
    return rows.order_by("-version_day", "-version_number").values("pk")


def _repositories(project: Project) -> Iterator[Held]:
    configuration = shown_configuration()
    rows = Repository.objects.filter(project=project).defer("policy_text", "lifecycle_text")
    for row in rows.order_by("name", "account", "region")[:REPOSITORIES_SHOWN]:
        target = None if configuration.problems else targets.of(row, configuration)
        accounts = target.config.consumer_accounts if target else ()
        is_gone = row.status == RepositoryStatus.MISSING
        answers = {} if is_gone else row.consumers
        unseen = ConsumerPull(verdict="no" if is_gone else "unknown", words="")
        yield Held(
            repository=row,
            reason=reason(row) if row.status in _WITH_REASON else "",
            is_configured=target is not None,
            pulls=[(account, answers.get(account, unseen)) for account in sorted(accounts)],
        )


_WITH_REASON = (RepositoryStatus.FAILED, RepositoryStatus.DRIFTED, RepositoryStatus.MISSING)
