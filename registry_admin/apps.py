"""Which admin pages there are: ours, and Django's for users and groups.

Simple on purpose: no autodiscovery. Every installed app could bring pages of its own, and the queue's are a way to
run arbitrary code (a schedule names the function to call, and view rights are enough to run a task again).
"""

from importlib import import_module

from django.contrib.admin.apps import SimpleAdminConfig


class RegistryAdminConfig(SimpleAdminConfig):
    default_site = "deployments.admin.site.RegistryAdmin"

    def ready(self) -> None:
        super().ready()
        import_module("deployments.admin")
