"""Reading a model's weights while the libraries that will load them are imported.

Imports keep the processor busy and the storage idle; loading waits for the storage. What is read
here is thrown away: the kernel keeps it in its page cache, where loading finds it.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from aligntune.core.config.model import ModelRef

CHUNK = 4 * 1024 * 1024
"""Bytes that are read at a time: large enough for network storage, and all that is held."""


def stored_weights(model: ModelRef) -> list[Path]:
    """The model's files of weights, in the order of loading; none where it is still on the hub."""
    if not model.name:  # another job's model, whose place nobody has filled in; loading explains
        return []
    folder = Path(model.name).expanduser()
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
        except HFValidationError:  # a folder that is missing; loading it explains
            return []
        if not isinstance(cached, str):
            return []
        folder = Path(cached).parent
    return sorted(folder.glob("*.safetensors"))


@contextmanager
def read_ahead(files: Iterable[Path]) -> Iterator[None]:
    """Inside, a thread reads the files; one that cannot be read is left to those who load it.

    It ends with the block: loading has the storage for itself.
    """
    over = Event()
    Thread(target=_read, args=(list(files), over), name="read-ahead", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _read(files: list[Path], over: Event) -> None:
    chunk = bytearray(CHUNK)
    for path in files:
        with suppress(OSError), path.open("rb", buffering=0) as file:
            while not over.is_set() and file.readinto(chunk):
                pass
