"""Every field of UnifiedConfig does something with every algorithm, or is refused.

Each algorithm is held to the fields that all methods share (`SHARED`), to those that it shares with
others, and to its own. PPO's own settings and its sampling are in test_ppo_config.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from aligntune.core.backend_factory import create_rl_trainer
from aligntune.core.config.errors import mistakes
from aligntune.core.config.model import ModelRef
from aligntune.core.errors import ConfigError, ModelNotFoundError
from aligntune.core.rl.config import AlgorithmType, UnifiedConfig
from aligntune.rewards.registry import load_rewards
from aligntune.rewards.scoring import Batch, score
from aligntune.training.reference import reference_arguments
from tests.trainers.effects import (
    SHARED,
    Case,
    arg,
    check,
    fits,
    loaded,
    loop,
    misnamed,
    named,
    refusal,
    text,
)
from tests.trainers.fields import fields
from tests.trainers.test_ppo_config import CASES as PPO_CASES
from tests.trainers.tiny import MakeRLConfig, merge

BASE: dict[str, dict[str, Any]] = {
    "dpo": {},
    "reward": {},
    "grpo": {"grpo": {"prompts_per_step": 2, "num_generations": 4}},
    "ppo": {"ppo": {"rollout_batch_size": 8, "epochs": 1}},
}
SAMPLED = {
    "rewards": [{"name": "tests.trainers.stopping_reward:vowels"}],
    "generation": {"max_new_tokens": 5},
}
KINDS = {
    "dpo": "TRLDPOTrainer",
    "reward": "TRLRewardTrainer",
    "grpo": "TRLGRPOTrainer",
    "ppo": "TRLPPOTrainer",
}
SOME = Batch([[{"role": "user", "content": "?"}]] * 2, ["a", "bcd"], {})


def kind(config: UnifiedConfig) -> str:
    return type(create_rl_trainer(config=config, backend="trl")).__name__


def reference(config: UnifiedConfig) -> int:
    """The width of what the policy is held to."""
    made = loop(config)
    frozen = made.reference.policy if config.algo == AlgorithmType.PPO else made.ref_model
    width: int = frozen.config.hidden_size
    return width


def reward(look: Callable[[Any], Any]) -> Callable[[UnifiedConfig], Any]:
    """What a look at the last reward shows."""
    return lambda config: look(load_rewards(config)[-1])


def longest_pair(config: UnifiedConfig) -> int:
    """Tokens of the longest prompt with its answer."""
    return max(
        len(row.get("prompt_ids", [])) + len(row["chosen_ids"]) for row in loaded(config).train
    )


def pairs(**columns: str) -> dict[str, Any]:
    return named(**{"prompt": "a", "chosen": "b", "rejected": "f"} | columns)


def judged(**more: str) -> dict[str, Any]:
    return {"reward_model": {"name": "{judge}"} | more}


def rewarded(**entry: Any) -> dict[str, Any]:
    return {"rewards": [{"name": "length"} | entry]}


def said(act: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as refused:
        act()
    return str(refused.value).split(" for ")[0]


def revision_asked_for(config: UnifiedConfig) -> str:
    """For the reward model, which nobody can load here."""
    with pytest.raises(ModelNotFoundError) as refused:
        load_rewards(config)
    return str(refused.value).partition(" is not in the cache")[0]


NAMED_REFERENCE = Case({"reference_model": {"name": "{narrow}"}}, reference, 16)
REFERENCE_OF_A_JOB = Case(
    {"reference_model": {"name": "", "from_job": "chat"}}, refusal, "referenceModel.fromJob"
)
REVISION_OF_REFERENCE = Case(
    {"reference_model": {"name": "some/model", "revision": "v2"}},
    lambda c: reference_arguments(c.model, c.reference_model or ModelRef(name="m"), "fp32")[
        "revision"
    ],
    "v2",
)
PAIRS: dict[str, Case] = {
    "model.max_length": Case({"model": {"max_length": 18}}, longest_pair, 18),
    "datasets.columns.prompt": Case(pairs(), lambda c: "user\nWhat" in text(c), True),
    "datasets.columns.chosen": Case(pairs(), lambda c: text(c).count("It is 1"), 1),
    "datasets.columns.rejected": Case(pairs(), lambda c: text(c).count("It is green"), 1),
} | {f"datasets.columns.{role}": misnamed(role) for role in (
    "text", "input", "completion", "messages", "label", "answer"
)}  # fmt: skip
SAMPLING: dict[str, Case] = {
    "model.max_length": Case({"model": {"max_length": 12}}, fits, False),
    "datasets.columns.prompt": Case(named(prompt="a"), lambda c: "user\nWhat" in text(c), True),
    "datasets.columns.input": Case(
        named(prompt="a", input="c"), lambda c: "?\n\ncontext" in text(c), True
    ),
    "datasets.columns.messages": Case(
        named(messages="d"), lambda c: "user\nhello" in text(c), True
    ),
    "datasets.columns.completion": Case(
        named(prompt="a", completion="b"), lambda c: "It is" in loaded(c).train[0]["row"], True
    ),
    "datasets.columns.answer": Case(
        named(prompt="a", answer="b"),
        lambda c: '"answer": "It is' in loaded(c).train[0]["row"],
        True,
    ),
    "rewards.name": Case(rewarded(), reward(lambda one: one.name), "length"),
    "rewards.weight": Case(
        rewarded(weight=-2, params={"shortest": 3}),
        lambda c: score(load_rewards(c), SOME).total[1],
        -2,
    ),
    "rewards.params": Case(
        rewarded(params={"shortest": 3}), reward(lambda one: one.score(SOME)), [1 / 3, 1.0]
    ),
    "rewards.timeout_seconds": Case(
        {"rewards": [{"name": "tests.trainers.stopping_reward:slow", "timeout_seconds": 0.05}]},
        lambda c: said(lambda: score(load_rewards(c), SOME)),
        "rewards[0] 'tests.trainers.stopping_reward:slow': took longer than 0.05 s",
    ),
    "reward_model.name": Case(
        judged(), reward(lambda one: one.score._model.config.hidden_size), 16
    ),
    "reward_model.from_job": Case(
        {"reward_model": {"name": "", "from_job": "judge"}, "rewards": []},
        refusal,
        "rewardModel.fromJob",
    ),
    "reward_model.revision": Case(
        {"reward_model": {"name": "some/model", "revision": "v2"}},
        revision_asked_for,
        "rewardModel.name 'some/model': v2",
    ),
} | {f"datasets.columns.{role}": misnamed(role) for role in (
    "text", "label", "chosen", "rejected"
)}  # fmt: skip
GRPO: dict[str, Case] = {
    "reference_model.name": Case(
        {"reference_model": {"name": "{narrow}"}, "grpo": {"beta": 0.1}}, reference, 16
    ),
    "reference_model.from_job": Case(
        {"reference_model": {"name": "", "from_job": "chat"}, "grpo": {"beta": 0.1}},
        refusal,
        "referenceModel.fromJob",
    ),
    "reference_model.revision": REVISION_OF_REFERENCE,
    "train.gradient_accumulation_steps": Case(
        {"train": {"gradient_accumulation_steps": 3}}, refusal, "train.gradientAccumulationSteps"
    ),
    "grpo.beta": Case({"grpo": {"beta": 0.3}}, lambda c: loop(c).beta, 0.3),
    "grpo.loss": Case({"grpo": {"loss": "bnpo"}}, arg("loss_type"), "bnpo"),
    "grpo.epsilon": Case({"grpo": {"epsilon": 0.3}}, arg("epsilon"), 0.3),
    "grpo.epsilon_high": Case({"grpo": {"epsilon_high": 0.4}}, arg("epsilon_high"), 0.4),
    "grpo.num_generations": Case({"grpo": {"num_generations": 8}}, arg("num_generations"), 8),
    "grpo.prompts_per_step": Case(
        {"grpo": {"prompts_per_step": 6}}, arg("generation_batch_size"), 6 * 4
    ),
    "grpo.num_iterations": Case({"grpo": {"num_iterations": 3}}, arg("num_iterations"), 3),
    "grpo.scale_rewards": Case({"grpo": {"scale_rewards": "none"}}, arg("scale_rewards"), "none"),
    "grpo.importance_sampling": Case(
        {"grpo": {"importance_sampling": "sequence"}}, arg("importance_sampling_level"), "sequence"
    ),
    "grpo.max_prompt_length": Case({"grpo": {"max_prompt_length": 3}}, fits, False),
    "grpo.kl_limit": Case({"grpo": {"kl_limit": 2.0}}, lambda c: loop(c)._guard.limit, 2.0),
    "generation.max_new_tokens": Case(
        {"generation": {"max_new_tokens": 7}}, arg("max_completion_length"), 7
    ),
    "generation.temperature": Case({"generation": {"temperature": 0.7}}, arg("temperature"), 0.7),
    "generation.top_p": Case({"generation": {"top_p": 0.9}}, arg("top_p"), 0.9),
    "generation.top_k": Case({"generation": {"top_k": 50}}, arg("top_k"), 50),
    "generation.vllm": Case({"generation": {"vllm": "colocate"}}, arg("use_vllm"), True),
    "generation.vllm_url": Case(
        {"generation": {"vllm": "server", "vllm_url": "http://vllm:8000"}},
        arg("vllm_server_base_url"),
        "http://vllm:8000",
    ),
}
OWN: dict[str, dict[str, Case]] = {
    "dpo": PAIRS | {
        "reference_model.name": NAMED_REFERENCE,
        "reference_model.from_job": REFERENCE_OF_A_JOB,
        "reference_model.revision": REVISION_OF_REFERENCE,
        "dpo.beta": Case({"dpo": {"beta": 0.3}}, arg("beta"), 0.3),
        "dpo.loss": Case({"dpo": {"loss": "ipo"}}, arg("loss_type"), ["ipo"]),
        "dpo.label_smoothing": Case(
            {"dpo": {"loss": "robust", "label_smoothing": 0.1}}, arg("label_smoothing"), 0.1
        ),
        "dpo.precompute_reference": Case(
            {"dpo": {"precompute_reference": True}},
            lambda c: "ref_chosen_logps" in loop(c).train_dataset.column_names,
            True,
        ),
    },
    "reward": PAIRS | {
        "model.max_length": Case({"model": {"max_length": 18}}, fits, False),
        "reward.centering_coefficient": Case(
            {"reward": {"centering_coefficient": 0.01}}, arg("center_rewards_coefficient"), 0.01
        ),
    },
    "grpo": SAMPLING | GRPO,
    "ppo": SAMPLING | {
        "reference_model.name": NAMED_REFERENCE,
        "reference_model.from_job": REFERENCE_OF_A_JOB,
        "reference_model.revision": REVISION_OF_REFERENCE,
        "train.epochs": Case(
            {"train": {"epochs": 0.5, "max_steps": None}}, lambda c: loop(c).args.max_steps, 6
        ),  # half of 96 rows, 8 in a step
    },
}  # fmt: skip
IN_TEST_PPO_CONFIG = {
    path if path.startswith("generation.") else f"ppo.{path}" for path in PPO_CASES
}

NO_DROPOUT = ({"model": {"lora": {"dropout": 0.1}}}, "model.lora.dropout: ")
NO_REWARDS = ({"rewards": [{"name": "length"}]}, "rewards: dpo and reward learn from preference")
NO_JUDGE = ({"reward_model": {"name": "m"}}, "rewards: dpo and reward learn from preference pairs")
NO_SAMPLING = ({"generation": {}}, "generation: only ppo and grpo generate answers")
OF_PAIRS = {
    "model.lora.dropout": NO_DROPOUT,
    "rewards": NO_REWARDS,
    "reward_model": NO_JUDGE,
    "generation": NO_SAMPLING,
}
REFUSED: dict[str, dict[str, tuple[dict[str, Any], str]]] = {
    "dpo": OF_PAIRS,
    "reward": OF_PAIRS | {
        "model.gguf": (
            {"model": {"gguf": ["q8_0"]}},
            "model.gguf: GGUF is for models that write text",
        ),
        "reference_model": (
            {"reference_model": {"name": "m"}},
            "referenceModel: a reward model is held to no reference",
        ),
    },
    "grpo": {},
    "ppo": {
        "model.lora.dropout": NO_DROPOUT,
        "train.gradient_accumulation_steps": (
            {"train": {"gradient_accumulation_steps": 2}},
            "train.gradientAccumulationSteps: ppo works it out",
        ),
    },
}  # fmt: skip
"""By algorithm, fields and sections that a config with it cannot have, and how that is said."""
for algo, refused in REFUSED.items():
    refused |= {
        other: ({other: {}}, f"{other}: {other} settings need algo: {other}")
        for other in BASE
        if other != algo
    }


def cases(algo: str) -> dict[str, Case]:
    """All fields that a config with this algorithm can have."""
    every = {"algo": Case({}, kind, KINDS[algo])} | SHARED | OWN[algo]
    return {path: case for path, case in every.items() if path not in REFUSED[algo]}


@pytest.mark.parametrize(
    ("algo", "field"), [(algo, field) for algo in BASE for field in cases(algo)]
)
def test_the_field_takes_effect(
    pairs_config: MakeRLConfig,
    tiny_pairs: Path,
    tiny_data: Path,
    narrow_models: dict[str, Path],
    tmp_path: Path,
    algo: str,
    field: str,
) -> None:
    samples = algo in ("grpo", "ppo")
    data = tiny_data if samples else tiny_pairs
    base = {"datasets": [{"name": str(data)}]} | BASE[algo] | (SAMPLED if samples else {})

    def make(**sections: Any) -> UnifiedConfig:
        return pairs_config(algo, **merge(base, sections))

    check(cases(algo)[field], make, {"tmp": tmp_path, "data": data} | narrow_models)


@pytest.mark.parametrize(
    ("algo", "field"), [(algo, field) for algo, refused in REFUSED.items() for field in refused]
)
def test_what_would_have_no_effect_is_refused(algo: str, field: str) -> None:
    needed = SAMPLED if algo in ("grpo", "ppo") else {}
    sections, sentence = REFUSED[algo][field]
    document = {"algo": algo, "model": {"name": "m"}, "datasets": [{"name": "d"}]} | needed
    UnifiedConfig.model_validate(document)
    with pytest.raises(ValidationError) as refused:
        UnifiedConfig.model_validate(merge(document, sections))
    assert str(next(mistakes(refused.value, UnifiedConfig))).startswith(sentence)


@pytest.mark.parametrize("algo", BASE)
def test_every_field_has_its_case(algo: str) -> None:
    """One that is added needs a case for each algorithm, or a sentence that refuses it."""
    tested = {*cases(algo), *(IN_TEST_PPO_CONFIG if algo == "ppo" else ())}
    possible = {
        path
        for path in fields(UnifiedConfig)
        if not any(f"{path}.".startswith(f"{refused}.") for refused in REFUSED[algo])
    }
    assert tested == possible
