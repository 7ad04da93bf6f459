"""The policy and the value model as one module, so that one forward and one optimizer serve both.

Dimensions: B = sequences, S = tokens of prompt and answer, T = tokens of the answer, H = hidden
size, V = vocabulary.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Predictions(NamedTuple):
    """What the models say of each token of the answers."""

    logp_BT: Tensor
    """Log-probability of the token, in nats."""
    value_BT: Tensor
    """What is expected to be earned from this token on, before it is chosen."""
    entropy_BT: Tensor
    """Of the distribution that the token is chosen from, in nats; without a gradient."""


class PolicyAndValue(nn.Module):
    """A policy, and beside it a value head on the same trunk, or on a trunk of its own."""

    def __init__(self, policy: Any, trunk: Any | None, temperature: float) -> None:
        """Put the two together.

        Args:
            policy: A causal language model, with adapters or without.
            trunk: The value model's own transformer; None: the head reads the policy's.
            temperature: Of the softmax that answers are sampled from.
        """
        super().__init__()
        self.policy = policy
        self.value_trunk = trunk
        # Zero: before anything is learned the best guess is no noise on the advantages.
        self.value_head = nn.Linear(policy.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.temperature = temperature

    @property
    def config(self) -> Any:
        """The policy's config."""
        return self.policy.config

    @property
    def generation_config(self) -> Any:
        """The policy's generation config."""
        return self.policy.generation_config

    @property
    def _keys_to_ignore_on_save(self) -> Any:
        return getattr(self.policy, "_keys_to_ignore_on_save", None)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, answer_length: int) -> Predictions:
        """Log-probabilities and values of the last `answer_length` tokens.

        Args:
            input_ids: B x S; prompts padded on the left, answers on the right.
            attention_mask: B x S; 0 for padding.
            answer_length: T.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": (attention_mask.cumsum(1) - 1).clamp(min=0),
            "use_cache": False,
        }
        # a token is predicted at the one before it
        said = self.policy(**inputs, output_hidden_states=True, logits_to_keep=answer_length + 1)
        logits_BTV = said.logits[:, -answer_length - 1 : -1].float() / self.temperature
        all_logp_BTV = logits_BTV.log_softmax(-1)
        answer_BT = input_ids[:, -answer_length:]
        logp_BT = all_logp_BTV.gather(-1, answer_BT[..., None])[..., 0]
        with torch.no_grad():
            entropy_BT = torch.special.entr(all_logp_BTV.exp()).sum(-1)
        if self.value_trunk is None:
            hidden_BSH = said.hidden_states[-1]
        else:
            hidden_BSH = self.value_trunk(**inputs).last_hidden_state
        hidden_BTH = hidden_BSH[:, -answer_length - 1 : -1].float()
        # returns are regressed: half precision would round them
        with torch.autocast(hidden_BTH.device.type, enabled=False):
            value_BT = self.value_head(hidden_BTH)[..., 0]
        return Predictions(logp_BT, value_BT, entropy_BT)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Recompute activations in both trunks."""
        self.policy.gradient_checkpointing_enable(**options)
        if self.value_trunk is not None:
            self.value_trunk.gradient_checkpointing_enable(**options)

    def value_state(self) -> dict[str, Tensor]:
        """What belongs to the value model and is trained."""
        trained = {name for name, part in self.named_parameters() if part.requires_grad}
        return {
            name: part
            for name, part in self.state_dict().items()
            if name.startswith("value_") and name in trained
        }

    def load_value_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `value_state` gave."""
        with torch.no_grad():
            parts = dict(self.named_parameters())
            for name, part in state.items():
                parts[name].copy_(part)
