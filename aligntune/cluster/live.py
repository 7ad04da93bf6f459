"""Following jobs: a live table on a terminal, a line for each change elsewhere."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from datetime import datetime

import rich.console
from rich.live import Live

from aligntune.api.conditions import OVER
from aligntune.api.exit_codes import ExitCode
from aligntune.cluster.client import Object
from aligntune.cluster.errors import ClusterError
from aligntune.cluster.job import Job
from aligntune.cluster.pages import live_table


def follow(
    changes: Iterable[list[Object]],
    name: str,
    clock: Callable[[], datetime],
    console: rich.console.Console,
) -> Job:
    """Shows every change, until the job of that name is over; without a name, for ever.

    Args:
        changes: All jobs, anew after each change.
        name: The one that is waited for; empty: none.
        clock: Tells the time.
        console: Where it is shown.

    Raises:
        ClusterError: The job of that name is not there, or not any more.
    """
    losses: dict[str, list[float]] = defaultdict(list)
    steps: dict[str, int] = {}
    told: dict[str, str] = {}
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    with live or nullcontext():
        for bodies in changes:
            jobs = [Job.of(body) for body in bodies]
            for job in jobs:
                _remember(job, losses, steps)
            if live is not None:
                live.update(live_table(jobs, clock(), losses, console.width), refresh=True)
            else:
                for job in jobs:
                    if told.get(job.uid) != (line := _line(job)):
                        told[job.uid] = line
                        console.print(line, soft_wrap=True)
            if name:
                if not jobs:
                    raise ClusterError(f"{name} is not there", ExitCode.NOT_FOUND)
                if jobs[0].status.phase in OVER:
                    return jobs[0]
    raise ClusterError("the cluster tells no more changes")


def _remember(job: Job, losses: dict[str, list[float]], steps: dict[str, int]) -> None:
    progress, loss = job.status.progress, job.status.metrics.get("loss")
    if progress and loss is not None and steps.get(job.uid) != progress.step:
        steps[job.uid] = progress.step
        losses[job.uid].append(loss)


def _line(job: Job) -> str:
    status, summary = job.status, job.status.summary
    parts = [
        status.phase,
        summary.progress,
        f"loss {summary.loss}" if summary.loss else "",
        f"eta {summary.eta}" if summary.eta else "",
    ]
    return f"{job.name}: {' '.join(filter(None, parts))}"
