"""The ranks of this pod: started together, listened to together, ended together."""

import os
import selectors
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from aligntune.api.causes import Cause
from aligntune.api.env import RENDEZVOUS_PORT
from aligntune.api.names import RANK_LOG
from aligntune.api.progress import Snapshot
from aligntune.api.run import RunConfig
from aligntune.pod import limits
from aligntune.pod.attempt import CannotStartError, cannot_write
from aligntune.pod.rank_log import RankLog
from aligntune.pod.rank_process import RankProcess, rank_environment
from aligntune.pod.verdict import RankEnd


class Gang:
    """The running ranks; leaving its `with` block kills those that still run."""

    def __init__(
        self,
        config: RunConfig,
        *,
        node_rank: int,
        command: Sequence[str],
        env: Mapping[str, str],
        folder: Path,
        stdout: BinaryIO,
        wake_fd: int,
        oom_kills: Callable[[], int] = limits.oom_kills,
    ) -> None:
        """Start every rank as `command`, logging to `folder`.

        Args:
            config: how many ranks, and where they meet.
            node_rank: this pod's place among the nodes.
            command: what each rank runs.
            env: what each rank's environment is based on.
            folder: where `rank-R.log` go.
            stdout: where the first rank's output goes as well.
            wake_fd: `wait` returns early when this descriptor is readable.
            oom_kills: counts the container's processes killed for want of memory.

        Raises:
            CannotStartError: a log cannot be opened, or `command` does not start.
        """
        self._oom_kills = oom_kills
        self._oom_kills_before = oom_kills()
        self._selector = selectors.DefaultSelector()
        self._selector.register(wake_fd, selectors.EVENT_READ)
        self._running: list[RankProcess] = []
        master_port = RENDEZVOUS_PORT if config.nodes > 1 else _free_port()
        many = config.nodes * config.processes_per_node > 1
        cpus = limits.cpus()
        for local_rank in range(config.processes_per_node):
            number = node_rank * config.processes_per_node + local_rank
            rank_env = rank_environment(
                config,
                env,
                local_rank=local_rank,
                node_rank=node_rank,
                master_port=master_port,
                cpus=cpus,
            )
            try:
                log = RankLog(
                    folder / RANK_LOG.format(rank=number),
                    echo=stdout if local_rank == 0 else None,
                    prefix=f"[rank {number}] ".encode() if many else b"",
                )
            except OSError as error:
                self._kill_and_collect()
                raise cannot_write(error) from error
            try:
                rank = RankProcess(number, command, rank_env, log)
            except OSError as error:
                self._kill_and_collect()
                raise CannotStartError(
                    Cause.CONFIG_ERROR, f"{command[0]!r} does not start: {error.strerror}."
                ) from error
            self._running.append(rank)
            self._selector.register(rank.output_fd, selectors.EVENT_READ, rank.read_output)
            self._selector.register(rank.report_fd, selectors.EVENT_READ, rank.read_reports)
        self._first = self._running[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._kill_and_collect()

    @property
    def running(self) -> bool:
        """Whether any rank still runs."""
        return bool(self._running)

    @property
    def snapshot(self) -> Snapshot | None:
        """The newest report of this pod's first rank: the world's rank 0 in the first pod."""
        return self._first.snapshot

    def wait(self, seconds: float) -> list[RankEnd]:
        """Pass on what the ranks print and report, for up to `seconds`; give those that ended."""
        for key, _ in self._selector.select(seconds):
            if key.data is not None and not key.data():
                self._selector.unregister(key.fd)
        ended = [rank for rank in self._running if rank.has_exited()]
        if os.getpid() == 1:
            reap_orphans({rank.pid for rank in self._running})
        return [self._end(rank) for rank in ended]

    def stop(self, *, because_of_launcher: bool = False) -> None:
        """Ask every rank to save a checkpoint and end."""
        for rank in self._running:
            rank.stop(because_of_launcher=because_of_launcher)

    def kill(self) -> None:
        """End every rank now."""
        for rank in self._running:
            rank.kill()

    def ask_for_stacks(self) -> None:
        """Have every rank write its Python stacks to its log."""
        for rank in self._running:
            rank.ask_for_stacks()

    def _end(self, rank: RankProcess) -> RankEnd:
        for fd in (rank.output_fd, rank.report_fd):
            if fd in self._selector.get_map():
                self._selector.unregister(fd)
        self._running.remove(rank)
        return rank.end(oom_killed=self._oom_kills() > self._oom_kills_before)

    def _kill_and_collect(self) -> None:
        self.kill()
        for rank in [*self._running]:
            self._end(rank)
        self._selector.close()


def reap_orphans(ranks: Collection[int]) -> None:
    """Collect dead processes that are not `ranks`: a container's first process inherits them."""
    how = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while (dead := os.waitid(os.P_ALL, 0, how)) is not None and dead.si_pid not in ranks:
        os.waitpid(dead.si_pid, 0)


def _free_port() -> int:
    """A port for this run's rendezvous, so that two runs on one machine do not meet."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
