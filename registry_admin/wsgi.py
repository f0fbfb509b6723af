"""The web process. gunicorn runs no system checks, so this does: a wrong configuration stops the start here too."""

import os

from django.core.management import call_command
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "registry_admin.settings")
application = get_wsgi_application()
call_command("check")

from deployments.provisioning import register_desired_state  # noqa: E402  (needs the loaded apps)

register_desired_state()
