"""Time to the first step: a pod's run, a plain TRL script, and the `trl` command line.

    python bench/first_step.py [sft|dpo|grpo] [RUNS]

The runs of methods.py, from the start of the first process to the end of the first optimizer step:
launcher and endpoint included for ours, accelerate's launcher for `trl`. They take turns, one at a
time, on one thread each, and every round begins with another. Models and data are local, so what is
measured is starting Python, importing, loading, and one step. `trl` gets its rows as messages
already. start_parts.py says where our time goes.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from commands import BENCH, asked_beside_trl, commands, environment, in_turn
from intervals import ratio, spread
from methods import prepare
from sections import publish

LONGEST = 600
"""Seconds that a first step may take."""


def seconds_to_first_step(command: list[str], folder: Path) -> float:
    """Start it, and end it there."""
    mark = folder / "first-step"
    mark.unlink(missing_ok=True)
    env = environment(str(BENCH / "at_first_step"), FIRST_STEP=str(mark))
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
            for name, command in in_turn(number, commands(method, 2, Path(folder))):
                seconds = seconds_to_first_step(command, Path(folder))
                print(method, name, seconds, file=sys.stderr, flush=True)
                if number:
                    taken.setdefault(name, []).append(seconds)
    lines = ["| | to it, median (range) | ours / this (95% interval) |", "|---|---|---|"]
    lines += [
        f"| {name} | {spread(values, 1)} s | {ratio(taken['ours'], values)} |"
        for name, values in taken.items()
    ]
    title = f"Time to the first step, {method}, {runs} rounds"
    publish(f"first-step-{method}", title, lines, taken, load=load)


if __name__ == "__main__":
    named_method, rounds = asked_beside_trl()
    main(named_method, rounds or 5)
