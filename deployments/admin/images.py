"""The pages of a repository's images: the list, which AWS is asked for while a person waits, and “restore”."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import path, reverse

from deployments.access.audit import Trail
from deployments.admin.pages import Alarm, Button, ReadOnly, may, require, shown_configuration
from deployments.errors import Refusal
from deployments.models import Repository
from deployments.reconcile import repository_images, targets
from deployments.reconcile.repository_images import ImagePage, Only

RESTORE = "restore_image_repository"
_NOT_CONFIGURED = "The settings name another registry now, so AWS is not called for this repository."


class Images(ReadOnly):
    """Adds the pages “images” and “restore this image” to the repositories."""

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path("<int:pk>/images/", wrap(self.images_view), name="deployments_repository_images"),
            path(
                "<int:pk>/images/<str:digest>/restore/",
                wrap(self.restore_image_view),
                name="deployments_repository_restore_image",
            ),
            *super().get_urls(),
        ]

    def images_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """One page of images: one call to AWS. Query: `only`, `part` (AWS's token) and `p` (the number in the part)."""
        row: Repository = self.one(request, pk)
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(("GET", "HEAD"))
        only, number = request.GET.get("only", ""), request.GET.get("p", "")
        chosen = Only(only) if only in list(Only) else Only.ALL
        target, found, said = _target_of(row), None, _NOT_CONFIGURED
        if target is not None:
            try:
                found = repository_images.read(
                    row=row,
                    target=target,
                    only=chosen,
                    token=request.GET.get("part", ""),
                    number=int(number) if number.isascii() and number.isdecimal() and len(number) < 6 else 1,
                )
            except Refusal as refusal:
                said = refusal.sentence
        if found is not None and found.error is not None:
            said = found.error.sentence
        seen = found is not None and found.error is None
        return self.render_page(
            request,
            "registry_admin/images.html",
            row,
            {
                "title": "Images",
                "buttons": [
                    Button(word="Repository", address=reverse("admin:deployments_repository_change", args=[row.pk]))
                ],
                "found": found if seen else None,
                "alarm": None if seen else Alarm(title="The images could not be read", words=said, tone="warn"),
                "statement": json.dumps(found.statement, indent=2) if found is not None and found.statement else "",
                "choices": [(each.words, _address(row, only=each), each is chosen) for each in Only],
                "links": _links(row, found) if found is not None and seen else {},
                "may_restore": may(request, RESTORE) and row.is_managed,
                "sees_deployments": may(request, "view_deployment"),
            },
        )

    def restore_image_view(self, request: HttpRequest, pk: int, digest: str) -> HttpResponse:
        """GET asks AWS for the image and shows what a restore is; POST asks AWS to restore it."""
        require(request, RESTORE)
        row: Repository = self.one(request, pk)
        if request.method == "POST":
            try:
                status = repository_images.restore(
                    row=row, digest=digest, configuration=settings.CONFIGURATION, trail=Trail.of(request)
                )
            except Refusal as refusal:
                self.message_user(request, refusal.sentence, messages.ERROR)
            else:
                self.message_user(request, _RESTORED.get(status, f"AWS says {status}."), messages.SUCCESS)
            return HttpResponseRedirect(_address(row))
        target, image, said = _target_of(row), None, _NOT_CONFIGURED
        if target is not None:
            try:
                image = repository_images.find(row=row, target=target, digest=digest)
                said = "AWS has no image with this digest in the repository."
            except Refusal as refusal:
                said = refusal.sentence
        return self.render_page(
            request,
            "registry_admin/restore_image.html",
            row,
            {
                "title": "Restore this image?",
                "image": image,
                "archived": image is not None and image.status == repository_images.ARCHIVED,
                "alarm": Alarm(title="No image to restore found", words=said, tone="warn") if image is None else None,
                "back": _address(row),
            },
        )


_RESTORED = {
    repository_images.ACTIVATING: "AWS is restoring the image, which takes up to 20 minutes. Until then it cannot be "
    "pulled.",
    repository_images.ACTIVE: "The image is not archived.",
}


def _target_of(row: Repository) -> targets.Target | None:
    configuration = shown_configuration()
    return None if configuration.problems else targets.of(row, configuration)


def _address(row: Repository, *, only: Only = Only.ALL, token: str = "", number: int = 1) -> str:
    query = {"only": only.value if only is not Only.ALL else "", "part": token, "p": number if number > 1 else ""}
    text = urlencode({name: value for name, value in query.items() if value})
    return reverse("admin:deployments_repository_images", args=[row.pk]) + (f"?{text}" if text else "")


def _links(row: Repository, found: ImagePage) -> dict[str, str]:
    """Link → its address, for those that lead somewhere."""
    links: dict[str, str] = {}
    if found.number > 1:
        links["newer"] = _address(row, only=found.only, token=found.token, number=found.number - 1)
    if found.number < found.pages:
        links["older"] = _address(row, only=found.only, token=found.token, number=found.number + 1)
    if found.next_token:
        links["next_part"] = _address(row, only=found.only, token=found.next_token)
    if found.token:
        links["first_part"] = _address(row, only=found.only)
    return links
