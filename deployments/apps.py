"""The app in Django's registry. It registers the system checks, and creates the permission groups after `migrate`."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class DeploymentsConfig(AppConfig):
    """The only app of this program."""

    name = "deployments"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from deployments import checks  # noqa: F401  (the checks register themselves)
        from deployments.access import groups

        # `sender=self`: without it the groups would be made once for every installed app.
        post_migrate.connect(groups.ensure_groups, sender=self, dispatch_uid="registry-admin-people")
