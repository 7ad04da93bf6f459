"""What aligntune/training/_compat.py mends is still broken; a red test here means: delete it."""

from importlib import metadata
from pathlib import Path

import pytest
import torch

from tests.trainers.tiny import DEEPSPEED


def test_torch_still_refuses_to_restore_to_a_numbered_cpu(tmp_path: Path) -> None:
    torch.save({"step": torch.ones(1)}, tmp_path / "optimizer.pt")
    with pytest.raises(RuntimeError, match="don't know how to restore data location"):
        torch.load(tmp_path / "optimizer.pt", map_location="cpu:0", weights_only=True)


def test_a_mend_is_looked_at_again_when_its_library_moves_on() -> None:
    """`_compat.py` says what the library did at this version; see whether it still does."""
    assert metadata.version("accelerate").startswith("1.15.")
    [deepspeed] = metadata.distributions(name="deepspeed", path=[str(DEEPSPEED)])
    assert deepspeed.version.startswith("0.19.")
