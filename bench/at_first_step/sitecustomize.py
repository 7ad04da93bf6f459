"""With this folder on PYTHONPATH, a process ends once transformers has done its first step.

The moment, in seconds of the system's monotonic clock, goes to the file that FIRST_STEP names.
It wraps the one method of transformers that every loop calls, as soon as its module is imported.
"""

import importlib.abc
import importlib.machinery
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

MODULE = "transformers.trainer_callback"


class _AfterImport(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.loader is not None
        run: Any = spec.loader.exec_module

        def run_and_wrap(module: ModuleType) -> None:
            run(module)
            module.CallbackHandler.on_step_end = end  # type: ignore[attr-defined]

        spec.loader.exec_module = run_and_wrap  # type: ignore[method-assign]
        return spec


def end(*_: Any) -> None:
    Path(os.environ["FIRST_STEP"]).write_text(str(time.monotonic()))
    os._exit(0)


sys.meta_path.insert(0, _AfterImport())
