"""What `aligntune run` shows: a live progress bar, then the status as in the resource."""

import sys
from types import TracebackType
from typing import Self

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from ruamel.yaml import YAML

from aligntune.api.conditions import Phase
from aligntune.api.job import Manifest
from aligntune.api.status import AlignTuneJobStatus


class Console:
    """A progress bar on a terminal; one line for each change of phase and tenth elsewhere."""

    def __init__(self, name: str) -> None:
        self._out = rich.console.Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=self._out,
            disable=not self._out.is_terminal,
        )
        self._task = self._bar.add_task(f"{name}: {Phase.PENDING}", total=None, numbers="")
        self._name = name
        self._told = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, status: AlignTuneJobStatus) -> None:
        """Brings the bar up to date."""
        progress, summary = status.progress, status.summary
        doing = status.phase.value
        if status.phase is Phase.RUNNING and progress and progress.activity != "training":
            doing = f"{doing}, {progress.activity}"
        numbers = f"loss {summary.loss}" if summary.loss else ""
        if summary.eta:
            numbers += f"  eta {summary.eta}"
        self._bar.update(
            self._task,
            description=f"{self._name}: {doing}",
            completed=progress.step if progress else 0,
            total=progress.total_steps if progress else None,
            numbers=numbers,
        )
        tenth = (progress.percent or 0) // 10 if progress else 0
        line = f"{self._name}: {doing} {tenth * 10}%"
        if not self._out.is_terminal and line != self._told:
            self._told = line
            self._out.print(f"{self._name}: {doing} {summary.progress} {numbers}".rstrip())

    def conclude(self, manifest: Manifest, status: AlignTuneJobStatus) -> None:
        """Prints the final status to stdout, and why it failed to stderr."""
        yaml = YAML()
        yaml.explicit_start = True
        yaml.dump(
            {
                "apiVersion": manifest.api_version,
                "kind": manifest.kind,
                "metadata": {"name": manifest.metadata.name},
                "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
            },
            sys.stdout,
        )
        if status.failure:
            sys.stdout.flush()
            sys.stderr.write(f"{status.failure.reason}: {status.failure.message}\n")
