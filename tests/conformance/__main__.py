"""`make conformance`: the probes against a sandbox, with all that they can do."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence

from conformance.__main__ import main
from sandbox.control import OWNER_ACCOUNT, Sandbox


def rehearse(given: Sequence[str], sandbox: Sandbox) -> int:
    """Run the command line against a sandbox, whose clock moves where a probe waits. Returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        always = ["--live", OWNER_ACCOUNT, "--endpoint", sandbox.url, "--journals", folder, "--yes"]
        return main([*always, *given], wait=sandbox.advance)


if __name__ == "__main__":
    with Sandbox.start() as started:
        os.environ.update(started.environment("owner"))
        sys.exit(rehearse(["--slow", "--registry-wide", *sys.argv[1:]], started))
