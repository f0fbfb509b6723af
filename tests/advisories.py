"""`make audit`: does a published advisory name a package that a requirements file pins? (`python -m tests.advisories`)

`uv audit` asks OSV, the database that also holds the advisories of GitHub and of the Python Packaging Authority, about
every pinned package in one request. Status 0: OSV was asked and knows of no advisory, or neither OSV nor the package
index answered, and the printed line says that the audit was skipped. Status 1: an advisory names a package, or the
audit itself does not work. Why not pip-audit: D-dependencies.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = Path(sysconfig.get_path("scripts")) / "uv"
FOUND = 1
#: What uv writes where the network is closed, a proxy refuses the request, or the service is down.
UNREACHABLE = re.compile(
    r"error sending request|Request failed|Failed to fetch|HTTP status|offline mode", re.IGNORECASE
)


def pinned(requirements: Path) -> list[str]:
    """Each requirement of the file without its hashes: `name==version`, with a marker where it has one."""
    lines = requirements.read_text().splitlines()
    return [line.removesuffix("\\").rstrip() for line in lines if re.match(r"[\w]", line)]


def audit(requirements: Path, *arguments: str, seconds: float = 90) -> int:
    """The exit status for the packages of this file; the arguments are uv's. It takes at most so many seconds."""
    packages = pinned(requirements)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "audited.py"
        dependencies = "".join(f'#     "{package}",\n' for package in packages)
        script.write_text(f'# /// script\n# requires-python = ">=3.11"\n# dependencies = [\n{dependencies}# ]\n# ///\n')
        command = [str(UV), "audit", "--preview-features", "audit-command", "--script", str(script), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            print(f"advisory audit skipped: the advisory service cannot be reached within {seconds:g} seconds")
            return 0
    if done.returncode == 0:
        print(f"advisory audit: no known advisory names one of the {len(packages)} pinned packages")
        return 0
    if done.returncode == FOUND and "error:" not in done.stderr:
        print(done.stdout + done.stderr)
        print(
            "advisory audit: a published advisory names a pinned package. Raise its pin in requirements*.in to a "
            "version without the advisory and run `make requirements`; a package that stands only in "
            "requirements*.txt: make requirements ARGS='--upgrade-package NAME'."
        )
        return 1
    if UNREACHABLE.search(done.stderr):
        reason = done.stderr.strip().splitlines()[-1].removeprefix("  cause: ")
        print(f"advisory audit skipped: the advisory service or the package index cannot be reached ({reason})")
        return 0
    print(done.stdout + done.stderr)
    print("advisory audit: uv could not audit the requirements, for the reason above.")
    return 1


if __name__ == "__main__":
    raise SystemExit(audit(ROOT / "requirements-dev.txt", *sys.argv[1:]))
