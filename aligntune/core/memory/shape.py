"""The shape of a decoder-only transformer, from its config.json: what its memory follows from."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from aligntune.core.errors import ConfigError
from aligntune.core.sft.logits import needs_whole_logits

MOST_LAYERS = 1_000
LARGEST_NUMBER = 10_000_000
"""Bounds of what a config.json may say, which anybody on the hub can write: each layer is counted,
and products of larger numbers are no sizes of memory any more. Real models have some hundred
layers, and vocabularies below a million."""


class Linear(NamedTuple):
    """One linear layer of a decoder layer."""

    name: str
    inputs: int
    outputs: int
    bias: bool


class ModelShape(NamedTuple):
    """A stack of decoder layers with grouped-query attention and a gated MLP."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    intermediate: int
    tied: bool
    """The head shares the weights of the embedding."""
    positions: int | None
    """The longest sequence that the model was made for, in tokens; None: it does not say."""
    norms: int = 2
    """RMS norms over the hidden size, per decoder layer."""
    head_norms: bool = False
    """Queries and keys are normalised as well."""
    attention_bias: bool = False
    """Queries, keys and values have biases."""
    output_bias: bool = False
    mlp_bias: bool = False
    counted: int | None = None
    """Parameters as counted in the model's files, where its kind is not known here."""
    whole_logits: bool = False
    """SFT computes the logits of a whole batch at once."""

    @property
    def attention(self) -> int:
        """Width of the queries of a token, over all heads."""
        return self.heads * self.head_size

    @property
    def key_values(self) -> int:
        """Width of the keys of a token, and of its values."""
        return self.key_value_heads * self.head_size

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The linear layers of one decoder layer, in transformers' names."""
        bias, into = self.attention_bias, self.hidden
        return (
            Linear("q_proj", into, self.attention, bias),
            Linear("k_proj", into, self.key_values, bias),
            Linear("v_proj", into, self.key_values, bias),
            Linear("o_proj", self.attention, into, self.output_bias),
            Linear("gate_proj", into, self.intermediate, self.mlp_bias),
            Linear("up_proj", into, self.intermediate, self.mlp_bias),
            Linear("down_proj", self.intermediate, into, self.mlp_bias),
        )

    @property
    def embedding(self) -> int:
        """Parameters of the embedding; a head has as many."""
        return self.vocabulary * self.hidden

    @property
    def linear_parameters(self) -> int:
        """Parameters of all linear layers but the head: those that are quantised."""
        if self.counted is not None:
            return self.counted - self._embeddings
        return self.layers * sum(one.inputs * one.outputs for one in self.linears)

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once."""
        if self.counted is not None:
            return self.counted
        biases = sum(one.outputs for one in self.linears if one.bias)
        norms = self.norms * self.hidden + (2 * self.head_size if self.head_norms else 0)
        small = self.layers * (biases + norms) + self.hidden
        return self._embeddings + self.linear_parameters + small

    @property
    def without_head(self) -> int:
        """All parameters but those of a head that is not tied to the embedding."""
        return self.parameters - (0 if self.tied else self.embedding)

    @property
    def _embeddings(self) -> int:
        return self.embedding * (1 if self.tied else 2)


class Family(NamedTuple):
    """In what the kinds of models differ, as far as config.json leaves it open."""

    tied: bool = False
    """Where `tie_word_embeddings` is not in the file."""
    norms: int = 2
    head_norms: bool = False
    attention_bias: bool | None = None
    """None: as `attention_bias` says, and then of the output, too."""
    head_size: int | None = None
    """Where `head_dim` is not in the file; None: the hidden size over the heads."""


FAMILIES = {
    "llama": Family(),
    "mistral": Family(attention_bias=False),
    "qwen2": Family(attention_bias=True),
    "qwen3": Family(head_norms=True, head_size=128),
    "smollm3": Family(tied=True),
    "gemma": Family(tied=True, head_size=256),
    "gemma2": Family(tied=True, norms=4, head_size=256),
    "gemma3_text": Family(tied=True, norms=4, head_norms=True, head_size=256),
}
"""`model_type` -> what is not in the file. tests/trainers/test_model_shapes.py holds each to
transformers' own model."""


def shape_of(config: Mapping[str, Any], place: str, counted: int | None = None) -> ModelShape:
    """The shape that a config.json describes.

    Args:
        config: The content of the file.
        place: The field that names the model, and the name, for messages.
        counted: Parameters in the model's files. With them a kind of model that is not known here
            is taken for a Llama of this many parameters; without them it is refused.

    Raises:
        ConfigError: The kind of model is not known, or the file lacks a number.
    """
    kind = str(config.get("model_type"))
    if kind not in FAMILIES and counted is None:
        raise ConfigError(
            f"{place}: memory of models of type {kind!r} cannot be estimated; it can of"
            f" {', '.join(FAMILIES)}, and of others whose safetensors files are there"
        )
    family = FAMILIES.get(kind, Family())

    def number(key: str, default: int | None = None) -> int:
        value = config.get(key)
        if value is None and default is not None:
            return default
        largest = MOST_LAYERS if key == "num_hidden_layers" else LARGEST_NUMBER
        if not isinstance(value, int) or not 1 <= value <= largest:
            raise ConfigError(
                f"{place}: config.json has no number {key!r} from 1 to {largest:,}, without which"
                f" the memory of a model of type {kind!r} cannot be estimated"
            )
        return value

    hidden, heads = number("hidden_size"), number("num_attention_heads")
    named_bias = bool(config.get("attention_bias", False))
    bias = named_bias if family.attention_bias is None else family.attention_bias
    tied = config.get("tie_word_embeddings")
    return ModelShape(
        vocabulary=number("vocab_size"),
        hidden=hidden,
        layers=number("num_hidden_layers"),
        heads=heads,
        key_value_heads=number("num_key_value_heads", heads),
        head_size=number("head_dim", family.head_size or hidden // heads),
        intermediate=number("intermediate_size"),
        tied=family.tied if tied is None else bool(tied),
        positions=number("max_position_embeddings", 0) or None,
        norms=family.norms,
        head_norms=family.head_norms,
        attention_bias=bias,
        output_bias=bias and family.attention_bias is None,
        mlp_bias=bool(config.get("mlp_bias", False)),
        counted=None if kind in FAMILIES else counted,
        whole_logits=needs_whole_logits(config),
    )
