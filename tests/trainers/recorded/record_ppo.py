"""Record one PPO update of TRL 1.12, the last release with a PPO trainer, for `test_ppo_recorded`.

TRL 1.12 goes into a folder of its own; all else is this repository's environment:

    .venv/bin/uv pip install --target /tmp/trl-1.12 --no-deps trl==1.12.0
    PYTHONPATH=/tmp/trl-1.12:. .venv/bin/python tests/trainers/recorded/record_ppo.py

The answers are given, so that all kinds of ends occur; everything else is what TRL's own `train`
computes, read from its local variables when it calls `backward`.
"""

import json
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from tests.trainers.recorded import ppo_case as case

RECORDED = Path(__file__).with_name("ppo-trl-1.12.json")
ONCE = ("scores", "logprobs", "ref_logprobs", "values", "rewards", "returns", "advantages")


def record(one: case.Case) -> dict[str, Any]:
    """What TRL computes for one case: the experience, and loss and gradients of each epoch."""
    settings = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=False,
        report_to="none",
        total_episodes=len(one.answers),
        per_device_train_batch_size=len(one.answers),
        num_ppo_epochs=case.EPOCHS,
        num_mini_batches=1,
        num_sample_generations=0,
        local_rollout_forward_batch_size=len(one.answers),
        response_length=case.ANSWER,
        stop_token="eos",
        temperature=case.TEMPERATURE,
        missing_eos_penalty=case.MISSING_EOS_PENALTY,
        kl_coef=case.KL_COEFFICIENT,
        kl_estimator="k1",
        cliprange=case.CLIP,
        cliprange_value=case.VALUE_CLIP,
        vf_coef=case.VALUE_COEFFICIENT,
        gamma=case.GAMMA,
        lam=case.LAM,
        whiten_rewards=one.whiten_rewards,
        optim="sgd",
        learning_rate=case.RATE,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        save_strategy="no",
    )
    trainer = PPOTrainer(
        args=settings,
        processing_class=_tokenizer(),
        model=case.policy(),
        ref_model=case.policy(0.05),
        reward_model=case.classifier(2.0),
        value_model=case.classifier(1.0),
        train_dataset=Dataset.from_list([{"input_ids": ids} for ids in case.PROMPTS]),
        eval_dataset=Dataset.from_list([{"input_ids": ids} for ids in case.PROMPTS]),
        data_collator=lambda rows: {"input_ids": torch.tensor([row["input_ids"] for row in rows])},
    )
    seen: dict[str, Any] = {"epochs": []}
    backward, step = trainer.accelerator.backward, trainer.optimizer.step

    def given(model: Any, queries: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        answers = [one.answers[case.PROMPTS.index(query)] for query in queries.tolist()]
        whole = torch.cat([queries, torch.tensor(answers)], dim=1)
        logits = ppo_trainer.forward(model, whole, case.PAD).logits[:, case.PROMPT - 1 : -1]
        return whole, logits / (case.TEMPERATURE + 1e-7)

    def watched(loss: torch.Tensor) -> None:
        local = sys._getframe(1).f_locals
        order = [
            case.PROMPTS.index(row[: case.PROMPT]) for row in local["query_responses"].tolist()
        ]
        back = torch.tensor(order).argsort()  # the loader has shuffled the prompts
        seen.update({name: local[name][back].tolist() for name in ONCE})
        seen["epochs"].append(
            {name: local[name].item() for name in ("loss", "pg_loss", "vf_loss", "vf_clipfrac")}
        )
        backward(loss)

    def stepped(*arguments: Any) -> None:
        seen["epochs"][-1]["gradients"] = {
            name: case.fingerprint(part.grad)
            for name, part in sorted(trainer.model.named_parameters())
            if part.grad is not None
        }
        step(*arguments)

    ppo_trainer.batch_generation = given
    trainer.accelerator.backward, trainer.optimizer.step = watched, stepped
    trainer.train()
    return seen


def _tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models

    words = {"<pad>": case.PAD, "<eos>": case.EOS} | {f"w{n}": n for n in range(2, 12)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")),
        pad_token="<pad>",
        eos_token="<eos>",
    )


def _rounded(value: Any) -> Any:
    """Eight digits: a float32 has seven."""
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return {key: _rounded(one) for key, one in value.items()} if isinstance(value, dict) else value


if __name__ == "__main__":
    assert metadata.version("trl").startswith("1.12"), metadata.version("trl")
    document = {
        "versions": {name: metadata.version(name) for name in ("trl", "transformers", "torch")},
        "cases": {name: _rounded(record(one)) for name, one in case.CASES.items()},
    }
    RECORDED.write_text(json.dumps(document, separators=(",", ":")) + "\n")
