"""Supervised fine-tuning, end to end on a tiny model, in this process."""

import json
import math
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from peft import LoraConfig, PeftModel
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoTokenizer,
    GraniteConfig,
    GraniteForCausalLM,
    set_seed,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from aligntune.backends.trl.sft.sft import TRLSFTTrainer
from aligntune.core.backend_factory import create_sft_trainer
from aligntune.core.errors import LossDivergedError
from aligntune.core.sft.logits import FACTORS
from aligntune.data.pipeline import load_one
from aligntune.data.rendering import IGNORED
from aligntune.training.context import RunContext
from tests.trainers.callbacks import BreakAt, StopAt
from tests.trainers.tiny import MakeConfig, curve, losses, sums, write_jsonl
from tests.trainers.trajectory import check_committed, check_steps, steps_of


def test_loss_falls_and_the_result_says_what_happened(config: MakeConfig) -> None:
    settings = config(model={"tuning": "full"}, train={"max_steps": 40, "learning_rate": 1e-2})
    result = TRLSFTTrainer(settings).train()
    losses_seen = losses(Path(settings.output_dir))
    assert len(losses_seen) == 40
    assert sum(losses_seen[-5:]) < 0.5 * sum(losses_seen[:5])
    assert (result.step, result.total_steps) == (40, 40)
    assert result.train_loss == pytest.approx(math.fsum(losses_seen) / 40)
    assert result.tokens_per_second > 10 * result.samples_per_second > 0
    assert not result.preempted
    assert not result.stopped_early
    assert result.checkpoint_path == Path(settings.output_dir) / "checkpoint-40"


def test_where_the_time_of_a_run_went_is_told(config: MakeConfig) -> None:
    settings = config(
        train={"max_steps": 10},
        evaluation={"split_ratio": 0.1, "every_steps": 5},
        checkpoint={"every_steps": 5},
    )
    told: list[Any] = []
    trainer = TRLSFTTrainer(settings, RunContext(report=told.append))
    began = time.monotonic()
    trainer.train()
    trainer.save_model()
    seconds = time.monotonic() - began
    spent = told[-1].durations
    counts = {name: duration.count for name, duration in spent}
    assert counts == {
        "loading": 2,  # the model, then the data
        "step": 10,
        "data_wait": 10,
        "generation": 0,
        "evaluation": 2,
        "checkpoint": 2,
        "saving": 1,
    }
    between = spent.loading, spent.step, spent.evaluation, spent.checkpoint, spent.saving
    assert all(duration.seconds > 0 for duration in between)
    assert sum(duration.seconds for duration in between) < seconds
    assert 0 < spent.data_wait.seconds < spent.step.seconds


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_losses_are_those_of_a_plain_trl_script_to_the_last_digit(
    config: MakeConfig, tiny_model: Path, tmp_path: Path, tuning: str
) -> None:
    settings = config(model={"tuning": tuning}, train={"gradient_accumulation_steps": 2})
    TRLSFTTrainer(settings).train()

    set_seed(42)
    script = trl.SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model),
        args=trl.SFTConfig(
            output_dir=str(tmp_path / "script"),
            max_steps=10,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            learning_rate=1e-3,
            optim="adamw_torch",
            logging_steps=1,
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            report_to="none",
        ),
        train_dataset=_conversations(),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"
        )
        if tuning == "lora"
        else None,
    )
    script.train()
    check_steps(Path(settings.output_dir), steps_of(script))


@pytest.fixture
def scaled_model(tiny_model: Path, tmp_path: Path) -> Path:
    """A random Granite, whose logits are divided by a number."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    torch.manual_seed(0)
    shape = GraniteConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
        logits_scaling=8.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    GraniteForCausalLM(shape).save_pretrained(tmp_path / "granite")
    tokenizer.save_pretrained(tmp_path / "granite")
    return tmp_path / "granite"


def test_the_loss_of_a_model_that_scales_its_logits_is_that_of_its_own_logits(
    config: MakeConfig, scaled_model: Path, tiny_data: Path
) -> None:
    trainer = TRLSFTTrainer(config(model={"name": str(scaled_model)}))
    measured = trainer.evaluate(str(tiny_data))["eval_loss"]
    assert measured == pytest.approx(nats_per_token(trainer, scaled_model, tiny_data), rel=1e-4)


def nats_per_token(trainer: TRLSFTTrainer, model_folder: Path, data: Path) -> float:
    """The loss of a plain model on rows as the trainer encodes them, one at a time."""
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    total, tokens = 0.0, 0
    for row in load_one(str(data), trainer.config, trainer.make_encoder()):
        labels = torch.tensor(row["labels"][1:])
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        tokens += int((labels != IGNORED).sum())
    return total / tokens


KNOWN_OR_HARMLESS = {
    "attn_logit_softcapping",
    "chunk_size_lm_head",
    "final_logit_softcapping",
    "lm_head_bias",
    "logit_scale",
    "moe_router_logit_softcapping",
    "num_logits_to_keep",
    "output_router_logits",
}
"""Settings that TRL's chunked loss applies itself, or that change no logit."""


def test_what_transformers_models_do_to_their_logits_is_known() -> None:
    kinds = CONFIG_MAPPING.keys() & MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys()
    assert len(kinds) > 100
    settings = {name for kind in kinds for name in dir(CONFIG_MAPPING[kind])}
    factors = {name for name in settings if re.search("logit|lm_head", name)}
    assert factors - KNOWN_OR_HARMLESS == set(FACTORS)


def _conversations() -> Any:
    from datasets import Dataset

    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completion": [{"role": "assistant", "content": row["completion"]}],
            }
            for row in sums(96)
        ]
    )


def test_the_trajectory_is_the_committed_one(config: MakeConfig) -> None:
    settings = config(train={"max_steps": 12})
    TRLSFTTrainer(settings).train()
    check_committed(Path(settings.output_dir), "sft-lora")


def test_accumulated_batches_train_like_one_large_batch(config: MakeConfig) -> None:
    whole = config(train={"per_device_batch_size": 8}, output_dir=config().output_dir + "-whole")
    TRLSFTTrainer(whole).train()
    parts = config(train={"per_device_batch_size": 2, "gradient_accumulation_steps": 4})
    TRLSFTTrainer(parts).train()
    expected = losses(Path(whole.output_dir))
    assert losses(Path(parts.output_dir)) == pytest.approx(expected, rel=1e-4)


def test_what_is_saved_loads_with_plain_peft_and_answers_the_same(
    config: MakeConfig, tiny_model: Path
) -> None:
    trainer = TRLSFTTrainer(config(train={"max_steps": 30, "learning_rate": 1e-2}))
    before = trainer.predict("What is 1 plus 2?", max_new_tokens=12)
    trainer.train()
    answer = trainer.predict("What is 1 plus 2?", max_new_tokens=12)
    assert answer != before
    folder = trainer.save_model()

    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert _ask(PeftModel.from_pretrained(base, folder), tokenizer) == answer
    merged = trainer.save_model(folder.with_name("merged"), merge=True)
    assert (merged / "config.json").is_file()
    assert _ask(AutoModelForCausalLM.from_pretrained(merged), tokenizer).startswith("It")

    names = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "generation_config.json", "chat_template.jinja"} <= names
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.rglob("*"))
    card = (folder / "README.md").read_text()
    assert all(word in card for word in (str(tiny_model), "prompt-completion", "| loss |", "torch"))


def _ask(model: Any, tokenizer: Any) -> str:
    chat = [{"role": "user", "content": "What is 1 plus 2?"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    out = model.generate(input_ids=ids, max_new_tokens=12, do_sample=False)
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()


def test_predict_takes_texts_lists_and_conversations(config: MakeConfig) -> None:
    trainer = TRLSFTTrainer(config())
    one = trainer.predict("What is 1 plus 2?", max_new_tokens=4)
    conversation = [{"role": "user", "content": "What is 1 plus 2?"}]
    assert trainer.predict(conversation, max_new_tokens=4) == one
    several = trainer.predict(["Hi", "What is 1 plus 2?"], max_new_tokens=4)
    assert len(several) == 2
    assert several[1] == one  # padding on the left changes nothing
    torch.manual_seed(0)
    assert isinstance(
        trainer.predict("Hi", max_new_tokens=4, do_sample=True, temperature=2.0, top_p=0.9), str
    )


def test_a_long_list_is_answered_in_the_batches_of_evaluation(config: MakeConfig) -> None:
    trainer = TRLSFTTrainer(config(evaluation={"per_device_batch_size": 2}))
    trainer.setup_model()
    sizes: list[int] = []
    generate = trainer.model.generate

    def counted(input_ids: torch.Tensor, **more: Any) -> Any:
        sizes.append(len(input_ids))
        return generate(input_ids=input_ids, **more)

    trainer.model.generate = counted
    questions = [f"What is {number} plus 2?" for number in range(5)]
    answers = trainer.predict(questions, max_new_tokens=4)
    assert sizes == [2, 2, 1]
    assert answers == [trainer.predict(question, max_new_tokens=4) for question in questions]


def test_evaluation_measures_what_is_held_out_or_named(config: MakeConfig, tiny_data: Path) -> None:
    run = TRLSFTTrainer(config(evaluation={"split_ratio": 0.25}))
    held_out = run.evaluate()
    other = run.evaluate(str(tiny_data / "test.jsonl"))
    assert other.keys() == held_out.keys()
    assert other != held_out
    assert run.state.best_metric == held_out["eval_loss"]
    assert dict(run.progress.metrics) == held_out
    assert held_out["eval_perplexity"] == pytest.approx(math.exp(held_out["eval_loss"]))
    trainer = TRLSFTTrainer(config())
    assert "train_loss" in trainer.evaluate()  # nothing is held out
    assert "eval_loss" in trainer.evaluate(str(tiny_data / "test.jsonl"))


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_each_token_that_is_held_out_counts_alike_in_whatever_batch(
    config: MakeConfig, tiny_model: Path, tmp_path: Path, batch: int
) -> None:
    answers = ["A", " ".join(map(str, range(12))), "A", "A", "It is 12."]
    rows = [{"prompt": "Hi", "completion": answer} for answer in answers]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    trainer = TRLSFTTrainer(config(evaluation={"per_device_batch_size": batch}))
    measured = trainer.evaluate(str(data))
    nats = nats_per_token(trainer, tiny_model, data)
    assert measured["eval_loss"] == pytest.approx(nats, rel=1e-4)
    assert measured["eval_perplexity"] == pytest.approx(math.exp(nats), rel=1e-3)


def test_samples_are_counted_where_they_lie_end_to_end(config: MakeConfig) -> None:
    settings = config(train={"padding_free": True, "max_steps": 2, "per_device_batch_size": 4})
    trainer = TRLSFTTrainer(settings)
    trainer.train()
    assert trainer.progress.samples == 2 * 4


@pytest.mark.parametrize(("every_steps", "steps"), [(None, [10]), (4, [4, 8, 10, 10])])
def test_every_evaluation_is_measured_with_its_perplexity(
    config: MakeConfig, every_steps: int | None, steps: list[int]
) -> None:
    settings = config(evaluation={"split_ratio": 0.25, "every_steps": every_steps})
    trainer = TRLSFTTrainer(settings)
    trainer.train()
    last = trainer.evaluate()
    lines = (Path(settings.output_dir) / "measured.jsonl").read_text().splitlines()
    seen = [line for line in map(json.loads, lines) if "evalLoss" in line]
    assert [line["step"] for line in seen] == steps
    assert seen[-1]["evalLoss"] == last["eval_loss"]
    for line in seen:
        assert line["evalPerplexity"] == pytest.approx(math.exp(line["evalLoss"]))


def test_a_diverged_loss_ends_the_run_and_keeps_the_last_good_checkpoint(
    config: MakeConfig,
) -> None:
    settings = config(checkpoint={"every_steps": 2})
    trainer = TRLSFTTrainer(settings, callbacks=[BreakAt(6)])
    with pytest.raises(LossDivergedError, match="step 6: the loss"):
        trainer.train()
    folder = Path(settings.output_dir)
    assert sorted(p.name for p in folder.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    assert len(losses(folder)) == 5


def test_the_best_model_is_kept_and_training_stops_when_it_gets_no_better(
    config: MakeConfig,
) -> None:
    settings = config(
        model={"tuning": "full"},
        train={"max_steps": 60, "learning_rate": 0.3, "lr_scheduler": "constant"},
        evaluation={
            "split_ratio": 0.2,
            "every_steps": 2,
            "early_stopping_patience": 3,
            "keep_best": True,
        },
        checkpoint={"every_steps": 100, "keep": 1},
    )
    trainer = TRLSFTTrainer(settings)
    result = trainer.train()
    assert result.stopped_early
    assert result.step < 60
    assert trainer.evaluate()["eval_loss"] == pytest.approx(result.best_metric)


def test_functions_arguments_reach_the_config(tiny_model: Path, tiny_data: Path) -> None:
    trainer = create_sft_trainer(
        model_name=str(tiny_model),
        dataset_name=str(tiny_data),
        backend="trl",
        num_epochs=2,
        lora_r=4,
    )
    assert (trainer.config.train.epochs, trainer.config.model.lora.r) == (2, 4)


def test_sigterm_at_step_7_saves_and_the_resumed_run_repeats_the_uninterrupted_one(
    config: MakeConfig,
) -> None:
    whole = config(model={"lora": {"dropout": 0.1}})
    TRLSFTTrainer(whole).train()
    parts = whole.model_copy(update={"output_dir": whole.output_dir + "-parts"})
    first = TRLSFTTrainer(parts, callbacks=[StopAt(7)]).train()
    assert (first.preempted, first.step) == (True, 7)
    assert first.checkpoint_path == Path(parts.output_dir) / "checkpoint-7"
    second = TRLSFTTrainer(parts).train()
    assert (second.preempted, second.step) == (False, 10)
    assert curve(Path(parts.output_dir)) == curve(Path(whole.output_dir))
    assert second.train_loss == math.fsum(losses(Path(whole.output_dir))) / 10
