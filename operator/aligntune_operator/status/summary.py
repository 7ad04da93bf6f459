"""Strings for kubectl's columns, which can neither choose nor format."""

from aligntune.api.duration import duration
from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.progress import Metrics, Progress
from aligntune.api.status import Summary


def summarise(
    spec: AlignTuneJobSpec | None, progress: Progress | None, metrics: Metrics
) -> Summary:
    """The columns of a job; `spec` is None where it is invalid."""
    progress = progress or Progress()
    steps = f"{progress.step}/{progress.total_steps}" if progress.total_steps else ""
    return Summary(
        backend=spec.backend if spec else "",
        task=spec.task if spec else "",
        progress=steps,
        percent=f"{progress.percent}%" if progress.percent is not None else "",
        loss=f"{metrics['loss']:.4g}" if "loss" in metrics else "",
        eta=duration(progress.eta_seconds) if progress.eta_seconds is not None else "",
    )
