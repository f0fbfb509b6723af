"""Every fault × every operation, on both databases where it applies; after each case every invariant is checked.

    make faults                      all of it (half an hour at most)
    make faults ARGS='-k O1-'        one operation
    make faults ARGS='-k F6-O5'      one cell

A cell is done here, proved by a test elsewhere, or cannot occur, for a reason that stands below.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.faults.audit import NOT_OURS, RECOVERY_SECONDS, audit, rest
from tests.faults.installation import Installation, Sqlite
from tests.faults.operations import OPERATIONS
from tests.faults.strikes import STRIKES
from tests.faults.upgrade import BREAKS, upgrade

KINDS = {kind.id: kind for kind in OPERATIONS}
NAMES = {**{kind.id: kind.name for kind in OPERATIONS}, "O11": "rolling upgrade with migration"}
FAULTS = {**{name: words for name, (words, _) in STRIKES.items()}, "F13": "Redis flushed or gone"}
VENDORS = ("sqlite", "postgresql")
CASE_SECONDS = 400  # that one cell may take on a busy machine; most take ten

LIMIT_SECONDS = 28 * 60  # after so long no cell is begun: the whole of it takes half an hour at most
_began = time.monotonic()

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
KEPT_TABLES = {
    "deployments_process",
    "deployments_desiredstate",
    "deployments_policytext",
    "deployments_configurationgeneration",
    "deployments_configurationactivation",
    "deployments_accesskey",
}


def clean(installation: Installation) -> None:
    """An installation without projects and repositories; its processes go on."""
    installation.sandbox.clear_faults()
    database = installation.database
    emptied = [
        name
        for name in sorted(database.tables())
        if name.startswith(("deployments_", "django_q_")) and name not in KEPT_TABLES and name != "django_q_schedule"
    ]
    statements = [f"DELETE FROM {name}" for name in emptied]
    statements.append("DELETE FROM deployments_accesskey WHERE environment_id IS NOT NULL")
    if isinstance(database, Sqlite):  # which checks foreign keys only when it is asked to
        with contextlib.closing(database.connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for statement in statements:
                connection.execute(statement)
            connection.execute("COMMIT")
    else:
        database.query("; ".join(["SET session_replication_role = replica", *statements]))
    clean_registry(installation)
    installation.forget()


def clean_registry(installation: Installation) -> None:
    """No repository but those that are not ours."""
    ecr = installation.ecr
    live = installation.live_names()
    for name in live - set(NOT_OURS):
        ecr.delete_repository(repositoryName=name, force=True)
    for name in set(NOT_OURS) - live:
        ecr.create_repository(repositoryName=name)


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


# ------------------------------------------------------------------------------------------------------------ the table


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
