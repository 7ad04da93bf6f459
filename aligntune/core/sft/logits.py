"""Models that do more to their logits than multiply with their head."""

from collections.abc import Mapping
from typing import Any

FACTORS = (
    "lm_head_multiplier",
    "logits_mup_width_multiplier",
    "logits_scaling",
    "logits_soft_cap",
    "output_logit_soft_cap",
)
"""What a config.json calls the factors on logits that TRL's chunked loss does not apply: it holds
few logits at a time, and so multiplies with the head itself. A test looks for others in
transformers."""


def needs_whole_logits(config: Mapping[str, Any]) -> bool:
    """Whether TRL's chunked loss would leave out what a model does to its logits.

    Args:
        config: The model's config.json.
    """
    return any(config.get(name) not in (None, 1) for name in FACTORS)
