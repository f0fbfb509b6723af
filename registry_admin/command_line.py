"""The command `registry-admin`, which is `manage.py` in a checkout: Django's commands and ours.

A command that cannot do its work ends with a sentence on standard error and status 1, or 130 after Ctrl-C. A traceback
means a bug of this program, or `--traceback`.
"""

import os
import sys

from registry_admin import malloc, versions


def main() -> None:
    """Run the command that `sys.argv` names."""
    try:
        try:
            _run()
        finally:
            sys.stdout.flush()  # here, where a reader that has gone is noticed
    except BrokenPipeError:  # as of `registry-admin keys list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter's own flush fails too
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell reports a process that SIGINT ended
    except EOFError:
        if "--traceback" in sys.argv:
            raise
        sys.exit("The input ended before the command had what it asks for.")


def _run() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "registry_admin.settings")
    if sys.argv[1:2] in (["version"], ["--version"]):  # else Django prints its own version; it needs no settings
        sys.stdout.write("registry-admin {version} (Python {python}, Django {django})\n".format(**versions()))
        return
    malloc.give_back()
    malloc.share()
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
        from deployments.database import explained

        says = explained(error)
        if says is None or "--traceback" in sys.argv:
            raise
        sys.exit(says)
