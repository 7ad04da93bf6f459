"""Peak memory: a pod's run, a plain TRL script, and the `trl` command line.

    python bench/memory_beside_trl.py [sft|dpo|grpo] [RUNS]

The runs of methods.py, from the first process to the end, on one thread. Each process's peak is
what the kernel remembers of it (VmHWM of /proc/PID/status), so pages that two of them share count
twice; a run's is the sum over its processes, launchers included, even if their peaks do not fall
together. Every round begins with another of the three.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
from commands import asked_beside_trl, commands, environment, in_turn
from intervals import ratio, spread
from methods import prepare
from sections import publish

STEPS = 3
INTERVAL_SECONDS = 0.1


class Peak(NamedTuple):
    """MiB at the most."""

    all: float
    """Of all processes."""
    largest: float
    """Of the one that trains."""
    first: float
    """Of the one that was started: a launcher, if another trains."""


def peak(command: list[str], folder: Path) -> Peak:
    """Run it to its end."""
    log = folder / "log"
    seen: dict[int, float] = {}
    before: set[int] = set()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment())
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                now = {process.pid, *(child.pid for child in tree.children(recursive=True))}
                # A child is its parent's image until it runs a program of its own.
                seen |= {pid: most for pid in now & before if (most := resident(pid))}
                before = now
            time.sleep(INTERVAL_SECONDS)
    if process.returncode:
        sys.exit(f"a run failed: {command}\n{log.read_text()[-3000:]}")
    return Peak(sum(seen.values()), max(seen.values()), seen[process.pid])


def resident(pid: int) -> float:
    """MiB that the process has held at its most; 0 where it is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def main(method: str, runs: int) -> None:
    prepare()
    found: dict[str, list[Peak]] = {}
    load = os.getloadavg()[0]
    for number in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            for name, command in in_turn(number, commands(method, STEPS, Path(folder))):
                peaks = peak(command, Path(folder))
                print(method, name, peaks, file=sys.stderr, flush=True)
                found.setdefault(name, []).append(peaks)
    lines = [
        "| | MiB of all, median (range) | the largest | the first | ours / this (95% interval) |",
        "|---|---|---|---|---|",
    ]
    for name in ("ours", "plain", "trl"):
        cells = [spread(column) for column in zip(*found[name], strict=True)]
        of_all = ratio(*([peaks.all for peaks in found[side]] for side in ("ours", name)))
        lines.append(f"| {name} | {' | '.join(cells)} | {of_all} |")
    publish(f"memory-{method}", f"Peak memory, {method}, {runs} rounds", lines, found, load=load)


if __name__ == "__main__":
    named_method, rounds = asked_beside_trl()
    main(named_method, rounds or 3)
