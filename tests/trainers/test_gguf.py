"""What is trained, saved as GGUF too, by llama.cpp's own tools."""

from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from aligntune.api.causes import Cause
from aligntune.api.exit_codes import ExitCode
from aligntune.backends.trl.sft.sft import TRLSFTTrainer
from aligntune.training.checkpoints import MANIFEST
from aligntune.training.gguf import CONVERTER, LLAMA_CPP, QUANTISER
from tests.trainers.llama_cpp import TOLERANCE, distance, llama_cpp, logits
from tests.trainers.test_rank import largest_file, run
from tests.trainers.tiny import MakeConfig, write_run

STEPS = {"max_steps": 3, "learning_rate": 1e-3}


@pytest.fixture(scope="session")
def tools() -> Path:
    return llama_cpp()


@pytest.fixture
def llama_cpp_is_here(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LLAMA_CPP, str(tools))


def written(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*.gguf")}


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.usefixtures("llama_cpp_is_here")
def test_adapters_are_saved_as_they_are_and_merged_as_gguf(
    config: MakeConfig, smol_model: Path
) -> None:
    model = {"name": str(smol_model), "gguf": ["q8_0", "q4_k_m"]}
    trainer = TRLSFTTrainer(config(model=model, train=STEPS | {"learning_rate": 1e-2}))
    trainer.train()
    folder = trainer.save_model()
    assert (folder / "adapter_config.json").is_file()
    assert written(folder) == {"model-q8_0.gguf", "model-q4_k_m.gguf"}
    merged = logits(AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload())
    base = logits(AutoModelForCausalLM.from_pretrained(smol_model))
    for file in written(folder):
        near = distance(folder / file, merged)
        assert near < TOLERANCE[file]
        assert distance(folder / file, base) > 2 * near, "the trained one, that is"
    assert leftovers(folder.parent) == []


@pytest.mark.usefixtures("llama_cpp_is_here")
def test_all_weights_are_saved_as_gguf_with_tokenizer_and_chat_template(
    config: MakeConfig, smol_model: Path
) -> None:
    model = {"name": str(smol_model), "tuning": "full", "gguf": ["bf16", "q4_k_m"]}
    trainer = TRLSFTTrainer(config(model=model, train=STEPS))
    trainer.train()
    folder = trainer.save_model()
    assert written(folder) == {"model-bf16.gguf", "model-q4_k_m.gguf"}
    saved = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    for file in written(folder):
        assert distance(folder / file, saved) < TOLERANCE[file]
    about = GGUFReader(folder / "model-q4_k_m.gguf").fields
    assert about["tokenizer.ggml.pre"].contents() == "smollm"
    assert about["tokenizer.chat_template"].contents() == trainer.tokenizer.chat_template


def test_a_machine_without_llama_cpp_is_told_before_anything_is_loaded(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(
        tmp_path / "run.json", config(model={"name": "/models/none", "gguf": ["q8_0"]})
    )
    monkeypatch.delenv(LLAMA_CPP, raising=False)
    code, _, outcome = run(path, monkeypatch)
    assert (code, outcome.reason) == (ExitCode.BAD_CONFIG, Cause.CONFIG_ERROR)
    assert outcome.message.startswith(
        "model.gguf: needs llama.cpp, and the variable LLAMA_CPP is not set: "
    )
    monkeypatch.setenv(LLAMA_CPP, str(tmp_path))
    assert f"LLAMA_CPP names a folder without {CONVERTER}" in run(path, monkeypatch)[2].message


@pytest.mark.usefixtures("llama_cpp_is_here")
def test_a_model_that_llama_cpp_does_not_know_is_refused_before_training(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model's tokenizer is made up by the tests."""
    settings = config(model={"gguf": ["q8_0"]})
    code, _, outcome = run(write_run(tmp_path / "run.json", settings), monkeypatch)
    assert (code, outcome.reason) == (ExitCode.BAD_CONFIG, Cause.CONFIG_ERROR)
    assert outcome.message == (
        "model.gguf: llama.cpp cannot convert this model (NotImplementedError: BPE pre-tokenizer"
        " was not recognized - update get_vocab_base_pre()); remove gguf, or take another model"
    )
    assert not (Path(settings.output_dir) / "metrics.jsonl").exists()


def test_a_failed_conversion_costs_neither_the_model_nor_the_training(
    config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    smol_model: Path,
    tools: Path,
) -> None:
    """The converter is llama.cpp's; the program that quantises is one that fails."""
    for part in (CONVERTER, "conversion", "gguf-py"):
        (tmp_path / part).symlink_to(tools / part)
    (tmp_path / QUANTISER).parent.mkdir(parents=True)
    (tmp_path / QUANTISER).write_text("#!/bin/sh\necho 'these weights are too odd'\nexit 1\n")
    (tmp_path / QUANTISER).chmod(0o755)
    settings = config(model={"name": str(smol_model), "gguf": ["q4_k_m"]}, train=STEPS)
    path, folder = write_run(tmp_path / "run.json", settings), Path(settings.output_dir) / "model"

    monkeypatch.setenv(LLAMA_CPP, str(tmp_path))
    code, _, outcome = run(path, monkeypatch)
    assert (code, outcome.reason) == (ExitCode.BAD_CONFIG, Cause.CONFIG_ERROR)
    assert "(these weights are too odd)" in outcome.message
    assert outcome.message.endswith(f"; the model itself is in {folder}")
    assert (folder / "adapter_config.json").is_file()
    assert leftovers(folder.parent) == []

    trained = folder.parent / "checkpoint-3" / MANIFEST
    before = trained.stat().st_mtime_ns
    other = settings.model_copy(
        update={"model": settings.model.model_copy(update={"gguf": ["q8_0"]})}
    )
    monkeypatch.setenv(LLAMA_CPP, str(tools))
    code, _, _ = run(write_run(path, other), monkeypatch)
    assert (code, written(folder)) == (ExitCode.DONE, {"model-q8_0.gguf"})
    assert trained.stat().st_mtime_ns == before, "nothing is trained twice"


@pytest.mark.usefixtures("llama_cpp_is_here")
def test_a_disk_that_fills_up_in_the_conversion_leaves_the_model_and_nothing_half(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smol_model: Path
) -> None:
    settings = config(model={"name": str(smol_model), "gguf": ["q8_0"]}, train=STEPS)
    path, folder = write_run(tmp_path / "run.json", settings), Path(settings.output_dir) / "model"
    in_16_bits = (smol_model / "model.safetensors").stat().st_size // 2
    with largest_file(in_16_bits + 500_000):  # the merged weights, but no vocabulary beside them
        code, _, outcome = run(path, monkeypatch)
    assert (code, outcome.reason) == (ExitCode.SOFTWARE, Cause.DISK_FULL)
    assert (folder / "adapter_config.json").is_file()
    assert (written(folder), leftovers(folder.parent)) == (set(), [])
