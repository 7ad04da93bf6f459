"""What is computed in, and what weights are kept in: two different questions."""

from typing import Literal, NamedTuple

import torch

from aligntune.core.config.model import ModelConfig
from aligntune.core.config.training import Precision
from aligntune.core.errors import ConfigError

Compute = Literal["bf16", "fp16", "fp32"]
DTYPES: dict[Compute, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}


class Machine(NamedTuple):
    """What decides the arithmetic."""

    gpu: bool
    bf16: bool
    """The GPU computes in bf16 at full speed."""


def this_machine() -> Machine:
    """The machine we are on; NVIDIA GPUs count, others train on the CPU."""
    gpu = torch.cuda.is_available()
    return Machine(gpu=gpu, bf16=gpu and torch.cuda.is_bf16_supported(including_emulation=False))


def compute(precision: Precision, machine: Machine) -> Compute:
    """What `train.precision` means on `machine`.

    Raises:
        ConfigError: The machine cannot do it.
    """
    if precision == "auto":
        return "bf16" if machine.bf16 else "fp16" if machine.gpu else "fp32"
    if precision == "fp16" and not machine.gpu:
        raise ConfigError("train.precision: fp16 needs a GPU; use auto, bf16 or fp32")
    if precision == "bf16" and machine.gpu and not machine.bf16:
        raise ConfigError("train.precision: this GPU has no bf16; use auto, fp16 or fp32")
    return precision


def storage(model: ModelConfig, computed_in: Compute) -> torch.dtype:
    """What weights are loaded as.

    Weights that are trained stay in fp32: updates of RL size vanish in bf16. A frozen base under
    adapters is only read, so it is kept in what is computed in; the adapters themselves are fp32.
    """
    return torch.float32 if model.tuning == "full" else DTYPES[computed_in]
