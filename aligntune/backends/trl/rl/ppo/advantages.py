"""From the score of an answer to the advantage of each of its tokens.

Dimensions: N = answers that this process holds, T = tokens of the longest answer.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from aligntune.backends.trl.rl.ppo.sums import Total, moments, whiten
from aligntune.core.rl.config import PPOConfig


class Experience(NamedTuple):
    """What a rollout teaches; all N x T, zero beyond the answers."""

    advantage_NT: Tensor
    """How much better a token did than expected, whitened over all processes' tokens."""
    return_NT: Tensor
    """What was earned from a token on: what its value should have been."""
    kl_NT: Tensor
    """Log-probability under the policy less that under the reference, in nats (k1)."""


def experience(
    *,
    score_N: Tensor,
    logp_NT: Tensor,
    reference_logp_NT: Tensor,
    value_NT: Tensor,
    mask_NT: Tensor,
    settings: PPOConfig,
    coefficient: float,
    total: Total,
) -> Experience:
    """All that follows from the scores of a rollout.

    Args:
        score_N: Reward of each answer.
        logp_NT: Log-probabilities of the tokens under the policy that sampled them.
        reference_logp_NT: Those under the reference.
        value_NT: What was expected to be earned from each token on.
        mask_NT: The tokens of the answers, end tokens included, bool.
        settings: Discount, lambda, whitening.
        coefficient: Weight of the KL penalty.
        total: Adds up over the processes.
    """
    kl_NT = torch.where(mask_NT, logp_NT - reference_logp_NT, 0.0)
    reward_NT = token_rewards(score_N, kl_NT, mask_NT, coefficient)
    if settings.whiten_rewards:
        reward_NT = whiten(reward_NT, mask_NT, total, shift_mean=False)
    advantage_NT = gae(reward_NT, value_NT, mask_NT, settings.gamma, settings.lam)
    return_NT = torch.where(mask_NT, advantage_NT + value_NT, 0.0)
    return Experience(whiten(advantage_NT, mask_NT, total), return_NT, kl_NT)


def token_rewards(
    score_N: Tensor, kl_NT: Tensor, mask_NT: Tensor, coefficient: float | Tensor
) -> Tensor:
    """What each token earns: the penalty for leaving the reference, and the last one the score.

    Ziegler et al. 2019 (arXiv:1909.08593), eq. 2, with the KL divergence of each token estimated by
    its log-ratio (k1).

    Args:
        score_N: Reward of each answer.
        kl_NT: Log-probability under the policy less that under the reference, in nats.
        mask_NT: The tokens of the answer, its end token included; they begin at 0 without a gap.
        coefficient: Weight of the penalty.

    Returns:
        Rewards, N x T; zero beyond the answer.
    """
    reward_NT = torch.where(mask_NT, -coefficient * kl_NT, 0.0)
    last_N1 = mask_NT.sum(1, keepdim=True) - 1
    return reward_NT.scatter_add(1, last_N1, score_N.to(reward_NT.dtype)[:, None])


def gae(reward_NT: Tensor, value_NT: Tensor, mask_NT: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimation, Schulman et al. 2015 (arXiv:1506.02438), eq. 16.

    An answer is one episode: after its last token there is nothing more to earn.

    Args:
        reward_NT: Reward of each token.
        value_NT: What the value model expects to be earned from each token on.
        mask_NT: The steps of the episode; they begin at 0 without a gap.
        gamma: Discount per token.
        lam: How much of later surprises counts; 0 is one step ahead, 1 the whole rest.

    Returns:
        Advantages, N x T, not whitened; zero beyond the answer. With the values they sum to the
        returns that the value model learns.
    """
    value_NT = torch.where(mask_NT, value_NT, 0.0)
    next_NT = torch.cat([value_NT[:, 1:], torch.zeros_like(value_NT[:, :1])], dim=1)
    surprise_NT = torch.where(mask_NT, reward_NT + gamma * next_NT - value_NT, 0.0)
    advantage_NT = torch.empty_like(surprise_NT)
    later_N = torch.zeros_like(surprise_NT[:, 0])
    for t in range(surprise_NT.shape[1] - 1, -1, -1):
        later_N = surprise_NT[:, t] + gamma * lam * later_N
        advantage_NT[:, t] = later_N
    return advantage_NT


def explained_variance(value_NT: Tensor, return_NT: Tensor, mask_NT: Tensor, total: Total) -> float:
    """The share of the returns' variance that the values foretell.

    1 is perfect, 0 no better than a constant, below 0 worse than that; 0 where returns do not vary.

    Args:
        value_NT: Values before the update.
        return_NT: Returns.
        mask_NT: The tokens that count.
        total: Adds up over the processes.
    """
    spread = moments(return_NT, mask_NT, total).variance
    missed = moments(return_NT - value_NT, mask_NT, total).variance
    return float(1 - missed / spread) if spread > 0 else 0.0
