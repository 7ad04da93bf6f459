"""Several processes that share one model: the strategy asked for is the one that trains."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from aligntune.api.exit_codes import ExitCode
from aligntune.core.errors import ConfigError
from aligntune.core.rl.config import UnifiedConfig
from aligntune.core.sft.config import SFTConfig
from aligntune.training.machine import Machine
from aligntune.training.sharding import check_shared, strategy_arguments
from tests.trainers.tiny import (
    DEEPSPEED,
    MakeConfig,
    MakeRLConfig,
    curve,
    launch,
    losses,
    sums,
    wait_for_step,
    write_jsonl,
    write_run,
)

GPU = Machine(gpu=True, bf16=True)


@pytest.mark.parametrize(
    ("strategy", "tuning"),
    [("fsdp2", "full"), ("fsdp2", "lora"), ("zero2", "lora"), ("zero3", "full")],
)
def test_a_model_sharded_over_two_ranks_trains_resumes_and_saves_like_a_whole_one(
    config: MakeConfig,
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    strategy: str,
    tuning: str,
) -> None:
    """fully_shard and DeepSpeed over gloo: the code that shards on GPUs, without the GPUs."""
    fresh = strategy.startswith("zero")
    if fresh:
        monkeypatch.setenv("PYTHONPATH", str(DEEPSPEED))
    whole = config(model={"tuning": tuning}, train={"max_steps": 30})
    one = write_run(tmp_path / "one.json", whole)
    assert [rank.wait() for rank in launch(one, tmp_path)] == [0]

    def sharded(name: str) -> tuple[Path, Path]:
        parts = config(
            model={"tuning": tuning},
            train={"max_steps": 30, "per_device_batch_size": 2},
            distributed={"strategy": strategy},
            output_dir=f"{whole.output_dir}-{name}",
        )
        run = write_run(tmp_path / f"{name}.json", parts, processesPerNode=2)
        return run, Path(parts.output_dir)

    run, folder = sharded("uninterrupted")
    assert [rank.wait() for rank in launch(run, tmp_path, 2, fresh=fresh)] == [0, 0]
    assert losses(folder) == pytest.approx(losses(Path(whole.output_dir)), rel=1e-3)
    weights = _weights(tiny_model, folder, tuning)
    expected = _weights(tiny_model, Path(whole.output_dir), tuning)
    assert weights.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=1e-4)

    again, stopped = sharded("stopped")
    ranks = launch(again, tmp_path, 2, fresh=fresh)
    wait_for_step(stopped, 7)
    ranks[1].terminate()
    assert [rank.wait() for rank in ranks] == [ExitCode.PREEMPTED, ExitCode.PREEMPTED]
    assert [rank.wait() for rank in launch(again, tmp_path, 2, fresh=fresh)] == [0, 0]
    assert curve(stopped) == curve(folder)


@pytest.mark.parametrize(
    ("algo", "strategy"),
    [("dpo", "fsdp2"), ("reward", "fsdp2"), ("grpo", "zero2"), ("ppo", "zero2")],
)
def test_other_methods_train_sharded_as_with_whole_models(
    pairs_config: MakeRLConfig,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algo: str,
    strategy: str,
) -> None:
    """Two ranks each, so that they sample alike; a run ends where the wrapper is another."""
    sampling = {
        "datasets": [{"name": str(tiny_data)}],
        "rewards": [{"name": "tests.trainers.stopping_reward:vowels"}],
        "generation": {"max_new_tokens": 6},
        algo: {
            "grpo": {"prompts_per_step": 4, "num_generations": 4, "beta": 0.1},
            "ppo": {"rollout_batch_size": 16, "epochs": 2, "minibatches": 1},
        }.get(algo),
    }
    sections = sampling if algo in ("grpo", "ppo") else {"model": {"tuning": "full"}}
    whole, sharded = (
        pairs_config(
            algo,
            **sections,
            train={"max_steps": 4},
            distributed={"strategy": name},
            output_dir=str(tmp_path / name),
        )
        for name in ("ddp", strategy)
    )
    _train_alike(whole, sharded, tmp_path, monkeypatch)


def test_classification_trains_sharded_as_with_whole_models(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row | {"label": row["completion"][-2]} for row in sums(40)]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    whole, sharded = (
        config(
            task="text_classification",
            model={"tuning": "full"},
            datasets=[{"name": str(data), "columns": {"text": "prompt"}}],
            train={"max_steps": 3},
            distributed={"strategy": name},
            output_dir=str(tmp_path / name),
        )
        for name in ("ddp", "fsdp2")
    )
    _train_alike(whole, sharded, tmp_path, monkeypatch)


def _train_alike(
    whole: SFTConfig | UnifiedConfig,
    sharded: SFTConfig | UnifiedConfig,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for settings in (whole, sharded):
        strategy = settings.distributed.strategy
        if strategy == "zero2":
            monkeypatch.setenv("PYTHONPATH", str(DEEPSPEED))
        run = write_run(folder / f"{strategy}.json", settings, processesPerNode=2)
        ranks = launch(run, folder, 2, fresh=strategy == "zero2")
        assert [rank.wait() for rank in ranks] == [0, 0]
    expected = curve(Path(whole.output_dir))
    assert any(line["gradNorm"] for line in expected)
    for ours, theirs in zip(curve(Path(sharded.output_dir)), expected, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3, abs=1e-5)


def _weights(base: Path, output: Path, tuning: str) -> dict[str, torch.Tensor]:
    if tuning == "full":
        model: Any = AutoModelForCausalLM.from_pretrained(output / "model")
    else:
        model = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base), output / "model"
        )
    return dict(model.state_dict())


def test_a_strategy_that_cannot_be_had_is_refused_with_what_would_do() -> None:
    with pytest.raises(ConfigError, match="fsdp2 shares one model among several processes"):
        strategy_arguments("fsdp2", machine=GPU, processes=1)


def test_deepspeed_is_told_its_stage_and_takes_the_rest_from_the_config(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match="zero3: needs the package deepspeed"):
        strategy_arguments("zero3", machine=GPU, processes=2)
    monkeypatch.syspath_prepend(str(DEEPSPEED))
    settings = strategy_arguments("zero3", machine=GPU, processes=2)["deepspeed"]
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["gradient_clipping"] == "auto"


def test_a_model_that_is_wrapped_otherwise_than_asked_for_ends_the_run() -> None:
    plain = torch.nn.Linear(1, 1)
    check_shared("ddp", plain, 1)
    for strategy in ("ddp", "fsdp2", "zero2"):
        with pytest.raises(RuntimeError, match=f"strategy is {strategy}, but .* Linear"):
            check_shared(strategy, plain, 2)  # type: ignore[arg-type]
