"""Pages that are neither API nor console: health, the URLs that the CLI prints, and error pages.

Below `/api/` every error is JSON with one sentence (`deployments.api.middleware`), because the CLI shows that sentence
verbatim and cannot show an HTML page. Everywhere else an error is a page with the request's id; a person who may use
the console gets it with the navigation.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import AbstractBaseUser
from django.contrib.auth.views import redirect_to_login
from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import add_never_cache_headers
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_safe

from deployments import database, measure, schema
from deployments.access import cli_login
from deployments.access.audit import Actor, Trail
from deployments.errors import NotFound, Refusal, RegistryError, refusal
from deployments.log import bind, get_logger
from deployments.models import SLUG_ALIASES, Deployment, Environment, Project
from deployments.reconcile import generation

log = get_logger(__name__)

# ---- Health: for probes, which read only the status code.


def healthz(request: HttpRequest) -> HttpResponse:
    """Liveness: 200. It does not use the database, so that a database outage does not restart the web process."""
    return JsonResponse({"ok": True}, headers={"Cache-Control": "no-store"})


def readyz(request: HttpRequest) -> HttpResponse:
    """Readiness: the database answers and has this version's tables, and this process can read the configuration that
    counts.

    The body has the beginning of two digests: the configuration that this process was started with, and the
    configuration that counts. They may differ: the process is ready if it can act on the configuration that counts. The
    reason is short and has no details, because anyone may call this.
    """
    reason, held = _not_ready(), {}
    if reason is None:
        try:
            held = generation.held_and_counting()
            generation.in_force(settings.CONFIGURATION)
        except RegistryError as error:
            reason = str(error)
        except Error:
            connection.close()
            reason = "The database does not answer."
    body = {"ready": reason is None} | ({"reason": reason} if reason else {}) | held
    return JsonResponse(body, status=503 if reason else 200, headers={"Cache-Control": "no-store"})


_migrated = False  # once the schema was complete, it is not checked again: this process's code does not change


def _not_ready() -> str | None:
    global _migrated
    try:
        if not _migrated:
            executor = MigrationExecutor(connection)
            if executor.migration_plan(executor.loader.graph.leaf_nodes()):
                return "Migrations are missing."
            if complaint := schema.complaint():
                return f"{complaint} {schema.NEXT_STEP}"
            _migrated = True
        else:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
    except Error:
        connection.close()
        return "The database does not answer."
    return None


# ---- The URLs that the CLI prints. Without a session the answer is the sign-in page, also for objects that do not
# exist.


def _sign_in(request: HttpRequest) -> HttpResponse | None:
    user = request.user
    if user.is_active and user.is_staff:
        bind(actor=Actor.of_request(request).name)
        return None
    return redirect_to_login(request.get_full_path(), reverse("admin:login"))


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """`/`: to the console."""
    return HttpResponseRedirect(reverse("admin:index"))


@require_safe
def tokens(request: HttpRequest) -> HttpResponse:
    """`{apiUrl}/account/tokens`: the CLI prints it in CI when it has no token."""
    return _sign_in(request) or HttpResponseRedirect(reverse("admin:deployments_accesskey_changelist"))


@require_safe
def project(request: HttpRequest, ref: str) -> HttpResponse:
    """`{dashboardUrl}/projects/v3/{ref}`: the project's page."""
    if answer := _sign_in(request):
        return answer
    return HttpResponseRedirect(reverse("admin:deployments_project_change", args=[_project(ref).pk]))


@require_safe
def deployment(request: HttpRequest, ref: str, short_code: str) -> HttpResponse:
    """`{dashboardUrl}/projects/v3/{ref}/deployments/{shortCode}`: the CLI prints it at the end of every deploy."""
    if answer := _sign_in(request):
        return answer
    pk = Deployment.objects.filter(project__ref=ref, short_code=short_code).values_list("pk", flat=True).first()
    if pk is None:
        raise Http404
    return HttpResponseRedirect(reverse("admin:deployments_deployment_change", args=[pk]))


@require_safe
def deployments(request: HttpRequest, ref: str) -> HttpResponse:
    """`{dashboardUrl}/projects/v3/{ref}/test?environment=prod|stg|preview[&branch=]`: the environment's deployments."""
    if answer := _sign_in(request):
        return answer
    found = _project(ref)
    wanted = {"project__id__exact": found.pk}
    slug = request.GET.get("environment", "")
    environment = Environment.objects.filter(
        project=found, slug=SLUG_ALIASES.get(slug, slug), branch=request.GET.get("branch", "")
    ).first()
    if environment is not None:
        wanted["environment__id__exact"] = environment.pk
    return HttpResponseRedirect(f"{reverse('admin:deployments_deployment_changelist')}?{urlencode(wanted)}")


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def login_approve(request: HttpRequest, handle: str) -> HttpResponse:
    """The page that `trigger.dev login` opens: GET shows which client asks, POST approves or declines.

    The approval makes a personal access token, so it needs the permission to add access keys.
    """
    if answer := _sign_in(request):
        return answer
    found = cli_login.find(handle=handle)
    context: dict[str, Any] = {"title": "Log a CLI in", "asking": found}
    if found is None or not found.is_waiting:
        context["gone"] = True
    elif not request.user.has_perm("deployments.add_accesskey"):
        context["not_allowed"] = True
    elif request.method == "POST":
        return _decide(request, found, context)
    else:
        context["elsewhere"] = found.address != request.META.get("REMOTE_ADDR", "")
    status = 403 if context.get("not_allowed") else 404 if context.get("gone") else 200
    return _login_page(request, context, status=status)


def _decide(request: HttpRequest, asking: cli_login.PendingLogin, context: dict[str, Any]) -> HttpResponse:
    user = request.user
    assert isinstance(user, AbstractBaseUser)  # _sign_in has turned away requests without a session  # noqa: S101
    trail, seen = Trail.of(request), {"client": asking.client, "from": asking.address}
    if "approve" not in request.POST:
        with trail.change("decline.login", asking.login, after=seen) as line:
            if not cli_login.decline(login=asking.login):
                line.nothing_changed()
        return _login_page(request, context | {"declined": True})
    try:
        with trail.change("approve.login", asking.login, after=seen):
            code = cli_login.approve(login=asking.login, user=user)
    except NotFound:
        return _login_page(request, context | {"gone": True}, status=404)
    port = asking.login.callback_port
    back = f"http://127.0.0.1:{port}/callback?{urlencode({'approval_code': code})}" if code and port else ""
    response = _login_page(request, context | {"approved": True, "code": "" if back else code, "back": back})
    if back:
        response["Refresh"] = f"0;url={back}"
    return response


def _login_page(request: HttpRequest, context: dict[str, Any], *, status: int = 200) -> HttpResponse:
    page = {**admin.site.each_context(request), **context}
    return render(request, "registry_admin/login_approve.html", page, status=status)


def _project(ref: str) -> Project:
    found = Project.objects.filter(ref=ref).first()
    if found is None:
        raise Http404
    return found


# ---- Errors and the API's own pages.


@csrf_exempt
def nothing_here(request: HttpRequest) -> HttpResponse:
    """404 for every path below `/api/` without a route, so that Django does not redirect to the path with a slash."""
    return JsonResponse({"error": "There is nothing at this address."}, status=404)


@require_safe
def api_docs(request: HttpRequest) -> HttpResponse:
    """The page that shows the API's schema."""
    return render(request, "api/docs.html")


def _page(request: HttpRequest, status: int, *, template: str = "", **more: Any) -> HttpResponse:
    context = {"request_id": request.META.get("REQUEST_ID", ""), **more}
    try:
        return render(request, template or f"{status}.html", context, status=status)
    except Exception:  # the error page must not fail because the session or the database is broken
        return HttpResponse(
            f"Error {status}. Request {context['request_id']}", status=status, content_type="text/plain"
        )


def _page_with_navigation(request: HttpRequest, status: int, *, template: str = "") -> HttpResponse:
    """The error page inside the console, for a person who may use it; else the plain page.

    The navigation makes queries: if one fails, for example because the database is away, the page is plain too.
    """
    try:
        shell = {} if request.path_info.startswith("/api/") else admin.site.each_context(request)
        if shell.get("has_permission"):
            context = {
                **shell, "title": f"Error {status}", "page": "registry_admin/error.html",
                "request_id": request.META.get("REQUEST_ID", ""),
            }  # fmt: skip
            response = render(request, template or f"{status}.html", context, status=status)
            add_never_cache_headers(response)
            return response
    except Exception:
        log.debug("error_page.plain", status=status, exc_info=True)
    return _page(request, status, template=template)


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Django's handler400. The line of the request gets the reason, such as a Host header that ALLOWED_HOSTS lacks."""
    _bind_reason(exception)
    return _page(request, 400)


def permission_denied(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Django's handler403."""
    _bind_reason(exception)
    return _page_with_navigation(request, 403)


def csrf_failed(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Django's CSRF_FAILURE_VIEW: a form without the token of its session. Below `/api/` no request needs one."""
    bind(reason=reason)
    return _page_with_navigation(request, 403, template="403_csrf.html")


def log_in_throttled(
    request: HttpRequest, response: HttpResponse | None = None, credentials: Any = None
) -> HttpResponse:
    """Django-axes' AXES_LOCKOUT_CALLABLE: the page of a log-in that has failed too often."""
    wait: timedelta = settings.AXES_COOLOFF_TIME
    refused = refusal("log_in_throttled", minutes=wait // timedelta(minutes=1))
    return _log_in_refused(request, refused, status=429, retry_after=int(wait.total_seconds()))


def log_ins_busy(request: HttpRequest, refused: Refusal) -> HttpResponse:
    """The page of a log-in, or of a change of a password, for which no hash could be calculated in time."""
    measure.log_in("busy")
    return _log_in_refused(request, refused, status=503, retry_after=5)


def _log_in_refused(request: HttpRequest, refused: Refusal, *, status: int, retry_after: int) -> HttpResponse:
    context = {**admin.site.each_context(request), "title": "Log in", "sentence": refused.sentence}
    response = render(request, "registry_admin/log_in_refused.html", context, status=status)
    response["Retry-After"] = str(retry_after)
    response["Cache-Control"] = "no-store"
    return response


def _bind_reason(exception: Exception | None) -> None:
    if exception is not None and str(exception):
        bind(reason=str(exception))


def page_not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Django's handler404."""
    return _page_with_navigation(request, 404)


def refused(request: HttpRequest, status: int, sentence: str) -> HttpResponse:
    """The page for a request that is refused before any view has it, for example because its body is too large."""
    return _page(request, status, template="refused.html", sentence=sentence)


def server_error(request: HttpRequest, *args: Any) -> HttpResponse:
    """Django's handler500: status 503 with its sentence during a database outage, else 500."""
    error = sys.exc_info()[1]  # Django calls this while it handles the error
    outage = database.outage(error) if error is not None else None
    return database_away(request, outage) if outage is not None else _page_with_navigation(request, 500)


def database_away(request: HttpRequest, outage: Refusal) -> HttpResponse:
    """The page for a database that does not answer, with Retry-After."""
    response = _page(request, 503, sentence=outage.sentence)
    response["Retry-After"] = "5"
    return response
