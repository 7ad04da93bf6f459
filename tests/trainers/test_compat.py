"""What aligntune/training/_compat.py mends is still broken; a red test here means: delete it."""

from pathlib import Path

import pytest
import torch


def test_torch_still_refuses_to_restore_to_a_numbered_cpu(tmp_path: Path) -> None:
    torch.save({"step": torch.ones(1)}, tmp_path / "optimizer.pt")
    with pytest.raises(RuntimeError, match="don't know how to restore data location"):
        torch.load(tmp_path / "optimizer.pt", map_location="cpu:0", weights_only=True)
