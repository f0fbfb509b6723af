"""How many web processes are started in a container: with files of control groups as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry_admin.cgroups import Limits, limits, web_processes

MIB = 2**20


def made(tmp_path: Path, table: str, files: dict[str, str]) -> Limits:
    """The limits on a host with 16 CPUs. `table`: /proc/self/cgroup; `files`: those below /sys/fs/cgroup."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(table)
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(f"{text}\n")
    return limits(proc=tmp_path / "proc", mounted=tmp_path / "cgroup", usable=16)


@pytest.mark.parametrize(
    ("table", "files", "cpus", "memory"),
    [
        ("", {}, 16, None),
        ("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, 16, None),
        ("0::/\n", {"cpu.max": "50000 100000", "memory.max": "536870912"}, 0.5, 512 * MIB),
        ("0::/pod/web\n", {"pod/web/cpu.max": "400000 100000", "pod/cpu.max": "200000 100000"}, 2, None),
        ("0::/pod/web\n", {"pod/web/memory.max": "max", "pod/memory.max": "1073741824"}, 16, 1024 * MIB),
        # Version 1, as Docker mounts it: the path in the table is the host's, and the container sees its group as root.
        (
            "4:memory:/docker/1a2b\n3:cpu,cpuacct:/docker/1a2b\n",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "150000",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "402653184",
            },
            1.5,
            384 * MIB,
        ),
        (
            "4:memory:/\n3:cpu,cpuacct:/\n",
            {
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            16,
            None,
        ),
        # Both versions, as systemd's hybrid layout has them.
        ("1:cpu:/a\n0::/a\n", {"cpu/a/cpu.cfs_quota_us": "300000", "cpu/a/cpu.cfs_period_us": "100000"}, 3, None),
        ("0::/../outside\n", {"cpu.max": "100000 100000"}, 1, None),
        ("0::/\n", {"cpu.max": "rubbish", "memory.max": ""}, 16, None),
    ],
)
def test_the_smallest_limit_of_a_group_and_of_those_around_it_counts(
    tmp_path: Path, table: str, files: dict[str, str], cpus: float, memory: int | None
) -> None:
    assert made(tmp_path, table, files) == Limits(cpus=cpus, memory=memory)


@pytest.mark.parametrize(
    ("cpus", "memory", "processes"),
    [
        (0.5, None, 1),
        (2, None, 2),
        (2.5, None, 3),
        (64, None, 8),
        (8, 1024 * MIB, 3),
        (8, 512 * MIB, 1),
        (8, 64 * MIB, 1),
        (2, 64 * 1024 * MIB, 2),
    ],
)
def test_a_process_is_started_for_each_cpu_if_the_memory_is_enough(
    cpus: float, memory: int | None, processes: int
) -> None:
    assert web_processes(Limits(cpus=cpus, memory=memory)) == processes


def test_the_limits_of_this_process_can_be_read() -> None:
    assert limits().cpus > 0
