"""What this machine can do: what is computed in, what weights are kept in, which kernels."""

import importlib.util
from typing import Literal, NamedTuple

import torch

from aligntune.core.config.model import ModelConfig
from aligntune.core.config.training import Precision
from aligntune.core.errors import ConfigError
from aligntune.core.rl.config import UnifiedConfig
from aligntune.core.sft.config import SFTConfig

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


def resolve_precision(precision: Precision, machine: Machine) -> Compute:
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


def check_kernels(config: SFTConfig | UnifiedConfig, machine: Machine) -> None:
    """Refuse what needs a GPU or a package that is not here, before anything is loaded.

    Raises:
        ConfigError: With the setting and what it needs.
    """
    model, train = config.model, config.train
    wanted = {
        "model.quantization": ("bitsandbytes", model.quantization is not None),
        "model.attention: flash_attention_2": (
            "flash_attn",
            model.attention == "flash_attention_2",
        ),
        "train.optimizer: adamw_8bit": ("bitsandbytes", train.optimizer == "adamw_8bit"),
        "train.ligerKernel": ("liger_kernel", getattr(train, "liger_kernel", False)),
    }
    for setting, (package, is_wanted) in wanted.items():
        if is_wanted and not machine.gpu:
            raise ConfigError(f"{setting}: needs a GPU; remove it or add one")
        if is_wanted:
            require(package, setting)


def require(package: str, setting: str) -> None:
    """Refuse a setting whose package is missing.

    Raises:
        ConfigError: `package` cannot be imported.
    """
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"{setting}: needs the package {package}, which is not installed here")


def weights_dtype(model: ModelConfig, computed_in: Compute) -> torch.dtype:
    """What weights are loaded as.

    Weights that are trained stay in fp32: updates of RL size vanish in bf16. A frozen base under
    adapters is only read, so it is kept in what is computed in; the adapters themselves are fp32.
    """
    return torch.float32 if model.tuning == "full" else DTYPES[computed_in]
