"""Strings for kubectl's columns, which can neither choose nor format."""

from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.progress import Metrics, Progress
from aligntune.api.status import Summary

MINUTE, HOUR, DAY = 60, 3600, 86_400


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


def duration(seconds: int) -> str:
    """5400 as `1h30m`, in the two largest units, as kubectl shows ages."""
    if seconds >= DAY:
        return f"{seconds // DAY}d{seconds % DAY // HOUR}h"
    if seconds >= HOUR:
        return f"{seconds // HOUR}h{seconds % HOUR // MINUTE}m"
    if seconds >= MINUTE:
        return f"{seconds // MINUTE}m{seconds % MINUTE}s"
    return f"{seconds}s"
