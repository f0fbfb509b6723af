"""“Why can't this node pull?”: a text that a node printed, and the answer of `deployments.reconcile.why`.

The text is in the body of a POST, because a URL is logged by proxies. It is neither stored nor logged; the page shows
it masked. The second button also asks AWS, in the request itself, because a person waits: at most four reads.
"""

from __future__ import annotations

from contextlib import nullcontext

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import reverse

from deployments.admin.pages import may, require, shown_configuration
from deployments.errors import Refusal
from deployments.models import Deployment
from deployments.pull_failures import MAX_BYTES, excerpt, masked
from deployments.reconcile import bulkhead, why
from deployments.reconcile.why import Layer, Why

PERMISSION = "view_repository"
TOO_LONG = f"The text is longer than {MAX_BYTES:,} bytes. Paste only the lines about the pull."


class WhyForm(forms.Form):
    """The text that a node printed."""

    text = forms.CharField(
        label="What the node printed",
        widget=forms.Textarea(attrs={"rows": 8, "spellcheck": "false", "autocomplete": "off"}),
        help_text="The lines of kubelet, containerd, docker, ECS or buildx with the reason, at most "
        f"{MAX_BYTES:,} bytes. They are not stored, and tokens in them are masked.",
    )

    def clean_text(self) -> str:
        text = str(self.cleaned_data["text"])
        if len(text.encode("utf-8", "replace")) > MAX_BYTES:
            raise forms.ValidationError(TOO_LONG)
        return text


def of_deployment(request: HttpRequest, row: Deployment) -> str:
    """The address of the answer about a deployment's error; empty if its text has no known form of message."""
    return f"{reverse('admin:why')}?deployment={row.pk}" if may(request, PERMISSION) and _error_of(row) else ""


def _error_of(row: Deployment) -> str:
    error = row.error if isinstance(row.error, dict) else {}
    return excerpt("\n".join(str(error.get(name) or "") for name in ("message", "stderr")))


def page(request: HttpRequest) -> HttpResponse:
    """GET shows the form, or with `?deployment=ID` the answer about that deployment's error; POST answers a text."""
    require(request, PERMISSION)
    if request.method not in ("GET", "HEAD", "POST"):
        return HttpResponseNotAllowed(("GET", "HEAD", "POST"))
    text, status = "", 200
    form = WhyForm(request.POST if request.method == "POST" else None)
    if request.method == "POST":
        text = form.cleaned_data["text"] if form.is_valid() else ""
        status = 200 if text else 400
        form.data = {"text": masked(text)}  # the page repeats no token, also not in the form
    elif "deployment" in request.GET:
        if not may(request, "view_deployment"):
            raise PermissionDenied
        text = _error_of(get_object_or_404(Deployment, pk=request.GET["deployment"]))
        form.initial = {"text": masked(text)}
    answer = _answer(request, text) if text else None
    request.current_app = admin.site.name
    return TemplateResponse(
        request,
        "registry_admin/why.html",
        {
            **admin.site.each_context(request),
            "title": "Why can't this node pull?",
            "form": form,
            "answer": answer,
            "tone": "warn" if answer is None or answer.layer is Layer.UNKNOWN or not answer.certain else "bad",
            "looked_in_vain": answer is not None and "look" in request.POST and answer.look is None,
            "sees_deployments": may(request, "view_deployment"),
        },
        status=status,
    )


def _answer(request: HttpRequest, text: str) -> Why | None:
    configuration = shown_configuration()
    if configuration.problems:
        messages.error(request, "The settings have errors, so no answer is given. The Health page names the errors.")
        return None
    look = request.method == "POST" and "look" in request.POST
    try:
        with bulkhead.place() if look else nullcontext():
            return why.explain(text=text, configuration=configuration, look=look)
    except Refusal as refusal:
        messages.error(request, refusal.sentence)
        return None
