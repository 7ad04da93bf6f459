"""The estimate of a job's memory beside what its tensors hold at their most.

    python bench/memory.py [NUMBER...]

Runs of two steps of SmolLM2-135M-Instruct on the CPU; live_tensors.py counts. Rows are of two
lengths, the longer cut at maxLength, as padding has its price.
"""

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from live_tensors import LiveTensors
from methods import MODEL, prepare

STEPS = 2
TEXT = "the quick brown fox jumps over the lazy dog and then sleeps all day long "
LONG, SHORT = TEXT * 300, TEXT * 5


class Run(NamedTuple):
    """A run to be measured; what is not said is as in a manifest."""

    method: str
    batch: int = 4
    length: int = 128
    tuning: str = "lora"
    precision: str = "fp32"
    recompute: bool = False
    more: Mapping[str, Any] = MappingProxyType({})

    @property
    def document(self) -> dict[str, Any]:
        """The config, but for its data and its output."""
        document: dict[str, Any] = {
            "model": {"name": str(MODEL), "maxLength": self.length, "tuning": self.tuning},
            "train": {
                "maxSteps": STEPS,
                "perDeviceBatchSize": self.batch,
                "precision": self.precision,
                "gradientCheckpointing": self.recompute,
            },
            "checkpoint": {"everySteps": 1000},
        }
        if self.method != "sft":
            document["algo"] = self.method
        for section, settings in self.more.items():
            whole = isinstance(settings, list)
            document[section] = settings if whole else document.get(section, {}) | settings
        return document

    def __str__(self) -> str:
        recompute = ", recomputing" if self.recompute else ""
        if self.more.get("train"):
            recompute += ", two passes a step"
        return (
            f"{self.method}, {self.tuning}, {self.precision}, batch {self.batch} x {self.length}"
            f"{recompute}"
        )


SAMPLING = {"generation": {"maxNewTokens": 32}, "rewards": [{"name": "length"}]}
GROUPS = SAMPLING | {"grpo": {"promptsPerStep": 2, "numGenerations": 4}}
HELD = SAMPLING | {"grpo": {"promptsPerStep": 2, "numGenerations": 4, "beta": 0.1}}
ROLLOUT = SAMPLING | {"ppo": {"rolloutBatchSize": 8, "epochs": 1}}
RUNS = [
    Run("sft", length=256),
    Run("sft", batch=1, length=512),
    Run("sft", batch=2, length=512, recompute=True),
    Run("sft", length=256, precision="bf16"),
    Run("sft", batch=2, tuning="full"),
    Run("sft", batch=2, length=512, tuning="full", recompute=True),
    Run("sft", tuning="full", precision="bf16"),
    Run("sft", batch=2, tuning="full", more={"train": {"gradientAccumulationSteps": 2}}),
    Run("dpo", batch=1),
    Run("dpo", batch=2),
    Run("dpo", batch=2, precision="bf16"),
    Run("dpo", batch=1, tuning="full", recompute=True),
    Run("grpo", batch=8, more=GROUPS),
    Run("grpo", batch=4, tuning="full", recompute=True, more=HELD),
    Run("ppo", batch=8, more=ROLLOUT),
    Run("ppo", batch=4, tuning="full", recompute=True, more=ROLLOUT),
]


def rows(method: str) -> list[dict[str, str]]:
    """What the method is trained on."""
    match method:
        case "sft":
            return [{"text": LONG}, {"text": SHORT}] * 16
        case "dpo":
            return [{"prompt": "Say it.", "chosen": LONG, "rejected": SHORT}] * 32
    return [{"prompt": TEXT * 4}, {"prompt": TEXT}] * 16  # longer ones would be left out


def measured(run: Run, model: str | None = None) -> int:
    """Bytes of all tensors at their most."""
    from aligntune.core.backend_factory import trainer_for
    from aligntune.core.rl.config import UnifiedConfig
    from aligntune.core.sft.config import SFTConfig

    kind: type[Any] = SFTConfig if run.method == "sft" else UnifiedConfig
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows(run.method)))
        document = run.document | {"datasets": [{"name": str(data)}], "outputDir": f"{folder}/out"}
        if model:
            document["model"]["name"] = model
        trainer = trainer_for("trl", run.method)(kind.model_validate(document))
        trainer.ensure_loop()
        with LiveTensors() as tensors:
            trainer.train()
        return tensors.peak


def estimated(run: Run, model: str | None = None) -> tuple[int, str]:
    """Bytes of all tensors at their most, and when that is."""
    from aligntune.core.memory.estimate import estimate
    from aligntune.core.rl.config import RLSpec
    from aligntune.core.sft.config import SFTSpec
    from aligntune.model_config import read_shape

    kind: type[Any] = SFTSpec if run.method == "sft" else RLSpec
    document = run.document | {"datasets": [{"name": "rows.jsonl"}]}
    if model:
        document["model"]["name"] = model
    config = kind.model_validate(document)
    found = estimate(config, read_shape(config.model), processes=1, gpu=False)
    return found.tensors, found.peak


def main() -> None:
    torch.set_num_threads(1)  # threads of a busy machine wait for each other
    os.environ |= {"CI": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    chosen = [int(argument) for argument in sys.argv[1:]] or range(1, len(RUNS) + 1)
    prepare()
    print("| | run | estimate | measured | estimate / measured | at |\n|---|---|---|---|---|---|")
    for number in chosen:
        run = RUNS[number - 1]
        guess, moment = estimated(run)
        found = measured(run)
        print(
            f"| {number} | {run} | {guess / 2**20:.0f} MiB | {found / 2**20:.0f} MiB"
            f" | {guess / found:.2f} | {moment} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
