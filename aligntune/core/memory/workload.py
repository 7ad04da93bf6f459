"""What a config asks of one training process, in numbers: bytes per value, rows, tokens."""

from typing import NamedTuple

from aligntune.core.backend_factory import task_of
from aligntune.core.config.model import LONGEST_DEFAULT, LoraConfig
from aligntune.core.config.training import Strategy
from aligntune.core.memory.shape import ModelShape
from aligntune.core.rl.config import (
    SAMPLING,
    AlgorithmType,
    GenerationConfig,
    GRPOConfig,
    PPOConfig,
    RLSpec,
)
from aligntune.core.sft.config import SFTSpec

FULL, HALF = 4, 2
"""Bytes of a float32, and of a bf16 or fp16."""


class Workload(NamedTuple):
    """One training process, as far as memory follows from it."""

    shape: ModelShape
    method: str
    """sft, classification, dpo, reward, grpo or ppo."""
    processes: int
    gpu: bool
    strategy: Strategy
    lora: LoraConfig | None
    """None: all weights are trained."""
    bits: int | None
    """Of quantised weights."""
    computed: int
    """Bytes of what is computed in."""
    stored: int
    """Bytes of a weight as it is kept."""
    residual: int
    """Bytes of a value that one layer hands to the next."""
    casts: bool
    """Linear layers cast their inputs, and weights, to what is computed in (autocast)."""
    recomputes: bool
    accumulates: bool
    """Gradients outlive the backward pass that made them."""
    rows: int
    """Sequences per forward pass."""
    length: int
    """Tokens of the longest sequence."""
    scored: int
    """Tokens of a sequence whose logits are computed at once."""
    sampled: int
    """Answers that are sampled at the same time; 0: none in this process."""
    padded: bool
    """Shorter sequences are padded, which takes an attention mask."""
    attention: str

    @property
    def tokens(self) -> int:
        """Tokens per forward pass, padding included."""
        return self.rows * self.length

    @property
    def shards_weights(self) -> bool:
        """Each process keeps a share of the weights."""
        return self.strategy in ("fsdp2", "zero3")

    @property
    def deepspeed(self) -> bool:
        """ZeRO's engine keeps weights and gradients."""
        return self.strategy in ("zero2", "zero3")

    @property
    def mixed(self) -> bool:
        """It is computed in 16 bits."""
        return self.computed == HALF


def workload(config: SFTSpec | RLSpec, shape: ModelShape, *, processes: int, gpu: bool) -> Workload:
    """What `config` asks of each of `processes`; on GPUs `precision: auto` is taken for bf16."""
    model, train = config.model, config.train
    precision = ("bf16" if gpu else "fp32") if train.precision == "auto" else train.precision
    computed = FULL if precision == "fp32" else HALF
    strategy = config.distributed.strategy
    mixed, full = computed == HALF, model.tuning == "full"
    # as training/machine.py and DeepSpeed keep them
    stored = HALF if mixed and (not full or strategy in ("zero2", "zero3")) else FULL
    length = model.max_length or min(LONGEST_DEFAULT, shape.positions or LONGEST_DEFAULT)
    sampling = _sampling(config)
    length, answer = _lengths(config, sampling, length)
    method = task_of(config)
    batch = train.per_device_batch_size
    rows = batch * (2 if method in ("dpo", "reward") else 1)
    return Workload(
        shape=shape,
        method=method,
        processes=processes,
        gpu=gpu,
        strategy=strategy,
        lora=(model.lora or LoraConfig()) if model.tuning == "lora" else None,
        bits=model.quantization.bits if model.quantization else None,
        computed=computed,
        stored=stored,
        residual=FULL if stored == FULL and strategy != "fsdp2" else computed,  # gathered as used
        casts=mixed and (not full or strategy == "ddp"),
        recomputes=train.recomputes(gpu=gpu),
        accumulates=_passes(config, processes) > 1,
        rows=rows,
        length=length,
        scored=answer,
        sampled=_sampled(config, sampling, processes),
        padded=rows > 1 and not _packs(config),
        attention=model.attention,
    )


def _packs(config: SFTSpec | RLSpec) -> bool:
    return isinstance(config, SFTSpec) and (config.train.packing or config.train.padding_free)


def _sampling(config: SFTSpec | RLSpec) -> GenerationConfig | None:
    if isinstance(config, RLSpec) and config.algo in SAMPLING:
        return config.generation or GenerationConfig()
    return None


def _lengths(
    config: SFTSpec | RLSpec, sampling: GenerationConfig | None, longest: int
) -> tuple[int, int]:
    """Tokens of the longest sequence, and those of them whose logits are computed."""
    if sampling is None:
        return longest, longest
    answer = sampling.max_new_tokens
    limit = config.grpo.max_prompt_length if isinstance(config, RLSpec) and config.grpo else None
    prompt = max(longest - answer, 1)
    return answer + min(limit or prompt, prompt), answer


def _passes(config: SFTSpec | RLSpec, processes: int) -> int:
    """Forward passes of a process per optimizer step."""
    train = config.train
    share = processes * train.per_device_batch_size
    if isinstance(config, RLSpec) and config.algo == AlgorithmType.GRPO:
        grpo = config.grpo or GRPOConfig()
        return max(grpo.prompts_per_step * grpo.num_generations // share, 1)
    if isinstance(config, RLSpec) and config.algo == AlgorithmType.PPO:
        ppo = config.ppo or PPOConfig()
        return max(ppo.rollout_batch_size // (ppo.minibatches * share), 1)
    return train.gradient_accumulation_steps


def _sampled(config: SFTSpec | RLSpec, sampling: GenerationConfig | None, processes: int) -> int:
    """Answers that this process samples at the same time.

    TRL's GRPO samples those of a whole optimizer step at once, our PPO a batch at a time.
    """
    if sampling is None or sampling.vllm != "off":
        return 0
    batch = config.train.per_device_batch_size
    return batch * (_passes(config, processes) if task_of(config) == "grpo" else 1)
