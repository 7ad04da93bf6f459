"""A pod's run beside a plain TRL script with equal settings: cost per step, time to the first.

    python bench/steps.py [PAIRS]

SmolLM2-135M-Instruct, LoRA, batch 4, on the chatterbot corpus. Ours is the whole pod: launcher,
endpoint, rank, progress reports. The two take turns, so that what else the machine does hits both;
each pair gives a ratio, the ratios a mean with a 95% confidence interval. Both run on one thread:
on a shared machine, threads that wait for each other show what else runs there.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from aligntune.pod.launcher import launch

BENCH = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "aligntune"
MODEL = CACHE / "models" / "SmolLM2-135M-Instruct"
DATA = CACHE / "data" / "chatterbot" / "train.jsonl"
STEPS, WARM_UP = 15, 3
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
Ends = list[tuple[float, float]]
"""Seconds and CPU seconds from the start of the process to the end of each step."""
STUDENT_T = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""97.5% quantiles by degrees of freedom."""


def plain(folder: Path) -> Ends:
    """Ends of the steps of the plain script."""
    times = folder / "plain.json"
    script = [sys.executable, BENCH / "stopwatch.py", times, BENCH / "plain_trl.py"]
    with (folder / "plain.log").open("wb") as log:
        subprocess.run(
            [*script, MODEL, DATA, folder / "plain", str(STEPS)],
            check=True,
            stdout=log,
            stderr=log,
            env=ONE_THREAD,
        )
    ends: Ends = json.loads(times.read_text())
    return ends


def ours(folder: Path) -> Ends:
    """The same of a pod's run."""
    times = folder / "ours.json"
    config = folder / "run.json"
    method = {
        "model": {"name": str(MODEL), "maxLength": 128},
        "datasets": [{"name": str(DATA)}],
        "train": {"maxSteps": STEPS, "perDeviceBatchSize": 4, "learningRate": 1e-3},
        "checkpoint": {"everySteps": STEPS},
        "outputDir": str(folder / "ours"),
    }
    config.write_text(json.dumps({"sft": method}))
    stopwatch = (
        sys.executable,
        str(BENCH / "stopwatch.py"),
        str(times),
        "-m",
        "aligntune.pod.rank",
    )
    with (folder / "ours.log").open("wb") as log:
        code = launch(config, env=ONE_THREAD, port=0, rank_command=stopwatch, stdout=log)
    if code:
        sys.exit(f"our run failed: {(folder / 'ours.log').read_text()[-2000:]}")
    ends: Ends = json.loads(times.read_text())
    return ends


def per_step(ends: Ends, clock: int) -> float:
    """Mean cost of a step after the warm-up."""
    return (ends[-1][clock] - ends[WARM_UP - 1][clock]) / (len(ends) - WARM_UP)


def main(pairs: int) -> None:
    subprocess.run([sys.executable, BENCH.parent / "examples" / "prepare.py"], check=True)
    print("| pair | plain: s, CPU s per step, s to step 1 | ours: the same |\n|---|---|---|")
    results = []
    for pair in range(pairs):
        with tempfile.TemporaryDirectory() as folder:
            runs = (plain, ours) if pair % 2 == 0 else (ours, plain)
            ends = {run: run(Path(folder)) for run in runs}
        figures = [(per_step(e, 0), per_step(e, 1), e[0][0]) for e in (ends[plain], ends[ours])]
        results.append([b / a for a, b in zip(*figures, strict=True)])
        cells = (" / ".join(f"{figure:.3f}" for figure in row) for row in figures)
        print(f"| {pair + 1} | {' | '.join(cells)} |", flush=True)
    names = ("time per step", "CPU time per step", "time to the first step")
    for name, ratios in zip(names, zip(*results, strict=True), strict=True):
        middle = statistics.mean(ratios)
        half = STUDENT_T[pairs - 1] * statistics.stdev(ratios) / pairs**0.5
        interval = f"95% interval {middle - half:.3f} to {middle + half:.3f}"
        print(f"\n{name}, ours / plain: {middle:.3f} ({interval}, {pairs} pairs)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
