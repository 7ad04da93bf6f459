"""Commands about jobs on a cluster: `aligntune list`, or `kubectl aligntune list`."""

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aligntune.api.conditions import OVER, Phase
from aligntune.api.exit_codes import ExitCode
from aligntune.cli.target import Target, job_names, on_cluster
from aligntune.core.clock import now

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

COLUMNS = 120
"""Width of a page that goes to no terminal."""
WIDEST = 10_000


class Output(StrEnum):
    """How objects are printed."""

    JSON = "json"
    YAML = "yaml"


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="An AlignTuneJob.", autocompletion=job_names)
]
Names = Annotated[
    list[str], typer.Argument(metavar="NAME", help="AlignTuneJobs.", autocompletion=job_names)
]
AsObjects = Annotated[
    Output | None, typer.Option("--output", "-o", help="Print the whole objects instead.")
]
Image = Annotated[
    str | None,
    typer.Option(help="Image of a pod that reads the storage. Unset: the job's own."),
]


@on_cluster
def submit(
    target: Target,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="AlignTuneJobs; - is standard input.")
    ],
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow them to their end.")] = False,
    force_conflicts: Annotated[
        bool, typer.Option("--force-conflicts", help="Take over fields that others have set.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask the API server, and change nothing.")
    ] = False,
    output: AsObjects = None,
) -> None:
    """Check jobs, then create or update them (server-side apply, unknown fields refused)."""
    from aligntune.api.manifest import read_documents
    from aligntune.cluster.errors import ClusterError

    documents = [(file, document) for file in files for _, document in read_documents(file)]
    cluster = target.connect()
    applied = []
    for file, document in documents:
        metadata = document["metadata"]
        there = cluster.within(metadata.get("namespace", cluster.namespace))
        if target.namespace and there.namespace != target.namespace:
            raise ClusterError(
                f"{file}: {metadata['name']} is for namespace {there.namespace}, and --namespace"
                f" says {target.namespace}: leave one of them out",
                ExitCode.BAD_CONFIG,
            )
        body = there.apply(document, force=force_conflicts, dry_run=dry_run)
        applied.append((there, body))
        if output is None:
            typer.echo(_describe_submission(body, dry_run=dry_run), err=watch)
    if output is not None:
        _print([body for _, body in applied], output)
    if watch and not dry_run:
        codes = [_follow_or_tell(there, body["metadata"]["name"]) for there, body in applied]
        raise typer.Exit(next(filter(None, codes), 0))


@on_cluster
def list_jobs(
    target: Target,
    *,
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A")] = False,
    selector: Annotated[
        str, typer.Option("--selector", "-l", help="Only those with these labels.")
    ] = "",
    output: AsObjects = None,
) -> None:
    """Show the jobs of a namespace."""
    from aligntune.cluster.job import Job
    from aligntune.cluster.pages import table

    cluster = target.connect()
    bodies = cluster.jobs(everywhere=everywhere, selector=selector)
    if output is not None:
        _print(bodies, output, always_list=True)
        return
    if not bodies:
        where = "any namespace" if everywhere else f"namespace {cluster.namespace}"
        typer.echo(f"no AlignTuneJobs in {where}", err=True)
        return
    _print_whole(table([Job.of(body) for body in bodies], now(), namespaces=everywhere))


@on_cluster
def status(target: Target, name: Name, *, output: AsObjects = None) -> None:
    """Show all that is known of a job: phase, progress, metrics, attempts, causes."""
    from aligntune.cluster.job import Job
    from aligntune.cluster.pages import page

    body = target.connect().get(name)
    if output is not None:
        _print([body], output)
        return
    _console().print(page(Job.of(body), now()))


@on_cluster
def watch(
    target: Target,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="An AlignTuneJob. Unset: all.", autocompletion=job_names
        ),
    ] = None,
) -> None:
    """Follow jobs: a live table with the losses seen since; one job to its end."""
    raise typer.Exit(_follow(target.connect(), name or ""))


@on_cluster
def logs(
    target: Target,
    name: Name,
    *,
    attempt: Annotated[int | None, typer.Option(help="Unset: the newest.")] = None,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="The attempt before the newest.")
    ] = False,
    rank: Annotated[list[int] | None, typer.Option(help="Repeatable. Unset: all.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing.")] = False,
    tail: Annotated[int | None, typer.Option(help="So many lines of each. Unset: all.")] = None,
    storage: Annotated[
        bool, typer.Option("--storage", help="Read the storage although pods are there.")
    ] = False,
    image: Image = None,
) -> None:
    """Show what an attempt printed: from its pods, or from the storage where they are gone."""
    from aligntune.cluster.job import Job
    from aligntune.cluster.logs import attempt_of, places, pods_of
    from aligntune.cluster.stored import lines

    cluster = target.connect()
    job = Job.of(cluster.get(name))
    number = attempt_of(job, attempt, previous=previous)
    pods = pods_of(job, number, cluster.pods(name))
    found = places(job, rank or (), pods, from_storage=storage)
    for line in lines(
        cluster, job, number, found, tail=tail, follow=follow, image=image, tell=_tell
    ):
        typer.echo(line)


@on_cluster
def plot(
    target: Target,
    name: Name,
    *,
    file: Annotated[
        Path | None, typer.Option("--file", help="PNG, SVG or PDF. Unset: NAME.png.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Repeatable. Unset: losses, rewards and KL.")
    ] = None,
    image: Image = None,
) -> None:
    """Draw the loss and reward curves of a job, from its storage, as a picture."""
    import matplotlib as mpl  # noqa: F401 - missing, it is better told before a pod is made

    from aligntune.cluster.curves import chosen, curves, draw
    from aligntune.cluster.job import Job
    from aligntune.cluster.stored import read_curves

    cluster = target.connect()
    job = Job.of(cluster.get(name))
    found = chosen(curves(read_curves(cluster, job, image, _tell)), metric or (), name)
    picture = file or Path(f"{name}.png")
    draw(found, f"{name} ({job.status.phase})", picture)
    for shown, curve in found.items():
        ends = curve if len(curve) == 1 else (curve[0], curve[-1])
        told = ", ".join(f"{value:.4g} at step {step:g}" for step, value in ends)
        typer.echo(f"{shown}: {told}")
    typer.echo(f"{picture} written")


@on_cluster
def suspend(target: Target, names: Names, *, output: AsObjects = None) -> None:
    """Have jobs save a checkpoint and hold no pods until they are resumed."""
    _suspend(target, names, output, suspend=True)


@on_cluster
def resume(target: Target, names: Names, *, output: AsObjects = None) -> None:
    """Let suspended jobs go on from their checkpoint."""
    _suspend(target, names, output, suspend=False)


@on_cluster
def delete(
    target: Target,
    names: Names,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete jobs with their pods; what is on the storage and the hub stays."""
    from aligntune.cluster.job import Job

    cluster = target.connect()
    jobs = [Job.of(cluster.get(name)) for name in names]
    for job in jobs:
        phase = f"{job.status.phase} {job.status.summary.progress}".rstrip()
        typer.echo(f"{job.name} in {job.namespace} ({phase}): {_describe_output(job)}", err=True)
    if not yes:
        typer.confirm("Delete?", abort=True, err=True)
    for job in jobs:
        cluster.delete(job.name, job.uid)
        typer.echo(f"{job.name}: deleted")


def _suspend(target: Target, names: list[str], output: Output | None, *, suspend: bool) -> None:
    cluster = target.connect()
    bodies = []
    for name in names:
        body = cluster.set_suspend(name, suspend=suspend)
        bodies.append(body)
        phase = body.get("status", {}).get("phase")
        if output is not None:
            continue
        if phase in OVER:
            typer.echo(f"{name}: it is over already ({phase}); nothing changes")
        elif suspend:
            typer.echo(f"{name}: saves a checkpoint and stops")
        else:
            typer.echo(f"{name}: may run")
    if output is not None:
        _print(bodies, output)


def _follow_or_tell(cluster: Any, name: str) -> int:  # noqa: ANN401 - its class is imported late
    """Like `_follow`, but what cannot be followed is only told: others are to be watched, too."""
    from aligntune.cluster.errors import ClusterError

    try:
        return _follow(cluster, name)
    except ClusterError as error:
        _tell(str(error))
        return error.exit_code


def _follow(cluster: Any, name: str) -> int:  # noqa: ANN401 - its class is imported late
    """Shows jobs until the named one is over; its exit code."""
    from aligntune.cluster.live import follow

    job = follow(cluster.changes(_tell, name), name, now, _console())
    if job.status.failure is None or job.status.phase is not Phase.FAILED:
        return ExitCode.DONE
    _tell(f"{job.name}: {job.status.failure.reason}: {job.status.failure.message}")
    return job.status.failure.exit_code or ExitCode.SOFTWARE


def _describe_submission(body: dict[str, Any], *, dry_run: bool) -> str:
    name, namespace = body["metadata"]["name"], body["metadata"]["namespace"]
    phase = body.get("status", {}).get("phase")
    if dry_run:
        return f"{name}: would be accepted in {namespace}"
    if phase in OVER:
        return (
            f"{name}: updated in {namespace}, but it has {phase.lower()} and does not run again:"
            " delete it first, or take another name"
        )
    return (
        f"{name}: updated in {namespace} ({phase})"
        if phase
        else f"{name}: submitted to {namespace}"
    )


def _describe_output(job: Any) -> str:  # noqa: ANN401 - its class is imported late
    if job.claim is None:
        return "its storage is ephemeral, so its checkpoints go with it"
    return f"{job.output_folder} in claim {job.claim} stays"


def _print(bodies: list[dict[str, Any]], output: Output, *, always_list: bool = False) -> None:
    """The objects as kubectl prints them: without the book-keeping of who set which field."""
    for body in bodies:
        body["metadata"].pop("managedFields", None)
    several = {"apiVersion": "v1", "kind": "List", "items": bodies}
    document = bodies[0] if len(bodies) == 1 and not always_list else several
    if output is Output.JSON:
        json.dump(document, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        from aligntune.api.yaml import write_yaml

        write_yaml([document], sys.stdout)


def _tell(sentence: str) -> None:
    typer.echo(sentence, err=True)


def _console() -> "Console":
    # Late, as a pod's launcher is one of these commands, too, and prints no tables.
    from rich.console import Console

    terminal = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = None if terminal else COLUMNS
    return Console(width=width, highlight=False, markup=False, emoji=False)


def _print_whole(table: "Table") -> None:
    """Prints a table with no name cut, however narrow the terminal: others read it, too."""
    from rich.measure import Measurement

    console = _console()
    wide = console.options.update(max_width=WIDEST)
    console.width = max(console.width, Measurement.get(console, wide, table).maximum)
    console.print(table, crop=False)
