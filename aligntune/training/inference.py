"""Asking a model something while it is in training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from aligntune.training.machine import DTYPES, Compute


@contextmanager
def inference(model: Any, computed_in: Compute = "fp32") -> Iterator[None]:
    """Switch off dropout and gradients; the model's mode is restored afterwards.

    Args:
        model: The model.
        computed_in: What is computed in where that is not what its weights are kept in.
    """
    mixed = torch.autocast(model.device.type, DTYPES[computed_in], enabled=computed_in != "fp32")
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), mixed:
            yield
    finally:
        model.train(was_training)
