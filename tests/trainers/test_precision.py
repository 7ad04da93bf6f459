"""What trained weights are kept in, and that policy and reference are computed alike."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict

from aligntune.backends.trl.rl.dpo.dpo import TRLDPOTrainer
from aligntune.backends.trl.rl.grpo.grpo import TRLGRPOTrainer
from aligntune.backends.trl.sft.sft import TRLSFTTrainer
from tests.trainers.tiny import MakeConfig, MakeRLConfig

BF16 = {"max_steps": 1, "precision": "bf16"}


@pytest.fixture
def grpo(pairs_config: MakeRLConfig, tiny_data: Path) -> MakeRLConfig:
    """Makes a config whose first rollout is learned from once."""

    def make(**sections: Any) -> Any:
        return pairs_config(
            "grpo",
            datasets=[{"name": str(tiny_data)}],
            rewards=[{"name": "length", "params": {"longest": 5}}],
            grpo={"prompts_per_step": 2, "num_generations": 4, "beta": 0.1},
            generation={"max_new_tokens": 32},
            **sections,
        )

    return make


def quantised(trainer: Any) -> Any:
    """The trainer, whose base has the flag by which TRL knows that bitsandbytes loaded it."""
    load = trainer.load_model

    def load_model(*args: Any) -> Any:
        model = load(*args)
        model.is_loaded_in_4bit = True
        return model

    trainer.load_model = load_model
    return trainer


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo"])
def test_adapters_of_a_quantised_base_learn_in_fp32(
    method: str, config: MakeConfig, pairs_config: MakeRLConfig, grpo: MakeRLConfig
) -> None:
    trainers: dict[str, Any] = {
        "sft": lambda: TRLSFTTrainer(config(train=BF16)),
        "dpo": lambda: TRLDPOTrainer(pairs_config("dpo", train=BF16)),
        "grpo": lambda: TRLGRPOTrainer(grpo(train=BF16)),
    }
    model = quantised(trainers[method]()).ensure_loop().model
    kept_in = {weight.dtype for weight in get_peft_model_state_dict(model).values()}
    assert kept_in == {torch.float32}


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_precomputed_reference_is_where_the_policy_begins(
    tuning: str, pairs_config: MakeRLConfig
) -> None:
    trainer = TRLDPOTrainer(
        pairs_config(
            "dpo",
            model={"tuning": tuning},
            dpo={"precompute_reference": True},
            train=BF16,
            logging={"every_steps": 1},
        )
    )
    assert trainer.train().metrics["reward_margin"] == 0


def test_a_reference_that_was_precomputed_in_another_precision_is_computed_anew(
    pairs_config: MakeRLConfig,
) -> None:
    for precision in ("fp32", "bf16"):
        settings = pairs_config(
            "dpo",
            model={"tuning": "full"},
            dpo={"precompute_reference": True},
            train={"max_steps": 1, "precision": precision},
            logging={"every_steps": 1},
            checkpoint={"resume": "never"},
        )
        assert TRLDPOTrainer(settings).train().metrics["reward_margin"] == 0


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_reference_of_its_own_is_where_the_policy_begins(
    tuning: str, grpo: MakeRLConfig, tiny_model: Path
) -> None:
    trainer = TRLGRPOTrainer(
        grpo(
            model={"tuning": tuning},
            reference_model={"name": str(tiny_model)},
            train=BF16,
            logging={"every_steps": 1},
        )
    )
    assert trainer.train().metrics["kl"] == 0
