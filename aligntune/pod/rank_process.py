"""One rank: a child process in a session of its own, its output and its reports."""

import logging
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence

from pydantic import ValidationError

from aligntune.api.env import REPORT_FD
from aligntune.api.progress import Outcome, Report, Snapshot
from aligntune.api.run import RunConfig
from aligntune.pod.rank_log import RankLog
from aligntune.pod.verdict import RankEnd

PIPE_BYTES = 65_536
"""What a pipe holds on Linux, and so the most that a dead rank can have left in it."""
LONGEST_REPORT_BYTES = 65_536

_log = logging.getLogger(__name__)


def rank_environment(
    config: RunConfig,
    env: Mapping[str, str],
    *,
    local_rank: int,
    node_rank: int,
    master_port: int,
    cpus: int,
) -> dict[str, str]:
    """A rank's environment: `env` and torch.distributed's static rendezvous."""
    ranks = config.processes_per_node
    own = {
        "RANK": str(node_rank * ranks + local_rank),
        "WORLD_SIZE": str(config.nodes * ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": config.master_address,
        "MASTER_PORT": str(master_port),
    }
    if config.nodes * ranks > 1:
        # A lone rank has none: accelerate would wrap its model in DDP, a second copy of the
        # gradients for nothing.
        own["LOCAL_RANK"] = str(local_rank)
    defaults = {
        "OMP_NUM_THREADS": str(max(1, cpus // ranks)),
        "PYTHONUNBUFFERED": "1",  # a rank that is killed has said everything up to then
    }
    return {**defaults, **env, **own}


class RankProcess:
    """A running rank."""

    def __init__(
        self, number: int, command: Sequence[str], env: Mapping[str, str], log: RankLog
    ) -> None:
        """Start `command` as rank `number` of the world.

        Raises:
            OSError: it could not be started.
        """
        self.number = number
        self.snapshot: Snapshot | None = None
        """The newest that it reported."""
        self._outcome: Outcome | None = None
        self._ended_by_launcher = False
        self._log = log
        self._unfinished = b""
        self.report_fd, report_end = os.pipe()
        self.output_fd, output_end = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603  the command is the caller's
                [*command],
                env={**env, REPORT_FD: str(report_end)},
                stdin=subprocess.DEVNULL,
                stdout=output_end,
                stderr=subprocess.STDOUT,
                pass_fds=(report_end,),
                start_new_session=True,
            )
        except OSError:
            self._close()
            raise
        finally:
            os.close(report_end)
            os.close(output_end)

    @property
    def pid(self) -> int:
        """Its process id, and that of its process group."""
        return self._process.pid

    def read_output(self) -> bool:
        """Pass on what it printed; False once nothing more can come."""
        data = os.read(self.output_fd, PIPE_BYTES)
        self._log.write(data)
        return bool(data)

    def read_reports(self) -> bool:
        """Take what it reported; False once nothing more can come."""
        data = os.read(self.report_fd, PIPE_BYTES)
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        if len(self._unfinished) > LONGEST_REPORT_BYTES:
            self._unfinished = b"\0"  # what follows belongs to no report; this makes it unreadable
        for line in lines:
            self._take(line)
        return bool(data)

    def stop(self, *, because_of_launcher: bool = False) -> None:
        """Ask it to save a checkpoint and end. Its data loaders are left to it."""
        self._ended_by_launcher = self._ended_by_launcher or because_of_launcher
        self._signal(os.kill, signal.SIGTERM)

    def kill(self) -> None:
        """End it and all that it started."""
        self._ended_by_launcher = True
        self._signal(os.killpg, signal.SIGKILL)

    def ask_for_stacks(self) -> None:
        """Have it write the Python stacks of its threads to its log."""
        self._signal(os.kill, signal.SIGUSR1)

    def has_exited(self) -> bool:
        """Whether it has; its id stays taken until `end` is called."""
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, how) is not None

    def end(self, *, oom_killed: bool) -> RankEnd:
        """What became of it, once it has exited: collects it and whatever it left behind."""
        self._signal(os.killpg, signal.SIGKILL)
        returncode = self._process.wait()
        for fd, read in ((self.report_fd, self.read_reports), (self.output_fd, self.read_output)):
            os.set_blocking(fd, False)
            try:
                read()
            except BlockingIOError:
                _log.debug("rank %d left a process behind that holds its pipe", self.number)
        self._close()
        return RankEnd(
            rank=self.number,
            returncode=returncode,
            outcome=self._outcome,
            log_tail=self._log.tail(),
            oom_killed=oom_killed,
            ended_by_launcher=self._ended_by_launcher,
        )

    def _take(self, line: bytes) -> None:
        try:
            report = Report.model_validate_json(line)
        except ValidationError:
            _log.debug("rank %d: a report of %d bytes is not readable", self.number, len(line))
            return
        self.snapshot = report.snapshot or self.snapshot
        self._outcome = report.outcome or self._outcome

    def _signal(self, send: Callable[[int, int], None], number: signal.Signals) -> None:
        try:
            send(self.pid, number)
        except ProcessLookupError:
            _log.debug("rank %d is gone already", self.number)

    def _close(self) -> None:
        os.close(self.report_fd)
        os.close(self.output_fd)
        self._log.close()
