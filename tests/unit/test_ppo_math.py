"""The arithmetic of PPO against its formulas, on tensors alone."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from aligntune.backends.trl.rl.ppo.advantages import (
    experience,
    explained_variance,
    gae,
    token_rewards,
)
from aligntune.backends.trl.rl.ppo.kl import KLController
from aligntune.backends.trl.rl.ppo.losses import loss_sums, policy_loss, value_loss
from aligntune.backends.trl.rl.ppo.sums import moments, whiten
from aligntune.backends.trl.rl.ppo.value import Predictions
from aligntune.core.errors import LossDivergedError
from aligntune.core.rl.config import KLConfig, PPOConfig
from aligntune.training.kl_guard import PATIENCE, KLGuard
from tests.one_process import alone

lengths = st.lists(st.integers(1, 7), min_size=2, max_size=6)
seeds = st.integers(0, 2**32 - 1)
shares = st.floats(0, 1)


def drawn(seed: int, count: int, length: int) -> Tensor:
    return torch.randn(count, length, generator=torch.Generator().manual_seed(seed))


def answers(lengths: list[int]) -> Tensor:
    """The mask of answers of these lengths."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def both(values: Tensor, mask: Tensor, cut: int, compute: Callable[..., Tensor]) -> Tensor:
    """What two processes compute, each of which holds a part of the rows.

    The first pass asks both for what they would add up, and ends there; the sums are known then,
    and the next pass gets one further.
    """
    sums: list[Tensor] = []
    while True:
        halves = [
            _until_unknown(values[part], mask[part], sums, compute)
            for part in (slice(None, cut), slice(cut, None))
        ]
        if all(finished for finished, _ in halves):
            return torch.cat([result for _, result in halves])
        sums.append(halves[0][1] + halves[1][1])


def _until_unknown(
    values: Tensor, mask: Tensor, sums: list[Tensor], compute: Callable[..., Tensor]
) -> tuple[bool, Tensor]:
    """Whether a process came to its end, and its result; else what it would add up."""
    known = iter(sums)

    def total(mine: Tensor) -> Tensor:
        for already in known:
            return already
        raise _NotYetError(mine)

    try:
        return True, compute(values, mask, total)
    except _NotYetError as unknown:
        return False, unknown.mine


class _NotYetError(Exception):
    def __init__(self, mine: Tensor) -> None:
        self.mine = mine


@given(lengths, seeds, st.integers(0, 6), st.booleans())
def test_whitening_does_not_depend_on_who_holds_which_rows(
    rows: list[int], seed: int, cut: int, shift: bool
) -> None:
    mask = answers(rows)
    values = drawn(seed, *mask.shape)

    def whitened(part: Tensor, part_mask: Tensor, total: Any) -> Tensor:
        return whiten(part, part_mask, total, shift_mean=shift)

    whole = whitened(values, mask, alone)
    parts = both(values, mask, min(cut, len(rows)), whitened)
    torch.testing.assert_close(parts, whole)


@given(lengths, seeds)
def test_whitened_values_have_mean_zero_and_variance_one_and_nothing_beyond_the_mask(
    rows: list[int], seed: int
) -> None:
    mask = answers(rows)
    values = 50 + 3 * drawn(seed, *mask.shape)
    whitened = whiten(values, mask, alone)
    assert whitened[~mask].eq(0).all()
    if mask.sum() > 2:
        assert whitened[mask].mean().item() == pytest.approx(0, abs=1e-5)
        assert whitened[mask].var().item() == pytest.approx(1, rel=1e-4)
        kept = whiten(values, mask, alone, shift_mean=False)
        assert kept[mask].mean().item() == pytest.approx(values[mask].mean().item(), rel=1e-5)


def test_moments_keep_their_digits_far_from_zero() -> None:
    values = 1e4 + torch.tensor([0.25, 0.5, 0.75])
    known = moments(values, torch.ones(3, dtype=torch.bool), alone)
    assert known.variance.item() == pytest.approx(0.0625, rel=1e-9)
    lone = whiten(torch.tensor([3.0]), torch.tensor([True]), alone)
    assert lone.isfinite().all()


@given(lengths, seeds, shares, shares)
def test_gae_is_the_sum_of_discounted_surprises(
    rows: list[int], seed: int, gamma: float, lam: float
) -> None:
    """Schulman et al. 2015, eq. 16, term by term."""
    mask = answers(rows)
    reward, value = drawn(seed, *mask.shape), drawn(seed + 1, *mask.shape)
    advantage = gae(reward, value, mask, gamma, lam)
    for n, length in enumerate(rows):
        v = [*value[n, :length].tolist(), 0.0]
        surprise = [reward[n, t].item() + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected = math.fsum(
                (gamma * lam) ** (later - t) * surprise[later] for later in range(t, length)
            )
            assert advantage[n, t].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert advantage[~mask].eq(0).all()


@given(lengths, seeds)
def test_with_lambda_one_the_returns_are_what_was_earned(rows: list[int], seed: int) -> None:
    mask = answers(rows)
    reward, value = drawn(seed, *mask.shape), drawn(seed + 1, *mask.shape)
    returns = gae(reward, value, mask, 1.0, 1.0) + torch.where(mask, value, 0)
    earned = torch.where(mask, reward, 0).flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(returns[mask], earned[mask], rtol=1e-4, atol=1e-5)


def test_the_last_token_earns_the_score_and_every_token_pays_for_its_distance() -> None:
    mask = answers([3, 1])
    kl = torch.tensor([[0.5, -0.25, 1.0], [2.0, 9.0, 9.0]])
    reward = token_rewards(torch.tensor([10.0, -1.0]), kl, mask, 0.1)
    expected = torch.tensor([[-0.05, 0.025, 9.9], [-1.2, 0.0, 0.0]])
    torch.testing.assert_close(reward, expected)


@given(lengths, seeds, st.integers(0, 6))
def test_experience_does_not_depend_on_how_a_rollout_is_spread_over_processes(
    rows: list[int], seed: int, cut: int
) -> None:
    mask = answers(rows)
    value, logp = drawn(seed, *mask.shape), drawn(seed + 1, *mask.shape)
    settings = PPOConfig(whiten_rewards=True)

    def learned(part: Tensor, part_mask: Tensor, total: Any) -> Tensor:
        score, logp, value = part[:, 0], part[:, 1 : 1 + mask.shape[1]], part[:, -mask.shape[1] :]
        known = experience(
            score_N=score,
            logp_NT=logp,
            reference_logp_NT=0 * logp,
            value_NT=value,
            mask_NT=part_mask,
            settings=settings,
            coefficient=0.1,
            total=total,
        )
        return torch.cat([known.advantage_NT, known.return_NT], dim=1)

    rows_of_all = torch.cat([drawn(seed + 2, len(rows), 1), logp, value], dim=1)
    whole = learned(rows_of_all, mask, alone)
    parts = both(rows_of_all, mask, min(cut, len(rows)), learned)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_explained_variance_is_one_for_a_seer_and_zero_for_a_constant() -> None:
    mask = answers([3, 2])
    returns = torch.tensor([[1.0, 2.0, 3.0], [5.0, 8.0, 99.0]])
    assert explained_variance(returns, returns, mask, alone) == 1
    assert explained_variance(0 * returns, returns, mask, alone) == pytest.approx(0)
    assert explained_variance(-returns, returns, mask, alone) == pytest.approx(-3)
    assert explained_variance(returns, 0 * returns, mask, alone) == 0


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.5, 2.0, -2.4, True),  # no further gain beyond 1.2
        (0.5, 2.0, -1.0, False),
        (1.5, -2.0, 3.0, False),
        (0.5, -2.0, 1.6, True),  # no further gain below 0.8
    ],
)
def test_the_policy_gains_nothing_by_moving_beyond_the_clip(
    ratio: float, advantage: float, loss: float, clipped: bool
) -> None:
    now = torch.tensor([[math.log(ratio)]], requires_grad=True)
    got = policy_loss(now, torch.zeros(1, 1), torch.tensor([[advantage]]), 0.2)
    assert got.loss_BT.item() == pytest.approx(loss)
    assert got.clipped_BT.item() is clipped
    got.loss_BT.sum().backward()
    assert now.grad is not None
    assert (now.grad.item() == 0) is clipped


@pytest.mark.parametrize(
    ("value", "loss", "clipped"), [(0.1, 0.405, False), (0.6, 0.32, True), (-0.5, 1.125, False)]
)
def test_a_value_gains_nothing_by_moving_beyond_the_clip(
    value: float, loss: float, clipped: bool
) -> None:
    got = value_loss(torch.tensor([[value]]), torch.zeros(1, 1), torch.ones(1, 1), 0.2)
    assert got.loss_BT.item() == pytest.approx(loss)
    assert got.clipped_BT.item() is clipped


@given(lengths, seeds, st.integers(0, 6))
def test_the_losses_sums_do_not_depend_on_how_the_rows_are_cut(
    rows: list[int], seed: int, cut: int
) -> None:
    mask = answers(rows)
    parts = [drawn(seed + n, *mask.shape) for n in range(7)]
    names = ("logp", "value", "advantage", "return")
    batch = {"mask": mask, **dict(zip(names, parts[:4], strict=True))}

    def summed(cut: slice) -> Tensor:
        now = Predictions(*(part[cut] for part in parts[4:]))
        sums = loss_sums(now, {name: part[cut] for name, part in batch.items()}, PPOConfig())
        return torch.stack([part.double() for part in sums])

    pieces = summed(slice(None, cut)) + summed(slice(cut, None))
    torch.testing.assert_close(pieces, summed(slice(None)), rtol=1e-4, atol=1e-4)


@given(
    st.floats(0.001, 10), st.floats(0.1, 100), st.integers(1, 10**6), st.floats(-100, 1000),
    st.integers(1, 4096),
)  # fmt: skip
def test_the_adaptive_coefficient_follows_its_formula(
    coefficient: float, target: float, horizon: int, kl: float, episodes: int
) -> None:
    """Ziegler et al. 2019, section 2.2: the error is clipped to a fifth."""
    before = KLController.of(KLConfig(coefficient=coefficient, target=target, horizon=horizon))
    error = max(-0.2, min(0.2, kl / target - 1))
    after = before.after(kl, episodes).coefficient
    assert after == pytest.approx(coefficient * (1 + error * episodes / horizon))


def test_the_coefficient_rises_when_kl_is_too_high_and_never_moves_without_a_target() -> None:
    adaptive = KLController.of(KLConfig(coefficient=0.1, target=6, horizon=1000))
    assert adaptive.after(12, 100).coefficient == pytest.approx(0.102)
    assert adaptive.after(6, 100).coefficient == pytest.approx(0.1)
    assert adaptive.after(0, 100).coefficient == pytest.approx(0.098)
    fixed = KLController.of(KLConfig(coefficient=0.1))
    assert fixed.after(1000, 64) == fixed


def test_a_run_ends_when_kl_stays_beyond_the_limit_and_not_at_one_bad_rollout() -> None:
    guard = KLGuard(2.0, "ppo.klLimit", "raise ppo.kl.coefficient")
    for kl in [3.0] * (PATIENCE - 1) + [1.0] + [3.0] * (PATIENCE - 1):
        guard = guard.after(kl, step=4)
    with pytest.raises(LossDivergedError, match=r"step 8: the policy is 3 nats per token away"):
        guard.after(3.0, step=8)
