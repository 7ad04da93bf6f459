"""Several processes that share one model: the strategy asked for is the one that trains."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from aligntune.api.exit_codes import ExitCode
from aligntune.core.errors import ConfigError
from aligntune.training.machine import Machine
from aligntune.training.sharding import check_shared, strategy_arguments
from tests.trainers.tiny import (
    DEEPSPEED,
    MakeConfig,
    curve,
    launch,
    losses,
    wait_for_step,
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
