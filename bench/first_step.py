"""Time to the first step: a pod's run, a plain TRL script, and the `trl` command line.

    python bench/first_step.py [sft|dpo|grpo] [RUNS]

The runs of methods.py, from the start of the first process to the end of the first optimizer step:
launcher and endpoint included for ours, accelerate's launcher for `trl`. They take turns, one at a
time, on one thread each, and every round begins with another. Models and data are local, so what is
measured is starting Python, importing, loading, and one step. `trl` gets its rows as messages
already. start_parts.py says where our time goes.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from intervals import interval
from methods import ARGUMENTS, METHODS, MODEL, ROLES, asked, config, prepare

BENCH = Path(__file__).parent
BIN = Path(sys.executable).parent
LONGEST = 600
"""Seconds that a first step may take."""


def commands(method: str, folder: Path) -> dict[str, list[str]]:
    """What starts each of them."""
    section = "sft" if method == "sft" else "rl"
    run = folder / "run.json"
    run.write_text(json.dumps({section: config(method, 2, folder / "ours")}))
    rows = METHODS[method]["datasets"][0]["name"]
    return {
        "ours": [str(BIN / "aligntune"), "launch", str(run), "--port", "0"],
        "plain": [
            sys.executable,
            *(str(BENCH / "plain_trl.py"), method, str(MODEL), rows, str(folder / "plain"), "2"),
        ],
        "trl": [str(BIN / "trl"), method, *trl_options(method, messages(method, folder), folder)],
    }


def messages(method: str, folder: Path) -> Path:
    """The rows as `trl` wants them: with a message in place of each text."""
    (folder / "rows").mkdir()
    source = Path(METHODS[method]["datasets"][0]["name"])
    with (folder / "rows" / "train.jsonl").open("w") as file:
        for line in source.read_text().splitlines():
            row = json.loads(line)
            turns = {
                name: [{"role": role, "content": row[name]}] for name, role in ROLES[method].items()
            }
            file.write(json.dumps(turns) + "\n")
    return folder / "rows"


def trl_options(method: str, rows: Path, folder: Path) -> list[str]:
    """The settings of plain_trl.py."""
    sections = METHODS[method]
    settings: dict[str, Any] = ARGUMENTS | {
        "model_name_or_path": MODEL,
        "dtype": "float32",
        "dataset_name": rows,
        "output_dir": folder / "trl",
        "max_steps": 2,
        "per_device_train_batch_size": sections["train"]["perDeviceBatchSize"],
        "use_peft": True,
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_target_modules": "all-linear",
    }
    if method == "grpo":
        settings |= {"num_generations": 4, "max_completion_length": 8}
        settings |= {"reward_funcs": "plain_trl.length"}
    else:
        settings |= {"max_length": sections["model"]["maxLength"]}
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def seconds_to_first_step(command: list[str], folder: Path) -> float:
    """Start it, and end it there."""
    mark = folder / "first-step"
    mark.unlink(missing_ok=True)
    paths = [str(BENCH / "at_first_step"), str(BENCH), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "FIRST_STEP": str(mark),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    log = folder / "log"
    with log.open("wb") as output:
        began = time.monotonic()
        subprocess.run(command, stdout=output, stderr=output, env=env, timeout=LONGEST, check=False)
    if not mark.is_file():
        sys.exit(f"no step was made: {command}\n{log.read_text()[-3000:]}")
    return float(mark.read_text()) - began


def main(method: str, runs: int) -> None:
    prepare()
    load = os.getloadavg()[0]
    taken: dict[str, list[float]] = {}
    for number in range(runs + 1):  # the first round warms the caches up
        with tempfile.TemporaryDirectory() as folder:
            named = list(commands(method, Path(folder)).items())
            for name, command in named[number % 3 :] + named[: number % 3]:
                seconds = seconds_to_first_step(command, Path(folder))
                if number:
                    taken.setdefault(name, []).append(seconds)
    print(f"{method}, {runs} rounds, load {load:.1f} before and {os.getloadavg()[0]:.1f} after:\n")
    print("| | to the first step, median (range) | ours / this (95% interval) |\n|---|---|---|")
    for name, values in taken.items():
        ratios = [ours / other for ours, other in zip(taken["ours"], values, strict=True)]
        spread = f"{statistics.median(values):.1f} s ({min(values):.1f} to {max(values):.1f})"
        middle, low, high = interval(ratios) if name != "ours" else (1.0, 1.0, 1.0)
        print(f"| {name} | {spread} | {middle:.3f} ({low:.3f} to {high:.3f}) |")


if __name__ == "__main__":
    named_method, rounds = asked()
    if named_method == "reward":
        sys.exit("not for reward: the trl command line has other settings for it")
    main(named_method, rounds or 5)
