"""The one place that imports Unsloth: in the right process, of the right versions, first."""

import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from aligntune.api.run import ONE_PROCESS
from aligntune.core.errors import ConfigError
from aligntune.core.unsloth_limits import FORCE_CPU
from aligntune.training.checkpoints import PACKAGES
from aligntune.training.context import world_size
from aligntune.training.requirements import misfits

CHANGED = ("transformers", "trl", "peft")
"""What Unsloth changes as it is imported; where it was there before, half of it stays as it was."""
LEAVES_TRL_ALONE = "UNSLOTH_ALLOW_CPU"
"""With this variable Unsloth does not put trainers that it generates in the place of TRL's. (Where
there is no GPU it also means other things.)"""

UNSLOTH_SETTINGS = {
    # Log-probabilities need logits; without, its models leave them out.
    "UNSLOTH_RETURN_LOGITS": "1",
    # It would fetch a file from the hub to be counted.
    "UNSLOTH_DISABLE_STATISTICS": "1",
}


def load() -> Any:
    """The module `unsloth`; the first call imports it.

    Raises:
        ConfigError: It cannot be had in this process, on this machine, or with these versions.
    """
    first = "unsloth" not in sys.modules
    if first:
        _check_process()
        _check_versions()
        _prepare(gpu=_check_device())
    import unsloth

    if first:
        _check_trainers()
        if os.environ.pop(LEAVES_TRL_ALONE, None):
            # TRL switches the recomputing of activations off and on around sampling, and would
            # switch on transformers' in place of Unsloth's; left alone, Unsloth leaves this too.
            from unsloth.models.rl import patch_trl_disable_gradient_checkpointing

            patch_trl_disable_gradient_checkpointing()
    return unsloth


def _check_process() -> None:
    if world_size() > 1:
        raise ConfigError(f"backend: {ONE_PROCESS.message}")
    if there := [name for name in CHANGED if name in sys.modules]:
        raise ConfigError(
            f"backend: unsloth changes {', '.join(CHANGED)} and has to be imported before them, and"
            f" this process has {', '.join(there)} already: start a new one, or use backend: trl"
        )


def _check_versions() -> None:
    installed = {name: metadata.version(name) for name in PACKAGES}
    for package in ("unsloth", "unsloth_zoo"):
        if wrong := misfits(metadata.requires(package) or (), installed):
            raise ConfigError(
                f"backend: {package} {metadata.version(package)} takes {'; '.join(wrong)}: install"
                " versions in these ranges, or use backend: trl"
            )


def _check_device() -> bool:
    """Whether it is a GPU."""
    gpu, forced = torch.cuda.is_available(), os.environ.get(FORCE_CPU) == "1"
    if not gpu and not forced:
        raise ConfigError(
            f"backend: unsloth needs a GPU: add one, use backend: trl, or set {FORCE_CPU}=1 to"
            " train without"
        )
    if gpu and forced:
        raise ConfigError(
            f"backend: {FORCE_CPU}=1 is set where there is a GPU: unset it, or hide the GPU with"
            " CUDA_VISIBLE_DEVICES="
        )
    return gpu


def _prepare(*, gpu: bool) -> None:
    for name, value in UNSLOTH_SETTINGS.items():
        os.environ.setdefault(name, value)
    # It would write code that it generates into the working directory.
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(cache / "aligntune" / "unsloth"))
    if gpu:
        os.environ[LEAVES_TRL_ALONE] = "1"


def _check_trainers() -> None:
    """The loops build on TRL's own trainers, and know what is in them."""
    import trl

    for name in ("SFTTrainer", "DPOTrainer", "GRPOTrainer"):
        if not getattr(trl, name).__module__.startswith("trl."):
            raise ConfigError(
                f"backend: unsloth has put a trainer of its own in the place of trl.{name}; start a"
                " new process, in which aligntune imports unsloth, or use backend: trl"
            )
