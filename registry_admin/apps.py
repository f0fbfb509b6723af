"""The pages of the admin: those of `deployments.admin`, and Django's for users and groups.

They are loaded with the URLs, or with the first use of `admin.site`, and not by `django.setup()`: a worker and most
commands show no page, and with the pages they would take twice the memory (D-loads-what-it-needs).

No autodiscovery, because an installed app could add its own pages. The pages of django-q2 would let people run any
code: a schedule names the function to call, and the permission to view a task is enough to run the task again.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from django.apps import AppConfig
from django.contrib.admin.apps import SimpleAdminConfig
from django.contrib.admin.checks import check_admin_app
from django.contrib.admin.sites import AdminSite
from django.core import checks


class RegistryAdminConfig(SimpleAdminConfig):
    default_site = "registry_admin.apps.site"

    def ready(self) -> None:
        super().ready()
        checks.register(check_pages, checks.Tags.admin)


def site() -> AdminSite:
    """The admin's only site, with its pages. Django calls it once, at the first use of `admin.site`."""
    found: AdminSite = import_module("deployments.admin.site").SITE
    return found


def check_pages(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Django's own checks of the pages. They look only at pages that are loaded, so this loads them first."""
    site()
    return list(check_admin_app(app_configs))
