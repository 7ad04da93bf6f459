"""Every field of PPOConfig, KLConfig and the sampling does something: one row each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from pydantic import ValidationError

from aligntune.backends.trl.rl.ppo.algorithm import PPO
from aligntune.backends.trl.rl.ppo.ppo import TRLPPOTrainer
from aligntune.backends.trl.rl.ppo.rollout import Rollout
from aligntune.core.config.errors import mistakes
from aligntune.core.rl.config import GenerationConfig, PPOConfig, UnifiedConfig
from tests.trainers.fields import fields
from tests.trainers.tiny import losses, merge, sums, write_jsonl

BASE: dict[str, Any] = {
    "algo": "ppo",
    "rewards": [{"name": "tests.trainers.stopping_reward:vowels"}],
    "ppo": {"rollout_batch_size": 8, "epochs": 2, "minibatches": 2},
    "generation": {"max_new_tokens": 5},
    "train": {"max_steps": 4, "learning_rate": 1e-2, "per_device_batch_size": 2},
    "logging": {"every_steps": 4},
}


class Run:
    """What a config makes of a run; nothing is done before it is asked for."""

    def __init__(self, config: UnifiedConfig) -> None:
        self.config = config

    @property
    def loop(self) -> PPO:
        loop: Any = TRLPPOTrainer(self.config).ensure_loop()
        return loop  # type: ignore[no-any-return]

    @property
    def rollout(self) -> Rollout:
        return self.loop.roll_out(0)

    @property
    def first_return(self) -> torch.Tensor:
        """What was earned from the first token of each answer on."""
        return self.rollout.return_NT[:, 0]

    @property
    def metrics(self) -> dict[str, float]:
        return TRLPPOTrainer(self.config).train().metrics


class Case(NamedTuple):
    """A value that is not the default, and what it changes; `before` is the run without it."""

    sections: dict[str, Any]
    holds: Callable[[Run, Run], bool]


def ppo(**settings: Any) -> dict[str, Any]:
    return {"ppo": settings}


def kl(**settings: Any) -> dict[str, Any]:
    return {"ppo": {"kl": settings}}


def generation(**settings: Any) -> dict[str, Any]:
    return {"generation": settings}


def last_alone_earns(run: Run) -> bool:
    """At values of zero and no KL, what comes later does not count."""
    rollout = run.rollout
    last = rollout.mask_NT.sum(1, keepdim=True) - 1
    rest = rollout.return_NT.scatter(1, last, 0.0)
    return bool((rest == 0).all() and rollout.return_NT.abs().sum() > 0)


def coefficient_after(run: Run) -> float:
    loop = run.loop
    loop.roll_out(0)
    return loop.controller.coefficient


def loss_without_value(run: Run) -> bool:
    return losses_of(run)[0] == pytest.approx(0, abs=1e-5)


def losses_of(run: Run) -> list[float]:
    TRLPPOTrainer(run.config).train()
    return losses(Path(run.config.output_dir))


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-4)


CASES: dict[str, Case] = {
    "kl.coefficient": Case(
        kl(coefficient=0.5), lambda run, _: run.metrics["kl_coefficient"] == 0.5
    ),
    "kl.target": Case(
        kl(target=1.0), lambda run, _: coefficient_after(run) == pytest.approx(0.05 * 0.99984)
    ),  # the error is -1, clipped to -0.2; 8 answers of 10000
    "kl.horizon": Case(
        kl(target=1.0, horizon=80),
        lambda run, _: coefficient_after(run) == pytest.approx(0.05 * 0.98),
    ),
    "kl_limit": Case(ppo(kl_limit=0.5), lambda run, _: run.loop.guard.limit == 0.5),
    "rollout_batch_size": Case(
        ppo(rollout_batch_size=12), lambda run, _: len(run.rollout.input_ids_NS) == 12
    ),
    "epochs": Case(ppo(epochs=4, minibatches=1), lambda run, _: len(run.rollout.order_EN) == 4),
    "minibatches": Case(
        ppo(epochs=1, minibatches=4),
        lambda run, before: (
            (
                run.loop.args.gradient_accumulation_steps,
                before.loop.args.gradient_accumulation_steps,
            )
            == (1, 2)
        ),
    ),
    "clip_range": Case(
        ppo(clip_range=1e-6),
        lambda run, before: run.metrics["clip_fraction"] > before.metrics["clip_fraction"] + 0.2,
    ),
    "value_clip_range": Case(
        ppo(value_clip_range=1e-6),
        lambda run, before: (
            run.metrics["value_clip_fraction"] > before.metrics["value_clip_fraction"] + 0.2
        ),
    ),
    "value_coefficient": Case(
        ppo(value_coefficient=0.0, minibatches=1, epochs=4),
        lambda run, _: loss_without_value(run),
    ),
    "gamma": Case(ppo(gamma=0.0, kl={"coefficient": 0}), lambda run, _: last_alone_earns(run)),
    "lam": Case(ppo(lam=0.0, kl={"coefficient": 0}), lambda run, _: last_alone_earns(run)),
    "value_model": Case(
        ppo(value_model="separate"),
        lambda run, before: (
            (run.loop.model.value_trunk, before.loop.model.value_trunk)[1] is None
            and run.loop.model.value_trunk is not None
        ),
    ),
    "missing_eos_penalty": Case(
        ppo(missing_eos_penalty=3.0, lam=1.0),
        lambda run, _: close(
            run.first_return, Run(laid_over(run.config, missing_eos_penalty=1.0)).first_return - 2
        ),  # no answer of random weights ends within 5 tokens
    ),
    "whiten_rewards": Case(
        ppo(whiten_rewards=True),
        lambda run, before: not close(run.first_return, before.first_return),
    ),
    "generation.max_new_tokens": Case(
        generation(max_new_tokens=3), lambda run, _: run.rollout.mask_NT.shape[1] == 3
    ),
    "generation.temperature": Case(
        generation(temperature=0.001),
        lambda run, before: run.rollout.logp_NT.mean() > before.rollout.logp_NT.mean() + 2,
    ),
    "generation.top_k": Case(
        generation(top_k=1),
        lambda run, _: torch.equal(
            run.rollout.input_ids_NS,
            Run(with_generation(run.config, temperature=1e-6)).rollout.input_ids_NS,
        ),
    ),
    "generation.top_p": Case(
        generation(top_p=1e-6),
        lambda run, _: torch.equal(
            run.rollout.input_ids_NS,
            Run(with_generation(run.config, temperature=1e-6)).rollout.input_ids_NS,
        ),
    ),
    "generation.vllm": Case(generation(vllm="colocate"), lambda *_: False),
    "generation.vllm_url": Case(
        generation(vllm="server", vllm_url="http://vllm:8000"), lambda *_: False
    ),
}
REFUSED = {"generation.vllm", "generation.vllm_url"}


def laid_over(config: UnifiedConfig, **settings: Any) -> UnifiedConfig:
    document = config.model_dump(by_alias=False, exclude_unset=True)
    return UnifiedConfig.model_validate(merge(document, ppo(**settings)))


def with_generation(config: UnifiedConfig, **settings: Any) -> UnifiedConfig:
    document = config.model_dump(by_alias=False, exclude_unset=True)
    return UnifiedConfig.model_validate(merge(document, generation(**settings)))


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> dict[str, Any]:
    rows = [{"prompt": row["prompt"]} for row in sums(12)]
    data = write_jsonl(tmp_path / "questions.jsonl", rows)
    return BASE | {
        "model": {"name": str(tiny_model)},
        "datasets": [{"name": str(data)}],
        "output_dir": str(tmp_path / "before"),
    }


@pytest.mark.parametrize("field", sorted(CASES.keys() - REFUSED))
def test_the_field_takes_effect(base: dict[str, Any], tmp_path: Path, field: str) -> None:
    case = CASES[field]
    changed = merge(base, case.sections) | {"output_dir": str(tmp_path / "changed")}
    run, before = (Run(UnifiedConfig.model_validate(document)) for document in (changed, base))
    assert case.holds(run, before)


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        (CASES["generation.vllm"].sections, "generation.vllm: ppo generates with transformers"),
        (CASES["generation.vllm_url"].sections, "generation.vllm: ppo generates with"),
        (
            {"train": {"gradient_accumulation_steps": 2}},
            "train.gradientAccumulationSteps: ppo works it out from ppo.rolloutBatchSize",
        ),
        ({"model": {"lora": {"dropout": 0.1}}}, "model.lora.dropout: ppo compares a token before"),
    ],
)
def test_what_would_have_no_effect_is_refused(
    base: dict[str, Any], sections: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        UnifiedConfig.model_validate(merge(base, sections))
    assert str(next(mistakes(refused.value, UnifiedConfig))).startswith(sentence)


def test_every_field_has_its_case() -> None:
    possible = {*fields(PPOConfig), *fields(GenerationConfig, "generation.")}
    assert possible == set(CASES)
