"""Reward models, end to end on a tiny model."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    set_seed,
)

from aligntune.api.exit_codes import ExitCode
from aligntune.backends.trl.rl.reward.reward import TRLRewardTrainer
from aligntune.core.backend_factory import create_rl_trainer
from aligntune.core.errors import DataError, LossDivergedError
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

CHAT = [
    {"role": "user", "content": "What is 1 plus 2?"},
    {"role": "assistant", "content": "It is 3."},
]
LONGER = [*CHAT, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes!"}]


def pairs() -> Any:
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "chosen": [{"role": "assistant", "content": row["chosen"]}],
                "rejected": [{"role": "assistant", "content": row["rejected"]}],
            }
            for row in comparisons(96)
        ]
    )


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_losses_are_those_of_a_plain_trl_script_to_the_last_digit(
    pairs_config: MakeRLConfig, tiny_model: Path, tmp_path: Path, tuning: str
) -> None:
    settings = pairs_config(
        "reward",
        model={"tuning": tuning},
        train={"gradient_accumulation_steps": 2},
        reward={"centering_coefficient": 0.01},
    )
    TRLRewardTrainer(settings).train()

    set_seed(42)
    script = trl.RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1),
        args=trl.RewardConfig(
            **plain_arguments(tmp_path / "script", gradient_accumulation_steps=2),
            center_rewards_coefficient=0.01,
        ),
        train_dataset=pairs(),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=LoraConfig(
            task_type="SEQ_CLS", r=16, lora_alpha=32, target_modules="all-linear"
        )
        if tuning == "lora"
        else None,
    )
    script.train()
    check_steps(Path(settings.output_dir), steps_of(script))


def test_the_trajectory_is_the_committed_one(pairs_config: MakeRLConfig) -> None:
    settings = pairs_config("reward", train={"max_steps": 12})
    TRLRewardTrainer(settings).train()
    check_committed(Path(settings.output_dir), "reward-lora")


def test_right_answers_come_to_score_higher_and_the_result_says_so(
    pairs_config: MakeRLConfig, tiny_pairs: Path
) -> None:
    settings = pairs_config(
        "reward", train={"max_steps": 40, "learning_rate": 5e-3}, evaluation={"split_ratio": 0.2}
    )
    trainer = TRLRewardTrainer(settings)
    result = trainer.train()
    after = trainer.evaluate()
    assert after["eval_reward_accuracy"] > 0.9
    assert after["eval_reward_margin"] > 1
    assert {"reward_accuracy", "reward_margin", "mean_reward", "min_reward", "max_reward"} <= set(
        result.metrics
    )
    assert not {"accuracy", "margin"} & set(result.metrics)
    assert (result.step, result.samples) == (40, 2 * 77)  # pairs, twice
    named = trainer.evaluate(str(tiny_pairs / "test.jsonl"))
    assert named["eval_reward_accuracy"] > 0.9
    better, worse = trainer.predict(
        [[CHAT[0], {"role": "assistant", "content": f"It is {n}."}] for n in (3, 77)]
    )
    assert better > worse


def test_equal_scores_count_half(pairs_config: MakeRLConfig) -> None:
    trainer = TRLRewardTrainer(pairs_config("reward", model={"tuning": "full"}))
    trainer.setup_model()
    with torch.no_grad():
        trainer.model.score.weight.zero_()
    assert trainer.evaluate()["train_reward_accuracy"] == 0.5


def test_predict_takes_conversations_texts_and_lists_of_them(pairs_config: MakeRLConfig) -> None:
    trainer = TRLRewardTrainer(pairs_config("reward"))
    one = trainer.predict(CHAT)
    assert isinstance(one, float)
    text = trainer.tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert trainer.predict(text) == one
    scores = trainer.predict([LONGER, CHAT, text, *[CHAT] * 5])
    assert scores == pytest.approx([scores[0], *[one] * 7], abs=1e-6)  # padding changes nothing
    assert scores[0] != pytest.approx(one, abs=1e-4)
    assert trainer.predict([]) == []
    trainer.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match="roles must alternate"):
        trainer.predict(CHAT)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_what_is_saved_loads_with_plain_libraries_and_scores_the_same(
    pairs_config: MakeRLConfig, tiny_model: Path, tmp_path: Path, tuning: str
) -> None:
    """Also a batch, where the model itself does not know its padding."""
    base = tmp_path / "padless"
    shutil.copytree(tiny_model, base)
    settings = json.loads((base / "config.json").read_text()) | {"pad_token_id": None}
    (base / "config.json").write_text(json.dumps(settings))
    trainer = TRLRewardTrainer(pairs_config("reward", model={"name": str(base), "tuning": tuning}))
    trainer.train()
    expected = trainer.predict([CHAT, LONGER])
    folder = trainer.save_model()
    config = AutoConfig.from_pretrained(folder)
    assert (config.num_labels, config.pad_token_id) == (1, trainer.tokenizer.pad_token_id)
    if tuning == "lora":
        bare = AutoModelForSequenceClassification.from_pretrained(base, config=config)
        plain = PeftModel.from_pretrained(bare, folder)
    else:
        plain = AutoModelForSequenceClassification.from_pretrained(folder)
    assert _scores(plain, folder) == pytest.approx(expected, abs=1e-6)
    merged = trainer.save_model(folder.with_name("merged"), merge=True)
    whole = AutoModelForSequenceClassification.from_pretrained(merged, dtype="float32")
    assert _scores(whole, merged) == pytest.approx(expected, abs=0.02)  # 16 bits
    assert "trained with reward modelling for 10 steps" in (folder / "README.md").read_text()


def _scores(model: Any, folder: Path) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in (CHAT, LONGER)]
    batch = tokenizer(
        texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt",
        return_token_type_ids=False,
    )  # fmt: skip
    with torch.inference_mode():
        scores: list[float] = model.eval()(**batch).logits[:, 0].tolist()
    return scores


def test_a_base_in_bf16_has_a_head_that_learns_in_fp32(pairs_config: MakeRLConfig) -> None:
    trainer = TRLRewardTrainer(
        pairs_config("reward", train={"precision": "bf16"}, evaluation={"split_ratio": 0.2})
    )
    before = trainer.predict(CHAT)
    assert math.isfinite(trainer.evaluate()["eval_loss"])
    trainer.train()
    assert trainer.predict(CHAT) != before
    kinds = {name: p.dtype for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert any("score" in name for name in kinds)
    assert set(kinds.values()) == {torch.float32}


def test_a_diverged_loss_ends_the_run_and_keeps_the_last_good_checkpoint(
    pairs_config: MakeRLConfig,
) -> None:
    settings = pairs_config("reward", checkpoint={"every_steps": 2})
    with pytest.raises(LossDivergedError, match="step 4: the loss"):
        TRLRewardTrainer(settings, callbacks=[BreakAt(4)]).train()
    assert [p.name for p in Path(settings.output_dir).glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_sigterm_at_step_7_saves_and_the_resumed_run_repeats_the_uninterrupted_one(
    pairs_config: MakeRLConfig, tuning: str
) -> None:
    whole = pairs_config("reward", model={"tuning": tuning})
    trainer = TRLRewardTrainer(whole)
    trainer.train()
    parts = whole.model_copy(update={"output_dir": whole.output_dir + "-parts"})
    first = TRLRewardTrainer(parts, callbacks=[StopAt(7)]).train()
    assert (first.preempted, first.step) == (True, 7)
    resumed = TRLRewardTrainer(parts)
    assert resumed.train().step == 10
    assert curve(Path(parts.output_dir)) == curve(Path(whole.output_dir))
    assert resumed.predict(CHAT) == trainer.predict(CHAT)


def test_two_ranks_train_as_one_and_stop_together_when_one_is_asked(
    pairs_config: MakeRLConfig, tmp_path: Path
) -> None:
    whole = pairs_config("reward", train={"max_steps": 30, "per_device_batch_size": 2})
    ranks = launch(write_run(tmp_path / "whole.json", whole, processesPerNode=2), tmp_path, 2)
    plain = pairs_config("reward", train={"max_steps": 30}, output_dir=whole.output_dir + "-plain")
    TRLRewardTrainer(plain).train()
    assert [rank.wait() for rank in ranks] == [0, 0]
    expected = losses(Path(plain.output_dir))
    assert losses(Path(whole.output_dir)) == pytest.approx(expected, rel=1e-3)

    parts = whole.model_copy(update={"output_dir": whole.output_dir + "-parts"})
    run = write_run(tmp_path / "parts.json", parts, processesPerNode=2)
    ranks = launch(run, tmp_path, 2)
    wait_for_step(Path(parts.output_dir), 5)
    ranks[1].terminate()
    assert [rank.wait() for rank in ranks] == [ExitCode.PREEMPTED, ExitCode.PREEMPTED]
    assert [rank.wait() for rank in launch(run, tmp_path, 2)] == [0, 0]
    assert curve(Path(parts.output_dir)) == curve(Path(whole.output_dir))


def test_functions_arguments_reach_the_config(tiny_model: Path, tiny_pairs: Path) -> None:
    trainer = create_rl_trainer(
        model_name=str(tiny_model),
        dataset_name=str(tiny_pairs),
        algorithm="reward",
        backend="trl",
        centering_coefficient=0.02,
    )
    assert isinstance(trainer, TRLRewardTrainer)
    assert trainer.config.reward is not None
    assert trainer.config.reward.centering_coefficient == 0.02
    assert trainer.config.learning_rate == 1e-4
