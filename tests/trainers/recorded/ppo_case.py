"""The models, answers and settings of the recorded PPO update: the same here and for TRL 1.12.

Weights come from a formula, so that no version's random numbers matter.
"""

from typing import Any, NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

PAD, EOS = 0, 1
PROMPT, ANSWER = 3, 6
"""Longest prompt and answer, in tokens."""
RATE = 0.004
"""Of plain SGD: large enough for ratios and values to reach their clips by the third epoch."""
EPOCHS = 3
GAMMA, LAM = 0.98, 0.9
CLIP, VALUE_CLIP, VALUE_COEFFICIENT = 0.2, 0.2, 0.5
KL_COEFFICIENT, TEMPERATURE, MISSING_EOS_PENALTY = 0.3, 0.7, 0.6

PROMPTS = [[0, 5, 7], [3, 4, 9], [0, 0, 8], [2, 6, 10], [0, 11, 3], [9, 9, 2], [0, 4, 4], [7, 3, 5]]
"""Padded on the left."""


class Case(NamedTuple):
    """What differs between the recorded updates."""

    answers: list[list[int]]
    """As they would be sampled: whatever stands behind an end token counts as padding."""
    whiten_rewards: bool


CASES = {
    "to the last token": Case(
        [
            [5, 6, 7, 8, 9, 1],
            [4, 4, 3, 10, 2, 11],
            [2, 3, 2, 3, 2, 1],
            [9, 8, 7, 6, 5, 4],
            [11, 10, 9, 11, 10, 1],
            [6, 6, 6, 6, 6, 6],
            [3, 5, 8, 2, 7, 1],
            [10, 2, 4, 9, 3, 8],
        ],
        whiten_rewards=True,
    ),
    "of all lengths": Case(
        [
            [5, 1, 0, 0, 0, 0],
            [4, 4, 3, 10, 2, 11],
            [2, 3, 1, 0, 0, 0],
            [9, 8, 7, 6, 1, 0],
            [1, 0, 0, 0, 0, 0],
            [6, 6, 6, 6, 6, 1],
            [3, 5, 8, 1, 0, 0],
            [10, 2, 4, 9, 3, 8],
        ],
        whiten_rewards=False,
    ),
}


def fingerprint(gradient: torch.Tensor) -> list[float]:
    """A gradient in two numbers: its length, and its share in a fixed direction."""
    flat = gradient.double().flatten()
    probe = torch.cos(torch.arange(flat.numel(), dtype=torch.float64))
    return [float(flat.norm()), float(flat @ probe)]


def policy(shift: float = 0.0) -> Any:
    """The policy, and with another shift the reference."""
    return _filled(LlamaForCausalLM(_config()), shift)


def classifier(shift: float) -> Any:
    """TRL's form of a value model and of a reward model."""
    return _filled(LlamaForSequenceClassification(_config()), shift)


def _config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=12,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        num_labels=1,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
    )


def _filled(model: Any, shift: float) -> Any:
    with torch.no_grad():
        for number, (name, part) in enumerate(sorted(model.named_parameters())):
            steps = torch.arange(part.numel(), dtype=torch.float64)
            wave = torch.sin(1.7 * steps + number + shift).view_as(part)
            part.copy_(1 + 0.1 * wave if "norm" in name else 0.4 * wave)
    return model.eval()
