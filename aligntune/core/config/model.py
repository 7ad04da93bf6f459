"""Which model is tuned, and how."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from aligntune.core.config.base import Rule, Section, cel_rules, rule_error

ModelName = Annotated[str, Field(max_length=512)]
Revision = Annotated[str, Field(min_length=1, max_length=128)]
ModuleName = Annotated[str, Field(min_length=1, max_length=128)]
JobName = Annotated[str, Field(min_length=1, max_length=63)]
GgufType = Literal["bf16", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"]
"""How a GGUF file keeps the weights, in llama.cpp's words."""

LONGEST_DEFAULT = 1024
"""Tokens per sequence where neither the config nor the model says less."""

NAME_OR_JOB = Rule(
    "(has(self.name) && self.name != '') != has(self.fromJob)",
    "set exactly one of name (a hub name or a folder) and fromJob (another AlignTuneJob)",
)


class ModelRef(Section):
    """A model that is used as it is."""

    model_config = ConfigDict(json_schema_extra=cel_rules(NAME_OR_JOB))

    name: ModelName = ""
    """A hub name, or a folder in the pod. Empty: the model that fromJob names."""
    from_job: JobName | None = None
    """An AlignTuneJob in the same namespace, whose trained model is taken. Unset: see name."""
    revision: Revision = "main"
    """Branch, tag or commit on the hub. main: the hub's default branch."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.name) == (self.from_job is not None):
            raise rule_error(NAME_OR_JOB)
        return self


class LoraConfig(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685), as PEFT implements them."""

    r: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of the update. 16: enough for instruction data of ordinary size ("LoRA Without Regret");
    more only pays when the data set is large."""
    alpha: Annotated[float, Field(gt=0, le=4096)] = 32
    """The update is scaled by alpha / r. 32: twice the default rank, TRL's recommendation."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the adapter, as a probability. 0: one or two epochs rarely overfit, and
    DPO and PPO compare log-probabilities, which dropout would blur."""
    target_modules: (
        Literal["all-linear"] | Annotated[list[ModuleName], Field(min_length=1, max_length=64)]
    ) = "all-linear"
    """Names of the modules that get an adapter, or `all-linear`. All linear layers: attention-only
    adapters learn measurably less at the same number of parameters."""
    target_parameters: Annotated[list[ModuleName], Field(max_length=64)] = []
    """Names of bare parameters that get an adapter too: fused experts keep their weights so.
    Empty: none."""
    rslora: bool = False
    """Scale by alpha / sqrt(r) instead (arXiv:2312.03732). Off: it matters at ranks above 64."""
    dora: bool = False
    """Decompose weights into magnitude and direction (arXiv:2402.09353). Off: slower steps."""
    merge_on_save: bool = False
    """Save the whole model in 16 bits with the adapters merged in, as inference servers like it.
    Off: adapters are small, and the base is where they say. What begins at adapters, or at another
    job's model, is always saved whole: its base is in no other place."""


class QuantizationConfig(Section):
    """Load the frozen base weights quantised by bitsandbytes (QLoRA, arXiv:2305.14314)."""

    bits: Literal[4, 8] = 4
    """Bits per weight: 4 (nf4 with double quantisation) or 8. 4: QLoRA's own setting."""


QUANTIZATION_NEEDS_LORA = Rule(
    "!(has(self.quantization) && has(self.tuning) && self.tuning == 'full')",
    "quantized weights cannot be trained in full: set tuning to lora or remove quantization",
    "quantization",
)
LORA_NEEDS_LORA = Rule(
    "!(has(self.lora) && has(self.tuning) && self.tuning == 'full')",
    "adapter settings have no effect with tuning: full; set tuning to lora or remove lora",
    "lora",
)


class ModelConfig(ModelRef):
    """The model that is tuned."""

    model_config = ConfigDict(
        json_schema_extra=cel_rules(NAME_OR_JOB, QUANTIZATION_NEEDS_LORA, LORA_NEEDS_LORA)
    )

    # ModelRef's three fields again: people read another description of the model that they tune
    name: ModelName = ""
    """A hub name such as `meta-llama/Llama-3.2-3B-Instruct`, or a folder in the pod. Empty: the
    model that fromJob names."""
    from_job: JobName | None = None
    """An AlignTuneJob in the same namespace, whose trained model is tuned on: this job waits for
    it, and fails if it does. Unset: see name."""
    revision: Revision = "main"
    """Branch, tag or commit on the hub. Pin a commit where a run must be repeatable. main: the
    hub's default branch."""
    max_length: Annotated[int, Field(ge=8, le=1_048_576)] | None = None
    """Longest sequence, in tokens; longer ones are cut. Unset: 1024, or the model's own limit if
    that is shorter; memory grows with it."""
    tuning: Literal["lora", "full"] = "lora"
    """`lora` trains adapters, `full` all weights. lora: full tuning of a 3B model takes about 48 GB
    before activations."""
    lora: LoraConfig | None = None
    """Settings of the adapters. Unset: the defaults below it."""
    quantization: QuantizationConfig | None = None
    """Quantise the frozen base weights (QLoRA). Needs a GPU. Unset: 16 or 32 bit weights."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """The attention kernel. auto: what transformers finds best for this model and device."""
    chat_template: Annotated[str, Field(min_length=1, max_length=32_768)] | None = None
    """A Jinja chat template in place of the model's own. Unset: the model's, or a plain
    `User: ... Assistant: ...` form where it has none."""
    trust_remote_code: bool = False
    """Run Python code that the model's repository ships. Off: it is someone else's code with this
    pod's credentials."""
    gguf: Annotated[list[GgufType], Field(max_length=6)] = []
    """Save the whole model as GGUF too, for llama.cpp and Ollama: a file `model-TYPE.gguf` for each
    type, with adapters merged in. q4_k_m is what most people run, q8_0 is next to lossless. Empty:
    none, as each takes minutes and room on the disk."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.tuning == "full" and self.quantization is not None:
            raise rule_error(QUANTIZATION_NEEDS_LORA)
        if self.tuning == "full" and self.lora is not None:
            raise rule_error(LORA_NEEDS_LORA)
        return self
