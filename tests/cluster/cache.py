"""Files that are slow to make, kept once per machine for all clones of the repository."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path


def folder() -> Path:
    """Where they are kept; deleting it is always safe."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "aligntune" / "cluster"


def once(name: str, make: Callable[[Path], None]) -> Path:
    """Path of a cached file or folder, made first if it is not there.

    `make` gets the path to write to. Runs at the same time wait for each other, and a run that
    dies leaves nothing half-written behind under the final name.
    """
    file = folder() / name
    if file.exists():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f"{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            unfinished = file.with_name(f"{file.name}.unfinished")
            if unfinished.is_dir():
                shutil.rmtree(unfinished)
            unfinished.unlink(missing_ok=True)
            make(unfinished)
            unfinished.rename(file)
    return file
