"""`python -m tests.support.commands JSON`: runs several commands of the command line, one after the other.

JSON: {command: arguments}. Prints {command: [status, what it wrote to standard error]}. Each runs as `manage.py` runs
it, in one process, because a start takes longer than most commands.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any

from registry_admin import command_line


def run(name: str, arguments: list[str]) -> tuple[int, str]:
    sys.argv = ["manage.py", name, *arguments]
    complaints = io.StringIO()
    status: Any = 0
    with contextlib.redirect_stderr(complaints), contextlib.redirect_stdout(io.StringIO()):
        try:
            command_line.main()
        except SystemExit as ended:
            status = ended.code
    # The interpreter prints a text, and ends with status 1.
    return (1, status) if isinstance(status, str) else (status or 0, complaints.getvalue())


if __name__ == "__main__":
    found = {name: run(name, arguments) for name, arguments in json.loads(sys.argv[1]).items()}
    sys.stdout.write(json.dumps(found))
