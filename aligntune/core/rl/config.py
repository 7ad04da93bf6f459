"""The config of preference tuning and reinforcement learning: DPO, PPO, GRPO, reward models."""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from aligntune.core.config.base import Rule, Section, cel_rules, rule_error
from aligntune.core.config.method import (
    STREAM_NEEDS_MAX_STEPS,
    STREAM_NEEDS_NO_SPLIT,
    STREAMS,
    MethodSpec,
)
from aligntune.core.config.model import ModelConfig, ModelRef
from aligntune.core.config.training import OutputDir


class AlgorithmType(StrEnum):
    """The algorithm of an RL run."""

    DPO = "dpo"
    PPO = "ppo"
    GRPO = "grpo"
    REWARD = "reward"


SAMPLING = (AlgorithmType.PPO, AlgorithmType.GRPO)
"""The algorithms that learn from answers which they draw themselves."""
SAMPLES = f"self.algo in {[algo.value for algo in SAMPLING]}"
"""The same in CEL."""

DPOLoss = Literal[
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
    "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
]  # fmt: skip


SMOOTHED: tuple[DPOLoss, ...] = ("aot", "aot_unpaired", "exo_pair", "robust")
"""The losses that labels may be smoothed for."""
EXO_NEEDS_SMOOTHING = Rule(
    "!(has(self.loss) && self.loss == 'exo_pair')"
    " || (has(self.labelSmoothing) && self.labelSmoothing > 0.0)",
    "exo_pair needs labelSmoothing above 0: set 0.001, as its paper does",
    "labelSmoothing",
)
SMOOTHING_NEEDS_ITS_LOSS = Rule(
    "!(has(self.labelSmoothing) && self.labelSmoothing > 0.0)"
    f" || (has(self.loss) && self.loss in {[*SMOOTHED]})",
    "labelSmoothing has no effect with this loss: use robust, exo_pair, aot or aot_unpaired, or"
    " remove it",
    "labelSmoothing",
)


class DPOConfig(Section):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290)."""

    model_config = ConfigDict(
        json_schema_extra=cel_rules(EXO_NEEDS_SMOOTHING, SMOOTHING_NEEDS_ITS_LOSS)
    )

    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """How strongly the policy is held to the reference model. Typical values are 0.05 to 0.5; 0.1:
    the paper's."""
    loss: DPOLoss = "sigmoid"
    """The loss over the margin of log-ratios. sigmoid: the paper's."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Assumed probability that a preference is the wrong way round; for the losses `robust`,
    `exo_pair`, `aot` and `aot_unpaired`. 0: labels are right."""
    precompute_reference: bool = False
    """Compute the reference's log-probabilities once before training: less memory and faster steps,
    a slower start. Off: with LoRA the base model is the reference and costs no memory."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.loss == "exo_pair" and not self.label_smoothing:
            raise rule_error(EXO_NEEDS_SMOOTHING)
        if self.label_smoothing and self.loss not in SMOOTHED:
            raise rule_error(SMOOTHING_NEEDS_ITS_LOSS)
        return self


class RewardConfig(Section):
    """A reward model, trained on pairs (Ouyang et al. 2022, arXiv:2203.02155)."""

    centering_coefficient: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Weight of the squared sum of a pair's two scores, which keeps scores around zero (Eisenstein
    et al. 2023, arXiv:2312.09244; they use 0.01). 0: the loss knows differences only, so that
    scores may drift together."""


class KLConfig(Section):
    """The penalty for moving away from the reference model."""

    coefficient: Annotated[float, Field(ge=0, le=100)] = 0.05
    """Weight of the KL estimate in the reward. 0.05: TRL's."""
    target: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Adapt the coefficient to keep KL near this value, in nats per response (Ziegler et al. 2019,
    arXiv:1909.08593). Unset: the coefficient stays fixed."""
    horizon: Annotated[int, Field(ge=1, le=10**9)] = 10_000
    """With `target`: answers over which the coefficient adapts. 10000: the paper's."""


class PPOConfig(Section):
    """Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347)."""

    kl: KLConfig = KLConfig()
    """The penalty for moving away from the reference model."""
    kl_limit: Annotated[float, Field(gt=0, le=1000)] = 5.0
    """The run ends as diverged when the mean KL per token, in nats, is above this in three rollouts
    in a row. 5: the average token is then e^5, 150 times, likelier than under the reference, which
    a policy that still writes its language is not; answers of one or two tokens may need more."""
    rollout_batch_size: Annotated[int, Field(ge=1, le=65_536)] = 64
    """Prompts per rollout, over all processes. 64: enough for whitening on small machines."""
    epochs: Annotated[int, Field(ge=1, le=100)] = 4
    """Passes over each rollout. 4: TRL's."""
    minibatches: Annotated[int, Field(ge=1, le=1024)] = 1
    """Optimizer steps per pass over a rollout. 1: the whole rollout at once."""
    clip_range: Annotated[float, Field(gt=0, le=10)] = 0.2
    """Clip of the policy ratio. 0.2: the paper's."""
    value_clip_range: Annotated[float, Field(gt=0, le=10)] = 0.2
    """Clip of the change in value. 0.2: TRL's."""
    value_coefficient: Annotated[float, Field(ge=0, le=100)] = 0.1
    """Weight of the value loss. 0.1: TRL's."""
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Discount per token. 1: an answer is one episode."""
    lam: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Lambda of generalised advantage estimation (arXiv:1506.02438). 0.95: the paper's range."""
    value_model: Literal["head", "separate"] = "head"
    """`head` adds a value head to the policy, `separate` trains a second model. head: half the
    memory."""
    missing_eos_penalty: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Subtracted from the reward of an answer that never ended. 1.0: TRL's."""
    whiten_rewards: bool = False
    """Scale rewards to unit variance per rollout. Off: advantages are whitened already."""


class GRPOConfig(Section):
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300)."""

    beta: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Weight of the KL penalty. 0: no reference model is loaded; recent recipes need none."""
    loss: Literal["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"] = "dapo"
    """How token losses are summed. dapo: no bias from length (arXiv:2503.14476)."""
    epsilon: Annotated[float, Field(gt=0, le=10)] = 0.2
    """Lower clip of the policy ratio. 0.2: PPO's."""
    epsilon_high: Annotated[float, Field(gt=0, le=10)] | None = None
    """Upper clip of the policy ratio. Unset: as epsilon; 5 with cispo, which clips the ratio itself
    (arXiv:2510.13786)."""
    num_generations: Annotated[int, Field(ge=2, le=1024)] = 8
    """Completions per prompt. 8: TRL's; fewer make the group's mean noisy."""
    prompts_per_step: Annotated[int, Field(ge=1, le=65_536)] = 4
    """Prompts per optimizer step, over all processes. 4: 32 completions a step."""
    num_iterations: Annotated[int, Field(ge=1, le=100)] = 1
    """Optimizer passes over each batch of completions. 1: on-policy."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Divide advantages by the standard deviation of the rewards of the group, of the batch, or
    not. group: the paper's."""
    importance_sampling: Literal["token", "sequence"] = "token"
    """Level of the policy ratio; `sequence` is GSPO (arXiv:2507.18071). token: the paper's."""
    max_prompt_length: Annotated[int, Field(ge=1, le=1_048_576)] | None = None
    """Longer prompts, in tokens, are left out and counted. Unset: the model's length less the
    response length."""
    kl_limit: Annotated[float, Field(gt=0, le=1000)] = 5.0
    """Nats per token from the reference model, where `beta` is above 0; three steps in a row above
    it end the run. 5: sound runs stay below 1, and by 5 the policy no longer writes language."""


VLLM_SERVER_HAS_URL = Rule(
    "(has(self.vllm) && self.vllm == 'server') == (has(self.vllmUrl))",
    "vllm: server and vllmUrl go together: set both or neither",
    "vllmUrl",
)


class GenerationConfig(Section):
    """How answers are sampled in PPO and GRPO."""

    model_config = ConfigDict(json_schema_extra=cel_rules(VLLM_SERVER_HAS_URL))

    max_new_tokens: Annotated[int, Field(ge=1, le=131_072)] = 256
    """Longest answer, in tokens. 256: short reasoning; each token costs a forward pass."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Softmax temperature. 1.0: samples from the very distribution that is trained."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling. 1: off, as truncation biases the ratio."""
    top_k: Annotated[int, Field(ge=0, le=10**7)] = 0
    """Sample among this many tokens only. 0: all."""
    vllm: Literal["off", "colocate", "server"] = "off"
    """Generate with vLLM in the trainer's process or at `vllmUrl`. off: plain transformers."""
    vllm_url: Annotated[str, Field(min_length=1, max_length=2048)] | None = None
    """Base URL of a vLLM server, with `vllm: server`. Unset: none."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if (self.vllm == "server") != (self.vllm_url is not None):
            raise rule_error(VLLM_SERVER_HAS_URL)
        return self


class RewardFunction(Section):
    """One reward function of the weighted sum."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    """A registered name (`exact_match`, `numeric_answer`, `regex`, `length`, `repetition`,
    `json_valid`, `reasoning_gym`, `reward_model`), or `module:function` of your own."""
    weight: Annotated[float, Field(ge=-1000, le=1000)] = 1.0
    """Weight in the sum. 1: all count alike."""
    params: Annotated[dict[str, Any], Field(max_length=64)] = {}
    """Keyword arguments of the function. Empty: none."""
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Longest time for one batch. 60: a batch that takes longer starves the GPU."""


def _section_matches(algo: str) -> Rule:
    return Rule(
        f"!(has(self.{algo})) || self.algo == '{algo}'",
        f"{algo} settings need algo: {algo}",
        algo,
    )


SECTION_MATCHES = {algo: _section_matches(algo) for algo in ("dpo", "ppo", "grpo", "reward")}
GENERATION_NEEDS_SAMPLING = Rule(
    f"!(has(self.generation)) || {SAMPLES}",
    "only ppo and grpo generate answers: remove generation",
    "generation",
)
NEEDS_REWARDS = Rule(
    f"!({SAMPLES}) || (has(self.rewards) && size(self.rewards) > 0) || (has(self.rewardModel))",
    "ppo and grpo need something to reward: set rewards or rewardModel",
    "rewards",
)
REWARDS_NEED_SAMPLING = Rule(
    f"{SAMPLES} || !((has(self.rewards) && size(self.rewards) > 0) || (has(self.rewardModel)))",
    "dpo and reward learn from preference pairs: remove rewards and rewardModel",
    "rewards",
)


REFERENCE_NEEDS_POLICY = Rule(
    "!(has(self.referenceModel)) || self.algo != 'reward'",
    "a reward model is held to no reference: remove referenceModel",
    "referenceModel",
)
REWARD_MODELS_HAVE_NO_GGUF = Rule(
    "self.algo != 'reward' || !has(self.model.gguf) || size(self.model.gguf) == 0",
    "GGUF is for models that write text, and a reward model gives scores: remove gguf",
    "model.gguf",
)
PAIRS_NEED_NO_DROPOUT = Rule(
    "!(self.algo in ['dpo', 'reward']) || !has(self.model.lora) || !has(self.model.lora.dropout)"
    " || self.model.lora.dropout == 0.0",
    "dpo and reward compare two answers, which dropout would blur: remove lora.dropout",
    "model.lora.dropout",
)
RATIOS_NEED_NO_DROPOUT = Rule(
    "self.algo != 'ppo' || !has(self.model.lora) || !has(self.model.lora.dropout)"
    " || self.model.lora.dropout == 0.0",
    "ppo compares a token before and after a step, which dropout would blur: remove lora.dropout",
    "model.lora.dropout",
)
PPO_ACCUMULATES = Rule(
    "self.algo != 'ppo' || !has(self.train) || !has(self.train.gradientAccumulationSteps)"
    " || self.train.gradientAccumulationSteps == 1",
    "ppo works it out from ppo.rolloutBatchSize, ppo.minibatches and train.perDeviceBatchSize:"
    " remove gradientAccumulationSteps",
    "train.gradientAccumulationSteps",
)
PPO_GENERATES_ITSELF = Rule(
    "self.algo != 'ppo' || !has(self.generation) || !has(self.generation.vllm)"
    " || self.generation.vllm == 'off'",
    "ppo generates with transformers alone: remove vllm",
    "generation.vllm",
)
PRECOMPUTING_NEEDS_ROWS = Rule(
    "!(has(self.dpo) && has(self.dpo.precomputeReference) && self.dpo.precomputeReference)"
    f" || !{STREAMS}",
    "the rows of a stream are not there before training: remove precomputeReference or streaming",
    "dpo.precomputeReference",
)


class RLSpec(MethodSpec):
    """What a manifest says under `spec.rl`."""

    model_config = ConfigDict(
        json_schema_extra=cel_rules(
            *SECTION_MATCHES.values(),
            GENERATION_NEEDS_SAMPLING,
            NEEDS_REWARDS,
            REWARDS_NEED_SAMPLING,
            REFERENCE_NEEDS_POLICY,
            REWARD_MODELS_HAVE_NO_GGUF,
            PAIRS_NEED_NO_DROPOUT,
            RATIOS_NEED_NO_DROPOUT,
            PPO_ACCUMULATES,
            PPO_GENERATES_ITSELF,
            PRECOMPUTING_NEEDS_ROWS,
            STREAM_NEEDS_MAX_STEPS,
            STREAM_NEEDS_NO_SPLIT,
        )
    )

    algo: AlgorithmType
    """`dpo`, `ppo`, `grpo`, or `reward` for the reward model that PPO needs."""
    model: ModelConfig
    """The model that is tuned (the policy)."""
    reference_model: ModelRef | None = None
    """The frozen model that the policy is held to. Unset: the model as it was before training."""
    reward_model: ModelRef | None = None
    """A model that scores answers (ppo, grpo). Unset: reward functions alone."""
    rewards: Annotated[list[RewardFunction], Field(max_length=16)] = []
    """Reward functions, summed by weight (ppo, grpo). Empty: the reward model alone."""
    dpo: DPOConfig | None = None
    """Settings of `algo: dpo`. Unset: its defaults."""
    ppo: PPOConfig | None = None
    """Settings of `algo: ppo`. Unset: its defaults."""
    grpo: GRPOConfig | None = None
    """Settings of `algo: grpo`. Unset: its defaults."""
    reward: RewardConfig | None = None
    """Settings of `algo: reward`. Unset: its defaults."""
    generation: GenerationConfig | None = None
    """How answers are sampled (ppo, grpo). Unset: its defaults."""

    @property
    def loads_reference(self) -> bool:
        """A frozen model is loaded beside the policy, to hold the policy to it.

        There is none where the policy itself, with its adapters switched off or before its first
        step, serves as well, or where nothing is held to anything.
        """
        named, full = self.reference_model is not None, self.model.tuning == "full"
        match self.algo:
            case AlgorithmType.DPO:
                return named or (full and not (self.dpo or DPOConfig()).precompute_reference)
            case AlgorithmType.GRPO:
                return (named or full) and (self.grpo or GRPOConfig()).beta > 0
            case AlgorithmType.PPO:
                return named or full
            case AlgorithmType.REWARD:
                return False

    @model_validator(mode="after")
    def _rules(self) -> Self:
        for algo, rule in SECTION_MATCHES.items():
            if getattr(self, algo) is not None and self.algo != algo:
                raise rule_error(rule)
        samples = self.algo in SAMPLING
        rewarded = bool(self.rewards) or self.reward_model is not None
        if self.generation is not None and not samples:
            raise rule_error(GENERATION_NEEDS_SAMPLING)
        if samples and not rewarded:
            raise rule_error(NEEDS_REWARDS)
        if rewarded and not samples:
            raise rule_error(REWARDS_NEED_SAMPLING)
        if self.reference_model is not None and self.algo == AlgorithmType.REWARD:
            raise rule_error(REFERENCE_NEEDS_POLICY)
        if self.model.gguf and self.algo == AlgorithmType.REWARD:
            raise rule_error(REWARD_MODELS_HAVE_NO_GGUF)
        if not samples and self.model.lora is not None and self.model.lora.dropout:
            raise rule_error(PAIRS_NEED_NO_DROPOUT)
        if self.dpo is not None and self.dpo.precompute_reference and self.streams:
            raise rule_error(PRECOMPUTING_NEEDS_ROWS)
        return self

    @model_validator(mode="after")
    def _ppo_rules(self) -> Self:
        if self.algo != AlgorithmType.PPO:
            return self
        if self.model.lora is not None and self.model.lora.dropout:
            raise rule_error(RATIOS_NEED_NO_DROPOUT)
        if self.train.gradient_accumulation_steps != 1:
            raise rule_error(PPO_ACCUMULATES)
        if self.generation is not None and self.generation.vllm != "off":
            raise rule_error(PPO_GENERATES_ITSELF)
        return self


LEARNING_RATES: dict[tuple[AlgorithmType, str], float] = {
    (AlgorithmType.DPO, "lora"): 5e-6,
    (AlgorithmType.DPO, "full"): 1e-6,
    (AlgorithmType.GRPO, "lora"): 1e-5,
    (AlgorithmType.GRPO, "full"): 1e-6,
    (AlgorithmType.PPO, "lora"): 1e-5,
    (AlgorithmType.PPO, "full"): 3e-6,
    (AlgorithmType.REWARD, "lora"): 1e-4,
    (AlgorithmType.REWARD, "full"): 1e-4,
}
"""Peak rates where the config names none: TRL's own; adapters want up to ten times the rate of all
weights ("LoRA Without Regret")."""


class UnifiedConfig(RLSpec):
    """All that an RL trainer needs: the manifest's section and where to write."""

    output_dir: OutputDir = "output"
    """Folder of the checkpoints and the model. output: below the working directory."""

    @property
    def learning_rate(self) -> float:
        """The peak learning rate: as set, else `LEARNING_RATES` for the algorithm and tuning."""
        if self.train.learning_rate is not None:
            return self.train.learning_rate
        return LEARNING_RATES[self.algo, self.model.tuning]
