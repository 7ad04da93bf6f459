"""What one would write with TRL alone: model, data and settings of a run of methods.py.

python bench/plain_trl.py METHOD RUN
"""

import json
import sys
from pathlib import Path
from typing import Any

from datasets import load_dataset
from methods import ROLES, trl_arguments
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    set_seed,
)


def main(method: str, run: Path) -> None:
    set_seed(42)
    [config] = json.loads(run.read_text()).values()
    model, data = config["model"]["name"], config["datasets"][0]["name"]
    lora = LoraConfig(
        task_type="SEQ_CLS" if method == "reward" else "CAUSAL_LM",
        r=16,
        lora_alpha=32,
        target_modules="all-linear",
    )
    parts: dict[str, Any] = {
        "train_dataset": load_dataset("json", data_files=data, split="train"),
        "processing_class": AutoTokenizer.from_pretrained(model),
        "peft_config": None if config["model"].get("tuning") == "full" else lora,
    }
    trainer = TRAINERS[method](model, trl_arguments(method, config), parts)
    trainer.train()
    trainer.save_model(str(Path(config["outputDir"]) / "model"))


def sft(model: str, arguments: dict[str, Any], parts: dict[str, Any]) -> Any:
    from trl import SFTConfig, SFTTrainer

    parts["train_dataset"] = turns(parts["train_dataset"], **ROLES["sft"])
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        args=SFTConfig(**arguments),
        **parts,
    )


def dpo(model: str, arguments: dict[str, Any], parts: dict[str, Any]) -> Any:
    from trl import DPOConfig, DPOTrainer

    parts["train_dataset"] = turns(parts["train_dataset"], **ROLES["dpo"])
    return DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        args=DPOConfig(**arguments),
        **parts,
    )


def reward(model: str, arguments: dict[str, Any], parts: dict[str, Any]) -> Any:
    from trl import RewardConfig, RewardTrainer

    parts["train_dataset"] = turns(parts["train_dataset"], **ROLES["dpo"])
    return RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(
            model, num_labels=1, dtype="float32"
        ),
        args=RewardConfig(**arguments),
        **parts,
    )


def length(completions: list[Any], **_: Any) -> list[float]:
    """A reward: longer is better, up to 20 characters."""
    return [min(1.0, len(turn[0]["content"].strip()) / 20) for turn in completions]


def grpo(model: str, arguments: dict[str, Any], parts: dict[str, Any]) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    parts["train_dataset"] = turns(parts["train_dataset"], **ROLES["grpo"])
    return GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        reward_funcs=length,
        args=GRPOConfig(**arguments),
        **parts,
    )


TRAINERS = {"sft": sft, "dpo": dpo, "reward": reward, "grpo": grpo}


def turns(rows: Any, **roles: str) -> Any:
    """The rows with a message in place of each text."""
    return rows.map(
        lambda row: {name: [{"role": role, "content": row[name]}] for name, role in roles.items()},
        remove_columns=rows.column_names,
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
