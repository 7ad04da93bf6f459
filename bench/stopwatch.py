"""Runs a script or module, and tells what each optimizer step cost before it may do the next.

    python bench/stopwatch.py SOCKET SCRIPT|-m MODULE ARGUMENT...

After each step a line `[seconds, CPU seconds, tokens]` goes to the Unix socket, and a line from
there begins the next; the first counts from the start of the process. CPU seconds are those of this
process and of its parent, which is the launcher where there is one; tokens are those of the
batches, without padding. It wraps methods of transformers that every loop calls, in the same way
for any of them.
"""

import time

STARTED = time.perf_counter()

import json  # noqa: E402 - the clock comes first
import runpy  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402


def main() -> None:
    path, what, *rest = sys.argv[1:]
    import psutil
    from transformers.trainer_callback import CallbackHandler

    parent = psutil.Process().parent()
    assert parent is not None
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    stream = connection.makefile("rw")
    on_train_begin, on_step_end = CallbackHandler.on_train_begin, CallbackHandler.on_step_end
    tokens = 0

    def begin(self: Any, *arguments: Any) -> Any:
        trainer = sys.modules["transformers.trainer"].Trainer  # imported by now, and not sooner
        trainer.training_step = counted(trainer.training_step)
        return on_train_begin(self, *arguments)

    def counted(training_step: Callable[..., Any]) -> Callable[..., Any]:
        def step(self: Any, model: Any, inputs: dict[str, Any], *more: Any) -> Any:
            nonlocal tokens
            if "input_ids" in inputs:
                mask = inputs.get("attention_mask")
                tokens += int(inputs["input_ids"].numel() if mask is None else mask.sum())
            return training_step(self, model, inputs, *more)

        return step

    def clocks() -> tuple[float, float]:
        return time.perf_counter(), time.process_time() + sum(parent.cpu_times()[:2])

    began = (STARTED, sum(parent.cpu_times()[:2]))

    def timed(self: Any, *arguments: Any) -> Any:
        nonlocal began, tokens
        result = on_step_end(self, *arguments)
        cost = [now - then for now, then in zip(clocks(), began, strict=True)]
        print(json.dumps([*cost, tokens]), file=stream, flush=True)
        tokens = 0
        stream.readline()
        began = clocks()
        return result

    CallbackHandler.on_train_begin, CallbackHandler.on_step_end = begin, timed
    if what == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__")
    else:
        sys.argv = [what, *rest]
        runpy.run_path(what, run_name="__main__")


main()
