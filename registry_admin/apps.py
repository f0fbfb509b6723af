"""The pages of the admin: those of `deployments.admin`, and Django's for users and groups.

No autodiscovery, because an installed app could add its own pages. The pages of django-q2 would let people run any
code: a schedule names the function to call, and the permission to view a task is enough to run the task again.
"""

from importlib import import_module

from django.contrib.admin.apps import SimpleAdminConfig


class RegistryAdminConfig(SimpleAdminConfig):
    default_site = "deployments.admin.site.RegistryAdmin"

    def ready(self) -> None:
        """Register the pages of `deployments.admin`."""
        super().ready()
        import_module("deployments.admin")
