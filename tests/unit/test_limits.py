import os
from pathlib import Path

import pytest

from aligntune.pod.limits import cpus, oom_kills


@pytest.fixture
def cgroups(tmp_path: Path) -> Path:
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_oom_kills_of_cgroup_v2_in_a_container(cgroups: Path) -> None:
    membership = write(cgroups / "self", "0::/\n")
    write(cgroups / "memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert oom_kills(cgroups, membership) == 2


def test_oom_kills_of_cgroup_v1_with_the_hosts_paths(cgroups: Path) -> None:
    membership = write(cgroups / "self", "4:memory:/kubepods/pod1\n3:cpu,cpuacct:/\n0::/\n")
    write(cgroups / "memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n")
    write(cgroups / "memory/kubepods/pod1/memory.oom_control", "under_oom 0\noom_kill 1\n")
    assert oom_kills(cgroups, membership) == 1


def test_no_memory_cgroup_means_no_kills(cgroups: Path) -> None:
    assert oom_kills(cgroups, cgroups / "missing") == 0


@pytest.mark.parametrize(
    ("file", "text", "period", "expected"),
    [
        ("cpu.max", "50000 100000\n", None, 1),
        ("cpu.max", "max 100000\n", None, None),
        ("cpu/cpu.cfs_quota_us", "100000\n", "100000\n", 1),
        ("cpu/cpu.cfs_quota_us", "-1\n", "100000\n", None),
    ],
)
def test_a_cpu_quota_counts(
    cgroups: Path, file: str, text: str, period: str | None, expected: int | None
) -> None:
    membership = write(cgroups / "self", "3:cpu,cpuacct:/\n0::/\n")
    write(cgroups / file, text)
    if period:
        write(cgroups / "cpu/cpu.cfs_period_us", period)
    assert cpus(cgroups, membership) == (expected or len(os.sched_getaffinity(0)))


def test_the_real_machine_answers() -> None:
    assert cpus() >= 1
    assert oom_kills() >= 0
