"""What config fields change: for a value that is not the default, what must be seen of it.

`SHARED` has the fields that all methods have; each method is held to it through its own trainer.
"""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from transformers import GenerationConfig, LlamaConfig

from aligntune.backends.trl.rl.ppo.ppo import TRLPPOTrainer
from aligntune.backends.trl.rl.ppo.steps import StepModel
from aligntune.core.backend_factory import check_supported, task_of, trainer_for
from aligntune.core.errors import ConfigError, DataError
from aligntune.core.rl.config import UnifiedConfig
from aligntune.core.sft.config import SFTConfig
from aligntune.data.sources import location
from aligntune.training.arguments import shared_arguments
from aligntune.training.machine import Machine, resolve_precision
from aligntune.training.model_loading import model_arguments
from tests.trainers.tiny import sums, write_jsonl

Config = SFTConfig | UnifiedConfig
CPU = Machine(gpu=False, bf16=False)
STILL = {"max_steps": 3, "learning_rate": 1e-20}
"""Training that changes nothing, so that no evaluation is better than the first."""


class Case(NamedTuple):
    """A value that is not the default, and what it changes."""

    sections: dict[str, Any]
    seen: Callable[[Any], Any]
    expected: Any


def trainer(config: Config) -> Any:
    return trainer_for("trl", task_of(config))(config)


def loop(config: Config) -> Any:
    return trainer(config).ensure_loop()


def args(config: Config, machine: Machine = CPU) -> Any:
    """What the library is told."""
    made = trainer(config)
    made.max_length = 99
    made.model = SimpleNamespace(
        config=LlamaConfig(), generation_config=GenerationConfig(eos_token_id=2)
    )
    if isinstance(made, TRLPPOTrainer):
        made.step_model = StepModel.of(made.config, 1)
    return made.make_arguments(
        shared_arguments(
            config,
            machine=machine,
            processes=1,
            computed_in=resolve_precision(config.train.precision, machine),
            run_name="the-job",
        )
    )


def arg(name: str) -> Callable[[Config], Any]:
    return lambda config: getattr(args(config), name)


def model(look: Callable[[Any], Any]) -> Callable[[Config], Any]:
    """What a look at the model in training shows."""

    def seen(config: Config) -> Any:
        made = trainer(config)
        made.ensure_loop()
        return look(made.model)

    return seen


def lora(name: str) -> Callable[[Config], Any]:
    return model(lambda tuned: getattr(tuned.peft_config["default"], name))


def loaded(config: Config) -> Any:
    made = trainer(config)
    made.setup_data()
    return made.data


def rows(config: Config) -> int:
    return len(loaded(config).train)


def evaluated(config: Config) -> int:
    return len(loaded(config).evaluation)


def longest(config: Config) -> int:
    """Tokens of the longest cell."""
    return max(len(cell) for row in loaded(config).train for cell in _ids(row))


def text(config: Config) -> str:
    """The first row, cell by cell."""
    made = trainer(config)
    made.setup_data()
    return "\n".join(made.tokenizer.decode(cell) for cell in _ids(made.data.train[0]))


def _ids(row: dict[str, Any]) -> list[list[int]]:
    return [cell for name, cell in row.items() if name.endswith("_ids")]


def fits(config: Config) -> bool:
    """The columns fit a shape of the task."""
    try:
        loaded(config)
    except DataError:
        return False
    return True


def refusal(config: Config) -> str:
    """The field that a run ends with, before its first step."""
    try:
        check_supported("trl", config)
        loop(config)
    except ConfigError as error:
        place = str(error).split(":")[0].split(" ")[0]
        return place.removeprefix("spec.").removeprefix("sft.").removeprefix("rl.")
    return ""


def saves_adapters(config: Config) -> bool:
    made = trainer(config)
    made.ensure_loop()
    return (made.save_model() / "adapter_config.json").exists()


def tracked(variable: str) -> Callable[[Config], Any]:
    def seen(config: Config) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv(variable, raising=False)
            trainer(config).setup_model()
            return os.environ.pop(variable)

    return seen


def checkpoints(config: Config) -> list[str]:
    trainer(config).train()
    return sorted(p.name for p in Path(config.output_dir).glob("checkpoint-*"))


def wanted(config: Config) -> dict[str, Any]:
    """What `load_dataset` would be asked for."""
    return location((config.evaluation.datasets or config.datasets)[0], "datasets[0]")


def source(**settings: Any) -> dict[str, Any]:
    return {"datasets": [{"name": "{data}"} | settings]}


def held_out(**settings: Any) -> dict[str, Any]:
    return {"evaluation": {"datasets": [{"name": "{data}"} | settings]}}


def named(**columns: str) -> dict[str, Any]:
    """Data whose columns are called by letters."""
    return {"datasets": [{"name": "{named}", "columns": columns}]}


def misnamed(role: str) -> Case:
    """A role that no shape of the task has is refused, not passed over."""
    return Case(source(columns={role: "prompt"}), fits, False)


SHARED: dict[str, Case] = {
    "output_dir": Case({"output_dir": "{tmp}/elsewhere"}, arg("output_dir"), "{tmp}/elsewhere"),
    # model
    "model.name": Case(
        {"model": {"name": "{narrow}"}}, model(lambda tuned: tuned.config.hidden_size), 16
    ),
    "model.from_job": Case({"model": {"name": "", "from_job": "chat"}}, refusal, "model.fromJob"),
    "model.revision": Case(
        {"model": {"name": "some/model", "revision": "v2"}},
        lambda config: model_arguments(config.model, "fp32")["revision"],
        "v2",
    ),
    "model.max_length": Case({"model": {"max_length": 18}}, longest, 18),
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
    "model.lora.merge_on_save": Case(
        {"model": {"lora": {"merge_on_save": True}}},
        saves_adapters,
        False,
    ),
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
    "model.gguf": Case({"model": {"gguf": ["q8_0"]}}, refusal, "model.gguf"),
    # datasets
    "datasets.name": Case({"datasets": [{"name": "{data}/test.jsonl"}]}, rows, 16),
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
        {"datasets": [{"name": "{data}"}, {"name": "{data}", "split": "test", "weight": 9}]},
        lambda config: round(loaded(config).sources[-1].share_of_rows, 1),
        0.9,
    ),
    "datasets.max_samples": Case(source(max_samples=7), rows, 7),
    "datasets.streaming": Case(
        source(streaming=True),
        lambda config: type(loaded(config).train).__name__,
        "IterableDataset",
    ),
    # train
    "train.epochs": Case({"train": {"epochs": 2.5}}, arg("num_train_epochs"), 2.5),
    "train.max_steps": Case(
        {"train": {"max_steps": 3}}, lambda config: loop(config).args.max_steps, 3
    ),
    "train.per_device_batch_size": Case(
        {"train": {"per_device_batch_size": 2}}, arg("per_device_train_batch_size"), 2
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
            "evaluation": {"split_ratio": 0.1, "every_steps": 1, "early_stopping_patience": 1},
            "train": STILL,
        },
        lambda config: trainer(config).train().stopped_early,
        True,
    ),
    "evaluation.keep_best": Case(
        {
            "evaluation": {"split_ratio": 0.1, "every_steps": 1, "keep_best": True},
            "train": STILL,
            "checkpoint": {"keep": 1},
        },
        checkpoints,
        ["checkpoint-1", "checkpoint-3"],
    ),
    # checkpoint
    "checkpoint.every_steps": Case(
        {"checkpoint": {"every_steps": 2}, "train": {"max_steps": 3}},
        checkpoints,
        ["checkpoint-2", "checkpoint-3"],
    ),
    "checkpoint.keep": Case(
        {"checkpoint": {"every_steps": 1, "keep": 1}, "train": {"max_steps": 3}},
        checkpoints,
        ["checkpoint-3"],
    ),
    "checkpoint.resume": Case(
        {"checkpoint": {"resume": "never"}, "train": {"max_steps": 2}},
        lambda config: checkpoints(config) and trainer(config).train().samples_per_second > 0,
        True,  # a second run would have nothing left to train
    ),
    # logging
    "logging.every_steps": Case({"logging": {"every_steps": 3}}, arg("logging_steps"), 3),
    "logging.trackers": Case(
        {"logging": {"trackers": ["tensorboard"]}, "train": {"max_steps": 1}},
        lambda config: bool(
            checkpoints(config) and [*Path(config.output_dir, "tensorboard").glob("events*")]
        ),
        True,
    ),
    "logging.project": Case({"logging": {"project": "mine"}}, tracked("WANDB_PROJECT"), "mine"),
    "logging.run_name": Case({"logging": {"run_name": "mine"}}, arg("run_name"), "mine"),
    "distributed.strategy": Case(
        {"distributed": {"strategy": "zero3"}}, refusal, "distributed.strategy"
    ),
}


def check(case: Case, make: Callable[..., Config], places: dict[str, Path]) -> None:
    """See that the case's value changes what it says.

    Args:
        case: With the marks `{tmp}`, `{data}`, `{named}` and the like in place of paths.
        make: Makes a config of sections to lay over a good one.
        places: The paths by mark; `tmp` is a folder to write into.
    """
    letters = [
        {
            "a": row["prompt"],
            "b": row["completion"],
            "c": f"context {index % 2}",
            "d": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}],
            "e": "odd" if index % 2 else "even",
            "f": "It is green.",
        }
        for index, row in enumerate(sums(5))
    ]
    places = places | {"named": write_jsonl(places["tmp"] / "named.jsonl", letters)}
    marks = {f"{{{name}}}": str(place) for name, place in places.items()}
    seen = case.seen(make(**_filled(case.sections, marks)))
    assert seen == _filled(case.expected, marks)


def _filled(value: Any, places: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(below, places) for key, below in value.items()}
    if isinstance(value, list):
        return [_filled(below, places) for below in value]
    if isinstance(value, str):
        for mark, place in places.items():
            value = value.replace(mark, place)
    return value
