"""The two backends side by side: time per step and peak memory, on one GPU or on a CPU.

    python bench/backends.py [sft|dpo|grpo] [RUNS]

The run of methods.py, of SFT where no method is named, on TRL's models and on Unsloth's, with equal
settings. Whole runs take turns, each in a process of its own and every round beginning with the
other. A step's time is the median of a run's, after the warm-up; memory is what PyTorch has held on
the GPU at its most, or without one the process (VmHWM). A CPU shows that it works, and not what
Unsloth is for: its kernels are a GPU's.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from commands import environment
from intervals import ratio, spread
from memory_beside_trl import resident
from methods import asked, config, prepare, write_run
from sections import publish

STEPS, WARM_UP = 20, 3
BACKENDS = ("trl", "unsloth")
UNSLOTH = Path(sys.prefix) / "unsloth"
"""Where `make setup` has put it: apart, as it changes every process that sees it."""
ON_CPU = {"UNSLOTH_FORCE_CPU": "1", "UNSLOTH_CPU_BF16": "0"}


class Run(NamedTuple):
    """What a run cost."""

    step: float
    """Seconds."""
    memory: float
    """MiB at the most."""
    device: str


def measure(run: Path) -> Run:
    """Trains in this process."""
    from aligntune.api.manifest import read_run_config
    from aligntune.core.backend_factory import trainer_for

    what = read_run_config(run)
    make_trainer = trainer_for(what.backend, what.task)  # Unsloth comes before all others
    import torch
    from transformers import TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    trainer = make_trainer(what.method)
    trainer.callbacks.append(Clock())
    trainer.train()
    steps = [after - before for before, after in pairwise(ends)]
    if torch.cuda.is_available():
        memory, device = torch.cuda.max_memory_reserved() / 2**20, torch.cuda.get_device_name()
    else:
        memory, device = resident(os.getpid()), "CPU"
    return Run(median(steps[WARM_UP - 1 :]), memory, device)


def run_one(method: str, backend: str, run: Path) -> Run:
    """Trains in a process of its own."""
    import torch

    on_cpu = {} if torch.cuda.is_available() else ON_CPU
    paths = (str(UNSLOTH),) if backend == "unsloth" else ()
    section = config(method, STEPS, run.with_suffix(""))
    write_run(run, method, section, backend=backend)
    with run.with_suffix(".log").open("wb") as log:
        done = subprocess.run(
            [sys.executable, __file__, "measure", run],
            env=environment(*paths, **on_cpu),
            stdout=subprocess.PIPE,
            stderr=log,
            check=False,
        )
    if done.returncode:
        sys.exit(f"a run failed: {run.with_suffix('.log').read_text()[-3000:]}")
    return Run(*json.loads(done.stdout.splitlines()[-1]))


def main(method: str, runs: int) -> None:
    prepare()
    found: dict[str, list[Run]] = {backend: [] for backend in BACKENDS}
    load = os.getloadavg()[0]
    for number in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            for backend in BACKENDS[:: -1 if number % 2 else 1]:
                cost = run_one(method, backend, Path(folder) / f"{backend}.json")
                found[backend].append(cost)
                print(method, backend, cost, file=sys.stderr, flush=True)
    lines = ["| | seconds a step, median (range) | MiB at the most |", "|---|---|---|"]
    for backend, costs in found.items():
        of_steps = spread([run.step for run in costs], 3)
        lines.append(f"| {backend} | {of_steps} | {spread([run.memory for run in costs])} |")
    trl, unsloth = (found[backend] for backend in BACKENDS)
    steps = ratio([run.step for run in unsloth], [run.step for run in trl])
    memory = ratio([run.memory for run in unsloth], [run.memory for run in trl])
    lines.append(f"| unsloth / trl (95% interval) | {steps} | {memory} |")
    title = f"Unsloth beside TRL, {method}, {runs} rounds on {found['trl'][0].device}"
    publish(f"backends-{method}", title, lines, found, load=load)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(Path(sys.argv[2]))))
    else:
        named, times = asked()
        main(named, times or 3)
