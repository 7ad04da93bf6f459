"""The memory estimate, held to what the tensors of real runs take, and to what people know."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aligntune.cli import app
from aligntune.core.backend_factory import trainer_for
from aligntune.core.memory.estimate import TOLERANCE, Estimate, estimate, fits
from aligntune.core.memory.shape import ModelShape, shape_of
from aligntune.core.rl.config import RLSpec
from aligntune.core.sft.config import SFTSpec
from aligntune.model_config import read_shape
from bench.live_tensors import LiveTensors
from tests.trainers.tiny import MakeConfig, MakeRLConfig, write_jsonl

GIB = 2**30
LLAMA_8B = ModelShape(
    vocabulary=128_256,
    hidden=4096,
    layers=32,
    heads=32,
    key_value_heads=8,
    head_size=128,
    intermediate=14_336,
    tied=False,
    positions=131_072,
)
LONG = "What is one plus one plus one plus one? " * 100


def peak_of(config: Any, method: str) -> tuple[int, int]:
    """Bytes of all tensors at their most: estimated, and in a run."""
    guess = estimate(config, read_shape(config.model), processes=1, gpu=False)
    trainer = trainer_for("trl", method)(config)
    trainer.ensure_loop()  # type: ignore[attr-defined]
    with LiveTensors() as tensors:
        trainer.train()
    return guess.tensors, tensors.peak


def test_the_estimate_of_supervised_tuning_is_what_a_run_takes(
    config: MakeConfig, tmp_path: Path
) -> None:
    data = write_jsonl(tmp_path / "long.jsonl", [{"text": LONG}, {"text": "It is 4."}] * 8)
    guess, found = peak_of(
        config(
            model={"max_length": 192, "tuning": "full"},
            datasets=[{"name": str(data)}],
            train={"max_steps": 2, "per_device_batch_size": 8, "gradient_checkpointing": False},
        ),
        "sft",
    )
    assert guess == pytest.approx(found, rel=TOLERANCE)


def test_the_estimate_of_preference_tuning_is_what_a_run_takes(
    pairs_config: MakeRLConfig, tmp_path: Path
) -> None:
    pairs = [{"prompt": "Sum?", "chosen": LONG, "rejected": "It is 4."}] * 16
    guess, found = peak_of(
        pairs_config(
            "dpo",
            model={"max_length": 192},
            datasets=[{"name": str(write_jsonl(tmp_path / "long.jsonl", pairs))}],
            train={"max_steps": 2, "per_device_batch_size": 4, "gradient_checkpointing": False},
        ),
        "dpo",
    )
    assert guess == pytest.approx(found, rel=TOLERANCE)


def sft(**sections: Any) -> SFTSpec:
    model = {"name": "m", "maxLength": 2048} | sections.pop("model", {})
    return SFTSpec.model_validate({"model": model, "datasets": [{"name": "d"}], **sections})


def on_gpus(config: SFTSpec | RLSpec, processes: int = 1) -> Estimate:
    return estimate(config, LLAMA_8B, processes=processes, gpu=True)


def part(found: Estimate, name: str) -> float:
    return sum(max(part.at.values()) for part in found.parts if part.name == name)


def test_full_tuning_costs_the_sixteen_bytes_per_weight_of_the_zero_paper() -> None:
    found = on_gpus(sft(model={"tuning": "full"}))
    weights = LLAMA_8B.parameters
    static = sum(part(found, name) for name in ("weights", "gradients", "optimizer states"))
    assert static == 16 * weights
    assert fits(found, 80 * GIB) == "too large"


def test_a_quantised_base_takes_the_bits_of_the_qlora_paper() -> None:
    found = on_gpus(sft(model={"quantization": {"bits": 4}}))
    linear = LLAMA_8B.linear_parameters
    in_16_bits = 2 * (LLAMA_8B.parameters - linear)
    assert part(found, "weights") == pytest.approx(linear * 4.127 / 8 + in_16_bits)
    assert fits(found, 24 * GIB) == "fits"


def test_a_model_that_scales_its_logits_needs_memory_for_those_of_the_whole_batch() -> None:
    granite = {
        "model_type": "granite", "vocab_size": 49_152, "hidden_size": 2048, "num_hidden_layers": 40,
        "num_attention_heads": 32, "intermediate_size": 8192, "tie_word_embeddings": True,
    }  # fmt: skip
    scaled, plain = (
        estimate(sft(), shape_of(granite | scaling, "m", 2_500_000_000), processes=1, gpu=True)
        for scaling in ({"logits_scaling": 8.0}, {"logits_scaling": 1.0})
    )
    rows = sft().train.per_device_batch_size
    assert part(scaled, "logits") == 3 * rows * 2048 * 49_152 * 4
    assert part(plain, "logits") == 4 * 256 * 49_152 * 4


@pytest.mark.parametrize("strategy", ["fsdp2", "zero3"])
def test_sharding_divides_what_each_process_keeps(strategy: str) -> None:
    config = sft(model={"tuning": "full"}, distributed={"strategy": strategy})
    two, eight = on_gpus(config, 2), on_gpus(config, 8)
    for name in ("weights", "gradients", "optimizer states"):
        assert part(eight, name) == pytest.approx(part(two, name) / 4)


@pytest.mark.parametrize(
    "less",
    [
        {"train": {"perDeviceBatchSize": 2}},
        {"model": {"maxLength": 1024}},
        {"train": {"optimizer": "adafactor"}},
        {"model": {"tuning": "lora"}},
    ],
)
def test_what_people_try_when_memory_is_short_lowers_the_estimate(less: dict[str, Any]) -> None:
    start = {"model": {"tuning": "full"}, "train": {"gradientCheckpointing": False}}
    changed = {name: start.get(name, {}) | less.get(name, {}) for name in start}
    assert on_gpus(sft(**changed)).total < on_gpus(sft(**start)).total


def test_checkpointing_lowers_what_is_kept() -> None:
    kept, recomputed = (
        on_gpus(sft(train={"gradientCheckpointing": recompute})) for recompute in (False, True)
    )
    assert part(recomputed, "activations") < part(kept, "activations") / 10


def test_a_full_policy_has_a_reference_and_adapters_need_none() -> None:
    pairs = {"algo": "dpo", "datasets": [{"name": "d"}]}
    full, lora = (
        on_gpus(RLSpec.model_validate(pairs | {"model": {"name": "m", "tuning": tuning}}))
        for tuning in ("full", "lora")
    )
    assert part(full, "reference model") == 4 * LLAMA_8B.parameters
    assert part(lora, "reference model") == 0


def test_sampling_needs_a_cache_unless_a_server_does_it() -> None:
    rl = {
        "algo": "grpo",
        "model": {"name": "m", "maxLength": 1024},
        "datasets": [{"name": "d"}],
        "rewards": [{"name": "length"}],
    }
    server = rl | {"generation": {"vllm": "server", "vllmUrl": "http://vllm"}}
    here, there = (on_gpus(RLSpec.model_validate(config)) for config in (rl, server))
    tokens = 32 * 1024
    assert part(here, "KV cache") == 2 * 2 * 32 * 8 * 128 * tokens
    assert "generation" not in there.moments


def test_a_verdict_is_tight_where_the_tolerance_decides() -> None:
    found = on_gpus(sft())
    assert fits(found, round(found.total * 1.3)) == "fits"
    assert fits(found, found.total) == "tight"
    assert fits(found, round(found.total * 0.7)) == "too large"


def test_the_command_shows_a_table_and_the_same_as_json(tiny_model: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        "apiVersion: aligntune.io/v1alpha1\nkind: AlignTuneJob\nmetadata: {name: chat}\n"
        "spec:\n  sft: {model: {name: /in/the/pod}, datasets: [{name: d}]}\n"
        "  storage: {claimName: c}\n"
    )
    asked = ["estimate", str(job), "--model", str(tiny_model), "--gpu-memory", "24"]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0
    assert "optimizer states" in shown.stdout
    assert "in 24 GiB: fits" in shown.stdout
    [document] = json.loads(CliRunner().invoke(app, [*asked, "--output", "json"]).stdout)
    assert document["name"] == "chat"
    assert document["verdict"] == "fits"
    sizes = [part["bytes"].get(document["peak"], 0) for part in document["parts"]]
    assert document["moments"][document["peak"]] == pytest.approx(sum(sizes), abs=len(sizes))
