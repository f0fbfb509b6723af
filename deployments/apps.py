"""The app's entry in Django's registry: it loads the system checks, and has groups made after `migrate`."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class DeploymentsConfig(AppConfig):
    name = "deployments"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from deployments.access import groups

        # Of the one sender, so that it runs once for each migrate.
        post_migrate.connect(groups.ensure_groups, sender=self, dispatch_uid="registry-admin-people")
