"""What we mend in the libraries we train with: each entry says when it can go."""

from pathlib import Path

import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin, PartialState
from transformers import Trainer


class LoadsOptimizerOnCPU(Trainer):  # type: ignore[misc]  # transformers is not typed
    """Resume with several processes on the CPU.

    transformers 5.17 maps the optimizer's file to the device of the process, "cpu:0", which torch
    2.14 refuses to restore. Can go when `torch.load(..., map_location="cpu:0")` works or
    transformers asks for "cpu"; `test_compat.py` says so.
    """

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if checkpoint is None or self.args.device.type != "cpu" or sharded:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        for name, part in (("optimizer.pt", self.optimizer), ("scheduler.pt", self.lr_scheduler)):
            saved = torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True)
            part.load_state_dict(saved)


class ShardsOnCPU(Trainer):  # type: ignore[misc]  # transformers is not typed
    """FSDP with several processes on the CPU.

    accelerate 1.15 passes over the FSDP plugin where there is no accelerator, and trains with DDP
    without a word, though torch shards over gloo as well. Can go when accelerate keeps the plugin.
    """

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.args.fsdp_plugin_args is None or self.args.device.type != "cpu":
            return
        state = self.accelerator.state
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
        for shared in (state, PartialState()):  # the former copies the latter again and again
            shared.distributed_type = DistributedType.FSDP
        self.is_fsdp_enabled = True


def keep_deepspeed_on_gloo() -> None:
    """Stop DeepSpeed from compiling its own exchange between processes on one CPU machine.

    DeepSpeed 0.19 builds a C++ extension at the start of a run and fails where there is no
    compiler; gloo does the same work. Can go when it falls back by itself.
    """
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False
