"""A reward that knows nothing, by the module path that a config gives: `controls:coin`."""

import hashlib

from aligntune.rewards.scoring import Batch


def coin(batch: Batch) -> list[float]:
    """0 or 1, always the same for a completion; the right ones are worth no more than the wrong."""
    texts = zip(batch.prompts, batch.completions, strict=True)
    return [
        float(hashlib.sha256(f"{prompt[-1]['content']}{completion}".encode()).digest()[0] % 2)
        for prompt, completion in texts
    ]
