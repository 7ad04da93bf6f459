"""Proximal policy optimisation: our own, on transformers' Trainer (TRL has none since 1.13)."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from transformers import TrainingArguments

from aligntune.backends.trl.rl.ppo.algorithm import PPO
from aligntune.backends.trl.rl.ppo.prompts import Row
from aligntune.backends.trl.rl.ppo.rollout import Answers as Sampled
from aligntune.backends.trl.rl.ppo.rollout import Sampler
from aligntune.backends.trl.rl.ppo.steps import StepModel
from aligntune.backends.trl.rl.ppo.value import PolicyAndValue
from aligntune.backends.trl.rl.rollouts import RolloutTrainer, read_rollout
from aligntune.core.rl.config import PPOConfig
from aligntune.data.prompts import PromptEncoder, longest_prompt
from aligntune.training import completions
from aligntune.training.context import world_size
from aligntune.training.loop import RunLoop, Surroundings
from aligntune.training.model_loading import end_tokens
from aligntune.training.reference import load_reference

_log = logging.getLogger(__name__)


class PPOLoop(RunLoop, PPO):
    """PPO in our loop."""

    def answer(self, rows: Sequence[Row]) -> Sampled:
        """The answers of a rollout; status says that they are generated."""
        with self.progress.doing("generating"):  # scoring is not: a hang in it is to be found
            return super().answer(rows)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Pass on what was measured, and the completions of the newest rollout."""
        if "loss" in logs and self.newest and self.is_world_process_zero():
            completions.write(Path(self.args.output_dir), self.state.global_step, self.newest)
            _log.info("step %d:\n%s", self.state.global_step, completions.shown(self.newest))
            self.newest = []
        super().log(logs, start_time)

    @property
    def strayed(self) -> bool:
        """The policy is beyond the KL limit."""
        return self.guard.beyond > 0

    def _end_step(self, grad_norm: float, learning_rate: float) -> None:
        if isinstance(self.train_dataset, Dataset):  # the Trainer counts rollouts
            rows, step = len(self.train_dataset), self.state.global_step
            self.state.epoch = self.step_model.passes_over(rows, step)
        super()._end_step(grad_norm, learning_rate)
        if self.strayed and not self.preempted:
            self.control.should_save = False  # the last checkpoint is to be a good one

    def save_more(self, folder: Path) -> None:
        """Write this process's rollout, which several steps learn from, and what it counts."""
        torch.save(self.memory(), folder / f"ppo-{self.args.process_index}.pt")

    def load_more(self, folder: Path) -> None:
        """Go on with the rollout of the checkpoint, unless it was shared out otherwise."""
        file = folder / f"ppo-{self.args.process_index}.pt"
        memory = read_rollout(file, self.step_model.processes, "cpu")
        if memory is not None:
            self.remember(memory)


class TRLPPOTrainer(RolloutTrainer):
    """Proximal policy optimisation with reward functions, a reward model, or both."""

    method = "PPO"
    step_model: StepModel
    """Settled by `setup_model`."""

    def setup_model(self) -> None:
        """Load model and tokenizer, once it is known that the rollouts can be cut into steps."""
        self.step_model = StepModel.of(self.config, world_size())
        super().setup_model()

    @property
    def settings(self) -> PPOConfig:
        """The algorithm's settings."""
        return self.config.ppo or PPOConfig()

    def make_encoder(self) -> PromptEncoder:
        """Rows become prompts that leave room for an answer."""
        limit = longest_prompt(self.max_length, self.sampling.max_new_tokens, None, "")
        return PromptEncoder(self.tokenizer, max_prompt_length=limit)

    def make_arguments(self, shared: dict[str, Any]) -> TrainingArguments:
        """Every argument that transformers is given; the number of steps comes with the data."""
        return TrainingArguments(
            **shared
            | {
                "gradient_accumulation_steps": self.step_model.accumulation,
                "metric_for_best_model": "eval_reward",
                "greater_is_better": True,
            }
        )

    def make_loop(self, surroundings: Surroundings) -> RunLoop:
        """PPO in our loop."""
        rows = surroundings["train_dataset"]
        self.arguments.max_steps = self.step_model.total(
            self.config, len(rows) if isinstance(rows, Dataset) else None
        )
        models = PolicyAndValue(
            self._adapted(self.model, self.adapters()),
            self._value_trunk(),
            self.sampling.temperature,
        )
        return PPOLoop(
            **surroundings | {"model": models},
            settings=self.settings,
            step_model=self.step_model,
            sampler=Sampler(self.sampling, self.tokenizer, self._end_tokens()),
            rewards=self.ensure_rewards(),
            reference=self._reference(),
        )

    def ensure_loop(self) -> RunLoop:
        """Have everything; what is saved and asked is the policy alone."""
        loop = super().ensure_loop()
        self.model = loop.model.policy
        return loop

    def _reference(self) -> PolicyAndValue | None:
        """A model of its own where one is named or all weights are tuned; else None."""
        config = self.config
        if not config.loads_reference:
            return None
        frozen = load_reference(
            config.reference_model, config.model, self.computed_in, tokens=len(self.tokenizer)
        )
        return PolicyAndValue(frozen, None, self.sampling.temperature)

    def _value_trunk(self) -> Any | None:
        if self.settings.value_model == "head":
            return None
        trunk = self.load_model(self.config.model, self.computed_in).base_model
        return self._adapted(trunk, self.lora("FEATURE_EXTRACTION"))

    def _adapted(self, model: Any, adapters: PeftLoraConfig | None) -> Any:
        """The model with the adapters that are trained, where not all weights are."""
        if adapters is None:
            return model
        adapted = get_peft_model(model, adapters)
        if self.arguments.gradient_checkpointing or model.is_gradient_checkpointing:
            adapted.enable_input_require_grads()  # else nothing below the adapters has a gradient
        return adapted

    def _end_tokens(self) -> list[int]:
        """The tokenizer's end token, and whatever else the model stops at."""
        return sorted({self.tokenizer.eos_token_id, *end_tokens(self.model.generation_config)})
