"""Group relative policy optimisation with TRL: full weights, LoRA and QLoRA."""

import logging
from typing import Any

import httpx
import trl

from aligntune.backends.trl.rl.grpo.batch import split
from aligntune.backends.trl.rl.grpo.loop import GRPOLoop
from aligntune.backends.trl.rl.rollouts import RolloutTrainer
from aligntune.core.errors import ConfigError, DataError
from aligntune.core.rl.config import GenerationConfig, GRPOConfig, UnifiedConfig
from aligntune.data.prompts import PromptEncoder, longest_prompt
from aligntune.training.context import world_size
from aligntune.training.loop import RunLoop, Surroundings
from aligntune.training.machine import require, this_machine
from aligntune.training.model_loading import end_tokens
from aligntune.training.reference import load_reference

CISPO_EPSILON_HIGH = 5.0
"""CISPO clips the ratio itself, not its distance from 1: Khatri et al. 2025 (arXiv:2510.13786)."""
VLLM_ANSWER_SECONDS = 10.0
"""How long a vLLM server may take to say that it is well."""

_log = logging.getLogger(__name__)


def trl_arguments(
    config: UnifiedConfig,
    shared: dict[str, Any],
    *,
    processes: int,
    max_length: int,
    ends: list[int],
) -> trl.GRPOConfig:
    """What TRL is told, besides what all methods share.

    `ends` are the tokens at which answers end; vLLM would know only those that the base names.

    Not here: `beta`, which the loop sets together with the reference model that we load.

    Raises:
        ConfigError: The completions of a step cannot be split over processes and forward passes.
    """
    grpo, sampling = config.grpo or GRPOConfig(), config.generation or GenerationConfig()
    per_device, accumulation = split(grpo, config.train, processes)
    high = CISPO_EPSILON_HIGH if grpo.loss == "cispo" else None
    ours = {
        # the batch
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": accumulation,
        "steps_per_generation": accumulation,
        "num_generations": grpo.num_generations,
        "num_iterations": grpo.num_iterations,
        # the loss
        "loss_type": grpo.loss,
        "epsilon": grpo.epsilon,
        "epsilon_high": high if grpo.epsilon_high is None else grpo.epsilon_high,
        "scale_rewards": grpo.scale_rewards,
        "importance_sampling_level": grpo.importance_sampling,
        # sampling
        "max_completion_length": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "use_vllm": sampling.vllm != "off",
        "vllm_mode": "colocate" if sampling.vllm == "off" else sampling.vllm,
        "vllm_server_base_url": sampling.vllm_url,
        "vllm_max_model_length": max_length,
        "generation_kwargs": {"stop_token_ids": ends} if sampling.vllm != "off" else None,
        # measuring
        "num_generations_eval": 1,
        "metric_for_best_model": "eval_reward",
        "greater_is_better": True,
    }
    return trl.GRPOConfig(**shared | ours)


class TRLGRPOTrainer(RolloutTrainer):
    """Group relative policy optimisation with `trl.GRPOTrainer`."""

    method = "GRPO"
    reference: Any = None
    """The frozen model, where one is loaded."""

    def setup_model(self) -> None:
        """Load model, tokenizer and reference, after a look at what needs no model to be told."""
        check_vllm(self.sampling, gpu=this_machine().gpu)
        super().setup_model()
        self.reference = self._load_reference()

    def setup_data(self) -> None:
        """Read prompts, and see that they are enough for one step."""
        super().setup_data()
        assert self.data is not None  # noqa: S101 - what super().setup_data is for
        if self.data.sources:
            prompts = len(self.data.train)
            step = (self.config.grpo or GRPOConfig()).prompts_per_step
            if prompts < step:
                raise DataError(
                    f"datasets: {prompts} prompts are there, and a step takes grpo.promptsPerStep"
                    f" {step}; add prompts, or lower it"
                )
            if left := prompts % step:
                _log.info(
                    "data: the last %d of %d prompts make no whole step, and are left out of each"
                    " epoch; which ones they are changes",
                    left,
                    prompts,
                )

    def make_encoder(self) -> PromptEncoder:
        """Rows become prompts, and what reward functions need."""
        grpo, field = self.config.grpo or GRPOConfig(), "grpo.maxPromptLength"
        longest = longest_prompt(
            self.max_length, self.sampling.max_new_tokens, grpo.max_prompt_length, field
        )
        limit = {"limit": field} if grpo.max_prompt_length else {}
        return PromptEncoder(self.tokenizer, max_prompt_length=longest, **limit)

    def make_arguments(self, shared: dict[str, Any]) -> trl.GRPOConfig:
        """Every argument that TRL is given."""
        return trl_arguments(
            self.config,
            shared,
            processes=world_size(),
            max_length=self.max_length,
            ends=end_tokens(self.model.generation_config),
        )

    def make_loop(self, surroundings: Surroundings) -> RunLoop:
        """TRL's GRPO in our loop."""
        grpo = self.config.grpo or GRPOConfig()
        return GRPOLoop(
            **surroundings,
            peft_config=self.adapters(),
            rewards=self.ensure_rewards(),
            beta=grpo.beta,
            reference=self.reference,
            kl_limit=grpo.kl_limit,
        )

    def _load_reference(self) -> Any:
        """The frozen model that the policy is held to, unless it is its own base."""
        config = self.config
        if not config.loads_reference:
            if config.reference_model is not None:
                raise ConfigError(
                    "referenceModel: has no effect with grpo.beta 0; set beta, or remove it"
                )
            return None
        return load_reference(
            config.reference_model, config.model, self.computed_in, tokens=len(self.tokenizer)
        )


def check_vllm(sampling: GenerationConfig, *, gpu: bool) -> None:
    """See that vLLM is there, as far as the config wants it.

    Raises:
        ConfigError: It is not installed, has no GPU, or its server does not answer.
    """
    if sampling.vllm == "off":
        return
    setting = f"generation.vllm: {sampling.vllm}"
    if sampling.vllm_url is not None:
        url = f"{sampling.vllm_url.rstrip('/')}/health"
        try:
            httpx.get(url, timeout=VLLM_ANSWER_SECONDS).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ConfigError(
                f"generation.vllmUrl {sampling.vllm_url!r}: no vLLM server answers there ({error});"
                " start one with trl vllm-serve, or set vllm: off"
            ) from error
    elif not gpu:
        raise ConfigError(f"{setting}: needs a GPU; use off")
    require("vllm", setting)
