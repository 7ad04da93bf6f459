"""Scoring completions with a model that has a tokenizer and a template of its own."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from aligntune.core.config.model import ModelRef
from aligntune.core.errors import ConfigError, DataError
from aligntune.core.rl.config import UnifiedConfig
from aligntune.rewards.model import RewardModel
from aligntune.rewards.registry import load_rewards
from aligntune.rewards.scoring import Batch, score

WORDS = ["<pad>", "<eos>", "<unk>", "User", "Assistant", ":", "is", "it", "five", "six", "?"]
ASKED = [{"role": "user", "content": "is it five ?"}]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random reward model that reads words, and has no chat template."""
    return write_judge(tmp_path_factory.mktemp("judge"), labels=1)


def write_judge(folder: Path, labels: int) -> Path:
    words = Tokenizer(models.WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", unk_token="<unk>", pad_token="<pad>"
    )
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = LlamaConfig(
        vocab_size=len(WORDS), num_attention_heads=2, max_position_embeddings=32, **size,
        num_labels=labels, pad_token_id=0,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def batch(*completions: str) -> Batch:
    return Batch([ASKED] * len(completions), list(completions), {})


def test_it_reads_text_in_its_own_template_and_scores_the_end_of_each(judge: Path) -> None:
    rewards = RewardModel(ModelRef(name=str(judge)), "fp32", batch_size=2)
    completions = ("five", "six", "five five six six six")
    together = rewards(batch(*completions))
    assert len(set(together)) == 3
    alone = [rewards(batch(completion))[0] for completion in completions]
    assert together == pytest.approx(alone, rel=1e-5)  # padding changes nothing

    model = LlamaForSequenceClassification.from_pretrained(judge)
    words = ["User", ":", "is", "it", "five", "?", "Assistant", ":", "five", "<eos>"]
    with torch.no_grad():
        plain = model(torch.tensor([[WORDS.index(word) for word in words]])).logits.item()
    assert alone[0] == pytest.approx(plain, rel=1e-5)


def test_a_conversation_that_is_too_long_keeps_its_end(judge: Path) -> None:
    rewards = RewardModel(ModelRef(name=str(judge)), "fp32")
    long = [{"role": "user", "content": "is it six ? " * 50}]
    one, other = rewards(Batch([long, long], ["five", "six"], {}))
    assert one != other


def test_a_conversation_that_its_template_refuses_is_told_in_a_sentence(tmp_path: Path) -> None:
    folder = write_judge(tmp_path, labels=1)
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no answers, please') }}")
    rewards = RewardModel(ModelRef(name=str(folder)), "fp32")
    with pytest.raises(
        DataError, match=r"^rewardModel: its chat .* conversation \(no answers, please\): leave"
    ):
        rewards(batch("five"))


def test_adapters_find_their_base_model(judge: Path, tmp_path: Path) -> None:
    model = LlamaForSequenceClassification.from_pretrained(judge)
    tuned = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules="all-linear"))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                weight.add_(0.3)
    tuned.save_pretrained(tmp_path)
    PreTrainedTokenizerFast.from_pretrained(judge).save_pretrained(tmp_path)
    base, adapted = (
        RewardModel(ModelRef(name=str(folder)), "fp32")(batch("five"))
        for folder in (judge, tmp_path)
    )
    words = ["User", ":", "is", "it", "five", "?", "Assistant", ":", "five", "<eos>"]
    with torch.no_grad():
        plain = tuned.eval()(torch.tensor([[WORDS.index(word) for word in words]])).logits.item()
    assert adapted == pytest.approx([plain], rel=1e-5)
    assert adapted != base


@pytest.mark.parametrize(
    ("rewards", "names"),
    [
        ([], ["reward_model"]),
        ([{"name": "json_valid"}], ["json_valid", "reward_model"]),
        (
            [{"name": "reward_model", "weight": 0.5, "params": {"batch_size": 1}}],
            ["reward_model"],
        ),
    ],
)
def test_a_reward_model_counts_with_weight_one_unless_it_is_named(
    judge: Path, rewards: list[dict[str, Any]], names: list[str]
) -> None:
    loaded = load_rewards(config(judge, rewards))
    assert [reward.name for reward in loaded] == names
    weight = rewards[-1].get("weight", 1) if rewards else 1
    scores = score(loaded, batch("five"))
    assert scores.total == [pytest.approx(weight * (scores.each["reward_model"][0] or 0))]


def test_a_function_called_reward_model_does_not_take_the_reward_models_place(
    judge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "namesakes.py").write_text("def reward_model(batch):\n    return [100.0]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "namesakes", raising=False)
    scores = score(load_rewards(config(judge, [{"name": "namesakes:reward_model"}])), batch("five"))
    judged = RewardModel(ModelRef(name=str(judge)), "fp32")(batch("five"))
    assert scores.each == {"reward_model": [100], "reward_model_2": judged}
    assert scores.total == [pytest.approx(100 + judged[0])]


def test_what_is_no_reward_model_is_refused(judge: Path, tmp_path: Path) -> None:
    classifier = write_judge(tmp_path, labels=3)
    with pytest.raises(ConfigError, match=r"rewardModel.name .* it has 3 outputs, and a reward"):
        load_rewards(config(classifier, []))
    with pytest.raises(ConfigError, match="unexpected keyword argument 'size'; it takes batch_siz"):
        load_rewards(config(judge, [{"name": "reward_model", "params": {"size": 1}}]))


def config(model: Path, rewards: list[dict[str, Any]]) -> UnifiedConfig:
    document = {"algo": "grpo", "model": {"name": "m"}, "datasets": [{"name": "d"}]}
    named = {"reward_model": {"name": str(model)}, "rewards": rewards}
    return UnifiedConfig.model_validate(document | named)
