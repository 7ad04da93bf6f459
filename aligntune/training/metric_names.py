"""What the numbers of a run are called, whichever library measured them."""

import math
from collections.abc import Mapping

OURS = {
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "rewards/accuracies": "reward_accuracy",
    "rewards/margins": "reward_margin",
    "logps/chosen": "chosen_logp",
    "logps/rejected": "rejected_logp",
    "logits/chosen": "chosen_logit",
    "logits/rejected": "rejected_logit",
}
"""TRL's name -> ours, where the two differ by more than a slash."""

NOT_OF_THE_MODEL = ("runtime", "_per_second", "preparation_time", "epoch", "num_tokens")
"""Endings of numbers that tell of the machine or of progress, which we measure ourselves."""


def metrics_of(logs: Mapping[str, object], prefix: str = "") -> dict[str, float]:
    """What `logs` say of the model, by our names; finite numbers only.

    Args:
        logs: What a transformers or TRL trainer logs or returns.
        prefix: `eval`, `train` or `test` for an evaluation. TRL calls some of its numbers
            `eval_...` whatever rows were measured; here all get the prefix.
    """
    metrics = {}
    for name, value in logs.items():
        if name.endswith(NOT_OF_THE_MODEL) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value):
            continue
        bare = name.removeprefix(f"{prefix}_").removeprefix("eval_") if prefix else name
        ours = OURS.get(bare, bare.replace("/", "_"))
        metrics[f"{prefix}_{ours}" if prefix else ours] = float(value)
    return metrics
