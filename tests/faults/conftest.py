"""The matrix runs when it is asked for (`make faults`); of it only the cells that are marked slow run with the others.

At the end it prints the table of fault × operation with each cell's result.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.installation import Installation, installations


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "faults" in config.option.markexpr:
        return
    unasked = [item for item in items if item.get_closest_marker("faults") and not item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=unasked)
    items[:] = [item for item in items if item not in unasked]


@pytest.fixture(scope="session")
def installation_of() -> Iterator[Callable[..., Installation]]:
    """The installation on SQLite or PostgreSQL, made when it is first asked for."""
    # A short path: PostgreSQL's socket lies in it.
    with installations(Path(tempfile.mkdtemp(prefix="ra-faults-"))) as of:
        yield of


def pytest_terminal_summary(terminalreporter: Any) -> None:
    from tests.faults.cells import table

    cells: dict[str, dict[str, Any]] = {}
    for outcome in ("passed", "failed", "skipped", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            found = dict(getattr(report, "user_properties", ())).get("cell")
            if found is not None:
                cells[found["id"]] = {**found, "outcome": "broken" if outcome in ("failed", "error") else outcome}
    if cells:
        terminalreporter.section("fault × operation")
        for line in table(list(cells.values())):
            terminalreporter.write_line(line)
