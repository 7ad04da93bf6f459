"""What rows become where the model answers itself (PPO, GRPO): a prompt, and what rewards need."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aligntune.core.conversation import Message
from aligntune.core.errors import ConfigError
from aligntune.data.pipeline import Encoded
from aligntune.data.rendering import form, render
from aligntune.data.shapes import (
    ROW,
    Ranks,
    Row,
    Shape,
    as_conversation,
    as_message,
    as_prompt,
)

OWN_ANSWER = "«(the model's own answer)»"
"""What a shown prompt ends with: only what the model samples is learned."""


class Prompt(NamedTuple):
    """One row: what the model is asked, and all that a reward function may look at."""

    messages: list[Message]
    """The conversation up to where the model speaks."""
    columns: dict[str, Any]
    """The row's columns by name, and the reference answer as `answer` where there is one."""

    @property
    def empty(self) -> bool:
        """There is nothing to answer."""
        return not any(message["content"].strip() for message in self.messages)


class PromptEncoder:
    """Renders prompts in the form of one model, and leaves out those that are too long.

    Cells: `prompt` (messages), `prompt_ids` (the rendered prompt's token ids, up to where the model
    speaks) and `row` (the columns as JSON, since sources with different columns are mixed;
    `columns_of` reads it).
    """

    columns = ("prompt", "prompt_ids", "row")

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_prompt_length: int,
        limit: str = "model.maxLength less generation.maxNewTokens",
    ) -> None:
        """Use `tokenizer`, a transformers tokenizer with a chat template.

        Prompts of more than `max_prompt_length` tokens are left out; `limit` is what says so in
        the config.
        """
        self._tokenizer = tokenizer
        self._longest = max_prompt_length
        self.limit = limit
        self.ranks = PROMPTS
        self.key = (*form(tokenizer), max_prompt_length)

    def encode(self, examples: Sequence[Prompt]) -> Sequence[Encoded | None]:
        """Cells of each prompt; None where it is empty or longer than the limit."""
        encoded: list[Encoded | None] = [None] * len(examples)
        kept = [index for index, example in enumerate(examples) if not example.empty]
        texts = [self._render(examples[index]) for index in kept]
        tokens = self._tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        for index, ids in zip(kept, tokens, strict=True):
            if len(ids) <= self._longest:
                cells = {
                    "prompt": examples[index].messages,
                    "prompt_ids": ids,
                    "row": json.dumps(examples[index].columns, default=str),
                }
                encoded[index] = Encoded(cells, len(ids))
        return encoded

    def show(self, example: Prompt) -> str:
        """The prompt as the model reads it."""
        return self._render(example) + OWN_ANSWER

    def _render(self, example: Prompt) -> str:
        return render(self._tokenizer, example.messages, asks=True)


def columns_of(rows: Sequence[str]) -> dict[str, list[Any]]:
    """The columns behind several `row` cells: one value per row, None where a row lacks a column.

    Dates and the like have become text on the way; numbers, lists and mappings are what they were.
    """
    read: list[dict[str, Any]] = [json.loads(row) for row in rows]
    names = dict.fromkeys(name for row in read for name in row)
    return {name: [row.get(name) for row in read] for name in names}


def longest_prompt(max_length: int, max_new_tokens: int, asked: int | None, field: str) -> int:
    """How long a prompt may be, in tokens, so that the longest answer fits behind it.

    Args:
        max_length: Longest sequence of the model.
        max_new_tokens: Longest answer.
        asked: What the config says; None: all that the answer leaves.
        field: Where it says so, for messages.

    Raises:
        ConfigError: There is no room, or less than is asked for.
    """
    room = max_length - max_new_tokens
    if room < 1 or (asked or 0) > room:
        wanted = f"{field} {asked}" if asked else "a prompt"
        raise ConfigError(
            f"{wanted} and generation.maxNewTokens {max_new_tokens} do not fit into"
            f" model.maxLength {max_length} together; raise it, or lower one of them"
        )
    return asked or room


def _asked(row: Row) -> Prompt:
    """A prompt or question, with the answer beside it where there is one."""
    return _prompt(as_prompt(row), row)


def _completed(row: Row) -> Prompt:
    """A prompt whose completion is taken for the answer."""
    return _asked({**row, "answer": _as_answer(row["completion"])})


def _conversation(row: Row) -> Prompt:
    """A conversation; an assistant's last turn is taken for the answer."""
    return _prompt(as_conversation(row["messages"]), row)


def _prompt(messages: list[Message], row: Row) -> Prompt:
    """The row's own answer comes before what the assistant says at the end of `messages`."""
    answer = row.get("answer")
    if messages and messages[-1]["role"] == "assistant":
        *messages, said = messages
        answer = said["content"] if answer is None else answer
    columns = dict(row[ROW])
    return Prompt(messages, columns if answer is None else columns | {"answer": answer})


def _as_answer(completion: object) -> object:
    """The words of a completion that is a list of messages; anything else as it is."""
    if isinstance(completion, list) and completion and isinstance(completion[0], Mapping):
        return as_message(completion[-1])["content"]
    return completion


_ANSWER = {"answer": "answer"}
_INPUT = {"input": "input"}

PROMPTS: Ranks[Prompt] = (
    (
        Shape("prompt-answer", {"prompt": "prompt"} | _ANSWER, _INPUT, _asked, keeps_row=True),
        Shape("question-answer", {"prompt": "question"} | _ANSWER, _INPUT, _asked, keeps_row=True),
        Shape("problem-answer", {"prompt": "problem"} | _ANSWER, _INPUT, _asked, keeps_row=True),
    ),
    (
        Shape("messages", {"messages": "messages"}, _ANSWER, _conversation, keeps_row=True),
        Shape("sharegpt", {"messages": "conversations"}, _ANSWER, _conversation, keeps_row=True),
    ),
    (
        Shape(
            "prompt-completion",
            {"prompt": "prompt", "completion": "completion"},
            _INPUT,
            _completed,
            keeps_row=True,
        ),
        Shape(
            "alpaca",
            {"prompt": "instruction", "completion": "output"},
            _INPUT,
            _completed,
            keeps_row=True,
        ),
    ),
    (
        Shape("prompt", {"prompt": "prompt"}, _INPUT, _asked, keeps_row=True),
        Shape("question", {"prompt": "question"}, _INPUT, _asked, keeps_row=True),
        Shape("problem", {"prompt": "problem"}, _INPUT, _asked, keeps_row=True),
        Shape("instruction", {"prompt": "instruction"}, _INPUT, _asked, keeps_row=True),
    ),
)
"""For sampled answers, from the top. A last turn that is the assistant's, or a completion, is not
shown to the model: it becomes the answer."""
