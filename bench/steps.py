"""A pod's run beside a plain TRL script with equal settings: cost per step, time to the first.

    python bench/steps.py [sft|dpo|reward|grpo] [RUNS]

The run of methods.py, of SFT where no method is named. Ours is the whole pod: launcher, endpoint,
rank, progress reports. The two take turns step by step, with the same batches, while the
other one waits; so whatever else the machine does hits both. Each step gives a ratio, and each run
the ratio of its means: their 95% intervals differ by what only whole runs have in common, such as
where their memory lies. Both run on one thread, as on a shared machine threads that wait for each
other show what else runs there, and keep the memory that they free (racers.py says why). CPU time
counts no waiting for others, and the launcher's too.
"""

import os
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from intervals import confidence
from methods import asked, config, prepare, write_run
from racers import Cost, Racer, start_ours, start_plain
from sections import publish

STEPS, WARM_UP = 20, 3


def race(
    method: str, folder: Path, *, plain_first: bool
) -> tuple[list[Cost], list[Cost], float, float]:
    """Costs of the steps of both after the warm-up, and seconds to their first."""
    starts: list[Any] = [start_plain, start_ours]
    racers = {}
    for start in starts[:: 1 if plain_first else -1]:
        run = folder / f"{start.__name__}.json"
        write_run(run, method, config(method, STEPS, run.with_suffix("")))
        racers[start] = Racer(start, method, run)
    costs: dict[Any, list[Cost]] = {start: [] for start in starts}
    for step in range(STEPS - 1):
        for start in starts[:: 1 if step % 2 else -1]:
            costs[start].append(racers[start].turn())
    for racer in racers.values():
        racer.go()
        racer.wait()
    plain, ours = (costs[start][WARM_UP - 1 :] for start in starts)
    return plain, ours, racers[start_plain].first.wall, racers[start_ours].first.wall


def main(method: str, runs: int) -> None:
    prepare()
    load = os.getloadavg()[0]
    lines = ["| run | plain: s, CPU s per step, s to step 1 | ours: the same |", "|---|---|---|"]
    ratios: dict[str, list[float]] = {}
    raw = []
    for run in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            plain, ours, *firsts = race(method, Path(folder), plain_first=run % 2 == 0)
        raw.append({"plain": plain, "ours": ours, "seconds to step 1": firsts})
        cells = []
        for costs, first in zip((plain, ours), firsts, strict=True):
            wall, cpu, _ = (mean(cost) for cost in zip(*costs, strict=True))
            cells.append((wall, cpu, first))
        told = " | ".join("{:.3f} / {:.3f} / {:.1f}".format(*cell) for cell in cells)
        print(method, run, told, file=sys.stderr, flush=True)
        lines.append(f"| {run + 1} | {told} |")
        for index, name in enumerate(("time", "CPU time")):
            of_steps = [b[index] / a[index] for a, b in zip(plain, ours, strict=True)]
            ratios.setdefault(f"{name} per step, by steps", []).extend(of_steps)
            of_run = cells[1][index] / cells[0][index]
            ratios.setdefault(f"{name} per step, by runs", []).append(of_run)
        ratios.setdefault("time to the first step", []).append(firsts[1] / firsts[0])
    lines += ["", "| ours / plain | mean (95% interval) | of |", "|---|---|---|"]
    lines += [f"| {name} | {confidence(of)} | {len(of)} |" for name, of in ratios.items()]
    title = f"Cost of a step beside a plain script, {method}, {runs} runs"
    publish(f"steps-{method}", title, lines, raw, load=load)


if __name__ == "__main__":
    named, times = asked()
    main(named, times or 5)
