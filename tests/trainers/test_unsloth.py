"""Unsloth, for real: the four trainers, beside those on TRL with the same settings."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from aligntune.core.backend_factory import task_of, trainer_for
from aligntune.core.rl.config import UnifiedConfig
from aligntune.core.sft.config import SFTConfig
from tests.trainers.tiny import UNSLOTH, curve, losses, merge, sums, write_jsonl, write_run
from tests.trainers.unsloth_runs import QUESTION

METHODS = ("sft", "dpo", "ppo", "grpo", "full")
TOLERANCE = 1e-3


def environment() -> dict[str, str]:
    """A process that sees Unsloth, and trains with it on whatever is here."""
    cpu = {} if torch.cuda.is_available() else {"UNSLOTH_FORCE_CPU": "1"}
    return {**os.environ, "PYTHONPATH": str(UNSLOTH)} | cpu


@pytest.fixture(scope="module")
def configs(
    tiny_model: Path, tiny_data: Path, tiny_pairs: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """A run of each method."""
    folder = tmp_path_factory.mktemp("unsloth")
    rows = [{"prompt": row["prompt"], "answer": row["completion"]} for row in sums(20)]
    questions = write_jsonl(folder / "questions.jsonl", rows)
    shared = {
        "model": {"name": str(tiny_model)},
        "train": {"max_steps": 12, "per_device_batch_size": 4, "learning_rate": 1e-2,
            "optimizer": "adamw_torch_fused"},
        "logging": {"every_steps": 4},
    }
    rewarded = {
        "datasets": [{"name": str(questions)}],
        "rewards": [{"name": "tests.trainers.stopping_reward:vowels"}],
        "generation": {"max_new_tokens": 6},
    }
    sft = {"datasets": [{"name": str(tiny_data)}], "train": {"max_steps": 40}}
    sections: dict[str, dict[str, Any]] = {
        "sft": sft | {"model": {"lora": {"r": 8, "rslora": True}}},
        "full": sft | {"model": {"tuning": "full"}},
        "dpo": {
            "algo": "dpo",
            "datasets": [{"name": str(tiny_pairs)}],
            "train": {"max_steps": 40, "gradient_checkpointing": True},
        },
        "ppo": rewarded
        | {"algo": "ppo", "ppo": {"rollout_batch_size": 8, "epochs": 2, "minibatches": 2}},
        "grpo": rewarded
        | {
            "algo": "grpo",
            "grpo": {
                "prompts_per_step": 2, "num_generations": 4, "num_iterations": 2, "beta": 0.05
            },
        },
    }  # fmt: skip
    made = {}
    for method, over in sections.items():
        kind: Any = UnifiedConfig if "algo" in over else SFTConfig
        document = merge(shared, over) | {"output_dir": str(folder / f"out-{method}")}
        made[method] = kind.model_validate(document)
    return made


@pytest.fixture(scope="module")
def report(configs: dict[str, Any]) -> dict[str, Any]:
    """How the runs of all methods went, in one process with Unsloth."""
    folder = Path(configs["sft"].output_dir).parent / "runs"
    folder.mkdir()
    for method, config in configs.items():
        write_run(folder / f"{method}.json", config, backend="unsloth")
    done = subprocess.run(
        [sys.executable, "-m", "tests.trainers.unsloth_runs", str(folder)],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    told: dict[str, Any] = json.loads((folder / "report").read_text())
    return told


@pytest.fixture(scope="module")
def on_trl(configs: dict[str, Any]) -> Callable[[str], Path]:
    """Trains a config on TRL in this process; the folder of the run."""

    def train(method: str) -> Path:
        config = configs[method]
        config = config.model_copy(update={"output_dir": f"{config.output_dir}-trl"})
        trainer_for("trl", task_of(config))(config).train()
        return Path(config.output_dir)

    return train


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_those_of_the_trl_backend(
    method: str, configs: dict[str, Any], report: dict[str, Any], on_trl: Callable[[str], Path]
) -> None:
    assert report["runs"][method]["codes"][0] == 0
    ours = losses(Path(configs[method].output_dir))
    theirs = losses(on_trl(method))
    print(method, max(abs(a - b) / max(abs(b), 1e-6) for a, b in zip(ours, theirs)))
    print([f"{a:.6f}" for a in ours]); print([f"{a:.6f}" for a in theirs])
    assert ours == pytest.approx(theirs, rel=TOLERANCE, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_stopped_repeats_the_uninterrupted_one(
    method: str, configs: dict[str, Any], report: dict[str, Any]
) -> None:
    assert report["runs"][method]["codes"] == [0, 143, 0]
    whole = Path(configs[method].output_dir)
    assert curve(whole.with_name(f"{whole.name}-parts")) == curve(whole)
