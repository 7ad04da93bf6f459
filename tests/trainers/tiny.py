"""What the trainers' tests build on: rows, configs, losses, and a rank in a process of its own."""

import json
import multiprocessing
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aligntune.core.backend_factory import TRAINERS
from aligntune.core.rl.config import UnifiedConfig
from aligntune.core.sft.config import SFTConfig
from tests.cluster.processes import free_port, wait_until

DEEPSPEED = Path(sys.prefix) / "deepspeed"
"""Where `make setup` puts DeepSpeed, for those processes alone that train with it."""
UNSLOTH = Path(sys.prefix) / "unsloth"
"""The same of Unsloth, which changes transformers in every process that imports it."""
MakeConfig = Callable[..., SFTConfig]
MakeRLConfig = Callable[..., UnifiedConfig]


def sums(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Questions and answers that a tiny model can learn something about."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        one, other = chance.randint(0, 9), chance.randint(0, 9)
        question = f"What is {one} plus {other}?"
        rows.append({"prompt": question, "completion": f"It is {one + other}."})
    return rows


def comparisons(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Questions with a right and a wrong answer."""
    return [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": f"It is {wrong}."}
        for row, wrong in zip(sums(count, seed), range(20, 20 + count), strict=True)
    ]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, section by section."""
    merged = dict(base)
    for key, value in over.items():
        below = base.get(key)
        both = isinstance(value, dict) and isinstance(below, dict)
        merged[key] = merge(below, value) if both else value
    return merged


def curve(folder: Path) -> list[dict[str, float]]:
    """The loss curve of a run; fails where a step is missing or double."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return lines


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in curve(folder)]


def plain_arguments(folder: Path, **more: Any) -> dict[str, Any]:
    """Arguments of a plain TRL script on this machine, as the tests' configs have them."""
    return {
        "output_dir": str(folder),
        "max_steps": 10,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "optim": "adamw_torch",
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "report_to": "none",
    } | more


def write_run(path: Path, config: SFTConfig | UnifiedConfig, **run: Any) -> Path:
    """The file that a rank reads."""
    section = "sft" if isinstance(config, SFTConfig) else "rl"
    document = {"backend": "trl", section: config.model_dump(mode="json")} | run
    path.write_text(json.dumps(document), "utf-8")
    return path


class Rank:
    """A rank in a process of its own, forked from one that has imported TRL already.

    A `fresh` one imports all by itself, and so sees what the test has put into PYTHONPATH.
    """

    def __init__(self, run: Path, log: Path, env: dict[str, str], *, fresh: bool = False) -> None:
        modules = [place.split(":")[0] for (on, _), place in TRAINERS.items() if on == "trl"]
        _FORKS.set_forkserver_preload([*modules, "aligntune.pod.rank"])
        context: Any = multiprocessing.get_context("spawn") if fresh else _FORKS
        self._log = log
        self._process = context.Process(target=_train, args=(str(run), str(log), env))
        self._process.start()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def wait(self) -> int:
        """Its exit code; what it printed becomes part of a failing test's report."""
        self._process.join(timeout=300)
        sys.stdout.write(self.output)
        assert self._process.exitcode is not None, "the rank did not end within five minutes"
        return self._process.exitcode

    @property
    def output(self) -> str:
        return self._log.read_text() if self._log.is_file() else ""


def launch(run: Path, folder: Path, world_size: int = 1, *, fresh: bool = False) -> list[Rank]:
    """All ranks of a run, as the launcher starts them."""
    return [
        Rank(run, folder / f"rank-{rank}.log", env, fresh=fresh)
        for rank, env in enumerate(rank_environments(world_size))
    ]


def rank_environments(world_size: int) -> list[dict[str, str]]:
    """What each rank is told of the others; a lone one has none to meet."""
    if world_size == 1:
        return [{}]
    common = {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [common | {"RANK": str(n), "LOCAL_RANK": str(n)} for n in range(world_size)]


def wait_for_step(folder: Path, step: int) -> None:
    path = folder / "metrics.jsonl"
    wait_until(
        f"step {step} is made",
        lambda: path.is_file() and path.read_text().count("\n") >= step,
        seconds=240,
        pause_seconds=0.005,
    )


_FORKS = multiprocessing.get_context("forkserver")


def _train(run: str, log: str, env: dict[str, str]) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(env)
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path.extend(filter(None, given))  # spawn passes on its own
    from aligntune.pod.rank import train

    sys.exit(train(run))
