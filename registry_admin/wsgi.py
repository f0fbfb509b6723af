"""The web process. gunicorn runs no system checks, so this does: a wrong configuration stops the start here too."""

import os
import sys

from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.core.wsgi import get_wsgi_application
from django.db import Error

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "registry_admin.settings")
application = get_wsgi_application()

from django.conf import settings  # noqa: E402
from django.db import connections  # noqa: E402

from deployments.models import ProcessRole  # noqa: E402  (needs the loaded apps)
from deployments.reconcile import generation, ownership  # noqa: E402

try:
    call_command("check")
    generation.register(settings.CONFIGURATION, role=ProcessRole.WEB)
    ownership.fill()
    connections.close_all()  # the server may fork next
except SystemCheckError as error:
    sys.exit(str(error))
except Error as error:
    sys.exit(f"The database is not ready ({type(error).__name__}). Is it up, and was python manage.py migrate run?")
