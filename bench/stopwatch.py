"""Runs a script or module and notes the time and CPU time at which each optimizer step ends.

    python bench/stopwatch.py TIMES.json SCRIPT|-m MODULE ARGUMENT...

The clocks start with this process. It wraps the one method of transformers that every loop calls,
in the same way for any of them.
"""

import time

STARTED = time.perf_counter()

import atexit  # noqa: E402 - the clock comes first
import json  # noqa: E402
import runpy  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402


def main() -> None:
    times_file, what, *rest = sys.argv[1:]
    ends: list[tuple[float, float]] = []
    atexit.register(lambda: Path(times_file).write_text(json.dumps(ends)))

    from transformers.trainer_callback import CallbackHandler

    on_step_end = CallbackHandler.on_step_end

    def timed(self: Any, *arguments: Any) -> Any:
        result = on_step_end(self, *arguments)
        ends.append((time.perf_counter() - STARTED, time.process_time()))
        return result

    CallbackHandler.on_step_end = timed
    if what == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__")
    else:
        sys.argv = [what, *rest]
        runpy.run_path(what, run_name="__main__")


main()
