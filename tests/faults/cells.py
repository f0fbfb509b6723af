"""The cells of the matrix: fault × operation × database, why some cannot occur, and the table of the results."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.faults.operations import OPERATIONS
from tests.faults.strikes import STRIKES

NAMES = {**{kind.id: kind.name for kind in OPERATIONS}, "O11": "rolling upgrade with migration"}
FAULTS = {**{name: words for name, (words, _) in STRIKES.items()}, "F13": "Redis flushed or gone"}
VENDORS = ("sqlite", "postgresql")
NO_AWS = "it makes no call to AWS"
NO_QUEUE = "it puts no message into the queue and waits for none: the web process does it"
#: (fault, operation) → why that cannot occur. "*": every operation that is not named.
REASONS: dict[tuple[str, str], str] = {
    **{(fault, operation): NO_AWS for fault in ("F2", "F3", "F9", "F10") for operation in ("O7", "O9", "O10")},
    **{("F8", operation): NO_QUEUE for operation in ("O1", "O2", "O3", "O4", "O6", "O7", "O8", "O9")},
    **{("F12", operation): NO_QUEUE for operation in ("O1", "O2", "O3", "O4", "O6", "O7", "O8", "O9")},
    **{("F5", operation): "it holds no lease: a process that stands still only answers later"
       for operation in ("O7", "O8", "O9")},
    ("F9", "O8"): "neither of its calls names a repository or a principal of its policy",
    ("F10", "O8"): "neither of its calls reads anything of a repository",
    ("F11", "O4"): "the operation is a rolling restart",
    **{(fault, "O11"): "an upgrade is O1 to O10 done by processes of two versions: the fault meets one of these, as in "
       "its cell there; what is left, both versions together, is F4, F6 and F11"
       for fault in ("F1", "F2", "F3", "F5", "F7", "F8", "F9", "F10", "F12")},
    ("F13", "*"): "there is no Redis: queue, leases and sessions are in the one database, whose loss is F6",
}  # fmt: skip
#: As above, on one database only.
REASONS_OF: dict[tuple[str, str, str], str] = {
    ("F7", "*", "sqlite"): "SQLite's clock is the clock of its one host, so no two can differ",
    **{("F1", operation, "sqlite"): "it makes no call to AWS, and SQLite commits within the process, so there is no "
       "moment between; F4 kills it at any" for operation in ("O7", "O9", "O10")},
}  # fmt: skip
#: (fault, operation) → the test that proves it.
ELSEWHERE: dict[tuple[str, str], str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    fault: str
    operation: str
    vendor: str

    def __str__(self) -> str:
        return f"{self.fault}-{self.operation}-{self.vendor}"

    @property
    def reason(self) -> str:
        """Why it is not done here; empty when it is."""
        fault, operation = self.fault, self.operation
        if proved := ELSEWHERE.get((fault, operation)):
            return f"proved by {proved}"
        for found in (
            REASONS.get((fault, operation)),
            REASONS.get((fault, "*")),
            REASONS_OF.get((fault, operation, self.vendor)),
            REASONS_OF.get((fault, "*", self.vendor)),
        ):
            if found:
                return found
        return ""


CELLS = [
    Cell(fault=fault, operation=operation, vendor=vendor)
    for fault in FAULTS
    for operation in NAMES
    for vendor in VENDORS
]


def table(cells: list[dict[str, Any]]) -> list[str]:
    """The matrix in lines: per cell its outcome on SQLite/PostgreSQL, then the reasons and the figures."""
    marks = {"passed": "ok", "broken": "BROKEN", "skipped": "skipped"}
    done = {(each["fault"], each["operation"], each["vendor"]): marks[each["outcome"]] for each in cells}
    lines = [f"{'':<4}" + "".join(f"{name:>15}" for name in NAMES)]
    reasons: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for fault in FAULTS:
        shown = []
        for operation in NAMES:
            both = []
            for vendor in VENDORS:
                cell = Cell(fault=fault, operation=operation, vendor=vendor)
                word = done.get((fault, operation, vendor), "n/a" if cell.reason else "–")
                both.append(word)
                counts[word] += 1
                if cell.reason:
                    name = f"{fault}×{operation}"
                    if vendor == "sqlite" or name not in reasons.setdefault(cell.reason, []):
                        reasons.setdefault(cell.reason, []).append(name)
            shown.append(both[0] if both[0] == both[1] else "/".join(both))
        lines.append(f"{fault:<4}" + "".join(f"{word:>15}" for word in shown))
    lines += ["", "Where two words stand in a cell, they are SQLite/PostgreSQL; –: not run this time."]
    lines += [f"{fault:<4} {words}" for fault, words in FAULTS.items()]
    lines += [f"{name:<4} {words}" for name, words in NAMES.items()]
    lines += ["", "n/a:"]
    lines += [f"  {', '.join(dict.fromkeys(names))}: {reason}" for reason, names in reasons.items()]
    figures = {name: sum(each.get(name, 0) for each in cells) for name in ("cases", "calls", "seconds")}
    lines.append(
        f"Cells: {counts['ok']} ok, {counts['BROKEN']} broken, {counts['n/a']} n/a, {counts['–']} not run; "
        f"{figures['cases']} cases, {figures['calls']:,} AWS calls, {figures['seconds']:.0f} s."
    )
    return lines
