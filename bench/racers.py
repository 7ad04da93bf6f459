"""Runs that take turns step by step, so that whatever else the machine does hits all of them."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from aligntune.pod.launcher import launch

BENCH = Path(__file__).parent
START_SECONDS = 600
"""Longest wait for a first step."""
KEPT_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""glibc's words for: memory that is freed stays with the process. Else a step's logits, 50 MB, come
from the kernel anew each time, which is up to a fifth of the step and differs by 5% between two
processes that do the same."""
RACER_ENV = {**os.environ, "OMP_NUM_THREADS": "1", **KEPT_MEMORY}


class Cost(NamedTuple):
    """What a step took, and what it trained on."""

    wall: float
    """Seconds."""
    cpu: float
    """CPU seconds, the launcher's too."""
    tokens: int
    """Without padding."""


def start_plain(method: str, run: Path, stopwatch: list[str]) -> Callable[[], object]:
    """Start the plain script; what is returned waits for its end."""
    script = [*stopwatch, str(BENCH / "plain_trl.py"), method, str(run)]
    log = run.with_suffix(".log").open("wb")
    return subprocess.Popen(script, stdout=log, stderr=log, env=RACER_ENV).wait


def start_ours(
    _: str, run: Path, stopwatch: list[str], rank: Sequence[str] = ("-m", "aligntune.pod.rank")
) -> Callable[[], object]:
    """Start a pod's run; what is returned waits for its end."""
    pod = multiprocessing.get_context("spawn").Process(
        target=pod_run, args=(run, (*stopwatch, *rank))
    )
    pod.start()
    return pod.join


def pod_run(run: Path, rank_command: tuple[str, ...]) -> None:
    """The launcher, as a pod's first process."""
    with run.with_suffix(".log").open("wb") as log:
        launch(run, env=RACER_ENV, port=0, rank_command=rank_command, stdout=log)


class Racer:
    """A run, as far as its first step; `turn` lets it do another."""

    def __init__(self, start: Callable[..., Callable[[], object]], method: str, run: Path) -> None:
        self._log = run.with_suffix(".log")
        with socket.socket(socket.AF_UNIX) as listening:
            path = str(run.with_suffix(".socket"))
            listening.bind(path)
            listening.listen()
            listening.settimeout(START_SECONDS)
            self.wait = start(method, run, [sys.executable, str(BENCH / "stopwatch.py"), path])
            self._stream = listening.accept()[0].makefile("rw")
        self.first = self._cost()

    def turn(self) -> Cost:
        """Do a step; what it cost."""
        self.go()
        return self._cost()

    def go(self) -> None:
        """Go on, and do not wait for it."""
        print(file=self._stream, flush=True)

    def _cost(self) -> Cost:
        line = self._stream.readline()
        if not line:
            sys.exit(f"a run failed: {self._log.read_text()[-2000:]}")
        return Cost(*json.loads(line))
