"""A pod's run beside a plain TRL script with equal settings: time per step, time to the first.

    python bench/steps.py [PAIRS]

SmolLM2-135M-Instruct, LoRA, batch 4, on the chatterbot corpus. Ours is the whole pod: launcher,
endpoint, rank, progress reports. The two take turns, so that what else the machine does hits both;
each pair gives a ratio of mean step times, and the ratios a mean with a 95% confidence interval.
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
STEPS, WARM_UP = 25, 3
STUDENT_T = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""97.5% quantiles by degrees of freedom."""


def plain(folder: Path) -> list[float]:
    """Ends of the steps of the plain script, in seconds from its start."""
    times = folder / "plain.json"
    script = [sys.executable, BENCH / "stopwatch.py", times, BENCH / "plain_trl.py"]
    with (folder / "plain.log").open("wb") as log:
        subprocess.run(
            [*script, MODEL, DATA, folder / "plain", str(STEPS)],
            check=True,
            stdout=log,
            stderr=log,
        )
    ends: list[float] = json.loads(times.read_text())
    return ends


def ours(folder: Path) -> list[float]:
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
        code = launch(config, env=os.environ, port=0, rank_command=stopwatch, stdout=log)
    if code:
        sys.exit(f"our run failed: {(folder / 'ours.log').read_text()[-2000:]}")
    ends: list[float] = json.loads(times.read_text())
    return ends


def step_seconds(ends: list[float]) -> float:
    """Mean seconds per step after the warm-up."""
    return (ends[-1] - ends[WARM_UP - 1]) / (len(ends) - WARM_UP)


def main(pairs: int) -> None:
    subprocess.run([sys.executable, BENCH.parent / "examples" / "prepare.py"], check=True)
    results = []
    print(
        "| pair | plain, s/step | ours, s/step | ratio | plain, s to step 1 | ours, s to step 1 |"
    )
    print("|---|---|---|---|---|---|")
    for pair in range(pairs):
        with tempfile.TemporaryDirectory() as folder:
            runs = (plain, ours) if pair % 2 == 0 else (ours, plain)
            ends = {run: run(Path(folder)) for run in runs}
        a, b = ends[plain], ends[ours]
        results.append((step_seconds(b) / step_seconds(a), b[0] / a[0]))
        print(
            f"| {pair + 1} | {step_seconds(a):.3f} | {step_seconds(b):.3f} | {results[-1][0]:.3f}"
            f" | {a[0]:.1f} | {b[0]:.1f} |",
            flush=True,
        )
    for what, ratios in zip(
        ("time per step", "time to the first step"), zip(*results, strict=True), strict=True
    ):
        middle = statistics.mean(ratios)
        half = STUDENT_T[pairs - 1] * statistics.stdev(ratios) / pairs**0.5
        print(
            f"\n{what}, ours / plain: {middle:.3f} (95% interval {middle - half:.3f}"
            f" to {middle + half:.3f}, {pairs} pairs)"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
