"""The app's entry in Django's registry: it loads the system checks and does nothing else."""

from django.apps import AppConfig


class DeploymentsConfig(AppConfig):
    name = "deployments"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from deployments import checks  # noqa: F401  (registers itself)
