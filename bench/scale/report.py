"""The report: Markdown with tables and plots, from raw data and published sections alone."""

import json
import os
import platform
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.scale.figures import MILESTONES, Spread, cuts, latencies, percentile, rate, spread
from bench.sections import published

Record = Mapping[str, Any]
Runs = Mapping[str, Sequence[Record]]
"""Name of a side -> its runs."""
OTHERS = ("floor", "floor with creation", "TrainJob", "TrainJob with raised limits")
"""Whom we are compared with."""
OWN = ("operator", "trainer", "jobset")
"""Clients of the API server that a cluster has for a side's sake."""
WRITES = ("create", "update", "patch", "delete")


def write_report(folder: Path) -> Path:
    """Writes report.md, and its plots beside it; returns its path."""
    parts: defaultdict[str, defaultdict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted((folder / "raw").glob("*.json")):
        part, side, _ = file.stem.split(".")
        parts[part][side].append(json.loads(file.read_text()))
    texts = [_head(parts)]
    audited = parts.pop("requests", None)
    alone = {name: parts.pop(name)["AlignTuneJob"] for name in [*parts] if _kind(name) in ALONE}
    for part, runs in parts.items():
        texts.append(_part(part, runs, folder))
    if audited:
        texts.append(_clients({side: record for side, [record] in audited.items()}))
    texts += [ALONE[_kind(name)](records) for name, records in alone.items()]
    if growth := {name: sides["AlignTuneJob"] for name, sides in parts.items() if "growth" in name}:
        texts.append(_growth(growth))
    texts += published(folder)
    report = folder / "report.md"
    report.write_text("\n\n".join(texts) + "\n")
    return report


def _kind(part: str) -> str:
    return part.split("-", maxsplit=1)[0]


def _head(parts: Mapping[str, Runs]) -> str:
    loads = [
        load for runs in parts.values() for s in runs.values() for r in s for load in r["load"]
    ]
    load = f"{min(loads):.1f} to {max(loads):.1f}" if loads else "unknown"
    return (
        f"# Speed and scale\n\n{os.cpu_count()} CPU cores, Python"
        f" {platform.python_version()}. The operator's sections: load {load} (our own included)."
        " Control plane, operator, client and watcher share the machine. Median of the runs, and"
        " their range. The raw data are in `raw`; each section of the trainer says the load, and"
        " its raw data are in `sections`."
        "\n\nJob: nothing but Kubernetes. floor: a bare client makes the operator's first two"
        " writes for objects that are there; with creation, it creates them, too, as is done for"
        " every other side. TrainJob: Kubeflow Trainer and JobSet as shipped, with their webhooks;"
        " its status tells of nothing before the end. With raised limits, Trainer may ask as often"
        " as JobSet. Each has the service account, the rights and the log of its own manifests."
    )


def _part(part: str, runs: Runs, folder: Path) -> str:
    counts = {record["count"] for records in runs.values() for record in records}
    number = {len(records) for records in runs.values()}
    text = [
        f"## {part}",
        f"{'/'.join(map(str, sorted(counts)))} objects, {'/'.join(map(str, sorted(number)))} runs.",
        _rates(runs),
        _latency_table(runs),
        _cost_table(runs),
        _requests(runs),
        f"![{part}]({_plot(part, runs, folder)})",
    ]
    return "\n\n".join(filter(None, text))


def _over(runs: Sequence[Record], figure: Callable[[Record], float], digits: int = 0) -> str:
    return _told(spread(figure(record) for record in runs), digits)


def _told(values: Spread, digits: int = 0) -> str:
    return f"{values.median:.{digits}f} ({values.low:.{digits}f} to {values.high:.{digits}f})"


def _job_rate(record: Record) -> float:
    return rate(record["timeline"], "job", 0.0)


def _rates(runs: Runs) -> str:
    rows = ["| | Jobs a second | all done after, s |", "|---|---|---|"]
    for side, records in runs.items():
        done = _over(records, lambda record: record["seconds"], 1)
        rows.append(f"| {side} | {_over(records, _job_rate, 1)} | {done} |")
    # Where the floor takes no part, the client's own pace bounds the rate.
    if "floor" in runs and "AlignTuneJob" in runs:
        ours = spread(map(_job_rate, runs["AlignTuneJob"])).median
        for other in (other for other in OTHERS if other in runs):
            theirs = spread(map(_job_rate, runs[other])).median
            rows.append(f"\nAlignTuneJob / {other}: {ours / theirs:.0%} of the Jobs a second.")
    return "\n".join(rows)


def _latency_table(runs: Runs) -> str:
    rows = ["| ms from creation | p50 | p95 | p99 | max |", "|---|---|---|---|---|"]
    for side, records in runs.items():
        for milestone in MILESTONES:
            waits = [latencies(record["timeline"], "created", milestone) for record in records]
            if not all(waits):
                continue
            marks = [cuts(values) for values in waits]
            cells = [_told(spread(1000 * mark[key] for mark in marks)) for key in marks[0]]
            rows.append(f"| {side}: {milestone} | {' | '.join(cells)} |")
        watched = [latencies(record["timeline"], "object", "job") for record in records]
        if side == "AlignTuneJob" and all(watched):
            middle = spread(1000 * percentile(values, 50) for values in watched)
            what = "from its own watch event to its Job's"
            rows.append(f"| {side}: {what} | {_told(middle)} | | | |")
    return "\n".join(rows)


def _cost_table(runs: Runs) -> str:
    programs = list(dict.fromkeys(p for records in runs.values() for p in records[0]["usage"]))
    rows = [
        f"| CPU ms for each object | {' | '.join(programs)} | all |",
        f"|{'---|' * (len(programs) + 2)}",
    ]
    for side, records in runs.items():
        cells = [
            _over(records, partial(_cpu_ms, program=program), 1)
            if program in records[0]["usage"]
            else ""
            for program in programs
        ]
        rows.append(f"| {side} | {' | '.join(cells)} | {_over(records, _all_cpu_ms, 1)} |")
    rows += [
        "",
        f"| MiB at the most | {' | '.join(programs)} |",
        f"|{'---|' * (len(programs) + 1)}",
    ]
    for side, records in runs.items():
        cells = [
            _over(records, partial(_peak_mib, program=program))
            if program in records[0]["usage"]
            else ""
            for program in programs
        ]
        rows.append(f"| {side} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cpu_ms(record: Record, program: str) -> float:
    return float(1000 * record["usage"][program]["cpu_seconds"] / record["count"])


def _peak_mib(record: Record, program: str) -> float:
    return float(record["usage"][program]["peak_mib"])


def _each(record: Record, of: str, kind: str) -> float:
    return float(record[of].get(kind, 0.0))


def _all_cpu_ms(record: Record) -> float:
    return sum(_cpu_ms(record, program) for program in record["usage"])


def _requests(runs: Runs) -> str:
    sides = list(runs)
    kinds = list(
        dict.fromkeys(k for records in runs.values() for r in records for k in r["requests"])
    )
    rows = [
        f"| requests for each object | {' | '.join(sides)} |",
        f"|{'---|' * (len(sides) + 1)}",
    ]
    for kind in kinds:
        cells = [_over(runs[side], partial(_each, of="requests", kind=kind), 2) for side in sides]
        rows.append(f"| {kind} | {' | '.join(cells)} |")
    told = list(dict.fromkeys(k for records in runs.values() for r in records for k in r["events"]))
    for kind in told:
        cells = [_over(runs[side], partial(_each, of="events", kind=kind), 2) for side in sides]
        rows.append(f"| Event, {kind} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _clients(runs: Mapping[str, Record]) -> str:
    sides, kinds = list(runs), sorted({kind for r in runs.values() for kind in r["clients"]})
    own = [
        sum(each for kind, each in record["clients"].items() if _is_own_write(kind))
        for record in runs.values()
    ]
    rows = [
        "## Who asks for what",
        "",
        f"{'/'.join(str(r['count']) for r in runs.values())} objects, once, by the audit log.",
        "",
        f"| requests for each object | {' | '.join(sides)} |",
        f"|{'---|' * (len(sides) + 1)}",
        f"| writes of its own controllers | {' | '.join(f'{each:.2f}' for each in own)} |",
    ]
    for kind in kinds:
        cells = [f"{runs[side]['clients'].get(kind, 0.0):.2f}" for side in sides]
        rows.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _is_own_write(kind: str) -> bool:
    """Of requests that are named `client: verb resource`."""
    client, _, what = kind.partition(": ")
    return client in OWN and what.split(" ")[0] in WRITES


def _reporting(records: Sequence[Record]) -> str:
    ages = " / ".join(
        _over(records, lambda record, mark=mark: record["age_seconds"][mark], 1)
        for mark in ("p50", "p99", "max")
    )
    rows = [
        f"## {records[0]['count']} running jobs that all report",
        "",
        f"{len(records)} runs, {_over(records, lambda r: r['failed_polls'])} polls failed.",
        "",
        "| | |",
        "|---|---|",
        f"| age of a status, p50 / p99 / max | {ages} s |",
        f"| CPU of the operator | {_over(records, lambda r: r['cores'], 2)} of a core |",
        f"| resident at its most | {_over(records, lambda r: r['peak_mib'])} MiB |",
        f"| status writes per job in 10 s | {_over(records, lambda r: r['writes_in_10_s'], 2)} |",
    ]
    return "\n".join(rows)


def _failover(records: Sequence[Record]) -> str:
    rows = [
        f"## Failover with {records[0]['count']} jobs",
        "",
        f"{len(records)} runs. From the signal to the leader until a new AlignTuneJob has its Job.",
        "",
        "| signal | s |",
        "|---|---|",
    ]
    for name in records[0]["failover_seconds"]:
        took = _over(records, lambda record, name=name: record["failover_seconds"][name], 1)
        rows.append(f"| {name} | {took} |")
    return "\n".join(rows)


ALONE = {"reporting": _reporting, "failover": _failover}
"""Sections about the operator alone, by the kind of their part."""


def _growth(parts: Mapping[str, Sequence[Record]]) -> str:
    figures: dict[str, tuple[Callable[[Record], float], int]] = {
        "Jobs a second": (_job_rate, 1),
        "creation to Succeeded in its status, the last, s": (lambda r: r["seconds"], 0),
        "CPU ms of all processes for each job": (_all_cpu_ms, 0),
        "CPU ms of the API server for each job": (lambda r: _cpu_ms(r, "kube-apiserver"), 0),
        "CPU ms of the operator for each job": (lambda record: _cpu_ms(record, "operator"), 1),
        "MiB of the API server at the most": (lambda r: _peak_mib(r, "kube-apiserver"), 0),
        "MiB of etcd at the most": (lambda record: _peak_mib(record, "etcd"), 0),
        "MiB resident": (lambda record: record["resident_mib"], 0),
        "CPU of the operator while idle, % of a core": (
            lambda record: (
                100 * record["idle"]["operator"]["cpu_seconds"] / record["idle"]["seconds"]
            ),
            2,
        ),
        "kB in etcd for each job: AlignTuneJob, Job and pod": (
            lambda r: sum(r["stored_bytes"][of] for of in ("aligntunejobs", "jobs", "pods")) / 1000,
            1,
        ),
        "creation to Job of 5 a second on top, p50 ms": (lambda r: _on_top(r, 50), 0),
        "the same, p99 ms": (lambda record: _on_top(record, 99), 0),
        "restart: ready after, s": (lambda record: record["restart_ready_seconds"], 1),
        "restart: nothing left to do after, s": (lambda r: r["restart_settled_seconds"], 1),
        "MiB resident after it": (lambda record: record["restarted_mib"], 0),
    }
    names = sorted(parts, key=lambda name: parts[name][0]["count"])
    counts = " | ".join(str(parts[name][0]["count"]) for name in names)
    rows = ["## How cost grows", "", f"| jobs | {counts} |", f"|{'---|' * (len(names) + 1)}"]
    for what, (figure, digits) in figures.items():
        cells = " | ".join(_over(parts[name], figure, digits) for name in names)
        rows.append(f"| {what} | {cells} |")
    return "\n".join(rows)


def _on_top(record: Record, percent: int) -> float:
    return 1000 * percentile(latencies(record["on_top"]["timeline"], "created", "job"), percent)


def _plot(part: str, runs: Runs, folder: Path) -> str:
    """When each side's Jobs were there, run by run; the file's name."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for colour, (side, records) in enumerate(runs.items()):
        for number, record in enumerate(records):
            moments = sorted(t["job"] for t in record["timeline"].values() if "job" in t)
            label = side if number == 0 else None
            axes.plot(moments, range(1, len(moments) + 1), color=f"C{colour}", label=label)
    axes.set(xlabel="seconds since the first write", ylabel="Jobs there", title=part)
    axes.legend()
    figure.savefig(folder / f"{part}.svg")
    plt.close(figure)
    return f"{part}.svg"
