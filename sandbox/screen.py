"""The output of `make demo` and `make dev`: numbered steps with dots, paths, and the reason for a failure."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from sandbox.keeper import ROOT, Failure, Interrupted

BOLD, DIM, RED, GREEN = 1, 2, 31, 32

Note = Callable[[str], None]


class Screen:
    """Prints numbered steps, with a dot for each second of a step, to show that the step is running."""

    def __init__(self) -> None:
        self._number = 0
        self._colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def paint(self, text: str, colour: int) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours else text

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Note]:
        """A step with a title. The notes of its body are printed below the title at the end of the step."""
        self._number += 1
        print(f"\n{self._number:>2}. {self.paint(title, BOLD)} ", end="", flush=True)
        notes: list[str] = []
        started, done = time.monotonic(), threading.Event()
        ticker = threading.Thread(target=self._tick, args=(done,), daemon=True)
        ticker.start()
        try:
            yield notes.append
        finally:
            done.set()
            ticker.join()
            print(self.paint(f"({time.monotonic() - started:.1f} s)", DIM))
            print("".join(f"    {note}\n" for note in notes), end="", flush=True)

    def _tick(self, done: threading.Event) -> None:
        while not done.wait(1.0):
            with contextlib.suppress(OSError):
                print(".", end="", flush=True)


def shown(path: Path) -> str:
    """The path relative to the repository's folder."""
    return shlex.quote(str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path))


def last_words(*lines: str) -> None:
    try:
        print(*lines, sep="\n", flush=True)
    except OSError:  # the terminal or the reader of the pipe has gone; Python must not fail on it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def explain(screen: Screen, directory: Path, what: str, failure: Failure) -> None:
    lines = [f"\n{screen.paint(f'The {what} failed.', RED)} {failure}"]
    if failure.log and failure.log.exists():
        lines += [f"    | {line}" for line in failure.log.read_text().splitlines()[-8:]]
    last_words(*lines, f"More in {shown(failure.log or directory)}")


def run(screen: Screen, directory: Path, what: str, perform: Callable[[], None]) -> int:
    """Run `perform` and return its exit status. Explains a Failure; writes an unexpected traceback into `directory`."""
    try:
        perform()
    except Interrupted:
        last_words("\nInterrupted.")
        return 130
    except Failure as failure:
        explain(screen, directory, what, failure)
        return 1
    except Exception as error:
        log = directory / f"{what}.log"
        log.write_text(traceback.format_exc())
        explain(screen, directory, what, Failure(f"{type(error).__name__}: {error}", log))
        return 1
    return 0
