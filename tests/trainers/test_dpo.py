"""Direct preference optimisation, end to end on a tiny model."""

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import trl
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    TrainerCallback,
    set_seed,
)

from aligntune.api.exit_codes import ExitCode
from aligntune.backends.trl.rl.dpo.dpo import (
    TRLDPOTrainer,
    trl_arguments,
)
from aligntune.backends.trl.rl.pairs import wins
from aligntune.core.backend_factory import create_rl_trainer
from aligntune.core.config.model import ModelConfig, ModelRef
from aligntune.core.errors import ConfigError, LossDivergedError, ModelNotFoundError
from aligntune.core.rl.config import DPOLoss, UnifiedConfig
from aligntune.training.reference import reference_arguments
from tests.trainers.callbacks import BreakAt, StopAt
from tests.trainers.tiny import (
    MakeRLConfig,
    comparisons,
    curve,
    launch,
    losses,
    plain_arguments,
    wait_for_step,
    write_run,
)
from tests.trainers.trajectory import check_committed, check_steps, steps_of


@pytest.fixture(scope="session")
def other_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with other weights."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    folder = tmp_path_factory.mktemp("models") / "other"
    model.save_pretrained(folder)
    return folder


def conversations(rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return Dataset.from_list(
        [
            {name: [{"role": roles[name], "content": text}] for name, text in row.items()}
            for row in rows
        ]
    )


def script(
    model: Path, folder: Path, tuning: str, reference: Path | None = None, **arguments: Any
) -> list[dict[str, float]]:
    """What a plain TRL script logs at each step."""
    set_seed(42)
    plain = trl.DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        ref_model=AutoModelForCausalLM.from_pretrained(reference) if reference else None,
        args=trl.DPOConfig(**plain_arguments(folder, **arguments)),
        train_dataset=conversations(comparisons(96)),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"
        )
        if tuning == "lora"
        else None,
    )
    plain.train()
    return steps_of(plain)


class Logged(TrainerCallback):
    """Remembers what TRL measures at each step."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "grad_norm" in logs:
            self.lines.append(dict(logs))


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("way", ["the model itself", "another model", "precomputed"])
def test_losses_are_those_of_a_plain_trl_script_to_the_last_digit(
    pairs_config: MakeRLConfig,
    tiny_model: Path,
    other_model: Path,
    tmp_path: Path,
    tuning: str,
    way: str,
) -> None:
    reference = other_model if way == "another model" else None
    settings = pairs_config(
        "dpo",
        model={"tuning": tuning},
        train={"gradient_accumulation_steps": 2},
        dpo={"precompute_reference": way == "precomputed"},
        reference_model={"name": str(reference)} if reference else None,
        logging={"every_steps": 1},
    )
    logged = Logged()
    TRLDPOTrainer(settings, callbacks=[logged]).train()
    theirs = script(
        tiny_model,
        tmp_path / "script",
        tuning,
        reference,
        gradient_accumulation_steps=2,
        precompute_ref_log_probs=way == "precomputed",
    )
    check_steps(Path(settings.output_dir), theirs)
    for name in ("rewards/margins", "rewards/chosen", "logps/rejected", "entropy"):
        assert [line[name] for line in logged.lines] == [line[name] for line in theirs]
    first, *rest = zip(logged.lines, theirs, strict=True)
    assert all(line["rewards/accuracies"] == other["rewards/accuracies"] for line, other in rest)
    if reference is None:
        assert first[0]["rewards/accuracies"] == 0.5  # all are ties; TRL says 0
        assert losses(Path(settings.output_dir))[0] == pytest.approx(math.log(2))


@pytest.mark.parametrize("loss", get_args(DPOLoss))
def test_every_loss_takes_the_step_that_it_takes_in_trl(
    pairs_config: MakeRLConfig, tiny_model: Path, tmp_path: Path, loss: str
) -> None:
    smoothing = {"exo_pair": 0.01, "robust": 0.1, "aot": 0.1, "aot_unpaired": 0.1}.get(loss, 0.0)
    settings = pairs_config(
        "dpo", train={"max_steps": 3}, dpo={"loss": loss, "label_smoothing": smoothing, "beta": 0.3}
    )
    TRLDPOTrainer(settings).train()
    theirs = script(
        tiny_model,
        tmp_path / "script",
        "lora",
        max_steps=3,
        loss_type=[loss],
        label_smoothing=smoothing,
        beta=0.3,
    )
    ours = curve(Path(settings.output_dir))
    assert [line["loss"] for line in ours] == [line["loss"] for line in theirs]
    assert all(line["gradNorm"] > 0 for line in ours)


def test_the_trajectory_is_the_committed_one(pairs_config: MakeRLConfig) -> None:
    settings = pairs_config("dpo", train={"max_steps": 12})
    TRLDPOTrainer(settings).train()
    check_committed(Path(settings.output_dir), "dpo-lora")


def test_the_right_answers_win_and_the_result_says_so(pairs_config: MakeRLConfig) -> None:
    settings = pairs_config(
        "dpo", train={"max_steps": 40, "learning_rate": 5e-3}, evaluation={"split_ratio": 0.2}
    )
    trainer = TRLDPOTrainer(settings)
    before = trainer.evaluate()
    assert before["eval_reward_accuracy"] == 0.5
    assert before["eval_reward_margin"] == 0
    result = trainer.train()
    after = trainer.evaluate()
    assert after["eval_reward_accuracy"] > 0.9
    assert after["eval_reward_margin"] > 0.2
    assert after["eval_loss"] < before["eval_loss"] == pytest.approx(math.log(2))
    assert {"reward_accuracy", "reward_margin", "chosen_logp", "rejected_logp", "entropy"} <= set(
        result.metrics
    )
    assert (result.step, result.samples) == (40, 2 * 77)  # pairs, twice
    answer = trainer.predict("What is 1 plus 2?", max_new_tokens=4)
    assert isinstance(answer, str)


def test_a_tie_counts_half() -> None:
    assert wins(torch.tensor([0.2, 0.0, -0.0, -3.0])).tolist() == [1, 0.5, 0.5, 0]


def test_precomputing_changes_nothing_but_when_it_is_computed(pairs_config: MakeRLConfig) -> None:
    evaluation = {"split_ratio": 0.2, "every_steps": 5}
    live = pairs_config("dpo", model={"tuning": "full"}, evaluation=evaluation)
    known = TRLDPOTrainer(live)
    known.train()
    early = pairs_config(
        "dpo",
        model={"tuning": "full"},
        evaluation=evaluation,
        dpo={"precompute_reference": True},
        output_dir=live.output_dir + "-early",
    )
    precomputed = TRLDPOTrainer(early)
    precomputed.setup()
    loop: Any = precomputed.loop
    assert "ref_chosen_logps" in loop.train_dataset.column_names
    precomputed.train()
    assert loop.ref_model is None
    expected = losses(Path(live.output_dir))
    assert losses(Path(early.output_dir)) == pytest.approx(expected, rel=1e-4)
    assert precomputed.evaluate() == pytest.approx(known.evaluate(), rel=1e-3, abs=1e-5)


def test_rows_that_come_later_are_measured_against_the_reference_all_the_same(
    pairs_config: MakeRLConfig, tiny_pairs: Path
) -> None:
    """With all weights tuned, precomputed log-probabilities leave no reference behind."""
    test = str(tiny_pairs / "test.jsonl")
    live = pairs_config("dpo", model={"tuning": "full"})
    early = pairs_config(
        "dpo",
        model={"tuning": "full"},
        dpo={"precompute_reference": True},
        output_dir=live.output_dir + "-early",
    )
    measured = []
    for settings in (live, early):
        trainer = TRLDPOTrainer(settings)
        trainer.train()
        assert "train_reward_margin" in trainer.evaluate()
        measured.append(trainer.evaluate(test))
    assert measured[0] == pytest.approx(measured[1], rel=1e-3, abs=1e-5)
    assert measured[0]["eval_reward_margin"] != 0


def test_a_reference_has_a_revision_of_its_own_and_else_the_form_of_the_policy() -> None:
    policy = ModelConfig(name="some/model", revision="v1", attention="eager")
    asked = reference_arguments(policy, ModelRef(name="some/other", revision="v2"), "fp32")
    assert (asked["revision"], asked["attn_implementation"]) == ("v2", "eager")


def test_a_reference_that_cannot_be_is_told_by_its_field(
    pairs_config: MakeRLConfig, tmp_path: Path
) -> None:
    absent = pairs_config("dpo", reference_model={"name": "/models/none"})
    with pytest.raises(
        ModelNotFoundError, match=r"referenceModel\.name '/models/none': there is no"
    ):
        TRLDPOTrainer(absent).train()
    small = GPT2Config(vocab_size=100, n_embd=8, n_layer=1, n_head=1)
    GPT2LMHeadModel(small).save_pretrained(tmp_path / "small")
    other = pairs_config("dpo", reference_model={"name": str(tmp_path / "small")})
    with pytest.raises(ConfigError, match="knows 100 tokens and the model"):
        TRLDPOTrainer(other).train()


def test_dropout_is_off_in_policy_and_reference(
    pairs_config: MakeRLConfig, tiny_model: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    shape = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64)
    GPT2LMHeadModel(shape).save_pretrained(tmp_path / "gpt2")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "gpt2")
    settings = pairs_config("dpo", model={"name": str(tmp_path / "gpt2"), "tuning": "full"})
    loop: Any = TRLDPOTrainer(settings).ensure_loop()
    for model in (loop.model, loop.ref_model):
        rates = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
        assert rates == {0}
    loop.train()
    assert losses(Path(settings.output_dir))[0] == pytest.approx(math.log(2))


def test_what_is_saved_loads_with_plain_peft_and_prefers_the_same(
    pairs_config: MakeRLConfig, tiny_model: Path
) -> None:
    trainer = TRLDPOTrainer(pairs_config("dpo", train={"max_steps": 20, "learning_rate": 5e-3}))
    trainer.train()
    folder = trainer.save_model()
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), folder)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        expected = trainer.model(ids).logits
        assert torch.equal(tuned(ids).logits, expected)
        merged = AutoModelForCausalLM.from_pretrained(
            trainer.save_model(folder.with_name("merged"), merge=True), dtype="float32"
        )
        assert torch.allclose(merged(ids).logits, expected, atol=0.05)  # 16 bits
    assert "trained with DPO for 20 steps" in (folder / "README.md").read_text()


def test_a_run_stops_and_keeps_the_best_by_the_evaluations_loss(pairs_config: MakeRLConfig) -> None:
    settings = pairs_config(
        "dpo",
        model={"tuning": "full"},
        train={"max_steps": 60, "learning_rate": 0.3, "lr_scheduler": "constant"},
        evaluation={
            "split_ratio": 0.2, "every_steps": 2, "early_stopping_patience": 3, "keep_best": True
        },
    )  # fmt: skip
    trainer = TRLDPOTrainer(settings)
    result = trainer.train()
    assert result.stopped_early
    assert result.step < 60
    assert trainer.evaluate()["eval_loss"] == pytest.approx(result.best_metric)


def test_a_diverged_loss_ends_the_run_and_keeps_the_last_good_checkpoint(
    pairs_config: MakeRLConfig,
) -> None:
    settings = pairs_config("dpo", checkpoint={"every_steps": 2})
    with pytest.raises(LossDivergedError, match="step 4: the loss"):
        TRLDPOTrainer(settings, callbacks=[BreakAt(4)]).train()
    folder = Path(settings.output_dir)
    assert [p.name for p in folder.glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.parametrize("early", [False, True], ids=["live", "precomputed"])
def test_sigterm_at_step_7_saves_and_the_resumed_run_repeats_the_uninterrupted_one(
    pairs_config: MakeRLConfig, early: bool
) -> None:
    whole = pairs_config("dpo", model={"tuning": "full"}, dpo={"precompute_reference": early})
    TRLDPOTrainer(whole).train()
    parts = whole.model_copy(update={"output_dir": whole.output_dir + "-parts"})
    first = TRLDPOTrainer(parts, callbacks=[StopAt(7)]).train()
    assert (first.preempted, first.step) == (True, 7)
    second = TRLDPOTrainer(parts).train()
    assert (second.preempted, second.step, second.samples) == (False, 10, 40)
    assert curve(Path(parts.output_dir)) == curve(Path(whole.output_dir))


def test_two_ranks_train_as_one_and_stop_together_when_one_is_asked(
    pairs_config: MakeRLConfig, tmp_path: Path
) -> None:
    whole = pairs_config("dpo", train={"max_steps": 40, "per_device_batch_size": 2})
    complete = write_run(tmp_path / "whole.json", whole, processesPerNode=2)
    ranks = launch(complete, tmp_path, 2)
    plain = pairs_config("dpo", train={"max_steps": 40}, output_dir=whole.output_dir + "-plain")
    TRLDPOTrainer(plain).train()
    assert [rank.wait() for rank in ranks] == [0, 0]
    expected = losses(Path(plain.output_dir))
    assert losses(Path(whole.output_dir)) == pytest.approx(expected, rel=1e-3)

    parts = whole.model_copy(update={"output_dir": whole.output_dir + "-parts"})
    run = write_run(tmp_path / "parts.json", parts, processesPerNode=2)
    ranks = launch(run, tmp_path, 2)
    wait_for_step(Path(parts.output_dir), 5)
    ranks[1].terminate()
    assert [rank.wait() for rank in ranks] == [ExitCode.PREEMPTED, ExitCode.PREEMPTED]
    assert 5 <= len(curve(Path(parts.output_dir))) < 40
    assert [rank.wait() for rank in launch(run, tmp_path, 2)] == [0, 0]
    assert curve(Path(parts.output_dir)) == curve(Path(whole.output_dir))


def test_pairs_can_be_streamed(pairs_config: MakeRLConfig, tiny_pairs: Path) -> None:
    source = {"name": str(tiny_pairs), "streaming": True}
    settings = pairs_config("dpo", datasets=[source], train={"max_steps": 3})
    assert TRLDPOTrainer(settings).train().samples == 12


def test_functions_arguments_reach_trl(tiny_model: Path, tiny_pairs: Path) -> None:
    trainer = create_rl_trainer(
        model_name=str(tiny_model),
        dataset_name=str(tiny_pairs),
        algorithm="dpo",
        backend="trl",
        beta=0.3,
        loss="robust",
        label_smoothing=0.2,
        precompute_reference=True,
    )
    assert isinstance(trainer, TRLDPOTrainer)
    arguments = trl_arguments(trainer.config, {"output_dir": "x", "use_cpu": True, "bf16": False})
    assert (arguments.beta, arguments.loss_type) == (0.3, ["robust"])
    assert (arguments.label_smoothing, arguments.precompute_ref_log_probs) == (0.2, True)
    assert arguments.disable_dropout
    assert trainer.config.learning_rate == 5e-6
    full = UnifiedConfig(
        algo="dpo", model={"name": "m", "tuning": "full"}, datasets=[{"name": "d"}]
    )
    assert full.learning_rate == 1e-6
