"""The launcher with real child processes: small scripts in the place of ranks."""

import io
import json
import os
import re
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from aligntune.api.causes import Cause
from aligntune.api.env import NODE_RANK, POD_UID, TERMINATION_MESSAGE_PATH
from aligntune.api.progress import Outcome
from aligntune.pod.launcher import launch
from tests.cluster.processes import wait_until

RANK = """
import faulthandler, json, os, signal, sys, time
rank = int(os.environ["RANK"])
def say(line):
    os.write(int(os.environ["ALIGNTUNE_REPORT_FD"]), line if type(line) is bytes
             else json.dumps(line).encode() + b"\\n")
def training(step, **metrics):
    say({"snapshot": {"progress": {"step": step, "totalSteps": 9, "activity": "training"},
                      "metrics": metrics,
                      "durations": {"step": {"count": step, "seconds": 0.001}}}})
def ended(result, exit_code, reason=None, message=""):
    say({"outcome": {"result": result, "exitCode": exit_code, "reason": reason,
                     "message": message}})
    sys.exit(exit_code)
def wait_for_sigterm(number=signal.SIGTERM):
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    print("waiting", flush=True)
    while not told:  # other signals end a pause too
        time.sleep(0.01)
def wait_at_gate():
    open(sys.argv[1] + ".gate").read()
def open_gate():
    open(sys.argv[1] + ".gate", "w").close()
def ignore_sigterm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("waiting", flush=True)
    while True:
        signal.pause()
"""


class Run:
    """One launch in `folder`, and what can be seen of it from outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.attempt = folder / "out" / "attempt-2"
        self.stdout = io.BytesIO()
        self.termination_log = folder / "termination-log"
        self.gate = folder / "run.json.gate"
        os.mkfifo(self.gate)
        self.command: tuple[str, ...] = (sys.executable, "-c")

    def __call__(
        self,
        script: str,
        *,
        config: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        meanwhile: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> int:
        path = self.folder / "run.json"
        sft = {
            "model": {"name": "tiny"},
            "datasets": [{"name": "rows.jsonl"}],
            "outputDir": str(self.folder / "out"),
        }
        path.write_text(json.dumps({"sft": sft, "attempt": 2, **(config or {})}))
        failures: list[BaseException] = []

        def beside() -> None:
            """A failure beside the launcher ends it too; nobody else would."""
            try:
                meanwhile()
            except BaseException as error:  # noqa: BLE001 - raised again below
                failures.append(error)
                for rank in psutil.Process().children():
                    rank.kill()

        other = threading.Thread(target=beside)
        other.start()
        try:
            code = launch(
                path,
                env={
                    "PATH": os.environ["PATH"],
                    TERMINATION_MESSAGE_PATH: str(self.termination_log),
                    **(env or {}),
                },
                port=0,
                rank_command=(*self.command, RANK + script),
                stdout=self.stdout,
                clock=clock,
                end_grace_seconds=0.2,
            )
        finally:
            other.join()
        if failures:
            raise failures[0]
        return code

    @property
    def outcome(self) -> Outcome:
        return Outcome.model_validate_json((self.attempt / "outcome.json").read_bytes())

    def log(self, rank: int) -> str:
        path = self.attempt / f"rank-{rank}.log"
        return path.read_text() if path.exists() else ""

    def wait_for_words(self, words: str, *ranks: int) -> None:
        """Returns once each of these ranks has printed them."""
        for rank in ranks:
            said = f"rank {rank} says {words!r}"
            wait_until(said, lambda rank=rank: words in self.log(rank), pause_seconds=0.01)

    def get(self, path: str) -> str:
        url = json.loads((self.attempt / "endpoint.json").read_text())["url"]
        with urllib.request.urlopen(url + path, timeout=5) as answer:
            return str(answer.read().decode())

    def progress(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.get("/progress"))
        return told


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def twenty_times_faster() -> float:
    return 20 * time.monotonic()


def interrupt(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_ranks_get_torch_distributeds_environment(run: Run) -> None:
    script = """
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
         "OMP_NUM_THREADS")
print(json.dumps({name: os.environ[name] for name in names} | {"argument": sys.argv[1]}))
ended("Succeeded", 0)
"""
    assert run(script, config={"processesPerNode": 2}) == 0
    first, second = (json.loads(run.log(rank)) for rank in (0, 1))
    assert (first["RANK"], first["LOCAL_RANK"]) == ("0", "0")
    assert (second["RANK"], second["LOCAL_RANK"]) == ("1", "1")
    assert first["WORLD_SIZE"] == first["LOCAL_WORLD_SIZE"] == "2"
    assert first["MASTER_PORT"] == second["MASTER_PORT"] != "29500"
    assert first["OMP_NUM_THREADS"] == "1"
    assert first["argument"].endswith("run.json")


def test_success_keeps_what_the_ranks_said_and_printed(run: Run) -> None:
    script = """
print("hello from", rank)
if rank == 0:
    training(9, loss=1.5)
ended("Succeeded", 0)
"""
    assert run(script, config={"processesPerNode": 2}) == 0
    assert (run.outcome.result, run.outcome.step, run.outcome.metrics) == (
        "Succeeded",
        9,
        {"loss": 1.5},
    )
    assert run.stdout.getvalue() == b"[rank 0] hello from 0\n"
    assert run.log(1) == "hello from 1\n"
    assert Outcome.model_validate_json(run.termination_log.read_bytes()) == run.outcome


def test_a_lone_rank_prints_without_prefix_and_stays_out_of_ddp(run: Run) -> None:
    script = """
print("LOCAL_RANK" in os.environ, os.environ["WORLD_SIZE"])
ended("Succeeded", 0)
"""
    assert run(script) == 0
    assert run.stdout.getvalue() == b"False 1\n"


def test_sigterm_reaches_every_rank_and_the_outcome_is_preempted(run: Run) -> None:
    script = """
training(4)
wait_for_sigterm()
ended("Preempted", 143, "Preempted", "checkpoint saved")
"""

    def preempt() -> None:
        run.wait_for_words("waiting", 0, 1)
        interrupt(signal.SIGTERM)

    assert run(script, config={"processesPerNode": 2}, meanwhile=preempt) == 143
    assert (run.outcome.result, run.outcome.reason, run.outcome.step) == (
        "Preempted",
        Cause.PREEMPTED,
        4,
    )
    assert run.outcome.message == "checkpoint saved"


def test_the_whole_grace_period_may_be_used(run: Run) -> None:
    script = """
wait_for_sigterm()
if rank == 0:
    print("saving", flush=True)
    wait_at_gate()
ended("Preempted", 143, "Preempted")
"""

    def preempt() -> None:
        run.wait_for_words("waiting", 0, 1)
        interrupt(signal.SIGTERM)
        run.wait_for_words("saving", 0)
        interrupt(signal.SIGTERM)
        run.gate.write_text("")

    assert run(script, config={"processesPerNode": 2}, meanwhile=preempt) == 143


def test_a_second_interrupt_kills(run: Run) -> None:
    def interrupt_twice() -> None:
        run.wait_for_words("waiting", 0)
        interrupt(signal.SIGINT)
        run.wait_for_words("told", 0)
        interrupt(signal.SIGTERM)
        interrupt(signal.SIGINT)

    script = """
signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
print("waiting", flush=True)
while True:
    signal.pause()
"""
    assert run(script, meanwhile=interrupt_twice) == 143
    assert run.log(0).count("told") == 1


def test_a_crash_ends_the_others_and_names_the_rank_that_crashed(run: Run) -> None:
    script = """
if rank == 1:
    wait_at_gate()
    raise KeyError("prompt HF_TOKEN=abcdef123456")
training(3)
open_gate()
ignore_sigterm()
"""
    assert run(script, config={"processesPerNode": 2}) == 70
    outcome = run.outcome
    assert (outcome.result, outcome.reason, outcome.step) == ("Failed", Cause.UNKNOWN, 3)
    assert outcome.message.startswith("rank 1: exited with code 1: KeyError")
    assert outcome.log_tail.startswith("Traceback")
    assert "abcdef123456" not in outcome.model_dump_json()


def test_what_a_rank_leaves_behind_is_ended_with_it(run: Run) -> None:
    script = """
worker = os.fork()
if worker == 0:
    signal.pause()
print(worker)
ended("Succeeded", 0)
"""
    assert run(script) == 0
    worker = int(run.log(0))
    wait_until("the worker has ended", lambda: _has_ended(worker))


def _has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_rank_killed_from_outside_is_told_apart_from_out_of_memory(run: Run) -> None:
    assert run("os.kill(os.getpid(), signal.SIGKILL)") == 70
    assert "SIGKILL" in run.outcome.message


def test_rubbish_on_the_pipe_harms_nothing(run: Run) -> None:
    script = r"""
say(b"\xff\xfe no json\n{}\n[]\nnull\n")
say(b'{"snapshot": {"progress": {"step": -1}}}\n')
for _ in range(40):
    say(b"x" * 60000)
say(b"\n")
training(5, loss=2.0)
ended("Succeeded", 0)
"""
    assert run(script) == 0
    assert (run.outcome.step, run.outcome.metrics) == (5, {"loss": 2.0})


def test_only_rank_0_tells_progress(run: Run) -> None:
    script = """
training(100 if rank else 5)
ended("Succeeded", 0)
"""
    assert run(script, config={"processesPerNode": 2}) == 0
    assert run.outcome.step == 5


def test_endpoint_tells_progress_with_attempt_and_pod(run: Run) -> None:
    answers: dict[str, Any] = {}

    def ask() -> None:
        run.wait_for_words("waiting", 0)
        wait_until("step 7 is told", lambda: run.progress()["progress"]["step"] == 7)
        answers["progress"] = run.progress()
        answers["metrics"] = run.get("/metrics")
        answers["health"] = run.get("/healthz")
        interrupt(signal.SIGTERM)

    run("training(7, loss=1.25)\nwait_for_sigterm()", meanwhile=ask)
    assert answers["progress"]["attempt"] == 2
    assert answers["progress"]["metrics"] == {"loss": 1.25}
    assert "aligntune_train_loss 1.25" in answers["metrics"]
    [goodput] = re.findall(r"\naligntune_train_goodput_ratio (\S+)", answers["metrics"])
    assert 0 < float(goodput) < 1, "0.001 s of the time since the launcher began"
    assert answers["health"] == "ok\n"
    assert not (run.attempt / "endpoint.json").exists()


def test_a_hang_leaves_every_ranks_stack_in_its_log_and_ends_the_attempt(run: Run) -> None:
    script = """
faulthandler.register(signal.SIGUSR1)
def in_the_collective():
    ignore_sigterm()
training(6)
in_the_collective()
"""
    config = {"processesPerNode": 2, "stallTimeoutSeconds": 20, "onStall": "Restart"}
    assert run(script, config=config, clock=twenty_times_faster) == 75
    assert run.outcome.reason is Cause.STALLED
    assert "after step 6" in run.outcome.message
    for rank in (0, 1):
        assert "in in_the_collective" in run.log(rank)


def test_a_later_pod_of_a_gang_finds_the_hang_too_but_shows_no_progress(run: Run) -> None:
    """The first pod shows it: a second would count every step twice in Prometheus."""
    shown: dict[str, Any] = {}

    def look() -> None:
        run.wait_for_words("Current thread", 1)
        shown.update(run.progress())

    script = "faulthandler.register(signal.SIGUSR1)\ntraining(6)\nignore_sigterm()"
    config = {"nodes": 2, "stallTimeoutSeconds": 20, "onStall": "Restart"}
    config |= {"masterAddress": "127.0.0.1"}
    code = run(
        script, config=config, env={NODE_RANK: "1"}, meanwhile=look, clock=twenty_times_faster
    )
    assert code == 75
    outcome = json.loads((run.attempt / "outcome-node-1.json").read_text())
    assert "after step 6" in outcome["message"]
    assert shown["progress"]["step"] == 0
    assert "stalledSeconds" not in shown


def test_a_hang_that_is_only_reported_shows_in_progress_and_goes_on(run: Run) -> None:
    script = """
faulthandler.register(signal.SIGUSR1)
training(6)
wait_for_sigterm()
training(7)
ended("Succeeded", 0)
"""

    def see_it() -> None:
        run.wait_for_words("Current thread", 0)
        wait_until("the stall is told", lambda: run.progress().get("stalledSeconds"))
        os.kill(_rank_pid(), signal.SIGTERM)

    def _rank_pid() -> int:
        return int(run.log(0).split()[0])

    config = {"stallTimeoutSeconds": 20, "onStall": "Report"}
    assert (
        run(
            "print(os.getpid())" + script,
            config=config,
            meanwhile=see_it,
            clock=twenty_times_faster,
        )
        == 0
    )
    assert run.log(0).count("Current thread") == 1
    assert run.outcome.step == 7


def test_asking_for_stacks_does_not_kill_a_rank_that_cannot_answer(run: Run) -> None:
    config = {"stallTimeoutSeconds": 20, "onStall": "Restart"}
    assert run("training(6)\nignore_sigterm()", config=config, clock=twenty_times_faster) == 75


def test_an_output_folder_that_cannot_be_written_is_one_sentence(run: Run) -> None:
    (run.folder / "out").write_text("a file in the way")
    assert run("") == 78
    outcome = Outcome.model_validate_json(run.termination_log.read_bytes())
    assert outcome.reason is Cause.CONFIG_ERROR
    assert str(run.folder / "out") in outcome.message
    assert "outputDir" in outcome.message


def test_a_wrong_config_is_one_sentence(run: Run) -> None:
    assert run("", config={"sftt": {}}) == 78
    outcome = Outcome.model_validate_json(run.termination_log.read_bytes())
    assert "sftt: unknown field; did you mean 'sft'?" in outcome.message


def test_a_node_rank_outside_the_gang_is_refused(run: Run) -> None:
    assert run("", env={NODE_RANK: "1"}) == 78
    outcome = Outcome.model_validate_json(run.termination_log.read_bytes())
    assert (
        "JOB_COMPLETION_INDEX: must be a whole number below nodes (1), got '1'" in outcome.message
    )


def test_ranks_of_a_second_node_count_on_and_meet_at_the_first(run: Run) -> None:
    script = """
print(rank, os.environ["WORLD_SIZE"], os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"])
ended("Succeeded", 0)
"""
    config = {"nodes": 2, "processesPerNode": 2, "masterAddress": "job-0.job"}
    env = {NODE_RANK: "1", POD_UID: "pod-1"}
    assert run(script, config=config, env=env) == 0
    assert run.log(2) == "2 4 job-0.job 29500\n"
    assert run.stdout.getvalue() == b"[rank 2] 2 4 job-0.job 29500\n"
    assert (run.attempt / "outcome-node-1.json").exists()


def test_a_command_that_does_not_exist_is_one_sentence(run: Run) -> None:
    run.command = ("no-such-command",)
    assert run("") == 78
    assert "'no-such-command' does not start: No such file" in run.outcome.message
