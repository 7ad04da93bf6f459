"""What Unsloth cannot do, or would do otherwise than the config says, as far as the config tells.

What only the model, the machine or the versions tell is refused when they are known.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from aligntune.core.rl.config import RLSpec
from aligntune.core.sft.config import SFTSpec

FORCE_CPU = "UNSLOTH_FORCE_CPU"
"""The variable by which Unsloth trains without a GPU."""
EMBEDDINGS = ("lm_head", "embed_tokens")
"""Modules that Unsloth trains in full where they are named for adapters."""


class Limit(NamedTuple):
    """Something that Unsloth cannot do."""

    field: str
    """The camelCase field below the method's section."""
    sentence: str


def limits(config: SFTSpec | RLSpec) -> Iterator[Limit]:
    """Each setting that Unsloth cannot honour."""
    model = config.model
    if config.distributed.strategy != "ddp":
        yield Limit("distributed.strategy", "unsloth trains in one process, which has all of it")
    if model.attention != "auto":
        yield Limit("model.attention", "unsloth chooses the kernel itself")
    if model.lora and set(model.lora.target_modules) & set(EMBEDDINGS):
        yield Limit(
            "model.lora.targetModules",
            f"unsloth trains {' and '.join(EMBEDDINGS)} in full, in place of adapters",
        )
    if config.train.compile:
        yield Limit("train.compile", "unsloth compiles what pays by itself")
    if isinstance(config, SFTSpec) and config.train.liger_kernel:
        yield Limit("train.ligerKernel", "unsloth has kernels of its own for the same places")
    if isinstance(config, RLSpec) and config.generation and config.generation.vllm != "off":
        yield Limit("generation.vllm", "unsloth generates with the model in training")


def has_device() -> bool:
    """Whether this machine has what Unsloth trains on: a GPU, or leave to do without.

    Looks at device files only: NVIDIA's, and that of Windows' Linux.
    """
    if os.environ.get(FORCE_CPU) == "1":
        return True
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return Path("/dev/dxg").exists() or any(Path("/dev").glob("nvidia[0-9]*"))
