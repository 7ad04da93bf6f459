"""The frozen model that a policy is held to."""

from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedModel

from aligntune.core.config.model import ModelConfig, ModelRef
from aligntune.core.errors import ConfigError
from aligntune.training.adapters import as_whole_model
from aligntune.training.machine import Compute
from aligntune.training.model_loading import from_pretrained, load_model, model_arguments


def load_reference(
    named: ModelRef | None, config: ModelConfig, computed_in: Compute, *, tokens: int
) -> PreTrainedModel:
    """The frozen model that a policy is held to, in the policy's form, so that both begin alike.

    Args:
        named: The config's `referenceModel`; None: the policy as it was before training.
        config: Names the policy.
        computed_in: What is computed in.
        tokens: How many tokens the policy's tokenizer knows.

    Raises:
        ModelNotFoundError, UnauthorizedError: There is none, or not for this token.
        ConfigError: It does not know all of the policy's tokens.
    """
    if named is None:
        model = load_model(config, computed_in)
    else:
        arguments = reference_arguments(config, named, computed_in)
        found = as_whole_model(named, "referenceModel", trust_remote_code=config.trust_remote_code)
        model = from_pretrained(AutoModelForCausalLM, found, "referenceModel", **arguments)
        known = model.get_input_embeddings().num_embeddings
        if known < tokens:
            raise ConfigError(
                f"referenceModel.name {named.name!r}: it knows {known} tokens and the model"
                f" {tokens}; name a model with the same tokenizer"
            )
    return model.requires_grad_(requires_grad=False)


def reference_arguments(
    policy: ModelConfig, reference: ModelRef, computed_in: Compute
) -> dict[str, Any]:
    """What transformers is asked for, besides the reference's name: the policy's own form."""
    return model_arguments(policy, computed_in) | {"revision": reference.revision}
