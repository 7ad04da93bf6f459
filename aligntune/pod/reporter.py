"""A rank's side of the pipe to the launcher: one JSON line per report."""

import os
import select
import threading
from collections.abc import Mapping
from typing import Self

from aligntune.api.env import REPORT_FD
from aligntune.api.progress import Outcome, Report, Snapshot

OUTCOME_TIMEOUT_SECONDS = 5.0
"""How long a rank waits for a busy launcher to take its outcome. 5: the pipe holds 64 KiB, so a
launcher that reads at all has emptied it long before."""


class Reporter:
    """Tells the launcher where the run stands; never raises and never holds training up.

    Lines arrive whole. While the pipe is full snapshots are dropped, since newer ones follow;
    once the launcher is gone, reports go nowhere.
    """

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._unsent = b""
        self._lock = threading.Lock()
        if fd is not None:
            try:
                os.set_blocking(fd, False)
            except OSError:
                self._fd = None

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """The reporter on the pipe that the launcher opened; silent where there is none."""
        number = env.get(REPORT_FD, "")
        return cls(int(number) if number.isdecimal() else None)

    def snapshot(self, snapshot: Snapshot) -> None:
        """Report where the run stands. The launcher fills in attempt and pod."""
        with self._lock:
            self._write()
            if not self._unsent:
                self._unsent = _line(Report(snapshot=snapshot))
                self._write()

    def outcome(self, outcome: Outcome) -> None:
        """Report how this rank ended, waiting up to `OUTCOME_TIMEOUT_SECONDS` for room."""
        with self._lock:
            self._unsent += _line(Report(outcome=outcome))
            self._write()
            while self._unsent and self._fd is not None:
                if not select.select([], [self._fd], [], OUTCOME_TIMEOUT_SECONDS)[1]:
                    break
                self._write()

    def _write(self) -> None:
        """Write what the pipe takes now, and keep the rest."""
        if self._fd is None:
            self._unsent = b""
            return
        try:
            self._unsent = self._unsent[os.write(self._fd, self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._fd = None
            self._unsent = b""


def _line(report: Report) -> bytes:
    return report.model_dump_json(exclude_none=True).encode() + b"\n"
