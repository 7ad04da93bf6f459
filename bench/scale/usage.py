"""What processes have used: CPU seconds, and memory at the most."""

from pathlib import Path
from typing import NamedTuple

import psutil


class Usage(NamedTuple):
    """Of one process, between two looks."""

    cpu_seconds: float
    peak_mib: float
    """The most resident memory since the first look."""


class Meter:
    """Reads processes by name, from the moment that it is made.

    Args:
        processes: By the name that the report calls them.
    """

    def __init__(self, processes: dict[str, psutil.Process]) -> None:
        self._processes = processes
        for process in processes.values():
            # Lets the kernel forget the most memory that it has seen.
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        self._before = {name: _cpu(process) for name, process in processes.items()}

    def read(self) -> dict[str, Usage]:
        """Since the meter was made."""
        return {
            name: Usage(_cpu(process) - self._before[name], _peak_mib(process))
            for name, process in self._processes.items()
        }


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _peak_mib(process: psutil.Process) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024
