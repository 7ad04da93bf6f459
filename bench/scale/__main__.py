"""The operator at scale, beside Kubeflow Trainer and a bare client, on a real control plane.

    python -m bench.scale [PART ...] [--runs 3] [--share 1.0] [--folder runs/bench]

Parts: burst-200, burst-1000, steady, single, and requests, which has the API server write down who
asks for what, and so runs once and is not timed; of the operator alone reporting, failover, and
growth. All of them are the default. `report` writes the report anew, of the raw data and of the
sections that the benches of the trainer have published.
Each run has a cluster, processes and data of its own; the sides take turns. Reporting takes root;
so does Trainer, whose controllers have a /tmp of their own, or user namespaces. `--share 0.1` makes
a tenth of the objects.
"""

import argparse
import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.scale.failover import failovers
from bench.scale.measure import (
    BARE,
    CREATING,
    FLOOR,
    OPERATED,
    PEER,
    RAISED,
    Contest,
    Record,
    grown,
    one_by_one,
    run,
    steadily,
)
from bench.scale.report import write_report
from bench.scale.reporting import reported
from bench.sections import REPORT


class Part(NamedTuple):
    """So many objects, and the sides that take turns."""

    objects: int
    contests: tuple[Contest, ...]
    audited: bool = False


PARTS = {
    "burst-200": Part(200, (OPERATED, FLOOR, CREATING, BARE, PEER, RAISED)),
    "burst-1000": Part(1000, (OPERATED, FLOOR, CREATING, BARE, PEER)),
    "steady": Part(
        1200, tuple(contest._replace(create=steadily(20)) for contest in (OPERATED, BARE, PEER))
    ),
    "single": Part(20, tuple(contest._replace(create=one_by_one) for contest in (OPERATED, PEER))),
    "requests": Part(50, (OPERATED, BARE, PEER), audited=True),
}
ALONE = {
    "reporting": ((1000,), reported),
    "failover": ((200,), failovers),
    "growth": ((100, 1000, 5000), grown),
}
"""What is measured of the operator alone: with how many jobs, and how."""

Measurement = tuple[str, Callable[[], Coroutine[None, None, Record]]]


def measurements(parts: list[str], runs: int, share: float) -> Iterator[Measurement]:
    """What to run, by the name of its raw data."""
    for number in range(runs):
        for part in parts:
            if part in ALONE:
                counts, measure = ALONE[part]
                for count in counts:
                    there = max(int(count * share), 1)
                    yield f"{part}-{count}.AlignTuneJob.{number}", partial(measure, there)
            elif part in PARTS and not (PARTS[part].audited and number):
                count, contests, audited = PARTS[part]
                there = max(int(count * share), 1)
                # Whoever comes first finds the machine as the others do not.
                turn = number % len(contests)
                for contest in contests[turn:] + contests[:turn]:
                    name = f"{part}.{contest.name}.{number}"
                    yield name, partial(run, contest, there, audited=audited)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.scale", description="Measures the operator.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, *ALONE, "report", []])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, default=REPORT)
    given = parser.parse_args()
    raw = given.folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    parts = given.parts or [*PARTS, *ALONE]
    for name, measure in measurements(parts, given.runs, given.share):
        record = asyncio.run(measure())
        (raw / f"{name}.json").write_text(json.dumps(record))
        print(f"{name}: {record['seconds']:.1f} s, load {os.getloadavg()[0]:.1f}", flush=True)
    print(write_report(given.folder))


if __name__ == "__main__":
    main()
