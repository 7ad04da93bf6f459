"""Answers sampled from the policy, and what is kept of them for the steps that learn from them.

Dimensions: N = answers of this process, S = tokens of prompt and answer, T = tokens of the longest
answer, E = passes over a rollout.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import GenerationConfig

from aligntune.core.rl.config import GenerationConfig as SamplingConfig


class Answers(NamedTuple):
    """What the policy said."""

    input_ids_NS: Tensor
    """Prompts padded on the left, answers on the right."""
    attention_mask_NS: Tensor
    """0 for padding."""
    mask_NT: Tensor
    """The tokens of the answers, end tokens included, bool."""
    ended_N: Tensor
    """The model ended by itself, before it ran out of tokens; bool."""

    @property
    def ids(self) -> list[list[int]]:
        """The answers' tokens, one list each."""
        answer_NT = self.input_ids_NS[:, -self.mask_NT.shape[1] :]
        return [row[kept].tolist() for row, kept in zip(answer_NT, self.mask_NT, strict=True)]


class Rollout(NamedTuple):
    """What the steps of a rollout learn from."""

    input_ids_NS: Tensor
    attention_mask_NS: Tensor
    mask_NT: Tensor
    logp_NT: Tensor
    """Log-probabilities under the policy that sampled."""
    value_NT: Tensor
    """Values before the first step."""
    advantage_NT: Tensor
    return_NT: Tensor
    order_EN: Tensor
    """The order of the rows in each pass."""
    tokens: Tensor
    """Tokens of all answers of all processes; a scalar."""

    def batch(self, number: int, size: int) -> dict[str, Tensor]:
        """The rows of forward pass `number` (from 0) of this rollout, without needless padding.

        Args:
            number: Passes follow each other through the epochs.
            size: Rows per pass.
        """
        rows = self.order_EN.flatten()[number * size : (number + 1) * size]
        attention_BS, mask_BT = self.attention_mask_NS[rows], self.mask_NT[rows]
        answer = int(mask_BT.sum(1).max())
        prompt_length = attention_BS.shape[1] - mask_BT.shape[1]
        first = int(attention_BS[:, :prompt_length].any(0).int().argmax())
        whole = slice(first, prompt_length + answer)
        return {
            "input_ids": self.input_ids_NS[rows, whole],
            "attention_mask": attention_BS[:, whole],
            "mask": mask_BT[:, :answer],
            "logp": self.logp_NT[rows, :answer],
            "value": self.value_NT[rows, :answer],
            "advantage": self.advantage_NT[rows, :answer],
            "return": self.return_NT[rows, :answer],
        }


class Sampler:
    """Samples answers with settings that the model's own generation config has no part in."""

    def __init__(self, settings: SamplingConfig, tokenizer: Any, eos: Sequence[int]) -> None:
        """Answers end with one of `eos`, or after `settings.max_new_tokens`."""
        self._pad: int = tokenizer.pad_token_id
        self._eos = list(eos)
        self._config = GenerationConfig(
            do_sample=True,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            pad_token_id=self._pad,
            eos_token_id=self._eos,
            remove_invalid_values=True,  # a broken policy is told from its log-probabilities
        )

    def sample(
        self,
        policy: Any,
        prompts: Sequence[Sequence[int]],
        batch_size: int,
        before_batch: Callable[[], None] = lambda: None,
    ) -> Answers:
        """One answer for each prompt, as token ids.

        Args:
            policy: A causal language model in evaluation mode.
            prompts: Token ids; there may be none, where held-out rows are fewer than processes.
            batch_size: Prompts that are answered at the same time.
            before_batch: Called before each batch; what it raises ends the sampling.
        """
        if not prompts:
            nothing = torch.zeros(0, 1, dtype=torch.long, device=policy.device)
            return Answers(nothing, nothing, nothing.bool(), nothing[:, 0].bool())
        longest = max(map(len, prompts))
        prompt_NP = torch.tensor([[self._pad] * (longest - len(p)) + [*p] for p in prompts])
        there_NP = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        prompt_NP, there_NP = prompt_NP.to(policy.device), there_NP.to(policy.device)
        with _generation_config(policy, self._config):
            parts = []
            for ids, there in zip(
                torch.split(prompt_NP, batch_size), torch.split(there_NP, batch_size), strict=True
            ):
                before_batch()
                answer = policy.generate(input_ids=ids, attention_mask=there)
                parts.append(answer[:, longest:])
        width = max(part.shape[1] for part in parts)
        answer_NT = torch.cat(
            [pad(part, (0, width - part.shape[1]), value=self._pad) for part in parts]
        )
        ends_NT = torch.isin(answer_NT, answer_NT.new_tensor(self._eos))
        mask_NT = ends_NT.cumsum(1) - ends_NT.int() == 0  # up to the first end, which counts
        return Answers(
            torch.cat([prompt_NP, answer_NT.masked_fill(~mask_NT, self._pad)], dim=1),
            torch.cat([there_NP, mask_NT.long()], dim=1),
            mask_NT,
            ends_NT.any(1),
        )


@contextmanager
def _generation_config(policy: Any, config: GenerationConfig) -> Iterator[None]:
    """In place of the model's own, which would fill in what ours leaves open."""
    own = policy.generation_config
    policy.generation_config = config
    try:
        yield
    finally:
        policy.generation_config = own


@contextmanager
def seeded(device: torch.device, *key: int) -> Iterator[None]:
    """Random numbers that depend on `key` alone, and leave those of the run where they were."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
