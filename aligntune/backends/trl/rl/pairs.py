"""What training on pairs has in common: what counts as a sample, and how often the better wins."""

from typing import Any

import torch

from aligntune.training.loop import RunLoop


class PairLoop(RunLoop):
    """A loop whose batches hold the chosen sequences of all pairs, then the rejected."""

    def count(self, inputs: Any) -> None:
        """A sample is a pair."""
        samples = inputs["input_ids"].shape[0] // 2
        self.add_to_sums(tokens=inputs["attention_mask"].sum(), samples=samples)


def wins(margin_B: torch.Tensor) -> torch.Tensor:
    """1 where the chosen answer is ahead, 0 where the rejected one is, a half for a tie.

    TRL counts a tie as wrong, so that a policy that still is its own reference would begin with an
    accuracy of 0, and equal scores, frequent in bf16, would look like mistakes.

    Args:
        margin_B: The chosen answer's reward less the rejected one's, for each of B pairs.
    """
    return (margin_B.sign() + 1) / 2
