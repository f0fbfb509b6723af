"""The app in Django's registry.

It registers the system checks, creates the permission groups after `migrate`, and records log-ins.
"""

from django.apps import AppConfig
from django.contrib.auth import signals
from django.db.models.signals import post_migrate


class DeploymentsConfig(AppConfig):
    """The only app of this program."""

    name = "deployments"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from deployments import checks  # noqa: F401  (the checks register themselves)
        from deployments.access import groups, sessions

        # `sender=self`: without it the groups would be made once for every installed app.
        post_migrate.connect(groups.ensure_groups, sender=self, dispatch_uid="registry-admin-people")
        signals.user_logged_in.connect(sessions.logged_in, dispatch_uid="registry-admin-log-in")
        signals.user_logged_out.connect(sessions.logged_out, dispatch_uid="registry-admin-log-out")
        signals.user_login_failed.connect(sessions.log_in_failed, dispatch_uid="registry-admin-log-in-failed")
