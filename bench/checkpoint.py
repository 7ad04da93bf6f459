"""How long training stands still for a checkpoint: a pod's rank beside a plain TRL script.

    python bench/checkpoint.py [lora|full] [RUNS]

SFT of methods.py with short rows, a checkpoint after every step and the newest two kept, with
adapters and with all weights; on one thread, the two in turns. The pause is from the end of the
step to the moment that transformers calls the checkpoint saved, removal of older ones included. The
first two, which leave nothing to remove, are not counted. Ours waits for the disk, so that what its
manifest names is there after a power cut; Trainer leaves that to the kernel.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from commands import BENCH, environment
from intervals import ratio, spread
from methods import config, prepare, write_run
from sections import publish

STEPS, WARM_UP = 6, 2
SHORT_ROWS = {"perDeviceBatchSize": 1}
TUNINGS = ("lora", "full")
PARTS = ("Trainer's", "to disk", "manifest", "removal")
"""Of a pause of ours."""

Pause = dict[str, float]
"""Part -> seconds; "all" is the pause, "CPU" its CPU seconds."""


def timed(out: Path, what: list[str]) -> None:
    """Run a script or module, and write down its pauses."""
    from transformers.trainer_callback import CallbackHandler

    pauses: list[Pause] = []
    began: tuple[float, float] = (0.0, 0.0)
    parts: Pause = {}
    step_end, save = CallbackHandler.on_step_end, CallbackHandler.on_save

    def stop(self: Any, *arguments: Any) -> Any:
        nonlocal began
        result = step_end(self, *arguments)
        parts.clear()
        began = (time.perf_counter(), time.process_time())
        return result

    def go_on(self: Any, *arguments: Any) -> Any:
        wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        pauses.append({**parts, "all": wall, "CPU": cpu})
        out.write_text(json.dumps(pauses))
        return save(self, *arguments)

    def part(owner: Any, name: str, told: str) -> None:
        method: Any = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            since = time.perf_counter()
            try:
                return method(*arguments, **named)
            finally:
                parts[told] = parts.get(told, 0.0) + time.perf_counter() - since

        setattr(owner, name, call)

    CallbackHandler.on_step_end, CallbackHandler.on_save = stop, go_on
    if what[0] == "-m":
        import trl

        from aligntune.training import checkpoints

        part(trl.SFTTrainer, "_save_checkpoint", "Trainer's")
        part(checkpoints, "settle", "to disk")
        part(checkpoints, "replace_file", "manifest")
        part(checkpoints.Checkpoints, "_prune", "removal")
        sys.argv = what[1:]
        runpy.run_module(what[1], run_name="__main__")
    else:
        sys.argv = what
        runpy.run_path(what[0], run_name="__main__")


def pauses(name: str, tuning: str, folder: Path) -> list[Pause]:
    """Of one run, without the first."""
    out = folder / f"{name}.pauses"
    changes = {
        "model": {"tuning": tuning, "maxLength": 64},
        "train": SHORT_ROWS,
        "checkpoint": {"everySteps": 1},
    }
    run = folder / f"{name}.json"
    write_run(run, "sft", config("sft", STEPS, folder / name, **changes))
    what = {
        "plain": [str(BENCH / "plain_trl.py"), "sft", str(run)],
        "ours": ["-m", "aligntune.pod.rank", str(run)],
    }[name]
    command = [sys.executable, __file__, "timed", str(out), *what]
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        done = subprocess.run(command, stdout=output, stderr=output, env=environment(), check=False)
    if done.returncode:
        sys.exit(f"a run failed: {command}\n{log.read_text()[-3000:]}")
    return list(json.loads(out.read_text())[WARM_UP:])


def main(tunings: Sequence[str], runs: int) -> None:
    prepare()
    for tuning in tunings:
        load = os.getloadavg()[0]
        found: dict[str, list[list[Pause]]] = {"plain": [], "ours": []}
        for number in range(runs):
            with tempfile.TemporaryDirectory() as folder:
                for name in [*found][:: -1 if number % 2 else 1]:
                    found[name].append(pauses(name, tuning, Path(folder)))
                    print(tuning, name, found[name][-1], file=sys.stderr, flush=True)
        lines = ["| ms, median (range) | plain | ours |", "|---|---|---|"]
        for part in ("all", "CPU", *PARTS):
            values = [
                [1000 * p[part] for run in of for p in run if part in p] for of in found.values()
            ]
            lines.append(f"| {part} | {' | '.join(spread(of) if of else '' for of in values)} |")
        for part in ("all", "CPU"):
            plain, ours = ([mean(p[part] for p in run) for run in of] for of in found.values())
            of_runs = ratio(ours, plain)
            lines += ["", f"{part}, ours / plain, by runs (95% interval): {of_runs}"]
        title = f"The pause of a checkpoint, {tuning}, {runs} runs"
        publish(f"checkpoint-{tuning}", title, lines, found, load=load)


if __name__ == "__main__":
    if sys.argv[1:2] == ["timed"]:
        timed(Path(sys.argv[2]), sys.argv[3:])
    else:
        chosen, numbers = (
            [argument for argument in sys.argv[1:] if argument.isdecimal() == number]
            for number in (False, True)
        )
        main(chosen or TUNINGS, int(numbers[0]) if numbers else 3)
