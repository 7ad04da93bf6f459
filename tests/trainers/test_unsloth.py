"""Unsloth, for real: its four trainers, beside those on TRL with the same settings.

Without a GPU its CPU backend trains, whose arithmetic is that of transformers, PEFT and TRL.
"""

import json
import os
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, T5Config

from aligntune.api.exit_codes import ExitCode
from aligntune.core.backend_factory import task_of, trainer_for
from aligntune.core.errors import ConfigError
from aligntune.core.rl.config import UnifiedConfig
from aligntune.core.sft.config import SFTConfig
from aligntune.training.checkpoints import MANIFEST
from aligntune.training.gguf import LLAMA_CPP
from aligntune.training.requirements import misfits
from tests.trainers.llama_cpp import TOLERANCE as GGUF_TOLERANCE
from tests.trainers.llama_cpp import distance, llama_cpp, logits
from tests.trainers.tiny import (
    UNSLOTH,
    curve,
    losses,
    merge,
    sums,
    wait_for_step,
    write_jsonl,
    write_run,
)
from tests.trainers.unsloth_runs import QUESTION

GPU = torch.cuda.is_available()
TRAINERS = {
    "dpo": "UnslothDPOTrainer",
    "full": "UnslothSFTTrainer",
    "grpo": "UnslothGRPOTrainer",
    "ppo": "UnslothPPOTrainer",
    "sft": "UnslothSFTTrainer",
}
TOLERANCE = 0.05 if GPU else 0.0
"""Of a loss, against TRL's: on CPUs none. On a GPU other kernels round otherwise: not measured."""
START_SECONDS = 240
"""Longest wait for a first step; importing Unsloth takes a quarter of a minute by itself."""


def environment() -> dict[str, str]:
    """A process that sees Unsloth, and trains with it on what is here."""
    on_cpu = {} if GPU else {"UNSLOTH_FORCE_CPU": "1", "UNSLOTH_CPU_BF16": "0"}
    return {**os.environ, "PYTHONPATH": str(UNSLOTH)} | on_cpu


def answer(model: Any, folder: Path) -> str:
    """What a model that plain transformers has loaded says."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    out = model.generate(input_ids=ids, max_new_tokens=12, do_sample=False)
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()


@pytest.fixture(scope="module")
def configs(
    tiny_model: Path, tiny_data: Path, tiny_pairs: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """A run of each method; `full` is SFT of all weights."""
    folder = tmp_path_factory.mktemp("unsloth")
    rows = [{"prompt": row["prompt"], "answer": row["completion"]} for row in sums(20)]
    questions = write_jsonl(folder / "questions.jsonl", rows)
    shared = {
        "model": {"name": str(tiny_model)},
        "train": {
            "max_steps": 40,
            "per_device_batch_size": 4,
            "learning_rate": 1e-2,
            "optimizer": "adamw_torch_fused",  # on CPUs Unsloth takes it for adamw_torch too
        },
        "logging": {"every_steps": 4},
    }
    rewarded = {
        "datasets": [{"name": str(questions)}],
        "rewards": [{"name": "tests.trainers.stopping_reward:vowels"}],
        "generation": {"max_new_tokens": 6},
        "train": {"max_steps": 12},
    }
    rslora = {"lora": {"r": 8, "alpha": 16, "rslora": True}}
    sft = {"datasets": [{"name": str(tiny_data)}]}
    rollouts = {"rollout_batch_size": 8, "epochs": 2, "minibatches": 2}
    groups = {"prompts_per_step": 2, "num_generations": 4, "num_iterations": 2, "beta": 0.05}
    sections: dict[str, dict[str, Any]] = {
        "sft": sft | {"model": rslora},
        "full": sft | {"model": {"tuning": "full"}},
        "dpo": {
            "algo": "dpo",
            "datasets": [{"name": str(tiny_pairs)}],
            "train": {"gradient_checkpointing": True},
        },
        "ppo": rewarded | {"algo": "ppo", "ppo": rollouts},
        "grpo": rewarded | {"algo": "grpo", "grpo": groups},
    }
    made = {}
    for method, over in sections.items():
        kind: Any = UnifiedConfig if "algo" in over else SFTConfig
        document = merge(shared, over) | {"output_dir": str(folder / f"out-{method}")}
        made[method] = kind.model_validate(document)
    return made


@pytest.fixture(scope="module")
def report(configs: dict[str, Any], tiny_model: Path, smol_model: Path) -> dict[str, Any]:
    """How the runs of all methods went, in one process with Unsloth."""
    folder = Path(configs["sft"].output_dir).parent / "runs"
    (folder / "gguf").mkdir(parents=True)
    gguf = {
        "model": {"name": str(smol_model), "gguf": ["q8_0"]},
        "train": {"max_steps": 3},
        "output_dir": str(folder / "gguf" / "out"),
    }
    sft = configs["sft"].model_dump(by_alias=False, exclude_unset=True)
    write_run(folder / "gguf" / "run.json", SFTConfig.model_validate(merge(sft, gguf)))
    for method, config in configs.items():
        write_run(folder / f"{method}.json", config, backend="unsloth")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder / "t5")
    T5Config().save_pretrained(folder / "t5")
    done = subprocess.run(
        [sys.executable, "-m", "tests.trainers.unsloth_runs", str(folder)],
        check=False,
        capture_output=True,
        text=True,
        env=environment() | {LLAMA_CPP: str(llama_cpp())},
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    told: dict[str, Any] = json.loads((folder / "report").read_text())
    return told


@pytest.mark.parametrize("method", TRAINERS)
def test_losses_are_those_of_the_trl_backend(
    method: str, configs: dict[str, Any], report: dict[str, Any]
) -> None:
    assert report["runs"][method]["trainer"] == TRAINERS[method]
    config = configs[method]
    on_trl = config.model_copy(update={"output_dir": f"{config.output_dir}-trl"})
    trainer_for("trl", task_of(on_trl))(on_trl).train()
    ours, theirs = losses(Path(config.output_dir)), losses(Path(on_trl.output_dir))
    assert len(ours) == config.train.max_steps
    assert ours == pytest.approx(theirs, rel=TOLERANCE, abs=0.0)


@pytest.mark.parametrize("method", ["sft", "full", "dpo"])
def test_the_loss_falls(method: str, configs: dict[str, Any], report: dict[str, Any]) -> None:
    assert report["runs"][method]["codes"][0] == 0
    seen = losses(Path(configs[method].output_dir))
    assert sum(seen[-5:]) < 0.95 * sum(seen[:5])


@pytest.mark.parametrize("method", TRAINERS)
def test_a_run_that_sigterm_has_stopped_repeats_the_uninterrupted_one(
    method: str, configs: dict[str, Any], report: dict[str, Any]
) -> None:
    assert report["runs"][method]["codes"] == [0, ExitCode.PREEMPTED, 0]
    whole = Path(configs[method].output_dir)
    assert curve(whole.with_name(f"{whole.name}-parts")) == curve(whole)


@pytest.mark.parametrize("method", [method for method in TRAINERS if method != "full"])
def test_what_is_saved_loads_without_unsloth_and_answers_the_same(
    method: str, configs: dict[str, Any], report: dict[str, Any], tiny_model: Path
) -> None:
    assert "unsloth" not in sys.modules
    folder, told = Path(configs[method].output_dir) / "model", report["runs"][method]
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert answer(PeftModel.from_pretrained(base, folder), folder) == told["answer"]
    adapters = json.loads((folder / "adapter_config.json").read_text())
    assert adapters["base_model_name_or_path"] == str(tiny_model)
    merged = AutoModelForCausalLM.from_pretrained(told["merged"])
    assert merged.dtype == torch.bfloat16
    assert {"README.md", "chat_template.jinja"} <= {path.name for path in folder.iterdir()}


def test_all_weights_are_saved_as_a_plain_model(
    configs: dict[str, Any], report: dict[str, Any]
) -> None:
    folder = Path(configs["full"].output_dir) / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert answer(model, folder) == report["runs"]["full"]["answer"]


def test_adapters_are_saved_as_gguf_too(report: dict[str, Any]) -> None:
    folder = Path(report["gguf"])
    merged = logits(AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload())
    assert distance(folder / "model-q8_0.gguf", merged) < GGUF_TOLERANCE["model-q8_0.gguf"]


def test_rank_stabilised_adapters_and_recomputed_activations_are_what_was_asked_for(
    configs: dict[str, Any], report: dict[str, Any]
) -> None:
    adapters = Path(configs["sft"].output_dir) / "model" / "adapter_config.json"
    assert json.loads(adapters.read_text())["use_rslora"]
    asked = {method: method == "dpo" or GPU for method in TRAINERS}
    assert {method: run["checkpointing"] for method, run in report["runs"].items()} == asked


def test_a_checkpoint_says_which_unsloth_wrote_it(
    configs: dict[str, Any], report: dict[str, Any]
) -> None:
    assert report["status"]["installed"]
    newest = Path(configs["sft"].output_dir) / "checkpoint-40" / MANIFEST
    assert json.loads(newest.read_text())["versions"]["unsloth"] == report["status"]["version"]


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("too long", "model.maxLength 300: the model is made for 256 tokens"),
        ("not a language model", "unsloth cannot train this kind of model (t5); use backend: trl"),
        ("trl afterwards", "unsloth has changed trl in this process; start a new one for trl"),
        *([] if GPU else [("bf16", "train.precision: unsloth does not compute in bf16")]),
    ],
)
def test_what_cannot_be_done_in_its_process_is_a_sentence(
    report: dict[str, Any], case: str, sentence: str
) -> None:
    assert sentence in report["refusals"][case]


def test_auto_takes_unsloth_where_it_is_installed_and_has_a_device(report: dict[str, Any]) -> None:
    assert report["auto"] == "unsloth"
    assert sorted(report["status"]["tasks"]) == ["dpo", "grpo", "ppo", "sft"]


def test_a_pod_that_is_asked_to_stop_exits_143_with_a_checkpoint(
    configs: dict[str, Any], tmp_path: Path
) -> None:
    long = merge(
        configs["sft"].model_dump(by_alias=False, exclude_unset=True),
        {"train": {"max_steps": 100_000}, "output_dir": str(tmp_path / "out")},
    )
    run = write_run(tmp_path / "run.json", SFTConfig.model_validate(long), backend="unsloth")
    pod = subprocess.Popen(
        [sys.executable, "-m", "aligntune", "launch", str(run), "--port", "0"],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_step(tmp_path / "out", 5)
    finally:
        pod.send_signal(signal.SIGTERM)
        code = pod.wait(START_SECONDS)
    assert code == ExitCode.PREEMPTED
    outcome = json.loads((tmp_path / "out" / "attempt-1" / "outcome.json").read_text())
    assert outcome["result"] == "Preempted"
    assert outcome["checkpoint"]["step"] == len(curve(tmp_path / "out"))


def test_a_process_that_has_used_trl_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(UNSLOTH))
    with pytest.raises(ConfigError, match=r"this process has transformers, trl, peft already"):
        trainer_for("unsloth", "sft")
    assert "unsloth" not in sys.modules


def test_without_a_device_it_is_refused_before_anything_is_changed() -> None:
    code = (
        "import sys; from aligntune.core.backend_factory import trainer_for\n"
        "try: trainer_for('unsloth', 'dpo')\n"
        "except ValueError as error: print(error, 'unsloth' in sys.modules)"
    )
    hidden = environment() | {"CUDA_VISIBLE_DEVICES": "", "UNSLOTH_FORCE_CPU": "0"}
    told = subprocess.check_output([sys.executable, "-c", code], env=hidden, text=True)
    assert told.startswith("backend: unsloth needs a GPU: add one, use backend: trl, or set UNSL")
    assert told.endswith("False\n")


def test_the_ranges_of_versions_are_those_of_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(UNSLOTH))
    requirements = metadata.requires("unsloth") or []
    ours = {name: metadata.version(name) for name in ("torch", "transformers", "trl", "datasets")}
    assert misfits(requirements, ours) == []
    assert misfits(requirements, ours | {"trl": "1.16.0", "datasets": "4.4.1"}) == [
        "datasets !=4.0.*,!=4.1.0,!=4.4.*,!=4.5.0,<5.0.0,>=3.4.1 (4.4.1 is installed)",
        "trl !=0.19.0,<=1.15.0,>=0.18.2 (1.16.0 is installed)",
    ]


def test_on_a_gpu_trls_own_trainers_train() -> None:
    """The import as on a GPU. Ours is told of one; Unsloth then takes it without."""
    code = (
        "import os, torch\n"
        "answers = iter([True])\n"
        "torch.cuda.is_available = lambda: next(answers, False)\n"
        "from aligntune.backends.unsloth.library import LEAVES_TRL_ALONE, load\n"
        "import trl.models.utils\n"
        "print(load().DEVICE_TYPE, LEAVES_TRL_ALONE in os.environ)\n"
        "print(trl.SFTTrainer.__module__, trl.DPOTrainer.__module__, trl.GRPOTrainer.__module__)\n"
        "print(trl.models.utils.disable_gradient_checkpointing.__module__)"
    )
    here = environment() | {"UNSLOTH_FORCE_CPU": "0"}
    told = subprocess.check_output([sys.executable, "-c", code], env=here, text=True)
    assert told.splitlines()[-3:] == [
        "cuda False",
        "trl.trainer.sft_trainer trl.trainer.dpo_trainer trl.trainer.grpo_trainer",
        "unsloth.models.rl",
    ]
