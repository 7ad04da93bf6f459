"""Runs that start from what another run has saved, and what they save themselves."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from ruamel.yaml import YAML
from transformers import AutoModelForCausalLM

from aligntune.backends.trl.rl.dpo.dpo import TRLDPOTrainer
from aligntune.backends.trl.rl.reward.reward import TRLRewardTrainer
from aligntune.backends.trl.sft.sft import TRLSFTTrainer
from aligntune.core.errors import ConfigError
from aligntune.training.adapters import as_whole_model
from aligntune.training.context import RunContext
from tests.trainers.tiny import MakeConfig, MakeRLConfig

STEPS = {"max_steps": 4, "learning_rate": 1e-2}


@pytest.fixture
def adapters(config: MakeConfig, tmp_path: Path) -> Path:
    """What an SFT run saves by default."""
    made = config(train=STEPS, output_dir=str(tmp_path / "sft"))
    trainer = TRLSFTTrainer(made)
    trainer.train()
    folder = trainer.save_model()
    assert (folder / "adapter_config.json").is_file()
    return folder


def same(one: Any, other: Any) -> bool:
    theirs = dict(other.named_parameters())
    return all(torch.equal(weight, theirs[name]) for name, weight in one.named_parameters())


def test_adapters_are_merged_once_and_anew_when_they_change(
    adapters: Path, config: MakeConfig
) -> None:
    model = config(model={"name": str(adapters)}).model
    merged = as_whole_model(model, trust_remote_code=False)
    expected = AutoPeftModelForCausalLM.from_pretrained(adapters).merge_and_unload()
    assert same(AutoModelForCausalLM.from_pretrained(merged.name), expected)
    written = Path(merged.name).stat().st_mtime_ns
    assert as_whole_model(model, trust_remote_code=False) == merged
    assert Path(merged.name).stat().st_mtime_ns == written
    (adapters / "adapter_model.safetensors").touch()
    assert as_whole_model(model, trust_remote_code=False).name != merged.name


def test_a_run_that_starts_from_adapters_begins_at_them_and_saves_the_whole_model(
    adapters: Path, config: MakeConfig, tmp_path: Path
) -> None:
    made = config(model={"name": str(adapters)}, train=STEPS, output_dir=str(tmp_path / "next"))
    lineage = {str(adapters): "AlignTuneJob research/chat (1f3c)"}
    trainer = TRLSFTTrainer(made, RunContext("next", lineage=lineage))
    trainer.setup_model()
    begun = AutoPeftModelForCausalLM.from_pretrained(adapters).merge_and_unload()
    assert same(trainer.model, begun)
    trainer.train()
    folder = trainer.save_model()
    saved = AutoModelForCausalLM.from_pretrained(folder)
    assert not (folder / "adapter_config.json").exists()
    assert not same(saved, begun)
    card = (folder / "README.md").read_text()
    assert "LoRA adapters for the model of AlignTuneJob research/chat (1f3c)" in card
    assert "library_name: transformers" in card


def test_adapters_of_a_reward_model_are_refused_as_a_model_that_writes(
    adapters: Path, config: MakeConfig
) -> None:
    file = adapters / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"task_type": "SEQ_CLS"}))
    model = config(model={"name": str(adapters)}).model
    with pytest.raises(
        ConfigError, match=r"model\.name .*: its adapters \(SEQ_CLS\) are for a mod"
    ):
        as_whole_model(model, trust_remote_code=False)


def test_a_reward_model_can_start_from_a_chat_models_adapters(
    adapters: Path, pairs_config: MakeRLConfig, tmp_path: Path
) -> None:
    made = pairs_config(
        algo="reward",
        model={"name": str(adapters)},
        train=STEPS,
        output_dir=str(tmp_path / "judge"),
    )
    assert TRLRewardTrainer(made).train().step == 4


def test_adapters_can_be_the_reference_of_dpo(
    adapters: Path, pairs_config: MakeRLConfig, tmp_path: Path
) -> None:
    made = pairs_config(
        algo="dpo",
        reference_model={"name": str(adapters)},
        train=STEPS,
        output_dir=str(tmp_path / "dpo"),
    )
    trainer = TRLDPOTrainer(made)
    trainer.setup()
    tokens = torch.arange(5, 25).unsqueeze(0)
    merged = AutoPeftModelForCausalLM.from_pretrained(adapters).merge_and_unload()
    reference = trainer.ensure_loop().ref_model
    torch.testing.assert_close(
        reference(input_ids=tokens).logits, merged(input_ids=tokens).logits, atol=1e-4, rtol=1e-4
    )


def test_merge_on_save_leaves_whole_weights_that_answer_as_the_adapters_do(
    config: MakeConfig,
) -> None:
    made = config(model={"lora": {"merge_on_save": True}}, train=STEPS | {"precision": "fp32"})
    trainer = TRLSFTTrainer(made)
    trainer.train()
    saved = AutoModelForCausalLM.from_pretrained(trainer.save_model())
    tokens = torch.arange(5, 25).unsqueeze(0)
    ours = trainer.model.eval()(input_ids=tokens).logits
    torch.testing.assert_close(saved(input_ids=tokens).logits.float(), ours, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_adapters_on_one_side_of_tied_embeddings_are_merged_into_that_side_alone(
    target: str, config: MakeConfig, tmp_path: Path
) -> None:
    made = config(
        model={"lora": {"target_modules": [target]}}, train=STEPS | {"learning_rate": 0.1}
    )
    trainer = TRLSFTTrainer(made)
    trainer.train()
    tokens = torch.arange(5, 25).unsqueeze(0)
    trained = trainer.model.eval()(input_ids=tokens).logits
    base = AutoModelForCausalLM.from_pretrained(made.model.name)(input_ids=tokens).logits
    moved = (trained - base).abs().max()
    adapters = made.model.model_copy(update={"name": str(trainer.save_model())})
    for whole in (
        trainer.save_model(tmp_path / "merged", merge=True),
        as_whole_model(adapters, trust_remote_code=False).name,
    ):
        saved = AutoModelForCausalLM.from_pretrained(whole)(input_ids=tokens).logits
        assert (saved.float() - trained).abs().max() < 0.1 * moved


def test_a_merge_into_a_base_that_comes_quantised_is_refused_before_the_run(
    config: MakeConfig,
) -> None:
    class Quantised(TRLSFTTrainer):
        """Its base has what transformers leaves on one that bitsandbytes has saved."""

        def load_model(self, config: Any, computed_in: Any) -> Any:
            model = super().load_model(config, computed_in)
            model.hf_quantizer = SimpleNamespace(pre_quantized=True)
            return model

    sentence = "its weights are quantised already, and adapters cannot be merged into those"
    with pytest.raises(ConfigError, match=sentence):
        Quantised(config(model={"lora": {"merge_on_save": True}})).setup()


def test_a_model_is_merged_into_a_place_that_is_not_there_yet(
    config: MakeConfig, tmp_path: Path
) -> None:
    trainer = TRLSFTTrainer(config())
    trainer.ensure_loop()
    folder = trainer.save_model(tmp_path / "new" / "model", merge=True)
    assert (folder / "config.json").is_file()


def test_a_job_that_only_a_cluster_knows_is_a_sentence(config: MakeConfig) -> None:
    made = config(model={"name": "", "from_job": "chat"})
    with pytest.raises(ConfigError, match=r"model\.fromJob: only the operator"):
        TRLSFTTrainer(made).setup()


@pytest.fixture
def aligntune_run(
    tiny_data: Path, tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`aligntune run` on a file with these manifests."""

    def run(*specs: tuple[str, dict[str, Any]]) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "jobs.yaml"
        manifests = [
            {
                "apiVersion": "aligntune.io/v1alpha1",
                "kind": "AlignTuneJob",
                "metadata": {"name": name},
                "spec": {
                    "sft": {
                        "model": copy.deepcopy(model),
                        "datasets": [{"name": str(tiny_data)}],
                        "train": {"maxSteps": 2},
                    },
                    "runtime": {"gpusPerNode": 0},
                    "storage": {"claimName": "output"},
                },
            }
            for name, model in specs
        ]
        with file.open("w") as out:
            YAML().dump_all(manifests, out)
        return subprocess.run(
            [sys.executable, "-m", "aligntune", "run", str(file), "--output", tmp_path / "runs"],
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_the_stages_in_a_file_run_one_after_the_other(
    aligntune_run: Callable[..., subprocess.CompletedProcess[str]],
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    done = aligntune_run(("chat", {"name": str(tiny_model)}), ("more", {"fromJob": "chat"}))
    assert done.returncode == 0, done.stdout + done.stderr
    card = (tmp_path / "runs" / "more" / "model" / "README.md").read_text()
    assert "the model of AlignTuneJob" in card


def test_a_stage_whose_first_part_is_missing_says_what_to_run(
    aligntune_run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = aligntune_run(("more", {"fromJob": "chat"}))
    assert done.returncode == 78
    assert "spec.sft.model.fromJob" in done.stderr
    assert "run chat first" in done.stderr
    assert "Traceback" not in done.stderr
