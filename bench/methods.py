"""What is measured beside TRL: short runs of SmolLM2-135M-Instruct with adapters, by method.

plain_trl.py has the same runs as one would write them with TRL alone; commands.py starts both.
"""

import compileall
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "aligntune"
MODEL = CACHE / "models" / "SmolLM2-135M-Instruct"
PREFERENCES = {
    "model": {"maxLength": 96},
    "datasets": [{"name": str(CACHE / "data" / "chatterbot-preferences" / "train.jsonl")}],
    "train": {"perDeviceBatchSize": 2},
}
METHODS: dict[str, dict[str, Any]] = {
    "sft": {
        "model": {"maxLength": 128},
        "datasets": [{"name": str(CACHE / "data" / "chatterbot" / "train.jsonl")}],
        "train": {"perDeviceBatchSize": 4},
    },
    "dpo": PREFERENCES | {"algo": "dpo"},
    "reward": PREFERENCES | {"algo": "reward"},
    "grpo": {
        "algo": "grpo",
        "model": {"maxLength": 128},
        "datasets": [{"name": str(CACHE / "data" / "sums" / "train.jsonl")}],
        "rewards": [{"name": "length", "params": {"shortest": 20}}],
        "grpo": {"promptsPerStep": 2, "numGenerations": 4},
        "generation": {"maxNewTokens": 8},
        "train": {"perDeviceBatchSize": 8},
    },
}
"""Sections of our configs, besides what `config` adds to all."""

PAIRS = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
ROLES: dict[str, dict[str, str]] = {
    "sft": {"prompt": "user", "completion": "assistant"},
    "dpo": PAIRS,
    "reward": PAIRS,
    "grpo": {"prompt": "user"},
}
"""Whose words a column's text is."""


ARGUMENTS: dict[str, Any] = {
    "optim": "adamw_torch",
    "logging_steps": 10,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "disable_tqdm": True,
    "report_to": "none",
}
"""What TRL is told in the other runs, whatever they are: our defaults."""


def asked() -> tuple[str, int | None]:
    """Method and number of runs from the command line; None: not said."""
    names = [argument for argument in sys.argv[1:] if argument in METHODS]
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdecimal()]
    if len(names) + len(numbers) != len(sys.argv[1:]):
        sys.exit(f"usage: {sys.argv[0]} [{'|'.join(METHODS)}] [RUNS]")
    return names[0] if names else "sft", numbers[0] if numbers else None


def config(method: str, steps: int, output: Path, **changes: dict[str, Any]) -> dict[str, Any]:
    """A run of so many steps, with one checkpoint at its end; `changes` are made by section."""
    sections = METHODS[method]
    whole = sections | {
        "model": {"name": str(MODEL)} | sections["model"],
        "train": {"maxSteps": steps, "learningRate": 1e-4} | sections["train"],
        "checkpoint": {"everySteps": steps, "keep": 2},
        "outputDir": str(output),
    }
    return whole | {name: whole[name] | section for name, section in changes.items()}


def write_run(path: Path, method: str, config: dict[str, Any], **more: Any) -> Path:
    """What a pod is given; returns the path."""
    path.write_text(json.dumps({"sft" if method == "sft" else "rl": config} | more))
    return path


def trl_arguments(method: str, config: dict[str, Any]) -> dict[str, Any]:
    """The config in TRL's words."""
    train, checkpoint = config["train"], config["checkpoint"]
    arguments = ARGUMENTS | {
        "output_dir": config["outputDir"],
        "max_steps": train["maxSteps"],
        "learning_rate": train["learningRate"],
        "per_device_train_batch_size": train["perDeviceBatchSize"],
        "save_strategy": "steps",
        "save_steps": checkpoint["everySteps"],
        "save_total_limit": checkpoint["keep"],
    }
    if method == "grpo":
        return arguments | {
            "num_generations": config["grpo"]["numGenerations"],
            "max_completion_length": config["generation"]["maxNewTokens"],
        }
    arguments["max_length"] = config["model"]["maxLength"]
    return arguments | ({"packing": True} if train.get("packing") else {})


def prepare() -> None:
    """Have model, data and bytecode."""
    subprocess.run([sys.executable, ROOT / "examples/prepare.py"], check=True)
    compile_ours()


def compile_ours() -> None:
    """Have our code as bytecode, as it is in an image, also where Python would write none."""
    compileall.compile_dir(ROOT / "aligntune", quiet=1)
