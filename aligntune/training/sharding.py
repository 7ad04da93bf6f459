"""How several processes share one model, in transformers' words, and whether they really do."""

from typing import Any

from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from aligntune.core.config.training import Strategy
from aligntune.core.errors import ConfigError
from aligntune.training._compat import keep_deepspeed_on_gloo
from aligntune.training.machine import Machine, require

ZERO_STAGE: dict[Strategy, int] = {"zero2": 2, "zero3": 3}


def strategy_arguments(strategy: Strategy, *, machine: Machine, processes: int) -> dict[str, Any]:
    """What `distributed.strategy` means to `transformers.TrainingArguments`.

    Raises:
        ConfigError: There is one process only, or DeepSpeed is not installed.
    """
    backend = {"ddp_backend": "gloo" if processes > 1 and not machine.gpu else None}
    if strategy == "ddp":
        return backend | {"ddp_find_unused_parameters": False}
    setting = f"distributed.strategy: {strategy}"
    if processes == 1:
        raise ConfigError(f"{setting} shares one model among several processes; one needs ddp")
    if strategy != "fsdp2":
        require("deepspeed", setting)
        if not machine.gpu:
            keep_deepspeed_on_gloo()
        return backend | {"deepspeed": deepspeed_config(ZERO_STAGE[strategy])}
    return backend | {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",  # a unit per decoder layer
            "reshard_after_forward": True,
            "state_dict_type": "FULL_STATE_DICT",  # what is saved loads anywhere
            "cpu_ram_efficient_loading": False,
        },
    }


def deepspeed_config(stage: int) -> dict[str, Any]:
    """DeepSpeed's settings; `auto` takes transformers' value, so that nothing is said twice.

    Rajbhandari et al. 2020 (arXiv:1910.02054): stage 2 shards optimizer state and gradients, stage
    3 the weights as well.
    """
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
    if stage == ZERO_STAGE["zero3"]:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "zero_optimization": zero,
    }


def check_shared(strategy: Strategy, wrapped: object, processes: int) -> None:
    """Make sure that the model in training is wrapped as the config says.

    Libraries have trained with another strategy, or with one process, without a word.

    Raises:
        RuntimeError: It is not.
    """
    kinds = {"ddp": DistributedDataParallel.__name__, "fsdp2": FSDPModule.__name__}
    expected = kinds.get(strategy, "DeepSpeedEngine")
    if strategy == "ddp" and processes == 1:
        return
    if expected not in (kind.__name__ for kind in type(wrapped).__mro__):
        raise RuntimeError(
            f"distributed.strategy is {strategy}, but the model is wrapped as"
            f" {type(wrapped).__name__} in place of {expected}"
        )
