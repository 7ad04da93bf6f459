"""The model and its adapters through Unsloth: what its trainers differ in from those on TRL."""

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, TrainerCallback

from aligntune.backends.unsloth.library import load
from aligntune.core.config.model import LoraConfig, ModelConfig
from aligntune.core.errors import ConfigError
from aligntune.core.lifecycle import RunsConfig
from aligntune.training.context import RunContext
from aligntune.training.loop_trainer import LoopTrainer
from aligntune.training.machine import Compute, Machine, this_machine, weights_dtype
from aligntune.training.model_loading import (
    code_and_revision,
    from_pretrained,
    load_model,
    longest,
    make_savable,
    positions,
)

REFUSALS = ("Unsloth", "Unrecognized configuration class")
"""How errors begin by which Unsloth and transformers refuse a kind of model."""


class FastModel(LoopTrainer[RunsConfig]):
    """To be put after a TRL trainer among the bases, so that what that one adds stays.

    Loading, adapters and the recomputing of activations are Unsloth's; the base that adapters are
    merged into is not, so that what is saved is the same as on the TRL side.
    """

    def __init__(
        self,
        config: RunsConfig,
        context: RunContext | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        """Prepare a run; nothing is loaded yet. Arguments as in `LoopTrainer`."""
        super().__init__(config, context, callbacks)
        self.callbacks.append(_TrainingMode(self))

    @property
    def checkpointing(self) -> str | bool:
        """`unsloth` where activations are recomputed, with those that wait kept in main memory."""
        return "unsloth" if self.config.train.recomputes(gpu=this_machine().gpu) else False

    def setup_model(self) -> None:
        """Load model and tokenizer, and settle what the config leaves open.

        Raises:
            ConfigError: Unsloth would compute in something else than was asked for.
        """
        super().setup_model()
        if self.arguments.bf16 != (self.computed_in == "bf16"):
            raise ConfigError(
                f"train.precision: unsloth does not compute in {self.computed_in} on this machine;"
                " use auto or fp32, or backend: trl"
            )

    def load_model(self, config: ModelConfig, computed_in: Compute) -> Any:
        """The model that is tuned, without adapters yet."""
        return load_fast_model(config, computed_in, self.checkpointing)

    def load_base(self, config: ModelConfig) -> Any:
        """The model anew, in 16 bits, for adapters to be merged into."""
        return load_model(config, "bf16")

    def with_adapters(self, model: Any) -> Any:
        """The model with Unsloth's adapters, where not all weights are trained."""
        if self.config.model.tuning == "full":
            return model
        lora = self.config.model.lora or LoraConfig()
        return load().FastLanguageModel.get_peft_model(
            model,
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.target_modules,
            target_parameters=lora.target_parameters or None,
            use_rslora=lora.rslora,
            use_dora=lora.dora,
            revision=self._base_revision or None,
            use_gradient_checkpointing=self.checkpointing,
            random_state=self.config.train.seed,
        )

    def adapters(self) -> None:
        """None are left for the loop to add."""

    def shared_arguments(self, machine: Machine) -> dict[str, Any]:
        """What the library is told, whatever is trained; Unsloth recomputes activations itself."""
        return super().shared_arguments(machine) | {"gradient_checkpointing": False}


class _TrainingMode(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Unsloth's models generate in a mode of their own, from which not all of them come back."""

    def __init__(self, trainer: FastModel[Any]) -> None:
        self._trainer = trainer

    def on_step_begin(self, *_: Any, model: Any, **__: Any) -> None:
        policy = getattr(model, "policy", model)  # PPO's, which has a value model beside it
        load().FastLanguageModel.for_training(policy, self._trainer.checkpointing)


def load_fast_model(config: ModelConfig, computed_in: Compute, checkpointing: str | bool) -> Any:
    """The model of the config, by Unsloth.

    Args:
        config: Names the model.
        computed_in: What is computed in.
        checkpointing: How activations are recomputed, in Unsloth's words.

    Raises:
        ModelNotFoundError, UnauthorizedError: There is none, or not for this token.
        ConfigError: Unsloth cannot train this kind of model, or not as it is.
    """
    architecture = from_pretrained(AutoConfig, config, **code_and_revision(config))
    length, made_for = longest(config, architecture), positions(architecture)
    if made_for is not None and length > made_for:
        raise ConfigError(
            f"model.maxLength {length}: the model is made for {made_for} tokens, and unsloth would"
            " stretch its positions; lower it, or use backend: trl"
        )
    bits = config.quantization.bits if config.quantization else 16
    full = config.tuning == "full"
    try:
        model, _ = from_pretrained(
            load().FastLanguageModel,
            config,
            max_seq_length=length,
            dtype=weights_dtype(config, computed_in),
            load_in_4bit=bits == 4,  # noqa: PLR2004
            load_in_8bit=bits == 8,  # noqa: PLR2004
            load_in_16bit=bits == 16 and not full,  # noqa: PLR2004
            full_finetuning=full,
            use_gradient_checkpointing=checkpointing,
            use_exact_model_name=True,  # else a namesake that Unsloth has quantised may be taken
            **code_and_revision(config),
        )
    except (NotImplementedError, RuntimeError, ValueError) as error:
        if not str(error).startswith(REFUSALS):
            raise
        raise ConfigError(
            f"model.name {config.name!r}: unsloth cannot train this kind of model"
            f" ({architecture.model_type}); use backend: trl, or another model"
        ) from error
    make_savable(model.generation_config)
    return model
