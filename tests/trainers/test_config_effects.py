"""Every field of SFTConfig does something: one row per field, and no field without a row."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import torch
import trl
from pydantic import BaseModel

from aligntune.backends.trl.sft.classification import ClassificationTrainer
from aligntune.backends.trl.sft.sft import TRLSFTTrainer, trl_arguments
from aligntune.core.backend_factory import check_supported, create_sft_trainer
from aligntune.core.errors import ConfigError, DataError
from aligntune.core.sft.config import SFTConfig
from aligntune.data.sources import location
from aligntune.training.arguments import shared_arguments
from aligntune.training.machine import Machine, compute, storage
from aligntune.training.model_loading import model_arguments
from tests.trainers.tiny import MakeConfig, sums, write_jsonl


class Case(NamedTuple):
    """A value that is not the default, and what it changes."""

    sections: dict[str, Any]
    seen: Callable[[SFTConfig], Any]
    expected: Any


CPU = Machine(gpu=False, bf16=False)
GPU = Machine(gpu=True, bf16=True)


def args(config: SFTConfig, machine: Machine = CPU) -> trl.SFTConfig:
    shared = shared_arguments(
        config,
        machine=machine,
        processes=1,
        computed_in=compute(config.train.precision, machine),
        run_name="the-job",
    )
    return trl_arguments(config, shared, max_length=99)


def arg(name: str) -> Callable[[SFTConfig], Any]:
    return lambda config: getattr(args(config), name)


def model(look: Callable[[Any], Any]) -> Callable[[SFTConfig], Any]:
    """What a look at the model in training shows."""

    def seen(config: SFTConfig) -> Any:
        trainer = TRLSFTTrainer(config)
        return look(trainer.need_loop().model)

    return seen


def lora(name: str) -> Callable[[SFTConfig], Any]:
    return model(lambda tuned: getattr(tuned.peft_config["default"], name))


def rows(config: SFTConfig) -> int:
    return len(loaded(config).train)


def loaded(config: SFTConfig) -> Any:
    trainer = TRLSFTTrainer(config)
    trainer.setup_data()
    return trainer.data


def learned(config: SFTConfig) -> int:
    """How many tokens of the first row count."""
    labels = loaded(config).train[0]["labels"]
    return sum(label != -100 for label in labels)


def refusal(config: SFTConfig) -> str:
    try:
        check_supported("trl", config)
        TRLSFTTrainer(config).need_loop()
    except ConfigError as error:
        return str(error).split(":")[0].removeprefix("spec.").removeprefix("sft.")
    return ""


def text(config: SFTConfig) -> str:
    trainer = TRLSFTTrainer(config)
    trainer.setup_data()
    assert trainer.data is not None
    return str(trainer.tokenizer.decode(trainer.data.train[0]["input_ids"]))


def tracked(variable: str) -> Callable[[SFTConfig], Any]:
    def seen(config: SFTConfig) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv(variable, raising=False)
            TRLSFTTrainer(config).setup_model()
            return os.environ.pop(variable)

    return seen


def checkpoints(config: SFTConfig) -> list[str]:
    TRLSFTTrainer(config).train()
    return sorted(p.name for p in Path(config.output_dir).glob("checkpoint-*"))


def tensorboard(config: SFTConfig) -> Iterator[Path]:
    return Path(config.output_dir, "tensorboard").glob("events*")


def evaluated(config: SFTConfig) -> int:
    return len(loaded(config).evaluation)


def wanted(config: SFTConfig) -> dict[str, Any]:
    """What `load_dataset` would be asked for."""
    return location((config.evaluation.datasets or config.datasets)[0], "datasets[0]")


def fits(config: SFTConfig) -> bool:
    try:
        loaded(config)
    except DataError:
        return False
    return True


def named(**columns: str) -> dict[str, Any]:
    return {"datasets": [{"name": "{named}", "columns": columns}]}


def labelled(label: str = "e", **classification: Any) -> dict[str, Any]:
    """Classification of five rows: three even ones, two odd ones."""
    task = {"task": "text_classification"} | named(text="a", label=label)
    return task | {"classification": classification} if classification else task


def classifier(config: SFTConfig) -> ClassificationTrainer:
    trainer = ClassificationTrainer(config)
    trainer.need_loop()
    return trainer


def source(**settings: Any) -> dict[str, Any]:
    return {"datasets": [{"name": "{data}"} | settings]}


def held_out(**settings: Any) -> dict[str, Any]:
    return {"evaluation": {"datasets": [{"name": "{data}"} | settings]}}


CASES: dict[str, Case] = {
    "task": Case(
        labelled(),
        lambda config: type(create_sft_trainer(config=config, backend="trl")),
        ClassificationTrainer,
    ),
    "output_dir": Case({"output_dir": "{tmp}/elsewhere"}, arg("output_dir"), "{tmp}/elsewhere"),
    "classification.labels": Case(
        labelled(labels=["odd", "even"]),
        lambda config: classifier(config).model.config.label2id,
        {"odd": 0, "even": 1},
    ),
    "classification.class_weights": Case(
        labelled(class_weights="balanced"),
        lambda config: classifier(config).need_loop().class_weights,
        [5 / 6, 5 / 4],
    ),
    # model
    "model.name": Case({}, model(lambda tuned: tuned.config.hidden_size), 32),
    "model.revision": Case(
        {"model": {"name": "some/model", "revision": "v2"}},
        lambda config: model_arguments(config.model, "fp32")["revision"],
        "v2",
    ),
    "model.max_length": Case(
        {"model": {"max_length": 20}}, lambda c: max(map(len, loaded(c).train["input_ids"])), 20
    ),
    "model.tuning": Case(
        {"model": {"tuning": "full"}},
        model(lambda tuned: all(p.requires_grad for p in tuned.parameters())),
        True,
    ),
    "model.lora.r": Case({"model": {"lora": {"r": 3}}}, lora("r"), 3),
    "model.lora.alpha": Case({"model": {"lora": {"alpha": 5}}}, lora("lora_alpha"), 5),
    "model.lora.dropout": Case({"model": {"lora": {"dropout": 0.3}}}, lora("lora_dropout"), 0.3),
    "model.lora.target_modules": Case(
        {"model": {"lora": {"target_modules": ["q_proj"]}}}, lora("target_modules"), {"q_proj"}
    ),
    "model.lora.target_parameters": Case(
        {
            "model": {
                "lora": {"target_modules": ["q_proj"], "target_parameters": ["down_proj.weight"]}
            }
        },
        lora("target_parameters"),
        ["down_proj.weight"],
    ),
    "model.lora.rslora": Case({"model": {"lora": {"rslora": True}}}, lora("use_rslora"), True),
    "model.lora.dora": Case({"model": {"lora": {"dora": True}}}, lora("use_dora"), True),
    "model.quantization.bits": Case(
        {"model": {"name": "some/model", "quantization": {"bits": 8}}},
        lambda config: model_arguments(config.model, "bf16")["quantization_config"].load_in_8bit,
        True,
    ),
    "model.attention": Case(
        {"model": {"attention": "eager"}},
        model(lambda tuned: tuned.config._attn_implementation),
        "eager",
    ),
    "model.chat_template": Case(
        {"model": {"chat_template": "{% for m in messages %}({{ m['content'] }}){% endfor %}"}},
        lambda config: text(config).startswith("(What is"),
        True,
    ),
    "model.trust_remote_code": Case(
        {"model": {"name": "some/model", "trust_remote_code": True}},
        lambda config: model_arguments(config.model, "fp32")["trust_remote_code"],
        True,
    ),
    # datasets
    "datasets.name": Case({}, rows, 96),
    "datasets.config": Case(
        {"datasets": [{"name": "some/data", "config": "main"}]},
        lambda config: wanted(config)["name"],
        "main",
    ),
    "datasets.revision": Case(
        {"datasets": [{"name": "some/data", "revision": "v2"}]},
        lambda config: wanted(config)["revision"],
        "v2",
    ),
    "datasets.split": Case(source(split="train[:10]"), rows, 10),
    "datasets.weight": Case(
        {"datasets": [{"name": "{data}", "weight": 9}, {"name": "{data}", "split": "test"}]},
        lambda config: loaded(config).sources[0].share_of_rows > 0.8,
        True,
    ),
    "datasets.max_samples": Case(source(max_samples=7), rows, 7),
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
    "datasets.columns.chosen": Case(named(chosen="a"), fits, False),
    "datasets.columns.rejected": Case(named(rejected="a"), fits, False),
    "datasets.columns.answer": Case(named(answer="a"), fits, False),
    "datasets.streaming": Case(
        source(streaming=True),
        lambda config: type(loaded(config).train).__name__,
        "IterableDataset",
    ),
    # train
    "train.epochs": Case({"train": {"epochs": 2.5}}, arg("num_train_epochs"), 2.5),
    "train.max_steps": Case({"train": {"max_steps": 3}}, arg("max_steps"), 3),
    "train.per_device_batch_size": Case(
        {"train": {"per_device_batch_size": 7}}, arg("per_device_train_batch_size"), 7
    ),
    "train.gradient_accumulation_steps": Case(
        {"train": {"gradient_accumulation_steps": 3}}, arg("gradient_accumulation_steps"), 3
    ),
    "train.learning_rate": Case({"train": {"learning_rate": 0.5}}, arg("learning_rate"), 0.5),
    "train.lr_scheduler": Case(
        {"train": {"lr_scheduler": "cosine"}}, arg("lr_scheduler_type"), "cosine"
    ),
    "train.warmup_ratio": Case(
        {"train": {"warmup_ratio": 0.5}}, lambda c: args(c).get_warmup_steps(10), 5
    ),
    "train.weight_decay": Case({"train": {"weight_decay": 0.1}}, arg("weight_decay"), 0.1),
    "train.max_grad_norm": Case({"train": {"max_grad_norm": 0.3}}, arg("max_grad_norm"), 0.3),
    "train.optimizer": Case({"train": {"optimizer": "sgd"}}, arg("optim"), "sgd"),
    "train.precision": Case({"train": {"precision": "bf16"}}, arg("bf16"), True),
    "train.gradient_checkpointing": Case(
        {"train": {"gradient_checkpointing": True}}, arg("gradient_checkpointing"), True
    ),
    "train.compile": Case({"train": {"compile": True}}, arg("torch_compile"), True),
    "train.seed": Case({"train": {"seed": 7}}, arg("seed"), 7),
    "train.loss_on": Case(
        {"train": {"loss_on": "all"}},
        lambda config: learned(config) == len(loaded(config).train[0]["labels"]),
        True,
    ),
    "train.packing": Case({"train": {"packing": True}}, arg("packing"), True),
    "train.padding_free": Case({"train": {"padding_free": True}}, arg("padding_free"), True),
    "train.liger_kernel": Case({"train": {"liger_kernel": True}}, refusal, "train.ligerKernel"),
    # evaluation
    "evaluation.split_ratio": Case({"evaluation": {"split_ratio": 0.25}}, evaluated, 24),
    "evaluation.datasets.name": Case(held_out(), evaluated, 16),
    "evaluation.datasets.config": Case(
        {"evaluation": {"datasets": [{"name": "some/data", "config": "main"}]}},
        lambda config: wanted(config)["name"],
        "main",
    ),
    "evaluation.datasets.split": Case(held_out(split="train"), evaluated, 96),
    "evaluation.datasets.max_samples": Case(held_out(max_samples=5), evaluated, 5),
    "evaluation.every_steps": Case(
        {"evaluation": {"split_ratio": 0.2, "every_steps": 3}}, arg("eval_steps"), 3
    ),
    "evaluation.per_device_batch_size": Case(
        {"evaluation": {"per_device_batch_size": 9}}, arg("per_device_eval_batch_size"), 9
    ),
    "evaluation.early_stopping_patience": Case(
        {
            "evaluation": {"split_ratio": 0.2, "every_steps": 1, "early_stopping_patience": 1},
            "train": {"max_steps": 50, "learning_rate": 3, "lr_scheduler": "constant"},
        },
        lambda config: TRLSFTTrainer(config).train().stopped_early,
        True,
    ),
    "evaluation.keep_best": Case(
        {
            "evaluation": {"split_ratio": 0.2, "every_steps": 1, "keep_best": True},
            "train": {"max_steps": 5, "learning_rate": 3, "lr_scheduler": "constant"},
            "checkpoint": {"keep": 1},
        },
        lambda config: len(checkpoints(config)),
        2,
    ),
    # checkpoint
    "checkpoint.every_steps": Case(
        {"checkpoint": {"every_steps": 9}}, checkpoints, ["checkpoint-10", "checkpoint-9"]
    ),
    "checkpoint.keep": Case(
        {"checkpoint": {"every_steps": 3, "keep": 1}}, checkpoints, ["checkpoint-10"]
    ),
    "checkpoint.resume": Case(
        {"checkpoint": {"resume": "never"}},
        lambda config: checkpoints(config) and TRLSFTTrainer(config).train().samples_per_second > 0,
        True,  # a second run would have nothing left to train
    ),
    # logging
    "logging.every_steps": Case({"logging": {"every_steps": 3}}, arg("logging_steps"), 3),
    "logging.trackers": Case(
        {"logging": {"trackers": ["tensorboard"]}},
        lambda config: bool(checkpoints(config) and list(tensorboard(config))),
        True,
    ),
    "logging.project": Case({"logging": {"project": "mine"}}, tracked("WANDB_PROJECT"), "mine"),
    "logging.run_name": Case({"logging": {"run_name": "mine"}}, arg("run_name"), "mine"),
    "distributed.strategy": Case(
        {"distributed": {"strategy": "zero3"}}, refusal, "distributed.strategy"
    ),
}


@pytest.mark.parametrize("field", CASES)
def test_the_field_takes_effect(
    config: MakeConfig, tmp_path: Path, tiny_data: Path, field: str
) -> None:
    case = CASES[field]
    other = [
        {
            "a": row["prompt"],
            "b": row["completion"],
            "c": f"context {index % 2}",
            "d": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}],
            "e": "odd" if index % 2 else "even",
        }
        for index, row in enumerate(sums(5))
    ]
    places = {
        "{tmp}": str(tmp_path),
        "{data}": str(tiny_data),
        "{named}": str(write_jsonl(tmp_path / "named.jsonl", other)),
    }
    settings = config(**_filled(case.sections, places))
    assert case.seen(settings) == _filled(case.expected, places)


def test_precision_and_storage_are_two_questions(config: MakeConfig) -> None:
    """Weights that are trained stay fp32; a frozen base is kept in what is computed in."""
    auto, full = config(), config(model={"tuning": "full"})
    assert compute("auto", CPU) == "fp32"
    assert compute("auto", GPU) == "bf16"
    assert compute("auto", Machine(gpu=True, bf16=False)) == "fp16"
    assert storage(auto.model, "bf16") == torch.bfloat16
    assert storage(full.model, "bf16") == torch.float32
    bf16 = TRLSFTTrainer(config(train={"precision": "bf16"})).need_loop().model
    kinds = {p.dtype for p in bf16.parameters() if p.requires_grad}
    assert (kinds, bf16.get_base_model().dtype) == ({torch.float32}, torch.bfloat16)


@pytest.mark.parametrize(("tuning", "rate"), [("lora", 2e-4), ("full", 2e-5)], ids=["lora", "full"])
def test_the_default_learning_rate_follows_the_tuning(
    config: MakeConfig, tuning: str, rate: float
) -> None:
    settings = config(model={"tuning": tuning}, train={"learning_rate": None})
    assert args(settings).learning_rate == rate


def test_every_field_has_its_case() -> None:
    assert set(_fields(SFTConfig)) == set(CASES)


def _fields(section: type[BaseModel], path: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        below = _section_in(field.annotation)
        if below is not None:
            yield from _fields(below, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)


def _filled(value: Any, places: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(below, places) for key, below in value.items()}
    if isinstance(value, list):
        return [_filled(below, places) for below in value]
    if isinstance(value, str):
        for mark, place in places.items():
            value = value.replace(mark, place)
    return value
