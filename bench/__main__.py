"""`make bench`: measures the goals of docs/performance.md, and prints them as a table.

    python -m bench [PART …] [--json FILE] [--write]

Without a part: each part of DEFAULT, in less than ten minutes. Each part runs in a process of its own and is ended
after its time. The table goes to standard output, and to FILE as JSON (.cache/bench.json). `--write` also puts the
tables of the parts into docs/performance.md. Ends with 1 if a part failed; a missed goal is no failure.

A part is a module of this folder with `measure() -> list[Row]`; it may print its progress to standard error.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench import report

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "performance.md"
#: Part → seconds after which it is ended. The parts of DEFAULT have ten minutes together.
PARTS = {"deploys": 330, "console": 150, "policies": 90, "sweeps": 480, "reads": 1200}
DEFAULT = ("deploys", "console", "policies")


def run(part: str) -> tuple[list[report.Row], float]:
    """(the rows of a part, its seconds). Raises RuntimeError if it failed or was ended."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "--measure", part],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=PARTS[part])
    except BaseException as error:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
        if isinstance(error, subprocess.TimeoutExpired):
            raise RuntimeError(f"{part} was ended after {PARTS[part]} seconds.") from None
        raise
    if process.returncode:
        raise RuntimeError(f"{part} ended with status {process.returncode}.")
    return report.from_json(json.loads(output)), time.monotonic() - started


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the goals of docs/performance.md.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--json", type=Path, default=ROOT / ".cache" / "bench.json")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    parser.add_argument("--measure", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers end too
        print(json.dumps(report.as_json(importlib.import_module(f"bench.{given.measure}").measure())))
        return 0
    if unknown := [part for part in given.parts if part not in PARTS]:
        parser.error(f"There is no part {unknown[0]}; there are {', '.join(PARTS)}.")
    found, failed = {}, False
    for part in given.parts or DEFAULT:
        try:
            rows, seconds = run(part)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            failed = True
            continue
        found[part] = report.as_json(rows)
        print(f"\n{part}, {seconds:.0f} s on {machine()}\n\n{report.as_text(rows)}", flush=True)
        if given.write:
            write(part, f"{time.strftime('%Y-%m-%d')}, on {machine()}:\n\n{report.as_markdown(rows)}")
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps({"machine": machine(), "parts": found}, indent=1) + "\n")
    return int(failed)


def machine() -> str:
    """The machine and its load, in words: a figure in seconds means nothing without it."""
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"


def write(part: str, text: str) -> None:
    """Replace the part's table in docs/performance.md, which stands between two comments."""
    begin, end = f"<!-- table of {part} -->", f"<!-- end of {part} -->"
    before, found, rest = DOCUMENT.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"docs/performance.md has no place for {part}: {begin} … {end}")
    DOCUMENT.write_text(f"{before}{begin}\n{text}\n{end}{after}")


if __name__ == "__main__":
    sys.exit(main())
