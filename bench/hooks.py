"""What our own code adds to a training step, timed directly instead of as a difference.

    python bench/hooks.py [sft|dpo|reward|grpo] [RUNS]

The run of methods.py (of SFT where no method is named) in this process, on one thread, with the
reports that a pod sends. A clock runs while code of our loop is on top of the stack, and stands
while it calls what it overrides: forward, backward, optimizer, TRL's own metrics. So it measures
counting and adding up, the loss curve, log lines, state and reports, and its own reading of the
time; a plain TRL script has none of these. What we do in TRL's place, as scoring GRPO's answers,
counts in full.
"""

import logging
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns, process_time_ns, thread_time_ns
from typing import Any, NamedTuple

from intervals import confidence, spread
from methods import asked, config, prepare
from sections import publish

STEPS, WARM_UP = 24, 3


class Mark(NamedTuple):
    """Clocks at the end of a step, in nanoseconds: the step's, and what of it was ours."""

    wall: int
    cpu: int
    our_wall: int
    our_cpu: int


class OurClock:
    """Runs while the method on top of the stack is ours."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0
        self._ours = [False]
        self._since = (0, 0)

    def timed(self, method: Callable[..., Any], *, ours: bool) -> Callable[..., Any]:
        """The method, charged to us or not, until it calls another that is timed."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self._turn()
            self._ours.append(ours)
            try:
                return method(*args, **kwargs)
            finally:
                self._turn()
                self._ours.pop()

        return call

    def _turn(self) -> None:
        now = (perf_counter_ns(), thread_time_ns())
        if self._ours[-1]:
            self.wall += now[0] - self._since[0]
            self.cpu += now[1] - self._since[1]
        self._since = now


def watch(loop: type[Any], clock: OurClock) -> list[Mark]:
    """Time every method of ours that stands in the way of another's; marks come per step."""
    from aligntune.training.loop import RunLoop

    marks: list[Mark] = []
    below = loop.__mro__.index(RunLoop) + 1
    theirs: set[tuple[type[Any], str]] = set()
    for kind in loop.__mro__[:below]:
        for name, method in list(vars(kind).items()):
            base = next((base for base in loop.__mro__[below:] if name in vars(base)), None)
            if callable(method) and base is not None and not name.startswith("__"):
                setattr(kind, name, clock.timed(method, ours=True))
                theirs.add((base, name))
    for base, name in theirs:
        setattr(base, name, clock.timed(vars(base)[name], ours=False))
    step_ends = RunLoop._maybe_log_save_evaluate

    def mark(self: Any, *args: Any, **kwargs: Any) -> None:
        step_ends(self, *args, **kwargs)
        if self.state.global_step > len(marks):  # it is called once more after an epoch
            marks.append(Mark(perf_counter_ns(), process_time_ns(), clock.wall, clock.cpu))

    RunLoop._maybe_log_save_evaluate = mark  # type: ignore[method-assign]
    return marks


def run(method: str, folder: Path, report_fd: int) -> None:
    """Train as a pod does, from the config to the last step."""
    from aligntune.core.backend_factory import trainer_for
    from aligntune.core.rl.config import UnifiedConfig
    from aligntune.core.sft.config import SFTConfig
    from aligntune.pod.rank import ProgressReport
    from aligntune.pod.reporter import Reporter
    from aligntune.training.context import RunContext

    kind: type[Any] = SFTConfig if method == "sft" else UnifiedConfig
    settings = kind.model_validate(config(method, STEPS, folder))
    context = RunContext("bench", ProgressReport(Reporter(report_fd)).report)
    trainer_for("trl", method)(settings, context).train()


def loop_of(method: str) -> type[Any]:
    """The class of the training loop."""
    from aligntune.backends.trl.rl.dpo.dpo import DPOLoop
    from aligntune.backends.trl.rl.grpo.loop import GRPOLoop
    from aligntune.backends.trl.rl.reward.reward import RewardLoop
    from aligntune.backends.trl.sft.sft import SFTLoop

    return {"sft": SFTLoop, "dpo": DPOLoop, "reward": RewardLoop, "grpo": GRPOLoop}[method]


def main(method: str, runs: int) -> None:
    load = os.getloadavg()[0]
    os.environ |= {"OMP_NUM_THREADS": "1", "CI": "1"}  # TRL phones home otherwise
    prepare()
    clock = OurClock()
    marks = watch(loop_of(method), clock)
    shares: list[tuple[float, float]] = []
    raw = []
    lines = [
        "| run | step, ms: wall, CPU | ours, ms: wall, median (range) | CPU | of the last step |",
        "|---|---|---|---|---|",
    ]
    for number in range(runs):
        marks.clear()
        with (
            tempfile.TemporaryDirectory() as folder,
            subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as reader,
        ):
            logging.basicConfig(level="INFO", filename=f"{folder}/log", force=True)
            assert reader.stdin is not None
            run(method, Path(folder) / "out", reader.stdin.fileno())
        steps = [
            Mark(*(after - before for before, after in zip(*pair, strict=True)))
            for pair in zip(marks[WARM_UP - 1 :], marks[WARM_UP:], strict=False)
        ]
        raw.append(steps)
        *steps, last = steps  # it has the checkpoint
        shares += [(step.our_wall / step.wall, step.our_cpu / step.cpu) for step in steps]
        wall, cpu, *ours = zip(*steps, strict=True)
        ours_told = [spread([nanoseconds / 1e6 for nanoseconds in of], 2) for of in ours]
        lines.append(
            f"| {number + 1} | {milliseconds(wall)}, {milliseconds(cpu)}"
            f" | {' | '.join(ours_told)} | {last.our_wall / 1e6:.1f} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    lines += ["", "| ours, % | mean (95% interval) | median (range) | steps |", "|---|---|---|---|"]
    for name, values in zip(("time", "CPU time"), zip(*shares, strict=True), strict=True):
        percents = [100 * share for share in values]
        cells = (confidence(percents), spread(percents, 3), len(percents))
        lines.append(f"| of a step's {name} | {' | '.join(map(str, cells))} |")
    title = f"What our own code adds to a step, {method}, {runs} runs"
    publish(f"hooks-{method}", title, lines, raw, load=load)


def milliseconds(nanoseconds: tuple[int, ...]) -> str:
    """Median."""
    return f"{statistics.median(nanoseconds) / 1e6:.0f}"


if __name__ == "__main__":
    named, times = asked()
    main(named, times or 3)
