"""The two clipped losses of PPO, and their sums over the tokens of a batch.

Dimensions: B = answers of a batch, T = tokens of the longest one.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from aligntune.backends.trl.rl.ppo.value import Predictions
from aligntune.core.rl.config import PPOConfig


class TokenLoss(NamedTuple):
    """A loss before it is averaged."""

    loss_BT: Tensor
    clipped_BT: Tensor
    """Where the clip decides, and so nothing is learned; bool."""


def policy_loss(
    logp_BT: Tensor, old_logp_BT: Tensor, advantage_BT: Tensor, clip_range: float
) -> TokenLoss:
    """The clipped surrogate, Schulman et al. 2017 (arXiv:1707.06347), eq. 7, to be lowered.

    Args:
        logp_BT: Log-probabilities of the tokens under the policy that learns.
        old_logp_BT: Those under the policy that sampled them.
        advantage_BT: Advantages.
        clip_range: How far the ratio of the two may move from 1 before it no longer pays.
    """
    ratio_BT = torch.exp(logp_BT - old_logp_BT)
    free_BT = -advantage_BT * ratio_BT
    held_BT = -advantage_BT * ratio_BT.clamp(1 - clip_range, 1 + clip_range)
    return TokenLoss(torch.maximum(free_BT, held_BT), held_BT > free_BT)


def value_loss(
    value_BT: Tensor, old_value_BT: Tensor, return_BT: Tensor, clip_range: float
) -> TokenLoss:
    """Half the squared error, the worse of the value and the value held near the old one.

    The clip is that of the code that came with Schulman et al. 2017.

    Args:
        value_BT: Values that learn.
        old_value_BT: Values before the update.
        return_BT: What was earned.
        clip_range: How far a value may move from the old one.
    """
    held_BT = torch.clamp(value_BT, old_value_BT - clip_range, old_value_BT + clip_range)
    free_error_BT = (value_BT - return_BT).square()
    held_error_BT = (held_BT - return_BT).square()
    return TokenLoss(
        0.5 * torch.maximum(free_error_BT, held_error_BT), held_error_BT > free_error_BT
    )


class LossSums(NamedTuple):
    """Sums over a batch's tokens; divided by the tokens of the whole they are means."""

    policy: Tensor
    value: Tensor
    clipped: Tensor
    """Tokens whose ratio is clipped."""
    value_clipped: Tensor
    entropy: Tensor
    """Nats."""
    tokens: Tensor


def loss_sums(now: Predictions, batch: Mapping[str, Tensor], settings: PPOConfig) -> LossSums:
    """Both losses of a batch of answers, summed so that nothing depends on how it was cut.

    Args:
        now: What the models in training say of the answers.
        batch: `mask` (bool), `logp`, `value`, `advantage` and `return`, each B x T: the tokens that
            count, what the models said when the answers were sampled, and what came of it.
        settings: The clips.
    """
    mask_BT = batch["mask"]
    policy = policy_loss(now.logp_BT, batch["logp"], batch["advantage"], settings.clip_range)
    value = value_loss(now.value_BT, batch["value"], batch["return"], settings.value_clip_range)

    def over_tokens(values_BT: Tensor) -> Tensor:
        return torch.where(mask_BT, values_BT, 0).sum()

    return LossSums(
        policy=over_tokens(policy.loss_BT),
        value=over_tokens(value.loss_BT),
        clipped=over_tokens(policy.clipped_BT),
        value_clipped=over_tokens(value.clipped_BT),
        entropy=over_tokens(now.entropy_BT),
        tokens=mask_BT.sum(),
    )
