"""Addresses: the API, the admin, the links that the CLI prints, and the health endpoints."""

from django.contrib import admin
from django.urls import path

from deployments.api import api

urlpatterns = [
    path("api/", api.urls),
    path("admin/", admin.site.urls),
]
