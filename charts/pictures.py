"""Draws the dashboards' queries over real jobs: `python charts/pictures.py`, as root.

On the test cluster with the chart's two replicas: a chat model, a model that learns sums by reward,
and a job whose model is missing. In between a training pod and the operator that leads are deleted.
A real Prometheus scrapes all pods and is asked for every query; docs/pictures/ shows its answers.
Queries that find nothing, as those of GPUs do here, are left out and named.
"""

import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the tests' cluster, and Debian's Prometheus

from tests.cluster import packages  # noqa: E402
from tests.cluster.cluster import Cluster  # noqa: E402
from tests.cluster.helm import NAMESPACE as OPERATORS  # noqa: E402
from tests.cluster.helm import RELEASE  # noqa: E402
from tests.cluster.processes import wait_until  # noqa: E402
from tests.cluster.prometheus import Prometheus, scraping  # noqa: E402
from tests.e2e.conftest import (  # noqa: E402
    NAMESPACE,
    Chart,
    Monitoring,
    Tenant,
    example,
    new_tenant,
)

PICTURES = ROOT / "docs" / "pictures"
STATE = ROOT / ".cache" / "pictures"
CHAT, SUMS, WRONG = "sft-chat", "grpo-sums", "no-model"
STEPS = {CHAT: 48, SUMS: 24}
PARTS = 3
"""An evaluation and a checkpoint at each of so many parts of a run."""
HELD_OUT = {CHAT: "chatterbot", SUMS: "sums"}
DISTURBED_AT = STEPS[CHAT] // 2 + 2
"""A step between two checkpoints: it is seen what is done again."""
PATIENCE_SECONDS = 1800
PAUSE_SECONDS = 2.0
SCRAPED_SECONDS = 60
RESOLUTION_SECONDS = 2

Panels = dict[tuple[str, str], dict[str, list[tuple[float, float]]]]
"""Title and unit of a panel -> line -> its points: seconds since the beginning, and the value."""


def manifests() -> list[dict[str, Any]]:
    """Two examples, short and with evaluations, and one that cannot succeed."""
    jobs = [example(CHAT), example(SUMS), example(CHAT)]
    for job in jobs[:2]:
        spec, name = job["spec"], job["metadata"]["name"]
        section = spec.get("sft") or spec["rl"]
        every = {"everySteps": STEPS[name] // PARTS}
        data = {"name": f"/cache/data/{HELD_OUT[name]}/test.jsonl", "maxSamples": 16}
        section["train"]["maxSteps"] = STEPS[name]
        section |= {"evaluation": {"datasets": [data], **every}, "checkpoint": every}
    jobs[2]["metadata"]["name"] = WRONG
    jobs[2]["spec"]["sft"]["model"]["name"] = "/cache/models/none"
    return jobs


def train(cluster: Cluster, tenant: Tenant, monitoring: Monitoring, prometheus: Prometheus) -> None:
    """Runs the jobs to their end, disturbed half-way, until that is scraped."""
    for manifest in manifests():
        tenant.apply(manifest)

    def until(what: str, condition: Callable[[dict[str, Any]], bool], name: str) -> None:
        def holds() -> bool:
            monitoring.look()
            return condition(tenant.status(name))

        wait_until(what, holds, PATIENCE_SECONDS, pause_seconds=PAUSE_SECONDS)

    until(
        f"step {DISTURBED_AT}",
        lambda status: status.get("progress", {}).get("step", 0) >= DISTURBED_AT,
        CHAT,
    )
    tenant("delete", tenant.pod(CHAT), "--grace-period=0", "--force")
    lease = json.loads(cluster.kubectl("-n", OPERATORS, "get", "lease", RELEASE, "-o", "json"))
    leader = lease["spec"]["holderIdentity"].partition("_")[0]
    cluster.kubectl("-n", OPERATORS, "delete", "pod", leader)
    for name in (CHAT, SUMS):
        until(
            f"{name} has ended",
            lambda status: status.get("phase") in ("Succeeded", "Failed"),
            name,
        )
    over = f'max(aligntune_jobs{{phase="Succeeded"}}) == {len(STEPS)}'
    wait_until("the end is scraped", lambda: bool(prometheus.query(over)), SCRAPED_SECONDS)


def answers(prometheus: Prometheus, dashboard: str, job: str, began: float) -> Panels:
    """What a dashboard's queries find since the beginning."""
    found: Panels = {}
    source = YAML(typ="safe").load(ROOT / "charts" / "dashboards.yaml")[dashboard]
    chosen = {"$namespace": NAMESPACE, "$job": job, "$release": RELEASE}
    for panel in source["panels"]:
        for legend, query in panel["queries"].items():
            expression = query
            for variable, value in chosen.items():
                expression = expression.replace(variable, value)
            series = prometheus.over(expression, began, time.time(), RESOLUTION_SECONDS)
            if not series:
                print(f"no data: {dashboard} {job}: {panel['title']}: {legend}")
            for each in series:
                points = [(float(at) - began, float(value)) for at, value in each["values"]]
                lines = found.setdefault((panel["title"], panel["unit"]), {})
                lines[_filled_in(legend, each["metric"])] = points
    return found


def _filled_in(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), legend)


def draw(panels: Panels, file: Path) -> None:
    """One small plot per panel."""
    mpl.use("agg")
    from matplotlib import pyplot as plt

    rows = -(-len(panels) // 2)
    figure, plots = plt.subplots(rows, 2, figsize=(10, 2.4 * rows), layout="constrained")
    for plot, ((title, unit), lines) in zip(plots.flat, panels.items(), strict=False):
        for legend, points in sorted(lines.items()):
            plot.plot(*zip(*points, strict=True), label=legend)
        plot.xaxis.set_major_formatter("{x:.0f} s")
        if unit == "percentunit":
            plot.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1))
        plot.set_title(f"{title} (s)" if unit == "s" else title, fontsize=9)
        plot.tick_params(labelsize=7)
        plot.legend(fontsize=6)
    for plot in plots.flat[len(panels) :]:
        plot.axis("off")
    figure.savefig(file)
    plt.close(figure)


def main() -> None:
    """Runs, scrapes, asks, draws."""
    packages.require()
    with tempfile.TemporaryDirectory() as name, Cluster(STATE) as cluster:
        folder = Path(name)
        tenant = new_tenant(cluster, STATE / "models")
        Chart(cluster).install()
        monitoring = Monitoring(cluster, tenant, folder)
        with scraping(folder, *monitoring.scrapes) as prometheus:
            began = time.time()
            train(cluster, tenant, monitoring, prometheus)
            for dashboard, job, file in (
                ("fleet", "", "fleet"),
                ("job", CHAT, "job"),
                ("job", SUMS, "job-with-rewards"),
                ("operator", "", "operator"),
            ):
                draw(answers(prometheus, dashboard, job, began), PICTURES / f"{file}.png")


if __name__ == "__main__":
    main()
