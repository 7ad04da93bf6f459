"""What people see of jobs: a table of many, a page of one. Pure: the time is passed in."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aligntune.api.conditions import Condition, Phase
from aligntune.api.duration import duration
from aligntune.api.status import AlignTuneJobStatus, Attempt
from aligntune.cluster.curves import sparkline
from aligntune.cluster.errors import ClusterError
from aligntune.cluster.job import Job

COLOURS = {
    Phase.RUNNING: "cyan",
    Phase.SUCCEEDED: "green",
    Phase.FAILED: "red",
    Phase.RESTARTING: "yellow",
    Phase.SUSPENDED: "yellow",
}
MUST_HOLD = (Condition.ACCEPTED, Condition.RESUMABLE)
"""Conditions that are shown if they are False, too; of the others those that hold."""
KUBECTLS = (
    "NAME", "BACKEND", "TASK", "PHASE", "STEP", "PROGRESS", "LOSS", "ETA", "RESTARTS", "AGE"
)  # fmt: skip
FOLLOWED = ("NAME", "PHASE", "STEP", "LOSS", "ETA", "RESTARTS", "AGE", "SEEN")
SPARKS = 30
FEWEST_SPARKS = 10
OTHERS_WIDTH = 90
"""Of a table beside its sparks, with a name of ordinary length."""
BAR = 30


def table(jobs: Sequence[Job], now: datetime, *, namespaces: bool = False) -> Table:
    """The columns of kubectl, one line for each job.

    Args:
        jobs: The jobs.
        now: The time.
        namespaces: Whether to tell each job's namespace.
    """
    before = ("NAMESPACE",) if namespaces else ()
    return _table((*before, *KUBECTLS), [_cells(job, now) for job in jobs])


def live_table(
    jobs: Sequence[Job], now: datetime, losses: Mapping[str, Sequence[float]], width: int
) -> Table:
    """What changes while jobs run, one line for each.

    Args:
        jobs: The jobs.
        now: The time.
        losses: The losses seen so far, by UID.
        width: Columns of the terminal: of losses, the newest are drawn that fit beside numbers.
    """
    sparks = min(SPARKS, max(FEWEST_SPARKS, width - OTHERS_WIDTH))
    rows = [
        {**_cells(job, now), "SEEN": sparkline(losses.get(job.uid, ()), sparks)} for job in jobs
    ]
    return _table(FOLLOWED, rows)


def _table(names: Sequence[str], rows: Iterable[Mapping[str, str | Text]]) -> Table:
    page = Table(box=None, pad_edge=False, header_style="")
    for name in names:
        # Where there is no room a name is cut, and no number.
        page.add_column(name, no_wrap=name != "NAME", overflow="ellipsis")
    for row in rows:
        page.add_row(*(row[name] for name in names))
    return page


def _cells(job: Job, now: datetime) -> dict[str, str | Text]:
    status = job.status
    summary = status.summary
    return {
        "NAMESPACE": job.namespace,
        "NAME": job.name,
        "BACKEND": summary.backend,
        "TASK": summary.task,
        "PHASE": Text(status.phase, COLOURS.get(status.phase, "")),
        "STEP": summary.progress,
        "PROGRESS": summary.percent,
        "LOSS": summary.loss,
        "ETA": summary.eta,
        "RESTARTS": str(status.attempts.restarts),
        "AGE": _since(job.created, now),
    }


def page(job: Job, now: datetime) -> Group:
    """All that is worth knowing of one job."""
    return Group(*_parts(job, now))


def _parts(job: Job, now: datetime) -> Iterator[RenderableType]:
    status = job.status
    yield _headline(job, now)
    if status.progress and status.progress.total_steps:
        yield _bar(status)
    yield _facts(
        {
            "pace": _pace(status),
            "checkpoint": _checkpoint(status, now),
            "model": " ".join(filter(None, (status.model.path, status.model.url)))
            if status.model
            else "",
            "from": ", ".join(f"{s.job} ({s.path or s.repo_id})" for s in status.lineage),
            "next start": _next(status, now),
            **(status.tracker_urls or {}),
        }
    )
    if status.failure and status.phase is not Phase.SUCCEEDED:
        yield from _failure(status)
    if status.metrics:
        yield _titled("METRICS", _metrics(status.metrics))
    if status.attempts.history:
        yield _titled("ATTEMPTS", _attempts(status.attempts.history, now))
    if status.conditions:
        yield _titled("CONDITIONS", _conditions(status, now))


def _headline(job: Job, now: datetime) -> Text:
    status = job.status
    headline = Text.assemble((job.name, "bold"), f" in {job.namespace}: ")
    headline.append(status.phase, COLOURS.get(status.phase, ""))
    progress = status.progress
    if status.phase is Phase.RUNNING and progress:
        headline.append(f", {progress.activity}")
    task = f"{status.summary.task} on {status.summary.backend}" if status.summary.task else ""
    age = f"{_since(job.created, now)} old"
    headline.append("\n" + ", ".join(filter(None, (task, _devices(job), age))))
    return headline


def _devices(job: Job) -> str:
    try:
        runtime = job.runtime
    except ClusterError:
        return ""  # what is wrong with it is among the conditions
    if runtime.gpus_per_node:
        count = runtime.nodes * runtime.gpus_per_node
        return f"{count} GPU{'' if count == 1 else 's'}"
    count = runtime.world_size
    return f"{count} CPU process{'' if count == 1 else 'es'}"


def _bar(status: AlignTuneJobStatus) -> RenderableType:
    progress, summary = status.progress, status.summary
    assert progress is not None  # noqa: S101 - what the caller has looked at
    line = Table.grid(padding=(0, 1))
    line.add_row(
        f"step {summary.progress}",
        ProgressBar(total=progress.total_steps, completed=progress.step, width=BAR),
        summary.percent,
        f"loss {summary.loss}" if summary.loss else "",
        f"{summary.eta} to go" if summary.eta else "",
    )
    return line


def _facts(facts: Mapping[str, str]) -> RenderableType:
    lines = Table.grid(padding=(0, 2))
    lines.add_column(no_wrap=True)
    lines.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            lines.add_row(name, value)
    return lines


def _pace(status: AlignTuneJobStatus) -> str:
    progress = status.progress
    if progress is None or status.phase is not Phase.RUNNING:
        return ""
    paces = {"samples": progress.samples_per_second, "tokens": progress.tokens_per_second}
    return ", ".join(f"{pace:,.4g} {what}/s" for what, pace in paces.items() if pace)


def _checkpoint(status: AlignTuneJobStatus, now: datetime) -> str:
    saved = status.checkpoint
    return f"step {saved.step}, {_since(saved.saved_at, now)} ago, {saved.path}" if saved else ""


def _next(status: AlignTuneJobStatus, now: datetime) -> str:
    start = status.attempts.next_start
    if start is None:
        return ""
    seconds = round((start - now).total_seconds())
    return f"in {duration(seconds)}" if seconds > 0 else "due"


def _failure(status: AlignTuneJobStatus) -> Iterator[RenderableType]:
    failure = status.failure
    assert failure is not None  # noqa: S101 - what the caller has looked at
    details = [
        f"exit code {failure.exit_code}" if failure.exit_code is not None else "",
        f"pod {failure.pod}" if failure.pod else "",
        "may pass" if failure.retryable else "does not pass by itself",
    ]
    yield Text.assemble(
        "\n",
        (failure.reason, "bold red"),
        f" ({', '.join(filter(None, details))})\n",
        failure.message,
    )
    if failure.log_tail:
        yield Padding(Text(failure.log_tail, "dim"), (0, 0, 0, 4))


def _metrics(metrics: Mapping[str, float]) -> Table:
    return _rows((name, f"{value:.4g}") for name, value in sorted(metrics.items()))


def _attempts(history: Sequence[Attempt], now: datetime) -> Table:
    return _rows(
        (
            f"{attempt.attempt}",
            f"steps {attempt.from_step} to {'?' if attempt.to_step is None else attempt.to_step}",
            f"for {_since(attempt.start, attempt.end or now)}" if attempt.start else "",
            (attempt.reason or "not over")
            + (f", exit code {attempt.exit_code}" if attempt.exit_code else ""),
            attempt.pod or "",
        )
        for attempt in history
    )


def _conditions(status: AlignTuneJobStatus, now: datetime) -> Table:
    """A line for each reason: several conditions often hold, or have changed, for the same one."""
    told: dict[tuple[str, str, str], list[str]] = {}
    for condition in status.conditions:
        holds = condition.status == "True"
        if holds or (condition.status == "False" and condition.type in MUST_HOLD):
            since = f"for {_since(condition.last_transition_time, now)}"
            names = told.setdefault((condition.reason, since, condition.message), [])
            names.append(condition.type if holds else f"not {condition.type}")
    return _rows((", ".join(names), *reason) for reason, names in told.items())


def _titled(title: str, body: RenderableType) -> RenderableType:
    return Group(Text(f"\n{title}"), body)


def _rows(rows: Iterable[tuple[str, ...]]) -> Table:
    lines = Table.grid(padding=(0, 2))
    for row in rows:
        lines.add_row("", *row)
    for column in lines.columns[:-1]:
        column.no_wrap = True
    return lines


def _since(then: datetime, now: datetime) -> str:
    return duration(max(round((now - then).total_seconds()), 0))
