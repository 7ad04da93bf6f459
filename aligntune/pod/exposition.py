"""A snapshot in Prometheus' text format."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    StateSetMetricFamily,
    SummaryMetricFamily,
)

from aligntune.api.progress import Activity, Durations, Snapshot
from aligntune.api.run import JobIdentity
from aligntune.pod.gpus import Gpu


class Gauge(NamedTuple):
    """A metric's name and help."""

    name: str
    help: str


METRICS: dict[str, Gauge] = {
    "loss": Gauge("aligntune_train_loss", "Training loss at the last log line."),
    "evalLoss": Gauge("aligntune_train_eval_loss", "Loss at the last evaluation."),
    "learningRate": Gauge("aligntune_train_learning_rate", "Learning rate now."),
    "gradNorm": Gauge("aligntune_train_grad_norm", "L2 norm of the gradients, before clipping."),
    "rewardMean": Gauge("aligntune_train_reward_mean", "Mean reward of the last rollout."),
    "kl": Gauge("aligntune_train_kl_nats", "Estimated KL divergence from the reference model."),
}
"""The metrics of a snapshot with a name of their own; the others share one, by label."""


def exposition(snapshot: Snapshot, job: JobIdentity, gpus: Sequence[Gpu] = ()) -> bytes:
    """All that `/metrics` answers; what is not known yet is left out."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(families(snapshot, job, gpus)))
    return generate_latest(registry)


class _Once:
    """What the client library asks for metrics."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def families(snapshot: Snapshot, job: JobIdentity, gpus: Sequence[Gpu]) -> Iterator[Metric]:
    """The metrics of one scrape."""
    progress = snapshot.progress
    yield InfoMetricFamily(
        "aligntune_train",
        "Which attempt of which job this is.",
        {"job": job.name, "namespace": job.namespace, "attempt": str(snapshot.attempt)},
    )
    yield StateSetMetricFamily(
        "aligntune_train_activity",
        "What the trainer is doing.",
        {activity: activity == progress.activity for activity in get_args(Activity)},
    )
    known: list[tuple[str, str, float | None]] = [
        ("aligntune_train_step", "Optimizer steps done, over all attempts.", progress.step),
        ("aligntune_train_total_steps", "Steps of the whole run.", progress.total_steps),
        (
            "aligntune_train_progress_ratio",
            "Share of the steps done.",
            progress.step / progress.total_steps if progress.total_steps else None,
        ),
        ("aligntune_train_epoch", "Passes over the data done.", progress.epoch),
        ("aligntune_train_eta_seconds", "Expected time to the last step.", progress.eta_seconds),
        (
            "aligntune_train_samples_per_second",
            "Sequences trained on, over all processes.",
            progress.samples_per_second,
        ),
        (
            "aligntune_train_tokens_per_second",
            "Tokens trained on, over all processes.",
            progress.tokens_per_second,
        ),
        (
            "aligntune_train_checkpoint_step",
            "Step of the newest complete checkpoint.",
            snapshot.checkpoint.step if snapshot.checkpoint else None,
        ),
        (
            "aligntune_train_goodput_ratio",
            "Share of this attempt's time that went into steps.",
            snapshot.durations.step.seconds / snapshot.attempt_seconds
            if snapshot.attempt_seconds
            else None,
        ),
        (
            "aligntune_train_stalled_seconds",
            "Time without a step, once it exceeds the job's limit; else 0.",
            snapshot.stalled_seconds or 0,
        ),
        *((gauge.name, gauge.help, snapshot.metrics.get(name)) for name, gauge in METRICS.items()),
    ]
    for name, help_text, value in known:
        if value is not None:
            yield GaugeMetricFamily(name, help_text, value)
    yield CounterMetricFamily(
        "aligntune_train_kept_step_seconds",
        "Time spent in the steps that were kept, over all attempts.",
        progress.training_seconds,
    )
    for name, field in Durations.model_fields.items():
        spent = getattr(snapshot.durations, name)
        yield SummaryMetricFamily(
            f"aligntune_train_{name}_seconds",
            str(field.description),
            count_value=spent.count,
            sum_value=spent.seconds,
        )
    yield from _gpu_families(gpus)
    others = GaugeMetricFamily(
        "aligntune_train_metric", "The newest value of any other metric.", labels=["name"]
    )
    for name, value in snapshot.metrics.items():
        if name not in METRICS:
            others.add_metric([name], value)
    yield others


def _gpu_families(gpus: Sequence[Gpu]) -> Iterator[Metric]:
    used = GaugeMetricFamily(
        "aligntune_train_gpu_memory_used_bytes", "Memory of a GPU in use.", labels=["gpu"]
    )
    total = GaugeMetricFamily(
        "aligntune_train_gpu_memory_size_bytes", "Memory of a GPU.", labels=["gpu"]
    )
    busy = GaugeMetricFamily(
        "aligntune_train_gpu_utilization_ratio",
        "Share of the last moments in which a kernel ran on a GPU.",
        labels=["gpu"],
    )
    for gpu in gpus:
        labels = [str(gpu.number)]
        used.add_metric(labels, gpu.memory_used_bytes)
        total.add_metric(labels, gpu.memory_total_bytes)
        if gpu.utilization is not None:
            busy.add_metric(labels, gpu.utilization)
    yield from (used, total, busy)
