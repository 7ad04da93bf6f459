"""How often the better answer wins, fairly counted."""

import torch


def wins(margin_B: torch.Tensor) -> torch.Tensor:
    """1 where the chosen answer is ahead, 0 where the rejected one is, a half for a tie.

    TRL counts a tie as wrong, so that a policy that still is its own reference would begin with an
    accuracy of 0, and equal scores, frequent in bf16, would look like mistakes.

    Args:
        margin_B: The chosen answer's reward less the rejected one's, for each of B pairs.
    """
    return (margin_B.sign() + 1) / 2
