"""How much memory a training process needs, from its config and the shape of its model.

Nothing is loaded and nothing is asked: numbers in, numbers out. docs/estimate.md tells what is
counted, with which formulas, and how near measured peaks it comes.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from aligntune.core.memory import activations, states
from aligntune.core.memory.shape import ModelShape
from aligntune.core.memory.workload import FULL, HALF, Workload, workload
from aligntune.core.rl.config import PPOConfig, RLSpec
from aligntune.core.sft.config import SFTSpec

Moment = Literal["generation", "loss", "recomputation", "update"]
"""When memory may be at its most: answers are sampled; a loss is computed, and all that its
backward pass needs is there; a layer is recomputed, where that is asked for; gradients are
complete and the optimizer takes its step."""
MOMENTS: tuple[Moment, ...] = ("generation", "loss", "recomputation", "update")
Fit = Literal["fits", "tight", "too large"]

TOLERANCE = 0.15
"""Measured peaks were within this share of the estimate: docs/estimate.md."""
CUDA_CONTEXT = 600 * 2**20
"""Bytes that CUDA and its libraries take in each process. Taken from others, 0.4 to 0.8 GiB by GPU
and version; not measured here."""
FRAGMENTATION = 0.05
"""Memory that the allocator holds in blocks that fit nothing, as a share of the tensors'. Taken on
trust, too."""

CHUNK = 256
"""Tokens whose logits TRL's SFT computes at a time."""
CHUNK_COPIES = 4
"""Float32 tensors of that size: logits, their log-softmax, and the gradients of both."""
LOGIT_COPIES = {"sft": 3, "dpo": 4, "grpo": 4, "ppo": 5}
"""Float32 tensors as large as the logits of a whole batch that are there at once."""
SAMPLING_COPIES = 4
"""Float32 tensors as large as the logits of one token per answer, while one is drawn."""
REDUCE_BUCKET = 500_000_000
"""Gradients that ZeRO gathers before it sends them; twice, since it computes meanwhile."""
KEPT_GATHERED = 1_000_000_000
"""Weights that ZeRO's third stage keeps once they are gathered, as they are used again soon."""


class Part(NamedTuple):
    """One use of memory."""

    name: str
    at: Mapping[Moment, float]
    """Bytes at each moment at which it is there."""


class Estimate(NamedTuple):
    """What each training process needs; on GPUs each has one of its own."""

    parts: tuple[Part, ...]
    reserve: int
    """Bytes besides tensors: CUDA's context, and the allocator's waste. 0 without a GPU."""
    notes: tuple[str, ...]
    """What this estimate leaves out, a sentence each."""

    @property
    def moments(self) -> dict[Moment, int]:
        """Bytes of all tensors at each moment that the job has."""
        return {
            moment: round(sum(part.at.get(moment, 0) for part in self.parts))
            for moment in MOMENTS
            if any(moment in part.at for part in self.parts)
        }

    @property
    def peak(self) -> Moment:
        """The moment at which memory is at its most."""
        moments = self.moments
        return max(moments, key=moments.__getitem__)

    @property
    def tensors(self) -> int:
        """Bytes of all tensors at the peak."""
        return self.moments[self.peak]

    @property
    def total(self) -> int:
        """Bytes that a GPU should have."""
        return self.tensors + self.reserve


def fits(estimate: Estimate, gpu_memory_bytes: int) -> Fit:
    """Whether the job runs on GPUs of this size; `tight` where the tolerance decides.

    Args:
        estimate: What each process needs.
        gpu_memory_bytes: Memory of one GPU. (A node's label nvidia.com/gpu.memory tells it in MiB.)
    """
    if estimate.total * (1 + TOLERANCE) <= gpu_memory_bytes:
        return "fits"
    return "tight" if estimate.total * (1 - TOLERANCE) <= gpu_memory_bytes else "too large"


def estimate(
    config: SFTSpec | RLSpec,
    shape: ModelShape,
    *,
    processes: int,
    gpu: bool,
    reward_model: ModelShape | None = None,
) -> Estimate:
    """What one training process needs at its most.

    Args:
        config: A manifest's `spec.sft` or `spec.rl`, or the config of a trainer.
        shape: That of `config.model`. A reference model is taken to have the same.
        processes: Training processes over all nodes, one per GPU.
        gpu: They train on GPUs, where `precision: auto` is taken for bf16; else on CPUs.
        reward_model: The shape of `config.reward_model`, where there is one.
    """
    work = workload(config, shape, processes=processes, gpu=gpu)
    parts = [
        *_models(config, work, reward_model),
        *_training(config, work),
        *_passes(config, work),
        *_generation(work),
    ]
    there = tuple(part for part in parts if any(part.at.values()))
    bare = Estimate(there, 0, tuple(_notes(config, work)))
    if not gpu:
        return bare
    return bare._replace(reserve=round(CUDA_CONTEXT + FRAGMENTATION * bare.tensors))


def _always(work: Workload, size: float) -> dict[Moment, float]:
    """The same size at every moment of the job."""
    absent = set[Moment]()
    if not work.sampled:
        absent.add("generation")
    if not work.recomputes:
        absent.add("recomputation")
    return {moment: size for moment in MOMENTS if moment not in absent}


def _models(
    config: SFTSpec | RLSpec, work: Workload, reward_model: ModelShape | None
) -> Iterator[Part]:
    shape = work.shape
    share = work.processes if work.shards_weights else 1
    scores = work.method in ("classification", "reward")  # a small head in place of the large one
    whole = states.weights(work, shape, head=not scores)
    yield Part("weights", _always(work, whole / share))
    if work.lora is not None:
        yield Part("adapters", _always(work, FULL * states.trained(work) / share))
    if isinstance(config, RLSpec):
        if config.loads_reference:
            yield Part("reference model", _always(work, whole / share))
        if _has_value_model(config):
            trunk = states.weights(work, shape, head=False)
            size = trunk + (FULL * states.trained(work) if work.lora else 0)
            yield Part("value model", _always(work, size / share))
    if reward_model is not None:
        size = work.computed * reward_model.without_head
        yield Part("reward model", _always(work, size))
    if work.shards_weights:
        gathered = _always(work, _gathered(work))
        yield Part("gathered weights", gathered | {"update": 0})
    if work.casts and work.lora is None:
        size = HALF * (shape.linear_parameters + shape.embedding)
        yield Part("weights in 16 bits", {"loss": size})


def _gathered(work: Workload) -> float:
    """What a process holds of the others' shares: of two layers, and of what is around them."""
    shape, size = work.shape, work.computed
    if work.strategy == "zero3":
        return size * min(shape.parameters, KEPT_GATHERED)
    around = shape.parameters - shape.linear_parameters
    return size * (2 * shape.linear_parameters / shape.layers + around)


def _has_value_model(config: RLSpec) -> bool:
    return config.algo == "ppo" and (config.ppo or PPOConfig()).value_model == "separate"


def _training(config: SFTSpec | RLSpec, work: Workload) -> Iterator[Part]:
    number = states.trained(work)
    if isinstance(config, RLSpec) and _has_value_model(config):
        number += number if work.lora else work.shape.without_head
    share = 1 if work.strategy == "ddp" else work.processes
    gradients = states.gradient_size(work) * number / share
    stay = work.accumulates or work.strategy == "zero2"
    yield Part("gradients", _always(work, gradients) if stay else {"update": gradients})
    if work.processes > 1 and work.strategy == "ddp":
        yield Part("gradient buckets", _always(work, gradients))
    if work.strategy == "zero2":
        bucket = 2 * states.gradient_size(work) * min(number, REDUCE_BUCKET)
        yield Part("gradient buckets", _always(work, bucket))
    optimizer = config.train.optimizer
    kept = states.optimizer_states(work, optimizer, number) / share
    yield Part("optimizer states", _always(work, kept))
    if optimizer == "adamw_torch":
        # roots of second moments: on a GPU of all at once, else of one matrix, before and after a
        # division
        most = number if work.gpu else 2 * states.largest(work)
        yield Part("optimizer step", {"update": FULL * most / share})


def _passes(config: SFTSpec | RLSpec, work: Workload) -> Iterator[Part]:
    trunks = 2 if isinstance(config, RLSpec) and _has_value_model(config) else 1
    kept = activations.bytes_kept(work) * trunks
    yield Part(
        "activations", {"loss": kept, "recomputation": kept} if work.recomputes else {"loss": kept}
    )
    if work.recomputes:
        yield Part("a recomputed layer", {"recomputation": activations.layer(work)})
    yield Part("logits", {"loss": _logits(work)})


def _logits(work: Workload) -> float:
    """Logits in float32 and all that is as large, while the loss is computed and led back."""
    if work.method not in LOGIT_COPIES:
        return 0
    row = FULL * work.shape.vocabulary
    head = FULL * work.shape.embedding if work.lora is None else 0
    whole = work.shape.whole_logits or (work.lora and states.adapted(work.lora, "lm_head"))
    if work.method == "sft" and not whole:
        return CHUNK_COPIES * min(CHUNK, work.tokens) * row + head
    return LOGIT_COPIES[work.method] * work.rows * work.scored * row + head


def _generation(work: Workload) -> Iterator[Part]:
    if not work.sampled:
        return
    shape = work.shape
    per_token = 2 * shape.layers * shape.key_values * work.residual
    yield Part("KV cache", {"generation": work.sampled * work.length * per_token})
    logits = SAMPLING_COPIES * FULL * work.sampled * shape.vocabulary
    yield Part("logits of one token", {"generation": logits})


def _notes(config: SFTSpec | RLSpec, work: Workload) -> Iterator[str]:
    if work.shape.counted is not None:
        yield "this kind of model is not known here: activations are those of a Llama of its size"
    if isinstance(config, RLSpec):
        if config.generation and config.generation.vllm == "colocate":
            yield "vLLM's own memory in the same GPU, which it takes by its own setting"
        if config.reference_model is not None:
            yield "the reference model is taken to have the shape of the model"
    if isinstance(config, SFTSpec) and config.train.liger_kernel:
        yield "what Liger's kernels save"
    if work.lora is not None and work.lora.target_parameters:
        yield "adapters of lora.targetParameters"
