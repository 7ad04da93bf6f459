"""What the container may use, and whether it used too much: the cgroup's counters, v1 and v2."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def oom_kills(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """How many processes of this container the kernel has killed for want of memory.

    0 also where no memory cgroup is visible.
    """
    for path in (
        *_files("memory", "memory.oom_control", cgroups, membership),
        *_files("", "memory.events", cgroups, membership),
    ):
        for line in _read(path).splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def cpus(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """CPUs that this container may use: the allowed ones, or fewer if a quota says so."""
    allowed = len(os.sched_getaffinity(0))
    quota = _cpu_quota(cgroups, membership)
    return max(1, min(allowed, math.ceil(quota))) if quota else allowed


def _cpu_quota(cgroups: Path, membership: Path) -> float | None:
    for path in _files("", "cpu.max", cgroups, membership):
        quota, _, period = _read(path).strip().partition(" ")
        if quota.isdecimal():
            return int(quota) / int(period)
    for path in _files("cpu", "cpu.cfs_quota_us", cgroups, membership):
        microseconds = _read(path).strip()
        if microseconds.isdecimal():  # -1: no quota
            return int(microseconds) / int(_read(path.with_name("cpu.cfs_period_us")))
    return None


def _files(controller: str, name: str, cgroups: Path, membership: Path) -> list[Path]:
    """Where `name` may be: in this process's own cgroup, and in the root.

    A container mostly sees its own cgroup as the root. `controller` is empty for cgroup v2.
    """
    mount = cgroups / controller if controller else cgroups
    found = [mount / name]
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            found.insert(0, mount / path.lstrip("/") / name)
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
