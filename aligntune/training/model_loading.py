"""Loading a model and its tokenizer, and saying clearly why it does not work."""

import logging
import re
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from torch.nn import Embedding
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from aligntune.core.config.model import LONGEST_DEFAULT, LoraConfig, ModelConfig, ModelRef
from aligntune.core.errors import ConfigError, ModelNotFoundError
from aligntune.data.rendering import end_of_turn, plain_chat_template
from aligntune.hub import HubRepo, is_path, probe_hub
from aligntune.training.context import local_rank
from aligntune.training.machine import DTYPES, Compute, weights_dtype

POSITIONS = re.compile("(pos|wpe)[^.]*$")
"""What models call a table of positions: GPT-2 `wpe`, BERT `position_embeddings`, OPT
`embed_positions`."""
ROTATIONS = "attn.embed_positions"
"""Where GPT-J and CodeGen keep angles that others work out for any length."""
FLAG = re.compile("^- `(.+?)`:", re.MULTILINE)
"""How transformers names each flag of a generation config that it would not save."""

_log = logging.getLogger(__name__)


def load_tokenizer(config: ModelConfig, *, reads_turns: bool = True) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a chat template and tokens for end and padding.

    Args:
        config: Names the model.
        reads_turns: Else the model reads plain text, which needs neither a template nor a token
            for its end.

    Raises:
        ModelNotFoundError, UnauthorizedError: There is none, or not for this token.
        ConfigError: It cannot tell which characters a token stands for.
    """
    tokenizer = from_pretrained(AutoTokenizer, config, **code_and_revision(config))
    if not tokenizer.is_fast:
        raise ConfigError(f"model.name {config.name!r}: its tokenizer has no fast version")
    if tokenizer.eos_token is None and (reads_turns or tokenizer.pad_token is None):
        raise ConfigError(f"model.name {config.name!r}: its tokenizer has no end-of-text token")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if reads_turns and (config.chat_template or not tokenizer.chat_template):
        tokenizer.chat_template = config.chat_template or plain_chat_template(tokenizer)
    return tokenizer


def load_model(config: ModelConfig, computed_in: Compute) -> PreTrainedModel:
    """The model that is tuned, without adapters yet.

    Raises:
        ModelNotFoundError, UnauthorizedError: There is none, or not for this token.
    """
    arguments = model_arguments(config, computed_in)
    model = from_pretrained(AutoModelForCausalLM, config, **arguments)
    make_savable(model.generation_config)
    return model


def make_savable(generation: GenerationConfig | None) -> None:
    """Mend a generation config that transformers reads with a warning, and refuses to save.

    Flags of sampling without a word on `do_sample` (Vicuna, the first Llama 2) are meant for
    sampling. Others that would have no effect are left out.
    """
    if generation is None:  # a model with code of its own may not generate
        return
    refusal = _refusal(generation)
    if generation.do_sample is None and "`do_sample=True`" in refusal:
        generation.do_sample = True
        _log.info("generation config: it has flags of sampling, so do_sample is true")
        refusal = _refusal(generation)
    for flag in FLAG.findall(refusal):
        setattr(generation, flag, None)
        _log.info("generation config: %s has no effect as it is, and is left out", flag)


def end_tokens(generation: GenerationConfig) -> list[int]:
    """The tokens at which generation ends."""
    own = generation.eos_token_id
    return own if isinstance(own, list) else [own] if own is not None else []


def stop_at_end_of_turn(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the model's generation end where the chat template ends a turn.

    The base models of Qwen end a text with `<|endoftext|>` and a turn with `<|im_end|>`: whatever
    serves the tuned model would run on past the end that it has learned.
    """
    generation = getattr(model, "generation_config", None)
    if generation is None or not tokenizer.chat_template:  # a classifier has neither
        return
    ends, learned = end_tokens(generation), end_of_turn(tokenizer)
    if learned is not None and learned not in ends:
        generation.eos_token_id = [*ends, learned]
        shown = tokenizer.convert_ids_to_tokens(learned)
        _log.info("generation config: %s ends a turn, and now generation too", shown)


def _refusal(generation: GenerationConfig) -> str:
    """Why transformers would not save it; empty where it would."""
    try:
        generation.validate(strict=True)
    except ValueError as error:
        return str(error)
    return ""


def load_classifier(
    config: ModelConfig,
    computed_in: Compute,
    pad_token_id: int,
    **head: Any,
) -> PreTrainedModel:
    """The model with a head for whole sequences in place of that for the next token.

    Args:
        config: Names the model; its head is taken where it has one of this size, else made anew.
        computed_in: What is computed in.
        pad_token_id: What follows a sequence in a batch. The head reads the token before, so it
            becomes part of the model's config.
        **head: transformers' words for the head, such as `num_labels`.

    Raises:
        ModelNotFoundError, UnauthorizedError: There is none, or not for this token.
        ConfigError: transformers has no such head for this kind of model.
    """
    try:
        model = from_pretrained(
            AutoModelForSequenceClassification,
            config,
            **model_arguments(config, computed_in),
            **head,
            ignore_mismatched_sizes=True,
        )
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise ConfigError(
            f"model.name {config.name!r}: transformers cannot put a head for whole sequences on"
            " this kind of model; take another"
        ) from error
    for part in (model.config, model.config.get_text_config()):
        part.pad_token_id = pad_token_id
    return model


def train_in_fp32(model: torch.nn.Module) -> None:
    """Keep in fp32 what is trained: updates vanish in 16 bits.

    PEFT leaves a head in the type of the frozen base, and TRL puts the adapters of a quantised base
    into bf16, from which a resumed run would take them back.
    """
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def model_arguments(config: ModelConfig, computed_in: Compute) -> dict[str, Any]:
    """What transformers is asked for, besides the model's name."""
    arguments: dict[str, Any] = {"dtype": weights_dtype(config, computed_in)}
    if config.attention != "auto":
        arguments["attn_implementation"] = config.attention
    if config.quantization is not None:
        four = config.quantization.bits == 4  # noqa: PLR2004
        arguments["device_map"] = {"": local_rank()}
        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=four,
            load_in_8bit=not four,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=DTYPES[computed_in],
        )
    return arguments | code_and_revision(config)


def lora_config(config: LoraConfig, task: str, revision: str | None) -> PeftLoraConfig:
    """PEFT's words for the adapters' settings.

    Args:
        config: The settings.
        task: PEFT's name for what the model does.
        revision: Commit of the base model on the hub; without it, adapters that are loaded later
            would be put on whatever the base's `main` is by then.
    """
    return PeftLoraConfig(
        task_type=task,
        revision=revision,
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.target_modules,
        target_parameters=config.target_parameters or None,
        use_rslora=config.rslora,
        use_dora=config.dora,
    )


def longest(config: ModelConfig, architecture: PretrainedConfig, learned: int | None = None) -> int:
    """The longest sequence, in tokens.

    Args:
        config: May ask for one.
        architecture: The model's config.
        learned: How many positions the model has vectors for, from `learned_positions`.

    Raises:
        ConfigError: The model has no vectors for the positions of what is asked for.
    """
    if config.max_length is None:
        return min(filter(None, (LONGEST_DEFAULT, positions(architecture), learned)))
    if learned is not None and config.max_length > learned:
        raise ConfigError(
            f"model.maxLength {config.max_length}: the model has learned {learned} positions and"
            " cannot read further; lower it"
        )
    return config.max_length


def positions(architecture: PretrainedConfig) -> int | None:
    """The longest sequence that the model was made for, in tokens; None: it does not say."""
    return getattr(architecture.get_text_config(), "max_position_embeddings", None)


def learned_positions(model: PreTrainedModel) -> int | None:
    """How many tokens a model can read whose positions are a table; None: it works them out.

    RoBERTa and its kin begin to count behind the row for padding.
    """
    tables = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in model.named_modules()
        if isinstance(module, Embedding) and POSITIONS.search(name)
    ]
    tables += [len(rows) for name, rows in model.named_buffers() if name.endswith(ROTATIONS)]
    named = positions(model.config)
    return min(filter(None, (*tables, named))) if tables else None


def code_and_revision(config: ModelConfig) -> dict[str, Any]:
    """Whose code may run, and which commit is meant, in transformers' words."""
    return {"revision": config.revision, "trust_remote_code": config.trust_remote_code}


def from_pretrained(
    auto: Any,
    config: ModelRef,
    field: str = "model",
    **arguments: Any,
) -> Any:
    """Load with an Auto class; what the hub refuses becomes a sentence.

    Args:
        auto: transformers' or PEFT's class that loads by name or folder.
        config: Names the model.
        field: The section of the config that names it, for messages.
        **arguments: What `auto.from_pretrained` takes.

    Raises:
        ConfigError: It is another job's model, and its place has not been filled in.
        ModelNotFoundError, UnauthorizedError: There is none, or not for this token.
        HubUnreachableError: The hub cannot be reached, and the cache does not have it.
    """
    name = config.name
    if config.from_job is not None:
        raise ConfigError(
            f"{field}.fromJob: only the operator and aligntune run know where the model of"
            f" {config.from_job!r} is; name its folder"
        )
    path = Path(name).expanduser()
    if path.is_dir():
        if not any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise ModelNotFoundError(f"{field}.name {name!r}: the folder has no config.json")
    elif is_path(name):
        raise ModelNotFoundError(
            f"{field}.name {name!r}: there is no such folder; check the path and its mount"
        )
    else:
        arguments["local_files_only"] = probe_hub() is not None
    try:
        return auto.from_pretrained(str(path) if path.is_dir() else name, **arguments)
    except OSError as error:
        explained = HubRepo("model", field, name, config.revision).explained(error)
        if explained is None:
            raise
        raise explained from error
