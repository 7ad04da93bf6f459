"""The pod's first process: starts the ranks, watches over them, and owns the exit code."""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from aligntune.api.env import POD_UID, PROGRESS_PORT
from aligntune.api.progress import Outcome, Snapshot
from aligntune.core.files import replace_file
from aligntune.pod.attempt import (
    CannotStartError,
    cannot_write,
    make_attempt_folder,
    node_rank,
    read_run_config,
)
from aligntune.pod.endpoint import ALL_INTERFACES, LOOPBACK, Endpoint
from aligntune.pod.gang import Gang
from aligntune.pod.gpus import gpu_reader
from aligntune.pod.outcome import leave
from aligntune.pod.signals import caught_signals, pending_signals
from aligntune.pod.stall import StallAction, StallWatch
from aligntune.pod.verdict import RankEnd, conclude, failed, failure

RANK_COMMAND = (sys.executable, "-m", "aligntune.pod.rank")
END_GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL for ranks whose peer failed. 10: they hang in a collective and will
save nothing; a GPU held longer is a GPU lost."""
TICK_SECONDS = 0.5
"""How often the clock is looked at when nothing happens."""

_log = logging.getLogger(__name__)


def launch(
    config_path: Path,
    *,
    env: Mapping[str, str],
    port: int = PROGRESS_PORT,
    rank_command: Sequence[str] = RANK_COMMAND,
    stdout: BinaryIO | None = None,
    clock: Callable[[], float] = time.monotonic,
    end_grace_seconds: float = END_GRACE_SECONDS,
) -> int:
    """Run one attempt to its end and give its exit code (`aligntune.api.exit_codes`).

    SIGTERM and SIGINT are passed on to every rank once, as SIGTERM, and then there is no limit:
    in a pod the kubelet has one; at a terminal a second interrupt kills. Outcome and logs go to
    `attempt-N` in the output folder; outside a pod so does `endpoint.json`, `{"url", "pid"}`,
    while the endpoint answers. Call it from the main thread: it catches signals.

    Args:
        config_path: a RunConfig, as JSON or YAML.
        env: the environment, for the ranks and for what `aligntune.api.env` names.
        port: of /progress, /metrics and /healthz; 0 takes a free one. In a pod every interface
            answers, elsewhere only the loopback.
        rank_command: what each rank runs; the config's path is added.
        stdout: where the first rank's output goes; None: this process's own.
        clock: monotonic seconds.
        end_grace_seconds: between SIGTERM and SIGKILL for ranks whose peer failed.
    """
    outcome_path = None
    with caught_signals() as signal_fd:
        try:
            config = read_run_config(config_path)
            node = node_rank(config, env)
            folder = make_attempt_folder(config)
            outcome_path = folder / (f"outcome-node-{node}.json" if node else "outcome.json")
            pod_uid = env.get(POD_UID, "")
            with (
                Endpoint(
                    host=ALL_INTERFACES if pod_uid else LOOPBACK,
                    port=port,
                    job=config.job,
                    snapshot=Snapshot(attempt=config.attempt, pod_uid=pod_uid),
                    read_gpus=gpu_reader(),
                ) as endpoint,
                _announced(endpoint, None if pod_uid else folder / "endpoint.json"),
                Gang(
                    config,
                    node_rank=node,
                    command=[*rank_command, str(config_path)],
                    env=env,
                    folder=folder,
                    stdout=stdout or sys.stdout.buffer,
                    wake_fd=signal_fd,
                ) as gang,
            ):
                watch = StallWatch(config.stall_timeout_seconds, config.on_stall != "Report")
                supervision = _Supervision(
                    gang,
                    endpoint,
                    watch,
                    clock,
                    end_grace_seconds,
                    shows_progress=node == 0,
                )
                outcome = supervision.run(signal_fd)
        except CannotStartError as error:
            outcome = failure(error.cause, str(error))
        leave(outcome, outcome_path, env)
    if outcome.result != "Succeeded":
        _log.error("%s: %s", outcome.reason, outcome.message)
    return outcome.exit_code


class _Supervision:
    """Watching over a gang until its last rank has ended."""

    def __init__(
        self,
        gang: Gang,
        endpoint: Endpoint,
        watch: StallWatch,
        clock: Callable[[], float],
        end_grace_seconds: float,
        *,
        shows_progress: bool,
    ) -> None:
        """Every pod looks for hangs; one alone shows where the run stands, which counts once."""
        self._gang = gang
        self._endpoint = endpoint
        self._watch = watch
        self._clock = clock
        self._end_grace_seconds = end_grace_seconds
        self._shows_progress = shows_progress
        self._began = clock()
        self._seen: Snapshot | None = None
        self._stop_requested = False
        self._kill_at: float | None = None
        self._stalled_seconds: int | None = None

    def run(self, signal_fd: int) -> Outcome:
        ends: list[RankEnd] = []
        while self._gang.running:
            ended = self._gang.wait(TICK_SECONDS)
            now = self._clock()
            for number in pending_signals(signal_fd):
                self._on_signal(number)
            self._follow_progress(now)
            if any(failed(end) for end in ended):
                self._end_all(now)
            if self._kill_at is not None and now >= self._kill_at:
                self._gang.kill()
            ends += ended
        self._endpoint.healthy = False
        return conclude(
            ends,
            last=self._seen or Snapshot(),
            stop_requested=self._stop_requested,
            stalled_seconds=self._stalled_seconds,
        )

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return
        if not self._stop_requested:
            self._stop_requested = True
            self._gang.stop()
        elif number == signal.SIGINT:
            self._gang.kill()

    def _follow_progress(self, now: float) -> None:
        newest = self._gang.snapshot
        if newest is not None and newest is not self._seen:
            self._watch = self._watch.saw(newest.progress, now)
            self._seen = newest
        if self._kill_at is None and not self._stop_requested:
            self._act_on_stall(now)
        shown, stalled = Snapshot(), None
        if self._shows_progress:
            shown, stalled = self._seen or shown, self._watch.seconds_stalled(now)
        self._endpoint.snapshot = shown.model_copy(
            update={
                "attempt": self._endpoint.snapshot.attempt,
                "pod_uid": self._endpoint.snapshot.pod_uid,
                "attempt_seconds": now - self._began,
                "stalled_seconds": stalled,
            }
        )

    def _act_on_stall(self, now: float) -> None:
        match self._watch.action(now):
            case StallAction.ASK_FOR_STACKS:
                _log.warning("no new step for %s s", self._watch.seconds_stalled(now))
                self._gang.ask_for_stacks()
                self._watch = self._watch.asked_for_stacks(now)
            case StallAction.END_ATTEMPT:
                self._stalled_seconds = self._watch.seconds_stalled(now)
                self._end_all(now)
            case StallAction.NONE:
                pass

    def _end_all(self, now: float) -> None:
        """End the ranks that are left; without their peer they would wait for ever."""
        if self._kill_at is None:
            self._kill_at = now + self._end_grace_seconds
            self._gang.stop(because_of_launcher=True)


@contextmanager
def _announced(endpoint: Endpoint, path: Path | None) -> Iterator[None]:
    """Say at `path` where the endpoint answers, as long as it does."""
    if path is None:
        yield
        return
    where = {"url": f"http://{LOOPBACK}:{endpoint.port}", "pid": os.getpid()}
    try:
        replace_file(path, json.dumps(where) + "\n")
    except OSError as error:
        raise cannot_write(error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
