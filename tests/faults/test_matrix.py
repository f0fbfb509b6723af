"""Every fault × every operation, on both databases where it applies; after each case every invariant is checked.

    make faults                      all of it (half an hour at most)
    make faults ARGS='-k O1-'        one operation
    make faults ARGS='-k F6-O5'      one cell

A cell is done here, proved by a test elsewhere, or cannot occur, for a reason that stands in cells.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.audit import RECOVERY_SECONDS, audit, rest
from tests.faults.cells import CELLS, Cell
from tests.faults.cleaning import clean, clean_registry
from tests.faults.installation import Installation
from tests.faults.operations import OPERATIONS
from tests.faults.strikes import STRIKES
from tests.faults.upgrade import BREAKS, upgrade

KINDS = {kind.id: kind for kind in OPERATIONS}
CASE_SECONDS = 400  # that one cell may take on a busy machine; most take ten

LIMIT_SECONDS = 28 * 60  # after so long no cell is begun: the whole of it takes half an hour at most
_began = time.monotonic()

#: (fault, database) → tracebacks that are meant to be: the one record of the message that cannot be read; and of SQLite
#: each failure, whose cause is on the host itself and is to be seen (`deployments.outage` is PostgreSQL's).
TRACEBACKS = {
    ("F12", "sqlite"): "BadSignature|SyntaxError",
    ("F12", "postgresql"): "BadSignature|SyntaxError",
    (
        "F6",
        "sqlite",
    ): "OperationalError: (database is locked|disk I/O error|database or disk is full)|OSError: .*File too large",
}
#: fault → seconds until it is right again, where that is less than a lease and two ticks: a process that was killed
#: holds its leases for 15 seconds, and one whose database was away until its next heartbeat. Twice that, on a busy
#: machine.
WITHIN = {fault: 60.0 for fault in ("F1", "F4", "F6")}
#: The part that runs with `make test`: what guards most in three minutes.
ALWAYS = {"F1-O1-postgresql", "F2-O1-sqlite", "F4-O1-sqlite", "F6-O8-postgresql", "F7-O10-postgresql"}


def require_time() -> None:
    if time.monotonic() - _began > LIMIT_SECONDS:
        pytest.fail("Not begun: the half hour is over. Run it alone: make faults ARGS='-k …'", pytrace=False)


def cases(cells: list[Cell]) -> list[Any]:
    return [
        pytest.param(
            cell,
            id=str(cell),
            marks=[pytest.mark.slow] if str(cell) in ALWAYS else [],
        )
        for cell in cells
        if not cell.reason
    ]


@pytest.mark.faults
@pytest.mark.timeout(CASE_SECONDS)
@pytest.mark.parametrize("cell", cases([cell for cell in CELLS if cell.operation != "O11"]))
def test_whatever_breaks_every_invariant_holds(
    cell: Cell, installation_of: Callable[..., Installation], record_property: Callable[[str, object], None]
) -> None:
    shown: dict[str, Any] = {"id": str(cell), "fault": cell.fault, "operation": cell.operation, "vendor": cell.vendor}
    record_property("cell", shown)
    require_time()
    kind, strike = KINDS[cell.operation], STRIKES[cell.fault][1]
    installation = installation_of(cell.vendor)
    clean(installation)
    installation.ensure(web=1, worker=1 if kind.by == "worker" else 0)
    began, since = time.monotonic(), time.time()
    installation.sandbox.reset_calls()
    installation.mark_logs()
    try:
        works = strike(installation, kind)
        shown["cases"] = len(works)
        rest(installation)
        found = audit(
            installation,
            since,
            recovered=max(work.recovered for work in works),
            within=WITHIN.get(cell.fault, RECOVERY_SECONDS) if kind.by == "web" else RECOVERY_SECONDS,
            tracebacks=TRACEBACKS.get((cell.fault, cell.vendor), ""),
        )
    finally:
        installation.sandbox.clear_faults()
        shown["seconds"] = time.monotonic() - began
        shown["calls"] = sum(installation.sandbox.calls().values())
        print(installation.logged())  # shown with a case that fails
    assert not found, "\n".join(found)


@pytest.mark.faults
@pytest.mark.timeout(CASE_SECONDS)
@pytest.mark.parametrize("cell", cases([cell for cell in CELLS if cell.operation == "O11"]))
def test_whatever_breaks_during_an_upgrade_every_invariant_holds(
    cell: Cell, installation_of: Callable[..., Installation], record_property: Callable[[str, object], None]
) -> None:
    shown: dict[str, Any] = {"id": str(cell), "fault": cell.fault, "operation": cell.operation, "vendor": cell.vendor}
    record_property("cell", shown)
    require_time()
    installation = installation_of(cell.vendor, f"upgrade_{cell.fault.lower()}", empty=True)
    began, since = time.monotonic(), time.time()
    installation.sandbox.reset_calls()
    try:
        clean_registry(installation)
        traffic = upgrade(installation, BREAKS[cell.fault])
        shown["cases"] = traffic.number
        rest(installation)
        found = audit(installation, since, tracebacks=TRACEBACKS.get((cell.fault, cell.vendor), ""))
    finally:
        shown["seconds"] = time.monotonic() - began
        shown["calls"] = sum(installation.sandbox.calls().values())
        print(installation.logged())
        for service in installation.services:
            if service.is_running:
                service.stop()
    found += [f"a deploy failed: {answer.status} {answer.text[:200]}" for answer in traffic.failed]
    if cell.fault == "F11":
        found += [f"cut off: {asked.path}" for asked in installation.asked if asked.answer.status == 0]
    assert not found, "\n".join(found)
