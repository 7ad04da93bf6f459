"""A rank's output: kept on storage, passed through to the container's log, its end remembered."""

import logging
import re
from pathlib import Path
from typing import BinaryIO

from aligntune.core.scrub import scrub

KEPT_BYTES = 16_384
"""How much of the end is remembered. 16 KiB: a traceback through TRL and torch fits."""

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_log = logging.getLogger(__name__)


class RankLog:
    """Where the bytes that a rank prints go."""

    def __init__(self, path: Path, *, echo: BinaryIO | None = None, prefix: bytes = b"") -> None:
        """Append to `path`, and pass through to `echo`, each line with `prefix` before it.

        Raises:
            OSError: `path` cannot be opened for writing.
        """
        self._file: BinaryIO | None = path.open("ab", buffering=0)
        self._echo = echo
        self._prefix = prefix
        self._line = b""
        self._end = b""
        self._cut = False

    def write(self, data: bytes) -> None:
        """Take what the rank printed. A full disk or a closed terminal does not stop the rank."""
        self._cut = self._cut or len(self._end) + len(data) > KEPT_BYTES
        self._end = (self._end + data)[-KEPT_BYTES:]
        if self._file is not None:
            try:
                self._file.write(data)
            except OSError as error:
                _log.warning("%s: no more lines are kept: %s", self._file.name, error.strerror)
                self._file = None
        if not self._prefix:
            self._pass_through(data)
            return
        *lines, self._line = (self._line + data).split(b"\n")
        self._pass_through(b"".join(self._prefix + line + b"\n" for line in lines))

    def close(self) -> None:
        """Write out an unfinished line and close the file."""
        if self._line:
            self._pass_through(self._prefix + self._line + b"\n")
            self._line = b""
        if self._file is not None:
            self._file.close()
            self._file = None

    def tail(self) -> str:
        """The last lines, readable and with secrets hidden."""
        text = self._end.decode(errors="replace")
        if self._cut:  # a line whose start is gone may hold a secret that is no longer recognised
            text = text.partition("\n")[2]
        # A progress bar rewrites its line: what was last to be seen is what counts.
        lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
        return scrub(_ESCAPES.sub("", "\n".join(lines))).strip()

    def _pass_through(self, data: bytes) -> None:
        if self._echo is None or not data:
            return
        try:
            self._echo.write(data)
            self._echo.flush()
        except OSError:
            self._echo = None
