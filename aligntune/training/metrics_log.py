"""Numbers of a run over its steps: JSON lines, those of a step that is taken back left out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from aligntune.core.files import replace_file


class MetricsLog:
    """Appends lines such as `{"step": 1, "loss": 3.2, "gradNorm": 1.1}` to a file."""

    def __init__(self, path: Path, *, from_step: int) -> None:
        """Open the file; lines after `from_step` are of a future that will be written anew.

        Raises:
            OSError: The folder cannot be written.
        """
        self._path = path
        kept = [line for line in read(path) if line["step"] <= from_step]
        if kept or self._path.exists():
            replace_file(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file: TextIO = self._path.open("a", encoding="utf-8", buffering=1)

    def append(self, step: int, metrics: dict[str, float]) -> None:
        """Add one line; it can be read at once."""
        self._file.write(json.dumps({"step": step} | metrics) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path) -> Iterator[dict[str, float]]:
    """The lines written so far; half a line at the end, of a process that was killed, is none."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)
