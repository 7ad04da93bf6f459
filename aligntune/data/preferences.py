"""What rows become for preferences (DPO, reward models): a prompt, a better and a worse answer."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from aligntune.core.conversation import Message
from aligntune.core.errors import DataError
from aligntune.data.pipeline import Encoded
from aligntune.data.rendering import common_prefix, form, render
from aligntune.data.shapes import Ranks, Row, Shape, as_message, as_text, as_turn

INVITATION = "\n\nAssistant:"
"""What stands before an answer in the dialogues of hh-rlhf (Bai et al. 2022, arXiv:2204.05862)."""

SPEAKERS = {"Human": "user", "Assistant": "assistant"}
TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


class Preference(NamedTuple):
    """One row: two ways in which a conversation goes on, of which the first is preferred."""

    prompt: list[Message]
    """The conversation up to where the answers part."""
    chosen: list[Message]
    """The preferred answer: one turn of the assistant, rarely several turns."""
    rejected: list[Message]

    @property
    def empty(self) -> bool:
        """There is nothing to prefer: no prompt, an answer without words, or twice the same."""
        return (
            not self.prompt
            or self.chosen == self.rejected
            or not all(
                any(message["content"].strip() for message in answer)
                for answer in (self.chosen, self.rejected)
            )
        )


class Pair(NamedTuple):
    """A preference as token ids; the prompt followed by an answer is what the model reads."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


class PreferenceEncoder:
    """Renders and tokenises preferences for DPO; the answers' tokens are what is learned.

    Cells: `prompt_ids`, `chosen_ids` and `rejected_ids`. An answer loses what lies beyond the
    maximum length; a pair of which nothing, or nothing different, is left is dropped.
    """

    columns: Sequence[str] = ("prompt_ids", "chosen_ids", "rejected_ids")
    limit = "model.maxLength"

    def __init__(self, tokenizer: Any, *, max_length: int) -> None:
        """Use `tokenizer`, a transformers tokenizer with a chat template; the limit is in tokens.

        It holds for the prompt and one answer together.
        """
        self._tokenizer = tokenizer
        self._max_length = max_length
        self.ranks = PREFERENCES
        self.key = (*form(tokenizer), max_length, self.columns)

    def encode(self, examples: Sequence[Preference]) -> Sequence[Encoded | None]:
        """Token ids of prompt and answers; None where there is nothing to learn from them.

        Raises:
            DataError: The chat template refuses a conversation.
        """
        encoded: list[Encoded | None] = [None] * len(examples)
        kept = [index for index, example in enumerate(examples) if not example.empty]
        pairs = tokenize(self._tokenizer, [examples[index] for index in kept])
        for index, pair in zip(kept, pairs, strict=True):
            encoded[index] = self._fitted(pair)
        return encoded

    def show(self, example: Preference) -> str:
        """Both answers below their prompt."""
        [pair] = tokenize(self._tokenizer, [example])
        prompt, chosen, rejected = map(self._tokenizer.decode, pair)
        return f"{prompt}«{chosen}»\nand as the worse answer:\n«{rejected}»"

    def _fitted(self, pair: Pair) -> Encoded | None:
        """The cells of a pair, cut at the maximum length."""
        room = max(self._max_length - len(pair.prompt), 0)
        prompt, chosen, rejected = pair.prompt, pair.chosen[:room], pair.rejected[:room]
        if not room or chosen == rejected:
            return None
        return Encoded(
            {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected},
            length=2 * len(prompt) + len(chosen) + len(rejected),
            truncated=max(len(pair.chosen), len(pair.rejected)) > room,
        )


class ComparisonEncoder(PreferenceEncoder):
    """Renders and tokenises preferences for a reward model, which scores whole conversations.

    Cells: `chosen_ids` and `rejected_ids`, each with the prompt. A pair with a conversation beyond
    the maximum length is dropped: the score is read at its end.
    """

    columns = ("chosen_ids", "rejected_ids")

    def show(self, example: Preference) -> str:
        """Both conversations; what is compared is all of them."""
        [pair] = tokenize(self._tokenizer, [example])
        chosen, rejected = (
            self._tokenizer.decode(pair.prompt + answer) for answer in (pair.chosen, pair.rejected)
        )
        return f"«{chosen}»\nis better than\n«{rejected}»"

    def _fitted(self, pair: Pair) -> Encoded | None:
        chosen, rejected = pair.prompt + pair.chosen, pair.prompt + pair.rejected
        if chosen == rejected or max(len(chosen), len(rejected)) > self._max_length:
            return None
        return Encoded(
            {"chosen_ids": chosen, "rejected_ids": rejected}, length=len(chosen) + len(rejected)
        )


def tokenize(tokenizer: Any, examples: Sequence[Preference]) -> list[Pair]:
    """Token ids of preferences, each answer from where it parts from the prompt alone.

    A template that renders a prompt differently once an answer follows leaves less of it in common;
    what is not, belongs to the answers, as in TRL.

    Raises:
        DataError: The chat template refuses a conversation.
    """
    texts = []
    for prompt, chosen, rejected in examples:
        texts += [
            render(tokenizer, prompt, asks=True),
            render(tokenizer, prompt + chosen),
            render(tokenizer, prompt + rejected),
        ]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    pairs = []
    for asked, better, worse in zip(ids[::3], ids[1::3], ids[2::3], strict=True):
        common = min(common_prefix(asked, better), common_prefix(asked, worse))
        pairs.append(Pair(asked[:common], better[common:], worse[common:]))
    return pairs


def _prompted(row: Row) -> Preference:
    """A prompt and two answers; where both answers repeat the prompt, that is taken off."""
    prompt, chosen, rejected = row["prompt"], row["chosen"], row["rejected"]
    if all(isinstance(cell, str) for cell in (prompt, chosen, rejected)):
        if _repeats(chosen, prompt) and _repeats(rejected, prompt):
            chosen = chosen.removeprefix(prompt).lstrip()
            rejected = rejected.removeprefix(prompt).lstrip()
        return Preference(
            as_turn(prompt, "user"), as_turn(chosen, "assistant"), as_turn(rejected, "assistant")
        )
    asked = as_turn(prompt, "user")
    better, worse = as_turn(chosen, "assistant"), as_turn(rejected, "assistant")
    begin = _after(asked, _parted(better, worse).prompt)
    return Preference(better[:begin] or asked, better[begin:], worse[begin:])


def _repeats(answer: str, prompt: str) -> bool:
    """Whether the prompt stands before the answer: `Hello!` alone does not repeat `Hello`."""
    if not prompt or not answer.startswith(prompt):
        return False
    return prompt[-1].isspace() or answer[len(prompt) :][:1].isspace()


def _after(asked: list[Message], conversation: list[Message]) -> int:
    """Where a conversation goes on after it repeats `asked`, maybe below a system message.

    Returns:
        The number of messages before; 0 where it does not begin so.
    """
    start = 1 if _is_system(conversation) and not _is_system(asked) else 0
    end = start + len(asked)
    return end if conversation[start:end] == asked else 0


def _is_system(conversation: list[Message]) -> bool:
    return bool(conversation) and conversation[0]["role"] == "system"


def _dialogues(row: Row) -> Preference:
    """Two whole conversations: what they have in common at the beginning is the prompt."""
    return _parted(_conversation(row["chosen"]), _conversation(row["rejected"]))


def _parted(chosen: list[Message], rejected: list[Message]) -> Preference:
    """The last turn of the shorter is always an answer, even where both are the same."""
    common = min(common_prefix(chosen, rejected), len(chosen) - 1, len(rejected) - 1)
    return Preference(chosen[:common], chosen[common:], rejected[common:])


def _conversation(value: object) -> list[Message]:
    if isinstance(value, list) and value:
        return [as_message(item) for item in value]
    text = as_text(value)
    before, invitation, answer = text.rpartition(INVITATION)
    if not invitation:
        raise DataError(
            "chosen and rejected are whole conversations where there is no prompt: lists of"
            f" messages, or texts with Human: and Assistant:, got {text!r:.60}; name the prompt's"
            " column with columns"
        )
    return [*_turns(before), {"role": "assistant", "content": answer.strip()}]


def _turns(text: str) -> list[Message]:
    """The turns of a dialogue in hh-rlhf's form; what stands before the first is the user's."""
    opening, *parts = TURN.split(text)
    turns = [{"role": "user", "content": opening.strip()}] if opening.strip() else []
    for speaker, said in zip(parts[::2], parts[1::2], strict=True):
        turns.append({"role": SPEAKERS[speaker], "content": said.strip()})
    return turns


PREFERENCES: Ranks[Preference] = (
    (
        Shape(
            "prompt-chosen-rejected",
            {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
            {},
            _prompted,
        ),
    ),
    (Shape("dialogues", {"chosen": "chosen", "rejected": "rejected"}, {}, _dialogues),),
)
"""For preferences, from the top. Answers are texts or lists of messages."""
