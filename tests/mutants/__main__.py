"""Apply each mutant to a copy of the project and run its tests: `make mutants`, some: ARGS=deployments/access/vault.py.

Fails when a mutant survives (its tests pass), does not fit the code any more, breaks more than its tests (they cannot
be collected), exceeds its time, or was not tried within the total time. The working tree is only read.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.mutants.entries import MUTANTS
from tests.mutants.mutant import Mutant, Stale

ROOT = Path(__file__).resolve().parent.parent.parent
NOT_COPIED = (".git", ".venv", ".cache", ".demo", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis",
              "__pycache__", "node_modules", "db.sqlite3*", "secret_key*", "state", ".env", "screens")  # fmt: skip
PASSED, FAILED, COULD_NOT_RUN = 0, 1, -1  # pytest's exit codes, and our own for a fixture that broke


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("parts", nargs="*", help="only mutants of these files (or with this text in their function)")
    parser.add_argument("--minutes", type=float, default=40, help="total time (default: 40)")
    parser.add_argument("--seconds", type=float, default=120, help="time for one mutant (default: 120)")
    parser.add_argument("--jobs", type=int, choices=(1, 2), default=2, help="mutants at once (default: 2)")
    given = parser.parse_args()
    chosen = [
        mutant
        for mutant in MUTANTS
        if not given.parts or any(part in (mutant.module, mutant.function) for part in given.parts)
    ]
    if not chosen:
        parser.error(f"no mutant is in {', '.join(given.parts)}")
    until = time.monotonic() + given.minutes * 60
    with tempfile.TemporaryDirectory(prefix="registry-admin-mutants-") as directory:
        copies = [Path(directory) / str(number) for number in range(given.jobs)]
        for copy in copies:
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
        print(f"{len(chosen)} mutants. First their tests without any change …", flush=True)
        if wrong := _baseline(chosen, copies[0], until):
            print(wrong)
            return 1
        bad = list(_try_all(chosen, copies, until, given.seconds))
    print(f"{len(chosen) - len(bad)} of {len(chosen)} mutants were noticed.")
    return 1 if bad else 0


def _baseline(mutants: Iterable[Mutant], copy: Path, until: float) -> str:
    """What is wrong with the tests themselves: a test that fails without a mutant proves nothing."""
    for postgresql in (False, True):
        tests = dict.fromkeys(test for each in mutants if each.postgresql is postgresql for test in each.tests)
        if tests and (code := _run(tests, copy, postgresql=postgresql, seconds=until - time.monotonic())) != PASSED:
            return f"The tests do not pass without a change ({_in_words(code)}): run them by themselves first."
    return ""


def _try_all(mutants: Iterable[Mutant], copies: list[Path], until: float, seconds: float) -> Iterator[str]:
    """Try the mutants, one at a time in each copy; print each result, yield the bad ones."""
    waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    results: queue.SimpleQueue[tuple[Mutant, str, float] | None] = queue.SimpleQueue()
    for mutant in mutants:
        waiting.put(mutant)

    def work(copy: Path) -> None:
        while True:
            try:
                mutant = waiting.get_nowait()
            except queue.Empty:
                break
            started = time.monotonic()
            left = min(seconds, until - started)
            said = _try(mutant, copy, left) if left > 0 else "not tried: the total time is over"
            results.put((mutant, said, time.monotonic() - started))
        results.put(None)

    for copy in copies:
        threading.Thread(target=work, args=(copy,), daemon=True).start()
    ended = 0
    while ended < len(copies):
        result = results.get()
        if result is None:
            ended += 1
            continue
        mutant, said, took = result
        print(f"{'ok' if not said else '!!'} {took:5.1f} s  {mutant}{'  ' + said if said else ''}", flush=True)
        if said:
            yield said


def _try(mutant: Mutant, copy: Path, seconds: float) -> str:
    """Why this mutant counts as survived; empty if a test failed."""
    file = copy / mutant.module
    text = file.read_text(encoding="utf-8")
    try:
        changed = mutant.applied(text)
    except Stale as stale:
        return str(stale)
    file.write_text(changed, encoding="utf-8")
    try:
        code = _run(mutant.tests, copy, postgresql=mutant.postgresql, seconds=seconds)
    finally:
        file.write_text(text, encoding="utf-8")
    if code == FAILED:
        return ""
    return "SURVIVED" if code == PASSED else f"not decided ({_in_words(code)})"


def _run(tests: Iterable[str], copy: Path, *, postgresql: bool, seconds: float) -> int | None:
    """pytest's exit code, or COULD_NOT_RUN; None if it took too long."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "TEST_DATABASE": "postgresql" if postgresql else ""}
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider",
         *(f"tests/{test}" for test in tests)],
        cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        start_new_session=True, text=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=max(1.0, seconds))
        last = said.rstrip().rpartition("\n")[2]
        return COULD_NOT_RUN if process.returncode == FAILED and " failed" not in last else process.returncode
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            process.terminate()  # pytest's own clean-up ends the servers that it started
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _in_words(code: int | None) -> str:
    return "out of time" if code is None else f"pytest ended with {code}"


if __name__ == "__main__":
    sys.exit(main())
