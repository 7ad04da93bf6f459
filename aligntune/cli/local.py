"""Commands that need no cluster: check, render and run manifests; start the processes of a pod."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from aligntune.api import env
from aligntune.api.exit_codes import ExitCode
from aligntune.core.clock import now


class OutputFormat(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"


ManifestFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="An AlignTuneJob, YAML or JSON.")
]

ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="A RunConfig, as the operator writes it.")
]


def validate(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="AlignTuneJobs; - is standard input.")
    ],
) -> None:
    """Check manifests as the operator would, without a cluster."""
    from aligntune.api.manifest import ManifestError, read_manifests

    wrong = 0
    for file in files:
        try:
            for manifest in read_manifests(file):
                spec = manifest.spec
                typer.echo(f"{file}: {manifest.metadata.name}: valid ({spec.backend}, {spec.task})")
        except ManifestError as error:
            typer.echo(error, err=True)
            wrong += 1
    if wrong:
        raise typer.Exit(ExitCode.BAD_CONFIG)


def render(file: ManifestFile) -> None:
    """Show the objects that an operator with the settings of this environment would make."""
    from aligntune.api.manifest import read_manifests
    from aligntune.api.yaml import write_yaml
    from aligntune_operator.observe import Key, queue_labels
    from aligntune_operator.render.job import job
    from aligntune_operator.render.shared import shared_objects
    from aligntune_operator.settings import load_settings

    uid, settings = "00000000-0000-0000-0000-000000000000", load_settings(command_line=False)
    objects: list[dict[str, object]] = []
    for manifest in read_manifests(file):
        key = Key(manifest.metadata.namespace, manifest.metadata.name)
        if manifest.spec.suspend:
            typer.echo(f"{file}: {key.name} is suspended: no objects until it is not", err=True)
            continue
        if any(model.from_job for model in manifest.spec.method.models.values()):
            typer.echo(
                f"{file}: {key.name} waits for another job's model: no objects until it is there",
                err=True,
            )
            continue
        queue = queue_labels(manifest.metadata.labels)
        objects += shared_objects(key, uid, manifest.spec, settings)
        objects.append(job(key, uid, manifest.spec, 1, settings, generation=1, queue_labels=queue))
    write_yaml(objects, sys.stdout)


def estimate(
    file: ManifestFile,
    model: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Has the config.json of a model that is in the pod."),
    ] = None,
    reward_model: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The same of the reward model.")
    ] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(metavar="GIB", help="Say whether it fits into such a GPU.")
    ] = None,
    output: Annotated[OutputFormat, typer.Option(help="A table, or JSON with bytes.")] = (
        OutputFormat.TABLE
    ),
) -> None:
    """Show the GPU memory that a job needs, without loading anything."""
    from aligntune.api.manifest import read_manifests
    from aligntune.cli.memory_table import Estimated, dump, show
    from aligntune.core.memory.estimate import estimate as estimated
    from aligntune.model_config import shape_at

    jobs: list[Estimated] = []
    for manifest in read_manifests(file):
        config, runtime = manifest.spec.method, manifest.spec.runtime
        stages = {job.manifest.metadata.name: job.shape for job in jobs}
        shape = shape_at(config.model, model, stages)
        scorer = config.models.get("reward_model")
        memory = estimated(
            config,
            shape,
            processes=runtime.world_size,
            gpu=runtime.gpus_per_node > 0,
            reward_model=shape_at(scorer, reward_model, stages, "rewardModel") if scorer else None,
        )
        jobs.append(Estimated(manifest, shape, memory))
    if output is OutputFormat.JSON:
        dump(jobs, gpu_memory)
        return
    for job in jobs:
        show(job, gpu_memory)


def run(
    file: ManifestFile,
    output: Annotated[Path, typer.Option(help="Folder that stands for the job's storage.")] = Path(
        "runs"
    ),
    volume: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="Folder that stands for a volume; repeatable."),
    ] = None,
) -> None:
    """Run a job on this machine, or the stages in a file one after the other: local processes in
    place of pods.
    """
    from aligntune.api.conditions import Phase
    from aligntune.api.manifest import read_manifests
    from aligntune.cli.console import Console
    from aligntune_operator import local

    for manifest in read_manifests(file):
        with Console(manifest.metadata.name) as console:
            status = local.run(manifest, output, _volumes(volume or []), now, console.show)
        console.conclude(manifest, status)
        if status.phase is Phase.SUSPENDED and status.attempts.current:
            raise typer.Exit(ExitCode.PREEMPTED)
        if status.failure:
            raise typer.Exit(status.failure.exit_code or ExitCode.SOFTWARE)


def launch(
    config: ConfigFile,
    port: Annotated[int, typer.Option(help="Port of /progress and /metrics; 0: a free one.")] = (
        env.PROGRESS_PORT
    ),
) -> None:
    """Run one attempt: start its training processes and watch over them (a pod's first process)."""
    from aligntune.pod.launcher import launch as launch_ranks

    raise typer.Exit(launch_ranks(config, env=os.environ, port=port))


def train(config: ConfigFile) -> None:
    """Train in this very process, without a launcher around it."""
    from aligntune.pod.rank import train as train_rank

    raise typer.Exit(train_rank(config))


def _volumes(options: list[str]) -> dict[str, Path]:
    volumes = {}
    for option in options:
        name, separator, folder = option.partition("=")
        if not separator:
            raise typer.BadParameter(f"{option!r} is not NAME=FOLDER", param_hint="--volume")
        volumes[name] = Path(folder)
    return volumes
