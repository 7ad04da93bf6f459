"""Every field of SFTConfig does something: one case per field, and no field without one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from aligntune.backends.trl.sft.classification import ClassificationTrainer
from aligntune.backends.trl.sft.sft import TRLSFTTrainer
from aligntune.core.backend_factory import create_sft_trainer
from aligntune.core.sft.config import SFTConfig
from aligntune.training.machine import Machine, resolve_precision, weights_dtype
from tests.trainers.effects import (
    CPU,
    SHARED,
    Case,
    arg,
    args,
    check,
    loaded,
    misnamed,
    named,
    refusal,
    text,
)
from tests.trainers.fields import fields
from tests.trainers.tiny import MakeConfig

GPU = Machine(gpu=True, bf16=True)


def learned(config: SFTConfig) -> int:
    """How many tokens of the first row count."""
    labels = loaded(config).train[0]["labels"]
    return sum(label != -100 for label in labels)


def labelled(label: str = "e", **classification: Any) -> dict[str, Any]:
    """Classification of five rows: three even ones, two odd ones."""
    task = {"task": "text_classification"} | named(text="a", label=label)
    return task | {"classification": classification} if classification else task


def classifier(config: SFTConfig) -> ClassificationTrainer:
    trainer = ClassificationTrainer(config)
    trainer.ensure_loop()
    return trainer


CASES: dict[str, Case] = SHARED | {
    "task": Case(
        labelled(),
        lambda config: type(create_sft_trainer(config=config, backend="trl")),
        ClassificationTrainer,
    ),
    "classification.labels": Case(
        labelled(labels=["odd", "even"]),
        lambda config: classifier(config).model.config.label2id,
        {"odd": 0, "even": 1},
    ),
    "classification.class_weights": Case(
        labelled(class_weights="balanced"),
        lambda config: classifier(config).ensure_loop().class_weights,
        [5 / 6, 5 / 4],
    ),
    "datasets.columns.text": Case(named(text="a"), lambda c: text(c).startswith("What is"), True),
    "datasets.columns.prompt": Case(
        named(prompt="a", completion="b"), lambda c: "user\nWhat" in text(c), True
    ),
    "datasets.columns.completion": Case(
        named(prompt="a", completion="b"), lambda c: "assistant\nIt is" in text(c), True
    ),
    "datasets.columns.input": Case(
        named(prompt="a", completion="b", input="c"), lambda c: "?\n\ncontext" in text(c), True
    ),
    "datasets.columns.messages": Case(
        named(messages="d"), lambda c: "user\nhello" in text(c), True
    ),
    "datasets.columns.label": Case(
        labelled(label="c"), lambda config: classifier(config).labels, ["context 0", "context 1"]
    ),
    "datasets.columns.chosen": misnamed("chosen"),
    "datasets.columns.rejected": misnamed("rejected"),
    "datasets.columns.answer": misnamed("answer"),
    "train.loss_on": Case(
        {"train": {"loss_on": "all"}},
        lambda config: learned(config) == len(loaded(config).train[0]["labels"]),
        True,
    ),
    "train.packing": Case({"train": {"packing": True}}, arg("packing"), True),
    "train.padding_free": Case({"train": {"padding_free": True}}, arg("padding_free"), True),
    "train.liger_kernel": Case({"train": {"liger_kernel": True}}, refusal, "train.ligerKernel"),
}


@pytest.mark.parametrize("field", CASES)
def test_the_field_takes_effect(
    config: MakeConfig,
    tmp_path: Path,
    tiny_data: Path,
    narrow_models: dict[str, Path],
    field: str,
) -> None:
    check(CASES[field], config, {"tmp": tmp_path, "data": tiny_data} | narrow_models)


def test_precision_and_storage_are_two_questions(config: MakeConfig) -> None:
    """Weights that are trained stay fp32; a frozen base is kept in what is computed in."""
    auto, full = config(), config(model={"tuning": "full"})
    assert resolve_precision("auto", CPU) == "fp32"
    assert resolve_precision("auto", GPU) == "bf16"
    assert resolve_precision("auto", Machine(gpu=True, bf16=False)) == "fp16"
    assert weights_dtype(auto.model, "bf16") == torch.bfloat16
    assert weights_dtype(full.model, "bf16") == torch.float32
    bf16 = TRLSFTTrainer(config(train={"precision": "bf16"})).ensure_loop().model
    kinds = {p.dtype for p in bf16.parameters() if p.requires_grad}
    assert (kinds, bf16.get_base_model().dtype) == ({torch.float32}, torch.bfloat16)


@pytest.mark.parametrize(("tuning", "rate"), [("lora", 2e-4), ("full", 2e-5)], ids=["lora", "full"])
def test_the_default_learning_rate_follows_the_tuning(
    config: MakeConfig, tuning: str, rate: float
) -> None:
    settings = config(model={"tuning": tuning}, train={"learning_rate": None})
    assert args(settings).learning_rate == rate


def test_every_field_has_its_case() -> None:
    assert set(fields(SFTConfig)) == set(CASES)
