"""The admin site: its name, the navigation with its counters, and the dashboard as first page.

It has only pages that we registered ourselves: see `registry_admin.apps`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import admin
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache

from deployments.access import sessions
from deployments.access.audit import Actor, Trail
from deployments.access.single_sign_on import is_on, passwords_are_off
from deployments.admin import dashboard, forgotten, live, second_factor, single_sign_on, why
from deployments.admin.display import PLURALS
from deployments.admin.log_in import LogIn
from deployments.admin.pages import may
from deployments.errors import refusal
from deployments.log import bind
from deployments.models import Deployment, Repository
from registry_admin import VERSION

#: Section → the models below it, in this order.
SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Registry", ("Deployment", "Repository", "PolicyVersion", "Sweep", "Project", "Environment")),
    ("Access", ("AccessKey", "TrustPolicy", "User", "Group")),
    ("Installation", ("AuditEntry", "NotificationChannel")),
)
#: Reached from the pages of the other model; an entry of the navigation only for people who may not see those.
REACHED_FROM = {"NotificationDelivery": "NotificationChannel"}


class RegistryAdmin(admin.AdminSite):
    site_header = site_title = "Registry Admin"
    index_title = "Dashboard"
    empty_value_display = "–"
    password_change_template = "registry_admin/password_change.html"  # noqa: S105  (a template)
    site_url = None
    # Django's sidebar needs a script and is hidden on a phone; our navigation is in base_site.html.
    enable_nav_sidebar = False

    def has_permission(self, request: HttpRequest) -> bool:
        """Asked first by every page, so here the lines of the request get the person's name."""
        if request.user.is_authenticated:
            bind(actor=Actor.of_request(request).name)
        return super().has_permission(request)

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        apps = self._build_app_dict(request, app_label).values()
        models = {model["object_name"]: model for app in apps for model in app["models"]}
        for inner, outer in REACHED_FROM.items():
            if inner in models and outer in models:
                models[outer]["inner"] = models.pop(inner)["object_name"]
        for name, model in models.items():
            model["name"] = PLURALS.get(name, model["name"])
        sections = [(name, [models.pop(each) for each in names if each in models]) for name, names in SECTIONS]
        if app_label is None and may(request, why.PERMISSION):
            # First, because it answers the question that this program is for.
            place = {"name": "Who can pull", "object_name": "Pulls", "admin_url": reverse("admin:pulls"), "perms": {}}
            sections[0][1].insert(0, place)
            place = {"name": "Why no pull?", "object_name": "Why", "admin_url": reverse("admin:why"), "perms": {}}
            sections[0][1].append(place)
        if app_label is None and request.user.has_perm("deployments.view_setup"):
            place = {"name": "Health", "object_name": "Setup", "admin_url": reverse("admin:setup"), "perms": {}}
            sections[-1][1].append(place)  # no model
        sections.append(("More", list(models.values())))  # so that a model without a section is reachable too
        return [
            {"name": name, "app_label": name.lower(), "app_url": reverse("admin:index"), "models": rows}
            for name, rows in sections
            if rows
        ]

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        context = super().each_context(request)
        context |= {"registry_host": settings.CONFIGURATION.v4.host, "dashboard_path": reverse("admin:index")}
        context |= {"program_version": VERSION, "command_line": settings.COMMAND}
        context["can_mail"] = settings.MAIL_IS_CONFIGURED
        if context["has_permission"]:
            shell = dashboard.shell(request)
            counters = shell.counters
            sees = self.get_model_admin(Deployment).has_view_permission(request)
            running = counters.get("Deployment")
            context["running_deployments"] = running.number if running and sees else 0
            context["no_worker"] = shell.no_worker
            context["health_path"] = reverse("admin:setup" if may(request, "view_setup") else "admin:index")
            for section in context["available_apps"]:
                for model in section["models"]:
                    model["counter"] = counters.get(model["object_name"])
                    if model["object_name"] == "Setup" and not shell.worker_runs:
                        model["note"] = "No worker is running"
        return context

    def get_urls(self) -> list[Any]:
        from deployments.admin.pulls import Pulls  # imported here, because these modules import this one
        from deployments.admin.setup import setup, writes

        pulls = Pulls(Repository, self)
        return [
            path("pulls/", self.admin_view(pulls.page_view), name="pulls"),
            path("pulls/export.<str:kind>", self.admin_view(pulls.export_view), name="pulls_export"),
            *forgotten.URLS,
            *single_sign_on.urls(self),
            *second_factor.urls(self),
            path("why/", self.admin_view(why.page), name="why"),
            path("setup/", self.admin_view(setup), name="setup"),
            path("setup/writes/", self.admin_view(writes), name="writes"),
            *super().get_urls(),
        ]

    @method_decorator(never_cache)
    @method_decorator(login_not_required)
    def login(  # type: ignore[override]
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        index = reverse("admin:index")
        if request.method == "GET" and self.has_permission(request):
            return HttpResponseRedirect(index)
        configuration = settings.CONFIGURATION
        context = {
            **self.each_context(request), "title": "Log in", "app_path": request.get_full_path(),
            "username": request.user.get_username(), "single_sign_on": is_on(configuration) and configuration.sso_name,
            "passwords": not passwords_are_off(configuration),
            "next_query": urlencode({"next": request.GET.get("next", "")}), **(extra_context or {}),
        }  # fmt: skip
        if REDIRECT_FIELD_NAME not in request.GET and REDIRECT_FIELD_NAME not in request.POST:
            context[REDIRECT_FIELD_NAME] = index
        if request.method == "POST" and not context["passwords"]:
            context["sentence"] = refusal("password_log_in_off").sentence
            return TemplateResponse(request, "registry_admin/log_in_refused.html", context, status=403)
        return LogIn.as_view(extra_context=context)(request)

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:  # type: ignore[override]
        page = super().index(
            request,
            {**dashboard.dashboard(self, request), "live": dashboard.shell(request).busy, **(extra_context or {})},
        )
        return live.answer(request, page)

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        user: Any = request.user
        trail = Trail.of(request)
        with trail.change("change.user", user, after={"changed": ["password"]}) as line:
            response = super().password_change(request, extra_context)
            if request.method == "POST" and response.status_code == HTTPStatus.FOUND:
                sessions.end_others(user, trail)
            else:
                line.nothing_changed()
        return response

    def app_index(  # type: ignore[override]
        self, request: HttpRequest, app_label: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseRedirect:
        # Django's page for one app has no use here: it groups by Python package.
        return HttpResponseRedirect(reverse("admin:index"))


SITE = RegistryAdmin()  #: the only one; `admin.site` of Django is this
