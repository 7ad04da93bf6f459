"""What we mend in the libraries we train with: each entry says when it can go."""

from pathlib import Path

import torch
from transformers import Trainer


class LoadsOptimizerOnCPU(Trainer):  # type: ignore[misc]  # transformers is not typed
    """Resume with several processes on the CPU.

    transformers 5.17 maps the optimizer's file to the device of the process, "cpu:0", which torch
    2.14 refuses to restore. Can go when `torch.load(..., map_location="cpu:0")` works or
    transformers asks for "cpu"; `test_compat.py` says so.
    """

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.args.device.type != "cpu":
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        for name, part in (("optimizer.pt", self.optimizer), ("scheduler.pt", self.lr_scheduler)):
            saved = torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True)
            part.load_state_dict(saved)
