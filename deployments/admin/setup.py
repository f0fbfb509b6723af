"""The Health page: `manage.py doctor` in the browser.

A GET checks only the settings and the database. The button also checks AWS and the mail server, in the request itself,
because a person waits for the report (at most about 25 seconds). Each use of the button and its result are in the audit
log.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import groupby
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from deployments import doctor
from deployments.access.audit import Trail
from deployments.admin.display import mark
from deployments.admin.pages import may, require
from deployments.doctor import Level, Report
from deployments.errors import Refusal
from deployments.models import AuditEntry
from deployments.reconcile import bulkhead, writes_pause

PERMISSION = "deployments.view_setup"
ACTION = "check.setup"
BADGES = {
    Level.OK: mark("ok", "OK"),
    Level.WARN: mark("warn", "Warning"),
    Level.FAIL: mark("bad", "Failed"),
    Level.SKIPPED: mark("idle", "Not tried"),
}


def may_see(request: HttpRequest) -> bool:
    """Whether the user may see the Health page."""
    return bool(request.user.has_perm(PERMISSION))


def setup(request: HttpRequest) -> HttpResponse:
    """GET runs the checks without AWS and the mail server; POST runs all checks."""
    if not may_see(request):
        raise PermissionDenied
    if request.method not in ("GET", "HEAD", "POST"):
        return HttpResponseNotAllowed(("GET", "HEAD", "POST"))
    asked = request.method == "POST"
    try:
        with bulkhead.place() if asked else nullcontext():
            report = doctor.examine(configuration=settings.CONFIGURATION, offline=not asked)
    except Refusal as refusal:
        messages.error(request, refusal.sentence)
        return HttpResponseRedirect(request.path)
    if asked:
        with Trail.of(request).change(ACTION, after=report.summary):
            pass  # nothing changed; the line records who ran the checks and the result
    request.current_app = admin.site.name
    return TemplateResponse(
        request,
        "registry_admin/setup.html",
        {
            **admin.site.each_context(request),
            "title": "Health",
            "report": report,
            "asked": asked,
            "parts": _parts(report),
            "last": None if asked else AuditEntry.objects.filter(action=ACTION).first(),
            "policy": doctor.operator_policy(settings.CONFIGURATION),
            "pause": writes_pause.current(),
            "may_pause": may(request, "pause_writes"),
            "may_see_pulls": may(request, "view_repository"),
            "alarm": {Level.FAIL: "bad", Level.WARN: "warn"}.get(report.worst, "ok"),
        },
    )


def writes(request: HttpRequest) -> HttpResponse:
    """The emergency stop: GET explains it, POST stops all writes to AWS or allows them again."""
    require(request, "pause_writes")
    if request.method not in ("GET", "HEAD", "POST"):
        return HttpResponseNotAllowed(("GET", "HEAD", "POST"))
    pause, reason = writes_pause.current(), request.POST.get("reason", "").strip()
    if request.method == "POST" and "resume" in request.POST:
        done = writes_pause.resume(trail=Trail.of(request))
        messages.success(request, "Writes to AWS are allowed again." if done else "Writes to AWS were not paused.")
        return HttpResponseRedirect(reverse("admin:setup"))
    if request.method == "POST" and reason:
        done = writes_pause.pause(trail=Trail.of(request), reason=reason)
        messages.warning(request, "Writes to AWS are paused." if done else "Writes to AWS were paused already.")
        return HttpResponseRedirect(reverse("admin:setup"))
    request.current_app = admin.site.name
    return TemplateResponse(
        request,
        "registry_admin/writes.html",
        {
            **admin.site.each_context(request),
            "title": "Allow writes to AWS again" if pause else "Stop every write to AWS",
            "above": (reverse("admin:setup"), "Health"),
            "pause": pause,
            "missing": request.method == "POST",
        },
    )


def _parts(report: Report) -> list[dict[str, Any]]:
    return [
        {"name": name, "lines": [{"badge": BADGES[line.level], "line": line} for line in lines]}
        for name, lines in groupby(report.lines, key=lambda line: line.part)
    ]
