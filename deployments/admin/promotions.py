"""Promote, roll back and cancel: a GET shows what will change, a POST does it. Each needs its own permission."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse

from deployments.access.audit import Trail
from deployments.admin import commits
from deployments.admin.display import headline
from deployments.admin.pages import Button, ReadOnly, may, require, who
from deployments.deploys import lifecycle, promotions
from deployments.log import bind
from deployments.models import Deployment, DeploymentStatus, Promotion


class Promotions(ReadOnly):
    """Adds the actions promote, roll back and cancel to the deployments."""

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path("<path:pk>/promote/", wrap(self.promote_view), name="deployments_deployment_promote"),
            path("<path:pk>/cancel/", wrap(self.cancel_view), name="deployments_deployment_cancel"),
            *super().get_urls(),
        ]

    def promote_view(self, request: HttpRequest, pk: str) -> HttpResponse:
        """GET shows what a promotion or roll-back changes, POST does it."""
        deployment: Deployment = self.one(request, pk)
        change = promotions.change_to(deployment)
        require(request, "rollback_deployment" if change.rolls_back else "promote_deployment")
        if request.method == "POST":
            try:
                promotions.make_current(
                    deployment=deployment,
                    instead_of=request.POST.get("instead_of", ""),
                    by=who(request),
                    configuration=settings.CONFIGURATION,
                    trail=Trail.of(request),
                )
            except lifecycle.Refusal as refusal:
                bind(error=refusal.sentence, code=refusal.code)  # for the line of this request
                self.message_user(request, refusal.sentence, messages.ERROR)
                again = refusal.code == "current_has_changed"
                return HttpResponseRedirect(request.get_full_path() if again else _page(deployment))
            self.message_user(request, f"{deployment.version} is current in {_where(deployment)}.", messages.SUCCESS)
            return HttpResponseRedirect(_page(deployment))
        word = "Roll back" if change.rolls_back else "Promote"
        return self.render_page(
            request,
            "registry_admin/promote.html",
            deployment,
            {
                "title": f"{word} to {deployment.version}?" if change.rolls_back else f"Promote {deployment.version}?",
                "word": word,
                "change": change,
                "sides": _sides(change),
                "commit_links": commits.links(deployment.git, triggered_via=deployment.triggered_via),
                "compare": compare(change),
                "obstacle": obstacle(change),
            },
        )

    def cancel_view(self, request: HttpRequest, pk: str) -> HttpResponse:
        """GET asks for a reason, POST cancels the deployment."""
        require(request, "cancel_deployment")
        deployment: Deployment = self.one(request, pk)
        if request.method == "POST":
            reason = request.POST.get("reason", "").strip()[:120]
            words = f"By {who(request)}{': ' + reason if reason else '.'}"
            try:
                lifecycle.cancel(deployment=deployment, trail=Trail.of(request), reason=words)
            except lifecycle.Refusal as refusal:
                bind(error=refusal.sentence, code=refusal.code)
                self.message_user(request, refusal.sentence, messages.ERROR)
            else:
                self.message_user(request, f"{deployment.version} was canceled.", messages.SUCCESS)
            return HttpResponseRedirect(_page(deployment))
        return self.render_page(
            request,
            "registry_admin/cancel.html",
            deployment,
            {"title": f"Cancel {deployment.version}?", "ended": deployment.is_final},
        )


def offers(request: HttpRequest, deployment: Deployment, previous: Deployment | None) -> dict[str, Any]:
    """The template context of a deployment's page about its promotion: buttons, and whether it is or was current."""
    promotion = (
        Promotion.objects.select_related("deployment", "rolled_back_from")
        .defer("deployment__error", "rolled_back_from__error", "rolled_back_from__git")
        .filter(environment=deployment.environment_id, label="current")
        .first()
    )
    change = promotions.PromotionChange(deployment=deployment, current=promotion)
    is_current = promotion is not None and promotion.deployment_id == deployment.pk
    replaced = promotions.rolled_back(promotion) if promotion else None
    return {
        "promotion": promotion,
        "replaced": replaced if is_current else None,
        "compare": compare(change),
        "buttons": list(_buttons(request, change, previous if is_current else None)),
    }


def _buttons(request: HttpRequest, change: promotions.PromotionChange, previous: Deployment | None) -> Iterator[Button]:
    deployment = change.deployment
    right, word = "promote_deployment", "Promote"
    if change.rolls_back:
        right, word = "rollback_deployment", "Roll back to this"
    if not obstacle(change) and may(request, right):
        yield Button(word=word, address=_action("promote", deployment))
    if previous is not None and may(request, "rollback_deployment"):
        back = promotions.PromotionChange(deployment=previous, current=change.current)
        if not obstacle(back):
            word = f"Roll back to {previous.version}"
            yield Button(word=word, address=_action("promote", previous), style="historylink")
    if not deployment.is_final and may(request, "cancel_deployment"):
        yield Button(word="Cancel", address=_action("cancel", deployment), style="button danger")


def compare(change: promotions.PromotionChange) -> str:
    """The address of what changed between the current version and this one, the older first; empty: not known."""
    if change.current is None:
        return ""
    now, then = change.current.deployment.git, change.deployment.git
    return commits.compare(then, now) if change.rolls_back else commits.compare(now, then)


def obstacle(change: promotions.PromotionChange) -> str:
    """Why this deployment cannot become current; empty if it can. The action refuses for the same reasons."""
    deployment = change.deployment
    if deployment.project.archived_at is not None:
        return f"The project {deployment.project} is archived."
    if change.current is not None and change.current.deployment_id == deployment.pk:
        return f"{deployment.version} is current already."
    if deployment.status != DeploymentStatus.DEPLOYED:
        return f"{deployment.version} is {deployment.get_status_display().lower()}, not deployed."
    return "" if hasattr(deployment, "worker") else f"{deployment.version} was never indexed, so it has no tasks."


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One value as it is and as it will be, and whether it is shown as code."""

    what: str
    now: object
    then: object
    is_code: bool

    @property
    def same(self) -> bool:
        """Whether the value does not change."""
        return self.now == self.then


def _sides(change: promotions.PromotionChange) -> list[Side]:
    now, then = change.current.deployment if change.current else None, change.deployment

    def line(what: str, value: Callable[[Deployment], object], *, is_code: bool = True) -> Side:
        return Side(what=what, now=value(now) or "–" if now else "–", then=value(then) or "–", is_code=is_code)

    return [
        line("Commit", headline, is_code=False),
        line("Version", lambda row: row.version),
        line("Revision", lambda row: str(row.git.get("commitSha") or "")[:12]),
        line("Branch", lambda row: row.git.get("commitRef"), is_code=False),
        line("Author", lambda row: row.git.get("commitAuthorName"), is_code=False),
        line("Image digest", lambda row: row.image_digest),
        line("Image ref", lambda row: row.image_ref),
    ]


def _action(name: str, deployment: Deployment) -> str:
    return reverse(f"admin:deployments_deployment_{name}", args=[deployment.pk])


def _page(deployment: Deployment) -> str:
    return reverse("admin:deployments_deployment_change", args=[deployment.pk])


def _where(deployment: Deployment) -> str:
    return f"{deployment.project} / {deployment.environment}"
