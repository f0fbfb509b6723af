"""How many CPUs and how much memory this process may use, and how many web processes that is enough for.

A container's limits are those of its control group. Linux kernel, Documentation/admin-guide/cgroup-v2.rst (cpu.max,
memory.max), cgroup-v1/memory.rst (memory.limit_in_bytes) and scheduler/sched-bwc.rst (cpu.cfs_quota_us,
cpu.cfs_period_us). A limit of an outer group counts as well, so each group up to the root is read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOST_PROCESSES = 8  # each has WEB_THREADS connections to the database (docs/sizing.md)
PROCESS_BYTES = 256 * 2**20  # of a web process that reads the largest bodies (D-body-memory)
MASTER_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    cpus: float  # what the scheduler gives at most, for example 0.5
    memory: int | None  # bytes; None: no group has a limit


def limits(*, proc: Path = Path("/proc"), mounted: Path = Path("/sys/fs/cgroup"), usable: int | None = None) -> Limits:
    """The limits of this process. A file that is missing or unreadable limits nothing.

    `usable`: the number of CPUs in its affinity mask, which a cpuset narrows; the tests give all three.
    """
    cpus = [float(usable or len(os.sched_getaffinity(0)))]
    memory = []
    for controllers, group in _groups(proc / "self" / "cgroup"):
        if not controllers:  # version 2: one hierarchy
            for folder in _up_to_the_root(mounted, group):
                quota, _, period = _text(folder / "cpu.max").partition(" ")
                cpus += _ratio(quota, period)
                memory += _number(_text(folder / "memory.max"))
        if "cpu" in controllers:
            for folder in _up_to_the_root(_hierarchy(mounted, controllers, "cpu"), group):
                cpus += _ratio(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))
        if "memory" in controllers:
            for folder in _up_to_the_root(_hierarchy(mounted, controllers, "memory"), group):
                memory += _number(_text(folder / "memory.limit_in_bytes"))
    return Limits(cpus=min(cpus), memory=min(memory, default=None))


def web_processes(limits: Limits) -> int:
    """The number of web processes if WEB_CONCURRENCY is unset: one for each CPU, as far as the memory is enough."""
    fit = MOST_PROCESSES if limits.memory is None else (limits.memory - MASTER_BYTES) // PROCESS_BYTES
    return max(1, min(math.ceil(limits.cpus), fit, MOST_PROCESSES))


def _groups(table: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """(controllers, path of the group) of each hierarchy; version 2 has no controllers (cgroups(7))."""
    for line in _text(table).splitlines():
        _, controllers, group = [*line.split(":", 2), "", ""][:3]
        yield tuple(filter(None, controllers.split(","))), group


def _up_to_the_root(mounted: Path, group: str) -> Iterator[Path]:
    """The folder of the group and those above it. In a container the group's own folder may be the root itself."""
    folder = mounted / group.lstrip("/")
    yield folder
    while folder != mounted and ".." not in folder.parts:
        folder = folder.parent
        yield folder
    yield mounted


def _hierarchy(mounted: Path, controllers: tuple[str, ...], controller: str) -> Path:
    """The folder where a hierarchy of version 1 is mounted: by its controllers, or by one of them."""
    together = mounted / ",".join(controllers)
    return together if together.is_dir() else mounted / controller


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def _number(text: str) -> list[int]:
    """As a list, which is empty if there is no limit: “max”, and in version 1 a number that no machine has."""
    return [int(text)] if text.isdecimal() and int(text) < 2**60 else []


def _ratio(quota: str, period: str) -> list[float]:
    """As `_number`; version 1 writes -1 for no limit."""
    return [int(quota) / int(period)] if quota.isdecimal() and period.isdecimal() and int(period) else []
