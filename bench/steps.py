"""A pod's run beside a plain TRL script with equal settings: cost per step, time to the first.

    python bench/steps.py [sft|dpo|reward|grpo] [RUNS]

The run of methods.py, of SFT where no method is named. Ours is the whole pod: launcher, endpoint,
rank, progress reports. The two take turns step by step, with the same batches, while the
other one waits; so whatever else the machine does hits both. Each step gives a ratio, and each run
the ratio of its means: their 95% intervals differ by what only whole runs have in common, such as
where their memory lies. Both run on one thread: on a shared machine, threads that wait for each
other show what else runs there. CPU time counts no waiting for others, and the launcher's too.
"""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from intervals import interval
from methods import METHODS, MODEL, asked, config, prepare

from aligntune.pod.launcher import launch

BENCH = Path(__file__).parent
STEPS, WARM_UP = 20, 3
START_SECONDS = 600
"""Longest wait for a first step."""
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
Cost = tuple[float, float]
"""Seconds and CPU seconds."""


def start_plain(method: str, folder: Path, stopwatch: list[str]) -> Callable[[], object]:
    """Start the plain script; what is returned waits for its end."""
    data = METHODS[method]["datasets"][0]["name"]
    script = [*stopwatch, BENCH / "plain_trl.py", method, MODEL, data, folder / "plain", str(STEPS)]
    log = (folder / "plain.log").open("wb")
    return subprocess.Popen(script, stdout=log, stderr=log, env=ONE_THREAD).wait


def start_ours(method: str, folder: Path, stopwatch: list[str]) -> Callable[[], object]:
    """Start a pod's run; what is returned waits for its end."""
    run = folder / "run.json"
    section = "sft" if method == "sft" else "rl"
    run.write_text(json.dumps({section: config(method, STEPS, folder / "ours")}))
    rank = (*stopwatch, "-m", "aligntune.pod.rank")
    pod = multiprocessing.get_context("spawn").Process(target=pod_run, args=(run, rank))
    pod.start()
    return pod.join


def pod_run(run: Path, rank_command: tuple[str, ...]) -> None:
    """The launcher, as a pod's first process."""
    with run.with_name("ours.log").open("wb") as log:
        launch(run, env=ONE_THREAD, port=0, rank_command=rank_command, stdout=log)


class Racer:
    """One of the two, as far as its first step; `turn` lets it do another."""

    def __init__(
        self, start: Callable[..., Callable[[], object]], method: str, folder: Path
    ) -> None:
        self._log = folder / f"{start.__name__.removeprefix('start_')}.log"
        with socket.socket(socket.AF_UNIX) as listening:
            path = str(self._log.with_suffix(".socket"))
            listening.bind(path)
            listening.listen()
            listening.settimeout(START_SECONDS)
            self.wait = start(method, folder, [sys.executable, str(BENCH / "stopwatch.py"), path])
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
        wall, cpu = json.loads(line)
        return wall, cpu


def race(
    method: str, folder: Path, *, plain_first: bool
) -> tuple[list[Cost], list[Cost], float, float]:
    """Costs of the steps of both after the warm-up, and seconds to their first."""
    starts: list[Any] = [start_plain, start_ours]
    racers = {start: Racer(start, method, folder) for start in starts[:: 1 if plain_first else -1]}
    costs: dict[Any, list[Cost]] = {start: [] for start in starts}
    for step in range(STEPS - 1):
        for start in starts[:: 1 if step % 2 else -1]:
            costs[start].append(racers[start].turn())
    for racer in racers.values():
        racer.go()
        racer.wait()
    plain, ours = (costs[start][WARM_UP - 1 :] for start in starts)
    return plain, ours, racers[start_plain].first[0], racers[start_ours].first[0]


def main(method: str, runs: int) -> None:
    prepare()
    print("| run | plain: s, CPU s per step, s to step 1 | ours: the same |\n|---|---|---|")
    ratios: dict[str, list[float]] = {}
    for run in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            plain, ours, *firsts = race(method, Path(folder), plain_first=run % 2 == 0)
        cells = []
        for costs, first in zip((plain, ours), firsts, strict=True):
            wall, cpu = (mean(cost) for cost in zip(*costs, strict=True))
            cells.append((wall, cpu, first))
        print(
            f"| {run + 1} | {' | '.join('{:.3f} / {:.3f} / {:.1f}'.format(*c) for c in cells)} |",
            flush=True,
        )
        for index, name in enumerate(("time", "CPU time")):
            of_steps = [b[index] / a[index] for a, b in zip(plain, ours, strict=True)]
            ratios.setdefault(f"{name} per step, by steps", []).extend(of_steps)
            of_run = cells[1][index] / cells[0][index]
            ratios.setdefault(f"{name} per step, by runs", []).append(of_run)
        ratios.setdefault("time to the first step", []).append(firsts[1] / firsts[0])
    for name, values in ratios.items():
        middle, low, high = interval(values)
        print(
            f"\n{name}, ours / plain: {middle:.3f} (95% interval {low:.3f} to {high:.3f},"
            f" of {len(values)})"
        )


if __name__ == "__main__":
    named, times = asked()
    main(named, times or 5)
