"""When a frozen reference model is loaded: it takes the memory of a second model."""

from typing import Any

import pytest

from aligntune.core.rl.config import RLSpec

NAMED = {"referenceModel": {"name": "frozen"}}
PRECOMPUTED = {"dpo": {"precomputeReference": True}}
HELD = {"grpo": {"beta": 0.04}}


@pytest.mark.parametrize(
    ("algo", "tuning", "settings", "loads"),
    [
        ("dpo", "lora", {}, False),
        ("dpo", "full", {}, True),
        ("dpo", "full", PRECOMPUTED, False),
        ("dpo", "lora", NAMED | PRECOMPUTED, True),
        ("grpo", "full", {}, False),
        ("grpo", "full", HELD, True),
        ("grpo", "lora", HELD, False),
        ("grpo", "lora", HELD | NAMED, True),
        ("ppo", "lora", {}, False),
        ("ppo", "full", {}, True),
        ("ppo", "lora", NAMED, True),
        ("reward", "full", {}, False),
    ],
)
def test_a_reference_is_loaded_where_the_policy_cannot_stand_in_for_it(
    algo: str, tuning: str, settings: dict[str, Any], *, loads: bool
) -> None:
    rewards = {"rewards": [{"name": "length"}]} if algo in ("grpo", "ppo") else {}
    model = {"model": {"name": "m", "tuning": tuning}, "datasets": [{"name": "d"}]}
    assert RLSpec.parse({"algo": algo} | model | rewards | settings).loads_reference is loads
