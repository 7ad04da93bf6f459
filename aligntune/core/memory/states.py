"""Weights, what is trained of them, and what the optimizer remembers.

Rajbhandari et al. 2020, "ZeRO" (arXiv:1910.02054), section 3.1: in mixed precision Adam costs
2 + 2 + 12 bytes per weight. Dettmers et al. 2023, "QLoRA" (arXiv:2305.14314), section 3: a weight
in nf4 with double quantisation takes 4 bits, and 0.127 for the constants of its block.
"""

from aligntune.core.config.model import LoraConfig
from aligntune.core.memory.shape import Linear, ModelShape
from aligntune.core.memory.workload import FULL, HALF, Workload

QUANTISED = {4: 4.127 / 8, 8: 1.0}
"""Bits per weight -> bytes."""
STATES = {"adamw_torch": 8.0, "adamw_torch_fused": 8.0, "adamw_8bit": 2.03, "sgd": 0.0}
"""Bytes per trained weight: two moments in float32, or in 8 bits with a constant for every 256.
(Adafactor keeps sums of rows and columns instead.)"""


def weights(work: Workload, shape: ModelShape, *, head: bool = True) -> float:
    """Bytes of a model's weights as they are kept, on one process that has all of them.

    Linear layers of the decoder are quantised, embedding, norms and head are not.
    """
    number = shape.parameters if head else shape.without_head
    if work.bits is None:
        return number * work.stored
    linear = shape.linear_parameters
    return linear * QUANTISED[work.bits] + (number - linear) * work.stored


def adapted(lora: LoraConfig, name: str) -> bool:
    """Whether layers of this name have adapters."""
    if lora.target_modules == "all-linear":
        return name not in ("lm_head", "embed_tokens")
    return name in (target.rpartition(".")[2] for target in lora.target_modules)


def adapters(lora: LoraConfig, shape: ModelShape) -> list[tuple[int, int]]:
    """The matrices of all adapters, as rows and columns."""
    ends = [
        Linear("lm_head", shape.hidden, shape.vocabulary, bias=False),
        Linear("embed_tokens", shape.vocabulary, shape.hidden, bias=False),
    ]
    found = [one for one in shape.linears if adapted(lora, one.name)] * shape.layers
    found += [one for one in ends if adapted(lora, one.name)]
    matrices = [pair for one in found for pair in ((one.inputs, lora.r), (lora.r, one.outputs))]
    if lora.dora:
        matrices += [(1, one.outputs) for one in found]
    return matrices


def trained(work: Workload) -> int:
    """How many numbers are trained."""
    if work.lora is None:
        return work.shape.parameters
    return sum(rows * columns for rows, columns in adapters(work.lora, work.shape))


def optimizer_states(work: Workload, optimizer: str, number: int) -> float:
    """Bytes that the optimizer keeps of `number` trained weights, over all processes.

    ZeRO's engine keeps a copy of the weights in float32 besides.
    """
    master = FULL if work.deepspeed else 0
    if optimizer != "adafactor":
        return number * (STATES[optimizer] + master)
    sums = FULL * sum(rows + columns for rows, columns in _matrices(work))
    return sums + number * master


def largest(work: Workload) -> int:
    """How many numbers the largest trained matrix has."""
    return max((rows * columns for rows, columns in _matrices(work)), default=0)


def _matrices(work: Workload) -> list[tuple[int, int]]:
    shape = work.shape
    if work.lora is not None:
        return adapters(work.lora, shape)
    layers = [(one.inputs, one.outputs) for one in shape.linears] * shape.layers
    return layers + [(shape.vocabulary, shape.hidden)] * (1 if shape.tied else 2)


def gradient_size(work: Workload) -> int:
    """Bytes of one gradient."""
    return HALF if work.deepspeed and work.mixed else FULL
