"""Importing the training libraries sooner: most of a small run's time to its first step."""

import gc
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from aligntune.api.run import RunConfig


def unused_packages(run: RunConfig) -> set[str]:
    """What transformers and TRL would import for features that the run has no use for.

    Unsloth changes those libraries as it finds them, so nothing is kept from it.
    """
    if run.backend != "trl":
        return set()
    unused = {"scipy", "sklearn", "wandb"}
    if run.task == "classification":
        unused -= {"scipy", "sklearn"}
    return unused.difference(run.method.logging.trackers)


@contextmanager
def quick_imports(unused: Collection[str]) -> Iterator[None]:
    """Inside, packages are imported without garbage collection, and `unused` seem not installed.

    Libraries that ask once whether a package is there believe so for good; afterwards anybody else
    imports it as usual. None in `sys.modules` is the import system's own word for a module that
    cannot be found. What has been imported lives as long as the process, so that no later
    collection needs to go through it.
    """
    hidden = [name for name in unused if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # typeshed has no word for it
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
        for name in hidden:
            del sys.modules[name]
