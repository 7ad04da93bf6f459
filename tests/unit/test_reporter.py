import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from aligntune.api.env import REPORT_FD
from aligntune.api.progress import Outcome, Progress, Report, Snapshot
from aligntune.pod.reporter import Reporter


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    yield read_end, write_end
    for fd in (read_end, write_end):
        with contextlib.suppress(OSError):
            os.close(fd)


def at_step(step: int) -> Snapshot:
    return Snapshot(progress=Progress(step=step))


def received(read_end: int) -> bytes:
    data = b""
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(read_end, 1 << 16):
            data += chunk
    return data


def reports(data: bytes) -> list[Report]:
    return [Report.model_validate_json(line) for line in data.splitlines()]


def test_snapshot_and_outcome_arrive_as_lines(pipe: tuple[int, int]) -> None:
    reporter = Reporter.from_env({REPORT_FD: str(pipe[1])})
    reporter.snapshot(at_step(3))
    reporter.outcome(Outcome(result="Succeeded", exit_code=0))
    first, last = reports(received(pipe[0]))
    assert first.snapshot == at_step(3)
    assert last.outcome == Outcome(result="Succeeded", exit_code=0)


@pytest.mark.parametrize("env", [{}, {REPORT_FD: "no number"}, {REPORT_FD: "987654"}])
def test_without_a_launcher_nothing_is_said(
    env: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    reporter = Reporter.from_env(env)
    reporter.snapshot(at_step(1))
    reporter.outcome(Outcome(result="Succeeded", exit_code=0))
    assert capfd.readouterr() == ("", "")


def test_once_the_launcher_is_gone_nothing_is_written_whatever_the_pipes_number_becomes(
    pipe: tuple[int, int], tmp_path: Path
) -> None:
    reporter = Reporter(pipe[1])
    os.close(pipe[0])
    reporter.snapshot(at_step(1))
    with (tmp_path / "other").open("wb") as other:
        os.dup2(other.fileno(), pipe[1])
        reporter.outcome(Outcome(result="Succeeded", exit_code=0))
    assert (tmp_path / "other").read_bytes() == b""


def test_a_full_pipe_drops_snapshots_but_keeps_lines_whole(pipe: tuple[int, int]) -> None:
    reporter = Reporter(pipe[1])
    longer_than_pipe_buf = {f"{'m' * 60}{i}": 1 / 3 for i in range(60)}
    for step in range(50):
        reporter.snapshot(Snapshot(progress=Progress(step=step), metrics=longer_than_pipe_buf))
    before = received(pipe[0])
    reporter.outcome(Outcome(result="Succeeded", exit_code=0))
    *snapshots, last = reports(before + received(pipe[0]))
    assert 1 < len(snapshots) < 50
    assert last.outcome is not None


def test_numbers_that_json_lacks_are_left_out() -> None:
    snapshot = Snapshot(metrics={"loss": math.nan, "kl": math.inf, "gradNorm": 1.5})
    assert snapshot.metrics == {"gradNorm": 1.5}


def test_too_many_metrics_do_not_end_a_run() -> None:
    assert len(Snapshot(metrics={f"m{i}": float(i) for i in range(100)}).metrics) == 64
