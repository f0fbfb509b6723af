"""The set-up page: `manage.py doctor` in the browser.

Looking at it asks only the settings and the database. AWS and the mail server are asked when somebody presses the
button: a person waits for that answer, so it is given at once instead of by a task, within some 15 seconds. That it
was pressed, and what came of it, stands in the audit log.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.template.response import TemplateResponse

from deployments import doctor
from deployments.admin.display import mark
from deployments.audit import Trail
from deployments.doctor import Level, Report
from deployments.models import AuditEntry

PERMISSION = "deployments.view_setup"
ACTION = "check.setup"
BADGES = {
    Level.OK: mark("ok", "OK"),
    Level.WARN: mark("warn", "Warning"),
    Level.FAIL: mark("bad", "Failed"),
    Level.SKIPPED: mark("idle", "Not tried"),
}


def may_see(request: HttpRequest) -> bool:
    return bool(request.user.has_perm(PERMISSION))


def setup(request: HttpRequest) -> HttpResponse:
    if not may_see(request):
        raise PermissionDenied
    if request.method not in ("GET", "HEAD", "POST"):
        return HttpResponseNotAllowed(("GET", "HEAD", "POST"))
    asked = request.method == "POST"
    report = doctor.examine(configuration=settings.CONFIGURATION, offline=not asked)
    if asked:
        with Trail.of(request).change(ACTION, after=report.summary):
            pass  # it changed nothing; who asked AWS, and what was found, is kept
    request.current_app = admin.site.name
    return TemplateResponse(
        request,
        "registry_admin/setup.html",
        {
            **admin.site.each_context(request),
            "title": "Set-up",
            "report": report,
            "asked": asked,
            "parts": _parts(report),
            "last": None if asked else AuditEntry.objects.filter(action=ACTION).first(),
            "policy": doctor.operator_policy(settings.CONFIGURATION),
            "alarm": {Level.FAIL: "bad", Level.WARN: "warn"}.get(report.worst, "ok"),
        },
    )


def _parts(report: Report) -> list[dict[str, Any]]:
    return [
        {"name": name, "lines": [{"badge": BADGES[line.level], "line": line} for line in lines]}
        for name, lines in groupby(report.lines, key=lambda line: line.part)
    ]
