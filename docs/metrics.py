"""Every metric, as a scrape of a busy operator and of a busy trainer has it."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from aligntune.api.progress import Checkpoint, Duration, Progress, Snapshot
from aligntune.api.run import JobIdentity
from aligntune.pod.exposition import METRICS, families
from aligntune.pod.gpus import Gpu
from aligntune_operator.cache import Cache
from aligntune_operator.metrics import Metrics

NOW = datetime(2026, 11, 1, tzinfo=UTC)
PROGRESS = Progress(
    step=30,
    total_steps=40,
    epoch=0.75,
    percent=75,
    eta_seconds=20,
    samples_per_second=2,
    tokens_per_second=250,
    training_seconds=60,
    activity="training",
    updated_at=NOW,
)
SNAPSHOT = Snapshot(
    progress=PROGRESS,
    metrics={**dict.fromkeys(METRICS, 1.0), "rewardStd": 1.0},
    checkpoint=Checkpoint(step=20, path="checkpoint-20", saved_at=NOW),
    durations={"step": Duration(count=30, seconds=60)},
    attempt_seconds=90,
)
GPU = Gpu(0, 60 << 30, 80 << 30, 0.9)
JOB: dict[str, Any] = {
    "metadata": {
        "namespace": "research",
        "name": "support-bot",
        "uid": "uid",
        "resourceVersion": "1",
        "generation": 1,
        "creationTimestamp": NOW.isoformat(),
    },
    "spec": {},
    "status": {
        "phase": "Running",
        "progress": PROGRESS.model_dump(by_alias=True),
        "metrics": {"loss": 1.0},
        "attempts": {"activeSeconds": 100},
    },
}
UNITS = ("seconds", "bytes", "ratio", "nats", "per_second")
"""What a name may end in, `_total` aside, and is measured in."""


def of_the_trainer() -> list[Metric]:
    """What a pod's `/metrics` may have."""
    identity = JobIdentity(name="support-bot", namespace="research")
    return list(families(SNAPSHOT, identity, [GPU]))


def of_the_operator() -> list[Metric]:
    """What the operator's `/metrics` has of its own: the client library's come on top."""
    cache, registry = Cache(), CollectorRegistry()
    cache.take_object(JOB)
    metrics = Metrics(registry, cache, lambda: 0, lambda: True)
    metrics.count_poll("ok")
    metrics.request("get", "pods", 200)
    return list(registry.collect())


def table(metrics: Iterable[Metric]) -> str:
    """A row for each metric."""
    rows = (
        f"| `{exposed_name(metric)}` | {metric.type} | {unit(metric)} |"
        f" {', '.join(f'`{label}`' for label in labels(metric))} | {metric.documentation} |"
        for metric in sorted(metrics, key=exposed_name)
    )
    return "\n".join(
        ("| metric | type | unit | labels | meaning |", "|---|---|---|---|---|", *rows)
    )


def exposed_name(metric: Metric) -> str:
    """The name to ask Prometheus for; of histograms and summaries, without `_sum` and so on."""
    return metric.name + {"counter": "_total", "info": "_info"}.get(metric.type, "")


def unit(metric: Metric) -> str:
    """What the name says that it is measured in; nothing for bare numbers."""
    found = next((unit for unit in UNITS if metric.name.endswith(f"_{unit}")), "")
    return found.replace("per_second", "per second")


def labels(metric: Metric) -> list[str]:
    """The labels' names, in the order in which they are exported."""
    names = dict.fromkeys(label for sample in metric.samples for label in sample.labels)
    return [name for name in names if name != "le"]
