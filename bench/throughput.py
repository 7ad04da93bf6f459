"""Tokens a second with packing and without: a pod's run of SFT beside a plain TRL script.

    python bench/throughput.py [RUNS]

Conversations of 34 to 347 tokens, 55 on average, as they come: 8 of them in a padded batch, or
packed into 2 sequences of 256 tokens, which is about as many tokens a step. The four runs take
turns step by step, on one thread each. Tokens are those of the rows; padding is none.

A pod refuses packing without flash attention, which has no kernel for CPUs; here ours is let
through. What a mask instead of a kernel costs is in the figures, for both alike.
"""

import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from intervals import ratio, spread
from methods import config, prepare, write_run
from racers import Cost, Racer, start_ours, start_plain
from sections import publish

STEPS, WARM_UP = 7, 2
STARTS: dict[str, Any] = {
    "plain": start_plain,
    "ours": partial(start_ours, rank=(__file__, "rank")),
}
FORMS: dict[str, dict[str, Any]] = {
    "padded": {"perDeviceBatchSize": 8},
    "packed": {"perDeviceBatchSize": 2, "packing": True},
}
Rates = tuple[float, float]
"""Tokens a second and a CPU second."""


def race(folder: Path, *, backwards: bool) -> dict[tuple[str, str], Rates]:
    """One run of each form by each of the two."""
    racers = {}
    for form, train in FORMS.items():
        for name, start in STARTS.items():
            run = folder / f"{name}-{form}.json"
            settings = {"model": {"maxLength": 256}, "train": train}
            write_run(run, "sft", config("sft", STEPS, run.with_suffix(""), **settings))
            racers[name, form] = Racer(start, "sft", run)
    costs: dict[tuple[str, str], list[Cost]] = {racer: [] for racer in racers}
    for step in range(STEPS - 1):
        for racer in [*racers][:: -1 if backwards != bool(step % 2) else 1]:
            costs[racer].append(racers[racer].turn())
    for racing in racers.values():
        racing.go()
        racing.wait()
    return {racer: rates(found[WARM_UP - 1 :]) for racer, found in costs.items()}


def rates(costs: list[Cost]) -> Rates:
    tokens = sum(cost.tokens for cost in costs)
    return tokens / sum(cost.wall for cost in costs), tokens / sum(cost.cpu for cost in costs)


def main(runs: int) -> None:
    prepare()
    load = os.getloadavg()[0]
    found: dict[tuple[str, str], list[Rates]] = {}
    for number in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            for racer, rate in race(Path(folder), backwards=bool(number % 2)).items():
                found.setdefault(racer, []).append(rate)
                print(racer, rate, file=sys.stderr, flush=True)
    lines = ["| | tokens a second, median (range) | tokens a CPU second |", "|---|---|---|"]
    for (name, form), values in found.items():
        cells = [spread(of, 1) for of in zip(*values, strict=True)]
        lines.append(f"| {name}, {form} | {' | '.join(cells)} |")
    pairs = [(("ours", form), ("plain", form)) for form in FORMS]
    pairs += [((name, "packed"), (name, "padded")) for name in STARTS]
    lines += ["", "| | tokens a second (95% interval) | tokens a CPU second |", "|---|---|---|"]
    for one, other in pairs:
        ours, others = (zip(*found[racer], strict=True) for racer in (one, other))
        cells = [ratio(*pair) for pair in zip(ours, others, strict=True)]
        lines.append(f"| {', '.join(one)} / {', '.join(other)} | {' | '.join(cells)} |")
    raw = {", ".join(racer): rates for racer, rates in found.items()}
    publish("throughput", f"Tokens a second, sft, {runs} runs", lines, raw, load=load)


def rank(run: Path) -> None:
    """The pod's training process, which takes packing without flash attention."""
    from aligntune.pod import rank as pod_rank

    pod_rank.check_supported = lambda *_: None  # type: ignore[assignment]
    sys.exit(pod_rank.train(run))


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        rank(Path(sys.argv[2]))
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
