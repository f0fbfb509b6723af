"""The URLs: the API, the admin, the links that the CLI prints, and the health endpoints."""

from django.contrib import admin
from django.urls import path, re_path

from deployments import metrics, views
from deployments.api import api

handler400 = "deployments.views.bad_request"
handler403 = "deployments.views.permission_denied"
handler404 = "deployments.views.page_not_found"
handler500 = "deployments.views.server_error"

urlpatterns = [
    path("healthz", views.healthz, name="healthz"),
    path("readyz", views.readyz, name="readyz"),
    path("metrics", metrics.metrics, name="metrics"),
    path("status.json", metrics.status, name="status"),
    path("api/docs", views.api_docs, name="api-docs"),
    path("api/", api.urls),
    re_path(r"^api(?:/.*)?$", views.nothing_here),
    path("admin/", admin.site.urls),
    path("projects/v3/<str:ref>", views.project, name="project"),
    path("projects/v3/<str:ref>/deployments/<str:short_code>", views.deployment, name="deployment"),
    path("projects/v3/<str:ref>/test", views.deployments, name="deployments"),
    path("account/tokens", views.tokens, name="tokens"),
    path("account/login/<str:handle>", views.login_approve, name="login-approve"),
    path("", views.home, name="home"),
]
