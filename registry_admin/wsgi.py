"""The web process. gunicorn runs no system checks, so this file runs them: an invalid configuration stops the start."""

import os
import sys
from io import StringIO

from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.core.wsgi import get_wsgi_application
from django.db import Error

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "registry_admin.settings")
try:
    application = get_wsgi_application()
except ImproperlyConfigured as error:  # a setting without which Django cannot start; the sentence says which
    sys.exit(str(error))

from django.conf import settings
from django.db import connections

from deployments.access.key_strength import refuse_weak_keys
from deployments.access.vault import Vault
from deployments.database import explained
from deployments.log import get_logger
from deployments.models import ProcessRole
from deployments.notify import channels
from deployments.outage import words
from deployments.reconcile import generation, ownership

try:
    call_command("check", stdout=StringIO(), stderr=StringIO())  # raises for errors; the log gets the warnings
    for message in run_checks():
        if not message.is_silenced():
            get_logger(__name__).warning("configuration.check", id=message.id, says=message.msg, hint=message.hint)
    refuse_weak_keys(settings)
    generation.register(settings.CONFIGURATION, role=ProcessRole.WEB)
    ownership.fill()
    channels.encrypt_addresses(vault=Vault(settings.ENCRYPTION_KEYS))
    connections.close_all()  # gunicorn may fork next
except SystemCheckError as error:
    sys.exit(str(error))
except Error as error:
    sys.exit(explained(error) or f"The database is not ready: {words(error)}")
