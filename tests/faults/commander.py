"""Commands of manage.py, one a line on standard input, in one process: a new one for each takes seconds to start.

Each line is a JSON list, the command and its arguments; each answer is a line of JSON: status, out, err.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from typing import Any


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "registry_admin.settings")
    import django

    django.setup()
    from django.core.management import CommandError, call_command
    from django.db import connections

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a command prints past its own stream goes to the log
    for line in sys.stdin:
        out, err = io.StringIO(), io.StringIO()
        answer: dict[str, Any] = {"status": 0}
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                call_command(*json.loads(line), stdout=out, stderr=err)
        except CommandError as error:
            answer["status"] = error.returncode
            err.write(str(error))
        except SystemExit as error:
            answer["status"] = error.code if isinstance(error.code, int) else int(error.code is not None)
        except Exception as error:
            answer["status"] = 99
            err.write(f"{type(error).__name__}: {error}")
        connections.close_all()
        print(json.dumps(answer | {"out": out.getvalue(), "err": err.getvalue()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
