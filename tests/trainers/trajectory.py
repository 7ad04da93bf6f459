"""Losses and gradient norms of a run, step by step, beside those of another."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import trl

from tests.trainers.tiny import curve

COMMITTED = Path(__file__).parent / "trajectories"


def check_committed(
    folder: Path, name: str, relative: float = 1e-4, absolute: float | None = None
) -> None:
    """A run takes the committed steps, up to how other processors round.

    A change of them needs a reason in its commit; UPDATE_TRAJECTORIES=1 rewrites the file.
    """
    seen = [{"loss": line["loss"], "gradNorm": line["gradNorm"]} for line in curve(folder)]
    file = COMMITTED / f"{name}.json"
    if os.environ.get("UPDATE_TRAJECTORIES"):
        versions = {"torch": torch.__version__, "trl": trl.__version__}
        file.write_text(json.dumps({"versions": versions, "steps": seen}, indent=1) + "\n")
    committed = json.loads(file.read_text())["steps"]
    for ours, theirs in zip(seen, committed, strict=True):
        assert ours == pytest.approx(theirs, rel=relative, abs=absolute)
    drift = math.fsum(line["loss"] for line in seen) - math.fsum(one["loss"] for one in committed)
    assert abs(drift / len(seen)) < 1e-4


def steps_of(script: Any) -> list[dict[str, float]]:
    """What a plain TRL script has logged of each step."""
    return [line for line in script.state.log_history if "grad_norm" in line]


def check_steps(folder: Path, theirs: list[dict[str, float]]) -> None:
    """A run takes the very steps of a plain TRL script."""
    ours = curve(folder)
    assert [line["loss"] for line in ours] == [line["loss"] for line in theirs]
    assert [line["gradNorm"] for line in ours] == [line["grad_norm"] for line in theirs]
    assert [line["learningRate"] for line in ours] == [line["learning_rate"] for line in theirs]
