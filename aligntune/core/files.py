"""Folders that others may rely on: on disk, readable, and complete or not there."""

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from aligntune.core.errors import ConfigError

FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers of a volume, quota or file that takes no more."""
UNFINISHED = ".unfinished-"
"""Begins the name of a folder that is not whole yet."""
REPLACED = ".replaced"
"""Ends the name of one that another is just put in the place of."""


def ensure_writable(folder: Path) -> None:
    """Make sure that `folder` is there and can be written, before any work is done for it.

    Raises:
        ConfigError: It cannot.
        OSError: The disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"can this be written?")
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        raise ConfigError(
            f"outputDir: {folder} cannot be written ({error.strerror or error}); make it writable"
            f" for user {os.getuid()} (in a cluster: the volume's fsGroup or permissions), or set"
            " another outputDir"
        ) from error


def unfinished_in(folder: Path) -> Path:
    """Where to write what will be put into `folder` when it is whole.

    No other process writes there, so that one that was thought dead and wakes spoils nothing.
    """
    return folder / f"{UNFINISHED}{secrets.token_hex(8)}"


def publish(
    folder: Path, write: Callable[[Path], None], check: Callable[[], None] = lambda: None
) -> Path:
    """Let `write` fill a new folder and put it where `folder` is, as a whole.

    What stands there stays until the new one is complete and on disk. When `write` or `check`
    fails, nothing of it is left.

    Args:
        folder: What is replaced.
        write: Fills the folder that it is given.
        check: Called last; raises where this process may not replace anything.

    Raises:
        OSError: The disk is full, or the place cannot be written.
    """
    unfinished = unfinished_in(folder.parent)
    unfinished.mkdir(parents=True)
    try:
        write(unfinished)
        settle(unfinished)
        check()
        replace_folder(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return folder


def replace_folder(new: Path, folder: Path) -> None:
    """Put the complete folder `new` where `folder` is, or is to be, on the same volume.

    Raises:
        OSError: The new one is gone, for one; what is there stays then.
    """
    replaced = folder.with_name(f".{folder.name}{REPLACED}")
    shutil.rmtree(replaced, ignore_errors=True)
    new.stat()  # raises where it is gone, before anything is moved
    if folder.exists():
        folder.rename(replaced)
    new.rename(folder)
    sync(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def settle(folder: Path) -> None:
    """Make every file below `folder` readable by all (safetensors come out 0600) and durable."""
    for path in sorted(folder.rglob("*")):
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
        sync(path)
    sync(folder)


def replace_file(path: Path, content: str) -> None:
    """Write a file so that it holds the old or the new content, whatever happens."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_text(content, "utf-8")
        sync(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
