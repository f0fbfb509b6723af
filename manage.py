#!/usr/bin/env python
"""Django's command line for Registry Admin: `python manage.py help`."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "registry_admin.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line
    from django.db import DatabaseError, InterfaceError

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:  # a setting without which Django cannot start; the sentence says which
        if "--traceback" in sys.argv:
            raise
        sys.exit(str(error))
    except (DatabaseError, InterfaceError) as error:
        from deployments.database import outage

        found = outage(error)
        if found is None or "--traceback" in sys.argv:
            raise
        sys.exit(found.sentence)
    except BrokenPipeError:  # as of `manage.py keys list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter's own flush fails too
        sys.exit(1)
