"""What `aligntune estimate` shows: a table for people, or JSON for programs."""

import json
import sys
from typing import NamedTuple

import rich.console
from rich.table import Table

from aligntune.api.job import Manifest
from aligntune.core.memory.estimate import TOLERANCE, Estimate, fits
from aligntune.core.memory.shape import ModelShape

GIB = 2**30


class Estimated(NamedTuple):
    """A job and what it needs."""

    manifest: Manifest
    shape: ModelShape
    estimate: Estimate


def show(job: Estimated, gpu_memory_gib: float | None) -> None:
    """Print the table of a job to stdout: a column for each moment that may be the worst."""
    spec, found = job.manifest.spec, job.estimate
    moments = found.moments
    gpu = spec.runtime.gpus_per_node > 0
    table = Table(
        title=f"{job.manifest.metadata.name}: {spec.task}, {spec.method.model.tuning},"
        f" {job.shape.parameters / 1e6:,.0f} million parameters,"
        f" {spec.runtime.world_size} x {'GPU' if gpu else 'CPU process'}",
        title_justify="left",
    )
    table.add_column(f"GiB per {'GPU' if gpu else 'process'}")
    for moment in moments:
        table.add_column(moment, justify="right", style="bold" if moment == found.peak else None)
    for part in found.parts:
        table.add_row(part.name, *(_gib(part.at.get(moment)) for moment in moments))
    table.add_section()
    if found.reserve:
        table.add_row("CUDA and fragmentation", *(_gib(found.reserve) for _ in moments))
    table.add_row("in all", *(_gib(size + found.reserve) for size in moments.values()))
    console = rich.console.Console(highlight=False, markup=False, emoji=False)
    console.print(table)
    console.print(
        f"{_gib(found.total)} GiB at the peak ({found.peak}), give or take {TOLERANCE:.0%}"
    )
    if gpu_memory_gib is not None:
        verdict = fits(found, int(gpu_memory_gib * GIB))
        console.print(f"in {gpu_memory_gib:g} GiB: {verdict}")
    for note in found.notes:
        console.print(f"not counted: {note}")


def dump(jobs: list[Estimated], gpu_memory_gib: float | None) -> None:
    """Print what the table shows as JSON to stdout; sizes are in bytes."""
    documents = []
    for manifest, shape, found in jobs:
        document = {
            "name": manifest.metadata.name,
            "parameters": shape.parameters,
            "parts": [
                {"name": part.name, "bytes": {name: round(at) for name, at in part.at.items()}}
                for part in found.parts
            ],
            "moments": found.moments,
            "peak": found.peak,
            "reserve": found.reserve,
            "total": found.total,
            "tolerance": TOLERANCE,
            "notes": list(found.notes),
        }
        if gpu_memory_gib is not None:
            document["verdict"] = fits(found, int(gpu_memory_gib * GIB))
        documents.append(document)
    json.dump(documents, sys.stdout, indent=2)
    sys.stdout.write("\n")


def _gib(size: float | None) -> str:
    return "" if not size else f"{size / GIB:.2f}" if size >= GIB / 100 else "<0.01"
