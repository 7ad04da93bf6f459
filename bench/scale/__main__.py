"""The operator at scale, beside a bare client that makes the same writes, on a real control plane.

    python -m bench.scale [PART ...] [--runs 3] [--share 1.0] [--folder runs/bench/scale]

Parts: burst-200, burst-1000, steady, single; growth takes longer and runs where it is named; report
draws the report from the raw data alone. Each run has a cluster, processes and data of its own; the
sides take turns. `--share 0.1` makes a tenth of the objects.
"""

import argparse
import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path

from bench.scale.measure import (
    BARE,
    FLOOR,
    OPERATED,
    Contest,
    Record,
    grown,
    one_by_one,
    run,
    steadily,
)
from bench.scale.report import write_report

PARTS: dict[str, tuple[int, tuple[Contest, ...]]] = {
    "burst-200": (200, (OPERATED, FLOOR, BARE)),
    "burst-1000": (1000, (OPERATED, FLOOR, BARE)),
    "steady": (
        1200,
        tuple(contest._replace(create=steadily(20)) for contest in (OPERATED, BARE)),
    ),
    "single": (20, (OPERATED._replace(create=one_by_one),)),
}
"""Name -> objects, and the sides that take turns."""
GROWTH = (100, 1000, 5000)

Measurement = tuple[str, Callable[[], Coroutine[None, None, Record]]]


def measurements(parts: list[str], runs: int, share: float) -> Iterator[Measurement]:
    """What to run, by the name of its raw data."""
    for number in range(runs):
        for part in parts:
            if part == "growth":
                for count in GROWTH:
                    there = max(int(count * share), 1)
                    yield f"growth-{count}.AlignTuneJob.{number}", partial(grown, there)
            elif part in PARTS:
                count, contests = PARTS[part]
                there = max(int(count * share), 1)
                # Whoever comes first finds the machine as the others do not.
                turn = number % len(contests)
                for contest in contests[turn:] + contests[:turn]:
                    name = f"{part}.{contest.name}.{number}"
                    yield name, partial(run, contest, there)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.scale", description="Measures the operator.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "growth", "report", []])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench/scale"))
    given = parser.parse_args()
    raw = given.folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, measure in measurements(given.parts or list(PARTS), given.runs, given.share):
        record = asyncio.run(measure())
        (raw / f"{name}.json").write_text(json.dumps(record))
        print(f"{name}: {record['seconds']:.1f} s, load {os.getloadavg()[0]:.1f}", flush=True)
    print(write_report(given.folder))


if __name__ == "__main__":
    main()
