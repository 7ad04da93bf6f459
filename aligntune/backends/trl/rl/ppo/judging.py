"""What answers are worth, and what is told of it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aligntune.backends.trl.rl.ppo.rollout import Answers
from aligntune.backends.trl.rl.ppo.sums import Total, moments
from aligntune.data.prompts import columns_of
from aligntune.rewards.scoring import Batch, Scores
from aligntune.training.completions import Row


def decode_batch(rows: Sequence[dict[str, Any]], answers: Answers, tokenizer: Any) -> Batch:
    """The answers to `rows` as reward functions read them."""
    return Batch(
        prompts=[row["prompt"] for row in rows],
        # one by one: batch_decode makes an empty text of no answers
        completions=[tokenizer.decode(ids, skip_special_tokens=True) for ids in answers.ids],
        columns=columns_of([row["row"] for row in rows]),
    )


def completion_rows(
    batch: Batch, scores: Scores, advantages: Sequence[float], step: int
) -> list[Row]:
    """The answers for a person to look at.

    Args:
        batch: The answers.
        scores: Theirs.
        advantages: One number for each answer, the mean over its tokens.
        step: Optimizer steps before them.
    """
    return [
        {"step": step, "prompt": prompt[-1]["content"], "completion": completion, "reward": reward}
        | {f"reward_{name}": values[index] for name, values in scores.each.items()}
        | {"advantage": advantages[index]}
        for index, (prompt, completion, reward) in enumerate(
            zip(batch.prompts, batch.completions, scores.total, strict=True)
        )
    ]


def mean_metrics(
    scores: Scores, answers: Answers, names: Sequence[str], total: Total
) -> dict[str, float]:
    """Means over the answers of all processes.

    Args:
        scores: Of this process's answers.
        answers: Of this process; there may be none.
        names: Of the reward functions, the same in all processes.
        total: Adds up over the processes.

    Returns:
        `reward` (the weighted sum) and `reward_std`, `reward_<function>` before weighting,
        `completion_length` in tokens with the end token, and `missing_eos`, the share of answers
        that did not end by themselves.
    """
    device = answers.mask_NT.device
    told = {}
    rewards_N = torch.tensor(scores.total, dtype=torch.float64, device=device)
    known = moments(rewards_N, torch.ones_like(rewards_N, dtype=torch.bool), total)
    told["reward"], told["reward_std"] = known.mean.item(), known.variance.sqrt().item()
    columns = {f"reward_{name}": _numbers(scores.each.get(name, []), device) for name in names}
    columns["completion_length"] = answers.mask_NT.sum(1).double()
    columns["missing_eos"] = (~answers.ended_N).double()
    for name, values in columns.items():
        sum_, number = total(torch.stack([values.sum(), values.new_tensor(values.numel())]))
        if number > 0:
            told[name] = (sum_ / number).item()
    return told


def _numbers(values: Sequence[float | None], device: torch.device) -> Tensor:
    """The values of those answers that a function applies to."""
    applying = [value for value in values if value is not None]
    return torch.tensor(applying, dtype=torch.float64, device=device)
