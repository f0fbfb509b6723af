"""The rows of the table of goals, and the table as text, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure with its reference and its goal. Numbers are medians over the rounds of one run."""

    figure: str
    measured: str  # with its unit
    reference: str  # what the ratio is to, with its unit; empty: none
    ratio: float | None
    goal: str
    met: bool | None  # None: information without a goal
    calls: str = ""  # calls to AWS, for each deploy or in all
    reason: str = ""  # why a missed goal is missed

    @property
    def verdict(self) -> str:
        """In one word: met, missed, or nothing if there is no goal."""
        return "" if self.met is None else "met" if self.met else "MISSED"


def from_json(rows: Iterable[dict[str, Any]]) -> list[Row]:
    """The rows of `as_json`."""
    return [Row(**row) for row in rows]


def as_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows as values for JSON."""
    return [asdict(row) for row in rows]


_HEAD = ("figure", "measured", "reference", "ratio", "goal", "calls", "verdict")


def _cells(row: Row) -> tuple[str, ...]:
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    return (row.figure, row.measured, row.reference, ratio, row.goal, row.calls, row.verdict)


def as_text(rows: list[Row]) -> str:
    """The table for a terminal; below it the reason of each miss."""
    lines = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*table, *(f"MISSED {row.figure}: {row.reason}" for row in rows if row.met is False)])


def as_markdown(rows: list[Row]) -> str:
    """The table for docs/performance.md; below it the reason of each miss."""
    lines = [_HEAD, ("---",) * len(_HEAD), *(_cells(row) for row in rows)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    missed = [f"- {row.figure}: {row.reason}" for row in rows if row.met is False]
    return table + ("\n\nWhy a goal is missed:\n\n" + "\n".join(missed) if missed else "")
