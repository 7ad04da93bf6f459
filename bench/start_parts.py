"""Where the time to the first step of a pod's run goes.

    python bench/start_parts.py [sft|dpo|reward|grpo] [RUNS]

The run of methods.py, as first_step.py has it: launcher, one rank, one thread. Each part ends where
the named thing is done; the first begins with the launcher's process.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from intervals import spread
from methods import asked, config, prepare, write_run

MARKS = "BENCH_MARKS"
PARTS = ("launcher", "rank's Python", "libraries", "model", "data", "loop", "first step")


def mark(part: str) -> None:
    """Note that a part is done."""
    with Path(os.environ[MARKS]).open("a") as file:
        file.write(f"{json.dumps([part, time.monotonic()])}\n")


def marked(method: Callable[..., Any], part: str) -> Callable[..., Any]:
    """The method; where it ends, so does the part."""

    def call(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        mark(part)
        return result

    return call


def launcher(run: Path) -> None:
    """The pod's first process."""
    from aligntune.pod.launcher import launch

    launch(run, env=os.environ, port=0, rank_command=(sys.executable, __file__, "rank"))


def rank(run: Path) -> None:
    """The process that trains."""
    mark("launcher")
    from aligntune.core.backend_factory import trainer_for
    from aligntune.pod.rank import train

    mark("rank's Python")

    def find_trainer(backend: str, task: str) -> Any:
        trainer = trainer_for(backend, task)
        from aligntune.training.loop import RunLoop
        from aligntune.training.loop_trainer import LoopTrainer

        def stop(*_: Any, **__: Any) -> NoReturn:
            mark("first step")
            os._exit(0)

        for name, part in (("setup_model", "model"), ("setup_data", "data"), ("make_loop", "loop")):
            setattr(trainer, name, marked(getattr(trainer, name), part))
        assert issubclass(trainer, LoopTrainer)
        RunLoop._end_step = stop  # type: ignore[method-assign]
        mark("libraries")
        return trainer

    train(run, find_trainer)


def parts(method: str) -> dict[str, float]:
    """Seconds of each part of one run."""
    with tempfile.TemporaryDirectory() as folder:
        run, marks = Path(folder) / "run.json", Path(folder) / "marks"
        write_run(run, method, config(method, 2, Path(folder) / "ours"))
        began = time.monotonic()
        with (Path(folder) / "log").open("wb") as log:
            subprocess.run(
                [sys.executable, __file__, "launcher", run],
                env=os.environ | {"OMP_NUM_THREADS": "1", MARKS: str(marks)},
                stdout=log,
                stderr=log,
                check=False,
            )
        ends = dict(json.loads(line) for line in marks.read_text().splitlines())
    assert tuple(ends) == PARTS
    times = [began, *ends.values()]
    return {part: end - times[index] for index, (part, end) in enumerate(ends.items())}


def main(method: str, runs: int) -> None:
    from sections import publish  # not at the top: launcher and rank would import it, for 0.3 s

    prepare()
    load = os.getloadavg()[0]
    parts(method)  # warms the caches up
    results = [parts(method) for _ in range(runs)]
    lines = ["| part | s, median (range) |", "|---|---|"]
    lines += [f"| {part} | {spread([result[part] for result in results], 2)} |" for part in PARTS]
    lines.append(f"| all | {spread([sum(result.values()) for result in results], 2)} |")
    title = f"Where the time to the first step goes, {method}, {runs} runs"
    publish(f"start-parts-{method}", title, lines, results, load=load)


if __name__ == "__main__":
    if sys.argv[1:2] == ["launcher"]:
        launcher(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["rank"]:
        rank(Path(sys.argv[2]))
    else:
        named, times_run = asked()
        main(named, times_run or 3)
