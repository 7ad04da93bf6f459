"""Draws the job dashboard's queries over a real run: `python charts/pictures.py`.

Trains examples/sft-chat.yaml on this machine, lets a real Prometheus scrape it, asks that one for
every query of the dashboard, and draws what it answers into docs/pictures/. Queries of the
operator's metrics find nothing, since no operator runs; those panels are left out, and named.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

import matplotlib as mpl
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the tests' Prometheus is Debian's, fetched once per machine

from tests.cluster.processes import wait_until  # noqa: E402
from tests.cluster.prometheus import Prometheus, Target, scraping  # noqa: E402

PICTURE = ROOT / "docs" / "pictures" / "job.png"
JOB, NAMESPACE = "sft-chat", "default"
STEPS = 24
START_SECONDS, RUN_SECONDS = 300, 3600
RESOLUTION_SECONDS = 2
YAML_FILE = YAML(typ="safe")

Panels = dict[str, dict[str, list[tuple[float, float]]]]
"""Panel -> line -> its points: seconds since the run began, and the value."""


def manifest(folder: Path) -> Path:
    """The example with an evaluation and a checkpoint at each third of a short run."""
    job = YAML_FILE.load(ROOT / "examples" / f"{JOB}.yaml")
    sft = job["spec"]["sft"]
    held_out = {"name": "/cache/data/chatterbot/test.jsonl", "maxSamples": 16}
    sft["train"]["maxSteps"] = STEPS
    sft["evaluation"] = {"datasets": [held_out], "everySteps": STEPS // 3}
    sft["checkpoint"] = {"everySteps": STEPS // 3}
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    return path


def answers(prometheus: Prometheus, began: float) -> Panels:
    """What the dashboard's queries find since the run began."""
    found: Panels = {}
    for panel in YAML_FILE.load(ROOT / "charts" / "dashboards.yaml")["job"]["panels"]:
        for legend, query in panel["queries"].items():
            expression = query.replace("$namespace", NAMESPACE).replace("$job", JOB)
            series = prometheus.over(expression, began, time.time(), RESOLUTION_SECONDS)
            points = [
                (float(at) - began, float(value)) for each in series for at, value in each["values"]
            ]
            if points:
                found.setdefault(panel["title"], {})[legend] = points
            else:
                print(f"no data: {panel['title']}: {legend}")
    return found


def draw(panels: Panels) -> None:
    """One small plot per panel."""
    mpl.use("agg")
    from matplotlib import pyplot as plt

    rows = -(-len(panels) // 2)
    figure, plots = plt.subplots(rows, 2, figsize=(10, 2.4 * rows), layout="constrained")
    for plot, (title, lines) in zip(plots.flat, panels.items(), strict=False):
        for legend, points in lines.items():
            plot.plot(*zip(*points, strict=True), label=legend)
        plot.xaxis.set_major_formatter("{x:.0f} s")
        plot.set_title(title, fontsize=9)
        plot.tick_params(labelsize=7)
        plot.legend(fontsize=7)
    for plot in plots.flat[len(panels) :]:
        plot.axis("off")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE)


def main() -> None:
    """Runs, scrapes, asks, draws."""
    subprocess.run([sys.executable, ROOT / "examples" / "prepare.py"], check=True)
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "aligntune"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.time()
        run = subprocess.Popen(
            [Path(sys.executable).with_name("aligntune"), "run", manifest(folder),
             "--output", folder / "runs", "--volume", f"cache={cache}"],
        )  # fmt: skip
        endpoint = folder / "runs" / JOB / "attempt-1" / "endpoint.json"
        wait_until("the endpoint answers", endpoint.exists, START_SECONDS)
        address = urllib.parse.urlsplit(json.loads(endpoint.read_text())["url"]).netloc
        labels = {"namespace": NAMESPACE, "aligntune_io_job_name": JOB}
        with scraping(folder, Target("trainer", address, labels=labels)) as prometheus:
            if code := run.wait(RUN_SECONDS):
                sys.exit(f"the run has failed: exit code {code}")
            draw(answers(prometheus, began))


if __name__ == "__main__":
    main()
