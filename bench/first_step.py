"""From the start of a run to its first step, part by part: `python bench/first_step.py [RUNS]`.

Runs examples/sft-chat.yaml as `aligntune run` does, asks its endpoint twenty times a second what it
is doing, and prints what each part took, by the clock and of the CPU, as docs/first-step.md has it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).parents[1]
PARTS = (
    "command line, validation, launcher",
    "Python and PyTorch in the rank",
    "model, data, adapters, optimizer",
    "first step",
)
"""What has ended by the time that the next thing is seen."""


def job(folder: Path) -> Path:
    """The example, cut after a few steps."""
    manifest = yaml.safe_load((ROOT / "examples" / "sft-chat.yaml").read_text())
    manifest["spec"]["sft"]["train"]["maxSteps"] = 2
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(manifest))
    return path


def snapshots(folder: Path) -> Iterator[dict[str, object]]:
    """What the endpoint answers, from its first answer on."""
    while True:
        found = list(folder.glob("runs/*/attempt-1/endpoint.json"))
        if found:
            url = json.loads(found[0].read_text())["url"]
            with urllib.request.urlopen(f"{url}/progress", timeout=5) as answer:
                yield json.load(answer)
        time.sleep(0.05)


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process and of all that it has started and that still run."""
    everybody = [process, *process.children(recursive=True)]
    times = [each.cpu_times() for each in everybody]
    return sum(each.user + each.system for each in times)


def seconds_until_each(folder: Path) -> list[tuple[float, float]]:
    """Seconds, and CPU seconds, from the start of the process until each part has ended."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "aligntune"
    command = [Path(sys.executable).with_name("aligntune"), "run", job(folder), "--output",
               folder / "runs", "--volume", f"cache={cache}"]  # fmt: skip
    began, seen = time.monotonic(), []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for snapshot in snapshots(folder):
        progress = snapshot["progress"]
        reached = (
            True,
            progress["activity"] != "starting",
            progress["activity"] == "training",
            progress["step"] >= 1,
        )
        now = time.monotonic() - began, cpu_seconds(psutil.Process(process.pid))
        seen += [now] * (sum(reached) - len(seen))
        if all(reached):
            break
    process.wait()
    return seen


def main() -> None:
    """Prints a table."""
    subprocess.run([sys.executable, ROOT / "examples" / "prepare.py"], check=True)
    runs = []
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(seconds_until_each(Path(folder)))
    print("| part | seconds, median (range) | CPU seconds |\n|---|---|---|")
    before = [(0.0, 0.0)] * len(runs)
    for part, ends in zip(PARTS, zip(*runs, strict=True), strict=True):
        took = [end[0] - start[0] for end, start in zip(ends, before, strict=True)]
        cpu = [end[1] - start[1] for end, start in zip(ends, before, strict=True)]
        print(f"| {part} | {spread(took)} | {spread(cpu)} |")
        before = list(ends)


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
